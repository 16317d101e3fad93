"""Kills passes at every effect and checks what is left, by an independent reading of ops-db and disk.

A kill is a real one: a forked child that leaves by `os._exit` before or after its k-th effect. Effects are counted in
memory shared between parent and children, so that k runs over the whole campaign.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import sqlite3
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from ccatwm import wiring

# Children are forked from here: what they would import is imported once.
from ccatwm.core.wording import GB
from ccatwm.edges.opsdb import tables
from ccatwm.edges.opsdb.engine import Database
from ccatwm.errors import SchedulerUnavailableError
from ccatwm.interfaces import JobState, JobTask, Scheduler
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from ccatwm.settings.schema import Settings
from tests.crash.campaign import program, write_campaign
from tests.fakes.batch import FileBatch
from tests.statements import share_compiled

KILLED = 9
BROKEN = 70
START = datetime(2026, 3, 2, tzinfo=UTC)


class SharedCounter:
    """A number in memory shared with forked children."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def get(self) -> int:
        return struct.unpack("q", self._memory[:8])[0]

    def set(self, value: int) -> None:
        self._memory[:8] = struct.pack("q", value)


class CountingEffects:
    """Counts effects; at the `kill_at`-th it ends the process before or after the effect, or makes it fail, once."""

    def __init__(
        self, counter: SharedCounter, kill_at: int | None, mode: str, trace: int | None = None
    ) -> None:
        self._counter = counter
        self._kill_at = kill_at
        self.mode = mode
        self._trace = trace  # a file descriptor that gets the name of every effect
        self.database: Database | None = None

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        assert name == "db.commit" or self.database is None or not self.database.in_transaction, (
            f"{name} {detail}: an effect outside the ops-db inside an open transaction"
        )
        count = self._counter.get() + 1
        self._counter.set(count)
        if self._trace is not None:
            os.write(self._trace, f"{name} {detail}\n".encode())
        if count == self._kill_at and self.mode == "before":
            os._exit(KILLED)
        if count == self._kill_at and self.mode == "fail":
            raise failure(name)
        yield
        if count == self._kill_at and self.mode == "after":
            os._exit(KILLED)


SUPERVISOR_STARTS = 250  # looks, 20 ms apart


def wait_for_jobs(world: World, effects: CountingEffects) -> int:
    """Wait until no job of the real local batch system waits or runs."""
    context = wiring.build_context(world.settings(), actor="tester", effects=effects)
    jobs = world.folder / "state" / "local-jobs"
    ids = [path.name for path in jobs.glob("*") if (path / "record.json").exists()]
    deadline = time.monotonic() + 60
    settled = 0
    while ids and time.monotonic() < deadline:
        states = {r.state for r in context.scheduler.poll([JobTask(i) for i in ids])}
        if not states & {JobState.PENDING, JobState.RUNNING}:
            # A job that was let go may still be HELD while its supervisor starts: on a busy machine that takes a while.
            settled += 1
            let_go = any((jobs / job_id / "released").exists() for job_id in ids)
            if JobState.HELD not in states or settled > (SUPERVISOR_STARTS if let_go else 5):
                return 0
        else:
            settled = 0
        time.sleep(0.02)
    assert not ids, "jobs did not end"
    return 0


def failure(name: str) -> BaseException:
    """What the world says when an effect of this name fails."""
    if name == "db.commit":
        return sa.exc.OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))
    if name.startswith("file."):
        return OSError(errno.EIO, "Input/output error")
    return SchedulerUnavailableError("the batch system does not answer")


