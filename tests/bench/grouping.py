"""Group `grouping`: which runs are missing, at the size of years of a telescope, beside hand-written SQL.

Touches: ops-dbs of its own on SQLite and on a PostgreSQL server that it starts, in memory where there is room.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import sqlalchemy as sa

from ccatwm.core.selection import Selection
from ccatwm.views.explain import build_explain
from ccatwm.views.status import build_status
from tests.bench.figures import Figure, measure
from tests.bench.foreign_sky import ForeignSky
from tests.bench.sky import Sky, copy_sky, fill_sky, table_names
from tests.opsdb.databases import PostgresServer, memory_folder, open_server

KINDS = {"sqlite": Sky, "postgresql": Sky, "foreign": ForeignSky}
SMALL, MIDDLE, BIG = 10_000, 100_000, 1_000_000
MAX_MEMORY_MB = 500
MAX_LOOKING_SECONDS = 1.0
WRITTEN = ("sub_group_member", "sub_group", "executed_reduction_step", "run_event", "run_input")
FETCHED = 5000  # rows at a time


def run_group(*, large: int | None = None) -> Iterator[Figure]:
    """`large`: everything at so many packages, on PostgreSQL, with files on disk."""
    with ExitStack() as stack:
        where = None if large else memory_folder()
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ccatwm-bench-", dir=where or "/var/tmp")))
        server = stack.enter_context(open_server(where or "/var/tmp"))
        bench = Bench(folder, server)
        if large:
            yield from bench.all_at_once("postgresql", large)
        else:
            yield from _usual(bench)


def _usual(bench: Bench) -> Iterator[Figure]:
    for kind in ("sqlite", "postgresql"):
        yield bench.first(f"first-{kind}-1e5", kind, MIDDLE)
    yield bench.first("first-foreign-1e5", "foreign", MIDDLE)
    yield bench.first("first-postgresql-1e6", "postgresql", BIG)
    for kind in KINDS:
        yield from bench.later(kind, BIG)


class Bench:
    """Skies in one folder and on one server."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self._folder, self._server = folder, server
        self._numbers = itertools.count(1)

    def _sky(self, kind: str, packages: int) -> Sky:
        folder = self._new_folder()
        folder.mkdir()
        url = f"sqlite:///{folder}/opsdb.sqlite" if kind == "sqlite" else self._server.new()
        sky = KINDS[kind](url, folder, packages)
        fill_sky(sky)
        return sky

    def _new_folder(self) -> Path:
        return self._folder / str(next(self._numbers))

    def _drop(self, sky: Sky) -> None:
        if sky.dialect == "postgresql":
            self._server.drop(sky.url)
        shutil.rmtree(sky.folder)

    # --- the first passes -------------------------------------------------------------------------------------

    def first(self, name: str, kind: str, packages: int) -> Figure:
        """First `trigger` and `resolve` over everything beside one grouping query, read to its end, and the fastest
        insert of the same rows that the driver has, in one transaction."""
        empty = self._sky(kind, packages)
        learnt = copy_sky(empty, self._new_folder(), self._server)
        _check_memory(name, learnt)
        rows = self._new_folder()
        rows.mkdir()
        _save_rows(learnt, rows)
        self._drop(learnt)

        def on_a_copy(act: Callable[[Sky], float]) -> Callable[[], float]:
            def run() -> float:
                sky = copy_sky(empty, self._new_folder(), self._server)
                try:
                    return act(sky)
                finally:
                    self._drop(sky)

            return run

        bare = on_a_copy(lambda sky: _write_saved(sky, rows))
        figure = measure(name, on_a_copy(_decide_all), bare, "<=3.0", pairs=5)
        shutil.rmtree(rows)
        self._drop(empty)
        return figure

    # --- the passes of every minute ---------------------------------------------------------------------------

    def later(self, kind: str, packages: int) -> Iterator[Figure]:
        """Passes with nothing new, and with 100 new packages, beside the same at 10,000 packages; what people ask."""
        sky = self._sky(kind, packages)
        _decide_first(sky)
        yield from self._later(kind if packages == BIG else f"{kind}-{_size(packages)}", kind, sky)

    def _later(self, name: str, kind: str, sky: Sky) -> Iterator[Figure]:
        """`sky` has been decided on; it is gone afterwards."""
        small = self._sky(kind, SMALL)
        _decide_first(small)
        skies = (sky, small)
        for one in skies:
            one.finish_runs()
        idle = [_timed_pass(one) for one in skies]
        delta = [_timed_pass(one, arrive=True) for one in skies]
        yield measure(f"idle-{name}", *idle, "<=1.3", pairs=9)
        yield measure(f"delta-{name}", *delta, "<=2.0", pairs=9)
        yield from _looking(name, sky)
        for one in skies:
            self._drop(one)

    # --- all of it where filling a sky takes long ---------------------------------------------------------------

    def all_at_once(self, kind: str, packages: int) -> Iterator[Figure]:
        """Every figure from one sky. Its first passes are done once, in the process whose memory is looked at; their rows
        are inserted once into the copy that was made before. No more than these two are there at any time."""
        name = f"{kind}-{_size(packages)}"
        sky = self._sky(kind, packages)
        empty = copy_sky(sky, self._new_folder(), self._server)
        seconds = _check_memory(f"first-{name}", sky)
        rows = self._new_folder()
        rows.mkdir()
        _save_rows(sky, rows)
        yield measure(f"first-{name}", lambda: seconds, lambda: _write_saved(empty, rows), "<=3.0", pairs=1, warm=False)
        shutil.rmtree(rows)
        self._drop(empty)
        yield from self._later(name, kind, sky)


