"""When steps are opened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.model import TriggerType
from ccatwm.core.triggers import CronCursor, StepTrigger, cron_verdict, effective_trigger, next_tick

pytestmark = pytest.mark.quick


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def cron(text="0 9 * * *", timezone="America/Santiago", **more):
    return StepTrigger(TriggerType.CRON, {"cron": text, "timezone": timezone, **more})


def test_a_steps_own_trigger_wins_over_its_pipelines():
    assert effective_trigger(None, None, "CONTINUOUS", {}).type is TriggerType.CONTINUOUS
    assert effective_trigger("CRON", {"cron": "* * * * *"}, "CONTINUOUS", {}).type is TriggerType.CRON


def test_a_tick_is_meant_in_its_time_zone():
    assert next_tick("0 9 * * *", "America/Santiago", utc(2026, 6, 1)) == utc(2026, 6, 1, 13)


def ticks(text, timezone, begin, end):
    """All ticks in (begin, end]."""
    found, last = [], begin
    while (last := next_tick(text, timezone, last)) <= end:
        found.append(last)
    return found


# Clocks go (2026, UTC): Berlin 29 March 01:00 forward, 25 October 01:00 back; Santiago 6 September 04:00 forward, 5 April
# 03:00 back.
BERLIN, SANTIAGO = "Europe/Berlin", "America/Santiago"


@pytest.mark.parametrize(
    ("text", "timezone", "days", "expected"),
    [
        # 02:30 does not exist on 29 March: it runs at the change.
        ("30 2 * * *", BERLIN, (3, 28), [(3, 28, 1, 30), (3, 29, 1, 0), (3, 30, 0, 30)]),
        # 02:30 exists twice on 25 October: it runs the first time.
        ("30 2 * * *", BERLIN, (10, 24), [(10, 24, 0, 30), (10, 25, 0, 30), (10, 26, 1, 30)]),
        # 00:30 does not exist on 6 September.
        ("30 0 * * *", SANTIAGO, (9, 5), [(9, 5, 4, 30), (9, 6, 4, 0), (9, 7, 3, 30)]),
        # 23:30 exists twice on 4 April.
        ("30 23 * * *", SANTIAGO, (4, 4), [(4, 4, 2, 30), (4, 5, 2, 30), (4, 6, 3, 30)]),
        # 09:00 exists once on each day, and moves in UTC.
        ("0 9 * * *", SANTIAGO, (9, 5), [(9, 5, 13, 0), (9, 6, 12, 0), (9, 7, 12, 0)]),
        ("30 2 * * *", None, (3, 28), [(3, 28, 2, 30), (3, 29, 2, 30), (3, 30, 2, 30)]),
    ],
)
def test_a_fixed_time_runs_once_a_day_over_both_change_overs(text, timezone, days, expected):
    begin = utc(2026, *days)
    assert ticks(text, timezone, begin, begin + timedelta(days=3)) == [utc(2026, *parts) for parts in expected]


@pytest.mark.parametrize("day", [(3, 28), (10, 24), (9, 5), (4, 4)])
@pytest.mark.parametrize("timezone", [BERLIN, SANTIAGO, "Asia/Kolkata", "Australia/Lord_Howe", "UTC"])
def test_every_ten_minutes_is_every_ten_minutes_through_each_change_over(timezone, day):
    begin = utc(2026, *day)
    expected = [begin + timedelta(minutes=10 * n) for n in range(1, 3 * 144 + 1)]
    assert ticks("*/10 * * * *", timezone, begin, begin + timedelta(days=3)) == expected


@pytest.mark.parametrize("text", ["30 2 * * *", "30 23 * * *", "0 * * * *", "*/7 1-3 * * *"])
@pytest.mark.parametrize("timezone", [BERLIN, SANTIAGO])
@pytest.mark.parametrize("day", [(3, 28), (10, 24), (9, 5), (4, 4)])
def test_the_next_tick_is_later_from_any_minute_and_no_tick_is_passed_over(text, timezone, day):
    """Also from within an hour that comes twice."""
    begin = utc(2026, *day)
    known = ticks(text, timezone, begin, begin + timedelta(days=3))
    for minute in range(0, 2 * 1440, 5):
        last = begin + timedelta(minutes=minute)
        assert next_tick(text, timezone, last) == min(tick for tick in known if tick > last)


def verdict(trigger, last, now, *, by=None, changed_at=None):
    """Of a step whose cursor stands at `last`, written for the trigger `by`, or for this one."""
    config = (by or trigger).config
    cursor = CronCursor(last, config["cron"], config["timezone"])
    return cron_verdict(trigger, cursor, changed_at or utc(2026, 1, 1), now)


def test_missed_ticks_become_one():
    ticked, cursor = verdict(cron(), utc(2026, 6, 1), utc(2026, 6, 5))
    assert (ticked, cursor.position) == (True, utc(2026, 6, 5))
    assert verdict(cron(), utc(2026, 6, 5, 14), utc(2026, 6, 6, 12, 59)) == (False, None)
    assert verdict(cron(), utc(2026, 6, 5, 14), utc(2026, 6, 6, 13))[0]


@pytest.mark.parametrize("days", [2, 90, 800])
def test_an_outage_of_days_or_months_is_one_tick(days):
    last = utc(2026, 3, 28)
    now = last + timedelta(days=days)
    for text in ("0 9 * * *", "*/10 * * * *"):
        ticked, cursor = verdict(cron(text), last, now)
        assert ticked
        assert verdict(cron(text), cursor.position, now + timedelta(seconds=1)) == (False, None)


def test_the_ticks_of_a_step_count_from_when_it_is_first_seen():
    now = utc(2026, 6, 5, 14)
    assert cron_verdict(cron(), None, now, now) == (False, CronCursor(now, "0 9 * * *", SANTIAGO))


def test_a_clock_that_went_back_a_little_makes_no_tick_twice():
    ticked, cursor = verdict(cron(), utc(2026, 6, 5), utc(2026, 6, 5, 13, 0, 1))
    assert ticked
    for now in (utc(2026, 6, 5, 12, 59, 58), utc(2026, 6, 5, 13), utc(2026, 6, 5, 13, 1)):
        assert verdict(cron(), cursor.position, now) == (False, None)


def test_a_clock_that_was_far_ahead_does_not_stop_a_step_for_long():
    ticked, cursor = verdict(cron(), utc(2027, 6, 5), utc(2026, 6, 5))
    assert (ticked, cursor.position) == (False, utc(2026, 6, 5))
    assert verdict(cron(), cursor.position, utc(2026, 6, 5, 13))[0]


# The step ticked at 13:00 UTC on 5 June; at 20:00 somebody makes it tick at other times.
LAST, CHANGED = utc(2026, 6, 5, 13), utc(2026, 6, 5, 20)


@pytest.mark.parametrize(
    ("after", "first"),
    [
        (cron("0 11 * * *"), utc(2026, 6, 6, 15)),  # 11:00 of the day of the change was over before
        (cron("0 17 * * *"), utc(2026, 6, 5, 21)),  # 17:00 in Chile is still to come
        (cron("0 9 * * *", BERLIN), utc(2026, 6, 6, 7)),  # the same text in another time zone
    ],
)
def test_another_expression_or_time_zone_counts_from_when_it_was_said(after, first):
    ticked, cursor = verdict(after, LAST, CHANGED + timedelta(minutes=1), by=cron(), changed_at=CHANGED)
    assert (ticked, cursor.position) == (False, CHANGED)
    assert not cron_verdict(after, cursor, CHANGED, first - timedelta(seconds=1))[0]
    assert cron_verdict(after, cursor, CHANGED, first)[0]


def test_a_tick_that_was_missed_before_the_expression_changed_is_not_lost():
    missed = utc(2026, 6, 6, 14)
    ticked, cursor = verdict(cron("0 11 * * *"), LAST, missed + timedelta(minutes=5), by=cron(), changed_at=missed)
    assert ticked
    assert not cron_verdict(cron("0 11 * * *"), cursor, missed, missed + timedelta(minutes=6))[0]


def test_force_is_for_cron_only():
    assert cron(force=True).forces
    assert not StepTrigger(TriggerType.MANUAL, {"force": True}).forces
