"""A site on the real cluster whose pipelines go wrong on purpose. Touches: the cluster, a folder of its scratch.

Each `Case` is a pipeline of one step with its own scans; all of a site run side by side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from tests.command_line import call_ccatwm
from tests.crash.rig import rows
from tests.integration.cluster import Cluster

FIRST_NIGHT = datetime(2026, 3, 1, 1, tzinfo=UTC)
GOOD = "echo done >science/out.txt"
SMALL = {"memory_gb": 0.2, "time_hours": 0.1}
FINAL = ("COMPLETED", "CANCELLED")


@dataclass(frozen=True)
class Case:
    """A pipeline that is named `name`. `program` is shell text on one line, run in the folder of the output."""

    name: str
    program: str = GOOD
    scans: int = 1
    resources: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 10
    image: Path | None = None


class Commands:
    """Effects that count the commands given to Slurm."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.said: list[str] = []  # each as it was typed

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        if name.startswith("slurm."):
            self.given.append(name.removeprefix("slurm."))
            self.said.append(detail)
        yield


class Site:
    """A site of `ccatwm init` whose batch system is the cluster; passes run in this process."""

    def __init__(self, cluster: Cluster, name: str, *, runtime: str = "none", **slurm: Any) -> None:
        self.cluster = cluster
        self.folder = cluster.scratch / name
        self.commands = Commands()
        self.folder.mkdir()
        (self.folder / "settings.toml").write_text(_settings(cluster, runtime, slurm))
        (self.folder / "pipelines").mkdir()
        (self.folder / "raw").mkdir()

    @property
    def base(self) -> Path:
        return self.folder / "pipelines"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/opsdb.sqlite"

    def prepare(self, cases: Sequence[Case]) -> None:
        """The site is made, all scans are observed, all pipelines applied."""
        (self.folder / "observations.yaml").write_text(json.dumps(self._observations(cases)))
        (self.folder / "pipelines.yaml").write_text(json.dumps(_definitions(cases)))
        self.cli("init", self.folder)
        self.cli("ingest", self.folder / "observations.yaml")
        self.cli("apply", self.folder / "pipelines.yaml")

    def _observations(self, cases: Sequence[Case]) -> dict[str, Any]:
        names = [(case.name, number) for case in cases for number in range(case.scans)]
        packages = []
        for case, number in names:
            content = f"{case} {number}\n".encode()
            (self.folder / "raw" / f"{case}-{number}.dat").write_bytes(content)
            packages.append(
                {
                    "name": f"{case}-{number}",
                    "executed_obs_unit": f"{case}-{number}",
                    "instrument_module": "CHAI/LFA",
                    "state": "archived",
                    "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
                    "size_bytes": len(content),
                    "copies": [{"location": "raw", "path": f"{case}-{number}.dat"}],
                }
            )
        return {
            "sources": [{"name": c.name, "kind": "fixed", "ra_deg": 1.0, "dec_deg": 1.0} for c in cases],
            "obs_units": [{"name": c.name, "source": c.name} for c in cases],
            "executed_obs_units": [_scan(case, number) for case, number in names],
            "raw_data_packages": packages,
        }

    # --- acting ---------------------------------------------------------------------------------------------

    def context(self) -> Context:
        return wiring.open_context(str(self.folder), actor="tester", effects=self.commands)

    def run_pass(self, name: str, **options: Any) -> PassReport:
        return wiring.run_pass(name, self.context(), PassOptions(**options))

    def cycle(self) -> list[PassReport]:
        reports = list(wiring.run_cycle(self.context(), PassOptions()))
        assert [report.error for report in reports if report.error is not None] == []
        return reports

    def until(self, met: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Cycles until `met`."""
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end, f"not in {seconds} s: {what}; {self.states()}"
            self.cycle()
            time.sleep(0.2)

    def until_status(self, statuses: Mapping[str, str], seconds: float = 60) -> None:
        """Cycles until all runs of these pipelines have the status."""
        wanted = {name: {status} for name, status in statuses.items()}
        self.until(
            lambda: {name: self.statuses(name) for name in wanted} == wanted, f"{statuses}", seconds=seconds
        )

    def cli(self, *arguments: str | Path | int, check: bool = True) -> str:
        """What `ccatwm ARGUMENT...` prints."""
        argv = [str(argument) for argument in arguments]
        argv += [] if argv[0] == "init" else ["--site", str(self.folder)]
        loggers = [logging.getLogger(), logging.getLogger("ccatwm")]
        handlers = [list(logger.handlers) for logger in loggers]
        result = call_ccatwm(*argv)
        for logger, before in zip(loggers, handlers, strict=True):
            logger.handlers[:] = before  # what the command logged to is closed now
        assert not check or result.exit_code == 0, (
            f"{argv}: {result.exit_code}: {result.stdout}{result.stderr}"
        )
        return result.stdout

    def execute(self, statement: str, **values: Any) -> None:
        with self.context().database.write() as connection:
            connection.execute(sa.text(statement), values)

    # --- looking --------------------------------------------------------------------------------------------

    def runs(self, pipeline: str) -> list[dict[str, Any]]:
        """Runs in the order in which they were made."""
        return [r for r in rows(self.url, "executed_reduction_step") if r["pipeline_name"] == pipeline]

    def run(self, pipeline: str) -> dict[str, Any]:
        (only,) = self.runs(pipeline)
        return only

    def statuses(self, pipeline: str) -> set[str]:
        return {run["status"] for run in self.runs(pipeline)}

    def attempts(self, pipeline: str) -> list[dict[str, Any]]:
        """Attempts in the order in which they were made, with job and task of each: alike runs share an array."""
        ids = {run["id"] for run in self.runs(pipeline)}
        jobs = {s["id"]: s["job_id"] for s in rows(self.url, "submission")}
        return [
            {
                **a,
                "job_id": jobs[a["submission_id"]],
                "task": f"{jobs[a['submission_id']]}_{a['array_index']}",
            }
            for a in rows(self.url, "run_attempt")
            if a["run_id"] in ids
        ]

    def asked(self, pipeline: str, name: str) -> list[float]:
        """What each attempt asked for."""
        return [json.loads(a["resources_asked"])[name] for a in self.attempts(pipeline)]

    def states(self) -> dict[str, list[str]]:
        """How every pipeline stands, for messages."""
        found: dict[str, list[str]] = {}
        for run in rows(self.url, "executed_reduction_step"):
            state = f"{run['status']} {run['failure_class'] or ''} {run['message'] or ''}".strip()
            found.setdefault(run["pipeline_name"], []).append(state)
        return found

    def document(self, *arguments: str | Path | int) -> dict[str, Any]:
        """What a command that looks prints as JSON."""
        found: dict[str, Any] = json.loads(self.cli(*arguments, "--json"))
        return found

    def attempt_file(self, attempt: Mapping[str, Any], name: str) -> Path:
        return self.base / attempt["directory"] / name


def _scan(case: str, number: int) -> dict[str, Any]:
    """Scan number n was observed n hours after the first."""
    start = FIRST_NIGHT + timedelta(hours=number)
    return {
        "name": f"{case}-{number}",
        "obs_unit": case,
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(minutes=10)).isoformat(),
        "status": "completed",
    }


def _definitions(cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "software": [{"name": case.name, "versions": [_version(case)]} for case in cases],
        "data_groupings": [
            {
                "name": case.name,
                "filter_rules": [{"table": "Source", "column": "name", "operator": "eq", "value": case.name}],
            }
            for case in cases
        ],
        "pipelines": [
            {
                "name": case.name,
                "data_grouping": case.name,
                "processing_location": "local",
                "trigger": {"type": "CONTINUOUS"},
                "priority": case.priority,
                "steps": [
                    {
                        "name": "reduce",
                        "software": case.name,
                        "group_by": ["executed_obs_unit"],
                        "resources": {**SMALL, **case.resources},
                        **case.step,
                    }
                ],
            }
            for case in cases
        ],
    }


def _version(case: Case) -> dict[str, Any]:
    program = f'cd "$WORKFLOW_OUTPUT_DIR" || exit 99; {case.program}'
    image = {} if case.image is None else {"image": str(case.image)}
    return {"version": "1.0.0", "command": ["/bin/sh", "-c", program], **image}


def _settings(cluster: Cluster, runtime: str, slurm: Mapping[str, Any]) -> str:
    table = {
        "conf": str(cluster.slurm_conf),
        "requeue_seconds": 5,
        "calls_per_minute": 6000,
        "command_timeout_seconds": 20,
        **slurm,
    }
    keys = {
        "OPSDB_URL": "sqlite:///opsdb.sqlite",
        "PIPELINE_BASE_DIR": "pipelines",
        "PROCESSING_LOCATION_ID": "local",
        "HPC_BACKEND": "slurm",
        "CLUSTER": "sandbox",
        "CONTAINER_RUNTIME": runtime,
        "GRACE_SECONDS": 15,
        "RECORD_WAIT_SECONDS": 5,
        "RETRY_BASE_SECONDS": 1,
        "RETRY_MAX_SECONDS": 2,
        "MIN_FREE_GB": 0,
        "MIN_FREE_INODES": 0,
    }
    lines = ["[default]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return (
        "\n".join([*lines, "[default.slurm]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]) + "\n"
    )


@contextmanager
def site(cluster: Cluster, name: str, **options: Any) -> Iterator[Site]:
    """A site in a folder of its own; afterwards no job and no file of it is left."""
    made = Site(cluster, name, **options)
    try:
        yield made
    finally:
        cluster.run("scancel", "--quiet", "--user=root", check=False)
        shutil.rmtree(made.folder, ignore_errors=True)
