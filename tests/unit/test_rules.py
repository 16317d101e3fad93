"""Filter rules as people write them: what is read, and everything that is wrong with them, at once."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from ccatwm.core.rules import AllOf, AnyOf, Not, ParsedRules, Rule, goes_by_time, parse_rules, parse_since

pytestmark = pytest.mark.quick

NAME = {"table": "Source", "column": "name", "operator": "eq", "value": "NGC253"}
LINE = {"table": "ObsUnit", "column": "line_id", "operator": "is_null"}
NAME_RULE = Rule("Source", "name", "eq", "NGC253")
LINE_RULE = Rule("ObsUnit", "line_id", "is_null")


def wrong(*rules: Any) -> str:
    tree, problems = parse_rules(list(rules), "pipelines.yaml:4")
    assert tree is None
    return "\n".join(map(str, problems))


def test_a_list_of_rules_is_anded() -> None:
    assert parse_rules([NAME, LINE]) == (AllOf((NAME_RULE, LINE_RULE)), [])


def test_no_rules_select_everything() -> None:
    assert parse_rules([]) == (AllOf(()), [])


def test_rules_nest() -> None:
    tree, _ = parse_rules([{"any_of": [NAME, {"all_of": [LINE, {"not": NAME}]}]}])
    assert tree == AllOf((AnyOf((NAME_RULE, AllOf((LINE_RULE, Not(NAME_RULE))))),))


def test_not_takes_a_list_as_all_of() -> None:
    assert parse_rules([{"not": [NAME, LINE]}])[0] == AllOf((Not(AllOf((NAME_RULE, LINE_RULE))),))


def test_a_rule_knows_where_it_was_written() -> None:
    rules = ParsedRules.build([NAME, {"any_of": [LINE, {"not": NAME}]}], "f:3").rules
    assert [rule.where for rule in rules] == ["f:3[0]", "f:3[1].any_of[0]", "f:3[1].any_of[1].not"]


def test_all_mistakes_are_told_at_once_each_with_its_place() -> None:
    bad = {"table": "Source", "column": 5, "operator": "equals", "value": "x", "colour": "red"}
    text = wrong(bad, {"any_of": [{**NAME, "value": None}]})
    assert text.splitlines() == [
        "pipelines.yaml:4[0]: unknown key 'colour'; did you mean column?",
        "pipelines.yaml:4[0]: column is missing or no text",
        "pipelines.yaml:4[0]: unknown operator 'equals'; allowed: eq, neq, gt, gte, lt, lte, in, not_in,"
        " like, ilike, between, is_null, not_null, since",
        "pipelines.yaml:4[1].any_of[0]: operator eq with value None; it takes a text, a number or true/false;"
        " is_null asks for absent values",
    ]


def test_rules_that_are_right_are_known_beside_wrong_ones() -> None:
    parsed = ParsedRules.build([NAME, {**LINE, "operator": "isnull"}])
    assert parsed.rules == [NAME_RULE] and len(parsed.problems) == 1


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("eq", True),
        ("neq", 5),
        ("gt", 1.5),
        ("lte", "a"),
        ("in", ["a", 1, False]),
        ("not_in", ["x"] * 10_000),
        ("like", "CO%"),
        ("ilike", "co_"),
        ("between", [1, 2.5]),
        ("is_null", None),
        ("not_null", None),
        ("since", "30d"),
    ],
)
def test_every_operator_takes_its_own_shape_of_value(operator: str, value: Any) -> None:
    tree, problems = parse_rules([{"table": "T", "column": "c", "operator": operator, "value": value}])
    assert problems == [] and tree == AllOf((Rule("T", "c", operator, value),))


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("eq", None),
        ("eq", ["a"]),
        ("eq", {"a": 1}),
        ("eq", float("nan")),
        ("eq", 2**63),
        ("eq", "a\0b"),
        ("eq", "\udcff"),
        ("gt", True),
        ("in", "a"),
        ("in", []),
        ("in", ["a", None]),
        ("in", ["x"] * 10_001),
        ("like", 5),
        ("like", "%" * 1001),
        ("between", [1]),
        ("between", [1, None]),
        ("between", "1-2"),
        ("is_null", True),
        ("not_null", "x"),
        ("since", "yesterday"),
        ("since", 30),
        ("since", "99999w"),
    ],
)
def test_a_value_of_another_shape_is_refused(operator: str, value: Any) -> None:
    text = wrong({"table": "T", "column": "c", "operator": operator, "value": value})
    assert f"operator {operator} with value" in text and "it takes" in text


@pytest.mark.parametrize(("operator", "value"), [("eq", 12345678901234567890), ("in", [1, -(2**63) - 1])])
def test_a_number_that_is_too_large_is_told_as_such(operator: str, value: Any) -> None:
    assert "too large" in wrong({"table": "T", "column": "c", "operator": operator, "value": value})


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    assert len(wrong({**NAME, "operator": "like", "value": "x" * 5000})) < 300


def test_dates_as_yaml_reads_them_become_text() -> None:
    rule = {"table": "T", "column": "c", "operator": "between", "value": [date(2026, 3, 1), date(2026, 3, 2)]}
    tree, _ = parse_rules([rule])
    assert tree == AllOf((Rule("T", "c", "between", ["2026-03-01", "2026-03-02"]),))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("Source.name = x", "is not a rule"),
        (["a"], "is not a rule"),
        ({}, "table is missing"),
        ({"any_of": NAME}, "is not a list of rules"),
        ({"any_of": []}, "is empty"),
        ({"not": []}, "is empty"),
        ({"not": 5}, "is not a rule"),
        ({"any_of": [NAME], "all_of": [NAME]}, "any_of stands beside all_of"),
        ({"not": NAME, "table": "Source"}, "not stands beside table"),
        ({"anyof": [NAME]}, "did you mean any_of"),
    ],
)
def test_what_is_no_rule_is_refused(bad: Any, said: str) -> None:
    assert said in wrong(bad)


def test_what_is_no_list_is_refused() -> None:
    assert "is not a list of rules" in str(parse_rules({"table": "Source"})[1][0])


@pytest.mark.parametrize("path", ["", ".", "a..b", 'a"b', "a\\b", "a\nb", 5, "x" * 501])
def test_a_json_path_that_is_none_is_refused(path: Any) -> None:
    assert "json_path" in wrong({**NAME, "json_path": path})


@pytest.mark.parametrize("path", ["a", "observation.frequency_ghz", "a b.Träger", "x'--"])
def test_a_json_path_is_keys_between_dots(path: str) -> None:
    tree, _ = parse_rules([{**NAME, "json_path": path}])
    assert tree == AllOf((Rule("Source", "name", "eq", "NGC253", path),))


def nested(levels: int) -> Any:
    rule: Any = NAME
    for _ in range(levels):
        rule = {"not": rule}
    return rule


def test_ten_levels_are_allowed_and_eleven_are_not() -> None:
    assert parse_rules([nested(10)])[1] == []
    assert "at most 10 levels" in wrong(nested(11))


def test_nesting_without_end_is_refused_in_a_line() -> None:
    assert wrong(nested(100_000)).count("\n") == 0


def test_five_hundred_rules_are_allowed_and_more_are_not() -> None:
    assert parse_rules([NAME] * 500)[1] == []
    assert "501 rules" in wrong({"any_of": [NAME] * 501})


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("45s", timedelta(seconds=45)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2 w", timedelta(weeks=2)),
        ("0d", timedelta()),
    ],
)
def test_durations_are_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_since(text) == duration


@pytest.mark.parametrize("text", ["30", "d", "-3d", "3.5d", "30D", "1y", "٣d", "", None, 30])
def test_other_texts_are_no_durations(text: Any) -> None:
    assert parse_since(text) is None


@pytest.mark.parametrize(
    "nested",
    [lambda rule: [rule], lambda rule: [{"any_of": [{"not": rule}]}], lambda rule: {"all_of": [rule]}],
)
def test_rules_go_by_time_where_one_of_them_says_since(nested):
    rule = {"table": "ExecutedObsUnit", "column": "start_time", "operator": "since", "value": "30d"}
    assert goes_by_time(nested(rule))
    assert not goes_by_time(nested({**rule, "operator": "eq", "value": "since"}))
