"""The local batch system under kills, crowds and leftovers, with its real supervisor."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ccatwm.edges.clock import SystemClock
from ccatwm.edges.scheduler.local import build_scheduler
from ccatwm.errors import SchedulerUnavailableError
from ccatwm.interfaces import JobState, JobTask, SchedulerSetup
from tests.contracts.job_site import Site, end_processes_of, local_site, processes_of

pytestmark = pytest.mark.quick


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "base").mkdir()
    (tmp_path / "state").mkdir()
    yield local_site(tmp_path)
    assert not end_processes_of(tmp_path), "processes were left"


def job_file(site: Site, token: str, name: str) -> Path:
    return site.root / "state" / "local-jobs" / token / name


def supervisor(site: Site, token: str) -> int:
    return int(json.loads(job_file(site, token, "process.json").read_bytes())["pid"])


def wait_until(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_dead(pid: int) -> None:
    until = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < until, f"{pid} lives"
        time.sleep(0.02)


# --- a job that cannot begin -----------------------------------------------------------------------------


def test_a_job_that_lacks_programs_ends_at_once_with_a_record(site: Site) -> None:
    request = site.request("a", "touch ../output/ran")
    script = site.base / request.directory / "job.sh"
    script.write_text(script.read_text().replace("\nusual_path=", "\nPATH= usual_path=/nowhere #"))
    assert site.scheduler().submit([request])[0].outcome == "accepted"
    site.scheduler().release(["a"])
    report = site.wait("a", JobState.ENDED)
    record = json.loads(site.exit_record("a").read_bytes())
    assert (report.cause, record["reason"], record["exit_code"]) == (None, "programs-missing", 78)
    assert not site.output("a", "ran").exists()


def test_a_job_that_could_not_begin_and_left_no_record_is_not_waited_for(site: Site) -> None:
    request = site.request("a")
    (site.base / request.directory / "tasks").unlink()
    site.scheduler().submit([request])
    site.scheduler().release(["a"])
    report = site.wait("a", JobState.ENDED)
    assert (report.cause, "the job could not begin: job.sh: cannot read" in report.message) == ("container", True)
    report = site.wait(site.start("b", "exit 78"), JobState.ENDED)
    assert report.cause is None, "the program's own exit code"


# --- slots ---------------------------------------------------------------------------------------------


def test_no_more_jobs_run_at_once_than_there_are_slots(site: Site) -> None:
    line = "echo + >>../../../log; sleep 0.3; echo - >>../../../log"
    jobs = [site.start(f"j{number}", line) for number in range(5)]
    for job in jobs:
        site.wait(job, JobState.ENDED)
    running = peak = 0
    for word in (site.base / "log").read_text().split():
        running += 1 if word == "+" else -1
        peak = max(peak, running)
    assert peak == 2


def test_a_waiting_job_is_pending_and_leaves_when_cancelled(site: Site) -> None:
    busy = [site.start(f"busy{number}", "sleep 30") for number in range(2)]
    for job in busy:
        site.wait(job, JobState.RUNNING)
    waiting = [site.start(f"w{number}", "touch ../output/ran") for number in range(2)]
    assert {site.report(job).state for job in waiting} == {JobState.PENDING}
    site.scheduler().cancel([JobTask(job) for job in waiting])
    for job in waiting:
        assert site.wait(job, JobState.ENDED).cause == "cancelled-outside"
    site.scheduler().cancel([JobTask(job) for job in busy])
    for job in busy:
        site.wait(job, JobState.ENDED)
    assert not site.output("w0", "ran").exists()


def test_only_live_jobs_count_against_the_queue(site: Site) -> None:
    site.options["max_queued"] = 2
    site.wait(site.start("ended"), JobState.ENDED)
    site.scheduler().submit([site.request("cancelled")])
    site.scheduler().cancel([JobTask("cancelled")])
    assert site.scheduler().limits().free_tasks == 2
    outcomes = [r.outcome for r in site.scheduler().submit([site.request(t) for t in ("a", "b", "c")])]
    assert outcomes == ["accepted", "accepted", "throttled"]


# --- the process tree ----------------------------------------------------------------------------------


def test_leftovers_in_a_session_of_their_own_are_ended(site: Site) -> None:
    job = site.start("a", "setsid sleep 60 & echo $! >../output/pid; sleep 0.2")
    site.wait(job, JobState.ENDED)
    assert site.report(job).cause is None
    wait_dead(int(site.output("a", "pid").read_text()))


def test_cancel_ends_the_whole_tree(site: Site) -> None:
    stubborn = "echo $$ >../output/pid; trap : TERM; while :; do sleep 0.1; done"
    job = site.start("a", f"setsid sh -c '{stubborn}' & wait")
    wait_until(site.output("a", "pid"))
    site.scheduler().cancel([JobTask(job)])
    site.wait(job, JobState.ENDED)
    wait_dead(int(site.output("a", "pid").read_text()))


def test_a_payload_that_detaches_twice_does_not_escape(site: Site) -> None:
    escape = "( setsid sh -c '( sleep 60 & echo $! >../output/pid )' ) & sleep 0.3"
    site.wait(site.start("a", escape), JobState.ENDED)
    wait_dead(int(site.output("a", "pid").read_text()))


# --- kills ---------------------------------------------------------------------------------------------


def test_a_job_that_lost_its_supervisor_is_running_until_it_ends(site: Site) -> None:
    job = site.start("a", "touch ../output/ready; while [ ! -e ../output/go ]; do sleep 0.02; done")
    wait_until(site.output("a", "ready"))
    os.kill(supervisor(site, "a"), signal.SIGKILL)
    wait_dead(supervisor(site, "a"))
    assert site.report(job).state is JobState.RUNNING
    site.scheduler().release([job])
    site.output("a", "go").touch()
    report = site.wait(job, JobState.ENDED)
    assert report.cause is None and site.exit_record("a").exists()


def test_a_job_that_lost_its_supervisor_can_be_cancelled(site: Site) -> None:
    job = site.start("a", "touch ../output/ready; sleep 60")
    wait_until(site.output("a", "ready"))
    os.kill(supervisor(site, "a"), signal.SIGKILL)
    wait_dead(supervisor(site, "a"))
    site.scheduler().cancel([JobTask(job)])
    site.wait(job, JobState.ENDED)
    assert json.loads(site.exit_record("a").read_bytes())["signal"] == "TERM"
    site.scheduler().cancel([JobTask(job)])  # what is left of it
    assert not end_processes_of(site.root)


def kill_all_of_it(site: Site, token: str) -> None:
    os.kill(supervisor(site, token), signal.SIGKILL)
    while left := processes_of(site.root):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("script_too", [False, True])
def test_a_job_that_lost_its_supervisor_keeps_its_time_limit(site: Site, script_too: bool) -> None:
    job = site.start("a", "touch ../output/ready; sleep 60", time_seconds=3)
    wait_until(site.output("a", "ready"))
    if script_too:
        script = int(json.loads(job_file(site, "a", "script.json").read_bytes())["pid"])
    os.kill(supervisor(site, "a"), signal.SIGKILL)
    wait_dead(supervisor(site, "a"))
    if script_too:
        os.kill(script, signal.SIGKILL)
    assert site.report(job).state is JobState.RUNNING
    assert site.wait(job, JobState.ENDED).cause == "timeout"
    assert site.report(job).cause == "timeout"
    until = time.monotonic() + 10
    while processes_of(site.root):  # what it left behind goes, too
        site.report(job)
        assert time.monotonic() < until


def test_a_job_whose_every_process_was_killed_is_lost(site: Site) -> None:
    job = site.start("a", "touch ../output/ready; sleep 60")
    wait_until(site.output("a", "ready"))
    kill_all_of_it(site, "a")
    assert site.wait(job, JobState.ENDED).cause == "lost"


def test_a_claimed_job_of_an_earlier_boot_is_a_node_failure(site: Site) -> None:
    job = site.start("a", "touch ../output/ready; sleep 60")
    wait_until(site.output("a", "ready"))
    kill_all_of_it(site, "a")
    site.wait(job, JobState.ENDED)
    record = json.loads(job_file(site, "a", "process.json").read_bytes())
    job_file(site, "a", "process.json").write_text(json.dumps({**record, "boot_id": "earlier"}))
    assert site.report(job).cause == "node-failure"


def test_a_supervisor_killed_while_it_waits_is_started_again_by_release(site: Site) -> None:
    busy = [site.start(f"busy{number}", "sleep 30") for number in range(2)]
    for name in busy:
        site.wait(name, JobState.RUNNING)
    job = site.start("a", "echo ran >>../output/ran")
    os.kill(supervisor(site, "a"), signal.SIGKILL)
    assert site.wait(job, JobState.HELD).cause is None
    site.scheduler().release([job])
    site.scheduler().cancel([JobTask(name) for name in busy])
    site.wait(job, JobState.ENDED)
    assert site.output("a", "ran").read_text() == "ran\n"
    for name in busy:
        site.wait(name, JobState.ENDED)


def test_a_recycled_pid_is_not_signalled(site: Site) -> None:
    site.scheduler().submit([site.request("a")])
    victim = os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    forged = {"format": 1, "pid": victim, "start_ticks": 1, "boot_id": boot, "host": "h"}
    job_file(site, "a", "process.json").write_text(json.dumps(forged))
    site.scheduler().cancel([JobTask("a")])  # a TERM to this very process would end the tests
    assert site.report("a").state is JobState.ENDED


class KillAt:
    """Ends the process, as kill -9 would, before or after its n-th effect."""

    def __init__(self, number: int, after: bool) -> None:
        self.left, self.after = number, after

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        hit = self.left == 0
        self.left -= 1
        if hit and not self.after:
            os._exit(9)
        yield
        if hit and self.after:
            os._exit(9)


def submit_and_release(site: Site, token: str, number: int, after: bool) -> int:
    """In a forked child that is killed at effect `number`; its exit code, 0 if there are fewer effects."""
    request = site.request(token, "echo ran >>../output/ran")
    pid = os.fork()
    if pid == 0:
        effects = KillAt(number, after)
        state = str(site.root / "state")
        setup = SchedulerSetup("here", state, str(site.base), site.options, effects, SystemClock())
        scheduler = build_scheduler(setup)
        scheduler.submit([request])
        scheduler.release([token])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed_at_any_effect_the_same_calls_again_run_the_job_once(site: Site) -> None:
    points = 0
    for after in (False, True):
        for number in range(100):
            token = f"k{number}{'after' if after else 'before'}"
            code = submit_and_release(site, token, number, after)
            assert site.scheduler().find([token]).certain
            assert site.start(token, "echo ran >>../output/ran") == token
            site.wait(token, JobState.ENDED)
            assert site.output(token, "ran").read_text() == "ran\n"
            if code == 0:
                break
            points += 1
    assert points == 12  # before and after: mkdir, record and released (each write, rename), process start


# --- the world -----------------------------------------------------------------------------------------


def test_a_base_directory_that_is_away_decides_nothing(site: Site) -> None:
    job = site.start("a", "touch ../output/ready; sleep 60")
    wait_until(site.output("a", "ready"))
    kill_all_of_it(site, "a")
    site.wait(job, JobState.ENDED)
    site.base.rename(site.root / "away")
    assert site.report(job).state is JobState.UNKNOWN


def test_a_state_folder_that_cannot_be_used_says_so(site: Site) -> None:
    (site.root / "state" / "local-jobs").write_text("a file")
    with pytest.raises(SchedulerUnavailableError, match="local-jobs"):
        site.scheduler().submit([site.request("a")])


def test_jobs_that_ended_long_ago_are_forgotten(site: Site) -> None:
    site.wait(site.start("old"), JobState.ENDED)
    folder = job_file(site, "old", "")
    os.utime(folder, (0, 0))
    site.scheduler().submit([site.request("new")])
    assert not folder.exists()


def test_a_token_that_is_a_path_is_refused(site: Site) -> None:
    assert site.scheduler().submit([site.request("a/../b")])[0].outcome == "refused"
