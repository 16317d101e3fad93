"""Runs in the ops-db: read as plain values, changed by compare-and-swap only. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import BackfillState
from ccatwm.core.gap import RunFacts
from ccatwm.core.model import (
    FailureClass,
    InputKind,
    InputRole,
    ResolvedStep,
    Resources,
    Run,
    RunInput,
    run_directory,
)
from ccatwm.core.recipe import Recipe
from ccatwm.core.states import FINAL, RunEvent, RunStatus, next_status
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows, json_text, new_ids
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_downstream_due
from ccatwm.errors import ConflictError

runs = t.executed_reduction_step


def record_event(
    connection: sa.Connection,
    run_id: int,
    event: RunEvent,
    *,
    expected: RunStatus | str,
    now: datetime,
    by_pass: str | None = None,
    actor: str | None = None,
    message: str | None = None,
    **changes: Any,
) -> bool:
    """Move a run along the state machine if it still is in `expected`; False if somebody else was first."""
    return run_id in record_events(
        connection, [run_id], event, expected=expected, now=now, by_pass=by_pass, actor=actor, message=message,
        **changes,
    )  # fmt: skip


def record_events(
    connection: sa.Connection,
    run_ids: Sequence[int],
    event: RunEvent,
    *,
    expected: RunStatus | str,
    now: datetime,
    by_pass: str | None = None,
    actor: str | None = None,
    message: str | None = None,
    **changes: Any,
) -> set[int]:
    """Move runs along the state machine, those that still are in `expected`: the ids of those that were moved.

    The only place that changes a run's status. `changes` are further columns. A FAILED run stays open while it has a
    retry (`due_at`) left.
    """
    expected = RunStatus(expected)
    status = next_status(expected, event)
    if status is None:
        return set()
    is_open = status not in FINAL or (status is RunStatus.FAILED and changes.get("due_at") is not None)
    values: dict[str, Any] = {"status": status.value, "status_at": now, "is_open": is_open, **changes}
    if message is not None:
        values["message"] = message
    if not is_open:
        values.setdefault("ended_at", now)
    moved: dict[int, int | None] = {}  # run id -> sub-group id, None for a trial, which nobody waits for
    for chunk in chunks(run_ids):
        swap = sa.update(runs).where(runs.c.id.in_(chunk), runs.c.status == expected.value).values(**values)
        moved |= {
            row.id: None if row.trial else row.sub_group_id
            for row in connection.execute(swap.returning(runs.c.id, runs.c.sub_group_id, runs.c.trial))
        }
    if not moved:
        return set()
    record = {
        "event": event.value, "from_status": expected.value, "to_status": status.value, "at": now,
        "by_pass": by_pass, "actor": actor, "message": message,
    }  # fmt: skip
    connection.execute(
        sa.insert(t.run_event), [{"run_id": run_id, **record} for run_id in run_ids if run_id in moved]
    )
    if not is_open:  # who waits for it may go on, whatever its end means to its own sub-group
        mark_downstream_due(connection, {group for group in moved.values() if group is not None}, now)
    return set(moved)


def supersede(
    connection: sa.Connection, run_id: int, why: str, *, expected: RunStatus | str, now: datetime,
    by_pass: str | None = None, actor: str | None = None,
) -> bool:  # fmt: skip
    """Cancel a run for which nothing was handed over: its recipe stays free. False if it is in `expected` no more."""
    return record_event(
        connection, run_id, RunEvent.CANCELLED, expected=expected, now=now, by_pass=by_pass, actor=actor,
        message=f"superseded: {why}", superseded=True, due_at=None,
    )  # fmt: skip


def next_attempt() -> sa.ColumnElement[int]:
    """The number after the one that a run has, for `record_events`."""
    return runs.c.attempt + 1


def by_run(values: Mapping[int, str]) -> sa.ColumnElement[str]:
    """A text for each run, for `record_events`."""
    return sa.case(dict(values), value=runs.c.id)


def update_run(connection: sa.Connection, run_id: int, **changes: Any) -> None:
    """Change columns other than the status."""
    assert "status" not in changes
    connection.execute(sa.update(runs).where(runs.c.id == run_id).values(**changes))


def add_warning(connection: sa.Connection, run_id: int, text: str) -> None:
    """A run is not told the same twice."""
    known = connection.execute(sa.select(runs.c.warnings).where(runs.c.id == run_id)).scalar_one()
    if text not in known:
        update_run(connection, run_id, warnings=[*known, text])


def insert_runs(
    connection: sa.Connection, made: Sequence[Mapping[str, Any]], *, now: datetime, by_pass: str
) -> list[int]:
    """New runs, PENDING, each with its first event; all have the same columns. Returns their ids.

    Errors: ConflictError if a sub-group has an open run.
    """
    if not made:
        return []
    ids = new_ids(connection, runs, len(made))
    fixed = {
        "status": RunStatus.PENDING.value, "status_at": now, "is_open": True, "warnings": [], "created_at": now,
    }  # fmt: skip
    rows = ((run_id, *fixed.values(), *values.values()) for run_id, values in zip(ids, made, strict=True))
    insert_rows(connection, runs, ("id", *fixed, *made[0]), rows)
    events = (
        (run_id, "CREATED", RunStatus.PENDING.value, now, by_pass, values.get("reason"))
        for run_id, values in zip(ids, made, strict=True)
    )
    insert_rows(connection, t.run_event, ("run_id", "event", "to_status", "at", "by_pass", "message"), events)
    return ids


def insert_inputs(connection: sa.Connection, inputs: Mapping[int, Iterable[RunInput]]) -> None:
    """The inputs of new runs, by run id."""
    rows = (_input_row(run_id, item) for run_id, items in inputs.items() for item in items)
    columns = ("run_id", "kind", "role", "identity", "name", "checksum", "size_bytes", "product_id", "details")
    insert_rows(connection, t.run_input, columns, rows)


def _input_row(run_id: int, item: RunInput) -> tuple[Any, ...]:
    product = int(item.identity) if item.kind is InputKind.PRODUCT else None
    plain = item.kind is InputKind.PACKAGE and item.role is InputRole.MEMBER  # nothing is to be told of it
    details = _NO_DETAILS if plain else json_text(_input_details(item))
    return (
        run_id, item.kind.value, item.role.value, item.identity, item.name, item.checksum, item.size_bytes, product,
        details,
    )  # fmt: skip


def _input_details(item: RunInput) -> dict[str, Any]:
    serves = {"serves": list(item.serves), "same": item.same} if item.role is InputRole.COMPANION else {}
    return serves | {
        "upstream_run_id": item.upstream_run_id,
        "upstream_pipeline": item.upstream_pipeline,
        "upstream_step": item.upstream_step,
        "upstream_sub_group": item.upstream_sub_group,
        "product_type": item.product_type,
        "is_directory": item.is_directory,
        "stands_on": list(item.stands_on),
        "companions": list(item.companions),
        "companion": item.companion,
    }


_NO_DETAILS = json_text(_input_details(RunInput(InputKind.PACKAGE, InputRole.MEMBER, "", "", None, None)))


def refuse_gone_inputs(connection: sa.Connection, inputs: Iterable[RunInput]) -> None:
    """No run is made of products that were removed since they were chosen: said after its inputs were written, which
    keeps them from being removed until this transaction ends. Errors: ConflictError.
    """
    product = t.data_product
    products = sorted({int(item.identity) for item in inputs if item.kind is InputKind.PRODUCT})
    for chunk in chunks(products):
        query = sa.select(product.c.id).where(product.c.id.in_(chunk), product.c.status != "present").limit(1)
        gone = connection.execute(query).scalar()
        if gone is not None:
            raise ConflictError(f"the files of product {gone} were removed while a run was made of them")


def record_replaced(connection: sa.Connection, replaced: Mapping[int, int], now: datetime) -> None:
    """Runs that are current no more, and the ones that are instead."""
    for chunk in chunks(sorted(replaced)):
        connection.execute(sa.update(runs).where(runs.c.id.in_(chunk)).values(replaced_at=now))
        again = [replaced[run_id] for run_id in chunk]
        connection.execute(sa.update(runs).where(runs.c.id.in_(again)).values(replaced_at=None))


def list_inputs(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[RunInput]]:
    """The frozen inputs of runs, in the order in which they were written."""
    found: dict[int, list[RunInput]] = {run_id: [] for run_id in run_ids}
    for chunk in chunks(list(run_ids)):
        rows = connection.execute(
            sa.select(t.run_input).where(t.run_input.c.run_id.in_(chunk)).order_by(t.run_input.c.id)
        )
        for row in rows:
            found[row.run_id].append(_input(row))
    return found


def _input(row: Any) -> RunInput:
    details = dict(row.details or {})
    for names in ("stands_on", "companions", "serves"):
        details[names] = tuple(details.get(names) or ())
    return RunInput(
        InputKind(row.kind),
        InputRole(row.role),
        row.name,
        row.identity,
        row.checksum,
        row.size_bytes,
        **details,
    )


_RUN_COLUMNS = (
    runs,
    t.reduction_step.c.pipeline_id,
)


def list_open_runs(
    connection: sa.Connection,
    location: str,
    statuses: Collection[RunStatus],
    *,
    limit: int | None = None,
    due_by: datetime | None = None,
    include_held: bool = False,
) -> list[Run]:
    """Open runs of a processing location, larger priority first; of one priority as the `order` of their steps says.

    That is the newest observations first; then the runs of steps with `oldest`, these with the oldest first.

    `due_by`: only those whose `due_at` is not later. Held runs (also by their sub-group, step or pipeline) and those with
    a request to cancel are left out unless `include_held`.
    """
    query = select_open(_RUN_COLUMNS, location, statuses)
    if due_by is not None:
        query = query.where(is_due(due_by))
    if not include_held:
        query = query.where(nobody_holds())
    query = query.order_by(*first_ones())
    return [_run(row) for row in connection.execute(query.limit(limit) if limit else query)]


def select_open(columns: Sequence[Any], location: str, statuses: Collection[RunStatus]) -> sa.Select[Any]:
    """Open runs of a processing location, with their steps, pipelines and sub-groups."""
    return _select_runs(columns).where(
        runs.c.is_open, runs.c.processing_location == location, runs.c.status.in_([s.value for s in statuses])
    )


def first_ones() -> list[sa.ColumnElement[Any]]:
    """Which of many runs go first: larger priority, then as the `order` of their steps says."""
    oldest_first = t.reduction_step.c.oldest_first
    newest_of_them = sa.case((oldest_first, None), else_=runs.c.observed_at)  # says nothing of the others
    return [runs.c.priority.desc(), oldest_first, newest_of_them.desc(), runs.c.observed_at, runs.c.id]


def is_due(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(runs.c.due_at.is_(None), runs.c.due_at <= now)


def nobody_holds() -> sa.ColumnElement[bool]:
    """Runs that people neither hold nor asked to cancel."""
    return sa.and_(runs.c.cancel_requested_at.is_(None), _not_held())


def _select_runs(columns: Sequence[Any] = _RUN_COLUMNS) -> sa.Select[Any]:
    return (
        sa.select(*columns)
        .join(t.reduction_step, t.reduction_step.c.id == runs.c.step_id)
        .join(t.pipeline, t.pipeline.c.id == t.reduction_step.c.pipeline_id)
        .join(t.sub_group, t.sub_group.c.id == runs.c.sub_group_id)
    )


def _not_held() -> sa.ColumnElement[bool]:
    paused = sa.select(t.backfill.c.id).where(t.backfill.c.state == BackfillState.PAUSED.value)
    return sa.and_(
        sa.or_(runs.c.backfill_id.is_(None), runs.c.backfill_id.not_in(paused)),
        runs.c.held.is_(None),
        t.sub_group.c.held.is_(None),
        t.reduction_step.c.held.is_(None),
        t.reduction_step.c.tripped.is_(None),
        t.pipeline.c.held.is_(None),
    )


def list_cancel_requests(connection: sa.Connection, location: str) -> list[Run]:
    """Open runs that somebody asked to cancel."""
    query = _select_runs().where(
        runs.c.is_open, runs.c.processing_location == location, runs.c.cancel_requested_at.isnot(None)
    )
    return [_run(row) for row in connection.execute(query.order_by(runs.c.id))]


def get_runs(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for chunk in chunks(list(run_ids)):
        for row in connection.execute(_select_runs().where(runs.c.id.in_(chunk))):
            found[row.id] = _run(row)
    return found


def _run(row: Any) -> Run:
    return Run(
        id=row.id,
        pipeline=row.pipeline_name,
        step=row.step_name,
        sub_group=row.sub_group_key,
        pipeline_id=row.pipeline_id,
        step_id=row.step_id,
        sub_group_id=row.sub_group_id,
        status=row.status,
        attempt=row.attempt,
        retries_used=row.retries_used,
        free_retries_used=row.free_retries_used,
        decision=row.decision,
        reason=row.reason,
        priority=row.priority,
        resolved_step=ResolvedStep.from_json(row.resolved_step),
        created_at=row.created_at,
        status_at=row.status_at,
        due_at=row.due_at,
        failure_class=row.failure_class,
        message=row.message,
        warnings=tuple(row.warnings),
        cancel_requested_at=row.cancel_requested_at,
        cancel_reason=row.cancel_reason,
        held=row.held is not None,
        is_open=row.is_open,
        trial=row.trial,
        next_resources=Resources.from_json(row.next_resources) if row.next_resources else None,
    )


def list_run_facts(connection: sa.Connection, sub_group_ids: Collection[int]) -> dict[int, list[RunFacts]]:
    """The runs of sub-groups as `core.gap` wants them, oldest first; trials are left out."""
    found: dict[int, list[RunFacts]] = {sub_group_id: [] for sub_group_id in sub_group_ids}
    gone = sa.select(t.data_product.c.run_id).where(
        t.data_product.c.run_id == runs.c.id, t.data_product.c.status != "present"  # the condition of an index
    )
    removed = t.data_product.c.status == "removed"
    for chunk in chunks(list(sub_group_ids)):
        query = (
            sa.select(
                runs.c.id, runs.c.sub_group_id, runs.c.status, runs.c.is_open, runs.c.blocking, runs.c.recipe,
                runs.c.recipe_parts, runs.c.resolved_step, runs.c.created_at, runs.c.failure_class, runs.c.message,
                runs.c.superseded, gone.where(sa.not_(removed)).exists().label("missing"),
                gone.where(removed).exists().label("removed"),
                runs.c.reason_details["trial"].as_string().is_not(None).label("tried_out"),
            )
            .where(runs.c.sub_group_id.in_(chunk), sa.not_(runs.c.trial))
            .order_by(runs.c.id)
        )  # fmt: skip
        for row in connection.execute(query):
            found[row.sub_group_id].append(_facts(row))
    return found


def _facts(row: Any) -> RunFacts:
    return RunFacts(
        id=row.id,
        status=RunStatus(row.status),
        is_open=row.is_open,
        blocking=row.blocking and not row.superseded,
        recipe_digest=row.recipe,
        recipe=Recipe.from_json(row.recipe_parts),
        version=row.resolved_step["software"]["version"],
        software=row.resolved_step["software"]["software"],
        created_at=row.created_at,
        files_present=not row.missing,
        removed=bool(row.removed),
        failure_class=row.failure_class,
        message=row.message,
        config=row.resolved_step["config"],
        environment=row.resolved_step["environment"],
        tried_out=bool(row.tried_out),
    )


def list_runs_with_inputs(
    connection: sa.Connection, location: str, *, failed_before: datetime, limit: int
) -> list[tuple[int, str]]:
    """(id, directory) of final runs whose input links are still there; FAILED ones only after a while."""
    query = (
        sa.select(runs.c.id, runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key)
        .where(
            runs.c.processing_location == location,
            sa.not_(runs.c.is_open),
            runs.c.inputs_removed_at.is_(None),
            sa.or_(runs.c.status != RunStatus.FAILED.value, runs.c.ended_at < failed_before),
        )
        .order_by(runs.c.id)
        .limit(limit)
    )
    return [
        (row.id, run_directory(row.pipeline_name, row.step_name, row.sub_group_key, row.id))
        for row in connection.execute(query)
    ]


def record_inputs_removed(connection: sa.Connection, run_ids: Sequence[int], now: datetime) -> None:
    for chunk in chunks(run_ids):
        connection.execute(
            sa.update(runs).where(runs.c.id.in_(chunk), sa.not_(runs.c.is_open)).values(inputs_removed_at=now)
        )


def count_waits_for_space(connection: sa.Connection, location: str) -> tuple[int, str]:
    """How many runs failed on a full disk and wait for room, and what the first one met."""
    query = sa.select(sa.func.count(), sa.func.min(runs.c.message)).where(
        runs.c.is_open, runs.c.processing_location == location, runs.c.status == RunStatus.FAILED.value,
        runs.c.failure_class == FailureClass.NO_SPACE.value,
    )  # fmt: skip
    count, message = connection.execute(query).one()
    return int(count), str(message or "")


def any_active_run(
    connection: sa.Connection,
    location: str,
    now: datetime,
    *,
    soon: datetime | None = None,
    retries_by: datetime | None = None,
    submits: bool = True,
    looked_at: datetime | None = None,
) -> bool:
    """Whether a run is on its way that nobody holds and that does not wait for a moment later than `soon`.

    What `stage` has looked at since `looked_at` waits for something outside, however soon it is looked at again.

    `submits` False: submission is blocked, and what is STAGED is not on its way.

    A retry that is due by `retries_by` counts as on its way: their number is bounded, that of waits for space is not.
    """
    retry = sa.and_(runs.c.status == RunStatus.FAILED.value, runs.c.due_at <= (retries_by or now))
    no_space = sa.func.coalesce(runs.c.failure_class, "") == FailureClass.NO_SPACE.value
    due_soon = sa.and_(sa.not_(no_space), runs.c.due_at <= (soon or now))
    waits = sa.and_(runs.c.status == RunStatus.STAGING_DATA.value, runs.c.due_at > (looked_at or now))
    query = (
        _select_runs()
        .where(
            runs.c.is_open,
            runs.c.processing_location == location,
            runs.c.room_reason.is_(None),  # whoever makes room is on its way, or nobody is
            sa.true() if submits else runs.c.status != RunStatus.STAGED.value,
            sa.or_(runs.c.due_at.is_(None), sa.and_(sa.or_(runs.c.due_at <= now, due_soon), sa.not_(waits)), retry),
            sa.or_(
                _not_held(), runs.c.status.in_(["SUBMITTING", "SUBMITTED", "RUNNING", "COLLECTING_RESULTS"])
            ),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None
