"""What a shell offers when somebody presses the tab key, asked of bash itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, MakeSite

DEFINITIONS = """
software:
  - {name: reduce, versions: [{version: 1.0.0, command: ["true"]}]}
data_groupings:
  - {name: all-data, filter_rules: [{table: RawDataPackage, column: name, operator: not_null}]}
pipelines:
  - name: maps
    data_grouping: all-data
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: calibrate, software: reduce, group_by: [raw_data_package]}
      - {name: grid, software: reduce, group_by: [], depends_on: [calibrate]}
"""


@pytest.fixture
def site(cli: Cli, make_site: MakeSite, tmp_path: Path) -> Path:
    """A site with one pipeline and two packages, decided on once."""
    folder = tmp_path / "site"
    make_site(folder)
    (tmp_path / "pipelines.yaml").write_text(DEFINITIONS)
    lines = [f"- {{name: scan-{n}, location: local, path: scan-{n}.fits}}" for n in (1, 2)]
    (tmp_path / "packages.yaml").write_text("\n".join(["raw_data_packages:", *lines]))
    assert cli("--site", folder, "ingest", tmp_path / "packages.yaml").code == 0
    assert cli("--site", folder, "apply", tmp_path / "pipelines.yaml").code == 0
    for name in ("trigger", "resolve"):
        assert cli("--site", folder, name).code == 0
    return folder


def offered(site: Path, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    typed = " ".join(["ccatwm", *(f'"{word}"' for word in words)])
    script = f"""
eval "$(ccatwm completion bash)"
COMP_WORDS=({typed}) COMP_CWORD={len(words)}
_ccatwm_completion ccatwm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "CCAT_WORKFLOW_MANAGER_SITE": str(site)}
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


OFFERED = [
    (["expl"], ["explain"]),
    (["explain", ""], ["maps"]),
    (["explain", "maps", ""], ["calibrate", "grid"]),
    (["explain", "maps", "grid", ""], ["all"]),
    (["runs", "--pipeline", "maps", "--step", "g"], ["grid"]),
    (["runs", "--status", "FA"], ["FAILED"]),
    (["runs", "--class", "out"], ["out-of-memory"]),
    (["hold", "maps/"], ["maps/calibrate", "maps/grid"]),
    (["hold", "maps/grid/"], ["maps/grid/all"]),
    (["show", ""], ["2", "1"]),
    (["groupings", "show", ""], ["all-data"]),
    (["explain", "nothing"], []),
]


def test_names_of_this_site_are_offered(site: Path) -> None:
    assert [(words, offered(site, *words)) for words, _ in OFFERED] == OFFERED


def test_without_a_site_commands_are_offered_and_nothing_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert offered(missing, "linea") == ["lineage"]
    assert offered(missing, "explain", "") == []


def test_a_shell_that_is_not_known_is_told_which_are(cli: Cli) -> None:
    answer = cli("completion", "tcsh")
    assert (answer.code, answer.out) == (2, "")
    assert "one of bash, zsh, fish" in answer.err
    assert all(cli("completion", shell).out.strip() for shell in ("bash", "zsh", "fish"))
