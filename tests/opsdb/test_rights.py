"""An account without the right to write the ops-db is told what is missing; looking goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.errors import MissingRightError, SettingsError
from tests.opsdb.looked_at import NOW

ROLE = "ccatwm_reader"


@pytest.fixture
def reader(database: Database) -> Iterator[Database]:
    """The same database for an account that may look only."""
    if database.dialect == "sqlite":
        made = Database(database.url.render_as_string(hide_password=False))
        sa.event.listen(made.engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only=ON"))
        yield made
        made.dispose()
        return
    with database.write() as connection:
        connection.execute(sa.text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(sa.text(f"CREATE ROLE {ROLE} LOGIN"))
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {t.SCHEMA} TO {ROLE}"))
        connection.execute(sa.text(f"GRANT SELECT ON {t.SCHEMA}.ops_db TO {ROLE}"))
    made = Database(database.url.set(username=ROLE).render_as_string(hide_password=False))
    yield made
    made.dispose()
    with database.write() as connection:
        connection.execute(sa.text(f"DROP OWNED BY {ROLE}"))
        connection.execute(sa.text(f"DROP ROLE {ROLE}"))


def write_something(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(t.ops_db).values(uid="u", created_at=NOW))


def test_writing_without_the_right_is_for_a_person_to_mend_and_names_who_lacks_what(reader):
    with pytest.raises(SettingsError) as caught:
        write_something(reader)
    assert isinstance(caught.value, MissingRightError)
    if reader.dialect == "sqlite":
        assert str(reader.url.database) in caught.value.message
    else:
        assert ROLE in caught.value.message and "ops_db" in caught.value.message
        assert f"`GRANT INSERT ON ccatwm.ops_db TO {ROLE}`" in caught.value.next
        assert "ccatwm db roles" in caught.value.next


def test_looking_needs_no_right_to_write(reader):
    with reader.read() as connection:
        assert connection.execute(sa.select(t.ops_db.c.uid)).all() == []


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_role_that_may_not_even_read_the_schema_version_is_told_so(database, reader):
    with database.write() as connection:
        connection.execute(sa.text(f"CREATE TABLE {t.SCHEMA}.ccatwm_version (version_num TEXT)"))
    with pytest.raises(MissingRightError, match="permission denied"):
        reader.check_schema()
