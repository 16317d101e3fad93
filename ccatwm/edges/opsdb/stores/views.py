"""Answers what people ask: runs, products, lineage, sub-groups, passes. Touches: the ops-db, reading only.

Every function asks a bounded number of set-wise queries, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED
from ccatwm.core.rules import Rule
from ccatwm.core.selection import Selection, suggest
from ccatwm.core.states import RunStatus
from ccatwm.core.subgroups import natural_key
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.rule_sql import ValueComparer
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.trash import removed_products
from ccatwm.errors import UsageError

runs = t.executed_reduction_step
product = t.data_product
sub_group = t.sub_group
MOST_ORDERED = 10_000  # keys of a step that are looked at to show the first ones
NO_RUNS = "there are none yet: `ccatwm cycle` makes what is due, `ccatwm status` says what that is"
NO_PIPELINES = "there are none yet: `ccatwm apply FILE` defines them"

Row = dict[str, Any]


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


# --- what exists by name ------------------------------------------------------------------------------------


def check_selection(connection: sa.Connection, selection: Selection) -> None:
    """Errors: UsageError for a pipeline, step or sub-group that is not there, with what exists."""
    if selection.pipeline is not None:
        get_pipeline(connection, selection.pipeline)
    if selection.step is not None:
        _check_step(connection, selection)
    if selection.sub_group is not None:
        _check_sub_group(connection, selection)


def get_pipeline(connection: sa.Connection, name: str) -> Row:
    found = _rows(connection, sa.select(t.pipeline).where(t.pipeline.c.name == name))
    if found:
        return found[0]
    names = connection.execute(sa.select(t.pipeline.c.name)).scalars()
    raise UsageError(f"there is no pipeline {name!r}", next=suggest(name, names, none=NO_PIPELINES))


def _check_step(connection: sa.Connection, selection: Selection) -> None:
    query = sa.select(t.reduction_step.c.name).select_from(t.reduction_step.join(t.pipeline))
    if selection.pipeline is not None:
        query = query.where(t.pipeline.c.name == selection.pipeline)
    names = list(connection.execute(query).scalars())
    if selection.step not in names:
        owner = f"pipeline {selection.pipeline} has" if selection.pipeline else "there is"
        raise UsageError(f"{owner} no step {selection.step!r}", next=suggest(str(selection.step), names))


def _check_sub_group(connection: sa.Connection, selection: Selection) -> None:
    joined = sub_group.join(t.reduction_step).join(t.pipeline)
    query = sa.select(sub_group.c.key).select_from(joined).distinct()
    if selection.pipeline is not None:
        query = query.where(t.pipeline.c.name == selection.pipeline)
    if selection.step is not None:
        query = query.where(t.reduction_step.c.name == selection.step)
    if connection.execute(query.where(sub_group.c.key == selection.sub_group).limit(1)).first() is None:
        keys = list(connection.execute(query).scalars())
        none = "there are none yet: `ccatwm trigger` and `ccatwm resolve` find them"
        raise UsageError(
            f"there is no sub-group {selection.sub_group!r}",
            next=suggest(str(selection.sub_group), keys, none=none),
        )


def list_steps(connection: sa.Connection, pipeline: str | None = None) -> list[Row]:
    """Steps with what of their pipelines matters for looking, in the order of the data flow."""
    step, owner = t.reduction_step, t.pipeline
    query = (
        sa.select(
            step.c.id,
            step.c.name.label("step"),
            step.c.role,
            step.c.scope_id,
            step.c.enabled,
            step.c.held,
            step.c.tripped,
            step.c.learned,
            step.c.trigger_type,
            step.c.trigger_config,
            step.c.definition,
            owner.c.name.label("pipeline"),
            owner.c.enabled.label("pipeline_enabled"),
            owner.c.held.label("pipeline_held"),
            owner.c.trigger_type.label("pipeline_trigger_type"),
            owner.c.trigger_config.label("pipeline_trigger_config"),
            owner.c.processing_location,
            owner.c.priority,
        )
        .join(owner, owner.c.id == step.c.pipeline_id)
        .order_by(owner.c.priority.desc(), owner.c.name, step.c.position)
    )
    return _rows(connection, query if pipeline is None else query.where(owner.c.name == pipeline))


# --- runs ---------------------------------------------------------------------------------------------------

_group, _step, _owner = t.sub_group.alias(), t.reduction_step.alias(), t.pipeline.alias()


def _of_its_step(column: Any, label: str) -> sa.Label[Any]:
    """A column of a run's sub-group, step and pipeline, by a query of its own: whatever the one around it joins."""
    query = sa.select(column).select_from(_group).join(_step, _step.c.id == _group.c.step_id)
    query = query.join(_owner, _owner.c.id == _step.c.pipeline_id).where(_group.c.id == runs.c.sub_group_id)
    return query.correlate(runs).scalar_subquery().label(label)


