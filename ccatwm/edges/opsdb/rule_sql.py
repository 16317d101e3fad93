"""Filter rules as SQL that answers alike on SQLite and PostgreSQL.

Touches: nothing; it builds expressions. Values are bound, never written into SQL. What the two databases do
differently is levelled here: case in LIKE, the order of texts, JSON, absent values.
The page docs/explanation/filter-engine.md says what rules mean.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from operator import eq, ge, gt, le, lt
from typing import Any

import sqlalchemy as sa

from ccatwm.core.rules import ESCAPE, AllOf, AnyOf, Node, Not, Rule, ends_in_escape, parse_since
from ccatwm.edges.opsdb.observations import Edge, Joins, ObservationTables
from ccatwm.edges.opsdb.types import Labels, NaiveUtc, Opaque, UtcDateTime, Uuid

LONG_LIST = 100  # SQLite binds at most 32,766 values in a statement: longer lists go as one JSON text
UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
NEGATIVE = {"neq": "eq", "not_in": "in", "is_null": "not_null"}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le, "since": ge}

_NEVER = datetime.max.replace(tzinfo=UTC)  # a bound that counts from no moment is the same at each

Expression = sa.ColumnElement[Any]
Condition = sa.ColumnElement[bool]


class ValueComparer:
    """Comparisons of a column with values, on one kind of database."""

    def __init__(self, dialect: str) -> None:
        self._sqlite = dialect == "sqlite"

    def json_condition(self, rule: Rule, column: Expression) -> Condition:
        """A rule about a value in a JSON column, wherever that column is from; never NULL where it is negated."""
        if rule.operator in NEGATIVE:
            return _complement(self.json_condition(replace(rule, operator=NEGATIVE[rule.operator]), column))
        return self._json_comparison(rule, column)

    def _compare(self, operator: str, column: Expression, values: Sequence[Any]) -> Condition:
        if operator == "eq":
            return sa.type_coerce(eq(column, values[0]), sa.Boolean())
        if operator == "in":
            return self._in(column, values)
        ordered = self._ordered(column)
        if operator == "between":
            return sa.and_(ordered >= values[0], ordered <= values[1])
        return sa.type_coerce(COMPARE[operator](ordered, values[0]), sa.Boolean())

    def _ordered(self, column: Expression) -> Expression:
        """Texts are ordered by code point on both databases; equality keeps its index without a collation."""
        is_text = isinstance(column.type, sa.String)
        return sa.collate(column, "C") if is_text and not self._sqlite else column

    def _in(self, column: Expression, values: Sequence[Any]) -> Condition:
        if not self._sqlite or len(values) <= LONG_LIST:
            return column.in_([_exact(value) for value in values])
        stored = UtcDateTime().bind_processor(_SQLITE) if kind_of(column) == "time" else None
        listed = json.dumps([stored(value) if stored else value for value in values], ensure_ascii=False)
        return column.in_(sa.select(sa.func.json_each(listed).table_valued("value").c.value))

    def _like(self, column: Expression, pattern: str, *, sensitive: bool) -> Condition:
        r"""% and _ are wildcards, \ takes their meaning away; `ilike` folds A-Z only, on both databases."""
        upper, lower = string.ascii_uppercase, string.ascii_lowercase
        if not sensitive:
            pattern = pattern.translate(str.maketrans(upper, lower))
            # SQLite's lower() folds ASCII only; PostgreSQL's folds as its locale says.
            folded = sa.func.lower(column) if self._sqlite else sa.func.translate(column, upper, lower)
            column = sa.type_coerce(folded, sa.Text())
        if self._sqlite:  # its LIKE ignores case, GLOB does not
            return column.op("GLOB", is_comparison=True, return_type=sa.Boolean())(glob_of(pattern))
        return column.like(closed(pattern), escape=ESCAPE)

    # --- JSON -------------------------------------------------------------------------------------

    def _json_comparison(self, rule: Rule, column: Expression) -> Condition:
        """A value compares with values of its own kind; what is absent or null matches nothing."""
        kind = self._json_type(column, rule.json_path)
        if rule.operator == "not_null":
            return sa.func.coalesce(kind, "null") != "null"
        assert rule.json_path is not None
        if rule.operator in ("like", "ilike"):
            text = self._json_value(column, rule.json_path, "string", kind)
            return self._like(text, rule.value, sensitive=rule.operator == "like")
        by_kind: dict[str, list[Any]] = {}
        for value in values_of(rule):
            by_kind.setdefault(json_kind_of(value), []).append(value)
        if rule.operator == "between" and len(by_kind) > 1:
            return sa.false()
        return sa.or_(
            *(self._json_kind(rule, column, kind, name, values) for name, values in by_kind.items())
        )

    def _json_kind(
        self, rule: Rule, column: Expression, kind: Expression, name: str, values: Sequence[Any]
    ) -> Condition:
        assert rule.json_path is not None
        bound = [str(value).lower() for value in values] if name == "boolean" else values
        return self._compare(rule.operator, self._json_value(column, rule.json_path, name, kind), bound)

    def _json_type(self, column: Expression, path: str | None) -> Expression:
        """What the database calls the kind of value at `path`; NULL where the path leads nowhere."""
        if self._sqlite:
            return sa.func.json_type(column, _sqlite_path(path), type_=sa.Text())
        return sa.func.jsonb_typeof(self._json_at(column, path), type_=sa.Text())

    def _json_value(self, column: Expression, path: str, name: str, kind: Expression) -> Expression:
        """The value as text or number if it is of the kind `name`, else NULL."""
        known = _SQLITE_KINDS[name] if self._sqlite else (name,)
        if self._sqlite:
            value = kind if name == "boolean" else sa.func.json_extract(column, _sqlite_path(path))
        else:
            *first, last = path.split(".")
            inner = self._json_at(column, ".".join(first))
            value = inner.op("->>", return_type=sa.Text())(sa.cast(last, sa.Text()))
            if name == "number":  # CASE keeps the cast from other values
                value = sa.cast(value, sa.Numeric())
        typed = sa.case((kind.in_(known), value), else_=sa.null())
        # No cast on SQLite: it compares integers and floats by value, and a cast would shorten them.
        return sa.type_coerce(typed, sa.Numeric(asdecimal=False) if name == "number" else sa.Text())

    def _json_at(self, column: Expression, path: str | None) -> Expression:
        from sqlalchemy.dialects import postgresql  # not where there is no PostgreSQL

        found: Expression = sa.cast(column, postgresql.JSONB)
        for part in path.split(".") if path else ():  # `->` with a text never indexes an array
            found = found.op("->", return_type=postgresql.JSONB())(sa.cast(part, sa.Text()))
        return found

    def json_text(self, column: Expression, path: str) -> Expression:
        """The JSON text of the value at `path`, for `read_json_text`."""
        if (
            self._sqlite
        ):  # with two paths json_extract gives the text of a list, where numbers keep all their digits
            return sa.func.json_extract(column, _sqlite_path(path), "$", type_=sa.Text())
        return sa.cast(self._json_at(column, path), sa.Text())

    def read_json_text(self, text: str | None) -> str | None:
        """What `json_text` selected as the text that a sub-group is known by; None for absent and null."""
        if text is None:
            return None
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
        return text_of(value[0] if self._sqlite else value)


class RuleCompiler(ValueComparer):
    """Rules to conditions, on one kind of database; tables that rules need are joined to `joins`."""

    def __init__(self, tables: ObservationTables, dialect: str) -> None:
        super().__init__(dialect)
        self._tables = tables

    def compile(self, node: Node, joins: Joins, now: datetime) -> Condition:
        """True where the rules match; elsewhere false or, where nothing is negated, NULL."""
        if isinstance(node, Rule):
            return self._rule(node, joins, now)
        if isinstance(node, Not):
            return _complement(self.compile(node.part, joins, now))
        parts = [self.compile(part, joins, now) for part in node.parts]
        if isinstance(node, AnyOf):
            return sa.or_(sa.false(), *parts).self_group()
        assert isinstance(node, AllOf)
        return sa.and_(sa.true(), *parts).self_group()

    def _rule(self, rule: Rule, joins: Joins, now: datetime) -> Condition:
        if rule.operator in NEGATIVE:
            return _complement(self._rule(replace(rule, operator=NEGATIVE[rule.operator]), joins, now))
        table, column = self._tables.resolve(rule.table, rule.column)
        path = self._tables.paths(table)[0]
        first_many = next((n for n, edge in enumerate(path) if edge.many), None)
        if first_many is not None:
            return self._exists(rule, path, first_many, joins, now)
        return self._comparison(rule, self._tables.column(table, column, joins.reach(table)), now)

    def _exists(
        self, rule: Rule, path: Sequence[Edge], first_many: int, joins: Joins, now: datetime
    ) -> Condition:
        """Some row behind a to-many edge matches: EXISTS, so that packages never multiply."""
        edge = path[first_many]
        outer = joins.reach(edge.left)
        inside = Joins(self._tables, start=edge.right)
        target = inside.reach_along(path[first_many + 1 :])
        table, column = self._tables.resolve(rule.table, rule.column)
        match = self._comparison(rule, self._tables.column(table, column, target), now)
        rows = sa.select(sa.literal(1)).select_from(inside.clause)
        return rows.where(joins.link(edge, outer, inside.start), match).correlate(outer).exists()

    def is_reversed(self, rule: Rule) -> bool:
        """Whether the first bound of a `between` lies above the second, as the database will compare them."""
        column = self._tables.column(*self._tables.resolve(rule.table, rule.column))
        low, high = (self._bound(rule, column, value, _NEVER)[0] for value in rule.value)
        return bool(low > high)

    # --- one comparison ---------------------------------------------------------------------------

    def _comparison(self, rule: Rule, column: Expression, now: datetime) -> Condition:
        if is_json(column):
            return self._json_comparison(rule, column)
        if rule.operator == "not_null":
            return column.is_not(None)
        if rule.operator in ("like", "ilike"):
            return self._like(as_text(column), rule.value, sensitive=rule.operator == "like")
        values = [bound for value in values_of(rule) for bound in self._bound(rule, column, value, now)]
        if rule.operator in ("eq", "in"):
            return self._is_one_of(rule.operator, column, values)
        return self._compare(rule.operator, as_text(column), values)

    def _is_one_of(self, operator: str, column: Expression, values: Sequence[Any]) -> Condition:
        """The column itself is compared, so that its index is used, with what can be a value of its type."""
        if isinstance(column.type, Opaque):
            column = as_text(column)
        possible = [value for value in values if is_possible(column, value)]
        if values and not possible:
            return sa.false()
        return self._compare("eq" if operator == "eq" and len(possible) == 1 else "in", column, possible)

    def is_one_of(self, table: str, column: str, values: Sequence[Any], of: Expression) -> Condition:
        """Whether a column is one of values, in our words."""
        stored = [theirs for value in values for theirs in self._tables.stored(table, column, value)]
        return self._is_one_of("in", of, stored)

    def _bound(self, rule: Rule, column: Expression, value: Any, now: datetime) -> tuple[Any, ...]:
        """The value as the database has it: one, or several that mean the same."""
        if rule.operator == "since":
            delta = parse_since(value)
            assert delta is not None
            return ((now - delta).date() if kind_of(column) == "date" else now - delta,)
        if kind_of(column) == "time":
            return (parse_moment(value),)
        if kind_of(column) == "date":
            return (date.fromisoformat(value),)
        if isinstance(column.type, sa.Float):  # PostgreSQL would round integers, SQLite would not
            return (float(value),)
        stored = self._tables.stored(*self._tables.resolve(rule.table, rule.column), value)
        return stored if rule.operator in ("eq", "in") else stored[:1]


def _exact(value: Any) -> Any:
    """A whole number as it is: beside a fraction the type of the column would make both floats, and shorten it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return sa.literal(value, sa.BigInteger()) if whole else value


