"""Upgrade and check of the ops-db's schema. Touches: the ops-db."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import KNOWN, branches, list_differences, read_revisions, upgrade_tables
from ccatwm.errors import SchemaVersionError


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
        return "newer" if self.found > max(self.known) else "older"


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
    """Bring every branch to this release. Errors: SchemaVersionError for a schema that is newer than it."""
    versions = check_versions(database, observations)
    newer = [v for v in versions if v.state == "newer"]
    if newer:
        raise SchemaVersionError(
            f"the ops-db's {newer[0].branch} tables have schema version {newer[0].found}, "
            "newer than this release knows",
            where=database.safe_url,
            next="install the newer release of ccatwm",
        )
    return UpgradeReport(database.safe_url, upgrade_tables(database, observations=observations))


def check_versions(database: Database, observations: str) -> list[BranchVersion]:
    """The versions alone."""
    with database.read() as connection:
        found = read_revisions(connection)
    return [BranchVersion(b, found.get(b, ""), tuple(sorted(KNOWN[b]))) for b in branches(observations)]
