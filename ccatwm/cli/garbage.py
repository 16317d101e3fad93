"""The command `gc`: takes away what nobody needs any more, and brings it back. Touches: nothing itself.

On a terminal it says what goes by which rule before it does anything; under cron it is silent like a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, DryRun, Limit, Reason, Wait, command
from ccatwm.cli.passes import MaxSeconds, _calm_logs, _options, _show, _tell_conditions
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context
    from ccatwm.passes._frame import PassOptions
    from ccatwm.upkeep.gc import GcPlan

ALL = "all"
WAIT_SECONDS = 86400.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=_frame.CARE)(gc)


def gc(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
    undo: Annotated[
        str | None, typer.Option("--undo", metavar="RUN|all", help="Bring back what lies in the trash of a run, or of all.")
    ] = None,
    reason: Reason = None,
) -> int:
    """Take away products, scratch and logs that `retention` lets go: into the trash, and after a while for good.

    Nothing of products goes unless a step or the site says so. --limit counts runs.
    Without a terminal, as under cron, it is silent; -v shows the table there, too.
    """
    if undo is None and reason is not None:
        raise UsageError("--reason goes with --undo", next="ccatwm gc --undo RUN --reason TEXT; or leave it out")
    if undo is not None and limit is not None:
        raise UsageError("--limit does not go with --undo", next="name a run: ccatwm gc --undo RUN")
    _calm_logs(common)
    context = _frame.open_context(common)
    options = _options(limit, dry_run, wait, max_seconds)
    return _collect(common, context, options) if undo is None else _undo(common, context, options, undo, reason or "")


def _collect(common: Common, context: Context, options: PassOptions) -> int:
    from ccatwm import wiring
    from ccatwm.upkeep.gc import plan_json

    shows = not common.json and not common.quiet and bool(common.terminal or common.verbose or options.dry_run)
    report, plan = wiring.run_gc(context, options, lambda plan: _show_plan(context, plan, options) if shows else None)
    _tell_conditions(common, context, [report])
    if common.json:
        _frame.emit_json({**report.to_json(), "schema": "ccatwm.gc/1", "dry_run": options.dry_run, **plan_json(plan)})
    else:
        _show(common, report, options.dry_run)
    return report.exit_code


def _show_plan(context: Context, plan: GcPlan, options: PassOptions) -> None:
    """What goes by which rule, before anything does."""
    from datetime import timedelta

    from ccatwm.upkeep.gc import COLUMNS, reason_rows, trash_lines

    if plan.going:
        _frame.print_table("would go into the trash" if options.dry_run else "into the trash", COLUMNS, reason_rows(plan))
    _frame.print_lines(trash_lines(plan, timedelta(hours=context.settings.trash_grace_hours)))


def _undo(common: Common, context: Context, options: PassOptions, undo: str, reason: str) -> int:
    from ccatwm import wiring
    from ccatwm.upkeep.gc import UndoReport

    if undo != ALL and not (undo.isascii() and undo.isdigit()):
        raise UsageError(f"--undo: {undo!r} is neither the number of a run nor {ALL}", next="ccatwm gc --undo 42")
    run = None if undo == ALL else int(undo)
    report, undone = wiring.undo_gc(context, options, run, reason)
    if report.error is not None:
        raise report.error
    if report.skipped is not None:
        why = {"locked": "gc is at work", "paused": "all passes are paused"}[report.skipped]
        raise UsageError(f"nothing was brought back: {why}", next="try again with --wait, or after `ccatwm resume`")
    _frame.show_report(common, UndoReport(undone, options.dry_run))
    return report.exit_code