_LISTED = (
    runs.c.id.label("run"),
    runs.c.pipeline_name.label("pipeline"),
    runs.c.step_name.label("step"),
    runs.c.sub_group_key.label("sub_group"),
    runs.c.sub_group_id,
    runs.c.processing_location,
    runs.c.status,
    runs.c.attempt,
    runs.c.reason,
    runs.c.warnings,
    runs.c.failure_class,
    runs.c.message,
    runs.c.exit_code,
    runs.c.is_open,
    runs.c.blocking,
    runs.c.superseded,
    runs.c.trial,
    runs.c.backfill_id,
    sa.select(t.backfill.c.state).where(t.backfill.c.id == runs.c.backfill_id).scalar_subquery().label("backfill_state"),
    runs.c.held,
    _of_its_step(sa.func.coalesce(_group.c.held, _step.c.held, _owner.c.held), "held_above"),
    _of_its_step(_step.c.tripped, "tripped"),
    runs.c.due_at,
    runs.c.retries_used,
    runs.c.free_retries_used,
    runs.c.cancel_requested_at,
    runs.c.cancel_reason,
    runs.c.created_at,
    runs.c.status_at,
)


def where_selected(selection: Selection) -> list[sa.ColumnElement[bool]]:
    """Conditions on runs."""
    conditions = _where_named(selection)
    if selection.statuses:
        conditions.append(runs.c.status.in_(selection.statuses))
    if selection.classes:
        conditions.append(runs.c.failure_class.in_(selection.classes))
    if selection.since is not None:
        conditions.append(runs.c.status_at >= selection.since)
    if selection.until is not None:
        conditions.append(runs.c.status_at < selection.until)
    return conditions


def _where_named(selection: Selection) -> list[sa.ColumnElement[bool]]:
    named = (
        (runs.c.pipeline_name, selection.pipeline),
        (runs.c.step_name, selection.step),
        (runs.c.sub_group_key, selection.sub_group),
    )
    return [column == value for column, value in named if value is not None]


def list_runs(connection: sa.Connection, selection: Selection, limit: int | None = None) -> list[Row]:
    """Runs, newest first, with the job of their newest attempt.

    `max_retries` of the step as it was frozen.
    """
    query = _select_listed().where(*where_selected(selection)).order_by(runs.c.id.desc()).limit(limit)
    return [_listed(row) for row in _rows(connection, query)]


def count_runs(connection: sa.Connection, selection: Selection) -> int:
    query = sa.select(sa.func.count()).select_from(runs).where(*where_selected(selection))
    return int(connection.execute(query).scalar_one())


def list_runs_by_id(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Row]:
    """The same rows by run id; ids that are not there are absent."""
    found: dict[int, Row] = {}
    for chunk in chunks(sorted(run_ids)):
        found |= {
            row["run"]: _listed(row)
            for row in _rows(connection, _select_listed().where(runs.c.id.in_(chunk)))
        }
    return found


def _select_listed() -> sa.Select[Any]:
    newest, submission = t.run_attempt, t.submission
    return (
        sa.select(
            *_LISTED,
            submission.c.job_id,
            newest.c.array_index,
            newest.c.host,
            runs.c.resolved_step["max_retries"].label("max_retries"),
        )
        .outerjoin(newest, sa.and_(newest.c.run_id == runs.c.id, newest.c.number == runs.c.attempt))
        .outerjoin(submission, submission.c.id == newest.c.submission_id)
    )


def _listed(row: Row) -> Row:
    return {**row, "warnings": list(row["warnings"] or []), "max_retries": int(row["max_retries"] or 0)}


