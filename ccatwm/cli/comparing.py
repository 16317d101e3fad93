"""The command `fsck`: what the ops-db says of files beside what lies on disk. Touches: nothing itself."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Reason, Yes, command
from ccatwm.errors import UsageError

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
        bool, typer.Option("--import", help="Make rows again, from its run.json, of a run that the ops-db does not know.")
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
    they count; staged packages that are not what was staged leave the cache. Of a pipeline that is away as a whole
    nothing is written down.
    """
    if lost is not None and not yes:
        raise UsageError("--lost goes with --yes", next="ccatwm fsck --yes --reason TEXT --lost N; or leave it out")
    if directories and not imports:
        raise UsageError("run directories go with --import", next="ccatwm fsck --import RUN_DIRECTORY")
    if imports and yes:
        raise UsageError("--yes does not go with --import", next="first `ccatwm fsck --import`, then `ccatwm fsck --yes`")
    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    if imports:
        return _import(common, context, directories or [], full)
    return _compare(common, context, full, yes, reason, lost)


def _import(common: Common, context: Context, directories: list[str], full: bool) -> int:
    from ccatwm.upkeep.importing import Importing, import_runs

    base = str(context.workfiles.root())
    below = tuple(os.path.relpath(d, base) if os.path.isabs(d) else d.rstrip("/") for d in directories)
    for given, found in zip(directories, below, strict=True):
        if Path(found).parts[:1] == ("..",):
            raise UsageError(f"{given} is not below the base directory {base}", next="name a run directory of this site")
    now, host = context.clock.now(), os.uname().nodename
    asked = Importing(context.ops_db_uid, now, context.actor, host, below, full)
    report = import_runs(context.database, context.workfiles, asked)
    _frame.show_report(common, report)
    return report.exit_code


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
    checking = Checking(context.database, context.workfiles, location(context), full, claimant, context.progress)
    report = compare(
        checking, yes=yes, reason=reason, now=now, actor=context.actor, host=os.uname().nodename,
        confirm_runs=context.settings.confirm_runs, lost=lost,
    )  # fmt: skip
    _frame.show_report(common, report)
    return report.exit_code
