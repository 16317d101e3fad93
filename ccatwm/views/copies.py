"""Says which physical copies of raw data packages are bad. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ccatwm.core.wording import utc_text
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import views
from ccatwm.interfaces import PackageCopy

COLUMNS = ("package", "location", "finding", "found at", "path")


def list_bad_copies(connection: sa.Connection, grouping: GroupingEngine) -> list[dict[str, Any]]:
    """Copies that were found corrupt or missing and that the observation tables still offer."""
    reports = views.list_copy_reports(connection)
    if not reports:
        return []
    offered = grouping.copies(connection, sorted({row["package_id"] for row in reports}))
    return [_finding(row) for row in reports if _is_offered(row, offered.get(row["package_id"], ()))]


def _is_offered(report: dict[str, Any], copies: Collection[PackageCopy]) -> bool:
    return any((copy.location, copy.path) == (report["location"], report["path"]) for copy in copies)


def _finding(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "package": row["package_name"],
        **{key: row[key] for key in ("location", "path", "finding", "message")},
        "found_at": utc_text(row["found_at"]),
    }


def list_copies(
    connection: sa.Connection, grouping: GroupingEngine, package_ids: Collection[str]
) -> list[dict[str, Any]]:
    """The copies of a package that may be read, each with what was found of it (null: nothing bad)."""
    reports = {
        (row["package_id"], row["location"], row["path"]): row
        for row in views.list_copy_reports(connection, package_ids)
    }
    found = grouping.copies(connection, sorted(package_ids))
    return [
        _copy(copy, reports.get((package_id, copy.location, copy.path)))
        for package_id, copies in sorted(found.items())
        for copy in copies
    ]


def _copy(copy: PackageCopy, report: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "location": copy.location,
        "storage": copy.storage,
        "path": copy.path,
        "finding": report["finding"] if report else None,
        "message": report["message"] if report else None,
        "found_at": utc_text(report["found_at"]) if report else None,
    }


def bad_copy_cells(row: dict[str, Any]) -> tuple[object, ...]:
    """A row for people."""
    found_at = row["found_at"][:16].replace("T", " ")
    return (row["package"], row["location"], row["finding"], found_at, row["path"])


def copy_lines(copies: Collection[dict[str, Any]]) -> list[str]:
    """The copies of a package in words."""
    if not copies:
        return ["copies: none that may be read is known"]
    return ["copies:", *(f"  {copy['location']}: {copy['path']}{_found(copy)}" for copy in copies)]


def _found(copy: dict[str, Any]) -> str:
    if copy["finding"] is None:
        return ""
    at = copy["found_at"][:16].replace("T", " ")
    return f"  {copy['finding'].upper()}, found at {at} UTC: {copy['message']}"
