"""What `gc` takes away, what it lets be, and how it comes back: on both databases."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.core.integrity import Kind
from ccatwm.edges.opsdb.engine import POSTGRESQL_CONNECT
from ccatwm.edges.opsdb.stores.latest import list_links_of
from ccatwm.edges.opsdb.stores.trash import Trashed
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.edges.workfiles.ssh import SshWorkFiles
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.upkeep.exclude import Act
from ccatwm.upkeep.gc import GcPlan, Undone, UndoReport, _switch_links, plan_json, trash_lines
from ccatwm.upkeep.publish import publish as freeze
from ccatwm.upkeep.requests import RequestReport, request_runs
from ccatwm.upkeep.set_records import SetRecords
from tests.cli.conftest import cli as cli
from tests.crash.campaign import write_campaign
from tests.crash.points import PostgresStore, SqliteStore, copy_world
from tests.crash.rig import rebase
from tests.fakes.pipe import PipeCalls
from tests.opsdb.databases import BOTH, make_upgraded_url
from tests.passes.conftest import Observatory, as_json
from tests.passes.in_hand import Cli, use_site
from tests.passes.test_fsck import check
from tests.passes.test_importing import import_all

DAY = 24 * 60


def gc(observatory: Observatory, **options: Any) -> tuple[PassReport, GcPlan]:
    observatory.minute += 1
    report, plan = wiring.run_gc(observatory.context(), PassOptions(**options), lambda plan: None)
    assert report.error is None, report.error
    return report, plan


def undo(observatory: Observatory, run: int | None = None, **options: Any) -> list[Undone]:
    observatory.minute += 1
    report, undone = wiring.undo_gc(observatory.context(), PassOptions(**options), run, "needed")
    if report.error is not None:
        raise report.error
    return undone


def outcomes(report: PassReport) -> list[tuple[str, int | None]]:
    return [(item.outcome, item.run) for item in report.items]


def statuses(observatory: Observatory) -> dict[str, set[str]]:
    """Of the products of each step."""
    steps = {run["id"]: run["step_name"] for run in observatory.runs()}
    found: dict[str, set[str]] = {}
    for product in observatory.rows("data_product"):
        found.setdefault(steps[product["run_id"]], set()).add(product["status"])
    return found


def trashed(observatory: Observatory) -> list[str]:
    """Numbers of what lies in the trash."""
    return sorted(path.name.partition("-")[0] for path in (observatory.base / ".trash").iterdir())


def folders(observatory: Observatory, name: str) -> list[Path]:
    return sorted(observatory.base.glob(f"otf/*/*/run-*/attempt-*/{name}"))


@contextmanager
def kept_connections(observatory: Observatory) -> Iterator[None]:
    """Passes share the connections to a PostgreSQL, and leave none open: it is copied as a whole."""
    if observatory.url.startswith("postgresql"):
        url = sa.make_url(observatory.url).set(drivername="postgresql+psycopg2")
        observatory.kept = sa.create_engine(url, connect_args=POSTGRESQL_CONNECT)
    yield
    if observatory.kept is not None:
        observatory.kept.dispose()
        observatory.kept = None


@pytest.fixture(scope="module", params=BOTH)
def nights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Observatory:
    """The first night, reduced once: what tests begin with is a copy of it."""
    folder = tmp_path_factory.mktemp("nights") / "world"
    folder.mkdir()
    made = Observatory(folder, make_upgraded_url(request.param, request, folder))
    with kept_connections(made):
        write_campaign(folder)
        made.arrive("night.yaml")
        made.apply()
        made.until_quiet()
    return made


@pytest.fixture
def first_night(nights: Observatory, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Observatory]:
    """The first night is reduced, and nothing of it may go."""
    is_sqlite = nights.url.startswith("sqlite")
    store = SqliteStore() if is_sqlite else PostgresStore(request.getfixturevalue("postgresql_server").url)
    url = copy_world(nights.folder, nights.url, tmp_path / "world", store)
    made = replace(nights, folder=tmp_path / "world", url=url)
    rebase(made.folder, url, nights.folder)
    made.settings_changes = {"retention_scratch_days": "keep"}
    with kept_connections(made):
        yield made
    store.drop(url)


@pytest.fixture
def reduced(first_night: Observatory) -> Observatory:
    """Its calibrations may go after ten days, and eleven have passed."""
    first_night.settings_changes["retention_intermediate_days"] = 10.0
    first_night.minute += 11 * DAY
    return first_night


def test_calibrations_go_when_the_map_that_they_feed_has_been_done_for_so_long(reduced):
    report, plan = gc(reduced)
    assert outcomes(report) == [("in the trash", 1), ("in the trash", 2)]
    assert [(r.kind, r.rule, r.runs) for r in plan.reasons()] == [("products", "intermediate_days", 2)]
    assert statuses(reduced) == {"calibrate": {"removed"}, "grid": {"present"}}
    assert not any("calibrate" in str(path) for path in folders(reduced, "output"))
    assert trashed(reduced) == ["1", "2"]


def test_what_becomes_of_removed_calibrations_changes_nothing_that_is_wanted(reduced):
    before = [(run["id"], run["status"]) for run in reduced.runs()]
    gc(reduced)
    reduced.run_pass("trigger", full=True)
    reduced.until_quiet()
    assert [(run["id"], run["status"]) for run in reduced.runs()] == before
    assert reduced.sub_group("calibrate")["outcome"] == "up-to-date"
    assert reduced.sub_group("grid")["outcome"] == "up-to-date"


def test_a_day_too_early_nothing_goes(reduced):
    reduced.minute -= 2 * DAY
    report, plan = gc(reduced)
    assert (outcomes(report), plan.going) == ([], [])


def test_a_dry_run_tells_all_and_does_nothing(reduced):
    report, plan = gc(reduced, dry_run=True)
    assert outcomes(report) == [("would go", 1), ("would go", 2)]
    assert plan.reasons()[0].size.size_bytes == sum(
        path.stat().st_size for folder in folders(reduced, "output") if "calibrate" in str(folder)
        for path in folder.rglob("*") if path.is_file()
    )  # fmt: skip
    assert statuses(reduced)["calibrate"] == {"present"}
    assert reduced.rows("trash") == []


def test_products_that_are_not_at_their_place_are_counted_apart_and_left_to_fsck(reduced):
    shutil.rmtree(next(folder for folder in folders(reduced, "output") if "/calibrate/" in str(folder)))
    for dry_run, outcome in ((True, "would go"), (False, "in the trash"), (False, None)):
        report, plan = gc(reduced, dry_run=dry_run)
        assert outcomes(report) == ([(outcome, 2)] if outcome else [])
        assert sum(reason.runs for reason in plan.reasons()) == len(outcomes(report))
        assert [doomed.place.run for doomed in plan.missing] == [1] and plan_json(plan)["missing"] == {"runs": 1}
        assert trash_lines(plan, timedelta(1))[0].startswith("not at their place: the products of 1 run that may go")
    assert {d.kind for d in check(reduced).differences} >= {Kind.PRODUCT_MISSING}


@pytest.mark.parametrize("damage", ["a file is gone", "it is longer", "it is empty"])
def test_products_that_are_not_as_recorded_are_counted_apart_and_left_to_fsck(reduced, damage):
    output = next(folder for folder in folders(reduced, "output") if "/calibrate/" in str(folder))
    file = output / "spectra.txt"
    content = file.read_bytes()
    file.unlink()
    if damage == "it is longer":
        file.write_bytes(content + b"1")
    elif damage == "it is empty":
        file.touch()
    for outcome in ("in the trash", None):
        report, plan = gc(reduced)
        assert outcomes(report) == ([(outcome, 2)] if outcome else [])
        assert [doomed.place.run for doomed in plan.changed] == [1] and plan_json(plan)["changed"] == {"runs": 1}
        assert trash_lines(plan, timedelta(1))[0].startswith("not as recorded: products of 1 run that may go")
    lost = {d.kind for d in check(reduced).differences} & {Kind.PRODUCT_MISSING, Kind.PRODUCT_CHANGED}
    assert len(lost) == 1 and file.parent.is_dir()


def test_an_empty_product_that_is_gone_keeps_the_others_of_its_run_out_of_the_trash(reduced):
    """Its bytes are not missed."""
    output = next(folder for folder in folders(reduced, "output") if "/calibrate/" in str(folder))
    (output / "spectra.txt").write_bytes(b"")
    reduced.execute("UPDATE {schema}data_product SET size_bytes = 0 WHERE run_id = 1 AND path = 'spectra.txt'")
    assert gc(reduced, dry_run=True)[1].changed == []
    (output / "spectra.txt").unlink()
    assert [doomed.place.run for doomed in gc(reduced)[1].changed] == [1]


def test_files_that_are_no_product_go_with_the_products_beside_them(reduced):
    output = next(folder for folder in folders(reduced, "output") if "/calibrate/" in str(folder))
    (output / "notes.txt").write_text("a person's")
    assert outcomes(gc(reduced)[0]) == [("in the trash", 1), ("in the trash", 2)]


def test_products_in_the_trash_of_another_size_are_refused_with_what_differs(reduced):
    gc(reduced)
    (reduced.base / reduced.rows("trash")[0]["trash_path"] / "spectra.txt").write_text("1")
    refused = undo(reduced, 1)[0].refused
    assert refused is not None
    assert re.search(r"spectra\.txt in the trash .*has 1 bytes in 1 file, \d+ in 1 recorded", refused)


def test_a_limit_is_of_runs(reduced):
    assert outcomes(gc(reduced, limit=1)[0]) == [("in the trash", 1)]
    assert outcomes(gc(reduced, limit=1)[0]) == [("in the trash", 2)]
    assert outcomes(gc(reduced)[0]) == []


def test_the_trash_is_emptied_when_its_grace_is_over(reduced):
    gc(reduced)
    reduced.minute += 2 * DAY
    report, _ = gc(reduced)
    assert outcomes(report) == [("deleted", 1), ("deleted", 2)]
    assert list((reduced.base / ".trash").iterdir()) == []
    assert all(row["deleted_at"] for row in reduced.rows("trash"))
    assert statuses(reduced)["calibrate"] == {"removed"}


def test_what_lies_in_the_trash_comes_back_and_stays_as_long_again(reduced):
    gc(reduced)
    assert [one.refused for one in undo(reduced, 1)] == [None]
    back = [p for p in reduced.rows("data_product") if p["run_id"] == 1]
    assert all((reduced.base / product["full_path"]).is_file() for product in back)
    assert {product["status"] for product in back} == {"present"}
    assert outcomes(gc(reduced)[0]) == []
    reduced.minute += 10 * DAY
    assert ("in the trash", 1) in outcomes(gc(reduced)[0])


def test_the_stable_path_goes_with_the_products_that_it_leads_to_and_comes_back_with_them(reduced):
    links = [reduced.base / "otf" / "calibrate" / run["sub_group_key"] / "latest" for run in reduced.runs("calibrate")]
    assert links and all(link.exists() for link in links)
    gc(reduced)
    assert not any(link.is_symlink() for link in links)  # in this very pass, not in the next `collect`
    undo(reduced)
    assert all(link.exists() for link in links)
    assert not any(group["latest_due"] for group in reduced.rows("sub_group"))


def test_no_stable_path_ever_leads_to_products_that_are_on_their_way_out(reduced, monkeypatch):
    links = [reduced.base / "otf" / "calibrate" / run["sub_group_key"] / "latest" for run in reduced.runs("calibrate")]
    move, seen = LocalWorkFiles.rename, []

    def watched(files, source, target):
        seen.append([link.is_symlink() for link in links if (reduced.base / source).is_relative_to(link.parent)])
        return move(files, source, target)

    monkeypatch.setattr(LocalWorkFiles, "rename", watched)
    gc(reduced)
    assert seen == [[False], [False]]


def test_a_stable_path_that_had_not_followed_yet_is_switched_before_what_it_leads_to_goes(first_night):
    """Which run counts has changed, and no `collect` has come to the link since."""
    first_night.settings_changes = {"retention_superseded_days": 5.0, "retention_scratch_days": "keep"}
    links = {link: link.readlink() for link in first_night.base.glob("otf/*/*/latest")}
    first_night.edit("mode: hot_cold", "mode: cold")
    first_night.until_quiet()
    first_night.minute += 6 * DAY
    for link, target in links.items():
        link.unlink()
        link.symlink_to(target)
    first_night.execute("UPDATE {schema}sub_group SET latest_due = (1 = 1)")
    gc(first_night)
    calibrated = [link for link in links if "calibrate" in str(link)]
    assert all(link.readlink() != links[link] and link.exists() for link in calibrated)


def test_a_stable_path_that_was_left_behind_where_its_pipeline_was_goes_with_its_files(reduced):
    links = list(reduced.base.glob("otf/calibrate/*/latest"))
    reduced.execute("UPDATE {schema}sub_group SET current_run_id = NULL WHERE current_run_id = 1")
    reduced.execute("UPDATE {schema}pipeline SET processing_location = 'elsewhere'")
    context = reduced.context()
    with context.database.read() as connection:
        (one,) = [row for row in reduced.rows("executed_reduction_step") if row["id"] == 1]
        here, elsewhere = list_links_of(connection, "local", [one["sub_group_id"]])
    assert here == [] and [link.run_id for link in elsewhere] == [None]
    link = next(link for link in links if link.readlink().parts[0] == "run-1")
    row = Trashed(*(None,) * 2, 1, *(None,) * 3, one["sub_group_id"], *(None,) * 12)
    row = replace(row, kind="products")
    garbage = SimpleNamespace(database=context.database, files=context.workfiles, location="local")
    _switch_links(garbage, [row])
    assert link.is_symlink()  # what comes back needs no other link
    _switch_links(garbage, [row], {"run-1/output"})
    assert not link.is_symlink()


def test_products_whose_link_cannot_be_taken_away_stay_until_it_can(reduced, monkeypatch):
    def refused(files, links):
        raise CcatwmError("otf: permission denied", next="x")

    with monkeypatch.context() as patch:
        patch.setattr(LocalWorkFiles, "switch_links", refused)
        report, _ = gc(reduced)
    assert outcomes(report) == [("not moved", 1), ("not moved", 2)]
    assert "the link to it stays: otf: permission denied" in report.items[0].reason
    assert all(link.exists() for link in reduced.base.glob("otf/calibrate/*/latest"))
    assert outcomes(gc(reduced)[0]) == [("in the trash", 1), ("in the trash", 2)]
    assert not list(reduced.base.glob("otf/calibrate/*/latest"))


def test_a_restored_ops_db_that_gives_numbers_again_finds_its_way_past_what_lies_there(reduced):
    gc(reduced)
    undo(reduced, 2)
    (reduced.base / ".trash" / "3").mkdir()  # of before the restore
    reduced.minute += 10 * DAY
    assert ("in the trash", 2) in outcomes(gc(reduced)[0])


def test_what_was_taken_away_after_the_backup_is_brought_back_by_fsck_and_goes_again(reduced):
    """The ops-db is restored: it says that the products are at their place, and has no row of the trash."""
    gc(reduced)
    reduced.execute("DELETE FROM {schema}trash")
    reduced.execute("UPDATE {schema}data_product SET status = 'present'")
    assert Kind.PRODUCTS_IN_TRASH in {difference.kind for difference in check(reduced).differences}
    mended = check(reduced, yes=True)
    assert mended.exit_code == 0, mended.lines()
    reduced.run_pass("collect")
    assert check(reduced, full=True).differences == () and trashed(reduced) == []
    assert all(link.exists() for link in reduced.base.glob("otf/calibrate/*/latest"))
    count = len(reduced.runs())
    reduced.until_quiet()
    assert len(reduced.runs()) == count
    assert outcomes(gc(reduced)[0]) == [("in the trash", 1), ("in the trash", 2)] and check(reduced).differences == ()


@pytest.mark.parametrize("way", ["gc", "gc --undo"])
def test_what_was_brought_back_after_the_backup_is_told_as_back_and_counts_again(reduced, way):
    """The ops-db is restored: it says that the products lie in the trash."""
    gc(reduced)
    for row in reduced.rows("trash"):
        (reduced.base / row["trash_path"]).rename(reduced.base / row["path"])
    found = [d for d in check(reduced).differences if d.kind is Kind.TRASH_MISSING]
    assert [(d.row, d.next) for d in found] == [
        (run, f"`ccatwm gc --undo {run}` writes that down; so does `ccatwm gc`") for run in (1, 2)
    ]
    assert all("and is back at otf/calibrate/" in d.what for d in found)
    if way == "gc":
        assert outcomes(gc(reduced)[0]) == [("brought back", 1), ("brought back", 2)]
    else:
        assert [one.refused for one in undo(reduced)] == [None, None]
    reduced.run_pass("collect")
    assert statuses(reduced)["calibrate"] == {"present"} and check(reduced, full=True).differences == ()


def test_all_that_lies_in_the_trash_comes_back_at_once(reduced):
    gc(reduced)
    assert sorted(one.row.run for one in undo(reduced)) == [1, 2]
    assert statuses(reduced)["calibrate"] == {"present"}
    acts = [(row["act"], row["target"], row["reason"]) for row in reduced.rows("change_log") if "gc" in row["act"]]
    assert acts == [("gc --undo", "run 1", "needed"), ("gc --undo", "run 2", "needed")]


def test_what_is_deleted_cannot_come_back_and_says_when_it_was(reduced):
    gc(reduced)
    reduced.minute += 2 * DAY
    gc(reduced)
    with pytest.raises(UsageError, match=r"the products of run 1 were deleted at 2026-.*intermediate_days: 10"):
        undo(reduced, 1)


def test_a_run_of_which_nothing_lies_in_the_trash_is_refused(reduced):
    with pytest.raises(UsageError, match="no folder of run 3 in the trash"):
        undo(reduced, 3)
    assert not [row for row in reduced.rows("pass_record") if row["message"]], "the pass `gc` has not failed"


def test_products_of_which_somebody_removed_a_file_in_the_trash_do_not_come_back(reduced):
    gc(reduced)
    (reduced.base / reduced.rows("trash")[0]["trash_path"] / "spectra.txt").unlink()
    alone = undo(reduced, 1, dry_run=True)
    assert not any("stays as long" in line for line in UndoReport(alone).lines())
    found = undo(reduced)
    assert any("stays as long" in line for line in UndoReport(found).lines())
    refused = [one.refused for one in found]
    assert refused[0] is not None and "spectra.txt in the trash is not as recorded: product" in refused[0]
    assert refused[1] is None


def test_what_was_removed_is_made_again_for_a_run_that_reads_it(reduced):
    gc(reduced)
    reduced.arrive("late.yaml")
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    reduced.until_quiet()
    made = [(run["step_name"], run["sub_group_key"], run["reason"]) for run in reduced.runs()][3:]
    again = [made for made in made if made[2] == "requested"]
    assert sorted(again) == [
        ("calibrate", "executed_obs_unit=1", "requested"), ("calibrate", "executed_obs_unit=2", "requested"),
    ]  # fmt: skip
    assert [made[0] for made in made].count("grid") == 1
    newest = reduced.runs("grid")[-1]
    assert len((reduced.base / newest["output_directory"] / "science" / "map.txt").read_text().splitlines()) == 3


def test_the_same_bytes_made_again_change_nothing_for_whom_they_feed(reduced):
    gc(reduced)
    reduced.minute += 1
    request(reduced, "calibrate")
    reduced.until_quiet()
    assert [run["step_name"] for run in reduced.runs()] == ["calibrate", "calibrate", "grid", "calibrate", "calibrate"]
    assert statuses(reduced)["calibrate"] == {"removed", "present"}


def test_asking_for_what_was_removed_says_that_a_run_follows(reduced):
    one = {"sub_group": "executed_obs_unit=1"}
    assert "so no run follows" in request(reduced, "calibrate", **one).lines()[0]
    gc(reduced)
    assert "; at most 1 run" in request(reduced, "calibrate", **one).lines()[0]
    assert request(reduced, "calibrate").follows.sub_groups == 2
    assert request(reduced, "grid").follows.sub_groups == 0


def request(observatory: Observatory, step: str, **more: Any) -> RequestReport:
    context = observatory.context()
    return request_runs(
        context.database, context.grouping, "otf", step=step, reason="again", actor="me",
        now=context.clock.now(), yes=True, confirm_runs=500,
        **{"sub_group": None, "force": False, "trial": [], **more},
    )  # fmt: skip


def test_other_bytes_made_again_are_a_change_upstream(reduced):
    gc(reduced)
    plain = reduced.program

    def drifted(output: Path, manifest: dict) -> int:
        code = plain(output, manifest)
        if manifest["step"] == "calibrate":
            (output / "spectra.txt").write_text("otherwise\n")
        return code

    reduced.program = drifted
    request(reduced, "calibrate")
    reduced.until_quiet()
    assert reduced.runs("grid")[-1]["reason"] == "upstream-changed"


def test_until_what_was_removed_is_there_again_the_reader_waits_and_says_for_what(reduced):
    gc(reduced)
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    grid, calibrate = reduced.sub_group("grid"), reduced.sub_group("calibrate")
    details = as_json(grid["details"])
    assert grid["outcome"] == "waiting-for-upstream"
    assert [u["state"] for u in details["upstream"]] == ["files removed", "files removed"]
    assert "needs them" in str(calibrate["requested"])


def test_what_came_back_is_not_made_again_and_the_reader_goes_on(reduced):
    gc(reduced)
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    undo(reduced)
    reduced.until_quiet()
    assert [run["step_name"] for run in reduced.runs()] == ["calibrate", "calibrate", "grid", "grid"]


def test_a_product_that_is_not_current_and_was_removed_is_not_restored(first_night):
    first_night.settings_changes = {"retention_superseded_days": 5.0, "retention_scratch_days": "keep"}
    first_night.edit("mode: hot_cold", "mode: cold")
    first_night.until_quiet()
    first_night.minute += 6 * DAY
    report, plan = gc(first_night)
    assert [r.rule for r in plan.reasons()] == ["superseded_days"]
    assert {run for _, run in outcomes(report)} == {1, 2}
    first_night.edit("mode: cold", "mode: hot_cold")
    first_night.until_quiet()
    assert len(first_night.runs("calibrate")) == 6
    assert first_night.sub_group("calibrate")["current_run_id"] not in (1, 2)


def test_scratch_and_logs_go_by_age_and_an_attempt_without_any_is_not_looked_at_again(first_night):
    first_night.settings_changes = {"retention_log_days": 3.0}
    first_night.minute += 8 * DAY
    gc(first_night)
    assert (folders(first_night, "scratch"), folders(first_night, "logs")) == ([], [])
    assert gc(first_night)[1].going == []
    undo(first_night)
    assert folders(first_night, "logs") != []


def test_of_too_many_logs_the_oldest_go(first_night):
    first_night.settings_changes["retention_log_max_gb"] = 2e-7  # 214 bytes, for each step
    for number, logs in enumerate(folders(first_night, "logs")):
        (logs / "out.log").write_text("x" * 150)
        assert number < 3
    report, plan = gc(first_night)
    assert [(run, r.rule) for (_, run), r in zip(outcomes(report), plan.reasons(), strict=True)] == [(1, "log_max_gb")]
    assert [path.parts[-3] for path in folders(first_night, "logs")] == ["run-2", "run-3"]


def test_a_gc_without_time_goes_on_the_next_time(reduced):
    class Late:
        """A clock by which the time of a pass is up at once."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 100.0
            return self.seconds

    context = reduced.context()
    context.clock.monotonic = Late().monotonic  # type: ignore[method-assign]
    report, _ = wiring.run_gc(context, PassOptions(max_seconds=1.0), lambda plan: None)
    assert (report.selected, report.error) == (2, None)
    gc(reduced)
    assert statuses(reduced)["calibrate"] == {"removed"}
    assert trashed(reduced) == ["1", "2"]


