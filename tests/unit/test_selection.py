"""What is said about a name that is not there."""

from __future__ import annotations

import pytest

from ccatwm.core.selection import suggest

pytestmark = pytest.mark.quick


def test_a_list_that_is_cut_says_how_many_more_there_are():
    assert suggest("x", [f"name{n:02}" for n in range(12)]).endswith("name09 and 2 more")


def test_a_long_name_is_shortened():
    assert suggest("nope", ["p" * 5000]) == f"there are: {'p' * 77}..."
    assert len(suggest("p" * 4990, ["p" * 5000])) < 120


def test_names_that_exist_are_suggested_in_the_order_of_their_numbers():
    assert suggest("moon", ["scan=10", "scan=9", "scan=100"]) == "there are: scan=9, scan=10, scan=100"
