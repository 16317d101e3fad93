"""What people excluded, accepted or tried, and what stands on it. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.exclusions import Exclusion, Target
from ccatwm.core.gap import EXCLUDED, WANTED_CHANGED, Acceptance, Outcome
from ccatwm.core.subgroups import in_order
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_where_due

exclusion = t.exclusion
runs = t.executed_reduction_step
product = t.data_product
used = t.run_input


@dataclass(frozen=True)
class ExclusionRow:
    """An exclusion with who said it, and when."""

    exclusion: Exclusion
    actor: str
    created_at: datetime
    until: datetime | None


# --- exclusions -----------------------------------------------------------------------------------------------


def insert_exclusion(
    connection: sa.Connection,
    target: Target,
    *,
    pipeline: str | None,
    reason: str,
    actor: str,
    now: datetime,
    until: datetime | None,
) -> int:
    result = connection.execute(
        sa.insert(exclusion).values(
            kind=target.kind, selection={"target": target.text, **target.selection}, pipeline_name=pipeline,
            reason=reason, actor=actor, created_at=now, until=until,
        )
    )  # fmt: skip
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def list_exclusions(connection: sa.Connection) -> list[ExclusionRow]:
    """Those that hold, oldest first."""
    query = sa.select(exclusion).where(exclusion.c.ended_at.is_(None)).order_by(exclusion.c.id)
    return [_row(row) for row in connection.execute(query)]


def active_ids(connection: sa.Connection) -> tuple[int, ...]:
    """Numbers of the exclusions that hold."""
    query = sa.select(exclusion.c.id).where(exclusion.c.ended_at.is_(None)).order_by(exclusion.c.id)
    return tuple(connection.execute(query).scalars())


def list_expired(connection: sa.Connection, now: datetime) -> list[ExclusionRow]:
    """Those whose time is over, and which nobody has ended yet."""
    query = sa.select(exclusion).where(exclusion.c.ended_at.is_(None), exclusion.c.until <= now)
    return [_row(row) for row in connection.execute(query.order_by(exclusion.c.id))]


def _row(row: Any) -> ExclusionRow:
    selection = dict(row.selection)
    text = str(selection.pop("target"))
    found = Exclusion(row.id, row.kind, text, selection, row.pipeline_name, row.reason)
    return ExclusionRow(found, row.actor, row.created_at, row.until)


def end_exclusions(connection: sa.Connection, ids: Collection[int], now: datetime) -> None:
    connection.execute(sa.update(exclusion).where(exclusion.c.id.in_(sorted(ids))).values(ended_at=now))


# --- what stands on it ----------------------------------------------------------------------------------------


def runs_on_packages(connection: sa.Connection, package_ids: Collection[str]) -> set[int]:
    """Runs that read these packages, and all that stand on their products."""
    found: set[int] = set()
    for chunk in chunks(sorted(package_ids)):
        query = sa.select(used.c.run_id).where(used.c.kind == "package", used.c.identity.in_(chunk))
        found |= set(connection.execute(query).scalars())
    return runs_on_runs(connection, found)


def runs_on_runs(connection: sa.Connection, run_ids: Collection[int]) -> set[int]:
    """These runs, and all that stand on their products."""
    found, new = set(run_ids), set(run_ids)
    while new:
        below: set[int] = set()
        for chunk in chunks(sorted(new)):
            query = (
                sa.select(used.c.run_id)
                .join(product, product.c.id == used.c.product_id)
                .where(product.c.run_id.in_(chunk))
            )
            below |= set(connection.execute(query).scalars())
        new = below - found
        found |= new
    return found


def runs_of_version(connection: sa.Connection, software: str, version: str) -> set[int]:
    """Runs that were made with this version of a software."""
    step, known = t.reduction_step, t.reduction_software
    query = (
        sa.select(runs.c.id, runs.c.resolved_step)
        .join(step, step.c.id == runs.c.step_id)
        .join(known, known.c.id == step.c.software_id)
        .where(known.c.name == software)
    )
    return {
        row.id
        for row in connection.execute(query.execution_options(yield_per=1000))
        if row.resolved_step["software"]["software"] == software
        and row.resolved_step["software"]["version"] == version
    }


def versions_behind(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, frozenset[tuple[str, str]]]:
    """(software, version) of all runs whose products each of these runs stands on, directly or through others."""
    above: dict[int, set[int]] = {}
    new = set(run_ids)
    while new:
        above |= {run_id: set() for run_id in new}
        for chunk in chunks(sorted(new)):
            query = sa.select(used.c.run_id, product.c.run_id.label("made_by"))
            query = query.join(product, product.c.id == used.c.product_id)
            for row in connection.execute(query.where(used.c.run_id.in_(chunk)).distinct()):
                above[row.run_id].add(row.made_by)
        new = {run_id for run_ids_above in above.values() for run_id in run_ids_above} - above.keys()
    made_with = versions_of(connection, above.keys())
    return {
        run_id: frozenset(made_with[other] for other in _reach(run_id, above) if other != run_id) for run_id in run_ids
    }


def versions_of(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, tuple[str, str]]:
    """(software, version) of runs."""
    software = runs.c.resolved_step["software"]
    columns = (runs.c.id, software["software"].as_string().label("name"), software["version"].as_string().label("version"))
    found: dict[int, tuple[str, str]] = {}
    for chunk in chunks(sorted(run_ids)):
        for row in connection.execute(sa.select(*columns).where(runs.c.id.in_(chunk))):
            found[row.id] = (row.name, row.version)
    return found


def _reach(run_id: int, above: Mapping[int, Collection[int]]) -> set[int]:
    """The run and all above it."""
    found, stack = {run_id}, [run_id]
    while stack:
        new = set(above[stack.pop()]) - found
        found |= new
        stack += new
    return found


def find_product_run(connection: sa.Connection, product_id: int) -> int | None:
    """The run that made a product, or None where there is no such product."""
    found: int | None = connection.execute(
        sa.select(product.c.run_id).where(product.c.id == product_id)
    ).scalar()
    return found


def run_exists(connection: sa.Connection, run_id: int) -> bool:
    return connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id)).first() is not None


# --- what is concerned ----------------------------------------------------------------------------------------


def sub_groups_of_packages(
    connection: sa.Connection, package_ids: Collection[str], pipeline: str | None
) -> set[int]:
    """Sub-groups that have these packages as members."""
    member, step, group = t.sub_group_member, t.reduction_step, t.sub_group
    found: set[int] = set()
    for chunk in chunks(sorted(package_ids)):
        query = (
            sa.select(group.c.id)
            .select_from(member)
            .join(step, step.c.scope_id == member.c.scope_id)
            .join(group, sa.and_(group.c.step_id == step.c.id, group.c.key == member.c.key))
            .where(member.c.package_id.in_(chunk))
            .distinct()
        )
        found |= set(connection.execute(_of_pipeline(query, pipeline)).scalars())
    return found


def sub_groups_of_software(connection: sa.Connection, software: str, pipeline: str | None) -> set[int]:
    """Sub-groups of the steps that use a software: one of its versions comes or goes."""
    step, known, group = t.reduction_step, t.reduction_software, t.sub_group
    query = (
        sa.select(group.c.id)
        .join(step, step.c.id == group.c.step_id)
        .join(known, known.c.id == step.c.software_id)
        .where(known.c.name == software)
    )
    return set(connection.execute(_of_pipeline(query, pipeline)).scalars())


def _of_pipeline(query: sa.Select[Any], pipeline: str | None) -> sa.Select[Any]:
    """Of a query that has joined the step."""
    if pipeline is None:
        return query
    return query.join(t.pipeline, t.pipeline.c.id == t.reduction_step.c.pipeline_id).where(t.pipeline.c.name == pipeline)


def current_of_runs(
    connection: sa.Connection, run_ids: Collection[int], pipeline: str | None
) -> list[dict[str, Any]]:
    """Of these runs those that are current: run, sub_group_id, names, cpu_hours; by run."""
    group = t.sub_group
    found: list[dict[str, Any]] = []
    for chunk in chunks(sorted(run_ids)):
        query = (
            sa.select(
                runs.c.id.label("run"), group.c.id.label("sub_group_id"), runs.c.pipeline_name.label("pipeline"),
                runs.c.step_name.label("step"), runs.c.sub_group_key.label("sub_group"), runs.c.cpu_hours,
            )
            .join(group, group.c.current_run_id == runs.c.id)
            .where(runs.c.id.in_(chunk))
            .order_by(runs.c.id)
        )  # fmt: skip
        if pipeline is not None:
            query = query.where(runs.c.pipeline_name == pipeline)
        found += [dict(row) for row in connection.execute(query).mappings()]
    return found


def open_of_runs(connection: sa.Connection, run_ids: Collection[int], pipeline: str | None) -> list[int]:
    """Of these runs those that are under way."""
    found: list[int] = []
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(runs.c.id).where(runs.c.id.in_(chunk), runs.c.is_open).order_by(runs.c.id)
        if pipeline is not None:
            query = query.where(runs.c.pipeline_name == pipeline)
        found += connection.execute(query).scalars()
    return found


def sub_groups_of_runs(connection: sa.Connection, run_ids: Collection[int], pipeline: str | None) -> set[int]:
    """Sub-groups for which these runs were made, current or not."""
    found: set[int] = set()
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(runs.c.sub_group_id).where(runs.c.id.in_(chunk))
        if pipeline is not None:
            query = query.where(runs.c.pipeline_name == pipeline)
        found |= set(connection.execute(query).scalars())
    return found


def former_of_runs(connection: sa.Connection, run_ids: Collection[int], pipeline: str | None) -> list[int]:
    """Of these runs the newest of each sub-group that counted once, and could again: completed, no trial, not current."""
    group = t.sub_group
    found: dict[int, int] = {}
    for chunk in chunks(sorted(run_ids)):
        query = (
            sa.select(runs.c.sub_group_id, runs.c.id)
            .join(group, group.c.id == runs.c.sub_group_id)
            .where(runs.c.id.in_(chunk), runs.c.status == "COMPLETED", runs.c.trial.is_(False))
            .where(group.c.current_run_id.is_distinct_from(runs.c.id))
        )
        if pipeline is not None:
            query = query.where(runs.c.pipeline_name == pipeline)
        for sub_group_id, run_id in connection.execute(query):
            found[sub_group_id] = max(run_id, found.get(sub_group_id, run_id))
    return sorted(found.values())


def products_of_runs(
    connection: sa.Connection, run_ids: Collection[int], *, gone_too: bool = False
) -> list[dict[str, Any]]:
    """Present products of runs: product, run, type, path. `gone_too`: also those whose files are gone."""
    found: list[dict[str, Any]] = []
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(product.c.id.label("product"), product.c.run_id.label("run"), product.c.type, product.c.path)
        query = query.where(product.c.run_id.in_(chunk)).order_by(product.c.id)
        if not gone_too:
            query = query.where(product.c.status == "present")
        found += [dict(row) for row in connection.execute(query).mappings()]
    return found


def published_sets_of(connection: sa.Connection, product_ids: Collection[int]) -> list[dict[str, Any]]:
    """Published sets that hold one of these products: published_set, name, and which of them it holds; by name.

    A set is small and there are few: they are read whole.
    """
    wanted = set(product_ids)
    sets = t.published_set
    found = []
    for row in connection.execute(sa.select(sets.c.id, sets.c.name, sets.c.products).order_by(sets.c.name)):
        held = {int(item["product"]) for item in row.products}
        if held & wanted:
            found.append({"published_set": row.id, "name": row.name, "products": sorted(held & wanted)})
    return found


def places_of_sub_groups(connection: sa.Connection, sub_group_ids: Collection[int]) -> list[dict[str, Any]]:
    """pipeline, step and sub_group of each, in this order."""
    group, step = t.sub_group, t.reduction_step
    found: list[dict[str, Any]] = []
    for chunk in chunks(sorted(sub_group_ids)):
        query = (
            sa.select(t.pipeline.c.name.label("pipeline"), step.c.name.label("step"), group.c.key.label("sub_group"))
            .join(step, step.c.id == group.c.step_id)
            .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
            .where(group.c.id.in_(chunk))
        )
        found += [dict(row) for row in connection.execute(query).mappings()]
    place = {key: n for n, key in enumerate(in_order({row["sub_group"] for row in found}))}
    return sorted(found, key=lambda row: (row["pipeline"], row["step"], place[row["sub_group"]]))


def unmark(connection: sa.Connection, sub_group_id: int, why: str | None) -> None:
    """Why the product of a sub-group that was marked as excluded is so still; None: it is not."""
    group = t.sub_group
    marked = sa.and_(group.c.id == sub_group_id, group.c.stale.startswith(EXCLUDED, autoescape=True))
    stale = f"{EXCLUDED}{why}" if why is not None else _stale_else(connection, sub_group_id)
    connection.execute(sa.update(group).where(marked).values(stale=stale, latest_due=True))


def _stale_else(connection: sa.Connection, sub_group_id: int) -> str | None:
    """Why a product is stale by what was decided last, of which nothing is excluded; None: it is not."""
    group = t.sub_group
    query = sa.select(group.c.outcome, group.c.reason, group.c.wanted_recipe, runs.c.recipe, runs.c.id)
    row = connection.execute(
        query.join(runs, runs.c.id == group.c.current_run_id).where(group.c.id == sub_group_id)
    ).one_or_none()
    if row is None:
        return None
    if row.outcome == Outcome.NO_INPUTS:
        return "input-withdrawn"
    if row.outcome in _SEEN_AS_GOOD or row.wanted_recipe in (None, row.recipe):
        return None
    if list_acceptances(connection, [sub_group_id]).get(sub_group_id, {}).get(row.wanted_recipe) == row.id:
        return None
    return row.reason or WANTED_CHANGED


_SEEN_AS_GOOD = (Outcome.UP_TO_DATE, Outcome.RESTORED, Outcome.ACCEPTED)


def mark_stale(connection: sa.Connection, sub_group_ids: Collection[int], text: str, now: datetime) -> None:
    """The current products of these sub-groups are not to be used, from this moment on."""
    for chunk in chunks(sorted(sub_group_ids)):
        mark_where_due(connection, t.sub_group.c.id.in_(chunk), now, stale=text, latest_due=True)


def open_accepted(connection: sa.Connection, sub_group_ids: Collection[int], now: datetime) -> None:
    """These sub-groups are decided on next; a run that was asked for and not made yet is wanted no more."""
    for chunk in chunks(sorted(sub_group_ids)):
        mark_where_due(
            connection, t.sub_group.c.id.in_(chunk), now, requested=sa.null(), asked=True, backfill_id=None
        )


def end_trial(connection: sa.Connection, run_id: int) -> bool:
    """The run is an ordinary one; True if its recipe is what its sub-group wanted last."""
    connection.execute(sa.update(runs).where(runs.c.id == run_id).values(trial=False))
    group = t.sub_group
    query = sa.select(group.c.wanted_recipe, runs.c.recipe).join(runs, runs.c.sub_group_id == group.c.id)
    row = connection.execute(query.where(runs.c.id == run_id)).one()
    return bool(row.wanted_recipe == row.recipe)


# --- acceptances ----------------------------------------------------------------------------------------------


def insert_acceptances(
    connection: sa.Connection, good: Iterable[tuple[int, str, int]], *, reason: str, actor: str, now: datetime
) -> None:
    """`good`: (sub-group, recipe, run that is good for it)."""
    connection.execute(sa.insert(t.acceptance), [
        {"sub_group_id": group, "recipe": recipe, "run_id": run, "reason": reason, "actor": actor, "created_at": now}
        for group, recipe, run in good
    ])  # fmt: skip


def list_acceptances(connection: sa.Connection, sub_group_ids: Iterable[int]) -> dict[int, dict[str, Acceptance]]:
    """By sub-group: recipe -> the last word that a run is good for it."""
    found: dict[int, dict[str, Acceptance]] = {}
    for chunk in chunks(sorted(sub_group_ids)):
        query = sa.select(t.acceptance).where(t.acceptance.c.sub_group_id.in_(chunk)).order_by(t.acceptance.c.id)
        for row in connection.execute(query):
            found.setdefault(row.sub_group_id, {})[row.recipe] = Acceptance(row.run_id, row.created_at)
    return found
