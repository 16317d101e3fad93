"""What people say about runs is written to the ops-db, with who said it and why."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

import pytest

from ccatwm.core.selection import Selection
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.runs import list_cancel_requests, list_open_runs
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.upkeep.control import Wanted, cancel, hold, release, retry, wait_until_ended
from tests.opsdb.looked_at import MINUTE, NOW, World, world

__all__ = ["world"]


def wanted(*run_ids: int, **changes: Any) -> Wanted:
    selection = Selection(**{k: changes.pop(k) for k in list(changes) if k in Selection.__dataclass_fields__})
    said = {"reason": "the disk is repaired", "actor": "ada", "host": "login1", **changes}
    return Wanted(run_ids, selection, **said)


def failed(world: World, key: str = "executed_obs_unit=1", **values: Any) -> int:
    group = world.sub_group("calibrate", key, outcome="failed")
    defaults = {"blocking": True, "failure_class": "timeout", "retries_used": 3, "inputs_removed_at": NOW}
    return world.run(group, "FAILED", **{**defaults, **values})


def run_row(world: World, run: int) -> dict[str, Any]:
    return world.row(t.executed_reduction_step, run)


def said(world: World) -> list[tuple[str, str, str, str]]:
    return [(r["actor"], r["act"], r["target"], r["reason"]) for r in world.rows(t.change_log)]


# --- retry --------------------------------------------------------------------------------------------------


def test_a_failed_run_is_pending_again_with_all_its_retries(world):
    run = failed(world)
    report = retry(world.database, wanted(run), now=NOW)
    row = run_row(world, run)
    assert (report.done, report.exit_code) == ([run], 0)
    assert (row["status"], row["is_open"], row["blocking"], row["retries_used"]) == (
        "PENDING",
        True,
        False,
        0,
    )
    assert (row["due_at"], row["inputs_removed_at"]) == (None, None)


def test_a_retry_is_in_the_history_and_in_the_change_log(world):
    run = failed(world)
    retry(world.database, wanted(run), now=NOW)
    event = world.rows(t.run_event)[-1]
    assert (event["event"], event["actor"], event["from_status"]) == ("RETRY_REQUESTED", "ada", "FAILED")
    assert said(world) == [("ada", "retry", f"run {run}", "the disk is repaired")]


def test_the_sub_group_of_a_retried_run_is_decided_on_again(world):
    run = failed(world)
    retry(world.database, wanted(run), now=NOW)
    assert world.row(t.sub_group, run_row(world, run)["sub_group_id"])["due_at"] == NOW


def test_a_retried_run_is_what_stage_looks_for(world):
    run = failed(world)
    retry(world.database, wanted(run), now=NOW)
    with world.database.read() as connection:
        found = list_open_runs(connection, "local", (RunStatus.PENDING,), due_by=NOW)
    assert [r.id for r in found] == [run]


def test_a_retry_asks_for_what_its_step_asks_for_now(world):
    run = failed(world, next_resources={"memory_gb": 64.0})
    definition = world.row(t.reduction_step, world.steps["calibrate"])["definition"]
    asked = {"resources": {"memory_gb": 8.0, "account": "mended"}}
    world.update(
        t.reduction_step,
        world.steps["calibrate"],
        definition={**definition, **asked},
        learned={"memory_gb": 9.0},
    )
    retry(world.database, wanted(run), now=NOW)
    asked_now = run_row(world, run)["next_resources"]
    assert (asked_now["memory_gb"], asked_now["account"]) == (9.0, "mended")


def test_a_run_that_waits_for_its_retry_can_be_tried_at_once(world):
    run = failed(world, is_open=True, blocking=False, due_at=NOW + MINUTE)
    retry(world.database, wanted(run), now=NOW)
    assert (run_row(world, run)["status"], run_row(world, run)["due_at"]) == ("PENDING", None)


def test_a_cancelled_run_that_is_named_is_tried_again_and_no_longer_cancelled(world):
    run = failed(world, status_at=NOW, cancel_requested_at=NOW, cancel_reason="wrong")
    world.update(t.executed_reduction_step, run, status="CANCELLED")
    retry(world.database, wanted(run), now=NOW)
    row = run_row(world, run)
    assert (row["status"], row["cancel_requested_at"], row["cancel_reason"]) == ("PENDING", None, None)


def test_a_retry_is_refused_while_another_run_of_the_sub_group_is_open(world):
    run = failed(world)
    other = world.run(run_row(world, run)["sub_group_id"], "RUNNING")
    report = retry(world.database, wanted(run), now=NOW)
    assert [(r.outcome, r.reason) for r in report.runs] == [
        ("refused", f"run {other} of the same sub-group is open")
    ]
    assert (report.exit_code, run_row(world, run)["status"], said(world)) == (1, "FAILED", [])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"superseded": True}, "superseded"),
        ({"status": "COMPLETED"}, "COMPLETED"),
        ({"status": "RUNNING"}, "RUNNING"),
    ],
)
def test_what_cannot_be_tried_again_is_refused_with_the_reason(world, values, why):
    run = failed(world)
    world.update(t.executed_reduction_step, run, **values)
    report = retry(world.database, wanted(run), now=NOW)
    assert (report.runs[0].outcome, why in report.runs[0].reason) == ("refused", True)


def test_of_two_failed_runs_of_a_sub_group_the_newest_is_tried_again(world):
    old = failed(world)
    new = world.run(run_row(world, old)["sub_group_id"], "FAILED", blocking=True)
    report = retry(world.database, wanted(step="calibrate"), now=NOW)
    assert {r.run: r.outcome for r in report.runs} == {new: "done", old: "refused"}


def test_a_selection_means_failed_runs_unless_it_says_cancelled(world):
    one = failed(world)
    two = failed(world, "executed_obs_unit=2")
    world.update(t.executed_reduction_step, two, status="CANCELLED")
    assert retry(world.database, wanted(pipeline="otf"), now=NOW).done == [one]
    assert retry(world.database, wanted(pipeline="otf", statuses=("CANCELLED",)), now=NOW).done == [two]


def test_a_selection_leaves_out_runs_of_recipes_that_nobody_wants_any_more(world):
    run = failed(world)
    world.update(t.sub_group, run_row(world, run)["sub_group_id"], wanted_recipe="r2")
    assert retry(world.database, wanted(classes=("timeout",)), now=NOW).runs == ()


def test_retry_of_a_class_takes_only_that_class(world):
    run = failed(world)
    failed(world, "executed_obs_unit=2", failure_class="container")
    assert retry(world.database, wanted(classes=("timeout",)), now=NOW).done == [run]


# --- cancel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["PENDING", "SUBMITTING", "RUNNING", "COLLECTING_RESULTS"])
def test_cancelling_asks_and_leaves_the_run_where_it_is(world, status):
    run = world.run(world.sub_group("grid", "all"), status)
    cancel(world.database, wanted(run), now=NOW)
    row = run_row(world, run)
    assert (row["status"], row["cancel_requested_at"]) == (status, NOW)
    assert row["cancel_reason"] == "the disk is repaired"
    assert said(world) == [("ada", "cancel", f"run {run}", "the disk is repaired")]


def test_a_failed_run_with_retries_left_can_be_cancelled(world):
    run = failed(world, is_open=True, blocking=False, due_at=NOW + MINUTE)
    cancel(world.database, wanted(run), now=NOW)
    with world.database.read() as connection:
        assert [r.id for r in list_cancel_requests(connection, "local")] == [run]


def test_a_run_that_has_ended_cannot_be_cancelled(world):
    run = world.run(world.sub_group("grid", "all"))
    report = cancel(world.database, wanted(run), now=NOW)
    assert [(r.outcome, r.reason) for r in report.runs] == [("refused", "it has ended: COMPLETED")]


def test_asking_twice_changes_nothing(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    cancel(world.database, wanted(run), now=NOW)
    report = cancel(world.database, wanted(run), now=NOW + MINUTE)
    assert (report.runs[0].outcome, report.exit_code) == ("unchanged", 0)
    assert run_row(world, run)["cancel_requested_at"] == NOW
    assert len(said(world)) == 1


def test_a_run_asked_for_before_is_watched_as_well(world):
    new, old = (world.run(world.sub_group("calibrate", key), "RUNNING") for key in ("one", "two"))
    cancel(world.database, wanted(old), now=NOW)
    report = cancel(world.database, wanted(pipeline="otf"), now=NOW + MINUTE)
    assert (report.done, sorted(report.watched)) == ([new], [new, old])


def test_a_run_that_cannot_be_cancelled_is_not_watched(world):
    report = cancel(world.database, wanted(world.run(world.sub_group("grid", "all"))), now=NOW)
    assert report.watched == []


def test_a_selection_to_cancel_means_open_runs(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    failed(world)
    assert [r.run for r in cancel(world.database, wanted(pipeline="otf"), now=NOW).runs] == [run]


# --- what both refuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [retry, cancel])
def test_no_selection_at_all_is_refused(world, act):
    failed(world)
    with pytest.raises(UsageError, match="would mean all of them"):
        act(world.database, wanted(), now=NOW)


@pytest.mark.parametrize("act", [retry, cancel])
def test_no_reason_is_refused(world, act):
    run = failed(world)
    with pytest.raises(UsageError, match="say why"):
        act(world.database, wanted(run, reason=" "), now=NOW)


@pytest.mark.parametrize("act", [retry, cancel])
def test_a_run_that_is_not_there_is_refused_and_nothing_is_done(world, act):
    run = failed(world, is_open=True)
    with pytest.raises(UsageError, match="no run 999"):
        act(world.database, wanted(run, 999), now=NOW)
    assert said(world) == []


def test_more_than_confirm_runs_needs_yes(world):
    runs = [failed(world, f"executed_obs_unit={n}") for n in (1, 2, 3)]
    cost = r"3 runs, 3 core hours \(by what is asked for\)"
    with pytest.raises(UsageError, match=rf"{cost}, more than CONFIRM_RUNS \(2\)") as caught:
        retry(world.database, wanted(pipeline="otf", confirm_runs=2), now=NOW)
    assert "--yes" in caught.value.next
    assert {run_row(world, run)["status"] for run in runs} == {"FAILED"}
    assert len(retry(world.database, wanted(pipeline="otf", confirm_runs=2, yes=True), now=NOW).done) == 3


def test_a_dry_run_says_what_it_would_do_and_does_nothing(world):
    run = failed(world)
    report = retry(world.database, wanted(run, dry_run=True), now=NOW)
    assert report.lines()[0] == f"run {run} otf/calibrate/executed_obs_unit=1: would be tried again"
    assert (run_row(world, run)["status"], said(world)) == ("FAILED", [])


# --- hold and release ---------------------------------------------------------------------------------------

BY = {"actor": "ada", "host": "login1", "now": NOW}


@pytest.mark.parametrize(
    ("target", "table"),
    [("otf", t.pipeline), ("otf/grid", t.reduction_step), ("otf/grid/all", t.sub_group)],
)
def test_what_is_held_is_left_alone_by_the_passes_until_it_is_released(world, target, table):
    run = world.run(world.sub_group("grid", "all"), "PENDING")
    hold(world.database, target, reason="bad weather", **BY)
    assert "bad weather" in [row["held"] for row in world.rows(table)]
    assert found_by_stage(world) == []
    release(world.database, target, reason="clear sky", **BY)
    assert found_by_stage(world) == [run]
    assert [(act, name) for _, act, name, _ in said(world)] == [("hold", target), ("release", target)]


def test_a_run_is_held_by_its_number(world):
    run = world.run(world.sub_group("grid", "all"), "PENDING")
    assert hold(world.database, str(run), reason="wait", **BY).target == f"run {run}"
    assert run_row(world, run)["held"] == "wait"


@pytest.mark.parametrize("target", ["otf", "otf/grid", "otf/grid/all", "1"])
def test_what_is_printed_to_end_a_hold_ends_it(world, target):
    world.run(world.sub_group("grid", "all"), "PENDING")
    printed = hold(world.database, target, reason="wait", **BY).lines()[-1].split("`")[1]
    assert release(world.database, shlex.split(printed)[-1], reason="done", **BY).changed


@pytest.mark.parametrize("target", ["otf", "otf/grid", "otf/grid/all", "1"])
def test_who_retries_a_run_that_is_held_is_told_what_to_release(world, target):
    run = world.run(world.sub_group("grid", "all"), "FAILED", blocking=True, is_open=False)
    hold(world.database, target, reason="bad beam", **BY)
    told = "\n".join(retry(world.database, wanted(run), now=NOW).lines())
    assert told.count(f"`ccatwm release {target} --reason TEXT`") == 1 and "bad beam" in told


def found_by_stage(world: World) -> list[int]:
    with world.database.read() as connection:
        found = list_open_runs(connection, "local", (RunStatus.PENDING,), due_by=NOW)
    return [run.id for run in found if not run.held]


def test_release_has_held_sub_groups_decided_on_again(world):
    group = world.sub_group("grid", "all", outcome="held")
    other = world.sub_group("calibrate", "executed_obs_unit=1", outcome="held")
    world.update(t.reduction_step, world.steps["grid"], held="bad weather")
    release(world.database, "otf/grid", reason="clear sky", **BY)
    assert [world.row(t.sub_group, i)["due_at"] for i in (group, other)] == [NOW, None]


def test_release_with_retry_takes_a_tripped_step_up_again(world):
    run = failed(world)
    world.update(t.reduction_step, world.steps["calibrate"], tripped="timeout")
    report = release(world.database, "otf/calibrate", reason="new limits", retry_failed=True, **BY)
    assert report.retried is not None and report.retried.done == [run]
    assert world.row(t.reduction_step, world.steps["calibrate"])["tripped"] is None


def test_a_retry_tells_what_it_costs_by_what_is_asked_for_or_by_past_runs(world):
    run = failed(world)
    assert again(world, run).basis == "what is asked for"
    done = world.sub_group("calibrate", "executed_obs_unit=2", outcome="up-to-date")
    world.run(done, "COMPLETED", wall_seconds=7200.0)
    assert again(world, run).basis == "past runs"


def again(world: World, run: int) -> Any:
    report = retry(world.database, wanted(run, dry_run=True), now=NOW)
    assert report.follows is not None and report.follows.sub_groups == 1
    assert report.follows.cost in report.lines()[-1]
    return report.follows


def test_a_retry_in_a_step_that_is_tripped_says_what_must_be_said_first(world):
    run = failed(world)
    world.update(t.reduction_step, world.steps["calibrate"], tripped="timeout")
    report = retry(world.database, wanted(run), now=NOW)
    assert "otf/calibrate is tripped (timeout)" in report.lines()[-1]
    assert "ccatwm release otf/calibrate --reason TEXT" in report.lines()[-1]
    assert report.to_json()["brakes"] == [report.lines()[-1]]


def test_a_retry_of_a_run_that_is_held_does_not_say_that_passes_go_on_with_it(world):
    run = failed(world)
    world.update(t.executed_reduction_step, run, held="wait for Ada")
    text = "\n".join(retry(world.database, wanted(run), now=NOW).lines())
    assert f"ccatwm release {run} --reason TEXT" in text and "goes on with them" not in text


def test_release_with_retry_of_more_than_confirm_runs_needs_yes_and_does_nothing_without(world):
    runs = [failed(world, f"executed_obs_unit={n}") for n in (1, 2, 3)]
    world.update(t.reduction_step, world.steps["calibrate"], tripped="timeout")
    limited = {"reason": "new limits", "retry_failed": True, "confirm_runs": 2, **BY}
    with pytest.raises(UsageError, match=r"3 runs.*more than CONFIRM_RUNS \(2\)"):
        release(world.database, "otf/calibrate", **limited)
    assert world.row(t.reduction_step, world.steps["calibrate"])["tripped"] == "timeout"
    assert said(world) == []
    done = release(world.database, "otf/calibrate", yes=True, **limited)
    assert done.retried is not None and set(done.retried.done) == set(runs)


def test_a_release_without_retry_says_that_it_was_tripped_and_how_many_runs_stay_failed(world):
    failed(world)
    world.update(t.reduction_step, world.steps["calibrate"], tripped="timeout")
    lines = release(world.database, "otf/calibrate", reason="", **BY).lines()
    assert lines[0] == "otf/calibrate: released (it was tripped: timeout)"
    assert lines[1].startswith("1 run of it that failed stays so; `ccatwm release otf/calibrate --retry")


def test_releasing_a_pipeline_leaves_its_tripped_steps_so_and_says_it(world):
    run = failed(world)
    world.update(t.reduction_step, world.steps["calibrate"], tripped="timeout")
    report = release(world.database, "otf", reason="go on", retry_failed=True, **BY)
    assert report.retried is not None and report.retried.done == [run]
    assert "otf/calibrate is tripped (timeout)" in report.lines()[-1]
    assert len([line for line in report.lines() if "is tripped" in line]) == 1
    assert "go on with" not in " ".join(report.lines())


def test_releasing_what_is_not_held_changes_nothing(world):
    report = release(world.database, "otf", reason="", **BY)
    assert (report.changed, said(world)) == (False, [])


def test_holding_what_is_not_there_says_what_is(world):
    with pytest.raises(UsageError) as caught:
        hold(world.database, "otf/gird", reason="x", **BY)
    assert "grid" in caught.value.next


# --- waiting ------------------------------------------------------------------------------------------------


class Standing:
    """A clock that moves on by sleeping only, and nobody does anything meanwhile."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class CarryingOut(Standing):
    """During its third sleep a pass carries it out."""

    def __init__(self, world: World, run: int) -> None:
        super().__init__()
        self.world, self.run = world, run

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.seconds >= 3 * seconds:
            self.world.update(t.executed_reduction_step, self.run, status="CANCELLED", is_open=False)


