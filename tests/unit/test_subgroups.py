"""Sub-group keys are safe bounded path components, one for every set of values; nights begin at noon."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.subgroups import (
    MOST_NATURAL,
    NAMED,
    group_by_digest,
    group_by_json,
    in_order,
    natural_key,
    obs_date,
    parse_group_by,
    sub_group_key,
)

pytestmark = pytest.mark.quick

SAFE = re.compile(r"[A-Za-z0-9_~][A-Za-z0-9._=+~-]{0,119}")
dims = st.lists(st.tuples(st.text(min_size=1, max_size=12), st.none() | st.text(max_size=60)), max_size=5)
signs = st.none() | st.text("a~+=.-/é", max_size=4)
short = st.lists(st.tuples(st.sampled_from(["source", "module", "x"]), signs), max_size=3)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([], "all"),
        ([("executed_obs_unit", "1234")], "executed_obs_unit=1234"),
        ([("source", "NGC253"), ("module", "LFA")], "source=NGC253+module=LFA"),
        ([("source", None)], "source=~null"),
        ([("source", "~null")], "source=~7Enull"),
        ([("source", "")], "source="),
        ([("source", "..")], "source=.."),
        ([("source", "a/b")], "source=a~2Fb"),
        ([("source", "a+module=b")], "source=a~2Bmodule~3Db"),
        ([("source", "Größe")], "source=Gr~C3~B6~C3~9Fe"),
        ([("-rf", "x")], "~2Drf=x"),
        ([(".hidden", "x")], "~2Ehidden=x"),
    ],
)
def test_keys_look_like_this(values: list[tuple[str, Any]], key: str) -> None:
    assert sub_group_key(values) == key


@given(dims)
def test_a_key_is_one_safe_path_component_of_at_most_120_characters(values: list[tuple[str, Any]]) -> None:
    assert SAFE.fullmatch(sub_group_key(values))


@given(dims, dims)
def test_other_values_have_another_key(one: list[tuple[str, Any]], other: list[tuple[str, Any]]) -> None:
    assert (sub_group_key(one) == sub_group_key(other)) == (one == other)


@given(short, short)
def test_values_made_of_the_signs_of_keys_have_another_key(one: list[Any], other: list[Any]) -> None:
    assert (sub_group_key(one) == sub_group_key(other)) == (one == other)


@given(dims)
def test_the_same_values_have_the_same_key(values: list[tuple[str, Any]]) -> None:
    assert sub_group_key(values) == sub_group_key(list(values))


def test_a_key_of_120_characters_is_whole_and_a_longer_one_ends_in_a_hash() -> None:
    assert sub_group_key([("source", "x" * 113)]) == "source=" + "x" * 113
    longer = sub_group_key([("source", "x" * 114)])
    assert re.fullmatch(r"source=x{91}~~[0-9a-f]{20}", longer) and len(longer) == 120


def test_long_values_that_differ_at_their_end_have_other_keys() -> None:
    assert sub_group_key([("source", "x" * 5000)]) != sub_group_key([("source", "x" * 4999 + "y")])


def test_a_value_that_looks_like_a_hashed_key_has_another_key() -> None:
    hashed = sub_group_key([("source", "x" * 500)])
    assert sub_group_key([("source", hashed.removeprefix("source="))]) != hashed


# --- nights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (datetime(2026, 3, 1, 15, 0, tzinfo=UTC), date(2026, 3, 1)),  # local noon in summer, UTC-3
        (datetime(2026, 3, 1, 14, 59, 59, tzinfo=UTC), date(2026, 2, 28)),
        (datetime(2026, 3, 2, 3, 0, tzinfo=UTC), date(2026, 3, 1)),  # local midnight
        (datetime(2026, 6, 1, 15, 59, 59, tzinfo=UTC), date(2026, 5, 31)),  # winter, UTC-4
        (datetime(2026, 6, 1, 16, 0, tzinfo=UTC), date(2026, 6, 1)),
        (datetime(2026, 4, 5, 3, 30, tzinfo=UTC), date(2026, 4, 4)),  # the clock goes back in this night
    ],
)
def test_a_night_runs_from_local_noon_to_local_noon(start: datetime, expected: date) -> None:
    assert obs_date(start, "America/Santiago") == expected


# --- group_by ----------------------------------------------------------------------------------

FREE = {"name": "freq", "table": "RawDataPackage", "column": "metadata", "json_path": "obs.freq"}


def wrong(*items: Any) -> str:
    return "\n".join(map(str, parse_group_by(list(items), "g")[1]))


def test_all_named_dimensions_are_known() -> None:
    names = "executed_obs_unit obs_unit source instrument instrument_module observing_program obs_date"
    written = [*names.split(), "raw_data_package"]
    parsed, problems = parse_group_by(written)
    assert problems == [] and [dim.name for dim in parsed] == written == list(NAMED)


def test_a_module_is_called_module_in_keys() -> None:
    assert [dim.shown for dim in parse_group_by(["instrument_module"])[0]] == ["module"]


def test_what_was_parsed_is_written_back_as_it_was() -> None:
    written = ["source", FREE, {"name": "line", "table": "ObsUnit", "column": "line_id"}]
    assert group_by_json(parse_group_by(written)[0]) == written


def test_digests_tell_dimensions_and_their_order_apart() -> None:
    lists: list[Any] = [
        [],
        ["source"],
        ["source", "obs_date"],
        ["obs_date", "source"],
        [FREE],
        [{**FREE, "name": "f"}],
    ]
    assert len({group_by_digest(parse_group_by(one)[0]) for one in lists}) == len(lists)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("sauce", "g[0]: unknown dimension 'sauce'; did you mean source?"),
        (5, "g[0]: is no dimension"),
        ({"name": "x"}, "g[0]: table is missing or no text"),
        ({**FREE, "operator": "eq"}, "unknown key 'operator'"),
        ({**FREE, "name": "source"}, "dimension name 'source'"),
        ({**FREE, "name": "a/b"}, "dimension name 'a/b'"),
        ({**FREE, "name": "-x"}, "dimension name '-x'"),
        ({**FREE, "name": ".x"}, "dimension name '.x'"),
        ({**FREE, "name": ""}, "dimension name ''"),
        ({**FREE, "json_path": "a..b"}, "json_path 'a..b'"),
        ({**FREE, "json_path": ["a"]}, "json_path"),
    ],
)
def test_a_dimension_that_is_none_is_refused(item: Any, said: str) -> None:
    assert said in wrong(item)


def test_all_wrong_dimensions_are_told_at_once() -> None:
    assert len(wrong("a", {"name": "x"}, 5).splitlines()) == 4


def test_a_dimension_twice_is_refused() -> None:
    assert "dimension source is there twice" in wrong("source", "source")
    assert "dimension module is there twice" in wrong("instrument_module", {**FREE, "name": "module"})


def test_no_list_is_refused() -> None:
    assert "is not a list" in str(parse_group_by("source")[1][0])


@pytest.mark.parametrize(
    "ordered",
    [
        ["executed_obs_unit=1", "executed_obs_unit=2", "executed_obs_unit=10", "executed_obs_unit=100"],
        ["m=A+scan=2", "m=A+scan=10", "m=B+scan=1"],
        ["f=-10", "f=-2.5", "f=-2.25", "f=-2", "f=0", "f=0.25", "f=0.5", "f=7", "f=7.25", "f=7.5", "f=10"],
        ["f=461.04+n=2", "f=461.25+n=1", "f=461.5+n=10", "f=809"],
        ["s=M1", "s=M2", "s=M02", "s=M31", "s=M31b", "s=NGC253", "s=NGC1068", "s=~null"],
        ["n=1.2.9", "n=1.2.10", "n=1.10.0", "n=2026-03-01", "n=2026-03-02", "n=2026-11-01"],
        ["n=9", "n=99999999999999999999999999", "n=100000000000000000000000000"],
        ["all"],
    ],
)
def test_numbers_in_keys_are_ordered_by_value(ordered: list[str]) -> None:
    assert in_order(ordered[::-1]) == in_order(set(ordered)) == ordered


@given(st.lists(st.text("019.+=-aZ~", max_size=12), unique=True))
def test_the_order_of_keys_does_not_depend_on_where_they_come_from(keys: list[str]) -> None:
    assert in_order(keys) == in_order(keys[::-1])
    assert len({natural_key(key) for key in keys}) == len(keys)


def test_of_too_many_keys_the_order_is_that_of_texts() -> None:
    many = [f"n={n}" for n in range(MOST_NATURAL + 1)]
    assert in_order(many)[:3] == ["n=0", "n=1", "n=10"]
    assert in_order(many[:-1])[:3] == ["n=0", "n=1", "n=2"]
