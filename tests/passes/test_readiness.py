"""When a sub-group is ready: complete data, enough upstream, deadlines, failures, quiet inputs."""

from __future__ import annotations

import re

import pytest

from ccatwm.upkeep.requests import request_runs
from ccatwm.views.explain import build_explain
from tests.crash.campaign import program
from tests.passes.conftest import Observatory, as_json

SCAN_1, SCAN_3 = "executed_obs_unit=1", "executed_obs_unit=3"


def change(observatory: Observatory, name: str, pattern: str, new: str) -> None:
    """Observations of a file become others."""
    path = observatory.folder / name
    text, count = re.subn(pattern, new, path.read_text())
    assert count
    path.write_text(text)
    observatory.arrive(name)


def define(observatory: Observatory, step: str, more: str) -> None:
    observatory.edit(f"name: {step}, software: cal,", f"name: {step}, software: cal, {more},")


def outcome(observatory: Observatory, step: str, key: str | None = None) -> str:
    return str(observatory.sub_group(step, key)["outcome"])


def inputs(observatory: Observatory, run: dict) -> set[str]:
    """Packages of a run, or the sub-groups whose products it takes."""
    rows = [i for i in observatory.rows("run_input") if i["run_id"] == run["id"]]
    return {as_json(i["details"]).get("upstream_sub_group") or i["name"] for i in rows}


# --- complete ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_packages(observatory: Observatory) -> Observatory:
    """Scan 1 has a second package, which is on its way."""
    first = re.search(r"(?m)^.*scan-1-LFA.*$", (observatory.folder / "night.yaml").read_text())
    assert first
    second = first[0].replace("scan-1-LFA", "scan-1-HFA").replace("CHAI/LFA", "CHAI/HFA")
    second = second.replace("state: archived", "state: transferring")
    (observatory.folder / "second.yaml").write_text(f"raw_data_packages:\n{second}\n")
    observatory.arrive("second.yaml")
    return observatory


def test_a_scan_waits_until_all_its_packages_are_archived(two_packages: Observatory) -> None:
    two_packages.until_quiet()
    assert outcome(two_packages, "calibrate", SCAN_1) == "waiting-for-data"
    change(two_packages, "second.yaml", "transferring", "archived")
    two_packages.until_quiet()
    (run,) = [r for r in two_packages.runs("calibrate") if r["sub_group_key"] == SCAN_1]
    assert (run["status"], inputs(two_packages, run)) == ("COMPLETED", {"scan-1-LFA", "scan-1-HFA"})


def test_a_package_that_failed_is_not_waited_for(two_packages: Observatory) -> None:
    change(two_packages, "second.yaml", "transferring", "failed")
    two_packages.until_quiet()
    (run,) = [r for r in two_packages.runs("calibrate") if r["sub_group_key"] == SCAN_1]
    assert inputs(two_packages, run) == {"scan-1-LFA"}


def test_a_scan_that_goes_on_is_waited_for(observatory: Observatory) -> None:
    change(observatory, "night.yaml", r'(name: scan-1,.*), end_time: [^,]*, status: completed', r"\1, status: running")
    observatory.execute(f"UPDATE {observed(observatory)}executed_obs_unit SET end_time = NULL WHERE name = 'scan-1'")
    observatory.until_quiet()
    assert outcome(observatory, "calibrate", SCAN_1) == "waiting-for-data"
    change(observatory, "night.yaml", "status: running", 'end_time: "2026-03-01T01:10:00Z", status: completed')
    observatory.until_quiet()
    assert {run["status"] for run in observatory.runs("calibrate")} == {"COMPLETED"}


def observed(observatory: Observatory) -> str:
    return "" if observatory.url.startswith("sqlite") else "public."


def test_complete_none_takes_what_is_there(two_packages: Observatory) -> None:
    define(two_packages, "calibrate", "complete: none")
    two_packages.until_quiet()
    assert {run["status"] for run in two_packages.runs("calibrate")} == {"COMPLETED"}


