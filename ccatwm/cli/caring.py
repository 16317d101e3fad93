"""Commands that take care of a site: `doctor`. Touches: nothing itself; with --as-cron a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Yes, command
from ccatwm.errors import CcatwmError, SettingsError, UsageError

if TYPE_CHECKING:
    from ccatwm.core.checkup import Finding
    from ccatwm.passes._context import Context
    from ccatwm.settings.schema import Settings
    from ccatwm.upkeep.importing import ImportReport
    from ccatwm.upkeep.reconcile import ReconcileReport

NoJob = Annotated[bool, typer.Option("--no-job", help="Submit no job to try a compute node.")]
WaitSeconds = Annotated[
    float, typer.Option("--wait", min=0, metavar="S", help="How long that job may take to start.")
]
AsCron = Annotated[bool, typer.Option("--as-cron", help="Check with the environment that cron has.")]
Reconcile = Annotated[
    bool,
    typer.Option("--reconcile", help="After a restore: adopt what the ops-db does not know, and let submission go on."),
]
Import = Annotated[
    bool,
    typer.Option("--import", help="With --reconcile: first make rows again of completed runs and published sets."),
]
PASSED_TO_CRON = ("HOME", "LOGNAME", "USER")  # crontab(5) sets HOME, LOGNAME and SHELL


@dataclass(frozen=True)
class _How:
    """Options of a check."""

    job: bool
    wait_seconds: float


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, panel=_frame.CARE)(doctor)


def doctor(
    common: Common,
    no_job: NoJob = False,
    wait: WaitSeconds = 60.0,
    as_cron: AsCron = False,
    reconciles: Reconcile = False,
    imports: Import = False,
    yes: Yes = False,
) -> int:
    """Check the site from top to bottom, and say for each finding what to do.

    With --reconcile, after `ccatwm db restore`: jobs and run directories that the ops-db does not know are listed,
    adopted where it knows their run, else named; --yes lets be what is left, and ends what may still run of it.
    With --import also, completed runs and published sets that it does not know have rows again.
    """
    from ccatwm.core.checkup import exit_code

    if reconciles:
        return _reconcile(common, yes, imports)
    if imports:
        raise UsageError("--import goes with --reconcile", next="`ccatwm doctor --reconcile --import`")
    if yes:
        raise UsageError("--yes goes with --reconcile", next="`ccatwm doctor`, or `ccatwm doctor --reconcile --yes`")
    how = _How(not no_job, wait)
    findings: list[Finding] = []
    for finding in _as_cron(common, how) if as_cron else _examine(common, how):
        findings.append(finding)
        if not common.json:
            _show(common, finding)
    if common.json:
        from ccatwm.upkeep.doctor import document

        _frame.emit_json(document(_site_name(common), findings))
    elif not common.quiet:
        print(_summary(findings))
    return exit_code(findings)


def _examine(common: Common, how: _How) -> Iterator[Finding]:
    """Findings as they are made; wrong settings are findings, too."""
    from ccatwm.core.checkup import error_findings

    try:
        settings = _load(common)
    except SettingsError as error:
        yield from error_findings("settings", error)
        return
    from ccatwm.upkeep.doctor import examine
    from ccatwm.wiring import open_checkup

    with open_checkup(settings) as site:
        yield from examine(site, job=how.job, wait_seconds=how.wait_seconds)


SETTLE_WAIT_SECONDS = 60.0  # for a `submit` that is at work


def _reconcile(common: Common, yes: bool, imports: bool) -> int:
    from ccatwm.edges.opsdb.stores import leases
    from ccatwm.passes import submit
    from ccatwm.passes._claims import supersede
    from ccatwm.passes._frame import PassOptions
    from ccatwm.upkeep.reconcile import reconcile

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    with context.database.read() as connection:
        _, blocked = leases.read_brakes(connection)
    if blocked is not None:  # the backup may be of a moment amid a submission
        settled = submit.settle_half_way(context, PassOptions(wait=SETTLE_WAIT_SECONDS))
        if settled.error is not None:
            raise settled.error
    imported = _import(context) if imports else None
    report = reconcile(
        context.database,
        context.workfiles,
        lambda: context.scheduler,
        uid=context.ops_db_uid,
        supersede=supersede,
        now=context.clock.now(),
        actor=context.actor,
        host=os.uname().nodename,
        yes=yes,
        refused=None if imported is None else {item.directory for item in imported.refused},
    )
    if imported is None:
        _frame.show_report(common, report)
        return report.exit_code
    _show_both(common, imported, report)
    return max(imported.exit_code, report.exit_code)


def _import(context: Context) -> ImportReport:
    from ccatwm.upkeep.importing import Importing, import_runs

    asked = Importing(context.ops_db_uid, context.clock.now(), context.actor, os.uname().nodename, reconciles=True)
    return import_runs(context.database, context.workfiles, asked)


def _show_both(common: Common, imported: ImportReport, report: ReconcileReport) -> None:
    if common.json:
        _frame.emit_json(report.to_json() | {"import": imported.to_json()})
        return
    if not common.quiet:
        _frame.print_lines([*imported.lines(), *report.lines()])


def _site_name(common: Common) -> str | None:
    """None where no site was found."""
    from ccatwm.settings.find import find_site

    try:
        return find_site(common.site, os.environ, Path.cwd()).name
    except SettingsError:
        return None


def _load(common: Common) -> Settings:
    from ccatwm.settings.load import load_settings

    return load_settings(common.site, os.environ, Path.cwd())


def _show(common: Common, finding: Finding) -> None:
    """One line, and what to do below it."""
    from ccatwm.core.checkup import Judgement

    quiet = finding.state in (Judgement.OK, Judgement.SKIPPED)
    if common.quiet and quiet:
        return
    word = finding.state.value if quiet or finding.state is Judgement.WARNING else finding.state.value.upper()
    _frame.print_finding(word, f"{finding.name:<22}", finding.found)
    if finding.next:
        _frame.print_lines([f"{'':<31} next: {finding.next}"])
    sys.stdout.flush()


def _summary(findings: list[Finding]) -> str:
    from ccatwm.core.checkup import Judgement

    wrong = sum(f.state is Judgement.WRONG for f in findings)
    warnings = sum(f.state is Judgement.WARNING for f in findings)
    skipped = sum(f.state is Judgement.SKIPPED for f in findings)
    counts = [f"{wrong} wrong" if wrong else "nothing is wrong"]
    counts += [f"{warnings} warning{'s' * (warnings > 1)}"] if warnings else []
    counts += [f"{skipped} skipped"] if skipped else []
    return ", ".join(counts)


# --- as cron -------------------------------------------------------------------------------------------------------


def _as_cron(common: Common, how: _How) -> Iterator[Finding]:
    """The same check by a process that has what crontab(5) gives, and the site by its folder."""
    from ccatwm.core.checkup import CRON_PATH, Finding, Judgement, judge_cron_environment
    from ccatwm.settings.find import PREFIX, find_site

    ours = sorted(
        k for k in os.environ if (k.startswith(PREFIX) and k != f"{PREFIX}SITE") or k == "ENV_FOR_DYNACONF"
    )
    yield judge_cron_environment("cron-environment", ours, agent="SSH_AUTH_SOCK" in os.environ)
    environment = {name: os.environ[name] for name in PASSED_TO_CRON if name in os.environ}
    environment |= {"PATH": CRON_PATH, "SHELL": "/bin/sh"}
    site: list[str] = []
    try:
        folder = find_site(common.site, os.environ, Path.cwd()).folder
        site = ["--site", str(folder)] if folder is not None else []
    except SettingsError:
        pass  # the check tells
    options = ["--json", "--wait", str(how.wait_seconds), *([] if how.job else ["--no-job"])]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ccatwm", *site, "doctor", *options],
        env=environment, cwd=os.environ.get("HOME", "/"), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    try:
        told = json.loads(done.stdout)["findings"]
    except (ValueError, KeyError) as error:
        raise CcatwmError(
            f"the check under cron's environment said nothing: {done.stderr.strip()[-500:]}",
            next="`ccatwm doctor` checks with the environment of this shell",
        ) from error
    for entry in told:
        yield Finding(entry["name"], Judgement(entry["state"]), entry["found"], entry["next"], entry["away"])
