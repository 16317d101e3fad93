"""`fsck`: every difference between ops-db and disk is named, and mending leads back to products that are as recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from ccatwm.core.integrity import Kind
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.integrity import Claimant
from ccatwm.edges.workfiles.ssh import SshWorkFiles
from ccatwm.errors import UsageError
from ccatwm.passes._frame import this_process
from ccatwm.passes._room import claimant_is_gone
from ccatwm.upkeep.exclude import Act
from ccatwm.upkeep.fsck import Checking, FsckReport, fsck
from ccatwm.upkeep.importing import Importing, import_runs
from ccatwm.upkeep.publish import publish
from ccatwm.upkeep.set_records import SetRecords
from tests.fakes.pipe import PipeCalls
from tests.passes.bad_world import COPY, Scan, good_tar, observe, reduce


@pytest.fixture
def night(empty_observatory):
    """Two scans are reduced."""
    observe(empty_observatory, Scan("one", good_tar()), Scan("two", good_tar(b__c=b"c" * 50)))
    tree = "mkdir science/store.zarr && echo 1 >science/store.zarr/0 && echo 2 >science/store.zarr/1\n"
    reduce(empty_observatory, COPY + tree)
    empty_observatory.until_quiet()
    return empty_observatory


def check(night, *, full: bool = False, yes: bool = False, **how) -> FsckReport:
    context = night.context()
    now = context.clock.now()
    claimant = Claimant(this_process().token, now, now, claimant_is_gone)
    checking = Checking(context.database, context.workfiles, "local", full, claimant, context.ops_db_uid)
    return fsck(checking, yes=yes, reason="a test" if yes else None, now=now, actor="tester", host="here", **how)


def kinds(report: FsckReport) -> list[Kind]:
    return [difference.kind for difference in report.differences]


@pytest.fixture
def first(night) -> Path:
    return night.base / night.runs()[0]["output_directory"]


def test_nothing_differs_after_passes(night):
    for full in (False, True):
        report = check(night, full=full)
        assert (report.differences, report.runs, report.packages, report.exit_code) == ((), 2, 2, 0)


def test_a_product_that_is_gone_is_named_and_made_again_once_that_is_written_down(night, first):
    (first / "science" / "a.bin").unlink(missing_ok=True)
    shutil.rmtree(first / "science" / "b", ignore_errors=True)
    report = check(night)
    assert set(kinds(report)) == {Kind.PRODUCT_MISSING} and report.exit_code == 1
    assert "`ccatwm fsck --yes --reason TEXT`" in report.lines()[1]
    assert night.until_quiet() and check(night).exit_code == 1  # looking changes nothing
    mended = check(night, yes=True)
    assert mended.exit_code == 0 and mended.mended == set(report.differences)
    night.until_quiet()
    again = night.runs()[-1]
    assert (again["status"], again["sub_group_id"]) == ("COMPLETED", night.runs()[0]["sub_group_id"])
    assert len(night.runs()) == 3 and check(night).exit_code == 0


def test_other_bytes_of_the_same_size_are_found_by_full_alone(night, first):
    file = next(p for p in (first / "science").rglob("*") if p.is_file() and p.parent.suffix != ".zarr")
    content = file.read_bytes()
    file.write_bytes(bytes(255 - byte for byte in content))
    assert check(night).differences == ()
    (difference,) = check(night, full=True).differences
    assert difference.kind is Kind.PRODUCT_CHANGED and "has the digest" in difference.what


def test_a_product_that_is_gone_is_named_with_the_published_sets_that_it_is_in(night, first):
    gone, *others = (row for row in night.rows("data_product") if row["run_id"] == night.runs()[0]["id"])
    for name, ids in (("dr1", [gone["id"]]), ("dr2", [gone["id"]]), ("dr3", [row["id"] for row in others])):
        context = night.context()
        who = Act("", "tester", "here", context.clock.now(), yes=True)
        records = SetRecords(lambda: night.context().workfiles, context.ops_db_uid)
        publish(context.database, context.grouping, name, [str(n) for n in ids], {}, who, records)
    path = night.base / gone["full_path"]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for report in (check(night), check(night, yes=True)):
        (difference,) = report.differences
        assert difference.what.endswith("is not there; it is published in dr1, dr2")
        assert difference.next.endswith("files of its set: `ccatwm publish dr1`, `ccatwm publish dr2`")
    assert report.mended == {difference}


def test_a_tree_that_lost_or_changed_a_file_is_one_difference(night, first):
    chunk = first / "science" / "store.zarr" / "0"
    chunk.write_text("3\n")
    assert kinds(check(night)) == []
    assert kinds(check(night, full=True)) == [Kind.PRODUCT_CHANGED]
    chunk.unlink()
    (difference,) = check(night).differences
    assert difference.kind is Kind.PRODUCT_CHANGED and "has 2 bytes in 1 file, 4 in 2 recorded" in difference.what


def test_files_that_nobody_recorded_are_named_and_stay(night, first):
    (first / "science" / "late.txt").write_text("x")
    (difference,) = check(night, yes=True).differences
    assert difference.kind is Kind.FILE_UNKNOWN and difference.path.endswith("/science/late.txt")
    assert f"`mv {first}/science/late.txt FOLDER`" in difference.next
    assert (first / "science" / "late.txt").exists()


def test_links_and_special_files_that_somebody_put_there_are_named_with_what_takes_them_away(night, first):
    """Also inside a product; empty folders are no difference."""
    link, pipe, strange = (first / "science" / name for name in ("store.zarr/link", "a pipe", "li\nnk\udcff"))
    link.symlink_to("/etc/hostname")
    os.mkfifo(pipe)
    strange.symlink_to("nowhere")
    (first / "science" / "empty").mkdir()
    for full in (False, True):
        report = check(night, full=full, yes=True)
        assert kinds(report) == [Kind.FILE_UNKNOWN] * 3 and report.exit_code == 1 and not report.mended
    whats = [difference.what for difference in report.differences]
    assert any("a link to /etc/hostname" in what for what in whats) and any("a FIFO" in what for what in whats)
    for difference in report.differences:
        command = re.match("`(rm .*)` takes it away", difference.next)
        assert command is not None and command[1].isprintable()
        subprocess.run(["bash", "-c", command[1]], check=True)
    assert not any(os.path.lexists(path) for path in (link, pipe, strange)) and check(night).differences == ()


def test_links_that_a_program_left_in_its_output_are_no_difference_until_they_lead_elsewhere(empty_observatory):
    observe(empty_observatory, Scan("one", good_tar()))
    reduce(empty_observatory, COPY + "ln -s a science/ours\nmkfifo science/pipe\n")
    empty_observatory.until_quiet()
    (run,) = empty_observatory.runs()
    made = empty_observatory.base / run["output_directory"]
    link = made / "science" / "ours"
    assert link.is_symlink() and check(empty_observatory).differences == ()
    link.unlink()
    link.symlink_to("/etc/hostname")
    (difference,) = check(empty_observatory).differences
    assert difference.path.endswith("/science/ours")
    (made.parent / "job" / "outputs.list").unlink()
    assert len(check(empty_observatory).differences) == 2  # nobody knows any more whose they are


def test_what_is_no_step_sub_group_or_run_is_named_among_them_and_stays(night, first):
    group = first.parents[2]
    made = [group.parents[1] / "old" / "grid.fits", group.parent / "notes.txt", group / "run-1.bak" / "x"]
    for path in made:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (group / "a link").symlink_to("run-1")
    for empty in (group / "run-x", group.parent / ".hidden", group.parents[1] / "lost", night.base / "beside"):
        empty.mkdir()
    (night.base / "beside" / "file").touch()
    report = check(night, full=True, yes=True)
    assert kinds(report) == [Kind.STRAY] * 4 and not report.mended and report.exit_code == 1
    told = {PurePosixPath(d.path).name: d for d in report.differences}
    assert set(told) == {"old", "notes.txt", "run-1.bak", "a link"}
    assert told["old"].next.startswith(f"`mv {night.base}/otf/old FOLDER`")
    assert "a link to run-1" in told["a link"].what and told["a link"].next.startswith(f"`rm '{group}/a link'`")
    assert all(path.exists() for path in made)


def test_what_is_none_of_ours_in_runs_attempts_cache_and_trash_is_named_and_stays(night, first):
    run = first.parents[1]
    for folder in (".trash", ".cache/.hidden"):
        (night.base / folder).mkdir(exist_ok=True)
    made = [run / "notes.txt", run / "attempt-1" / "core", night.base / ".cache" / "file", night.base / ".trash" / "file",
            night.base / ".cache" / "packages" / "package.tar"]  # fmt: skip
    for path in made:
        path.write_text("x")
    (run / "attempt-1" / "link").symlink_to("nowhere")
    (run / "attempt-x").mkdir()
    report = check(night, yes=True)
    named = {str(path.relative_to(night.base)) for path in [*made, run / "attempt-1" / "link", run / "attempt-x"]}
    assert kinds(report) == [Kind.STRAY] * 7 and {d.path for d in report.differences} == named
    assert all(path.exists() for path in made)


@pytest.mark.parametrize("way", ["one product", "all products"])
def test_beside_products_that_are_recorded_as_missing_strays_are_told_all_the_same(night, first, way):
    products = [row["path"] for row in night.rows("data_product") if row["run_id"] == 1]
    for name in products[: 1 if way == "one product" else None]:
        (shutil.rmtree if (first / name).is_dir() else os.unlink)(first / name)
    check(night, yes=True)
    (first / "science" / "late.txt").write_text("x")
    assert Kind.FILE_UNKNOWN in kinds(check(night))


def test_folders_of_runs_that_are_gone_are_no_strays(night, first):
    shutil.rmtree(first.parents[1])
    assert Kind.STRAY not in kinds(check(night))


def test_a_purged_package_leaves_the_cache_and_is_brought_again(night):
    folders = sorted((night.base / ".cache" / "packages").iterdir())
    shutil.rmtree(folders[0])
    file = next(p for p in folders[1].rglob("*") if p.is_file())
    file.chmod(0o644)
    file.write_bytes(b"")
    report = check(night)
    assert kinds(report) == [Kind.CACHE_DAMAGED] * 2
    assert check(night, yes=True).exit_code == 0
    assert {row["state"] for row in night.rows("staged_package")} == {"GONE"}
    assert list((night.base / ".cache" / "packages").iterdir()) == [] and check(night).exit_code == 0


def test_a_cached_package_that_no_row_speaks_of_is_removed(night):
    stray = night.base / ".cache" / "packages" / "stray-LFA-0123456789ab"
    stray.mkdir()
    (difference,) = check(night).differences
    assert (difference.kind, difference.path) == (Kind.CACHE_UNKNOWN, ".cache/packages/stray-LFA-0123456789ab")
    assert check(night, yes=True).exit_code == 0 and not stray.exists()
    assert len(night.rows("staged_package")) == 2


def test_a_package_that_is_being_brought_is_let_be(night):
    night.execute(f"UPDATE {{schema}}staged_package SET state = 'STAGING', claim = '{this_process().token}', "
                  "claimed_until = '2999-01-01 00:00:00+00'")  # fmt: skip
    assert check(night, yes=True).differences == ()
    assert len(list((night.base / ".cache" / "packages").iterdir())) == 2


def test_runs_and_attempts_that_the_ops_db_does_not_know_are_named(night):
    run = night.base / Path(night.runs()[0]["output_directory"]).parts[0]
    known = next(run.glob("*/*/run-*"))
    (known.parent / "run-99").mkdir()
    (known / "attempt-7").mkdir()
    found = {d.kind: d for d in check(night, yes=True).differences}
    assert set(found) == {Kind.RUN_UNKNOWN, Kind.ATTEMPT_UNKNOWN}
    assert all("`ccatwm doctor --reconcile`" in d.next for d in found.values())
    assert (known.parent / "run-99").exists()


def test_a_copy_of_a_run_is_named_as_one_and_what_was_moved_is_said_to_belong_elsewhere(night, first):
    group = first.parents[2]
    original, aside = first.parents[1].relative_to(night.base), group.parent / "keep-me"
    shutil.copytree(group, aside, symlinks=True)
    (copy,) = check(night).differences
    assert (copy.kind, copy.what) == (Kind.RUN_UNKNOWN, f"a copy of run 1 ({original})")
    assert copy.next == f"`mv {aside / original.name} FOLDER` moves it away; or let it be: nothing reads it"
    context = night.context()
    asked = Importing(context.ops_db_uid, context.clock.now(), "ada", "h", (copy.path,))
    (refused,) = import_runs(context.database, context.workfiles, asked).refused
    assert (refused.why, refused.next) == (copy.what, f"`mv {aside / original.name} FOLDER` moves it away")
    shutil.rmtree(group)
    (moved,) = (d for d in check(night).differences if d.kind is Kind.RUN_UNKNOWN)
    subprocess.run(moved.next.split("`")[1], shell=True, check=True)
    assert {d.kind for d in check(night).differences} == {Kind.LATEST_LINK_WRONG, Kind.STRAY}  # what lay beside the run


def test_what_a_person_let_be_after_a_restore_is_not_told_again(night):
    known = next((night.base / "otf").glob("*/*/run-*"))
    (known.parent / "run-99").mkdir()
    folder = str((known.parent / "run-99").relative_to(night.base))
    context = night.context()
    with context.database.write() as connection:
        record_change(connection, at=context.clock.now(), actor="a", host="h", act="reconcile", target="run directories",
                      reason="restored", details={"let_be": [folder]})  # fmt: skip
    assert check(night).differences == ()


def test_a_run_without_its_record_or_its_link_is_named(night, first):
    run = first.parents[1]
    (run / "run.json").unlink()
    (run / "output").unlink()
    assert kinds(check(night)) == [Kind.RUN_RECORD_MISSING, Kind.OUTPUT_LINK_WRONG]
    assert check(night, yes=True).exit_code == 0
    assert check(night).differences == () and (run / "output").samefile(first)


@pytest.mark.parametrize("damage", ["gone", "empty", "zeroed", "cut", "cut after an object"])
def test_a_record_that_is_gone_or_not_whole_is_named_and_made_again_from_the_ops_db(night, first, damage):
    record = first.parents[1] / "run.json"
    before = record.read_bytes()
    if damage == "gone":
        record.unlink()
    else:
        other = {"empty": b"", "zeroed": bytes(len(before)), "cut": before[:-1]}
        record.write_bytes(other.get(damage, before[: before.index(b"},") + 1]))
    (difference,) = check(night).differences
    assert difference.kind is (Kind.RUN_RECORD_MISSING if damage == "gone" else Kind.RUN_RECORD_DAMAGED)
    assert "run 1" in difference.what and difference.next.startswith("`ccatwm fsck --yes --reason TEXT` makes it again")
    assert check(night, yes=True).exit_code == 0
    assert json.loads(record.read_bytes()) == json.loads(before)
    assert check(night, full=True).differences == ()


def test_a_record_that_was_spoilt_within_is_found_by_full_and_made_again(night, first):
    record = first.parents[1] / "run.json"
    before = record.read_bytes()
    record.write_bytes(before.replace(b'"recipe":', b'"recipf":').replace(b'"COMPLETED"', b'"RUNNING"', 1))
    assert check(night).differences == ()
    (difference,) = check(night, full=True).differences
    assert difference.kind is Kind.RUN_RECORD_DAMAGED and "row.recipe is not there" in difference.what
    assert check(night, full=True, yes=True).exit_code == 0
    assert json.loads(record.read_bytes()) == json.loads(before)


def test_what_lies_in_the_way_of_a_record_stays(night, first):
    record = first.parents[1] / "run.json"
    record.unlink()
    (record / "mine").mkdir(parents=True)
    report = check(night, yes=True)
    (difference,) = report.differences
    assert report.exit_code == 1 and "it is no file" in difference.what and "moved away before" in difference.next
    assert (record / "mine").is_dir()
    shutil.rmtree(record)
    assert check(night, yes=True).exit_code == 0 and check(night).differences == ()


def test_a_link_to_another_output_is_mended_and_what_is_no_link_stays(night, first):
    link = first.parents[1] / "output"
    link.unlink()
    link.symlink_to("attempt-9/output")
    (difference,) = check(night).differences
    assert difference.kind is Kind.OUTPUT_LINK_WRONG and "it leads to attempt-9/output" in difference.what
    assert check(night, yes=True).exit_code == 0 and check(night).differences == () and link.samefile(first)
    link.unlink()
    (link / "mine").mkdir(parents=True)
    report = check(night, yes=True)
    assert report.exit_code == 1 and report.differences[0].next.startswith("move away what is there")
    assert (link / "mine").is_dir()


def test_a_stable_path_that_is_gone_or_leads_elsewhere_is_named_and_put_right(night, first):
    link = first.parents[2] / "latest"
    for wrong in (None, "run-99/output"):
        link.unlink()
        if wrong:
            link.symlink_to(wrong)
        (difference,) = check(night).differences
        assert difference.kind is Kind.LATEST_LINK_WRONG and "`ccatwm fsck --yes --reason TEXT`" in difference.next
        assert check(night, yes=True).exit_code == 0
        night.run_pass("collect")
        assert check(night).differences == () and link.samefile(first)


def test_what_lies_in_the_way_of_a_stable_path_is_left_to_a_person(night, first):
    link = first.parents[2] / "latest"
    link.unlink()
    link.mkdir()
    report = check(night, yes=True)
    assert report.exit_code == 1 and report.differences[0].next.startswith("move away what is there")
    link.rmdir()
    assert check(night, yes=True).exit_code == 0
    night.run_pass("collect")
    assert link.samefile(first)


def test_products_that_are_back_as_they_were_count_again(night, first):
    away = night.folder / "away"
    first.rename(away)
    assert check(night, yes=True).exit_code == 0 and not check(night).differences
    away.rename(first)
    report = check(night)
    assert set(kinds(report)) == {Kind.PRODUCT_BACK} and "counts it again" in report.differences[0].next
    assert check(night, yes=True).exit_code == 0
    night.until_quiet()
    assert {row["status"] for row in night.rows("data_product")} == {"present"}
    assert len(night.runs()) == 2 and check(night).differences == ()


def test_products_that_are_back_with_other_bytes_stay_missing(night, first):
    away = night.folder / "away"
    first.rename(away)
    check(night, yes=True)
    away.rename(first)
    chunk = first / "science" / "store.zarr" / "0"
    chunk.write_text("3\n")
    backs = [difference.path for difference in check(night).differences]
    assert backs and not [path for path in backs if path.endswith("store.zarr")]


def into_trash(night, output: Path, place: str = ".trash") -> Path:
    """As `gc` moves it; no row says so, as in an ops-db that was restored from before."""
    folder = night.base / place / "1-20260301T000000Z"
    folder.parent.mkdir(parents=True, exist_ok=True)
    output.rename(folder)
    return folder


def beside(output: Path) -> str:
    """The trash in the directory of the run."""
    return f"{output.parents[1]}/.trash"


@pytest.mark.parametrize("way", ["by fsck", "by its command"])
@pytest.mark.parametrize("own_trash", [False, True])
def test_products_in_a_trash_that_no_row_knows_are_brought_back_and_not_made_again(night, first, way, own_trash):
    folder = into_trash(night, first, beside(first) if own_trash else ".trash")
    report = check(night)
    (difference,) = report.differences
    assert (difference.kind, difference.path) == (Kind.PRODUCTS_IN_TRASH, str(folder.relative_to(night.base)))
    assert "of run 1," in difference.what and "`ccatwm fsck --yes --reason TEXT` brings them back" in difference.next
    command = re.search("`(mv .*)`", difference.next)
    assert command is not None and command[1] == f"mv {folder} {first}"
    if way == "by fsck":
        assert check(night, yes=True, confirm_runs=0).exit_code == 0
        changes = [row["text"] for row in night.rows("change_log") if row["act"] == "fsck"]
        assert len(changes) == 1 and difference.path in changes[0]
    else:
        subprocess.run(["bash", "-c", command[1]], check=True)
    assert check(night, full=True).differences == () and first.is_dir() and not folder.exists()
    night.until_quiet()
    assert len(night.runs()) == 2 and {row["status"] for row in night.rows("data_product")} == {"present"}


@pytest.mark.parametrize("way", ["by fsck", "by its command"])
@pytest.mark.parametrize("made_again", [False, True])
def test_products_in_the_trash_that_are_recorded_as_missing_are_brought_back_and_count_again(night, first, way, made_again):
    """As an older release wrote them down, which did not look into the trash."""
    first.rename(night.folder / "away")
    assert check(night, yes=True).exit_code == 0
    assert {row["status"] for row in night.rows("data_product")} == {"present", "missing"}
    if made_again:
        night.until_quiet()
    (night.folder / "away").rename(first)
    folder = into_trash(night, first)
    (difference,) = check(night).differences
    assert (difference.kind, difference.path) == (Kind.PRODUCTS_IN_TRASH, str(folder.relative_to(night.base)))
    assert "was told that they are missing from" in difference.what and "counts them again" in difference.next
    if way == "by its command":
        command = re.search("`(mv .*?)`", difference.next)
        subprocess.run(["bash", "-c", command[1]], check=True)
        assert set(kinds(check(night))) == {Kind.PRODUCT_BACK}
    assert check(night, yes=True).exit_code == 0
    assert {row["status"] for row in night.rows("data_product")} == {"present"}
    assert check(night, full=True).differences == () and first.is_dir() and not folder.exists()
    night.until_quiet()
    assert len(night.runs()) == (3 if made_again else 2)


@pytest.mark.parametrize("place", ["the trash", "its place"])
def test_what_is_to_make_again_what_is_back_is_superseded_as_long_as_it_has_no_job(night, first, place):
    first.rename(night.folder / "away")
    assert check(night, yes=True).exit_code == 0
    for name in ("trigger", "resolve", "stage"):
        night.run_pass(name)
    (again,) = [run["id"] for run in night.runs() if run["is_open"]]
    jobs = night.jobs()
    (night.folder / "away").rename(first)
    if place == "the trash":
        into_trash(night, first)
    assert check(night).alike.superseded == ()
    report = check(night, yes=True)
    assert [run.id for run in report.alike.superseded] == [again] and report.to_json()["superseded"] == [again]
    assert f"run {again}, which was to make the same, is superseded" in "\n".join(report.lines())
    assert f"run {again}, which" in [row["text"] for row in night.rows("change_log") if row["act"] == "fsck"][-1]
    night.until_quiet()
    assert (len(night.runs()), night.jobs()) == (3, jobs) and check(night, full=True).differences == ()


def test_what_has_a_job_that_makes_again_what_is_back_is_told_with_what_ends_it(night, first):
    first.rename(night.folder / "away")
    check(night, yes=True)
    for name in ("trigger", "resolve", "stage", "submit"):
        night.run_pass(name)
    (again,) = [run["id"] for run in night.runs() if run["is_open"]]
    (night.folder / "away").rename(first)
    report = check(night, yes=True)
    assert [run.id for run in report.alike.going_on] == [again] and report.alike.superseded == ()
    assert f"`ccatwm cancel {again} --reason TEXT` ends it" in "\n".join(report.lines())


def test_a_run_of_which_not_all_products_are_back_supersedes_none(night, first):
    first.rename(night.folder / "away")
    check(night, yes=True)
    for name in ("trigger", "resolve"):
        night.run_pass(name)
    (night.folder / "away").rename(first)
    (first / "science" / "store.zarr" / "0").unlink()
    report = check(night, yes=True)
    assert Kind.PRODUCT_BACK in kinds(report) and report.alike.superseded == ()


def test_a_folder_of_the_trash_with_other_bytes_or_not_whole_is_of_no_run(night, first):
    """It is let be, and what is missing is missing."""
    folder = into_trash(night, first)
    chunk = folder / "science" / "store.zarr" / "0"
    for content in ("3\n", None):
        if content is None:
            chunk.unlink()
        else:
            chunk.write_text(content)
        found = check(night).differences
        assert {d.kind for d in found} == {Kind.PRODUCT_MISSING, Kind.TRASH_UNKNOWN}
        (unknown,) = [d for d in found if d.kind is Kind.TRASH_UNKNOWN]
        assert unknown.next.startswith("let it be") and "what is missing of any run" in unknown.what
    check(night, yes=True)
    assert folder.is_dir() and len([r for r in night.rows("data_product") if r["status"] == "missing"]) == 2


def test_of_alike_products_in_the_trash_each_finds_its_own_run(empty_observatory):
    """Their paths and sizes are the same."""
    observe(empty_observatory, Scan("one", good_tar(a=b"a" * 50)), Scan("two", good_tar(a=b"b" * 50)))
    reduce(empty_observatory, COPY)
    empty_observatory.until_quiet()
    outputs = [empty_observatory.base / run["output_directory"] for run in empty_observatory.runs()]
    contents = [next(p for p in output.rglob("*") if p.is_file()).read_bytes() for output in outputs]
    assert len(set(contents)) == 2
    trash = empty_observatory.base / ".trash"
    trash.mkdir()
    for name, output in zip(("2-x", "1-x"), outputs, strict=True):
        output.rename(trash / name)
    assert kinds(check(empty_observatory, yes=True)) == [Kind.PRODUCTS_IN_TRASH] * 2
    assert [next(p for p in output.rglob("*") if p.is_file()).read_bytes() for output in outputs] == contents
    assert check(empty_observatory, full=True).differences == ()


def test_what_lies_at_the_place_of_products_in_the_trash_is_let_be(night, first):
    folder = into_trash(night, first)
    first.mkdir()
    found = check(night, yes=True).differences
    assert {d.kind for d in found} == {Kind.PRODUCT_MISSING, Kind.TRASH_UNKNOWN} and folder.is_dir()


def test_products_in_the_trash_of_a_tree_that_is_away_are_not_brought_to_an_empty_place(night, first):
    folder = into_trash(night, first)
    (night.base / "otf").rename(night.folder / "away")
    assert Kind.PRODUCTS_IN_TRASH not in kinds(check(night, yes=True))
    assert folder.is_dir() and not (night.base / "otf").exists()


def test_over_ssh_products_and_records_are_found_and_brought_back(night, first, monkeypatch):
    record = first.parents[1] / "run.json"
    before = record.read_bytes()
    record.write_bytes(before[:500])
    into_trash(night, first)
    calls = PipeCalls(night.base)
    try:
        there = SshWorkFiles(calls, PurePosixPath(night.base))
        monkeypatch.setattr(type(night.context()), "workfiles", there)
        assert kinds(check(night)) == [Kind.PRODUCTS_IN_TRASH, Kind.RUN_RECORD_DAMAGED]
        assert check(night, yes=True).exit_code == 0
        assert check(night, full=True).differences == ()
    finally:
        calls.close()
    assert json.loads(record.read_bytes()) == json.loads(before) and first.is_dir()


def test_more_lost_runs_than_confirm_runs_want_their_number_and_nothing_is_written_down_before(night):
    for run in night.runs():
        shutil.rmtree(night.base / run["output_directory"] / "science")
    packages = night.base / ".cache" / "packages"
    shutil.rmtree(next(packages.iterdir()))
    for how in ({"confirm_runs": 1}, {"confirm_runs": 0, "lost": 1}):
        with pytest.raises(UsageError, match=r"products of 2 runs .* core hours .*, more than CONFIRM_RUNS") as refused:
            check(night, yes=True, **how)
        assert refused.value.next.endswith("add --lost 2")
    assert {row["status"] for row in night.rows("data_product")} == {"present"}
    assert {row["state"] for row in night.rows("staged_package")} == {"PRESENT"}
    assert check(night, yes=True, confirm_runs=1, lost=2).exit_code == 0 and check(night).differences == ()


@pytest.mark.parametrize("what_is_left", ["nothing", "an empty place"])
def test_a_tree_that_is_away_as_a_whole_is_never_written_down_as_lost(night, what_is_left):
    """A file system that is not mounted, or a base directory of which the mark alone is there."""
    away = night.folder / "away"
    away.mkdir()
    for name in ("otf", ".cache"):
        (night.base / name).rename(away / name)
    if what_is_left == "an empty place":
        (night.base / "otf").mkdir()
    report = check(night, yes=True)
    (difference,) = report.differences
    assert (difference.kind, difference.path, report.exit_code) == (Kind.TREE_AWAY, "otf", 1)
    assert "2 runs with products" in difference.what and difference.next.startswith("mount it, or bring it back")
    assert not (night.base / "otf" / "reduce").exists()  # no link was made either
    shutil.rmtree(night.base / "otf", ignore_errors=True)
    for name in ("otf", ".cache"):
        (away / name).rename(night.base / name)
    night.until_quiet()
    assert check(night).differences == () and len(night.runs()) == 2
    assert {row["status"] for row in night.rows("data_product")} == {"present"}


def test_no_record_is_written_to_the_empty_place_of_runs_without_products(night):
    night.execute("DELETE FROM {schema}data_product")
    (night.base / "otf").rename(night.folder / "away")
    assert kinds(check(night, yes=True)) == [Kind.TREE_AWAY] and not (night.base / "otf").exists()


def test_a_tree_that_is_lost_for_good_is_written_down_once_a_person_has_made_its_folder(night):
    shutil.rmtree(night.base / "otf")
    (difference,) = check(night, yes=True).differences
    command = re.search("`(mkdir -p [^`]*)`", difference.next)
    assert command is not None
    subprocess.run(["bash", "-c", command[1]], check=True)
    check(night, yes=True)
    assert {row["status"] for row in night.rows("data_product")} == {"missing"}


def test_what_is_written_down_needs_a_reason(night):
    context = night.context()
    claimant = Claimant("", context.clock.now(), context.clock.now(), claimant_is_gone)
    checking = Checking(context.database, context.workfiles, "local", False, claimant, "x")
    with pytest.raises(UsageError, match="needs a reason"):
        fsck(checking, yes=True, reason=None, now=context.clock.now(), actor="a", host="h")


def test_the_document_has_every_difference(night, first):
    (first / "science" / "late.txt").write_text("x")
    document = json.loads(json.dumps(check(night).to_json()))
    assert document["schema"] == "ccatwm.fsck/1" and document["runs"] == 2
    assert [row["kind"] for row in document["fsck"]] == ["file-unknown"] and document["fsck"][0]["mended"] is False
