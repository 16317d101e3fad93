"""A real one-node Slurm cluster for tests, by bin/cluster. Touches: processes, a user, folders below /var/tmp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.guard import run_when_gone

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = PROJECT / "bin" / "cluster"
FOLDERS = "ccatwm-tests-"
CANNOT = 77
_watches: dict[Path, Callable[[], None]] = {}
"""What calls off that a cluster is taken down once this process is gone."""


@dataclass(frozen=True)
class Ssh:
    """How its user is reached."""

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path


@dataclass
class Cluster:
    """A running cluster, as its `cluster.json` describes it."""

    dir: Path
    disturbed: bool = False
    """A test stopped or paused a service and may have left it so."""
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.description = json.loads((self.dir / "cluster.json").read_bytes())

    @property
    def slurm_conf(self) -> Path:
        return Path(self.description["slurm_conf"])

    @property
    def scratch(self) -> Path:
        """A folder of the user's, the same inside and outside of jobs."""
        return Path(self.description["scratch"])

    @property
    def ssh(self) -> Ssh:
        told = self.description["ssh"]
        return Ssh(told["host"], told["port"], told["user"], Path(told["key"]), Path(told["known_hosts"]))

    @property
    def user(self) -> str:
        return self.ssh.user

    @property
    def account(self) -> str:
        return str(self.description["account"])

    @property
    def node(self) -> str:
        return str(self.description["node"])

    @property
    def partitions(self) -> list[str]:
        return list(self.description["partitions"])

    @property
    def memory_enforced(self) -> bool:
        return bool(self.description["memory_enforced"])

    @property
    def environment(self) -> dict[str, str]:
        """For clients of Slurm, and nothing else of whoever runs the tests."""
        return {"PATH": "/usr/bin:/bin", "SLURM_CONF": str(self.slurm_conf)}

    def run(
        self, *argv: str | Path, as_user: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command on the cluster, in its scratch folder, as root or as its user."""
        account: dict[str, Any] = (
            {"user": self.user, "group": self.user, "extra_groups": []} if as_user else {}
        )
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.scratch,
            **account,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}: {done.stderr}"
        return done

    def over_ssh(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A shell command by OpenSSH. SLURM_CONF is not set there, as at sites that say it by a profile only."""
        ssh = self.ssh
        options = [
            "-F",
            "none",
            "-p",
            str(ssh.port),
            "-i",
            str(ssh.key),
            "-o",
            f"UserKnownHostsFile={ssh.known_hosts}",
        ]
        argv = ["ssh", *options, "-o", "BatchMode=yes", f"{ssh.user}@{ssh.host}", command]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stderr}"
        return done

    def sbatch(self, *options: str, wrap: str = "true", as_user: bool = True) -> int:
        """Submit a shell command; the job's id. Output goes nowhere unless options say otherwise."""
        argv = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", wrap]
        return int(self.run(*argv, as_user=as_user).stdout.split(";")[0])

    def squeue(self, *options: str, fields: str = "%i|%T|%r") -> list[list[str]]:
        """Rows of the queue, every array task one of its own; ended jobs too, for as long as Slurm keeps them."""
        done = self.run("squeue", "--noheader", "--array", "--states=all", f"--format={fields}", *options)
        return [line.split("|") for line in done.stdout.splitlines()]

    def sacct(self, *options: str, fields: str = "jobid,state,exitcode") -> list[list[str]]:
        """Rows of accounting, one an allocation."""
        fixed = ["sacct", "--allusers", "--allocations", "--noheader", "--parsable2", f"--format={fields}"]
        return [line.split("|") for line in self.run(*fixed, *options).stdout.splitlines()]

    def scontrol(self, *arguments: str) -> str:
        return self.run("scontrol", *arguments).stdout

    def sacctmgr(self, *arguments: str) -> str:
        """Without a question asked, in lines to be parsed."""
        return self.run("sacctmgr", "--immediate", "--noheader", "--parsable2", *arguments).stdout

    def state(self, job: int | str) -> str:
        """As the queue has it; empty where it has forgotten the job."""
        done = self.run("squeue", "-h", "--states=all", "--format=%T", f"--jobs={job}", check=False)
        return " ".join(sorted(set(done.stdout.split())))

    def wait_for(self, job: int | str, *states: str, seconds: float = 60.0) -> None:
        """Until all tasks of the job are in one of these states."""
        until = time.monotonic() + seconds
        while not (now := self.state(job)) or not set(now.split()) <= set(states):
            assert time.monotonic() < until, f"job {job} is {now or 'forgotten'}, not {states}"
            time.sleep(0.05)

    def wait_for_accounting(self, job: int, *states: str, rows: int = 1, seconds: float = 60.0) -> None:
        """Accounting lags by up to two seconds. For as long it may have an array as one row of the last task's state,
        under the array's own number, while its other tasks run: say how many rows there will be."""
        until = time.monotonic() + seconds
        while not self._accounting_has(job, states, rows):
            told = self.sacct(f"--jobs={job}")
            assert time.monotonic() < until, f"accounting has {told}, not {rows} rows of {states}"
            time.sleep(0.1)

    def _accounting_has(self, job: int, states: tuple[str, ...], rows: int) -> bool:
        told = self.sacct(f"--jobs={job}")
        # The state may have more words: CANCELLED by 0.
        return len(told) >= rows and {row[1].split()[0] for row in told} <= set(states)

    def start(self, service: str) -> None:
        self._act("start", service)

    def stop(self, service: str) -> None:
        self._act("stop", service)

    def kill(self, service: str) -> None:
        self._act("kill", service)

    def pause(self, service: str) -> None:
        """It falls silent, its connections stay open."""
        self._act("pause", service)

    def resume(self, service: str) -> None:
        self._act("continue", service)

    def set(self, **settings: str | int) -> None:
        """Other lines in slurm.conf, for the rest of the session; controller and node are started anew."""
        options = [f"--set={name}={value}" for name, value in settings.items()]
        run_program("up", "--dir", self.dir, "--no-apptainer", *options, check=True)
        self.__post_init__()

    def repair(self) -> None:
        """As a new one, but for its accounting records: no jobs, all services, the node in service."""
        if self.disturbed:
            run_program("up", "--dir", self.dir, "--no-apptainer", check=True)
            self.disturbed = False
        self.run("scancel", "--quiet", f"--user={self.user}")
        self.run("scancel", "--quiet", "--user=root")

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(run_program("status", "--json", "--dir", self.dir).stdout)
        return document

    def down(self) -> None:
        run_program("down", "--dir", self.dir, check=True)
        if self.dir in _watches:
            _watches.pop(self.dir)()

    def _act(self, verb: str, service: str) -> None:
        self.disturbed = True
        run_program(verb, service, "--dir", self.dir, check=True)


