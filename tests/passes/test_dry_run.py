"""A dry run of resolve tells what resolve then does, and leaves nothing behind, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccatwm import wiring
from ccatwm.passes import resolve
from ccatwm.passes._frame import PassOptions
from tests.crash.campaign import write_campaign
from tests.crash.points import PostgresStore, SqliteStore
from tests.crash.rig import snapshot
from tests.opsdb.databases import BOTH
from tests.opsdb.databases import postgresql_server as postgresql_server
from tests.passes.conftest import Observatory


@pytest.fixture(params=BOTH)
def observatory(request, tmp_path):
    """The first night has been observed and the pipeline applied, as everywhere here, on either database."""
    store = SqliteStore()
    if request.param == "postgresql":
        store = PostgresStore(request.getfixturevalue("postgresql_server")())
    made = Observatory(tmp_path, store.make(tmp_path))
    write_campaign(tmp_path)
    made.arrive("night.yaml")
    made.apply()
    return made


def told(report):
    """What is said of each sub-group; runs have no number before they are there."""
    assert report.error is None
    return [(i.pipeline, i.step, i.sub_group, i.outcome, i.reason) for i in report.items]


def rehearsed_and_real(observatory):
    before = snapshot(observatory.url)
    rehearsed = observatory.run_pass("resolve", dry_run=True)
    assert snapshot(observatory.url) == before
    observatory.minute -= 1  # the same moment
    real = observatory.run_pass("resolve")
    assert told(rehearsed) == told(real)
    assert (rehearsed.selected, rehearsed.done, rehearsed.waiting) == (real.selected, real.done, real.waiting)
    assert all(item.run is None for item in rehearsed.items)
    return real


def test_a_dry_run_tells_the_first_runs_of_a_pipeline(observatory):
    observatory.run_pass("trigger")
    real = rehearsed_and_real(observatory)
    assert [item.outcome for item in real.items] == ["run", "run", "waiting-for-upstream"]


def test_a_dry_run_tells_of_packages_that_were_just_ingested(observatory):
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    observatory.run_pass("trigger")
    assert "run" in [item.outcome for item in rehearsed_and_real(observatory).items]


def test_a_dry_run_tells_what_a_changed_configuration_does_downstream(observatory):
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: sky")
    observatory.run_pass("trigger")
    real = rehearsed_and_real(observatory)
    assert {item.reason for item in real.items if item.outcome == "run"} == {"config-changed: mode hot_cold -> sky"}


def test_who_waits_says_for_what(observatory):
    observatory.run_pass("trigger")
    report = observatory.run_pass("resolve")
    (waiting,) = [item for item in report.items if item.outcome == "waiting-for-upstream"]
    assert waiting.reason == (
        "calibrate executed_obs_unit=1 is PENDING, calibrate executed_obs_unit=2 is PENDING"
    )


def test_a_dry_run_that_holds_locks_stops_in_time_and_says_so(observatory):
    observatory.run_pass("trigger")
    context = observatory.context()
    seconds = context.database.rehearsal_seconds
    slow = _Ticking(context.clock, iter(range(0, 10_000, 3)))
    report = resolve.run(replace(context, clock=slow), PassOptions(dry_run=True))
    outcomes = [item.outcome for item in report.items]
    assert ("not-looked-at" in outcomes) == (seconds is not None)


class _Ticking:
    """A clock on which every question takes three seconds."""

    def __init__(self, clock, ticks):
        self.clock, self.ticks = clock, ticks

    def now(self):
        return self.clock.now()

    def monotonic(self):
        return float(next(self.ticks))


def dry_cycle(observatory):
    """A cycle that writes nothing, and what it told of each pass."""
    before = snapshot(observatory.url)
    observatory.minute += 1
    reports = list(wiring.run_cycle(observatory.context(), PassOptions(dry_run=True)))
    assert snapshot(observatory.url) == before
    assert [report.pass_name for report in reports] == list(wiring.PASSES)
    assert all(report.error is None and report.skipped is None for report in reports)
    return reports


def test_a_dry_cycle_decides_on_what_was_not_triggered_yet(observatory):
    trigger, resolve_report, *_ = dry_cycle(observatory)
    assert [item.outcome for item in trigger.items] == ["due", "due"]
    assert [item.outcome for item in resolve_report.items] == ["run", "run", "waiting-for-upstream"]
    assert all(item.run is None for item in resolve_report.items)
    observatory.minute -= 1  # the same moment
    real = observatory.cycle()
    assert (told(real[0]), told(real[1])) == (told(trigger), told(resolve_report))


def test_a_dry_cycle_tells_of_packages_that_were_just_ingested_and_of_non_runs(observatory):
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    outcomes = [item.outcome for item in dry_cycle(observatory)[1].items]
    assert "run" in outcomes and "waiting-for-upstream" in outcomes


def test_a_dry_cycle_stands_in_nobody_s_way_and_touches_no_lease(observatory):
    """Pass records and leases are rows like others: `dry_cycle` compares them; a real pass goes on afterwards."""
    dry_cycle(observatory)
    assert observatory.run_pass("trigger").skipped is None
    assert observatory.rows("pass_record")


def test_a_dry_run_of_resolve_alone_decides_on_nothing_and_says_that_there_is_more_to_trigger(observatory):
    report = observatory.run_pass("resolve", dry_run=True)
    (item,) = report.items
    assert (report.selected, report.done, report.waiting) == (0, 0, 0)
    assert item.outcome == "not-triggered"
    assert item.reason.startswith("2 steps are due that `ccatwm trigger` has not opened yet; `ccatwm cycle --dry-run`")
