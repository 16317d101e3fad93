"""An observatory of any size in an ops-db of its own: observations, a pipeline, and what five years leave behind.

Touches: an ops-db on SQLite or on a PostgreSQL server of its own. Rows are made inside the database, by its own SQL.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.apply import apply_definitions
from tests.opsdb.databases import PostgresServer

PER_SCAN = 10  # packages of one executed obs unit, which is a sub-group
SOURCES = 20
BEGIN = datetime(2021, 3, 1, tzinfo=UTC)
YEARS = timedelta(days=5 * 365)

PIPELINE = """
software:
  - {name: reduce, versions: [{version: 1.0.0, command: [reduce]}]}
data_groupings:
  - name: all-co43
    filter_rules:
      - {table: Instrument, column: name, operator: eq, value: CHAI}
      - {table: ObsUnit, column: line_id, operator: eq, value: CO43}
pipelines:
  - name: maps
    data_grouping: all-co43
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: calibrate, software: reduce, group_by: [executed_obs_unit],
          config: {calibration_mode: hot_cold, baseline: {order: 1}}}
"""
PARENTS = """
INSERT INTO site (id, name, updated_at) VALUES (1, 'here', :begin);
INSERT INTO data_location (id, site_id, name, location_type, storage_type, base_path, updated_at)
  VALUES (1, 1, 'local', 'processing', 'disk', '/nowhere', :begin);
INSERT INTO observatory (id, name, updated_at) VALUES (1, 'CCAT', :begin);
INSERT INTO telescope (id, observatory_id, name, updated_at) VALUES (1, 1, 'FYST', :begin);
INSERT INTO instrument (id, telescope_id, name, updated_at) VALUES (1, 1, 'CHAI', :begin);
INSERT INTO instrument_module (id, instrument_id, name, updated_at) VALUES (1, 1, 'LFA', :begin), (2, 1, 'HFA', :begin);
INSERT INTO observing_program (id, short_name, updated_at) VALUES (1, 'GEco', :begin);
"""
NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s) AS s",
    "postgresql": "(SELECT generate_series(1, {count}) AS n) AS s",
}
TIMES = {  # {seconds} after the beginning
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%S.000000Z', {begin} + ({seconds}), 'unixepoch')",
    "postgresql": "to_timestamp({begin} + ({seconds}))",
}
CHILDREN = """
INSERT INTO source (id, name, kind, updated_at) SELECT n, 'S' || n, 'fixed', {start} FROM {sources};
INSERT INTO obs_unit (id, name, source_id, observing_program_id, line_id, updated_at)
  SELECT n, 'u' || n, n, 1, 'CO43', {start} FROM {sources};
INSERT INTO executed_obs_unit (id, name, obs_unit_id, start_time, end_time, status, updated_at)
  SELECT n, 'e' || n, 1 + n % {count_sources}, {scan_time}, {scan_end}, 'completed', {scan_end} FROM {scans};
INSERT INTO raw_data_package
  (id, name, executed_obs_unit_id, instrument_module_id, state, checksum, size_bytes, created_at, updated_at)
  SELECT n, 'CHAI-' || n, (n - 1) / {per_scan} + 1, 1 + n % 2, 'archived', 'md5:' || n, 1000000 + n,
         {package_time}, {package_time} FROM {packages};
"""
# All runs are done, and there is a product of each.
DONE = """
UPDATE {s}executed_reduction_step SET status = 'COMPLETED', is_open = false, ended_at = created_at, status_at = created_at,
  inputs_removed_at = created_at WHERE status = 'PENDING';
INSERT INTO {s}data_product
  (run_id, type, path, full_path, is_directory, size_bytes, file_count, sha256, status, created_at)
  SELECT id, 'SCIENCE', 'science/map.fits', 'maps/calibrate/run-' || id || '/output/science/map.fits', false, 1000000, 1,
         'abc' || id, 'present', created_at FROM {s}executed_reduction_step;
