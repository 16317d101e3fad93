"""Upgrade and check of the ops-db's schema. Touches: the ops-db."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import (
    KNOWN,
    branches,
    is_migration,
    list_differences,
    read_revisions,
    upgrade_tables,
)
from ccatwm.errors import SchemaVersionError

UNKNOWN_NEXT = "use the release of ccatwm that made these tables, or restore the ops-db from a backup"


@dataclass(frozen=True)
class BranchVersion:
    """One branch: the revision found (empty: none) and those that this release works with."""

    branch: str
    found: str
    known: tuple[str, ...]

    @property
    def state(self) -> str:
        if self.found in self.known:
            return "current"
        if not self.found:
            return "missing"
        if is_migration(self.found):
            return "older"
        return "newer" if _number(self.found) > _number(max(self.known, default=self.found)) else "unknown"


def _number(revision: str) -> int:
    """Of `pipeline_0001`: 1; -1 for what no release of ours calls itself."""
    number = revision.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


@dataclass(frozen=True)
class SchemaReport:
    """What `db check` found: versions, and differences to what this release declares."""

    url: str
    versions: tuple[BranchVersion, ...]
    differences: tuple[str, ...]

    @property
    def fine(self) -> bool:
        return not self.differences and all(version.state == "current" for version in self.versions)

    @property
    def next(self) -> str:
        states = {version.state for version in self.versions}
        if "newer" in states:
            return "install the newer release of ccatwm"
        if "unknown" in states:
            return UNKNOWN_NEXT
        if states & {"missing", "older"}:
            return "run `ccatwm db upgrade`"
        return "" if self.fine else "have these differences made good by whoever changed the tables by hand"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.db-check/1",
            "url": self.url,
            "fine": self.fine,
            "versions": [
                {"branch": v.branch, "found": v.found or None, "known": list(v.known), "state": v.state}
                for v in self.versions
            ],
            "differences": list(self.differences),
            "next": self.next,
        }


def check_schema(database: Database, *, observations: str = "managed") -> SchemaReport:
    """Versions of each branch; where they are current also what is missing or unexpected in the tables."""
    database.check_answers()
    versions = tuple(check_versions(database, observations))
    current = all(version.state == "current" for version in versions)
    differences = tuple(list_differences(database, observations=observations)) if current else ()
    return SchemaReport(database.safe_url, versions, differences)


@dataclass(frozen=True)
class UpgradeReport:
    """(before, after) revision by branch; nothing before means that the tables were made."""

    url: str
    changes: dict[str, tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.db-upgrade/1",
            "url": self.url,
            "branches": [
                {"branch": branch, "before": before or None, "after": after or None}
                for branch, (before, after) in self.changes.items()
            ],
        }


def upgrade_schema(database: Database, *, observations: str = "managed") -> UpgradeReport:
    """Bring every branch to this release. Errors: SchemaVersionError for a schema that is newer, or not known at all."""
    database.check_answers()
    for version in check_versions(database, observations):
        if version.state in ("newer", "unknown"):
            newer = version.state == "newer"
            raise SchemaVersionError(
                f"the ops-db's {version.branch} tables have schema version {version.found}, "
                + ("newer than this release knows" if newer else "which this release does not know"),
                where=database.safe_url,
                next="install the newer release of ccatwm" if newer else UNKNOWN_NEXT,
            )
    return UpgradeReport(database.safe_url, upgrade_tables(database, observations=observations))


def check_versions(database: Database, observations: str) -> list[BranchVersion]:
    """The versions alone."""
    with database.read() as connection:
        found = read_revisions(connection)
    strange = [BranchVersion(b or "other", found[b], ()) for b in sorted(found.keys() - KNOWN.keys())]
    ours = [BranchVersion(b, found.get(b, ""), tuple(sorted(KNOWN[b]))) for b in branches(observations)]
    return ours + strange