class SteppingClock:
    """Every pass is a minute after the one before; nothing sleeps."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a pass slept")


@dataclass
class World:
    """One copy of the campaign: a folder and an ops-db."""

    folder: Path
    url: str
    backend: str = "fake"
    kill_at: int | None = None
    mode: str = "before"
    counter: SharedCounter = field(default_factory=SharedCounter)
    tick: int = 0
    trace: int | None = None
    in_process: bool = False
    scripts: int = 0  # run jobs by the real script, so many times each
    cache_bytes: int | None = None  # how large the cache may be
    scans: int = 3  # that the newest map must stand on
    wanted: dict[str, int] = field(default_factory=lambda: {"calibrate": 3, "grid": 2})

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def settings(self) -> Settings:
        return Settings(
            site="crash", site_dir=None, opsdb_url=self.url, pipeline_base_dir=self.base, processing_location="local",
            state_dir=self.folder / "state", hpc_backend=self.backend, cluster=self.backend, container_runtime="none",
            min_free_gb=0.0, min_free_inodes=0, stage_parallel=1, retry_base_seconds=0,
            retry_max_seconds=0, record_wait_seconds=0,
            cache_max_gb=None if self.cache_bytes is None else self.cache_bytes / GB,
        )  # fmt: skip

    def in_child(self, act: Callable[[Context], None]) -> bool:
        """Run `act(context)` in a forked child; False if it was killed on purpose. Errors fail the test.

        What cannot be killed any more needs no process of its own: a fork of this one takes a third of what it does.
        """
        self.tick += 1
        if self.in_process or (self._is_past_its_fault and self.backend == "fake"):
            self._act_here(act)
            return True
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._child(act)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, KILLED, -KILLED), f"a pass ended with {status} after effect {self.counter.get()}"
        return status == 0

    @property
    def _is_past_its_fault(self) -> bool:
        return self.kill_at is not None and self.counter.get() >= self.kill_at

    def _act_here(self, act: Callable[[Context], None]) -> None:
        context = self._context()
        try:
            act(context)
        except Exception as error:
            raise AssertionError(f"a pass ended after effect {self.counter.get()}: {error!r}") from error
        finally:
            context.database.dispose()

    def _child(self, act: Callable[[Context], None]) -> None:
        try:
            act(self._context())
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)
        os._exit(0)

    def _context(self) -> Context:
        effects = CountingEffects(self.counter, self.kill_at, self.mode, self.trace)
        clock = SteppingClock(START + timedelta(minutes=self.tick))
        context = wiring.build_context(self.settings(), actor="tester", effects=effects, clock=clock)
        effects.database = context.database
        share_compiled(context.database)  # children are forked after the rehearsal
        if self.backend == "fake":
            context.make_scheduler = lambda: self.batch(effects)
        return context

    def batch(self, effects: CountingEffects) -> Scheduler:
        return FileBatch(self.folder / "batch", self.base, effects)

    def jobs(self) -> int:
        """Let the batch system work; how many tasks it ran."""
        quiet = CountingEffects(SharedCounter(), None, "before")
        if self.backend == "local":
            return wait_for_jobs(self, quiet)
        batch = FileBatch(self.folder / "batch", self.base, quiet)
        return batch.run_scripts(self.scripts) if self.scripts else batch.run_jobs(program)

    def cycle(self) -> bool:
        """All six passes in one process; False if it was killed: then it is over, the next cycle goes on."""
        return self.in_child(run_all)

    def until_quiet(self, rounds: int = 30, is_known: Callable[[], bool] = lambda: False) -> bool:
        """Cycles and jobs until nothing changes any more; False if they stopped before, because what follows is known."""
        before = None
        for _ in range(rounds):
            came_to_its_end = self.cycle()
            self.jobs()
            if is_known():
                return False
            now = snapshot(self.url)
            if now == before and came_to_its_end:  # a cycle that was killed tells nothing of what is left to do
                return True
            before = now
        raise AssertionError(f"not quiet after {rounds} rounds")


def run_all(context: Context) -> None:
    for report in wiring.run_cycle(context, PassOptions()):
        failed_on_purpose = context.effects.mode == "fail"  # type: ignore[attr-defined]
        assert report.error is None or failed_on_purpose, report.error


def arrive(world: World, name: str) -> None:
    """Observations arrive: not a pass, never killed."""
    kill_at, world.kill_at = world.kill_at, None
    count = world.counter.get()
    world.in_child(lambda context: ingest(context, [world.folder / name]))
    world.counter.set(count)
    world.kill_at = kill_at


def ingest(context: Context, paths: list[Path]) -> None:
    from ccatwm.upkeep.ingest import ingest_files

    ingest_files(context.database, paths, now=context.clock.now(), actor="tester")


def define(context: Context, path: Path) -> None:
    from ccatwm.upkeep.apply import apply_definitions

    apply_definitions(
        context.database, context.grouping, [path], now=context.clock.now(), actor="tester", host="here",
        dry_run=False, prune=False, yes=True, confirm_runs=500,
    )  # fmt: skip


def prepare(world: World, night: str = "night.yaml", pipeline: str = "pipeline.yaml") -> None:
    """An empty ops-db with the campaign's files on disk and its pipeline applied."""
    write_campaign(world.folder)
    arrive(world, night)
    world.in_child(lambda context: define(context, world.folder / pipeline))
    world.counter.set(0)


