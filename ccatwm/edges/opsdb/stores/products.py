"""Data products. Touches: the ops-db."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.cache import Amount
from ccatwm.core.lineage import PRODUCT_COLUMNS, ProductRow
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import JsonText, insert_rows, json_text, reserve_ids
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.latest import mark_links_due

product = t.data_product
ROWS_AT_ONCE = 5000


def insert_products(connection: sa.Connection, run_id: int, rows: Iterable[ProductRow], now: datetime) -> None:
    """The products of a run. Many are never held together."""
    rows = iter(rows)
    while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
        *plain, dims, quality = zip(*some, strict=True)
        alike = ([value] * len(some) for value in (run_id, "present", now))
        made = zip(*alike, *plain, map(_text, dims), map(_text, quality), strict=True)
        insert_rows(connection, product, ("run_id", "status", "created_at", *PRODUCT_COLUMNS), made)


_NOTHING = json_text(None)


def _text(value: Any) -> JsonText:
    """Most products have neither dims nor metrics."""
    return _NOTHING if value is None else json_text(value)


def reserve_numbers(connection: sa.Connection, count: int) -> Sequence[int]:
    """Numbers of products that are about to be recorded: `run.json` tells them before."""
    return reserve_ids(connection, product, count)


def recorded_products(connection: sa.Connection, run_id: int) -> list[ProductRow]:
    """All of a run, whatever became of their files, in the order in which they were recorded."""
    query = sa.select(*(product.c[name] for name in PRODUCT_COLUMNS)).where(product.c.run_id == run_id)
    return [tuple(row) for row in connection.execute(query.order_by(product.c.id))]


def product_paths(connection: sa.Connection, product_ids: Collection[int]) -> dict[int, str]:
    """Paths below the base directory, by product id."""
    found: dict[int, str] = {}
    for chunk in chunks(sorted(product_ids)):
        query = sa.select(product.c.id, product.c.full_path).where(product.c.id.in_(chunk))
        found |= {row.id: row.full_path for row in connection.execute(query)}
    return found


def product_amounts(connection: sa.Connection, product_ids: Collection[int]) -> dict[int, Amount]:
    """What the files of products take, by product id."""
    found: dict[int, Amount] = {}
    for chunk in chunks(sorted(product_ids)):
        query = sa.select(product.c.id, product.c.size_bytes, product.c.file_count).where(product.c.id.in_(chunk))
        found |= {row.id: Amount(row.size_bytes, row.file_count) for row in connection.execute(query)}
    return found


def gone_products(connection: sa.Connection, product_ids: Collection[int]) -> dict[int, str]:
    """Of these products those without files, and whether they were removed or are missing."""
    found: dict[int, str] = {}
    for chunk in chunks(sorted(product_ids)):
        query = sa.select(product.c.id, product.c.status).where(product.c.id.in_(chunk), product.c.status != "present")
        found |= {row.id: row.status for row in connection.execute(query)}
    return found


def missing_products(connection: sa.Connection) -> set[int]:
    """All whose files are gone though nobody here removed them: few."""
    indexed = product.c.status != sa.literal_column("'present'")  # the condition of an index, as it stands there
    gone = sa.and_(indexed, product.c.status == "missing")
    return set(connection.execute(sa.select(product.c.id).where(gone)).scalars())


def paths_of_run(connection: sa.Connection, run_id: int) -> dict[int, str]:
    """Paths below the base directory of a run's products that should be there, by product id."""
    query = sa.select(product.c.id, product.c.full_path).where(
        product.c.run_id == run_id, product.c.status == "present"
    )
    return {row.id: row.full_path for row in connection.execute(query)}


def record_back(connection: sa.Connection, product_ids: Collection[int]) -> set[int]:
    """Products that were missing and are there again; not those of a run whose output was taken away meanwhile. Which."""
    done: set[int] = set()
    other = product.alias("other")
    taken = sa.exists().where(other.c.run_id == product.c.run_id, other.c.status == "removed")
    for chunk in chunks(sorted(product_ids)):
        where = sa.and_(product.c.id.in_(chunk), product.c.status == "missing", sa.not_(taken))
        back = sa.update(product).where(where).values(status="present").returning(product.c.id, product.c.run_id)
        rows = connection.execute(back).all()
        mark_links_due(connection, {row.run_id for row in rows})
        done |= {row.id for row in rows}
    return done


def record_missing(connection: sa.Connection, product_ids: Collection[int]) -> None:
    """Products whose files are gone though nobody here removed them."""
    for chunk in chunks(sorted(product_ids)):
        gone = sa.update(product).where(product.c.id.in_(chunk)).values(status="missing")
        mark_links_due(connection, set(connection.execute(gone.returning(product.c.run_id)).scalars()))
