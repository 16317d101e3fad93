"""Filter rules as people write them, parsed into a tree. Pure.

What a rule means is in docs/explanation/filter-engine.md. Every rule is true or false, never unknown as
in SQL: `neq`, `not_in` and `not` are exact complements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from difflib import get_close_matches
from typing import Any

from ccatwm.errors import Problem

MAX_DEPTH = 10
MAX_RULES = 500
MAX_LIST = 10_000
MAX_PATTERN = 1000  # SQLite refuses patterns of more than 50,000 bytes
ESCAPE = "\\"  # in a pattern
MAX_SINCE = timedelta(days=36_525)
_SINCE = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {
    "s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1),
    "d": timedelta(days=1), "w": timedelta(weeks=1),
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One comparison. `value` has the shape that its operator wants; `where` says where it was written."""

    table: str
    column: str
    operator: str
    value: Any = None
    json_path: str | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class AllOf:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    part: Node


Node = Rule | AnyOf | AllOf | Not


def parse_since(text: Any) -> timedelta | None:
    """`30d`, `12h`, `2w`, `90m`, `45s` as a duration of at most a hundred years; None for anything else."""
    match = _SINCE.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if match is None:
        return None
    duration = int(match[1]) * _UNITS[match[2]]
    return duration if duration <= MAX_SINCE else None


# --- value shapes: what an operator takes, None where the value is right --------------------------


def goes_by_time(raw: object) -> bool:
    """Whether rules as they are written select less as time goes by, though nothing changes."""
    if isinstance(raw, Mapping):
        return raw.get("operator") == "since" or any(goes_by_time(part) for part in raw.values())
    return isinstance(raw, list) and any(goes_by_time(part) for part in raw)


