"""The filter engine: which raw data packages a data grouping selects, and how they fall into sub-groups.

Touches: the observation tables, read only. Joins are found from RawDataPackage by the declarative join graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from ccatwm.core.rules import Node, ParsedRules, Rule, choices, ends_in_escape
from ccatwm.core.subgroups import Dimension, obs_date, parse_group_by, sub_group_key
from ccatwm.core.wording import short_text
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.observations import (
    LARGEST_KEY,
    ROOT,
    Edge,
    Joins,
    ObservationTables,
    key_kind,
    key_text,
)
from ccatwm.edges.opsdb.rule_sql import (
    UUID,
    RuleCompiler,
    as_text,
    fits,
    json_kind_of,
    kind_of,
    text_of,
    values_of,
)
from ccatwm.errors import DefinitionsError, Problem
from ccatwm.interfaces import PackageCopy

PACKAGES_PER_PAGE = 5000
WIDER = 8  # times as many packages are looked through where none of the last satisfied the rules
CHUNK = 500
# Words of an executed obs unit's status that say that no more data will come; its end time says so as well.
FINAL_STATUSES = ("completed", "success", "successful", "failed", "aborted", "cancelled", "finished")
READABLE_COPIES = ("present", "staged")
T = TypeVar("T")


class _Bits(sa.types.UserDefinedType[str]):
    """bit(60) of PostgreSQL, by which hexadecimal digits become a number."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BIT(60)"


