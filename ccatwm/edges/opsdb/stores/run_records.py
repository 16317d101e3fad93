"""Whole runs as rows: read for `run.json`, and written again from it. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ccatwm.core.run_record import ATTEMPT, INPUT, PRODUCT, RUN, SUBMISSION, RunRecord, imported_decision
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows, json_text
from ccatwm.edges.opsdb.stores import sub_groups
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_downstream_due, mark_due
from ccatwm.edges.opsdb.stores.reconciling import raise_ids

run = t.executed_reduction_step
IMPORTED = "IMPORTED"  # of `run_event`: no transition, as CREATED is none


@dataclass(frozen=True)
class Place:
    """Where an imported run belongs."""

    step_id: int
    pipeline_id: int
    sub_group_id: int | None


AGAIN = "this command again"


class Conflict(NamedTuple):
    """Why a run is not imported, and what to do."""

    what: str
    next: str = "`ccatwm show` and `ccatwm history` tell what the ops-db has; the files stay as they are"


class OpenRun(NamedTuple):
    """A run that is not at its end. `kept`: why it is wanted although another one has made the same."""

    id: int
    status: RunStatus
    kept: str | None = None


def read_records(connection: sa.Connection, run_ids: Collection[int], uid: str) -> dict[int, RunRecord]:
    """All rows of runs but their products, by run id."""
    found: dict[int, RunRecord] = {}
    for chunk in chunks(sorted(run_ids)):
        attempts = _by_run(connection, _select_attempts(), t.run_attempt, chunk)
        inputs = _by_run(connection, sa.select(t.run_input), t.run_input, chunk)
        events = _by_run(connection, sa.select(t.run_event), t.run_event, chunk)
        query = sa.select(run, t.sub_group.c.dims).join(t.sub_group, t.sub_group.c.id == run.c.sub_group_id)
        for row in connection.execute(query.where(run.c.id.in_(chunk))).mappings():
            found[row["id"]] = RunRecord(
                row["id"], uid, row["dims"], {name: row[name] for name in RUN},
                tuple(_attempt(a) for a in attempts.get(row["id"], ())), tuple(inputs.get(row["id"], ())),
                tuple(events.get(row["id"], ())), (),
            )  # fmt: skip
    return found


def _select_attempts() -> sa.Select[Any]:
    submission = [t.submission.c[name].label(f"submission.{name}") for name in SUBMISSION]
    return sa.select(t.run_attempt, *submission).join(t.submission, t.submission.c.id == t.run_attempt.c.submission_id)


def _by_run(
    connection: sa.Connection, query: sa.Select[Any], table: sa.Table, run_ids: Sequence[int]
) -> dict[int, list[Mapping[str, Any]]]:
    """In the order in which they were written."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in connection.execute(query.where(table.c.run_id.in_(run_ids)).order_by(table.c.id)).mappings():
        found.setdefault(row["run_id"], []).append(dict(row))
    return found


def _attempt(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ATTEMPT},
        "submission": {name: row[f"submission.{name}"] for name in SUBMISSION},
    }


def find_place(connection: sa.Connection, record: RunRecord) -> Place | None:
    """By name; None where its pipeline or step is not defined."""
    step = t.reduction_step
    query = (
        sa.select(step.c.id, step.c.pipeline_id)
        .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
        .where(t.pipeline.c.name == record.run["pipeline_name"], step.c.name == record.run["step_name"])
    )
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    group = sa.select(t.sub_group.c.id).where(
        t.sub_group.c.step_id == found.id, t.sub_group.c.key == record.run["sub_group_key"]
    )
    return Place(found.id, found.pipeline_id, connection.execute(group).scalar())


def list_conflicts(connection: sa.Connection, record: RunRecord) -> list[Conflict]:
    """What the ops-db says otherwise: it has this run, other attempts in its place, or not what it stands on."""
    if connection.execute(sa.select(run.c.id).where(run.c.id == record.id)).first() is not None:
        return [Conflict(f"the ops-db knows run {record.id}")]
    problems = []
    for attempt in record.attempts:
        if _taken(connection, attempt):
            where = f"task {attempt['array_index']} of submission {attempt['submission']['token']}"
            problems.append(Conflict(f"the ops-db knows another attempt as {where}"))
    return problems + _upstream_conflicts(connection, record)


