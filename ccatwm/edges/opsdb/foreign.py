"""Somebody else's observation tables, as their catalogue describes them and the site's map names them.

Touches: PostgreSQL's catalogue and nothing else. One query tells of all tables of the map: asking again each time is
cheaper than to know whether what was remembered still holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ccatwm.core.opsdb_map import NEEDED, ROOT, JoinedTable, MappedTable, OpsDbMap
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.observations import JOIN_GRAPH, Edge, ObservationTables, key_kind
from ccatwm.edges.opsdb.types import Json, Labels, NaiveUtc, Opaque, PaddedText, UtcDateTime, Uuid

OWN_SCHEMA = t.SCHEMA
Name = tuple[str, str]  # schema and table
Place = tuple[str | int, ...]  # in the file of the map

# What the catalogue says of tables and views (PostgreSQL manual, System Catalogs); a domain is as its base type.
DESCRIBE = """
SELECT n.nspname, c.relname, a.attname, a.attnotnull, b.typname, b.typtype,
       has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT'),
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = b.oid)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = COALESCE(NULLIF(t.typbasetype, 0), t.oid)
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (n.nspname, c.relname) IN %s
ORDER BY 1, 2, a.attnum
"""
_TYPES: Mapping[str, Any] = {
    "int2": sa.BigInteger, "int4": sa.BigInteger, "int8": sa.BigInteger, "oid": sa.BigInteger, "numeric": sa.Numeric,
    "float4": sa.Float, "float8": sa.Float, "bool": sa.Boolean, "text": sa.Text, "varchar": sa.Text, "name": sa.Text,
    "citext": sa.Text, "bpchar": PaddedText, "timestamptz": UtcDateTime, "timestamp": NaiveUtc, "date": sa.Date,
    "uuid": Uuid,
}  # fmt: skip
_JSON = ("json", "jsonb")
TIMES = ("timestamptz", "timestamp")
# What a column must be able to say, so that there is anything to do.
USABLE = {("RawDataPackage", "state"): "archived", ("PhysicalCopy", "status"): "present"}


@dataclass(frozen=True)
class FoundColumn:
    """A column of theirs; `readable`: by this role."""

    name: str
    type_name: str
    is_enum: bool
    labels: tuple[str, ...]
    not_null: bool
    readable: bool

    @property
    def type(self) -> sa.types.TypeEngine[Any]:
        if self.is_enum:
            return Labels(self.labels)
        if self.type_name in _JSON:
            return Json
        kind: sa.types.TypeEngine[Any] = _TYPES.get(self.type_name, Opaque)()
        return kind


@dataclass(frozen=True)
class FoundTable:
    """A table or view of theirs."""

    schema: str
    name: str
    columns: Mapping[str, FoundColumn]

    @property
    def readable(self) -> bool:
        return any(column.readable for column in self.columns.values())


@dataclass(frozen=True)
class Lack:
    """What the map names and their database does not have, or not for this role. `table` and `column`: for a GRANT."""

    place: Place
    what: str
    next: str = ""
    denied: tuple[str, str, str] | None = None  # schema, table, column (empty: all)


@dataclass
class Foreign:
    """What came of a map in a database: the tables, and what they lack."""

    tables: ObservationTables
    lacks: list[Lack] = field(default_factory=list)
    found: Mapping[Name, FoundTable] = field(default_factory=dict)


def describe(connection: sa.Connection, names: Collection[Name]) -> dict[Name, FoundTable]:
    """Those tables and views that are there, with all their columns, in one query."""
    columns: dict[Name, dict[str, FoundColumn]] = {}
    if names:
        for row in connection.exec_driver_sql(DESCRIBE, (tuple(sorted(names)),)):
            schema, table, name, not_null, type_name, type_kind, readable, labels = row
            column = FoundColumn(name, type_name, type_kind == "e", tuple(labels or ()), not_null, readable)
            columns.setdefault((schema, table), {})[name] = column
    return {name: FoundTable(*name, found) for name, found in columns.items()}


def find_tables(connection: sa.Connection, mapped: OpsDbMap) -> Foreign:
    """The observation tables that the map names, and all that is wrong between it and the database."""
    names = {(part.schema, part.table) for part in mapped.tables.values() if part.table}
    names |= {(j.schema, j.table) for part in mapped.tables.values() for j in part.joined}
    return build_tables(mapped, describe(connection, names))


def build_tables(mapped: OpsDbMap, found: Mapping[Name, FoundTable]) -> Foreign:
    """The observation tables of a map, from what was found of theirs."""
    builder = _Builder(mapped, found)
    return Foreign(builder.tables(), builder.lacks, found)


class _Builder:
    """Collects every lack: what is missing hides nothing else."""

    def __init__(self, mapped: OpsDbMap, found: Mapping[Name, FoundTable]) -> None:
        self.mapped = mapped
        self.found = found
        self.lacks: list[Lack] = []
        self._columns: dict[str, dict[str, FoundColumn]] = {}  # of each logical table, by the name it goes by here

    def _lack(self, place: Place, what: str, next: str = "", denied: tuple[str, str, str] | None = None) -> None:
        self.lacks.append(Lack(place, what, next, denied))

    def tables(self) -> ObservationTables:
        sources = {name: self._source(name, table) for name, table in self.mapped.tables.items()}
        there = {name: source for name, source in sources.items() if source is not None}
        mapped = {name: table for name, table in self.mapped.tables.items() if name in there}
        bare = ObservationTables(
            tables=there,
            renamed={(n, ours): _label(c) for n, t in mapped.items() for ours, c in t.columns.items()},
            values={(n, c): _keyed(c, words) for n, t in mapped.items() for c, words in t.values.items()},
            fixed={(n, c): value for n, t in mapped.items() for c, value in t.fixed.items()},
            prefixes={(n, c): prefix for n, t in mapped.items() for c, prefix in t.prefixes.items()},
            changing=dict(self._change_times(mapped)),
            full_every_seconds={n: t.full_every_seconds for n, t in mapped.items() if t.full_every_seconds},
        )
        for name, table in mapped.items():
            self._check(bare, name, table)
        return ObservationTables(**{**_fields(bare), "graph": tuple(self._edges(bare))})

    # --- one table ----------------------------------------------------------------------------------------

    def _source(self, name: str, table: MappedTable) -> sa.FromClause | None:
        """Their table, or a query of their tables and the map's rows; None where it is not there."""
        if not table.table:
            return _row_query(name, table.rows)
        main = self._find(("tables", name), table.schema, table.table)
        if main is None:
            return None
        joined = [(n, part, self._find(("tables", name, "joined", n), part.schema, part.table))
                  for n, part in enumerate(table.joined)]  # fmt: skip
        source: sa.FromClause = main
        known = {c.name: c for c in self.found[table.schema, table.table].columns.values() if c.readable}
        if joined:
            source, known = self._join(name, table, main, [(n, j, t) for n, j, t in joined if t is not None], known)
        self._columns[name] = known
        if table.rows:
            source = _row_query(name, [_stored_row(table, row) for row in table.rows], source)
        return source

    def _find(self, place: Place, schema: str, name: str) -> sa.Table | None:
        found = self.found.get((schema, name))
        if found is None:
            self._lack(place, f"there is no table {schema}.{name}", "correct the name in the map")
        elif not found.readable:
            self._lack(place, f"this role may not read {schema}.{name}", denied=(schema, name, ""))
        else:
            columns = [sa.Column(c.name, c.type) for c in found.columns.values() if c.readable]
            return sa.Table(name, sa.MetaData(), *columns, schema=schema)
        return None

    def _join(
        self,
        name: str,
        table: MappedTable,
        main: sa.Table,
        joined: Iterable[tuple[int, JoinedTable, sa.Table]],
        known: dict[str, FoundColumn],
    ) -> tuple[sa.FromClause, dict[str, FoundColumn]]:
        clause: sa.FromClause = main
        shown: dict[str, sa.ColumnElement[Any]] = {column.name: column for column in main.c}
        known = dict(known)
        for n, part, other in joined:
            place: Place = ("tables", name, "joined", n)
            missing = [f"{table.table}.{a}" for a in part.by if a not in main.c]
            missing += [f"{part.table}.{b}" for b in part.by.values() if b not in other.c]
            if missing:
                self._lack(place, f"there is no column {' and no '.join(missing)}", "correct `by` in the map")
                continue
            link = sa.and_(*(main.c[a] == other.c[b] for a, b in part.by.items()))
            clause = clause.join(other, link, isouter=True)
            for column in other.c:
                label = column.name if column.name not in shown else _label(f"{part.table}.{column.name}")
                shown[label] = column
                known[label] = self.found[part.schema, part.table].columns[column.name]
                full = f"{part.table}.{column.name}"
                if full in (*table.columns.values(), table.change_time):
                    shown[_label(full)], known[_label(full)] = column, known[label]
        columns = [column.label(label) for label, column in shown.items()]
        return sa.select(*columns).select_from(clause).subquery(f"{name.lower()}_of"), known

    def _change_times(self, mapped: Mapping[str, MappedTable]) -> Iterator[tuple[str, str]]:
        for name, table in mapped.items():
            if table.change_time is None:
                continue
            column = self._columns[name].get(_label(table.change_time))
            place: Place = ("tables", name, "change_time")
            if column is None:
                self._no_column(place, name, table, table.change_time)
            elif column.type_name not in TIMES:
                what = f"{name}: {table.change_time} is no time but {column.type_name}"
                self._lack(place, what, "name a timestamp, or leave change_time out: the table is then compared in full")
            else:
                yield name, _label(table.change_time)

    def _no_column(self, place: Place, name: str, table: MappedTable, column: str) -> None:
        """A column that is not there, or that this role may not read."""
        main = self.found[table.schema, table.table]
        if column in main.columns and not main.columns[column].readable:
            what = f"this role may not read {table.schema}.{table.table}.{column}"
            self._lack(place, what, denied=(table.schema, table.table, column))
            return
        known = ", ".join(sorted(self._columns[name]))
        self._lack(place, f"{name}: {table.schema}.{table.table} has no column {column}", f"it has: {known}")

    def _check(self, tables: ObservationTables, name: str, table: MappedTable) -> None:
        for ours, theirs in table.columns.items():
            if theirs and table.table and _label(theirs) not in self._columns[name]:
                self._no_column(("tables", name, "columns", ours), name, table, theirs)
        for column in NEEDED.get(name, ()):
            if not tables.has(name, column) and not table.columns.get(column):
                self._lack(("tables", name), f"{name}.{column} is not there", "name its column, or fix its value")
        if table.key_type and tables.has(name, "id"):
            kind = key_kind(tables.column(name, "id"))
            if kind != table.key_type:
                self._lack(("tables", name, "key_type"), f"{name}.id is {kind}, not {table.key_type}", "correct the map")
        if tables.has(name, "active") and name == "DataLocation" and (name, "active") not in tables.values:
            kind_of_it = tables.column(name, "active").type
            if not isinstance(kind_of_it, sa.Boolean):
                what = f"{name}.active is neither true nor false"
                self._lack(("tables", name), what, "say by `values: {active: {true: ..., false: ...}}` what is which")
        for column, words in table.values.items():
            self._check_words(tables, name, column, words)
        for (of, column), wanted in USABLE.items():
            if of == name and tables.has(name, column):
                self._check_usable(tables, name, column, wanted)

    def _check_words(
        self, tables: ObservationTables, name: str, column: str, words: Mapping[str, tuple[Any, ...]]
    ) -> None:
        place: Place = ("tables", name, "values", column)
        if not tables.has(name, column):
            self._lack(place, f"{name}.{column} is not there", "name its column in `columns`")
            return
        kind = tables.column(name, column).type
        if isinstance(kind, Labels):
            for word in (w for theirs in words.values() for w in theirs if w not in kind.labels):
                self._lack(place, f"{name}.{column} is never {word!r}", f"its values are {', '.join(kind.labels)}")

    def _check_usable(self, tables: ObservationTables, name: str, column: str, wanted: str) -> None:
        """Whether their column can say that a row is of use: else nothing would ever be done, and nothing said."""
        kind = tables.column(name, column).type
        if (name, column) in tables.fixed:
            stored: tuple[Any, ...] = (tables.fixed[name, column],)
        else:
            known = tables.values.get((name, column), {})
            if wanted in known or type(kind) not in (Labels, sa.Boolean, sa.BigInteger, sa.Numeric, sa.Float):
                return
            stored = kind.labels if isinstance(kind, Labels) else ()
        if wanted not in (word.lower() if column == "state" else word for word in map(str, stored)):
            what = f"{name}.{column} is never {wanted!r}"
            self._lack(("tables", name), what, f"say by `values: {{{column}: {{{wanted}: ...}}}}` what stands for it there")

    # --- joins --------------------------------------------------------------------------------------------

    def _edges(self, tables: ObservationTables) -> Iterator[Edge]:
        """Built-in joins whose columns are there, unless the map has others; and those of the map."""
        own = {(edge.left, edge.right) for edge in self.mapped.edges}
        left_out = {*self.mapped.without, *own}
        for edge in JOIN_GRAPH:
            if (edge.left, edge.right) not in left_out and _joins(tables, edge):
                yield edge
        for n, named in enumerate(self.mapped.edges):
            edge = Edge(named.left, named.left_column, named.right, named.right_column, named.many)
            if _joins(tables, edge):
                yield edge
            elif {edge.left, edge.right} <= tables.tables.keys():
                sides = ((edge.left, edge.left_column), (edge.right, edge.right_column))
                missing = [f"{t}.{c}" for t, c in sides if not tables.has(t, c)]
                self._lack(("edges", n), f"the join needs {' and '.join(missing)}", "name the columns in the map")


