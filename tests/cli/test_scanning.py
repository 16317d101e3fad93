"""`ccatwm ingest --scan` as it is typed: what goes together, exit codes, JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick
PATTERN = ("--pattern", "{source}/{scan}.fits")


@pytest.fixture
def archive(cli: Cli) -> Path:
    assert cli("init").code == 0
    folder = Path("archive")
    (folder / "M83").mkdir(parents=True)
    (folder / "M83" / "1.fits").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.yaml", "--scan", "archive", *PATTERN), "both files and --scan"),
        (("--scan", "archive"), "--scan needs --pattern"),
        (("a.yaml", "--checksum", "--set", "a=b"), "--set, --checksum without --scan"),
        ((), "no file to ingest"),
        (("--scan", "nowhere", *PATTERN), "--scan nowhere: is not there"),
        (("--scan", "archive", "--pattern", "{scan}.dat"), "nearest is M83/"),
    ],
)
def test_what_does_not_go_together_is_said(cli: Cli, archive: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = cli("ingest", *arguments)
    assert (answer.code, said in answer.err) == (2, True), answer.err


def test_a_scan_tells_scripts_what_it_found(cli: Cli, archive: Path) -> None:
    document = cli("ingest", "--scan", archive, *PATTERN, "--set", "instrument=CHAI", "--json").json
    assert document["schema"] == "ccatwm.ingest/1"
    assert document["ingest"]["raw_data_package"] == {"new": 1, "changed": 0, "unchanged": 0}
    assert document["scan"]["packages"] == 1 and document["scan"]["dir"] == str(archive.resolve())
    assert cli("ingest", "--scan", archive, *PATTERN, "-q").out == ""


def test_help_has_an_example(cli: Cli) -> None:
    assert "ccatwm ingest --scan DIR --pattern '{source}/{obs_date}/{scan}.fits'" in cli("ingest", "--help").out