def test_waiting_ends_when_it_is_carried_out(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    assert wait_until_ended(world.database, [run], CarryingOut(world, run)) == {run: "CANCELLED"}


def test_waiting_without_any_pass_says_so_once_in_half_an_hour(world, caplog):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    with pytest.raises(CcatwmError):
        wait_until_ended(world.database, [run], Standing(), timeout_seconds=600)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "no pass has begun for 2 min" in said and "`ccatwm cycle`" in said


def test_waiting_gives_up_and_says_where_it_stands(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    with pytest.raises(CcatwmError, match=f"run {run} is RUNNING"):
        wait_until_ended(world.database, [run], CarryingOut(world, run), timeout_seconds=3)


@pytest.mark.parametrize(
    ("table", "values", "said"),
    [
        (t.executed_reduction_step, {"held": "wait for Ada"}, r"run \d+ is held \(wait for Ada\)"),
        (t.sub_group, {"held": "bad beam"}, r"otf/grid/all is held \(bad beam\)"),
        (t.reduction_step, {"tripped": "timeout"}, r"otf/grid is tripped \(timeout\)"),
        (t.pipeline, {"held": "upgrade"}, r"otf is held \(upgrade\)"),
    ],
)
def test_waiting_ends_at_once_where_somebody_has_to_release_what_it_waits_for(world, table, values, said):
    group = world.sub_group("grid", "all")
    run, clock = world.run(group, "PENDING"), Standing()
    ids = {"executed_reduction_step": run, "sub_group": group, "reduction_step": world.steps["grid"]}
    world.update(table, ids.get(table.name, world.pipeline), **values)
    with pytest.raises(CcatwmError, match=said) as caught:
        wait_until_ended(world.database, [run], clock)
    assert (caught.value.exit_code, clock.seconds) == (1, 0.0)
    assert "`ccatwm release " in caught.value.next


def test_waiting_for_a_job_goes_on_though_its_step_is_held(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    world.update(t.reduction_step, world.steps["grid"], held="bad beam")
    assert wait_until_ended(world.database, [run], CarryingOut(world, run)) == {run: "CANCELLED"}
