"""Enumerates crash points: kill or fail at the k-th effect of a small campaign, then check what is left.

The state before each cycle of a faultless run is kept, so that a point needs only its own cycle and what follows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.crash.rig import World, arrive, check, first_night, late_scan, prepare, raw_digest, snapshot

MODES = ("before", "after", "fail")


@dataclass(frozen=True)
class Stop:
    """A state of the faultless run to start from: effects done so far, and whether the late scan was there."""

    folder: str
    effects: int
    tick: int
    late: bool


@dataclass(frozen=True)
class Recording:
    """A faultless run: how many effects, their names, and the states to start from."""

    effects: int
    names: tuple[str, ...]
    stops: tuple[Stop, ...]
    raw: str


def fast_folder() -> Path:
    """A folder in memory where there is one: these tests are about order, not about disks."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="ccatwm-crash-", dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None))


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/opsdb.sqlite"


def make_tables(url: str) -> None:
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.edges.opsdb.upgrade import upgrade_tables

    upgrade_tables(Database(url))


def rehearse(root: Path) -> None:
    """The campaign once in this very process, so that children find statements compiled and modules imported."""
    folder = root / "rehearsal"
    folder.mkdir(parents=True)
    make_tables(sqlite_url(folder))
    world = World(folder, sqlite_url(folder), in_process=True)
    prepare(world)
    first_night(world)
    late_scan(world)


def record(root: Path) -> Recording:
    """Run the campaign without faults, keeping the state before every cycle."""
    rehearse(root)
    folder = root / "live"
    folder.mkdir(parents=True)
    make_tables(sqlite_url(folder))
    names = (root / "names").open("w+b")
    world = World(folder, sqlite_url(folder))
    prepare(world)
    world.trace = names.fileno()
    raw = raw_digest(folder)
    stops: list[Stop] = []
    for late in (False, True):
        if late:
            arrive(world, "late.yaml")
        before = None
        while (now := snapshot(world.url)) != before:
            before = now
            stops.append(_keep(root, world, late))
            world.cycle()
            world.jobs()
    wrong = check(world, raw)
    assert not wrong, wrong
    names.seek(0)
    lines = tuple(line.decode().strip() for line in names)
    return Recording(world.counter.get(), lines, tuple(stops), raw)


def _keep(root: Path, world: World, late: bool) -> Stop:
    target = root / f"stop-{world.tick}"
    copy_world(world.folder, target)
    return Stop(str(target), world.counter.get(), world.tick, late)


def copy_world(source: Path, target: Path) -> None:
    """Files with their hard links' content, and the ops-db by SQLite's own backup (it may have a WAL)."""
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("opsdb.sqlite*"))
    with sqlite3.connect(source / "opsdb.sqlite") as old, sqlite3.connect(target / "opsdb.sqlite") as new:
        old.backup(new)


def run_point(recording: Recording, k: int, mode: str) -> list[str]:
    """The campaign with a fault at its k-th effect; what does not hold afterwards."""
    stop = max((s for s in recording.stops if s.effects < k), key=lambda s: s.effects)
    folder = fast_folder()
    try:
        copy_world(Path(stop.folder), folder / "w")
        _rebase(folder / "w", Path(stop.folder))
        world = World(folder / "w", sqlite_url(folder / "w"), kill_at=k, mode=mode, tick=stop.tick)
        world.counter.set(stop.effects)
        world.until_quiet()
        if not stop.late:
            arrive(world, "late.yaml")
            world.until_quiet()
        if world.counter.get() < k:
            return [f"effect {k} was not reached"]
        wrong = check(world, recording.raw)
        return wrong + _second_cycle(world)
    except AssertionError as error:
        return [str(error)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rebase(folder: Path, source: Path) -> None:
    """Raw data are found where this copy lies."""
    with sqlite3.connect(folder / "opsdb.sqlite") as connection:
        for name, place in (("raw", "raw"), ("buffer", "buffer"), ("local", "base")):
            connection.execute("UPDATE data_location SET base_path=? WHERE name=?", (str(folder / place), name))
    late = folder / "late.yaml"
    late.write_text(late.read_text().replace(str(source), str(folder)))


def _second_cycle(world: World) -> list[str]:
    """Once quiet, a cycle does nothing to the ops-db's content."""
    before = snapshot(world.url)
    world.cycle()
    return [] if snapshot(world.url) == before else ["a cycle after the end changed something"]


def points(recording: Recording, every: int = 1, modes: Sequence[str] = MODES) -> list[tuple[int, str]]:
    """All (k, mode); `before` k and `after` k-1 leave the same state, so `before` is only taken at the first."""
    found = [(1, "before")] if "before" in modes else []
    for mode in ("after", "fail"):
        if mode in modes:
            found += [(k, mode) for k in range(1, recording.effects + 1, every)]
    return found


def run_points(recording: Recording, wanted: Sequence[tuple[int, str]], jobs: int) -> dict[tuple[int, str], list[str]]:
    """What does not hold, by point; only points with something wrong."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        futures = {point: pool.submit(run_point, recording, *point) for point in wanted}
        results = {point: future.result() for point, future in futures.items()}
    return {point: wrong for point, wrong in results.items() if wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill or fail passes at every effect, and check what is left.")
    parser.add_argument("--all", action="store_true", help="every point, also `before` at every effect")
    parser.add_argument("--every", type=int, default=1, help="only every n-th effect")
    parser.add_argument("--only", type=int, help="only this effect")
    parser.add_argument("--mode", choices=MODES, help="only this fault")
    parser.add_argument("--names", action="store_true", help="list the effects of a faultless run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    root = fast_folder()
    try:
        return _main(root, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _main(root: Path, options: argparse.Namespace) -> int:
    start = time.monotonic()
    recording = record(root)
    if options.names:
        print("\n".join(f"{k} {name}" for k, name in enumerate(recording.names, 1)))
        return 0
    wanted = points(recording, options.every, (options.mode,) if options.mode else MODES)
    if options.all:
        wanted = [(k, mode) for mode in MODES for k in range(1, recording.effects + 1)]
    if options.only:
        wanted = [(options.only, options.mode or "after")]
    wrong = run_points(recording, wanted, options.jobs)
    for (k, mode), what in sorted(wrong.items()):
        print(f"effect {k} ({recording.names[k - 1]}), {mode}: {'; '.join(what)}")
    seconds = time.monotonic() - start
    print(f"{recording.effects} effects, {len(wanted)} points, {len(wrong)} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
