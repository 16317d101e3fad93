"""The campaign over SSH: one array of two runs on a real Slurm, whose passes and whose agent over there are killed.

Each pass is a process with a connection of its own, as cron's are. Every distinct effect of every pass that connects
is struck once in each way; then passes go on until all is quiet, and the rig's checker reads what is left.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ccatwm import wiring
from ccatwm.edges.clock import SystemClock
from ccatwm.edges.transport._protocol import GREETING
from ccatwm.errors import WorldError
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from ccatwm.settings.find import MARK_FILE
from ccatwm.settings.schema import Settings, SlurmSettings, SshSettings
from tests.crash.campaign import write_campaign
from tests.crash.rig import (
    TABLES,
    World,
    arrive,
    check,
    define,
    raw_digest,
    rebase,
    rows,
    snapshot,
)
from tests.fakes.slurm_commands import SlurmCommands
from tests.integration.cluster import Cluster, find_cluster, start_cluster
from tests.statements import share_compiled

MODES = ("before", "amid", "after", "adrift", "late", "agent", "agent-first", "agent-last")
"""What is killed: the pass before or after an effect, or amid the opening of its connection; the pass while the agent
has a call that it begins only later, beside the next passes or once all is quiet; the agent in the middle of a call; the
agent by a command of Slurm's before or after this has done its work."""
ORPHANED = ("adrift", "late")
ADRIFT_SECONDS = (0.05, 0.4, 1.0)  # after the pass was killed its agent goes on
SENT_SECONDS = 0.15  # a call is with sshd by then
QUIET_SECONDS = 90.0
WANTED = {"calibrate": 2, "grid": 0}
FINAL = {"COMPLETED", "CANCELLED"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
AGAIN = re.compile(r"\(([3-9]|\d\d+)\)")  # of effects of one name the first two are distinct enough
AGENT_KILLED_BY = {
    "agent-first": 'kill -KILL $PPID; sleep 0.1; real "$@"',
    "agent-last": 'answer=$(real "$@"); kill -KILL $PPID; echo "$answer"',
}


@dataclass(frozen=True)
class Point:
    """A distinct effect of a pass, and what happens to it."""

    pass_name: str
    effect: str
    mode: str
    seconds: float = 0.0  # that the effect takes
    number: int = 0  # of the point

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.effect}, {self.mode}"


class StrikingEffects:
    """Names the effects of one pass so that each is distinct by what it does, and strikes at the point's.

    A command of Slurm's is a call of the agent's too: its name goes before the call's. A commit is named by the
    effect that it comes after."""

    def __init__(self, world: SshWorld, pass_name: str, point: Point | None) -> None:
        self._world = world
        self._pass = pass_name
        self._point = point if point is not None and point.pass_name == pass_name else None
        self._inside: list[str] = []
        self._seen: dict[str, int] = {}
        self._latest, self._commits = "the start", 0
        self._asking = False
        self.context: Context | None = None

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        if self._asking:
            yield
            return
        assert self.context is not None
        assert name == "db.commit" or not self.context.database.in_transaction, f"{name} inside a transaction"
        effect = self._name(name, detail)
        strikes = self._point is not None and self._point.effect == effect
        if strikes:
            self._begin(self._point)
        begun = time.monotonic()
        self._inside.append(effect)
        try:
            yield
        finally:
            self._inside.pop()
            self._world.note(self._pass, effect, time.monotonic() - begun)
            if strikes and self._point.mode == "after":
                os.kill(os.getpid(), signal.SIGKILL)

    def _name(self, name: str, detail: str) -> str:
        if name == "db.commit":
            self._commits += 1
            return f"db.commit {self._commits} after {self._latest}"
        if name == "remote.call":
            name = f"remote.call {detail}"
            if self._inside and self._inside[-1].startswith("slurm."):
                name = f"{self._inside[-1]}: {name}"
        elif name == "slurm.scontrol":
            name = f"{name} {detail.split()[1]}"
        self._seen[name] = self._seen.get(name, 0) + 1
        if self._seen[name] > 1:
            name = f"{name} ({self._seen[name]})"
        self._latest, self._commits = name, 0
        return name

    def _begin(self, point: Point) -> None:
        self._world.mark_struck()
        if point.mode == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        elif point.mode == "amid":
            _later(point.seconds / 2, os.getpid())
        elif point.mode in ORPHANED:
            agent = self._agent()
            os.kill(agent, signal.SIGSTOP)
            self._world.agent_file.write_text(str(agent))
            _later(SENT_SECONDS, os.getpid())
        elif point.mode == "agent":
            agent = self._agent()
            self._world.agent_file.write_text(str(agent))
            _later(point.seconds / 2, agent)
        elif point.mode in AGENT_KILLED_BY:
            command = point.effect.removeprefix("slurm.").split()[0]
            self._world.commands.once(command, AGENT_KILLED_BY[point.mode])

    def _agent(self) -> int:
        """The process at the other end of our connection; the parent of what it runs."""
        assert self.context is not None and self.context.connection is not None
        self._asking = True
        try:
            told = self.context.connection.call(
                "commands", "run", argv=["/bin/sh", "-c", "echo $PPID"], environment={}, stdin=b"", timeout_seconds=10.0
            )  # fmt: skip
        finally:
            self._asking = False
        return int(told.stdout)


