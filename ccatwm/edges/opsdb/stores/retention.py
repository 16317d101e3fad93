"""What runs have left behind, for `core.retention` to judge. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import StepRole
from ccatwm.core.retention import Fed, FolderLeft, Kind, ProductsLeft, Retention
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

runs, product, attempt, trash = t.executed_reduction_step, t.data_product, t.run_attempt, t.trash
group, step, pipeline, member = t.sub_group, t.reduction_step, t.pipeline, t.sub_group_member


@dataclass(frozen=True)
class StepKept:
    """A step with runs at this location, and what it says of its files."""

    id: int
    intermediate: bool
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Whose it is, and where: `path` is below the base directory."""

    run: int
    pipeline: str
    step: str
    sub_group: str
    path: str


def list_steps(connection: sa.Connection, location: str) -> list[StepKept]:
    """Also disabled ones: their files lie there all the same."""
    query = sa.select(step.c.id, step.c.role, step.c.definition).join(pipeline, pipeline.c.id == step.c.pipeline_id)
    rows = connection.execute(query.where(pipeline.c.processing_location == location).order_by(step.c.id))
    return [StepKept(r.id, r.role == StepRole.INTERMEDIATE, r.definition.get("retention") or {}) for r in rows]


# --- products -----------------------------------------------------------------------------------------------------


def list_products_left(
    connection: sa.Connection, kept: StepKept, retention: Retention, now: datetime, run_ids: Collection[int] | None = None
) -> list[tuple[ProductsLeft, Place]]:
    """The products of a step that lie there and may be old enough; of all runs, or of some."""
    query = _select_products(kept, retention, now)
    if query is None:
        return []
    published = published_runs(connection)
    rows = [row for some in _of_runs(query, run_ids) for row in connection.execute(some)]
    fed = _list_fed(connection, {row.sub_group_id for row in rows if row.current and kept.intermediate}, now)
    return [
        (
            ProductsLeft(
                row.id, kept.intermediate, bool(row.current), row.ended_at, row.replaced_at, row.brought_back_at,
                row.id in published, bool(row.needed), bool(row.promoted), fed.get(row.sub_group_id, ()),
            ),
            Place(row.id, row.pipeline_name, row.step_name, row.sub_group_key, row.output_directory),
        )
        for row in rows
    ]  # fmt: skip


def _select_products(kept: StepKept, retention: Retention, now: datetime) -> sa.Select[Any] | None:
    is_current = sa.func.coalesce(group.c.current_run_id == runs.c.id, sa.false())
    over = _over_ages(kept, retention, now, is_current)
    if not over:
        return None
    there = sa.exists().where(product.c.run_id == runs.c.id, product.c.status == "present")
    brought_back = _brought_back(trash.c.run_id == runs.c.id, Kind.PRODUCTS)
    tried_out = runs.c.reason_details["trial"].as_string().is_not(None)
    return (
        sa.select(
            runs.c.id, runs.c.sub_group_id, runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key,
            runs.c.ended_at, runs.c.replaced_at, runs.c.output_directory, is_current.label("current"),
            _is_needed().label("needed"), sa.and_(tried_out, sa.not_(runs.c.trial)).label("promoted"),
            brought_back.label("brought_back_at"),
        )
        .join(group, group.c.id == runs.c.sub_group_id)
        .where(runs.c.step_id == kept.id, runs.c.status == RunStatus.COMPLETED.value, there, sa.or_(*over))
        .where(runs.c.output_directory.is_not(None), runs.c.ended_at.is_not(None))
        .order_by(runs.c.id)
    )  # fmt: skip


def _over_ages(
    kept: StepKept, retention: Retention, now: datetime, is_current: sa.ColumnElement[bool]
) -> list[sa.ColumnElement[bool]]:
    """Which of a step's products are old enough at all: most of a long history is not even read."""
    limits = [retention.superseded_days, retention.intermediate_days if kept.intermediate else None]
    shortest = min((days for days in limits if days is not None), default=None)
    if shortest is None:
        return []
    since = sa.func.coalesce(runs.c.replaced_at, runs.c.ended_at)
    over = [sa.and_(sa.not_(is_current), since <= now - timedelta(days=shortest))]
    if limits[1] is not None:
        over.append(sa.and_(is_current, runs.c.ended_at <= now - timedelta(days=limits[1])))
    return over


def _is_needed() -> sa.ColumnElement[bool]:
    """A run that is open, or that a person may retry, has one of the products among its inputs."""
    other, used, made = runs.alias("other"), t.run_input, product.alias("made")
    return (
        sa.select(sa.literal(1))
        .select_from(made)
        .join(used, used.c.product_id == made.c.id)
        .join(other, other.c.id == used.c.run_id)
        .where(made.c.run_id == runs.c.id, _is_needy(other))
        .correlate(runs)
        .exists()
    )


def _is_needy(run: Any) -> sa.ColumnElement[bool]:
    return sa.or_(run.c.is_open, sa.and_(run.c.blocking, sa.not_(run.c.superseded)))


def _brought_back(where: sa.ColumnElement[bool], kind: Kind) -> Any:
    return sa.select(sa.func.max(trash.c.undone_at)).where(where, trash.c.kind == kind.value).scalar_subquery()


def published_runs(connection: sa.Connection) -> set[int]:
    """Runs with a product in a published set; sets are few, and are read whole."""
    rows = connection.execute(sa.select(t.published_set.c.products)).scalars()
    return {int(item["run"]) for products in rows for item in products}


