"""The filter engine: which raw data packages a data grouping selects, and how they fall into sub-groups.

Touches: the observation tables, read only. Joins are found from RawDataPackage by the declarative join graph; what lies
behind a to-many edge becomes EXISTS, so that rows never multiply. Values are bound, never written into SQL.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

import sqlalchemy as sa

from ccatwm.core.rules import AllOf, AnyOf, Node, Not, Rule, parse_rules, parse_since, walk
from ccatwm.core.subgroups import Dimension, obs_date, parse_group_by, sub_group_key
from ccatwm.edges.opsdb.observations import ROOT, Edge, ObservationTables
from ccatwm.edges.opsdb.types import UtcDateTime
from ccatwm.errors import DefinitionsError, Problem
from ccatwm.interfaces import PackageCopy

CHUNK = 500
FINAL_STATUSES = ("completed", "success", "successful", "failed", "aborted", "cancelled", "finished")
READABLE_COPIES = ("present", "staged")
ESCAPE = "\\"


@dataclass(frozen=True)
class GroupedPackage:
    """A package that a grouping selects, in any state, with the key of its sub-group. Ids are text."""

    package_id: str
    package_name: str
    checksum: str | None
    size_bytes: int | None
    state: str
    executed_obs_unit_id: str | None
    instrument_module_id: str | None
    ended: bool
    key: str
    dims: Mapping[str, Any]


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
        self._sqlite = dialect == "sqlite"
        self._timezone = obs_timezone

    # --- checking -----------------------------------------------------------------------------------------------

    def check(self, rules_raw: object, group_by_raw: object, where: str = "") -> list[Problem]:
        """Everything that is wrong with rules and dimensions, before anything is run."""
        node, problems = parse_rules(rules_raw, where)
        dims, more = parse_group_by(group_by_raw, f"{where}.group_by" if where else "group_by")
        problems += more
        for rule in walk(node) if node is not None else ():
            problems += self._check_rule(rule, where)
        for dim in dims:
            problems += self._check_dimension(dim, where)
        return problems

    def _check_rule(self, rule: Rule, where: str) -> list[Problem]:
        problems = self._check_column(rule.table, rule.column, rule.json_path, where)
        if problems:
            return problems
        what = f"{rule.table}.{rule.column} {rule.operator}"
        kind = self._kind(rule.table, rule.column)
        if rule.operator == "since" and kind != "time":
            return [Problem(where, what, "since is for times")]
        if rule.operator in ("like", "ilike") and kind not in ("text", "json"):
            return [Problem(where, what, f"the column is a {kind}, {rule.operator} is for texts")]
        if kind == "json" and rule.json_path is None and rule.operator not in ("is_null", "not_null"):
            return [Problem(where, what, "the column is JSON: say which part by json_path")]
        wrong = [v for v in _values(rule) if not _fits(kind, v)]
        return [Problem(where, f"{what} {wrong[0]!r}", f"the column is a {kind}")] if wrong else []

    def _check_column(self, table: str, column: str, json_path: str | None, where: str) -> list[Problem]:
        if table not in self._tables.tables:
            return [Problem(where, f"unknown table {table!r}", _choices(table, self._tables.reachable()))]
        if column not in self._tables.column_names(table):
            known = self._tables.column_names(table)
            return [Problem(where, f"table {table} has no column {column!r}", _choices(column, known))]
        real_table, _ = self._tables.resolve(table, column)
        paths = self._tables.paths(real_table)
        if not paths:
            next_ = f"reachable are: {', '.join(self._tables.reachable())}"
            return [Problem(where, f"table {table} cannot be reached from {ROOT}", next_)]
        if len(paths) > 1:
            ways = " or ".join(" > ".join([ROOT, *(e.right for e in path)]) for path in paths)
            return [Problem(where, f"table {table} can be reached in more than one way", ways)]
        if json_path is not None and self._kind(table, column) != "json":
            return [Problem(where, f"json_path on {table}.{column}, which is no JSON column", "leave json_path out")]
        return []

    def _check_dimension(self, dim: Dimension, where: str) -> list[Problem]:
        problems = self._check_column(dim.table, dim.column, dim.json_path, where)
        if problems:
            return problems
        table, _ = self._tables.resolve(dim.table, dim.column)
        if any(edge.many for edge in self._tables.paths(table)[0]):
            return [Problem(where, f"dimension {dim.name}: a package may have several {dim.table}", "group by another column")]
        if self._kind(dim.table, dim.column) == "json" and dim.json_path is None:
            return [Problem(where, f"dimension {dim.name}: {dim.column} is JSON", "say which part by json_path")]
        return []

    def _kind(self, table: str, column: str) -> str:
        real_table, real_column = self._tables.resolve(table, column)
        kind = self._tables.column(real_table, real_column).type
        if isinstance(kind, sa.JSON):
            return "json"
        if isinstance(kind, UtcDateTime | sa.DateTime):
            return "time"
        if isinstance(kind, sa.Boolean):
            return "true/false"
        return "number" if isinstance(kind, sa.Integer | sa.Numeric) else "text"

    # --- resolving ------------------------------------------------------------------------------------------------

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
        """Packages in any state that satisfy the rules, ordered by id; of `package_ids` only, or a page after `after_id`.

        Errors: DefinitionsError for rules that `check` would refuse.
        """
        node, problems = parse_rules(rules_raw)
        dims, more = parse_group_by(group_by_raw)
        if node is None or problems or more:
            raise DefinitionsError("filter rules or group_by are wrong", problems=[*problems, *more])
        query = self._members_query(node, dims, now)
        package_id = self._root("id")
        if package_ids is not None:
            wanted = [self._key(package_id, i) for i in package_ids]
            chunks = [query.where(package_id.in_(wanted[n : n + CHUNK])) for n in range(0, len(wanted), CHUNK)]
        else:
            page = query if after_id is None else query.where(package_id > self._key(package_id, after_id))
            chunks = [page.limit(limit)]
        return [self._grouped(dict(row), dims) for chunk in chunks for row in connection.execute(chunk).mappings()]

    def _members_query(self, node: Node, dims: Sequence[Dimension], now: datetime) -> sa.Select[Any]:
        joins = _Joins(self._tables)
        where = self._compile(node, joins, now)
        unit = joins.reach("ExecutedObsUnit")
        columns = [self._root(c).label(c) for c in _PACKAGE_COLUMNS]
        columns += [
            self._tables.column("ExecutedObsUnit", "end_time", unit).label("unit_end"),
            self._tables.column("ExecutedObsUnit", "status", unit).label("unit_status"),
        ]
        columns += [self._dim_column(dim, joins).label(f"dim_{n}") for n, dim in enumerate(dims)]
        return sa.select(*columns).select_from(joins.clause).where(where).order_by(self._root("id"))

    def _dim_column(self, dim: Dimension, joins: _Joins) -> sa.ColumnElement[Any]:
        table, column = self._tables.resolve(dim.table, dim.column)
        found = self._tables.column(table, column, joins.reach(table))
        return self._json_text(found, dim.json_path) if dim.json_path else found

    def _grouped(self, row: Mapping[str, Any], dims: Sequence[Dimension]) -> GroupedPackage:
        values = [(dim.shown, self._dim_value(dim, row[f"dim_{n}"])) for n, dim in enumerate(dims)]
        unit = row["executed_obs_unit_id"]
        status = str(row["unit_status"] or "").lower()
        return GroupedPackage(
            package_id=str(row["id"]),
            package_name=row["name"],
            checksum=row["checksum"],
            size_bytes=row["size_bytes"],
            state=str(row["state"]).lower(),
            executed_obs_unit_id=None if unit is None else str(unit),
            instrument_module_id=None if row["instrument_module_id"] is None else str(row["instrument_module_id"]),
            ended=unit is None or row["unit_end"] is not None or status in FINAL_STATUSES,
            key=sub_group_key(values),
            dims={dim.name: value for dim, (_, value) in zip(dims, values, strict=True)},
        )

    def _dim_value(self, dim: Dimension, value: Any) -> Any:
        if value is None:
            return None
        if dim.name == "obs_date":
            return obs_date(value, self._timezone).isoformat()
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return value if isinstance(value, str | bool) else _number_text(value)

    def _root(self, column: str) -> sa.ColumnElement[Any]:
        return self._tables.column(ROOT, column)

    def _key(self, column: sa.ColumnElement[Any], text: str) -> Any:
        """An id as the database has it, from its text."""
        return int(text) if isinstance(column.type, sa.Integer) else text

    # --- rules to SQL -----------------------------------------------------------------------------------------------

    def _compile(self, node: Node, joins: _Joins, now: datetime) -> sa.ColumnElement[bool]:
        if isinstance(node, Rule):
            return self._compile_rule(node, joins, now)
        if isinstance(node, Not):
            return sa.not_(self._compile(node.part, joins, now).self_group())
        parts = [self._compile(part, joins, now) for part in node.parts]
        if isinstance(node, AnyOf):
            return sa.or_(sa.false(), *parts).self_group()
        assert isinstance(node, AllOf)
        return sa.and_(sa.true(), *parts).self_group()

    def _compile_rule(self, rule: Rule, joins: _Joins, now: datetime) -> sa.ColumnElement[bool]:
        """Two-valued: a comparison with nothing is false; `neq` and `not_in` are the complements of `eq` and `in`."""
        table, column = self._tables.resolve(rule.table, rule.column)
        path = self._tables.paths(table)[0]
        first_many = next((n for n, edge in enumerate(path) if edge.many), None)
        if first_many is None:
            return self._leaf(rule, self._tables.column(table, column, joins.reach(table)), now)
        return self._exists(rule, path, first_many, column, joins, now)

    def _exists(
        self, rule: Rule, path: Sequence[Edge], first_many: int, column: str, joins: _Joins, now: datetime
    ) -> sa.ColumnElement[bool]:
        """Some row behind a to-many edge matches."""
        negated = {"neq": "eq", "not_in": "in", "is_null": "not_null"}.get(rule.operator)
        positive = Rule(rule.table, rule.column, negated or rule.operator, rule.value, rule.json_path)
        outer = joins.reach(path[first_many].left)
        sub = _Joins(self._tables, start=path[first_many].right)
        target = sub.reach_along(path[first_many + 1 :])
        edge = path[first_many]
        link = self._tables.column(edge.left, edge.left_column, outer) == self._tables.column(
            edge.right, edge.right_column, sub.start
        )
        leaf = self._leaf(positive, self._tables.column(path[-1].right, column, target), now)
        found = sa.select(sa.literal(1)).select_from(sub.clause).where(link, leaf).exists()
        return sa.not_(found) if negated else found

    def _leaf(self, rule: Rule, column: sa.ColumnElement[Any], now: datetime) -> sa.ColumnElement[bool]:
        if rule.operator in ("is_null", "not_null"):
            null = self._json_kind(column, rule.json_path).is_(None) if rule.json_path else column.is_(None)
            return null if rule.operator == "is_null" else sa.not_(null)
        if rule.operator in ("neq", "not_in"):
            positive = Rule(rule.table, rule.column, {"neq": "eq", "not_in": "in"}[rule.operator], rule.value, rule.json_path)
            return sa.not_(self._leaf(positive, column, now))
        if rule.json_path is not None:
            return _two_valued(self._json_comparison(rule, column))
        kind = self._kind(rule.table, rule.column)
        values = [self._bound(rule, kind, value, now) for value in _values(rule)]
        return _two_valued(self._comparison(rule.operator, self._comparable(column, kind), values, rule.value))

    def _bound(self, rule: Rule, kind: str, value: Any, now: datetime) -> Any:
        if rule.operator == "since":
            delta = parse_since(value)
            assert delta is not None
            return now - delta
        if kind == "time":
            return parse_moment(value)
        return self._tables.stored(*self._tables.resolve(rule.table, rule.column), value)

    def _comparable(self, column: sa.ColumnElement[Any], kind: str) -> sa.ColumnElement[Any]:
        """Texts compare by code point on both databases."""
        return column if self._sqlite or kind != "text" else sa.collate(column, "C")

    def _comparison(
        self, operator: str, column: sa.ColumnElement[Any], values: Sequence[Any], raw: Any
    ) -> sa.ColumnElement[bool]:
        if operator == "in":
            parts = [column.in_(values[n : n + CHUNK]) for n in range(0, len(values), CHUNK)]
            return sa.or_(*parts)
        if operator == "between":
            return sa.and_(column >= values[0], column <= values[1])
        if operator in ("like", "ilike"):
            return self._like(column, str(raw), sensitive=operator == "like")
        simple = {"eq": column.__eq__, "gt": column.__gt__, "gte": column.__ge__, "lt": column.__lt__,
                  "lte": column.__le__, "since": column.__ge__}  # fmt: skip
        return simple[operator](values[0])

    def _like(self, column: sa.ColumnElement[Any], pattern: str, *, sensitive: bool) -> sa.ColumnElement[bool]:
        r"""% and _ are wildcards, \ escapes; `ilike` folds A-Z only, on both databases."""
        if not sensitive:
            upper, lower = string.ascii_uppercase, string.ascii_lowercase
            pattern = pattern.translate(str.maketrans(upper, lower))
            if self._sqlite:  # SQLite's lower() folds ASCII only
                column = sa.func.lower(column, type_=sa.Text())
            else:
                column = sa.func.translate(column, upper, lower, type_=sa.Text())
        if self._sqlite:  # SQLite's LIKE ignores case; GLOB does not
            return column.op("GLOB", is_comparison=True, return_type=sa.Boolean())(glob_of(pattern))
        return column.like(_closed(pattern), escape=ESCAPE)

    # --- JSON -----------------------------------------------------------------------------------------------------------

    def _json_kind(self, column: sa.ColumnElement[Any], path: str) -> sa.ColumnElement[Any]:
        """`string`, `number`, `boolean`, `other`; NULL where the path leads nowhere or to null."""
        if self._sqlite:
            found = sa.func.json_type(column, _sqlite_path(path), type_=sa.Text())
            kinds = {"text": "string", "integer": "number", "real": "number", "true": "boolean", "false": "boolean"}
        else:
            found = sa.func.jsonb_typeof(self._json_at(column, path), type_=sa.Text())
            kinds = {"string": "string", "number": "number", "boolean": "boolean"}
        whens: dict[Any, Any] = {"null": sa.null(), **kinds}
        return sa.case(whens, value=found, else_=sa.case((found.is_(None), sa.null()), else_="other"))

    def _json_at(self, column: sa.ColumnElement[Any], path: str) -> sa.ColumnElement[Any]:
        for part in path.split("."):  # `->` with a text never indexes an array
            column = column.op("->", return_type=column.type)(sa.cast(part, sa.Text()))
        return column

    def _json_text(self, column: sa.ColumnElement[Any], path: str) -> sa.ColumnElement[Any]:
        """The value as text: as JSON writes it, strings without quotes."""
        if self._sqlite:
            value = sa.func.json_extract(column, _sqlite_path(path))
            kind = sa.func.json_type(column, _sqlite_path(path), type_=sa.Text())
            return sa.case(
                (kind == "true", "true"), (kind == "false", "false"), (kind == "null", sa.null()),
                else_=sa.cast(value, sa.Text()),
            )  # fmt: skip
        parts = path.split(".")
        last = self._json_at(column, ".".join(parts[:-1])) if len(parts) > 1 else column
        return last.op("->>", return_type=sa.Text())(sa.cast(parts[-1], sa.Text()))

    def _json_comparison(self, rule: Rule, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """Values compare with values of their own kind only; each kind by itself."""
        assert rule.json_path is not None
        kind = self._json_kind(column, rule.json_path)
        text = self._json_text(column, rule.json_path)
        if rule.operator in ("like", "ilike"):
            return sa.and_(kind == "string", self._like(text, str(rule.value), sensitive=rule.operator == "like"))
        by_kind: dict[str, list[Any]] = {}
        for value in _values(rule):
            by_kind.setdefault(_json_kind_of(value), []).append(value)
        if rule.operator == "between" and len(by_kind) > 1:
            return sa.false()
        parts = []
        for name, values in by_kind.items():
            typed = sa.case((kind == name, self._json_value(text, name)), else_=sa.null())
            bound = [_json_bound(value) for value in values]
            parts.append(self._comparison(rule.operator, typed, bound, rule.value))
        return sa.or_(*parts)

    def _json_value(self, text: sa.ColumnElement[Any], kind: str) -> sa.ColumnElement[Any]:
        if kind == "number":
            return sa.cast(text, sa.Double())
        return text if self._sqlite else sa.collate(text, "C")

    # --- what changed -------------------------------------------------------------------------------------------------

    def observed_tables(self) -> list[str]:
        """Logical tables that a grouping could read and that say when their rows change."""
        return [name for name in self._tables.reachable() if self._tables.change_time(name) is not None]

    def changed_rows(
        self, connection: sa.Connection, logical: str, since: datetime | None, limit: int
    ) -> list[tuple[str, datetime]]:
        """(row id, change time) of rows not older than `since`, oldest first."""
        change, row_id = self._tables.change_time(logical), self._tables.column(logical, "id")
        assert change is not None
        query = sa.select(row_id.label("id"), change.label("at")).order_by(change, row_id).limit(limit)
        if since is not None:
            query = query.where(change >= since)
        return [(str(row.id), row.at) for row in connection.execute(query)]

    def packages_of(self, connection: sa.Connection, logical: str, row_ids: Iterable[str]) -> set[str]:
        """Ids of the packages that a change of these rows can affect."""
        joins = _Joins(self._tables, outer=False)
        target = joins.reach(logical)
        column = self._tables.column(logical, "id", target)
        found: set[str] = set()
        wanted = [self._key(column, row_id) for row_id in row_ids]
        for n in range(0, len(wanted), CHUNK):
            query = sa.select(self._root("id")).select_from(joins.clause).where(column.in_(wanted[n : n + CHUNK]))
            found |= {str(package_id) for package_id in connection.execute(query.distinct()).scalars()}
        return found

    # --- facts that staging asks for ----------------------------------------------------------------------------------

    def copies(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, list[PackageCopy]]:
        """Physical copies that may be read, at active locations, by package id."""
        copy, place = self._tables.table("PhysicalCopy"), self._tables.table("DataLocation")
        c = partial(self._tables.column, "PhysicalCopy")
        d = partial(self._tables.column, "DataLocation")
        statuses = [self._tables.stored("PhysicalCopy", "status", s) for s in READABLE_COPIES]
        found: dict[str, list[PackageCopy]] = {}
        wanted = [self._key(c("raw_data_package_id"), i) for i in package_ids]
        for n in range(0, len(wanted), CHUNK):
            query = (
                sa.select(
                    c("id").label("id"), c("raw_data_package_id").label("package"), c("path").label("path"),
                    d("name").label("location"), d("storage_type").label("storage"),
                    d("base_path").label("root"), d("priority").label("priority"),
                )
                .select_from(copy.join(place, d("id") == c("data_location_id")))
                .where(c("raw_data_package_id").in_(wanted[n : n + CHUNK]), c("status").in_(statuses), d("active"))
                .order_by(c("id"))
            )  # fmt: skip
            for row in connection.execute(query):
                found.setdefault(str(row.package), []).append(
                    PackageCopy(str(row.id), row.location, row.storage, row.root, row.path, row.priority or 0)
                )
        return found

    def file_list(self, connection: sa.Connection, package_id: str) -> dict[str, tuple[int, str | None]]:
        """(size, checksum) of the files that a package lists, by path inside it; those without a size are left out."""
        c = partial(self._tables.column, "RawDataFile")
        query = sa.select(c("name").label("name"), c("size_bytes").label("size"), c("checksum").label("checksum")).where(
            c("raw_data_package_id") == self._key(c("raw_data_package_id"), package_id)
        )
        return {row.name: (row.size, row.checksum) for row in connection.execute(query) if row.size is not None}

    def location(self, connection: sa.Connection, name_or_id: str) -> Location | None:
        """A data location by name, else by id."""
        d = partial(self._tables.column, "DataLocation")
        columns = ("id", "name", "location_type", "storage_type", "base_path")
        query = sa.select(*[d(column).label(column) for column in columns])
        row = connection.execute(query.where(d("name") == name_or_id)).first()
        if row is None and (name_or_id.isdecimal() or not isinstance(d("id").type, sa.Integer)):
            row = connection.execute(query.where(d("id") == self._key(d("id"), name_or_id))).first()
        if row is None:
            return None
        return Location(str(row.id), row.name, row.location_type, row.storage_type, row.base_path)


_PACKAGE_COLUMNS = ("id", "name", "checksum", "size_bytes", "state", "executed_obs_unit_id", "instrument_module_id")


class _Joins:
    """The joins of one query: every table once, reached along its only shortest path."""

    def __init__(self, tables: ObservationTables, *, start: str = ROOT, outer: bool = True) -> None:
        self._tables = tables
        self._outer = outer
        self.start: sa.FromClause = tables.table(start) if start == ROOT else tables.table(start).alias()
        self.clause: sa.FromClause = self.start
        self._there: dict[str, sa.FromClause] = {start: self.start}

    def reach(self, logical: str) -> sa.FromClause:
        """The table, joined if it was not yet."""
        if logical in self._there:
            return self._there[logical]
        return self.reach_along(self._tables.paths(logical)[0])

    def reach_along(self, path: Sequence[Edge]) -> sa.FromClause:
        for edge in path:
            if edge.right not in self._there:
                right = self._tables.table(edge.right).alias()
                on = self._tables.column(edge.left, edge.left_column, self._there[edge.left]) == self._tables.column(
                    edge.right, edge.right_column, right
                )
                self.clause = self.clause.join(right, on, isouter=self._outer)
                self._there[edge.right] = right
        return self._there[path[-1].right] if path else self.start


# --- values ------------------------------------------------------------------------------------------------------------


def parse_moment(value: Any) -> datetime:
    """RFC 3339 text (a date alone is its UTC midnight) as aware UTC. Errors: ValueError."""
    if isinstance(value, datetime):
        moment = value
    else:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def glob_of(pattern: str) -> str:
    """A LIKE pattern as SQLite's GLOB, which tells upper from lower case."""
    out = []
    characters = iter(pattern)
    for character in characters:
        if character == ESCAPE:
            character = next(characters, ESCAPE)
            out.append(f"[{character}]" if character in "*?[" else character)
        else:
            out.append({"%": "*", "_": "?"}.get(character) or (f"[{character}]" if character in "*?[" else character))
    return "".join(out)


def _closed(pattern: str) -> str:
    """A trailing single escape would be an error of PostgreSQL: it stands for itself."""
    count = len(pattern) - len(pattern.rstrip(ESCAPE))
    return pattern + ESCAPE if count % 2 else pattern


def _two_valued(expression: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.func.coalesce(expression, sa.false(), type_=sa.Boolean()).is_(sa.true())


def _values(rule: Rule) -> list[Any]:
    if rule.operator in ("is_null", "not_null"):
        return []
    return list(rule.value) if isinstance(rule.value, list) else [rule.value]


def _fits(kind: str, value: Any) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "true/false":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str)
    if kind == "time":
        return _is_moment(value)
    return True


def _is_moment(value: Any) -> bool:
    if parse_since(value) is not None:
        return True
    try:
        parse_moment(value)
    except ValueError:
        return False
    return isinstance(value, str | datetime)


def _json_kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "string"


def _json_bound(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return float(value) if isinstance(value, int) else value


def _sqlite_path(path: str) -> str:
    return "$" + "".join(f'."{part}"' for part in path.split("."))


def _number_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _choices(wrong: str, known: Sequence[str]) -> str:
    close = get_close_matches(wrong, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
