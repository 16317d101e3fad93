"""Group `data`: what moving and recording files costs, beside the same by hand.

Touches: a site of its own in memory where there is room, on SQLite and on a PostgreSQL server that it starts. A figure is a
function of `FIGURES`, which yields one or more of them.
"""

from __future__ import annotations

import io
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from ccatwm.passes._frame import PassOptions, PassReport
from tests.bench.figures import Figure, measure
from tests.bench.staging import run_staging
from tests.crash.campaign import write_campaign
from tests.opsdb.databases import PostgresServer, memory_folder, open_server
from tests.passes.conftest import Observatory

FILES = 100_000
PER_FOLDER = 1000
MAX_MEMORY_MB = 256
JOB_LIST = ["find", ".", "-mindepth", "1", "-printf", r"%y %s %T@\0%P\0%l\0"]
LISTED = ["find", ".", "-mindepth", "1", "-printf", "%s %P\\n"]


def run_group() -> Iterator[Figure]:
    with ExitStack() as stack:
        where = memory_folder()
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ccatwm-bench-", dir=where or "/var/tmp")))
        server = stack.enter_context(open_server(where or "/var/tmp"))
        for figures in FIGURES:
            yield from figures(folder, server)
    yield from run_staging()


# --- a run of very many files ---------------------------------------------------------------------------------


def collect_100k(folder: Path, server: PostgresServer) -> Iterator[Figure]:
    """`collect` of a run of 100,000 products with its job's records; `find -printf` and the bulk insert of its rows."""
    for kind in ("sqlite", "postgresql"):
        place = folder / f"collect-{kind}"
        place.mkdir()
        large = LargeRun(place, f"sqlite:///{place}/opsdb.sqlite" if kind == "sqlite" else server.new())
        large.check_memory()
        name = "collect-100k" if kind == "sqlite" else f"collect-100k-{kind}"
        yield measure(name, large.collect, large.by_hand, "<=2.0", pairs=5)
        shutil.rmtree(place)
        if kind == "postgresql":
            server.drop(large.url)


class LargeRun:
    """A site with a run whose job has ended, and left `FILES` files."""

    def __init__(self, folder: Path, url: str, *, made: bool = False) -> None:
        self.folder, self.url = folder, url
        self._site = Observatory(folder / "world", url, program=write_files)
        if not made:
            self._make()
        (self._run,) = [run for run in self._site.runs("calibrate") if run["sub_group_key"] == "executed_obs_unit=1"]
        self._forget()

    def _make(self) -> None:
        site = self._site
        site.folder.mkdir()
        database = Database(self.url)
        upgrade_tables(database)
        database.dispose()
        write_campaign(site.folder)
        site.arrive("night.yaml")
        site.apply()
        site.cycle()
        site.jobs()
        for _ in range(2):
            site.run_pass("poll")
        listed = subprocess.run(JOB_LIST, cwd=self.output, check=True, capture_output=True).stdout  # as the job script does
        (self.output.parent / "job" / "outputs.list").write_bytes(listed)

    @property
    def _dsn(self) -> str:
        return sa.make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)

    @property
    def output(self) -> Path:
        return next((self._site.base / "otf/calibrate/executed_obs_unit=1").glob("run-*/attempt-1/output"))

    def collect(self) -> float:
        """Seconds of the pass."""
        self._site.minute += 1
        context = self._site.context()
        with context.database.read():
            pass
        begun = time.perf_counter()
        report = wiring.run_pass("collect", context, PassOptions(limit=1, max_seconds=3600))
        seconds = time.perf_counter() - begun
        context.database.dispose()
        self._check(report)
        self._forget()
        return seconds

    def _check(self, report: PassReport) -> None:
        assert report.error is None and report.done == 1, (report.error, [item.reason for item in report.items])
        assert f"{FILES + 1} products" in report.items[0].reason.replace(",", ""), report.items[0].reason

    def _forget(self) -> None:
        """The run is still to be collected."""
        number, group = self._run["id"], self._run["sub_group_id"]
        for statement in (
            f"DELETE FROM {{schema}}data_product WHERE run_id = {number}",
            f"DELETE FROM {{schema}}run_event WHERE run_id = {number} AND to_status = 'COMPLETED'",
            "UPDATE {schema}executed_reduction_step SET status = 'COLLECTING_RESULTS', is_open = (1 = 1), priority = 99,"
            f" ended_at = NULL, inputs_removed_at = NULL WHERE id = {number}",
            f"UPDATE {{schema}}sub_group SET current_run_id = NULL, current_decision = 0 WHERE id = {group}",
        ):
            self._site.execute(statement)
        if self._site.url.startswith("postgresql"):
            raw = psycopg2.connect(self._dsn)  # what the last round left is no matter of the next
            raw.autocommit = True
            raw.cursor().execute("VACUUM ccatwm.data_product")
            raw.close()

    def by_hand(self) -> float:
        begun = time.perf_counter()
        listed = subprocess.run(LISTED, cwd=self.output, check=True, capture_output=True).stdout.decode()
        place = str(self.output.relative_to(self._site.base))
        now, number = "2026-03-02T00:00:00.000000Z", self._run["id"]
        rows = (
            (number, "present", now, "INTERMEDIATE", path, f"{place}/{path}", False, size, 1, "0" * 64, "null", "null")
            for size, _, path in (line.partition(" ") for line in listed.splitlines())
        )
        if self.url.startswith("sqlite"):
            self._insert_into_sqlite(rows)
        else:
            self._copy_to_postgresql(rows)
        seconds = time.perf_counter() - begun
        self._forget()
        return seconds

    def _insert_into_sqlite(self, rows: Iterator[tuple[object, ...]]) -> None:
        connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(f"INSERT INTO data_product ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
        connection.execute("COMMIT")
        connection.close()

    def _copy_to_postgresql(self, rows: Iterator[tuple[object, ...]]) -> None:
        text = io.StringIO("".join("\t".join(map(str, row)) + "\n" for row in rows))
        with psycopg2.connect(self._dsn) as raw, raw.cursor() as cursor:
            cursor.copy_expert(f"COPY ccatwm.data_product ({', '.join(COLUMNS)}) FROM STDIN", text)

    def check_memory(self) -> None:
        """The pass in a process of its own; it ends the bench where it takes more than it may."""
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.data", self.url, str(self.folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak = json.loads(done.stdout)["peak_mb"]
        print(f"collect-100k: peak memory {peak:.0f} MB, at most {MAX_MEMORY_MB}", file=sys.stderr)
        assert peak < MAX_MEMORY_MB, f"collect-100k: peak memory {peak:.0f} MB"


COLUMNS = (
    "run_id", "status", "created_at", "type", "path", "full_path", "is_directory", "size_bytes", "file_count", "sha256",
    "dims", "quality",
)  # fmt: skip


def write_files(output: Path, manifest: dict) -> int:
    """The program of one of the two runs: empty files, since their content is the job's business."""
    for n in range(FILES if manifest["sub_group"] == "executed_obs_unit=1" else 0):
        folder = output / f"part-{n // PER_FOLDER:03}"
        if n % PER_FOLDER == 0:
            folder.mkdir()
        (folder / f"spectrum-{n:06}.fits").touch()
    (output / "spectra.txt").write_text("x")
    return 0


FIGURES: tuple[Callable[[Path, PostgresServer], Iterator[Figure]], ...] = (collect_100k,)


def _collect_once(url: str, folder: str) -> None:
    LargeRun(Path(folder), url, made=True).collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak}))


if __name__ == "__main__":
    _collect_once(*sys.argv[1:])
