"""What a data grouping selects, looked at before any pipeline."""

from __future__ import annotations

import pytest

from ccatwm.errors import DefinitionsError, UsageError
from ccatwm.views.groupings import build_grouping, list_groupings, total_line
from tests.crash.campaign import write_campaign


@pytest.fixture
def only_grouping(empty_observatory):
    write_campaign(empty_observatory.folder)
    empty_observatory.arrive("night.yaml")
    whole = (empty_observatory.folder / "pipeline.yaml").read_text()
    (empty_observatory.folder / "grouping.yaml").write_text(whole.partition("pipelines:")[0])
    empty_observatory.apply("grouping.yaml")
    return empty_observatory


def build(observatory, *group_by, name="ngc253", **options):
    context = observatory.context()
    now = context.clock.now()
    return build_grouping(context.database, context.grouping, name, group_by, now=now, **options)


def test_a_grouping_is_shown_by_sub_group_before_any_pipeline(only_grouping):
    document = build(only_grouping, "executed_obs_unit", "instrument_module")
    keys = [row["sub_group"] for row in document["grouping"]]
    assert keys == ["executed_obs_unit=1+module=LFA", "executed_obs_unit=2+module=LFA"]
    first = document["grouping"][0]
    assert (first["packages"], first["archived"], first["first"]) == (1, 1, "2026-03-01T01:00:00Z")
    assert first["size"] > 0
    (all_of_it,) = build(only_grouping)["grouping"]
    assert (all_of_it["sub_group"], all_of_it["packages"]) == ("all", 2)


def test_numbers_in_keys_are_ordered_by_their_value(only_grouping):
    only_grouping.execute("UPDATE raw_data_package SET name = 'scan-10' WHERE name = 'scan-1-LFA'")
    keys = [row["sub_group"] for row in build(only_grouping, "raw_data_package", limit=1)["grouping"]]
    assert keys == ["raw_data_package=scan-2-LFA"]


def test_what_is_on_its_way_is_counted_apart(only_grouping):
    only_grouping.execute("UPDATE raw_data_package SET state = 'transferring' WHERE name = 'scan-2-LFA'")
    (row,) = build(only_grouping)["grouping"]
    assert (row["packages"], row["archived"], row["states"]) == (2, 1, {"archived": 1, "transferring": 1})


def test_a_limit_says_that_there_is_more(only_grouping):
    document = build(only_grouping, "raw_data_package", limit=1)
    assert len(document["grouping"]) == 1
    assert "2 sub-groups (the first 1 are shown" in total_line(document)


def test_what_is_not_there_is_said(only_grouping):
    with pytest.raises(UsageError, match="no data grouping 'ngc254'"):
        build(only_grouping, name="ngc254")
    with pytest.raises(DefinitionsError):
        build(only_grouping, "moon")
    (row,) = list_groupings(only_grouping.context().database)["groupings"]
    assert (row["name"], row["steps"]) == ("ngc253", 0)