def test_what_is_published_stays(reduced):
    from ccatwm.upkeep.exclude import Act
    from ccatwm.upkeep.publish import publish

    context = reduced.context()
    act = Act(reason="", actor="me", host="h", now=context.clock.now(), dry_run=False, yes=True, confirm_runs=500)
    publish(context.database, context.grouping, "dr1", ["run:1"], {}, act)
    assert outcomes(gc(reduced)[0]) == [("in the trash", 2)]


def test_what_a_set_needs_that_only_its_record_knows_stays_until_it_is_imported(reduced):
    def publish(name: str, run: str) -> None:
        context = reduced.context()
        act = Act("", "me", "h", context.clock.now(), yes=True)
        records = SetRecords(lambda: context.workfiles, context.ops_db_uid)
        freeze(context.database, context.grouping, name, [run], {}, act, records)

    publish("dr1", "run:1")
    reduced.execute("DELETE FROM {schema}published_set")  # restored from a backup of before
    reduced.settings_changes["retention_log_days"] = 1.0
    plan = gc(reduced, dry_run=True)[1]
    assert {(doomed.kind, doomed.place.run) for doomed in plan.going} == {("products", 2), ("logs", 2), ("logs", 3)}
    assert plan_json(plan)["unknown_sets"] == {"names": ["dr1"], "runs": 1}
    told = "published sets that the ops-db does not know any more: dr1, and what may go of 1 run stays"
    assert trash_lines(plan, timedelta(1))[0] == f"{told}; `ccatwm fsck --import` next"
    record = reduced.base / ".published" / "dr1.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:50])  # it may be of any run
    assert gc(reduced, dry_run=True)[1].going == []
    record.write_bytes(whole)
    import_all(reduced)
    plan = gc(reduced)[1]
    assert ({doomed.place.run for doomed in plan.going}, plan.kept.sets) == ({2, 3}, ())
    assert statuses(reduced)["calibrate"] == {"present", "removed"}