def _upstream_conflicts(connection: sa.Connection, record: RunRecord) -> list[Conflict]:
    """A run upstream that is under way, such as one that was just adopted, has its products once it is collected."""
    upstream = record.upstream_runs()
    known = {row.id: row for row in connection.execute(
        sa.select(run.c.id, run.c.status, run.c.is_open).where(run.c.id.in_(upstream))
    )}  # fmt: skip
    problems = [
        Conflict(f"it stands on run {n}, which the ops-db does not know", f"what is said of run {n} first, then {AGAIN}")
        for n in sorted(upstream - known.keys())
    ]
    under_way = {n: row.status for n, row in sorted(known.items()) if row.is_open}
    problems += [
        Conflict(f"it stands on run {n}, which is {status}", f"`ccatwm cycle` until run {n} is completed, then {AGAIN}")
        for n, status in under_way.items()
    ]
    products = _products_by_name(connection, record)
    problems += [
        Conflict(f"it stands on {item['name']} of run {_key(item)[0]}, which has no such product")
        for item in record.inputs
        if item["kind"] == "product" and _key(item)[0] in known.keys() - under_way.keys() and _key(item) not in products
    ]
    return problems


def _taken(connection: sa.Connection, attempt: Mapping[str, Any]) -> bool:
    query = (
        sa.select(t.run_attempt.c.id)
        .join(t.submission, t.submission.c.id == t.run_attempt.c.submission_id)
        .where(
            t.submission.c.token == attempt["submission"]["token"],
            t.run_attempt.c.array_index == attempt["array_index"],
        )
    )
    return connection.execute(query).first() is not None


def _key(item: Mapping[str, Any]) -> tuple[int, str]:
    """The run that made an input that is a product, and its path there."""
    return int((item["details"] or {}).get("upstream_run_id") or 0), item["name"]


def _products_by_name(connection: sa.Connection, record: RunRecord) -> dict[tuple[int, str], int]:
    """The numbers that products of the runs upstream have now."""
    product = t.data_product
    query = sa.select(product.c.id, product.c.run_id, product.c.path)
    rows = connection.execute(query.where(product.c.run_id.in_(record.upstream_runs())))
    return {(row.run_id, row.path): row.id for row in rows}


def list_open_alike(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[OpenRun]]:
    """By run, the open runs of its sub-group that are to make what it has made, of the same recipe; no trials."""
    found: dict[int, list[OpenRun]] = {}
    other = run.alias("other")
    alike = sa.and_(other.c.sub_group_id == run.c.sub_group_id, other.c.recipe == run.c.recipe, other.c.is_open)
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(
            run.c.id.label("run_id"), other.c.id, other.c.status, other.c.held, other.c.reason_details
        ).join(other, alike)
        query = query.where(run.c.id.in_(chunk), sa.not_(run.c.trial), sa.not_(other.c.trial))
        for row in connection.execute(query.order_by(run.c.id, other.c.id)):
            kept = _why_kept(row.held, row.reason_details or {})
            found.setdefault(row.run_id, []).append(OpenRun(row.id, RunStatus(row.status), kept))
    return found


def _why_kept(held: str | None, details: Mapping[str, Any]) -> str | None:
    if held is not None:
        return f"it is held: {held}"
    return "it was asked for with --force" if details.get("forced") else None


def insert_record(
    connection: sa.Connection, record: RunRecord, place: Place, absent: Collection[int], *, now: datetime, actor: str
) -> bool:
    """Write the rows of a run that the ops-db does not have, in this transaction; whether it counts from now on.

    `absent`: numbers of products whose files are not there as recorded. A run without all of its files never counts.
    """
    sub_group_id = place.sub_group_id or _insert_sub_group(connection, record, place.step_id, now)
    decision = _decision(connection, record, sub_group_id)
    row = {**record.run, "decision": decision, "backfill_id": _backfill(connection, record, place.pipeline_id)}
    _insert(connection, run, [{**row, "id": record.id, "step_id": place.step_id, "sub_group_id": sub_group_id}])
    raise_ids(connection, run, record.id)
    _insert_attempts(connection, record)
    known = _products_by_name(connection, record)
    _insert(connection, t.run_input, [_input_row(record.id, item, known) for item in record.inputs])
    imported = {
        "event": IMPORTED, "from_status": None, "to_status": record.run["status"], "at": now, "by_pass": None,
        "actor": actor, "message": f"from {record.directory}/run.json",
    }  # fmt: skip
    _insert(connection, t.run_event, [{"run_id": record.id, **event} for event in (*record.events, imported)])
    _insert_products(connection, record, absent)
    counts = not record.run["trial"] and not absent and sub_groups.set_current_run(
        connection, sub_group_id, record.id, decision, now=now
    )  # fmt: skip
    if not counts:  # what it gave way to is not known; it is kept as one that gives way now
        connection.execute(sa.update(run).where(run.c.id == record.id).values(replaced_at=now))
    if not record.run["trial"]:
        mark_due(connection, [sub_group_id], now)
        mark_downstream_due(connection, [sub_group_id], now)
    return counts


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), [dict(row) for row in rows])