def get_run(connection: sa.Connection, run_id: int) -> Row:
    """Every column of a run. Errors: UsageError naming the newest ones where it is not there."""
    found = _rows(connection, sa.select(runs).where(runs.c.id == run_id))
    if found:
        return found[0]
    newest = connection.execute(sa.select(runs.c.id).order_by(runs.c.id.desc()).limit(5)).scalars().all()
    shown = (
        f"the newest are {', '.join(map(str, newest))}; `ccatwm runs` lists them"
        if newest
        else NO_RUNS
    )
    raise UsageError(f"there is no run {run_id}", next=shown)


def list_attempts(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[Row]]:
    """All attempts of runs with token, job and state of their submissions, oldest first."""
    submission, attempt = t.submission, t.run_attempt
    found: dict[int, list[Row]] = {run_id: [] for run_id in run_ids}
    for chunk in chunks(sorted(run_ids)):
        query = (
            sa.select(
                attempt,
                submission.c.token,
                submission.c.job_id,
                submission.c.backend,
                submission.c.cluster,
                submission.c.state.label("submission_state"),
                submission.c.submitted_at,
            )
            .join(submission, submission.c.id == attempt.c.submission_id)
            .where(attempt.c.run_id.in_(chunk))
            .order_by(attempt.c.run_id, attempt.c.number)
        )
        for row in _rows(connection, query):
            found[row["run_id"]].append(row)
    return found


def list_events(connection: sa.Connection, run_id: int) -> list[Row]:
    return _rows(
        connection, sa.select(t.run_event).where(t.run_event.c.run_id == run_id).order_by(t.run_event.c.id)
    )


def list_inputs(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[Row]]:
    """Rows of `run_input` by run, in the order in which they were frozen."""
    table = t.run_input
    found: dict[int, list[Row]] = {run_id: [] for run_id in run_ids}
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(table).where(table.c.run_id.in_(chunk)).order_by(table.c.id)
        for row in _rows(connection, query):
            found[row["run_id"]].append(row)
    return found


# --- products -----------------------------------------------------------------------------------------------


def _is_current() -> sa.ColumnElement[bool]:
    return sub_group.c.current_run_id == runs.c.id


def _select_products() -> sa.Select[Any]:
    return (
        sa.select(
            product.c.id.label("product"),
            product.c.run_id.label("run"),
            product.c.type,
            product.c.path.label("name"),
            product.c.full_path,
            product.c.is_directory,
            product.c.sha256,
            product.c.size_bytes.label("size"),
            product.c.file_count,
            product.c.quality,
            product.c.dims,
            product.c.status,
            product.c.created_at,
            runs.c.pipeline_name.label("pipeline"),
            runs.c.step_name.label("step"),
            runs.c.sub_group_key.label("sub_group"),
            runs.c.processing_location,
            runs.c.warnings,
            sa.func.coalesce(_is_current(), sa.false()).label("current"),
            sa.case((_is_current(), sub_group.c.stale), else_=None).label("stale"),
        )
        .join(runs, runs.c.id == product.c.run_id)
        .join(sub_group, sub_group.c.id == runs.c.sub_group_id)
    )


def list_products(
    connection: sa.Connection, selection: Selection, rules: Sequence[Rule] = (), *, all_of_them: bool = False,
    limit: int | None = None,
) -> list[Row]:
    """Products, newest first: current ones that are there and not made from excluded input, or all. `rules` about their
    quality metrics and dims all hold."""
    query = _select_products().where(*_where_product(selection, all_of_them), *_where_rules(connection, rules))
    found = [_product(row) for row in _rows(connection, query.order_by(product.c.id.desc()).limit(limit))]
    return _with_removals(connection, found)


def count_products(
    connection: sa.Connection, selection: Selection, rules: Sequence[Rule] = (), *, all_of_them: bool = False
) -> int:
    conditions = (*_where_product(selection, all_of_them), *_where_rules(connection, rules))
    query = _select_products().where(*conditions).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(query)).scalar_one())


def _where_rules(connection: sa.Connection, rules: Sequence[Rule]) -> list[sa.ColumnElement[bool]]:
    comparer = ValueComparer(connection.dialect.name)
    return [comparer.json_condition(rule, product.c[rule.column]) for rule in rules]


