"""Which indexes `ccatwm db check` asks the owner of the tables for."""

from __future__ import annotations

import pytest

from ccatwm.upkeep.opsdb_check import check_observations
from tests.foreign.site import TheirDatabase
from tests.passes.conftest import Observatory

pytestmark = pytest.mark.postgres

WITHOUT = """
ALTER TABLE ops.raw_data_package DROP CONSTRAINT raw_data_package_label_key;
ALTER TABLE ops.package_metadata DROP CONSTRAINT package_metadata_pkey;
DROP INDEX ops.raw_data_package_changed_idx;
DROP INDEX ops.executed_obs_unit_unit_uuid_idx
"""


def asked(site: Observatory) -> list[str]:
    context = site.context()
    asks = check_observations(context.settings, context.database).asks
    return sorted(text.removeprefix("CREATE INDEX CONCURRENTLY ON ops.").rstrip(";") for text in asks)


def test_they_are_those_that_passes_and_people_seek_by(site: Observatory, theirs: TheirDatabase) -> None:
    before = asked(site)
    theirs.execute(WITHOUT)
    assert sorted({*asked(site)} - {*before}) == [
        "executed_obs_unit (unit_uuid)", "package_metadata (uuid)", "raw_data_package (changed)",
        "raw_data_package (label)",
    ]  # fmt: skip
    assert {"executed_obs_unit (began)", "executed_obs_unit (label)"} <= {*before}


def test_what_was_asked_for_suffices(site: Observatory, theirs: TheirDatabase) -> None:
    theirs.execute(WITHOUT)
    for index in asked(site):
        theirs.execute(f"CREATE INDEX ON ops.{index}")
    assert asked(site) == []


def test_small_tables_that_stay_small_need_none(site: Observatory, theirs: TheirDatabase) -> None:
    """Nobody has counted their rows: PostgreSQL does that when some fifty have changed."""
    assert not [index for index in asked(site) if index.startswith(("instrument", "target", "data_location"))]
    theirs.execute(
        "INSERT INTO ops.instrument SELECT 'old ' || n, 'an instrument of long ago', now() FROM generate_series(1, 20000) n"
    )
    assert "instrument (changed)" in asked(site)
    theirs.execute("ANALYZE ops.raw_data_package")
    assert not [index for index in asked(site) if index.startswith("raw_data_package (")]


def test_a_column_of_a_joined_table_is_asked_for_there(site: Observatory) -> None:
    assert "physical_copy (loc_id)" in asked(site)
