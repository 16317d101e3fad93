"""What every batch system promises, seen through the port alone; one suite over all backends. Touches: pytest's folders.

A test module of the author says `from ccatwm.testing.scheduler import *` and has a fixture `build_scheduler`, the factory
of its entry point; it may have `scheduler_options` and `measures`, which are fixtures here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccatwm.interfaces import JobState, JobTask, SchedulerFactory
from ccatwm.testing.job_site import JobSite, end_processes_of


@pytest.fixture
def scheduler_options() -> dict[str, Any]:
    """What the site's settings say in `SCHEDULER_OPTIONS`."""
    return {}


@pytest.fixture
def measures() -> bool:
    """Whether the batch system tells what processor time and memory a job used."""
    return True


@pytest.fixture
def job_site(
    build_scheduler: SchedulerFactory, scheduler_options: dict[str, Any], measures: bool, tmp_path: Path
) -> Iterator[JobSite]:
    """An empty base directory and the scheduler over it; every process below it must have ended afterwards."""
    (tmp_path / "base").mkdir()
    (tmp_path / "state").mkdir()
    yield JobSite(tmp_path, build_scheduler, scheduler_options, measures)
    assert not end_processes_of(tmp_path), "processes were left"


def test_nothing_runs_before_release(job_site: JobSite) -> None:
    job_id = str(job_site.scheduler().submit([job_site.request("a", "touch ../output/ran")])[0].job_id)
    time.sleep(0.3)
    assert job_site.report(job_id).state is JobState.HELD
    assert not job_site.output("a", "ran").exists()


def test_a_released_job_runs_and_ends(job_site: JobSite) -> None:
    job_id = job_site.start("a", "touch ../output/ran")
    report = job_site.wait(job_id, JobState.ENDED)
    assert job_site.output("a", "ran").exists() and job_site.exit_record("a").exists()
    assert report.cause is None


def test_release_again_runs_nothing_again(job_site: JobSite) -> None:
    job_id = job_site.start("a", "echo ran >>../output/ran; sleep 0.3")
    assert job_site.scheduler().release([job_id, job_id]) == {job_id: True}
    job_site.wait(job_id, JobState.ENDED)
    assert job_site.scheduler().release([job_id]) == {job_id: True}
    assert job_site.output("a", "ran").read_text() == "ran\n"


def test_a_token_submitted_twice_is_one_job(job_site: JobSite) -> None:
    request = job_site.request("a")
    ids = {result.job_id for result in job_site.scheduler().submit([request, request])}
    assert len(ids) == 1


def test_a_held_job_is_found_by_its_token(job_site: JobSite) -> None:
    job_id = job_site.scheduler().submit([job_site.request("a")])[0].job_id
    found = job_site.scheduler().find(["a", "b"])
    assert [job.job_id for job in found.jobs["a"]] == [job_id]
    assert "b" not in found.jobs


def test_a_job_nobody_knows_is_absent_and_not_released(job_site: JobSite) -> None:
    assert job_site.report("nobody").state is JobState.ABSENT
    assert job_site.scheduler().release(["nobody"]) == {"nobody": False}


def test_an_ended_job_has_times_and_resources(job_site: JobSite) -> None:
    use = "import time\nx = bytearray(60 << 20)\nwhile time.process_time() < 0.4: pass"
    report = job_site.wait(job_site.start("a", f'{sys.executable} -c "exec({use!r})"'), JobState.ENDED)
    assert report.started_at is not None and report.ended_at is not None and report.host
    assert 0.3 <= (report.wall_seconds or 0) < 20
    if not job_site.measures:
        return
    assert 0.3 / 3600 <= (report.cpu_hours or 0) < 20 / 3600
    assert 60 / 1024 < (report.peak_memory_gb or 0) < 1


def test_a_running_job_is_running(job_site: JobSite) -> None:
    job_id = job_site.start("a", "touch ../output/ready; sleep 30")
    assert job_site.wait(job_id, JobState.RUNNING).started_at is not None
    job_site.scheduler().cancel([JobTask(job_id)])
    job_site.wait(job_id, JobState.ENDED)


def test_a_cancelled_held_job_never_runs(job_site: JobSite) -> None:
    job_id = str(job_site.scheduler().submit([job_site.request("a", "touch ../output/ran")])[0].job_id)
    job_site.scheduler().cancel([JobTask(job_id)])
    job_site.scheduler().release([job_id])
    time.sleep(0.3)
    assert job_site.report(job_id).state in (JobState.ENDED, JobState.ABSENT)
    assert not job_site.output("a", "ran").exists()


def test_cancel_ends_the_job_and_twice_is_fine(job_site: JobSite) -> None:
    job_id = job_site.start("a", "touch ../output/ready; sleep 60")
    job_site.wait(job_id, JobState.RUNNING)
    job_site.scheduler().cancel([JobTask(job_id)])
    job_site.scheduler().cancel([JobTask(job_id)])
    assert job_site.wait(job_id, JobState.ENDED).cause == "cancelled-outside"


def test_a_job_past_its_time_is_ended_as_timeout_with_its_record(job_site: JobSite) -> None:
    job_id = job_site.start("a", "trap '' TERM; while :; do sleep 0.05; done", time_seconds=1)
    assert job_site.wait(job_id, JobState.ENDED).cause == "timeout"
    assert job_site.exit_record("a").exists()


def test_one_attempt_claimed_by_somebody_else_is_not_run(job_site: JobSite) -> None:
    request = job_site.request("a", "touch ../output/ran")
    (job_site.base / "runs" / "a" / "job" / "claims" / "0").mkdir(mode=0o500)
    job_id = str(job_site.scheduler().submit([request])[0].job_id)
    job_site.scheduler().release([job_id])
    job_site.wait(job_id, JobState.ENDED)
    assert not job_site.output("a", "ran").exists()