def _where_product(selection: Selection, all_of_them: bool) -> list[sa.ColumnElement[bool]]:
    conditions = _where_named(selection)
    if selection.statuses:
        conditions.append(runs.c.status.in_(selection.statuses))
    if selection.classes:
        conditions.append(runs.c.failure_class.in_(selection.classes))
    if selection.types:
        conditions.append(product.c.type.in_(selection.types))
    if selection.since is not None:
        conditions.append(product.c.created_at >= selection.since)
    if selection.until is not None:
        conditions.append(product.c.created_at < selection.until)
    if not all_of_them:
        stale_by_exclusion = sa.func.coalesce(sub_group.c.stale, "").like(f"{EXCLUDED}%")
        conditions += [_is_current(), product.c.status == "present", sa.not_(stale_by_exclusion)]
    return conditions


def _with_removals(connection: sa.Connection, rows: list[Row]) -> list[Row]:
    """Of those whose files were removed also `removed`: the row of the trash."""
    found = removed_products(connection, {row["run"] for row in rows if row["status"] == "removed"})
    for row in rows:
        row["removed"] = found.get(row["run"]) if row["status"] == "removed" else None
    return rows


def _product(row: Row) -> Row:
    return {**row, "current": bool(row["current"]), "warnings": list(row["warnings"] or [])}


def list_products_of_runs(connection: sa.Connection, run_ids: Collection[int]) -> list[Row]:
    found: list[Row] = []
    for chunk in chunks(sorted(run_ids)):
        query = _select_products().where(product.c.run_id.in_(chunk)).order_by(product.c.id)
        found += [_product(row) for row in _rows(connection, query)]
    return _with_removals(connection, found)