def _insert_sub_group(connection: sa.Connection, record: RunRecord, step_id: int, now: datetime) -> int:
    rows = [(step_id, record.run["sub_group_key"], json_text(record.dims), now, now)]
    insert_rows(connection, t.sub_group, ("step_id", "key", "dims", "created_at", "input_changed_at"), rows)
    query = sa.select(t.sub_group.c.id).where(
        t.sub_group.c.step_id == step_id, t.sub_group.c.key == record.run["sub_group_key"]
    )
    return int(connection.execute(query).scalar_one())


def _decision(connection: sa.Connection, record: RunRecord, sub_group_id: int) -> int:
    """The number that its decision has here; the next one is above it."""
    group = t.sub_group
    query = sa.select(group.c.decision, group.c.decided_at).where(group.c.id == sub_group_id).with_for_update()
    last, decided_at = connection.execute(query).one()
    number = imported_decision(record.run["decision"], record.run["created_at"], last, decided_at)
    raised = sa.update(group).where(group.c.id == sub_group_id, group.c.decision < number)
    connection.execute(raised.values(decision=number))
    return number


def _backfill(connection: sa.Connection, record: RunRecord, pipeline_id: int) -> int | None:
    """The backfill that it was made for, where that is known: a later one may have been given its number."""
    query = sa.select(t.backfill.c.id).where(
        t.backfill.c.id == record.run["backfill_id"],
        t.backfill.c.pipeline_id == pipeline_id,
        t.backfill.c.created_at <= record.run["created_at"],
    )
    return connection.execute(query).scalar()


def _insert_attempts(connection: sa.Connection, record: RunRecord) -> None:
    """Several runs may be tasks of one submission."""
    for attempt in record.attempts:
        submission = attempt["submission"]
        query = sa.select(t.submission.c.id).where(t.submission.c.token == submission["token"])
        if (found := connection.execute(query).scalar()) is None:
            _insert(connection, t.submission, [submission])
            found = connection.execute(query).scalar_one()
        row = {name: attempt[name] for name in ATTEMPT}
        _insert(connection, t.run_attempt, [{**row, "run_id": record.id, "submission_id": found}])


def _input_row(run_id: int, item: Mapping[str, Any], known: Mapping[tuple[int, str], int]) -> dict[str, Any]:
    """A product by the number that it has here."""
    row = {name: item[name] for name in INPUT} | {"run_id": run_id, "product_id": None}
    if item["kind"] == "product":
        row["product_id"] = known[_key(item)]
        row["identity"] = str(row["product_id"])
    return row


def _insert_products(connection: sa.Connection, record: RunRecord, absent: Collection[int]) -> None:
    """Under the numbers that they had, where nobody else has these by now."""
    product = t.data_product
    numbers = [row["id"] for row in record.products]
    taken = set()
    for chunk in chunks(numbers):
        taken |= set(connection.execute(sa.select(product.c.id).where(product.c.id.in_(chunk))).scalars())
    free = [row["id"] for row in record.products if row["id"] not in taken]
    if free:
        raise_ids(connection, product, max(free))
    shared = {"run_id": record.id, "created_at": record.run["ended_at"]}
    rows = [
        {name: row[name] for name in PRODUCT if name != "id" or row["id"] not in taken}
        | shared | {"status": "missing" if row["id"] in absent else "present"}
        for row in record.products
    ]  # fmt: skip
    _insert(connection, product, [row for row in rows if "id" in row])
    _insert(connection, product, [row for row in rows if "id" not in row])
