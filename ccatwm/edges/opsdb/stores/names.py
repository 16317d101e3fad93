"""The names that people type, as far as they have typed them. Touches: the ops-db, reading only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

MOST = 200  # names at a time


def list_pipeline_names(connection: sa.Connection, begin: str) -> list[str]:
    return _beginning(connection, t.pipeline.c.name, sa.select(t.pipeline.c.name), begin)


def list_step_names(connection: sa.Connection, begin: str, pipeline: str | None) -> list[str]:
    """Names of steps, of one pipeline or of all."""
    query = sa.select(t.reduction_step.c.name).distinct()
    if pipeline is not None:
        query = query.join(t.pipeline, t.pipeline.c.id == t.reduction_step.c.pipeline_id)
        query = query.where(t.pipeline.c.name == pipeline)
    return _beginning(connection, t.reduction_step.c.name, query, begin)


def list_keys(connection: sa.Connection, begin: str, pipeline: str | None, step: str | None) -> list[str]:
    """Keys of sub-groups, of one step, of one pipeline, or of all."""
    steps = sa.select(t.reduction_step.c.id).join(t.pipeline, t.pipeline.c.id == t.reduction_step.c.pipeline_id)
    if pipeline is not None:
        steps = steps.where(t.pipeline.c.name == pipeline)
    if step is not None:
        steps = steps.where(t.reduction_step.c.name == step)
    found: set[str] = set()
    for step_id in connection.execute(steps.order_by(t.reduction_step.c.id)).scalars().all():
        query = sa.select(t.sub_group.c.key).where(t.sub_group.c.step_id == step_id)
        found |= set(_beginning(connection, t.sub_group.c.key, query, begin))
    return sorted(found)[:MOST]


def list_grouping_names(connection: sa.Connection, begin: str) -> list[str]:
    """Data groupings; those that ccatwm made for itself begin with `~`."""
    query = sa.select(t.data_grouping.c.name).where(sa.not_(t.data_grouping.c.name.like("~%")))
    return _beginning(connection, t.data_grouping.c.name, query, begin)


def list_run_numbers(connection: sa.Connection, begin: str) -> list[str]:
    """Numbers of runs, newest first: of all with this beginning among the newest thousands."""
    run = t.executed_reduction_step
    newest = connection.execute(sa.select(run.c.id).order_by(run.c.id.desc()).limit(20 * MOST)).scalars()
    return [str(number) for number in newest if str(number).startswith(begin)][:MOST]


def _beginning(
    connection: sa.Connection, column: sa.ColumnElement[str], query: sa.Select[Any], begin: str
) -> list[str]:
    if begin:
        query = query.where(column.startswith(begin, autoescape=True))
    return [row[0] for row in connection.execute(query.order_by(column).limit(MOST))]