def lock_products(connection: sa.Connection, run_ids: Collection[int]) -> None:
    """Wait for whoever is making a run of these products, and let nobody begin before the end of this transaction.

    A row of `run_input` that refers to a product locks it (PostgreSQL, for its foreign key): what is read afterwards has
    the inputs of every run that was being made. SQLite has one writer.
    """
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(product.c.id).where(product.c.run_id.in_(chunk)).order_by(product.c.id)
        connection.execute(query.with_for_update()).all()


def _list_fed(connection: sa.Connection, sub_group_ids: Collection[int], now: datetime) -> dict[int, list[Fed]]:
    """What sub-groups feed, by their ids."""
    found: dict[int, list[Fed]] = {}
    for chunk in chunks(sorted(sub_group_ids)):
        for row in connection.execute(_select_fed(now), {"sub_groups": list(chunk)}):
            fed = Fed(row.outcome, row.decided_at, bool(row.due), bool(row.held), bool(row.enabled), bool(row.asked),
                      bool(row.open_run), bool(row.blocked), row.run_ended_at, bool(row.newest_counts))  # fmt: skip
            found.setdefault(row.up_id, []).append(fed)
    return found


def _select_fed(now: datetime) -> sa.Select[Any]:
    up, up_step, up_member = group.alias("up"), step.alias("up_step"), member.alias("up_member")
    down, here, dependency = group.alias("down"), member.alias("here"), t.reduction_step_dependency
    theirs, current = runs.alias("theirs"), runs.alias("current")
    of_them = sa.select(sa.literal(1)).where(theirs.c.sub_group_id == down.c.id, sa.not_(theirs.c.trial))
    gave_up = sa.and_(theirs.c.blocking, sa.not_(theirs.c.superseded), theirs.c.decision > down.c.current_decision)
    brakes = (down.c.held, step.c.held, step.c.tripped, pipeline.c.held)
    return (
        sa.select(
            up.c.id.label("up_id"), down.c.id, down.c.outcome, down.c.decided_at, current.c.ended_at.label("run_ended_at"),
            sa.func.coalesce(down.c.due_at <= now, sa.false()).label("due"),
            sa.or_(*(brake.is_not(None) for brake in brakes)).label("held"),
            sa.and_(step.c.enabled, pipeline.c.enabled).label("enabled"),
            sa.or_(down.c.asked, down.c.backfill_id.is_not(None)).label("asked"),
            of_them.where(theirs.c.is_open).exists().label("open_run"),
            of_them.where(gave_up).exists().label("blocked"),
            (down.c.current_decision == down.c.decision).label("newest_counts"),
        )
        .select_from(up)
        .join(up_step, up_step.c.id == up.c.step_id)
        .join(dependency, dependency.c.upstream_step_id == up_step.c.id)
        .join(step, step.c.id == dependency.c.step_id)
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .join(up_member, sa.and_(up_member.c.scope_id == up_step.c.scope_id, up_member.c.key == up.c.key))
        .join(here, sa.and_(here.c.package_id == up_member.c.package_id, here.c.scope_id == step.c.scope_id))
        .join(down, sa.and_(down.c.step_id == step.c.id, down.c.key == here.c.key))
        .outerjoin(current, current.c.id == down.c.current_run_id)
        .where(up.c.id.in_(sa.bindparam("sub_groups", expanding=True)))
        .distinct()
    )  # fmt: skip


# --- folders of attempts --------------------------------------------------------------------------------------------


def list_folders_left(
    connection: sa.Connection, kept: StepKept, kind: Kind, ended_by: datetime, run_ids: Collection[int] | None = None
) -> list[tuple[FolderLeft, Place]]:
    """The scratch or log folders of a step's attempts that have ended by then and were not taken away before."""
    path = attempt.c.directory + f"/{kind.value}"
    ended_at = sa.func.coalesce(attempt.c.ended_at, runs.c.ended_at, runs.c.status_at)
    taken = sa.exists().where(trash.c.path == path, trash.c.undone_at.is_(None))
    query = (
        sa.select(
            runs.c.id, runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key, attempt.c.directory,
            attempt.c.restart, ended_at.label("ended_at"), _is_needy(runs).label("needy"),
            _brought_back(trash.c.path == path, kind).label("brought_back_at"),
        )
        .join(runs, runs.c.id == attempt.c.run_id)
        .where(runs.c.step_id == kept.id, attempt.c.outcome.is_not(None), ended_at <= ended_by, sa.not_(taken))
        .order_by(runs.c.id, attempt.c.number)
    )  # fmt: skip
    published = published_runs(connection)
    rows = [row for some in _of_runs(query, run_ids) for row in connection.execute(some)]
    return [pair for row in rows for pair in _folders(row, kind, bool(row.needy) or row.id in published)]


def _folders(row: Any, kind: Kind, kept: bool) -> Iterable[tuple[FolderLeft, Place]]:
    """Of every start of an attempt: what the batch system starts again has a folder of its own."""
    first = row.directory.removesuffix(f".r{row.restart}") if row.restart else row.directory
    starts = [first, *(f"{first}.r{n}" for n in range(1, row.restart + 1))]
    left = FolderLeft(row.id, "", row.ended_at, row.brought_back_at, kept)
    for directory in starts:
        path = f"{directory}/{kind.value}"
        yield replace(left, path=path), Place(row.id, row.pipeline_name, row.step_name, row.sub_group_key, path)


def _of_runs(query: sa.Select[Any], run_ids: Collection[int] | None) -> Iterable[sa.Select[Any]]:
    if run_ids is None:
        return [query]
    return (query.where(runs.c.id.in_(chunk)) for chunk in chunks(sorted(run_ids)))
