"""`ingest --scan`: packages from a folder, on both databases."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.core.digests import tree_digest
from ccatwm.edges.opsdb import tables as t
from ccatwm.errors import DefinitionsError, UsageError
from ccatwm.upkeep.ingest import ingest_files
from ccatwm.upkeep.scan import ScanRequest, scan_packages
from tests.fakes.progress import ToldProgress

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2026, 3, 2, tzinfo=UTC)
PLAIN = "{source}/{obs_date}/{scan}.fits"


def fits(*cards: str, data: bytes = b"", extension: tuple[str, ...] = ()) -> bytes:
    """A FITS file with these cards, its data and the header of an extension."""
    size = ["BITPIX  = 8", "NAXIS   = 1", f"NAXIS1  = {len(data)}"]
    parts = [_header("SIMPLE  = T", *size, *cards), data.ljust(-(-len(data) // 2880) * 2880, b"\0")]
    return b"".join(parts) + (_header("XTENSION= 'BINTABLE'", *extension) if extension else b"")


def _header(*cards: str) -> bytes:
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880).encode("latin-1")


@pytest.fixture
def raw(tmp_path):
    """A folder to scan; `write(path, content)` makes a file in it."""
    folder = tmp_path / "archive"

    def write(path, content=b"x"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        return folder / path

    write.folder = folder
    return write


@pytest.fixture
def scan(database, raw):
    progress = ToldProgress()

    def run(pattern=PLAIN, *, folder=None, now=NOW, dry_run=False, **request):
        asked = ScanRequest(folder or raw.folder, pattern, timezone="America/Santiago", **request)
        return scan_packages(database, asked, now=now, actor="me", host="h", dry_run=dry_run, progress=progress)

    run.told = lambda: [(bar.what, bar.total, bar.done) for bar in progress.bars]
    return run


@pytest.fixture
def rows(database):
    def read(*columns):
        with database.read() as connection:
            found = connection.execute(sa.select(*columns).order_by(columns[0].table.c.id)).all()
        return [row[0] for row in found] if len(columns) == 1 else [tuple(row) for row in found]

    return read


def kinds(report) -> dict[str, tuple[int, ...]]:
    return {kind: tuple(counts.values()) for kind, counts in report.ingest.counts.items()}


def test_paths_say_what_was_observed(raw, scan, rows):
    raw("NGC253/2026-03-01/0001.fits", b"abc")
    raw("Orion/20260302/0001.fits")
    report = scan()
    assert kinds(report)["raw_data_package"] == (2, 0, 0)
    packages = t.raw_data_package.c
    assert rows(packages.name, packages.size_bytes, packages.state) == [
        ("NGC253-2026-03-01-0001", 3, "archived"), ("Orion-20260302-0001", 1, "archived"),
    ]  # fmt: skip
    units = t.executed_obs_unit.c
    noon = datetime(2026, 3, 1, 15, tzinfo=UTC)  # of the observing night, in Chile
    assert rows(units.name, units.start_time, units.status)[0] == ("NGC253-2026-03-01-0001", noon, "completed")
    assert rows(t.source.c.name) == rows(t.obs_unit.c.name) == ["NGC253", "Orion"]
    assert rows(t.raw_data_package_metadata.c.data)[0] == {"obs_date": "2026-03-01", "scan": "0001"}
    assert rows(t.physical_copy.c.path)[0] == "NGC253/2026-03-01/0001.fits"
    assert rows(t.data_location.c.name, t.data_location.c.base_path) == [("archive", str(raw.folder))]


def test_the_same_scan_changes_nothing_and_logs_nothing(raw, scan, rows):
    raw("NGC253/2026-03-01/0001.fits")
    scan(checksum=True)
    again = scan(checksum=True, now=LATER)
    assert again.ingest.written == again.hashed == 0
    assert rows(t.change_log.c.act, t.change_log.c.target) == [("ingest", str(raw.folder))]


def test_a_dry_run_writes_nothing(raw, scan, rows):
    raw("NGC253/2026-03-01/0001.fits")
    report = scan(dry_run=True)
    assert kinds(report)["raw_data_package"] == (1, 0, 0) and "this would be ingested:" in report.lines()
    assert rows(t.raw_data_package.c.id) == rows(t.data_location.c.id) == rows(t.change_log.c.id) == []


def test_a_changed_file_changes_size_time_and_a_checksum_that_was_known(raw, scan, rows):
    path = raw("NGC253/2026-03-01/0001.fits", b"one")
    os.utime(path, (1.5e9, 1.5e9))
    scan(checksum=True)
    path.write_bytes(b"more")
    os.utime(path, (1.6e9, 1.6e9))
    report = scan(now=LATER)
    assert (report.hashed, kinds(report)["raw_data_package"]) == (1, (0, 1, 0))
    columns = t.raw_data_package.c
    expected = (4, f"sha256:{hashlib.sha256(b'more').hexdigest()}", datetime.fromtimestamp(1.6e9, UTC))
    assert rows(columns.size_bytes, columns.checksum, columns.created_at) == [expected]


def test_a_vanished_file_is_told_and_stays_known(raw, scan, rows):
    raw("NGC253/2026-03-01/0001.fits")
    gone = raw("NGC253/2026-03-01/0002.fits")
    scan()
    gone.unlink()
    report = scan(now=LATER)
    assert report.vanished == ["NGC253/2026-03-01/0002.fits"] and report.ingest.written == 0
    assert "vanished, still known to the ops-db: 1 (NGC253/2026-03-01/0002.fits)" in report.lines()
    assert len(rows(t.physical_copy.c.id)) == 2


def test_headers_say_the_source_the_time_and_metadata(raw, scan, rows):
    cards = ("OBJECT  = 'NGC 253 '", "DATE-OBS= '2026-03-02T01:00:00.5'", "EXPTIME = 12.5")
    raw("a/1.fits", fits(*cards, data=b"d" * 4000, extension=("DATE-END= '2026-03-02T01:10:00'", "BACKEND = 'LFA'")))
    raw("a/2.fits", gzip.compress(fits(*cards)))
    raw("a/3.fits", b"no FITS")
    wanted = ["OBJECT,DATE-OBS,DATE-END,EXPTIME", "BACKEND=instrument_module"]
    report = scan("{night}/{scan}.fits", fits_header=wanted, constants=["instrument=CHAI", "observer=me"])
    assert (report.plan.headless, report.plan.missing) == (1, {"DATE-END": 1, "BACKEND": 1})
    units = t.executed_obs_unit.c
    start, end = datetime(2026, 3, 2, 1, 0, 0, 500000, UTC), datetime(2026, 3, 2, 1, 10, tzinfo=UTC)
    assert rows(units.name, units.start_time, units.end_time) == [("1", start, end), ("2", start, None), ("3", None, None)]
    assert rows(t.source.c.name) == ["NGC 253"]
    assert set(rows(t.instrument_module.c.name)) == {"LFA", "CHAI"}
    said = {"night": "a", "scan": "1", "EXPTIME": 12.5, "observer": "me"}
    assert rows(t.raw_data_package_metadata.c.data)[0] == said
    assert scan.told() == [("FITS headers", 3, 3)]


def test_a_time_that_is_none_is_told_and_kept(raw, scan, rows):
    raw("1.fits", fits("DATE-OBS= 'last night'"))
    raw("2.fits", fits("DATE-OBS= '2026-03-02T01:00:00'", "TIMESYS = 'TAI'"))
    report = scan("{scan}.fits", fits_header=["DATE-OBS"])
    assert len(report.plan.untimely) == 2
    assert rows(t.executed_obs_unit.c.start_time) == [None, None]
    assert rows(t.raw_data_package_metadata.c.data)[0] == {"scan": "1", "DATE-OBS": "last night"}


def test_folders_and_tars_are_packages(raw, scan, rows):
    raw("s1/a.fits", fits("OBJECT  = 'M83'"))
    raw("s1/sub/b.dat", b"12345")
    with tarfile.open(raw.folder / "s2.tar", "w") as archive:
        archive.add(raw.folder / "s1" / "sub" / "b.dat", "b.dat")
    report = scan("{scan}", fits_header=["OBJECT"], checksum=True)
    columns = t.raw_data_package.c
    (name, size, checksum), (tar, _, _) = rows(columns.name, columns.size_bytes, columns.checksum)
    files = [(n.encode(), (raw.folder / "s1" / n).stat().st_size, (raw.folder / "s1" / n).read_bytes())
             for n in ("a.fits", "sub/b.dat")]  # fmt: skip
    digest = tree_digest((n, s, hashlib.sha256(content).hexdigest()) for n, s, content in files)
    assert (name, tar) == ("s1", "s2")
    assert (size, checksum) == (files[0][1] + 5, f"sha256:{digest}")
    assert rows(t.source.c.name) == ["M83"] and report.plan.headless == 1
    assert scan.told()[-1] == ("checksums", report.size_bytes, report.size_bytes)


def test_several_packages_of_one_scan_share_it(raw, scan, rows):
    for module in ("LFA", "HFA"):
        raw(f"CHAI/2026-03-01/7-{module}.fits")
    scan("{instrument}/{obs_date}/{scan}-{instrument_module}.fits")
    assert rows(t.executed_obs_unit.c.name) == ["2026-03-01-7"]
    assert rows(t.instrument.c.name) == ["CHAI"]
    assert len(set(rows(t.raw_data_package.c.instrument_module_id))) == 2


def test_what_does_not_match_is_counted_and_hidden_files_are_not(raw, scan):
    raw("NGC253/2026-03-01/0001.fits")
    raw("NGC253/2026-03-01/.0002.fits.part")
    raw("NGC253/calibration/x.fits")
    for n in range(7):
        raw(f"notes-{n}.txt")
    report = scan()
    assert report.other_count == 8
    first = "NGC253/calibration/, notes-0.txt, notes-1.txt, notes-2.txt, notes-3.txt"
    assert f"not matching: 8 ({first} and 3 more)" in report.lines()


def test_all_that_is_wrong_with_the_request_is_told_at_once(scan, tmp_path):
    with pytest.raises(UsageError) as caught:
        scan("{a}{b}/{c", folder=tmp_path / "absent", fits_header=["TOOLONGNAME"], constants=["x"])
    assert [p.where.partition(" ")[0] for p in caught.value.problems] == [
        "--pattern", "--pattern", "--fits-header", "--set", "--scan",
    ]  # fmt: skip


def test_where_nothing_matches_the_nearest_file_is_shown(raw, scan):
    raw("notes.txt")
    raw("NGC253/2026-03-01/0001.fit")
    with pytest.raises(UsageError) as caught:
        scan()
    [problem] = caught.value.problems
    assert str(problem) == "nearest is NGC253/2026-03-01/0001.fit: '0001.fit' has no '.fits' after {scan}"


def test_a_package_whose_name_is_known_from_elsewhere_is_refused(database, raw, scan, rows, tmp_path):
    raw("2026-03-01/0001.fits")
    scan("{obs_date}/{scan}.fits")
    other = tmp_path / "other"
    (other / "2026-03-01").mkdir(parents=True)
    (other / "2026-03-01" / "0001.fits").write_bytes(b"quite different")
    with pytest.raises(DefinitionsError) as caught:
        scan("{obs_date}/{scan}.fits", folder=other)
    assert "a package 2026-03-01-0001 is known already: 2026-03-01/0001.fits at archive" in str(caught.value)
    assert len(rows(t.physical_copy.c.id)) == 1


def test_contradictions_are_told_and_nothing_is_written(raw, scan, rows):
    raw("a/b-c.fits", fits("OBJECT  = 'M83'"))
    raw("a-b/c.fits")
    raw("x/1-LFA.fits", fits("OBJECT  = 'M31'"))
    raw("x/1-HFA.fits", fits("OBJECT  = 'M83'"))
    with pytest.raises(DefinitionsError) as caught:
        scan("{night}/{scan}-{part}.fits", fits_header=["OBJECT"])
    assert "source of 1 is M31, and in x/1-HFA.fits it is M83" in str(caught.value)
    with pytest.raises(DefinitionsError) as caught:
        scan("{night}/{file}.fits")
    assert "it would be the package a-b-c, as" in str(caught.value)
    assert rows(t.raw_data_package.c.id) == []


def test_a_known_location_around_the_folder_is_taken(database, raw, scan, rows, tmp_path):
    place = tmp_path / "places.yaml"
    place.write_text(
        f"data_locations:\n  - {{name: disk, location_type: source, base_path: '{raw.folder}'}}\n"
        "  - {name: archive, location_type: source, base_path: /elsewhere}\n"
    )
    ingest_files(database, [place], now=NOW, actor="me")
    raw("deep/2026-03-01/1.fits")
    scan("{obs_date}/{scan}.fits", folder=raw.folder / "deep")
    assert rows(t.physical_copy.c.path) == ["deep/2026-03-01/1.fits"]
    with pytest.raises(UsageError, match="does not lie in data location archive, which is /elsewhere"):
        scan("*/{obs_date}/{scan}.fits", location="archive")


def test_a_taken_name_of_a_location_gets_a_number(database, raw, scan, rows, tmp_path):
    place = tmp_path / "places.yaml"
    place.write_text("data_locations:\n  - {name: archive, location_type: source, base_path: /elsewhere}\n")
    ingest_files(database, [place], now=NOW, actor="me")
    raw("1.fits")
    assert [scan("{scan}.fits").location for _ in range(2)] == ["archive-2"] * 2


def test_what_people_said_of_a_scan_stays(database, raw, scan, rows, tmp_path):
    said = tmp_path / "said.yaml"
    said.write_text("executed_obs_units:\n  - {name: '1', status: aborted}\n")
    ingest_files(database, [said], now=NOW, actor="me")
    raw("1.fits")
    scan("{scan}.fits")
    assert rows(t.executed_obs_unit.c.status) == ["aborted"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_told_and_not_called_vanished(raw, scan):
    raw("a/1.fits")
    raw("b/1.fits")
    scan("{source}/{scan}.fits")
    (raw.folder / "b").chmod(0)
    try:
        report = scan("{source}/{scan}.fits")
    finally:
        (raw.folder / "b").chmod(0o755)
    assert (list(report.unread), report.vanished) == (["b"], [])


def test_links_to_folders_are_not_followed(raw, scan):
    raw("a/1.fits")
    (raw.folder / "b").symlink_to(raw.folder / "a")
    (raw.folder / "loop").symlink_to(Path("."))
    assert scan("{source}/{scan}.fits").packages == 1


def test_a_link_that_leads_out_of_the_location_is_told(raw, scan, tmp_path):
    raw("1.fits")
    (tmp_path / "outside.fits").write_bytes(b"x")
    (raw.folder / "2.fits").symlink_to(raw.folder / "1.fits")
    (raw.folder / "3.fits").symlink_to(tmp_path / "outside.fits")
    report = scan("{scan}.fits")
    assert (report.packages, list(report.unread)) == (2, ["3.fits"])
    why = f"a link that leads out of data location archive, to {tmp_path}/outside.fits"
    assert f"cannot be read: 3.fits: {why}" in report.lines()


def test_what_changed_gets_a_checksum_although_nobody_asked_for_one(raw, scan, rows):
    raw("1.fits", b"one")
    scan("{scan}.fits")
    assert rows(t.raw_data_package.c.checksum) == [None]
    raw("1.fits", b"three")
    assert scan("{scan}.fits", now=LATER).hashed == 1
    assert rows(t.raw_data_package.c.checksum) == [f"sha256:{hashlib.sha256(b'three').hexdigest()}"]


def test_a_copy_that_was_called_deleted_is_present_when_it_is_found(database, raw, scan, rows):
    raw("1.fits")
    scan("{scan}.fits")
    with database.write() as connection:
        connection.execute(sa.update(t.physical_copy).values(status="deleted"))
    scan("{scan}.fits")
    assert rows(t.physical_copy.c.status) == ["present"]


def test_a_name_that_is_no_text_is_left_out(raw, scan):
    raw("1.fits")
    with open(os.path.join(os.fsencode(raw.folder), b"\xff.fits"), "wb"):
        pass
    report = scan("{scan}.fits")
    assert (report.packages, report.others) == (1, ["%FF.fits"])
