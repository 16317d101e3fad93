"""What happens to a run whose attempt failed: retry or stop, and who is told. Touches: the ops-db."""

from __future__ import annotations

import dataclasses
from typing import Any

from ccatwm.core.model import FailureClass, Run
from ccatwm.core.retries import RetryLimits, RetryPlan, found_input_gone, plan_retry
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.edges.opsdb.stores import runs, streaks, sub_groups
from ccatwm.passes._frame import PassFrame, PassItem

# These say nothing of the step: people, other jobs and full disks make them.
NOBODYS_FAULT = frozenset(
    {FailureClass.CANCELLED_OUTSIDE, FailureClass.PREEMPTED, FailureClass.NODE_FAILURE, FailureClass.NO_SPACE}
)


def fail_run(
    frame: PassFrame,
    run: Run,
    expected: RunStatus,
    failure: FailureClass,
    message: str,
    *,
    by_pass: str,
    exit_code: int | None = None,
    for_good: bool = False,
    of_step: bool = True,
    **changes: Any,
) -> bool:
    """Record a failed attempt with the retry it gets; without one the recipe is blocked and the sub-group due.

    `for_good`: no retry would help. `of_step`: it says something of the step, too, and may trip it.
    """
    with frame.context.database.write() as connection:
        changed = record_failure(
            frame,
            connection,
            run,
            expected,
            failure,
            message,
            by_pass=by_pass,
            exit_code=exit_code,
            for_good=for_good,
            of_step=of_step,
            **changes,
        )
    return changed


def record_failure(
    frame: PassFrame,
    connection: Any,
    run: Run,
    expected: RunStatus,
    failure: FailureClass,
    message: str,
    *,
    by_pass: str,
    exit_code: int | None = None,
    for_good: bool = False,
    of_step: bool = True,
    **changes: Any,
) -> bool:
    """As `fail_run`, inside a transaction of the caller."""
    plan = RetryPlan(None) if for_good else plan_for(frame, run, failure, exit_code)
    values = _values(run, failure, message, exit_code, plan) | changes
    changed = runs.record_event(
        connection, run.id, RunEvent.ATTEMPT_FAILED, expected=expected, now=frame.now, by_pass=by_pass,
        **values,
    )  # fmt: skip
    if changed:
        if of_step and failure not in NOBODYS_FAULT and not found_input_gone(failure, exit_code):
            _count_failure(frame, connection, run, failure)
        if plan.due_at is None:
            sub_groups.mark_due(connection, [run.sub_group_id], frame.now)
        next_step = "tried again later" if plan.due_at else what_to_type(run.id, message)
        item = PassItem("failed", f"{failure.value}: {message}; {next_step}", run.id, run.pipeline, run.step,
                        run.sub_group, needs_you=plan.due_at is None)  # fmt: skip
        frame.report.add("failed", item)
    return changed


def what_to_type(run_id: int, message: str) -> str:
    """For a run that a person must look at; how to retry it is not said again where its message does."""
    retry = f"`ccatwm retry {run_id} --reason TEXT`"
    return f"see `ccatwm show {run_id}`" + ("" if retry in message else f", then {retry}")


def _count_failure(frame: PassFrame, connection: Any, run: Run, failure: FailureClass) -> None:
    """Trip the step when its attempts fail alike again and again; this pass lets its other runs be, too."""
    if run.trial:
        return
    most = frame.context.settings.trip_after
    if streaks.count_failure(connection, run.step_id, failure.value, most):
        text = f"its last {most} attempts all failed as {failure.value}; nothing more of it is started; once mended, "
        text += f"`ccatwm release {run.pipeline}/{run.step} --retry --reason TEXT`"
        frame.report.add("failed", PassItem("tripped", text, None, run.pipeline, run.step))
        frame.tripped.add(run.step_id)


def plan_for(frame: PassFrame, run: Run, failure: FailureClass, exit_code: int | None) -> RetryPlan:
    settings = frame.context.settings
    step = run.resolved_step
    return plan_retry(
        failure,
        exit_code,
        now=frame.now,
        max_retries=step.max_retries,
        retries_used=run.retries_used,
        free_retries_used=run.free_retries_used,
        resources=run.resources,
        step_retry=step.retry,
        limits=RetryLimits(
            settings.retry_base_seconds,
            settings.retry_max_seconds,
            settings.slurm.max_memory_gb,
            settings.slurm.max_time_hours,
        ),
    )


def _values(
    run: Run, failure: FailureClass, message: str, exit_code: int | None, plan: RetryPlan
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "failure_class": failure.value,
        "message": message,
        "exit_code": exit_code,
        "due_at": plan.due_at,
        "blocking": plan.due_at is None,
    }
    if plan.due_at is not None:
        used = "free_retries_used" if plan.free else "retries_used"
        values[used] = getattr(run, used) + plan.counted
        if plan.resources is not None and plan.resources != run.resolved_step.resources:
            values["next_resources"] = dataclasses.asdict(plan.resources)
    return values
