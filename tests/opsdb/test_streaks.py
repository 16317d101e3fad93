"""When a step trips: so many attempts that failed alike, one after another."""

from __future__ import annotations

import pytest

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.streaks import count_failure, end_streak
from ccatwm.upkeep.control import release
from tests.opsdb.looked_at import NOW, World, world

__all__ = ["world"]

TRIP_AFTER = 3


def happen(world: World, *attempts: str) -> list[bool]:
    """Whether each attempt tripped the step: a failure class, or `ok`."""
    step_id, told = world.steps["calibrate"], []
    for attempt in attempts:
        with world.database.write() as connection:
            if attempt == "ok":
                end_streak(connection, [step_id])
            else:
                told.append(count_failure(connection, step_id, attempt, TRIP_AFTER))
    return told


def tripped(world: World) -> str | None:
    found: str | None = world.row(t.reduction_step, world.steps["calibrate"])["tripped"]
    return found


def test_the_failure_that_makes_it_enough_trips_and_those_after_it_are_no_news(world):
    assert happen(world, *["timeout"] * 5) == [False, False, True, False, False]
    assert tripped(world) == "timeout"


@pytest.mark.parametrize(
    "attempts",
    [
        ("timeout", "timeout", "ok", "timeout", "timeout"),
        ("timeout", "lost", "timeout", "lost", "timeout", "lost"),
        ("timeout", "timeout", "lost", "timeout", "timeout"),
    ],
    ids=["a success between", "two classes in turn", "another class between"],
)
def test_failures_that_are_not_alike_one_after_another_do_not_trip(world, attempts):
    assert not any(happen(world, *attempts))
    assert tripped(world) is None


def test_what_failed_otherwise_since_does_not_change_why_it_was_tripped(world):
    happen(world, *["timeout"] * 3, "lost", "ok")
    assert tripped(world) == "timeout", "only a person ends it: a late success is of a job from before"


def test_after_a_release_the_count_begins_at_nothing_and_it_can_trip_again(world):
    happen(world, *["timeout"] * 3)
    release(world.database, "otf/calibrate", reason="new limits", actor="ada", host="h", now=NOW)
    assert happen(world, *["timeout"] * 3) == [False, False, True]
    assert tripped(world) == "timeout"
    assert all(step["tripped"] is None for step in world.rows(t.reduction_step) if step["name"] != "calibrate")
