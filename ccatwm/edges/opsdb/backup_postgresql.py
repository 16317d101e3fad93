"""Backup and restore of an ops-db on PostgreSQL by its own programs. Touches: the database, processes of this host.

How to connect they read from a service file of mode 0600 and the password from their environment: nothing of it is on a
command line, which every account of the host can read.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.backup_file import at_work
from ccatwm.edges.opsdb.engine import VERSION_TABLE, Database
from ccatwm.edges.opsdb.statements import literal
from ccatwm.errors import CcatwmError, NoSpaceError, OpsDbUnavailableError, SettingsError

PROGRAMS = ("pg_dump", "pg_restore", "psql")
USUAL_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian's and the PostgreSQL project's packages
LOCK_WAIT_MS = 10_000
AT_WORK = "ccatwm: a pass is at work"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL's client programs. `version`: as it says, `major` of it."""

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> str:
        return str(self.folder / name)


def find_programs(server_major: int, places: Sequence[str] = USUAL_PLACES) -> Programs:
    """Client programs that know this server: on PATH, else where packages put them (`places`, absolute patterns).

    Errors: SettingsError where there are none, or only older ones (pg_dump refuses a newer server).
    """
    found = [programs for folder in _folders(places) if (programs := _look_at(folder)) is not None]
    fit = next((programs for programs in found if programs.major >= server_major), None)
    if fit is not None:
        return fit
    have = f"only those of {', '.join(f'{p.version} in {p.folder}' for p in found)}" if found else "none were found"
    raise SettingsError(
        f"{', '.join(PROGRAMS)} of PostgreSQL {server_major} or newer are needed, {have}",
        next=f"install the client programs of PostgreSQL {server_major} (postgresql-client-{server_major}), or put "
        "their folder on PATH",
    )


def _folders(places: Sequence[str]) -> Iterator[Path]:
    for name in os.get_exec_path():
        yield Path(name)
    for place in places:
        root, _, pattern = place[1:].partition("/")
        yield from sorted(Path("/", root).glob(pattern), reverse=True)


