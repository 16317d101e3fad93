"""Every reason to run, and not to, is stored with what it stands on, and told by `resolve --dry-run` and `explain`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ccatwm.core.gap import Outcome
from ccatwm.upkeep.control import Wanted, cancel, hold
from ccatwm.upkeep.exclude import Act, accept
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.explain import build_explain, explain_lines
from tests.passes.conftest import Observatory, as_json

MAP = "      - {name: map, software: cal, group_by: [source], config: {mode: hot_cold, fit: {order: 1}}}\n"
SOURCE, SCAN_1, SCAN_3 = "source=NGC253", "executed_obs_unit=1", "executed_obs_unit=3"


@pytest.fixture
def sky(observatory: Observatory) -> Observatory:
    """`map` takes raw packages by source, beside `calibrate` by scan and `grid` of all; all is up to date."""
    path = observatory.folder / "pipeline.yaml"
    path.write_text(path.read_text() + MAP)
    observatory.apply()
    observatory.until_quiet()
    assert {run["status"] for run in observatory.runs()} == {"COMPLETED"}
    return observatory


# --- how each comes to be -----------------------------------------------------------------------------------------


def nothing(sky: Observatory) -> None:
    sky.execute("UPDATE {schema}sub_group SET due_at = created_at")


def new_step(sky: Observatory) -> None:
    path = sky.folder / "pipeline.yaml"
    path.write_text(path.read_text() + MAP.replace("name: map", "name: chart"))
    sky.apply()


def late_scan(sky: Observatory) -> None:
    sky.arrive("late.yaml")


def change_night(sky: Observatory, pattern: str, new: str) -> None:
    path = sky.folder / "night.yaml"
    text, count = re.subn(pattern, new, path.read_text())
    assert count
    path.write_text(text)
    sky.arrive("night.yaml")


def withdrawn(sky: Observatory) -> None:
    change_night(sky, r"(scan-2-LFA.*state: )archived", r"\1failed")


def changed(sky: Observatory) -> None:
    change_night(sky, r"(scan-2-LFA.*checksum: 'sha256:)....", r"\g<1>beef")


def on_its_way(sky: Observatory) -> None:
    change_night(sky, r"(scan-1-LFA.*state: )archived", r"\1transferring")


def all_failed(sky: Observatory) -> None:
    change_night(sky, r"(scan-1-LFA.*state: )archived", r"\1failed")


def upstream_changed(sky: Observatory) -> None:
    late_scan(sky)
    for _ in range(2):
        sky.cycle()
        sky.jobs()
    sky.run_pass("poll")
    sky.run_pass("collect")


def config(sky: Observatory) -> None:
    sky.edit("fit: {order: 1}", "fit: {order: 2}")


def edit_map(sky: Observatory, more: str) -> None:
    sky.edit("name: map, software: cal,", f"name: map, software: cal, {more},")


def version(sky: Observatory) -> None:
    command = f"command: [/bin/sh, {sky.folder / 'program.sh'}]}}"
    sky.edit(f"{command}]", f"{command}, {{version: 2.0.0, {command}]")


def reference(sky: Observatory) -> None:
    (sky.folder / "beam.json").write_text("{}")
    path = sky.folder / "pipeline.yaml"
    beam = f'references: [{{name: beam, versions: [{{version: "1", path: {sky.folder / "beam.json"}}}]}}]\n'
    path.write_text(beam + path.read_text())
    edit_map(sky, "references: [beam]")


def asked(sky: Observatory) -> None:
    context = sky.context()
    request_runs(context.database, context.grouping, "otf", step="map", force=True, reason="the talk is tomorrow",
                 actor="ada", now=context.clock.now())  # fmt: skip


def by_cron(sky: Observatory) -> None:
    edit_map(sky, 'trigger: {type: CRON, cron: "0 12 * * *", timezone: UTC, force: true}')
    sky.run_pass("trigger")
    sky.minute = 12 * 60


def back_again(sky: Observatory) -> None:
    config(sky)
    sky.until_quiet()
    sky.edit("fit: {order: 2}", "fit: {order: 1}")


def accepted(sky: Observatory) -> None:
    sky.edit("fit: {order: 1}", "fit: {order: 2}")
    context = sky.context()
    act = Act("good enough", "ada", "h", context.clock.now())
    accept(context.database, context.grouping, "otf", "map", None, act)


def cooled(sky: Observatory) -> None:
    edit_map(sky, "cooldown_seconds: 86400")
    late_scan(sky)


def settling(sky: Observatory) -> None:
    edit_map(sky, "settle_seconds: 3600")
    late_scan(sky)
    sky.run_pass("trigger")
    sky.run_pass("resolve")  # groups it: a dry run tells of the same moment then
    nothing(sky)


def waiting_upstream(sky: Observatory) -> None:
    late_scan(sky)
    sky.run_pass("trigger")
    sky.run_pass("resolve")
    sky.run_pass("trigger")
    nothing(sky)


def no_version(sky: Observatory) -> None:
    edit_map(sky, "version_policy: exact, version: 1.0.0")
    sky.execute("UPDATE {schema}reduction_software_version SET version = '0.9.0'")
    nothing(sky)


def bound_too_high(sky: Observatory) -> None:
    nothing(sky)
    edit_map(sky, "version: 3.0")


def busy(sky: Observatory) -> None:
    config(sky)
    sky.cycle()
    sky.edit("fit: {order: 2}", "fit: {order: 3}")


def failed(sky: Observatory) -> None:
    sky.program = lambda output, manifest: 3
    config(sky)
    sky.until_quiet()
    nothing(sky)


def cancelled(sky: Observatory) -> None:
    config(sky)
    sky.run_pass("trigger")
    sky.run_pass("resolve")
    context = sky.context()
    run = sky.runs("map")[-1]["id"]
    cancel(context.database, Wanted((run,), reason="a wrong order", actor="ada", host="h"), now=context.clock.now())
    sky.run_pass("poll")
    nothing(sky)


def tripped(sky: Observatory) -> None:
    sky.execute("UPDATE {schema}reduction_step SET tripped = 'staging' WHERE name = 'map'")
    nothing(sky)


def held(sky: Observatory) -> None:
    context = sky.context()
    hold(context.database, "otf/map", reason="looking into it", actor="ada", host="h", now=context.clock.now())
    nothing(sky)


# --- what is to be seen of it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`details` are pairs of a dotted place in the stored details and its value; `told` is said by both."""

    arrange: Callable[[Observatory], None]
    outcome: str
    reason: str | None = None
    details: tuple[tuple[str, Any], ...] = ()
    told: tuple[str, ...] = ()  # by `resolve`, and its dry run
    explained: tuple[str, ...] = ()
    step: str = "map"
    key: str = SOURCE
    has: tuple[str, ...] = field(default=())  # details that are there, whatever their value