INSERT INTO {s}submission (id, token, backend, cluster, state, job_id, doubtful, created_at)
  SELECT id, 'token-' || id, 'local', 'bench', 'RELEASED', 'job-' || id, false, created_at FROM {s}executed_reduction_step;
INSERT INTO {s}run_attempt
  (run_id, number, submission_id, array_index, directory, restart, created_at, ended_at, outcome, resources_asked)
  SELECT id, 1, id, 0, 'maps/calibrate/run-' || id || '/attempt-1', 0, created_at, created_at, 'succeeded', '{{}}'
  FROM {s}executed_reduction_step;
UPDATE {s}sub_group SET
  current_run_id = (SELECT r.id FROM {s}executed_reduction_step r WHERE r.sub_group_id = {s}sub_group.id),
  current_decision = decision, outcome = 'up-to-date';
"""
# What arrives: {scans} new scans of ten packages, and one more package for each of {late} old scans.
ARRIVALS = """
INSERT INTO executed_obs_unit (id, name, obs_unit_id, start_time, end_time, status, updated_at)
  SELECT {first_scan} + n, 'new-e' || ({first_scan} + n), 1 + n % {count_sources}, :now, :now, 'completed', :now
  FROM {scans};
INSERT INTO raw_data_package
  (id, name, executed_obs_unit_id, instrument_module_id, state, checksum, size_bytes, created_at, updated_at)
  SELECT {first_package} + n, 'new-' || ({first_package} + n),
         CASE WHEN n <= {in_scans} THEN {first_scan} + (n - 1) / {per_scan} + 1
              ELSE 1 + ({first_late} + n) % {old_scans} END, 1, 'archived', 'md5:' || n, 1000, :now, :now FROM {packages};
"""
# What the first passes find out, as somebody would write it by hand.
GROUPING = """
SELECT p.id, p.name, p.checksum, p.size_bytes, p.state, p.executed_obs_unit_id, p.instrument_module_id, e.start_time,
       e.end_time, e.status
FROM raw_data_package p JOIN executed_obs_unit e ON e.id = p.executed_obs_unit_id JOIN obs_unit o ON o.id = e.obs_unit_id
     JOIN instrument_module m ON m.id = p.instrument_module_id JOIN instrument i ON i.id = m.instrument_id
WHERE o.line_id = 'CO43' AND i.name = 'CHAI'
ORDER BY p.executed_obs_unit_id
"""


class FixedClock:
    """Time that only the bench moves, so that five years of observations are over."""

    def __init__(self, now: datetime) -> None:
        import time

        self.at = now
        self._monotonic = time.monotonic

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self._monotonic()

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a pass slept")


@dataclass
class Sky:
    """One ops-db with `packages` raw data packages of before; a clock of its own."""

    url: str
    folder: Path
    packages: int
    arrived: int = 0
    parents: ClassVar[str] = PARENTS
    children: ClassVar[str] = CHILDREN
    arrivals: ClassVar[str] = ARRIVALS
    grouping: ClassVar[str] = GROUPING

    def __post_init__(self) -> None:
        self.clock = FixedClock(BEGIN + YEARS + timedelta(days=1))

    @property
    def dialect(self) -> str:
        return "sqlite" if self.url.startswith("sqlite") else "postgresql"

    @property
    def schema(self) -> str:
        return "" if self.dialect == "sqlite" else "ccatwm."

    def settings(self) -> Settings:
        return Settings(
            site="bench", site_dir=None, opsdb_url=self.url, pipeline_base_dir=self.folder / "base",
            processing_location="local", state_dir=self.folder / "state", hpc_backend="local", cluster="bench",
            container_runtime="none", min_free_gb=0.0,
        )  # fmt: skip

    def context(self) -> Context:
        return wiring.build_context(self.settings(), actor="bench", clock=self.clock)

    def make_tables(self) -> None:
        database = Database(self.url)
        upgrade_tables(database)
        database.dispose()

    def scan_id(self, number: int) -> str:
        """The id of the n-th executed obs unit."""
        return str(number)

    def run_pass(self, context: Context, name: str) -> PassReport:
        report = wiring.run_pass(name, context, PassOptions(max_seconds=3600))
        assert report.exit_code == 0 and report.skipped is None, (name, report.error, report.skipped)
        return report

    def decide(self, context: Context) -> int:
        """One `trigger` and one `resolve`, a minute after the last; how many sub-groups were decided on."""
        self.clock.at += timedelta(minutes=1)
        self.run_pass(context, "trigger")
        return self.run_pass(context, "resolve").selected

    def execute(self, text: str, **values: object) -> None:
        """Statements one by one, in one transaction."""
        database = Database(self.url)
        with database.write() as connection:
            if self.dialect == "postgresql":
                connection.execute(sa.text("SET statement_timeout = 0"))
            for statement in text.split(";\n"):
                if statement.strip():
                    used = {name: value for name, value in values.items() if f":{name}" in statement}
                    connection.execute(sa.text(statement), used)
        database.dispose()

    def finish_runs(self) -> None:
        self.execute(DONE.format(s=self.schema))
        self.analyse()

    def analyse(self) -> None:
        """As the database's own upkeep does; SQLite has none."""
        if self.dialect == "sqlite":
            return
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        engine.dispose()

    def arrive(self, *, scans: int = 5, late: int = 50) -> None:
        """New packages that other software writes now."""
        self.arrived += 1
        count, step = scans * PER_SCAN + late, 1000 * self.arrived
        numbers = NUMBERS[self.dialect]
        self.execute(
            self.arrivals.format(
                scans=numbers.format(count=scans), packages=numbers.format(count=count), count_sources=SOURCES,
                first_scan=self.packages // PER_SCAN + step, first_package=self.packages + step, in_scans=scans * PER_SCAN,
                per_scan=PER_SCAN, first_late=late * self.arrived, old_scans=self.packages // PER_SCAN,
            ),
            now=_text(self.clock.at, self.dialect),
        )  # fmt: skip


