"""What `gc` took away, and what became of it. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.reconciling import run_directory_of
from ccatwm.core.retention import Kind
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows, new_ids
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.latest import mark_links_due

trash, runs, product = t.trash, t.executed_reduction_step, t.data_product
FOLDER = ".trash"  # below the base directory


@dataclass(frozen=True)
class Trashed:
    """A row of `trash`, with the names of its run. Paths are below the base directory."""

    id: int
    kind: str
    run: int
    pipeline: str
    step: str
    sub_group: str
    sub_group_id: int
    path: str
    trash_path: str
    size_bytes: int
    inodes: int
    freed_bytes: int
    rule: str
    reason: str
    doomed_at: datetime
    trashed_at: datetime | None
    emptying_at: datetime | None
    deleted_at: datetime | None
    undone_at: datetime | None


def insert_trash(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Rows with kind, run_id, path, sizes, rule, reason, actor, doomed_at; the products of these runs are removed."""
    if not rows:
        return []
    ids = new_ids(connection, trash, len(rows))
    columns = ("id", "trash_path", *rows[0])
    numbered = ((i, _trash_path(i, row["doomed_at"]), *row.values()) for i, row in zip(ids, rows, strict=True))
    insert_rows(connection, trash, columns, numbered)
    removed = [row["run_id"] for row in rows if row["kind"] == Kind.PRODUCTS]
    _set_products(connection, removed, "present", "removed")
    return ids


def _trash_path(trash_id: int, doomed_at: datetime) -> str:
    """With its time: an ops-db that was restored gives numbers again whose folders may lie there still."""
    return f"{FOLDER}/{trash_id}-{doomed_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def lie_beside(connection: sa.Connection, row: Trashed) -> Trashed:
    """It is to lie in the run's own directory: from there nothing can be moved to where the others lie."""
    path = f"{run_directory_of(row.path)}/{row.trash_path}"
    connection.execute(sa.update(trash).where(trash.c.id == row.id).values(trash_path=path))
    return replace(row, trash_path=path)


def _set_products(connection: sa.Connection, run_ids: Collection[int], old: str, new: str) -> None:
    for chunk in chunks(sorted(run_ids)):
        where = sa.and_(product.c.run_id.in_(chunk), product.c.status == old)
        connection.execute(sa.update(product).where(where).values(status=new))
    mark_links_due(connection, run_ids)


def list_trash(
    connection: sa.Connection, location: str, *, run_id: int | None = None, all_of_it: bool = False
) -> list[Trashed]:
    """What is neither deleted nor taken back, oldest first; `all_of_it`: that too."""
    query = _select().where(runs.c.processing_location == location)
    if not all_of_it:
        query = query.where(trash.c.deleted_at.is_(None), trash.c.undone_at.is_(None))
    if run_id is not None:
        query = query.where(trash.c.run_id == run_id)
    return [_row(row) for row in connection.execute(query)]


def get_trash(connection: sa.Connection, ids: Collection[int]) -> list[Trashed]:
    found: list[Trashed] = []
    for chunk in chunks(sorted(ids)):
        found += [_row(row) for row in connection.execute(_select().where(trash.c.id.in_(chunk)))]
    return found


def removed_products(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Trashed]:
    """By run, what was last taken away of its products, unless it was taken back."""
    found: dict[int, Trashed] = {}
    for chunk in chunks(sorted(run_ids)):
        query = _select().where(trash.c.run_id.in_(chunk), trash.c.kind == Kind.PRODUCTS, trash.c.undone_at.is_(None))
        found |= {row.run_id: _row(row) for row in connection.execute(query)}
    return found


def _select() -> sa.Select[Any]:
    names = (runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key, runs.c.sub_group_id)
    return sa.select(trash, *names).join(runs, runs.c.id == trash.c.run_id).order_by(trash.c.id)


def _row(row: Any) -> Trashed:
    return Trashed(
        row.id, row.kind, row.run_id, row.pipeline_name, row.step_name, row.sub_group_key, row.sub_group_id, row.path,
        row.trash_path, row.size_bytes, row.inodes, row.freed_bytes, row.rule, row.reason, row.doomed_at, row.trashed_at,
        row.emptying_at, row.deleted_at, row.undone_at,
    )  # fmt: skip


def record_trashed(connection: sa.Connection, ids: Collection[int], now: datetime) -> None:
    _stamp(connection, ids, trash.c.trashed_at, now)


def record_emptying(connection: sa.Connection, ids: Collection[int], now: datetime) -> set[int]:
    """From now on nothing brings these back; those that nobody has taken back before."""
    return _stamp(connection, ids, trash.c.emptying_at, now)


def record_deleted(connection: sa.Connection, ids: Collection[int], now: datetime) -> None:
    _stamp(connection, ids, trash.c.deleted_at, now)


def record_undone(connection: sa.Connection, rows: Sequence[Trashed], now: datetime) -> set[int]:
    """Those that are there again; the products among them count as such."""
    done = _stamp(connection, [row.id for row in rows], trash.c.undone_at, now, trash.c.emptying_at.is_(None))
    back = [row.run for row in rows if row.id in done and row.kind == Kind.PRODUCTS]
    _set_products(connection, back, "removed", "present")
    return done


def _stamp(
    connection: sa.Connection, ids: Collection[int], column: sa.Column[Any], now: datetime, *more: sa.ColumnElement[bool]
) -> set[int]:
    """Set a time of rows that are neither deleted nor taken back; their ids."""
    done: set[int] = set()
    for chunk in chunks(sorted(ids)):
        where = sa.and_(trash.c.id.in_(chunk), trash.c.deleted_at.is_(None), trash.c.undone_at.is_(None), *more)
        query = sa.update(trash).where(where).values({column: now}).returning(trash.c.id)
        done |= set(connection.execute(query).scalars())
    return done