def _joins(tables: ObservationTables, edge: Edge) -> bool:
    return tables.has(edge.left, edge.left_column) and tables.has(edge.right, edge.right_column)


def _label(column: str) -> str:
    """`table.column` as a column of the query is called."""
    return column.replace(".", "__")


def _keyed(column: str, words: Mapping[str, tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
    """`active` is true or false here, whatever it is there."""
    if column != "active":
        return dict(words)
    return {{"true": True, "false": False}.get(ours, ours): theirs for ours, theirs in words.items()}


def _stored_row(table: MappedTable, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the map as their table would have it."""
    words = {column: {ours: theirs[0] for ours, theirs in known.items()} for column, known in table.values.items()}
    return {_label(table.columns.get(c, c)): words.get(c, {}).get(value, value) for c, value in row.items()}


def _row_query(
    name: str, rows: Iterable[Mapping[str, Any]], table: sa.FromClause | None = None
) -> sa.FromClause:
    """Rows of the map as a query, after those of `table`, whose types they get: PostgreSQL finds these out by itself."""
    rows = list(rows)
    if table is None:
        types = {key: _literal_type(row[key]) for row in rows for key in row}
        values = [[sa.cast(sa.literal(row.get(c)), kind).label(c) for c, kind in types.items()] for row in rows]
        queries = [sa.select(*row) for row in values]
    else:
        queries = [sa.select(*table.c)]
        for row in rows:
            given = (sa.null() if row.get(c.name) is None else sa.literal(row[c.name], sa.String()) for c in table.c)
            queries.append(sa.select(*(value.label(c.name) for value, c in zip(given, table.c, strict=True))))
    return (queries[0] if len(queries) == 1 else sa.union_all(*queries)).subquery(f"{name.lower()}_rows")


def _literal_type(value: Any) -> sa.types.TypeEngine[Any]:
    kinds: dict[type, Any] = {bool: sa.Boolean, int: sa.BigInteger, float: sa.Float}
    kind: sa.types.TypeEngine[Any] = next((k for t, k in kinds.items() if isinstance(value, t)), sa.Text)()
    return kind


def _fields(tables: ObservationTables) -> dict[str, Any]:
    names = ("tables", "graph", "renamed", "values", "fixed", "prefixes", "changing", "full_every_seconds")
    return {name: getattr(tables, name) for name in names}


def unreachable(tables: ObservationTables) -> list[str]:
    """Tables of the map that no join leads to: rules cannot name them."""
    return [name for name in tables.tables if name != ROOT and not tables.paths(name)]
