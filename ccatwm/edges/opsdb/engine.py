"""Engines and transactions, the same on SQLite and PostgreSQL. Touches: the ops-db.

A write transaction is `BEGIN IMMEDIATE` on SQLite (an upgrade from read to write fails at once whatever the
busy time-out). An engine made after a fork shares nothing with the parent. One connection stays open between
transactions. On SQLite the last one to close writes back and deletes the write-ahead log, which costs more than all
else in a pass with nothing to do; on PostgreSQL a new session learns of every table again, and one that went away
meanwhile is noticed, and replaced, before the next transaction.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pwd
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from ccatwm.edges.opsdb.tables import SCHEMA
from ccatwm.errors import (
    CcatwmError,
    ConflictError,
    MissingRightError,
    OpsDbUnavailableError,
    OpsDbUnusableError,
    SchemaVersionError,
    UsageError,
)
from ccatwm.interfaces import Effects, PlainEffects
from ccatwm.settings.load import mask_url

# Revisions this release works with, per alembic branch; compared with the version table without importing alembic.
VERSION_TABLE = "ccatwm_version"
PIPELINE_REVISIONS = frozenset({"pipeline_0001"})
OBSERVATION_REVISIONS = frozenset({"observation_0001"})

BUSY_TIMEOUT_SECONDS = 20
LOCK_TIMEOUT_SECONDS = 5  # PostgreSQL
POSTGRESQL_CONNECT = {
    "connect_timeout": 10,
    "application_name": "ccatwm",
    "keepalives_idle": 30,
    "options": f"-c statement_timeout=60000 -c lock_timeout={LOCK_TIMEOUT_SECONDS}s"
    " -c idle_in_transaction_session_timeout=30000 -c timezone=UTC",
}


_NO_TABLE = ("42P01", "3F000")  # undefined_table, invalid_schema_name (PostgreSQL manual, appendix A)
# A refused connection has no SQLSTATE in psycopg2, only what the server, or libpq, said.
_REFUSED_NAME = re.compile(r'FATAL:\s+(database|role) "([^"]+)" does not exist')
_REFUSED_LOGIN = re.compile(
    r"authentication failed for user|no password supplied|no pg_hba\.conf entry|is not permitted to log in"
    r"|FATAL:\s+permission denied for database"
)


class Database:
    """One ops-db. `write()` and `read()` give a connection inside one transaction; commits are effects."""

    def __init__(
        self, url: str, effects: Effects | None = None, *, busy_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> None:
        """`busy_seconds`: how long SQLite waits for another writer."""
        self.url = sa.make_url(url)
        if self.url.drivername == "postgresql":  # SQLAlchemy 2.1 would take psycopg 3
            self.url = self.url.set(drivername="postgresql+psycopg2")
        self._effects = effects or PlainEffects()
        self.engine = _build_engine(self.url, busy_seconds)
        self.dialect = self.engine.dialect.name
        self._write_engine = self.engine.execution_options(ccatwm_write=True)
        self._depth = 0

    @property
    def in_transaction(self) -> bool:
        """True while a transaction is open: no external effect may run then."""
        return self._depth > 0

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One read-write transaction, committed at the end."""
        with self._connection(self._write_engine) as connection:
            yield connection
            with self._effects.around("db.commit", str(self.url.database)):
                connection.commit()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One read transaction, rolled back at the end."""
        with self._connection(self.engine) as connection:
            yield connection

    @contextmanager
    def rehearsal(self) -> Iterator[Database]:
        """This ops-db, to be read and written as it is now, of which nothing stays.

        On SQLite it is a copy, and nobody is locked out; on PostgreSQL it is one transaction, whose locks others
        wait for: `rehearsal_seconds` is how long they can.
        """
        if self.dialect == "sqlite":
            made = self._with_engine(_copy_sqlite(self.engine))
            try:
                yield made
            finally:
                made.dispose()
        else:
            with self._connection(self.engine) as connection:
                yield _OneTransaction(self, connection)

    @property
    def rehearsal_seconds(self) -> float | None:
        """How long a rehearsal may take before passes that wait for it give up; None where none waits."""
        return None if self.dialect == "sqlite" else LOCK_TIMEOUT_SECONDS * 0.8

    def _with_engine(self, engine: sa.Engine) -> Database:
        made = copy.copy(self)
        made._effects = PlainEffects()
        made.engine = engine
        made._write_engine = engine.execution_options(ccatwm_write=True)
        return made

    @contextmanager
    def _connection(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        with self._plain_errors(), engine.connect() as connection:
            self._depth += 1
            try:
                yield connection
            finally:
                self._depth -= 1
                if connection.in_transaction():
                    connection.rollback()

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """What the driver says, in the classes of this project."""
        try:
            yield
        except sa.exc.IntegrityError as error:
            raise ConflictError(f"the ops-db refused a row: {_first_line(error)}") from error
        except OverflowError as error:
            if "SQLite" not in str(error):  # only its driver speaks of a number beyond 64 bits
                raise
            raise UsageError(
                "a number is too large: nothing here has one beyond 64 bits", next="correct the number"
            ) from error
        except sa.exc.DBAPIError as error:
            if _lacks_tables(error):
                raise SchemaVersionError(
                    f"the ops-db's tables are not those of this release: {_first_line(error)}",
                    where=self.safe_url,
                    next="run `ccatwm db check`, which lists what is missing",
                ) from error
            if not (_is_away(error) or _is_denied(error)):
                raise
            raise self._explain(error) from error

    def _explain(self, error: sa.exc.DBAPIError) -> CcatwmError:
        """What a person must make, mend or allow, or the world's silence, which the next pass outlasts."""
        if _is_denied(error):
            return _missing_right(self.url, self.safe_url, error)
        unusable = self._unusable(error)
        if unusable is not None:
            return unusable
        full = "free space where its files lie; the next pass goes on" if _is_full(error) else ""
        what = "has no space left" if full else "did not answer"
        return OpsDbUnavailableError(f"the ops-db {what}: {_first_line(error)}", where=self.safe_url, next=full)

    @property
    def safe_url(self) -> str:
        """The URL as people write it, with its passwords masked, those in the query too (libpq takes `password` and
        `sslpassword` there)."""
        return mask_url(self.url.set(drivername=self.dialect).render_as_string(hide_password=False))

    def check_answers(self) -> None:
        """Refuse what no waiting makes an ops-db. Errors: OpsDbUnusableError, OpsDbUnavailableError."""
        try:
            with self.engine.connect() as connection:
                # Reads the file's first page: opening it alone tells nothing.
                probe = "SELECT count(*) FROM sqlite_master" if self.dialect == "sqlite" else "SELECT 1"
                connection.execute(sa.text(probe))
        except sa.exc.DBAPIError as error:
            raise self._explain(error) from error

    def _unusable(self, error: sa.exc.DBAPIError) -> OpsDbUnusableError | None:
        """What a person must make, restore or let in; None where it may pass by itself."""
        if self.dialect == "postgresql":
            return self._refused(str(error.orig), _first_line(error))
        if getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return OpsDbUnusableError(
                f"the file is damaged, or no SQLite database: {_first_line(error)}",
                where=self.safe_url,
                next="`ccatwm db restore FILE --yes` brings a backup back; or correct OPSDB_URL",
            )
        return None

    def _refused(self, said: str, first_line: str) -> OpsDbUnusableError | None:
        """What PostgreSQL will say again however often it is asked."""
        missing = _REFUSED_NAME.search(said)
        if missing is not None:
            kind, name = missing.groups()
            command = "createdb" if kind == "database" else "createuser"
            return OpsDbUnusableError(
                f"the {kind} {name!r} does not exist",
                where=self.safe_url,
                next=f"make it (`{command} {name}` on the server), ask its administrator to, or correct OPSDB_URL",
            )
        if _REFUSED_LOGIN.search(said) is None:
            return None
        return OpsDbUnusableError(
            f"the server does not let this role in: {first_line}",
            where=self.safe_url,
            next="correct role and password in OPSDB_URL or OPSDB_URL_FILE, or ask the server's administrator to let it in",
        )

    def check_schema(self, *, observations: str = "managed") -> None:
        """Refuse a schema this release does not know. Errors: SchemaVersionError."""
        wanted = {"pipeline": PIPELINE_REVISIONS}
        if observations == "managed":
            wanted["observation"] = OBSERVATION_REVISIONS
        # A lightweight table is not reached by the engine's schema map.
        schema = SCHEMA if self.dialect == "postgresql" else None
        table = sa.table(VERSION_TABLE, sa.column("version_num"), schema=schema)
        try:
            with self.engine.connect() as connection:
                found = set(connection.execute(sa.select(table.c.version_num)).scalars())
        except sa.exc.DBAPIError as error:
            if "no such table" in str(error.orig) or getattr(error.orig, "pgcode", None) in _NO_TABLE:
                raise SchemaVersionError(
                    "the ops-db has no ccatwm tables", where=self.safe_url, next="run `ccatwm db upgrade`"
                ) from error
            raise self._explain(error) from error
        for branch, revisions in wanted.items():
            mine = {revision for revision in found if revision.startswith(branch)}
            if not mine & revisions:
                raise SchemaVersionError(
                    f"the ops-db's {branch} tables have schema version {', '.join(sorted(mine)) or 'none'}, "
                    f"this release knows {', '.join(sorted(revisions))}",
                    where=self.safe_url,
                    next="run `ccatwm db upgrade` if the ops-db is older; install the newer release if it is newer",
                )

    def dispose(self) -> None:
        self.engine.dispose()