def _look_at(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in PROGRAMS):
        return None
    told = subprocess.run([str(folder / "pg_dump"), "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+(\.\d+)*", told)
    return Programs(folder, version[0], int(version[0].partition(".")[0])) if version else None


def read_server_major(connection: sa.Connection) -> int:
    return int(connection.execute(sa.text("SHOW server_version_num")).scalar_one()) // 10_000


def _observation_tables(connection: sa.Connection, observations: str) -> list[str]:
    """With their schema, as SQL names them, those that are there."""
    if observations != "managed":
        return []
    inspector = sa.inspect(connection)
    there = set(inspector.get_table_names())
    schema = inspector.default_schema_name or "public"
    return [f"{_quoted(schema)}.{_quoted(n)}" for n in sorted(t.observation_table_names()) if n in there]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- how the programs connect ----------------------------------------------------------------------------------------


@contextmanager
def _connecting(url: sa.URL) -> Iterator[dict[str, str]]:
    """The environment in which they find the database (PostgreSQL manual, The Connection Service File)."""
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    told = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database, **query}
    password = told.pop("password", None) or url.password
    if (file := told.pop("service", None)) is not None:
        raise SettingsError(f"OPSDB_URL names a service ({file})", next="name host, port and database in OPSDB_URL")
    with tempfile.TemporaryDirectory(prefix="ccatwm-") as folder:  # mode 0700
        service = Path(folder, "service")
        lines = [f"{name}={value}\n" for name, value in told.items() if value not in (None, "")]
        service.touch(mode=0o600)
        service.write_text("[ccatwm]\n" + "".join(lines), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        kept = {name: os.environ[name] for name in ("PGPASSFILE",) if name in os.environ}
        environment |= kept | {"PGSERVICEFILE": str(service), "PGSERVICE": "ccatwm", "PGAPPNAME": "ccatwm",
                               "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C"}  # fmt: skip
        if password:
            environment["PGPASSWORD"] = str(password)
        yield environment


# --- backup ----------------------------------------------------------------------------------------------------------


def dump_database(database: Database, programs: Programs, part: Path, *, observations: str) -> None:
    """Our tables as of one moment, while others read and write. Errors: OpsDbUnavailableError, NoSpaceError."""
    with database.read() as connection:
        theirs = _observation_tables(connection, observations)
    wanted = [f"--table={name}" for name in (f"{t.SCHEMA}.*", *theirs)]
    with _connecting(database.url) as environment, part.open("wb") as out, tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [programs.path("pg_dump"), "--format=custom", "--no-owner", "--no-password",
             f"--lock-wait-timeout={LOCK_WAIT_MS}", *wanted],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=said, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            text = _said(said)
            kind = NoSpaceError if "No space left" in text or "quota" in text else OpsDbUnavailableError
            raise kind(f"pg_dump {programs.version}: {text}", where=database.safe_url)


def _said(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    text = file.read().decode("utf-8", "replace").strip()  # type: ignore[attr-defined]
    lines = [line for line in text.splitlines() if "error" in line.lower() or "fatal" in line.lower()]
    return "; ".join((lines or text.splitlines() or ["no reason given"])[:2])


# --- restore ---------------------------------------------------------------------------------------------------------


def restore_database(
    database: Database,
    programs: Programs,
    archive: Path,
    *,
    observations: str,
    gone: Sequence[str],
    least_ids: dict[str, int],
    after: Sequence[str],
) -> None:
    """The archive in place of our tables, in one transaction that nothing of it survives unless all of it does.

    `gone`: holders of leases that certainly live no more; `least_ids` by table: not to be given again; `after`: SQL.
    Errors: CcatwmError where a pass is at work, or the server refuses.
    """
    with database.read() as connection:
        theirs = _observation_tables(connection, observations)
    database.dispose()
    with _connecting(database.url) as environment, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        psql = subprocess.Popen(
            [programs.path("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip
        assert psql.stdin is not None
        whole = False
        try:
            psql.stdin.write(_before(gone, theirs).encode())
            # Not --clean: it would drop the schema, and with it who may make tables there.
            with subprocess.Popen(
                [programs.path("pg_restore"), "--no-owner", "--file=-", str(archive)],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told,
            ) as reading:  # fmt: skip
                assert reading.stdout is not None
                while data := reading.stdout.read(CHUNK):
                    psql.stdin.write(data)
            whole = reading.returncode == 0
            if whole:  # without this line the server undoes all of it, however the pipe ends
                psql.stdin.write(_behind(least_ids, after).encode())
            psql.stdin.close()
        except BrokenPipeError:
            pass
        finally:
            with suppress(BrokenPipeError):
                psql.stdin.close()
            psql.wait()
        if not whole and psql.returncode == 0:
            raise CcatwmError(
                f"pg_restore {programs.version}: {_said(told)}", where=str(archive),
                next="nothing was changed; restore another backup: `ccatwm db restore FILE --yes`",
            )  # fmt: skip
        if psql.returncode != 0:
            raise _refused(_said(said), database)


def _refused(text: str, database: Database) -> CcatwmError:
    if AT_WORK in text:
        return at_work("one holds its lease")
    role = re.search(r'role "([^"]+)" does not exist', text)
    following = (
        f"make the role (`createuser {role[1]}` on the server) that had rights when the backup was made, then again"
        if role
        else "nothing was changed; give this role what it lacks, or see whether the ops-db answers"
    )
    return CcatwmError(f"the restore was refused: {text}", where=database.safe_url, next=following)


def _before(gone: Sequence[str], theirs: Sequence[str]) -> str:
    """Keep passes away, look whether one is at work, remember the last ids, remove our tables."""
    not_gone = "".join(f" AND holder <> {literal(token)}" for token in gone)
    ours = [*(f"{t.SCHEMA}.{_quoted(n)}" for n in (*t.pipeline_table_names(), VERSION_TABLE)), *theirs]
    names = ", ".join(ours)
    return f"""
BEGIN;
SET LOCAL lock_timeout = {LOCK_WAIT_MS};
SET LOCAL statement_timeout = 0;
SET LOCAL client_min_messages = error;
DO $do$ BEGIN
  IF to_regnamespace('{t.SCHEMA}') IS NULL THEN
    EXECUTE 'CREATE SCHEMA {t.SCHEMA}';
  END IF;
  IF to_regclass('{t.SCHEMA}.pass_lease') IS NOT NULL THEN
    EXECUTE 'LOCK TABLE {t.SCHEMA}.ops_db, {t.SCHEMA}.pass_lease IN ACCESS EXCLUSIVE MODE';
    IF EXISTS (SELECT 1 FROM {t.SCHEMA}.pass_lease
               WHERE holder IS NOT NULL AND expires_at > clock_timestamp(){not_gone}) THEN
      RAISE EXCEPTION '{AT_WORK}';
    END IF;
  END IF;
END $do$;
CREATE TEMPORARY TABLE ccatwm_last_ids ON COMMIT DROP AS
  SELECT sequencename::text AS name, last_value AS seq FROM pg_catalog.pg_sequences
  WHERE schemaname = '{t.SCHEMA}' AND last_value IS NOT NULL;
DROP TABLE IF EXISTS {names};
"""


def _behind(least_ids: dict[str, int], after: Sequence[str]) -> str:
    """What is to hold of the restored tables, and the end of the transaction."""
    rows = "".join(
        f"INSERT INTO pg_temp.ccatwm_last_ids VALUES ({literal(f'{table}_id_seq')}, {int(seq)});\n"
        for table, seq in least_ids.items()
    )
    statements = "".join(f"{statement};\n" for statement in after)
    return f"""
{rows}
SELECT pg_catalog.setval(format('{t.SCHEMA}.%I', s.sequencename)::regclass, m.seq)
  FROM pg_catalog.pg_sequences s
  JOIN (SELECT name, max(seq) AS seq FROM pg_temp.ccatwm_last_ids GROUP BY name) m ON m.name = s.sequencename
  WHERE s.schemaname = '{t.SCHEMA}' AND coalesce(s.last_value, 0) < m.seq;
{statements}
COMMIT;
"""