def _later(seconds: float, pid: int) -> None:
    def kill() -> None:
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


@dataclass
class SshWorld(World):
    """A copy of the campaign whose base directory belongs to the cluster's user."""

    cluster: Cluster | None = None
    point: Point | None = None
    pass_name: str = ""
    late: bool = False  # a call was carried out after submissions were given up
    adrift: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def agent_file(self) -> Path:
        return self.folder / "agent"

    @property
    def commands(self) -> SlurmCommands:
        return SlurmCommands(self.folder / "bin")

    def settings(self) -> Settings:
        ssh = self.cluster.ssh
        return Settings(
            site="crash", site_dir=None, opsdb_url=self.url, pipeline_base_dir=self.base, processing_location="local",
            state_dir=self.folder / "state", hpc_backend="slurm", cluster="sandbox", container_runtime="none",
            min_free_gb=0.0, retry_base_seconds=0, retry_max_seconds=0, grace_seconds=3, record_wait_seconds=4,
            transport="ssh",
            slurm=SlurmSettings(
                conf=str(self.cluster.slurm_conf), account=self.cluster.account, bin_dir=str(self.commands.folder),
                calls_per_minute=100_000, requeue_seconds=4, command_timeout_seconds=30,
            ),
            ssh=SshSettings(
                host=ssh.host, port=ssh.port, user=ssh.user, key_file=str(ssh.key), known_hosts=str(ssh.known_hosts),
                agent=False,
            ),
        )  # fmt: skip

    def _context(self) -> Context:
        effects = StrikingEffects(self, self.pass_name, self.point)
        context = wiring.build_context(self.settings(), actor="tester", effects=effects, clock=SystemClock())
        effects.context = context
        share_compiled(context.database)
        return context

    # --- what is kept of effects --------------------------------------------------------------------------------

    def note(self, pass_name: str, effect: str, seconds: float) -> None:
        if self.trace is not None:
            os.write(self.trace, json.dumps([pass_name, effect, seconds]).encode() + b"\n")

    def mark_struck(self) -> None:
        (self.folder / "struck").touch()

    @property
    def struck(self) -> bool:
        return (self.folder / "struck").exists()

    # --- passes -------------------------------------------------------------------------------------------------

    def run(self, name: str) -> bool:
        """One pass in a process of its own; False if it was killed."""
        self.pass_name = name
        survived = self.in_child(lambda context: self._pass(context, name))
        if self.struck and self.point is not None:
            if self.point.mode == "adrift":
                self._let_go(ADRIFT_SECONDS[self.point.number % len(ADRIFT_SECONDS)])
            self.point = None
        return survived

    def _let_go(self, seconds: float) -> None:
        """The agent goes on."""
        script = f"sleep {seconds}; kill -CONT {self.agent_file.read_text()}"
        self.adrift.append(subprocess.Popen(["/bin/sh", "-c", script]))

    def until_late_call_is_done(self) -> None:
        self.late = True
        self._let_go(0)
        _gone(int(self.agent_file.read_text()))
        self.until_quiet()

    def _pass(self, context: Context, name: str) -> None:
        try:
            report = wiring.run_pass(name, context, PassOptions())
        finally:
            context.close()
        lost = self.struck and isinstance(report.error, WorldError)
        assert report.error is None or lost, f"{name}: {report.error!r}"

    def cycle(self) -> bool:
        ended = [self.run(name) for name in wiring.PASSES]
        return all(ended)

    def jobs(self) -> int:
        """Wait until no job of ours waits or runs; held ones wait for a pass."""
        until = time.monotonic() + 60
        while busy := [row for row in self.queue() if row[1] not in ENDED and row[2] != "JobHeldUser"]:
            assert time.monotonic() < until, f"jobs do not end: {busy}"
            time.sleep(0.1)
        return 0

    def queue(self) -> list[list[str]]:
        """Our tasks: name, state, reason, job and index; those that have ended too."""
        names = {f"ccatwm-{row['token']}" for row in rows(self.url, "submission")}
        found = self.cluster.squeue(f"--user={self.cluster.user}", fields="%j|%T|%r|%F_%K")
        return [row for row in found if row[0] in names]

    def unfinished(self) -> list[dict[str, Any]]:
        """Runs that are not final, and attempts whose metrics accounting still owes us."""
        open_runs = [r for r in rows(self.url, "executed_reduction_step") if r["status"] not in FINAL]
        return open_runs + [a for a in rows(self.url, "run_attempt") if a["metrics_at"] is not None]

    def until_quiet(self, rounds: int = 0) -> None:
        until, before = time.monotonic() + QUIET_SECONDS, None
        while True:
            self.cycle()
            self.jobs()
            now, left = snapshot(self.url), self.unfinished()
            if now == before and not left:
                break
            before = now
            assert time.monotonic() < until, f"not quiet: {left}"
            if left:
                time.sleep(0.2)
        for process in self.adrift:
            process.wait()

    def wrong(self, raw: str) -> list[str]:
        """What the rig's checker finds, and what is left over there."""
        wrong = check(self, raw) + self._check_queue()
        if self.agent_file.exists() and not _gone(int(self.agent_file.read_text())):
            wrong.append("an agent has outlived its connection")
        return wrong

    def _check_queue(self) -> list[str]:
        """Every run went out once: what is adrift arrives long before a submission is given up."""
        runs_of: dict[tuple[str, int], int] = {}
        tokens = {row["id"]: row["token"] for row in rows(self.url, "submission")}
        for attempt in rows(self.url, "run_attempt"):
            name = f"ccatwm-{tokens[attempt['submission_id']]}"
            runs_of[name, attempt["array_index"]] = attempt["run_id"]
        jobs: dict[int, set[str]] = {}
        wrong = []
        for name, state, _, task in self.queue():
            job, _, index = task.partition("_")
            jobs.setdefault(runs_of[name, int(index)], set()).add(job)
            if state not in ENDED:
                wrong.append(f"{name} is left in the queue: {state}")
        if self.late:
            return wrong
        return wrong + [f"run {run} was submitted as {ids}" for run, ids in jobs.items() if len(ids) > 1]


