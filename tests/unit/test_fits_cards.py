"""Values and times of FITS header cards."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from ccatwm.core.fits_cards import HeaderCard, card_value, parse_time, parse_wanted, pick_cards
from ccatwm.core.fits_sums import parse_cards

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("OBJECT  = 'NGC 253 '           / what is seen", "NGC 253"),
        ("OBSERVER= 'O''Neill / x'", "O'Neill / x"),
        ("EXPTIME =                 12.5 / s", 12.5),
        ("EXPTIME =              1.25D+1", 12.5),
        ("NSUB    =                  -42", -42),
        ("SIMPLE  =                    T / FITS", True),
        ("EMPTY   =                      / nothing", None),
        ("BLANK   = '        '", None),
        ("COMPLEX =           (1.0, 2.0)", None),
    ],
)
def test_the_value_of_a_card(card: str, value: object) -> None:
    [(_, text)], _ = parse_cards(card.ljust(80).encode("latin-1"))
    assert card_value(text) == value and type(card_value(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01T04:05:06", datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-01T04:05:06.1234567", datetime(2026, 3, 1, 4, 5, 6, 123456, UTC)),
        ("2016-12-31T23:59:60", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2026-03-01", date(2026, 3, 1)),
        ("31/12/98", date(1998, 12, 31)),
        ("2026-02-30", None),
        ("last night", None),
        (61000, None),
    ],
)
def test_times(text: object, moment: object) -> None:
    assert parse_time(text) == moment


def test_a_time_of_another_scale_is_not_taken_for_utc() -> None:
    assert parse_time("2026-03-01T04:05:06", "TAI") is None


def test_what_is_wanted_of_a_header() -> None:
    cards, problems = parse_wanted(["OBJECT,date-obs", "BACKEND=instrument_module,EXPTIME"])
    assert problems == []
    assert [(c.keyword, c.field) for c in cards] == [
        ("OBJECT", "source"), ("DATE-OBS", "start_time"), ("BACKEND", "instrument_module"), ("EXPTIME", "EXPTIME"),
    ]  # fmt: skip
    _, problems = parse_wanted(["OBJECTNAME,,A=b c"])
    assert [p.what for p in problems] == [
        "'OBJECTNAME' names no FITS keyword", "'' names no FITS keyword", "'A=b c' names no field",
    ]  # fmt: skip


def test_the_first_card_of_a_keyword_counts() -> None:
    cards = [("OBJECT", "'a'"), ("OBJECT", "'b'"), ("OTHER", "1")]
    assert pick_cards(cards, [HeaderCard("OBJECT", "source"), HeaderCard("ABSENT", "x")]) == {"OBJECT": "a"}
