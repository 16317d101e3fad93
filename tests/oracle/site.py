"""A real site on one database: the real passes, acts and stores, with a batch system of files and a clock to be set."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import POSTGRESQL_CONNECT
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from tests.crash.rig import World, define
from tests.fakes.batch import FileBatch
from tests.oracle.programs import FAILS, PIPELINES, run_program
from tests.oracle.sky import Sky
from tests.statements import share_compiled

numbers = itertools.count(1)
Row = dict[str, Any]


class Clock:
    """Says what it was set to; nothing sleeps."""

    def __init__(self, now: datetime) -> None:
        self.at = now

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a pass slept")


@dataclass
class Site:
    """`fates`: (step, key, number of the run in its sub-group) of runs whose program fails."""

    folder: Path
    url: str
    clock: Clock
    trip_after: int = 1_000_000
    fates: set[tuple[str, str, int]] = field(default_factory=set)
    settings_changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("base", "raw", "state", "images"):
            (self.folder / name).mkdir()

    @cached_property
    def context(self) -> Context:
        settings = replace(World(self.folder, self.url).settings(), trip_after=self.trip_after,
                           backfill_open_runs=2, **self.settings_changes)  # fmt: skip
        made = wiring.build_context(settings, actor="tester", effects=PlainEffects(), clock=self.clock)
        share_compiled(made.database, self._kept)
        made.make_scheduler = lambda: self.batch
        return made

    @cached_property
    def _kept(self) -> sa.Engine | None:
        """On PostgreSQL a new connection would cost more than most passes."""
        if self.url.startswith("sqlite"):
            return None
        return sa.create_engine(self.url, connect_args=POSTGRESQL_CONNECT)

    @property
    def kind(self) -> str:
        return self.context.database.dialect

    @property
    def batch(self) -> FileBatch:
        return FileBatch(self.folder / "batch", self.folder / "base", PlainEffects())

    def close(self) -> None:
        self.context.close()
        self.context.database.dispose()
        if self._kept is not None:
            self._kept.dispose()
        shutil.rmtree(self.folder)

    # --- other software ---------------------------------------------------------------------------------------

    def write(self, sky: Sky, changes: list[tuple[str, str, int, Row]]) -> None:
        """What has changed in the sky, in one transaction."""
        for name, data in sky.files.items():
            if not (self.folder / "raw" / name).exists():
                (self.folder / "raw" / name).write_bytes(data)
        with self.context.database.write() as connection:
            self.write_on(connection, changes)

    def connect(self) -> sa.Connection:
        """A connection of other software, with a transaction of its own."""
        assert self._kept is not None
        return self._kept.connect()

    def write_on(self, connection: sa.Connection, changes: list[tuple[str, str, int, Row]]) -> None:
        places = {"RAW": self.folder / "raw", "BASE": self.folder / "base"}
        for kind, name, row_id, values in changes:
            table = t.observation.tables[name]
            values = {k: str(places.get(v, v)) if k == "base_path" else v for k, v in values.items()}
            if kind == "insert":
                connection.execute(sa.insert(table).values(**values))
            elif kind == "update":
                connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))
            else:
                connection.execute(sa.delete(table).where(table.c.id == row_id))

    # --- passes and people ------------------------------------------------------------------------------------

    def run_pass(self, name: str, **options: Any) -> PassReport:
        report = wiring.run_pass(name, self.context, PassOptions(**options))
        assert report.error is None, (self.kind, name, report.error)
        return report

    def apply(self, document: Mapping[str, Any]) -> None:
        path = self.folder / "pipeline.yaml"
        path.write_text(json.dumps(document))
        define(self.context, path)

    def run_jobs(self) -> int:
        """Every job that was let go ends, well or not."""
        ordinals = self.ordinals()

        def program(output: Path, manifest: dict[str, Any]) -> int:
            return FAILS if ordinals[manifest["run"]] in self.fates else run_program(output, manifest)

        return self.batch.run_jobs(program)

    def lose(self, run_id: int) -> None:
        """Somebody deletes what a run has made."""
        for row in self.rows(t.data_product):
            if row["run_id"] == run_id:
                (self.folder / "base" / row["full_path"]).unlink()

    # --- reading ----------------------------------------------------------------------------------------------

    def rows(self, table: sa.Table) -> list[Row]:
        with self.context.database.read() as connection:
            return [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.id)).mappings()]

    def ordinals(self) -> dict[int, tuple[str, str, int]]:
        """Runs as the oracle counts them: step, key, number in the sub-group."""
        counts: dict[tuple[str, str], int] = {}
        found = {}
        for run in self.rows(t.executed_reduction_step):
            place = run["step_name"], run["sub_group_key"]
            found[run["id"]] = (*place, counts.get(place, 0))
            counts[place] = counts.get(place, 0) + 1
        return found

    def run_id(self, step: str, key: str, number: int) -> int:
        return next(run_id for run_id, place in self.ordinals().items() if place == (step, key, number))

    def product_id(self, run_id: int) -> int:
        """The first product of a run."""
        return next(int(row["id"]) for row in self.rows(t.data_product) if row["run_id"] == run_id)

    def steps(self) -> dict[int, str]:
        return {row["id"]: row["name"] for row in self.rows(t.reduction_step)}

    def groups(self) -> dict[tuple[str, str], Row]:
        steps = self.steps()
        return {(steps[row["step_id"]], row["key"]): row for row in self.rows(t.sub_group)}

    def members(self) -> dict[str, set[tuple[Any, ...]]]:
        """By step: what is known of the packages that its sub-groups have."""
        scopes = {row["id"]: row["scope_id"] for row in self.rows(t.reduction_step)}
        columns = ("package_id", "key", "package_name", "checksum", "size_bytes", "state", "executed_obs_unit_id",
                   "instrument_module_id", "ended", "observed_at")  # fmt: skip
        rows = self.rows(t.sub_group_member)
        steps = self.steps()
        return {
            steps[step_id]: {tuple(row[c] for c in columns) for row in rows if row["scope_id"] == scope}
            for step_id, scope in scopes.items()
        }


def pipeline_document(definitions: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a person writes for the definitions of the oracle."""
    for version in definitions["references"]:
        (folder / f"pointing-{version}.txt").write_text(f"pointing {version}")
    versions = [_version(version, definitions["absent"], folder) for version in definitions["versions"]]
    references = [{"version": v, "path": str(folder / f"pointing-{v}.txt")} for v in definitions["references"]]
    steps = [{"name": name, "software": "cal", **step} for name, step in definitions["steps"].items()]
    return {
        "software": [{"name": "cal", "versions": versions}],
        "references": [{"name": "pointing", "versions": references}],
        "data_groupings": [{"name": name, "filter_rules": rules} for name, rules in definitions["rules"].items()],
        "pipelines": [
            {"name": name, "data_grouping": name, "processing_location": "local", "trigger": {"type": "CONTINUOUS"},
             "steps": [step for step in steps if PIPELINES[step["name"]] == name]}
            for name in sorted({PIPELINES[step["name"]] for step in steps})
        ],
    }  # fmt: skip


def _version(version: str, absent: Collection[str], folder: Path) -> dict[str, Any]:
    """The first ones have no image; that of a later one may still be on its way."""
    found: dict[str, Any] = {"version": version, "command": ["/bin/true"]}
    if version.startswith("1.0"):
        return found
    image = folder / "images" / f"{version}.sif"
    if version not in absent:
        image.write_text(f"image {version}")
    return found | {"image": str(image)}