def _size(packages: int) -> str:
    """1e7"""
    return f"{packages:.0e}".replace("e+0", "e")


def _decide_first(sky: Sky) -> None:
    context = sky.context()
    sky.decide(context)
    context.database.dispose()


def _decide_all(sky: Sky) -> float:
    context = sky.context()
    with context.database.read():
        pass
    begun = time.perf_counter()
    decided = sky.decide(context)
    seconds = time.perf_counter() - begun
    context.database.dispose()
    assert decided == sky.packages // 10, decided
    return seconds


def _timed_pass(sky: Sky, *, arrive: bool = False) -> Callable[[], float]:
    context = sky.context()

    def run() -> float:
        if arrive:
            sky.arrive()
        begun = time.perf_counter()
        decided = sky.decide(context)
        seconds = time.perf_counter() - begun
        assert decided == (55 if arrive else 0), decided
        return seconds

    return run


def _looking(name: str, sky: Sky) -> Iterator[Figure]:
    """What `explain` and `status` do beyond their start, beside one second."""
    context = sky.context()
    now = sky.clock.now()

    def explain() -> None:
        document = build_explain(context.database, "maps", "calibrate", f"executed_obs_unit={sky.scan_id(77)}", now=now)
        assert len(document["explain"]) == 1

    def status() -> None:
        document = build_status(context.database, context.grouping, Selection(), now=now)
        assert document["status"][0]["sub_groups"] >= sky.packages // 10

    for what, call in (("explain", explain), ("status", status)):
        call()
        timed = [_seconds(call) for _ in range(5)]
        middle = statistics.median(timed)
        assert middle < MAX_LOOKING_SECONDS, (what, name, timed)
        yield Figure(f"{what}-{name}", middle, MAX_LOOKING_SECONDS, middle, (min(timed), max(timed)), "<=1.0")
    context.database.dispose()


def _seconds(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# --- memory -----------------------------------------------------------------------------------------------------


def _check_memory(name: str, sky: Sky) -> float:
    """The first passes in a process of their own; they end the bench where they take more than they may. Their seconds."""
    module = [sys.executable, "-W", "ignore", "-m", "tests.bench.grouping"]
    command = [*module, type(sky).__name__, sky.url, sky.folder, str(sky.packages)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    peak = told["peak_mb"]
    print(f"{name}: peak memory {peak:.0f} MB, at most {MAX_MEMORY_MB}", file=sys.stderr)
    assert peak < MAX_MEMORY_MB, f"{name}: peak memory {peak:.0f} MB"
    return float(told["seconds"])


def _first_passes(kind: str, url: str, folder: str, packages: str) -> None:
    make = next(sky for sky in KINDS.values() if sky.__name__ == kind)
    seconds = _decide_all(make(url, Path(folder), int(packages)))
    text = Path("/proc/self/status").read_text()
    kib = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"peak_mb": kib / 1024, "seconds": seconds}))


# --- the bare operation -----------------------------------------------------------------------------------------


def _save_rows(sky: Sky, folder: Path) -> None:
    """The rows that the first passes wrote, as the bare insert takes them."""
    for name in table_names(WRITTEN, sky.dialect):
        if sky.dialect == "sqlite":
            with sqlite3.connect(sky.url.removeprefix("sqlite:///")) as connection:
                rows = connection.execute(f"SELECT * FROM {name}").fetchall()
            (folder / name).write_text(json.dumps(rows))
        else:
            with _connect(sky) as raw, raw.cursor() as cursor, (folder / name).open("w") as file:
                cursor.copy_expert(f"COPY {name} TO STDOUT", file)


def _write_saved(sky: Sky, folder: Path) -> float:
    return _write_to_sqlite(sky, folder) if sky.dialect == "sqlite" else _write_to_postgresql(sky, folder)


def _write_to_sqlite(sky: Sky, folder: Path) -> float:
    saved = {name: json.loads((folder / name).read_text()) for name in WRITTEN}
    connection = sqlite3.connect(sky.url.removeprefix("sqlite:///"), isolation_level=None)
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    begun = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    cursor = connection.execute(sky.grouping)
    while cursor.fetchmany(FETCHED):
        pass
    for name, rows in saved.items():
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    connection.execute("COMMIT")
    seconds = time.perf_counter() - begun
    connection.close()
    return seconds


def _write_to_postgresql(sky: Sky, folder: Path) -> float:
    with _connect(sky) as raw, raw.cursor() as cursor:
        begun = time.perf_counter()
        with raw.cursor("grouping") as reading:
            reading.itersize = FETCHED
            reading.execute(sky.grouping)
            while reading.fetchmany(FETCHED):
                pass
        for name in table_names(WRITTEN, sky.dialect):
            with (folder / name).open() as file:
                cursor.copy_expert(f"COPY {name} FROM STDIN", file)
        raw.commit()
        seconds = time.perf_counter() - begun
    raw.close()
    return seconds


def _connect(sky: Sky) -> psycopg2.extensions.connection:
    url = sa.make_url(sky.url).set(drivername="postgresql")
    return psycopg2.connect(url.render_as_string(hide_password=False))


if __name__ == "__main__":
    _first_passes(*sys.argv[1:])
