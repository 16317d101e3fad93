"""`ccatwm backfill` as people type it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, MakeSite

pytestmark = pytest.mark.quick
PERIOD = ("--since", "2026-03-01", "--until", "2026-03-02")
PIPELINE = """
software: [{name: cal, versions: [{version: "1", command: ["true"]}]}]
data_groupings: [{name: all, filter_rules: [{table: Source, column: name, operator: not_null}]}]
pipelines:
  - name: otf
    data_grouping: all
    processing_location: local
    trigger: {type: MANUAL}
    steps: [{name: calibrate, software: cal, group_by: [raw_data_package]}]
"""


@pytest.fixture
def site(cli: Cli, make_site: MakeSite, tmp_path: Path) -> Path:
    make_site(tmp_path / "site")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    assert cli("--site", tmp_path / "site", "apply", tmp_path / "pipeline.yaml").code == 0
    return tmp_path / "site"


def test_a_backfill_is_begun_paused_resumed_and_cancelled(cli: Cli, site: Path) -> None:
    def backfill(*arguments: str) -> object:
        answer = cli("--site", site, "backfill", *arguments, "--json")
        assert answer.code == 0, answer.err
        return answer.json

    assert cli("--site", site, "backfill", "--list").out.startswith("there is no backfill")
    begun = backfill("otf", *PERIOD, "--limit-runs", "5", "--reason", "winter")
    assert (begun["backfill"], begun["priority"], begun["limit_runs"], begun["estimate"]["runs"]) == (1, -1, 5, 0)
    assert backfill("1", "--pause", "--reason", "wait")["state"] == "paused"
    (row,) = backfill("--list", "otf")["backfills"]
    assert (row["state"], row["state_reason"], row["left"]) == ("paused", "wait", 0)
    assert "backfill 1 of otf is paused: wait" in cli("--site", site, "status").out
    assert backfill("1", "--resume")["state"] == "open"
    assert backfill("1", "--cancel", "--reason", "enough")["taken_back"] == 0
    assert "cancelled" in cli("--site", site, "backfill", "--list", "1").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which pipeline?"),
        (("otf", *PERIOD), "say why"),
        (("off", *PERIOD, "--reason", "x"), "did you mean otf?"),
        (("otf", "--pause", "--reason", "x"), "'otf' is no number of a backfill"),
        (("7", "--pause", "--reason", "x"), "there is no backfill 7"),
        (("7", "--pause", "--cancel", "--reason", "x"), "say one of"),
        (("7", "--pause", "--since", "2d"), "begin a new backfill"),
    ],
)
def test_what_cannot_be_is_said_plainly(cli: Cli, site: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = cli("--site", site, "backfill", *arguments)
    assert (answer.code, said in answer.err) == (2, True), answer.err
