"""The map of somebody else's ops-db: read, refused with every mistake at once, and guessed."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from ccatwm.core.opsdb_guess import SeenColumn, SeenTable, draft_text, guess_tables, summary
from ccatwm.core.opsdb_map import OpsDbMap
from ccatwm.core.opsdb_map_file import MapFile, TablePart
from ccatwm.edges.opsdb.statements import identifier
from ccatwm.errors import SettingsError
from ccatwm.upkeep.opsdb_map import parse_map
from ccatwm.upkeep.schemas import json_schema

pytestmark = pytest.mark.quick

MAPS = sorted((Path(__file__).parents[1] / "foreign").glob("*.yaml"))


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.name)
def test_a_map_is_what_its_json_says_and_valid_by_the_published_schema(path: Path) -> None:
    mapped = parse_map(path).mapped
    assert OpsDbMap.from_json(mapped.to_json()) == mapped
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema("opsdb-map"))


def test_the_documented_map_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/use-an-existing-database.md").read_text()
    for text in re.findall(r"<!-- opsdb-map -->\n```yaml\n(.*?)```", page, re.DOTALL):
        (tmp_path / "opsdb-map.yaml").write_text(text)
        assert parse_map(tmp_path / "opsdb-map.yaml").mapped.tables["Night"].full_every_seconds == 3600


def test_every_key_that_may_be_written_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/opsdb-map.md").read_text()
    keys = {field.alias or name for part in (MapFile, TablePart) for name, field in part.model_fields.items()}
    assert keys <= set(re.findall(r"`([a-z_]+)`", page))


WRONG = """\
schema: obs
tabels: {}
tables:
  RawDataPackage:
    table: packages
    columns: {name: label, State: x}
    values: {state: {archived: A, failed: A}}
    fixed: {name: n, id: 1}
    full_every: soon
  Source: {}
  ObsUnit: {table: units, schema: ccatwm, key_type: number}
edges:
  - {left: RawDataPackage.night, right: Night.id}
  - {left: nothing, right: Source.id}
"""


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "opsdb-map.yaml"
    path.write_text(WRONG)
    with pytest.raises(SettingsError) as caught:
        parse_map(path)
    told = {(int(p.where.rpartition(":")[2]), p.what) for p in caught.value.problems}
    lines = [line for line, _ in told]
    assert sorted(lines) == [2, 6, 9, 10, 11, 14]
    assert any("no duration" in what for _, what in told) and any("names no table" in what for _, what in told)
    assert (14, "edges.1.left: 'nothing' is no column: write Table.column, with our name of the table") in told


def test_a_join_may_name_a_column_as_they_do(tmp_path: Path) -> None:
    path = tmp_path / "opsdb-map.yaml"
    tables = "tables: {RawDataPackage: {table: Files}, Night: {table: Nights}}\n"
    path.write_text(tables + "edges: [{left: RawDataPackage.NightId, right: 'Night.The Id'}]\n")
    edge = parse_map(path).mapped.edges[0]
    assert (edge.left, edge.left_column, edge.right, edge.right_column) == ("RawDataPackage", "NightId", "Night", "The Id")


def test_mistakes_between_parts_are_told_at_once(tmp_path: Path) -> None:
    right_in_itself = WRONG.replace("tabels: {}\n", "").replace(", State: x", "").replace("soon", "6h")
    right_in_itself = right_in_itself.replace("Source: {}", "Source: {table: s}").replace(", key_type: number", "")
    path = tmp_path / "opsdb-map.yaml"
    path.write_text(right_in_itself.replace("  - {left: nothing, right: Source.id}\n", ""))
    with pytest.raises(SettingsError) as caught:
        parse_map(path)
    told = "\n".join(map(str, caught.value.problems))
    assert "RawDataPackage.name is fixed and has a column" in told
    assert "RawDataPackage.id tells rows apart" in told
    assert "'A' stands for 'archived' and for 'failed'" in told
    assert "ccatwm holds ccatwm's own tables" in told
    assert "Night.id, a table that the map has not" in told


def test_a_map_without_packages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "opsdb-map.yaml"
    path.write_text("tables: {RawDataPackages: {table: p}}\n")
    with pytest.raises(SettingsError, match="RawDataPackage is missing") as caught:
        parse_map(path)
    assert "did you mean RawDataPackages?" in str(caught.value)


def seen(name: str, *columns: str, schema: str = "obs", **links: str) -> SeenTable:
    kinds = {name: SeenColumn("time" if name.endswith(("_at", "modified")) else "text", True) for name in columns}
    foreign = {column: (schema, *target.split(".")) for column, target in links.items()}
    return SeenTable(schema, name, kinds, columns[:1], foreign)  # type: ignore[arg-type]


def test_tables_are_guessed_by_names_columns_by_names_and_joins_by_keys() -> None:
    frames = seen("frames", "frame_no", "file_name", "expo", "md5sum", "modified_at", expo="exposures.no")
    decoy = seen("raw_data_package", "id", "remark", schema="public")
    found = guess_tables([seen("exposures", "no", "started_at"), seen("users", "id", "name"), frames])
    assert {name: guess.table.name for name, guess in found.items()} == {
        "RawDataPackage": "frames", "ExecutedObsUnit": "exposures",
    }  # fmt: skip
    assert found["RawDataPackage"].columns == {
        "name": "file_name", "checksum": "md5sum", "id": "frame_no", "executed_obs_unit_id": "expo",
    }  # fmt: skip
    assert found["RawDataPackage"].change_time == "modified_at"
    full = seen("raw_data_package", "id", "name", "state", "checksum")
    assert guess_tables([decoy, full])["RawDataPackage"].table is full


def test_the_draft_is_a_map_and_says_what_it_could_not_guess(tmp_path: Path) -> None:
    theirs = [seen("frames", "frame_no", "file_name"), seen("exposures", "no", "on"), seen("weather", "no", "wind #1")]
    found = guess_tables(theirs)
    path = tmp_path / "opsdb-map.yaml"
    path.write_text(draft_text(found, theirs, location="hpc"))
    assert path.read_text().endswith('under any name in capitals:\n  #   obs, weather: "no", "wind #1"\n')
    mapped = parse_map(path).mapped
    assert mapped.tables["RawDataPackage"].fixed == {"state": "archived"}
    assert mapped.tables["DataLocation"].rows == (
        {"name": "hpc", "location_type": "processing", "storage_type": "disk"},
    )
    told = summary(found)
    assert "RawDataPackage is obs.frames, perhaps" in told and "Source: no table was like it" in told


def test_an_identifier_is_quoted_where_sql_wants_it() -> None:
    assert [identifier(name) for name in ("plain_1", "Mixed", 'a"b', "1st")] == ["plain_1", '"Mixed"', '"a""b"', '"1st"']
