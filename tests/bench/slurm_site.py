"""Sites on a private one-node cluster, for figures. Touches: /tmp, the cluster, an ops-db on SQLite."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ccatwm import wiring
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.edges.opsdb.stores import runs
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.settings.load import load_settings
from ccatwm.upkeep.apply import apply_definitions
from ccatwm.upkeep.ingest import ingest_files
from ccatwm.upkeep.requests import request_runs
from tests.integration.cluster import Cluster, find_cluster, start_cluster

PIPELINE = """
software:
  - {{name: noop, versions: [{{version: 1.0.0, command: [{program}]}}]}}
data_groupings:
  - {{name: all, filter_rules: [{{table: Source, column: name, operator: eq, value: X}}]}}
pipelines:
  - name: p
    data_grouping: all
    processing_location: local
    trigger: {{type: MANUAL}}
    steps:
      - {{name: one, software: noop, group_by: [executed_obs_unit],
          resources: {{cpu: 1, memory_gb: 0.05, time_hours: {hours}}}}}
"""
WRITE_ONE_FILE = 'echo x >"$WORKFLOW_OUTPUT_DIR/science/x"'  # a job that does nothing else
SETTINGS = """
[default]
PIPELINE_BASE_DIR = "pipelines"
PROCESSING_LOCATION_ID = "local"
OPSDB_URL = "sqlite:///opsdb.sqlite"
CONTAINER_RUNTIME = "none"
HPC_BACKEND = "slurm"
CLUSTER = "bench"
MIN_FREE_GB = 0
CONFIRM_RUNS = 100000
[default.slurm]
conf = "{conf}"
calls_per_minute = 100000
"""


@contextmanager
def bench_cluster() -> Iterator[Cluster]:
    """A running one that the environment names, else one of our own."""
    if running := find_cluster():
        yield running
        return
    cluster = start_cluster("--no-apptainer", "--max-array-size", "5001")
    try:
        yield cluster
    finally:
        cluster.down()


@dataclass
class BenchSite:
    """A site in `folder`, its ops-db on SQLite."""

    folder: Path

    def context(self) -> Context:
        return wiring.build_context(load_settings(str(self.folder), {}, self.folder), actor="bench")

    def run_pass(self, context: Context, name: str, *, limit: int | None = None) -> PassReport:
        report = wiring.run_pass(name, context, PassOptions(limit=limit, max_seconds=600))
        assert report.exit_code == 0, (name, report.error, report.items[:3])
        return report

    def ask(self, context: Context) -> None:
        """Runs of every sub-group, whatever there is of it."""
        request_runs(
            context.database, context.grouping, "p", force=True, reason="bench", actor="bench",
            now=context.clock.now(), yes=True,
        )  # fmt: skip

    def run_passes(self, context: Context, *names: str) -> None:
        for name in names:
            self.run_pass(context, name)

    def call_staged(self, context: Context) -> None:
        """All runs in the status that `stage` leaves them in, without their inputs: for jobs that read none."""
        with context.database.write() as connection:
            pending = runs.list_open_runs(connection, "local", [RunStatus.PENDING])
            ids, now = [run.id for run in pending], context.clock.now()
            for event, before in (
                (RunEvent.STAGE_STARTED, RunStatus.PENDING),
                (RunEvent.INPUTS_STAGED, RunStatus.STAGING_DATA),
            ):
                runs.record_events(connection, ids, event, expected=before, now=now, by_pass="stage")


def make_site(
    folder: Path, cluster: Cluster, scans: int, *, script: str = WRITE_ONE_FILE, hours: float = 0.02
) -> BenchSite:
    """Ops-db, raw packages and a pipeline of one step by hand, whose program is the shell line `script`."""
    subprocess.run([sys.executable, "-m", "ccatwm", "init", folder], check=True, stdout=subprocess.DEVNULL)
    (folder / "settings.toml").write_text(SETTINGS.format(conf=cluster.slurm_conf))
    program = folder / "noop"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / "observations.jsonl").write_text("".join(_observations(folder / "raw", scans)))
    (folder / "pipelines.yaml").write_text(PIPELINE.format(program=program, hours=hours))
    site = BenchSite(folder)
    context = site.context()
    now = context.clock.now()
    ingest_files(context.database, [folder / "observations.jsonl"], now=now, actor="bench")
    apply_definitions(
        context.database,
        context.grouping,
        [folder / "pipelines.yaml"],
        now=now,
        actor="bench",
        host="here",
        yes=True,
    )
    return site


def _observations(raw: Path, scans: int) -> Iterator[str]:
    yield line("source", name="X", source_kind="fixed", ra_deg=1, dec_deg=2)
    yield line("obs_unit", name="u", source="X", observing_program="p")
    for n in range(scans):
        with tarfile.open(raw / f"s{n}.tar", "w") as archive:
            member = tarfile.TarInfo("data")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
        yield line(
            "executed_obs_unit", name=f"e{n}", obs_unit="u", start_time="2026-03-01T02:00:00Z",
            end_time="2026-03-01T02:10:00Z", status="completed",
        )  # fmt: skip
        yield line(
            "raw_data_package", name=f"s{n}", executed_obs_unit=f"e{n}", instrument_module="CHAI/LFA",
            state="archived", location="raw", path=f"s{n}.tar",
        )  # fmt: skip


def line(kind: str, **fields: object) -> str:
    return json.dumps({"kind": kind, **fields}) + "\n"


def copy_site(site: BenchSite, folder: Path) -> BenchSite:
    """The same state once more; paths in settings are relative, hard links stay links."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(site.folder, folder, symlinks=True)
    return BenchSite(folder)
