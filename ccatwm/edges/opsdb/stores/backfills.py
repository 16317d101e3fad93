"""Backfills: what a person asked for, the sub-groups of its period, and the runs it made. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import Backfill, BackfillState
from ccatwm.core.states import WITHOUT_JOB, RunEvent
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.runs import record_events
from ccatwm.edges.opsdb.stores.sub_groups import SubGroupRow, rows_of

backfill = t.backfill
sub_group = t.sub_group
member = t.sub_group_member
runs = t.executed_reduction_step
NOT_HANDED_OVER = tuple(sorted(status.value for status in WITHOUT_JOB))


# --- what was asked for -----------------------------------------------------------------------------------------


def insert_backfill(
    connection: sa.Connection,
    pipeline_id: int,
    *,
    since: datetime,
    until: datetime,
    priority: int,
    most_runs: int | None,
    estimate: Mapping[str, Any],
    reason: str,
    actor: str,
    now: datetime,
) -> int:
    values = {
        "pipeline_id": pipeline_id, "since": since, "until": until, "priority": priority, "most_runs": most_runs,
        "state": BackfillState.OPEN.value, "progress": {}, "estimate": dict(estimate), "reason": reason, "actor": actor,
        "created_at": now,
    }  # fmt: skip
    return int(connection.execute(sa.insert(backfill).values(**values).returning(backfill.c.id)).scalar_one())


def list_open(connection: sa.Connection, location: str) -> list[Backfill]:
    """Those that may make runs at a processing location, larger priority first."""
    owner = t.pipeline
    query = _select().where(
        backfill.c.ended_at.is_(None), backfill.c.state == BackfillState.OPEN.value, owner.c.enabled,
        owner.c.processing_location == location,
    )  # fmt: skip
    ordered = query.order_by(backfill.c.priority.desc(), backfill.c.id)
    return [_backfill(row) for row in connection.execute(ordered).mappings()]


def lock_backfill(connection: sa.Connection, number: int) -> Backfill | None:
    """It as it is now, and nobody else changes it before this transaction ends; None if there is none."""
    query = _select().where(backfill.c.id == number).with_for_update(of=backfill)
    row = connection.execute(query).mappings().first()
    return _backfill(row) if row is not None else None


def _select() -> sa.Select[Any]:
    columns = (backfill, t.pipeline.c.name.label("pipeline"))
    return sa.select(*columns).join(t.pipeline, t.pipeline.c.id == backfill.c.pipeline_id)


_FIELDS = tuple(field.name for field in fields(Backfill))


def _backfill(row: Mapping[Any, Any]) -> Backfill:
    return Backfill(**{name: row[name] for name in _FIELDS})


def record_progress(connection: sa.Connection, number: int, progress: Mapping[str, Any]) -> None:
    connection.execute(sa.update(backfill).where(backfill.c.id == number).values(progress=dict(progress)))


def set_state(
    connection: sa.Connection, number: int, state: BackfillState, *, reason: str | None, now: datetime
) -> None:
    """Done and cancelled end it: no sub-group waits for it any more."""
    ended = state in (BackfillState.DONE, BackfillState.CANCELLED)
    values: dict[str, Any] = {"state": state.value, "state_reason": reason, "ended_at": now if ended else None}
    connection.execute(sa.update(backfill).where(backfill.c.id == number).values(**values))
    if ended:
        leave_waiting(connection, number)


def leave_waiting(connection: sa.Connection, number: int, step_id: int | None = None) -> None:
    """Sub-groups (of a step) no longer wait for the backfill."""
    where = [sub_group.c.backfill_id == number]
    where += [sub_group.c.step_id == step_id] if step_id is not None else []
    connection.execute(sa.update(sub_group).where(*where).values(backfill_id=None))


def lowest_priority(connection: sa.Connection, location: str) -> int:
    """The smallest priority of the enabled pipelines of a location; 0 where there is none."""
    owner = t.pipeline
    query = sa.select(sa.func.min(owner.c.priority)).where(owner.c.enabled, owner.c.processing_location == location)
    return int(connection.execute(query).scalar() or 0)


# --- its sub-groups ---------------------------------------------------------------------------------------------


def list_slice(
    connection: sa.Connection, asked: Backfill, step_id: int, limit: int, *, continuous: bool, now: datetime
) -> list[SubGroupRow]:
    """The next sub-groups of a step with a member observed in the period, by id; locked (PostgreSQL).

    What a person or a tick has opened is theirs; of a continuous step also what is due.
    """
    query = _select_period(asked, step_id).where(sub_group.c.id > asked.done_to(step_id), sa.not_(sub_group.c.asked))
    if continuous:
        query = query.where(sa.or_(sub_group.c.due_at.is_(None), sub_group.c.due_at > now))
    return rows_of(connection, query.order_by(sub_group.c.id).limit(limit).with_for_update())


def _select_period(asked: Backfill, step_id: int) -> sa.Select[Any]:
    scope = sa.select(t.reduction_step.c.scope_id).where(t.reduction_step.c.id == step_id).scalar_subquery()
    inside = (
        sa.select(member.c.id)
        .where(
            member.c.scope_id == scope, member.c.key == sub_group.c.key,
            member.c.observed_at >= asked.since, member.c.observed_at < asked.until,
        )
        .exists()
    )  # fmt: skip
    return sa.select(sub_group).where(sub_group.c.step_id == step_id, inside)


def list_waiting_due(
    connection: sa.Connection, number: int, step_id: int, limit: int, now: datetime
) -> list[SubGroupRow]:
    """Sub-groups that had to wait and fell due again; locked (PostgreSQL)."""
    query = sa.select(sub_group).where(
        sub_group.c.backfill_id == number, sub_group.c.step_id == step_id, sub_group.c.due_at <= now
    )
    return rows_of(connection, query.order_by(sub_group.c.id).limit(limit).with_for_update())


def any_waiting(connection: sa.Connection, number: int) -> bool:
    query = sa.select(sub_group.c.id).where(sub_group.c.backfill_id == number).limit(1)
    return connection.execute(query).first() is not None


def steps_at_work(connection: sa.Connection, number: int, now: datetime) -> set[int]:
    """Steps with an open run of the backfill, or a sub-group of it that is due."""
    open_runs = sa.select(runs.c.step_id).where(runs.c.backfill_id == number, runs.c.is_open)
    due = sa.select(sub_group.c.step_id).where(sub_group.c.backfill_id == number, sub_group.c.due_at <= now)
    return set(connection.execute(open_runs.union(due)).scalars())


def list_upstream_ids(connection: sa.Connection, step_ids: Collection[int]) -> dict[int, set[int]]:
    """Of each of these steps those of them that it depends on."""
    table = t.reduction_step_dependency
    query = sa.select(table.c.step_id, table.c.upstream_step_id).where(
        table.c.step_id.in_(list(step_ids)), table.c.upstream_step_id.in_(list(step_ids))
    )
    found: dict[int, set[int]] = {step_id: set() for step_id in step_ids}
    for row in connection.execute(query):
        found[row.step_id].add(row.upstream_step_id)
    return found


# --- its runs ---------------------------------------------------------------------------------------------------


def count_made(connection: sa.Connection, number: int) -> tuple[int, int]:
    """(all runs that it made, those that are open)."""
    query = sa.select(sa.func.count(), sa.func.count().filter(runs.c.is_open)).where(runs.c.backfill_id == number)
    made, opened = connection.execute(query).one()
    return int(made), int(opened)


def take_back_runs(connection: sa.Connection, number: int, actor: str, reason: str, now: datetime) -> int:
    """Cancel runs of it that have not been handed over, as superseded: their recipes stay free. How many."""
    query = sa.select(runs.c.id, runs.c.status).where(
        runs.c.backfill_id == number, runs.c.is_open, runs.c.status.in_(NOT_HANDED_OVER)
    )
    by_status: dict[str, list[int]] = {}
    for row in connection.execute(query.order_by(runs.c.id)):
        by_status.setdefault(row.status, []).append(row.id)
    moved = 0
    for status, ids in sorted(by_status.items()):
        moved += len(record_events(
            connection, ids, RunEvent.CANCELLED, expected=status, now=now, actor=actor,
            message=f"backfill {number} was cancelled: {reason}", superseded=True, due_at=None,
        ))  # fmt: skip
    return moved


# --- for people -------------------------------------------------------------------------------------------------


def list_all(connection: sa.Connection, pipeline: str | None = None, number: int | None = None) -> list[dict[str, Any]]:
    """Backfills, newest first, as rows."""
    query = _select().order_by(backfill.c.id.desc())
    if pipeline is not None:
        query = query.where(t.pipeline.c.name == pipeline)
    if number is not None:
        query = query.where(backfill.c.id == number)
    return [dict(row) for row in connection.execute(query).mappings()]


def find_same(
    connection: sa.Connection, pipeline_id: int, since: datetime, until: datetime
) -> int | None:
    """A backfill of the same period that has not ended."""
    query = sa.select(backfill.c.id).where(
        backfill.c.pipeline_id == pipeline_id, backfill.c.since == since, backfill.c.until == until,
        backfill.c.ended_at.is_(None),
    )  # fmt: skip
    found: int | None = connection.execute(query).scalar()
    return found


def count_by_status(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, dict[tuple[str, bool], int]]:
    """Runs of each backfill by (status, whether it is open)."""
    query = (
        sa.select(runs.c.backfill_id, runs.c.status, runs.c.is_open, sa.func.count().label("n"))
        .where(runs.c.backfill_id.in_(list(numbers)))
        .group_by(runs.c.backfill_id, runs.c.status, runs.c.is_open)
    )
    found: dict[int, dict[tuple[str, bool], int]] = {number: {} for number in numbers}
    for row in connection.execute(query):
        found[row.backfill_id][row.status, bool(row.is_open)] = row.n
    return found


def count_waiting(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, dict[str, int]]:
    """Sub-groups that wait for each backfill, by what they wait for."""
    query = (
        sa.select(sub_group.c.backfill_id, sub_group.c.outcome, sa.func.count().label("n"))
        .where(sub_group.c.backfill_id.in_(list(numbers)))
        .group_by(sub_group.c.backfill_id, sub_group.c.outcome)
    )
    found: dict[int, dict[str, int]] = {number: {} for number in numbers}
    for row in connection.execute(query):
        found[row.backfill_id][str(row.outcome)] = row.n
    return found


def count_not_looked_at(connection: sa.Connection, row: Mapping[Any, Any]) -> int:
    """Sub-groups of the period that a backfill which has not ended will look at yet."""
    asked = _backfill(row)
    step = t.reduction_step
    steps = connection.execute(sa.select(step.c.id).where(step.c.pipeline_id == asked.pipeline_id, step.c.enabled))
    left = 0
    for step_id in steps.scalars().all():
        if not asked.finished(step_id):
            query = _select_period(asked, step_id).where(sub_group.c.id > asked.done_to(step_id))
            counted = sa.select(sa.func.count()).select_from(query.with_only_columns(sub_group.c.id).subquery())
            left += int(connection.execute(counted).scalar_one())
    return left


def list_taken_back(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """Of runs that were cancelled with their backfill: who did it, when, and what was said."""
    event = t.run_event
    query = sa.select(event.c.run_id, event.c.actor, event.c.at, event.c.message).where(
        event.c.run_id.in_(sorted(run_ids)), event.c.event == RunEvent.CANCELLED.value, event.c.actor.is_not(None)
    )
    return {row["run_id"]: dict(row) for row in connection.execute(query.order_by(event.c.id)).mappings()}


def list_to_come(connection: sa.Connection, step_id: int, sub_group_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """The backfill that has yet to look at each of these sub-groups of a step for the first time, open or paused."""
    step = t.reduction_step
    owner = sa.select(step.c.pipeline_id).where(step.c.id == step_id).scalar_subquery()
    query = _select().where(backfill.c.pipeline_id == owner, backfill.c.ended_at.is_(None)).order_by(backfill.c.id)
    found: dict[int, dict[str, Any]] = {}
    for row in connection.execute(query).mappings():
        asked = _backfill(row)
        if asked.finished(step_id):
            continue
        inside = _select_period(asked, step_id).where(
            sub_group.c.id > asked.done_to(step_id), sub_group.c.id.in_(sorted(sub_group_ids))
        )
        for group_id in connection.execute(inside.with_only_columns(sub_group.c.id)).scalars():
            found.setdefault(group_id, dict(row))
    return found
