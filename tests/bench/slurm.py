"""Group `slurm`: a batch system and the way to it.

Touches: processes, an SSH server and a one-node cluster of its own on 127.0.0.1, /tmp and /var/tmp.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ccatwm.edges.scheduler import _slurm_text as text
from ccatwm.edges.transport.ssh import SshTransport
from tests.bench.figures import Figure, measure
from tests.bench.slurm_site import BenchSite, bench_cluster, copy_site, make_site
from tests.fakes.sshd import Server, connected, open_site, why_not
from tests.integration.cluster import Cluster

COMMANDS = 20  # of one measurement
OPEN_JOBS = 5000


def run_group() -> Iterator[Figure]:
    yield from ssh_command()
    with bench_cluster() as cluster, TemporaryDirectory(prefix="ccatwm-bench-", dir="/var/tmp") as folder:
        yield submit_1000(cluster, Path(folder) / "submit")
        yield poll_5000(cluster, Path(folder) / "poll")
        yield array_200(cluster, Path(folder) / "array")


def ssh_command() -> Iterator[Figure]:
    """One command (`true`) on an open connection beside OpenSSH with ControlMaster, on the same server."""
    if reason := why_not():
        raise SystemExit(f"ssh-command: {reason}")
    with open_site() as site, Server(site, authorized=[site.key("me")]) as server:
        key = site.key("me")
        settings = server.settings(key)
        with connected(site, settings, site.folder / "state") as connection, _master(server, key) as ssh:
            transport = SshTransport(connection)

            def ours() -> None:
                result = transport.run(["true"], environment={"PATH": "/usr/bin:/bin"})
                assert result.exit_code == 0

            def bare() -> None:
                subprocess.run([*ssh, "true"], check=True, stdin=subprocess.DEVNULL, capture_output=True)

            yield measure("ssh-command", _repeated(ours), _repeated(bare), "<=1.0", times=COMMANDS)


def _repeated(call: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(COMMANDS):
            call()

    return run


@contextmanager
def _master(server: Server, key: Path) -> Iterator[list[str]]:
    """OpenSSH's command line for a connection that is open already."""
    options = {
        "ControlPath": f"{server.folder}/control", "ControlMaster": "auto", "ControlPersist": "yes", "IdentityFile": key,
        "IdentitiesOnly": "yes", "IdentityAgent": "none", "BatchMode": "yes",
        "UserKnownHostsFile": f"{server.folder}/known_hosts",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    place = ["-p", str(server.port), f"{server.site.user}@127.0.0.1"]
    command = ["ssh", "-F", "none", *words, *place]
    subprocess.run([*command, "true"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield command
    finally:
        subprocess.run([*command[:-1], "-O", "exit", command[-1]], check=True, capture_output=True)


# --- submitting ------------------------------------------------------------------------------------------------


def submit_1000(cluster: Cluster, folder: Path) -> Figure:
    """1,000 staged runs to SUBMITTED beside the same folders, files and rows by a plain loop, one `sbatch --hold
    --array` and one `scontrol release`. Nothing may start: the partition is down meanwhile."""
    staged = make_site(folder / "staged", cluster, 1000)
    context = staged.context()
    staged.ask(context)
    staged.run_passes(context, "resolve", "stage")
    context.close()
    context.database.dispose()
    site = copy_site(staged, folder / "site")
    plain = Plain.of(site, cluster)
    with _down(cluster):
        figure = measure("submit-1000", *_fresh(staged, site, plain), "<=2.0", pairs=5)
    return figure


class Plain:
    """What a submission of all staged runs leaves, and the plain way to it."""

    def __init__(
        self, folders: list[Path], files: list[tuple[Path, bytes]], script: Path, cluster: Cluster
    ) -> None:
        self.folders, self.files, self.script, self.cluster = folders, files, script, cluster

    @staticmethod
    def of(site: BenchSite, cluster: Cluster) -> Plain:
        """Learnt from one submission by the pass."""
        base = site.folder / "pipelines"
        before = set(base.rglob("*"))
        with _down(cluster):
            context = site.context()
            site.run_pass(context, "submit")
            context.close()
        new = sorted(set(base.rglob("*")) - before)
        cluster.run("scancel", "--me", as_user=False)
        folders = [path.relative_to(base) for path in new if path.is_dir()]
        files = [(path.relative_to(base), path.read_bytes()) for path in new if path.is_file()]
        script = next(path for path, _ in files if path.name == "job.sh")
        return Plain(folders, files, script, cluster)

    def submit(self, site: BenchSite) -> None:
        base = site.folder / "pipelines"
        for folder in self.folders:
            (base / folder).mkdir(exist_ok=True)
        for path, content in self.files:
            (base / path).write_bytes(content)
        script = base / self.script
        self._write_rows(site)
        argv = [
            "sbatch",
            "--parsable",
            "--hold",
            "--array=0-999",
            "--time=2",
            "--mem=52M",
            "--output=/dev/null",
        ]
        job = self.cluster.run(*argv, str(script), str(script.parent), as_user=False).stdout.strip()
        self.cluster.run("scontrol", "release", job, as_user=False)

    def _write_rows(self, site: BenchSite) -> None:
        with sqlite3.connect(site.folder / "opsdb.sqlite") as connection:
            runs = [row[0] for row in connection.execute("SELECT id FROM executed_reduction_step")]
            at = "2026-03-01T00:00:00.000000Z"
            connection.execute(
                "INSERT INTO submission (id, token, backend, cluster, state, created_at) VALUES (77, 'plain', 'x', 'x', "
                "'RELEASED', ?)", (at,),
            )  # fmt: skip
            connection.executemany(
                "INSERT INTO run_attempt (run_id, number, submission_id, array_index, directory, created_at, "
                "resources_asked) VALUES (?, 1, 77, ?, 'd', ?, '{}')",
                [(run, index, at) for index, run in enumerate(runs)],
            )
            for status in ("SUBMITTING", "SUBMITTED"):
                connection.executemany(
                    "UPDATE executed_reduction_step SET status = ?, attempt = 1 WHERE id = ?",
                    [(status, run) for run in runs],
                )
                connection.executemany(
                    "INSERT INTO run_event (run_id, event, to_status, at) VALUES (?, 'E', ?, ?)",
                    [(run, status, at) for run in runs],
                )
        connection.close()


def _fresh(
    staged: BenchSite, site: BenchSite, plain: Plain
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Both ways, each timed on a copy of its own that is made before."""

    def prepared() -> None:
        plain.cluster.run("scancel", "--me", as_user=False)
        while plain.cluster.squeue("--me", "--states=PD,R,CG"):
            time.sleep(0.2)
        copy_site(staged, site.folder)

    def ours() -> float:
        prepared()
        context = site.context()
        context.scheduler.limits()  # after connects
        begun = time.perf_counter()
        report = site.run_pass(context, "submit")
        seconds = time.perf_counter() - begun
        assert report.done == 1000, report
        context.close()
        context.database.dispose()
        return seconds

    def bare() -> float:
        prepared()
        begun = time.perf_counter()
        plain.submit(site)
        return time.perf_counter() - begun

    return ours, bare


@contextmanager
def _down(cluster: Cluster) -> Iterator[None]:
    """Jobs are taken, none starts."""
    cluster.scontrol("update", "partitionname=main", "state=down")
    try:
        yield
    finally:
        cluster.run("scancel", "--me", as_user=False)
        cluster.scontrol("update", "partitionname=main", "state=up")


# --- polling -----------------------------------------------------------------------------------------------------


def poll_5000(cluster: Cluster, folder: Path) -> Figure:
    """5,000 open jobs beside the same `squeue` and `sacct`, read as lines.

    The jobs are real: arrays of 1,000 tasks that the pass `submit` handed over, 16 of them running, the others
    pending. One that was submitted alone is recorded under an id that nobody knows, as if Slurm had forgotten it: so
    accounting is asked for too, each time. Only `stage` did not run: the jobs have no inputs.
    """
    site = make_site(folder, cluster, OPEN_JOBS, script="exec sleep 1800", hours=1)
    context = site.context()
    site.ask(context)
    site.run_pass(context, "resolve")
    site.call_staged(context)
    with _down(cluster):
        for most in [1000, 1000, 1000, 1000, 999, 1]:
            site.run_pass(context, "submit", limit=most)
        unknown = "999999"
        with sqlite3.connect(folder / "opsdb.sqlite") as connection:
            connection.execute(
                "UPDATE submission SET job_id = ? WHERE id = (SELECT max(id) FROM submission)", (unknown,)
            )
        connection.close()
        _start_some(cluster, 16)
        while _count(folder, "RUNNING") < 16:  # what is found new is written down before
            site.run_pass(context, "poll")

        def ours() -> None:
            report = site.run_pass(context, "poll")
            assert (report.scheduler_calls, report.waiting) == (2, OPEN_JOBS), report

        def bare() -> None:
            queue = cluster.run(*text.build_squeue("squeue", "m"))
            accounts = cluster.run(*text.build_sacct("sacct", [unknown]))
            assert len(queue.stdout.splitlines()) >= OPEN_JOBS
            accounts.stdout.splitlines()

        figure = measure("poll-5000", ours, bare, "<=2.0", pairs=9)
    context.close()
    shutil.rmtree(folder)
    return figure


def _start_some(cluster: Cluster, jobs: int) -> None:
    """So many jobs begin, as many as the node holds; the partition is down before and after."""
    cluster.scontrol("update", "partitionname=main", "state=up")
    for _ in range(300):
        if len(cluster.squeue("--me", "--states=R")) >= jobs:
            break
        time.sleep(0.2)
    else:
        raise SystemExit(f"{jobs} jobs did not start within a minute: does the cluster run others?")
    cluster.scontrol("update", "partitionname=main", "state=down")


# --- from end to end ----------------------------------------------------------------------------------------------


def array_200(cluster: Cluster, folder: Path) -> Figure:
    """200 runs that do nothing, from the request to COMPLETED by cycles, beside one array of 200 that is polled."""
    site = make_site(folder, cluster, 200)
    context = site.context()
    script = folder / "true.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    rounds = iter(range(1, 100))

    def ours() -> None:
        site.ask(context)
        wanted = 200 * next(rounds)
        while _count(folder, "COMPLETED") < wanted:
            site.run_passes(context, "trigger", "resolve", "stage", "submit", "poll", "collect")
            time.sleep(0.2)

    def bare() -> None:
        argv = [
            "sbatch",
            "--parsable",
            "--array=0-199",
            "--time=2",
            "--mem=52M",
            "--output=/dev/null",
            str(script),
        ]
        job = cluster.run(*argv, as_user=False).stdout.strip()
        while cluster.run(
            "squeue", "-h", "-j", job, "-t", "PD,R,CG", as_user=False, check=False
        ).stdout.strip():
            time.sleep(0.2)

    figure = measure("array-200", ours, bare, "<=1.2", pairs=5)
    context.close()
    return figure


def _count(folder: Path, status: str) -> int:
    with sqlite3.connect(folder / "opsdb.sqlite") as connection:
        query = "SELECT count(*) FROM executed_reduction_step WHERE status = ?"
        found = int(connection.execute(query, (status,)).fetchone()[0])
    connection.close()
    return found
