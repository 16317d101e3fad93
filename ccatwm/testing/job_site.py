"""A base directory with jobs as the submit pass writes them, for tests of batch systems. Touches: files below it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ccatwm
from ccatwm.edges.clock import SystemClock
from ccatwm.edges.transport.local import LocalTransport
from ccatwm.interfaces import (
    JobReport,
    JobRequest,
    JobState,
    JobTask,
    PlainEffects,
    Scheduler,
    SchedulerFactory,
    SchedulerSetup,
)

JOB_SCRIPT = Path(ccatwm.__file__).parent / "edges" / "scheduler" / "job.sh"


@dataclass
class JobSite:
    """A base directory, and schedulers of one backend over it, each as a pass would build it anew.

    `options` are the site's `SCHEDULER_OPTIONS`; `measures` False: the batch system tells nothing of processor and memory.
    """

    root: Path
    build: SchedulerFactory
    options: dict[str, Any]
    measures: bool = True
    patience_seconds: float = 30.0

    @property
    def base(self) -> Path:
        return self.root / "base"

    def scheduler(self) -> Scheduler:
        effects = PlainEffects()
        return self.build(
            SchedulerSetup(
                "here", str(self.root / "state"), str(self.base), self.options, effects, SystemClock(),
                make_transport=lambda: LocalTransport(effects),
            )
        )  # fmt: skip

    def request(self, token: str, payload: str = "true", *, time_seconds: int = 60) -> JobRequest:
        """A job whose files lie there, as the submit pass writes them."""
        directory = PurePosixPath(".submissions") / token
        attempt = PurePosixPath("runs") / token
        if not (self.base / directory).exists():  # a job that runs already is left alone
            self._write_files(directory, attempt, payload)
        return JobRequest(token, f"ccatwm-{token}", directory, (attempt,), 1, 1.0, time_seconds)

    def _write_files(self, directory: PurePosixPath, attempt: PurePosixPath, payload: str) -> None:
        for name in ("output", "scratch", "logs", "job/claims"):
            (self.base / attempt / name).mkdir(parents=True)
        (self.base / directory).mkdir(parents=True)
        (self.base / directory / "tasks").write_text(f"{attempt}\n")
        shutil.copy(JOB_SCRIPT, self.base / directory / "job.sh")
        job = self.base / attempt / "job"
        (job / "argv").write_text(f"/bin/sh\n-c\n{payload}\n#end-of-argv\n")
        (job / "inputs.list").write_text("")
        (job / "limits").write_text("kill_after_seconds=0.5\n")

    def output(self, token: str, name: str) -> Path:
        return self.base / "runs" / token / "output" / name

    def exit_record(self, token: str) -> Path:
        return self.base / "runs" / token / "job" / "exit.json"

    def start(self, token: str, payload: str = "true", *, time_seconds: int = 60) -> str:
        result = self.scheduler().submit([self.request(token, payload, time_seconds=time_seconds)])[0]
        assert result.outcome == "accepted" and result.job_id is not None
        assert self.scheduler().release([result.job_id]) == {result.job_id: True}
        return result.job_id

    def report(self, job_id: str) -> JobReport:
        return self.scheduler().poll([JobTask(job_id)])[0]

    def wait(self, job_id: str, *states: JobState) -> JobReport:
        until = time.monotonic() + self.patience_seconds
        while (report := self.report(job_id)).state not in states:
            assert time.monotonic() < until, f"still {report}"
            time.sleep(0.02)
        return report


def processes_of(root: Path) -> list[int]:
    """Processes that work below `root`: its path is in their command line or working folder."""
    found = []
    for name in [entry.name for entry in Path("/proc").iterdir()]:
        if name.isdigit() and int(name) != os.getpid():
            process = Path("/proc", name)
            try:
                words = (process / "cmdline").read_bytes() + os.fsencode((process / "cwd").readlink())
            except OSError:
                continue
            if os.fsencode(root) in words:
                found.append(int(name))
    return found


def end_processes_of(root: Path) -> list[int]:
    """Wait for the processes below `root` to end; kill and return those that do not."""
    until = time.monotonic() + 10
    while left := processes_of(root):
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return left
        time.sleep(0.05)
    return []