def _text(moment: datetime, dialect: str) -> object:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if dialect == "sqlite" else moment


def fill_sky(sky: Sky) -> None:
    """Tables, observations spread over five years, and the pipeline applied; no pass has run yet."""
    sky.make_tables()
    scans = sky.packages // PER_SCAN
    sky.execute(sky.parents, begin=_text(BEGIN, sky.dialect))
    numbers, time = NUMBERS[sky.dialect], TIMES[sky.dialect]
    begin, spacing = int(BEGIN.timestamp()), YEARS.total_seconds() / scans

    def at(seconds: str) -> str:
        return time.format(begin=begin, seconds=seconds)

    sky.execute(
        sky.children.format(
            start=at("0"), scan_time=at(f"n * {spacing}"), scan_end=at(f"n * {spacing} + 60"),
            package_time=at(f"n * {spacing / PER_SCAN} + 90"), per_scan=PER_SCAN, count_sources=SOURCES,
            sources=numbers.format(count=SOURCES), scans=numbers.format(count=scans),
            packages=numbers.format(count=sky.packages),
        )
    )  # fmt: skip
    sky.folder.mkdir(parents=True, exist_ok=True)
    (sky.folder / "pipelines.yaml").write_text(PIPELINE)
    context = sky.context()
    apply_definitions(
        context.database, context.grouping, [sky.folder / "pipelines.yaml"], now=sky.clock.at, actor="bench",
        host="here", yes=True,
    )  # fmt: skip
    context.database.dispose()
    sky.analyse()


def copy_sky(sky: Sky, folder: Path, server: PostgresServer | None) -> Sky:
    """The same ops-db once more."""
    folder.mkdir(parents=True)
    if sky.dialect == "sqlite":
        shutil.copy(sky.url.removeprefix("sqlite:///"), folder / "opsdb.sqlite")
        return replace(sky, url=f"sqlite:///{folder}/opsdb.sqlite", folder=folder)
    assert server is not None
    return replace(sky, url=server.copy(sky.url), folder=folder)


def table_names(names: Sequence[str], dialect: str) -> list[str]:
    return [name if dialect == "sqlite" else f"ccatwm.{name}" for name in names]
