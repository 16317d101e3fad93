"""What people did and what became of runs, newest first. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

PAGE = 500
Row = dict[str, Any]


def iterate_acts(connection: sa.Connection, since: datetime | None, until: datetime | None) -> Iterator[list[Row]]:
    """Pages of the change log, without the texts that were applied."""
    log = t.change_log
    columns = [column for column in log.c if column.name != "text"]
    query = sa.select(*columns).where(*_between(log.c.at, since, until)).order_by(log.c.id.desc()).limit(PAGE)
    before: int | None = None
    while True:
        limited = query if before is None else query.where(log.c.id < before)
        page = [dict(row) for row in connection.execute(limited).mappings()]
        if page:
            yield page
        if len(page) < PAGE:
            return
        before = page[-1]["id"]


def read_texts(connection: sa.Connection, change_ids: Sequence[int]) -> dict[int, str | None]:
    """What was applied, by the number of the act."""
    log = t.change_log
    query = sa.select(log.c.id, log.c.text).where(log.c.id.in_(list(change_ids)))
    return {row.id: row.text for row in connection.execute(query)}


def list_run_events(
    connection: sa.Connection,
    *,
    run_id: int | None,
    place: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
) -> list[Row]:
    """Changes of status of a run, or of all runs of a place (pipeline, step, sub-group as far as named)."""
    runs, event = t.executed_reduction_step, t.run_event
    named = zip((runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key), place, strict=False)
    conditions = [*_between(event.c.at, since, until), *(column == name for column, name in named)]
    if run_id is not None:
        conditions.append(event.c.run_id == run_id)
    query = (
        sa.select(event, runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key)
        .join(runs, runs.c.id == event.c.run_id)
        .where(*conditions)
        .order_by(event.c.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _between(
    column: sa.Column[datetime], since: datetime | None, until: datetime | None
) -> list[sa.ColumnElement[bool]]:
    after = [column >= since] if since is not None else []
    return after + ([column < until] if until is not None else [])
