"""The chain on the database of a quite different observatory: nights, exposures and frames of an optical telescope."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccatwm.settings.schema import LocationSettings
from tests.foreign.site import TheirDatabase, at, make_site, their_database
from tests.opsdb.databases import PostgresServer
from tests.passes.conftest import Observatory

pytestmark = pytest.mark.postgres

PIPELINE = """
software:
  - {name: coadd, versions: [{version: 1.0.0, command: [coadd]}]}
data_groupings:
  - name: deep-g
    filter_rules:
      - {table: Field, column: survey, operator: eq, value: deep}
      - {table: ExecutedObsUnit, column: filter, operator: eq, value: g}
      - {table: Night, column: seeing_arcsec, operator: lt, value: 1.5}
      - {table: InstrumentModule, column: works, operator: eq, value: true}
pipelines:
  - name: deep
    data_grouping: deep-g
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: calibrate, software: coadd, group_by: [{name: night, table: Night, column: date}]}
      - {name: stack, software: coadd, group_by: [{name: field, table: Field, column: field_code}], depends_on: [calibrate]}
"""


@pytest.fixture
def theirs(postgresql_server: PostgresServer) -> Iterator[TheirDatabase]:
    with their_database(postgresql_server, "telescope.sql", "mosaic") as made:
        yield made


def expose(theirs: TheirDatabase, vault: Path, exposure: int, night: int, filter_name: str, minute: int = 0) -> None:
    """One exposure on two detectors; the second does not work."""
    theirs.execute(
        "INSERT INTO mosaic.exposures VALUES (:n, :night, 'M31-1', :filter, :opened, 90, 1, :now)",
        [{"n": exposure, "night": night, "filter": filter_name, "opened": at(-60), "now": at(minute)}],
    )
    for detector in (1, 2):
        name = f"exposure-{exposure}-{detector}.fits"
        (vault / name).write_bytes(f"frame {name}".encode() * 40)
        row = {"exposure": exposure, "detector": detector, "name": name, "now": at(minute),
               "md5": hashlib.md5((vault / name).read_bytes()).hexdigest()}  # fmt: skip
        theirs.execute(
            "INSERT INTO mosaic.frames (exposure_no, detector_no, file_name, md5, header, modified) "
            "VALUES (:exposure, :detector, :name, :md5, '{\"gain\": 1.5}', :now)",
            [row],
        )


@pytest.fixture
def site(theirs: TheirDatabase, tmp_path: Path) -> Observatory:
    folder = tmp_path / "world"
    for name in ("vault", "base", "state"):
        (folder / name).mkdir(parents=True)
    theirs.execute("INSERT INTO mosaic.nights VALUES (1, '2026-02-27', 'Ada', 0.9), (2, '2026-02-28', 'Ada', 1.1)")
    theirs.execute("INSERT INTO mosaic.fields VALUES ('M31-1', 'deep', '(1,2)')")
    theirs.execute("INSERT INTO mosaic.detectors VALUES (1, 'east', true), (2, 'west', false)")
    expose(theirs, folder / "vault", 1, 1, "g")
    expose(theirs, folder / "vault", 2, 2, "g")
    expose(theirs, folder / "vault", 3, 2, "r")
    made = make_site(theirs, folder, "telescope.yaml")
    made.settings_changes["locations"] = {"vault": LocationSettings(str(folder / "vault"))}
    (folder / "pipeline.yaml").write_text(PIPELINE)
    made.apply()
    return made


def test_nights_are_calibrated_and_fields_stacked(site: Observatory, theirs: TheirDatabase) -> None:
    before = theirs.dump()
    site.until_quiet()
    assert [(r["step_name"], r["sub_group_key"], r["status"]) for r in site.runs()] == [
        ("calibrate", "night=2026-02-27", "COMPLETED"),
        ("calibrate", "night=2026-02-28", "COMPLETED"),
        ("stack", "field=M31-1", "COMPLETED"),
    ]
    packages = sorted(i["name"] for i in site.rows("run_input") if i["kind"] == "package")
    assert packages == ["exposure-1-1.fits", "exposure-2-1.fits"]
    assert theirs.dump() == before


def test_what_a_person_corrects_in_a_table_without_change_time_is_found(site: Observatory, theirs: TheirDatabase) -> None:
    site.until_quiet()
    theirs.execute("UPDATE mosaic.nights SET seeing_arcsec = 2.0 WHERE night_no = 2")
    site.minute += 61
    site.until_quiet()
    assert site.sub_group("calibrate", "night=2026-02-28")["outcome"] == "no-inputs"
    expose(theirs, site.folder / "vault", 4, 1, "g", minute=site.minute)
    site.until_quiet()
    assert len(site.runs("calibrate")) == 3


def test_a_bad_detector_can_be_told_by_what_is_there(site: Observatory) -> None:
    context = site.context()
    wrong = context.grouping.check([{"table": "Night", "column": "moon", "operator": "eq", "value": 1}], [])
    assert wrong[0].next == "allowed: id, date, observer, seeing_arcsec, night_no"
    with context.database.read() as connection:
        rules = [{"table": "RawDataPackage", "column": "metadata", "json_path": "gain", "operator": "gt", "value": 1}]
        assert len(context.grouping.members(connection, rules, ["instrument_module"], now=context.clock.now())) == 6
        assert context.grouping.modules(connection) == []
