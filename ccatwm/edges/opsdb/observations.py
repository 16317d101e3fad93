"""The observation tables by logical name: the one place that knows what they and their columns are called.

Touches: nothing. The tables may be somebody else's: the filter engine asks here for tables, columns, enum
values and joins, and knows none of them by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.types import Uuid

ROOT = "RawDataPackage"
# How a key of a kind is written, and what its text is cast to.
_AS_KEY: Mapping[str, tuple[str, sa.types.TypeEngine[Any]]] = {
    "integer": ("^-?([0-9]{1,18}|[1-8][0-9]{18})$", sa.BigInteger()),
    "uuid": ("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", sa.Uuid()),
}
LARGEST_KEY = 2**63 - 1  # of 64 bits
CHANGE_TIME = "updated_at"


@dataclass(frozen=True)
class Edge:
    """left.left_column = right.right_column; `many`: several rows of `right` may belong to one of `left`."""

    left: str
    left_column: str
    right: str
    right_column: str
    many: bool = False


JOIN_GRAPH: tuple[Edge, ...] = (
    Edge("RawDataPackage", "executed_obs_unit_id", "ExecutedObsUnit", "id"),
    Edge("RawDataPackage", "instrument_module_id", "InstrumentModule", "id"),
    Edge("RawDataPackage", "id", "RawDataPackageMetadata", "raw_data_package_id"),
    Edge("ExecutedObsUnit", "obs_unit_id", "ObsUnit", "id"),
    Edge("ObsUnit", "source_id", "Source", "id"),
    Edge("ObsUnit", "observing_program_id", "ObservingProgram", "id"),
    Edge("InstrumentModule", "instrument_id", "Instrument", "id"),
    Edge("Instrument", "telescope_id", "Telescope", "id"),
    Edge("Telescope", "observatory_id", "Observatory", "id"),
    Edge("RawDataPackage", "id", "RawDataFile", "raw_data_package_id", many=True),
    Edge("RawDataPackage", "id", "PhysicalCopy", "raw_data_package_id", many=True),
    Edge("PhysicalCopy", "data_location_id", "DataLocation", "id"),
    Edge("DataLocation", "site_id", "Site", "id"),
)
MANAGED_TABLES: Mapping[str, sa.Table] = {
    "Site": t.site,
    "DataLocation": t.data_location,
    "Observatory": t.observatory,
    "Telescope": t.telescope,
    "Instrument": t.instrument,
    "InstrumentModule": t.instrument_module,
    "ObservingProgram": t.observing_program,
    "Source": t.source,
    "ObsUnit": t.obs_unit,
    "ExecutedObsUnit": t.executed_obs_unit,
    "RawDataPackage": t.raw_data_package,
    "RawDataPackageMetadata": t.raw_data_package_metadata,
    "RawDataFile": t.raw_data_file,
    "PhysicalCopy": t.physical_copy,
    "StagingJob": t.staging_job,
}
# Columns that people name where another table holds them: the original speaks of RawDataPackage.metadata.
ALIASES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("RawDataPackage", "metadata"): ("RawDataPackageMetadata", "data"),
    ("RawDataPackageMetadata", "metadata"): ("RawDataPackageMetadata", "data"),
}


@dataclass(frozen=True)
class ObservationTables:
    """Logical tables and their joins. `renamed` and `values`: what columns and enum values are called (one of our words
    may be several of theirs); `fixed` and `prefixes`: what no column holds. `changing`: logical tables to their change
    times, where these are not all called CHANGE_TIME. `full_every_seconds`: for tables compared in full."""

    tables: Mapping[str, sa.FromClause]
    graph: Sequence[Edge] = JOIN_GRAPH
    renamed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    values: Mapping[tuple[str, str], Mapping[Any, tuple[Any, ...]]] = field(default_factory=dict)
    fixed: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    prefixes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    changing: Mapping[str, str] | None = None
    full_every_seconds: Mapping[str, float] = field(default_factory=dict)
    _paths: dict[str, list[tuple[Edge, ...]]] = field(default_factory=dict, init=False, compare=False)

    @staticmethod
    def managed() -> ObservationTables:
        """The tables that ccatwm makes and `ingest` fills."""
        return ObservationTables(MANAGED_TABLES)

    def table(self, logical: str) -> sa.FromClause:
        """Errors: KeyError."""
        return self.tables[logical]

    def resolve(self, logical: str, column: str) -> tuple[str, str]:
        """The table and column that hold what is called `logical`.`column`."""
        named = (logical, column)
        other = ALIASES.get(named, named)
        return other if other[0] in self.tables and not self.has(*named) else named

    def has(self, logical: str, column: str) -> bool:
        """Whether a column, or a value that is fixed, is there."""
        if (logical, column) in self.fixed:
            return True
        return logical in self.tables and self.column_name(logical, column) in self.tables[logical].c

    def column_name(self, logical: str, column: str) -> str:
        """What the column is called in the database."""
        return self.renamed.get((logical, column), column)

    def column(self, logical: str, column: str, of: sa.FromClause | None = None) -> sa.ColumnElement[Any]:
        """The column, of the table itself or of an alias of it. Errors: KeyError."""
        source = self.tables[logical] if of is None else of
        if (logical, column) in self.fixed:
            return sa.literal(self.fixed[logical, column])
        found = source.c[self.column_name(logical, column)]
        prefix = self.prefixes.get((logical, column))
        return found if prefix is None else sa.literal(prefix, sa.Text()) + found

    def optional(self, logical: str, column: str, of: sa.FromClause | None = None) -> sa.ColumnElement[Any]:
        """The column, or NULL where there is none."""
        return self.column(logical, column, of) if self.has(logical, column) else sa.null()

    def column_names(self, logical: str) -> list[str]:
        """Columns that a rule may name: by our names and by theirs."""
        back = {there: here for (table, here), there in self.renamed.items() if table == logical}
        names = [back.get(c.name, c.name) for c in self.tables[logical].columns]
        names += [c.name for c in self.tables[logical].columns if c.name not in names and self.has(logical, c.name)]
        names += [column for table, column in self.fixed if table == logical]
        aliases = [column for table, column in ALIASES if table == logical and ALIASES[table, column][0] in self.tables]
        return names + [column for column in aliases if column not in names]

    def stored(self, logical: str, column: str, value: Any) -> tuple[Any, ...]:
        """The value as this database stores it: one, or several that mean the same."""
        return self.values.get((logical, column), {}).get(value, (value,))

    def spoken(self, logical: str, column: str, value: Any) -> Any:
        """What `stored` makes `value` from: enum values as this project calls them."""
        known = self.values.get((logical, column), {})
        return next((ours for ours, theirs in known.items() if value in theirs), value)

    def change_time(self, logical: str) -> sa.ColumnElement[Any] | None:
        """The column that says when a row last changed, or None where there is no usable one."""
        if self.changing is None:
            return self.tables[logical].c.get(self.column_name(logical, CHANGE_TIME))
        name = self.changing.get(logical)
        return None if name is None else self.tables[logical].c[name]

    def paths(self, target: str) -> list[tuple[Edge, ...]]:
        """All shortest join paths from RawDataPackage to `target`; [()] for the root, [] if unreachable."""
        if target not in self._paths:
            self._paths[target] = self._find_paths(target)
        return self._paths[target]

    def _find_paths(self, target: str) -> list[tuple[Edge, ...]]:
        frontier: list[tuple[str, tuple[Edge, ...]]] = [(ROOT, ())]
        visited = {ROOT}
        while frontier:
            found = [path for table, path in frontier if table == target]
            if found:
                return found
            frontier = [
                (edge.right, (*path, edge))
                for table, path in frontier
                for edge in self.graph
                if edge.left == table and edge.right not in visited and edge.right in self.tables
            ]
            visited |= {table for table, _ in frontier}
        return []

    def reachable(self) -> list[str]:
        """Logical tables that rules may name."""
        return [name for name in self.tables if self.paths(name)]


class Joins:
    """The joins of one query: every table once, reached along its shortest path."""

    def __init__(self, tables: ObservationTables, *, start: str = ROOT, outer: bool = True) -> None:
        self._tables = tables
        self._outer = outer
        self.start: sa.FromClause = tables.table(start) if start == ROOT else tables.table(start).alias()
        self.clause: sa.FromClause = self.start
        self._there: dict[str, sa.FromClause] = {start: self.start}

    def reach(self, logical: str) -> sa.FromClause:
        """The table, joined if it was not yet."""
        if logical not in self._there:
            self.reach_along(self._tables.paths(logical)[0])
        return self._there[logical]

    def reach_along(self, path: Sequence[Edge]) -> sa.FromClause:
        """The table at the end of `path`, which begins at a table that is there."""
        for edge in path:
            if edge.right not in self._there:
                right = self._tables.table(edge.right).alias()
                link = self.link(edge, self._there[edge.left], right)
                self.clause = self.clause.join(right, link, isouter=self._outer)
                self._there[edge.right] = right
        return self._there[path[-1].right] if path else self.start

    def link(self, edge: Edge, left: sa.FromClause, right: sa.FromClause) -> sa.ColumnElement[bool]:
        """The condition of an edge between two given tables."""
        left_column = self._tables.column(edge.left, edge.left_column, left)
        right_column = self._tables.column(edge.right, edge.right_column, right)
        if key_kind(left_column) != key_kind(right_column):  # PostgreSQL compares no uuid with a text
            return sa.and_(*_same_text(left_column, right_column))
        if _is_numeric(left_column) != _is_numeric(right_column):
            return sa.and_(*_same_number(left_column, right_column))
        return left_column == right_column


def _same_text(left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Ids of two kinds are the same where their texts are. A text is compared once more, as an id of the other kind: one
    of the two finds rows of the left by an index, the other those of the right."""
    yield key_text(left) == key_text(right)
    for typed, text in ((left, right), (right, left)):
        if key_kind(text) == "text":
            pattern, kind = _AS_KEY[key_kind(typed)]
            # CASE keeps the cast from texts that are no such id.
            yield sa.type_coerce(typed, kind) == sa.case((text.regexp_match(pattern), sa.cast(text, kind)))


def _same_number(left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """PostgreSQL makes a `numeric` of the integer, whose index it then cannot use: a second comparison can."""
    yield left == right
    number, whole = (left, right) if _is_numeric(left) else (right, left)
    # CASE keeps the cast from numbers that are too large.
    fits = number.between(sa.literal_column(f"-{LARGEST_KEY}"), sa.literal_column(f"{LARGEST_KEY}"))
    yield sa.case((fits, sa.cast(number, sa.BigInteger()))) == whole


def _is_numeric(column: sa.ColumnElement[Any]) -> bool:
    return isinstance(column.type, sa.Numeric) and not isinstance(column.type, sa.Float)


def key_text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """The text by which ids of this column are known here: a `numeric` 5.00 is `5`, as Python writes the number."""
    return sa.cast(sa.func.trim_scale(column) if _is_numeric(column) else column, sa.Text)


def key_kind(column: sa.ColumnElement[Any]) -> str:
    """What ids of this column are: `integer`, `uuid` or `text`."""
    if isinstance(column.type, sa.Integer | sa.Numeric):
        return "integer"
    return "uuid" if isinstance(column.type, Uuid) else "text"
