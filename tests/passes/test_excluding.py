"""Data, products and versions that people take out of use, and bring back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ccatwm.core.selection import Selection
from ccatwm.errors import UsageError
from ccatwm.upkeep.exclude import Act, accept, exclude, include, list_exclusions
from ccatwm.upkeep.publish import publish as freeze
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.lineage import build_lineage, lineage_lines
from ccatwm.views.products import build_products
from tests.crash.campaign import write_campaign
from tests.passes.conftest import as_json


def act(observatory, **options):
    now = observatory.context().clock.now()
    return Act(**{"reason": "the hot load was open", "actor": "me", "host": "h", "now": now, **options})


def out(observatory, *things, dry_run=False, yes=False, confirm_runs=500, **options):
    context = observatory.context()
    said = act(observatory, dry_run=dry_run, yes=yes, confirm_runs=confirm_runs)
    return exclude(context.database, context.grouping, things, said, **options)


def back(observatory, *things, dry_run=False, **options):
    context = observatory.context()
    said = act(observatory, dry_run=dry_run)
    return include(context.database, context.grouping, things, said, **options)


def usable(observatory):
    """(run, type) of the products that people see."""
    return [(p["run"], p["type"]) for p in products(observatory)]


def products(observatory):
    context = observatory.context()
    return build_products(context.database, Selection(), places=observatory.places)["products"]


def maps(observatory):
    return [run["id"] for run in observatory.runs("grid")]


def test_an_excluded_package_is_left_out_and_what_stood_on_it_is_made_again(observatory):
    observatory.until_quiet()
    (first,) = maps(observatory)
    report = out(observatory, "package:scan-1-LFA")
    assert report.impact.packages == {"scan-1-LFA"}
    assert {p["type"] for p in report.impact.products} == {"INTERMEDIATE", "QA_METRIC", "SCIENCE"}
    assert (first, "SCIENCE") not in usable(observatory), "hidden at once, before any pass"
    observatory.until_quiet()
    group = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert (group["outcome"], group["stale"]) == ("no-inputs", "excluded: the hot load was open")
    first, second = maps(observatory)
    assert observatory.runs("grid")[1]["reason"] == "upstream-changed"
    assert {run for run, type_ in usable(observatory) if type_ == "SCIENCE"} == {second}
    names = {row["name"] for row in observatory.rows("run_input") if row["run_id"] == second}
    assert len(names) == 1


def test_what_is_included_again_restores_the_old_products_without_a_run(observatory):
    observatory.until_quiet()
    before = sorted(usable(observatory))
    out(observatory, "unit:scan-1")
    observatory.until_quiet()
    runs = len(observatory.runs())
    looked, done = back(observatory, "unit:scan-1", dry_run=True), back(observatory, "unit:scan-1")
    assert sorted({p["run"] for p in looked.impact.former} | {p["run"] for p in looked.impact.products}) == [1, 3]
    assert looked.impact.former == done.impact.former
    observatory.until_quiet()
    assert sorted(usable(observatory)) == before
    assert {p["product"] for p in looked.impact.former} <= {p["product"] for p in products(observatory)}
    assert any("of 1 earlier run may count again" in line for line in looked.lines())
    assert len(observatory.runs()) == runs
    assert observatory.sub_group("grid", "all")["outcome"] == "restored"
    assert list_exclusions(observatory.context().database)["exclusions"] == []


def test_an_exclusion_until_a_time_ends_by_itself(observatory):
    observatory.until_quiet()
    before = sorted(usable(observatory))
    now = observatory.context().clock.now()
    out(observatory, "package:scan-1-LFA", until=now + timedelta(hours=2))
    observatory.until_quiet()
    assert sorted(usable(observatory)) != before
    observatory.minute += 120
    observatory.until_quiet()
    assert sorted(usable(observatory)) == before


def test_a_module_and_a_time_also_take_what_comes_later(observatory):
    observatory.until_quiet()
    out(observatory, "module:CHAI/LFA@2026-03-01T02:30:00Z..2026-03-01T04:00:00Z")
    runs = len(observatory.runs())
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    assert len(observatory.runs()) == runs
    assert observatory.sub_group("calibrate", "executed_obs_unit=3")["outcome"] == "no-inputs"


def test_what_is_excluded_for_one_pipeline_stays_good_for_others(observatory):
    other = (observatory.folder / "pipeline.yaml").read_text().partition("pipelines:")[2].replace("otf", "other")
    with (observatory.folder / "pipeline.yaml").open("a") as file:
        file.write(other)
    observatory.apply()
    observatory.until_quiet()
    out(observatory, "package:scan-1-LFA", pipeline="other")
    observatory.until_quiet()
    made = {name: [r for r in observatory.runs("grid") if r["pipeline_name"] == name] for name in ("otf", "other")}
    assert {name: len(found) for name, found in made.items()} == {"otf": 1, "other": 2}


SECOND = """
pipelines:
  - name: second
    data_grouping: ngc253
    processing_location: local
    steps:
      - {name: mosaic, software: cal, group_by: [source], depends_on: [otf/calibrate], role: intermediate}