RUNS = [
    Case(new_step, "run", "new-sub-group", step="chart", told=("new-sub-group",), explained=("new-sub-group",)),
    Case(late_scan, "run", "input-added", (("changes.inputs_added", ["scan-3-LFA"]),), ("input-added: added scan-3-LFA",),
         ("added scan-3-LFA",)),
    Case(withdrawn, "run", "input-withdrawn", (("changes.inputs_withdrawn", ["scan-2-LFA"]),), ("input-withdrawn",),
         ("withdrawn scan-2-LFA",)),
    Case(changed, "run", "input-changed", (("changes.inputs_changed", ["scan-2-LFA"]),), ("input-changed",),
         ("changed scan-2-LFA",)),
    Case(upstream_changed, "run", "upstream-changed",
         (("changes.upstream_added", ["calibrate/executed_obs_unit=3/spectra.txt"]),), ("upstream-changed",),
         ("new upstream calibrate/executed_obs_unit=3/spectra.txt",), step="grid", key="all"),
    Case(reference, "run", "reference-changed", (("changes.references", {"beam": [None, "1"]}),),
         ("reference-changed",), ("reference beam (not set) -> 1",)),
    Case(config, "run", "config-changed", (("changes.config", {"fit.order": [1, 2]}),),
         ("config-changed: fit.order 1 -> 2",), ("fit.order 1 -> 2",)),
    Case(version, "run", "software-changed", (("changes.software", ["1.0.0", "2.0.0"]),),
         ("software-changed: version 1.0.0 -> 2.0.0",), ("version 1.0.0 -> 2.0.0",)),
    Case(asked, "run", "requested", (("request", "the talk is tomorrow"),), ("requested",),
         ("asked for: the talk is tomorrow",)),
    Case(by_cron, "run", "scheduled", told=("scheduled",), explained=("scheduled",)),
]  # fmt: skip
NO_RUNS = [
    Case(nothing, "up-to-date", told=("run ",), explained=("made from exactly what is wanted now",), has=("run",)),
    Case(back_again, "restored", told=("run ",), explained=("its products are current again",), has=("run",)),
    Case(accepted, "accepted", None, (("changes.config", {"fit.order": [1, 2]}),), ("run ",),
         ("ada accepted the current product", "(fit.order 1 -> 2)", ": good enough"), has=("run",)),
    Case(cooled, "cooling-down", "input-added", (("changes.inputs_added", ["scan-3-LFA"]),),
         ("input-added: not before 2026-03-03",), ("younger than the cooldown of 86400", "it runs in ", "added scan-3-LFA"),
         has=("until",)),
    Case(settling, "settling", "input-added", (("changes.inputs_added", ["scan-3-LFA"]),), ("input-added: not before",),
         ("less than 3600", "(settle_seconds)", "it runs in "), has=("until",)),
    Case(on_its_way, "waiting-for-data", None, (("packages", [{"name": "scan-1-LFA", "state": "transferring"}]),),
         ("scan-1-LFA is transferring",), ("scan-1-LFA is transferring",), step="calibrate", key=SCAN_1),
    Case(waiting_upstream, "waiting-for-upstream", None,
         (("upstream", [{"pipeline": "otf", "step": "calibrate", "sub_group": SCAN_3, "state": "PENDING"}]),),
         ("calibrate executed_obs_unit=3 is PENDING",), ("otf/calibrate executed_obs_unit=3: PENDING",), step="grid",
         key="all"),
    Case(no_version, "waiting-for-image", None,
         (("software", "cal"), ("missing", "version"), ("exactly", "1.0.0"), ("versions", ["0.9.0"])),
         ("version 1.0.0 of cal is not registered (there are: 0.9.0); `ccatwm apply` such a version",),
         ("because version 1.0.0 of cal is not registered (there are: 0.9.0)", "`ccatwm apply FILE`")),
    Case(bound_too_high, "waiting-for-image", None, (("at_least", "3.0"), ("versions", ["1.0.0"])),
         ("no version of cal that is 3.0 or newer is registered (there are: 1.0.0); `ccatwm apply` such a version",),
         ("because no version of cal that is 3.0 or newer is registered (there are: 1.0.0)", "`ccatwm apply FILE`")),
    Case(all_failed, "no-inputs", None, (("packages", 1),), ("no archived package",), ("no archived package",),
         step="calibrate", key=SCAN_1),
    Case(busy, "busy", None, (("status", "SUBMITTED"), ("then", "config-changed"),
                              ("changes.config", {"fit.order": [1, 3]})),
         ("is SUBMITTED, then another is wanted: config-changed",),
         ("is under way", "another run is wanted: config-changed", "fit.order 1 -> 3"), has=("run",)),
    Case(failed, "failed", None, (("class", "non-zero-exit"),), ("non-zero-exit",),
         ("failed for good: non-zero-exit", "ccatwm retry"), has=("run", "message")),
    Case(cancelled, "cancelled", None, (("message", "a wrong order"),), ("run ",),
         ("was cancelled: a wrong order", "ccatwm retry"), has=("run",)),
    Case(tripped, "tripped", None, (("class", "staging"),), ("too many attempts failed as staging",),
         ("its last attempts all failed as staging", "ccatwm release otf/map --retry")),
    Case(held, "held", None, (("reason", "looking into it"),), ("looking into it",),
         ("held: looking into it", "ccatwm release otf/map")),
]  # fmt: skip


