"""A rehearsal is the ops-db as it is, to be written at will, of which nothing stays; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import LOCK_TIMEOUT_SECONDS, Database
from ccatwm.errors import ConflictError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def add(database, name):
    with database.write() as connection:
        connection.execute(
            sa.insert(t.data_grouping).values(name=name, filter_rules=[], digest="d", updated_at=NOW)
        )


def names(database):
    with database.read() as connection:
        return list(
            connection.execute(sa.select(t.data_grouping.c.name).order_by(t.data_grouping.c.id)).scalars()
        )


def test_what_is_written_is_read_within_and_gone_after(database):
    add(database, "before")
    with database.rehearsal() as rehearsed:
        add(rehearsed, "within")
        add(rehearsed, "also")
        assert names(rehearsed) == ["before", "within", "also"]
    assert names(database) == ["before"]


def test_a_refused_row_undoes_its_own_transaction_only(database):
    with database.rehearsal() as rehearsed:
        add(rehearsed, "one")
        with pytest.raises(ConflictError):
            add(rehearsed, "one")
        add(rehearsed, "two")
        assert names(rehearsed) == ["one", "two"]


def test_nobody_waits_longer_for_it_than_he_would_wait_for_any_other(database):
    with database.rehearsal() as rehearsed:
        add(rehearsed, "within")
        other = Database(database.url.render_as_string(hide_password=False))
        add(other, "meanwhile")
        other.dispose()
        seconds = database.rehearsal_seconds
    assert names(database) == ["meanwhile"]
    assert seconds is None or seconds < LOCK_TIMEOUT_SECONDS
