"""The command `health`: whether a site is well, for people, cron and monitoring. Touches: nothing itself; views read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, command

if TYPE_CHECKING:
    from ccatwm.core.checkup import Finding
    from ccatwm.passes._context import Context


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=_frame.CARE)(health)


def health(common: Common) -> int:
    """Say whether passes run, and what lasts that somebody should know, each with the command to type next.

    Exit code 0 if all is well, 1 if something is wrong, 3 if the ops-db cannot be used until a person acts, 4 if
    something did not answer and all else is well. Under cron it is silent but for what begins, lasts for a day, or ends.
    """
    from ccatwm.core.health import exit_code
    from ccatwm.core.wording import utc_text
    from ccatwm.views.health import build_health, examine_health

    context = _frame.open_context(common)
    now = context.clock.now()
    findings = examine_health(
        context.settings, context.database, context.grouping, lambda: context.workfiles, now=now
    )
    if common.json:
        _frame.emit_json(build_health(context.settings.site, findings, utc_text(now)))
    elif common.terminal or common.verbose:
        _show(common, findings)
    else:
        _tell(common, context, findings)
    return exit_code(findings)


def _show(common: Common, findings: list[Finding]) -> None:
    from ccatwm.core.checkup import Judgement

    for finding in findings:
        if finding.state is Judgement.OK and common.quiet:
            continue
        word = finding.state.value.upper() if finding.state is Judgement.WRONG else finding.state.value
        _frame.print_finding(word, f"{finding.name}:", finding.found)
        if finding.next:
            _frame.print_lines([f"{'':<9}next: {finding.next}"])


def _tell(common: Common, context: Context, findings: list[Finding]) -> None:
    """What began, lasts since a day, or ended; what passes on this host tell is not told twice. What `-q` keeps back is
    left to be told.
    """
    if common.quiet:
        return
    from ccatwm.cli._conditions import tell_health
    from ccatwm.core.health import conditions

    for line in tell_health(context.settings.state_dir, conditions(findings), context.clock.now()):
        _frame.print_lines(line.split("\n"))