def named(case: Case) -> str:
    return case.reason if case.outcome == "run" and case.reason else case.outcome


def at(details: Any, place: str) -> Any:
    for name in place.split("."):
        details = details[name]
    return details


@pytest.mark.parametrize("case", [*RUNS, *NO_RUNS], ids=named)
def test_it_is_stored_and_told(sky: Observatory, case: Case) -> None:
    case.arrange(sky)
    sky.run_pass("trigger")
    rehearsed = sky.run_pass("resolve", dry_run=True)
    sky.minute -= 1  # the same moment
    real = sky.run_pass("resolve")
    for report in (rehearsed, real):
        (item,) = [i for i in report.items if (i.step, i.sub_group) == (case.step, case.key)]
        assert item.outcome == case.outcome
        assert all(words in item.reason for words in case.told), item.reason
    check_stored(sky, case)
    check_explained(sky, case)


def check_stored(sky: Observatory, case: Case) -> None:
    group = sky.sub_group(case.step, case.key)
    details = as_json(group["details"])
    assert (group["outcome"], group["reason"]) == (case.outcome, case.reason)
    assert group["decided_at"] is not None
    assert {place: at(details, place) for place, _ in case.details} == dict(case.details)
    assert [name for name in case.has if details.get(name) is None] == []


def check_explained(sky: Observatory, case: Case) -> None:
    context = sky.context()
    document = build_explain(context.database, "otf", case.step, case.key, now=context.clock.now())
    (row,) = json.loads(json.dumps(document))["explain"]
    assert (row["outcome"], row["reason"]) == (case.outcome, case.reason)
    assert {place: at(row["details"], place) for place, _ in case.details} == dict(case.details)
    assert row["why"]
    assert row["what_would_change_it"]
    text = "\n".join(explain_lines(document))
    assert [words for words in case.explained if words not in text] == [], text


def test_every_outcome_is_in_the_table() -> None:
    assert {case.outcome for case in [*RUNS, *NO_RUNS]} == {outcome.value for outcome in Outcome}


def test_every_reason_to_run_is_in_the_table() -> None:
    """Those of companions have tests of their own."""
    expected = {
        "new-sub-group", "input-added", "input-withdrawn", "input-changed", "upstream-changed", "reference-changed",
        "config-changed", "software-changed", "requested", "scheduled",
    }  # fmt: skip
    assert {case.reason for case in RUNS} == expected