def first_night(world: World) -> None:
    world.until_quiet()


def late_scan(world: World) -> None:
    arrive(world, "late.yaml")
    world.until_quiet()


# --- independent reading ----------------------------------------------------------------------------------------------

VOLATILE = {"pass_lease", "pass_record", "change_seen", "change_cursor"}


def rows(url: str, table: str) -> list[dict]:
    """All rows of a pipeline table, by plain SQL."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sa.text(f"SELECT * FROM ccatwm.{table} ORDER BY id")).mappings()
        return [dict(row) for row in found]


TABLES = sorted({t.name for t in tables.pipeline_metadata.tables.values()} - VOLATILE)


def snapshot(url: str) -> str:
    """Everything that is not a record of passes, as one digest."""
    digest = hashlib.sha256()
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for name in TABLES:
                digest.update(
                    repr(connection.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()).encode()
                )
    else:
        for name in TABLES:
            digest.update(repr(rows(url, name)).encode())
    return digest.hexdigest()


def rebase(folder: Path, url: str, source: Path) -> None:
    """Raw data are found where this copy lies."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for name, place in (("raw", "raw"), ("buffer", "buffer"), ("local", "base")):
            connection.execute(
                sa.text("UPDATE data_location SET base_path=:path WHERE name=:name"),
                {"path": str(folder / place), "name": name},
            )
    engine.dispose()
    late = folder / "late.yaml"
    late.write_text(late.read_text().replace(str(source), str(folder)))


