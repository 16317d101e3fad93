"""What filter rules mean, in plain Python over one package and all that stands around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Row = Mapping[str, Any]  # `Table.column` -> value; a tuple where several rows may belong to a package
NEGATIVE = {"neq": "eq", "not_in": "in", "is_null": "not_null"}
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def matches(rule: Mapping[str, Any], row: Row, now: datetime, floats: Collection[str] = ()) -> bool:
    """Whether a package satisfies a rule or a tree of them. `floats`: columns whose values are floats."""
    if "any_of" in rule:
        return any(matches(part, row, now, floats) for part in rule["any_of"])
    if "all_of" in rule:
        return all(matches(part, row, now, floats) for part in rule["all_of"])
    if "not" in rule:
        return not matches(rule["not"], row, now, floats)
    if rule["operator"] in NEGATIVE:
        return not matches({**rule, "operator": NEGATIVE[rule["operator"]]}, row, now, floats)
    name = f"{rule['table']}.{rule['column']}"
    if name in floats and isinstance(rule["value"], int | list):
        rule = {**rule, "value": as_floats(rule["value"])}
    found = row.get(name)
    several = found if isinstance(found, tuple) else (found,)
    return any(compare(rule, look_up(value, rule.get("json_path")), now) for value in several)


def as_floats(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, list) else float(value)


def look_up(value: Any, path: str | None) -> Any:
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def compare(rule: Mapping[str, Any], found: Any, now: datetime) -> bool:
    operator, value = rule["operator"], rule["value"]
    if found is None:
        return False
    if operator == "not_null":
        return True
    if operator == "since":
        return bool(found >= now - timedelta(**{UNITS[value[-1]]: int(value[:-1])}))
    if operator in ("like", "ilike"):
        return isinstance(found, str) and like(value, found, operator == "ilike")
    if operator == "in":
        return any(ordered(found, one, lambda a, b: a == b) for one in value)
    if operator == "between":
        return ordered(found, value[0], lambda a, b: a >= b) and ordered(found, value[1], lambda a, b: a <= b)
    return ordered(found, value, COMPARISONS[operator])


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def ordered(found: Any, value: Any, answer: Callable[[Any, Any], bool]) -> bool:
    """Values of one kind compare, others do not."""
    if isinstance(found, datetime):
        moment = datetime.fromisoformat(value)
        return answer(found, moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    kinds = [bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in (found, value)]
    return kinds[0] is kinds[1] and not isinstance(found, list | dict) and answer(found, value)


def like(pattern: str, text: str, fold: bool) -> bool:
    """LIKE with the escape backslash; `fold` ignores the case of A-Z."""
    expression, escaped = "", False
    for character in pattern:
        if not escaped and character == "\\":
            escaped = True
            continue
        wild = {"%": ".*", "_": "."}.get(character) if not escaped else None
        expression += wild or re.escape(character)
        escaped = False
    expression += re.escape("\\") if escaped else ""
    flags = re.DOTALL | (re.IGNORECASE | re.ASCII if fold else 0)
    return re.fullmatch(expression, text, flags) is not None
