"""`gc` where the disk is full, or has no inodes left: it frees what it can, loses nothing, and says what to do."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.errors import OpsDbUnavailableError
from ccatwm.passes._frame import PassOptions
from tests.disks import fill, small_disk
from tests.passes.conftest import Observatory
from tests.passes.test_gc import DAY, first_night, gc, nights, outcomes, reduced, statuses, trashed, undo

__all__ = ["first_night", "nights", "reduced"]
BOTH_KINDS = pytest.mark.parametrize("what", ["bytes", "inodes"])


@contextmanager
def on_small_disk(folder: Path) -> Iterator[None]:
    """The folder, with all that is in it, on a disk of its own."""
    kept = folder.with_name(f"{folder.name}-kept")
    folder.rename(kept)
    folder.mkdir()
    with small_disk(folder, megabytes=4, inodes=600):
        subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
        yield


@pytest.fixture
def small(reduced):
    with on_small_disk(reduced.base):
        yield reduced


def intact(observatory: Observatory) -> bool:
    """Every file of a removed product lies at its place or in the trash; those that are present at their place."""
    rows = {row["run_id"]: row for row in observatory.rows("trash") if row["kind"] == "products" and not row["undone_at"]}
    for product in observatory.rows("data_product"):
        path = product["full_path"]
        places = [observatory.base / path]
        if product["status"] == "removed":
            row = rows[product["run_id"]]
            places.append(observatory.base / path.replace(row["path"], row["trash_path"]))
        if sum(place.stat().st_size == product["size_bytes"] for place in places if place.exists()) != 1:
            return False
    return True


@BOTH_KINDS
def test_once_its_folder_is_there_gc_works_on_a_full_disk_in_both_phases(small, what):
    small.settings_changes["retention_intermediate_days"] = None
    assert outcomes(gc(small)[0]) == []  # with nothing to do it has made its folder
    small.settings_changes["retention_intermediate_days"] = 10.0
    fill(small.base, what)
    assert outcomes(gc(small)[0]) == [("in the trash", 1), ("in the trash", 2)]
    assert [one.refused for one in undo(small, 1)] == [None]
    small.minute += 2 * DAY
    assert outcomes(gc(small)[0]) == [("deleted", 2)]
    assert intact_but_for(small, 2)
    assert os.statvfs(small.base).f_favail > 0 and os.statvfs(small.base).f_bavail > 0


def intact_but_for(observatory: Observatory, run: int) -> bool:
    present = [p for p in observatory.rows("data_product") if p["run_id"] != run]
    return all((observatory.base / p["full_path"]).stat().st_size == p["size_bytes"] for p in present)


def test_without_an_inode_for_its_folder_gc_moves_nothing_says_what_to_do_and_goes_on(small):
    for link in small.base.glob("*/*/*/latest"):  # taking one away frees an inode, and that would do
        link.unlink()
    filler = fill(small.base, "inodes")
    for _ in range(2):
        report, _ = gc(small)
        assert outcomes(report) == [("not moved", 1), ("not moved", 2)]
        assert all("No space left on device" in item.reason for item in report.items)
        advice = "; free space or inodes there, or raise the quota, then `ccatwm gc` goes on"
        assert all(item.reason.endswith(advice) for item in report.items)
        assert intact(small)
    (filler / "0").unlink()
    assert outcomes(gc(small)[0]) == [("in the trash", 1), ("in the trash", 2)]
    assert trashed(small) == ["1", "2"] and intact(small)
    assert [one.refused for one in undo(small)] == [None, None]
    assert statuses(small)["calibrate"] == {"present"} and intact(small)


class Crowded:
    """The folder of the trash takes no other name before one has gone: it would have to grow, and the disk is full."""

    def __init__(self) -> None:
        self.full = True

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        if name == "file.rename" and self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
        if name == "file.rmdir":
            self.full = False


def test_what_is_to_be_deleted_goes_first_since_the_rest_may_need_its_room(reduced):
    assert outcomes(gc(reduced, limit=1)[0]) == [("in the trash", 1)]
    reduced.minute += 2 * DAY
    context = reduced.context(Crowded())
    report, _ = wiring.run_gc(context, PassOptions(), lambda plan: None)
    assert outcomes(report) == [("deleted", 1), ("in the trash", 2)]
    assert trashed(reduced) == ["2"]


@pytest.mark.parametrize("nights", ["sqlite"], indirect=True)
def test_an_ops_db_on_the_full_disk_says_so_and_gc_goes_on_when_there_is_room(reduced):
    """Nothing is done that cannot be written down first; what was begun without room for its end is found."""
    with on_small_disk(reduced.folder):
        before = statuses(reduced)
        filler = fill(reduced.folder, "bytes")
        reduced.minute += 1
        context = reduced.context()
        report, _ = wiring.run_gc(context, PassOptions(), lambda plan: None)
        context.database.dispose()
        assert isinstance(report.error, OpsDbUnavailableError) and report.exit_code == 4
        assert "the ops-db has no space left" in report.error.message
        assert report.error.next == "free space where its files lie; the next pass goes on"
        shutil.rmtree(filler)
        assert statuses(reduced) == before and intact(reduced)
        context = reduced.context()
        report, _ = wiring.run_gc(context, PassOptions(), lambda plan: None)
        context.database.dispose()
        assert outcomes(report) == [("in the trash", 1), ("in the trash", 2)]