class _OneTransaction(Database):
    """All transactions inside one that is rolled back in the end: each is a savepoint of it."""

    def __init__(self, database: Database, connection: sa.Connection) -> None:
        self.__dict__.update(database.__dict__)
        self._outer = connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with self._plain_errors(), self._outer.begin_nested():
            yield self._outer

    read = write


def _copy_sqlite(engine: sa.Engine) -> sa.Engine:
    """A private copy that vanishes when it is closed (it spills to a temporary file where it is large)."""
    target = sqlite3.connect("", check_same_thread=False)
    with engine.connect() as connection:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(target)
    target.isolation_level = None
    made = sa.create_engine("sqlite://", poolclass=sa.StaticPool, creator=lambda: target)
    sa.event.listen(made, "begin", _begin_sqlite)
    return made.execution_options(schema_translate_map={SCHEMA: None})


def _build_engine(url: sa.URL, busy_seconds: float) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        in_memory = url.database in (None, "", ":memory:")
        pool: type[sa.Pool] = StaticPool if in_memory else sa.QueuePool
        engine = sa.create_engine(
            url, poolclass=pool, connect_args={"timeout": busy_seconds, "check_same_thread": False}
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        if not in_memory:
            sa.event.listen(engine, "do_connect", _OpenAgain(str(url.database)))
            sa.event.listen(engine, "connect", partial(_remember_file, str(url.database)))
            sa.event.listen(engine, "checkout", partial(_refuse_other_file, str(url.database)))
        return engine.execution_options(schema_translate_map={SCHEMA: None})
    if url.get_backend_name() == "postgresql":
        engine = sa.create_engine(
            url,
            poolclass=sa.QueuePool,
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
            connect_args=POSTGRESQL_CONNECT,
            json_deserializer=_read_json,
        )
        # Before SQLAlchemy asks for the default schema.
        sa.event.listen(engine, "connect", _leave_out_own_schema, insert=True)
        return engine
    raise SchemaVersionError(
        f"OPSDB_URL names a database of kind {url.get_backend_name()!r}",
        next="use sqlite:/// or postgresql://",
    )


def _read_json(text: str | bytes) -> Any:
    """jsonb writes out a large float (1e300) as a whole number of that many digits."""
    return json.loads(text, parse_int=_whole_or_float)


def _whole_or_float(digits: str) -> int | float:
    whole = int(digits)
    if -(1 << 63) <= whole < 1 << 63:
        return whole
    number = float(digits)  # was it written as this one?
    return number if math.isfinite(number) and int(Decimal(repr(number))) == whole else whole


def _leave_out_own_schema(connection: Any, _record: Any) -> None:
    """PostgreSQL looks first in the schema that is called as the role is. Where that is ours, tables without a schema
    (observations) would be made and sought among ours, and ours would be reflected as if they had none.
    """
    if connection.info.user != SCHEMA:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('search_path', regexp_replace(regexp_replace("
            """current_setting('search_path'), '"\\$user",\\s*', ''), ',?\\s*"\\$user"', ''), false)"""
        )
    connection.commit()  # else it is undone with the first transaction that is rolled back


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


class _OpenAgain:
    """SQLite makes an empty file where there is none: only the first connection of an engine may."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened = False

    def __call__(self, _dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        if self._opened:
            arguments[0] = f"file:{quote(os.path.abspath(self._path))}?mode=rw"
            options["uri"] = True
        self._opened = True


def _remember_file(path: str, _connection: Any, record: Any) -> None:
    record.info["inode"] = _inode(path)


def _refuse_other_file(path: str, _connection: Any, record: Any, _proxy: Any) -> None:
    """A kept connection would write on into a file that was removed or replaced (by a restore)."""
    if record.info.get("inode") != _inode(path):
        raise sa.exc.DisconnectionError("the database file is another one")


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("ccatwm_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _is_away(error: sa.exc.DBAPIError) -> bool:
    """Whether the database did not answer; not what a statement of ours did wrong.

    Nothing more than a DatabaseError is what psycopg2 says where the server goes away while it commits, and what SQLite
    says of a file that is damaged or no database.
    """
    silent = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
    return error.connection_invalidated or isinstance(error, silent) or type(error) is sa.exc.DatabaseError


def _is_full(error: sa.exc.DBAPIError) -> bool:
    """Whether its disk is. SQLite maps a file beside its own to read even, and says SQLITE_IOERR_SHMSIZE where that cannot
    grow (measured with 3.40); 53100 is PostgreSQL's disk_full (its manual, appendix A)."""
    full = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
    return getattr(error.orig, "sqlite_errorname", "") in full or getattr(error.orig, "pgcode", None) == "53100"


def _lacks_tables(error: sa.exc.DBAPIError) -> bool:
    """Whether a statement of ours names what the tables of another release do not have."""
    lacking = str(error.orig).startswith(("no such column", "no such table"))
    return lacking or getattr(error.orig, "pgcode", None) in (*_NO_TABLE, "42703")  # undefined_column


def _is_denied(error: sa.exc.DBAPIError) -> bool:
    """Whether the account's or role's rights are what is wrong.

    SQLITE_READONLY_DBMOVED is a file that was replaced under an open connection; 42501 is PostgreSQL's
    insufficient_privilege (PostgreSQL manual, appendix A).
    """
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    if name.startswith("SQLITE_READONLY"):
        return name != "SQLITE_READONLY_DBMOVED"
    return name == "SQLITE_PERM" or getattr(error.orig, "pgcode", None) == "42501"


def _missing_right(url: sa.URL, safe_url: str, error: sa.exc.DBAPIError) -> MissingRightError:
    account = _account()
    if url.get_backend_name() == "postgresql":
        from ccatwm.edges.opsdb.roles import lacking_grant

        role = url.username or account
        said = _first_line(error)
        grant = lacking_grant(said, error.statement, role)
        return MissingRightError(
            f"role {role} lacks a right in the ops-db: {said}",
            where=safe_url,
            next=(f"let the owner of the tables say `{grant}`; " if grant else "")
            + "`ccatwm db roles` prints all that a role for passes, operators or readers needs",
        )
    return MissingRightError(
        f"account {account} may not write {_unwritable(Path(str(url.database)))}: {_first_line(error)}",
        where=safe_url,
        next="give the account the right to write the file and its folder, or act as their owner",
    )


def _unwritable(path: Path) -> Path:
    """What of an SQLite database keeps it from being written: the file, one beside it, or the folder."""
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
    parts = [path, *(p for p in beside if p.exists()), path.parent]
    return next((part for part in parts if not os.access(part, os.W_OK)), path)


def _account() -> str:
    """The name of the account that this process acts as, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def database_now(dialect: str) -> sa.ColumnElement[Any]:
    """The database's own clock, for leases: hosts may disagree about the time."""
    from ccatwm.edges.opsdb.types import UtcDateTime

    if dialect == "postgresql":
        return sa.type_coerce(sa.func.clock_timestamp(), UtcDateTime)
    # SQLite has milliseconds; three zeros make the text sort like our microseconds.
    return sa.type_coerce(sa.text("strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z'"), UtcDateTime)


def is_network_file_system(path: str) -> str | None:
    """The name of the network file system that `path` lies on, or None. Linux only (/proc/self/mountinfo)."""
    best, kind = "", None
    target = os.path.realpath(path)
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        if (target == mount or target.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    networked = (
        "nfs",
        "lustre",
        "gpfs",
        "cifs",
        "smb",
        "beegfs",
        "ceph",
        "fuse.sshfs",
        "glusterfs",
        "9p",
        "afs",
    )
    return kind if kind and kind.startswith(networked) else None
