"""`bin/demo --slurm`: the demo's story by SSH and sbatch as the cluster's user, on a PostgreSQL that stays."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables
from tests.demo.science import PROJECT, Science, ask
from tests.integration.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def run_demo(cluster: Cluster, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "CCATWM_CLUSTER_DIR": str(cluster.dir),
    }
    command = [str(word) for word in (PROJECT / "bin" / "demo", "--slurm", "--no-apptainer", *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, umask=0o077)


def logins(cluster: Cluster) -> int:
    log = (cluster.dir / "log" / "sshd.log").read_text(errors="replace")
    return len(re.findall(rf"Accepted publickey for {cluster.user} ", log))


def wait_for_metrics(demo: Path) -> None:
    """Accounting may lag behind a job's end: until it has told all, `poll` has something to ask, and is not idle."""
    url = sa.make_url((demo / "opsdb" / "url").read_text().strip())
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg2"))
    awaited = sa.select(sa.func.count()).where(tables.run_attempt.c.metrics_at.is_not(None))
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            with engine.connect() as connection:
                if connection.scalar(awaited) == 0:
                    return
            ask(demo, "cycle")
            time.sleep(1)
    finally:
        engine.dispose()
    raise AssertionError("accounting has not told all within a minute")


@pytest.fixture(scope="module")
def told(session_cluster: Cluster) -> Iterator[tuple[Path, str, int]]:
    """The folder of a demo, what it said, and how many logins there were."""
    folder = Path(tempfile.mkdtemp(prefix="ccatwm-demo-", dir="/var/tmp"))
    folder.chmod(0o755)
    before = logins(session_cluster)
    try:
        done = run_demo(session_cluster, "--scans", "4", "--dir", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder, done.stdout, logins(session_cluster) - before
    finally:
        subprocess.run([folder / "opsdb" / "ctl", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def demo(told: tuple[Path, str, int]) -> Path:
    return told[0]


class TestScience(Science):
    pass


def test_the_ops_db_is_a_postgresql_whose_url_only_its_owner_reads(demo: Path) -> None:
    url = demo / "opsdb" / "url"
    assert url.read_text().startswith("postgresql://")
    assert url.stat().st_mode & 0o777 == 0o600
    assert {run["status"] for run in ask(demo, "runs")["runs"]} == {"COMPLETED"}
    password = url.read_text().split(":")[2].split("@")[0]
    assert password not in (demo / "site" / "settings.toml").read_text()


def test_all_below_the_base_directory_belongs_to_the_clusters_user(demo: Path, session_cluster: Cluster) -> None:
    owner = pwd.getpwnam(session_cluster.user).pw_uid
    base = demo / "pipelines"
    found = [base, *(path for path in base.rglob("*"))]
    assert [path for path in found if path.lstat().st_uid != owner] == []
    products = ask(demo, "products", "--all")["products"]
    assert products and {Path(p["path"]).owner() for p in products} == {session_cluster.user}
    assert all(Path(p["path"]).is_relative_to(base) for p in products)


def test_jobs_went_by_sbatch_as_the_clusters_user(demo: Path, session_cluster: Cluster) -> None:
    runs = ask(demo, "runs")["runs"]
    jobs = {str(run["job_id"]).split("_")[0] for run in runs}
    rows = session_cluster.sacct(f"--jobs={','.join(sorted(jobs))}", fields="user,state,account")
    assert len(rows) == len(runs)
    assert {tuple(row) for row in rows} == {(session_cluster.user, "COMPLETED", session_cluster.account)}


def test_a_cycle_has_one_connection_and_the_demo_says_what_was_needed(told: tuple[Path, str, int]) -> None:
    _, said, logins = told
    (line,) = [line for line in said.splitlines() if "SSH connections;" in line]
    counted = re.search(r"(\d+) cycles gave Slurm (\d+) commands over (\d+) SSH connections", line)
    assert counted is not None
    cycles, commands, connections = map(int, counted.groups())
    assert (cycles, connections) == (3, 3)
    assert commands > 0
    assert logins == 4, "init, and one a cycle"


def test_an_idle_pass_opens_no_connection_and_one_that_looks_opens_one(
    demo: Path, session_cluster: Cluster
) -> None:
    wait_for_metrics(demo)
    before = logins(session_cluster)
    assert ask(demo, "cycle")["connections"] == 0
    assert logins(session_cluster) == before
    arguments = ("--pipeline", "ngc253-hfa", "--force", "--reason", "once more")
    command = [PROJECT / "bin" / "ccatwm", "--site", demo / "site", "trigger", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    assert ask(demo, "cycle")["connections"] == 1
    assert logins(session_cluster) == before + 1
    assert ask(demo, "cycle", "--until-idle")["connections"] == 1
    assert logins(session_cluster) == before + 2


def test_the_printed_commands_stop_the_ops_db_and_start_it(
    told: tuple[Path, str, int], session_cluster: Cluster
) -> None:
    demo, said, _ = told
    again = run_demo(session_cluster, "--dir", demo)
    assert (again.returncode, f"({demo}/opsdb/ctl stop; rm -r {demo})" in again.stderr) == (1, True)
    stop = next(line.split("#")[0].split() for line in said.splitlines() if "opsdb/ctl stop" in line)
    start = [*stop[:-1], "start"]
    assert " ".join(start) in said
    look = [PROJECT / "bin" / "ccatwm", "--site", demo / "site", "status"]
    assert subprocess.run(look, capture_output=True).returncode == 0
    subprocess.run(stop, check=True, capture_output=True)
    assert subprocess.run(look, capture_output=True).returncode == 4
    subprocess.run(start, check=True, capture_output=True)
    assert subprocess.run(look, capture_output=True).returncode == 0


def test_a_folder_that_does_not_do_is_refused_before_anything_is_made(
    session_cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    closed = Path("/var/tmp") / f"ccatwm-{os.getpid()}"  # short: how long pytest's is depends on the worker
    closed.mkdir(mode=0o700)
    request.addfinalizer(closed.rmdir)
    for folder, words in (
        (closed / "demo", "is closed to the cluster's user (mode 700)"),
        (Path("/var/tmp") / ("long" * 25), "too long for PostgreSQL's socket"),
    ):
        done = run_demo(session_cluster, "--dir", folder)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        assert "--dir" in done.stderr
        assert not folder.exists()
