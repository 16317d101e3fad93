"""THE state machine of a run: which event leads from which status to which. Pure.

A status is a state of being, an event is something that happened. Passes name events; this table maps them.
Late news never moves a run back: an event that a status does not know is refused by `next_status`.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    PENDING = "PENDING"
    STAGING_DATA = "STAGING_DATA"
    STAGED = "STAGED"
    SUBMITTING = "SUBMITTING"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    COLLECTING_RESULTS = "COLLECTING_RESULTS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class RunEvent(StrEnum):
    STAGE_STARTED = "STAGE_STARTED"
    INPUTS_STAGED = "INPUTS_STAGED"
    SUBMIT_STARTED = "SUBMIT_STARTED"
    JOB_ACCEPTED = "JOB_ACCEPTED"
    JOB_ABSENT = "JOB_ABSENT"  # certainly never accepted, or superseded unclaimed: a new attempt may be made
    JOB_STARTED = "JOB_STARTED"
    JOB_SUCCEEDED = "JOB_SUCCEEDED"
    PRODUCTS_RECORDED = "PRODUCTS_RECORDED"
    ATTEMPT_FAILED = "ATTEMPT_FAILED"
    RETRY_DUE = "RETRY_DUE"
    RETRY_REQUESTED = "RETRY_REQUESTED"
    CANCELLED = "CANCELLED"


S, E = RunStatus, RunEvent

FINAL = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED})
OPEN = frozenset(RunStatus) - FINAL
# A run in one of these may have a job in the batch system.
WITH_JOB = frozenset({S.SUBMITTING, S.SUBMITTED, S.RUNNING})
# Before SUBMITTING nothing has been handed over: superseding costs nothing.
BEFORE_SUBMIT = frozenset({S.PENDING, S.STAGING_DATA, S.STAGED})
# An open run in one of these has no job: not handed over, or failed and waiting for a retry.
WITHOUT_JOB = BEFORE_SUBMIT | {S.FAILED}

TRANSITIONS: dict[tuple[RunStatus, RunEvent], RunStatus] = {
    (S.PENDING, E.STAGE_STARTED): S.STAGING_DATA,
    (S.STAGING_DATA, E.INPUTS_STAGED): S.STAGED,
    (S.STAGED, E.SUBMIT_STARTED): S.SUBMITTING,
    (S.SUBMITTING, E.JOB_ACCEPTED): S.SUBMITTED,
    (S.SUBMITTING, E.JOB_ABSENT): S.STAGED,
    (S.SUBMITTED, E.JOB_STARTED): S.RUNNING,
    (S.SUBMITTED, E.JOB_SUCCEEDED): S.COLLECTING_RESULTS,  # faster than one poll
    (S.RUNNING, E.JOB_SUCCEEDED): S.COLLECTING_RESULTS,
    (S.COLLECTING_RESULTS, E.PRODUCTS_RECORDED): S.COMPLETED,
    (S.FAILED, E.RETRY_DUE): S.PENDING,
    (S.FAILED, E.RETRY_REQUESTED): S.PENDING,
    (S.CANCELLED, E.RETRY_REQUESTED): S.PENDING,
    **{(status, E.ATTEMPT_FAILED): S.FAILED for status in OPEN},
    **{(status, E.CANCELLED): S.CANCELLED for status in OPEN | {S.FAILED}},
}


def next_status(status: RunStatus, event: RunEvent) -> RunStatus | None:
    """The status that `event` leads to from `status`, or None where the table has no such edge."""
    return TRANSITIONS.get((status, event))


def statuses_before(event: RunEvent) -> tuple[RunStatus, ...]:
    """All statuses in which `event` may happen, in table order."""
    return tuple(status for (status, known) in TRANSITIONS if known is event)