_BITS = _Bits()


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
    """Checks and resolves groupings on one database. `obs_timezone` is where observing nights are local.

    `tables` may be what finds them: somebody else's are looked at when they are first needed.
    """

    def __init__(
        self, tables: ObservationTables | Callable[[], ObservationTables], dialect: str, obs_timezone: str
    ) -> None:
        self._given = tables
        self._dialect = dialect
        self._timezone = obs_timezone
        self._states: dict[Any, str] = {}  # what few words mean, asked for every package
        self._finals: dict[Any, bool] = {}

    @cached_property
    def _tables(self) -> ObservationTables:
        return self._given if isinstance(self._given, ObservationTables) else self._given()

    @property
    def tables(self) -> ObservationTables:
        """The observation tables as they are called here."""
        return self._tables

    @cached_property
    def _compiler(self) -> RuleCompiler:
        return RuleCompiler(self._tables, self._dialect)

    # --- checking ---------------------------------------------------------------------------------

    def check(self, rules_raw: object, group_by_raw: object, where: str = "") -> list[Problem]:
        """Everything that is wrong with rules and dimensions, before anything is run.

        Also what can be answered, but is never what somebody meant: rules that were stored before keep their answer.
        """
        parsed, _, problems = self._read(rules_raw, group_by_raw, where)
        told = {problem.where for problem in problems}
        doubtful = [self._check_sense(rule) for rule in parsed.rules if rule.where not in told]
        return problems + [problem for problem in doubtful if problem is not None]

    def _read(
        self, rules_raw: object, group_by_raw: object, where: str = ""
    ) -> tuple[ParsedRules, tuple[Dimension, ...], list[Problem]]:
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
        return parsed, dims, problems

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

    def _check_sense(self, rule: Rule) -> Problem | None:
        """Of a rule that is right otherwise: whether its bounds are in order, and its pattern is whole."""
        what = f"{rule.table}.{rule.column} {rule.operator} {short_text(rule.value)}"
        if rule.operator == "between" and self._compiler.is_reversed(rule):
            is_text = kind_of(self._column(rule.table, rule.column)) in ("text", "JSON") and isinstance(rule.value[0], str)
            order = ": texts are ordered by code point, 10 before 9 and Z before a" if is_text else ""
            what += f" matches nothing: the first bound is above the second{order}"
            return Problem(rule.where, what, "write [from, to], the lower one first", "value")
        if rule.operator in ("like", "ilike") and ends_in_escape(rule.value):
            what = f"{rule.table}.{rule.column} {rule.operator}: the pattern ends in a backslash that escapes nothing"
            hint = "write two for a backslash itself (four in double quotes), or leave it out"
            return Problem(rule.where, what, hint, "value")
        return None

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
        few: bool = False,
    ) -> list[GroupedPackage]:
        """Packages in any state that satisfy the rules: those of `package_ids`, or a page of all, by id.

        `few` of all are expected: whatever index leads to them is followed, not the ids.
        Errors: DefinitionsError for rules that `check` refuses.
        """
        parsed, dims, problems = self._read(rules_raw, group_by_raw)
        if parsed.tree is None or problems:
            raise DefinitionsError("filter rules or group_by are wrong", problems=problems)
        query = self._members_query(parsed.tree, dims, now)
        package_id = self._root("id")
        if package_ids is not None:
            pages = [query.where(package_id.in_(ids)) for ids in _chunks(as_keys(package_id, package_ids))]
            return [grouped for page in pages for grouped in self._grouped(connection.execute(page).all(), dims)]
        return self._grouped(self._page(connection, query, after_id, limit, few=few), dims)

    def pages(
        self, connection: sa.Connection, rules_raw: object, group_by_raw: object, *, now: datetime, few: bool = False
    ) -> Iterator[list[GroupedPackage]]:
        """All packages that satisfy the rules, some thousands at a time, by id; `few` and errors as `members`."""
        read = partial(self.members, connection, rules_raw, group_by_raw, now=now, limit=PACKAGES_PER_PAGE, few=few)
        page = read()
        while page:
            yield page
            page = read(after_id=page[-1].package_id)

    def _page(
        self, connection: sa.Connection, query: sa.Select[Any], after_id: str | None, limit: int | None, *, few: bool
    ) -> Sequence[sa.Row[Any]]:
        """The next rows by id, none only at the end.

        They are sought among the next `limit` packages, then among more and more: a database that is asked for the
        first rows of all that satisfy the rules may read and sort them all for each page.
        """
        package_id = self._root("id")
        after = None if after_id is None else _key(package_id, after_id)
        window = None if few else limit
        while True:
            last = self._last_of_window(connection, after, window)
            page = query if after is None else query.where(package_id > after)
            page = page if last is None else page.where(package_id <= last)
            rows = connection.execute(page.order_by(package_id).limit(limit)).all()
            if rows or last is None or window is None:
                return rows
            after, window = last, window * WIDER

    def _last_of_window(self, connection: sa.Connection, after: Any, window: int | None) -> Any:
        """The id of the `window`-th package after one; None where there are not so many."""
        if window is None:
            return None
        package_id = self._root("id")
        query = sa.select(package_id) if after is None else sa.select(package_id).where(package_id > after)
        return connection.execute(query.order_by(package_id).offset(window - 1).limit(1)).scalar()

    def _members_query(self, node: Node, dims: Sequence[Dimension], now: datetime) -> sa.Select[Any]:
        joins = Joins(self._tables)
        where = self._compiler.compile(node, joins, now)
        columns = self._fact_columns(joins)
        columns += [self._dim_column(dim, joins).label(f"dim_{n}") for n, dim in enumerate(dims)]
        return sa.select(*columns).select_from(joins.clause).where(where)

    def _fact_columns(self, joins: Joins) -> list[sa.ColumnElement[Any]]:
        columns = [self._fact_column(column).label(column) for column in _PACKAGE_COLUMNS]
        if not self._tables.paths("ExecutedObsUnit"):
            return [*columns, *(sa.null().label(f"unit_{column}") for column in _UNIT_COLUMNS)]
        unit = partial(self._tables.optional, "ExecutedObsUnit", of=joins.reach("ExecutedObsUnit"))
        return [*columns, *(unit(column).label(f"unit_{column}") for column in _UNIT_COLUMNS)]

    def _fact_column(self, column: str) -> sa.ColumnElement[Any]:
        found = self._tables.optional(ROOT, column)
        if column in _KEY_COLUMNS and isinstance(found.type, sa.Numeric):
            return key_text(found)
        # A UUID as its text: the driver would make objects of millions, which are made texts here.
        return as_text(found)

    @cached_property
    def _units_end(self) -> bool:
        """Whether executed obs units say that they have ended; else they have when their first package is there."""
        return any(self._tables.has("ExecutedObsUnit", column) for column in ("end_time", "status"))

    def _dim_column(self, dim: Dimension, joins: Joins) -> sa.ColumnElement[Any]:
        table, column = self._tables.resolve(dim.table, dim.column)
        found = self._tables.column(table, column, joins.reach(table))
        return self._compiler.json_text(found, dim.json_path) if dim.json_path else as_text(found)

    def _grouped(self, rows: Iterable[sa.Row[Any]], dims: Sequence[Dimension]) -> list[GroupedPackage]:
        """Rows of `_members_query`. Keys are made once for all packages of a sub-group, here a run of a million."""
        keys: dict[tuple[Any, ...], tuple[str, dict[str, str | None]]] = {}
        facts, make = self._fact_values, GroupedPackage._make
        found = []
        for row in rows:
            values = row[FACT_COLUMNS:]
            place = keys.get(values)
            if place is None:
                place = keys[values] = self._place(values, dims)
            found.append(make((str(row[0]), *facts(row), *place)))
        return found

    def _place(self, values: Sequence[Any], dims: Sequence[Dimension]) -> tuple[str, dict[str, str | None]]:
        texts = [self._dim_text(dim, value) for dim, value in zip(dims, values, strict=True)]
        key = sub_group_key([(dim.shown, text) for dim, text in zip(dims, texts, strict=True)])
        return key, {dim.name: text for dim, text in zip(dims, texts, strict=True)}

    def _dim_text(self, dim: Dimension, value: Any) -> str | None:
        if dim.json_path:
            return self._compiler.read_json_text(value)
        if dim.named and dim.name == "obs_date" and isinstance(value, datetime):
            return obs_date(value, self._timezone).isoformat()
        return text_of(self._tables.spoken(*self._tables.resolve(dim.table, dim.column), value))

    def _fact_values(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """The values of PackageFacts, from the first columns of a row."""
        _, name, checksum, size, state, unit, module, start, end, status = row[:FACT_COLUMNS]
        return (
            name, checksum, _whole(size), self._state_text(state), None if unit is None else str(unit),
            None if module is None else str(module), self._has_ended(unit, end, status), start,
        )  # fmt: skip

    def _has_ended(self, unit: Any, end: Any, status: Any) -> bool:
        return unit is None or end is not None or not self._units_end or self._is_final(status)

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
        return [name for name in self._tables.reachable() if self._tells_changes(name)]

    def _tells_changes(self, logical: str) -> bool:
        return self._tables.change_time(logical) is not None and self._tables.has(logical, "id")

    def silent_tables(self, rules_raw: object, group_by_raw: object) -> set[str]:
        """Logical tables that such a grouping reads and that do not say when their rows change."""
        rules, dims = ParsedRules.build(rules_raw).rules, parse_group_by(group_by_raw)[0]
        named = [(r.table, r.column) for r in rules] + [(d.table, d.column) for d in dims]
        ends = {self._tables.resolve(*name)[0] for name in named} | {ROOT, "ExecutedObsUnit"}
        read = {ROOT} | {edge.right for end in ends for path in self._tables.paths(end) for edge in path}
        return {name for name in read if not self._tells_changes(name)}

    @property
    def has_silent_tables(self) -> bool:
        """Whether any table that a grouping could read does not say when its rows change."""
        return any(not self._tells_changes(name) for name in self._tables.reachable())

    def full_every_seconds(self, logical: str, usual: float) -> float:
        """How often a table that does not say when its rows change is compared in full."""
        return self._tables.full_every_seconds.get(logical, usual)

    def table_digest(self, connection: sa.Connection, logical: str) -> str:
        """What tells whether any row of a table is another than before: their number, and the sums of their hashes."""
        table = self._tables.table(logical).alias("whole")
        row = sa.func.md5(sa.cast(sa.func.row(*table.c), sa.Text))
        halves = [sa.func.sum(sa.cast(sa.cast(sa.literal("x", sa.Text) + half, _BITS), sa.BigInteger)) for half in (
            sa.func.substr(row, 1, 15), sa.func.substr(row, 16, 15)
        )]  # fmt: skip
        counted = connection.execute(sa.select(sa.func.count(), *halves).select_from(table)).one()
        return ":".join(str(number or 0) for number in counted)

    def changed_rows(
        self, connection: sa.Connection, logical: str, since: datetime, limit: int
    ) -> list[tuple[str, datetime]]:
        """(row id, change time) of rows not older than `since` that are not remembered as seen so, oldest first."""
        change, row_id = self._change_time(logical), self._tables.column(logical, "id")
        query = (
            sa.select(key_text(row_id).label("id"), change.label("at"))
            .where(change >= since, ~_seen(logical, row_id, change).exists())
            .order_by(change, row_id)
            .limit(limit)
        )
        return [(row.id, row.at) for row in connection.execute(query)]

    def newest_change(self, connection: sa.Connection, logical: str) -> datetime | None:
        """The latest change time of a table; None where it has no rows."""
        change = self._change_time(logical)
        query = sa.select(change).where(change.is_not(None)).order_by(change.desc()).limit(1)
        return connection.execute(query).scalar()

    def remember_rows(self, connection: sa.Connection, logical: str, since: datetime) -> None:
        """All rows that changed not before `since` count as seen."""
        change, row_id = self._change_time(logical), self._tables.column(logical, "id")
        rows = sa.select(sa.literal(logical), key_text(row_id), change).where(
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
        package_id = key_text(self._root("id")).label("package_id")
        query = sa.select(package_id).select_from(joins.clause).distinct()
        return [query.where(column.in_(ids)) for ids in _chunks(as_keys(column, row_ids))]

    # --- facts that staging and people ask for ----------------------------------------------------

    def package_facts(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, PackageFacts]:
        """What the ops-db says of packages, by id."""
        joins = Joins(self._tables)
        query = sa.select(*self._fact_columns(joins)).select_from(joins.clause)
        package_id = self._root("id")
        pages = [query.where(package_id.in_(ids)) for ids in _chunks(as_keys(package_id, package_ids))]
        rows = (row for page in pages for row in connection.execute(page))
        return {str(row[0]): PackageFacts(*self._fact_values(row)) for row in rows}

    def copies(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, list[PackageCopy]]:
        """Physical copies that may be read, at active locations, by package id."""
        found: dict[str, list[PackageCopy]] = {}
        if not {"PhysicalCopy", "DataLocation"} <= self._tables.tables.keys():
            return found
        query, package, _ = self._copies_query()
        for ids in _chunks(as_keys(package, package_ids)):
            for row in connection.execute(query.where(package.in_(ids))):
                found.setdefault(row.package, []).append(self._copy(row))
        return found

    def first_copies(self, connection: sa.Connection) -> list[PackageCopy]:
        """A physical copy that may be read of each active location that has one."""
        if not {"PhysicalCopy", "DataLocation"} <= self._tables.tables.keys():
            return []
        query, _, place = self._copies_query()
        names = connection.execute(sa.select(self._tables.optional("DataLocation", "name"))).scalars()
        rows = (connection.execute(query.where(place == name).limit(1)).first() for name in sorted(names))
        return [self._copy(row) for row in rows if row is not None]

    def _copy(self, row: Any) -> PackageCopy:
        storage = self._tables.spoken("DataLocation", "storage_type", row.storage) or "disk"
        return PackageCopy(str(row.id), row.location, storage, row.root, row.path, row.priority or 0)

    def _copies_query(self) -> tuple[sa.Select[Any], sa.ColumnElement[Any], sa.ColumnElement[Any]]:
        """Copies that may be read at active locations; with what says whose package each is, and the location's name."""
        copy, place = self._tables.table("PhysicalCopy"), self._tables.table("DataLocation")
        if copy is place:
            place = place.alias()
        c = partial(self._tables.optional, "PhysicalCopy")
        d = partial(self._tables.optional, "DataLocation", of=place)
        columns = {
            "id": key_text(c("id")), "package": key_text(c("raw_data_package_id")), "path": c("path"),
            "location": d("name"), "storage": d("storage_type"), "root": d("base_path"), "priority": d("priority"),
        }  # fmt: skip
        edge = Edge("PhysicalCopy", "data_location_id", "DataLocation", "id")
        conditions = [self._compiler.is_one_of("PhysicalCopy", "status", READABLE_COPIES, c("status"))]
        if self._tables.has("DataLocation", "active"):
            conditions.append(self._compiler.is_one_of("DataLocation", "active", [True], d("active")))
        query = (
            sa.select(*(column.label(name) for name, column in columns.items()))
            .select_from(copy.join(place, Joins(self._tables).link(edge, copy, place)))
            .where(*conditions)
            .order_by(c("id"), columns["path"])
        )
        return query, c("raw_data_package_id"), d("name")

    def relations(self) -> list[tuple[str | None, str]]:
        """(schema, name) of the tables that are read of somebody else's; None for the schema that is looked in first."""
        parts = (part for source in self._tables.tables.values() for part in sa.sql.visitors.iterate(source))
        found = {(part.schema, str(part.name)) for part in parts if isinstance(part, sa.TableClause)}
        return sorted(found, key=lambda relation: (relation[0] or "", relation[1]))

    def file_lists(
        self, connection: sa.Connection, package_ids: Sequence[str]
    ) -> dict[str, dict[str, tuple[int, str | None]]]:
        """By package, (size, checksum) of the files that it lists, by path inside it; only those with a size."""
        found: dict[str, dict[str, tuple[int, str | None]]] = {package_id: {} for package_id in package_ids}
        if not self._tables.has("RawDataFile", "size_bytes"):
            return found
        c = partial(self._tables.optional, "RawDataFile")
        package = c("raw_data_package_id")
        columns = {
            "package": key_text(package), "name": c("name"), "size": c("size_bytes"), "checksum": c("checksum"),
        }  # fmt: skip
        query = sa.select(*(column.label(name) for name, column in columns.items())).where(c("size_bytes").is_not(None))
        for ids in _chunks(as_keys(package, package_ids)):
            for row in connection.execute(query.where(package.in_(ids))):
                found[row.package][row.name] = (int(row.size), row.checksum)
        return found

    def location(self, connection: sa.Connection, name_or_id: str) -> Location | None:
        """A data location by name, else by id."""
        d = partial(self._tables.optional, "DataLocation")
        query = sa.select(*(d(column).label(column) for column in _LOCATION_COLUMNS))
        row = connection.execute(query.where(d("name") == name_or_id)).first()
        ids = as_keys(d("id"), [name_or_id])
        if row is None and ids:
            row = connection.execute(query.where(d("id").in_(ids))).first()
        return None if row is None else self._location(row)

    def modules(self, connection: sa.Connection) -> list[str]:
        """All instrument modules, as INSTRUMENT/MODULE."""
        edge = next((e for e in self._tables.graph if (e.left, e.right) == ("InstrumentModule", "Instrument")), None)
        if edge is None or not self._tables.has("Instrument", "name"):
            return []
        joins = Joins(self._tables, start="InstrumentModule", outer=False)
        instrument = self._tables.column("Instrument", "name", joins.reach_along([edge]))
        module = self._tables.column("InstrumentModule", "name", joins.start)
        query = sa.select(instrument.label("instrument"), module.label("module")).select_from(joins.clause)
        return sorted(f"{row.instrument}/{row.module}" for row in connection.execute(query))

    def locations(self, connection: sa.Connection) -> list[Location]:
        """All data locations. Errors: KeyError where the observation tables tell nothing of them."""
        self._tables.table("DataLocation")
        d = partial(self._tables.optional, "DataLocation")
        query = sa.select(*(d(column).label(column) for column in _LOCATION_COLUMNS)).order_by(d("name"))
        return [self._location(row) for row in connection.execute(query)]

    def _location(self, row: Any) -> Location:
        spoken = partial(self._tables.spoken, "DataLocation")
        types = spoken("location_type", row.location_type), spoken("storage_type", row.storage_type)
        return Location(row.name if row.id is None else str(row.id), row.name, *types, row.base_path)

    def find_packages(self, connection: sa.Connection, name: str) -> dict[str, PackageFacts]:
        """What the ops-db says of the packages of this name, by id."""
        if not self._tables.has(ROOT, "name"):
            return {}
        query = sa.select(key_text(self._root("id"))).where(self._root("name") == name)
        return self.package_facts(connection, connection.execute(query).scalars().all())


_PACKAGE_COLUMNS = (
    "id",
    "name",
    "checksum",
    "size_bytes",
    "state",
    "executed_obs_unit_id",
    "instrument_module_id",
)
_KEY_COLUMNS = ("id", "executed_obs_unit_id", "instrument_module_id")
_UNIT_COLUMNS = ("start_time", "end_time", "status")
FACT_COLUMNS = len(_PACKAGE_COLUMNS) + len(_UNIT_COLUMNS)  # and start, end and status of the executed obs unit
_LOCATION_COLUMNS = ("id", "name", "location_type", "storage_type", "base_path")
_WANTED = {
    "number": "the column is a number",
    "true/false": "the column is true or false",
    "text": "the column is a text (quote numbers)",
    "date": "the column is a date: write 2026-03-01, or use since",
    "time": "the column is a time: write 2026-03-01, 2026-03-01T12:00:00Z, or use since",
    "JSON": "since is for times, and both ends of between are of one kind",
}


def _wrong_value(rule: Rule, kind: str) -> str | None:
    """What of the rule does not go with a column of this kind, or None."""
    if rule.operator == "since":
        return None if kind in ("time", "date") else repr(rule.value)
    if rule.operator in ("like", "ilike"):
        return None if kind in ("text", "JSON") else repr(rule.value)
    values = values_of(rule)
    if kind == "JSON":
        mixed = rule.operator == "between" and len({json_kind_of(value) for value in values}) > 1
        return repr(values) if mixed else None
    wrong = [value for value in values if not fits(kind, value)]
    return repr(wrong[0]) if wrong else None


def _whole(size: Any) -> int | None:
    """Sizes of other people may be `numeric`, which is no integer to Python and to JSON."""
    return size if size is None or type(size) is int else int(size)


def _seen(logical: str, row_id: sa.ColumnElement[Any], change: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Whether a row was read before with this very change time."""
    seen = t.change_seen
    return sa.select(seen.c.id).where(
        seen.c.table_name == logical, seen.c.row_id == key_text(row_id), seen.c.changed_at == change
    )


def _key(column: sa.ColumnElement[Any], text: str) -> Any:
    """An id as the database has it, from its text."""
    return int(text) if key_kind(column) == "integer" else text


_POSSIBLE = {"integer": re.compile(r"-?[0-9]{1,19}"), "uuid": UUID}


def as_keys(column: sa.ColumnElement[Any], texts: Iterable[str]) -> list[Any]:
    """Ids as the database has them; text that can be no id of this column is left out."""
    possible = _POSSIBLE.get(key_kind(column))
    keys = [_key(column, text) for text in texts if possible is None or possible.fullmatch(text)]
    return [key for key in keys if not isinstance(key, int) or abs(key) <= LARGEST_KEY]


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
