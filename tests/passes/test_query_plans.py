"""No pass reads a table that grows from its beginning to its end: the plan of every statement is looked at.

The statements are those of passes that find work, with their parameters; their plans are asked of an ops-db of 20,000
packages with its statistics, where reading whole tables costs more than an index would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables
from ccatwm.edges.opsdb.engine import Database
from ccatwm.upkeep.backfill import pause_backfill, resume_backfill
from ccatwm.views.backfills import build_backfills
from tests.bench.foreign_sky import MORE, ForeignSky
from tests.bench.sky import Sky, fill_sky
from tests.foreign.conftest import site as site
from tests.foreign.conftest import theirs as theirs
from tests.foreign.site import TheirDatabase, observe
from tests.opsdb.databases import PostgresServer
from tests.passes.conftest import Observatory
from tests.passes.test_backfill import act, ask
from tests.passes.test_excluding import out

PACKAGES = 20_000
GROWING = {
    "executed_obs_unit", "raw_data_package", "sub_group", "sub_group_member", "executed_reduction_step", "run_input",
    "run_event", "run_attempt", "submission", "data_product",
    "package_metadata", "physical_copy", "raw_data_package_physical_copy",
}  # fmt: skip
COPIES = """
INSERT INTO physical_copy (raw_data_package_id, data_location_id, path, status, updated_at)
  SELECT id, 1, name || '.tar', 'present', updated_at FROM raw_data_package
"""
PARTIAL = {index.name for index, _ in tables._partial}  # these hold what is not done yet
Statement = tuple[str, Any]


@contextmanager
def all_statements() -> Iterator[dict[str, Any]]:
    """What is said to any database meanwhile: each text once, with its parameters."""
    found: dict[str, Any] = {}

    def keep(_connection: Any, _cursor: Any, text: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and re.match(r"(SELECT|UPDATE|DELETE|INSERT\b.*\bSELECT)\b", text, re.S):
            found.setdefault(text, parameters)

    sa.event.listen(sa.Engine, "before_cursor_execute", keep)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", keep)


@pytest.fixture
def sky(observatory: Observatory, request: pytest.FixtureRequest) -> Sky:
    """Years of finished runs, in a database of the same kind as the observatory's."""
    folder = observatory.folder.parent / "sky"
    folder.mkdir()
    url = f"sqlite:///{folder}/opsdb.sqlite"
    if observatory.url.startswith("postgresql"):
        server = request.getfixturevalue("postgresql_server")
        url = server.new()
        request.addfinalizer(lambda: server.drop(url))
    sky = Sky(url, folder, PACKAGES)
    fill_sky(sky)
    sky.execute(COPIES)
    return years_later(sky)


def years_later(sky: Sky) -> Sky:
    """All runs are made and finished."""
    context = sky.context()
    sky.decide(context)
    context.database.dispose()
    sky.finish_runs()
    return sky


@pytest.fixture
def foreign_sky(postgresql_server: PostgresServer, tmp_path: Path) -> Iterator[Sky]:
    """The same in tables of others."""
    sky = ForeignSky(postgresql_server.new(), tmp_path / "sky", PACKAGES)
    fill_sky(sky)
    sky.execute(MORE)
    yield years_later(sky)
    postgresql_server.drop(sky.url)


def whole_reads(sky: Sky, statements: dict[str, Any]) -> list[str]:
    """The statements that read all of a growing table, with their plans."""
    database = Database(sky.url)
    look = _sqlite_reads if sky.dialect == "sqlite" else _postgresql_reads
    with database.read() as connection:
        plans = [look(connection, text, parameters) for text, parameters in statements.items()]
    database.dispose()
    return [plan for plan in plans if plan is not None]


