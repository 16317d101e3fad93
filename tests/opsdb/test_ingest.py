"""What an ingest writes, in which transactions, and what it refuses before it writes anything, on both databases."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.errors import DefinitionsError, UsageError
from ccatwm.upkeep import ingest as module
from ccatwm.upkeep.ingest import ingest_files

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2026, 3, 2, tzinfo=UTC)
MD5 = "md5:" + "a0" * 16


@pytest.fixture
def ingest(database, tmp_path):
    def run(*contents, now=NOW, **options):
        """Each text is a YAML file, each list a file of JSON Lines."""
        paths = []
        for n, content in enumerate(contents):
            lines = isinstance(content, list)
            paths.append(tmp_path / f"{n}.{'jsonl' if lines else 'yaml'}")
            text = "".join(json.dumps(line) + "\n" for line in content) if lines else content
            paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        return ingest_files(database, paths, now=now, actor="me", host="h", **options)

    return run


@pytest.fixture
def mistakes(ingest, rows):
    def find(*contents):
        with pytest.raises(DefinitionsError) as caught:
            ingest(*contents)
        assert rows(t.raw_data_package.c.id) == rows(t.change_log.c.id) == []
        return [f"{p.where.rpartition('/')[2]}: {p.what}; {p.next}" for p in caught.value.problems]

    return find


@pytest.fixture
def rows(database):
    def read(*columns):
        with database.read() as connection:
            found = connection.execute(sa.select(*columns).order_by(columns[0].table.c.id)).all()
        return [row[0] for row in found] if len(columns) == 1 else [tuple(row) for row in found]

    return read


def package(name="p", **values):
    return {"kind": "raw_data_package", "name": name, **values}


def place(name="archive", **values):
    return {"kind": "data_location", "name": name, "location_type": "long_term_archive", **values}


def test_parents_that_are_only_named_are_made(ingest, rows):
    ingest(
        [
            {"kind": "executed_obs_unit", "name": "s1", "obs_unit": "u"},
            {"kind": "obs_unit", "name": "u", "source": "NGC253", "observing_program": "GEco"},
            package(executed_obs_unit="s1", instrument_module="CHAI/LFA"),
        ]
    )
    assert rows(t.source.c.name, t.source.c.kind) == [("NGC253", "fixed")]
    assert rows(t.observing_program.c.short_name) == ["GEco"]
    assert rows(t.instrument.c.name) == ["CHAI"]
    assert None not in rows(t.raw_data_package.c.instrument_module_id)


def test_what_was_made_from_its_name_alone_is_told(ingest):
    lines = [
        {"kind": "executed_obs_unit", "name": "s1", "obs_unit": "mistyped"},
        {"kind": "executed_obs_unit", "name": "s2", "obs_unit": "u"},
        {"kind": "obs_unit", "name": "u", "source": "NGC253"},
    ]
    report = ingest(lines)
    assert report.to_json()["named_only"] == {"source": ["NGC253"], "obs_unit": ["mistyped"]}
    assert "made from the name only: obs unit mistyped" in report.lines()
    assert ingest(lines).to_json()["named_only"] == {}


def test_mistakes_stand_as_in_the_files(mistakes):
    bad = package(copies=[{"location": "nowhere", "path": "x.tar"}])
    found = mistakes([bad, package("q", size_bytes=-1)], [package("r", state="gone")])
    assert [line.split(": ")[0] for line in found] == ["0.jsonl:1", "0.jsonl:2", "1.jsonl:1"]


def test_definitions_are_for_apply(mistakes):
    (found,) = mistakes("pipelines: []")
    assert "`ccatwm apply FILE`" in found


def test_the_chain_from_observatory_to_module_is_written(ingest, rows):
    ingest(
        """
