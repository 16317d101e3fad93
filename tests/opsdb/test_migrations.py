"""Migrations make what the tables declare, on both databases; versions that are not known are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.upgrade import list_differences, read_revisions, upgrade_tables
from ccatwm.errors import OpsDbUnavailableError, OpsDbUnusableError, SchemaVersionError
from ccatwm.upkeep.schema_versions import BranchVersion, check_schema, upgrade_schema
from tests.opsdb.databases import memory_folder, open_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a real PostgreSQL of this module's own."""
    with open_server(memory_folder()) as running:
        yield running.url


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.quick),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ]
)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/opsdb.sqlite"
    url = sa.make_url(request.getfixturevalue("server")).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM pg_database")).scalar_one()
        connection.execute(sa.text(f"CREATE DATABASE empty_{count}"))
    engine.dispose()
    return url.set(database=f"empty_{count}").render_as_string(hide_password=False)


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def set_version(database: Database, branch: str, revision: str) -> None:
    schema = "ccatwm." if database.dialect == "postgresql" else ""
    statement = f"UPDATE {schema}ccatwm_version SET version_num = :new WHERE version_num LIKE :old"
    with database.write() as connection:
        connection.execute(sa.text(statement), {"new": revision, "old": f"{branch}%"})


def table_names(database: Database, schema: str | None) -> set[str]:
    with database.read() as connection:
        return set(sa.inspect(connection).get_table_names(schema=schema))


def test_an_upgraded_database_is_what_the_tables_declare(empty: Database) -> None:
    upgrade_tables(empty)
    assert list_differences(empty) == []


def test_upgrading_twice_changes_nothing(empty: Database) -> None:
    upgrade_tables(empty)
    assert all(before == after for before, after in upgrade_tables(empty).values())


def test_an_upgraded_database_is_accepted_by_passes(empty: Database) -> None:
    upgrade_tables(empty)
    empty.check_schema()


def test_a_database_without_tables_is_refused_with_the_command_to_run(empty: Database) -> None:
    with pytest.raises(SchemaVersionError, match="ccatwm db upgrade"):
        empty.check_schema()


@pytest.mark.parametrize("branch", ["pipeline", "observation"])
def test_a_version_that_is_not_known_is_refused(empty: Database, branch: str) -> None:
    upgrade_tables(empty)
    set_version(empty, branch, f"{branch}_9999")
    with pytest.raises(SchemaVersionError, match=f"{branch}_9999"):
        empty.check_schema()


def test_foreign_observations_are_neither_made_nor_asked_for(empty: Database) -> None:
    upgrade_tables(empty, observations="foreign")
    empty.check_schema(observations="foreign")
    assert list_differences(empty, observations="foreign") == []
    assert "raw_data_package" not in table_names(empty, None)


def test_an_upgrade_does_not_touch_tables_of_others(empty: Database) -> None:
    with empty.write() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('theirs')"))
    upgrade_tables(empty)
    assert list_differences(empty) == []
    with empty.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "theirs"


@pytest.mark.postgres
@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_on_postgresql_our_tables_lie_in_our_schema_alone(empty: Database) -> None:
    upgrade_tables(empty, observations="foreign")
    assert table_names(empty, "public") == set()
    assert "ccatwm_version" in table_names(empty, "ccatwm")


@pytest.mark.postgres
@pytest.mark.parametrize("path", ["DEFAULT", '"$user", public', 'public, "$user"'])
def test_a_role_called_as_our_schema_has_observations_outside_of_it(server: str, path: str) -> None:
    url = sa.make_url(server).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "DROP DATABASE IF EXISTS of_ccatwm", "DROP ROLE IF EXISTS ccatwm", "CREATE ROLE ccatwm LOGIN",
            "CREATE DATABASE of_ccatwm OWNER ccatwm", f"ALTER ROLE ccatwm SET search_path TO {path}",
        ):  # fmt: skip
            connection.execute(sa.text(statement))
    engine.dispose()
    database = Database(url.set(username="ccatwm", database="of_ccatwm").render_as_string(hide_password=False))
    upgrade_tables(database)
    assert list_differences(database) == []
    tables = schemas_of(database)
    assert (tables["raw_data_package"], tables["sub_group"]) == ("public", "ccatwm")
    database.dispose()


def schemas_of(database: Database) -> dict[str, str]:
    with database.read() as connection:
        found = connection.execute(sa.text("SELECT tablename, schemaname FROM pg_tables"))
        return {row.tablename: row.schemaname for row in found}


