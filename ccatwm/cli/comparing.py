"""The command `fsck`: what the ops-db says of files beside what lies on disk. Touches: nothing itself."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Reason, Yes, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=_frame.CARE)(fsck)


def fsck(
    common: Common,
    full: Annotated[bool, typer.Option("--full", help="Read every byte and compare checksums, too.")] = False,
    yes: Yes = False,
    reason: Reason = None,
) -> int:
    """Compare the ops-db with the disk, both ways, and name every difference with the command that mends it.

    --yes writes down what can be: products that are not what was recorded are missing from then on, and made again where
    they count; staged packages that are not what was staged leave the cache.
    """
    from ccatwm.edges.opsdb.stores.integrity import Claimant
    from ccatwm.passes._frame import location, this_process
    from ccatwm.passes._room import CLAIM_HOURS, claimant_is_gone
    from ccatwm.upkeep.fsck import Checking
    from ccatwm.upkeep.fsck import fsck as compare

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    now = context.clock.now()
    claimant = Claimant(this_process().token, now, now + timedelta(hours=CLAIM_HOURS), claimant_is_gone)
    checking = Checking(context.database, context.workfiles, location(context), full, claimant, context.progress)
    report = compare(checking, yes=yes, reason=reason, now=now, actor=context.actor, host=os.uname().nodename)
    _frame.show_report(common, report)
    return report.exit_code
