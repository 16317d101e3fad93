"""On a real Slurm: whatever happens between the intent and the release, every run is executed once.

The program counts its own executions; `check` reads ops-db, disk and queue once all is quiet.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.conftest import SlurmSites
from tests.integration.slurm_site import (
    GRACE,
    RESOURCES,
    Recorder,
    SlurmSite,
    Strike,
    die,
    failing_commit,
    until_quiet,
)
from tests.opsdb.databases import PostgresServer
from tests.passes.away import OwnServer, own_server

pytestmark = pytest.mark.slurm
TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2"


def twin(site: SlurmSite, *options: str) -> str:
    """The newest submission handed over once more by hand; the job's id."""
    token = site.submissions()[-1]["token"]
    folder = site.base / ".submissions" / token
    tasks = len((folder / "tasks").read_text().splitlines())
    done = site.cluster.run(
        "sbatch", "--parsable", f"--array=0-{tasks - 1}", "--mem=50M", "--output=/dev/null",
        *options, folder / "job.sh", folder,
    )  # fmt: skip
    return done.stdout.strip()


def named(site: SlurmSite) -> str:
    return f"--job-name=ccatwm-{site.submissions()[-1]['token']}"


# --- the pass is killed ----------------------------------------------------------------------------------------------


def window(site: SlurmSite) -> range:
    """The numbers of the effects from the commit of the intent to the commit of the release, both included; the
    cluster's limits are known."""
    site.context().scheduler.limits()
    recorder = Recorder()
    site.submit(recorder)
    site.until_quiet()
    site.check()
    first_file = next(n for n, name in enumerate(recorder.names, 1) if name.startswith("file."))
    release = recorder.names.index("slurm.scontrol") + 1
    recorded = recorder.names.index("db.commit", release) + 1
    assert recorder.names[first_file - 2] == "db.commit"
    return range(first_file - 1, recorded + 1)


def test_a_submit_pass_killed_at_any_effect_leaves_every_run_to_be_executed_once(
    slurm_sites: SlurmSites,
) -> None:
    first = slurm_sites(2)
    points = window(first)
    killed = []
    # After one effect is before the next.
    for at, when in [(points[0], "before"), *((at, "after") for at in points)]:
        site = slurm_sites(2)
        shutil.copy(first.folder / "state" / "sandbox-limits.json", site.folder / "state")
        assert site.killed("submit", Strike(die, at=at, when=when))
        killed.append(site)
    assert len(killed) > 60
    until_quiet(killed, 180)
    assert {site.folder.name: wrong for site in killed if (wrong := site.wrong())} == {}


