"""What refusals tell of a submit limit that the cluster does not show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccatwm.edges.scheduler._refusals import Refusals

pytestmark = pytest.mark.quick


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(tmp_path: Path, clock: Clock) -> Refusals:
    return Refusals(tmp_path / "state" / "refusal.json", clock)


def test_nothing_is_known_before_a_refusal(refusals: Refusals) -> None:
    assert refusals.most() is None


def test_half_of_what_was_refused_is_tried_next(refusals: Refusals) -> None:
    refusals.record(10, 5)
    assert refusals.most() == 12
    refusals.record(10, 2)
    assert refusals.most() == 11


def test_one_task_refused_means_that_it_is_full(refusals: Refusals) -> None:
    refusals.record(10, 1)
    assert refusals.most() == 10


def test_more_is_dared_after_a_while_and_all_is_forgotten_after_an_hour(
    refusals: Refusals, clock: Clock
) -> None:
    refusals.record(0, 1)
    seen = []
    for _ in range(4):
        seen.append(refusals.most())
        clock.sleep(300)
    assert seen == [0, 1, 3, 7]
    clock.sleep(2400)
    assert refusals.most() is None


def test_a_spoilt_file_says_nothing(refusals: Refusals, tmp_path: Path) -> None:
    refusals.record(10, 1)
    (tmp_path / "state" / "refusal.json").write_text("{")
    assert refusals.most() is None
