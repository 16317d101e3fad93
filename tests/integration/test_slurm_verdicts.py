"""What is concluded of a job on a real Slurm: the rows of docs/explanation/verdicts.md.

Where Slurm cannot be brought to say something, recorded words of it are told by programs before the real ones.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccatwm.edges.scheduler._slurm_states import STATES
from ccatwm.interfaces import JobState
from tests.integration.conftest import SlurmSites
from tests.integration.slurm_site import SlurmSite, copy_site
from tests.passes.conftest import as_json

pytestmark = pytest.mark.slurm
# Of these periods nothing goes by while a slow machine runs a test: they are skipped by `later`.
GRACE = 400
REQUEUE = 200
RECORD_WAIT = 300
NO_CONTROLLER = (
    "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
)
NO_ACCOUNTING = "echo 'sacct: error: Sending PersistInit msg: Connection refused' >&2; exit 1"
NEVER = ("--begin=now+1hour",)
LIVE = sorted(word for word, meaning in STATES.items() if meaning.state is not JobState.ENDED)


def stamp(seconds: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def name_of(site: SlurmSite) -> str:
    return f"ccatwm-{site.submissions()[-1]['token']}"


def queued(site: SlurmSite, state: str, reason: str = "None", name: str = "", at: float = 0.0) -> str:
    """A line of squeue about our job."""
    return f"{site.job()}|0|{state}|{stamp(at)}|{stamp(at)}|node-1|{reason}|{name or name_of(site)}"


def accounted(site: SlurmSite, state: str, code: str = "0:0", name: str = "", at: float = 0.0) -> str:
    """A line of sacct about our job."""
    times = "|".join([stamp(at)] * 3)
    return f"{site.job()}_0|{state}|{code}|{times}|1|00:01|1K|node-1|{name or name_of(site)}"


def record_of(site: SlurmSite) -> Path:
    return site.attempt_folder() / "job" / "exit.json"


def verdict(site: SlurmSite) -> tuple[str, str | None]:
    """Status and failure class of the only run."""
    (run,) = site.runs()
    return run["status"], run["failure_class"]


def be_patient(site: SlurmSite) -> None:
    """Failed runs are not tried again, and nothing is concluded before its time."""
    site.changes |= {
        "retry_base_seconds": 9999,
        "retry_max_seconds": 9999,
        "grace_seconds": GRACE,
        "record_wait_seconds": RECORD_WAIT,
    }
    site.slurm["requeue_seconds"] = REQUEUE


def waits_and_then(site: SlurmSite, seconds: float) -> tuple[str, str | None]:
    """The verdict after this time; until then there is none."""
    site.poll()
    site.later(seconds - 60)
    site.poll()
    assert verdict(site) == ("SUBMITTED", None)
    site.later(61)
    site.poll()
    return verdict(site)


@pytest.fixture(scope="module")
def pending_one(all_slurm_sites: SlurmSites) -> SlurmSite:
    site = all_slurm_sites(1)
    be_patient(site)
    site.slurm["extra"] = NEVER
    site.submit()
    assert site.statuses() == ["SUBMITTED"]
    return site


@pytest.fixture
def pending(pending_one: SlurmSite, slurm_sites: SlurmSites) -> SlurmSite:
    """One run whose job has not begun."""
    return copy_site(pending_one, slurm_sites.folder())


@pytest.fixture(scope="module")
def finished_one(all_slurm_sites: SlurmSites) -> SlurmSite:
    site = all_slurm_sites(1)
    be_patient(site)
    site.submit()
    site.wait_for_jobs("COMPLETED")
    site.wait_for_accounting()
    return site


@pytest.fixture
def finished(finished_one: SlurmSite, slurm_sites: SlurmSites) -> SlurmSite:
    """One run whose job has ended well, which was not seen yet."""
    return copy_site(finished_one, slurm_sites.folder())


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_queue_that_cannot_be_asked_changes_no_run(finished: SlurmSite) -> None:
    finished.commands().always("squeue", NO_CONTROLLER)
    finished.later(1000)
    report = finished.poll()
    assert report.exit_code == 4
    assert "Unable to contact slurm controller" in str(report.error)
    assert verdict(finished) == ("SUBMITTED", None)


def test_a_controller_that_falls_silent_changes_no_run(finished: SlurmSite) -> None:
    finished.slurm["command_timeout_seconds"] = 1
    finished.cluster.pause("slurmctld")
    assert finished.poll().exit_code == 4
    assert verdict(finished) == ("SUBMITTED", None)
    finished.cluster.resume("slurmctld")
    finished.slurm["command_timeout_seconds"] = 30
    finished.poll()
    assert verdict(finished) == ("COLLECTING_RESULTS", None)


def test_a_job_out_of_the_queue_is_not_judged_while_accounting_is_away(finished: SlurmSite) -> None:
    commands = finished.commands()
    commands.queue()
    commands.always("sacct", NO_ACCOUNTING)
    finished.later(1000)
    assert finished.poll().exit_code == 4
    assert verdict(finished) == ("SUBMITTED", None)
    commands.behave(["sacct"])
    finished.poll()
    assert verdict(finished) == ("COLLECTING_RESULTS", None)


# --- in the queue ----------------------------------------------------------------------------------------------------


def test_no_word_of_a_live_job_ends_its_run(finished: SlurmSite) -> None:
    commands = finished.commands()
    commands.accounts(accounted(finished, "NODE_FAIL"))
    for word in LIVE:
        commands.queue(queued(finished, word))
        finished.later(100)
        assert finished.poll().exit_code == 0
        assert finished.statuses() in (["SUBMITTED"], ["RUNNING"]), word
    assert commands.count("sacct") == 0


def test_why_a_job_waits_is_kept(pending: SlurmSite) -> None:
    pending.commands().queue(queued(pending, "PENDING", "BadConstraints"))
    pending.poll()
    assert pending.attempt()["message"].startswith("BadConstraints; the step's resources are more than")


def test_a_job_that_somebody_holds_is_left_held(slurm_site: SlurmSite) -> None:
    slurm_site.slurm["extra"] = NEVER
    slurm_site.submit()
    slurm_site.cluster.scontrol("hold", slurm_site.job())
    slurm_site.poll()
    slurm_site.submit()
    assert [row[2] for row in slurm_site.queue()] == ["JobHeldAdmin"]
    assert "JobHeld" in slurm_site.attempt()["message"]


def test_a_running_job_is_running_with_its_node(slurm_site: SlurmSite) -> None:
    slurm_site.behave("exec sleep 60")
    slurm_site.submit()
    slurm_site.poll_until(lambda: slurm_site.statuses() == ["RUNNING"])
    assert slurm_site.attempt()["host"] == slurm_site.cluster.node


def test_an_ended_job_in_the_queue_is_judged_by_its_record(slurm_site: SlurmSite) -> None:
    slurm_site.submit()
    slurm_site.wait_for_jobs("COMPLETED")
    slurm_site.poll()
    assert verdict(slurm_site) == ("COLLECTING_RESULTS", None)


def test_a_node_that_lacks_programs_is_named_and_the_run_waits_for_a_person(slurm_site: SlurmSite) -> None:
    slurm_site.commands().once("sbatch", """
        for folder; do :; done
        sed -i 's#^usual_path=.*#PATH= usual_path=/nowhere#' "$folder/job.sh"
        real "$@"
    """)  # fmt: skip
    slurm_site.submit()
    slurm_site.wait_for_jobs("FAILED")
    slurm_site.poll()
    assert verdict(slurm_site) == ("FAILED", "container")
    (run,) = slurm_site.rows("executed_reduction_step")
    assert "lacks programs that every job needs: cp cut date" in run["message"]
    assert (run["due_at"], bool(run["blocking"]), slurm_site.attempt()["exit_code"]) == (None, True, 78)
    assert slurm_site.executions() == []


def test_exit_codes_are_the_program_s_own(slurm_sites: SlurmSites) -> None:
    """Accounting has others: before Slurm 25.11 it takes 128 off."""
    codes = [1, 127, 128, 137, 200, 255]
    site = slurm_sites(len(codes))
    be_patient(site)
    cases = " ".join(f"{run}) exit {code} ;;" for run, code in enumerate(codes, 1))
    site.behave(f"case $WORKFLOW_RUN_ID in {cases} esac")
    site.submit()
    site.wait_for_jobs("FAILED", "COMPLETED")
    site.poll()
    told = [(a["exit_code"], a["failure_class"]) for a in site.attempts()]
    assert told == [(code, "non-zero-exit") for code in codes]


# --- out of the queue, in accounting ---------------------------------------------------------------------------------


def test_a_job_that_accounting_calls_completed_has_succeeded_by_its_record(finished: SlurmSite) -> None:
    finished.commands().queue()
    finished.poll()
    assert verdict(finished) == ("COLLECTING_RESULTS", None)


def test_a_job_that_the_controller_forgot_has_succeeded_by_accounting_and_record(
    slurm_site: SlurmSite,
) -> None:
    slurm_site.submit()
    slurm_site.wait_for_jobs("COMPLETED")
    slurm_site.wait_for_accounting()
    slurm_site.cluster.stop("slurmctld")
    for path in (slurm_site.cluster.dir / "state").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    slurm_site.cluster.set(FirstJobId=int(slurm_site.job()) + 1000)  # other tests read accounting by id
    assert slurm_site.queue() == []
    slurm_site.until_quiet()
    slurm_site.check()


def test_a_completed_job_without_a_record_is_lost_after_a_while(finished: SlurmSite) -> None:
    finished.commands().queue()
    record_of(finished).unlink()
    assert waits_and_then(finished, RECORD_WAIT) == ("FAILED", "lost")


def test_a_record_that_shows_late_is_waited_for(finished: SlurmSite) -> None:
    finished.commands().queue()
    record = record_of(finished)
    record.rename(record.with_name("later"))
    finished.poll()
    assert verdict(finished) == ("SUBMITTED", None)
    record.with_name("later").rename(record)
    finished.poll()
    assert verdict(finished) == ("COLLECTING_RESULTS", None)


def test_the_record_of_another_attempt_is_none(finished: SlurmSite) -> None:
    finished.commands().queue()
    token = finished.submissions()[0]["token"]
    record_of(finished).write_text(record_of(finished).read_text().replace(token, "other"))
    assert waits_and_then(finished, RECORD_WAIT) == ("FAILED", "lost")


PROGRAM = """
case $WORKFLOW_RUN_ID in
    1) exit 3 ;;
    2) exec python3 -c 'held = bytearray(400 << 20)' ;;
    *) exec sleep 60 ;;
