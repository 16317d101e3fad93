"""Packages that batch jobs bring at the processing site, instead of `stage` itself (STAGE.executor = "job")."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm import wiring
from ccatwm.core.model import InputKind, InputRole, RunInput
from ccatwm.core.selection import Selection
from ccatwm.core.transfers import TRANSFERS
from ccatwm.core.wording import GB
from ccatwm.edges.transport import transfer_files
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.interfaces import (
    FileWrite,
    JobReport,
    JobState,
    PackageCopy,
    PackageOrder,
    PlainEffects,
    SubmitResult,
)
from ccatwm.passes._claims import supersede
from ccatwm.settings.schema import LocationSettings, StageSettings
from ccatwm.upkeep.reconcile import reconcile
from ccatwm.views.status import build_status, other_lines
from tests.fakes.batch import FileBatch
from tests.passes.away import Strike, pass_in_child
from tests.passes.bad_world import COPY, Scan, good_tar, observe, reduce

JOB = StageSettings(executor="job")


@pytest.fixture
def by_jobs(empty_observatory):
    """Two scans are observed, and runs made of them; nothing is staged yet."""
    return night(empty_observatory, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))


def night(observatory, *scans, **stage):
    observatory.settings_changes["stage"] = replace(JOB, **stage)
    observe(observatory, *scans)
    reduce(observatory, COPY)
    for name in ("trigger", "resolve"):
        observatory.run_pass(name)
    return observatory


def outcomes(report):
    return [(item.outcome, item.reason) for item in report.items]


def open_jobs(observatory):
    return [job for job in observatory.rows("transfer_job") if job["state"] != "ENDED"]


def folders(observatory):
    found = observatory.base / str(TRANSFERS)
    return sorted(p.name for p in found.iterdir()) if found.exists() else []


def complete(observatory):
    for _ in range(4):
        observatory.until_quiet()
        observatory.minute += 180  # whatever back-off there is
    return [run["status"] for run in observatory.runs()]


# --- the chain ----------------------------------------------------------------------------------------------


def test_runs_wait_for_a_job_by_name_and_are_staged_once_it_has_brought_their_packages(by_jobs):
    report = by_jobs.run_pass("stage")
    jobs = open_jobs(by_jobs)
    assert [job["state"] for job in jobs] == ["RELEASED", "RELEASED"]  # one each: up to STAGE_PARALLEL at once
    assert [outcome for outcome, _ in outcomes(report)] == ["transferring"] * 2
    assert outcomes(report)[0][1] == f"package one-LFA: staging job {jobs[0]['job_id']} brings it"
    assert not list((by_jobs.base / ".cache").glob("*/*"))  # this host has read nothing
    assert by_jobs.jobs() == 2
    report = by_jobs.run_pass("stage")
    assert [outcome for outcome, _ in outcomes(report)] == ["staged"] * 2  # in the pass that found them, not the next
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert open_jobs(by_jobs) == [] and folders(by_jobs) == []
    assert all(package["claim"] is None for package in by_jobs.rows("staged_package"))


def test_a_pass_that_finds_its_jobs_at_work_makes_no_others(by_jobs):
    for _ in range(3):
        by_jobs.run_pass("stage")
    assert len(by_jobs.rows("transfer_job")) == 2


def test_status_names_the_jobs_and_what_they_are_still_to_bring(by_jobs):
    def status():
        context = by_jobs.context()
        document = build_status(
            context.database, context.grouping, Selection(), now=context.clock.now(), cache_at="local"
        )
        context.database.dispose()
        return document

    by_jobs.run_pass("stage")
    first, second = status()["staging_jobs"]
    assert (first["state"], first["packages"], first["packages_left"]) == ("released", 1, 1)
    line = f"staging jobs: 2 ({first['job_id']}, {second['job_id']}), 2 packages and 20.5 kB to come"
    assert line in other_lines(status())
    complete(by_jobs)
    assert status()["staging_jobs"] == [] and not any("staging jobs" in one for one in other_lines(status()))


def test_more_than_jobs_may_bring_at_once_waits_for_its_turn(empty_observatory):
    scans = [Scan(name, good_tar(a=name.encode() * 4000)) for name in ("one", "two", "three")]
    empty_observatory.settings_changes["stage_parallel"] = 1
    observatory = night(empty_observatory, *scans, job_gb=50_000 / GB)
    report = observatory.run_pass("stage")
    waits = [reason for _, reason in outcomes(report) if "waits for its turn behind 1 staging job" in reason]
    assert len(open_jobs(observatory)) == 1 and len(waits) == 1
    assert complete(observatory) == ["COMPLETED"] * 3
    assert sorted(job["packages"] for job in observatory.rows("transfer_job")) == [1, 2]


def test_a_cycle_until_idle_waits_for_staging_jobs_and_for_those_whose_turn_comes_next(empty_observatory):
    empty_observatory.settings_changes["stage_parallel"] = 1
    scans = [Scan(name, good_tar(a=name.encode() * 4000)) for name in ("one", "two")]
    observatory = night(empty_observatory, *scans, job_gb=1e-9)

    def work_is_left(**changes):
        context = observatory.context()
        try:
            return wiring.work_is_left(replace(context, settings=replace(context.settings, **changes)))
        finally:
            context.database.dispose()

    observatory.run_pass("stage")
    assert [run["due_at"] is None for run in observatory.runs()] == [False, True]  # the second goes after the first
    table = "{schema}executed_reduction_step"
    observatory.execute(f"UPDATE {table} SET due_at = (SELECT max(due_at) FROM {table})")  # not soon
    assert work_is_left()
    assert not work_is_left(cluster="another")  # nobody here looks after the jobs of another


def test_two_runs_that_need_one_package_have_it_brought_once(by_jobs):
    by_jobs.apply()
    by_jobs.run_pass("stage")
    text = (by_jobs.folder / "pipeline.yaml").read_text()
    (by_jobs.folder / "pipeline.yaml").write_text(text.replace("name: otf", "name: other"))
    by_jobs.apply()
    assert complete(by_jobs) == ["COMPLETED"] * 4
    assert sum(job["packages"] for job in by_jobs.rows("transfer_job")) == 2


def test_jobs_that_were_handed_over_are_seen_through_after_the_setting_has_changed(by_jobs):
    by_jobs.run_pass("stage")
    by_jobs.settings_changes["stage"] = StageSettings()
    assert [outcome for outcome, _ in outcomes(by_jobs.run_pass("stage"))] == ["transferring"] * 2
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert len(by_jobs.rows("transfer_job")) == 2 and open_jobs(by_jobs) == []


@pytest.mark.parametrize("at_work", [False, True])
def test_jobs_of_a_batch_system_that_is_used_no_more_are_settled_by_their_files(by_jobs, at_work):
    by_jobs.run_pass("stage")
    if at_work:
        by_jobs.jobs()
    by_jobs.execute("UPDATE {schema}transfer_job SET cluster = 'the-old-one'")
    by_jobs.run_pass("stage")
    old = [job for job in by_jobs.rows("transfer_job") if job["cluster"] == "the-old-one"]
    assert [job["state"] for job in old] == ["ENDED"] * 2
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert len(by_jobs.rows("transfer_job")) == (2 if at_work else 4)
    assert {run["retries_used"] for run in by_jobs.runs()} == {0}


def test_jobs_made_since_a_backup_are_ended_by_doctor_and_their_packages_brought_anew(by_jobs):
    by_jobs.run_pass("stage")
    for table in ("transfer_job", "staged_package"):  # as the backup had none
        by_jobs.execute(f"DELETE FROM {{schema}}{table}")
    strange = folders(by_jobs)
    assert len(strange) == 2
    context = by_jobs.context()
    reconcile(
        context.database, context.workfiles, lambda: context.scheduler, supersede=supersede, now=context.clock.now(),
        actor="tester", host="here", yes=False, uid=context.ops_db_uid,
    )  # fmt: skip
    context.database.dispose()
    assert folders(by_jobs) == []
    assert by_jobs.jobs() == 0  # they do not run any more
    by_jobs.minute += 10
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert folders(by_jobs) == []


@pytest.mark.parametrize("empty_observatory", ["sqlite"], indirect=True)
@pytest.mark.parametrize("state", ["HELD", "RELEASED"])
@pytest.mark.parametrize("is_known", [True, False])
def test_jobs_settled_since_a_backup_are_not_waited_for_and_cost_nothing(by_jobs, state, is_known, tmp_path):
    by_jobs.settings_changes["record_wait_seconds"] = 10**6
    by_jobs.run_pass("stage")
    path = by_jobs.context().database.url.database
    copy_sqlite(path, tmp_path / "backup")
    by_jobs.jobs()
    by_jobs.run_pass("stage")
    assert open_jobs(by_jobs) == [] and folders(by_jobs) == []
    copy_sqlite(tmp_path / "backup", path)
    by_jobs.execute(f"UPDATE {{schema}}transfer_job SET state = '{state}'")
    assert len(open_jobs(by_jobs)) == 2
    if not is_known:
        shutil.rmtree(by_jobs.folder / "batch")
    by_jobs.run_pass("stage")
    ended = by_jobs.rows("transfer_job")[:2]
    assert [(job["state"], job["message"][:21]) for job in ended] == [("ENDED", "it was settled before")] * 2
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert {run["retries_used"] for run in by_jobs.runs()} == {0}


def copy_sqlite(source, target):
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


@pytest.mark.parametrize("empty_observatory", ["sqlite"], indirect=True)
def test_a_job_that_lost_its_files_is_waited_for_while_it_may_run(by_jobs):
    by_jobs.run_pass("stage")
    shutil.rmtree(by_jobs.base / str(TRANSFERS))
    by_jobs.run_pass("stage")
    assert len(open_jobs(by_jobs)) == len(by_jobs.rows("transfer_job")) == 2


# --- bad copies ---------------------------------------------------------------------------------------------


def test_a_corrupt_copy_is_reported_and_the_next_one_is_used(empty_observatory):
    good = good_tar(a=b"1")
    observatory = night(empty_observatory, Scan("one", good, copies={"buffer": good[:-600] + b"x" * 600}))
    observatory.run_pass("stage")
    observatory.jobs()
    report = observatory.run_pass("stage")
    assert tuple(sorted(outcome for outcome, _ in outcomes(report))) == ("bad-copy", "staged")
    (bad,) = observatory.rows("copy_report")
    assert (bad["location"], bad["finding"]) == ("buffer", "corrupt")
    assert "one.tar) is corrupt" in str(observatory.runs()[0]["warnings"])


def test_a_package_without_a_good_copy_fails_its_run_and_no_other(empty_observatory):
    observatory = night(empty_observatory, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))
    (observatory.folder / "raw" / "two.tar").write_bytes(b"rubbish" * 100)
    observatory.run_pass("stage")
    observatory.jobs()
    observatory.run_pass("stage")
    one, two = observatory.runs()
    assert (one["status"], two["status"], two["failure_class"]) == ("STAGED", "FAILED", "staging")
    assert "no good copy: raw: corrupt" in two["message"]


# --- jobs that come to nothing ------------------------------------------------------------------------------


def test_a_job_that_leaves_no_record_is_tried_again_at_the_cost_of_an_attempt(by_jobs):
    by_jobs.run_pass("stage")
    first = open_jobs(by_jobs)
    for job in first:  # the batch system is done with them, nothing of them ran
        by_jobs.batch().cancel([(job["job_id"], 0, job["token"], None)])
    report = by_jobs.run_pass("stage")
    assert [outcome for outcome, _ in outcomes(report)] == ["failed"] * 2
    assert "ended before it had brought the package: the job has ended and left no exit record" in outcomes(report)[0][1]
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert {run["retries_used"] for run in by_jobs.runs()} == {1}


def test_a_job_that_was_ended_half_way_costs_nothing(empty_observatory):
    empty_observatory.settings_changes["stage_parallel"] = 1
    observatory = night(empty_observatory, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))
    observatory.run_pass("stage")
    (job,) = open_jobs(observatory)
    (observatory.base / str(transfer_files.order_path(job["token"], 1))).rename(observatory.folder / "kept")
    observatory.jobs()  # it brings the first one
    record = observatory.base / str(TRANSFERS) / job["token"] / "attempt" / "job" / "exit.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"signal": "TERM", "exit_code": 143}))
    observatory.run_pass("stage")
    assert complete(observatory) == ["COMPLETED"] * 2
    assert {run["retries_used"] for run in observatory.runs()} == {0}
    assert [job["packages"] for job in observatory.rows("transfer_job")] == [2, 1]


KILLED = """#!/bin/sh
# A Python that is killed at the order {brings}: argv is -I PROGRAM BASE_DIR TOKEN.
orders="$3/.transfers/$4/orders"
mkdir "$orders.later"
for order in "$orders"/*; do [ "${{order##*/}}" -lt {brings} ] || mv "$order" "$orders.later"; done
"{python}" "$@"
mv "$orders.later"/* "$orders"
kill -9 $$
"""


def killed_night(observatory, names, brings):
    """Runs that wait for packages of a job that is killed once it has brought so many; one job at a time."""
    python = observatory.folder / "killed-python"
    python.write_text(KILLED.format(brings=brings, python=sys.executable))
    python.chmod(0o755)
    observatory.settings_changes["stage_parallel"] = 1
    return night(observatory, *(Scan(name, good_tar(a=name.encode())) for name in names), python=str(python))


def test_a_killed_job_costs_an_attempt_for_the_package_that_it_was_at_and_for_no_other(empty_observatory):
    observatory = killed_night(empty_observatory, ("one", "two", "three"), brings=1)
    observatory.run_pass("stage")
    observatory.jobs()
    report = observatory.run_pass("stage")
    assert sorted(outcome for outcome, _ in outcomes(report)) == ["failed", "staged", "transferring"]
    assert len(open_jobs(observatory)) == 1  # in that very pass, for what the other had not begun
    observatory.settings_changes["stage"] = JOB
    assert complete(observatory) == ["COMPLETED"] * 3
    assert sorted(run["retries_used"] for run in observatory.runs()) == [0, 0, 1]
    assert next(job["brought"] for job in observatory.rows("transfer_job")) == 1


def test_a_job_that_is_killed_every_time_ends_in_failures_that_say_so(empty_observatory):
    names = [f"n{number}" for number in range(6)]
    observatory = killed_night(empty_observatory, names, brings=0)
    for charged in ([1], [1, 1], [1] * 6):  # the third in a row that brings nothing is no fault of one package
        observatory.run_pass("stage")
        observatory.jobs()
        report = observatory.run_pass("stage", limit=0)
        failed = [reason for outcome, reason in outcomes(report) if outcome == "failed"]
        assert [run["retries_used"] for run in observatory.runs() if run["failure_class"]] == charged, failed
    assert all("(none of the last 3 staging jobs brought anything)" in reason for reason in failed)
    for _ in range(12):
        complete(observatory)
    assert {run["status"] for run in observatory.runs()} == {"FAILED"}
    assert all("ended before it had brought the package: " in run["message"] for run in observatory.runs())
    assert len(observatory.rows("transfer_job")) <= 6


def test_answers_that_were_recorded_are_not_read_again_and_their_list_may_be_lost(empty_observatory, monkeypatch):
    observatory = killed_night(empty_observatory, ("one", "two"), brings=1)
    observatory.run_pass("stage")
    observatory.jobs()
    monkeypatch.setattr(type(observatory), "batch", lambda s, e=None: Away(s.folder / "batch", s.base, PlainEffects()))
    read, seen = LocalWorkFiles.read_files, []

    def watched(files, paths, **how):
        paths = list(paths)
        seen.extend(path.name for path in paths if path.parent.name == "results")
        return read(files, paths, **how)

    monkeypatch.setattr(LocalWorkFiles, "read_files", watched)
    for _ in range(3):
        observatory.run_pass("stage")
    assert seen == ["0"]
    (job,) = open_jobs(observatory)
    (observatory.base / str(transfer_files.recorded_path(job["token"]))).write_bytes(b"x\n")
    observatory.run_pass("stage")
    observatory.run_pass("stage")
    assert seen == ["0", "0"]
    assert sorted(run["status"] for run in observatory.runs()) == ["STAGED", "STAGING_DATA"]


@pytest.mark.parametrize("torn", [b"{bad", b"", transfer_files.CODEC.encode({"of": "another release"})])
@pytest.mark.parametrize("which", ["order_path", "result_path"])
def test_an_order_or_answer_that_cannot_be_read_stops_nothing_and_its_package_comes_with_the_next_job(
    empty_observatory, torn, which
):
    empty_observatory.settings_changes["stage_parallel"] = 1
    observatory = night(empty_observatory, Scan("one", good_tar(a=b"1")), Scan("two", good_tar(a=b"2")))
    observatory.run_pass("stage")
    (job,) = open_jobs(observatory)
    path = observatory.base / str(getattr(transfer_files, which)(job["token"], 0))
    if which == "order_path":
        path.write_bytes(torn)
    observatory.jobs()
    path.write_bytes(torn)
    report = observatory.run_pass("stage")
    assert sorted(outcome for outcome, _ in outcomes(report)) == ["failed", "staged"] and report.error is None
    text = "orders/0 cannot be read: " if which == "order_path" else "it left no answer for it that can be read"
    assert any(text in reason for _, reason in outcomes(report))
    assert complete(observatory) == ["COMPLETED"] * 2
    assert [job["packages"] for job in observatory.rows("transfer_job")] == [2, 1]


def test_a_program_that_cannot_run_there_is_named(by_jobs):
    by_jobs.settings_changes["stage"] = replace(JOB, python="/no/such/python")
    by_jobs.run_pass("stage")
    by_jobs.jobs()
    report = by_jobs.run_pass("stage")
    assert "the program ended with exit code 127: " in outcomes(report)[0][1]
    assert "/no/such/python" in outcomes(report)[0][1]


class Refusing(FileBatch):
    outcome = "refused"

    def submit(self, jobs):
        return [SubmitResult(job.token, self.outcome, None, "invalid partition specified: nowhere") for job in jobs]


@pytest.mark.parametrize("outcome", ["refused", "throttled", "not-asked"])
def test_jobs_that_the_batch_system_does_not_take_are_no_fault_of_runs(by_jobs, outcome, monkeypatch):
    monkeypatch.setattr(Refusing, "outcome", outcome)
    monkeypatch.setattr(
        type(by_jobs), "batch", lambda self, effects=None: Refusing(self.folder / "batch", self.base, PlainEffects())
    )
    report = by_jobs.run_pass("stage")
    assert (report.error is not None) == (outcome == "refused")
    if report.error is not None:
        assert "invalid partition specified: nowhere" in report.error.message and "table `stage`" in report.error.next
    assert open_jobs(by_jobs) == [] and folders(by_jobs) == []
    assert {(run["status"], run["retries_used"]) for run in by_jobs.runs()} == {("STAGING_DATA", 0)}
    assert all(package["state"] == "GONE" for package in by_jobs.rows("staged_package"))


def test_a_job_that_another_pass_gave_up_meanwhile_is_not_let_go(by_jobs, monkeypatch):
    class Slow(FileBatch):
        """While it takes jobs, a pass on another host gives them up."""

        def submit(self, jobs):
            by_jobs.execute("UPDATE {schema}transfer_job SET state = 'ENDED', doubtful = TRUE")
            return super().submit(jobs)

    with monkeypatch.context() as patch:
        patch.setattr(type(by_jobs), "batch", lambda s, e=None: Slow(s.folder / "batch", s.base, PlainEffects()))
        by_jobs.run_pass("stage")
    assert by_jobs.jobs() == 0
    assert {job["state"] for job in by_jobs.rows("transfer_job")} == {"ENDED"}


class Silent(FileBatch):
    """Takes jobs, and its answer is lost."""

    grace_seconds = 900

    def submit(self, jobs):
        super().submit(jobs)
        return [SubmitResult(job.token, "unknown", None, "Socket timed out") for job in jobs]


def test_a_lost_answer_is_looked_up_and_the_job_is_adopted(by_jobs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(by_jobs), "batch", lambda s, e=None: Silent(s.folder / "batch", s.base, PlainEffects()))
        report = by_jobs.run_pass("stage")
        assert report.exit_code == 4 and "Socket timed out" in report.error.message
    assert [job["state"] for job in open_jobs(by_jobs)] == ["INTENDED"] * 2
    by_jobs.run_pass("stage")
    assert [job["state"] for job in open_jobs(by_jobs)] == ["RELEASED"] * 2
    assert complete(by_jobs) == ["COMPLETED"] * 2
    assert len(by_jobs.rows("transfer_job")) == 2


class Away(FileBatch):
    def poll(self, jobs):
        return [JobReport(job.job_id, job.array_index, JobState.UNKNOWN) for job in jobs]


def test_what_jobs_have_brought_is_used_while_the_batch_system_is_silent(by_jobs, monkeypatch):
    by_jobs.run_pass("stage")
    by_jobs.jobs()
    monkeypatch.setattr(type(by_jobs), "batch", lambda s, e=None: Away(s.folder / "batch", s.base, PlainEffects()))
    by_jobs.run_pass("stage")
    assert [run["status"] for run in by_jobs.runs()] == ["STAGED"] * 2


# --- kills --------------------------------------------------------------------------------------------------


def effects_of_a_pass(observatory):
    counting = Strike(at=10**9)
    pass_in_child_counting(observatory, counting)
    return counting.count


def pass_in_child_counting(observatory, counting):
    observatory.minute += 1
    context = observatory.context(counting)
    from ccatwm.passes._frame import PassOptions

    wiring.run_pass("stage", context, PassOptions())
    context.database.dispose()


def killed(observatory, at, when):
    """One `stage` that dies at its `at`-th effect; False when it came to its end before."""
    try:
        answer = pass_in_child(observatory, "stage", Strike(at, lambda: os._exit(0), when))
    except ValueError:  # no answer came
        return True
    assert not answer["struck"]
    return False


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", ["handing over", "settling"])
def test_a_pass_killed_at_any_moment_loses_no_package_and_has_none_brought_twice(
    empty_observatory, tmp_path, when, moment
):
    observatory = night(empty_observatory, Scan("one", good_tar(a=b"1")))
    if moment == "settling":
        observatory.run_pass("stage")
        observatory.jobs()
    at, count = 1, 0
    step = 2 if observatory.url.startswith("sqlite") else 5
    while killed(observatory, at, when):
        count += 1
        at += step  # a later pass begins where the one before was killed: it goes on from there
        assert count < 200
    observatory.minute += 30
    assert complete(observatory) == ["COMPLETED"]
    handed_over = [job for job in observatory.rows("transfer_job") if job["job_id"] is not None]
    assert count >= 3 and len(handed_over) == 1
    observe(observatory, Scan("two", good_tar(a=b"2")))
    assert complete(observatory) == ["COMPLETED"] * 2
    assert {run["retries_used"] for run in observatory.runs()} == {0}
    assert open_jobs(observatory) == [] and folders(observatory) == []


# --- the program --------------------------------------------------------------------------------------------


@pytest.fixture
def job_folder(tmp_path):
    """A base directory with one job of three packages; `orders` are written, and it can be run."""
    base = tmp_path / "base"
    raw = tmp_path / "raw"
    base.mkdir()
    raw.mkdir()
    files = LocalWorkFiles(base, PlainEffects())
    writes = [
        FileWrite(transfer_files.program_path("t"), transfer_files.build_program()),
        FileWrite(transfer_files.stores_path("t"), transfer_files.encode_stores({})),
    ]
    for number in range(3):
        (raw / f"{number}.tar").write_bytes(good_tar(a=b"x" * 3_000_000))
        copy = PackageCopy(str(number), "raw", "disk", str(raw), f"{number}.tar")
        order = PackageOrder(f"p{number}", PurePosixPath(f".cache/packages/p{number}"), (copy,))
        writes.append(FileWrite(transfer_files.order_path("t", number), transfer_files.encode_order(order)))
    files.write_files(writes)
    return base


def start(base):
    """As the job script does, by a Python that has nothing installed."""
    program = base / str(transfer_files.program_path("t"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(program), str(base), "t"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def results(base):
    return sorted(p.name for p in (base / ".transfers" / "t").glob("results/*"))


def test_the_program_needs_nothing_but_python(job_folder):
    program = start(job_folder)
    said, complaint = program.communicate(timeout=60)
    assert (program.returncode, complaint, said.count("is there")) == (0, "", 3)
    assert results(job_folder) == ["0", "1", "2"]
    assert [p.stat().st_size for p in sorted(job_folder.glob(".cache/packages/*/a"))] == [3_000_000] * 3


