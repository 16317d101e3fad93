"""Carries backfills on: after all that is live, so many runs that no more than a few of each are open.

Touches: the ops-db. A slice of sub-groups is decided on, written and ticked off in one transaction, in which the
backfill's row is locked: whoever pauses it waits for that, and nothing is made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from ccatwm.core.backfill import Backfill, BackfillState, fitting, may_begin, room, runs_left
from ccatwm.core.gap import Outcome
from ccatwm.core.model import TriggerType
from ccatwm.edges.opsdb.stores import backfills
from ccatwm.edges.opsdb.stores.steps import StepRecord, get_step_record, step_depths
from ccatwm.edges.opsdb.stores.sub_groups import SubGroupRow
from ccatwm.edges.opsdb.stores.triggers import TriggeredStep, list_triggered_steps
from ccatwm.errors import ConflictError
from ccatwm.passes._carry_out import Decided
from ccatwm.passes._frame import PassFrame, PassItem, location

SUB_GROUPS_PER_SLICE = 200
Decide = Callable[[sa.Connection, StepRecord, Sequence[SubGroupRow]], list[Decided]]
Write = Callable[[sa.Connection, StepRecord, Sequence[Decided], Backfill], list[tuple[str, PassItem]]]


def advance_backfills(frame: PassFrame, decide: Decide, write: Write) -> None:
    """Every open backfill of this location, larger priority first."""
    with frame.context.database.read() as connection:
        found = backfills.list_open(connection, location(frame.context))
    for backfill in found:
        try:
            _advance(frame, backfill, decide, write)
        except ConflictError as error:  # somebody was first with one of its sub-groups: the next pass goes on
            frame.report.add("waiting", PassItem("conflict", error.message, pipeline=backfill.pipeline))
        if frame.time_is_up():
            return


def _advance(frame: PassFrame, backfill: Backfill, decide: Decide, write: Write) -> None:
    """Its steps, upstream first; each when its turn has come."""
    with frame.context.database.read() as connection:
        steps = [s for s in list_triggered_steps(connection, location(frame.context)) if s.pipeline == backfill.pipeline]
        depths = step_depths(connection, [step.id for step in steps])
        upstream = backfills.list_upstream_ids(connection, [step.id for step in steps])
    for step in sorted(steps, key=lambda s: (depths[s.id], s.id)):
        more = True
        while more and not _is_over(frame):
            frame.checkpoint()
            with frame.context.database.write() as connection:
                items, more = _slice(frame, connection, backfill.id, step, upstream[step.id], decide, write)
            frame.report.selected += len(items)
            for kind, item in items:
                frame.report.add(kind, item)
    if not _is_over(frame):
        with frame.context.database.write() as connection:
            _end_if_done(frame, connection, backfill.id, [step.id for step in steps])


def _is_over(frame: PassFrame) -> bool:
    limit = frame.options.limit
    return frame.time_is_up() or (limit is not None and frame.report.selected >= limit)


def _slice(
    frame: PassFrame,
    connection: sa.Connection,
    number: int,
    step: TriggeredStep,
    upstream: set[int],
    decide: Decide,
    write: Write,
) -> tuple[list[tuple[str, PassItem]], bool]:
    """Some sub-groups of a step, and whether there may be more for this pass."""
    backfill = backfills.lock_backfill(connection, number)
    if backfill is None or backfill.state != BackfillState.OPEN:
        return [], False
    _let_go(connection, number, step)
    free = _room(frame, connection, backfill)
    at_work = backfills.steps_at_work(connection, number, frame.now)
    if free == 0 or not may_begin(step.id, upstream, backfill, at_work):
        return [], False
    size = _size(frame)
    again = backfills.list_waiting_due(connection, number, step.id, size, frame.now)
    rows = again or _next_rows(frame, connection, backfill, step, size)
    record = get_step_record(connection, step.id)
    decided = decide(connection, record, rows) if rows else []
    taken = decided[: fitting([one.decision for one in decided], free)]
    items = write(connection, record, _marked(taken, backfill), backfill) if taken else []
    _let_go(connection, number, step)
    all_taken = len(taken) == len(decided)
    finished = not again and len(rows) < size and all_taken
    if not again and not backfill.finished(step.id):
        done_to = taken[-1].row.id if taken else backfill.done_to(step.id)
        backfills.record_progress(connection, number, backfill.moved(step.id, done_to=done_to, finished=finished))
    return items, all_taken and not finished


def _let_go(connection: sa.Connection, number: int, step: TriggeredStep) -> None:
    """A continuous step decides by itself on what has to wait."""
    if step.trigger.type is TriggerType.CONTINUOUS:
        backfills.leave_waiting(connection, number, step.id)


def _room(frame: PassFrame, connection: sa.Connection, backfill: Backfill) -> int:
    made, opened = backfills.count_made(connection, backfill.id)
    return room(backfill, made=made, open_runs=opened, most_open=frame.context.settings.backfill_open_runs)


def _next_rows(
    frame: PassFrame, connection: sa.Connection, backfill: Backfill, step: TriggeredStep, size: int
) -> list[SubGroupRow]:
    if backfill.finished(step.id):
        return []
    continuous = step.trigger.type is TriggerType.CONTINUOUS
    rows = backfills.list_slice(connection, backfill, step.id, size, continuous=continuous, now=frame.now)
    # The backfill opens them: only then do they fall due, as by a person.
    return rows if continuous else [replace(row, round_at=frame.now) for row in rows]


def _marked(taken: Sequence[Decided], backfill: Backfill) -> Sequence[Decided]:
    """The runs say for which backfill they were made."""
    for one in taken:
        if one.decision.outcome is Outcome.RUN:
            details = {**one.decision.details, "backfill": backfill.id, "request": backfill.reason}
            one.decision = replace(one.decision, details=details)
    return taken


def _size(frame: PassFrame) -> int:
    limit = frame.options.limit
    return SUB_GROUPS_PER_SLICE if limit is None else min(SUB_GROUPS_PER_SLICE, limit - frame.report.selected)


def _end_if_done(frame: PassFrame, connection: sa.Connection, number: int, step_ids: Sequence[int]) -> None:
    """All was looked at and nothing waits, or as many runs were made as may be."""
    backfill = backfills.lock_backfill(connection, number)
    if backfill is None or backfill.state != BackfillState.OPEN:
        return
    made, _ = backfills.count_made(connection, number)
    full = runs_left(backfill, made) == 0
    if not full and (not all(map(backfill.finished, step_ids)) or backfills.any_waiting(connection, number)):
        return
    why = f"as many runs were made as may be: {made}" if full else None
    backfills.set_state(connection, number, BackfillState.DONE, reason=why, now=frame.now)
    text = why or f"all of its period was looked at, {made} runs were made"
    frame.report.add("done", PassItem("backfill-done", f"backfill {number}: {text}", pipeline=backfill.pipeline))