esac
"""
ENDS = ("non-zero-exit", "out-of-memory", "cancelled-outside")


@pytest.fixture(scope="module")
def bad_ends(all_slurm_sites: SlurmSites) -> SlurmSite:
    """Three runs that ended as `ENDS` says; the queue has forgotten them. A time limit would take up to 30 s."""
    site = all_slurm_sites(3)
    be_patient(site)
    site.behave(PROGRAM)
    site.submit()
    until = time.monotonic() + 30
    while len(site.executions()) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    site.cluster.run("scancel", f"{site.job()}_2")
    site.wait_for_jobs("FAILED", "OUT_OF_MEMORY", "CANCELLED")
    site.wait_for_accounting(rows=3)
    site.commands().queue()
    site.poll()
    return site


@pytest.mark.parametrize("failure", ENDS)
def test_an_end_that_accounting_tells_is_a_failure_of_its_kind(bad_ends: SlurmSite, failure: str) -> None:
    if failure == "out-of-memory" and not bad_ends.cluster.memory_enforced:
        pytest.skip("Slurm cannot enforce memory limits here")
    attempt = bad_ends.attempts()[ENDS.index(failure)]
    assert (attempt["failure_class"], attempt["outcome"]) == (failure, "failed")


def test_the_code_of_a_failure_comes_from_the_record(bad_ends: SlurmSite) -> None:
    assert bad_ends.attempts()[0]["exit_code"] == 3


def test_what_slurm_measured_is_kept(bad_ends: SlurmSite) -> None:
    used = as_json(bad_ends.attempts()[0]["resources_used"])
    assert used["wall_seconds"] >= 0
    assert used["queue_seconds"] >= 0
    assert used["cpu_hours"] is not None


RECORDED = {
    "CANCELLED by 0": "cancelled-outside",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out-of-memory",
    "BOOT_FAIL": "node-failure",
}


@pytest.mark.parametrize("state", RECORDED)
def test_an_end_without_a_record_is_what_accounting_says(pending: SlurmSite, state: str) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts(accounted(pending, state))
    pending.poll()
    assert verdict(pending) == ("FAILED", RECORDED[state])


def test_a_script_that_could_not_be_started_is_a_failure_of_the_node(pending: SlurmSite) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts(accounted(pending, "FAILED", "0:53"))
    pending.poll()
    assert verdict(pending) == ("FAILED", "node-failure")


@pytest.mark.parametrize(
    ("state", "failure"), [("PREEMPTED", "preempted"), ("NODE_FAIL", "node-failure"), ("REVOKED", "lost")]
)
def test_a_job_that_may_come_back_is_waited_for(pending: SlurmSite, state: str, failure: str) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts(accounted(pending, state))
    assert waits_and_then(pending, REQUEUE) == ("FAILED", failure)


def test_a_job_that_came_back_is_alive(finished: SlurmSite) -> None:
    commands = finished.commands()
    commands.queue()
    commands.accounts(accounted(finished, "NODE_FAIL"))
    finished.poll()
    commands.queue(queued(finished, "PENDING", "BeginTime"))
    finished.later(1000)
    finished.poll()
    assert verdict(finished) == ("SUBMITTED", None)
    assert finished.attempt()["ended_at"] is None


def test_a_preempted_job_gets_another_attempt(slurm_site: SlurmSite) -> None:
    """It asks not to be requeued, so Slurm ends it."""
    slurm_site.slurm |= {"partition": "low", "extra": ("--exclusive",)}
    slurm_site.behave("exec sleep 60")
    slurm_site.submit()
    slurm_site.wait_for_jobs("RUNNING")
    slurm_site.cluster.sbatch("--partition=high", "--exclusive", wrap="sleep 2")
    slurm_site.wait_for_jobs("PREEMPTED")
    slurm_site.behave("true")
    slurm_site.poll()
    assert slurm_site.attempts()[0]["failure_class"] == "preempted"
    slurm_site.until_quiet()
    assert slurm_site.statuses() == ["COMPLETED"]
    assert slurm_site.rows("executed_reduction_step")[0]["retries_used"] == 0


# --- known to nobody -------------------------------------------------------------------------------------------------


def test_a_job_that_nobody_knows_is_accepted_by_its_record_after_the_grace_period(
    finished: SlurmSite,
) -> None:
    commands = finished.commands()
    commands.queue()
    commands.accounts()
    assert waits_and_then(finished, GRACE) == ("COLLECTING_RESULTS", None)
    assert finished.attempt()["message"] == "the batch system never told of its end"


def test_a_job_that_nobody_knows_and_that_left_no_record_is_lost_after_the_grace_period(
    pending: SlurmSite,
) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts()
    assert waits_and_then(pending, GRACE) == ("FAILED", "lost")


def test_the_claim_of_a_lost_job_is_taken_so_that_it_does_nothing_if_it_starts(slurm_site: SlurmSite) -> None:
    slurm_site.slurm["extra"] = NEVER
    be_patient(slurm_site)
    slurm_site.submit()
    commands = slurm_site.commands()
    commands.queue()
    commands.accounts()
    assert waits_and_then(slurm_site, GRACE) == ("FAILED", "lost")
    slurm_site.cluster.scontrol("update", f"JobId={slurm_site.job()}", "StartTime=now")
    slurm_site.cluster.wait_for(slurm_site.job(), "FAILED")
    assert slurm_site.executions() == []


def test_a_job_gone_from_the_queue_that_accounting_calls_running_is_waited_for(finished: SlurmSite) -> None:
    commands = finished.commands()
    commands.queue()
    commands.accounts(accounted(finished, "RUNNING"))
    finished.poll()
    assert verdict(finished) == ("SUBMITTED", None)


# --- words nobody knows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["RESTING", "OUT_OF_ME+", ""])
def test_an_unknown_word_in_the_queue_changes_nothing_and_is_told(
    finished: SlurmSite, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    finished.commands().queue(queued(finished, word))
    finished.later(1000)
    finished.poll()
    assert verdict(finished) == ("SUBMITTED", None)
    assert f"unknown state {word!r}" in caplog.text


def test_an_unknown_word_in_accounting_changes_nothing_and_is_told(
    finished: SlurmSite, caplog: pytest.LogCaptureFixture
) -> None:
    commands = finished.commands()
    commands.queue()
    commands.accounts(accounted(finished, "RESTING"))
    finished.later(1000)
    finished.poll()
    assert verdict(finished) == ("SUBMITTED", None)
    assert "RESTING" in caplog.text


# --- without accounting ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_accounting(finished: SlurmSite) -> SlurmSite:
    """One run whose job has ended well and left the queue, on a cluster without accounting."""
    finished.slurm["accounting"] = False
    commands = finished.commands()
    commands.queue()
    commands.always("sacct", NO_ACCOUNTING)
    return finished


def test_without_accounting_a_run_is_submitted_and_completed(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    site.slurm["accounting"] = False
    commands = site.commands()
    site.until_quiet()
    site.check()
    assert {"sacct", "sacctmgr"}.isdisjoint(commands.calls)


def test_without_accounting_a_job_that_left_the_queue_is_judged_by_its_record(
    no_accounting: SlurmSite,
) -> None:
    no_accounting.poll()
    assert verdict(no_accounting) == ("COLLECTING_RESULTS", None)


def test_without_accounting_a_missing_record_is_waited_for_and_then_lost(no_accounting: SlurmSite) -> None:
    record_of(no_accounting).unlink()
    assert waits_and_then(no_accounting, RECORD_WAIT) == ("FAILED", "lost")


def test_without_accounting_the_claim_of_a_job_that_never_began_is_taken(pending: SlurmSite) -> None:
    pending.slurm["accounting"] = False
    pending.commands().queue()
    assert waits_and_then(pending, RECORD_WAIT) == ("FAILED", "lost")
    assert (pending.attempt_folder() / "job" / "claims" / "0").is_dir()


# --- ids that came round again ---------------------------------------------------------------------------------------


def test_a_job_of_our_id_with_another_name_in_the_queue_is_not_ours(finished: SlurmSite) -> None:
    finished.commands().queue(queued(finished, "RUNNING", name="somebody-s"))
    finished.poll()
    assert verdict(finished) == ("COLLECTING_RESULTS", None)


def test_an_older_job_of_our_id_in_accounting_is_not_ours(pending: SlurmSite) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts(accounted(pending, "TIMEOUT", at=-86400))
    pending.poll()
    assert verdict(pending) == ("SUBMITTED", None)


def test_a_newer_job_of_our_id_does_not_hide_the_end_of_ours(pending: SlurmSite) -> None:
    commands = pending.commands()
    commands.queue()
    commands.accounts(
        accounted(pending, "TIMEOUT"), accounted(pending, "COMPLETED", name="somebody-s", at=60)
    )
    pending.poll()
    assert verdict(pending) == ("FAILED", "timeout")


def test_a_job_of_somebody_with_our_id_is_not_cancelled(slurm_site: SlurmSite) -> None:
    other = slurm_site.cluster.sbatch("--hold", "--array=0-0", as_user=False)
    slurm_site.slurm["extra"] = NEVER
    slurm_site.submit()
    with slurm_site.context().database.write() as connection:
        connection.exec_driver_sql("UPDATE submission SET job_id = ?", (str(other),))
    slurm_site.cancel(1)
    slurm_site.poll()
    assert slurm_site.cluster.state(other) == "PENDING"


# --- how often Slurm is asked ----------------------------------------------------------------------------------------


def test_a_poll_is_one_squeue_and_one_sacct_for_all_jobs(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    site.slurm["max_array_size"] = 1
    site.submit()
    site.wait_for_jobs("COMPLETED")
    commands = site.commands()
    report = site.poll()
    assert len({s["job_id"] for s in site.submissions()}) == 5
    assert commands.calls == ["squeue", "sacct"]
    assert (report.scheduler_calls, report.done) == (2, 5)


def test_a_poll_of_live_jobs_is_one_squeue(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    site.slurm |= {"max_array_size": 1, "extra": NEVER}
    site.submit()
    commands = site.commands()
    assert site.poll().scheduler_calls == 1
    assert commands.calls == ["squeue"]


def test_a_poll_without_jobs_asks_nobody(slurm_site: SlurmSite) -> None:
    commands = slurm_site.commands()
    assert slurm_site.poll().scheduler_calls == 0
    assert commands.calls == []


def test_passes_share_a_budget_of_calls_and_what_is_over_it_waits(finished: SlurmSite) -> None:
    finished.later(61)  # the calls of its submission are of the past
    finished.slurm["calls_per_minute"] = 2
    commands = finished.commands()
    commands.queue(queued(finished, "RUNNING"))
    finished.later(60)  # what its submission used is past
    assert [finished.poll().exit_code for _ in range(3)] == [0, 0, 4]
    assert commands.count("squeue") == 2
    finished.later(60)
    assert finished.poll().exit_code == 0


def test_a_submission_over_the_budget_leaves_its_run_staged(slurm_site: SlurmSite) -> None:
    slurm_site.slurm["calls_per_minute"] = 3
    commands = slurm_site.commands()
    assert slurm_site.submit().exit_code in (0, 4)
    assert slurm_site.statuses() == ["STAGED"]
    assert commands.count("sbatch") == 0
    slurm_site.later(61)
    slurm_site.slurm["calls_per_minute"] = 100
    slurm_site.until_quiet()
    slurm_site.check()


# --- cancelled -------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting_array(slurm_sites: SlurmSites) -> SlurmSite:
    """Three runs, one array, none of it begun."""
    site = slurm_sites(3)
    be_patient(site)
    site.slurm["extra"] = NEVER
    site.submit()
    site.wait_for_accounting()
    return site


def test_a_pending_task_that_we_cancel_is_cancelled_at_once(waiting_array: SlurmSite) -> None:
    waiting_array.cancel(2)
    waiting_array.poll()
    waiting_array.poll()
    assert waiting_array.statuses() == ["SUBMITTED", "CANCELLED", "SUBMITTED"]
    assert sorted(row[0] for row in waiting_array.live()) == [f"{waiting_array.job()}_{n}" for n in (0, 2)]


def test_a_pending_task_that_somebody_else_cancels_is_known_after_the_grace_period(
    waiting_array: SlurmSite,
) -> None:
    waiting_array.cluster.run("scancel", f"{waiting_array.job()}_1")
    # Accounting has the whole array pending for up to half a minute more; then so:
    left = accounted(waiting_array, "PENDING").replace("_0|", "_[0,2]|", 1)
    waiting_array.commands().accounts(left)
    waiting_array.poll()
    assert waiting_array.statuses() == ["SUBMITTED"] * 3
    waiting_array.later(GRACE + 1)
    waiting_array.poll()
    assert waiting_array.statuses() == ["SUBMITTED", "FAILED", "SUBMITTED"]
    assert waiting_array.attempts()[1]["failure_class"] == "cancelled-outside"


def test_a_whole_array_that_somebody_else_cancels_is_not_tried_again(waiting_array: SlurmSite) -> None:
    waiting_array.cluster.run("scancel", waiting_array.job())
    waiting_array.poll_until(lambda: waiting_array.statuses() == ["FAILED"] * 3)
    assert {a["failure_class"] for a in waiting_array.attempts()} == {"cancelled-outside"}
    assert {r["due_at"] for r in waiting_array.rows("executed_reduction_step")} == {None}


def test_a_running_job_that_we_cancel_is_cancelled_once_it_has_ended(slurm_site: SlurmSite) -> None:
    slurm_site.behave("exec sleep 60")
    slurm_site.submit()
    slurm_site.poll_until(lambda: slurm_site.statuses() == ["RUNNING"])
    slurm_site.cancel(1)
    slurm_site.poll_until(lambda: slurm_site.statuses() == ["CANCELLED"])
    assert slurm_site.live() == []


# --- started again ---------------------------------------------------------------------------------------------------


def test_slurm_does_not_requeue_what_asks_not_to_be(slurm_site: SlurmSite) -> None:
    slurm_site.behave("exec sleep 60")
    slurm_site.submit()
    slurm_site.wait_for_jobs("RUNNING")
    refused = slurm_site.cluster.run("scontrol", "requeue", f"{slurm_site.job()}_0", check=False)
    assert (refused.returncode, "disabled" in refused.stderr) == (1, True)


def test_a_job_that_is_requeued_all_the_same_works_in_a_folder_of_its_own(slurm_site: SlurmSite) -> None:
    slurm_site.behave("case $attempt in *.r1) ;; *) exec sleep 60 ;; esac")
    slurm_site.submit()
    slurm_site.poll_until(lambda: slurm_site.statuses() == ["RUNNING"])
    task = f"{slurm_site.job()}_0"
    slurm_site.cluster.scontrol("update", f"JobId={task}", "Requeue=1")
    slurm_site.cluster.scontrol("requeue", task)
    slurm_site.until_quiet()
    assert slurm_site.statuses() == ["COMPLETED"]
    attempt = slurm_site.attempt()
    first = attempt["directory"].removesuffix(".r1")
    assert attempt["directory"] == f"{first}.r1"
    assert slurm_site.executions() == [first, f"{first}.r1"]
    assert not (slurm_site.base / first / "output" / "science" / "map.txt").exists()
