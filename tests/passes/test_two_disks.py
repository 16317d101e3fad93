"""The cache on a disk of its own, quotas that are full, and purges while `stage` links: through whole passes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.passes._frame import PassOptions
from ccatwm.views.runs import waits_for_space
from tests.disks import fill, small_disk
from tests.passes.away import Strike
from tests.passes.bad_world import COPY, Scan, executions, good_tar, observe, reduce

PACKAGE = good_tar(a=b"a" * 5000, sub__b=b"b" * 3000)


def make_runs(observatory):
    observe(observatory, Scan("one", PACKAGE))
    reduce(observatory, COPY)
    for name in ("trigger", "resolve"):
        observatory.run_pass(name)


def stage(observatory, effects):
    observatory.minute += 1
    return wiring.run_pass("stage", observatory.context(effects), PassOptions())


def raw_is_whole(observatory):
    return (observatory.folder / "raw" / "one.tar").read_bytes() == PACKAGE


def test_a_cache_on_another_device_is_copied_from_and_all_goes_on(empty_observatory):
    (empty_observatory.base / ".cache").mkdir(parents=True)
    with small_disk(empty_observatory.base / ".cache", megabytes=4):
        make_runs(empty_observatory)
        empty_observatory.run_pass("stage")
        staged = sorted(empty_observatory.base.glob("otf/*/*/run-*/input/**/[ab]"))
        assert [path.stat().st_size for path in staged] == [5000, 3000]
        assert all(path.stat().st_nlink == 1 for path in staged)
        (row,) = empty_observatory.rows("staged_package")
        assert (row["state"], row["size_bytes"], row["file_count"]) == ("PRESENT", 8000, 2)
        empty_observatory.until_quiet()
        (run,) = empty_observatory.runs()
        assert (run["status"], run["attempt"], run["retries_used"]) == ("COMPLETED", 1, 0)
        empty_observatory.settings_changes |= {"retention_scratch_days": 1.0, "retention_log_days": 1.0}
        empty_observatory.execute("UPDATE {schema}run_attempt SET ended_at = created_at")  # real jobs end by the real clock
        empty_observatory.minute += 3 * 24 * 60
        report, plan = wiring.run_gc(empty_observatory.context(), PassOptions(), lambda plan: None)
        assert report.error is None and report.failed == 0
        assert {(r.kind.value, r.folders) for r in plan.reasons()} == {("scratch", 1), ("logs", 1)}
        product = next((empty_observatory.base / run["output_directory"]).rglob("a"))
        assert product.stat().st_size == 5000 and raw_is_whole(empty_observatory)
        assert sorted(p.stat().st_size for p in (empty_observatory.base / ".cache").rglob("[ab]")) == [3000, 5000]


@pytest.mark.parametrize("then", ["back", "deleted"])
def test_a_pipeline_on_a_disk_of_its_own_has_its_trash_there(empty_observatory, then):
    """From one file system nothing can be renamed into another."""
    (empty_observatory.base / "otf").mkdir(parents=True)
    with small_disk(empty_observatory.base / "otf", megabytes=4):
        make_runs(empty_observatory)
        empty_observatory.until_quiet()
        empty_observatory.settings_changes |= {"retention_scratch_days": 1.0, "trash_grace_hours": 24}
        empty_observatory.execute("UPDATE {schema}run_attempt SET ended_at = created_at")
        empty_observatory.minute += 3 * 24 * 60
        for _ in range(2):  # it is there; then nothing is left to do
            report, _ = wiring.run_gc(empty_observatory.context(), PassOptions(), lambda plan: None)
            assert report.error is None and report.failed == 0, [item.reason for item in report.items]
        (row,) = empty_observatory.rows("trash")
        assert row["trash_path"].startswith("/".join(row["path"].split("/")[:4]) + "/.trash/")
        place, trash = empty_observatory.base / row["path"], empty_observatory.base / row["trash_path"]
        assert trash.is_dir() and not place.exists()
        if then == "back":
            (undone,) = wiring.undo_gc(empty_observatory.context(), PassOptions(), None, "still needed")[1]
            assert undone.refused is None and place.is_dir()
        else:
            empty_observatory.minute += 2 * 24 * 60
            report, _ = wiring.run_gc(empty_observatory.context(), PassOptions(), lambda plan: None)
            assert [item.outcome for item in report.items] == ["deleted"] and not trash.exists()


def test_a_full_disk_of_the_cache_makes_runs_wait_though_the_others_have_room(empty_observatory):
    cache = empty_observatory.base / ".cache"
    cache.mkdir(parents=True)
    with small_disk(cache, megabytes=1):
        filler = fill(cache, "bytes")
        make_runs(empty_observatory)
        for _ in range(2):
            assert empty_observatory.run_pass("stage").error is None
        (run,) = empty_observatory.runs()
        assert waits_for_space(run) and str(cache) in run["message"]
        shutil.rmtree(filler)
        empty_observatory.until_quiet()
        (run,) = empty_observatory.runs()
        assert (run["status"], run["attempt"], run["retries_used"]) == ("COMPLETED", 1, 0)


class Quota:
    """Nothing of this kind can be written any more, for this account."""

    def __init__(self, name: str) -> None:
        self._name = name

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        if name == self._name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        yield


@pytest.mark.parametrize("name", ["file.write", "file.mkdir", "file.link"])
def test_a_full_quota_amid_a_pass_makes_the_run_wait_and_costs_nothing(empty_observatory, name):
    make_runs(empty_observatory)
    for _ in range(2):
        assert stage(empty_observatory, Quota(name)).error is None
    (run,) = empty_observatory.runs()
    assert (run["status"], run["failure_class"]) == ("STAGING_DATA", "no-space") and waits_for_space(run)
    assert "Disk quota exceeded: " in run["message"] and "or raise the quota" in run["message"]
    assert not list(empty_observatory.base.rglob("*.part"))
    empty_observatory.until_quiet()
    (run,) = empty_observatory.runs()
    assert (run["status"], run["attempt"], run["retries_used"]) == ("COMPLETED", 1, 0)
    assert raw_is_whole(empty_observatory) and len(executions(empty_observatory)) == 1


def purge(base: Path, what: str) -> None:
    (package,) = (base / ".cache" / "packages").glob("one-*")
    shutil.rmtree(package) if what == "everything" else (package / "sub" / "b").unlink()


@pytest.mark.parametrize(
    ("what", "at", "told"),
    [
        ("a file", 1, ["lost-in-cache", "staged"]),
        ("everything", 1, ["lost-in-cache", "staged"]),
        ("everything", 2, ["staged"]),  # it has all its links by then: they keep the files
    ],
)
def test_what_is_purged_while_it_is_linked_is_brought_again_in_the_same_pass(empty_observatory, what, at, told):
    make_runs(empty_observatory)
    effects = Strike(at, lambda: purge(empty_observatory.base, what), "before" if at == 1 else "after", "file.link")
    report = stage(empty_observatory, effects)
    assert effects.struck
    assert [item.outcome for item in report.items] == told
    empty_observatory.until_quiet()
    (run,) = empty_observatory.runs()
    assert (run["status"], run["attempt"], run["retries_used"]) == ("COMPLETED", 1, 0)
    science = empty_observatory.base / run["output_directory"] / "science"
    assert sorted(p.stat().st_size for p in science.rglob("*") if p.is_file()) == [3000, 5000]
