"""Why a run is not staged, and what becomes of it. Touches: the ops-db, the links in its folder."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from ccatwm.core.model import FailureClass, Run
from ccatwm.core.staging import UNAVAILABLE
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb.stores import runs
from ccatwm.errors import (
    CcatwmError,
    CopyUnavailableError,
    IncompleteTreeError,
    NoGoodCopyError,
    NoSpaceError,
    NotPermittedError,
)
from ccatwm.passes._failures import fail_run, plan_for
from ccatwm.passes._frame import PassFrame, PassItem
from ccatwm.passes._request import RequestedError
from ccatwm.passes._run_folder import StagingError, remove_links
from ccatwm.passes._transfers import MissedError, TransferringError

REQUESTED = "requested"  # outcome of a run that waits for data transfer
TRANSFERRING = "transferring"  # outcome of a run that waits for a batch job that brings a package
NOT_PERMITTED = "not permitted"  # outcome of a run that waits for a person to give this account a right
WAIT_SECONDS = 30  # less than cron's minute: each pass looks again, and so tells that it lasts
JOB_WAIT_SECONDS = 300  # where to look again takes a batch job


class ClaimedElsewhereError(CcatwmError):
    """Another process is bringing, or removing, the same package: this run waits."""

    def __init__(self, package: str) -> None:
        super().__init__(f"package {package} is being staged by another process")


def run_item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def not_staged(frame: PassFrame, run: Run, error: CcatwmError, *, by_job: bool = False) -> None:
    """It waits, is failed and tried again, or waits for a person. `by_job`: to look again takes a batch job."""
    if isinstance(error, ClaimedElsewhereError | IncompleteTreeError):
        frame.report.add("waiting", run_item(run, "waiting", error.message))
    elif isinstance(error, NoSpaceError):
        _wait(frame, run, FailureClass.NO_SPACE.value, error.with_next, failure_class=FailureClass.NO_SPACE.value)
    elif isinstance(error, NotPermittedError):
        _wait(frame, run, NOT_PERMITTED, error.with_next)
    elif isinstance(error, RequestedError):
        _wait(frame, run, REQUESTED, error.message)
    elif isinstance(error, TransferringError):
        _wait(frame, run, TRANSFERRING, error.message, seconds=0 if error.next_in_turn else WAIT_SECONDS)
    elif isinstance(error, MissedError):
        _failed(frame, run, error.failure, error.message)
    elif isinstance(error, CopyUnavailableError):
        _wait(frame, run, UNAVAILABLE, error.message, seconds=JOB_WAIT_SECONDS if by_job else WAIT_SECONDS)
    elif isinstance(error, StagingError):
        _failed(frame, run, error.failure, error.message, for_good=error.for_good)
    elif isinstance(error, NoGoodCopyError):  # that a package is bad says no more of the step when it is looked at again
        _failed(frame, run, FailureClass.STAGING, error.with_next, of_step=run.retries_used == 0)
    else:
        _failed(frame, run, FailureClass.STAGING, error.with_next)


def _failed(
    frame: PassFrame, run: Run, failure: FailureClass, message: str, *, for_good: bool = False, of_step: bool = True
) -> None:
    """One that waits for a person, and of which nothing has run yet, keeps no package from others meanwhile."""
    changes: dict[str, Any] = {}
    if run.attempt == 0 and (for_good or plan_for(frame, run, failure, None).due_at is None):
        with suppress(CcatwmError):  # else they go when their time has come
            remove_links(frame.context, run)
            changes["inputs_removed_at"] = frame.now
    fail_run(
        frame, run, RunStatus.STAGING_DATA, failure, message, by_pass="stage", for_good=for_good, of_step=of_step,
        **changes,
    )  # fmt: skip


def _wait(
    frame: PassFrame, run: Run, outcome: str, message: str, *, seconds: int = WAIT_SECONDS, **values: str | None
) -> None:
    """No attempt is charged: the run is looked at again in a while; with `seconds` 0 by the next pass."""
    due_at = frame.now + timedelta(seconds=seconds) if seconds else None
    if run.failure_class == FailureClass.NO_SPACE and not values:  # it waits for something else now
        values = {"failure_class": None}
    with frame.context.database.write() as connection:
        runs.update_run(connection, run.id, due_at=due_at, message=message, **values)
    frame.report.add("waiting", run_item(run, outcome, message))