def test_two_upgrades_at_once_both_succeed(empty_url: str) -> None:
    program = (
        "import sys\nfrom ccatwm.edges.opsdb.engine import Database\n"
        "from ccatwm.edges.opsdb.upgrade import upgrade_tables\nupgrade_tables(Database(sys.argv[1]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, empty_url]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    Database(empty_url).check_schema()


def test_a_failed_upgrade_leaves_nothing_behind(empty: Database) -> None:
    with empty.write() as connection:
        connection.execute(sa.text("CREATE TABLE site (id integer)"))  # in the way of the observation branch
    with pytest.raises(SchemaVersionError, match="already exists"):
        upgrade_tables(empty)
    with empty.read() as connection:
        assert read_revisions(connection) == {}
    assert table_names(empty, None) == {"site"}


def test_a_missing_index_is_told(empty: Database) -> None:
    upgrade_tables(empty)
    schema = "ccatwm." if empty.dialect == "postgresql" else ""
    with empty.write() as connection:
        connection.execute(sa.text(f"DROP INDEX {schema}ix_run_open"))
    report = check_schema(empty)
    assert not report.fine
    assert [line for line in report.differences if "missing index" in line and "ix_run_open" in line]


def test_a_newer_schema_is_not_upgraded_but_refused(empty: Database) -> None:
    upgrade_tables(empty)
    set_version(empty, "pipeline", "pipeline_9999")
    with pytest.raises(SchemaVersionError, match="newer"):
        upgrade_schema(empty)


@pytest.mark.parametrize("version", ["pipeline_0000", "pipeline_x", "theirs"])
def test_a_version_that_no_release_has_is_neither_called_older_nor_upgraded(empty: Database, version: str) -> None:
    upgrade_tables(empty)
    set_version(empty, "pipeline", version)
    report = check_schema(empty)
    assert "unknown" in {v.state for v in report.versions} and "db upgrade" not in report.next
    with pytest.raises(SchemaVersionError, match=f"{version}, which this release does not know"):
        upgrade_schema(empty)


@pytest.mark.quick
def test_a_version_that_this_release_has_a_migration_of_is_older() -> None:
    assert BranchVersion("pipeline", "pipeline_0001", ("pipeline_0002",)).state == "older"


def test_the_report_tells_newer_missing_and_current_versions_apart(empty: Database) -> None:
    upgrade_tables(empty, observations="foreign")
    set_version(empty, "pipeline", "pipeline_9999")
    states = {version.branch: version.state for version in check_schema(empty).versions}
    assert states == {"pipeline": "newer", "observation": "missing"}


@pytest.mark.quick
def test_a_database_file_that_is_replaced_is_noticed_by_the_next_transaction(tmp_path: Path) -> None:
    first, second = Database(f"sqlite:///{tmp_path}/a.sqlite"), Database(f"sqlite:///{tmp_path}/b.sqlite")
    upgrade_tables(first, observations="foreign")
    second.dispose()
    (tmp_path / "b.sqlite").touch()
    (tmp_path / "b.sqlite").replace(tmp_path / "a.sqlite")
    for name in ("a.sqlite-wal", "a.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with first.read() as connection:
        assert read_revisions(connection) == {}
    first.dispose()


@pytest.mark.quick
@pytest.mark.parametrize("damage", ["no database" * 1000, "SQLite format 3\0" + "x" * 4080])
def test_a_file_that_is_no_database_is_for_a_person_to_restore(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.sqlite").write_text(damage)
    database = Database(f"sqlite:///{tmp_path}/a.sqlite")
    for look in (database.check_schema, lambda: check_schema(database), lambda: upgrade_schema(database)):
        with pytest.raises(OpsDbUnusableError, match=r"damaged, or no SQLite database.*\n.*db restore FILE"):
            look()
    assert (tmp_path / "a.sqlite").read_text() == damage


@pytest.mark.postgres
@pytest.mark.parametrize("part, kind", [({"database": "nodb"}, "database"), ({"username": "nobody_here"}, "role")])
def test_a_database_or_role_that_does_not_exist_is_told_as_such(server: str, part: Any, kind: str) -> None:
    url = sa.make_url(server).set(drivername="postgresql+psycopg2", **part)
    database = Database(url.render_as_string(hide_password=False))
    for look in (database.check_schema, lambda: check_schema(database), lambda: upgrade_schema(database)):
        with pytest.raises(OpsDbUnusableError, match=rf"the {kind} .* does not exist\n.*(createdb|createuser)"):
            look()


@pytest.mark.postgres
def test_a_role_that_may_not_log_in_is_for_a_person_to_mend(server: str) -> None:
    owner = Database(server)
    with owner.write() as connection:
        connection.execute(sa.text("CREATE ROLE shut_out NOLOGIN"))
    owner.dispose()
    url = sa.make_url(server).set(drivername="postgresql+psycopg2", username="shut_out")
    database = Database(url.render_as_string(hide_password=False))
    with pytest.raises(OpsDbUnusableError, match=r"does not let this role in.*\n.*OPSDB_URL"), database.read():
        pass


@pytest.mark.quick
@pytest.mark.parametrize(
    "said, unusable",
    [
        ('FATAL:  password authentication failed for user "ada"', True),
        ("fe_sendauth: no password supplied", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "ada", database "ops", no encryption', True),
        ('FATAL:  permission denied for database "ops"', True),
        ("FATAL:  the database system is starting up", False),
        ("FATAL:  sorry, too many clients already", False),
        ("could not translate host name \"db\" to address: Temporary failure in name resolution", False),
        ("Connection refused", False),
    ],
)
def test_what_a_server_will_say_again_is_told_from_what_passes_by_itself(said: str, unusable: bool) -> None:
    """Texts of PostgreSQL 15 (src/backend/libpq/auth.c, utils/init/postinit.c) and libpq."""
    database = Database("postgresql://ada@127.0.0.1:1/ops")
    error = sa.exc.OperationalError("SELECT 1", {}, Exception(f'connection to server at "db", port 5432 failed: {said}'))
    assert isinstance(database._explain(error), OpsDbUnusableError if unusable else OpsDbUnavailableError)


@pytest.mark.quick
def test_passwords_in_the_url_are_shown_nowhere() -> None:
    database = Database("postgresql://me:one@/ops?host=/nosuch&password=two&sslpassword=three")
    with pytest.raises(OpsDbUnavailableError) as caught:
        database.check_schema()
    said = str(caught.value)
    assert "host=/nosuch" in said
    assert not [secret for secret in ("one", "two", "three") if secret in said]
