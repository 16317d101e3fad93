"""The private cluster itself: what other tests rely on when they use it."""

from __future__ import annotations

import os
import pwd
import socket
import time
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, run_program, start_cluster

pytestmark = pytest.mark.slurm
SERVICES = ("munge", "mariadb", "slurmdbd", "slurmctld", "slurmd", "sshd")
# Held in memory by what a job of 100 MB runs.
GREEDY = "python3 -c 'held = bytearray(300 << 20)'; echo $?"


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_runs_as_the_user_who_came_by_ssh(cluster: Cluster) -> None:
    told = cluster.scratch / "who"
    sbatch = f"env -i PATH=/usr/bin:/bin SLURM_CONF={cluster.slurm_conf} sbatch --wait --output=/dev/null"
    cluster.over_ssh(f"cd {cluster.scratch} && {sbatch} --wrap 'id -un > {told}'")
    assert told.read_text().strip() == cluster.user
    assert told.stat().st_gid == cluster.scratch.stat().st_gid


def test_ssh_sets_no_slurm_conf(cluster: Cluster) -> None:
    assert cluster.over_ssh("echo ${SLURM_CONF:-none}").stdout == "none\n"


def test_a_held_job_is_in_the_queue_and_does_not_start(cluster: Cluster) -> None:
    job = cluster.sbatch("--hold", "--job-name=held", wrap=f"touch {cluster.scratch}/started")
    assert cluster.squeue("--name=held") == [[str(job), "PENDING", "JobHeldUser"]]
    other = cluster.sbatch()
    cluster.wait_for(other, "COMPLETED")
    assert cluster.state(job) == "PENDING"
    assert not (cluster.scratch / "started").exists()
    cluster.scontrol("release", str(job))
    cluster.wait_for(job, "COMPLETED")
    assert (cluster.scratch / "started").exists()


def test_accounting_shows_how_a_job_ended(cluster: Cluster) -> None:
    good, bad = cluster.sbatch(), cluster.sbatch(wrap="exit 3")
    cluster.wait_for_accounting(good, "COMPLETED")
    cluster.wait_for_accounting(bad, "FAILED")
    fields = "jobid,state,exitcode,account,partition,user"
    expected = [str(bad), "FAILED", "3:0", cluster.account, "main", cluster.user]
    # For a moment accounting has the end of a job and not yet its partition.
    until = time.monotonic() + 10
    while (told := cluster.sacct(f"--jobs={bad}", fields=fields)) != [expected] and time.monotonic() < until:
        time.sleep(0.2)
    assert told == [expected]


def test_an_array_has_its_tasks(cluster: Cluster) -> None:
    job = cluster.sbatch(
        "--array=0-2", wrap=f"echo $SLURM_ARRAY_TASK_ID > {cluster.scratch}/task-$SLURM_ARRAY_TASK_ID"
    )
    cluster.wait_for_accounting(job, "COMPLETED", rows=3)
    assert sorted(row[0] for row in cluster.sacct(f"--jobs={job}")) == [f"{job}_{task}" for task in range(3)]
    assert [(cluster.scratch / f"task-{task}").read_text() for task in range(3)] == ["0\n", "1\n", "2\n"]


def test_a_job_is_held_to_its_memory(cluster: Cluster) -> None:
    if not cluster.memory_enforced:
        pytest.skip("control groups cannot be written here, so Slurm cannot enforce memory limits")
    job = cluster.sbatch("--mem=100", wrap=GREEDY)
    cluster.wait_for_accounting(job, "OUT_OF_MEMORY")


def test_a_job_in_low_yields_and_comes_back(cluster: Cluster) -> None:
    low = cluster.sbatch("--partition=low", "--exclusive", "--requeue", wrap="sleep 60")
    cluster.wait_for(low, "RUNNING")
    high = cluster.sbatch("--partition=high", "--exclusive", wrap="sleep 1")
    cluster.wait_for(high, "RUNNING", "COMPLETING", "COMPLETED")
    assert cluster.state(low) == "PENDING"
    cluster.wait_for(low, "RUNNING")


