"""`ccatwm init --opsdb URL` and `ccatwm db check` where the database belongs to somebody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli
from tests.crash.campaign import write_campaign
from tests.foreign.site import READ_ALL, ROLE, TheirDatabase, furnish, observe, their_database
from tests.opsdb.databases import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def closed(postgresql_server: PostgresServer, tmp_path: Path) -> Iterator[TheirDatabase]:
    """A submillimetre observatory's database with observations, which our role may not use yet."""
    with their_database(postgresql_server, "observatory.sql", "ops", rights=False) as made:
        folder = tmp_path / "world"
        folder.mkdir()
        write_campaign(folder)
        furnish(made, folder)
        observe(made, folder, [1, 2, 3])
        yield made


def test_the_map_is_drafted_and_says_what_was_guessed(cli: Cli, closed: TheirDatabase, tmp_path: Path) -> None:
    closed.give(READ_ALL.format("ops"))
    closed.give("CREATE SCHEMA ccatwm AUTHORIZATION ROLE")
    before = closed.dump()
    done = cli("init", "--opsdb", closed.reader_url, str(tmp_path / "site"))
    assert done.code == 0, done.out + done.err
    assert "RawDataPackage is ops.raw_data_package" in done.out
    assert "Source: compared in full now and then" in done.out
    drafted = yaml.safe_load((tmp_path / "site" / "opsdb-map.yaml").read_text())["tables"]
    package = drafted["RawDataPackage"]
    assert package["columns"]["id"] == "uuid"
    assert package["columns"]["executed_obs_unit_id"] == "exec_uuid"
    assert package["columns"]["checksum"] == {"column": "sha256", "prefix": "sha256:"}
    assert package["key_type"] == "uuid" and package["change_time"] == "changed"
    assert package["values"]["state"]["archived"] == "ARCHIVED"
    assert drafted["Source"]["change_time"] is None
    assert drafted["DataLocation"]["columns"]["base_path"] == "folder"
    assert drafted["PhysicalCopy"]["columns"]["path"] == "rel_path"
    checked = cli("--site", str(tmp_path / "site"), "db", "check")
    assert checked.code == 0, checked.out + checked.err
    assert closed.dump() == before


def test_rights_that_are_missing_are_told_as_statements_and_these_suffice(
    cli: Cli, closed: TheirDatabase, tmp_path: Path
) -> None:
    closed.give(READ_ALL.format("ops"))
    site = str(tmp_path / "site")
    done = cli("init", "--opsdb", closed.reader_url, site, "--json")
    assert done.code == 3, done.out + done.err
    asks = json.loads(done.out)["ask_for"]
    assert asks == [f"CREATE SCHEMA ccatwm AUTHORIZATION {ROLE};"]
    closed.execute(asks[0])
    assert cli("init", site).code == 0
    closed.give("REVOKE SELECT ON ops.target FROM ROLE")
    closed.give("REVOKE SELECT ON ops.executed_obs_unit FROM ROLE; GRANT SELECT (uuid, label, unit_uuid, began, changed) "
                "ON ops.executed_obs_unit TO ROLE")  # fmt: skip
    closed.execute("DROP INDEX ops.raw_data_package_exec_uuid_idx")
    checked = cli("--site", site, "db", "check", "--json")
    assert checked.code == 3
    theirs = json.loads(checked.out)["observations"]
    asks = theirs["ask_for"]
    assert f"GRANT USAGE ON SCHEMA ops TO {ROLE}; GRANT SELECT ON ops.target TO {ROLE};" in asks
    assert f"GRANT USAGE ON SCHEMA ops TO {ROLE}; GRANT SELECT (outcome) ON ops.executed_obs_unit TO {ROLE};" in asks
    assert "CREATE INDEX CONCURRENTLY ON ops.raw_data_package (exec_uuid);" in asks
    assert all(":" in row["where"] for row in theirs["missing"])
    refused = cli("--site", site, "cycle")
    assert refused.code == 3 and "ops.target" in refused.err and "Traceback" not in refused.err
    for statement in asks:
        closed.execute(statement.replace(" CONCURRENTLY", ""))
    checked = cli("--site", site, "db", "check", "--json")
    assert checked.code == 0 and json.loads(checked.out)["observations"]["ask_for"] == []


def test_a_role_that_may_read_nothing_yet_is_told_what_to_ask_for_and_nothing_is_made(
    cli: Cli, closed: TheirDatabase, tmp_path: Path
) -> None:
    """Else a site with tables of ours would be begun amid theirs."""
    site = tmp_path / "site"
    done = cli("init", "--opsdb", closed.reader_url, site)
    assert done.code == 3 and "may read none of them" in done.err and not site.exists()
    asked = f"GRANT USAGE ON SCHEMA ops TO {ROLE}; GRANT SELECT ON ALL TABLES IN SCHEMA ops TO {ROLE};"
    assert asked in done.err and "OBSERVATIONS=managed" in done.err
    for statement in (*asked.split("; "), f"CREATE SCHEMA ccatwm AUTHORIZATION {ROLE}"):
        closed.execute(statement)
    done = cli("init", "--opsdb", closed.reader_url, site)
    assert done.code == 0
    assert "4 tables that this role may not read: public.alembic_version, public.pipeline" in done.out


def test_an_empty_database_gets_tables_of_ours(cli: Cli, postgresql_server: PostgresServer, tmp_path: Path) -> None:
    url = postgresql_server.new()
    done = cli("init", "--opsdb", url, str(tmp_path / "site"), "--json")
    assert done.code == 0 and json.loads(done.out)["observations"] == "managed"
    assert not (tmp_path / "site" / "opsdb-map.yaml").exists()
    postgresql_server.drop(url)
