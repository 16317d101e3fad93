"""Reading and changing what people act on: runs, pipelines, steps, sub-groups. Touches: the ops-db."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import ResolvedStep
from ccatwm.core.policy import StepPolicy
from ccatwm.core.retries import with_learned
from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.errors import UsageError

runs = t.executed_reduction_step
sub_group = t.sub_group


def list_meant(
    connection: sa.Connection,
    *,
    run_ids: Collection[int] = (),
    selection: Selection | None = None,
    statuses: Sequence[str] = (),
    open_only: bool = False,
    wanted_only: bool = False,
    locked: bool = True,
) -> list[dict[str, Any]]:
    """Runs newest first, by ids or by a selection; they and their sub-groups are `locked` (PostgreSQL), for which a role
    needs the right to write.

    `wanted_only` leaves out runs whose recipe their sub-group no longer wants, and superseded ones.
    """
    conditions = list(views.where_selected(selection)) if selection is not None else []
    if statuses:
        conditions.append(runs.c.status.in_(statuses))
    if open_only:
        conditions.append(runs.c.is_open)
    if wanted_only:
        wanted = sa.or_(sub_group.c.wanted_recipe.is_(None), sub_group.c.wanted_recipe == runs.c.recipe)
        conditions += [wanted, sa.not_(runs.c.superseded), sa.not_(runs.c.trial)]
    query = (
        sa.select(
            runs.c.id.label("run"),
            runs.c.sub_group_id,
            runs.c.step_id,
            runs.c.processing_location,
            runs.c.failure_class,
            runs.c.pipeline_name.label("pipeline"),
            runs.c.step_name.label("step"),
            runs.c.sub_group_key.label("sub_group"),
            runs.c.status,
            runs.c.is_open,
            runs.c.superseded,
            runs.c.recipe,
            runs.c.cancel_requested_at,
            runs.c.cancel_reason,
            sub_group.c.wanted_recipe,
        )
        .join(sub_group, sub_group.c.id == runs.c.sub_group_id)
        .order_by(runs.c.id.desc())
    )
    if locked:
        query = query.with_for_update()
    found: list[dict[str, Any]] = []
    for chunk in chunks(sorted(set(run_ids), reverse=True)) if run_ids else [None]:
        limited = query if chunk is None else query.where(runs.c.id.in_(chunk))
        found += [dict(row) for row in connection.execute(limited.where(*conditions)).mappings()]
    return found


def sum_input_bytes(connection: sa.Connection, run_ids: Collection[int]) -> int:
    """Of all inputs of these runs, as far as their sizes are known; one that several runs read counts once."""
    sizes: dict[tuple[str, str], int] = {}
    for chunk in chunks(list(run_ids)):
        query = sa.select(t.run_input.c.kind, t.run_input.c.identity, t.run_input.c.size_bytes).distinct()
        for kind, identity, size in connection.execute(query.where(t.run_input.c.run_id.in_(chunk))):
            sizes[kind, identity] = size or 0
    return sum(sizes.values())


def find_other_open_run(connection: sa.Connection, sub_group_id: int, run_id: int) -> int | None:
    """Another open run of the sub-group; trials do not count."""
    query = sa.select(runs.c.id).where(
        runs.c.sub_group_id == sub_group_id, runs.c.is_open, sa.not_(runs.c.trial), runs.c.id != run_id
    )
    found: int | None = connection.execute(query.limit(1)).scalar()
    return found


def find_resources_now(connection: sa.Connection, run_id: int) -> dict[str, Any] | None:
    """What a new run of the same step would ask for; None if that is what the run was made with."""
    query = (
        sa.select(runs.c.resolved_step, t.reduction_step.c.definition, t.reduction_step.c.learned)
        .join(t.reduction_step, t.reduction_step.c.id == runs.c.step_id)
        .where(runs.c.id == run_id)
    )
    row = connection.execute(query).one()
    now = with_learned(StepPolicy.from_json(row.definition).resources, row.learned)
    frozen = ResolvedStep.from_json(row.resolved_step).resources
    return None if now == frozen else dataclasses.asdict(now)


def request_cancel(connection: sa.Connection, run_id: int, reason: str, now: datetime) -> bool:
    """True if the run is open and nobody had asked before."""
    changed = connection.execute(
        sa.update(runs)
        .where(runs.c.id == run_id, runs.c.is_open, runs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now, cancel_reason=reason)
    ).rowcount
    return bool(changed == 1)


# --- holding ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holdable:
    """What can be held. `kind`: pipeline, step, sub-group or run; `name` as people write it."""

    kind: str
    id: int
    name: str
    held: str | None
    tripped: str | None
    selection: Selection


_TABLES = {"pipeline": t.pipeline, "step": t.reduction_step, "sub-group": sub_group, "run": runs}


def get_holdable(connection: sa.Connection, target: str) -> Holdable:
    """`812` is a run, else `PIPELINE[/STEP[/KEY]]`.

    Errors: UsageError for what is not there, with what is.
    """
    if target.isascii() and target.isdigit():
        row = views.get_run(connection, int(target))
        return Holdable("run", row["id"], f"run {row['id']}", row["held"], None, Selection())
    names = target.split("/", 2)
    if not all(names):
        raise UsageError(
            f"{target!r} names nothing", next="a run number, or PIPELINE, PIPELINE/STEP, PIPELINE/STEP/KEY"
        )
    pipeline, step, sub_group_key = [*names, None, None][:3]
    selection = Selection(pipeline, step, sub_group_key)
    views.check_selection(connection, selection)
    return _named(connection, target, selection)


def _named(connection: sa.Connection, target: str, selection: Selection) -> Holdable:
    pipeline = views.get_pipeline(connection, str(selection.pipeline))
    if selection.step is None:
        return Holdable("pipeline", pipeline["id"], target, pipeline["held"], None, selection)
    step = next(s for s in views.list_steps(connection, selection.pipeline) if s["step"] == selection.step)
    if selection.sub_group is None:
        return Holdable("step", step["id"], target, step["held"], step["tripped"], selection)
    group = views.list_sub_groups(connection, [step["id"]], selection.sub_group)[0]
    return Holdable("sub-group", group["id"], target, group["held"], None, selection)


def set_held(connection: sa.Connection, target: Holdable, reason: str | None) -> bool:
    """Hold it for a reason, or release it (None): then it is not tripped either.

    True if that changes anything.
    """
    if (target.held, target.tripped) == (reason, None) or (target.held == reason and reason is not None):
        return False
    table = _TABLES[target.kind]
    values: dict[str, Any] = {"held": reason}
    if target.kind == "step" and reason is None:
        values |= {"tripped": None, "failures": 0, "failures_class": None}
    connection.execute(sa.update(table).where(table.c.id == target.id).values(**values))
    return True


def list_holds(connection: sa.Connection, run_id: int) -> dict[str, str]:
    """All that holds a run, the widest first, as `get_holdable` takes it, and why: pipeline, step, sub-group, itself."""
    step, pipeline = t.reduction_step, t.pipeline
    query = (
        sa.select(
            pipeline.c.name.label("pipeline"), pipeline.c.held.label("pipeline_held"),
            step.c.name.label("step"), step.c.held.label("step_held"),
            sub_group.c.key, sub_group.c.held.label("sub_group_held"), runs.c.held,
        )
        .join(sub_group, sub_group.c.id == runs.c.sub_group_id)
        .join(step, step.c.id == sub_group.c.step_id)
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .where(runs.c.id == run_id)
    )  # fmt: skip
    row = connection.execute(query).one()
    place = f"{row.pipeline}/{row.step}"
    reasons = {
        row.pipeline: row.pipeline_held,
        place: row.step_held,
        f"{place}/{row.key}": row.sub_group_held,
        str(run_id): row.held,
    }
    return {target: reason for target, reason in reasons.items() if reason}


def list_own_holds(connection: sa.Connection, run_id: int) -> dict[str, str]:
    """Whether the run itself or its sub-group is held, and why."""
    holds = list_holds(connection, run_id)
    return {target: reason for target, reason in holds.items() if target.isdigit() or target.count("/") >= 2}


def list_braked_sub_groups(connection: sa.Connection, target: Holdable) -> list[int]:
    """Sub-groups below it whose last decision was a brake: they are to be decided on again."""
    if target.kind == "run":
        return []
    query = sa.select(sub_group.c.id).where(sub_group.c.outcome.in_(["held", "tripped"]))
    if target.kind == "sub-group":
        return list(connection.execute(query.where(sub_group.c.id == target.id)).scalars())
    query = query.join(t.reduction_step, t.reduction_step.c.id == sub_group.c.step_id)
    column = t.reduction_step.c.id if target.kind == "step" else t.reduction_step.c.pipeline_id
    return list(connection.execute(query.where(column == target.id)).scalars())