def test_nothing_goes_that_an_open_run_reads(reduced):
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    assert outcomes(gc(reduced)[0]) == []


def test_a_run_whose_upstream_files_went_all_the_same_says_what_to_type(reduced):
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    reduced.execute("UPDATE {schema}data_product SET status = 'removed' WHERE run_id = 1")
    reduced.run_pass("stage")
    run = reduced.runs("grid")[-1]
    assert (run["status"], run["failure_class"]) == ("FAILED", "staging")
    assert "of run 1 (calibrate executed_obs_unit=1) are removed; `ccatwm gc --undo 1` may" in run["message"]


def test_nothing_goes_twice_at_once(reduced):
    context = reduced.context()
    from ccatwm.edges.opsdb.stores import leases
    from ccatwm.passes._frame import this_process

    with context.database.write() as connection:
        lease = leases.read_lease(connection, "gc", "local")
        leases.take_lease(connection, "gc", "local", this_process(), fence=lease.fence, seconds=300)
    report, _ = gc(reduced)
    assert report.skipped == "locked"
    assert dataclasses.asdict(report)["done"] == 0


def test_a_base_directory_that_is_away_loses_nothing(reduced):
    reduced.base.rename(reduced.folder / "away")
    reduced.minute += 1
    report, _ = wiring.run_gc(reduced.context(), PassOptions(), lambda plan: None)
    assert report.error is not None and report.exit_code == 4
    (reduced.folder / "away").rename(reduced.base)
    assert statuses(reduced)["calibrate"] == {"present"}


