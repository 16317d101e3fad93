"""Disks without room, or without inodes, under whole passes: what waits is told and goes on, and nothing is charged."""

from __future__ import annotations

import shutil

import pytest

from ccatwm import wiring
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._frame import PassOptions
from ccatwm.settings.schema import StageSettings
from ccatwm.views.runs import waits_for_space
from tests.disks import fill, small_disk
from tests.passes.bad_world import GRID, Scan, by_package, executions, good_tar, observe, reduce, tar

BOTH_KINDS = pytest.mark.parametrize("what", ["bytes", "inodes"])
LARGE = {
    "bytes": lambda: tar([("a.bin", bytes(2 << 20))], "w:gz"),  # what it unpacks to nobody knows before
    "inodes": lambda: tar([(f"{n}.bin", b"x") for n in range(100)], "w:gz"),
}
ONE_PRODUCT = "mkdir science; echo x >science/x\n"


@pytest.fixture
def night(empty_observatory):
    """A base directory on a disk of its own."""
    empty_observatory.base.mkdir()
    with small_disk(empty_observatory.base, megabytes=8, inodes=1000):
        yield empty_observatory


def make_runs(night, *scans):
    observe(night, *scans)
    reduce(night, ONE_PRODUCT)
    for name in ("trigger", "resolve"):
        night.run_pass(name)


def charged(night):
    return {(run["retries_used"], run["free_retries_used"]) for run in night.runs()} != {(0, 0)}


def complete(night):
    for _ in range(4):
        night.until_quiet()
        night.minute += 10  # a disk is looked at again after five
    return [run["status"] for run in night.runs()]


# --- staging jobs -------------------------------------------------------------------------------------------


def by_jobs(night, *scans):
    night.settings_changes |= {"stage": StageSettings(executor="job"), "stage_parallel": 1}
    make_runs(night, *scans)
    night.run_pass("stage")


@BOTH_KINDS
def test_a_staging_job_without_room_for_one_package_brings_the_others_and_that_one_later(night, what):
    by_jobs(night, Scan("large", LARGE[what](), ending="tar.gz"), Scan("small", good_tar(a=b"2")))
    filler = fill(night.base, what, left={"bytes": 1 << 20, "inodes": 60}[what])
    night.jobs()
    night.run_pass("stage")
    large, small = (by_package(night)[name] for name in ("large", "small"))
    assert (small["status"], large["status"], large["failure_class"]) == ("STAGED", "STAGING_DATA", "no-space")
    assert waits_for_space(large)
    assert str(night.base) in large["message"] and "; free space or inodes there" in large["message"]
    night.run_pass("stage")
    large = by_package(night)["large"]
    assert "brings it" in large["message"] and not waits_for_space(large)  # another job tries: it waits for that one
    shutil.rmtree(filler)
    assert complete(night) == ["COMPLETED"] * 2
    assert not charged(night)
    assert len(executions(night)) == 2


@BOTH_KINDS
def test_a_staging_job_that_can_leave_no_record_for_want_of_room_costs_nothing(night, what):
    by_jobs(night, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))
    filler = fill(night.base, what)
    night.jobs()
    for _ in range(3):
        report = night.run_pass("stage")
        assert report.error is None
    runs = night.runs()
    if what == "inodes":  # not even a claim can be made: what became of the job is not settled yet
        assert {run["status"] for run in runs} == {"STAGING_DATA"}
        assert all("the job has gone, which cannot be settled yet: No space left" in run["message"] for run in runs)
    else:
        assert {(run["status"], run["failure_class"]) for run in runs} == {("FAILED", "no-space")}
        assert all("its disk or quota was full" in run["message"] for run in runs)
    shutil.rmtree(filler)
    assert complete(night) == ["COMPLETED"] * 2
    assert not charged(night)
    assert all(job["state"] == "ENDED" for job in night.rows("transfer_job"))
    assert not list((night.base / ".transfers").iterdir())
    assert all(package["claim"] is None for package in night.rows("staged_package"))


def test_a_staging_job_that_lost_its_record_otherwise_is_lost_and_no_run_waits_for_it_for_ever(night):
    by_jobs(night, Scan("one", good_tar(a=b"1")))
    (job,) = night.rows("transfer_job")
    (night.base / ".transfers" / job["token"] / "attempt" / "job" / "claims" / "0").mkdir()  # it began, then its host died
    night.batch().cancel([(job["job_id"], 0, job["token"], None)])
    night.run_pass("stage")
    (run,) = night.runs()
    assert "neither the batch system nor its own record tells how it ended" in run["message"]
    assert complete(night) == ["COMPLETED"]
    assert night.runs()[0]["retries_used"] == 1