_SQLITE = sa.create_mock_engine("sqlite://", lambda *_: None).dialect
_SQLITE_KINDS = {"string": ("text",), "number": ("integer", "real"), "boolean": ("true", "false")}


def _complement(condition: Condition) -> Condition:
    """Exactly where `condition` is not true: unknown counts as false."""
    return sa.not_(sa.func.coalesce(condition, sa.false(), type_=sa.Boolean()))


def _sqlite_path(path: str | None) -> str:
    """Keys as `json.dumps` wrote them: SQLite before 3.45 compares them without resolving escapes."""
    return "$" + "".join(f".{json.dumps(part)}" for part in path.split(".")) if path else "$"


# --- values ---------------------------------------------------------------------------------------


def is_json(column: Expression) -> bool:
    return isinstance(column.type, sa.JSON)


def kind_of(column: Expression) -> str:
    """What people call the type of a column."""
    if is_json(column):
        return "JSON"
    if isinstance(column.type, UtcDateTime | NaiveUtc | sa.DateTime):
        return "time"
    if isinstance(column.type, sa.Date):
        return "date"
    if isinstance(column.type, sa.Boolean):
        return "true/false"
    return "number" if isinstance(column.type, sa.Integer | sa.Numeric | sa.Float) else "text"


def values_of(rule: Rule) -> list[Any]:
    """The values that a rule compares with."""
    if rule.operator in ("is_null", "not_null"):
        return []
    return list(rule.value) if isinstance(rule.value, list) else [rule.value]


