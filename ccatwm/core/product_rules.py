"""Rules by which products are searched: `qa.rms_k:lt:0.2`, typed on a command line. Pure.

Operators and their values are those of filter rules (`core.rules`). What is compared is a value that a program declared in
`products.json`: a rule compares with values of its own kind, and matches what is not there only where it asks for that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ccatwm.core.names import encode_name
from ccatwm.core.rules import OPERATORS, Rule, choices, is_scalar, wrong_json_path
from ccatwm.errors import Problem, UsageError

COLUMNS = {"qa": "quality", "quality": "quality", "dims": "dims"}
SEARCH_OPERATORS = tuple(name for name in OPERATORS if name != "since")  # values of JSON are no times
WITHOUT_VALUE = ("is_null", "not_null")
OF_TEXT = ("like", "ilike")
OF_MANY = ("in", "not_in", "between")
FORM_OF_MANY = "write the values with commas between them, such as dims.line:in:CO43,CO32 or qa.rms_k:between:0.1,0.2"
FORM_WITHOUT = "write PATH:OPERATOR alone, such as qa.rms_k:not_null"
MAX_TOLD = 20
FORM = "write PATH:OPERATOR:VALUE, such as qa.rms_k:lt:0.2 or dims.line:eq:CO43"


def parse_product_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """All of them have to hold. Errors: UsageError with all mistakes at once, each with what is allowed."""
    problems: list[Problem] = []
    rules = [_rule(text, problems) for text in texts]
    if problems:
        raise UsageError("the rules are wrong", problems=problems)
    return tuple(rule for rule in rules if rule is not None)


def _rule(text: str, problems: list[Problem]) -> Rule | None:
    where = f"--rule {text}" if text.strip(": ") else f"--rule {text!r}"
    path, colon, rest = text.partition(":")
    operator, _, written = rest.partition(":")
    if not colon or not path:
        problems.append(Problem(where, "is no rule", FORM))
        return None
    if operator not in SEARCH_OPERATORS:
        problems.append(Problem(where, f"unknown operator {operator!r}", choices(operator, SEARCH_OPERATORS)))
        return None
    column, inner = _column(path)
    wanted = wrong_json_path(inner)
    if wanted:
        problems.append(Problem(where, f"path {path!r} names no value", wanted))
        return None
    has_value = rest.count(":") > 0
    value = _value(operator, written) if has_value else None
    if wrong := OPERATORS[operator](value):
        beyond = " no larger than 1.7e308" if math.inf in _numbers(value) or -math.inf in _numbers(value) else ""
        problems.append(
            Problem(where, f"operator {operator} with value {written!r}", f"it takes {wrong}{beyond}; {_form(operator)}")
        )
        return None
    return Rule("DataProduct", column, operator, value, inner, where)


def _form(operator: str) -> str:
    return FORM_OF_MANY if operator in OF_MANY else FORM_WITHOUT if operator in WITHOUT_VALUE else FORM


def declared_text(products: Sequence[Mapping[str, Any]]) -> str:
    """What rules can be about: the values that these products declare (`quality`, `dims`), each with its kinds."""
    kinds: dict[str, dict[str, None]] = {}
    for product in products:
        for name, column in (("qa", "quality"), ("dims", "dims")):
            for path, value in _values(name, product[column] or {}):
                kinds.setdefault(path, {})[_kind(value)] = None
    if not kinds:
        return "none of the products that are selected without rules declares a value in its products.json"
    told = [f"{path} ({' or '.join(some)})" for path, some in sorted(kinds.items())]
    more = f" and {len(told) - MAX_TOLD} more" if len(told) > MAX_TOLD else ""
    return f"rules can be about {', '.join(told[:MAX_TOLD])}{more}; each compares with values of its own kind"


def _values(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(f"{path}.{key}", inner)
    else:
        yield encode_name(path), value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "null" if value is None else "list"


def _numbers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else (value,)


def _column(path: str) -> tuple[str, str]:
    """(column, path in it). A path that begins with no column's name is one of the quality metrics."""
    first, dot, rest = path.partition(".")
    return (COLUMNS[first], rest) if dot and first in COLUMNS else ("quality", path)


def _value(operator: str, written: str) -> Any:
    if operator in WITHOUT_VALUE or operator in OF_TEXT:
        return written
    return [_scalar(part) for part in written.split(",")] if operator in OF_MANY else _scalar(written)


def _scalar(written: str) -> Any:
    """A number, true, false or a text in quotation marks as JSON has them; anything else is a text as it stands.

    A whole number of more than 64 bits is compared as what it is about. One beyond all numbers is for the operator to
    refuse: as a text it would match nothing, and nobody would be told.
    """
    try:
        value = json.loads(written, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return written
    if isinstance(value, int) and not is_scalar(value):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return value if is_scalar(value) or isinstance(value, float) else written


def _refuse_constant(name: str) -> Any:
    """`NaN` and `Infinity`, which JSON does not know."""
    raise ValueError(name)
