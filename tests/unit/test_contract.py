"""Verdicts of a contract check, of values alone; and FITS as it is summed."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest

from ccatwm.core import fits_sums
from ccatwm.core.checkup import Judgement
from ccatwm.core.contract import (
    POINTS,
    Case,
    FileSeen,
    Trial,
    exit_code,
    find_clock,
    judge_contract,
    list_differences,
)
from ccatwm.core.model import EntryKind, StepRole, TreeEntry

pytestmark = pytest.mark.quick
MAP = PurePosixPath("science/map.txt")
GOOD = Trial(
    0, seconds=2.0, entries=(TreeEntry(MAP, EntryKind.FILE, 3),), hashes={MAP: "ab"}, files={MAP: FileSeen("ab")},
    opened=frozenset({"config/manifest.json", "input/scan-1/raw"}),
)  # fmt: skip
LINK = TreeEntry(PurePosixPath("link"), EntryKind.SYMLINK, link_target="a")
CASE = Case(
    runtime="none", role=StepRole.FINAL, input_files={"scan-1": ("input/scan-1/raw",)}, made_up_input=False,
    home="/h/empty", compared="the run's folder", first=GOOD, second=GOOD, offline=GOOD, nonsense=Trial(1),
    ended=Trial(143, signal="TERM", end_seconds=0.1),
)  # fmt: skip


def states(case: Case) -> dict[str, str]:
    return {f.name: f.state.value for f in judge_contract(case)}


def test_a_program_that_keeps_the_contract_is_told_so_for_every_point() -> None:
    findings = judge_contract(CASE)
    assert [f.name for f in findings] == list(POINTS)
    assert {f.state for f in findings} == {Judgement.OK}
    assert exit_code(findings) == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (127, "/opt/reduce: 2: exec: nosuchtool: not found"),
        (126, ""),
        (2, "python3: can't open file '/no/such.py': [Errno 2] No such file or directory"),
    ],
)
def test_a_program_that_could_not_start_is_told_once_and_nothing_else_is_judged(code: int, said: str) -> None:
    folder = TreeEntry(PurePosixPath("science"), EntryKind.DIRECTORY)
    case = replace(CASE, first=Trial(code, stderr=said, entries=(folder,), opened=frozenset()))
    begun, *others = judge_contract(case)
    assert (begun.name, begun.state) == ("exit-code", Judgement.WRONG)
    assert "could not be started" in begun.found and said in begun.found and "correct the command" in (begun.next or "")
    assert [f.name for f in others] == list(POINTS[1:]) and {f.state for f in others} == {Judgement.SKIPPED}


def test_a_program_that_had_read_its_manifest_was_started() -> None:
    assert states(first(exit_code=127, stderr="sh: convert: not found"))["inputs"] == "ok"


def first(**changes: object) -> Case:
    return replace(CASE, first=replace(GOOD, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("point", "case"),
    [
        ("exit-code", first(exit_code=3, stderr="no gain\n")),
        ("exit-code", first(exit_code=75)),
        ("exit-code", first(timed_out=True)),
        ("inputs", first(opened=frozenset({"config/manifest.json"}))),
        ("products", first(entries=(), hashes={}, files={})),
        ("products-json", first(declaration=b"{")),
        ("products-json", first(declaration=b'{"products": [{"path": "science/gone"}]}')),
        ("product-types", first(entries=(TreeEntry(PurePosixPath("map"), EntryKind.FILE, 3),),
                                hashes={PurePosixPath("map"): "ab"})),
        ("product-types", first(entries=(*GOOD.entries, LINK))),
        ("writes", first(changed=("input/scan-1/raw (changed)",))),
        ("writes", first(exit_code=1, stderr="OSError: [Errno 30] Read-only file system: '/etc/x'\n")),
        ("home", first(exit_code=1, stderr="no file /h/empty/.rc\n")),
        ("network", replace(CASE, offline=Trial(1, stderr="no route"))),
        ("left-running", first(left=("sleep (pid 7)",))),
        ("source-date", first(files={MAP: FileSeen("ab", clock="2026-11-28T23:46")})),
        ("repeatable", replace(CASE, second=replace(GOOD, files={MAP: FileSeen("cd")}))),
        ("nonsense-input", replace(CASE, nonsense=GOOD)),
        ("nonsense-input", replace(CASE, nonsense=Trial(75))),
        ("term", replace(CASE, ended=Trial(137, signal="TERM", end_seconds=15.1))),
    ],
)  # fmt: skip
def test_what_breaks_a_point_is_told_with_how_to_mend_it(point: str, case: Case) -> None:
    finding = next(f for f in judge_contract(case) if f.name == point)
    assert finding.state is Judgement.WRONG and finding.next
    assert exit_code(judge_contract(case)) == 1


@pytest.mark.parametrize(
    ("point", "case"),
    [
        ("manifest", first(opened=None, unseen="files cannot be watched")),
        ("inputs", first(opened=None, unseen="files cannot be watched")),
        ("inputs", replace(CASE, input_files={"scan-1": ()})),
        ("network", replace(CASE, offline=None, why_not={"network": "it cannot be cut off"})),
        ("nonsense-input", replace(CASE, nonsense=None, why_not={"nonsense-input": "no input was given"})),
        ("repeatable", replace(CASE, second=None)),
        ("term", replace(CASE, ended=Trial(0))),
        ("home", first(exit_code=1, stderr="bad data")),
        ("nonsense-input", first(exit_code=1)),
    ],
)  # fmt: skip
def test_what_could_not_be_looked_at_is_told_with_its_reason(point: str, case: Case) -> None:
    finding = next(f for f in judge_contract(case) if f.name == point)
    assert finding.state is Judgement.SKIPPED
    assert finding.found.startswith("not checked, because ")


def test_a_program_that_ignores_its_manifest_is_warned() -> None:
    assert states(first(opened=frozenset({"input/scan-1/raw"})))["manifest"] == "warning"


def test_a_partial_exit_code_is_a_success() -> None:
    case = replace(first(exit_code=2), partial_exit_codes=(2,), second=replace(GOOD, exit_code=2))
    assert states(case)["exit-code"] == "ok" and states(case)["products"] == "ok"


def test_logs_may_differ_and_tell_times() -> None:
    log = PurePosixPath("logs/run.log")
    entries, hashes = (*GOOD.entries, TreeEntry(log, EntryKind.FILE, 1)), {MAP: "ab", log: "1"}
    one = replace(GOOD, entries=entries, hashes=hashes, files={**GOOD.files, log: FileSeen("1", clock="now")})
    two = replace(one, hashes={MAP: "ab", log: "2"}, files={**GOOD.files, log: FileSeen("2")})
    found = states(replace(CASE, first=one, second=two))
    assert (found["repeatable"], found["source-date"]) == ("ok", "ok")


def test_fits_files_are_compared_by_their_data_and_headers_are_told() -> None:
    one, two = FileSeen("a", (5,), {"DATE": "x", "CHECKSUM": "1"}), FileSeen("b", (5,), {"DATE": "y", "CHECKSUM": "2"})
    assert list_differences({MAP: one}, {MAP: replace(two, header=one.header)}) == []
    assert list_differences({MAP: one}, {MAP: two}) == [f"{MAP} (the same data, but other values of DATE)"]
    assert list_differences({MAP: one}, {MAP: replace(two, data_sums=(6,))}) == [f"{MAP} (DATASUM)"]


BEGUN = datetime(2026, 11, 28, 23, 46, 30, tzinfo=UTC)
CHILE = timezone(timedelta(hours=-3))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"DATE    = '2026-11-28T23:47:01'", "2026-11-28T23:47"),
        (b"made 2026-11-28 20:46", "2026-11-28 20:46"),
        (b"\x1f\x8b\x08\x00" + (int(BEGUN.timestamp()) + 5).to_bytes(4, "little"), "the time of gzip's header"),
        (b"DATE-OBS= '2026-11-28T22:00:00'", None),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", None),
    ],
)
def test_a_time_of_the_run_is_found_in_a_file(content: bytes, found: str | None) -> None:
    assert find_clock(content, BEGUN, BEGUN + timedelta(seconds=40), [UTC, CHILE]) == found


@pytest.mark.parametrize("extension", [False, True])
def test_data_sums_are_those_of_astropy(extension: bool) -> None:
    numpy = pytest.importorskip("numpy")
    fits = pytest.importorskip("astropy.io.fits")
    image = numpy.arange(1000, dtype=">f4").reshape(10, 100)
    parts = [fits.PrimaryHDU(None if extension else image)]
    if extension:
        column = fits.Column(name="X", format="PD()", array=numpy.array([[1.5], [2.5, 3.5]], dtype=object))
        parts += [fits.BinTableHDU.from_columns([column]), fits.ImageHDU(image.astype(">i2"))]
    file = io.BytesIO()
    fits.HDUList(parts).writeto(file, checksum=True)
    file.seek(0)
    expected = [int(part.header["DATASUM"]) for part in fits.open(file)]
    assert _sums(file.getvalue()) == expected


def _sums(content: bytes) -> list[int]:
    found, place = [], 0
    while place < len(content):
        cards, ended = [], False
        while not ended:
            new, ended = fits_sums.parse_cards(content[place : place + fits_sums.BLOCK_BYTES])
            cards += new
            place += fits_sums.BLOCK_BYTES
        size = fits_sums.data_bytes(cards)
        found.append(fits_sums.add_words(0, content[place : place + size]))
        place += size
    return found


def test_a_header_without_a_size_is_none() -> None:
    with pytest.raises(ValueError, match="no size"):
        fits_sums.data_bytes([("NAXIS", "1"), ("NAXIS1", "5")])
