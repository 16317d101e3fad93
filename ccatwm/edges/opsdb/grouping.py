"""The filter engine: which raw data packages a data grouping selects, and how they fall into sub-groups.

Touches: the observation tables, read only. Joins are found from RawDataPackage by the declarative join graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from ccatwm.core.rules import Node, ParsedRules, Rule, choices
from ccatwm.core.subgroups import Dimension, obs_date, parse_group_by, sub_group_key
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.observations import ROOT, Joins, ObservationTables
from ccatwm.edges.opsdb.rule_sql import RuleCompiler, fits, json_kind_of, kind_of, text_of, values_of
from ccatwm.errors import DefinitionsError, Problem
from ccatwm.interfaces import PackageCopy

CHUNK = 500
# Words of an executed obs unit's status that say that no more data will come; its end time says so as well.
FINAL_STATUSES = ("completed", "success", "successful", "failed", "aborted", "cancelled", "finished")
READABLE_COPIES = ("present", "staged")
T = TypeVar("T")


@dataclass(frozen=True)
class PackageFacts:
    """What the ops-db says of a raw data package. `ended`: its executed obs unit will send no more; `observed_at`:
    when that began."""

    name: str
    checksum: str | None
    size_bytes: int | None
    state: str
    executed_obs_unit_id: str | None
    instrument_module_id: str | None
    ended: bool
    observed_at: datetime | None


class GroupedPackage(NamedTuple):
    """A package that a grouping selects, in any state, with the key of its sub-group. Ids are text."""

    package_id: str
    package_name: str
    checksum: str | None
    size_bytes: int | None
    state: str
    executed_obs_unit_id: str | None
    instrument_module_id: str | None
    ended: bool
    observed_at: datetime | None
    key: str
    dims: Mapping[str, str | None]  # shared by all packages of a sub-group: not to be changed


@dataclass(frozen=True)
class Location:
    """A data location as the ops-db knows it."""

    id: str
    name: str
    location_type: str
    storage_type: str
    base_path: str | None


class GroupingEngine:
    """Checks and resolves groupings on one database. `obs_timezone` is where observing nights are local."""

    def __init__(self, tables: ObservationTables, dialect: str, obs_timezone: str) -> None:
        self._tables = tables
        self._compiler = RuleCompiler(tables, dialect)
        self._timezone = obs_timezone
        self._states: dict[Any, str] = {}  # what few words mean, asked for every package
        self._finals: dict[Any, bool] = {}

    # --- checking ---------------------------------------------------------------------------------

    def check(self, rules_raw: object, group_by_raw: object, where: str = "") -> list[Problem]:
        """Everything that is wrong with rules and dimensions, before anything is run."""
        return self._read(rules_raw, group_by_raw, where)[2]

    def _read(
        self, rules_raw: object, group_by_raw: object, where: str = ""
    ) -> tuple[Node | None, tuple[Dimension, ...], list[Problem]]:
        parsed = ParsedRules.build(rules_raw, where)
        group_by = f"{where}.group_by" if where else "group_by"
        dims, problems = parse_group_by(group_by_raw, group_by)
        problems = [*parsed.problems, *problems]
        for rule in parsed.rules:
            problems += self._check_rule(rule)
        for table, column, path, place in parsed.columns:
            problems += self._check_column(table, column, path, place)
        for dim in dims:
            problems += self._check_dimension(dim, group_by)
        return parsed.tree, dims, problems

    def _check_rule(self, rule: Rule) -> list[Problem]:
        problems = self._check_column(rule.table, rule.column, rule.json_path, rule.where)
        if problems:
            return problems
        what = f"{rule.table}.{rule.column} {rule.operator}"
        kind = kind_of(self._column(rule.table, rule.column))
        if rule.operator in ("is_null", "not_null"):
            return []
        if kind == "JSON" and rule.json_path is None:
            return [Problem(rule.where, f"{what}: the column is JSON", "say which part by json_path")]
        wrong = _wrong_value(rule, kind)
        return [Problem(rule.where, f"{what} {wrong}", _WANTED[kind])] if wrong else []

    def _check_column(self, table: str, column: str, json_path: str | None, where: str) -> list[Problem]:
        if table not in self._tables.tables:
            return [Problem(where, f"unknown table {table!r}", choices(table, self._tables.reachable()))]
        known = self._tables.column_names(table)
        if column not in known:
            return [Problem(where, f"table {table} has no column {column!r}", choices(column, known))]
        paths = self._tables.paths(self._tables.resolve(table, column)[0])
        if not paths:
            hint = f"allowed: {', '.join(self._tables.reachable())}"
            return [Problem(where, f"table {table} cannot be reached from {ROOT}", hint)]
        if len(paths) > 1:
            ways = " and ".join(" > ".join([ROOT, *(edge.right for edge in path)]) for path in paths)
            hint = "the join graph must have one shortest way"
            return [Problem(where, f"table {table} is reached in more than one way: {ways}", hint)]
        if json_path is not None and kind_of(self._column(table, column)) != "JSON":
            return [
                Problem(
                    where, f"json_path on {table}.{column}, which is no JSON column", "leave json_path out"
                )
            ]
        return []

    def _check_dimension(self, dim: Dimension, where: str) -> list[Problem]:
        problems = self._check_column(dim.table, dim.column, dim.json_path, where)
        if problems:
            return problems
        what = f"dimension {dim.name}"
        table, _ = self._tables.resolve(dim.table, dim.column)
        if any(edge.many for edge in self._tables.paths(table)[0]):
            return [
                Problem(where, f"{what}: a package may have several {dim.table}", "group by another table")
            ]
        if kind_of(self._column(dim.table, dim.column)) == "JSON" and dim.json_path is None:
            return [
                Problem(where, f"{what}: {dim.table}.{dim.column} is JSON", "say which part by json_path")
            ]
        return []

    def _column(self, table: str, column: str) -> sa.ColumnElement[Any]:
        return self._tables.column(*self._tables.resolve(table, column))

    # --- resolving --------------------------------------------------------------------------------

    def members(
        self,
        connection: sa.Connection,
        rules_raw: object,
        group_by_raw: object,
        *,
        now: datetime,
        package_ids: Sequence[str] | None = None,
        after_id: str | None = None,
        limit: int | None = None,
    ) -> list[GroupedPackage]:
        """Packages in any state that satisfy the rules: those of `package_ids`, or a page of all, by id.

        Errors: DefinitionsError for rules that `check` refuses.
        """
        node, dims, problems = self._read(rules_raw, group_by_raw)
        if node is None or problems:
            raise DefinitionsError("filter rules or group_by are wrong", problems=problems)
        query = self._members_query(node, dims, now)
        package_id = self._root("id")
        if package_ids is not None:
            pages = [query.where(package_id.in_(ids)) for ids in _chunks(_keys(package_id, package_ids))]
        else:
            rest = query if after_id is None else query.where(package_id > _key(package_id, after_id))
            pages = [rest.order_by(package_id).limit(limit)]
        return [grouped for page in pages for grouped in self._grouped(connection.execute(page).all(), dims)]

    def _members_query(self, node: Node, dims: Sequence[Dimension], now: datetime) -> sa.Select[Any]:
        joins = Joins(self._tables)
        where = self._compiler.compile(node, joins, now)
        columns = self._fact_columns(joins)
        columns += [self._dim_column(dim, joins).label(f"dim_{n}") for n, dim in enumerate(dims)]
        return sa.select(*columns).select_from(joins.clause).where(where)

    def _fact_columns(self, joins: Joins) -> list[sa.ColumnElement[Any]]:
        unit = partial(self._tables.column, "ExecutedObsUnit", of=joins.reach("ExecutedObsUnit"))
        columns: list[sa.ColumnElement[Any]] = [
            self._root(column).label(column) for column in _PACKAGE_COLUMNS
        ]
        times = [unit("start_time").label("unit_start"), unit("end_time").label("unit_end")]
        return [*columns, *times, unit("status").label("unit_status")]

    def _dim_column(self, dim: Dimension, joins: Joins) -> sa.ColumnElement[Any]:
        table, column = self._tables.resolve(dim.table, dim.column)
        found = self._tables.column(table, column, joins.reach(table))
        return self._compiler.json_text(found, dim.json_path) if dim.json_path else found

    def _grouped(self, rows: Iterable[Sequence[Any]], dims: Sequence[Dimension]) -> list[GroupedPackage]:
        """Rows of `_members_query`. Keys are made once for all packages of a sub-group, here a run of a million."""
        keys: dict[tuple[Any, ...], tuple[str, dict[str, str | None]]] = {}
        found = []
        for row in rows:
            values = tuple(row[FACT_COLUMNS:])
            place = keys.get(values)
            if place is None:
                place = keys[values] = self._place(values, dims)
            found.append(GroupedPackage._make((str(row[0]), *self._fact_values(row), *place)))
        return found

    def _place(self, values: Sequence[Any], dims: Sequence[Dimension]) -> tuple[str, dict[str, str | None]]:
        texts = [self._dim_text(dim, value) for dim, value in zip(dims, values, strict=True)]
        key = sub_group_key([(dim.shown, text) for dim, text in zip(dims, texts, strict=True)])
        return key, {dim.name: text for dim, text in zip(dims, texts, strict=True)}

    def _dim_text(self, dim: Dimension, value: Any) -> str | None:
        if dim.json_path:
            return self._compiler.read_json_text(value)
        if dim.named and dim.name == "obs_date" and value is not None:
            return obs_date(value, self._timezone).isoformat()
        return text_of(value)

    def _fact_values(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """The values of PackageFacts, from the first columns of a row."""
        _, name, checksum, size, state, unit, module, start, end, status = row[:FACT_COLUMNS]
        return (
            name, checksum, size, self._state_text(state), None if unit is None else str(unit),
            None if module is None else str(module), unit is None or end is not None or self._is_final(status), start,
        )  # fmt: skip

    def _state_text(self, state: Any) -> str:
        if state not in self._states:
            self._states[state] = str(self._tables.spoken(ROOT, "state", state)).lower()
        return self._states[state]

    def _is_final(self, status: Any) -> bool:
        if status not in self._finals:
            text = str(self._tables.spoken("ExecutedObsUnit", "status", status) or "").lower()
            self._finals[status] = text in FINAL_STATUSES
        return self._finals[status]

    def _root(self, column: str) -> sa.ColumnElement[Any]:
        return self._tables.column(ROOT, column)

    # --- what changed -----------------------------------------------------------------------------

    def observed_tables(self) -> list[str]:
        """Logical tables that a grouping could read and that say when their rows change."""
        return [name for name in self._tables.reachable() if self._tables.change_time(name) is not None]

    def changed_rows(
        self, connection: sa.Connection, logical: str, since: datetime, limit: int
    ) -> list[tuple[str, datetime]]:
        """(row id, change time) of rows not older than `since` that are not remembered as seen so, oldest first."""
        change, row_id = self._change_time(logical), self._tables.column(logical, "id")
        query = (
            sa.select(row_id.label("id"), change.label("at"))
            .where(change >= since, ~_seen(logical, row_id, change).exists())
            .order_by(change, row_id)
            .limit(limit)
        )
        return [(str(row.id), row.at) for row in connection.execute(query)]

    def newest_change(self, connection: sa.Connection, logical: str) -> datetime | None:
        """The latest change time of a table; None where it has no rows."""
        change = self._change_time(logical)
        query = sa.select(change).where(change.is_not(None)).order_by(change.desc()).limit(1)
        return connection.execute(query).scalar()

    def remember_rows(self, connection: sa.Connection, logical: str, since: datetime) -> None:
        """All rows that changed not before `since` count as seen."""
        change, row_id = self._change_time(logical), self._tables.column(logical, "id")
        rows = sa.select(sa.literal(logical), sa.cast(row_id, sa.Text), change).where(
            change >= since, ~_seen(logical, row_id, change).exists()
        )
        connection.execute(sa.insert(t.change_seen).from_select(["table_name", "row_id", "changed_at"], rows))

    def _change_time(self, logical: str) -> sa.ColumnElement[Any]:
        change = self._tables.change_time(logical)
        assert change is not None, f"{logical} has no change time"
        return change

    def select_packages(self, logical: str, row_ids: Iterable[str]) -> list[sa.Select[Any]]:
        """Queries for the ids, as text, of the packages that a change of these rows can affect."""
        joins = Joins(self._tables, outer=False)
        column = self._tables.column(logical, "id", joins.reach(logical))
        package_id = sa.cast(self._root("id"), sa.Text).label("package_id")
        query = sa.select(package_id).select_from(joins.clause).distinct()
        return [query.where(column.in_(ids)) for ids in _chunks(_keys(column, row_ids))]

    # --- facts that staging and people ask for ----------------------------------------------------

    def package_facts(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, PackageFacts]:
        """What the ops-db says of packages, by id."""
        joins = Joins(self._tables)
        query = sa.select(*self._fact_columns(joins)).select_from(joins.clause)
        package_id = self._root("id")
        pages = [query.where(package_id.in_(ids)) for ids in _chunks(_keys(package_id, package_ids))]
        rows = (row for page in pages for row in connection.execute(page))
        return {str(row[0]): PackageFacts(*self._fact_values(row)) for row in rows}

    def copies(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, list[PackageCopy]]:
        """Physical copies that may be read, at active locations, by package id."""
        query, package = self._copies_query()
        found: dict[str, list[PackageCopy]] = {}
        for ids in _chunks(_keys(package, package_ids)):
            for row in connection.execute(query.where(package.in_(ids))):
                storage = self._tables.spoken("DataLocation", "storage_type", row.storage)
                copy = PackageCopy(str(row.id), row.location, storage, row.root, row.path, row.priority or 0)
                found.setdefault(str(row.package), []).append(copy)
        return found

    def _copies_query(self) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        copy, place = self._tables.table("PhysicalCopy"), self._tables.table("DataLocation")
        c = partial(self._tables.column, "PhysicalCopy")
        d = partial(self._tables.column, "DataLocation")
        statuses = [self._tables.stored("PhysicalCopy", "status", status) for status in READABLE_COPIES]
        columns = {
            "id": c("id"), "package": c("raw_data_package_id"), "path": c("path"), "location": d("name"),
            "storage": d("storage_type"), "root": d("base_path"), "priority": d("priority"),
        }  # fmt: skip
        query = (
            sa.select(*(column.label(name) for name, column in columns.items()))
            .select_from(copy.join(place, d("id") == c("data_location_id")))
            .where(c("status").in_(statuses), d("active"))
            .order_by(c("id"))
        )
        return query, c("raw_data_package_id")

    def file_list(self, connection: sa.Connection, package_id: str) -> dict[str, tuple[int, str | None]]:
        """(size, checksum) of the files that a package lists, by path inside it; only those with a size."""
        c = partial(self._tables.column, "RawDataFile")
        columns = (c("name").label("name"), c("size_bytes").label("size"), c("checksum").label("checksum"))
        query = sa.select(*columns).where(
            c("raw_data_package_id") == _key(c("raw_data_package_id"), package_id),
            c("size_bytes").is_not(None),
        )
        return {row.name: (row.size, row.checksum) for row in connection.execute(query)}

    def location(self, connection: sa.Connection, name_or_id: str) -> Location | None:
        """A data location by name, else by id."""
        d = partial(self._tables.column, "DataLocation")
        query = sa.select(*(d(column).label(column) for column in _LOCATION_COLUMNS))
        row = connection.execute(query.where(d("name") == name_or_id)).first()
        ids = _keys(d("id"), [name_or_id])
        if row is None and ids:
            row = connection.execute(query.where(d("id").in_(ids))).first()
        return None if row is None else self._location(row)

    def modules(self, connection: sa.Connection) -> list[str]:
        """All instrument modules, as INSTRUMENT/MODULE."""
        instrument, module = self._tables.table("Instrument"), self._tables.table("InstrumentModule")
        m, i = partial(self._tables.column, "InstrumentModule"), partial(self._tables.column, "Instrument")
        query = sa.select(i("name").label("instrument"), m("name").label("module")).select_from(
            module.join(instrument, m("instrument_id") == i("id"))
        )
        return sorted(f"{row.instrument}/{row.module}" for row in connection.execute(query))

    def locations(self, connection: sa.Connection) -> list[Location]:
        """All data locations."""
        d = partial(self._tables.column, "DataLocation")
        query = sa.select(*(d(column).label(column) for column in _LOCATION_COLUMNS)).order_by(d("id"))
        return [self._location(row) for row in connection.execute(query)]

    def _location(self, row: Any) -> Location:
        spoken = partial(self._tables.spoken, "DataLocation")
        types = spoken("location_type", row.location_type), spoken("storage_type", row.storage_type)
        return Location(str(row.id), row.name, *types, row.base_path)


_PACKAGE_COLUMNS = (
    "id",
    "name",
    "checksum",
    "size_bytes",
    "state",
    "executed_obs_unit_id",
    "instrument_module_id",
)
FACT_COLUMNS = len(_PACKAGE_COLUMNS) + 3  # and start, end and status of the executed obs unit
_LOCATION_COLUMNS = ("id", "name", "location_type", "storage_type", "base_path")
_WANTED = {
    "number": "the column is a number",
    "true/false": "the column is true or false",
    "text": "the column is a text (quote numbers)",
    "time": "the column is a time: write 2026-03-01, 2026-03-01T12:00:00Z, or use since",
    "JSON": "since is for times, and both ends of between are of one kind",
}


def _wrong_value(rule: Rule, kind: str) -> str | None:
    """What of the rule does not go with a column of this kind, or None."""
    if rule.operator == "since":
        return None if kind == "time" else repr(rule.value)
    if rule.operator in ("like", "ilike"):
        return None if kind in ("text", "JSON") else repr(rule.value)
    values = values_of(rule)
    if kind == "JSON":
        mixed = rule.operator == "between" and len({json_kind_of(value) for value in values}) > 1
        return repr(values) if mixed else None
    wrong = [value for value in values if not fits(kind, value)]
    return repr(wrong[0]) if wrong else None


def _seen(logical: str, row_id: sa.ColumnElement[Any], change: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Whether a row was read before with this very change time."""
    seen = t.change_seen
    return sa.select(seen.c.id).where(
        seen.c.table_name == logical, seen.c.row_id == sa.cast(row_id, sa.Text), seen.c.changed_at == change
    )


def _key(column: sa.ColumnElement[Any], text: str) -> Any:
    """An id as the database has it, from its text."""
    return int(text) if isinstance(column.type, sa.Integer) else text


def _keys(column: sa.ColumnElement[Any], texts: Iterable[str]) -> list[Any]:
    """Ids as the database has them; text that can be no id of this column is left out."""
    numbers = isinstance(column.type, sa.Integer)
    return [_key(column, t) for t in texts if not numbers or (t.isascii() and t.isdecimal() and len(t) <= 18)]


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