@pytest.mark.parametrize("nights", ["sqlite"], indirect=True)
def test_it_does_the_same_where_all_files_are_behind_a_connection(reduced):
    calls = PipeCalls(reduced.base)
    there = SshWorkFiles(calls, PurePosixPath(reduced.base))
    try:
        context = reduced.context()
        context.make_workfiles = lambda: there
        report, plan = wiring.run_gc(context, PassOptions(), lambda plan: None)
        assert outcomes(report) == [("in the trash", 1), ("in the trash", 2)]
        assert plan.reasons()[0].size.freed_bytes > 0
        _, [back] = wiring.undo_gc(context, PassOptions(), 1, "needed")
        assert back.refused is None
        reduced.minute += 2 * DAY
        later = reduced.context()
        later.make_workfiles = lambda: there
        assert outcomes(wiring.run_gc(later, PassOptions(), lambda plan: None)[0]) == [("deleted", 2)]
    finally:
        calls.close()
    assert list((reduced.base / ".trash").iterdir()) == []


# --- what people are told -------------------------------------------------------------------------------------------


def told_of(observatory: Observatory, step: str) -> dict[str, Any]:
    from ccatwm.views.explain import build_explain

    context = observatory.context()
    return build_explain(context.database, "otf", step, now=context.clock.now())["explain"][0]


