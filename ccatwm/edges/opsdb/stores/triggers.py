"""Trigger events, cursors and changed packages. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.core.triggers import CronCursor, StepTrigger, effective_trigger
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows
from ccatwm.edges.opsdb.stores._chunks import chunks

CRON = "cron:"  # before the id of a step: its cursor
WHOLE = "whole:"  # before the name of a table that is compared in full


@dataclass(frozen=True)
class TriggeredStep:
    """An enabled step of an enabled pipeline of this location, with its effective trigger."""

    id: int
    pipeline: str
    name: str
    scope_id: int
    trigger: StepTrigger
    changed_at: datetime  # when its definition, or that of its pipeline, was changed


@dataclass(frozen=True)
class OpenEvent:
    """An event that waits for `resolve`. `scope`: {"sub_group": key or None, "force": bool}."""

    id: int
    step_id: int
    kind: str
    scope: Mapping[str, Any]
    reason: str
    actor: str | None
    created_at: datetime


def list_triggered_steps(connection: sa.Connection, location: str) -> list[TriggeredStep]:
    step, pipeline = t.reduction_step, t.pipeline
    query = (
        sa.select(
            step.c.id, pipeline.c.name.label("pipeline"), step.c.name, step.c.scope_id,
            step.c.trigger_type, step.c.trigger_config, step.c.updated_at, pipeline.c.updated_at.label("pipeline_at"),
            pipeline.c.trigger_type.label("pipeline_type"), pipeline.c.trigger_config.label("pipeline_config"),
        )
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .where(pipeline.c.enabled, step.c.enabled, pipeline.c.processing_location == location)
        .order_by(pipeline.c.priority.desc(), pipeline.c.id, step.c.position)
    )  # fmt: skip
    return [
        TriggeredStep(
            row.id, row.pipeline, row.name, row.scope_id,
            effective_trigger(row.trigger_type, row.trigger_config, row.pipeline_type, row.pipeline_config),
            max(row.updated_at, row.pipeline_at),
        )
        for row in connection.execute(query)
    ]  # fmt: skip


def steps_due(connection: sa.Connection, now: datetime) -> set[int]:
    """Ids of steps with a sub-group to be looked at."""
    query = sa.select(t.sub_group.c.step_id).where(t.sub_group.c.due_at <= now).distinct()
    return set(connection.execute(query).scalars())


def steps_asked_for(connection: sa.Connection, now: datetime) -> set[int]:
    """Ids of steps with a due sub-group that somebody, or a tick, asked for and that had to wait."""
    query = (
        sa.select(t.sub_group.c.step_id).where(t.sub_group.c.due_at <= now, t.sub_group.c.asked).distinct()
    )
    return set(connection.execute(query).scalars())


def scopes_to_regroup(connection: sa.Connection) -> set[int]:
    """Ids of grouping scopes whose members do not stand for the present rules."""
    query = (
        sa.select(t.grouping_scope.c.id)
        .join(t.data_grouping, t.data_grouping.c.id == t.grouping_scope.c.data_grouping_id)
        .where(t.grouping_scope.c.resolved_digest.is_distinct_from(t.data_grouping.c.digest))
    )
    return set(connection.execute(query).scalars())


def list_open_events(connection: sa.Connection, step_ids: Collection[int] | None = None) -> list[OpenEvent]:
    event = t.trigger_event
    query = sa.select(event).where(event.c.closed_at.is_(None)).order_by(event.c.id)
    found = [
        OpenEvent(r.id, r.step_id, r.kind, r.scope, r.reason, r.actor, r.created_at)
        for r in connection.execute(query)
    ]
    return found if step_ids is None else [e for e in found if e.step_id in set(step_ids)]


def is_compared_in_full(connection: sa.Connection) -> bool:
    """Whether a person, or cron by `trigger --full`, has asked for that and it is not done yet."""
    event = t.trigger_event
    query = sa.select(event.c.id).where(event.c.closed_at.is_(None), event.c.kind == "full")
    return connection.execute(query.limit(1)).first() is not None


def open_event(
    connection: sa.Connection,
    step_id: int,
    kind: str,
    reason: str,
    *,
    now: datetime,
    scope: Mapping[str, Any] | None = None,
    actor: str | None = None,
) -> int:
    result = connection.execute(
        sa.insert(t.trigger_event).values(
            step_id=step_id, kind=kind, reason=reason, scope=dict(scope or {}), actor=actor, created_at=now
        )
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def close_events(connection: sa.Connection, event_ids: Collection[int], now: datetime) -> None:
    connection.execute(
        sa.update(t.trigger_event).where(t.trigger_event.c.id.in_(list(event_ids))).values(closed_at=now)
    )


# --- cursors ----------------------------------------------------------------------------------------------------


def read_cursors(connection: sa.Connection) -> dict[str, datetime | None]:
    query = sa.select(t.change_cursor.c.table_name, t.change_cursor.c.position)
    return {row.table_name: row.position for row in connection.execute(query)}


def move_cursor(connection: sa.Connection, name: str, position: datetime | None) -> None:
    cursor = t.change_cursor
    changed = connection.execute(
        sa.update(cursor).where(cursor.c.table_name == name).values(position=position)
    ).rowcount
    if not changed:
        connection.execute(sa.insert(cursor).values(table_name=name, position=position))


def read_digests(connection: sa.Connection) -> dict[str, tuple[datetime, str]]:
    """When tables that do not say when their rows change were last compared in full, and their digests then."""
    cursor = t.change_cursor
    rows = connection.execute(sa.select(cursor).where(cursor.c.table_name.startswith(WHOLE)))
    return {row.table_name.removeprefix(WHOLE): (row.full_at, row.details["digest"]) for row in rows}


def record_digest(connection: sa.Connection, table_name: str, digest: str, now: datetime) -> None:
    """What a table was when it was compared in full."""
    name, cursor = f"{WHOLE}{table_name}", t.change_cursor
    move_cursor(connection, name, None)
    values = {"full_at": now, "details": {"digest": digest}}
    connection.execute(sa.update(cursor).where(cursor.c.table_name == name).values(values))


def read_cron_cursors(connection: sa.Connection) -> dict[int, CronCursor]:
    """By step id."""
    cursor = t.change_cursor
    rows = connection.execute(sa.select(cursor).where(cursor.c.table_name.startswith(CRON)))
    return {
        int(row.table_name.removeprefix(CRON)): CronCursor(row.position, **(row.details or {})) for row in rows
    }


def move_cron_cursor(connection: sa.Connection, step_id: int, cursor: CronCursor) -> None:
    name = f"{CRON}{step_id}"
    move_cursor(connection, name, cursor.position)
    details = {"cron": cursor.cron, "timezone": cursor.timezone}
    table = t.change_cursor
    connection.execute(sa.update(table).where(table.c.table_name == name).values(details=details))


def forget_cron_cursors(connection: sa.Connection, step_ids: Collection[int]) -> None:
    """These steps are by cron no more; should they be so again, ticks count from then."""
    names = [f"{CRON}{step_id}" for step_id in sorted(step_ids)]
    connection.execute(sa.delete(t.change_cursor).where(t.change_cursor.c.table_name.in_(names)))


def remember_rows(
    connection: sa.Connection,
    table_name: str,
    rows: Sequence[tuple[str, datetime]],
    *,
    forget_before: datetime,
) -> None:
    """Remember rows as read; those older than the overlap can be forgotten."""
    table = t.change_seen
    connection.execute(
        sa.delete(table).where(table.c.table_name == table_name, table.c.changed_at < forget_before)
    )
    for chunk in chunks([row_id for row_id, _ in rows]):
        connection.execute(
            sa.delete(table).where(table.c.table_name == table_name, table.c.row_id.in_(chunk))
        )
    insert_rows(
        connection, table, ("table_name", "row_id", "changed_at"), [(table_name, row_id, at) for row_id, at in rows]
    )


def overlap_start(position: datetime, overlap_seconds: int) -> datetime:
    """From where rows are read again: one committed late hides from a watermark."""
    return position - timedelta(seconds=overlap_seconds)


# --- changed packages -----------------------------------------------------------------------------------------------


def record_changed_packages(
    connection: sa.Connection, packages: Iterable[sa.Select[Any]], cause: str, now: datetime
) -> int:
    """Packages whose ids the queries find are to be grouped again; how many."""
    noted = 0
    for query in packages:
        ids = query.subquery()
        at = sa.bindparam("now", now, t.changed_package.c.noted_at.type)
        rows = sa.select(ids.c.package_id, sa.literal(cause, sa.Text), at)
        insert = sa.insert(t.changed_package).from_select(["package_id", "cause", "noted_at"], rows)
        noted += connection.execute(insert).rowcount
    return noted


def list_changed_packages(connection: sa.Connection, limit: int) -> dict[str, list[int]]:
    """The packages noted first, each with all the rows that note it now."""
    noted = t.changed_package
    first = sa.select(noted.c.package_id).order_by(noted.c.id).limit(limit)
    ids = sorted(set(connection.execute(first).scalars()))
    found: dict[str, list[int]] = {}
    for chunk in chunks(ids):
        query = sa.select(noted.c.id, noted.c.package_id).where(noted.c.package_id.in_(chunk))
        for row in connection.execute(query):
            found.setdefault(row.package_id, []).append(row.id)
    return found


def remove_changed_packages(connection: sa.Connection, row_ids: Sequence[int]) -> None:
    for chunk in chunks(list(row_ids)):
        connection.execute(sa.delete(t.changed_package).where(t.changed_package.c.id.in_(chunk)))


def any_changed_package(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(t.changed_package.c.id).limit(1)).first() is not None


def forget_groupings(connection: sa.Connection, scope_ids: Collection[int] | None = None) -> None:
    """Have every grouping scope, or these, compared in full, and every sub-group looked at."""
    forget = sa.update(t.grouping_scope).values(resolved_digest=None, progress=None)
    if scope_ids is not None:
        forget = forget.where(t.grouping_scope.c.id.in_(list(scope_ids)))
    connection.execute(forget)


def mark_applied(connection: sa.Connection, event: OpenEvent) -> None:
    """A request has reached its sub-groups: if the pass dies now, it is not made twice."""
    set_scope(connection, event, applied=True)


def set_scope(connection: sa.Connection, event: OpenEvent, **values: Any) -> None:
    """How far the event has come."""
    connection.execute(
        sa.update(t.trigger_event)
        .where(t.trigger_event.c.id == event.id)
        .values(scope={**event.scope, **values})
    )
