"""Whether a product made again is the same, and where it is not: values in, an answer out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pytest

from ccatwm.core.fits_sums import FitsPart, parse_cards
from ccatwm.core.sameness import MAX_NAMED, Content, Sameness, Since, compare_contents

pytestmark = pytest.mark.quick
THEN, NOW = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 11, 29, 9, tzinfo=UTC)
SINCE = Since(THEN, NOW)
MAP = PurePosixPath("science/map.fits")


def fits(sha256: str, *parts: FitsPart) -> dict[PurePosixPath, Content]:
    return {MAP: Content(sha256, parts)}


def part(data: str = "d", total: int = 7, **cards: str) -> FitsPart:
    return FitsPart(total, data, cards)


def document(sha256: str, **attributes: Any) -> dict[PurePosixPath, Content]:
    return {PurePosixPath("zarr.json"): Content(sha256, document={"node_type": "array", "attributes": attributes})}


def compare(recorded, again):
    return compare_contents(recorded, again, SINCE)


def test_the_same_bytes_are_identical():
    assert compare(fits("a", part()), fits("a", part())).sameness is Sameness.IDENTICAL


def test_another_time_of_the_making_in_a_header_is_the_same_data():
    answer = compare(fits("a", part(DATE="'2026-03-01'")), fits("b", part(DATE="'2026-11-29'")))
    assert answer.sameness is Sameness.SAME_DATA
    assert answer.where == (
        "science/map.fits: header of HDU 0: DATE is '2026-11-29', recorded '2026-03-01'",
    )


@pytest.mark.parametrize("keyword", ["PROCTIME", "REDUCED"])
def test_a_card_of_any_name_may_tell_when_it_was_made(keyword):
    cards = {keyword: "'2026-03-01T12:00:04'"}, {keyword: "'2026-11-29T09:00:00.5Z'"}
    assert compare(fits("a", part(**cards[0])), fits("b", part(**cards[1]))).sameness is Sameness.SAME_DATA


def test_another_time_of_the_observation_is_another_product():
    cards = {"DATE-OBS": "'2026-02-28T23:00:00'"}, {"DATE-OBS": "'2026-02-28T23:10:00'"}
    assert compare(fits("a", part(**cards[0])), fits("b", part(**cards[1]))).sameness is Sameness.DIFFERS


def test_a_time_that_was_none_before_is_another_product():
    answer = compare(fits("a", part(BUNIT="'K'")), fits("b", part(BUNIT="'2026-11-29T10:00:00'")))
    assert answer.sameness is Sameness.DIFFERS


def test_other_data_are_told_with_their_hdu_and_datasum():
    answer = compare(fits("a", part(), part("d", 7)), fits("b", part(), part("e", 8)))
    assert answer.sameness is Sameness.DIFFERS
    assert answer.where == ("science/map.fits: data of HDU 1 (DATASUM 8, recorded 7)",)


def test_words_that_have_changed_places_are_other_data_though_datasum_is_the_same():
    assert compare(fits("a", part("d", 7)), fits("b", part("e", 7))).sameness is Sameness.DIFFERS


def test_what_counts_is_told_without_what_does_not():
    answer = compare(fits("a", part(DATE="'x'", BUNIT="'K'")), fits("b", part(DATE="'y'", BUNIT="'Jy'")))
    assert answer.where == ("science/map.fits: header of HDU 0: BUNIT is 'Jy', recorded 'K'",)


def test_a_card_more_is_told():
    (where,) = compare(fits("a", part()), fits("b", part(NOISE="1.0"))).where
    assert where == "science/map.fits: header of HDU 0: NOISE is 1.0, recorded not there"


def test_comments_and_history_do_not_count():
    answer = compare(fits("a", part()), fits("b", part()))
    assert (answer.sameness, "HISTORY" in answer.where[0]) == (Sameness.SAME_DATA, True)


def test_another_number_of_hdus_is_another_product():
    assert compare(fits("a", part()), fits("b", part(), part())).where == ("science/map.fits: 2 HDUs, recorded 1",)


def test_other_bytes_of_a_plain_file_differ():
    path = PurePosixPath("plain.txt")
    answer = compare({path: Content("a" * 64)}, {path: Content("b" * 64)})
    assert answer.where == ("plain.txt: other bytes (sha256 bbbbbbbbbbbb, recorded aaaaaaaaaaaa)",)


def test_a_time_among_the_attributes_of_a_store_is_the_same_data():
    answer = compare(
        document("a", made="2026-03-01T12:00:01Z", unit="K"), document("b", made="2026-11-29T10:00:00+00:00", unit="K")
    )
    assert (answer.sameness, answer.where[0].startswith("zarr.json: attributes.made is ")) == (Sameness.SAME_DATA, True)


def test_another_attribute_of_a_store_is_another_product():
    answer = compare(document("a", scale=[1.0, 2.0]), document("b", scale=[1.0, 2.5]))
    assert answer.where == ("zarr.json: attributes.scale[1] is 2.5, recorded 2.0",)


def test_nan_is_the_same_as_nan():
    answer = compare(document("a", fill=float("nan")), document("b", fill=float("nan")))
    assert answer.sameness is Sameness.SAME_DATA


def test_a_chunk_that_is_not_there_is_told_by_its_path():
    chunk = PurePosixPath("c/0/1")
    assert compare({chunk: Content("a")}, {}).where == ("c/0/1: was not made again",)
    assert compare({}, {chunk: Content("a")}).where == ("c/0/1: was not there",)


def test_of_many_differences_the_first_are_told_and_the_rest_is_counted():
    paths = [PurePosixPath(f"c/{n:03}") for n in range(MAX_NAMED + 5)]
    answer = compare({p: Content("a") for p in paths}, {p: Content("b") for p in paths})
    assert (answer.where[0].partition(":")[0], answer.where[-1]) == ("c/000", "and 5 more")


def test_what_continues_a_string_and_what_has_a_long_keyword_are_values():
    text = ("LONG    = 'one&'", "CONTINUE  'two' / more", "HIERARCH ESO TEL ALT = 45.0 / deg", "COMMENT 5", "END")
    cards, ended = parse_cards("".join(f"{card:<80}" for card in text).encode())
    assert ended
    assert cards == [("LONG", "'one&'"), ("LONG+", "'two'"), ("ESO TEL ALT", "45.0")]
