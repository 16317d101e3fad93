"""Data products. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.latest import mark_links_due

product = t.data_product


def insert_products(
    connection: sa.Connection, run_id: int, rows: Sequence[dict[str, Any]], now: datetime
) -> None:
    """The products of a run; each row has type, path, full_path, is_directory, size_bytes, file_count, sha256."""
    if rows:
        connection.execute(
            sa.insert(product),
            [{"run_id": run_id, "status": "present", "created_at": now, **row} for row in rows],
        )


def product_paths(connection: sa.Connection, product_ids: Collection[int]) -> dict[int, str]:
    """Paths below the base directory, by product id."""
    found: dict[int, str] = {}
    for chunk in chunks(sorted(product_ids)):
        query = sa.select(product.c.id, product.c.full_path).where(product.c.id.in_(chunk))
        found |= {row.id: row.full_path for row in connection.execute(query)}
    return found


def paths_of_run(connection: sa.Connection, run_id: int) -> dict[int, str]:
    """Paths below the base directory of a run's products that should be there, by product id."""
    query = sa.select(product.c.id, product.c.full_path).where(
        product.c.run_id == run_id, product.c.status == "present"
    )
    return {row.id: row.full_path for row in connection.execute(query)}


def record_missing(connection: sa.Connection, product_ids: Collection[int]) -> None:
    """Products whose files are gone though nobody here removed them."""
    for chunk in chunks(sorted(product_ids)):
        gone = sa.update(product).where(product.c.id.in_(chunk)).values(status="missing")
        mark_links_due(connection, set(connection.execute(gone.returning(product.c.run_id)).scalars()))
