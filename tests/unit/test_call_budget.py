"""Commands to a batch system are counted over all passes of a host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.edges.scheduler._budget import CallBudget
from ccatwm.errors import CallBudgetError

pytestmark = pytest.mark.quick


class HandClock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, tzinfo=UTC)
        self.slept = 0.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.at += timedelta(seconds=seconds)


def test_calls_of_two_passes_share_one_budget_and_wait_for_their_turn(tmp_path):
    clock = HandClock()
    one, other = (CallBudget(tmp_path / "calls.json", 3, clock) for _ in range(2))
    one.take()
    clock.at += timedelta(seconds=50)
    one.take()
    other.take()
    assert clock.slept == 0
    other.take()
    assert clock.slept == pytest.approx(10, abs=0.1)


def test_a_wait_that_would_take_too_long_ends_the_pass(tmp_path):
    clock = HandClock()
    budget = CallBudget(tmp_path / "calls.json", 1, clock)
    budget.take()
    with pytest.raises(CallBudgetError, match="1 commands were given"):
        budget.take()
    assert clock.slept == 0


@pytest.mark.parametrize("content", ["", "{", "[null]", '"x"', "[9e99]"])
def test_a_broken_file_of_past_calls_only_forgets(tmp_path, content):
    (tmp_path / "calls.json").write_text(content)
    CallBudget(tmp_path / "calls.json", 1, HandClock()).take()
