"""The whole chain on a database that belongs to somebody else."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.core.selection import Selection
from ccatwm.errors import MissingRightError
from ccatwm.interfaces import PackageCopy
from ccatwm.upkeep.backfill import Asked, start_backfill
from ccatwm.views.explain import build_explain
from ccatwm.views.groupings import build_grouping
from ccatwm.views.lineage import build_lineage
from ccatwm.views.places import Places
from ccatwm.views.status import build_status
from tests.foreign.site import TheirDatabase, at, key, observe
from tests.passes.conftest import Observatory
from tests.passes.test_excluding import act, back, out

pytestmark = pytest.mark.postgres

SCAN_2 = f"executed_obs_unit={key('scan-2')}"


def members(site: Observatory, *rules: tuple[Any, ...], group_by: Any = ()) -> list[tuple[str, str]]:
    """(package, key) that rules select now."""
    named = [dict(zip(("table", "column", "operator", "value", "json_path"), rule, strict=False)) for rule in rules]
    context = site.context()
    with context.database.read() as connection:
        found = context.grouping.members(connection, named, list(group_by), now=context.clock.now())
    return sorted((package.package_name, package.key) for package in found)


def problems(site: Observatory, **rule: Any) -> list[str]:
    return [str(problem) for problem in site.context().grouping.check([rule], [])]


def test_runs_are_made_staged_executed_and_collected_and_nothing_of_theirs_is_changed(
    site: Observatory, theirs: TheirDatabase
) -> None:
    before = theirs.dump()
    site.until_quiet()
    assert [(r["step_name"], r["status"]) for r in site.runs()] == [
        ("calibrate", "COMPLETED"), ("calibrate", "COMPLETED"), ("grid", "COMPLETED"),
    ]  # fmt: skip
    keys = {g["key"] for g in site.rows("sub_group")}
    assert keys == {f"executed_obs_unit={key('scan-1')}", SCAN_2, "all"}
    identities = {i["identity"] for i in site.rows("run_input") if i["kind"] == "package"}
    assert identities == {key("package-1"), key("package-2")}
    site.run_pass("trigger", full=True)
    site.until_quiet()
    assert len(site.runs()) == 3
    assert theirs.dump() == before


def test_nothing_of_theirs_could_be_written(site: Observatory) -> None:
    for statement in ("UPDATE ops.target SET annotations = ''", "CREATE TABLE ops.mine (n int)",
                      "INSERT INTO ops.site VALUES (2, 'there')", "DELETE FROM public.pipeline"):  # fmt: skip
        with pytest.raises(MissingRightError), site.context().database.write() as connection:
            connection.execute(sa.text(statement))


def test_a_corrupt_copy_is_told_and_the_next_taken(site: Observatory) -> None:
    site.until_quiet()
    assert [(r["location"], r["finding"]) for r in site.rows("copy_report")] == [("buffer", "corrupt")]


def test_late_changed_and_withdrawn_data_are_found(site: Observatory, theirs: TheirDatabase) -> None:
    site.until_quiet()
    observe(theirs, site.folder, [3], minute=site.minute)
    site.until_quiet()
    assert len(site.runs("calibrate")) == 3 and len(site.runs("grid")) == 2
    theirs.execute(f"UPDATE ops.raw_data_package SET lifecycle = 'FAILED', changed = '{at(site.minute)}' "
                   f"WHERE label = 'scan-3-LFA'")  # fmt: skip
    site.until_quiet()
    first = min(site.runs("grid"), key=lambda run: run["id"])
    assert site.sub_group("grid")["current_run_id"] == first["id"], "without the third scan the first map holds again"
    assert site.sub_group("calibrate", f"executed_obs_unit={key('scan-3')}")["outcome"] == "no-inputs"


def test_a_change_of_a_table_that_tells_none_is_found_within_its_time(site: Observatory, theirs: TheirDatabase) -> None:
    site.until_quiet()
    quiet = len(site.rows("trigger_event"))
    site.minute += 60
    site.until_quiet()
    assert len(site.rows("trigger_event")) == quiet, "what is as it was makes nobody look"
    theirs.execute("UPDATE ops.target SET target_name = 'NGC 253'")
    site.cycle()
    assert site.sub_group("grid")["outcome"] == "up-to-date", "half an hour has not passed"
    site.minute += 31
    site.until_quiet()
    assert {g["outcome"] for g in site.rows("sub_group")} == {"no-inputs"}
    theirs.execute("UPDATE ops.target SET target_name = 'NGC253'")
    site.minute += 31
    site.until_quiet()
    assert site.sub_group("grid")["stale"] is None
    assert len(site.runs()) == 3, "the products are there still"


def test_rules_name_whatever_column_is_there(site: Observatory) -> None:
    both = [("scan-1-LFA", "all"), ("scan-2-LFA", "all")]
    assert members(site, ("RawDataPackage", "shift_leader", "eq", "Ada")) == both
    assert members(site, ("ObsUnit", "tiling", "eq", "{1,2}")) == both
    assert members(site, ("ExecutedObsUnit", "pwv_mm", "lt", 0.6)) == both
    assert members(site, ("RawDataPackage", "night", "between", ["2026-02-01", "2026-02-28"])) == both
    assert members(site, ("RawDataPackage", "night", "gt", "2026-02-28")) == []
    assert members(site, ("InstrumentModule", "name", "eq", "LFA"), group_by=["instrument_module"]) == [
        ("scan-1-LFA", "module=LFA"), ("scan-2-LFA", "module=LFA"),
    ]  # fmt: skip
    assert members(site, ("RawDataPackage", "metadata", "gt", 461.5, "observation.frequency_ghz")) == both[1:]
    assert members(site, ("ExecutedObsUnit", "start_time", "gte", "2026-03-01T01:30:00Z")) == both[1:]
    assert members(site, ("DataLocation", "storage_type", "eq", "disk")) == both
    assert members(site, ("DataLocation", "name", "eq", "buffer")) == both[1:]
    assert members(site, ("RawDataPackage", "checksum", "like", "sha256:%")) == both


def test_sizes_that_are_no_integers_there_are_integers_here(site: Observatory) -> None:
    context = site.context()
    with context.database.read() as connection:
        sizes = [g.size_bytes for g in context.grouping.members(connection, [], [], now=context.clock.now())]
    assert [type(size) for size in sizes] == [int, int]
    start_backfill(context.database, context.grouping, Asked("otf", "2026-03-01", "2026-03-02"), act(site))


def test_words_are_ours_or_theirs(site: Observatory) -> None:
    both = [("scan-1-LFA", "all"), ("scan-2-LFA", "all")]
    for operator, value in (("eq", "archived"), ("eq", "ARCHIVED"), ("in", ["archived", "nothing"]), ("like", "ARCH%"),
                            ("neq", "waiting"), ("not_in", ["waiting", "lost"]), ("gte", "archived")):  # fmt: skip
        assert members(site, ("RawDataPackage", "state", operator, value)) == both, (operator, value)
    assert members(site, ("RawDataPackage", "state", "eq", "never heard of")) == []
    by_kind = [{"name": "kind", "table": "Source", "column": "kind"}]
    assert members(site, ("Source", "kind", "eq", "fixed"), group_by=by_kind) == [
        ("scan-1-LFA", "kind=fixed"), ("scan-2-LFA", "kind=fixed"),
    ]  # fmt: skip
    assert members(site, ("RawDataPackage", "id", "eq", key("package-1"))) == both[:1]
    assert members(site, ("RawDataPackage", "id", "eq", "no uuid")) == []
    assert members(site, ("RawDataPackage", "id", "like", key("package-1")[:20] + "%")) == both[:1]


def test_wrong_rules_are_told_when_they_are_applied(site: Observatory) -> None:
    told = problems(site, table="RawDataPackage", column="secret_notes", operator="eq", value="x")
    assert "has no column 'secret_notes'" in told[0]
    told = problems(site, table="RawDataPackage", column="night", operator="eq", value="yesterday")
    assert "the column is a date" in told[0]
    told = problems(site, table="ObservingProgram", column="name", operator="eq", value="GEco")
    assert "unknown table" in told[0]


def test_excluding_and_including_go_by_keys_of_theirs(site: Observatory) -> None:
    site.until_quiet()
    out(site, "package:scan-2-LFA")
    site.until_quiet()
    assert site.sub_group("calibrate", SCAN_2)["outcome"] == "no-inputs"
    assert len(site.runs("grid")) == 2
    out(site, "module:CHAI/LFA@2026-03-01..2026-03-02")
    site.until_quiet()
    assert site.sub_group("grid")["outcome"] == "no-inputs"
    back(site, "module:CHAI/LFA@2026-03-01..2026-03-02", "package:scan-2-LFA")
    site.until_quiet()
    assert site.sub_group("grid")["stale"] is None and len(site.runs("grid")) == 2


def test_people_see_what_they_would_see_elsewhere(site: Observatory) -> None:
    site.until_quiet()
    context = site.context()
    now = context.clock.now()
    explained = build_explain(context.database, "otf", "calibrate", SCAN_2, now=now)["explain"]
    assert explained[0]["outcome"] == "up-to-date"
    base = PurePosixPath(context.settings.pipeline_base_dir)
    lineage = build_lineage(context.database, context.grouping, "package:scan-2-LFA", places=Places("local", base))
    assert lineage["package"]["ids"] == [key("package-2")] and lineage["package"]["state"] == "archived"
    assert [copy["location"] for copy in lineage["copies"]].count("buffer") == 1
    shown = build_grouping(context.database, context.grouping, "ngc253", ["source"], now=now)
    assert [row["sub_group"] for row in shown["grouping"]] == ["source=NGC253"]
    status = build_status(context.database, context.grouping, Selection(), now=now)["status"]
    assert [row["step"] for row in status] == ["calibrate", "grid"]


def test_a_location_of_two_words_of_theirs_is_one_kind(site: Observatory) -> None:
    context = site.context()
    with context.database.read() as connection:
        known = {place.name: place.storage_type for place in context.grouping.locations(connection)}
        copies = context.grouping.copies(connection, [key("package-2"), "no uuid"])
    assert known == {"raw": "disk", "buffer": "disk", "local": "disk", "vault": "s3"}
    assert [type(copy) for copy in copies[key("package-2")]] == [PackageCopy] * 2


def test_the_map_is_checked_once_and_read_anew_when_it_changes(site: Observatory) -> None:
    site.cycle()
    kept = site.folder / "state" / "opsdb-map.json"
    assert kept.is_file()
    text = (site.settings_changes["opsdb_map"]).read_text()
    other = site.folder / "map.yaml"
    other.write_text(text.replace("name: target_name", "name: annotations"))
    site.settings_changes["opsdb_map"] = other
    assert members(site, ("Source", "name", "eq", "nearby")) != []
    kept.write_text("{}")
    assert members(site, ("Source", "name", "eq", "nearby")) != []


def test_the_grants_of_roles_name_what_is_read_of_theirs(site: Observatory) -> None:
    relations = site.context().grouping.relations()
    assert len(relations) > 5
    with site.context().database.read() as connection:
        for schema, name in relations:
            shown = ".".join(f'"{part}"' for part in (schema, name) if part is not None)
            assert connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": shown}).scalar() is not None
