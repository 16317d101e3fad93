"""The command `fsck`: what the ops-db says of files beside what lies on disk. Touches: nothing itself."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Reason, Yes, command
from ccatwm.errors import Problem, UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=_frame.CARE)(fsck)


def fsck(
    common: Common,
    directories: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN_DIRECTORY]...", help="With --import: these runs alone.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read every byte and compare checksums, too.")] = False,
    imports: Annotated[
        bool, typer.Option("--import", help="Make rows again of runs and published sets that the ops-db does not know.")
    ] = False,
    yes: Yes = False,
    reason: Reason = None,
    lost: Annotated[
        int | None,
        typer.Option("--lost", min=1, metavar="N", help="With --yes: so many runs have lost files; above CONFIRM_RUNS."),
    ] = None,
) -> int:
    """Compare the ops-db with the disk, both ways, and name every difference with the command that mends it.

    --yes writes down what can be: products that are not what was recorded are missing from then on, and made again where
    they count; staged packages that are not what was staged leave the cache; products that lie in the trash though no row
    says so are moved back; a run.json that is gone or damaged is made again. Of a pipeline that is away as a whole nothing
    is written down.
    """
    if lost is not None and not yes:
        raise UsageError("--lost goes with --yes", next="ccatwm fsck --yes --reason TEXT --lost N; or leave it out")
    if directories and not imports:
        raise UsageError("run directories go with --import", next="ccatwm fsck --import RUN_DIRECTORY")
    if imports and yes:
        raise UsageError("--yes does not go with --import", next="first `ccatwm fsck --import`, then `ccatwm fsck --yes`")
    if reason is not None and not (yes or imports):
        raise UsageError("--reason goes with --yes", next="ccatwm fsck --yes --reason TEXT; or leave it out, to look only")
    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    if imports:
        return _import(common, context, directories or [], full, reason)
    return _compare(common, context, full, yes, reason, lost)


def _import(common: Common, context: Context, directories: list[str], full: bool, reason: str | None) -> int:
    from ccatwm.upkeep.importing import Importing, import_runs

    below = _run_directories(directories, str(context.workfiles.root()))
    now, host = context.clock.now(), os.uname().nodename
    asked = Importing(context.ops_db_uid, now, context.actor, host, below, full, reason)
    report = import_runs(context.database, context.workfiles, asked)
    _frame.show_report(common, report)
    return report.exit_code


def _run_directories(given: list[str], base: str) -> tuple[str, ...]:
    """Below the base directory, whether they were named from there, from the current folder or from the root.

    Errors: UsageError with all that are none.
    """
    from ccatwm.core.reconciling import parse_run_directory

    found: dict[str, None] = {}
    problems = []
    for text in given:
        ways = [os.path.relpath(os.path.join(folder, text), base) for folder in (base, os.getcwd())]
        runs = [way for way in ways if not way.startswith("..") and parse_run_directory(way) is not None]
        if runs:
            found[runs[0]] = None
        else:
            outside = all(way.startswith("..") for way in ways)
            what = f"is not below the base directory {base}" if outside else "is no run directory"
            problems.append(Problem(text or "''", what, "a run directory is PIPELINE/STEP/SUB_GROUP/run-N"))
    if problems:
        raise UsageError("nothing was imported", problems=problems)
    return tuple(found)


def _compare(
    common: Common, context: Context, full: bool, yes: bool, reason: str | None, lost: int | None
) -> int:
    from ccatwm.edges.opsdb.stores.integrity import Claimant
    from ccatwm.passes._frame import location, this_process
    from ccatwm.passes._room import CLAIM_HOURS, claimant_is_gone
    from ccatwm.upkeep.fsck import Checking
    from ccatwm.upkeep.fsck import fsck as compare

    now = context.clock.now()
    claimant = Claimant(this_process().token, now, now + timedelta(hours=CLAIM_HOURS), claimant_is_gone)
    checking = Checking(
        context.database, context.workfiles, location(context), full, claimant, context.ops_db_uid, context.progress
    )
    report = compare(
        checking, yes=yes, reason=reason, now=now, actor=context.actor, host=os.uname().nodename,
        confirm_runs=context.settings.confirm_runs, lost=lost,
    )  # fmt: skip
    _frame.show_report(common, report)
    return report.exit_code