def is_scalar(value: Any) -> bool:
    """Whether a database can compare with it: no NUL, no lone surrogate, no NaN, integers of 64 bits."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not _is_too_large(value)


def _is_too_large(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _scalar(value: Any) -> str | None:
    if value is None:
        return "a text, a number or true/false; is_null asks for absent values"
    return None if is_scalar(value) else "a text, a number or true/false"


def _ordered(value: Any) -> str | None:
    return None if is_scalar(value) and not isinstance(value, bool) else "a text or a number"


def _pattern(value: Any) -> str | None:
    good = isinstance(value, str) and is_scalar(value) and len(value) <= MAX_PATTERN
    return None if good else f"a text of at most {MAX_PATTERN} characters with the wildcards % and _"


def ends_in_escape(pattern: str) -> bool:
    """Whether the last character is a backslash that takes the meaning of nothing away: not even of another one."""
    return (len(pattern) - len(pattern.rstrip(ESCAPE))) % 2 == 1


def _list(value: Any) -> str | None:
    good = isinstance(value, list) and 0 < len(value) <= MAX_LIST and all(map(is_scalar, value))
    return None if good else f"a list of 1 to {MAX_LIST} texts, numbers or true/false"


def _pair(value: Any) -> str | None:
    good = isinstance(value, list) and len(value) == 2 and not any(map(_ordered, value))
    return None if good else "a list of two texts or numbers, [from, to], both included"


def _nothing(value: Any) -> str | None:
    return None if value is None else "no value"


def _duration(value: Any) -> str | None:
    good = parse_since(value) is not None
    return None if good else "a duration such as 30d, 12h or 2w, of at most 100 years"


OPERATORS: Mapping[str, Callable[[Any], str | None]] = {
    "eq": _scalar, "neq": _scalar, "gt": _ordered, "gte": _ordered, "lt": _ordered, "lte": _ordered,
    "in": _list, "not_in": _list, "like": _pattern, "ilike": _pattern, "between": _pair,
    "is_null": _nothing, "not_null": _nothing, "since": _duration,
}  # fmt: skip
RULE_KEYS = ("table", "column", "operator", "value", "json_path")
NESTING = ("any_of", "all_of", "not")


# --- parsing --------------------------------------------------------------------------------------


def parse_rules(raw: object, where: str = "") -> tuple[Node | None, list[Problem]]:
    """The rules of a data grouping as one tree (a list is ANDed), or all that is wrong with them."""
    parsed = ParsedRules.build(raw, where)
    return (None if parsed.problems else parsed.tree), parsed.problems


@dataclass
class ParsedRules:
    """What parsing found: the tree without its wrong parts, the rules right in themselves, the problems."""

    tree: Node | None = None
    rules: list[Rule] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    columns: list[tuple[str, str, str | None, str]] = field(default_factory=list)  # of wrong rules: they are checked too
    count: int = 0

    @staticmethod
    def build(raw: object, where: str = "") -> ParsedRules:
        parsed = ParsedRules()
        where = where or "filter_rules"
        parsed.tree = parsed._list(raw, where, 0, AllOf)
        if parsed.count > MAX_RULES:
            parsed._wrong(where, f"{parsed.count} rules", f"at most {MAX_RULES} are allowed")
        return parsed

    def _wrong(self, where: str, what: str, next: str = "", about: str = "") -> None:
        self.problems.append(Problem(where, what, next, about))

    def _list(self, raw: object, where: str, depth: int, kind: Callable[[Any], Node]) -> Node | None:
        if not isinstance(raw, list):
            self._wrong(where, "is not a list of rules", "write a list of {table, column, operator, value}")
            return None
        parts = [self._node(part, f"{where}[{n}]", depth) for n, part in enumerate(raw)]
        return kind(tuple(part for part in parts if part is not None))

    def _node(self, raw: object, where: str, depth: int) -> Node | None:
        if not isinstance(raw, dict):
            self._wrong(where, "is not a rule", "write {table, column, operator, value} or {any_of: [...]}")
            return None
        nesting = [key for key in NESTING if key in raw]
        if not nesting:
            self.count += 1
            return self._rule(raw, where)
        if len(raw) != 1:
            others = ", ".join(str(key) for key in raw if key != nesting[0])
            self._wrong(where, f"{nesting[0]} stands beside {others}", "each needs a rule of its own")
            return None
        if depth >= MAX_DEPTH:
            self._wrong(where, "is nested too deep", f"at most {MAX_DEPTH} levels are allowed")
            return None
        return self._nested(nesting[0], raw[nesting[0]], f"{where}.{nesting[0]}", depth + 1)

    def _nested(self, key: str, inner: object, where: str, depth: int) -> Node | None:
        if inner == []:
            self._wrong(where, "is empty", "name at least one rule")
            return None
        if key != "not":
            return self._list(inner, where, depth, AnyOf if key == "any_of" else AllOf)
        is_list = isinstance(inner, list)
        node = self._list(inner, where, depth, AllOf) if is_list else self._node(inner, where, depth)
        return Not(node) if node is not None else None

    def _rule(self, raw: dict[Any, Any], where: str) -> Rule | None:
        before = len(self.problems)
        self._check_keys(raw, where)
        value = _plain(raw.get("value"))
        self._check_operator(raw.get("operator"), value, where)
        path = raw.get("json_path")
        wanted = wrong_json_path(path) if path is not None else None
        if wanted:
            self._wrong(where, f"json_path {_short(path)}", wanted, about="json_path")
        if len(self.problems) > before:
            table, column = raw.get("table"), raw.get("column")
            if isinstance(table, str) and isinstance(column, str):
                self.columns.append((table, column, None if wanted else path, where))
            return None
        rule = Rule(raw["table"], raw["column"], raw["operator"], value, path, where)
        self.rules.append(rule)
        return rule

    def _check_keys(self, raw: dict[Any, Any], where: str) -> None:
        for key in raw:
            if key not in RULE_KEYS:
                self._wrong(where, f"unknown key {key!r}", choices(str(key), (*RULE_KEYS, *NESTING)))
        for key in ("table", "column", "operator"):
            if not isinstance(raw.get(key), str):
                self._wrong(where, f"{key} is missing or no text", about=key)

    def _check_operator(self, operator: object, value: Any, where: str) -> None:
        if not isinstance(operator, str):
            return
        if operator not in OPERATORS:
            self._wrong(where, f"unknown operator {operator!r}", choices(operator, tuple(OPERATORS)))
        elif wanted := OPERATORS[operator](value):
            if any(map(_is_too_large, value if isinstance(value, list) else [value])):
                wanted += "; whole numbers fit into 64 bits, this one is too large"
            self._wrong(where, f"operator {operator} with value {_short(value)}", f"it takes {wanted}", about="value")


def wrong_json_path(path: Any) -> str | None:
    """What a json_path should be, or None if it is one: keys between dots."""
    good = (
        isinstance(path, str)
        and 0 < len(path) <= 500
        and all(part and not set(part) & set('"\\') and part.isprintable() for part in path.split("."))
    )
    return None if good else "write keys between dots, such as observation.frequency_ghz"


def choices(wrong: str, known: tuple[str, ...] | list[str]) -> str:
    """What was meant, if something is close; else all there is."""
    close = get_close_matches(wrong, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(known)}"


def _plain(value: Any) -> Any:
    """YAML makes dates and times of what looks like one: here they are text."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
