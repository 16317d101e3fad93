"""What every batch system promises, seen through the port alone; one suite over all backends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccatwm.interfaces import JobState, JobTask
from tests.contracts.job_site import SITES, Site, end_processes_of

pytestmark = pytest.mark.quick


@pytest.fixture(params=sorted(SITES))
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "base").mkdir()
    (tmp_path / "state").mkdir()
    site = SITES[request.param](tmp_path)
    yield site
    assert not end_processes_of(tmp_path), "processes were left"


def test_nothing_runs_before_release(site: Site) -> None:
    job_id = str(site.scheduler().submit([site.request("a", "touch ../output/ran")])[0].job_id)
    time.sleep(0.3)
    assert site.report(job_id).state is JobState.HELD
    assert not site.output("a", "ran").exists()


def test_a_released_job_runs_and_ends(site: Site) -> None:
    job_id = site.start("a", "touch ../output/ran")
    report = site.wait(job_id, JobState.ENDED)
    assert site.output("a", "ran").exists() and site.exit_record("a").exists()
    assert report.cause is None


def test_release_again_runs_nothing_again(site: Site) -> None:
    job_id = site.start("a", "echo ran >>../output/ran; sleep 0.3")
    assert site.scheduler().release([job_id, job_id]) == {job_id: True}
    site.wait(job_id, JobState.ENDED)
    assert site.scheduler().release([job_id]) == {job_id: True}
    assert site.output("a", "ran").read_text() == "ran\n"


def test_a_token_submitted_twice_is_one_job(site: Site) -> None:
    request = site.request("a")
    ids = {result.job_id for result in site.scheduler().submit([request, request])}
    assert len(ids) == 1


def test_a_held_job_is_found_by_its_token(site: Site) -> None:
    job_id = site.scheduler().submit([site.request("a")])[0].job_id
    found = site.scheduler().find(["a", "b"])
    assert [job.job_id for job in found.jobs["a"]] == [job_id]
    assert "b" not in found.jobs


def test_a_job_nobody_knows_is_absent_and_not_released(site: Site) -> None:
    assert site.report("nobody").state is JobState.ABSENT
    assert site.scheduler().release(["nobody"]) == {"nobody": False}


def test_an_ended_job_has_times_and_resources(site: Site) -> None:
    use = "import time\nx = bytearray(60 << 20)\nwhile time.process_time() < 0.4: pass"
    report = site.wait(site.start("a", f"{sys.executable} -c \"exec({use!r})\""), JobState.ENDED)
    assert report.started_at is not None and report.ended_at is not None and report.host
    assert 0.3 <= (report.wall_seconds or 0) < 20
    assert 0.3 / 3600 <= (report.cpu_hours or 0) < 20 / 3600
    assert 60 / 1024 < (report.peak_memory_gb or 0) < 1


def test_a_running_job_is_running(site: Site) -> None:
    job_id = site.start("a", "touch ../output/ready; sleep 30")
    assert site.wait(job_id, JobState.RUNNING).started_at is not None
    site.scheduler().cancel([JobTask(job_id)])
    site.wait(job_id, JobState.ENDED)


def test_a_cancelled_held_job_never_runs(site: Site) -> None:
    job_id = str(site.scheduler().submit([site.request("a", "touch ../output/ran")])[0].job_id)
    site.scheduler().cancel([JobTask(job_id)])
    site.scheduler().release([job_id])
    time.sleep(0.3)
    assert site.report(job_id).state in (JobState.ENDED, JobState.ABSENT)
    assert not site.output("a", "ran").exists()


def test_cancel_ends_the_job_and_twice_is_fine(site: Site) -> None:
    job_id = site.start("a", "touch ../output/ready; sleep 60")
    site.wait(job_id, JobState.RUNNING)
    site.scheduler().cancel([JobTask(job_id)])
    site.scheduler().cancel([JobTask(job_id)])
    assert site.wait(job_id, JobState.ENDED).cause == "cancelled-outside"


def test_a_job_past_its_time_is_ended_as_timeout_with_its_record(site: Site) -> None:
    job_id = site.start("a", "trap '' TERM; while :; do sleep 0.05; done", time_seconds=1)
    assert site.wait(job_id, JobState.ENDED).cause == "timeout"
    assert site.exit_record("a").exists()


def test_one_attempt_claimed_by_somebody_else_is_not_run(site: Site) -> None:
    request = site.request("a", "touch ../output/ran")
    (site.base / "runs" / "a" / "job" / "claims" / "0").mkdir(mode=0o500)
    job_id = str(site.scheduler().submit([request])[0].job_id)
    site.scheduler().release([job_id])
    site.wait(job_id, JobState.ENDED)
    assert not site.output("a", "ran").exists()
