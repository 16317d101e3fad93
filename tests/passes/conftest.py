"""A small observatory in one process: real passes, a batch system of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.opsdb.engine import POSTGRESQL_CONNECT
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.views.places import Places
from tests.crash.campaign import program, write_campaign
from tests.crash.rig import START, SteppingClock, World, define, ingest, rows
from tests.fakes.batch import FileBatch
from tests.opsdb.databases import BOTH, make_upgraded_url
from tests.statements import share_compiled


def as_json(value: Any) -> Any:
    """A JSON column: plain SQL gives text on SQLite, values on PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value


@dataclass
class Observatory:
    """One site with its campaign; `run_pass` and `cycle` are what cron would do, one minute apart."""

    folder: Path
    url: str
    minute: int = 0
    program: Callable[[Path, dict], int] = program
    backend: str = "fake"
    scripts: bool = False  # jobs are processes: the real job script, and the command that the pipeline names
    settings_changes: dict[str, Any] = field(default_factory=dict)
    kept: sa.Engine | None = None  # its connections serve every pass: a new one costs more than most passes

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def places(self) -> Places:
        return Places("local", PurePosixPath(self.base))

    def context(self, effects: Any = None) -> Context:
        effects = effects or PlainEffects()
        changes = {"stage_parallel": 4, **self.settings_changes}
        settings = replace(World(self.folder, self.url, self.backend).settings(), **changes)
        clock = SteppingClock(START + timedelta(minutes=self.minute))
        context = wiring.build_context(settings, actor="tester", effects=effects, clock=clock)
        share_compiled(context.database, self.kept)
        if self.backend == "fake":
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

    def make_runs(self) -> None:
        self.apply()
        self.run_pass("trigger")
        self.run_pass("resolve")

    def jobs(self) -> int:
        if self.scripts:
            return self.batch().run_scripts(1)
        return self.batch().run_jobs(self.program)

    def until_quiet(self, rounds: int = 20) -> list[PassReport]:
        """Cycles and jobs until nothing changes; what all passes reported."""
        kept: list[PassReport] = []
        for _ in range(rounds):
            reports = self.cycle()
            assert all(report.error is None for report in reports), [r.error for r in reports]
            kept += reports
            if not self.jobs() and not any(report.changed for report in reports):
                return kept
        raise AssertionError("not quiet")

    def rows(self, table: str) -> list[dict]:
        return rows(self.url, table)

    def runs(self, step: str | None = None) -> list[dict]:
        return [r for r in self.rows("executed_reduction_step") if step in (None, r["step_name"])]

    def resolved(self, run: dict) -> dict:
        """What a run froze of its step."""
        return as_json(run["resolved_step"])

    def execute(self, statement: str) -> None:
        """A change by plain SQL; `{schema}` before a table's name is what this database needs there."""
        database = self.context().database
        schema = "ccatwm." if database.dialect == "postgresql" else ""
        with database.write() as connection:
            connection.execute(sa.text(statement.format(schema=schema)))

    def sub_group(self, step: str, key: str | None = None) -> dict:
        ids = {s["id"] for s in self.rows("reduction_step") if s["name"] == step}
        return next(g for g in self.rows("sub_group") if g["step_id"] in ids and key in (None, g["key"]))


@pytest.fixture(params=BOTH)
def empty_observatory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Observatory]:
    """An ops-db without rows, on SQLite and on PostgreSQL."""
    folder = tmp_path / "world"
    folder.mkdir()
    made = Observatory(folder, make_upgraded_url(request.param, request, folder))
    if request.param == "postgresql":
        made.kept = sa.create_engine(made.url, connect_args=POSTGRESQL_CONNECT)
    yield made
    if made.kept is not None:
        made.kept.dispose()


@pytest.fixture
def observatory(empty_observatory: Observatory) -> Observatory:
    """The first night has been observed and the pipeline applied."""
    write_campaign(empty_observatory.folder)
    empty_observatory.arrive("night.yaml")
    empty_observatory.apply()
    return empty_observatory


@pytest.fixture
def three_scans(empty_observatory: Observatory) -> Observatory:
    """Three scans are observed; the pipeline without its second step is not applied yet."""
    write_campaign(empty_observatory.folder)
    empty_observatory.arrive("night.yaml")
    empty_observatory.arrive("late.yaml")
    (empty_observatory.folder / "one-step.yaml").rename(empty_observatory.folder / "pipeline.yaml")
    return empty_observatory
