"""Packages that are brought side by side: as many at once as the site says, each on its own, and ended cleanly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pytest

from ccatwm import wiring
from ccatwm.core.cache import NOTHING, Amount
from ccatwm.edges.storage.disk import DiskStorage
from ccatwm.errors import FilesUnavailableError
from ccatwm.interfaces import PackageCopy, PlainEffects
from ccatwm.passes import stage
from ccatwm.passes._bring import Sought, Tally
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from ccatwm.passes._work import WorkQueue
from tests.fakes.progress import ToldBar, ToldProgress
from tests.passes.bad_world import COPY, Scan, good_tar, observe, reduce
from tests.passes.conftest import Observatory

PATIENCE = 20  # seconds


class Meeting(DiskStorage):
    """Lets nobody go on before so many packages are open at once; notes how many there were."""

    def __init__(self, together: int) -> None:
        super().__init__(PlainEffects())
        self._barrier = threading.Barrier(together)
        self._lock = threading.Lock()
        self._now = self.most = 0

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._barrier.wait(PATIENCE)
            with super().open(copy) as stream:
                yield stream
        finally:  # also of a copy that turns out bad
            with self._lock:
                self._now -= 1


class Broken(DiskStorage):
    """One package cannot be read, since the world does not answer; or a person interrupts while it is."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(PlainEffects())
        self._error = error

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        if copy.path.startswith("scan-2"):
            raise self._error
        with super().open(copy) as stream:
            yield stream


def context_with(observatory: Observatory, storage: DiskStorage, at_once: int) -> Context:
    observatory.settings_changes = {"stage_parallel": at_once}
    observatory.minute += 1
    context = observatory.context()
    context.make_storages = lambda: {"disk": storage}
    return context


def states(observatory: Observatory) -> dict[str, str]:
    return {row["package_name"]: row["state"] for row in observatory.rows("staged_package")}