def test_a_submit_pass_killed_while_sbatch_runs_adopts_its_job(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    commands = site.commands()
    commands.once("sbatch", 'touch "$here/began"; sleep 1; real "$@"; touch "$here/ended"')
    pid = os.fork()
    if pid == 0:
        site.submit()
        os._exit(0)
    commands.wait_for("began")
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert site.statuses() == ["SUBMITTING", "SUBMITTING"]
    commands.wait_for("ended")
    site.until_quiet()
    site.check()
    assert commands.count("sbatch") == 1


def test_a_job_that_is_adopted_an_hour_later_is_not_taken_for_another(slurm_sites: SlurmSites) -> None:
    """As after passes were paused: by the time of the pass that finds it the job would be too old to be ours."""
    site = slurm_sites(1)
    site.behave('until [ -e "$base/go" ]; do sleep 0.05; done')
    assert site.killed("submit", Strike(die, "slurm.sbatch", when="after"))
    site.later(3600)
    site.submit()
    site.wait_for_jobs("RUNNING")
    for _ in range(3):
        site.poll()
        site.later(10 * GRACE)
    assert site.statuses() == ["RUNNING"], site.runs()
    (site.base / "go").touch()
    site.until_quiet()
    site.check()


@pytest.mark.postgres
@pytest.mark.parametrize("at", ["slurm.sbatch", "slurm.scontrol"])
def test_a_submit_pass_killed_with_the_ops_db_on_postgresql(
    slurm_sites: SlurmSites, postgresql_server: PostgresServer, at: str
) -> None:
    url = postgresql_server(upgraded=True)
    site = slurm_sites.new(2, url=url)
    count = 2 if at == "slurm.scontrol" else 1  # the first asks for the cluster's limits
    assert site.killed("submit", Strike(die, at, count, "after"))
    site.until_quiet()
    site.check()
    postgresql_server.drop(url)


# --- the answer is lost ----------------------------------------------------------------------------------------------

LOST = {
    "it says that the connection timed out": f'real "$@" >/dev/null; {TIMED_OUT}; exit 1',
    "it is killed after the job was made": 'real "$@" >/dev/null; kill -KILL $$',
    "it says nothing": 'real "$@" >/dev/null',
    "it hangs after the job was made": 'real "$@"; sleep 4',
    "it hangs until the job is made later": 'sleep 3; real "$@"',
}


@pytest.mark.parametrize("how", LOST)
def test_a_job_whose_answer_was_lost_is_adopted(slurm_sites: SlurmSites, how: str) -> None:
    site = slurm_sites(2)
    commands = site.commands()
    commands.once("sbatch", LOST[how])
    site.slurm["command_timeout_seconds"] = 2
    site.changes["grace_seconds"] = 10
    report = site.submit()
    assert (report.exit_code, report.done, report.waiting) == (4, 0, 2)
    assert "whether the batch system took 2 runs is not known" in str(report.error)
    assert site.statuses() == ["SUBMITTING", "SUBMITTING"]
    site.slurm["command_timeout_seconds"] = 30
    site.until_quiet()
    site.check()
    assert commands.count("sbatch") == 1


def test_noise_around_the_answer_does_not_hide_it(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    noise = (
        "echo 'Welcome to the cluster'; echo 'sbatch: warning: 42 is deprecated' >&2; real \"$@\"; echo Bye"
    )
    site.commands().once("sbatch", noise)
    site.submit()
    assert site.statuses() == ["SUBMITTED", "SUBMITTED"]
    site.until_quiet()
    site.check()


def test_a_late_job_of_a_submission_that_was_given_up_is_cancelled(slurm_site: SlurmSite) -> None:
    commands = slurm_site.commands()
    wait = 'n=0; while [ ! -e "$here/go" ] && [ $n -lt 600 ]; do sleep 0.2; n=$((n + 1)); done'
    late = f'( {wait}; real "$@"; touch "$here/late" ) >/dev/null 2>&1 & '
    commands.once("sbatch", f"{late}{TIMED_OUT}; exit 1")
    slurm_site.changes["grace_seconds"] = 1
    slurm_site.submit()
    slurm_site.until_quiet()
    assert [s["state"] for s in slurm_site.submissions()] == ["ABSENT", "RELEASED"]
    (commands.folder / "go").touch()
    commands.wait_for("late")
    assert [row[1:3] for row in slurm_site.live()] == [["PENDING", "JobHeldUser"]]
    slurm_site.poll()
    slurm_site.check()


def test_a_late_job_that_is_let_go_does_nothing(slurm_site: SlurmSite) -> None:
    slurm_site.commands().once("sbatch", f"{TIMED_OUT}; exit 1")
    slurm_site.submit()
    slurm_site.later(10)
    slurm_site.submit()
    job = twin(slurm_site)
    slurm_site.cluster.wait_for(job, "FAILED")
    assert slurm_site.executions() == []
    slurm_site.until_quiet()
    slurm_site.check()


# --- the controller, accounting, the ops-db --------------------------------------------------------------------------


def test_a_silent_controller_before_the_intent_leaves_the_runs_staged(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    site.slurm["command_timeout_seconds"] = 1
    site.cluster.pause("slurmctld")
    report = site.submit()
    assert (report.exit_code, site.statuses(), site.submissions()) == (4, ["STAGED", "STAGED"], [])
    site.cluster.resume("slurmctld")
    site.slurm["command_timeout_seconds"] = 30
    site.until_quiet()
    site.check()


def test_a_job_that_a_silent_controller_makes_later_is_adopted(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    commands = site.commands()
    site.submit(Strike(lambda: site.cluster.pause("slurmctld"), "slurm.sbatch"))
    assert site.statuses() == ["SUBMITTING", "SUBMITTING"]
    assert site.submissions()[0]["job_id"] is None
    site.cluster.resume("slurmctld")
    site.until_quiet()
    site.check()
    assert commands.count("sbatch") == 1


def test_a_dead_controller_during_the_submission_is_waited_for(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    site.slurm["command_timeout_seconds"] = 2
    site.submit(Strike(lambda: site.cluster.kill("slurmctld"), "slurm.sbatch"))
    assert site.statuses() == ["SUBMITTING", "SUBMITTING"]
    assert site.submit().exit_code == 4
    site.slurm["command_timeout_seconds"] = 30
    site.cluster.start("slurmctld")
    site.until_quiet()
    site.check()


def test_a_silent_controller_at_the_release_leaves_the_job_held(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    site.slurm["command_timeout_seconds"] = 2
    report = site.submit(Strike(lambda: site.cluster.pause("slurmctld"), "slurm.scontrol", 2))
    assert (report.exit_code, site.submissions()[0]["state"]) == (4, "HELD")
    site.cluster.resume("slurmctld")
    site.slurm["command_timeout_seconds"] = 30
    site.until_quiet()
    site.check()


def test_a_controller_that_died_right_after_it_accepted_a_job(slurm_sites: SlurmSites) -> None:
    """It may have forgotten it."""
    site = slurm_sites(2)
    site.slurm["command_timeout_seconds"] = 2
    site.submit(Strike(lambda: site.cluster.kill("slurmctld"), "slurm.sbatch", when="after"))
    assert site.submissions()[0]["state"] == "HELD"
    site.slurm["command_timeout_seconds"] = 30
    site.cluster.start("slurmctld")
    site.until_quiet()
    site.check()


def test_while_accounting_is_away_jobs_go_out_and_the_queue_tells_their_end(
    slurm_sites: SlurmSites,
) -> None:
    site = slurm_sites(2)
    site.cluster.stop("slurmdbd")
    site.submit()
    site.wait_for_jobs("COMPLETED")
    assert site.poll().exit_code == 0
    assert site.statuses() == ["COLLECTING_RESULTS", "COLLECTING_RESULTS"]
    site.cluster.start("slurmdbd")
    site.until_quiet()
    site.check()


@pytest.mark.parametrize("commit", range(2, 5), ids=["intent", "job id", "release"])
def test_a_commit_that_fails_is_made_up_for(slurm_sites: SlurmSites, commit: int) -> None:
    site = slurm_sites(2)
    report = site.submit(failing_commit(site, commit))
    assert report.exit_code == 4
    site.until_quiet()
    site.check()


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with own_server() as made:
        yield made


@pytest.mark.postgres
def test_an_ops_db_that_went_away_before_the_job_id_was_kept_adopts_the_job(
    slurm_sites: SlurmSites, server: OwnServer
) -> None:
    site = slurm_sites.new(2, url=server.make(upgraded=True))
    commands = site.commands()
    assert not site.killed("submit", Strike(server.stop, "slurm.sbatch", when="after"))
    server.start()
    assert site.submissions()[0]["state"] == "INTENDED"
    site.until_quiet()
    site.check()
    assert commands.count("sbatch") == 1


# --- twins -----------------------------------------------------------------------------------------------------------


def test_of_two_held_jobs_with_one_token_one_is_kept(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    assert site.killed("submit", Strike(die, "slurm.sbatch", when="after"))
    other = twin(site, "--hold", named(site))
    assert len(site.live()) == 4
    site.until_quiet()
    site.check()
    assert site.job() != other


def test_of_two_jobs_with_one_token_the_one_that_runs_is_kept(slurm_site: SlurmSite) -> None:
    slurm_site.behave("sleep 2")
    assert slurm_site.killed("submit", Strike(die, "slurm.sbatch", when="after"))
    other = twin(slurm_site, named(slurm_site))
    slurm_site.cluster.wait_for(other, "RUNNING")
    slurm_site.until_quiet()
    slurm_site.check()
    assert slurm_site.job() == other


def test_a_job_that_was_started_again_by_hand_is_executed_once(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(2)
    site.behave("sleep 1")
    site.submit()
    other = twin(site, "--job-name=again")
    site.until_quiet()
    site.cluster.wait_for(other, "COMPLETED", "FAILED")
    site.check()


def test_a_job_that_was_begun_by_hand_before_ours_is_executed_once(slurm_site: SlurmSite) -> None:
    slurm_site.changes["record_wait_seconds"] = 1
    slurm_site.behave("sleep 4")
    assert slurm_site.killed("submit", Strike(die, "slurm.scontrol", 2))
    other = twin(slurm_site, "--job-name=again")
    slurm_site.cluster.wait_for(other, "RUNNING")
    slurm_site.wait_for_file(slurm_site.attempt_folder() / "job" / "started.json")
    slurm_site.until_quiet()
    slurm_site.check()


# --- how much, and how many at once ----------------------------------------------------------------------------------


def test_alike_runs_are_one_call_of_sbatch(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    commands = site.commands()
    report = site.submit()
    assert commands.count("sbatch") == 1
    assert report.scheduler_calls == len(commands.calls)
    assert "--array=0-4" in commands.argv("sbatch")
    site.until_quiet()
    site.check()


def test_arrays_are_no_longer_than_the_site_allows(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    commands = site.commands()
    site.slurm["max_array_size"] = 2
    assert site.submit().done == 5
    assert commands.count("sbatch") == 3
    assert commands.count("scontrol") == 2  # one asks, one lets all go
    site.until_quiet()
    site.check()


def test_a_cluster_that_takes_smaller_arrays_than_it_did_costs_no_run(slurm_sites: SlurmSites) -> None:
    before, site = slurm_sites(1), slurm_sites(5)
    assert before.submit().done == 1
    limits = site.folder / "state" / "sandbox-limits.json"
    limits.parent.mkdir(exist_ok=True)
    shutil.copy(before.folder / "state" / limits.name, limits)
    words = "sbatch: error: Batch job submission failed: Invalid job array specification"
    site.commands().once("sbatch", f"echo '{words}' >&2; exit 1")
    report = site.submit()
    assert (report.done, report.failed) == (0, 0)
    assert set(site.statuses()) == {"STAGED"}
    assert not limits.exists()
    site.later(2)
    assert site.submit().done == 5
    until_quiet([before, site], 90)
    site.check()


def test_other_resources_are_another_array(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    commands = site.commands()
    more = '{"cpu": 2, "memory_gb": 0.06, "time_hours": 0.1}'
    with site.context().database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE executed_reduction_step SET next_resources = ? WHERE id IN (1, 3)", (more,)
        )
    assert site.submit().done == 5
    assert commands.count("sbatch") == 2
    assert {"--array=0-1", "--cpus-per-task=2", "--mem=62M"} <= set(commands.argv("sbatch")) or {
        "--array=0-2", "--cpus-per-task=1"
    } <= set(commands.argv("sbatch"))  # fmt: skip
    site.until_quiet()
    site.check()


@pytest.fixture
def few(cluster: Cluster) -> Iterator[str]:
    """A QOS whose users may have two jobs at once."""
    cluster.sacctmgr("add", "qos", "two", "MaxSubmitJobsPerUser=2")
    cluster.sacctmgr("modify", "user", "root", "set", "qos+=two")
    try:
        yield "two"
    finally:
        cluster.run("scancel", "--quiet", "--user=root")
        cluster.sacctmgr("modify", "user", "root", "set", "qos-=two")
        cluster.sacctmgr("delete", "qos", "two")


def test_more_than_the_site_s_qos_takes_waits(slurm_sites: SlurmSites, few: str) -> None:
    site = slurm_sites(5)
    site.slurm["qos"] = few
    report = site.submit()
    assert (report.done, report.waiting) == (2, 3)
    assert {item.outcome for item in report.items} == {"submitted", "throttled"}
    site.until_quiet()
    site.check()


def test_more_than_the_account_takes_waits(slurm_sites: SlurmSites) -> None:
    site = slurm_sites(5)
    site.cluster.sacctmgr("modify", "user", "root", "set", "MaxSubmitJobs=2")
    try:
        report = site.submit()
        assert (report.done, report.waiting) == (2, 3)
        site.until_quiet()
        site.check()
    finally:
        site.cluster.sacctmgr("modify", "user", "root", "set", "MaxSubmitJobs=-1")


def test_an_array_that_a_step_s_own_qos_does_not_take_goes_out_in_parts(
    slurm_sites: SlurmSites, few: str
) -> None:
    site = slurm_sites(5, RESOURCES.replace("}", ", qos: two}"))
    assert site.submit().failed == 0
    site.until_quiet()
    site.check()
    assert max(run["attempt"] for run in site.runs()) <= 3


# --- names -----------------------------------------------------------------------------------------------------------

HOSTILE = 'it\'s "100%j" $(touch pwned) `touch pwned` \\ ;& #'


def test_no_name_reaches_a_shell(slurm_sites: SlurmSites, tmp_path: Path) -> None:
    scans = [f"{HOSTILE} {n}" for n in range(2)]
    site = slurm_sites.new(2, names=scans, base_name=f"base {HOSTILE}", source=f"M 31 {HOSTILE}")
    site.until_quiet()
    site.check()
    assert not list(site.folder.rglob("pwned"))
    assert not Path("/pwned").exists()


VARIABLES = {
    "SBATCH_PARTITION": "nowhere", "SBATCH_ACCOUNT": "nobody", "SBATCH_JOB_NAME": "other", "SBATCH_REQUEUE": "1",
    "SBATCH_TIMELIMIT": "9-0", "SBATCH_ARRAY_INX": "0-9", "SBATCH_EXPORT": "NONE", "SLURM_CONF": "/nowhere",
    "SQUEUE_FORMAT": "%i", "SQUEUE_STATES": "RUNNING", "SQUEUE_PARTITION": "high", "SQUEUE_USERS": "nobody",
    "SACCT_FORMAT": "jobid", "SLURM_TIME_FORMAT": "relative", "SLURM_CLUSTERS": "other", "TZ": "Asia/Tokyo",
}  # fmt: skip


def test_variables_of_slurm_in_the_environment_change_nothing(
    slurm_sites: SlurmSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = slurm_sites(2)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    site.until_quiet()
    site.check()


def test_a_job_whose_name_looks_like_a_line_of_the_queue_is_not_believed(slurm_site: SlurmSite) -> None:
    slurm_site.slurm["extra"] = ("--begin=now+1hour",)
    slurm_site.submit()
    forged = f"good\n|{slurm_site.job()}|0|CANCELLED|||||{named(slurm_site).partition('=')[2]}"
    slurm_site.cluster.run("sbatch", "--hold", f"--job-name={forged}", "--wrap", "true")
    slurm_site.poll()
    assert slurm_site.statuses() == ["SUBMITTED"]
