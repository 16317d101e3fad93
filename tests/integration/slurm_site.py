"""A site on the real cluster: a small campaign whose runs are staged, passes, and a reading of what is left."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.clock import SystemClock
from ccatwm.edges.opsdb.stores.control import request_cancel
from ccatwm.interfaces import Effects, PlainEffects
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.settings.schema import Settings, SlurmSettings, SshSettings
from tests.crash.rig import define, ingest, rows
from tests.fakes.slurm_commands import SlurmCommands
from tests.integration.cluster import Cluster
from tests.statements import share_compiled

GRACE = 3
REQUEUE = 4
RECORD_WAIT = 4
KILLED = 9
BROKEN = 70
PIPELINE = """
software:
  - name: cal
    versions: [{version: 1.0.0, command: [/bin/sh, PROGRAM]}]
data_groupings:
  - {name: everything, filter_rules: [{table: Source, column: kind, operator: eq, value: fixed}]}
pipelines:
  - name: line
    data_grouping: everything
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - name: reduce
        software: cal
        group_by: [source, executed_obs_unit]
        order: oldest
        resources: RESOURCES
"""
RESOURCES = "{cpu: 1, memory_gb: 0.05, time_hours: 0.1}"
# It notes that it was executed, by which attempt and restart; then does what `behave.sh` says, where there is one.
PROGRAM = """
attempt=${WORKFLOW_LOG_DIR%/logs}
base=${attempt%/line/reduce/*}
echo "${attempt#"$base"/}" >>"$base/executions"
[ ! -e "$base/behave.sh" ] || . "$base/behave.sh"
echo "$WORKFLOW_SUB_GROUP" >"$WORKFLOW_OUTPUT_DIR/science/map.txt"
"""


class ShiftedClock(SystemClock):
    """The real time and what was waited for in no time: a pass that sleeps, a test that lets a period go by."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.shift)

    def sleep(self, seconds: float) -> None:
        self.shift += seconds


class Recorder:
    """Keeps the names of all effects."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        self.names.append(name)
        yield


@dataclass
class Strike:
    """Calls `act` before or after the `at`-th effect of this name (any name: every effect)."""

    act: Callable[[], object]
    name: str = ""
    at: int = 1
    when: str = "before"
    count: int = 0

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        counted = self.name in ("", name)
        self.count += counted
        strikes = counted and self.count == self.at  # effects lie within effects: a command in its process
        if strikes and self.when == "before":
            self.act()
        yield
        if strikes and self.when == "after":
            self.act()


def die() -> None:
    os._exit(KILLED)


@dataclass
class SlurmSite:
    """One site: its folder, its ops-db, its passes."""

    cluster: Cluster
    folder: Path
    url: str
    slurm: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    base_name: str = "base"

    @property
    def base(self) -> Path:
        return self.folder / self.base_name

    def settings(self) -> Settings:
        slurm: dict[str, Any] = {
            "conf": str(self.cluster.slurm_conf),
            "calls_per_minute": 100_000,
            "requeue_seconds": REQUEUE,
            "command_timeout_seconds": 30,
        }
        made = Settings(
            site="slurm", site_dir=None, opsdb_url=self.url, pipeline_base_dir=self.base,
            processing_location="local", state_dir=self.folder / "state", hpc_backend="slurm", cluster="sandbox",
            container_runtime="none", min_free_gb=0.0, grace_seconds=GRACE, record_wait_seconds=RECORD_WAIT,
            retry_base_seconds=0, retry_max_seconds=0, slurm=SlurmSettings(**(slurm | self.slurm)),
        )  # fmt: skip
        return replace(made, **self.changes)

    def context(self, effects: Effects | None = None) -> Context:
        context = wiring.build_context(
            self.settings(), actor="tester", effects=effects or PlainEffects(), clock=self.clock
        )
        share_compiled(context.database)
        return context

    def commands(self) -> SlurmCommands:
        """Programs before Slurm's own, from now on."""
        made = SlurmCommands(self.folder / "bin")
        self.slurm["bin_dir"] = str(made.folder)
        return made

    def reach_by_ssh(self) -> None:
        """From now on the cluster's user does all there."""
        ssh = self.cluster.ssh
        subprocess.run(["chown", "-R", self.cluster.user, self.base], check=True)
        self.slurm["account"] = self.cluster.account
        self.changes |= {
            "transport": "ssh",
            "ssh": SshSettings(host=ssh.host, port=ssh.port, user=ssh.user, key_file=str(ssh.key),
                               known_hosts=str(ssh.known_hosts), agent=False, python="/usr/bin/python3"),
        }  # fmt: skip

    def behave(self, script: str) -> None:
        """What the program does from now on, besides being executed."""
        (self.base / "behave.sh").write_text(script)

    # --- passes -----------------------------------------------------------------------------------------------

    def run_pass(self, name: str, effects: Effects | None = None, **options: Any) -> PassReport:
        context = self.context(effects)
        try:
            return wiring.run_pass(name, context, PassOptions(**options))
        finally:
            context.database.dispose()

    def submit(self, effects: Effects | None = None) -> PassReport:
        return self.run_pass("submit", effects)

    def poll(self, effects: Effects | None = None) -> PassReport:
        return self.run_pass("poll", effects)

    def killed(self, name: str, effects: Strike) -> bool:
        """One pass in a forked child, which is gone afterwards as one of cron's is; whether it died of `effects`."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                self.run_pass(name, effects)
            except BaseException:
                traceback.print_exc()
                os._exit(BROKEN)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED, -KILLED), f"the pass ended with {code}"
        return code != 0

    def cancel(self, run: int) -> None:
        """As a person asks for it."""
        context = self.context()
        with context.database.write() as connection:
            assert request_cancel(connection, run, "not wanted", context.clock.now())
        context.database.dispose()

    def later(self, seconds: float) -> None:
        """What happens in this time happens in no time."""
        self.clock.shift += seconds

    # --- until something is so ----------------------------------------------------------------------------------

    def round(self) -> None:
        """What cron does, without the passes that would find nothing."""
        for name, statuses in WORK.items():
            if statuses & set(self.statuses()):
                self.run_pass(name)

    def until_quiet(self, seconds: float = 90.0) -> None:
        """Passes until no run is open any more."""
        until_quiet([self], seconds)

    def poll_until(self, fact: Callable[[], bool], seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < until, f"still {self.runs()}, {self.attempts()}"
            self.poll()
            time.sleep(0.1)

    def wait_for_jobs(self, *states: str, seconds: float = 30.0) -> None:
        """Until each task of ours is in one of these states, as the queue has it."""
        until = time.monotonic() + seconds
        while not (seen := {row[1] for row in self.queue()}) or not seen <= set(states):
            assert time.monotonic() < until, f"{self.queue()} instead of {states}"
            time.sleep(0.05)

    def wait_for_accounting(self, rows: int = 1, seconds: float = 30.0) -> None:
        """Until accounting knows our newest job by its name; before, it may have a short one as `allocation`."""
        until = time.monotonic() + seconds
        wanted = [f"--jobs={self.job()}", "--duplicates"]
        name = f"ccatwm-{self.submissions()[-1]['token']}"
        while len([r for r in self.cluster.sacct(*wanted, fields="jobname,state") if r[0] == name]) < rows:
            assert time.monotonic() < until, self.cluster.sacct(*wanted, fields="jobid,jobname,state")
            time.sleep(0.1)

    def wait_for_file(self, path: Path, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < until, f"no {path}: {self.queue()}"
            time.sleep(0.05)

    # --- an independent reading -----------------------------------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        return rows(self.url, table)

    def runs(self) -> list[dict[str, Any]]:
        wanted = ("id", "status", "failure_class", "message", "attempt")
        return [{name: row[name] for name in wanted} for row in self.rows("executed_reduction_step")]

    def statuses(self) -> list[str]:
        return [run["status"] for run in self.runs()]

    def attempts(self) -> list[dict[str, Any]]:
        return self.rows("run_attempt")

    def attempt(self) -> dict[str, Any]:
        """The only one there is."""
        (found,) = self.attempts()
        return found

    def attempt_folder(self, number: int = 0) -> Path:
        return self.base / self.attempts()[number]["directory"]

    def submissions(self) -> list[dict[str, Any]]:
        return self.rows("submission")

    def job(self) -> str:
        """The newest job that was recorded."""
        return str(self.submissions()[-1]["job_id"])

    def executions(self) -> list[str]:
        file = self.base / "executions"
        return file.read_text().splitlines() if file.exists() else []

    def queue(self, *fields: str) -> list[list[str]]:
        """Our tasks in the queue, also those that have ended: job and index, state, reason, name."""
        names = {f"ccatwm-{row['token']}" for row in self.submissions()}
        found = self.cluster.squeue("--user=root", fields="%F_%K|%T|%r|%j")
        return [row for row in found if row[3] in names]

    def live(self) -> list[list[str]]:
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "COMPLETING")
        return [row for row in self.queue() if row[1] not in ended]

    def wrong(self) -> list[str]:
        """What does not hold once all is quiet: every run ended well, by one execution, and nothing of ours is left."""
        runs, executed = self.runs(), Counter(self.executions())
        by_run = Counter(directory.rpartition("/")[0] for directory in executed.elements())
        wrong = [
            f"run {r['id']} is {r['status']}: {r['message']}" for r in runs if r["status"] != "COMPLETED"
        ]
        wrong += [f"{run} was executed {count} times" for run, count in by_run.items() if count != 1]
        if executed.total() != len(runs):
            wrong.append(f"{executed.total()} executions of {len(runs)} runs")
        ended = {a["directory"] for a in self.attempts() if a["outcome"] == "succeeded"}
        wrong += [f"{directory} succeeded without an execution" for directory in ended - executed.keys()]
        products = Counter(p["run_id"] for p in self.rows("data_product"))
        wrong += [f"run {r['id']} has {products[r['id']]} products" for r in runs if products[r["id"]] != 1]
        return wrong + [f"left in the queue: {row}" for row in self.live()]

    def check(self) -> None:
        assert self.wrong() == []


WORK = {
    "stage": {"PENDING", "STAGING_DATA"},
    "submit": {"STAGED", "SUBMITTING"},
    "poll": {"SUBMITTED", "RUNNING", "FAILED"},
    "collect": {"COLLECTING_RESULTS"},
}
OPEN = set().union(*WORK.values())


def until_quiet(sites: Sequence[SlurmSite], seconds: float = 90.0) -> None:
    """Passes of all these sites in turn until no run of theirs is open any more."""
    until = time.monotonic() + seconds
    left = list(sites)
    while left := [site for site in left if set(site.statuses()) & OPEN]:
        assert time.monotonic() < until, [(site.runs(), site.queue()) for site in left]
        for site in left:
            site.round()
        time.sleep(0.2)
    for site in sites:
        site.poll()  # strays are swept by it


# --- making one ------------------------------------------------------------------------------------------------------


def make_site(
    cluster: Cluster,
    folder: Path,
    url: str,
    runs: int,
    *,
    names: Sequence[str] = (),
    resources: str = RESOURCES,
    base_name: str = "base",
    source: str = "NGC253",
) -> SlurmSite:
    """A site whose runs are staged: one for each scan. `names` are the scans' names."""
    site = SlurmSite(cluster, folder, url, base_name=base_name)
    for name in ("raw", base_name, "state"):
        (folder / name).mkdir(parents=True)
    (folder / "program.sh").write_text(PROGRAM)
    _write_campaign(site, names or [f"scan-{n}" for n in range(runs)], source)
    text = PIPELINE.replace("PROGRAM", str(folder / "program.sh")).replace("RESOURCES", resources)
    (folder / "pipeline.yaml").write_text(text)
    context = site.context()
    ingest(context, [folder / "night.yaml"])
    define(context, folder / "pipeline.yaml")
    context.database.dispose()
    for name in ("trigger", "resolve", "stage"):
        report = site.run_pass(name)
        assert report.error is None, report.error
    assert site.statuses() == ["STAGED"] * runs, site.runs()
    return site


def _write_campaign(site: SlurmSite, scans: Sequence[str], source: str) -> None:
    import yaml

    document = {
        "sites": [{"name": "here"}],
        "data_locations": [
            {"name": "raw", "location_type": "long_term_archive", "storage_type": "disk", "site": "here",
             "priority": 1, "base_path": str(site.folder / "raw")},
            {"name": "local", "location_type": "processing", "storage_type": "disk", "site": "here",
             "base_path": str(site.base)},
        ],
        "sources": [{"name": source, "kind": "fixed", "ra_deg": 11.9, "dec_deg": -25.3}],
        "obs_units": [{"name": "ou", "source": source, "line_id": "CO43"}],
        "executed_obs_units": [
            {"name": scan, "obs_unit": "ou", "start_time": f"2026-03-01T{n:02}:00:00Z",
             "end_time": f"2026-03-01T{n:02}:10:00Z", "status": "completed"}
            for n, scan in enumerate(scans)
        ],
        "raw_data_packages": [
            {"name": f"{scan}-LFA", "executed_obs_unit": scan, "instrument_module": "CHAI/LFA",
             "state": "archived", "size_bytes": 5, "copies": [{"location": "raw", "path": f"scan-{n}.fits"}]}
            for n, scan in enumerate(scans)
        ],
    }  # fmt: skip
    for n in range(len(scans)):
        (site.folder / "raw" / f"scan-{n}.fits").write_text("data\n")
    (site.folder / "night.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))


def copy_site(site: SlurmSite, folder: Path) -> SlurmSite:
    """The same site elsewhere, on SQLite; its program and raw data are shared."""
    folder.mkdir(parents=True)
    shutil.copytree(site.base, folder / site.base_name, symlinks=True)
    shutil.copytree(site.folder / "state", folder / "state", ignore=shutil.ignore_patterns("locks"))
    with (
        closing(sqlite3.connect(site.url.removeprefix("sqlite:///"))) as old,
        closing(sqlite3.connect(folder / "opsdb.sqlite")) as new,
    ):
        old.backup(new)
        new.execute(
            "UPDATE data_location SET base_path = ? WHERE name = 'local'", (str(folder / site.base_name),)
        )
        new.commit()
    return replace(
        site, folder=folder, url=f"sqlite:///{folder}/opsdb.sqlite", slurm=dict(site.slurm), changes=dict(site.changes),
        clock=ShiftedClock(),
    )  # fmt: skip


def failing_commit(site: SlurmSite, at: int) -> Strike:
    """The ops-db goes away before the `at`-th commit."""

    def fail() -> None:
        raise sa.exc.OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))

    return Strike(fail, "db.commit", at)
