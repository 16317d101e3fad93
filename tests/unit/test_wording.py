"""Numbers as people read them."""

from __future__ import annotations

import pytest

from ccatwm.core.wording import core_hours_text, count_text, number_text

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("number", "text"),
    [(9000.0, "9000"), (65536.25, "65536"), (999.7, "1000"), (999.4, "999"), (2.25, "2.25"), (0.12345, "0.123"), (0.0, "0"),
     (-9000.0, "-9000"), (1.256e-05, "0.0000126"), (-1.256e-05, "-0.0000126"), (1e-12, "1e-12")],
)  # fmt: skip
def test_a_number_of_everyday_size_has_no_exponent(number: float, text: str) -> None:
    assert number_text(number) == text


def test_many_core_hours_are_counted_plainly() -> None:
    assert count_text(12345.6, "core hour") == "12346 core hours"
    assert count_text(1.0, "core hour") == "1 core hour"


@pytest.mark.parametrize(
    ("hours", "text"),
    [(1.256e-05, "less than 0.01 core hours"), (0.0, "0 core hours"), (0.25, "0.25 core hours"), (1.0, "1 core hour")],
)
def test_core_hours_that_nobody_plans_by_are_told_as_few(hours: float, text: str) -> None:
    assert core_hours_text(hours) == text