def test_explain_tells_that_files_were_removed_by_what_rule_and_what_brings_them_back(reduced):
    gc(reduced)
    told = told_of(reduced, "calibrate")
    assert "all that it feeds has settled (intermediate_days: 10); now in the trash" in told["why"][-1]
    assert any("`ccatwm gc --undo 1`" in text for text in told["what_would_change_it"])
    assert told["files_removed_because"] == "all that it feeds has settled (intermediate_days: 10)"


def test_explain_tells_for_which_removed_files_a_run_waits(reduced):
    gc(reduced)
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    reduced.run_pass("resolve")
    told = told_of(reduced, "grid")
    assert "upstream files that it reads were removed: otf/calibrate executed_obs_unit=1: files removed" in told["why"][-1]
    assert any("made again" in text for text in told["what_would_change_it"])


def test_products_show_and_lineage_tell_what_became_of_the_files(reduced):
    from ccatwm.core.selection import Selection
    from ccatwm.views.lineage import build_product_lineage, lineage_lines
    from ccatwm.views.products import build_products, product_cells
    from ccatwm.views.show import build_show, show_lines

    gc(reduced)
    context, base = reduced.context(), reduced.context().workfiles.root()
    selection, places = Selection(step="calibrate"), reduced.places
    listed = build_products(context.database, selection, places=places, all_of_them=True)["products"]
    words = "in the trash: all that it feeds has settled (intermediate_days: 10)"
    assert all(words in str(product_cells(row, str(base))[-1]) for row in listed)
    assert build_products(context.database, Selection(step="calibrate"), places=reduced.places)["products"] == []
    show = build_show(context.database, context.workfiles, 1, places=reduced.places, now=context.clock.now())
    assert show["next"][0] == "ccatwm gc --undo 1"
    assert any(words in line for line in show_lines(show))
    made = [row for row in reduced.rows("data_product") if row["run_id"] == 3]
    lineage = build_product_lineage(context.database, made[0]["id"], places=reduced.places)
    assert any(words in line for line in lineage_lines(lineage))