def run_program(*argv: str | Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([PROGRAM, *argv], check=False, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, f"bin/cluster {argv}: {done.returncode}: {done.stderr}"
    return done


def start_cluster(*options: str) -> Cluster:
    """One of the caller's own; skips where none can be had, and under CI=true fails."""
    _end_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDERS}{os.getpid()}-", dir="/var/tmp"))
    _watches[folder] = run_when_gone(PROGRAM, "down", "--dir", folder, PYTHON=sys.executable)
    done = run_program("up", "--dir", folder, *options)
    if done.returncode:
        run_program("down", "--dir", folder)
        shutil.rmtree(folder, ignore_errors=True)
        _watches.pop(folder)()
    if done.returncode == CANNOT:
        _missing(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Cluster(folder)


def find_cluster() -> Cluster | None:
    """One that runs already and was named by CCATWM_CLUSTER_DIR; it is left running."""
    named = os.environ.get("CCATWM_CLUSTER_DIR")
    if not named or run_program("status", "--json", "--dir", named).returncode:
        return None
    return Cluster(Path(named))


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _end_abandoned() -> None:
    """Clusters whose test session was killed."""
    for folder in Path("/var/tmp").glob(f"{FOLDERS}*-*"):
        owner = folder.name.removeprefix(FOLDERS).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            run_program("down", "--dir", folder)
            shutil.rmtree(folder, ignore_errors=True)
