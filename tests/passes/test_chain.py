"""The whole chain: packages in, products out, and what late data, failures and people change."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccatwm.errors import UsageError
from ccatwm.upkeep.control import Wanted, cancel, retry
from ccatwm.upkeep.requests import request_runs
from tests.crash.campaign import program
from tests.passes.bad_world import COPY, Scan, good_tar, observe, reduce
from tests.passes.conftest import as_json


def failing(step: str, code: int):
    """A program that fails in one step."""

    def run(output: Path, manifest: dict) -> int:
        return code if manifest["step"] == step else program(output, manifest)

    return run


def test_packages_become_products(observatory):
    observatory.until_quiet()
    assert [(r["step_name"], r["status"], r["reason"]) for r in observatory.runs()] == [
        ("calibrate", "COMPLETED", "new-sub-group"),
        ("calibrate", "COMPLETED", "new-sub-group"),
        ("grid", "COMPLETED", "new-sub-group"),
    ]
    assert sorted(p["type"] for p in observatory.rows("data_product")) == [
        "INTERMEDIATE", "INTERMEDIATE", "QA_METRIC", "QA_METRIC", "SCIENCE",
    ]  # fmt: skip


def test_a_second_cycle_does_nothing(observatory):
    observatory.until_quiet()
    reports = observatory.cycle()
    assert [
        (r.pass_name, r.selected, r.done, r.failed) for r in reports if r.selected or r.done or r.failed
    ] == []


def test_a_late_scan_makes_a_new_map_and_keeps_the_first(observatory):
    observatory.until_quiet()
    first = observatory.sub_group("grid")["current_run_id"]
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    maps = observatory.runs("grid")
    assert [r["status"] for r in maps] == ["COMPLETED", "COMPLETED"]
    assert maps[1]["reason"] == "upstream-changed"
    assert observatory.sub_group("grid")["current_run_id"] == maps[1]["id"] != first
    old = next(p for p in observatory.rows("data_product") if p["run_id"] == first)
    assert (observatory.base / old["full_path"]).is_file()


def test_a_corrupt_copy_is_reported_and_the_good_one_taken(observatory):
    observatory.until_quiet()
    reports = observatory.rows("copy_report")
    assert [(r["package_name"], r["location"], r["finding"]) for r in reports] == [
        ("scan-2-LFA", "buffer", "corrupt")
    ]


def test_a_run_that_met_a_corrupt_copy_carries_a_warning_that_names_it(observatory):
    observatory.until_quiet()
    warned = [str(r["warnings"]) for r in observatory.runs() if r["warnings"] not in ([], "[]")]
    assert len(warned) == 1
    assert "package scan-2-LFA: its copy at buffer (scan-2.tar) is corrupt: " in warned[0]


def test_a_corrupt_copy_is_told_once(observatory):
    (observatory.folder / "raw" / "scan-2.tar").rename(observatory.folder / "away")
    told = []
    for name in ("trigger", "resolve", "stage"):
        told += [i for i in observatory.run_pass(name).items if i.outcome == "bad-copy"]
    assert [item.reason.partition(" is ")[0] for item in told] == [
        "package scan-2-LFA: its copy at buffer (scan-2.tar)",
        "package scan-2-LFA: its copy at raw (scan-2.tar)",
    ]
    observatory.minute += 60
    observatory.run_pass("poll")
    again = observatory.run_pass("stage")
    assert (again.failed, [i.outcome for i in again.items]) == (1, ["failed"])


def test_inputs_are_frozen_with_checksum_and_lineage(observatory):
    observatory.until_quiet()
    grid = observatory.runs("grid")[0]
    inputs = [i for i in observatory.rows("run_input") if i["run_id"] == grid["id"]]
    assert {i["kind"] for i in inputs} == {"product"}
    details = [as_json(i["details"]) for i in inputs]
    assert sorted(d["stands_on"][0] for d in details) == ["scan-1-LFA", "scan-2-LFA"]


def test_input_links_go_and_the_cache_stays(observatory):
    observatory.until_quiet()
    observatory.run_pass("collect")
    assert not list(observatory.base.glob("otf/*/*/run-*/input"))
    assert len(list((observatory.base / ".cache" / "packages").iterdir())) == 2


def test_from_a_to_b_and_back_to_a_ends_at_the_product_of_a(observatory):
    observatory.until_quiet()
    first = observatory.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"]
    observatory.edit("mode: hot_cold", "mode: other")
    observatory.until_quiet()
    assert observatory.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"] != first
    count = len(observatory.runs())
    observatory.edit("mode: other", "mode: hot_cold")
    observatory.until_quiet()
    group = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert (group["current_run_id"], len(observatory.runs())) == (first, count)


def test_what_is_gone_is_made_again_and_not_restored(observatory):
    observatory.until_quiet()
    group = observatory.sub_group("calibrate", "executed_obs_unit=1")
    first = group["current_run_id"]
    observatory.edit("mode: hot_cold", "mode: other")
    observatory.until_quiet()
    lost = next(p for p in observatory.rows("data_product") if p["run_id"] == first and p["type"] == "INTERMEDIATE")
    (observatory.base / lost["full_path"]).unlink()
    observatory.edit("mode: other", "mode: hot_cold")
    observatory.until_quiet()
    after = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert after["current_run_id"] not in (first, None)
    assert {p["id"]: p["status"] for p in observatory.rows("data_product")}[lost["id"]] == "missing"
    assert observatory.sub_group("calibrate", "executed_obs_unit=2")["outcome"] == "restored"


def test_files_whose_names_are_no_plain_text_are_found_when_their_run_counts_again(empty_observatory):
    night = empty_observatory
    observe(night, Scan("one", good_tar()))
    names = r"""printf x >"science/half a %25 word" && printf y >"$(printf 'science/no\377utf\n8')" """
    reduce(night, COPY + names + "\n")
    night.until_quiet()
    night.edit("[executed_obs_unit]}", "[executed_obs_unit], config: {mode: other}}")
    night.until_quiet()
    assert len(night.runs()) == 2
    night.edit(", config: {mode: other}", "")
    night.until_quiet()
    assert night.sub_group("calibrate")["current_run_id"] == 1
    assert len(night.runs()) == 2
    assert {product["status"] for product in night.rows("data_product")} == {"present"}


def test_a_slow_old_run_that_ends_last_does_not_win(observatory):
    observatory.until_quiet()
    first = observatory.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"]
    observatory.edit("mode: hot_cold", "mode: other")
    observatory.cycle()  # the run for B is submitted, and slow
    observatory.edit("mode: other", "mode: hot_cold")
    observatory.cycle()
    observatory.until_quiet()  # B ends now
    slow = [r for r in observatory.runs("calibrate") if r["reason"] == "config-changed"]
    assert {r["status"] for r in slow} == {"COMPLETED"}
    assert observatory.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"] == first


def test_a_program_that_fails_needs_a_person_and_downstream_waits(observatory):
    observatory.program = failing("calibrate", 3)
    observatory.until_quiet()
    runs = observatory.runs()
    assert {(r["status"], r["failure_class"], r["exit_code"]) for r in runs} == {
        ("FAILED", "non-zero-exit", 3)
    }
    assert observatory.sub_group("calibrate")["outcome"] == "failed"
    assert observatory.sub_group("grid")["outcome"] == "waiting-for-upstream"


def test_a_retry_by_a_person_goes_on(observatory):
    observatory.program = failing("calibrate", 3)
    observatory.until_quiet()
    observatory.program = program
    wanted = Wanted(tuple(r["id"] for r in observatory.runs()), reason="mended", actor="me", host="h")
    retry(observatory.context().database, wanted, now=observatory.context().clock.now())
    observatory.until_quiet()
    assert {r["status"] for r in observatory.runs()} == {"COMPLETED"}
    assert [r["attempt"] for r in observatory.runs("calibrate")] == [2, 2]


def test_a_forced_run_that_failed_counts_when_a_retry_of_it_succeeds(observatory):
    observatory.until_quiet()
    first = observatory.sub_group("grid", "all")["current_run_id"]
    ask(observatory, step="grid", force=True)
    observatory.program = failing("grid", 3)
    observatory.until_quiet()
    assert observatory.sub_group("grid", "all")["outcome"] == "up-to-date", "the first run still counts"
    (failed,) = [run["id"] for run in observatory.runs("grid") if run["status"] == "FAILED"]
    observatory.program = program
    context = observatory.context()
    wanted = Wanted(run_ids=(failed,), reason="mended", actor="me", host="h")
    assert retry(context.database, wanted, now=context.clock.now()).exit_code == 0
    observatory.until_quiet()
    group = observatory.sub_group("grid", "all")
    assert (group["current_run_id"], group["outcome"]) == (failed, "up-to-date")
    assert failed != first


def test_exit_code_75_is_tried_again_until_the_retries_are_used(observatory):
    observatory.program = failing("calibrate", 75)
    observatory.until_quiet()
    assert {(r["status"], r["attempt"], r["retries_used"]) for r in observatory.runs("calibrate")} == {
        ("FAILED", 4, 3)
    }


def test_what_an_earlier_attempt_met_is_not_said_of_a_run_that_completed(observatory):
    observatory.program = lambda output, manifest: (
        75 if manifest["attempt"] == 1 else program(output, manifest)
    )
    observatory.until_quiet()
    assert {(r["status"], r["attempt"], r["message"]) for r in observatory.runs()} == {("COMPLETED", 2, None)}


def test_a_final_step_without_products_is_bad_output(observatory):
    observatory.program = lambda output, manifest: (
        0 if manifest["step"] == "grid" else program(output, manifest)
    )
    observatory.until_quiet()
    assert [r["failure_class"] for r in observatory.runs("grid")] == ["bad-output"]


def test_a_cancelled_recipe_stays_cancelled(observatory):
    observatory.cycle()
    wanted = Wanted(
        tuple(r["id"] for r in observatory.runs("calibrate")), reason="not now", actor="me", host="h"
    )
    cancel(observatory.context().database, wanted, now=observatory.context().clock.now())
    observatory.until_quiet()
    assert {r["status"] for r in observatory.runs("calibrate")} == {"CANCELLED"}
    assert observatory.sub_group("calibrate")["outcome"] == "cancelled"
    assert not (observatory.base / "executions.log").exists()


def test_dry_runs_write_nothing(observatory):
    before = observatory.rows("sub_group"), observatory.rows("trigger_event"), observatory.runs()
    for name in ("trigger", "resolve", "stage", "submit", "poll", "collect"):
        observatory.run_pass(name, dry_run=True)
    assert (observatory.rows("sub_group"), observatory.rows("trigger_event"), observatory.runs()) == before


def test_each_pass_twice_in_a_row_is_like_once(observatory):
    for _ in range(12):
        for name in ("trigger", "resolve", "stage", "submit", "poll", "collect"):
            observatory.run_pass(name)
            observatory.run_pass(name)
        observatory.jobs()
    assert [r["status"] for r in observatory.runs()] == ["COMPLETED"] * 3
    assert [r["attempt"] for r in observatory.runs()] == [1, 1, 1]


def ask(observatory, **options):
    context = observatory.context()
    return request_runs(
        context.database, context.grouping, "otf", reason="tonight", actor="me", now=context.clock.now(), **options
    )


def test_a_manual_request_tells_what_follows_and_asks_above_the_limit(observatory):
    with pytest.raises(UsageError, match=r"3 sub-groups would be looked at .*more than CONFIRM_RUNS"):
        ask(observatory, confirm_runs=2)
    assert ask(observatory, confirm_runs=2, yes=True).follows.sub_groups == 3
    observatory.until_quiet()
    assert ask(observatory, confirm_runs=2).follows.sub_groups == 0, "all is up to date"
    with pytest.raises(UsageError, match="3 sub-groups would be looked at"):
        ask(observatory, confirm_runs=2, force=True)
    one = ask(observatory, confirm_runs=0, step="grid", sub_group="all", force=True)
    assert one.follows.sub_groups == 1 and "at most 1 run, " in one.lines()[0]
    assert "no run follows" in ask(observatory, step="grid", sub_group="all").lines()[0]


def test_a_manual_request_with_force_runs_again(observatory):
    observatory.until_quiet()
    ask(observatory, step="grid", force=True)
    observatory.until_quiet()
    assert [r["reason"] for r in observatory.runs("grid")] == ["new-sub-group", "requested"]


def test_a_manual_pipeline_runs_only_when_asked(observatory):
    observatory.edit("trigger: {type: CONTINUOUS}", "trigger: {type: MANUAL}")
    observatory.until_quiet()
    assert observatory.runs() == []
    ask(observatory)
    observatory.until_quiet()
    assert [(r["step_name"], r["status"], r["reason"]) for r in observatory.runs()] == [
        ("calibrate", "COMPLETED", "requested"),
        ("calibrate", "COMPLETED", "requested"),
        ("grid", "COMPLETED", "requested"),
    ]


def test_a_tick_that_finds_its_upstream_at_work_is_not_lost(observatory):
    observatory.edit(
        "depends_on: [calibrate]}", 'depends_on: [calibrate], trigger: {type: CRON, cron: "0 9 * * *"}}'
    )
    observatory.cycle()
    observatory.minute += 24 * 60
    observatory.cycle()  # the tick: the scans are still being calibrated
    assert observatory.sub_group("grid")["outcome"] == "waiting-for-upstream"
    observatory.until_quiet()
    assert [r["status"] for r in observatory.runs("grid")] == ["COMPLETED"]


def test_a_cron_step_waits_for_its_tick(observatory):
    observatory.edit(
        "depends_on: [calibrate]}", 'depends_on: [calibrate], trigger: {type: CRON, cron: "0 9 * * *"}}'
    )
    observatory.until_quiet()
    assert observatory.runs("grid") == []
    observatory.minute += 24 * 60
    observatory.until_quiet()
    assert [r["status"] for r in observatory.runs("grid")] == ["COMPLETED"]


def test_a_limit_bounds_what_a_pass_takes(observatory):
    observatory.run_pass("trigger")
    assert observatory.run_pass("resolve", limit=1).selected == 1
    assert len(observatory.runs()) == 1
    observatory.run_pass("resolve")
    assert len(observatory.runs()) == 2
    assert observatory.run_pass("stage", limit=1).done == 1


def test_a_full_comparison_of_a_quiet_system_makes_no_run(observatory):
    observatory.until_quiet()
    observatory.run_pass("trigger", full=True)
    observatory.until_quiet()
    assert len(observatory.runs()) == 3


def test_a_program_without_a_container_that_says_fatal_has_failed_itself(observatory):
    def fatal(output: Path, manifest: dict) -> int:
        (output.parent / "logs" / "stderr.log").write_text("FATAL:   no such map\n")
        return 255

    observatory.program = fatal
    observatory.until_quiet()
    assert {r["failure_class"] for r in observatory.runs()} == {"non-zero-exit"}