def test_show_tells_how_to_make_again_what_was_deleted(reduced):
    from ccatwm.views.show import build_show

    gc(reduced)
    reduced.minute += 3 * DAY
    gc(reduced)
    context = reduced.context()
    command = "ccatwm trigger --pipeline otf --step calibrate --sub-group executed_obs_unit=1 --reason TEXT"
    shown = build_show(context.database, context.workfiles, 1, places=reduced.places, now=context.clock.now())
    assert shown["next"][0] == command


# --- on the command line --------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keep-and-remove.md"
TYPED = re.findall(r"^ccatwm .*?(?= +#|$)", PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def command(reduced: Observatory, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands are about the reduced night, of which the calibrations may go."""
    use_site(reduced, monkeypatch, RETENTION_INTERMEDIATE_DAYS="10", RETENTION_SCRATCH_DAYS="keep")
    return cli


def test_what_the_page_on_keeping_and_removing_says_can_be_typed_in_turn(reduced, command):
    words = {"RUN": "1", "PIPELINE": "otf", "STEP": "calibrate", "KEY": "executed_obs_unit=1"}
    assert [line for line in TYPED if "gc" in line]
    for line in TYPED:
        answer = command(*(words.get(word, word) for word in shlex.split(line)[1:]))
        assert answer.code == 0, (line, answer.err)
    assert statuses(reduced)["calibrate"] == {"present"}


def test_a_dry_run_shows_bytes_by_rule_and_what_becomes_free(command):
    answer = command("gc", "--dry-run")
    row = next(line.split() for line in answer.out.splitlines() if line.startswith("products"))
    assert row[:4] == ["products", "intermediate_days", "2", "2"]
    assert "free again" in answer.out


def test_its_json_has_the_same(command):
    document = command("gc", "--json").json
    [reason] = document["reasons"]
    assert (document["schema"], document["done"], document["dry_run"]) == ("ccatwm.gc/1", 2, False)
    assert (reason["kind"], reason["rule"], reason["runs"]) == ("products", "intermediate_days", 2)
    assert reason["freed"] == reason["size"] > 0
    assert command("gc", "--undo", "2", "--json").json["undone"][0]["refused"] is None


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["--undo", "7"], 2, "no folder of run 7 in the trash"),
        (["--undo", "some"], 2, "neither the number of a run nor all"),
        (["--undo", "1", "--limit", "2"], 2, "--limit does not go with --undo"),
        (["--reason", "because"], 2, "--reason goes with --undo"),
    ],
)
def test_what_cannot_be_done_says_what_to_type_instead(command, typed, code, words):
    answer = command("gc", *typed)
    assert (answer.code, words in answer.err, "ccatwm gc" in answer.err) == (code, True, True)
