"""The stable path: `latest` of a sub-group leads to the output of the run that counts."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta

from ccatwm import wiring
from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb.stores.products import record_missing
from ccatwm.passes._frame import PassOptions
from ccatwm.upkeep.exclude import promote
from ccatwm.upkeep.run_folders import find_run_folders
from ccatwm.views.products import build_products
from ccatwm.views.show import build_show
from tests.passes.conftest import Observatory
from tests.passes.test_excluding import act, back, out
from tests.passes.test_trials import ask, trials


def link_of(observatory: Observatory, step: str = "grid", key: str = "all"):
    return observatory.base / "otf" / step / key / "latest"


def leads_to(observatory: Observatory, step: str = "grid", key: str = "all") -> int | None:
    """The run that the link leads to."""
    link = link_of(observatory, step, key)
    if not link.is_symlink():
        return None
    assert link.resolve().is_dir()
    return int(os.readlink(link).split("/")[0].removeprefix("run-"))


def due(observatory: Observatory) -> list[int]:
    return [group["id"] for group in observatory.rows("sub_group") if group["latest_due"]]


def test_each_sub_group_has_a_link_to_the_run_that_counts(observatory):
    observatory.until_quiet()
    runs = {(r["step_name"], r["sub_group_key"]): r["id"] for r in observatory.runs()}
    assert {place: leads_to(observatory, *place) for place in runs} == runs
    assert due(observatory) == []


def test_a_newer_product_takes_the_link(observatory):
    observatory.until_quiet()
    before = leads_to(observatory)
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    assert before != leads_to(observatory) == observatory.sub_group("grid")["current_run_id"]


def test_the_link_goes_where_the_product_is_excluded_and_comes_back_with_it(observatory):
    observatory.until_quiet()
    run = leads_to(observatory, "calibrate", "executed_obs_unit=1")
    out(observatory, "package:scan-1-LFA")
    observatory.run_pass("collect")
    assert not os.path.lexists(link_of(observatory, "calibrate", "executed_obs_unit=1"))
    assert leads_to(observatory, "calibrate", "executed_obs_unit=2") is not None
    back(observatory, "package:scan-1-LFA")
    observatory.run_pass("collect")
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") == run


def test_an_exclusion_that_ends_by_itself_brings_the_link_back(observatory):
    observatory.until_quiet()
    run = leads_to(observatory, "calibrate", "executed_obs_unit=1")
    out(observatory, "package:scan-1-LFA", until=observatory.context().clock.now() + timedelta(hours=2))
    observatory.until_quiet()
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") is None
    observatory.minute += 120
    observatory.until_quiet()
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") == run


def test_a_restored_product_takes_the_link_back(observatory):
    observatory.until_quiet()
    first = leads_to(observatory)
    out(observatory, "unit:scan-1")
    observatory.until_quiet()
    assert leads_to(observatory) != first
    back(observatory, "unit:scan-1")
    observatory.until_quiet()
    assert leads_to(observatory) == first == observatory.sub_group("grid")["current_run_id"]


def test_a_product_that_is_only_older_than_what_is_wanted_keeps_the_link(observatory):
    observatory.until_quiet()
    run = leads_to(observatory)
    observatory.arrive("late.yaml")
    for name in ("trigger", "resolve", "collect"):
        observatory.run_pass(name)
    assert leads_to(observatory) == run


def test_a_trial_takes_no_link_until_it_is_promoted(observatory):
    observatory.until_quiet()
    place = ("calibrate", "executed_obs_unit=1")
    before = leads_to(observatory, *place)
    ask(observatory, "config.mode=cold", sub_group=place[1])
    observatory.until_quiet()
    (trial,) = trials(observatory)
    assert leads_to(observatory, *place) == before != trial["id"]
    context = observatory.context()
    promote(context.database, context.grouping, trial["id"], act(observatory))
    observatory.edit("mode: hot_cold", "mode: cold")
    observatory.until_quiet()
    assert leads_to(observatory, *place) == trial["id"] == observatory.sub_group(*place)["current_run_id"]


def test_a_product_that_vanished_has_no_link(observatory):
    observatory.until_quiet()
    run = observatory.sub_group("grid")["current_run_id"]
    ids = [p["id"] for p in observatory.rows("data_product") if p["run_id"] == run]
    with observatory.context().database.write() as connection:
        record_missing(connection, ids)
    observatory.run_pass("collect")
    assert leads_to(observatory) is None


def test_a_second_pass_touches_no_link(observatory):
    observatory.until_quiet()
    before = link_of(observatory).lstat().st_ctime_ns  # of this very link
    observatory.execute("UPDATE {schema}sub_group SET latest_due = (1 = 1)")
    observatory.run_pass("collect")
    observatory.run_pass("collect")
    assert link_of(observatory).lstat().st_ctime_ns == before and due(observatory) == []


def test_a_folder_in_the_way_stays_is_told_once_and_holds_nobody_up(observatory):
    link_of(observatory).mkdir(parents=True)
    (link_of(observatory) / "notes").write_text("mine")
    reports = observatory.until_quiet()
    told = [item for report in reports for item in report.items if item.outcome == "no-latest"]
    assert [(item.step, item.sub_group) for item in told] == [("grid", "all")]
    assert "otf/grid/all/latest is no link of ours and stays" in told[0].reason
    assert "`ccatwm fsck --yes --reason TEXT`" in told[0].reason  # test_fsck sees it do so
    assert (link_of(observatory) / "notes").read_text() == "mine"
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") is not None


def test_what_changes_while_links_are_switched_stays_due(observatory):
    """Somebody excludes the product between the switch and its being settled."""
    observatory.until_quiet()
    observatory.execute("UPDATE {schema}sub_group SET latest_due = (1 = 1)")
    context = observatory.context()
    switch = context.workfiles.switch_links

    def excluded_meanwhile(links):
        answer = switch(links)
        out(observatory, "package:scan-1-LFA")
        context.workfiles.switch_links = switch
        return answer

    context.workfiles.switch_links = excluded_meanwhile
    wiring.run_pass("collect", context, PassOptions())
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") is None
    assert due(observatory) == []


def test_a_pass_that_was_stopped_for_long_does_not_leave_an_older_link(observatory):
    """It switches back what another one settled meanwhile, and sees that it did."""
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    old = leads_to(observatory)
    context = observatory.context()
    observatory.execute("UPDATE {schema}sub_group SET latest_due = (1 = 1)")
    switch = context.workfiles.switch_links

    def late(links):
        context.workfiles.switch_links = switch
        answer = switch(links)
        observatory.execute("DELETE FROM {schema}pass_lease")
        observatory.until_quiet()  # others go on, and settle the newer run
        assert leads_to(observatory) != old
        return answer + switch([(link, target) for link, target in links])

    context.workfiles.switch_links = late
    with no_file_lock(observatory):
        wiring.run_pass("collect", context, PassOptions())
    observatory.until_quiet()
    assert leads_to(observatory) == observatory.sub_group("grid")["current_run_id"] != old


@contextmanager
def no_file_lock(observatory: Observatory):
    """As on two hosts: the folder of locks is each one's own."""
    kept = observatory.settings_changes
    observatory.settings_changes = {**kept, "state_dir": observatory.folder / "other-state"}
    try:
        yield
    finally:
        observatory.settings_changes = kept


