"""When steps are opened."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ccatwm.core.model import TriggerType
from ccatwm.core.triggers import StepTrigger, effective_trigger, next_tick, tick_due

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


def test_missed_ticks_become_one():
    assert tick_due(cron(), utc(2026, 6, 1), utc(2026, 6, 5))
    assert not tick_due(cron(), utc(2026, 6, 5, 14), utc(2026, 6, 6, 12, 59))
    assert tick_due(cron(), utc(2026, 6, 5, 14), utc(2026, 6, 6, 13))


def test_daylight_saving_neither_loses_nor_repeats_a_tick():
    # Europe/Berlin: clocks go from 02:00 to 03:00 on 2026-03-29 and back from 03:00 to 02:00 on 2026-10-25.
    spring = next_tick("30 2 * * *", "Europe/Berlin", utc(2026, 3, 28, 12))
    assert utc(2026, 3, 29, 0, 30) <= spring <= utc(2026, 3, 29, 1, 30)
    first = next_tick("30 2 * * *", "Europe/Berlin", utc(2026, 10, 24, 12))
    second = next_tick("30 2 * * *", "Europe/Berlin", first)
    assert (second - first).total_seconds() > 20 * 3600


def test_force_is_for_cron_only():
    assert cron(force=True).forces
    assert not StepTrigger(TriggerType.MANUAL, {"force": True}).forces