def raw_digest(folder: Path) -> str:
    """The raw data as they lie at the archive."""
    paths = sorted(p for name in ("raw", "buffer") for p in (folder / name).rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest()


def check(world: World, raw_before: str) -> list[str]:
    """Everything that must hold after any fault; what does not, in words."""
    runs = rows(world.url, "executed_reduction_step")
    wrong = (
        _check_runs(world, runs)
        + _check_executions(world)
        + _check_products(world, runs)
        + _check_latest(world, runs)
        + _check_cache(world)
    )
    if raw_digest(world.folder) != raw_before:
        wrong.append("the raw data were touched")
    return wrong


def _check_runs(world: World, runs: list[dict]) -> list[str]:
    wrong = [
        f"run {r['id']} ended {r['status']}: {r['message']}"
        for r in runs
        if r["status"] not in ("COMPLETED", "CANCELLED")
    ]
    for step, wanted in world.wanted.items():
        done = [r for r in runs if r["step_name"] == step and r["status"] == "COMPLETED"]
        if len(done) != wanted:
            wrong.append(f"{len(done)} completed runs of {step}, {wanted} wanted")
    return wrong


def _check_executions(world: World) -> list[str]:
    log = world.base / "executions.log"
    executed = log.read_text().splitlines() if log.exists() else []
    wrong = [
        f"{d} was executed {executed.count(d)} times" for d in sorted(set(executed)) if executed.count(d) > 1
    ]
    by_run: dict[str, set[str]] = {}
    for directory in executed:
        by_run.setdefault(directory.rpartition("/")[0], set()).add(directory)
    wrong += [
        f"{run} was executed by {len(several)} attempts"
        for run, several in by_run.items()
        if len(several) > 1
    ]
    ended = {a["directory"] for a in rows(world.url, "run_attempt") if a["outcome"] == "succeeded"}
    wrong += [f"{d} succeeded without having been executed" for d in sorted(ended - set(executed))]
    return wrong


def _check_products(world: World, runs: list[dict]) -> list[str]:
    wrong = []
    products = rows(world.url, "data_product")
    for p in products:
        path = world.base / p["full_path"]
        if not path.is_file():
            wrong.append(f"product {p['id']} has no file {p['full_path']}")
        elif (
            hashlib.sha256(path.read_bytes()).hexdigest() != p["sha256"]
            or path.stat().st_size != p["size_bytes"]
        ):
            wrong.append(f"product {p['id']} is not what was recorded")
    wrong += [
        f"run {r['id']}: {what}" for r in runs if r["status"] == "COMPLETED" for what in _published(world, r)
    ]
    for r in runs:
        mine = [p for p in products if p["run_id"] == r["id"]]
        if r["status"] == "COMPLETED" and len(mine) != (2 if r["step_name"] == "calibrate" else 1):
            wrong.append(f"run {r['id']} has {len(mine)} products")
    maps = {
        p["run_id"]: (world.base / p["full_path"]).read_text()
        for p in products
        if p["path"].endswith("map.txt")
    }
    newest = max(maps, default=None)
    if newest is None:
        return wrong
    if len(maps[newest].splitlines()) < world.scans:
        wrong.append(f"the newest map stands on {len(maps[newest].splitlines())} inputs")
    current = {g["current_run_id"] for g in rows(world.url, "sub_group")}
    if newest not in current:
        wrong.append(f"run {newest}, the newest map's, is not current")
    return wrong


def _published(world: World, run: dict) -> list[str]:
    """What is missing beside a completed run."""
    folder = world.base / run["pipeline_name"] / run["step_name"] / run["sub_group_key"] / f"run-{run['id']}"
    wrong = [] if (folder / "run.json").is_file() else ["no run.json"]
    output = folder / "output"
    if not output.is_symlink() or output.resolve() != (world.base / run["output_directory"]).resolve():
        wrong.append("output does not lead to the winning attempt")
    return wrong


def _check_latest(world: World, runs: list[dict]) -> list[str]:
    """Where `latest` does not lead to what counts, or the ops-db says that it may not."""
    by_id = {run["id"]: run for run in runs}
    wrong = []
    for group in rows(world.url, "sub_group"):
        run = by_id.get(group["current_run_id"])
        if group["latest_due"]:
            wrong.append(f"the link of sub-group {group['id']} is due still")
        if run is None:
            continue
        link = world.base / run["pipeline_name"] / run["step_name"] / run["sub_group_key"] / "latest"
        out = (group["stale"] or "").startswith("excluded: ")
        if out and link.is_symlink():
            wrong.append(f"{link} leads to what is excluded")
        if not out and link.resolve() != (world.base / run["output_directory"]).resolve():
            wrong.append(f"{link} does not lead to run {run['id']}")
    return wrong


def _check_cache(world: World) -> list[str]:
    """Every package recorded as staged lies there as it was packed."""
    wrong = []
    for row in rows(world.url, "staged_package"):
        folder = world.base / row["directory"]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if row["state"] == "PRESENT" and len(files) != row["file_count"]:
            wrong.append(f"{row['package_name']}: {len(files)} of {row['file_count']} files in the cache")
        name = row["package_name"].removesuffix("-LFA")
        for path in files:
            part = path.relative_to(folder / name).as_posix()
            if path.read_bytes() != f"{name} {part} {name[-1]}\n".encode() * 50:
                wrong.append(f"{row['package_name']}: {part} is not what was packed")
    return wrong