def test_a_program_that_is_started_again_goes_on_where_it_was(job_folder):
    start(job_folder).communicate(timeout=60)
    (job_folder / ".transfers" / "t" / "results" / "1").unlink()
    shutil.rmtree(job_folder / ".cache" / "packages" / "p1")
    said, _ = start(job_folder).communicate(timeout=60)
    assert said == "p1: is there\n"


@pytest.mark.parametrize(("number", "answers"), [(signal.SIGTERM, [[], ["0"]]), (signal.SIGUSR1, [["0"]])])
def test_told_to_end_it_breaks_off_and_warned_it_finishes_what_it_has_begun(job_folder, number, answers):
    pipe = job_folder.parent / "raw" / "slow"
    content = good_tar(a=b"x" * 3_000_000)
    # The first package comes as slowly as the test says: from a process that waits for a word.
    order = transfer_files.order_path("t", 0)
    copy = PackageCopy("0", "raw", "disk", str(pipe.parent), "slow")
    pipe.write_bytes(content)
    data = transfer_files.encode_order(PackageOrder("p0", PurePosixPath(".cache/packages/p0"), (copy,)))
    (job_folder / str(order)).write_bytes(data)
    program = start(job_folder)
    deadline = time.monotonic() + 30
    while program.poll() is None and not list(job_folder.glob(".cache/packages/.*")) and not results(job_folder):
        assert time.monotonic() < deadline
    program.send_signal(number)
    program.communicate(timeout=60)
    assert program.returncode == 0
    done = results(job_folder)
    assert done in answers or done == ["0", "1", "2"]  # it may have been faster than the signal
    assert sorted(p.name for p in job_folder.glob(".cache/packages/p*")) == [f"p{name}" for name in done]
    assert not list(job_folder.glob(".cache/packages/.*"))


