"""Joins between keys of two kinds, as where one table of theirs keeps the UUIDs of another as texts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ccatwm.core.opsdb_map import MappedTable, OpsDbMap
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.foreign import find_tables
from ccatwm.edges.opsdb.grouping import GroupingEngine
from tests.opsdb.databases import PostgresServer

pytestmark = pytest.mark.postgres

NOW = datetime(2026, 3, 2, tzinfo=UTC)
TABLES = """
CREATE SCHEMA theirs;
CREATE TABLE theirs.unit (id {unit} PRIMARY KEY, band text);
CREATE TABLE theirs.package (id bigint PRIMARY KEY, name text, state text, executed_obs_unit_id {reference});
CREATE INDEX ON theirs.package (executed_obs_unit_id);
INSERT INTO theirs.unit SELECT {unit_key}::{unit}, 'g' FROM generate_series(1, 20000) AS n;
INSERT INTO theirs.package SELECT n, 'p' || n, 'archived', {unit_key}::{reference} FROM generate_series(1, 20000) AS n;
ANALYZE theirs.unit;
ANALYZE theirs.package;
"""
UUID = "md5('' || n)::uuid"


LARGE = "(1234567890123456789 + n)"
KINDS = [
    ("uuid", "text", UUID), ("text", "uuid", UUID), ("bigint", "text", "n"), ("text", "bigint", "n"),
    ("bigint", "text", LARGE), ("bigint", "numeric", LARGE), ("numeric", "bigint", "-n"), ("numeric(12, 2)", "int", "n"),
    ("numeric(12, 2)", "text", "n"),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=" ".join)
def theirs(request: pytest.FixtureRequest, postgresql_server: PostgresServer) -> Iterator[Database]:
    unit, reference, key = request.param
    url = postgresql_server.new()
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql(TABLES.format(unit=unit, reference=reference, unit_key=key))
        if reference == "numeric":
            connection.exec_driver_sql("UPDATE theirs.package SET executed_obs_unit_id = 1e30 WHERE id = 7")
        if reference == "text":
            connection.exec_driver_sql("UPDATE theirs.package SET executed_obs_unit_id = 'none yet' WHERE id = 7")
    yield database
    database.dispose()
    postgresql_server.drop(url)


def engine(database: Database) -> GroupingEngine:
    mapped = OpsDbMap({
        "RawDataPackage": MappedTable("package", "theirs"), "ExecutedObsUnit": MappedTable("unit", "theirs"),
    })  # fmt: skip
    with database.read() as connection:
        return GroupingEngine(find_tables(connection, mapped).tables, "postgresql", "UTC")


def test_they_are_joined_and_by_an_index_from_either_side(theirs: Database) -> None:
    grouping, said = engine(theirs), []
    rules = [{"table": "ExecutedObsUnit", "column": "band", "operator": "eq", "value": "g"}]

    def keep(_connection: object, _cursor: object, text: str, parameters: object, *_: object) -> None:
        said.append((text, parameters))

    with theirs.read() as connection:
        sa.event.listen(theirs.engine, "before_cursor_execute", keep)
        found = grouping.members(connection, rules, [], now=NOW, package_ids=["5", "8"])
        unit = found[0].executed_obs_unit_id
        assert unit is not None
        changed = [row[0] for q in grouping.select_packages("ExecutedObsUnit", [unit]) for row in connection.execute(q)]
        sa.event.remove(theirs.engine, "before_cursor_execute", keep)
        plans = ["\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {text}", p)) for text, p in said]
        assert len(grouping.members(connection, [], [], now=NOW, package_ids=["7"])) == 1
    assert ([g.package_id for g in found], changed) == (["5", "8"], [found[0].package_id])
    assert len(plans) == 2 and not [plan for plan in plans if "Seq Scan" in plan]
