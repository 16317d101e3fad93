"""A period of a pipeline's past is made a few runs at a time, under live data, and can be stopped and go on."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.core.selection import Selection
from ccatwm.errors import UsageError
from ccatwm.passes._frame import PassOptions
from ccatwm.upkeep.backfill import Asked, cancel_backfill, pause_backfill, resume_backfill, start_backfill
from ccatwm.upkeep.exclude import Act
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.backfills import build_backfills
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.status import build_status, other_lines
from tests.crash.campaign import write_campaign
from tests.crash.points import SqliteStore
from tests.crash.rig import KILLED, CountingEffects, SharedCounter
from tests.passes.conftest import Observatory

# Scans 1, 2 and 3 begin at 01:00, 02:00 and 03:00.
ALL = ("2026-03-01", "2026-03-02")
FIRST_TWO = ("2026-03-01T00:00:00Z", "2026-03-01T03:00:00Z")


@pytest.fixture
def archive(empty_observatory: Observatory) -> Observatory:
    by_hand(empty_observatory)
    return empty_observatory


def by_hand(observatory: Observatory) -> None:
    """Three scans; the pipeline is run by hand only."""
    write_campaign(observatory.folder)
    observatory.arrive("night.yaml")
    observatory.arrive("late.yaml")
    path = observatory.folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("trigger: {type: CONTINUOUS}", "trigger: {type: MANUAL}\n    priority: 10"))
    observatory.apply()
    observatory.until_quiet()
    assert observatory.runs() == []


def act(observatory: Observatory, **options: object) -> Act:
    now = observatory.context().clock.now()
    return Act(**{"reason": "the winter again", "actor": "ada", "host": "h", "now": now, **options})  # type: ignore[arg-type]


def ask(observatory: Observatory, period: tuple[str, str] = ALL, *, act_with: dict | None = None, **options: object):
    context = observatory.context()
    asked = Asked("otf", *period, **options)  # type: ignore[arg-type]
    return start_backfill(context.database, context.grouping, asked, act(observatory, **(act_with or {})))


def progress(observatory: Observatory, number: int = 1) -> dict:
    return build_backfills(observatory.context().database, number=number)["backfills"][0]


def counts(observatory: Observatory) -> tuple[int, ...]:
    found = progress(observatory)
    return tuple(found[key] for key in ("made", "done", "open", "failed", "left"))


def scans(observatory: Observatory) -> set[str]:
    return {run["sub_group_key"] for run in observatory.runs("calibrate")}


def test_exactly_what_is_missing_of_the_period_is_made(archive: Observatory) -> None:
    ask(archive, FIRST_TWO)
    archive.until_quiet()
    assert scans(archive) == {"executed_obs_unit=1", "executed_obs_unit=2"}
    ask(archive, ("2026-03-01T02:00:00Z", "2026-03-02"))
    archive.until_quiet()
    assert len(archive.runs("calibrate")) == 3
    assert {(run["reason"], run["status"]) for run in archive.runs()} == {("new-sub-group", "COMPLETED")}


def test_all_steps_are_made_upstream_first_and_the_backfill_is_done(archive: Observatory) -> None:
    report = ask(archive)
    assert report.number == 1
    assert [(s.step, s.missing) for s in report.steps] == [("calibrate", 3), ("grid", 1)]
    assert counts(archive) == (0, 0, 0, 0, 4)
    archive.until_quiet()
    assert counts(archive) == (4, 4, 0, 0, 0)
    assert progress(archive)["state"] == "done"
    (grid,) = archive.runs("grid")
    assert len([i for i in archive.rows("run_input") if i["run_id"] == grid["id"]]) == 3
    assert {run["backfill_id"] for run in archive.runs()} == {1}


def test_only_some_runs_are_open_at_a_time(archive: Observatory) -> None:
    archive.settings_changes = {"backfill_open_runs": 1}
    ask(archive)
    seen = []
    for _ in range(8):
        archive.cycle()
        seen.append(len([run for run in archive.runs() if run["is_open"]]))
        archive.jobs()
    archive.until_quiet()
    assert max(seen) == 1
    assert counts(archive) == (4, 4, 0, 0, 0)


def test_no_more_runs_are_made_than_was_said(archive: Observatory) -> None:
    report = ask(archive, most_runs=2)
    assert (report.total.sub_groups, [s.missing for s in report.steps]) == (2, [2, 0])
    archive.until_quiet()
    assert counts(archive) == (2, 2, 0, 0, 0)
    assert (progress(archive)["state"], progress(archive)["state_reason"]) == (
        "done", "as many runs were made as may be: 2",
    )  # fmt: skip


def test_its_runs_go_below_every_enabled_pipeline_of_the_location(archive: Observatory) -> None:
    assert ask(archive).priority == 9
    archive.run_pass("resolve")
    assert {run["priority"] for run in archive.runs()} == {9}


def test_live_data_go_first(archive: Observatory) -> None:
    ask(archive, FIRST_TWO)
    archive.run_pass("resolve")
    context = archive.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", sub_group="executed_obs_unit=3",
                 reason="now", actor="me", now=context.clock.now())  # fmt: skip
    archive.run_pass("resolve")
    live = archive.runs("calibrate")[-1]
    assert (live["sub_group_key"], live["priority"], live["backfill_id"]) == ("executed_obs_unit=3", 10, None)
    staged = [item.run for item in archive.run_pass("stage").items if item.outcome == "staged"]
    assert staged[0] == live["id"]


def test_paused_nothing_more_of_it_is_made_or_submitted_and_resumed_it_goes_on(archive: Observatory) -> None:
    archive.settings_changes = {"backfill_open_runs": 2}
    ask(archive)
    archive.run_pass("resolve")
    archive.run_pass("stage")
    context = archive.context()
    assert pause_backfill(context.database, 1, act(archive, reason="the disk is full")).changed
    for _ in range(3):
        archive.cycle()
    assert [run["status"] for run in archive.runs()] == ["STAGED", "STAGED"]
    assert (progress(archive)["state"], progress(archive)["state_reason"]) == ("paused", "the disk is full")
    explained = build_explain(context.database, "otf", "calibrate", "executed_obs_unit=1", now=context.clock.now())
    text = "\n".join(explain_lines(explained))
    assert "backfill 1 is paused" in text
    assert "ccatwm backfill 1 --resume" in text
    assert not pause_backfill(context.database, 1, act(archive)).changed, "twice is once"
    assert resume_backfill(context.database, 1, act(archive)).changed
    archive.until_quiet()
    assert counts(archive) == (4, 4, 0, 0, 0)
    acts = [(row["act"], row["target"], row["reason"]) for row in archive.rows("change_log")][-3:]
    assert acts == [
        ("backfill", "backfill 1", "the winter again"),
        ("backfill-pause", "backfill 1", "the disk is full"),
        ("backfill-resume", "backfill 1", "the winter again"),
    ]


def test_cancelled_what_was_not_handed_over_is_taken_back_and_may_be_made_later(archive: Observatory) -> None:
    archive.settings_changes = {"backfill_open_runs": 2}
    ask(archive)
    archive.run_pass("resolve")
    context = archive.context()
    report = cancel_backfill(context.database, 1, act(archive))
    assert (report.changed, report.taken_back) == (True, 2)
    archive.until_quiet()
    assert {run["status"] for run in archive.runs()} == {"CANCELLED"}
    with pytest.raises(UsageError, match="backfill 1 is cancelled"):
        resume_backfill(context.database, 1, act(archive))
    ask(archive)
    archive.until_quiet()
    assert progress(archive, 2)["done"] == 4, "the recipes are not blocked"


def test_a_sub_group_that_has_to_wait_is_made_when_it_can_be(archive: Observatory) -> None:
    archive.execute("UPDATE {schema}reduction_step SET held = 'looking' WHERE name = 'calibrate'")
    ask(archive)
    archive.until_quiet()
    assert (archive.runs(), progress(archive)["waiting"]) == ([], {"held": 3, "waiting-for-upstream": 1})
    assert "backfill 1 opened it" in explained(archive, "grid", "all")
    from ccatwm.upkeep.control import release

    context = archive.context()
    release(context.database, "otf/calibrate", reason="seen", actor="me", host="h", now=context.clock.now())
    archive.until_quiet()
    assert counts(archive) == (4, 4, 0, 0, 0)
    assert (progress(archive)["state"], progress(archive)["waiting"]) == ("done", {})


def test_a_deadline_counts_from_when_the_backfill_opens_a_sub_group(archive: Observatory) -> None:
    archive.edit("name: grid, software: cal,", "name: grid, software: cal, deadline_hours: 2,")
    archive.execute("UPDATE {schema}reduction_step SET held = 'looking' WHERE name = 'calibrate'")
    archive.minute += 1000
    ask(archive)
    archive.until_quiet()
    assert archive.sub_group("grid")["outcome"] == "waiting-for-upstream"
    archive.minute += 121
    archive.until_quiet()
    assert archive.sub_group("grid")["outcome"] == "no-inputs"


def explained(observatory: Observatory, step: str, key: str) -> str:
    context = observatory.context()
    document = build_explain(context.database, "otf", step, key, now=context.clock.now())
    return "\n".join(explain_lines(document))


def test_a_person_who_asks_for_a_waiting_sub_group_takes_it_over(archive: Observatory) -> None:
    archive.execute("UPDATE {schema}reduction_step SET held = 'looking' WHERE name = 'calibrate'")
    ask(archive)
    archive.until_quiet()
    context = archive.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", reason="now", actor="me",
                 now=context.clock.now())  # fmt: skip
    archive.cycle()
    assert progress(archive)["waiting"] == {"waiting-for-upstream": 1}


def test_a_failed_run_of_it_is_told_and_blocks_as_any_other(archive: Observatory) -> None:
    archive.program = lambda output, manifest: 3
    ask(archive, ("2026-03-01T03:00:00Z", "2026-03-02"))
    archive.until_quiet()
    assert (progress(archive)["made"], progress(archive)["failed"], progress(archive)["state"]) == (1, 1, "open")
    assert "1 failed" in "\n".join(other_lines(status(archive)))
    cancel_backfill(archive.context().database, 1, act(archive))
    ask(archive, ("2026-03-01T03:00:00Z", "2026-03-02"))
    archive.until_quiet()
    assert len(archive.runs()) == 1


def status(observatory: Observatory) -> dict:
    context = observatory.context()
    return build_status(context.database, context.grouping, Selection(), now=context.clock.now())


def test_explain_tells_for_which_backfill_a_run_was_made(archive: Observatory) -> None:
    ask(archive)
    archive.run_pass("resolve")
    assert "asked for by backfill 1: the winter again" in explained(archive, "calibrate", "executed_obs_unit=1")
    assert "backfill 1 of otf is open: 3 made, 0 done, 3 open, 0 failed" in other_lines(status(archive))


def test_a_dry_run_of_resolve_makes_nothing_of_it(archive: Observatory) -> None:
    ask(archive)
    report = archive.run_pass("resolve", dry_run=True)
    assert [item.outcome for item in report.items] == ["run"] * 3
    assert (archive.runs(), counts(archive)) == ([], (0, 0, 0, 0, 4))


def test_a_limited_resolve_goes_on_where_it_was(archive: Observatory) -> None:
    ask(archive)
    for made in (1, 2, 3):
        archive.run_pass("resolve", limit=1)
        assert counts(archive)[0] == made


def test_a_backfill_of_a_continuous_pipeline_leaves_what_is_live_alone(observatory: Observatory) -> None:
    observatory.until_quiet()
    ask(observatory)
    observatory.until_quiet()
    assert (progress(observatory)["state"], progress(observatory)["made"]) == ("done", 0)
    assert len(observatory.runs()) == 3


def test_above_confirm_runs_it_wants_yes(archive: Observatory) -> None:
    with pytest.raises(UsageError, match=r"at most 4 runs.*more than CONFIRM_RUNS"):
        ask(archive, act_with={"confirm_runs": 3})
    assert archive.rows("backfill") == []
    assert ask(archive, act_with={"confirm_runs": 3, "yes": True}).number == 1


def test_a_dry_run_asks_for_nothing_and_needs_no_reason(archive: Observatory) -> None:
    report = ask(archive, act_with={"dry_run": True, "reason": ""})
    assert report.number is None
    assert archive.rows("backfill") == []
    assert "at most 4 runs" in report.lines()[0]


def test_the_same_backfill_is_not_asked_for_twice(archive: Observatory) -> None:
    ask(archive)
    with pytest.raises(UsageError, match="backfill 1 is of this period"):
        ask(archive)


@pytest.mark.parametrize(
    ("period", "wrong"),
    [((None, None), ["--since", "--until"]), (("yesterday", "2026"), ["--since", "--until"]),
     (("2026-03-02", "2026-03-01"), ["--until"])],
)  # fmt: skip
def test_a_wrong_period_is_told_with_all_its_mistakes(archive: Observatory, period: tuple, wrong: list[str]) -> None:
    with pytest.raises(UsageError) as told:
        ask(archive, period)
    assert [problem.where for problem in told.value.problems] == wrong


def test_the_estimate_says_what_its_core_hours_stand_on(archive: Observatory) -> None:
    before = ask(archive, FIRST_TWO)
    assert before.total.basis == "what is asked for"
    assert before.total.core_hours == pytest.approx(3.0)
    archive.until_quiet()
    archive.execute("UPDATE {schema}executed_reduction_step SET wall_seconds = 1800 WHERE step_name = 'calibrate'")
    archive.execute("UPDATE {schema}executed_reduction_step SET wall_seconds = NULL WHERE step_name = 'grid'")
    after = ask(archive, act_with={"dry_run": True})
    assert [(s.step, s.missing, s.cost.basis) for s in after.steps] == [
        ("calibrate", 1, "past runs"), ("grid", 1, "what is asked for"),
    ]  # fmt: skip
    assert after.total.core_hours == pytest.approx(0.5 + 1)
    assert "1.5 core hours (by past runs, else what is asked for)" in after.lines()[0]


def test_the_document_of_the_list_is_plain_json(archive: Observatory) -> None:
    ask(archive)
    document = build_backfills(archive.context().database, "otf")
    assert json.loads(json.dumps(document)) == document
    assert datetime.fromisoformat(document["backfills"][0]["since"]) == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_resolve_that_is_killed_at_any_commit_makes_nothing_twice(tmp_path: Path, mode: str) -> None:
    """A real kill of a child process at every commit, one after the other; the next pass goes on from there."""
    store = SqliteStore()
    archive = Observatory(tmp_path, store.make(tmp_path), settings_changes={"backfill_open_runs": 2})
    by_hand(archive)
    ask(archive)
    killed = 0
    for commit in range(1, 9):
        killed += killed_at(archive, commit, mode)
        made = [run["sub_group_key"] for run in archive.runs()]
        assert len(made) == len(set(made))
        assert len([run for run in archive.runs() if run["is_open"]]) <= 2
        archive.cycle()
        archive.jobs()
    assert killed >= 4, "commits of resolve were met"
    archive.until_quiet()
    assert counts(archive) == (4, 4, 0, 0, 0)
    assert progress(archive)["state"] == "done"


def killed_at(observatory: Observatory, commit: int, mode: str) -> bool:
    """Run `resolve` in a child that ends at its commit of this number; whether it came so far."""
    observatory.minute += 1
    child = os.fork()
    if child == 0:
        effects = CountingEffects(SharedCounter(), commit, mode)
        wiring.run_pass("resolve", observatory.context(effects), PassOptions())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
