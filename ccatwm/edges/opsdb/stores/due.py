"""Which sub-groups are to be looked at. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import TriggerType
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

sub_group = t.sub_group
member = t.sub_group_member


def mark_due(connection: sa.Connection, sub_group_ids: Collection[int], now: datetime) -> None:
    """These sub-groups are to be looked at."""
    for chunk in chunks(sorted(sub_group_ids)):
        mark_where_due(connection, sub_group.c.id.in_(chunk), now)


def mark_downstream_due(
    connection: sa.Connection, sub_group_ids: Collection[int], now: datetime, *, waiting_only: bool = False
) -> None:
    """Sub-groups of dependent steps whose sets of packages intersect with these ones' fall due.

    `waiting_only`: only those that wait for an upstream sub-group.
    """
    for chunk in chunks(sorted(sub_group_ids)):
        fed = connection.execute(_select_fed(waiting_only), {"sub_groups": chunk}).scalars()
        mark_due(connection, list(fed), now)


def mark_fed_due(
    connection: sa.Connection, scope_id: int, package_ids: Collection[str], now: datetime
) -> None:
    """These packages left their sub-groups in a scope: what those fed through them falls due."""
    step, dependency = t.reduction_step, t.reduction_step_dependency
    up_step = step.alias("up_step")
    fed = (
        sa.select(sub_group.c.id)
        .select_from(up_step)
        .join(dependency, dependency.c.upstream_step_id == up_step.c.id)
        .join(step, step.c.id == dependency.c.step_id)
        .join(member, member.c.scope_id == step.c.scope_id)
        .join(sub_group, sa.and_(sub_group.c.step_id == step.c.id, sub_group.c.key == member.c.key))
        .where(up_step.c.scope_id == scope_id)
        .distinct()
    )
    found: set[int] = set()
    for chunk in chunks(sorted(package_ids)):
        found |= set(connection.execute(fed.where(member.c.package_id.in_(chunk))).scalars())
    mark_due(connection, found, now)


@cache  # six aliases take longer to make than the query to run
def _select_fed(waiting_only: bool) -> sa.Select[Any]:
    """The sub-groups that those in the parameter `sub_groups` feed."""
    up, up_step, down_step = (
        sub_group.alias("up"),
        t.reduction_step.alias("up_step"),
        t.reduction_step.alias("down_step"),
    )
    up_member, down_member = member.alias("up_member"), member.alias("down_member")
    down, dependency = sub_group.alias("down"), t.reduction_step_dependency
    fed = (
        sa.select(down.c.id)
        .select_from(up)
        .join(up_step, up_step.c.id == up.c.step_id)
        .join(dependency, dependency.c.upstream_step_id == up_step.c.id)
        .join(down_step, down_step.c.id == dependency.c.step_id)
        .join(up_member, sa.and_(up_member.c.scope_id == up_step.c.scope_id, up_member.c.key == up.c.key))
        .join(
            down_member,
            sa.and_(
                down_member.c.package_id == up_member.c.package_id,
                down_member.c.scope_id == down_step.c.scope_id,
            ),
        )
        .join(down, sa.and_(down.c.step_id == down_step.c.id, down.c.key == down_member.c.key))
        .where(up.c.id.in_(sa.bindparam("sub_groups", expanding=True)))
        .distinct()
    )
    return fed.where(down.c.outcome == "waiting-for-upstream") if waiting_only else fed


def mark_where_due(
    connection: sa.Connection, where: sa.ColumnElement[bool], now: datetime, **changes: Any
) -> int:
    """Sub-groups fall due now at the latest; a round that is open stays the round it was.

    With `asked` they are opened: see `round_of_opened`.
    """
    earlier = sa.case(
        (sub_group.c.due_at <= now, sub_group.c.due_at),
        else_=sa.bindparam("now", now, sub_group.c.due_at.type),
    )
    round_at = round_of_opened(now) if changes.get("asked") else _round_of_due(now)
    return connection.execute(
        sa.update(sub_group).where(where).values(due_at=earlier, round_at=round_at, **changes)
    ).rowcount


def _round_of_due(now: datetime) -> sa.ColumnElement[datetime]:
    return sa.func.coalesce(sub_group.c.round_at, sa.bindparam("now", now, sub_group.c.due_at.type))


def round_of_opened(now: datetime) -> sa.ColumnElement[datetime]:
    """When the round of sub-groups began that a person or a tick opens now.

    A step by cron or by hand falls due by being opened, however long ago its inputs changed: what is known by now is
    waited for, and `deadline_hours` count from now. What was opened before and has to wait stays in that round.
    """
    step, pipeline = t.reduction_step, t.pipeline
    continuous = (
        sa.select(sa.func.coalesce(step.c.trigger_type, pipeline.c.trigger_type) == TriggerType.CONTINUOUS.value)
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .where(step.c.id == sub_group.c.step_id)
        .scalar_subquery()
    )
    goes_on = sa.or_(sub_group.c.asked, sub_group.c.backfill_id.is_not(None), continuous)
    return sa.case((goes_on, _round_of_due(now)), else_=sa.bindparam("now", now, sub_group.c.due_at.type))