# --- what jobs can read -------------------------------------------------------------------------------------


LISTED = {f"chunk-{number}": (1, None) for number in range(5000)}
TOO_MANY = {f"{number:06}" + "x" * 2000: (1, None) for number in range(20_000)}


@given(st.dictionaries(st.text(max_size=20), st.tuples(st.integers(0, 2**63), st.none() | st.text(max_size=20))))
def test_how_much_an_order_takes_is_known_without_encoding_it(members):
    order = PackageOrder("p", PurePosixPath("p"), (), members)
    size = len(transfer_files.encode_order(order))
    assert size <= len(transfer_files.encode_order(replace(order, members={}))) + transfer_files._bytes_of(members)


def test_an_order_is_encoded_to_see_whether_it_can_be_sent_only_near_the_limit(monkeypatch):
    encoded = []
    monkeypatch.setattr(transfer_files, "encode_order", lambda order: encoded.append(order))
    order = PackageOrder("p", PurePosixPath("p"), (), LISTED)
    assert transfer_files.can_order(order) and encoded == []
    assert transfer_files.can_order(replace(order, members=TOO_MANY)) and len(encoded) == 1


@pytest.mark.parametrize(
    ("key_file", "members", "by_job"),
    [("/keys", {}, True), ("", {}, False), ("/keys", LISTED, True), ("/keys", TOO_MANY, False)],
)
def test_a_job_takes_what_it_can_be_told_of_and_has_keys_in_a_file_for(by_jobs, key_file, members, by_job):
    from ccatwm.core.cache import Amount
    from ccatwm.passes._bring import Sought
    from ccatwm.passes._frame import PassFrame, PassOptions, PassReport
    from ccatwm.passes._transfers import Transfers

    by_jobs.settings_changes["locations"] = {"cloud": LocationSettings("s3://bucket", credentials_file=key_file)}
    context = by_jobs.context()
    report = PassReport("stage", "here", context.clock.now())
    transfers = Transfers(PassFrame(context, report, PassOptions(), None), lambda run, error: None)
    copy = PackageCopy("1", "cloud", "s3", None, "x.tar")
    package = RunInput(InputKind.PACKAGE, InputRole.MEMBER, "x", "1", None, None)
    assert transfers.takes(Sought(package, PurePosixPath("x"), [copy], set(), members, Amount())) is by_job
    context.database.dispose()