def test_the_link_is_no_run_to_who_walks_over_folders(observatory):
    observatory.until_quiet()
    names = {folder.rpartition("/")[2] for folder in find_run_folders(observatory.context().workfiles)}
    assert names == {f"run-{run['id']}" for run in observatory.runs()}


def test_products_and_show_tell_the_stable_path(observatory):
    observatory.until_quiet()
    observatory.arrive("late.yaml")
    observatory.until_quiet()
    old, new = (run["id"] for run in observatory.runs("grid"))
    context = observatory.context()
    document = build_products(context.database, Selection(step="grid"), places=observatory.places, all_of_them=True)
    paths = {row["run"]: row["latest"] for row in document["products"]}
    assert paths == {new: f"{link_of(observatory)}/science/map.txt", old: None}
    now, places = context.clock.now(), observatory.places
    shown = {run: build_show(context.database, context.workfiles, run, places=places, now=now) for run in (old, new)}
    assert {run: doc["paths"]["latest"] for run, doc in shown.items()} == {new: str(link_of(observatory)), old: None}


def test_a_dry_run_switches_nothing(observatory):
    observatory.until_quiet()
    out(observatory, "package:scan-1-LFA")
    observatory.run_pass("collect", dry_run=True)
    assert leads_to(observatory, "calibrate", "executed_obs_unit=1") is not None