"""


def upstream_of(observatory, run):
    return [i["details"] for i in observatory.rows("run_input") if i["run_id"] == run["id"]]


@pytest.mark.parametrize("what", ["package:scan-1-LFA", "run:1"])
def test_what_is_excluded_for_one_pipeline_reaches_it_through_another_ones_products_no_more(observatory, what):
    (observatory.folder / "second.yaml").write_text(SECOND)
    observatory.apply("second.yaml")
    observatory.until_quiet()
    (first,) = observatory.runs("mosaic")
    out(observatory, what, pipeline="second")
    observatory.until_quiet()
    without = observatory.runs("mosaic")[1:]
    assert [(r["reason"], len(upstream_of(observatory, r))) for r in without] == [("upstream-changed", 1)]
    assert (len(observatory.runs("grid")), observatory.sub_group("calibrate")["stale"]) == (1, None)
    back(observatory, what)
    observatory.until_quiet()
    assert observatory.sub_group("mosaic")["current_run_id"] == first["id"]


def test_an_excluded_product_is_used_no_more_and_not_made_again_by_itself(observatory):
    observatory.until_quiet()
    calibrated = observatory.runs("calibrate")[0]["id"]
    product = next(p for p in observatory.rows("data_product") if p["run_id"] == calibrated)
    out(observatory, f"product:{product['id']}")
    observatory.until_quiet()
    group = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert (group["outcome"], group["stale"]) == ("cancelled", "excluded: the hot load was open")
    assert len(observatory.runs("calibrate")) == 2
    assert observatory.sub_group("grid", "all")["outcome"] == "waiting-for-upstream"
    assert not [run for run, type_ in usable(observatory) if type_ == "SCIENCE"]
    back(observatory, f"product:{product['id']}")
    observatory.until_quiet()
    assert observatory.sub_group("grid", "all")["outcome"] in ("up-to-date", "restored")
    assert len(maps(observatory)) == 1


def test_an_excluded_version_is_replaced_by_the_newest_that_is_left(observatory):
    observatory.until_quiet()
    newer = f"{{version: 1.0.1, command: [/bin/sh, {observatory.folder}/program.sh]}}"
    observatory.edit("versions: [{version: 1.0.0,", f"versions: [{newer}, {{version: 1.0.0,")
    observatory.until_quiet()
    assert len(observatory.runs()) == 3, "compatible: nothing is made again"
    out(observatory, "software:cal@1.0.0")
    assert usable(observatory) == []
    observatory.until_quiet()
    versions = [observatory.resolved(run)["software"]["version"] for run in observatory.runs()]
    assert versions == ["1.0.0"] * 3 + ["1.0.1"] * 3
    assert {run for run, _ in usable(observatory)} == {run["id"] for run in observatory.runs()[3:]}


def test_a_run_that_ends_after_its_input_was_excluded_is_not_seen(observatory):
    for name in ("trigger", "resolve", "stage", "submit"):
        observatory.run_pass(name)
    out(observatory, "package:scan-1-LFA")
    observatory.jobs()
    observatory.run_pass("poll")
    observatory.run_pass("collect")
    ended = {run["id"]: run["sub_group_key"] for run in observatory.runs("calibrate") if run["status"] == "COMPLETED"}
    assert len(ended) == 2
    assert {ended[run] for run, _ in usable(observatory)} == {"executed_obs_unit=2"}


def test_what_cannot_be_excluded_is_said_and_nothing_is_written(observatory):
    observatory.until_quiet()
    with pytest.raises(UsageError) as caught:
        out(observatory, "package:nope", "scan-1", "product:99", "software:cal@9", "module:CHAI@x..y", "unit:scan-1")
    assert [p.where for p in caught.value.problems] == [
        "package:nope", "scan-1", "product:99", "software:cal@9", "module:CHAI@x..y",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="more than CONFIRM_RUNS"):
        out(observatory, "unit:scan-1", confirm_runs=1)
    assert out(observatory, "unit:scan-1", dry_run=True).impact.sub_groups
    assert observatory.rows("exclusion") == []
    with pytest.raises(UsageError, match="is not excluded"):
        back(observatory, "unit:scan-1")


def test_the_same_exclusion_twice_is_one(observatory):
    observatory.until_quiet()
    out(observatory, "unit:scan-1")
    observatory.until_quiet()
    said, before = len(observatory.rows("change_log")), observatory.rows("sub_group")
    again = out(observatory, "unit:scan-1")
    assert again.lines() == ["unit:scan-1: already excluded (exclusion 1)"]
    assert (len(observatory.rows("exclusion")), len(observatory.rows("change_log"))) == (1, said)
    assert observatory.rows("sub_group") == before
    both = out(observatory, "unit:scan-1", "unit:scan-2")
    assert [line.partition(" (")[0] for line in both.lines()[:2]] == [
        "unit:scan-1: already excluded", "unit:scan-2: excluded",
    ]  # fmt: skip
    assert len(observatory.rows("exclusion")) == 2


@pytest.fixture
def by_source(empty_observatory):
    """Both scans go into one sub-group, whose program makes the same of whatever it gets."""
    write_campaign(empty_observatory.folder)
    empty_observatory.arrive("night.yaml")
    empty_observatory.edit("group_by: [executed_obs_unit]", "group_by: [source]")
    empty_observatory.until_quiet()
    return empty_observatory


def test_what_stood_on_an_excluded_package_is_made_again_though_its_new_input_has_the_same_bytes(by_source):
    out(by_source, "package:scan-1-LFA")
    by_source.until_quiet()
    assert [run["reason"] for run in by_source.runs("grid")] == ["new-sub-group", "upstream-changed"]
    group = by_source.sub_group("grid")
    assert (group["outcome"], group["stale"]) == ("up-to-date", None)
    assert {run for run, type_ in usable(by_source) if type_ == "SCIENCE"} == {maps(by_source)[1]}


def test_an_older_product_that_stands_on_an_excluded_package_is_not_restored(by_source):
    by_source.edit("- {name: grid,", "- {name: grid, config: {size: 2},")
    by_source.until_quiet()
    out(by_source, "package:scan-1-LFA")
    by_source.until_quiet()
    by_source.edit("config: {size: 2}", "config: {}")
    by_source.until_quiet()
    assert len(maps(by_source)) == 4
    assert by_source.sub_group("grid")["current_run_id"] == maps(by_source)[3]


def test_who_sees_an_excluded_product_is_decided_on_at_once(observatory):
    observatory.until_quiet()
    out(observatory, f"run:{observatory.runs('calibrate')[0]['id']}")
    assert observatory.sub_group("grid")["due_at"] is not None
    back(observatory, f"run:{observatory.runs('calibrate')[0]['id']}")
    observatory.until_quiet()
    assert observatory.sub_group("grid")["outcome"] in ("up-to-date", "restored")


# --- accepting and ignoring -----------------------------------------------------------------------------------


def test_an_accepted_product_is_good_for_the_new_configuration_until_another_is_wanted(observatory):
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold_hot")
    context = observatory.context()
    accept(context.database, context.grouping, "otf", "calibrate", None, act(observatory, reason="the mode is only a name"))
    observatory.until_quiet()
    assert len(observatory.runs()) == 3
    group = observatory.sub_group("calibrate")
    assert (group["outcome"], group["stale"]) == ("accepted", None)
    (row, _) = observatory.rows("acceptance")
    assert (row["actor"], row["reason"]) == ("me", "the mode is only a name")
    observatory.run_pass("trigger", full=True)
    observatory.until_quiet()
    assert len(observatory.runs()) == 3, "it holds"
    observatory.edit("mode: cold_hot", "mode: other")
    observatory.until_quiet()
    assert [r["reason"] for r in observatory.runs("calibrate")[2:]] == ["config-changed"] * 2


def test_accepting_stops_a_run_that_was_not_handed_over(observatory):
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold_hot")
    observatory.run_pass("trigger")
    observatory.run_pass("resolve")
    context = observatory.context()
    accept(context.database, context.grouping, "otf", "calibrate", "executed_obs_unit=1", act(observatory))
    observatory.until_quiet()
    made = [(run["sub_group_key"], run["status"]) for run in observatory.runs("calibrate")[2:]]
    assert sorted(made) == [("executed_obs_unit=1", "CANCELLED"), ("executed_obs_unit=2", "COMPLETED")]


def test_what_has_no_product_cannot_be_accepted(observatory):
    observatory.run_pass("trigger")
    observatory.run_pass("resolve")
    context = observatory.context()
    with pytest.raises(Exception, match="has no product yet"):
        accept(context.database, context.grouping, "otf", "calibrate", None, act(observatory))


@pytest.mark.parametrize(
    ("staleness", "change", "runs"),
    [
        ("{ignore_config: [plots]}", ("mode: hot_cold", "mode: hot_cold, plots: {dpi: 300}"), 0),
        ("{ignore_config: [plots]}", ("mode: hot_cold", "mode: cold, plots: {dpi: 300}"), 2),
        ("{ignore: [config-changed]}", ("mode: hot_cold", "mode: cold"), 0),
        ("{ignore: [input-added]}", ("mode: hot_cold", "mode: cold"), 2),
    ],
)
def test_a_step_says_which_changes_do_not_count(observatory, staleness, change, runs):
    observatory.edit("config: {mode", f"staleness: {staleness}, config: {{mode")
    observatory.until_quiet()
    observatory.edit(*change)
    observatory.until_quiet()
    assert len(observatory.runs("calibrate")) == 2 + runs
    group = observatory.sub_group("calibrate")
    assert (group["outcome"], group["stale"]) == ("up-to-date", None)


def test_a_change_that_does_not_count_is_not_told_as_the_reason(observatory):
    observatory.edit("config: {mode", "staleness: {ignore_config: [plots]}, config: {mode")
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold, plots: {dpi: 300}")
    observatory.run_pass("trigger")
    report = observatory.run_pass("resolve")
    told = {item.reason for item in report.items if item.step == "calibrate"}
    assert told == {"config-changed: mode hot_cold -> cold; besides, ignored: plots (not set) -> {'dpi': 300}"}
    details = as_json(observatory.runs("calibrate")[-1]["reason_details"])["changes"]
    assert (list(details["config"]), list(details["ignored"]["config"])) == (["mode"], ["plots"])


def test_there_and_back_makes_no_third_run_though_a_key_that_does_not_count_is_another(observatory):
    observatory.edit("config: {mode: hot_cold", "staleness: {ignore_config: [plots]}, config: {mode: hot_cold, plots: 1")
    observatory.until_quiet()
    observatory.edit("mode: hot_cold, plots: 1", "mode: cold, plots: 1")
    observatory.until_quiet()
    observatory.edit("mode: cold, plots: 1", "mode: hot_cold, plots: 2")
    observatory.run_pass("trigger")
    report = observatory.run_pass("resolve")
    told = sorted(item.reason for item in report.items if item.step == "calibrate")
    assert told == ["run 1; not counted: config-changed", "run 2; not counted: config-changed"]
    assert {item.outcome for item in report.items if item.step == "calibrate"} == {"restored"}
    document = build_explain(observatory.context().database, "otf", "calibrate", now=observatory.context().clock.now())
    assert "but for config-changed (the step's staleness policy ignores that): its products" in str(explain_lines(document))
    observatory.until_quiet()
    group = observatory.sub_group("calibrate")
    assert len(observatory.runs("calibrate")) == 4
    assert (group["current_run_id"], group["stale"]) == (1, None)


@pytest.mark.parametrize("gone", [False, True])
def test_so_it_is_with_inputs_that_do_not_count(observatory, gone):
    path = observatory.folder / "pipeline.yaml"
    more = "staleness: {ignore: [input-added]}, config: {order: 1}"
    path.write_text(path.read_text() + f"      - {{name: map, software: cal, group_by: [source], {more}}}\n")
    observatory.apply()
    observatory.until_quiet()
    observatory.edit("order: 1", "order: 2")
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    first, second = (run["id"] for run in observatory.runs("map"))
    if gone:
        (found,) = [p for p in observatory.rows("data_product") if p["run_id"] == first and p["type"] == "SCIENCE"]
        (observatory.base / found["full_path"]).unlink()
    observatory.edit("order: 2", "order: 1")
    observatory.until_quiet()
    group = observatory.sub_group("map")
    assert len(observatory.runs("map")) == (3 if gone else 2)
    assert (group["current_run_id"] == first, group["stale"]) == (not gone, None)
    assert group["current_run_id"] != second


def test_what_does_not_count_is_no_occasion_for_a_newer_version(observatory):
    observatory.edit("config: {mode", "staleness: {ignore_config: [plots]}, config: {mode")
    observatory.until_quiet()
    observatory.edit("versions: [", "versions: [{version: 1.0.1, command: [/bin/true]}, ")
    observatory.edit("mode: hot_cold", "mode: hot_cold, plots: {dpi: 300}")
    observatory.until_quiet()
    assert len(observatory.runs("calibrate")) == 2
    observatory.edit("mode: hot_cold", "mode: cold")
    observatory.until_quiet()
    versions = [observatory.resolved(run)["software"]["version"] for run in observatory.runs("calibrate")]
    assert versions == ["1.0.0", "1.0.0", "1.0.1", "1.0.1"]


def test_a_late_scan_does_not_count_where_the_step_says_so(observatory):
    observatory.edit("group_by: [], depends_on", "staleness: {ignore: [upstream-changed]}, group_by: [], depends_on")
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    assert len(maps(observatory)) == 1
    out(observatory, "unit:scan-1")
    observatory.until_quiet()
    assert len(maps(observatory)) == 2, "what is excluded always counts"


def publish(observatory, name, products):
    context = observatory.context()
    freeze(context.database, context.grouping, name, [str(number) for number in products], {}, act(observatory))


def test_the_published_sets_that_hold_what_was_made_from_it_are_told(observatory):
    observatory.until_quiet()
    science = next(p["id"] for p in observatory.rows("data_product") if p["type"] == "SCIENCE")
    of_scan_2 = next(
        p["id"] for p in observatory.rows("data_product") if "unit=2" in p["full_path"] and p["type"] == "INTERMEDIATE"
    )
    publish(observatory, "dr1", [science])
    publish(observatory, "dr2", [science, of_scan_2])
    publish(observatory, "other", [of_scan_2])
    report = out(observatory, "package:scan-1-LFA", dry_run=True)
    assert report.to_json()["follows"]["sub_groups"] == 2
    assert any(line.startswith("what is made again: at most 2 runs, ") for line in report.lines())
    told = [{"name": row["name"], "products": row["products"]} for row in report.to_json()["impact"]["published_sets"]]
    assert told == [{"name": "dr1", "products": [science]}, {"name": "dr2", "products": [science]}]
    assert "published set dr1 holds 1 product made from it" in "\n".join(report.lines())
    places = {(row["step"], row["sub_group"]) for row in report.to_json()["impact"]["sub_group_list"]}
    assert places == {("calibrate", "executed_obs_unit=1"), ("grid", "all")}
    context = observatory.context()
    lineage = build_lineage(context.database, context.grouping, "package:scan-1-LFA", places=observatory.places)
    assert [row["name"] for row in lineage["published_sets"]] == ["dr1", "dr2"]
    assert f"published set dr1 holds {science}" in "\n".join(lineage_lines(lineage))


def test_a_published_set_is_told_also_when_another_product_has_taken_its_place(observatory):
    observatory.until_quiet()
    science = next(p["id"] for p in observatory.rows("data_product") if p["type"] == "SCIENCE")
    publish(observatory, "dr1", [science])
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    assert len(maps(observatory)) == 2
    report = out(observatory, "unit:scan-1", dry_run=True)
    assert [row["name"] for row in report.impact.published] == ["dr1"]


def test_what_stands_on_an_excluded_version_is_stale_at_once_and_through_the_passes(observatory):
    """Of three steps in a row: hidden when it is said, and none of it comes back while the chain is decided on again."""
    path = observatory.folder / "pipeline.yaml"
    last = "      - {name: atlas, software: other, group_by: [], depends_on: [grid], role: final}\n"
    software = "  - name: other\n    versions: [{version: 1.0.0, command: [/bin/true]}]\ndata_groupings:"
    path.write_text(path.read_text().replace("data_groupings:", software) + last)
    observatory.apply()
    observatory.until_quiet()
    before = usable(observatory)
    assert {run for run, _ in before} >= {r["id"] for r in observatory.runs("atlas")}
    out(observatory, "software:cal@1.0.0")
    assert usable(observatory) == []
    for _ in range(4):
        observatory.cycle()
        assert usable(observatory) == []
    for step in ("calibrate", "grid", "atlas"):
        assert observatory.sub_group(step)["stale"].startswith("excluded: "), step


def test_what_is_included_again_counts_also_where_only_a_person_asks_for_decisions(observatory):
    observatory.until_quiet()
    before = sorted(usable(observatory))
    observatory.edit("trigger: {type: CONTINUOUS}", "trigger: {type: MANUAL}")
    observatory.until_quiet()
    out(observatory, "package:scan-1-LFA")
    observatory.until_quiet()
    assert sorted(usable(observatory)) != before
    report = back(observatory, "package:scan-1-LFA")
    assert report.still == []
    assert sorted(usable(observatory)) == before
    observatory.until_quiet()
    assert sorted(usable(observatory)) == before


def test_what_is_included_again_is_as_stale_as_it_was_where_only_a_person_asks_for_decisions(observatory):
    observatory.until_quiet()
    observatory.edit("trigger: {type: CONTINUOUS}", "trigger: {type: MANUAL}")
    observatory.edit("mode: hot_cold", "mode: cold")
    observatory.program = lambda output, manifest: 3
    context = observatory.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", reason="now", actor="me",
                 now=context.clock.now())  # fmt: skip
    observatory.until_quiet()
    stale = observatory.sub_group("calibrate")["stale"]
    out(observatory, "package:scan-1-LFA")
    assert observatory.sub_group("calibrate")["stale"] == "excluded: the hot load was open"
    back(observatory, "package:scan-1-LFA")
    assert observatory.sub_group("calibrate")["stale"] == stale is not None


def test_what_something_else_excludes_is_told_when_it_is_included(observatory):
    observatory.until_quiet()
    out(observatory, "package:scan-1-LFA", "unit:scan-1")
    report = back(observatory, "package:scan-1-LFA")
    assert report.still == ["scan-1-LFA"]
    assert any("something else still excludes scan-1-LFA" in line for line in report.lines())
    group = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert group["stale"] == "excluded: the hot load was open"


def test_another_end_or_reason_takes_the_place_of_an_exclusion(observatory):
    observatory.until_quiet()
    now = observatory.context().clock.now()
    out(observatory, "package:scan-1-LFA", until=now + timedelta(hours=2))
    report = out(observatory, "package:scan-1-LFA")
    assert "instead of exclusion 1 (the hot load was open, until 2026-03-0" in report.lines()[0]
    (one,) = list_exclusions(observatory.context().database)["exclusions"]
    assert (one["exclusion"], one["until"]) == (2, None)


def test_runs_under_way_with_what_is_excluded_are_told(observatory):
    observatory.make_runs()
    report = out(observatory, "package:scan-1-LFA", dry_run=True)
    (run,) = [r["id"] for r in observatory.runs("calibrate") if r["sub_group_key"] == "executed_obs_unit=1"]
    assert report.impact.under_way == [run]
    assert any("1 run under way with it" in line for line in report.lines())


def test_a_mistyped_package_is_answered_with_those_that_are_called_alike(observatory):
    observatory.until_quiet()
    name = observatory.rows("sub_group_member")[0]["package_name"]
    with pytest.raises(UsageError, match="no package is, or belongs to, that") as caught:
        out(observatory, f"package:{name}x")
    assert caught.value.next.startswith("did you mean ") and name in caught.value.next


def test_a_module_that_is_not_there_cannot_be_excluded(observatory):
    with pytest.raises(UsageError, match="there is no module 'CHAI/XFA'"):
        out(observatory, "module:CHAI/XFA@2026-03-01T02:30:00Z..2026-03-01T04:00:00Z")


def test_a_range_that_begins_before_anything_was_observed_is_told_so_and_one_without_end_is_not(observatory):
    with pytest.raises(UsageError, match=r"begins before the year 1900") as refused:
        out(observatory, "module:CHAI/LFA@0001-01-01..9999-12-31")
    whole = "module:CHAI/LFA@1900-01-01..9999-12-31"
    assert whole in refused.value.next
    assert out(observatory, whole, dry_run=True).impact.packages == {"scan-1-LFA", "scan-2-LFA"}