def test_copies_of_inputs_are_counted_so_that_runs_come_one_after_the_other(night):
    """Without a container inputs are copied: the cache alone could take two packages, and no run would find room."""
    make_runs(night, *(Scan(f"s{n}", tar([("a.bin", bytes(2_500_000 + n))])) for n in range(4)))
    report = night.run_pass("stage")
    assert report.error is None
    assert report.done == 1, report.items
    waiting = [run for run in night.runs() if run["status"] == "STAGING_DATA"]
    assert len(waiting) == 3 and all("needs 5.0 MB" in str(run["room_reason"]) for run in waiting), waiting
    assert sum(1 for _ in night.base.glob(".cache/packages/*")) == 1, "what nobody can be given is not brought"
    assert complete(night) == ["COMPLETED"] * 4
    assert not charged(night) and len(executions(night)) == 4


def test_products_that_are_inputs_are_counted_as_copies_too(night):
    observe(night, Scan("one", good_tar(a=b"1")))
    reduce(night, "mkdir science; head -c 2000000 /dev/zero >science/x\n", more=GRID)
    for name in ("trigger", "resolve", "stage", "submit"):
        night.run_pass(name)
    night.jobs()
    for name in ("poll", "collect", "trigger", "resolve"):
        night.run_pass(name)
    filler = fill(night.base, "bytes", left=1 << 20)
    night.run_pass("stage")
    (grid,) = night.runs("grid")
    assert "needs 2.0 MB" in str(grid["room_reason"]), grid
    assert not list(night.base.glob("otf/grid/*/run-*/workspace/*"))
    shutil.rmtree(filler)
    assert complete(night) == ["COMPLETED"] * 2


class Sharing(LocalWorkFiles):
    """A disk whose copies share their blocks, played by hard links."""

    tried = 0

    def shares_blocks(self):
        Sharing.tried += 1
        return True

    def link_trees(self, links, *, hard=True, whole=None):
        return super().link_trees(links, hard=True, whole=whole)


def test_copies_that_share_their_blocks_need_no_room_of_their_own(night):
    make_runs(night, *(Scan(f"s{n}", tar([("a.bin", bytes(2_500_000 + n))])) for n in range(4)))
    context, Sharing.tried = night.context(), 0
    context.make_workfiles = lambda: Sharing(night.base, PlainEffects())
    report = wiring.run_pass("stage", context, PassOptions())
    assert report.done == 3, report.items
    assert Sharing.tried == 1, "once a pass"
    waiting = [run for run in night.runs() if run["status"] == "STAGING_DATA"]
    assert len(waiting) == 1 and "needs 2.5 MB" in str(waiting[0]["room_reason"])


# --- jobs of runs -------------------------------------------------------------------------------------------


@BOTH_KINDS
def test_a_job_that_can_leave_no_record_for_want_of_room_is_not_charged(night, what):
    make_runs(night, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))
    for name in ("stage", "submit"):
        night.run_pass(name)
    filler = fill(night.base, what)
    night.jobs()
    for _ in range(2):
        report = night.run_pass("poll")
        assert report.error is None
        told = [item.reason for item in report.items]
        assert any("No space left on device" in text or "its disk or quota was full" in text for text in told)
    shutil.rmtree(filler)
    night.run_pass("poll")
    runs = night.runs()
    assert {(run["status"], run["failure_class"]) for run in runs} == {("FAILED", "no-space")}
    assert complete(night) == ["COMPLETED"] * 2
    assert not charged(night)
    assert len(executions(night)) == 2


# --- collecting ---------------------------------------------------------------------------------------------


@BOTH_KINDS
def test_an_output_that_cannot_be_recorded_for_want_of_room_waits_and_says_so(night, what):
    make_runs(night, Scan("one", good_tar(a=b"1")))
    for name in ("stage", "submit"):
        night.run_pass(name)
    night.jobs()
    night.run_pass("poll")
    filler = fill(night.base, what)
    report = night.run_pass("collect")
    (run,) = night.runs()
    assert (run["status"], run["failure_class"], report.error) == ("COLLECTING_RESULTS", "no-space", None)
    assert waits_for_space(run) and "; free space or inodes there" in run["message"]
    assert [(item.outcome, item.reason) for item in report.items] == [("no-space", run["message"])]
    assert night.rows("data_product") == []
    shutil.rmtree(filler)
    assert complete(night) == ["COMPLETED"]
    (run,) = night.runs()
    assert (run["attempt"], run["message"], run["failure_class"]) == (1, None, None) and not charged(night)
