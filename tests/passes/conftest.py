"""A small observatory in one process: real passes, a batch system of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ccatwm import wiring
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from tests.crash.campaign import program, write_campaign
from tests.crash.points import make_tables, sqlite_url
from tests.crash.rig import START, SteppingClock, World, define, ingest, rows
from tests.fakes.batch import FileBatch


@dataclass
class Observatory:
    """One site with its campaign; `run_pass` and `cycle` are what cron would do, one minute apart."""

    folder: Path
    url: str
    minute: int = 0
    program: Callable[[Path, dict], int] = program
    settings_changes: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def context(self, effects: Any = None) -> Context:
        effects = effects or PlainEffects()
        settings = replace(World(self.folder, self.url).settings(), **self.settings_changes)
        clock = SteppingClock(START + timedelta(minutes=self.minute))
        context = wiring.build_context(settings, actor="tester", effects=effects, clock=clock)
        context.make_scheduler = lambda: self.batch(effects)
        return context

    def batch(self, effects: Any = None) -> FileBatch:
        return FileBatch(self.folder / "batch", self.base, effects or PlainEffects())

    def arrive(self, name: str) -> None:
        self.minute += 1
        ingest(self.context(), [self.folder / name])

    def apply(self, name: str = "pipeline.yaml") -> None:
        self.minute += 1
        define(self.context(), self.folder / name)

    def edit(self, old: str, new: str) -> None:
        """Change the pipeline file and apply it."""
        path = self.folder / "pipeline.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.apply()

    def run_pass(self, name: str, **options: Any) -> PassReport:
        self.minute += 1
        return wiring.run_pass(name, self.context(), PassOptions(**options))

    def cycle(self) -> list[PassReport]:
        self.minute += 1
        return list(wiring.run_cycle(self.context(), PassOptions()))

    def jobs(self) -> int:
        return self.batch().run_jobs(self.program)

    def until_quiet(self, rounds: int = 20) -> None:
        for _ in range(rounds):
            reports = self.cycle()
            assert all(report.error is None for report in reports), [r.error for r in reports]
            if not self.jobs() and not any(report.changed for report in reports):
                return
        raise AssertionError("not quiet")

    def rows(self, table: str) -> list[dict]:
        return rows(self.url, table)

    def runs(self, step: str | None = None) -> list[dict]:
        return [r for r in self.rows("executed_reduction_step") if step in (None, r["step_name"])]

    def resolved(self, run: dict) -> dict:
        """What a run froze of its step."""
        return json.loads(run["resolved_step"])

    def sub_group(self, step: str, key: str | None = None) -> dict:
        ids = {s["id"] for s in self.rows("reduction_step") if s["name"] == step}
        return next(g for g in self.rows("sub_group") if g["step_id"] in ids and key in (None, g["key"]))


@pytest.fixture
def observatory(tmp_path: Path) -> Observatory:
    """The first night has been observed and the pipeline applied."""
    folder = tmp_path / "world"
    folder.mkdir()
    made = Observatory(folder, sqlite_url(folder))
    make_tables(made.url)
    write_campaign(folder)
    made.arrive("night.yaml")
    made.apply()
    return made
