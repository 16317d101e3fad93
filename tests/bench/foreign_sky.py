"""The same observatory where the observations are somebody else's: other names, UUID keys, indexes of their own.

Touches: an ops-db on a PostgreSQL server of its own. The tables and their map are those of tests/foreign; indexes are
made where `ccatwm db check` asks for them.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.opsdb_check import check_observations
from tests.bench.sky import Sky

THEIRS = Path(__file__).parent.parent / "foreign"
PARENTS = """
INSERT INTO ops.site VALUES (1, 'here');
INSERT INTO ops.data_location VALUES (md5('local')::uuid, 1, 'local', 'PROCESSING', 'POSIX', 0, :begin);
INSERT INTO ops.disk_data_location VALUES (md5('local')::uuid, '/nowhere');
INSERT INTO ops.instrument VALUES ('CHAI', 'CHAI', :begin);
INSERT INTO ops.instrument_module VALUES (1, 'CHAI', 'LFA', :begin), (2, 'CHAI', 'HFA', :begin);
"""
# Keys are as random as those of a version 4: they are in no order of time.
CHILDREN = """
INSERT INTO ops.target SELECT md5('target-' || n)::uuid, 'S' || n, 'GALAXY' FROM {sources};
INSERT INTO ops.obs_unit (uuid, label, target_uuid, spectral_line, changed)
  SELECT md5('unit-' || n)::uuid, 'u' || n, md5('target-' || n)::uuid, 'CO43', {start} FROM {sources};
INSERT INTO ops.executed_obs_unit (uuid, label, unit_uuid, began, outcome, changed)
  SELECT md5('scan-' || n)::uuid, 'e' || n, md5('unit-' || (1 + n % {count_sources}))::uuid, {scan_time} AT TIME ZONE 'UTC',
         'SUCCESSFUL', {scan_end} AT TIME ZONE 'UTC' FROM {scans};
INSERT INTO ops.raw_data_package (uuid, label, exec_uuid, module_id, lifecycle, sha256, n_bytes, changed)
  SELECT md5('package-' || n)::uuid, 'CHAI-' || n, md5('scan-' || ((n - 1) / {per_scan} + 1))::uuid, 1 + n % 2, 'ARCHIVED',
         md5('' || n), 1000000 + n, {package_time} FROM {packages};
"""
ARRIVALS = """
INSERT INTO ops.executed_obs_unit (uuid, label, unit_uuid, began, outcome, changed)
  SELECT md5('scan-' || ({first_scan} + n))::uuid, 'new-e' || ({first_scan} + n),
         md5('unit-' || (1 + n % {count_sources}))::uuid, CAST(:now AS timestamptz) AT TIME ZONE 'UTC', 'SUCCESSFUL',
         CAST(:now AS timestamptz) AT TIME ZONE 'UTC' FROM {scans};
INSERT INTO ops.raw_data_package (uuid, label, exec_uuid, module_id, lifecycle, sha256, n_bytes, changed)
  SELECT md5('package-' || ({first_package} + n))::uuid, 'new-' || ({first_package} + n),
         md5('scan-' || CASE WHEN n <= {in_scans} THEN {first_scan} + (n - 1) / {per_scan} + 1
                        ELSE 1 + ({first_late} + n) % {old_scans} END)::uuid, 1, 'ARCHIVED', md5('' || n), 1000, :now
  FROM {packages};
"""
GROUPING = """
SELECT p.uuid, p.label, p.sha256, p.n_bytes, p.lifecycle, p.exec_uuid, p.module_id, e.began, e.outcome
FROM ops.raw_data_package p JOIN ops.executed_obs_unit e ON e.uuid = p.exec_uuid JOIN ops.obs_unit o ON o.uuid = e.unit_uuid
     JOIN ops.instrument_module m ON m.module_id = p.module_id JOIN ops.instrument i ON i.code = m.instrument_code
WHERE o.spectral_line = 'CO43' AND i.label = 'CHAI'
ORDER BY p.exec_uuid
"""
# What passes read besides, of every package.
MORE = """
INSERT INTO ops.package_metadata
  SELECT md5('metadata-' || label)::uuid, uuid, '{"observation": {"frequency_ghz": 461}}', changed
  FROM ops.raw_data_package;
INSERT INTO ops.physical_copy SELECT md5('copy-' || label)::uuid, md5('local')::uuid, 'PRESENT' FROM ops.raw_data_package;
INSERT INTO ops.raw_data_package_physical_copy
  SELECT md5('copy-' || label)::uuid, uuid, label || '.tar' FROM ops.raw_data_package;
"""


@dataclass
class ForeignSky(Sky):
    """A sky in tables of others. `url` is their owner's."""

    parents: ClassVar[str] = PARENTS
    children: ClassVar[str] = CHILDREN
    arrivals: ClassVar[str] = ARRIVALS
    grouping: ClassVar[str] = GROUPING

    def settings(self) -> Settings:
        return replace(super().settings(), observations="foreign", opsdb_map=THEIRS / "observatory.yaml")

    def scan_id(self, number: int) -> str:
        return str(uuid.UUID(hashlib.md5(f"scan-{number}".encode()).hexdigest()))

    def make_tables(self) -> None:
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql((THEIRS / "observatory.sql").read_text())
        engine.dispose()
        database = Database(self.url)
        upgrade_tables(database, observations="foreign")
        asks = check_observations(self.settings(), database).asks
        database.dispose()
        self.execute(";\n".join(statement.rstrip(";").replace(" CONCURRENTLY", "") for statement in asks))