def list_products_by_id(connection: sa.Connection, product_ids: Collection[int]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for chunk in chunks(sorted(product_ids)):
        query = _select_products().where(product.c.id.in_(chunk))
        found |= {row["product"]: _product(row) for row in _rows(connection, query)}
    _with_removals(connection, list(found.values()))
    return found


def get_product(connection: sa.Connection, product_id: int) -> Row:
    """Errors: UsageError naming the newest ones where it is not there."""
    found = list_products_by_id(connection, [product_id])
    if found:
        return found[product_id]
    newest = (
        connection.execute(sa.select(product.c.id).order_by(product.c.id.desc()).limit(5)).scalars().all()
    )
    shown = f"the newest are {', '.join(map(str, newest))}" if newest else ""
    raise UsageError(
        f"there is no product {product_id}", next=f"{shown}; `ccatwm products --all` lists them" if shown else NO_RUNS
    )


# --- lineage ------------------------------------------------------------------------------------------------


def list_ancestor_runs(connection: sa.Connection, run_id: int) -> list[int]:
    """The run and every run that it stands on, each once, by one recursive query."""
    table = t.run_input
    up = sa.select(runs.c.id.label("run_id")).where(runs.c.id == run_id).cte("up", recursive=True)
    step = (
        sa.select(product.c.run_id)
        .join(table, table.c.product_id == product.c.id)
        .join(up, up.c.run_id == table.c.run_id)
    )
    query = sa.select(up.union(step).c.run_id)
    return sorted(connection.execute(query).scalars())


def list_descendant_runs(connection: sa.Connection, package_ids: Collection[str]) -> list[int]:
    """Every run that stands on one of these raw data packages, directly or through products."""
    table = t.run_input
    found: set[int] = set()
    for chunk in chunks(sorted(package_ids)):
        first = sa.select(table.c.run_id).where(table.c.kind == "package", table.c.identity.in_(chunk))
        down = first.cte("down", recursive=True)
        further = t.run_input.alias("further")
        step = (
            sa.select(further.c.run_id)
            .join(product, product.c.id == further.c.product_id)
            .join(down, down.c.run_id == product.c.run_id)
        )
        found.update(connection.execute(sa.select(down.union(step).c.run_id)).scalars())
    return sorted(found)


def list_provenance(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Row]:
    """What made each run: its frozen step, recipe and times."""
    columns = (
        *_LISTED,
        runs.c.decision,
        runs.c.recipe,
        runs.c.recipe_parts,
        runs.c.resolved_step,
        runs.c.output_directory,
        runs.c.ended_at,
        runs.c.wall_seconds,
        runs.c.cpu_hours,
        runs.c.peak_memory_gb,
    )
    found: dict[int, Row] = {}
    for chunk in chunks(sorted(run_ids)):
        found |= {
            row["run"]: row for row in _rows(connection, sa.select(*columns).where(runs.c.id.in_(chunk)))
        }
    return found


def find_package(connection: sa.Connection, grouping: GroupingEngine, name: str) -> Row | None:
    """A raw data package by name: {"name", "ids", ...}; also one that only old runs remember."""
    found: Row = {"name": name, "ids": set(), "state": None, "checksum": None, "size": None}
    for package_id, facts in grouping.find_packages(connection, name).items():
        found |= {"state": facts.state, "checksum": facts.checksum, "size": facts.size_bytes}
        found["ids"].add(package_id)
    if not found["ids"]:
        table = t.run_input
        query = sa.select(table).where(table.c.kind == "package", table.c.name == name)
        for row in _rows(connection, query):
            found |= {"checksum": row["checksum"], "size": row["size_bytes"]}
            found["ids"].add(row["identity"])
    if not found["ids"]:
        member = t.sub_group_member
        for row in _rows(connection, sa.select(member).where(member.c.package_name == name)):
            found |= {"state": row["state"], "checksum": row["checksum"], "size": row["size_bytes"]}
            found["ids"].add(row["package_id"])
    return found if found["ids"] else None


def list_package_names(connection: sa.Connection, like: str, limit: int = 1000) -> list[str]:
    """Names of packages for a suggestion: those that begin alike."""
    member = t.sub_group_member
    query = sa.select(member.c.package_name).distinct().order_by(member.c.package_name).limit(limit)
    near = list(
        connection.execute(query.where(member.c.package_name.startswith(like[:4], autoescape=True))).scalars()
    )
    return near or list(connection.execute(query).scalars())


def list_memberships(connection: sa.Connection, package_ids: Collection[str]) -> list[Row]:
    """The sub-groups that these packages belong to now, with each one's last decision."""
    member, step = t.sub_group_member, t.reduction_step
    found: list[Row] = []
    for chunk in chunks(sorted(package_ids)):
        query = (
            sa.select(
                t.pipeline.c.name.label("pipeline"),
                step.c.name.label("step"),
                sub_group.c.key.label("sub_group"),
                sub_group.c.outcome,
                sub_group.c.current_run_id,
            )
            .select_from(member)
            .join(step, step.c.scope_id == member.c.scope_id)
            .join(sub_group, sa.and_(sub_group.c.step_id == step.c.id, sub_group.c.key == member.c.key))
            .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
            .where(member.c.package_id.in_(chunk))
            .order_by(t.pipeline.c.name, step.c.position, sub_group.c.key)
        )
        found += _rows(connection, query)
    return found


def list_companions(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[Row]]:
    """The companions of runs: by run what each is to its step, and its name."""
    used = t.run_input
    found: dict[int, list[Row]] = {}
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(used.c.run_id, used.c.name, used.c.details)
        query = query.where(used.c.run_id.in_(chunk), used.c.role == "companion").order_by(used.c.id)
        for row in _rows(connection, query):
            found.setdefault(row["run_id"], []).append({"companion": row["details"]["companion"], "name": row["name"]})
    return found


def list_served(connection: sa.Connection, package_ids: Collection[str]) -> list[Row]:
    """The sub-groups whose current run has one of these packages as a companion."""
    used = t.run_input
    found: list[Row] = []
    for chunk in chunks(sorted(package_ids)):
        query = (
            sa.select(
                runs.c.pipeline_name.label("pipeline"),
                runs.c.step_name.label("step"),
                sub_group.c.key.label("sub_group"),
                sub_group.c.outcome,
                sub_group.c.current_run_id,
                used.c.details,
            )
            .select_from(used)
            .join(sub_group, sub_group.c.current_run_id == used.c.run_id)
            .join(runs, runs.c.id == used.c.run_id)
            .where(used.c.kind == "package", used.c.identity.in_(chunk), used.c.role == "companion")
        )
        for row in _rows(connection, query):
            companion = row.pop("details")["companion"]
            found.append({**row, "companion": companion})
    return sorted(found, key=lambda row: (row["pipeline"], row["step"], natural_key(row["sub_group"])))


def list_copy_reports(connection: sa.Connection, package_ids: Collection[str] | None = None) -> list[Row]:
    """What `stage` found of physical copies, newest first; of these packages only."""
    report = t.copy_report
    query = sa.select(report).order_by(report.c.found_at.desc(), report.c.id.desc())
    if package_ids is not None:
        query = query.where(report.c.package_id.in_(sorted(package_ids)))
    return _rows(connection, query)


# --- sub-groups ---------------------------------------------------------------------------------------------


def list_sub_groups(
    connection: sa.Connection, step_ids: Collection[int], key: str | None = None, limit: int | None = None
) -> list[Row]:
    """Sub-groups with their last decision, by step and key in natural order; of a step with many the first by text."""
    query = sa.select(sub_group).where(sub_group.c.step_id.in_(sorted(step_ids)))
    if key is not None:
        query = query.where(sub_group.c.key == key)
    elif limit is not None:
        first = _first_ids(connection, step_ids, limit)
        query = query.where(sub_group.c.id.in_(first)) if first is not None else query
    rows = _rows(connection, query.order_by(sub_group.c.step_id, sub_group.c.key).limit(limit))
    return rows if len(rows) > MOST_ORDERED else sorted(rows, key=_by_step_and_key)


def _first_ids(connection: sa.Connection, step_ids: Collection[int], limit: int) -> list[int] | None:
    """The first sub-groups in natural order; None where it would cost too much to look at all keys."""
    query = sa.select(sub_group.c.step_id, sub_group.c.key, sub_group.c.id)
    query = query.where(sub_group.c.step_id.in_(sorted(step_ids))).limit(MOST_ORDERED + 1)
    rows = _rows(connection, query)
    return None if len(rows) > MOST_ORDERED else [row["id"] for row in sorted(rows, key=_by_step_and_key)[:limit]]


def _by_step_and_key(row: Row) -> tuple[int, str]:
    return row["step_id"], natural_key(row["key"])


def list_wanted_acceptances(connection: sa.Connection, sub_group_ids: Collection[int]) -> dict[int, Row]:
    """The newest acceptance of what each sub-group wants now: reason, actor, created_at."""
    accepted = t.acceptance
    found: dict[int, Row] = {}
    for chunk in chunks(sorted(sub_group_ids)):
        query = (
            sa.select(accepted.c.sub_group_id, accepted.c.reason, accepted.c.actor, accepted.c.created_at)
            .join(sub_group, sub_group.c.id == accepted.c.sub_group_id)
            .where(sub_group.c.id.in_(chunk), sub_group.c.wanted_recipe == accepted.c.recipe)
            .order_by(accepted.c.id)
        )
        found |= {row["sub_group_id"]: row for row in _rows(connection, query)}
    return found


def list_software_versions(connection: sa.Connection, software: str) -> list[str]:
    """Versions that were ever applied of a software."""
    version, known = t.reduction_software_version, t.reduction_software
    query = sa.select(version.c.version).join(known, known.c.id == version.c.software_id)
    return list(connection.execute(query.where(known.c.name == software).order_by(version.c.id)).scalars())


def list_runs_of_sub_groups(
    connection: sa.Connection, sub_group_ids: Collection[int]
) -> dict[int, list[Row]]:
    """All runs of sub-groups, newest first."""
    found: dict[int, list[Row]] = {sub_group_id: [] for sub_group_id in sub_group_ids}
    for chunk in chunks(sorted(sub_group_ids)):
        query = _select_listed().where(runs.c.sub_group_id.in_(chunk)).order_by(runs.c.id.desc())
        for row in _rows(connection, query):
            found[row["sub_group_id"]].append(_listed(row))
    return found


def count_member_states(
    connection: sa.Connection, scope_ids: Collection[int], keys: Collection[str]
) -> dict[tuple[int, str], dict[str, int]]:
    """Number of packages by state for (scope, key)."""
    member = t.sub_group_member
    found: dict[tuple[int, str], dict[str, int]] = {}
    for chunk in chunks(sorted(keys)):
        query = (
            sa.select(member.c.scope_id, member.c.key, member.c.state, sa.func.count().label("count"))
            .where(member.c.scope_id.in_(sorted(scope_ids)), member.c.key.in_(chunk))
            .group_by(member.c.scope_id, member.c.key, member.c.state)
        )
        for row in connection.execute(query):
            found.setdefault((row.scope_id, row.key), {})[row.state] = row._mapping["count"]
    return found


def list_open_events(connection: sa.Connection, step_ids: Collection[int]) -> list[Row]:
    """Trigger events that `resolve` has not closed yet."""
    event = t.trigger_event
    query = sa.select(event).where(event.c.closed_at.is_(None), event.c.step_id.in_(sorted(step_ids)))
    return _rows(connection, query.order_by(event.c.id))


# --- the whole at a glance ----------------------------------------------------------------------------------


def count_by_status(connection: sa.Connection) -> dict[int, dict[str, int]]:
    """Number of runs by step id and status; trials are left out."""
    query = (
        sa.select(runs.c.step_id, runs.c.status, sa.func.count().label("count"))
        .where(sa.not_(runs.c.trial))
        .group_by(runs.c.step_id, runs.c.status)
    )
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.step_id, {})[row.status] = row._mapping["count"]
    return found


