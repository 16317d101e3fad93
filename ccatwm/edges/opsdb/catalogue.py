"""All tables of somebody else's database, for a draft of the map and for what to ask its owner for.

Touches: PostgreSQL's catalogue, and the values of few short columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ccatwm.core.opsdb_guess import WORDS, SeenColumn, SeenTable
from ccatwm.core.opsdb_map import MappedTable, OpsDbMap
from ccatwm.edges.opsdb.foreign import OWN_SCHEMA, TIMES, FoundTable, Name, describe
from ccatwm.edges.opsdb.observations import ObservationTables

MOST_WORDS = 30
FEW_ROWS = 10_000  # a table of fewer rows needs no index
SMALL_BYTES = 1 << 20  # nor does one of this size, where nobody has counted its rows and it is not of GROWING
GROWING = (
    "RawDataPackage", "ExecutedObsUnit", "ObsUnit", "RawDataPackageMetadata", "RawDataFile", "PhysicalCopy",
)  # fmt: skip
# What people name when they exclude, backfill, or ask where something went.
SOUGHT = (
    ("RawDataPackage", "name", "to find a package by its name"),
    ("ExecutedObsUnit", "name", "to find the packages of one by its name"),
    ("ExecutedObsUnit", "start_time", "to find the packages of a period"),
)
# Tables and views of people: none of the system's, of an extension (PostGIS has some), or ours.
LIST = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
  AND n.nspname <> %s AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
KEYS = """
SELECT n.nspname, c.relname, k.contype::text, a.attname, rn.nspname, r.relname, ra.attname, array_length(k.conkey, 1)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (k.conkey)
LEFT JOIN pg_catalog.pg_class r ON r.oid = k.confrelid LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN pg_catalog.pg_attribute ra ON ra.attrelid = r.oid AND ra.attnum = k.confkey[1]
WHERE k.contype IN ('p', 'f') AND (n.nspname, c.relname) IN %s
ORDER BY 1, 2, array_position(k.conkey, a.attnum)
"""
INDEXES = """
SELECT n.nspname, c.relname, c.relkind::text, c.reltuples, pg_relation_size(c.oid),
       array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
WHERE (n.nspname, c.relname) IN %s GROUP BY 1, 2, 3, 4, 5
"""


def list_tables(connection: sa.Connection) -> list[SeenTable]:
    """Tables of others that this role may read some of, with their keys."""
    names = [(row[0], row[1]) for row in connection.exec_driver_sql(LIST, (OWN_SCHEMA,))]
    if not names:
        return []
    primary: dict[Name, tuple[str, ...]] = {}
    foreign: dict[Name, dict[str, tuple[str, str, str]]] = {}
    for schema, table, kind, column, *target, length in connection.exec_driver_sql(KEYS, (tuple(names),)):
        if kind == "p":
            primary[schema, table] = (*primary.get((schema, table), ()), column)
        elif length == 1:
            foreign.setdefault((schema, table), {})[column] = (target[0], target[1], target[2])
    found = describe(connection, names)
    return [
        SeenTable(*name, _columns(connection, table), primary.get(name, ()), foreign.get(name, {}))
        for name, table in found.items()
        if table.readable
    ]


def list_closed(connection: sa.Connection) -> list[Name]:
    """Tables of others of which this role may read nothing."""
    names = [(row[0], row[1]) for row in connection.exec_driver_sql(LIST, (OWN_SCHEMA,))]
    found = describe(connection, names)
    return [name for name in names if name in found and not found[name].readable]


def _columns(connection: sa.Connection, table: FoundTable) -> dict[str, SeenColumn]:
    return {
        column.name: SeenColumn(_kind(column.type_name), column.not_null, column.labels)
        for column in table.columns.values()
        if column.readable
    }


def _kind(type_name: str) -> str:
    if type_name in ("int2", "int4", "int8", "oid", "numeric"):
        return "integer"
    if type_name in ("text", "varchar", "bpchar", "name", "citext"):
        return "text"
    return "time" if type_name in TIMES else type_name


def read_words(connection: sa.Connection, table: SeenTable, column: str) -> tuple[str, ...]:
    """The values of a text column, if they are few."""
    named = sa.table(table.name, sa.column(column), schema=table.schema)
    first = sa.select(named.c[column]).limit(100_000).subquery()
    query = sa.select(sa.cast(first.c[column], sa.Text)).distinct().limit(MOST_WORDS + 1)
    words = [word for word in connection.execute(query).scalars() if word is not None]
    return tuple(sorted(words)) if len(words) <= MOST_WORDS else ()


def word_columns(logical: str) -> list[str]:
    """Columns of a logical table whose values are words of ours."""
    return [column for table, column in WORDS if table == logical]


# --- indexes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MissingIndex:
    """A column of theirs by which passes look for rows in a table that is, or may be, large. `why`: what for."""

    schema: str
    table: str
    column: str
    why: str


def missing_indexes(
    connection: sa.Connection, mapped: OpsDbMap, tables: ObservationTables, found: Mapping[Name, FoundTable]
) -> list[MissingIndex]:
    """Indexes to ask for; none of views, and of tables that are known to be small."""
    wanted: dict[tuple[str, str, str], str] = {}
    growing: set[Name] = set()
    for logical, column, why in _looked_for(tables):
        part = mapped.tables.get(logical)
        if part is not None and part.table and tables.has(logical, column) and (logical, column) not in tables.fixed:
            owner = _owner(part, part.columns.get(column, column), found)
            wanted.setdefault(owner, why)
            growing |= {owner[:2]} if logical in GROWING else set()
    for part in (mapped.tables[name] for name in tables.reachable()):
        if part.change_time:
            wanted.setdefault(_owner(part, part.change_time, found), "to find what has changed")
    if not wanted:
        return []
    names = tuple(sorted({place[:2] for place in wanted}))
    state = {(row[0], row[1]): row[2:] for row in connection.exec_driver_sql(INDEXES, (names,))}
    return [
        MissingIndex(*place, why)
        for place, why in wanted.items()
        if _lacks(state.get(place[:2]), place[2], grows=place[:2] in growing)
    ]


def _lacks(state: Any, column: str, *, grows: bool) -> bool:
    if state is None or state[0] not in ("r", "p", "m"):
        return False
    kind, rows, size, indexed = state
    small = rows < FEW_ROWS if rows >= 0 else not grows and kind != "p" and size < SMALL_BYTES
    return column not in (indexed or ()) and not small


def _looked_for(tables: ObservationTables) -> Iterator[tuple[str, str, str]]:
    """By which columns rows of logical tables are looked for, and why."""
    for name in tables.reachable():
        yield name, "id", "to find rows by their key"
    for edge in tables.graph:
        yield edge.left, edge.left_column, f"to find packages from {edge.right}"
        yield edge.right, edge.right_column, f"to find it from {edge.left}"
    for name, column, why in SOUGHT:
        if (name, column) not in tables.prefixes:  # else no index would help
            yield name, column, why


def _owner(part: MappedTable, column: str, found: Mapping[Name, FoundTable]) -> tuple[str, str, str]:
    """Schema, table and column of a column of a logical table, which a joined one may hold."""
    table, dot, name = column.partition(".")
    for joined in part.joined:
        place = (joined.schema, joined.table)
        if dot and joined.table == table:
            return (*place, name)
        main, other = found.get((part.schema, part.table)), found.get(place)
        if not dot and main and other and column not in main.columns and column in other.columns:
            return (*place, column)
    return part.schema, part.table, column