def _gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def list_left_agents(cluster: Cluster) -> list[str]:
    """Agents of the cluster's user, once every connection was closed or broke; they get some time to notice."""
    uid, until = pwd.getpwnam(cluster.user).pw_uid, time.monotonic() + 5
    while left := [p.name for p in Path("/proc").glob("[0-9]*") if _is_agent(p, uid)]:
        if time.monotonic() > until:
            return [f"agent {pid} has outlived its connection" for pid in left]
        time.sleep(0.1)
    return []


def _is_agent(process: Path, uid: int) -> bool:
    try:
        return process.stat().st_uid == uid and GREETING.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


# --- the faultless run --------------------------------------------------------------------------------------------------


@contextmanager
def running_cluster() -> Iterator[Cluster | None]:
    """The one that CCATWM_CLUSTER_DIR names, or one for this campaign alone; None where none can be had."""
    if running := find_cluster():
        yield running
        return
    try:
        cluster = start_cluster("--no-apptainer")
    except pytest.skip.Exception as reason:
        print(f"no cluster: {reason}")
        yield None
        return
    try:
        yield cluster
    finally:
        cluster.down()


@dataclass(frozen=True)
class Recording:
    """A faultless run: its distinct effects by pass, and the state before each pass."""

    cluster: Cluster
    effects: tuple[tuple[str, str, float], ...]
    stops: dict[str, tuple[str, str]]  # folder and ops-db before the pass
    raw: str


def record(root: Path, cluster: Cluster, store: Any) -> Recording:
    folder = root / "live"
    folder.mkdir(parents=True)
    root.chmod(0o755)  # the cluster's user goes through it
    world = SshWorld(folder, store.make(folder), cluster=cluster, wanted=WANTED)
    _prepare(world)
    raw = raw_digest(folder)
    names = (root / "names").open("w+b")
    world.trace = names.fileno()
    stops = {}
    for name in wiring.PASSES:
        stops[name] = _copy(folder, world.url, root / f"stop-{name}", store)
        assert world.run(name)
        if name == "submit":
            world.jobs()
            _wait_for_accounting(world)
    world.trace = None
    world.until_quiet()
    wrong = world.wrong(raw) + _once_more(world)
    assert not wrong, "; ".join(wrong)
    names.seek(0)
    effects = tuple((p, e, s) for p, e, s in map(json.loads, names))
    return Recording(cluster, effects, stops, raw)


