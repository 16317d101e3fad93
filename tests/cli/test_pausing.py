"""`ccatwm pause` and `resume`, as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick


@pytest.fixture
def site(cli: Cli, tmp_path: Path) -> Path:
    assert cli("init", tmp_path / "site").code == 0
    return tmp_path / "site"


def test_passes_stand_still_between_pause_and_resume(cli: Cli, site: Path) -> None:
    assert cli("--site", site, "pause").code == 2
    document = cli("--site", site, "pause", "--wait", "--reason", "upgrade", "--json").json
    assert document == {"schema": "ccatwm.pause/1", "before": None, "changed": True, "at_work": []}
    cycle = cli("--site", site, "cycle", "--json")
    assert (cycle.code, {p["skipped"] for p in cycle.json["passes"]}) == (0, {"paused"})
    assert cli("--site", site, "cycle", "--until-idle").code == 0
    status = cli("--site", site, "status", "--json").json
    assert (status["paused"], status["next"][0]) == ("upgrade", "ccatwm resume")
    assert status["paused_by"] and status["paused_at"]
    assert "all passes were paused before: upgrade" in cli("--site", site, "pause", "--reason", "again").out
    assert "they were paused: upgrade" in cli("--site", site, "resume").out
    assert "passes were not paused" in cli("--site", site, "resume").out
    assert {p["skipped"] for p in cli("--site", site, "cycle", "--json").json["passes"]} == {None}
