"""Steps by cron tick once, whatever happens to passes, clocks and expressions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.upkeep.requests import request_runs
from tests.crash.rig import START
from tests.passes.conftest import Observatory, as_json

NIGHTLY = 'trigger: {type: CRON, cron: "0 2 * * *", timezone: UTC}'


@pytest.fixture
def nightly(observatory: Observatory) -> Observatory:
    """The pipeline runs by cron at 02:00, and was seen at midnight."""
    observatory.edit("trigger: {type: CONTINUOUS}", NIGHTLY)
    observatory.run_pass("trigger")
    return observatory


def ticks(observatory: Observatory) -> int:
    return len({str(e["created_at"]) for e in observatory.rows("trigger_event") if e["kind"] == "cron"})


def go_to(observatory: Observatory, *parts: int) -> None:
    """The passes after this moment, the next of which is a minute later."""
    observatory.minute = int((datetime(2026, *parts, tzinfo=UTC) - START) / timedelta(minutes=1))


def test_a_tick_opens_each_step_once(nightly: Observatory) -> None:
    nightly.until_quiet()
    assert (ticks(nightly), nightly.runs()) == (0, [])
    go_to(nightly, 3, 2, 2, 0)
    nightly.until_quiet()
    assert ticks(nightly) == 1
    assert {run["status"] for run in nightly.runs()} == {"COMPLETED"}
    nightly.until_quiet()
    assert ticks(nightly) == 1


def test_an_outage_of_months_is_one_tick(nightly: Observatory) -> None:
    go_to(nightly, 7, 14, 15, 9)
    nightly.until_quiet()
    assert ticks(nightly) == 1
    go_to(nightly, 7, 15, 2, 0)
    nightly.until_quiet()
    assert ticks(nightly) == 2


def test_a_clock_that_goes_back_makes_no_tick_twice(nightly: Observatory) -> None:
    go_to(nightly, 3, 2, 2, 0)
    nightly.run_pass("trigger")
    nightly.run_pass("resolve")
    go_to(nightly, 3, 2, 1, 55)
    for _ in range(12):
        nightly.run_pass("trigger")
    assert ticks(nightly) == 1


def test_a_clock_that_was_a_year_ahead_does_not_silence_a_step(nightly: Observatory) -> None:
    go_to(nightly, 12, 31, 0, 0)
    nightly.run_pass("trigger")
    nightly.run_pass("resolve")
    go_to(nightly, 3, 2, 1, 0)
    nightly.run_pass("trigger")
    go_to(nightly, 3, 2, 2, 0)
    nightly.run_pass("trigger")
    assert ticks(nightly) == 2


def test_another_expression_counts_from_when_it_was_applied(nightly: Observatory) -> None:
    go_to(nightly, 3, 2, 2, 0)
    nightly.until_quiet()
    go_to(nightly, 3, 2, 12, 0)
    nightly.edit('cron: "0 2 * * *"', 'cron: "0 10 * * *"')  # 10:00 of today was not its time yet
    nightly.until_quiet()
    assert ticks(nightly) == 1
    go_to(nightly, 3, 3, 9, 0)
    nightly.run_pass("trigger")
    assert ticks(nightly) == 1
    go_to(nightly, 3, 3, 10, 0)
    nightly.run_pass("trigger")
    assert ticks(nightly) == 2


def test_a_tick_that_no_pass_had_seen_to_is_not_lost_by_another_time_zone(nightly: Observatory) -> None:
    go_to(nightly, 3, 2, 2, 5)
    nightly.edit("timezone: UTC", "timezone: America/Santiago")  # 02:00 there is 05:00 UTC
    nightly.run_pass("trigger")
    assert ticks(nightly) == 1
    nightly.run_pass("resolve")
    go_to(nightly, 3, 2, 4, 50)
    nightly.run_pass("trigger")
    assert ticks(nightly) == 1
    go_to(nightly, 3, 2, 5, 0)
    nightly.run_pass("trigger")
    assert ticks(nightly) == 2


@pytest.mark.parametrize("more", ["max_retries: 3", "deadline_hours: 1"])
def test_what_is_known_at_the_tick_is_waited_for(observatory: Observatory, more: str) -> None:
    """The sub-group has been due since its first scan came, but it falls due for work by the tick."""
    observatory.edit("name: grid, software: cal,", f"name: grid, software: cal, {NIGHTLY}, {more},")
    observatory.until_quiet()
    go_to(observatory, 3, 2, 1, 50)
    observatory.arrive("late.yaml")
    observatory.cycle()  # the late scan is at work
    go_to(observatory, 3, 2, 2, 0)
    observatory.cycle()
    waiting = observatory.sub_group("grid")
    awaited = [u["sub_group"] for u in as_json(waiting["details"])["upstream"]]
    assert (waiting["outcome"], awaited) == ("waiting-for-upstream", ["executed_obs_unit=3"])
    observatory.until_quiet()
    assert [run["status"] for run in observatory.runs("grid")] == ["COMPLETED"]


def test_a_step_that_is_by_cron_again_counts_ticks_from_then(nightly: Observatory) -> None:
    go_to(nightly, 3, 2, 1, 0)
    nightly.edit(NIGHTLY, "trigger: {type: CONTINUOUS}")
    nightly.until_quiet()
    go_to(nightly, 3, 2, 12, 0)
    nightly.edit("trigger: {type: CONTINUOUS}", NIGHTLY)
    nightly.until_quiet()
    assert ticks(nightly) == 0
    go_to(nightly, 3, 3, 2, 0)
    nightly.until_quiet()
    assert ticks(nightly) == 1


def test_a_product_that_is_made_of_what_is_no_longer_wanted_is_stale_at_once(nightly: Observatory) -> None:
    """Nobody decides on it before the next tick."""
    go_to(nightly, 3, 2, 2, 0)
    nightly.cycle()
    nightly.edit("mode: hot_cold", "mode: cold")
    context = nightly.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", reason="now", actor="me",
                 now=context.clock.now())  # fmt: skip
    nightly.cycle()
    assert nightly.sub_group("calibrate")["outcome"] == "busy"
    nightly.jobs()
    nightly.run_pass("poll")
    nightly.run_pass("collect")
    group = nightly.sub_group("calibrate")
    assert (group["current_run_id"] is not None, group["stale"]) == (True, "what is wanted has changed")
