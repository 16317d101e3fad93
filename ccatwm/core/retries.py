"""Which failures are tried again, when, and with what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ccatwm.core.model import FailureClass, Resources

EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits(3): the program asks for a retry
EXIT_INPUT_MISSING = 76  # of the job script: an input was gone before the program began

F = FailureClass
# Charged to the step's `max_retries`.
CHARGED = frozenset({F.STAGING, F.LOST, F.OUT_OF_MEMORY, F.TIMEOUT})
# Nobody's fault: not charged, but bounded.
FREE = frozenset({F.NODE_FAILURE, F.PREEMPTED})
MAX_FREE_RETRIES = 10
NO_SPACE_SECONDS = 300  # how often a full disk is looked at again
MEMORY_FACTOR = 1.5
TIME_FACTOR = 1.5


@dataclass(frozen=True)
class RetryLimits:
    """Back-off and caps of a site. Seconds, GiB, hours."""

    base_seconds: int = 60
    max_seconds: int = 3600
    max_memory_gb: float | None = None
    max_time_hours: float | None = None


@dataclass(frozen=True)
class RetryPlan:
    """`due_at` None: no retry, a person is needed. `free`: not charged, but counted; `counted` False: not even that.
    `resources`: for the next attempt."""

    due_at: datetime | None
    free: bool = False
    counted: bool = True
    resources: Resources | None = None


def found_input_gone(failure: FailureClass, exit_code: int | None) -> bool:
    """Whether the job ended before its program began, since what was staged had gone: a purge, and no fault of the step."""
    return failure is F.STAGING and exit_code == EXIT_INPUT_MISSING


def plan_retry(
    failure: FailureClass,
    exit_code: int | None,
    *,
    now: datetime,
    max_retries: int,
    retries_used: int,
    free_retries_used: int,
    resources: Resources,
    step_retry: Mapping[str, Any],
    limits: RetryLimits,
) -> RetryPlan:
    """Whether and when a run that failed with `failure` is tried again.

    `step_retry` is the step's `retry`: failure class -> {"times", "backoff_seconds", "factor"}.
    """
    own: Mapping[str, Any] = step_retry.get(failure.value) or {}
    times = int(own.get("times", max_retries))
    asked = failure is F.NON_ZERO_EXIT and exit_code == EXIT_TRY_AGAIN
    if failure is F.NO_SPACE:  # waits for room, however long that takes
        due_at = now + timedelta(seconds=NO_SPACE_SECONDS)
        return RetryPlan(due_at, free=True, counted=False, resources=resources)
    if failure in FREE or found_input_gone(failure, exit_code):
        if free_retries_used >= MAX_FREE_RETRIES:
            return RetryPlan(None)
        return RetryPlan(now + backoff(free_retries_used, own, limits), free=True, resources=resources)
    if not (failure in CHARGED or asked or own) or retries_used >= times:
        return RetryPlan(None)
    due_at = now + backoff(retries_used, own, limits)
    return RetryPlan(due_at, resources=escalated(failure, resources, limits, own.get("factor")))


def backoff(used: int, own: Mapping[str, Any], limits: RetryLimits) -> timedelta:
    """Doubles with every retry used, up to the site's maximum."""
    base = float(own.get("backoff_seconds", limits.base_seconds))
    return timedelta(seconds=min(base * 2**used, max(base, limits.max_seconds)))


def escalated(
    failure: FailureClass, resources: Resources, limits: RetryLimits, factor: float | None = None
) -> Resources:
    """More memory after `out-of-memory`, more time after `timeout`: half as much more, or times `factor`; up to the
    site's caps."""
    if failure is F.OUT_OF_MEMORY:
        memory_gb = _grown(resources.memory_gb, factor or MEMORY_FACTOR, limits.max_memory_gb)
        return replace(resources, memory_gb=memory_gb)
    if failure is F.TIMEOUT:
        time_hours = _grown(resources.time_hours, factor or TIME_FACTOR, limits.max_time_hours)
        return replace(resources, time_hours=time_hours)
    return resources


def learned_resources(definition: Resources, used: Resources) -> dict[str, float] | None:
    """What a successful attempt needed more than its step asks for: `memory_gb` and `time_hours`; None if nothing."""
    grown = {
        name: getattr(used, name)
        for name in ("memory_gb", "time_hours")
        if getattr(used, name) > getattr(definition, name)
    }
    return grown or None


def with_learned(definition: Resources, learned: Mapping[str, float] | None) -> Resources:
    """The resources that a new run begins with: never less than was learned, never less than is asked for."""
    known = learned or {}
    return replace(
        definition,
        memory_gb=max(definition.memory_gb, known.get("memory_gb", 0.0)),
        time_hours=max(definition.time_hours, known.get("time_hours", 0.0)),
    )


def _grown(value: float, factor: float, cap: float | None) -> float:
    """Never less than before: a cap is for what retries grow to, not for what a step asks for."""
    return value * factor if cap is None else max(value, min(value * factor, cap))