def test_packages_of_several_runs_come_at_once(three_scans: Observatory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SMALL", NOTHING)  # each by itself
    three_scans.make_runs()
    (three_scans.folder / "buffer" / "scan-2.tar").unlink()  # its other copy is opened before
    (three_scans.folder / "raw" / "scan-2.tar").rename(three_scans.folder / "buffer" / "scan-2.tar")
    storage = Meeting(3)
    report = wiring.run_pass("stage", context_with(three_scans, storage, 3), PassOptions())
    assert (report.done, report.failed, storage.most) == (3, 0, 3)
    assert [item.run for item in report.items if item.outcome == "staged"] == sorted(
        (run["id"] for run in three_scans.runs()), reverse=True
    ), "told in the order of their turns"
    assert set(states(three_scans).values()) == {"PRESENT"}


def test_no_more_come_at_once_than_the_site_says(three_scans: Observatory) -> None:
    three_scans.make_runs()
    storage = Meeting(1)
    report = wiring.run_pass("stage", context_with(three_scans, storage, 2), PassOptions())
    assert (report.done, storage.most <= 2) == (3, True)


def test_a_package_that_two_runs_need_is_read_once(three_scans: Observatory) -> None:
    path = three_scans.folder / "pipeline.yaml"
    path.write_text(
        path.read_text() + "      - {name: again, software: cal, group_by: [executed_obs_unit], raw_inputs: true}\n"
    )
    three_scans.make_runs()
    progress = ToldProgress()
    context = context_with(three_scans, DiskStorage(PlainEffects()), 4)
    context.progress = progress
    assert wiring.run_pass("stage", context, PassOptions()).done == 6
    read = [bar.what for bar in progress.bars if bar.unit == "bytes"]
    assert sorted(set(read)) == [f"scan-{n}-LFA" for n in (1, 2, 3)]
    assert len(read) == 4, "one of them has a corrupt copy beside the good one"
    (stage,) = [bar for bar in progress.bars if bar.what == "stage"]
    assert (stage.done, stage.total) == (6, 6)


def test_a_corrupt_package_stops_no_other(three_scans: Observatory) -> None:
    three_scans.make_runs()
    good = three_scans.folder / "raw" / "scan-2.tar"
    good.write_bytes(b"?" * good.stat().st_size)
    report = three_scans.run_pass("stage")
    assert (report.done, report.failed) == (2, 1)
    assert states(three_scans)["scan-2-LFA"] == "GONE"


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_world_that_does_not_answer_ends_the_pass_and_keeps_no_claim(three_scans: Observatory, at_once: int) -> None:
    three_scans.make_runs()
    context = context_with(three_scans, Broken(FilesUnavailableError("the archive did not answer")), at_once)
    report = wiring.run_pass("stage", context, PassOptions())
    assert report.error is not None and "did not answer" in report.error.message
    assert "STAGING" not in states(three_scans).values()
    assert {run["status"] for run in three_scans.runs()} <= {"PENDING", "STAGING_DATA", "STAGED"}
    assert three_scans.run_pass("stage").error is None
    assert {run["status"] for run in three_scans.runs()} == {"STAGED"}


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_interrupt_ends_what_is_under_way_and_keeps_no_claim(three_scans: Observatory, at_once: int) -> None:
    three_scans.make_runs()
    with pytest.raises(KeyboardInterrupt):
        wiring.run_pass("stage", context_with(three_scans, Broken(KeyboardInterrupt()), at_once), PassOptions())
    assert "STAGING" not in states(three_scans).values()
    assert not list((three_scans.base / ".cache").rglob("*.part"))


# --- the queue ------------------------------------------------------------------------------------------------------


@dataclass
class Piece:
    size: int = 5
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def coming(self) -> Amount:
        return Amount(0 if self.done.is_set() else self.size)

    def work(self) -> None:
        self.done.set()


@dataclass
class Endless(Piece):
    """Goes on until it is told to stop."""

    queue: Any = None

    def work(self) -> None:
        self.done.set()
        while not self.queue.is_stopping():
            threading.Event().wait(0.001)


@pytest.mark.quick
@pytest.mark.parametrize("at_once", [1, 3])
def test_all_work_is_done_once(at_once: int) -> None:
    queue, pieces = WorkQueue(at_once), [Piece() for _ in range(10)]
    queue.add(pieces)
    assert queue.is_full
    done: list[Any] = []
    while not queue.is_empty:
        done += queue.do_some()
    queue.close()
    assert sorted(map(id, done)) == sorted(map(id, pieces))
    assert queue.coming == Amount()


@pytest.mark.quick
def test_what_is_under_way_hears_that_it_is_to_stop_and_what_waits_never_begins() -> None:
    queue = WorkQueue(2)
    pieces = [Endless(queue=queue) for _ in range(4)]
    queue.add(pieces)
    for piece in pieces[:2]:
        assert piece.done.wait(PATIENCE)
    assert queue.coming == Amount(10), "what has not begun is still to come"
    queue.close()
    assert [piece.done.is_set() for piece in pieces] == [True, True, False, False]


@pytest.mark.quick
def test_the_display_tells_packages_bytes_and_bytes_per_second() -> None:
    class Ticking:
        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 1
            return self.seconds

    bar = ToldBar("stage", 2, "runs")
    tally = Tally(bar, Ticking())  # type: ignore[arg-type]
    tally.read(4_000_000)
    tally.add_package()
    assert bar.notes[-1] == "1 package, 4.0 MB, 1.3 MB/s"


# --- small ones ----------------------------------------------------------------------------------------------------


def test_small_packages_come_together_and_a_bad_one_spoils_none_of_the_others(empty_observatory: Observatory) -> None:
    scans = [Scan(f"s{n:02}", good_tar(a=b"%d" % n)) for n in range(24)]
    observe(empty_observatory, *scans)
    reduce(empty_observatory, COPY)
    (empty_observatory.folder / "raw" / "s07.tar").write_bytes(b"rubbish" * 100)
    for name in ("trigger", "resolve"):
        empty_observatory.run_pass(name)
    together: list[int] = []
    work = stage._PackageWork.work

    def noted(self: Any) -> None:
        together.append(len(self.packages))
        work(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage._PackageWork, "work", noted)
        report = empty_observatory.run_pass("stage")
    assert (report.done, report.failed) == (23, 1)
    assert max(together) > 5 and sum(together) == 24
    assert sorted(states(empty_observatory).values()) == ["GONE"] + ["PRESENT"] * 23
    empty_observatory.until_quiet()
    statuses = [run["status"] for run in empty_observatory.runs()]
    assert sorted(statuses) == ["COMPLETED"] * 23 + ["FAILED"]


def test_what_is_large_or_of_unknown_size_comes_by_itself() -> None:
    def package(size: int, files: int = 1) -> Any:
        return stage._Package(Sought(None, PurePosixPath("x"), [], set(), {}, Amount(size, files)), [])  # type: ignore[arg-type]

    large, unknown, many = package(5 << 20), package(0), package(100, 17)
    small = [package(1 << 20) for _ in range(40)]
    shares = list(stage.together([small[0], large, unknown, many, *small[1:]]))
    assert [large] in shares and [unknown] in shares and [many] in shares
    assert [len(share) for share in shares if share[0] in small] == [32, 8]