def count_by_outcome(connection: sa.Connection) -> dict[int, dict[str, int]]:
    """Number of sub-groups by step id and outcome of their last decision (`undecided` before the first)."""
    outcome = sa.func.coalesce(sub_group.c.outcome, "undecided")
    query = sa.select(sub_group.c.step_id, outcome.label("outcome"), sa.func.count().label("count"))
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(query.group_by(sub_group.c.step_id, outcome)):
        found.setdefault(row.step_id, {})[row.outcome] = row._mapping["count"]
    return found


def find_details(connection: sa.Connection, step_id: int, outcome: str) -> Row:
    """The details of one sub-group's last decision with this outcome; empty where there is none."""
    query = sa.select(sub_group.c.details).where(sub_group.c.step_id == step_id, sub_group.c.outcome == outcome).limit(1)
    return connection.execute(query).scalar() or {}


def count_due(connection: sa.Connection, now: Any) -> dict[int, int]:
    """Number of sub-groups by step id that `resolve` will look at now."""
    query = (
        sa.select(sub_group.c.step_id, sa.func.count().label("count"))
        .where(sub_group.c.due_at <= now)
        .group_by(sub_group.c.step_id)
    )
    return {row.step_id: row._mapping["count"] for row in connection.execute(query)}


def count_stale(connection: sa.Connection) -> dict[int, int]:
    query = (
        sa.select(sub_group.c.step_id, sa.func.count().label("count"))
        .where(sub_group.c.stale.isnot(None), sub_group.c.current_run_id.isnot(None))
        .group_by(sub_group.c.step_id)
    )
    return {row.step_id: row._mapping["count"] for row in connection.execute(query)}


