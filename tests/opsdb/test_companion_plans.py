"""What is asked about companions costs what lies around the obs units in question, not the history."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ccatwm.core.companions import CompanionRule
from ccatwm.core.exclusions import Excluded
from ccatwm.core.gap import Member
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.companions import CompanionLink, choose_companions, sub_groups_served

NIGHT = datetime(2026, 3, 1, tzinfo=UTC)
MANY = 6000
LOADS, SCANS, KEYS = 1, 2, 3  # scopes: companions, the step's sub-groups, their keys of `same`
RULES = [
    CompanionRule("loads", nearest=True, before=1, after=1, within=timedelta(hours=2)),
    CompanionRule("loads", nearest=True, before=2, after=1),
]


def rows(scope: int, kind: str, offset: int, key_of=lambda n: "module=LFA"):
    return [
        {"scope_id": scope, "key": key_of(n), "dims": {}, "package_id": f"{kind}{n}", "package_name": f"{kind}{n}",
         "checksum": None, "size_bytes": 1, "state": "archived", "executed_obs_unit_id": f"{kind}{n}",
         "instrument_module_id": "1", "ended": True, "observed_at": NIGHT + timedelta(minutes=30 * n + offset),
         "since": NIGHT}
        for n in range(MANY)
    ]  # fmt: skip


@pytest.fixture
def link(database) -> CompanionLink:
    """Loads every half hour for four months, scans between them."""
    with database.write() as connection:
        definition = {"companions": [{"name": "loads", "nearest": {"before": 1, "after": 1}}]}
        known = {"definition": definition, "updated_at": NIGHT, "name": "x", "enabled": True}
        insert = lambda table, **values: connection.execute(sa.insert(table).values(**values))  # noqa: E731
        insert(t.data_grouping, id=1, name="g", filter_rules=[], digest="d", updated_at=NIGHT)
        for scope in (LOADS, SCANS, KEYS):
            insert(t.grouping_scope, id=scope, data_grouping_id=1, group_by=[], group_by_digest=str(scope),
                   resolved_digest="d")  # fmt: skip
        insert(t.pipeline, id=1, data_grouping_id=1, processing_location="local", trigger_type="MANUAL", trigger_config={},
               priority=0, **known)  # fmt: skip
        insert(t.reduction_software, id=1, name="cal")
        insert(t.reduction_step_config, id=1, digest="c", data={}, created_at=NIGHT)
        insert(t.reduction_step, id=1, pipeline_id=1, position=0, role="final", scope_id=SCANS, software_id=1,
               config_id=1, **known)  # fmt: skip
        insert(t.step_companion, step_id=1, name="loads", position=0, scope_id=LOADS, target_scope_id=KEYS)
        for scope, kind, offset, key_of in (
            (LOADS, "load", 0, lambda n: "module=LFA"), (SCANS, "scan", 10, lambda n: f"executed_obs_unit={n}"),
            (KEYS, "scan", 10, lambda n: "module=LFA"),
        ):  # fmt: skip
            connection.execute(sa.insert(t.sub_group_member), rows(scope, kind, offset, key_of))
        connection.execute(
            sa.insert(t.sub_group),
            [{"step_id": 1, "key": f"executed_obs_unit={n}", "dims": {}, "created_at": NIGHT} for n in range(MANY)],
        )
    with database.write() as connection:
        connection.execute(sa.text("ANALYZE"))
    return CompanionLink(1, "x", SCANS, RULES[0], LOADS, KEYS, True)


@contextlib.contextmanager
def recorded(connection):
    """Every statement that reads members, with its parameters."""
    found: list = []

    def note(_conn, cursor, statement, parameters, _context, _many):
        if "sub_group_member" in statement and not statement.startswith("EXPLAIN"):
            found.append((statement, parameters))

    sa.event.listen(connection.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(connection.engine, "before_cursor_execute", note)


def plan(connection, statement, parameters) -> str:
    word = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(word + statement, parameters))


def scans_everything(text: str) -> bool:
    bad = ("SCAN sub_group_member", "SCAN here", "SCAN there")
    return any("Seq Scan on sub_group_member" in line or line.strip().startswith(bad) for line in text.splitlines())


def member(n: int) -> Member:
    at = NIGHT + timedelta(minutes=30 * n + 10)
    return Member(f"scan{n}", f"scan{n}", None, 1, "archived", True, at, unit=f"scan{n}")


@pytest.mark.parametrize("rule", RULES, ids=["within", "neighbours"])
def test_companions_of_some_scans_are_read_from_around_them(database, link, rule):
    link = CompanionLink(**{**vars(link), "rule": rule})
    members = {f"executed_obs_unit={n}": [member(n)] for n in (5, 6, 2000, 5900)}
    excluded = Excluded(packages={f"load{n}": [(None, "open")] for n in range(1980, 2001)})
    with database.read() as connection:
        with recorded(connection) as statements:
            found = choose_companions(connection, [link], members, excluded)
        plans = [plan(connection, *statement) for statement in statements]
        fetched = [len(connection.exec_driver_sql(*statement).all()) for statement in statements]
    names = {key: [c.name for c in chosen.packages] for key, (chosen,) in found.items()}
    assert names["executed_obs_unit=5900"] == [f"load{n}" for n in range(5901 - rule.before, 5902)]
    # All before it within two hours are excluded; without a limit the next good ones are ten hours away.
    assert names["executed_obs_unit=2000"] == (["load2001"] if rule.within else ["load1978", "load1979", "load2001"])
    assert not [text for text in plans if scans_everything(text)]
    assert sum(fetched) < 400


def test_whom_a_load_serves_is_found_around_it(database, link):
    with database.read() as connection:
        with recorded(connection) as statements:
            ids = sub_groups_served(connection, ["load3000"], Excluded, None)
        plans = [plan(connection, *statement) for statement in statements]
        keys = set(connection.execute(sa.select(t.sub_group.c.key).where(t.sub_group.c.id.in_(ids))).scalars())
    assert keys == {"executed_obs_unit=2999", "executed_obs_unit=3000"}
    assert statements
    assert not [text for text in plans if scans_everything(text)]
