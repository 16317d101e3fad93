"""A batch system without processes: jobs are files, and run when the test says so.

Its state lies in a folder, so that it outlives a killed pass as a real batch system would. `run_jobs` does what the job
script and a program do: claims, executes (noted in `executions.log`), hashes, records.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ccatwm.edges.workfiles._folders import record as record_of
from ccatwm.interfaces import (
    Effects,
    Found,
    FoundJob,
    JobReport,
    JobRequest,
    JobState,
    JobTask,
    SchedulerLimits,
    SubmitResult,
)

Program = Callable[[Path, dict], int]


class FileBatch:
    """A `Scheduler` whose jobs are JSON files in `folder`."""

    backend = "fake"
    cluster = "fake"
    grace_seconds = 0
    calls = 0

    def __init__(self, folder: Path, base_dir: Path, effects: Effects, *, array_size: int = 4) -> None:
        self._folder = folder
        self._base = base_dir
        self._effects = effects
        self._array_size = array_size
        folder.mkdir(parents=True, exist_ok=True)

    # --- the port ---------------------------------------------------------------------------------------------

    def limits(self) -> SchedulerLimits:
        return SchedulerLimits(self._array_size, None)

    def submit(self, jobs: Sequence[JobRequest]) -> list[SubmitResult]:
        results = []
        for job in jobs:
            with self._effects.around("batch.submit", job.token):
                self._write(job.token, {"state": "held", "directory": str(job.directory), "ended": []})
            results.append(SubmitResult(job.token, "accepted", job.token))
        return results

    def find(self, tokens: Sequence[str]) -> Found:
        jobs = {}
        for token in tokens:
            job = self._read(token)
            if job is not None:
                jobs[token] = (FoundJob(token, token, JobState.HELD),)
        return Found(jobs, True)

    def release(self, job_ids: Sequence[str]) -> dict[str, bool]:
        for job_id in job_ids:
            job = self._read(job_id)
            if job is not None and job["state"] == "held":
                with self._effects.around("batch.release", job_id):
                    self._write(job_id, job | {"state": "released"})
        return {job_id: self._read(job_id) is not None for job_id in job_ids}

    def poll(self, jobs: Sequence[JobTask]) -> list[JobReport]:
        return [JobReport(id, index, self._state(id, index)) for id, index, _, _ in jobs]

    def list_held(self) -> list[FoundJob]:
        return []

    def cancel(self, jobs: Sequence[JobTask]) -> None:
        for job_id, index, _, _ in jobs:
            job = self._read(job_id)
            if job is not None and index not in job["ended"]:
                with self._effects.around("batch.cancel", job_id):
                    self._write(job_id, job | {"ended": sorted({*job["ended"], index})})

    # --- the world outside the passes -----------------------------------------------------------------------------

    def run_jobs(self, program: Program) -> int:
        """Run every released task that has not ended; how many were run."""
        count = 0
        for path in sorted(self._folder.glob("*.json")):
            job = json.loads(path.read_text())
            if job["state"] != "released":
                continue
            for index, directory in enumerate(self._tasks(job)):
                if index not in job["ended"]:
                    count += run_task(self._base, directory, path.stem, program)
                    job["ended"].append(index)
            self._write(path.stem, job)
        return count

    def run_scripts(self, times: int) -> int:
        """Run every released task by the real job script, `times` times each at once: a mistake of a batch system."""
        count = 0
        for path in sorted(self._folder.glob("*.json")):
            job = json.loads(path.read_text())
            tasks = self._tasks(job) if job["state"] == "released" else []
            for index in (n for n in range(len(tasks)) if n not in job["ended"]):
                script = self._base / job["directory"] / "job.sh"
                command = ["/bin/sh", script, script.parent, str(index)]
                quiet = subprocess.DEVNULL
                twins = [subprocess.Popen(command, stdout=quiet, stderr=quiet) for _ in range(times)]
                for twin in twins:
                    twin.wait()
                job["ended"].append(index)
                count += 1
            if tasks:
                self._write(path.stem, job)
        return count

    def _tasks(self, job: dict) -> list[str]:
        """Directories of its tasks; none of a job whose files were taken away when it had ended."""
        file = self._base / job["directory"] / "tasks"
        return file.read_text().splitlines() if file.exists() else []

    def _state(self, job_id: str, index: int) -> JobState:
        job = self._read(job_id)
        if job is None:
            return JobState.ABSENT
        if index in job["ended"]:
            return JobState.ENDED
        return JobState.HELD if job["state"] == "held" else JobState.PENDING

    def _read(self, token: str) -> dict | None:
        path = self._folder / f"{token}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _write(self, token: str, job: dict) -> None:
        temporary = self._folder / f".{token}.{os.getpid()}"
        temporary.write_text(json.dumps(job))
        temporary.rename(self._folder / f"{token}.json")


def run_task(base: Path, directory: str, token: str, program: Program) -> int:
    """What the job script does for one attempt; 0 if its claim was taken."""
    attempt = base / directory
    try:
        (attempt / "job" / "claims" / "0").mkdir(parents=True)
    except FileExistsError:
        return 0
    staging = directory.startswith(".transfers/")
    if not staging:
        with (base / "executions.log").open("a") as log:
            log.write(f"{directory}\n")
    (attempt / "job" / "started.json").write_text(json.dumps({"format": 1, "token": token, "host": "fake"}))
    manifest = json.loads((attempt / "config" / "manifest.json").read_text())
    code = run_staging_program(attempt) if staging else program(attempt / "output", manifest)
    folder = os.open(attempt / "output", os.O_RDONLY)
    (attempt / "job" / "outputs.list").write_bytes(record_of(folder))
    os.close(folder)
    sums = b"".join(
        _sum(attempt / "output", path) for path in sorted((attempt / "output").rglob("*")) if path.is_file()
    )
    (attempt / "job" / "outputs.sha256").write_bytes(sums)
    record = {
        "format": 1,
        "token": token,
        "exit_code": code,
        "signal": None,
        "reason": "payload",
        "hash_exit_code": 0,
    }
    (attempt / "job" / "exit.json").write_text(json.dumps(record))
    return 1


def run_staging_program(attempt: Path) -> int:
    """A job that brings packages is no program of the test: it is what it is."""
    *argv, _ = (attempt / "job" / "argv").read_text().splitlines()
    with (attempt / "logs" / "stderr.log").open("ab") as errors:
        return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=errors, check=False).returncode


def _sum(output: Path, path: Path) -> bytes:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{digest}  {path.relative_to(output)}\0".encode()