def _sqlite_reads(connection: sa.Connection, text: str, parameters: Any) -> str | None:
    plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)]
    aliases = {alias: name for name, alias in re.findall(r"(\w+) AS (\w+)", text)}
    for line in plan:
        scan = re.match(r"SCAN (?:main\.)?(\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line)
        if scan and aliases.get(scan[1], scan[1]) in GROWING and scan[2] not in PARTIAL and not _is_page(text):
            return "\n".join([text, *plan])
    return None


def _postgresql_reads(connection: sa.Connection, text: str, parameters: Any) -> str | None:
    plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {text}", parameters)]
    for line, following in zip(plan, [*plan[1:], ""], strict=True):
        scan = re.search(r"Seq Scan on (\w+)|Index (?:Only )?Scan(?: Backward)? using (\w+) on (\w+)", line)
        if scan is None:
            continue
        table, index = scan[1] or scan[3], scan[2]
        whole = index is None or "Index Cond" not in following
        page = index is not None and _is_page(text)
        if table in GROWING and whole and index not in PARTIAL and not page:
            return "\n".join([text, *plan])
    return None


def _is_page(text: str) -> bool:
    """The first page of a walk along an index begins at its beginning."""
    return re.search(r"ORDER BY \S*\b(id|updated_at|uuid|changed)( DESC)?(, \S+)?\s+LIMIT", text) is not None


def test_no_statement_of_a_pass_reads_all_of_a_growing_table(observatory: Observatory, sky: Sky) -> None:
    ask(observatory)  # its estimate looks at all there is, once: it is no pass
    pause_backfill(observatory.context().database, 1, act(observatory))
    with all_statements() as statements:
        observatory.until_quiet()
        observatory.arrive("late.yaml")
        observatory.until_quiet()
        out(observatory, "package:scan-1-LFA")
        observatory.until_quiet()
        _go_on_with_the_backfill(observatory)
        _ask_without_an_index(observatory)
    assert len(statements) > 100
    *found, planted = sorted(whole_reads(sky, statements), key=lambda plan: "md5:planted" in plan)
    assert not found, "\n\n".join(found)
    assert "checksum" in planted, "a statement without an index is seen"


@pytest.mark.postgres
def test_nor_does_one_read_all_of_a_growing_table_of_others(
    site: Observatory, theirs: TheirDatabase, foreign_sky: Sky
) -> None:
    ask(site)
    pause_backfill(site.context().database, 1, act(site))
    with all_statements() as statements:
        site.until_quiet()
        observe(theirs, site.folder, [3], minute=site.minute)
        site.until_quiet()
        out(site, "package:scan-1-LFA")
        site.until_quiet()
        _go_on_with_the_backfill(site)
        _page_on(site)
        with site.context().database.read() as connection:
            connection.exec_driver_sql("SELECT label FROM ops.raw_data_package WHERE sha256 = 'md5:planted'").all()
    of_theirs = [text for text in statements if "ops." in text]
    assert len(of_theirs) > 20, len(of_theirs)
    *found, planted = sorted(whole_reads(foreign_sky, statements), key=lambda plan: "md5:planted" in plan)
    assert not found, "\n\n".join(found)
    assert "sha256" in planted, "a statement without an index is seen"


def _page_on(site: Observatory) -> None:
    """A page that is not the first, of packages by id: so few are there that no pass asked for one."""
    context = site.context()
    with context.database.read() as connection:
        ask_for = partial(context.grouping.members, connection, [], ["executed_obs_unit"], now=context.clock.now(), limit=1)
        (first,) = ask_for()
        assert ask_for(after_id=first.package_id)


def _go_on_with_the_backfill(observatory: Observatory) -> None:
    """So far it was paused; now it is open, and looked at by people."""
    context = observatory.context()
    build_backfills(context.database)
    resume_backfill(context.database, 1, act(observatory))
    observatory.until_quiet()


def _ask_without_an_index(observatory: Observatory) -> None:
    member = tables.sub_group_member
    query = sa.select(member.c.id, sa.literal_column("'md5:planted'")).where(member.c.checksum == "md5:planted")
    with observatory.context().database.read() as connection:
        connection.execute(query).all()
