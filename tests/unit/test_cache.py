"""What leaves the cache of staged packages, and what waits: decided without any."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.cache import (
    Amount,
    CachedPackage,
    CacheLimits,
    Shortage,
    find_shortage,
    leaving_order,
    never_fits,
    plan_room,
)
from ccatwm.core.wording import GB

pytestmark = pytest.mark.quick
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLENTY = Amount(10**15, 10**9)


def package(number: int, size: int = 100, *, minutes: float = 0, linked: bool = False, wanted_by: tuple[int, ...] = (),
            abandoned: bool = False) -> CachedPackage:  # fmt: skip
    used = NOON + timedelta(minutes=minutes)
    return CachedPackage(
        number, f"p{number}", f"p{number}", Amount(size, 10), used, linked, frozenset(wanted_by), abandoned
    )


def ids(packages: object) -> list[int]:
    return [p.id for p in packages]  # type: ignore[attr-defined]


def test_the_longest_unused_leaves_first_after_what_is_not_whole() -> None:
    cached = [package(1, minutes=5), package(2, minutes=1), package(3, minutes=9, abandoned=True)]
    assert ids(leaving_order(cached, ())) == [3, 2, 1]


def test_what_is_not_whole_leaves_whoever_waits_for_it() -> None:
    assert ids(leaving_order([package(1, wanted_by=(7,), abandoned=True)], {7})) == [1]


def test_what_links_keep_does_not_leave_since_that_frees_nothing() -> None:
    assert ids(leaving_order([package(1, linked=True), package(2)], ())) == [2]


def test_what_a_run_of_an_earlier_turn_waits_for_stays_and_what_later_ones_want_leaves_last() -> None:
    cached = [package(1, wanted_by=(7, 9)), package(2, minutes=60, wanted_by=(9,)), package(3, minutes=90)]
    assert ids(leaving_order(cached, {7, 8})) == [3, 2]


def test_two_runs_that_hold_half_of_what_they_need_do_not_wait_for_one_another() -> None:
    """Each has one of two packages in a cache that has room for two."""
    cached, limits = [package(1, wanted_by=(7,)), package(2, wanted_by=(8,))], CacheLimits(200)
    first, later = ({7}, {7, 8})
    plans = [plan_room(Amount(100, 1), Amount(200, 2), PLENTY, limits, leaving_order(cached, b)) for b in (first, later)]
    assert ids(plans[0].leaving) == [2]
    assert plans[1].leaving == () and plans[1].shortage is not None


def test_no_more_leaves_than_makes_room() -> None:
    cached = [package(n, minutes=n) for n in range(5)]
    plan = plan_room(Amount(150, 1), Amount(500, 50), PLENTY, CacheLimits(450), cached)
    assert (ids(plan.leaving), plan.shortage) == ([0, 1], None)


def test_nothing_leaves_where_it_would_not_be_enough() -> None:
    plan = plan_room(Amount(400, 1), Amount(500, 50), PLENTY, CacheLimits(500), [package(1), package(2)])
    assert plan.leaving == ()
    assert plan.shortage == Shortage(
        "CACHE_MAX_GB", "300 B of 500 B",
        "needs 400 B in the cache, of which other runs hold 300 B of 500 B (CACHE_MAX_GB)", intended=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("free", "floor", "figure", "words"),
    [
        (Amount(900, 9), Amount(500, 0), "900 B free, 1.5 kB needed", "needs 1.0 kB and 500 B are to stay free"),
        (Amount(10**6, 9), Amount(500, 5), "9 inodes free, 15 needed", "needs 10 files and 5 inodes are to stay free"),
        (Amount(-50, 99), Amount(), "0 B free, 1.0 kB needed", "but 0 B are free at /base; free space there"),
    ],
)
def test_what_is_to_stay_free_is_bytes_and_inodes(free: Amount, floor: Amount, figure: str, words: str) -> None:
    short = find_shortage(Amount(1000, 10), Amount(), free, CacheLimits(None, floor), where="/base")
    assert short is not None
    assert (short.figure, short.intended) == (figure, False)
    assert words in short.reason


def test_packages_leave_for_free_inodes_too() -> None:
    plan = plan_room(Amount(1, 15), Amount(), Amount(10**6, 6), CacheLimits(None, Amount(0, 0)), [package(1), package(2)])
    assert ids(plan.leaving) == [1]


def test_what_needs_nothing_always_fits() -> None:
    assert find_shortage(Amount(), Amount(900, 0), Amount(0, 0), CacheLimits(100, Amount(1, 1))) is None


def test_what_is_larger_than_the_whole_cache_never_fits() -> None:
    limits = CacheLimits(GB)
    assert never_fits(Amount(GB, 1), limits) is None
    assert never_fits(Amount(2**31, 1), CacheLimits(None)) is None
    assert never_fits(Amount(2**31, 1), limits) == (
        "its raw data are 2.1 GB, and all of the cache may be 1.0 GB (CACHE_MAX_GB = 1); raise CACHE_MAX_GB"
    )
