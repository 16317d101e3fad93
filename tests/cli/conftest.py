"""A ccatwm command line that runs inside the test."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import call_ccatwm


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]
MakeSite = Callable[[Path], None]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run `ccatwm ARGUMENT...` in an empty folder; what a person would see as a traceback is raised."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str | Path) -> Answer:
        result = call_ccatwm(*arguments)
        return Answer(result.exit_code, result.stdout, result.stderr)

    logger = logging.getLogger("ccatwm")  # a command sets up logging for its process, which here is everybody's
    before = logger.handlers[:], logger.level, logger.propagate
    yield run
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def make_site(cli: Cli, upgraded_sqlite: Path) -> MakeSite:
    """`ccatwm init FOLDER` where the tables are there already, as a copy: to make them is five sixths of its time."""

    def make(folder: Path) -> None:
        folder.mkdir()
        shutil.copy(upgraded_sqlite, folder / "opsdb.sqlite")
        assert cli("init", folder).code == 0

    return make
