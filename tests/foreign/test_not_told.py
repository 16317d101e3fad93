"""What people ask for that the tables of others do not tell: they are told so, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccatwm.errors import UsageError
from ccatwm.upkeep.backfill import Asked, start_backfill
from ccatwm.upkeep.opsdb_check import check_observations
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli
from tests.foreign.site import TheirDatabase
from tests.foreign.test_telescope import site as site
from tests.foreign.test_telescope import theirs as theirs
from tests.passes.conftest import Observatory
from tests.passes.test_excluding import act, out

pytestmark = pytest.mark.postgres


def without_start_time(site: Observatory) -> None:
    text = site.settings_changes["opsdb_map"].read_text()
    other: Path = site.folder / "opsdb-map.yaml"
    other.write_text(text.replace("start_time: opened_at", "start_time: null"))
    site.settings_changes["opsdb_map"] = other


def notes(site: Observatory) -> str:
    context = site.context()
    return "\n".join(check_observations(context.settings, context.database).notes)


def test_a_unit_without_a_name_and_a_module_without_an_instrument_cannot_be_excluded(site: Observatory) -> None:
    with pytest.raises(UsageError, match="does not tell that: table ExecutedObsUnit has no column 'name'"):
        out(site, "unit:1")
    with pytest.raises(UsageError, match="does not tell that: unknown table 'Instrument'"):
        out(site, "module:WFI/east@2026-03-01..2026-03-02")
    assert "ExecutedObsUnit.name is not told: nothing to exclude as unit:NAME" in notes(site)
    assert "start_time" not in notes(site)


def test_a_backfill_needs_to_know_when_things_were_observed(site: Observatory) -> None:
    without_start_time(site)
    context = site.context()
    with pytest.raises(UsageError, match="does not tell when anything was observed") as caught:
        start_backfill(context.database, context.grouping, Asked("deep", "2026-03-01", "2026-03-02"), act(site))
    assert "opsdb-map.yaml" in str(caught.value.next)
    assert "no backfill" in notes(site)


def test_the_doctor_looks_at_the_tables_of_others(cli: Cli, theirs: TheirDatabase, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    assert cli("init", "--opsdb", theirs.reader_url, folder).code == 0
    found = {row["name"]: row for row in cli("--site", folder, "doctor", "--json").json["findings"]}
    assert (found["observation-tables"]["state"], found["processing-location"]["state"]) == ("warning", "ok")
    assert "mosaic.frames" in found["observation-tables"]["found"]
    theirs.give("REVOKE SELECT ON mosaic.exposures FROM ROLE")
    done = cli("--site", folder, "doctor", "--json")
    found = {row["name"]: row for row in done.json["findings"]}
    assert done.code == 3 and "mosaic.exposures" in found["observation-tables"]["found"]
    assert found["processing-location"]["state"] == "skipped"


def test_who_only_looks_sees_what_is_ours_though_theirs_are_not_as_the_map_says(
    cli: Cli, theirs: TheirDatabase, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    assert cli("init", "--opsdb", theirs.reader_url, folder).code == 0
    theirs.execute("ALTER TABLE mosaic.exposures RENAME TO shots")
    for command in (["runs"], ["products"], ["status"], ["groupings", "list"]):
        done = cli("--site", folder, *command)
        assert done.code == 0, done.err
    for command in (["cycle"], ["lineage", "package:exposure-1-1.fits"]):
        done = cli("--site", folder, *command)
        assert done.code == 3 and "there is no table mosaic.exposures" in done.err
