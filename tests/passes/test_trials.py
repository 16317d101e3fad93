"""Runs that are tried out: they never count, until somebody says so."""

from __future__ import annotations

import pytest

from ccatwm.errors import UsageError
from ccatwm.upkeep.exclude import Act, exclude, include, promote
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.compare import build_compare, compare_rows


def program(output, manifest):
    """A reduction whose product shows its configuration."""
    if manifest["step"] == "calibrate":
        (output / "spectra.txt").write_text(str(manifest["config"]))
    else:
        (output / "science").mkdir(exist_ok=True)
        names = sorted(str(i.get("upstream_run_id", "")) for i in manifest["inputs"])
        (output / "science" / "map.txt").write_text(" ".join(names))
    return 0


@pytest.fixture
def quiet(observatory):
    observatory.program = program
    observatory.until_quiet()
    return observatory


def ask(observatory, *trial, step="calibrate", **options):
    context = observatory.context()
    return request_runs(
        context.database, context.grouping, "otf", step=step, reason="is it better?", actor="me",
        now=context.clock.now(), trial=trial, **options,
    )  # fmt: skip


def trials(observatory):
    return [run for run in observatory.runs() if run["trial"]]


def test_a_trial_runs_beside_what_counts_and_changes_nothing(quiet):
    before = {g["id"]: (g["current_run_id"], g["decision"], g["outcome"]) for g in quiet.rows("sub_group")}
    report = ask(quiet, "config.mode=cold", "config.plots.dpi=300", sub_group="executed_obs_unit=1")
    assert report.trial == {"config": {"mode": "cold", "plots.dpi": 300}}
    quiet.until_quiet()
    (run,) = trials(quiet)
    assert (run["status"], run["sub_group_key"], run["reason"]) == ("COMPLETED", "executed_obs_unit=1", "requested")
    assert quiet.resolved(run)["config"] == {"mode": "cold", "plots": {"dpi": 300}}
    assert {g["id"]: (g["current_run_id"], g["decision"], g["outcome"]) for g in quiet.rows("sub_group")} == before
    assert len(quiet.runs("grid")) == 1


def test_a_trial_of_a_step_is_a_run_of_each_sub_group_once(quiet):
    assert ask(quiet, "config.mode=cold").follows.sub_groups == 2
    quiet.until_quiet()
    assert sorted(run["sub_group_key"] for run in trials(quiet)) == ["executed_obs_unit=1", "executed_obs_unit=2"]


def test_a_trial_that_fails_again_and_again_trips_nothing(quiet):
    quiet.settings_changes = {"trip_after": 2}
    quiet.program = lambda output, manifest: 3
    for _ in range(3):
        ask(quiet, "config.mode=cold")
        quiet.until_quiet()
    assert {run["status"] for run in trials(quiet)} == {"FAILED"}
    assert {step["tripped"] for step in quiet.rows("reduction_step")} == {None}


def test_two_runs_are_compared(quiet):
    ask(quiet, "config.mode=cold", sub_group="executed_obs_unit=1")
    quiet.until_quiet()
    (trial,) = trials(quiet)
    first = quiet.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"]
    document = build_compare(quiet.context().database, first, trial["id"])
    assert document["config"] == {"mode": ["hot_cold", "cold"]}
    assert document["inputs"] == {"only_first": [], "only_second": []}
    assert [(row["path"], row["result"]) for row in document["compare"]] == [("spectra.txt", "differs")]
    assert ("config.mode", "hot_cold", "cold") in compare_rows(document)
    same = build_compare(quiet.context().database, first, first)
    assert {row["result"] for row in same["compare"]} == {"identical"}


def test_a_promoted_trial_counts_when_its_configuration_is_wanted_without_another_run(quiet):
    ask(quiet, "config.mode=cold", sub_group="executed_obs_unit=1")
    quiet.until_quiet()
    (trial,) = trials(quiet)
    context = quiet.context()
    act = Act("it is better", "me", "h", context.clock.now())
    assert promote(context.database, context.grouping, trial["id"], act).wanted is False
    quiet.until_quiet()
    assert quiet.sub_group("calibrate", "executed_obs_unit=1")["current_run_id"] != trial["id"]
    quiet.edit("mode: hot_cold", "mode: cold")
    quiet.until_quiet()
    group = quiet.sub_group("calibrate", "executed_obs_unit=1")
    assert group["current_run_id"] == trial["id"]
    assert len(quiet.runs("calibrate")) == 4, "one new run, for the other scan"
    with pytest.raises(UsageError, match="is no trial"):
        promote(context.database, context.grouping, trial["id"], act)


