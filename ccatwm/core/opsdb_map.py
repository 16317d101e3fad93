"""What somebody else's observation tables are called: the map of a foreign ops-db as plain values. Pure.

`core.opsdb_map_file` reads it from what people write; here is what passes need, which is kept as JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAP_FILE = "opsdb-map.yaml"
FORMAT = 1  # of the JSON
ROOT = "RawDataPackage"
# What the passes need of each logical table, and what else they use where it is there.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "RawDataPackage": ("id", "name", "state"),
    "DataLocation": ("name",),
    "PhysicalCopy": ("raw_data_package_id", "data_location_id", "path", "status"),
    "InstrumentModule": ("name",),
    "Instrument": ("name",),
    "RawDataFile": ("raw_data_package_id", "name"),
}


@dataclass(frozen=True)
class JoinedTable:
    """A further table of theirs that holds a part of the same rows: `by` is column of the first -> column of this one."""

    table: str
    by: Mapping[str, str]
    schema: str = ""


@dataclass(frozen=True)
class MappedTable:
    """One logical table: which of theirs holds it, and what its columns and values are called there.

    `columns`: ours -> theirs (`table.column` for a joined one, empty for none). `values`: column -> our word -> theirs.
    `fixed`: what they have no column for, and is true of all rows. `rows`: rows that they have not. `change_time`:
    theirs, None where there is none that can be trusted.
    """

    table: str = ""
    schema: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    joined: tuple[JoinedTable, ...] = ()
    key_type: str = ""
    change_time: str | None = None
    full_every_seconds: float | None = None


@dataclass(frozen=True)
class MappedEdge:
    """left.left_column = right.right_column, by logical names; `many`: several rows of `right` belong to one of `left`."""

    left: str
    left_column: str
    right: str
    right_column: str
    many: bool = False


@dataclass(frozen=True)
class OpsDbMap:
    """The whole map. `edges` are added to the built-in joins, in place of one between the same two tables."""

    tables: Mapping[str, MappedTable]
    edges: tuple[MappedEdge, ...] = ()
    without: tuple[tuple[str, str], ...] = ()  # built-in joins that do not hold there

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> OpsDbMap:
        """What `to_json` made."""
        tables = {name: _table(dict(table)) for name, table in data["tables"].items()}
        edges = tuple(MappedEdge(**edge) for edge in data["edges"])
        return OpsDbMap(tables, edges, tuple((left, right) for left, right in data["without"]))


def _table(data: dict[str, Any]) -> MappedTable:
    words = {
        column: {ours: tuple(theirs) for ours, theirs in known.items()} for column, known in data["values"].items()
    }
    joined = tuple(JoinedTable(**table) for table in data["joined"])
    return MappedTable(**{**data, "values": words, "joined": joined, "rows": tuple(data["rows"])})
