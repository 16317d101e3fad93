"""Filter rules as people write them, parsed into a tree. Pure.

Every leaf is two-valued: a comparison with an absent value is false, so that `neq`, `not_in` and `not` are exact complements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from ccatwm.errors import Problem

MAX_DEPTH = 10
MAX_RULES = 500
MAX_LIST = 10_000
SCALARS = (str, int, float, bool)
_SINCE = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Rule:
    """One comparison. `value` has the shape that its operator wants."""

    table: str
    column: str
    operator: str
    value: Any = None
    json_path: str | None = None


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
    """`30d`, `12h`, `2w`, `90m`, `45s` as a duration; None for anything else."""
    match = _SINCE.fullmatch(text) if isinstance(text, str) else None
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def _scalar(value: Any) -> str | None:
    return None if isinstance(value, SCALARS) else "a text, a number or true/false"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a text with the wildcards % and _"


def _list(value: Any) -> str | None:
    good = isinstance(value, list) and value and all(isinstance(v, SCALARS) for v in value) and len(value) <= MAX_LIST
    return None if good else f"a list of 1 to {MAX_LIST} values"


def _pair(value: Any) -> str | None:
    good = isinstance(value, list) and len(value) == 2 and all(isinstance(v, SCALARS) for v in value)
    return None if good else "a list of two values, [from, to]"


def _nothing(value: Any) -> str | None:
    return None if value is None else "no value"


def _duration(value: Any) -> str | None:
    return None if parse_since(value) is not None else "a duration such as 30d, 12h or 2w"


OPERATORS: Mapping[str, Callable[[Any], str | None]] = {
    "eq": _scalar, "neq": _scalar, "gt": _scalar, "gte": _scalar, "lt": _scalar, "lte": _scalar,
    "in": _list, "not_in": _list, "like": _text, "ilike": _text, "between": _pair,
    "is_null": _nothing, "not_null": _nothing, "since": _duration,
}  # fmt: skip
RULE_KEYS = ("table", "column", "operator", "value", "json_path")
NESTING = ("any_of", "all_of", "not")


def parse_rules(raw: object, where: str = "") -> tuple[Node | None, list[Problem]]:
    """The rules of a data grouping as one tree (a list is ANDed), or all that is wrong with them."""
    problems: list[Problem] = []
    count = [0]
    node = _parse_list(raw, where or "filter_rules", problems, 0, count, AllOf)
    if count[0] > MAX_RULES:
        problems.append(Problem(where, f"{count[0]} rules", f"at most {MAX_RULES} are allowed"))
    return (None if problems else node), problems


def _parse_list(
    raw: object, where: str, problems: list[Problem], depth: int, count: list[int], kind: Callable[[Any], Node]
) -> Node | None:
    if not isinstance(raw, list):
        problems.append(Problem(where, "is not a list of rules", "write a list of {table, column, operator, value}"))
        return None
    parts = [_parse(part, f"{where}[{n}]", problems, depth, count) for n, part in enumerate(raw)]
    return kind(tuple(part for part in parts if part is not None))


def _parse(raw: object, where: str, problems: list[Problem], depth: int, count: list[int]) -> Node | None:
    if depth > MAX_DEPTH:
        problems.append(Problem(where, "is nested too deep", f"at most {MAX_DEPTH} levels are allowed"))
        return None
    if not isinstance(raw, dict):
        problems.append(Problem(where, "is not a rule", "write {table, column, operator, value} or {any_of: [...]}"))
        return None
    nesting = [key for key in NESTING if key in raw]
    if not nesting:
        count[0] += 1
        return _parse_rule(raw, where, problems)
    if len(raw) != 1:
        problems.append(Problem(where, f"{nesting[0]} stands beside other keys", f"{nesting[0]} stands alone"))
        return None
    return _parse_nested(nesting[0], raw[nesting[0]], where, problems, depth, count)


def _parse_nested(
    key: str, inner: object, where: str, problems: list[Problem], depth: int, count: list[int]
) -> Node | None:
    inside = f"{where}.{key}"
    if key == "not":
        if isinstance(inner, list):
            node = _parse_list(inner, inside, problems, depth + 1, count, AllOf)
        else:
            node = _parse(inner, inside, problems, depth + 1, count)
        return Not(node) if node is not None else None
    if isinstance(inner, list) and not inner:
        problems.append(Problem(inside, "is empty", "name at least one rule"))
    return _parse_list(inner, inside, problems, depth + 1, count, AnyOf if key == "any_of" else AllOf)


def _parse_rule(raw: dict[Any, Any], where: str, problems: list[Problem]) -> Rule | None:
    before = len(problems)
    for key in raw:
        if key not in RULE_KEYS:
            problems.append(Problem(where, f"unknown key {key!r}", _choices(str(key), (*RULE_KEYS, *NESTING))))
    for key in ("table", "column", "operator"):
        if not isinstance(raw.get(key), str):
            problems.append(Problem(where, f"{key} is missing or no text"))
    operator = raw.get("operator")
    if isinstance(operator, str) and operator not in OPERATORS:
        problems.append(Problem(where, f"unknown operator {operator!r}", _choices(operator, tuple(OPERATORS))))
    elif isinstance(operator, str):
        wanted = OPERATORS[operator](raw.get("value"))
        if wanted is not None:
            problems.append(Problem(where, f"operator {operator} with value {raw.get('value')!r}", f"it takes {wanted}"))
    path = raw.get("json_path")
    if path is not None and not _good_path(path):
        problems.append(Problem(where, f"json_path {path!r}", "write a dotted path of keys, without quotes"))
    if len(problems) > before:
        return None
    return Rule(raw["table"], raw["column"], raw["operator"], raw.get("value"), path)


def _good_path(path: Any) -> bool:
    return (
        isinstance(path, str)
        and 0 < len(path) <= 500
        and all(part and not set(part) & set('"\\') and part.isprintable() for part in path.split("."))
    )


def _choices(wrong: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(wrong, known, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(known)}"


def walk(node: Node) -> Iterator[Rule]:
    """All comparisons of a tree."""
    if isinstance(node, Rule):
        yield node
    elif isinstance(node, Not):
        yield from walk(node.part)
    else:
        for part in node.parts:
            yield from walk(part)