@pytest.mark.slow
def test_a_job_whose_node_died_is_requeued(cluster: Cluster) -> None:
    job = cluster.sbatch("--requeue", wrap="sleep 120")
    cluster.wait_for(job, "RUNNING")
    cluster.kill("slurmd")
    cluster.wait_for(job, "PENDING", seconds=60)
    cluster.start("slurmd")
    cluster.wait_for(job, "RUNNING", seconds=60)


def test_a_limit_of_a_qos_refuses_one_job_more(cluster: Cluster) -> None:
    cluster.sacctmgr("add", "qos", "few", "MaxSubmitJobsPerUser=1")
    cluster.sacctmgr("modify", "user", cluster.user, "set", "qos+=few")
    cluster.sbatch("--hold", "--qos=few")
    refused = cluster.run("sbatch", "--qos=few", "--wrap", "true", as_user=True, check=False)
    assert refused.returncode == 1
    assert "QOSMaxSubmitJobPerUserLimit" in refused.stderr
    cluster.sacctmgr("modify", "user", cluster.user, "set", "qos-=few")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_be_lost_and_had_back(cluster: Cluster, service: str) -> None:
    cluster.pause(service)
    assert not cluster.status()["services"][service]["answers"]
    cluster.resume(service)
    assert cluster.status()["up"]
    cluster.kill(service)
    gone = cluster.status()
    assert gone["services"][service] == {"pid": None, "answers": False}
    assert not gone["up"]
    cluster.start(service)
    assert cluster.status()["up"]


def test_up_does_nothing_when_it_is_up_and_repairs_what_is_broken(cluster: Cluster) -> None:
    before = cluster.status()["services"]
    assert run_program("up", "--no-apptainer", "--dir", cluster.dir).returncode == 0
    assert cluster.status()["services"] == before
    cluster.pause("slurmctld")
    cluster.kill("sshd")
    assert run_program("up", "--no-apptainer", "--dir", cluster.dir).returncode == 0
    assert cluster.status()["up"]


@pytest.mark.slow
def test_a_second_cluster_stands_beside_it_and_leaves_nothing(cluster: Cluster) -> None:
    other = start_cluster("--no-apptainer", "--max-array-size=3")
    try:
        assert other.user != cluster.user
        assert "Invalid job array" in other.run("sbatch", "--array=0-3", "--wrap", "true", check=False).stderr
        script = f"trap '' TERM; echo $$ > {other.scratch}/pid; while :; do sleep 1; done"
        job = other.sbatch("--mem=100", wrap=script)
        other.wait_for(job, "RUNNING")
        until_written = other.run("sh", "-c", "until [ -s pid ]; do sleep 0.05; done; cat pid")
        pids = [
            int(until_written.stdout),
            *(service["pid"] for service in other.status()["services"].values()),
        ]
        assert all(runs(pid) for pid in pids)
        # Slurm cannot help with what runs then.
        other.kill("slurmctld")
        other.pause("slurmd")
    finally:
        other.down()
    assert not [pid for pid in pids if runs(pid)]
    assert not [port for port in other.description["ports"].values() if listens(port)]
    assert not other.dir.exists()
    assert other.user not in {entry.pw_name for entry in pwd.getpwall()}
    assert not list(Path("/sys/fs/cgroup").glob(f"*/slurm_{other.node}"))
    assert run_program("down", "--dir", other.dir).returncode == 0
    assert cluster.status()["up"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a cluster")
    (tmp_path / "letter").write_text("dear")
    refused = run_program("up", "--no-apptainer", "--dir", tmp_path)
    assert refused.returncode == 1
    assert "--dir" in refused.stderr
    run_program("down", "--dir", tmp_path)
    assert (tmp_path / "letter").exists()
