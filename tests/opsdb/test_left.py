"""What is left when no pass has anything to do: said in one line, with when it goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.runs import any_active_run
from ccatwm.views.left import build_left, left_line
from ccatwm.views.runs import build_runs, waiting_lines
from tests.opsdb.looked_at import MINUTE, NOW, World
from tests.opsdb.looked_at import world as world


def left(world: World) -> dict[str, Any]:
    return build_left(world.database, "local", now=NOW)


def line(world: World) -> str:
    return left_line(left(world), NOW)


def retry(world: World, key: str, due_at) -> int:
    group = world.sub_group("calibrate", key, outcome="run")
    return world.run(group, "FAILED", is_open=True, due_at=due_at, failure_class="lost")


def test_where_nothing_is_left_nothing_is_said(world):
    world.calibrated("executed_obs_unit=1", "scan-1")
    assert line(world) == ""


def test_retries_are_counted_with_the_time_of_the_next(world):
    retry(world, "a", NOW + 14 * MINUTE)
    retry(world, "b", NOW + 30 * MINUTE)
    assert line(world) == "2 runs wait for a retry, the next in 14 min"


def test_a_run_that_needs_a_person_is_named_with_the_command_that_shows_it(world):
    retry(world, "a", NOW + 14 * MINUTE)
    run = world.run(world.sub_group("grid", "all", outcome="failed"), "FAILED", blocking=True)
    assert line(world) == f"1 run waits for a retry, in 14 min; 1 run needs you: ccatwm show {run}"


def test_a_sub_group_that_is_cooling_down_is_left_too(world):
    world.sub_group("grid", "all", outcome="cooling-down", due_at=NOW + 5 * MINUTE)
    assert line(world) == "1 sub-group is decided on later, in 5 min"


def test_what_a_brake_holds_is_not_promised_for_later(world):
    world.sub_group("grid", "all", outcome="cooling-down", due_at=NOW + 5 * MINUTE)
    world.update(t.reduction_step, world.steps["grid"], held="bad weather")
    assert left(world)["sub_groups"] == {"count": 0, "next_at": None}


@pytest.mark.parametrize(("seconds", "waited_for"), [(90, True), (150, False)])
def test_a_retry_counts_as_work_on_its_way_when_it_is_due_in_time(world, seconds, waited_for):
    retry(world, "a", NOW + timedelta(seconds=seconds))
    with world.database.read() as connection:
        soon = NOW + timedelta(seconds=120)
        assert any_active_run(connection, "local", NOW, retries_by=soon) is waited_for


@pytest.mark.parametrize(("seconds", "waited_for"), [(1, True), (60, False)])
def test_what_goes_on_in_a_moment_counts_as_work_on_its_way(world, seconds, waited_for):
    group = world.sub_group("calibrate", "a", outcome="run")
    world.run(group, "STAGED", due_at=NOW + timedelta(seconds=seconds))
    with world.database.read() as connection:
        assert any_active_run(connection, "local", NOW, soon=NOW + timedelta(seconds=20)) is waited_for


def test_a_run_that_waits_for_space_is_not_waited_for(world):
    group = world.sub_group("calibrate", "a", outcome="run")
    world.run(group, "STAGING_DATA", due_at=NOW + timedelta(seconds=60), failure_class="no-space")
    with world.database.read() as connection:
        later = NOW + timedelta(seconds=120)
        assert not any_active_run(connection, "local", NOW, soon=later, retries_by=later)
    assert line(world) == "1 run waits, looked at again in 60 s"


def test_what_a_pass_left_waiting_is_told_with_what_it_waits_for(world):
    for key in "ab":
        waiting(world, key, f"package scan-{key}: data location raw: no answer")
    assert line(world) == "2 runs wait (package scan-b: data location raw: no answer), looked at again in 30 s"


def waiting(world: World, key: str, message: str) -> int:
    group = world.sub_group("calibrate", key, outcome="run")
    return world.run(group, "STAGING_DATA", due_at=NOW + timedelta(seconds=30), status_at=NOW, message=message)


def test_runs_that_were_left_waiting_say_so_and_once_for_all_of_them_what_they_wait_for(world):
    one, two, other = (
        waiting(world, key, f"package scan-{key}: {why}")
        for key, why in (("a", "data location raw: no answer"), ("b", "data location raw: no answer"), ("c", "asked for"))
    )
    for now in (NOW, NOW + MINUTE):  # also when it is to be looked at
        document = build_runs(world.database, Selection(), now=now)
        assert {run["state"].partition(",")[0] for run in document["runs"]} == {"STAGING_DATA (waits"}
        assert waiting_lines(document["runs"]) == [
            f"run {other} waits: package scan-c: asked for",
            f"runs {two}, {one} wait: package scan-b: data location raw: no answer",
        ]
    world.update(t.executed_reduction_step, one, status="STAGED", status_at=NOW, due_at=None)
    document = build_runs(world.database, Selection(), now=NOW)
    assert {run["run"] for run in document["runs"] if run["waits_for"]} == {two, other}
