"""Many rows at once are the rows that SQLAlchemy would write; what the databases refuse is told in our own words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows, json_text, new_ids, update_rows
from ccatwm.edges.opsdb.engine import Database
from ccatwm.errors import ConflictError, SchemaVersionError, UsageError

NOW = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=-3)))
COLUMNS = ("at", "actor", "host", "act", "target", "reason", "text", "digest", "details")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.none() | st.booleans() | st.integers(-(1 << 62), 1 << 62) | st.floats(-1e15, 1e15) | TEXTS
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
ROWS = st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS, JSON), min_size=1, max_size=5)
log = t.change_log


def written(database: Database) -> list[tuple]:
    with database.read() as connection:
        query = sa.select(*(log.c[name] for name in COLUMNS)).order_by(log.c.id)
        return [tuple(row) for row in connection.execute(query)]


@given(rows=ROWS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_are_read_as_they_were_given(database: Database, rows: list[tuple]) -> None:
    given_rows = [(NOW, r"\N", "a\tb\\n", "\\", "", text, other, None, value) for text, other, value in rows]
    with database.write() as connection:
        connection.execute(sa.delete(log))
        insert_rows(connection, log, COLUMNS, given_rows)
    expected = [(NOW.astimezone(UTC), *row[1:]) for row in given_rows]
    assert written(database) == expected


@given(rows=ROWS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_are_changed_by_their_ids(database: Database, rows: list[tuple]) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(log))
        ids = new_ids(connection, log, len(rows))
        blank = [(i, NOW, "me", "h", "a", "t", None, None, None, {"n": i}) for i in ids]
        insert_rows(connection, log, ("id", *COLUMNS), blank)
        changes = [(i, text, json_text(value)) for i, (text, _, value) in zip(ids, rows, strict=True)]
        update_rows(connection, log, ("reason", "details"), changes)
    assert [(row[5], row[8]) for row in written(database)] == [(text, value) for text, _, value in rows]


def test_ids_are_never_given_twice(database: Database) -> None:
    with database.write() as connection:
        first = new_ids(connection, log, 3)
        rows = [(i, NOW, "me", "h", "a", "t") for i in first]
        insert_rows(connection, log, ("id", "at", "actor", "host", "act", "target"), rows)
        connection.execute(sa.delete(log))
        second = new_ids(connection, log, 2)
        made = connection.execute(
            sa.insert(log).values(at=NOW, actor="me", host="h", act="a", target="t").returning(log.c.id)
        ).scalar_one()
    assert not set(first) & {*second, made}


def test_a_refused_row_is_a_conflict(database: Database) -> None:
    columns = ("name", "filter_rules", "digest", "updated_at")
    with pytest.raises(ConflictError, match="refused a row"), database.write() as connection:
        insert_rows(connection, t.data_grouping, columns, [("one", [], "d", NOW), ("one", [], "d", NOW)])


def test_rows_that_are_made_one_by_one_are_all_written(database: Database) -> None:
    """More than PostgreSQL is given at once; the first of some columns say nothing."""
    with database.write() as connection:
        rows = ((NOW, "a", "h", "a", f"{n}", f"{n}" if n > 1200 else None, None, None, {"n": n}) for n in range(1501))
        insert_rows(connection, log, COLUMNS, rows)
        insert_rows(connection, log, COLUMNS, iter(()))
    found = written(database)
    assert [(row[4], row[5], row[8]["n"]) for row in found] == [
        (f"{n}", f"{n}" if n > 1200 else None, n) for n in range(1501)
    ]


def test_what_fails_while_rows_are_made_is_told_itself_and_nothing_stays(database: Database) -> None:
    def rows():
        for n in range(700):
            yield NOW, "a", "h", "a", f"{n}", None, None, None, {}
        raise KeyError("the 701st")

    with pytest.raises(KeyError, match="the 701st"), database.write() as connection:
        insert_rows(connection, log, COLUMNS, rows())
    assert written(database) == []


def test_a_number_beyond_64_bits_is_told_without_a_traceback(database: Database) -> None:
    query = sa.select(log.c.id).where(log.c.id == sa.bindparam("id", 1 << 70, sa.BigInteger))
    if database.dialect == "sqlite":
        with pytest.raises(UsageError, match="too large"), database.read() as connection:
            connection.execute(query).all()
    else:  # it compares them as numbers of any size
        with database.read() as connection:
            assert connection.execute(query).all() == []


def test_a_column_that_is_missing_is_a_matter_of_releases(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.select(log.c.id))
        name = "change_log" if database.dialect == "sqlite" else "ccatwm.change_log"
        connection.exec_driver_sql(f"ALTER TABLE {name} DROP COLUMN text")
    with pytest.raises(SchemaVersionError, match="not those of this release") as caught:
        written(database)
    assert "db check" in caught.value.next


@pytest.mark.parametrize("value", [1e300, 1e25, -1.5e19, 1 << 62, 0.1])
def test_large_floats_come_back_as_floats(database: Database, value: float) -> None:
    with database.write() as connection:
        insert_rows(connection, log, COLUMNS, [(NOW, "a", "h", "a", "t", None, None, None, {"value": value})])
    ((*_, details),) = written(database)
    assert details == {"value": value}
    assert type(details["value"]) is type(value)
