"""Looking up what a person names: pipelines, steps, sub-groups. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t


@dataclass(frozen=True)
class KnownPipeline:
    """The id of the pipeline that was asked for, or None, and the names of all."""

    id: int | None
    names: tuple[str, ...]


def find_pipeline(connection: sa.Connection, name: str) -> KnownPipeline:
    rows = connection.execute(sa.select(t.pipeline.c.id, t.pipeline.c.name)).all()
    return KnownPipeline(next((r.id for r in rows if r.name == name), None), tuple(r.name for r in rows))


def list_steps(connection: sa.Connection, pipeline_id: int) -> list[tuple[int, str]]:
    """(id, name) in the order of the pipeline."""
    step = t.reduction_step
    query = (
        sa.select(step.c.id, step.c.name).where(step.c.pipeline_id == pipeline_id).order_by(step.c.position)
    )
    return [(row.id, row.name) for row in connection.execute(query)]


def sub_group_keys(connection: sa.Connection, step_id: int) -> set[str]:
    return set(
        connection.execute(sa.select(t.sub_group.c.key).where(t.sub_group.c.step_id == step_id)).scalars()
    )


def keys_at_rest(
    connection: sa.Connection, step_id: int, outcomes: Sequence[str], *, with_files: bool = False
) -> frozenset[str]:
    """Sub-groups of a step that have an open run, or on which the last decision was one of `outcomes` and nothing has
    touched them since, or for which a run completed that is younger than their inputs and the step's definition.

    `with_files`: none of which the files were removed, which a person who asks for it has made again.
    """
    group, runs, step = t.sub_group, t.executed_reduction_step, t.reduction_step
    untouched = sa.and_(group.c.due_at.is_(None), group.c.outcome.in_(outcomes))
    completed = sa.and_(
        group.c.outcome == "run", group.c.current_decision == group.c.decision,
        runs.c.created_at >= group.c.input_changed_at, runs.c.created_at >= step.c.updated_at,
    )  # fmt: skip
    settled = (
        sa.select(group.c.key)
        .join(step, step.c.id == group.c.step_id)
        .outerjoin(runs, runs.c.id == group.c.current_run_id)
        .where(group.c.step_id == step_id, sa.or_(untouched, completed))
    )
    if with_files:
        product = t.data_product
        settled = settled.where(
            sa.not_(sa.exists().where(product.c.run_id == group.c.current_run_id, product.c.status == "removed"))
        )
    under_way = sa.select(runs.c.sub_group_key).where(runs.c.step_id == step_id, runs.c.is_open, sa.not_(runs.c.trial))
    return frozenset(connection.execute(settled.union(under_way)).scalars())


def step_versions(connection: sa.Connection, step_id: int) -> list[str]:
    """Versions of the software that a step uses."""
    version, step = t.reduction_software_version, t.reduction_step
    query = sa.select(version.c.version).join(step, step.c.software_id == version.c.software_id)
    return list(connection.execute(query.where(step.c.id == step_id).order_by(version.c.id)).scalars())
