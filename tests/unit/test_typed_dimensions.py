"""Dimensions on the command line, sizes that are not known, and names of any kind in what is said."""

from __future__ import annotations

import pytest

from ccatwm.core.decision_text import changes_text
from ccatwm.core.selection import suggest
from ccatwm.errors import UsageError
from ccatwm.views.groupings import read_dimensions, total_line

MODE = {"name": "x", "table": "T", "column": "c"}


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["source,obs_date"], ["source", "obs_date"]),
        (["source", "obs_date"], ["source", "obs_date"]),
        (["{name: x, table: T, column: c}"], [MODE]),
        (["source,{name: x, table: T, column: c}, obs_date"], ["source", MODE, "obs_date"]),
        ([" , "], []),
    ],
)
def test_dimensions_are_split_at_commas_outside_braces(texts, found):
    assert read_dimensions(texts) == found


def test_what_is_no_yaml_is_told():
    with pytest.raises(UsageError, match="cannot be read"):
        read_dimensions(["{name: x, table"])


@pytest.mark.parametrize(
    ("size", "unknown", "end"), [(0, 0, "0 B"), (None, 1, "1 of unknown size"), (17, 1, "17 B and 1 of unknown size")]
)
def test_one_of_a_thing_is_one_thing_and_no_size_is_made_up(size, unknown, end):
    total = {"sub_groups": 1, "packages": 1, "archived": 1, "size": size, "size_unknown": unknown}
    assert total_line({"grouping": [1], "total": total}) == f"1 sub-group, 1 package, 1 of them archived, {end}"


def test_names_are_suggested_on_one_line():
    assert suggest("scan", ["scan\n1"]) == "did you mean scan\\n1?"


def test_a_key_that_was_not_there_is_not_none():
    text = changes_text({"changes": {"config": {"a": [None, 1], "b": [2, None]}}})
    assert text == "a (not set) -> 1; b 2 -> (not set)"