def tried(observatory):
    """(the trial of the first scan, what an act needs)."""
    ask(observatory, "config.mode=cold", sub_group="executed_obs_unit=1")
    observatory.until_quiet()
    (trial,) = trials(observatory)
    context = observatory.context()
    return trial["id"], (context.database, context.grouping), Act("bad", "me", "h", context.clock.now())


def test_a_trial_that_is_excluded_is_not_promoted(quiet):
    trial, world, act = tried(quiet)
    exclude(*world, [f"run:{trial}"], act)
    with pytest.raises(UsageError, match=f"run {trial} is excluded: bad") as caught:
        promote(*world, trial, act)
    assert "`ccatwm include 1 --reason TEXT`" in caught.value.next
    include(*world, ["1"], act)
    assert promote(*world, trial, act).run == trial


def test_a_trial_made_from_what_is_excluded_is_not_promoted(quiet):
    trial, world, act = tried(quiet)
    exclude(*world, ["software:cal@1.0.0"], act)
    with pytest.raises(UsageError, match=f"run {trial} is excluded: bad") as caught:
        promote(*world, trial, act)
    assert "`ccatwm exclude --list`" in caught.value.next


def test_a_promoted_trial_that_is_excluded_before_it_counts_holds_nothing_back(quiet):
    trial, world, act = tried(quiet)
    promote(*world, trial, act)
    exclude(*world, [f"run:{trial}"], act)
    quiet.edit("mode: hot_cold", "mode: cold")
    quiet.until_quiet()
    group = quiet.sub_group("calibrate", "executed_obs_unit=1")
    assert (group["outcome"], group["current_run_id"] > trial, group["stale"]) == ("up-to-date", True, None)


def test_a_promoted_trial_that_counts_and_is_excluded_then_is_not_made_again(quiet):
    trial, world, act = tried(quiet)
    promote(*world, trial, act)
    quiet.edit("mode: hot_cold", "mode: cold")
    quiet.until_quiet()
    exclude(*world, [f"run:{trial}"], act)
    quiet.until_quiet()
    group = quiet.sub_group("calibrate", "executed_obs_unit=1")
    assert (group["outcome"], group["current_run_id"]) == ("cancelled", trial)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("config.order=9", "config.order=8"),
        ("config.plots=9", "config.plots.dpi=8"),
        ("config.plots.dpi=8", "config.plots={dpi: 9}"),
        ("version=1.0.0", "version=9"),
    ],
)
def test_changes_of_which_one_undoes_the_other_are_refused(observatory, first, second):
    with pytest.raises(UsageError) as caught:
        ask(observatory, first, "config.other=1", second)
    told = [(p.where, p.what) for p in caught.value.problems if "version" not in p.what]
    assert told == [(f"--trial {first} --trial {second}", "contradict each other")]


def test_keys_that_begin_alike_are_two(observatory):
    report = ask(observatory, "config.plot=1", "config.plots=2", "config.plots_dpi=3")
    assert report.trial == {"config": {"plot": 1, "plots": 2, "plots_dpi": 3}}


def test_a_trial_is_not_forced(observatory):
    with pytest.raises(UsageError, match="--force and --trial do not go together"):
        ask(observatory, "config.mode=cold", force=True)


def test_what_cannot_be_tried_is_said(quiet):
    with pytest.raises(UsageError) as caught:
        ask(quiet, "version=9", "mode=cold", "config.a=[")
    assert [p.where for p in caught.value.problems] == ["--trial version=9", "--trial mode=cold", "--trial config.a=["]
    with pytest.raises(UsageError, match="a trial is of one step"):
        ask(quiet, "config.mode=cold", step=None)
    assert trials(quiet) == []
