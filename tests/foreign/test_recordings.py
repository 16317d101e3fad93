"""The how-to for a database that was there before, walked through on one of which little is like ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli
from tests.foreign.site import OWN_SCHEMA, READ_ALL, TheirDatabase, their_database
from tests.opsdb.databases import PostgresServer

pytestmark = pytest.mark.postgres

SESSION = 'INSERT INTO obs."Sessions" VALUES ({0}, {1}, \'2026-06-0{0} 10:00\', \'2026-06-0{0} 11:00\')'
COLUMNS = '"SessionId", "StationId", "Status", "File", "Bytes", "Md5", "Settings"'
PIPELINE = """
software:
  - name: cat
    versions: [{version: 1.0.0, command: [/bin/sh, -c, 'cat $WORKFLOW_INPUT_DIR/*/* >$WORKFLOW_OUTPUT_DIR/all.dat']}]
data_groupings:
  - name: flares
    filter_rules:
      - {table: Campaign, column: Title, operator: eq, value: flares}
      - {table: RawDataPackage, column: metadata, json_path: band_mhz, operator: eq, value: 327}
pipelines:
  - name: flares
    data_grouping: flares
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: join, software: cat, group_by: [obs_date, instrument_module], role: intermediate}
"""


@pytest.fixture
def theirs(postgresql_server: PostgresServer, tmp_path: Path) -> Iterator[TheirDatabase]:
    """Three sessions, of which the last is being recorded."""
    store = tmp_path / "store"
    store.mkdir()
    with their_database(postgresql_server, "recordings.sql", "obs", rights=False) as made:
        for session in (1, 2, 3):
            made.execute(SESSION.format(session, 1 + session % 2))
            for station in (1, 2):
                name, content = f"s{session}-{station}.dat", f"{session} {station}\n".encode() * 9
                (store / name).write_bytes(content)
                made.execute(
                    f"INSERT INTO obs.\"Recordings\" ({COLUMNS}) VALUES "
                    "(:session, :station, :status, :file, :bytes, :md5, '{\"band_mhz\": 327}')",
                    [{"session": session, "station": station, "status": 1 if session == 3 else 2, "file": name,
                      "bytes": len(content), "md5": hashlib.md5(content).hexdigest()}],
                )  # fmt: skip
        made.give(READ_ALL.format("obs"))
        made.give(OWN_SCHEMA)
        yield made


def test_from_a_role_to_products(cli: Cli, theirs: TheirDatabase, tmp_path: Path) -> None:
    before = theirs.dump()
    site, store = tmp_path / "site", tmp_path / "store"
    assert cli("init", "--opsdb", theirs.reader_url, site).code == 0
    file = site / "opsdb-map.yaml"
    assert "obs, Weather: At, Wind" in file.read_text(), "what else there is"
    drafted = yaml.safe_load(file.read_text())
    offered = re.search(r"(?m)^  # PhysicalCopy:\n(?:  #   .*\n)+", file.read_text())
    assert offered is not None
    assert {name: part.get("table") for name, part in drafted["tables"].items()} == {
        "RawDataPackage": "Recordings", "ExecutedObsUnit": "Sessions", "InstrumentModule": "Stations",
        "ObservingProgram": "Campaigns", "DataLocation": None,
    }  # fmt: skip
    told = cli("--site", site, "db", "check")
    assert told.code == 3 and "RawDataPackage.state is never 'archived'; say by `values" in told.out
    refused = cli("--site", site, "cycle")
    assert refused.code == 3 and "never 'archived'" in refused.err

    tables = drafted["tables"]
    tables["RawDataPackage"]["values"] = {"state": {"transferring": 1, "archived": 2}}
    tables["Campaign"] = tables.pop("ObservingProgram")
    tables |= yaml.safe_load(offered[0].replace("  # ", ""))
    tables["DataLocation"]["rows"] = [
        {"id": 1, "name": "store", "location_type": "long_term_archive", "storage_type": "disk", "base_path": str(store)},
        {"id": 2, "name": "local", "location_type": "processing", "storage_type": "disk"},
    ]
    drafted["edges"] = [{"left": "ExecutedObsUnit.CampaignId", "right": "Campaign.id"}]
    file.write_text(yaml.safe_dump(drafted))
    told = cli("--site", site, "db", "check")
    assert told.code == 0, told.out
    assert 'CREATE INDEX CONCURRENTLY ON obs."Sessions" ("StartUtc");' in told.out

    (tmp_path / "pipelines.yaml").write_text(PIPELINE)
    assert cli("--site", site, "apply", tmp_path / "pipelines.yaml").code == 0
    shown = cli("--site", site, "groupings", "show", "flares", "--json").json["grouping"]
    assert [(row["packages"], row["archived"]) for row in shown] == [(4, 2)]
    done = cli("--site", site, "cycle", "--until-idle")
    assert done.code == 0, done.out + done.err
    found = cli("--site", site, "products", "--json").json["products"]
    assert sorted(row["sub_group"] for row in found) == [
        "obs_date=2026-05-31+module=north", "obs_date=2026-05-31+module=south",
    ]  # fmt: skip
    assert theirs.dump() == before