def _prepare(world: SshWorld) -> None:
    write_campaign(world.folder)
    arrive(world, "night.yaml")
    world.in_child(lambda context: define(context, world.folder / "array.yaml"))
    world.in_child(
        lambda context: (world.base / MARK_FILE).write_text(json.dumps({"ops_db_uid": context.ops_db_uid}))
    )
    for place in (world.base, world.commands.folder):
        subprocess.run(["chown", "-R", world.cluster.user, place], check=True)


def _wait_for_accounting(world: SshWorld) -> None:
    (job,) = {row["job_id"] for row in rows(world.url, "submission")}
    world.cluster.wait_for_accounting(int(job), "COMPLETED", rows=sum(WANTED.values()))


def _copy(source: Path, url: str, target: Path, store: Any) -> tuple[str, str]:
    """Files with their owners, and the ops-db."""
    target.mkdir(parents=True)
    kept = [p for p in source.iterdir() if not p.name.startswith("opsdb.sqlite")]
    subprocess.run(["cp", "-a", *kept, target], check=True)
    shutil.rmtree(target / "state" / "locks", ignore_errors=True)
    return str(target), store.copy(url, target)


def _once_more(world: SshWorld) -> list[str]:
    """Once quiet, a cycle does nothing to the ops-db's content; what it did, in words."""
    before = {table: {row["id"]: row for row in rows(world.url, table)} for table in TABLES}
    world.cycle()
    return [
        f"a cycle after the end changed {table} {row['id']}: {_changes(old.get(row['id'], {}), row)}"
        for table, old in before.items()
        for row in rows(world.url, table)
        if row != old.get(row["id"])
    ]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value}


# --- points -------------------------------------------------------------------------------------------------------------


def points(
    recording: Recording, every: int = 1, modes: Sequence[str] = MODES, match: str = ""
) -> list[Point]:
    """Each distinct effect of each pass that connects, in each mode that goes with it."""
    connecting = {p for p, effect, _ in recording.effects if effect == "ssh.connect"}
    found = [
        Point(name, effect, mode, seconds)
        for name, effect, seconds in recording.effects
        if name in connecting and not AGAIN.search(effect)
        for mode in modes
        if _goes_with(mode, effect)
    ]
    chosen = [point for point in found if re.search(match, str(point))][::every]
    return [replace(point, number=number) for number, point in enumerate(chosen)]


def _goes_with(mode: str, effect: str) -> bool:
    if effect.startswith("slurm.") and "remote.call" not in effect:  # its call is an effect of its own
        return mode in AGENT_KILLED_BY
    if mode == "amid":
        return effect == "ssh.connect"
    called = "remote.call" in effect and not effect.startswith("db.commit")
    return called if mode in (*ORPHANED, "agent") else mode in ("before", "after")


def run_point(recording: Recording, store: Any, root: Path, point: Point) -> list[str]:
    folder = root / f"point-{point.number}"
    source, old_url = recording.stops[point.pass_name]
    _, url = _copy(Path(source), old_url, folder, store)
    try:
        rebase(folder, url, Path(source))
        world = SshWorld(folder, url, cluster=recording.cluster, wanted=WANTED, point=point)
        survived = world.run(point.pass_name)
        if not world.struck:
            return ["the effect was not reached"]
        if survived is (point.mode in ("before", "amid", "after", *ORPHANED)):
            return ["the pass survived" if survived else "the pass was killed"]
        world.until_quiet()
        if point.mode == "late":
            world.until_late_call_is_done()
        return world.wrong(recording.raw) + _once_more(world)
    except AssertionError as error:
        return [str(error)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        store.drop(url)


def run_points(
    recording: Recording, store: Any, root: Path, wanted: Sequence[Point], jobs: int
) -> dict[Point, list[str]]:
    """What does not hold, by point; only points with something wrong. They wait for Slurm more than they work."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        futures = {p: pool.submit(run_point, recording, store, root, p) for p in wanted}
        results = {point: future.result() for point, future in futures.items()}
    return {point: wrong for point, wrong in results.items() if wrong}
