"""Says which data products there are, and where each one lies. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccatwm.core.latest import LATEST, is_usable, latest_path
from ccatwm.core.product_rules import declared_text
from ccatwm.core.rules import Rule
from ccatwm.core.selection import Selection
from ccatwm.core.wording import size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.trash import Trashed
from ccatwm.views.places import Places, told_path

DEFAULT_LIMIT = 200
COLUMNS = ("product", "run", "type", "size", "sha256", "file")


def build_products(
    database: Database,
    selection: Selection,
    rules: Sequence[Rule] = (),
    *,
    places: Places,
    all_of_them: bool = False,
    limit: int | None = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """The document `ccatwm.products/1`: current products newest first, or all that were ever recorded."""
    with database.read() as connection:
        views.check_selection(connection, selection)
        rows = views.list_products(connection, selection, rules, all_of_them=all_of_them, limit=limit)
        total = len(rows)
        if limit is not None and total == limit:
            total = views.count_products(connection, selection, rules, all_of_them=all_of_them)
    return {
        "schema": "ccatwm.products/1",
        "all": all_of_them,
        "base_dir": str(places.base_dir),
        "total": total,
        "products": [product_json(row, places) for row in rows],
    }


def rules_hint(database: Database, selection: Selection, *, all_of_them: bool) -> str:
    """For people whose rules have found nothing: what there is to be found."""
    with database.read() as connection:
        rows = views.list_products(connection, selection, (), all_of_them=all_of_them, limit=DEFAULT_LIMIT)
    return declared_text(rows)


def product_json(row: dict[str, Any], places: Places) -> dict[str, Any]:
    """One product as scripts read it.

    `path` is absolute, as the name is on disk, and null where the base directory of its processing location is not
    known here; `relative_path` is below that one, as in the ops-db.
    """
    return {
        "product": row["product"],
        "run": row["run"],
        "type": row["type"],
        "path": places.path(row["processing_location"], row["full_path"]),
        "latest": latest_of(row, places),
        "relative_path": row["full_path"],
        "sha256": row["sha256"],
        "size": row["size"],
        "pipeline": row["pipeline"],
        "step": row["step"],
        "sub_group": row["sub_group"],
        "current": row["current"],
        "stale": row["stale"],
        "status": row["status"],
        **_removal(row.get("removed")),
        "name": row["name"],
        "directory": row["is_directory"],
        "files": row["file_count"],
        "quality": row["quality"],
        "dims": row["dims"],
        "warnings": row["warnings"],
        "processing_location": row["processing_location"],
        "created_at": utc_text(row["created_at"]),
    }


def _removal(removed: Trashed | None) -> dict[str, Any]:
    """When and by what rule the files were removed; `deleted_at` null while they lie in the trash."""
    return {
        "removed_at": utc_text(removed.doomed_at) if removed else None,
        "removed_because": removed.reason if removed else None,
        "deleted_at": utc_text(removed.deleted_at) if removed else None,
    }


def files_text(product: Mapping[str, Any]) -> str | None:
    """What became of the files of a product, where they are not there any more."""
    if product["status"] != "removed":
        return None if product["status"] == "present" else "its files are gone, and nothing of ours removed them"
    where = f"deleted {product['deleted_at'][:10]}" if product["deleted_at"] else "in the trash"
    return f"files removed {product['removed_at'][:10]}, {where}: {product['removed_because']}"


def told_product(row: Mapping[str, Any]) -> str | None:
    """Where a product lies, for people."""
    return told_path(row["processing_location"], row["path"], row["relative_path"])


def latest_of(row: dict[str, Any], places: Places) -> str | None:
    """The path that leads to the newest product of this name, whichever run makes it; None where this is not it, or where
    its base directory is not known here."""
    if not row["current"] or not is_usable(row["stale"]) or row["status"] != "present":
        return None
    link = latest_path(row["pipeline"], row["step"], row["sub_group"])
    return places.path(row["processing_location"], f"{link}/{row['name']}")


def latest_line(products: Sequence[dict[str, Any]]) -> list[str]:
    """For people: where the newest ones always are, if one of them has such a path."""
    if not any(row["latest"] for row in products):
        return []
    return [f"the newest of each is always at PIPELINE/STEP/SUB_GROUP/{LATEST}/..."]


def product_cells(row: dict[str, Any], base_dir: str) -> tuple[object, ...]:
    """A row for people; the file below the base directory that stands above the table."""
    mark = "" if row["current"] else " (not current)"
    mark = f" (stale: {row['stale']})" if row["stale"] else mark
    gone = files_text(row)
    mark += f" ({gone})" if gone else ""
    file = str(told_product(row)).removeprefix(base_dir.rstrip("/") + "/")
    return (
        row["product"],
        row["run"],
        row["type"],
        size_text(row["size"]),
        row["sha256"][:8],
        f"{file}{mark}",
    )
