"""Rules by which products are searched, as they are typed."""

from __future__ import annotations

from typing import Any

import pytest

from ccatwm.core.product_rules import SEARCH_OPERATORS, declared_text, parse_product_rules
from ccatwm.errors import UsageError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qa.rms_k:lt:0.2", ("quality", "rms_k", "lt", 0.2)),
        ("quality.rms_k:lt:0.2", ("quality", "rms_k", "lt", 0.2)),
        ("rms_k:lt:0.2", ("quality", "rms_k", "lt", 0.2)),
        ("baseline.order:eq:3", ("quality", "baseline.order", "eq", 3)),
        ("dims.line:eq:CO43", ("dims", "line", "eq", "CO43")),
        ("qa.dims.x:gte:1", ("quality", "dims.x", "gte", 1)),
        ("dims:eq:x", ("quality", "dims", "eq", "x")),
        ("dims.line:in:CO43,CI", ("dims", "line", "in", ["CO43", "CI"])),
        ("qa.n:between:1,2.5", ("quality", "n", "between", [1, 2.5])),
        ("qa.good:eq:true", ("quality", "good", "eq", True)),
        ('dims.scan:eq:"123"', ("dims", "scan", "eq", "123")),
        ("qa.at:eq:12:30", ("quality", "at", "eq", "12:30")),
        ("dims.line:like:1%", ("dims", "line", "like", "1%")),
        ("qa.rms_k:is_null", ("quality", "rms_k", "is_null", None)),
        ("qa.n:eq:null", ("quality", "n", "eq", "null")),
        ("qa.n:eq:NaN", ("quality", "n", "eq", "NaN")),
        ("qa.n:eq:Infinity", ("quality", "n", "eq", "Infinity")),
        ("qa.n:lt:9223372036854775807", ("quality", "n", "lt", 2**63 - 1)),
        ("qa.n:lt:9223372036854775808", ("quality", "n", "lt", 2.0**63)),
        ("qa.n:between:-99999999999999999999,1", ("quality", "n", "between", [-1e20, 1])),
    ],
)
def test_a_rule_is_read(text: str, expected: tuple[Any, ...]) -> None:
    (rule,) = parse_product_rules([text])
    assert (rule.column, rule.json_path, rule.operator, rule.value) == expected


@pytest.mark.parametrize(
    ("text", "what", "next_"),
    [
        ("qa.rms_k", "is no rule", "PATH:OPERATOR:VALUE"),
        (":lt:1", "is no rule", "PATH:OPERATOR:VALUE"),
        ("qa.rms_k:les:1", "unknown operator 'les'", "lt"),
        ("qa.rms_k:since:3d", "unknown operator 'since'", "allowed: eq, neq"),
        ("qa.rms_k:lt", "operator lt with value ''", "it takes a text or a number"),
        ("qa.rms_k:lt:true", "operator lt with value 'true'", "it takes a text or a number"),
        ("qa.rms_k:lt:1e400", "operator lt with value '1e400'", "a text or a number no larger than 1.7e308"),
        ("qa.rms_k:gt:-1" + "0" * 400, "operator gt", "no larger than 1.7e308"),
        ("qa.rms_k:between:1", "operator between", "a list of two"),
        ("qa.rms_k:is_null:1", "operator is_null", "no value"),
        ("qa.a..b:eq:1", "path 'qa.a..b' names no value", "keys between dots"),
        ("qa.:eq:1", "path 'qa.' names no value", "keys between dots"),
    ],
)
def test_a_wrong_rule_says_what_is_allowed(text: str, what: str, next_: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_product_rules([text])
    (problem,) = caught.value.problems
    assert what in problem.what and next_ in problem.next and text in problem.where


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_product_rules(["x", "qa.a:lt:1", "qa.b:nearly:1"])
    assert len(caught.value.problems) == 2


def test_every_operator_of_filter_rules_but_that_of_times_is_there() -> None:
    assert set(SEARCH_OPERATORS) == {
        "eq", "neq", "in", "not_in", "gt", "gte", "lt", "lte", "like", "ilike", "between", "is_null", "not_null",
    }  # fmt: skip


def test_values_that_are_wrong_are_answered_with_how_they_are_written() -> None:
    with pytest.raises(UsageError) as caught:
        parse_product_rules(["qa.x:between:1", "qa.x:is_null:5", ""])
    between, nothing, empty = map(str, caught.value.problems)
    assert "qa.rms_k:between:0.1,0.2" in between and "qa.rms_k:not_null" in nothing and empty.startswith("--rule '': ")


def test_what_rules_can_be_about_is_told_with_its_kinds() -> None:
    products = [
        {"quality": {"rms_k": 0.1, "fit": {"good": True}}, "dims": None},
        {"quality": {"rms_k": "none"}, "dims": {"line": "CO43", "windows": [1, 2], "beam": None}},
    ]
    text = declared_text(products)
    assert "qa.rms_k (number or text)" in text and "qa.fit.good (true or false)" in text
    assert "dims.line (text)" in text and "dims.windows (list)" in text and "dims.beam (null)" in text
    assert "none of the products" in declared_text([{"quality": None, "dims": {}}])
    assert "and 5 more" in declared_text([{"quality": {f"m{n:02}": n for n in range(25)}, "dims": None}])