def list_later_due(connection: sa.Connection, location: str, now: Any) -> list[Any]:
    """When sub-groups fall due after now, of what is enabled and not held."""
    step, owner = t.reduction_step, t.pipeline
    query = (
        sa.select(sub_group.c.due_at)
        .join(step, step.c.id == sub_group.c.step_id)
        .join(owner, owner.c.id == step.c.pipeline_id)
        .where(
            sub_group.c.due_at > now, owner.c.processing_location == location, step.c.enabled, owner.c.enabled,
            sub_group.c.held.is_(None), step.c.held.is_(None), step.c.tripped.is_(None), owner.c.held.is_(None),
        )
    )  # fmt: skip
    return list(connection.execute(query).scalars())


def _waits_for_a_person() -> sa.ColumnElement[bool]:
    """Of runs joined with their sub-groups: FAILED for good, for what is wanted still."""
    blocked = sa.and_(runs.c.status == RunStatus.FAILED.value, runs.c.blocking, sa.not_(runs.c.superseded))
    wanted = sa.or_(sub_group.c.wanted_recipe.is_(None), sub_group.c.wanted_recipe == runs.c.recipe)
    return sa.and_(blocked, wanted)


def count_sub_groups(connection: sa.Connection) -> dict[int, dict[str, int]]:
    """Number of sub-groups by step id: `done` (with a current product), `open` (with a run under way), `failed`;
    `held_sub_groups` by themselves, and of `held_runs` those that would go on or wait for a person.

    One may be of several kinds: a current product stays while a newer one is made, or cannot be made.
    """
    by_run = sa.select(runs.c.step_id, sa.func.count(runs.c.sub_group_id.distinct()).label("count"))
    by_run = by_run.where(sa.not_(runs.c.trial)).group_by(runs.c.step_id)
    queries = {
        "done": sa.select(sub_group.c.step_id, sa.func.count().label("count"))
        .where(sub_group.c.current_run_id.isnot(None))
        .group_by(sub_group.c.step_id),
        "open": by_run.where(runs.c.is_open),
        "failed": by_run.join(sub_group, sub_group.c.id == runs.c.sub_group_id).where(_waits_for_a_person()),
        "held_sub_groups": sa.select(sub_group.c.step_id, sa.func.count().label("count"))
        .where(sub_group.c.held.isnot(None))
        .group_by(sub_group.c.step_id),
    }
    found: dict[int, dict[str, int]] = {}
    for kind, query in queries.items():
        for row in connection.execute(query):
            found.setdefault(row.step_id, {})[kind] = row._mapping["count"]
    for step_id, count in _count_held_runs(connection):
        of_step = found.setdefault(step_id, {})
        of_step["held_runs"] = of_step.get("held_runs", 0) + count
    return found


