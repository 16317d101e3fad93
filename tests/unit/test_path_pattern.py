"""What a path says of a package, and what is said where it says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.path_pattern import parse_date, parse_pattern

pytestmark = pytest.mark.quick
PLAIN = "{source}/{obs_date}/{scan}.fits"


def pattern(text: str):
    parsed, problems = parse_pattern(text)
    assert parsed is not None, problems
    return parsed


def mistakes(text: str) -> list[str]:
    parsed, problems = parse_pattern(text)
    assert parsed is None
    return [f"{p.what}; {p.next}" for p in problems]


def test_fields_are_read_from_a_path() -> None:
    found = pattern(PLAIN).match(["NGC253", "2026-03-01", "0001.fits"])
    assert found == {"source": "NGC253", "obs_date": "2026-03-01", "scan": "0001"}


@pytest.mark.parametrize(
    "path",
    ["NGC253/2026-03-01/0001.fit", "NGC253/0001.fits", "a/2026-03-01/b/0001.fits", "a/2026-02-30/1.fits", "a/b/1.fits"],
)
def test_another_path_is_no_package(path: str) -> None:
    assert pattern(PLAIN).match(path.split("/")) is None


def test_several_fields_of_one_name_and_stars() -> None:
    found = pattern("*/{source}_{instrument}-{scan}_*.fits").match(["x", "NGC_253_CHAI-7_raw_v2.fits"])
    assert found == {"source": "NGC", "instrument": "253_CHAI", "scan": "7"}


def test_a_field_that_stands_twice_has_one_text() -> None:
    parsed = pattern("{source}/{source}-{scan}.fits")
    assert parsed.match(["a", "a-1.fits"]) == {"source": "a", "scan": "1"}
    assert parsed.match(["a", "b-1.fits"]) is None
    assert parsed.mismatch(["a", "b-1.fits"])[1] == "{source} is 'a' before and 'b' in 'b-1.fits'"
    assert parsed.fields == ("source", "scan")


def test_only_folders_that_may_hold_packages_lead_on() -> None:
    parsed = pattern(PLAIN)
    assert parsed.leads_on(["a"]) and parsed.leads_on(["a", "20260301"])
    assert not parsed.leads_on(["a", "calibration"]) and not parsed.leads_on(["a", "20260301", "b"])


def test_a_name_that_is_no_text_is_no_package() -> None:
    assert pattern("{scan}").match(["a\udcff"]) is None
    assert "no plain text" in pattern("{scan}").mismatch(["a\n"])[1]


def test_all_mistakes_of_a_pattern_are_told_at_once() -> None:
    found = mistakes("/{scan:04d}/../{a}{b}/x}.fits")
    assert [text.partition(";")[0] for text in found] == [
        "'/{scan:04d}/../{a}{b}/x}.fits' begins at the root",
        "{scan:04d} is no name of a field",
        "a part of '/{scan:04d}/../{a}{b}/x}.fits' is '..'",
        "nothing stands between {a} and {b} in '{a}{b}'",
        "a lone '}' in 'x}.fits'",
    ]
    assert mistakes("/") == ["it is empty; such as '{source}/{obs_date}/{scan}.fits'"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("NGC253/2026-03-01/0001.fit", "'0001.fit' has no '.fits' after {scan}"),
        ("NGC253/2026-03-01/0001.fits.gz", "after '.fits' '0001.fits.gz' goes on with '.gz'"),
        ("NGC253/night1/0001.fits", "'night1' does not begin with {obs_date} (a date: 2026-03-01 or 20260301)"),
        ("0001.fits", "the pattern's packages lie 2 folders deep, this lies 0 folders deep"),
    ],
)
def test_where_a_path_differs_is_said(path: str, what: str) -> None:
    assert pattern(PLAIN).mismatch(path.split("/"))[1] == what


def test_the_nearest_path_goes_farther_along() -> None:
    far = [pattern(PLAIN).mismatch(p.split("/"))[0] for p in ("notes.txt", "a/x/1.fits", "a/20260301/1.fit")]
    assert far == sorted(far) and len(set(far)) == 3


def test_dates() -> None:
    assert str(parse_date("20260301")) == str(parse_date("2026-03-01")) == "2026-03-01"
    assert [parse_date(text) for text in ("2026-0301", "2026-13-01", "٢٠٢٦-03-01", "")] == [None] * 4


_TEXT = st.text(st.characters(whitelist_categories=["Lu", "Ll", "Nd"]), min_size=1)


@given(_TEXT, _TEXT)
def test_what_is_written_by_a_pattern_is_read_by_it(source: str, scan: str) -> None:
    assert pattern("{source}/s-{scan}.fits").match([source, f"s-{scan}.fits"]) == {"source": source, "scan": scan}


@given(st.text(max_size=40))
def test_no_text_is_too_odd_for_a_pattern_or_a_path(text: str) -> None:
    parsed, problems = parse_pattern(text)
    assert (parsed is None) == bool(problems)
    pattern(PLAIN).mismatch(text.split("/"))
    if parsed is not None:
        parsed.match(text.split("/"))
        parsed.mismatch(["a", "b.fits"])