def test_after_the_deadline_it_runs_with_what_is_there_and_again_when_late_data_come(two_packages: Observatory) -> None:
    define(two_packages, "calibrate", "deadline_hours: 2")
    two_packages.until_quiet()
    assert outcome(two_packages, "calibrate", SCAN_1) == "waiting-for-data"
    two_packages.minute += 121
    two_packages.until_quiet()
    change(two_packages, "second.yaml", "transferring", "archived")
    two_packages.until_quiet()
    made = [r for r in two_packages.runs("calibrate") if r["sub_group_key"] == SCAN_1]
    assert [inputs(two_packages, run) for run in made] == [{"scan-1-LFA"}, {"scan-1-LFA", "scan-1-HFA"}]
    assert [run["reason"] for run in made] == ["new-sub-group", "input-added"]


def test_what_a_deadline_has_passed_without_is_not_waited_for_again(two_packages: Observatory) -> None:
    """Neither once its own run is done, nor after a full comparison; and what stands on it goes on."""
    define(two_packages, "calibrate", "deadline_hours: 2")
    two_packages.until_quiet()
    two_packages.minute += 121
    two_packages.until_quiet()
    for _ in range(3):
        group = two_packages.sub_group("calibrate", SCAN_1)
        assert (group["outcome"], as_json(group["details"])["without"]) == ("up-to-date", ["package scan-1-HFA"])
        assert outcome(two_packages, "grid") == "up-to-date"
        two_packages.run_pass("trigger", full=True)
        two_packages.until_quiet()
    assert len(two_packages.runs("grid")) == 1
    context = two_packages.context()
    row = build_explain(context.database, "otf", "calibrate", SCAN_1, now=context.clock.now())["explain"][0]
    assert "its deadline (deadline_hours) has passed without package scan-1-HFA" in row["why"]
    change(two_packages, "second.yaml", "transferring", "archived")
    two_packages.until_quiet()
    assert "without" not in as_json(two_packages.sub_group("calibrate", SCAN_1)["details"])
    change(two_packages, "second.yaml", "archived", "transferring")
    two_packages.until_quiet()
    assert outcome(two_packages, "calibrate", SCAN_1) == "waiting-for-data", "it had come, and is on its way again"


def test_a_package_that_comes_to_one_without_which_a_deadline_passed_is_waited_for(two_packages: Observatory) -> None:
    define(two_packages, "calibrate", "deadline_hours: 2")
    two_packages.until_quiet()
    two_packages.minute += 121
    two_packages.until_quiet()
    path = two_packages.folder / "second.yaml"
    path.write_text(path.read_text().replace("scan-1-HFA", "scan-1-XFA"))
    two_packages.arrive("second.yaml")
    two_packages.until_quiet()
    details = as_json(two_packages.sub_group("calibrate", SCAN_1)["details"])
    assert ([p["name"] for p in details["packages"]], details["without"]) == (["scan-1-XFA"], ["package scan-1-HFA"])


# --- upstream ---------------------------------------------------------------------------------------------------


def fail_scan_2(output, manifest):
    return 3 if manifest["sub_group"] == "executed_obs_unit=2" else program(output, manifest)


@pytest.fixture
def three(observatory: Observatory) -> Observatory:
    """Three scans, of which the second cannot be calibrated."""
    observatory.arrive("late.yaml")
    observatory.program = fail_scan_2
    return observatory


def test_a_failed_upstream_sub_group_is_waited_for(three: Observatory) -> None:
    three.until_quiet()
    assert outcome(three, "grid") == "waiting-for-upstream"
    details = as_json(three.sub_group("grid")["details"])
    assert [(u["sub_group"], u["state"]) for u in details["upstream"]] == [("executed_obs_unit=2", "failed")]


def test_a_failed_upstream_sub_group_is_skipped_where_the_step_says_so(three: Observatory) -> None:
    define(three, "grid", "on_upstream_failure: skip")
    three.until_quiet()
    (run,) = three.runs("grid")
    assert (run["status"], inputs(three, run)) == ("COMPLETED", {SCAN_1, SCAN_3})


def test_what_was_made_without_a_failed_upstream_sub_group_is_explained_with_its_name(three: Observatory) -> None:
    define(three, "grid", "on_upstream_failure: skip")
    three.until_quiet()
    context = three.context()
    (said,) = build_explain(context.database, "otf", "grid", now=context.clock.now())["explain"]
    lacking = "it goes without 1 of 3 upstream sub-groups, for want of a product: calibrate executed_obs_unit=2: failed"
    assert said["outcome"] == "up-to-date" and lacking in said["why"]
    assert any("`ccatwm explain otf calibrate executed_obs_unit=2`" in text for text in said["what_would_change_it"])
    three.program = program
    three.edit("mode: hot_cold", "mode: cold")
    three.until_quiet()
    (said,) = build_explain(context.database, "otf", "grid", now=three.context().clock.now())["explain"]
    assert not any("goes without" in text for text in said["why"])


