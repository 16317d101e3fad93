"""What `core.throttle` decides on: runs that wait, in brief, what is active, and the ceilings. Touches: the ops-db."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from ccatwm.core.cache import Shortage
from ccatwm.core.model import Resources
from ccatwm.core.states import WITH_JOB, RunStatus
from ccatwm.core.throttle import AHEAD, Active, Ceilings, WaitingRun
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.runs import first_ones, is_due, nobody_holds, select_open

runs = t.executed_reduction_step
LIGHT = (
    runs.c.id, runs.c.step_id, t.reduction_step.c.pipeline_id, runs.c.pipeline_name, runs.c.step_name,
    runs.c.sub_group_key, runs.c.priority, runs.c.attempt, runs.c.status,
)  # fmt: skip
# As text: thousands of runs ask for the same few, which are parsed once.
ASKED = (
    runs.c.resolved_step["resources"].as_string().label("asked"),
    sa.cast(runs.c.next_resources, sa.Text).label("asked_next"),
)


class Demand(NamedTuple):
    """What `admit` takes."""

    waiting: list[WaitingRun]
    active: list[Active]
    ceilings: Ceilings


def read_for_stage(connection: sa.Connection, location: str, now: datetime, most: int | None) -> Demand:
    """Runs whose inputs are to be brought. What has been staged counts, too, but not what people hold back."""
    statuses = (RunStatus.PENDING, RunStatus.STAGING_DATA)
    query = select_open(LIGHT, location, statuses).where(is_due(now), nobody_holds()).order_by(*first_ones())
    staged = (RunStatus.STAGING_DATA, RunStatus.STAGED)
    active = _count_jobs(connection, location) + _count(
        connection, select_open((), location, staged).where(nobody_holds()), runs.c.priority
    )
    waiting = [_waiting(row) for row in connection.execute(query)]
    return Demand(waiting, active, read_ceilings(connection, location, most, ahead=AHEAD))


def read_for_submit(
    connection: sa.Connection, location: str, now: datetime, most: int | None, *, resources: bool = True
) -> Demand:
    """Runs that are to be handed to the batch system, with the `resources` they ask for."""
    columns = (*LIGHT, *ASKED) if resources else LIGHT
    query = select_open(columns, location, (RunStatus.STAGED,)).where(is_due(now), nobody_holds())
    waiting = [_waiting(row, asks=resources) for row in connection.execute(query.order_by(*first_ones()))]
    return Demand(waiting, _count_jobs(connection, location), read_ceilings(connection, location, most))


def list_short(connection: sa.Connection, location: str, now: datetime) -> dict[int, tuple[int, Shortage]]:
    """Step and shortage, by run, of those for whose inputs the last `stage` that looked found no room."""
    columns = (runs.c.id, runs.c.step_id, runs.c.room_figure, runs.c.room_reason)
    query = select_open(columns, location, (RunStatus.PENDING, RunStatus.STAGING_DATA))
    found = connection.execute(query.where(is_due(now), nobody_holds(), runs.c.room_reason.is_not(None)))
    return {row.id: (row.step_id, Shortage("", row.room_figure, row.room_reason)) for row in found}


def _count_jobs(connection: sa.Connection, location: str) -> list[Active]:
    return _count(connection, select_open((), location, WITH_JOB))


def _count(
    connection: sa.Connection, query: sa.Select[Any], priority: sa.ColumnElement[int] | None = None
) -> list[Active]:
    """Runs by step, also by priority where that is given."""
    columns: list[Any] = [t.reduction_step.c.pipeline_id, runs.c.step_id]
    columns += [priority] if priority is not None else []
    rows = connection.execute(query.add_columns(*columns, sa.func.count().label("n")).group_by(*columns))
    return [Active(row[0], row[1], row.n, row[2] if priority is not None else None) for row in rows]


def _waiting(row: Any, *, asks: bool = False) -> WaitingRun:
    resources = (
        _resources(row.asked_next if row.asked_next not in (None, "null") else row.asked)
        if asks
        else Resources()
    )
    return WaitingRun(
        row.id, row.pipeline_id, row.step_id, row.pipeline_name, row.step_name, row.sub_group_key, row.priority,
        row.attempt, row.status == RunStatus.STAGING_DATA, resources,
    )  # fmt: skip


@lru_cache(maxsize=1000)
def _resources(text: str) -> Resources:
    return Resources.from_json(json.loads(text))


def read_ceilings(connection: sa.Connection, location: str, most: int | None, *, ahead: int = 1) -> Ceilings:
    """The `max_concurrent` of all pipelines and steps as they are defined now; `most` is the site's."""
    owner, step = t.pipeline, t.reduction_step
    key = "max_concurrent"
    pipelines = connection.execute(sa.select(owner.c.id, owner.c.definition[key].as_integer()))
    steps = connection.execute(sa.select(step.c.id, step.c.definition[key].as_integer()))
    of_pipelines, of_steps = (
        {row[0]: row[1] for row in rows if row[1] is not None} for rows in (pipelines, steps)
    )
    return Ceilings(location, most, of_pipelines, of_steps, ahead)
