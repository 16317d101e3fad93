"""The cache of staged packages: what leaves it, who waits for room, and what a purge has taken out of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ccatwm.cli._conditions import tell_news
from ccatwm.core.cache import Amount, CachedPackage, never_fits
from ccatwm.core.health import Patience, judge_health
from ccatwm.core.selection import Selection
from ccatwm.core.wording import GB
from ccatwm.edges.opsdb.stores import staged
from ccatwm.passes._frame import PassReport, this_process
from ccatwm.passes._room import cache_limits, claimant_is_gone, evict
from ccatwm.upkeep.control import Wanted, retry
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.health import read_facts
from ccatwm.views.left import build_left
from ccatwm.views.runs import build_runs
from ccatwm.views.status import build_status, other_lines
from tests.passes.conftest import Observatory

TAR = 10240  # bytes of each package; unpacked they are some 2 kB
SECOND_STEP = "      - {name: again, software: cal, group_by: [executed_obs_unit], raw_inputs: true}\n"
DEAD = "another-boot:1:1"


@pytest.mark.parametrize("gb", [0.001, 0.29, 4.35, 1.1, 20_000])
def test_a_limit_is_told_as_it_was_set(gb: float) -> None:
    limits = cache_limits(SimpleNamespace(cache_max_gb=gb, min_free_gb=gb, min_free_inodes=0))
    assert limits.most_bytes == limits.free.size_bytes
    assert f"CACHE_MAX_GB = {gb:g})" in (never_fits(Amount(10**15, 1), limits) or "")


def limit(observatory: Observatory, size_bytes: int | None, **others: Any) -> None:
    """One package after the other: what is on its way counts as it is packed, which is more than it is unpacked."""
    most = None if size_bytes is None else size_bytes / GB
    observatory.settings_changes = {"cache_max_gb": most, "stage_parallel": 1, **others}


def cached(observatory: Observatory) -> dict[str, str]:
    return {row["package_name"]: row["state"] for row in observatory.rows("staged_package")}


def folders(observatory: Observatory) -> list[str]:
    """What is in the cache by its files, hidden names too."""
    found = (observatory.base / ".cache" / "packages").iterdir()
    return sorted(path.name.partition("-LFA")[0] for path in found)


def folder(observatory: Observatory, scan: str) -> Path:
    (path,) = (observatory.base / ".cache" / "packages").glob(f"{scan}-LFA-*")
    return path


def items(report: PassReport, outcome: str) -> list[Any]:
    return [item for item in report.items if item.outcome == outcome]


def status_of(observatory: Observatory) -> list[str]:
    return sorted(run["status"] for run in observatory.runs())


# --- the limit ------------------------------------------------------------------------------------------------------


def test_the_longest_unused_leaves_when_no_run_needs_it_any_more(three_scans: Observatory) -> None:
    limit(three_scans, TAR + 3000)
    three_scans.make_runs()
    three_scans.until_quiet()
    assert status_of(three_scans) == ["COMPLETED"] * 3
    gone = [name for name, state in cached(three_scans).items() if state == "GONE"]
    assert len(gone) == 1
    assert folders(three_scans) == sorted(n.removesuffix("-LFA") for n in cached(three_scans) if n not in gone)


def test_a_run_without_room_is_throttled_and_told_where_people_look(three_scans: Observatory) -> None:
    limit(three_scans, TAR + 3000)
    three_scans.make_runs()
    report = three_scans.run_pass("stage")
    assert (report.done, report.waiting, report.failed) == (2, 1, 0)
    (item,) = items(report, "throttled")
    assert item.intended, "people have set the limit: no news under cron"
    assert "needs 10.2 kB in the cache, of which other runs hold 12.4 kB of" in item.reason
    context = three_scans.context()
    now = context.clock.now()
    (run,) = [r for r in build_runs(context.database, Selection(), now=now)["runs"] if r["throttled"]]
    assert run["state"] == "STAGING_DATA (throttled, 12.4 kB of 13.2 kB)"
    assert run["throttled"] == item.reason
    lines = explain_lines(build_explain(context.database, "otf", now=now))
    assert f"  changes when there is room: {item.reason}" in lines
    status = build_status(
        context.database, context.grouping, Selection(), now=now, cache_at="local",
        cache_max_gb=context.settings.cache_max_gb,
    )  # fmt: skip
    assert status["status"][0]["throttled"]["reason"] == item.reason
    assert (status["cache"]["packages"], status["cache"]["limit_bytes"]) == (2, TAR + 3000)
    assert status["cache"]["pinned_bytes"] == status["cache"]["size_bytes"] > 4000
    assert [line for line in other_lines(status) if line.startswith("cache: 2 packages, 4.")]
    facts = read_facts(context.settings, context.database, context.grouping, now=now)
    found = {finding.name: finding.found for finding in judge_health(facts, Patience(), now)}
    assert found["throttled otf/calibrate"] == f"otf/calibrate: 1 run held back: {item.reason}"
    assert found["cache"].startswith("2 packages, 4.")


def test_a_run_that_only_waits_for_room_keeps_no_cycle_going(three_scans: Observatory) -> None:
    limit(three_scans, TAR + 3000)
    three_scans.make_runs()
    three_scans.run_pass("stage")
    three_scans.execute("UPDATE {schema}executed_reduction_step SET held = 'look' WHERE status = 'STAGED'")
    from ccatwm.wiring import work_is_left

    assert not work_is_left(three_scans.context())
    context = three_scans.context()
    assert build_left(context.database, "local", now=context.clock.now())["open"] == 3


def test_a_run_that_needs_more_than_the_whole_cache_waits_for_a_person(three_scans: Observatory) -> None:
    limit(three_scans, TAR - 1)
    three_scans.make_runs()
    report = three_scans.run_pass("stage")
    assert (report.failed, {run["is_open"] for run in three_scans.runs()}) == (3, {0})
    (text,) = {run["message"].partition(", then")[0] for run in three_scans.runs()}
    assert text.startswith("its raw data are 10.2 kB, and all of the cache may be 10.2 kB (CACHE_MAX_GB = ")
    assert text.endswith("raise CACHE_MAX_GB")
    assert all(item.needs_you for item in items(report, "failed"))
    assert three_scans.rows("staged_package") == []
    limit(three_scans, 10 * TAR)
    context = three_scans.context()
    wanted = Wanted(selection=Selection(pipeline="otf"), reason="raised", actor="tester", host="here")
    retry(context.database, wanted, now=context.clock.now())
    three_scans.until_quiet()
    assert status_of(three_scans) == ["COMPLETED"] * 3


def test_a_run_that_waits_for_a_person_before_it_was_staged_keeps_no_package_from_others(three_scans: Observatory) -> None:
    limit(three_scans, TAR + 1)
    three_scans.apply()
    large_step = "      - {name: all, software: cal, group_by: [source], raw_inputs: true}\n"
    three_scans.edit("    steps:\n", f"    steps:\n{large_step}")
    three_scans.make_runs()
    three_scans.until_quiet()
    assert [run["status"] for run in three_scans.runs("calibrate")] == ["COMPLETED"] * 3
    (large,) = three_scans.runs("all")
    assert large["status"] == "FAILED" and "all of the cache may be" in large["message"]
    limit(three_scans, 10 * TAR)
    wanted = Wanted(selection=Selection(pipeline="otf", step="all"), reason="raised", actor="tester", host="here")
    context = three_scans.context()
    retry(context.database, wanted, now=context.clock.now())
    three_scans.until_quiet()
    assert [run["status"] for run in three_scans.runs("all")] == ["COMPLETED"]


def test_smaller_needs_go_on_behind_a_run_without_room(three_scans: Observatory) -> None:
    """What is in the cache needs nothing."""
    path = three_scans.folder / "pipeline.yaml"
    limit(three_scans, TAR + 3000)
    path.write_text(path.read_text() + SECOND_STEP)
    three_scans.make_runs()
    report = three_scans.run_pass("stage")
    assert (report.done, len(items(report, "throttled"))) == (4, 2)


# --- what stays free ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"), [("min_free_gb", "(MIN_FREE_GB), but "), ("min_free_inodes", "(MIN_FREE_INODES), but ")]
)
def test_a_floor_holds_work_back_and_is_told_while_it_lasts(
    three_scans: Observatory, setting: str, words: str
) -> None:
    limit(three_scans, None, **{setting: 10**12})
    three_scans.make_runs()
    report = three_scans.run_pass("stage")
    assert (report.done, report.waiting, report.failed) == (0, 3, 0)
    assert words in items(report, "throttled")[0].reason
    now = three_scans.context().clock.now()
    (line,) = tell_news(three_scans.folder / "state", [report], now)
    assert line.startswith("ccatwm: stage: 3 runs held back, no room: needs ")
    limit(three_scans, None)
    report = three_scans.run_pass("stage")
    assert report.done == 3
    assert tell_news(three_scans.folder / "state", [report], now)[0].startswith("ccatwm: over since ")
    assert {run["room_reason"] for run in three_scans.runs()} == {None}


# --- who is faster --------------------------------------------------------------------------------------------------


def chosen(observatory: Observatory) -> list[CachedPackage]:
    context = observatory.context()
    with context.database.read() as connection:
        return staged.list_cached(connection, "local", context.clock.now(), claimant_is_gone)


def test_what_runs_are_done_with_is_evicted_and_can_come_again(three_scans: Observatory) -> None:
    three_scans.make_runs()
    three_scans.until_quiet()
    packages = chosen(three_scans)
    assert [(p.linked, p.wanted_by) for p in packages] == [(False, frozenset())] * 3
    assert evict(three_scans.context(), packages) == packages
    assert (set(cached(three_scans).values()), folders(three_scans)) == ({"GONE"}, [])
    assert evict(three_scans.context(), packages) == [], "twice is nothing more"


def test_an_eviction_lets_be_what_was_used_linked_or_claimed_since_it_chose(three_scans: Observatory) -> None:
    three_scans.make_runs()
    three_scans.until_quiet()
    used, linked, claimed = sorted(chosen(three_scans), key=lambda p: p.name)
    three_scans.execute(
        f"UPDATE {{schema}}staged_package SET last_used_at = '2030-01-01T00:00:00.000000Z' WHERE id = {used.id}"
    )
    of_linked = next(i["run_id"] for i in three_scans.rows("run_input") if i["name"] == linked.name)
    three_scans.execute(
        f"UPDATE {{schema}}executed_reduction_step SET inputs_removed_at = NULL WHERE id = {of_linked}"
    )
    three_scans.execute(
        f"UPDATE {{schema}}staged_package SET state = 'STAGING', claim = '{this_process().token}', "
        f"claimed_until = '2030-01-01T00:00:00.000000Z' WHERE id = {claimed.id}"
    )
    assert evict(three_scans.context(), [used, linked, claimed]) == []
    assert len(folders(three_scans)) == 3


def test_what_a_dead_process_was_bringing_leaves_first(three_scans: Observatory) -> None:
    three_scans.make_runs()
    three_scans.until_quiet()
    victim = sorted(chosen(three_scans), key=lambda p: p.name)[-1]
    three_scans.execute(
        f"UPDATE {{schema}}staged_package SET state = 'STAGING', claim = '{DEAD}', "
        f"claimed_until = '2020-01-01T00:00:00.000000Z' WHERE id = {victim.id}"
    )
    (abandoned,) = [p for p in chosen(three_scans) if p.abandoned]
    assert evict(three_scans.context(), [abandoned]) == [abandoned]
    assert abandoned.name.removesuffix("-LFA") not in folders(three_scans)


# --- a purge --------------------------------------------------------------------------------------------------------


def take_file(path: Path) -> str:
    (path / path.name.partition("-LFA")[0] / "log" / "notes.txt").unlink()
    return "1 of its 2 files are in the cache"


def take_all(path: Path) -> str:
    shutil.rmtree(path)
    return "it is gone from the cache"


@pytest.mark.parametrize("purge", [take_file, take_all])
def test_what_a_purge_took_out_of_the_cache_is_brought_again_for_the_next_run(three_scans: Observatory, purge: Any) -> None:
    three_scans.make_runs()
    three_scans.until_quiet()
    words = purge(folder(three_scans, "scan-1"))
    path = three_scans.folder / "pipeline.yaml"
    path.write_text(path.read_text() + SECOND_STEP)
    three_scans.make_runs()
    report = three_scans.run_pass("stage")
    assert (report.done, report.failed) == (3, 0)
    (told,) = items(report, "lost-in-cache")
    assert words in told.reason
    assert len(list(folder(three_scans, "scan-1").rglob("*.*"))) == 2
    inputs = list(three_scans.base.glob("otf/again/*/run-*/input/*/*/log/notes.txt"))
    assert len(inputs) == 3
    three_scans.until_quiet()
    assert status_of(three_scans) == ["COMPLETED"] * 6