observatories: [{name: CCAT}]
telescopes: [{name: FYST, observatory: CCAT, longitude_deg: -67.7, latitude_deg: -22.99, altitude_m: 5612}]
instruments: [{name: CHAI, telescope: FYST, instrument_type: heterodyne}]
instrument_modules: [{name: LFA, instrument: CHAI, pixels: 64, frequency_ghz: 461.04}]
observing_programs: [{short_name: GEco, name: Galactic Ecology}]
"""
    )
    assert rows(t.telescope.c.altitude_m) == [5612.0]
    assert rows(t.instrument_module.c.pixels, t.instrument_module.c.frequency_ghz) == [(64, 461.04)]


def test_a_package_has_its_files_copies_and_metadata(ingest, rows):
    files = [{"name": "a.fits", "size_bytes": 5, "checksum": f"SHA256:{'AB' * 32}"}]
    ingest(
        [package(location="archive", path="p.tar", files=files, metadata={"a": 1}, weather=[0.5]), place()]
    )
    assert rows(t.physical_copy.c.path, t.physical_copy.c.status) == [("p.tar", "present")]
    assert rows(t.raw_data_file.c.name, t.raw_data_file.c.checksum) == [("a.fits", f"sha256:{'ab' * 32}")]
    assert rows(t.raw_data_package_metadata.c.data) == [{"a": 1, "weather": [0.5]}]
    assert rows(t.raw_data_package.c.state) == ["archived"]


def test_only_what_a_row_names_is_changed(ingest, rows):
    ingest([package(size_bytes=5, state="waiting")])
    ingest([package(checksum=MD5)], now=LATER)
    columns = t.raw_data_package.c
    assert rows(columns.size_bytes, columns.state, columns.checksum, columns.updated_at) == [
        (5, "waiting", MD5, LATER)
    ]


def test_times_are_compared_as_times(ingest):
    unit = {"kind": "executed_obs_unit", "name": "s"}
    ingest([unit | {"start_time": "2026-03-01T01:00:00Z"}])
    assert ingest([unit | {"start_time": "2026-03-01T02:00:00+01:00"}], now=LATER).written == 0


def test_a_name_written_as_a_number_keeps_its_digits(ingest, rows):
    ingest("raw_data_packages: [{name: 0012}, {name: 1.10}, {name: 2026-03-01}]")
    assert rows(t.raw_data_package.c.name) == ["0012", "1.10", "2026-03-01"]


def test_a_location_may_stand_after_the_packages_that_lie_there(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 2)
    ingest([*(package(f"p{n}", location="archive", path=f"p{n}") for n in range(5)), place()])
    assert len(rows(t.physical_copy.c.id)) == 5


def test_a_module_may_be_named_bare_before_its_instrument_is_said(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 1)
    ingest([package("p1", instrument_module="LFA"), package("p2", instrument_module="CHAI/LFA")])
    assert len(set(rows(t.raw_data_package.c.instrument_module_id))) == 1


def test_an_unknown_location_is_told_before_anything_is_written(mistakes, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 1)
    lines = [place(), package("p1"), package("p2", location="archiv", path="p")]
    assert mistakes(lines) == ["0.jsonl:3: unknown data location 'archiv'; did you mean archive?"]


def test_a_module_of_several_instruments_is_told_before_anything_is_written(mistakes):
    (said,) = mistakes(
        [
            package("p1", instrument_module="LFA"),
            package("p2", instrument_module="CHAI/LFA"),
            package("p3", instrument_module="OTHER/LFA"),
        ]
    )
    assert "0.jsonl:1: module 'LFA' is of several instruments (CHAI, OTHER)" in said


def test_a_module_that_nobody_has_is_told(mistakes):
    (said,) = mistakes([package(instrument_module="LFA")])
    assert "of no known instrument" in said


def test_a_mistake_in_one_file_holds_back_the_others(mistakes):
    assert len(mistakes([package()], "raw_data_packages: [{state: archived}]")) == 1


def test_a_yaml_file_is_one_transaction(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 1)
    transactions = []
    write = module._write_kinds
    monkeypatch.setattr(module, "_write_kinds", lambda *a: (transactions.append(len(a[1])), write(*a)))
    ingest("raw_data_packages: [{name: a}, {name: b}, {name: c}]")
    assert transactions == [3]


def test_a_file_that_was_interrupted_is_completed_by_ingesting_it_again(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 2)
    lines = [package(f"p{n}") for n in range(5)]
    write, calls = module._write_kinds, []

    def fail_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(module, "_write_kinds", fail_third)
    with pytest.raises(KeyboardInterrupt):
        ingest(lines)
    assert len(rows(t.raw_data_package.c.id)) == 4
    report = ingest(lines, now=LATER)
    assert report.counts["raw_data_package"] == {"new": 1, "changed": 0, "unchanged": 4}


def test_a_dry_run_counts_and_writes_nothing(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 1)
    report = ingest([package(f"p{n}", executed_obs_unit="s") for n in range(3)], dry_run=True)
    assert report.counts["executed_obs_unit"] == {"new": 1, "changed": 0, "unchanged": 0}
    assert report.counts["raw_data_package"]["new"] == 3
    assert rows(t.raw_data_package.c.id) == rows(t.change_log.c.id) == []


def test_the_log_tells_who_ingested_which_file_once(ingest, rows, monkeypatch):
    monkeypatch.setattr(module, "LINES_PER_TRANSACTION", 2)
    lines = [package(f"p{n}") for n in range(5)]
    ingest(lines)
    ingest(lines, now=LATER)
    ((actor, act, details),) = rows(t.change_log.c.actor, t.change_log.c.act, t.change_log.c.details)
    assert (actor, act, details) == ("me", "ingest", {"objects": 5})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (package(size_bytes=-1), "whole number of bytes"),
        (package(size_bytes=2**63), "whole number of bytes"),
        (package(size_bytes=1.5), "whole number of bytes"),
        (package(note="a\0b"), "NUL"),
        (package(note={"deep": ["\ud800"]}), "no Unicode"),
        (package(note=float("nan")), "infinite or none"),
        (package(metadata={"x": float("inf")}), "infinite or none"),
        (package(checksum="whirlpool:abcd"), "one of sha256, sha512, sha1, md5, blake2b"),
        (package(files=[{"name": "a", "checksum": "sha256:abcd"}]), "sha256: and 64 hexadecimal digits (it has 4)"),
        (package(location="archive"), "stand together"),
        (package(location="archive", path="/data/p.tar"), "below the location's root"),
        (package(location="archive", path="a/../../p.tar"), "below the location's root"),
        (package(copies=[{"location": "archive", "path": "p", "status": "presnt"}]), "one of present"),
        (package(copies=["archive"]), "no mapping"),
        (package(files=[{"name": "a", "size": 1}]), "unknown key 'size'"),
        (package(instrument_module="CHAI/"), "INSTRUMENT/MODULE"),
        ({"kind": "source", "name": "s", "ra_deg": float("nan")}, "a number"),
        ({"kind": "source", "name": "s", "ra_deg": 10**400}, "a number"),
        ({"kind": "source", "name": "s", "source_kind": "solar_system_object", "naif_id": 2**40}, "31 bits"),
        ({"kind": "source", "name": ""}, "not empty"),
        ({"kind": "source", "name": "s", "ra_deg": 4000}, "a number from 0 to 360"),
        ({"kind": "source", "name": "s", "dec_deg": -500}, "a number from -90 to 90"),
        ({"kind": "source", "name": "s", "elevation_deg": -3}, "a number from 0 to 180"),
        ({"kind": "source", "name": "s", "azimuth_max_deg": 1e6}, "a number from -360 to 720"),
        ({"kind": "telescope", "name": "FYST", "latitude_deg": 91}, "a number from -90 to 90"),
        (
            {"kind": "instrument_module", "name": "LFA", "instrument": "CHAI", "pixels": -1},
            "a whole number of 0 or more",
        ),
        (
            {"kind": "executed_obs_unit", "name": "s", "start_time": "2026-03-01T02:00:00+01:00",
             "end_time": "2026-03-01T00:59:59Z"},
            "end_time 2026-03-01T00:59:59Z is before start_time 2026-03-01T01:00:00Z",
        ),
        ({"kind": "executed_obs_unit", "name": "s", "start_time": "0001-01-01T00:00:00+05:00"}, "a time"),
        ({"kind": "instrument_module", "name": "LFA"}, "without instrument"),
        (["raw_data_package"], "kind is None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_value_that_no_ops_db_or_pass_could_use_is_refused(mistakes, line, said):
    found = mistakes([line])
    assert any(said in text for text in found), found


def test_a_wrong_path_is_one_mistake(mistakes):
    assert len(mistakes([place(), package(location="archive", path="/data/p.tar")])) == 1


def test_an_end_that_comes_later_is_compared_with_the_start_that_is_known(ingest, mistakes):
    unit = {"kind": "executed_obs_unit", "name": "s"}
    ingest([{**unit, "start_time": "2026-03-01T01:00:00Z"}])
    with pytest.raises(DefinitionsError, match="is before start_time 2026-03-01T01:00:00Z"):
        ingest([{**unit, "end_time": "2026-03-01T00:00:00Z"}])
    assert ingest([{**unit, "end_time": "2026-03-01T01:10:00Z"}]).counts["executed_obs_unit"]["changed"] == 1


def test_two_different_statements_about_a_package_in_one_file_are_told_with_both_lines(mistakes):
    lines = [
        place(),
        package(location="archive", path="a.tar"),
        package("other"),
        package(location="archive", path="b.tar", state="failed"),
    ]
    assert mistakes(lines) == [
        "0.jsonl:4: package 'p' is said twice in this file, and differently; the other one is in line 2"
    ]


def test_the_same_statement_twice_is_no_mistake(ingest, rows):
    ingest([package(checksum=MD5.replace("a", "A"), note=1), package(note=1, checksum=MD5)])
    assert rows(t.raw_data_package.c.name) == ["p"]


def test_a_package_may_be_said_again_in_another_file(ingest, rows):
    ingest([package(state="transferring")], [package(state="archived")])
    assert rows(t.raw_data_package.c.state) == ["archived"]


def test_a_section_has_one_name(mistakes):
    assert "did you mean observatories" in mistakes("observatorys: []\n")[0]


@pytest.mark.parametrize("depth", [500, 1_000_000])
def test_a_line_nested_too_deep_is_refused(database, tmp_path, depth):
    path = tmp_path / "night.jsonl"
    path.write_text('{"kind": "raw_data_package", "name": "p", "note": ' + "[" * depth + "]" * depth + "}\n")
    with pytest.raises(DefinitionsError, match=r"night\.jsonl:1: .*(deep|levels)"):
        ingest_files(database, [path], now=NOW, actor="me")


def test_all_mistakes_of_a_file_are_told_at_once(mistakes):
    assert len(mistakes([package(state="x", size_bytes="y"), {"kind": "sauce"}, package(path="p")])) == 4


def test_only_the_first_fifty_mistakes_are_shown(mistakes):
    found = mistakes([{"kind": "sauce"}] * 60)
    assert len(found) == 51
    assert found[-1].startswith(": and 10 more")


def test_lines_that_are_not_utf8_are_named(database, tmp_path):
    path = tmp_path / "night.jsonl"
    path.write_bytes(b'{"kind": "source", "name": "a"}\n{"kind": "source", "name": "\xe4"}\n')
    with pytest.raises(DefinitionsError, match=r"night\.jsonl:2: is not UTF-8"):
        ingest_files(database, [path], now=NOW, actor="me")


def test_a_file_that_is_not_there_is_named(database, tmp_path):
    with pytest.raises(DefinitionsError, match=r"gone\.jsonl: cannot be read: No such file or directory; name a file"):
        ingest_files(database, [tmp_path / "gone.jsonl"], now=NOW, actor="me")


def test_a_folder_is_answered_with_how_folders_are_ingested(database, tmp_path):
    with pytest.raises(DefinitionsError, match=r"is a folder; .*`ccatwm ingest --scan DIR --pattern PATTERN`"):
        ingest_files(database, [tmp_path], now=NOW, actor="me")


@pytest.mark.parametrize("name", ["pipe", "/dev/null", "-"])
def test_what_cannot_be_read_twice_is_refused_with_what_to_do(database, tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    path = Path("-") if name == "-" else tmp_path / name
    with pytest.raises(DefinitionsError, match="read twice; write what comes from it to a file"):
        ingest_files(database, [path], now=NOW, actor="me")


def test_a_long_value_is_cut_in_the_message(mistakes):
    found = mistakes([package("n" * 5000), package(files=[{"name": "n" * 5000}]), {"kind": "k" * 5000}])
    assert len(found) == 3 and max(map(len, found)) < 400


def test_no_file_at_all_is_a_wrong_use(database):
    with pytest.raises(UsageError, match="no file"):
        ingest_files(database, [], now=NOW, actor="me")


@pytest.mark.parametrize("text", ["", "# nothing\n", "sources: []\n"])
def test_an_empty_file_is_nothing_to_ingest(ingest, text):
    assert ingest(text).lines() == ["nothing to ingest"]


@pytest.mark.parametrize(
    "text", ["- a\n", "sources: 5\n", "sauces: []\n", "sources: [5]\n", "sources: [{name: [a]}]\n"]
)
def test_yaml_of_another_shape_is_refused(mistakes, text):
    assert mistakes(text)[0].startswith("0.yaml:" if text != "- a\n" else "0.yaml: is no mapping")