@pytest.mark.parametrize(("requires", "expected"), [("0.6", "COMPLETED"), ("0.8", None), ("all", None)])
def test_a_fraction_of_upstream_is_enough_where_the_step_says_so(
    three: Observatory, requires: str, expected: str | None
) -> None:
    define(three, "grid", f"requires: {requires}")
    three.until_quiet()
    assert ([run["status"] for run in three.runs("grid")][-1:] or [None]) == [expected]


def test_after_the_deadline_it_goes_without_what_failed_and_again_when_that_is_mended(three: Observatory) -> None:
    define(three, "grid", "deadline_hours: 2")
    three.until_quiet()
    assert three.runs("grid") == []
    three.minute += 121
    three.until_quiet()
    (first,) = three.runs("grid")
    assert inputs(three, first) == {SCAN_1, SCAN_3}
    lacking = ["upstream otf/calibrate executed_obs_unit=2 (failed)"]
    for _ in range(2):
        group = three.sub_group("grid")
        assert (group["outcome"], as_json(group["details"])["without"]) == ("up-to-date", lacking)
        three.run_pass("trigger", full=True)
        three.until_quiet()
    three.program = program
    three.edit("mode: hot_cold", "mode: cold")
    three.until_quiet()
    assert inputs(three, three.runs("grid")[-1]) == {SCAN_1, "executed_obs_unit=2", SCAN_3}


def test_an_upstream_step_by_hand_that_was_asked_for_twice_has_settled_when_its_run_ends(observatory: Observatory) -> None:
    define(observatory, "calibrate", "trigger: {type: MANUAL}")
    observatory.until_quiet()
    for _ in range(2):
        context = observatory.context()
        request_runs(context.database, context.grouping, "otf", step="calibrate", reason="now", actor="me",
                     now=context.clock.now())  # fmt: skip
        observatory.cycle()
    assert outcome(observatory, "calibrate", SCAN_1) == "busy"
    observatory.until_quiet()
    assert outcome(observatory, "calibrate", SCAN_1) == "up-to-date"
    assert [run["status"] for run in observatory.runs("grid")] == ["COMPLETED"]


# --- quiet ------------------------------------------------------------------------------------------------------


def test_each_new_input_starts_the_quiet_time_anew(observatory: Observatory) -> None:
    path = observatory.folder / "pipeline.yaml"
    path.write_text(path.read_text() + "      - {name: map, software: cal, group_by: [source], settle_seconds: 3600}\n")
    observatory.apply()
    observatory.until_quiet()
    assert outcome(observatory, "map") == "settling"
    first = as_json(observatory.sub_group("map")["details"])["until"]
    observatory.minute += 40
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    observatory.minute += 30  # the first quiet time is over
    observatory.until_quiet()
    assert outcome(observatory, "map") == "settling"
    assert as_json(observatory.sub_group("map")["details"])["until"] > first
    observatory.minute += 40
    observatory.until_quiet()
    (run,) = observatory.runs("map")
    assert inputs(observatory, run) == {"scan-1-LFA", "scan-2-LFA", "scan-3-LFA"}


# --- odd numbers ------------------------------------------------------------------------------------------------


def test_a_span_beyond_the_calendar_is_for_ever_and_stops_nothing_else(two_packages: Observatory) -> None:
    """As an older release may have taken it; a new one refuses it."""
    define(two_packages, "calibrate", "deadline_hours: 2, settle_seconds: 1")
    two_packages.execute(
        "UPDATE {schema}reduction_step SET definition = "
        + (
            "json_set(definition, '$.deadline_hours', 1e12)"
            if two_packages.url.startswith("sqlite")
            else "jsonb_set(definition, '{{deadline_hours}}', '1000000000000')"
        )
        + " WHERE name = 'calibrate'"
    )
    reports = two_packages.until_quiet()
    assert [report.error for report in reports] == [None] * len(reports)
    group = two_packages.sub_group("calibrate", SCAN_1)
    assert (group["outcome"], str(group["due_at"])[:4]) == ("waiting-for-data", "9999")
    assert outcome(two_packages, "calibrate", "executed_obs_unit=2") == "up-to-date"