def _count_held_runs(connection: sa.Connection) -> Iterator[tuple[int, int]]:
    held = sa.select(runs.c.step_id, sa.func.count()).join(sub_group, sub_group.c.id == runs.c.sub_group_id)
    held = held.where(runs.c.held.isnot(None)).group_by(runs.c.step_id)
    for which in (runs.c.is_open, _waits_for_a_person()):  # apart, as in `list_attention`
        for row in connection.execute(held.where(which)):
            yield row[0], row[1]


def list_attention(connection: sa.Connection, selection: Selection, limit: int | None) -> list[Row]:
    """Runs on their way and runs that wait for a person, newest first."""
    listed = _select_listed().join(sub_group, sub_group.c.id == runs.c.sub_group_id).where(*where_selected(selection))
    found: dict[int, Any] = {}
    for which in (runs.c.is_open, _waits_for_a_person()):  # apart: each has an index, both together have none
        rows = _rows(connection, listed.where(which).order_by(runs.c.id.desc()).limit(limit))
        found |= {row["run"]: row for row in rows}
    return [_listed(found[run_id]) for run_id in sorted(found, reverse=True)[:limit]]


def list_pass_records(connection: sa.Connection) -> list[Row]:
    """The latest record of each pass and location."""
    record = t.pass_record
    query = sa.select(record).where(record.c.latest).order_by(record.c.location, record.c.started_at)
    return _rows(connection, query)


def list_leases(connection: sa.Connection) -> list[Row]:
    """Leases that somebody holds."""
    lease = t.pass_lease
    return _rows(connection, sa.select(lease).where(lease.c.holder.isnot(None)).order_by(lease.c.id))


def count_unsettled(connection: sa.Connection) -> dict[str, int]:
    """Work between the passes: packages to regroup, open trigger events, submissions found half-way."""
    counts = {
        "changed_packages": sa.select(sa.func.count()).select_from(t.changed_package),
        "trigger_events": sa.select(sa.func.count())
        .select_from(t.trigger_event)
        .where(t.trigger_event.c.closed_at.is_(None)),
        "submissions": sa.select(sa.func.count())
        .select_from(t.submission)
        .where(t.submission.c.state.in_(["INTENDED", "HELD"])),
    }
    return {name: int(connection.execute(query).scalar_one()) for name, query in counts.items()}


def list_changes(connection: sa.Connection, targets: Iterable[str], limit: int = 20) -> list[Row]:
    """What people did to these targets, newest first."""
    log = t.change_log
    query = sa.select(log).where(log.c.target.in_(list(targets))).order_by(log.c.id.desc()).limit(limit)
    return _rows(connection, query)