def fits(kind: str, value: Any) -> bool:
    """Whether a column of this kind can be compared with `value`."""
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "true/false":
        return isinstance(value, bool)
    if kind == "time":
        return _is_moment(value)
    if kind == "date":
        return _is_date(value)
    return kind == "JSON" or isinstance(value, str)


def as_text(column: Expression) -> Expression:
    """The column, of other people's types that are no texts its text: an enum has an order of its own, and no LIKE."""
    return sa.cast(column, sa.Text()) if isinstance(column.type, Labels | Uuid | Opaque) else column


def is_possible(column: Expression, value: Any) -> bool:
    """Whether a value of the column's type can be this one: PostgreSQL refuses others of an enum or a UUID."""
    if isinstance(column.type, Labels):
        return value in column.type.labels
    return not isinstance(column.type, Uuid) or UUID.fullmatch(value) is not None


def parse_moment(value: str) -> datetime:
    """RFC 3339 text as aware UTC; without a zone it is UTC, a date alone its midnight. Errors: ValueError."""
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _is_moment(value: Any) -> bool:
    try:  # the times of SQLite are texts with four digits for the year
        return isinstance(value, str) and parse_moment(value).year >= 1000
    except (ValueError, OverflowError):
        return False


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == 10 and date.fromisoformat(value).year >= 1
    except ValueError:
        return False


def json_kind_of(value: Any) -> str:
    """What JSON calls the kind of a scalar."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "string"


def glob_of(pattern: str) -> str:
    """A LIKE pattern as SQLite's GLOB, which tells upper from lower case."""
    out = []
    characters = iter(pattern)
    for character in characters:
        if character in "%_":
            out.append("*" if character == "%" else "?")
            continue
        if character == ESCAPE:
            character = next(characters, ESCAPE)
        out.append(f"[{character}]" if character in "*?[" else character)
    return "".join(out)


def closed(pattern: str) -> str:
    """The pattern without an escape at its end, which PostgreSQL refuses: it stands for itself."""
    return pattern + ESCAPE if ends_in_escape(pattern) else pattern


def text_of(value: Any) -> str | None:
    """A value as the text that sub-groups are known by: 5 and 5.0 are `5`, times are RFC 3339."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=text_of, ensure_ascii=False)
    return _number_text(value if isinstance(value, Decimal) else Decimal(repr(value)))


def _number_text(number: Decimal) -> str:
    if not number.is_finite() or abs(number.adjusted()) > 400:
        return str(number)
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
