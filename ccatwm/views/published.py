"""Says what was published, and which of it stands on data that are excluded by now. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED
from ccatwm.core.publishing import notice_lines
from ccatwm.core.selection import suggest
from ccatwm.core.wording import count_text, size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.exclusions import find_excluded, why_excluded
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import publishing as store
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.exclusions import active_ids
from ccatwm.edges.opsdb.stores.products import missing_products
from ccatwm.errors import UsageError

MAX_NAMED = 20
LIST_COLUMNS = ("set", "products", "size", "doi", "contact", "published", "affected")
PRODUCT_COLUMNS = ("product", "run", "type", "size", "sha256", "file")


def build_published_set(database: Database, grouping: GroupingEngine, name: str, *, now: datetime) -> dict[str, Any]:
    """The document `ccatwm.publish/1` of one set. Errors: UsageError where there is none of this name."""
    with database.read() as connection:
        row = store.find_set(connection, name)
        if row is None:
            if name.isascii() and name.isdigit():
                what = f"{name} is no published set; if it is a product, the name of its set is missing"
                raise UsageError(what, next=f"`ccatwm publish NAME {name}`; `ccatwm publish --list` lists the sets")
            names = store.list_set_names(connection)
            hint = "name its products: `ccatwm publish NAME PRODUCT...`" if not names else suggest(name, names)
            raise UsageError(f"there is no published set {name!r}", next=hint)
        return {"schema": "ccatwm.publish/1", "publish": _judge(connection, grouping, [row], now)[0]}


def build_unpublished_set(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a set that would be published."""
    return {"schema": "ccatwm.publish/1", "publish": _set(row, {}, {}, set())}


def build_published_sets(database: Database, grouping: GroupingEngine, *, now: datetime) -> dict[str, Any]:
    """The document `ccatwm.published-sets/1`: all sets, by name."""
    with database.read() as connection:
        sets = _judge(connection, grouping, store.list_sets(connection), now)
    return {"schema": "ccatwm.published-sets/1", "published_sets": sets}


def list_affected(connection: sa.Connection, grouping: GroupingEngine, now: datetime) -> list[dict[str, Any]]:
    """Sets that hold a product which stands on what is excluded now: name, products (how many), affected (which)."""
    if not active_ids(connection):
        return []
    judged = _judge(connection, grouping, store.list_sets(connection), now)
    return [
        {"name": row["name"], "products": len(row["products"]), "affected": row["affected"], "contact": row["contact"]}
        for row in judged
        if row["affected"]
    ]


def _judge(
    connection: sa.Connection, grouping: GroupingEngine, sets: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """Sets with why each product is excluded now, None where it is not, and what takes its place."""
    pipelines = {item["run"]: item["pipeline"] for row in sets for item in row["products"]}
    why = why_excluded(connection, find_excluded(connection, grouping, now), pipelines) if pipelines else {}
    instead = _find_instead(connection, {run for run, reason in why.items() if reason})
    missing = missing_products(connection)
    return [_set(row, why, instead, missing) for row in sets]


def list_incomplete(connection: sa.Connection) -> list[dict[str, Any]]:
    """Sets of which files are gone, though nothing of ours removes them: name, products (how many), missing (which)."""
    missing = missing_products(connection)
    found = []
    for row in store.list_sets(connection) if missing else ():
        gone = [item["product"] for item in row["products"] if item["product"] in missing]
        if gone:
            found.append({"name": row["name"], "products": len(row["products"]), "missing": gone})
    return found


def _find_instead(connection: sa.Connection, run_ids: set[int]) -> dict[tuple[int, str], dict[str, Any]]:
    """Good products of the same sub-group under the same name, by (run, path)."""
    beside = {run: now for run, now in store.current_runs_beside(connection, run_ids).items() if now not in (None, run)}
    old = views.list_products_of_runs(connection, beside)
    new: dict[tuple[int, str], dict[str, Any]] = {}
    for row in views.list_products_of_runs(connection, {run for run in beside.values() if run is not None}):
        if row["status"] == "present" and not (row["stale"] or "").startswith(EXCLUDED):
            new[row["run"], row["name"]] = row
    found = {}
    for row in old:
        match = new.get((beside[row["run"]] or 0, row["name"]))
        if match is not None:
            found[row["run"], row["full_path"]] = match
    return found


def _set(
    row: Mapping[str, Any],
    why: Mapping[int, str | None],
    instead: Mapping[tuple[int, str], Mapping[str, Any]],
    missing: Collection[int],
) -> dict[str, Any]:
    products = []
    for item in row["products"]:
        other = instead.get((item["run"], item["path"]))
        place = {"product": other["product"], "path": other["full_path"], "sha256": other["sha256"]} if other else None
        products.append({**item, "excluded": why.get(item["run"]), "instead": place})
    document = {
        "name": row["name"],
        "doi": row["doi"],
        "contact": row["contact"],
        "note": row["note"],
        "actor": row["actor"],
        "published_at": utc_text(row["created_at"]),
        "products": products,
        "affected": [item["product"] for item in products if item["excluded"]],
        "missing": [item["product"] for item in products if item["product"] in missing],
    }
    return {**document, "notice": notice_lines(document) if document["affected"] else []}


# --- for people -------------------------------------------------------------------------------------------------------


def set_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A row of the list."""
    size = size_text(sum(item["size"] for item in row["products"]))
    affected = f"{len(row['affected'])} of {len(row['products'])}" if row["affected"] else "-"
    return (row["name"], len(row["products"]), size, row["doi"], row["contact"], row["published_at"], affected)


def product_cells(item: Mapping[str, Any]) -> tuple[object, ...]:
    """A row of one set."""
    mark = f" (excluded: {item['excluded']})" if item["excluded"] else ""
    size, digest = size_text(item["size"]), item["sha256"][:8]
    return (item["product"], item["run"], item["type"], size, digest, f"{item['path']}{mark}")


def missing_lines(row: Mapping[str, Any]) -> list[str]:
    """What to do where files of a set are gone."""
    if not row["missing"]:
        return []
    names = ", ".join(str(number) for number in row["missing"][:MAX_NAMED])
    more = f" and {len(row['missing']) - MAX_NAMED} more" if len(row["missing"]) > MAX_NAMED else ""
    return [
        f"the files of product {names}{more} are gone, and nothing of ours removed them",
        "next: bring them back to where they were, then ccatwm fsck --yes --reason TEXT",
        f"next: ccatwm rebuild {row['missing'][0]} --dir DIR",
    ]


def head_lines(row: Mapping[str, Any]) -> list[str]:
    """What stands above the products of a set."""
    words = [f"{key} {row[key]}" for key in ("doi", "contact", "note") if row[key]]
    lines = [f"published set {row['name']}, {row['published_at']}, by {row['actor']}", *(f"  {word}" for word in words)]
    if row["affected"]:
        lines.append(f"  AFFECTED: {affected_text(row['affected'], len(row['products']))}")
    return lines


def incomplete_lines(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """For `status`."""
    return [
        f"published set {row['name']} is not whole: the files of {len(row['missing'])} of "
        f"{count_text(row['products'], 'product')} are gone"
        for row in sets
    ]


def affected_lines(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """For `status`."""
    return [f"published set {row['name']} is affected: {affected_text(row['affected'], row['products'])}" for row in sets]


def affected_text(affected: Sequence[int], of: int) -> str:
    return f"{len(affected)} of {count_text(of, 'product')} on what is excluded now"
