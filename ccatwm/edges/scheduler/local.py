"""The batch system of one machine: a supervisor per job, records that say all. Touches: STATE_DIR, processes.

A job is its folder `{state_dir}/local-jobs/{token}`; its id is the token. `record.json` is the held job.
Whether something of a job runs is told by the lock that its supervisor, script and program hold: nothing is
concluded while it is held. Records: docs/reference/job-records.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ccatwm.errors import SchedulerUnavailableError
from ccatwm.interfaces import (
    Found,
    FoundJob,
    JobReport,
    JobRequest,
    JobState,
    JobTask,
    SchedulerLimits,
    SchedulerSetup,
    SubmitResult,
)

SUPERVISOR = Path(__file__).with_name("_supervisor.py")
KEPT_DAYS = 30
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")  # of our own environment, to the job script
UNUSABLE = 78  # of the job script and of the supervisor: nothing could be begun
CAUSES = {"cancelled": "cancelled-outside"}  # ours, in the words of failure classes


@dataclass(frozen=True)
class Standing:
    """What the records say of one job."""

    state: JobState
    cause: str | None = None
    message: str = ""
    ended: dict[str, Any] | None = None


def build_scheduler(setup: SchedulerSetup) -> LocalScheduler:
    """For `ccatwm.schedulers`. Options: `slots` (2), `max_queued` (200), `kill_after_seconds` (30)."""
    return LocalScheduler(setup)


class LocalScheduler:
    """Jobs on this machine. A record is the job, so `find` is certain and there is no grace period."""

    backend = "local"
    grace_seconds = 0
    calls = 0  # no commands: records are read and written

    def __init__(self, setup: SchedulerSetup) -> None:
        self.cluster = setup.cluster
        self._jobs = Path(setup.state_dir).resolve() / "local-jobs"
        self._slots_dir = self._jobs.parent / "local-slots"
        self._base_dir = Path(setup.base_dir)
        self._slots = _whole(setup.options.get("slots"), 2)
        self._max_queued = _whole(setup.options.get("max_queued"), 200)
        self._kill_after_seconds = _whole(setup.options.get("kill_after_seconds"), 30)
        self._effects = setup.effects
        self._clock = setup.clock

    # --- handing over ---------------------------------------------------------------------------------------

    def limits(self) -> SchedulerLimits:
        return SchedulerLimits(max_array_size=1, free_tasks=max(0, self._max_queued - self._count_live()))

    def submit(self, jobs: Sequence[JobRequest]) -> list[SubmitResult]:
        """Write the record of each job: held. A token that is there already is accepted again."""
        with _available("submitting"):
            self._sweep()
            free = self._max_queued - self._count_live()
            results = []
            for job in jobs:
                results.append(self._submit_one(job, free))
                free -= results[-1].outcome == "accepted"
        return results

    def _submit_one(self, job: JobRequest, free: int) -> SubmitResult:
        if not TOKEN.fullmatch(job.token):
            return SubmitResult(job.token, "refused", message=f"token {job.token!r} is no safe name")
        if len(job.attempt_directories) != 1:
            return SubmitResult(job.token, "refused", message="backend local takes one attempt a job")
        folder = self._jobs / job.token
        if (folder / "record.json").exists():
            return SubmitResult(job.token, "accepted", job.token)
        if free <= 0:
            return SubmitResult(job.token, "throttled", message=f"{self._max_queued} local jobs are queued")
        try:
            self._make_folder(folder)
            self._write(folder / "record.json", self._record(job))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return SubmitResult(job.token, "throttled", message=f"no space below {self._jobs}")
            raise
        return SubmitResult(job.token, "accepted", job.token)

    def _record(self, job: JobRequest) -> dict[str, Any]:
        directory = self._base_dir / job.directory
        return {
            "format": 1,
            "token": job.token,
            "name": job.name,
            "command": ["/bin/sh", str(directory / "job.sh"), str(directory), "0"],
            "attempt": str(self._base_dir / job.attempt_directories[0]),
            "environment": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "time_seconds": job.time_seconds,
            "kill_after_seconds": self._kill_after_seconds,
            "cpu": job.cpu,
            "memory_gb": job.memory_gb,
            "slots": self._slots,
            "slots_dir": str(self._slots_dir),
            "submitted_at": self._clock.now().isoformat(),
        }

    def release(self, job_ids: Sequence[str]) -> dict[str, bool]:
        """Start a supervisor for each job that has none and has not ended; they start side by side."""
        with _available("releasing"):
            released: dict[str, bool] = {}
            started = []
            try:
                for job_id in job_ids:
                    standing = self._standing(job_id)
                    released[job_id] = standing.state not in (JobState.ABSENT, JobState.UNKNOWN)
                    if standing.state is JobState.HELD:
                        started.append(self._start(job_id))
            finally:
                for process in started:
                    process.wait()
        return released

    def _start(self, job_id: str) -> subprocess.Popen[bytes]:
        """A supervisor detaches itself: this child ends when the supervisor is on record."""
        folder = self._jobs / job_id
        if not (folder / "released").exists():
            self._write(folder / "released", {"format": 1, "at": self._clock.now().isoformat()})
        log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            with self._effects.around("process.start", job_id):
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SUPERVISOR), str(folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                )  # fmt: skip
        finally:
            os.close(log)

    # --- looking --------------------------------------------------------------------------------------------

    def find(self, tokens: Sequence[str]) -> Found:
        with _available("looking for jobs"):
            standings = {token: self._standing(token) for token in tokens}
            jobs = {t: (self._found(t, s.state),) for t, s in standings.items() if s.state is not JobState.ABSENT}
        return Found(jobs, certain=True)

    def _found(self, token: str, state: JobState) -> FoundJob:
        record = _read_json(self._jobs / token / "record.json") or {}
        return FoundJob(token, token, state, _time(record.get("submitted_at")))

    def poll(self, jobs: Sequence[JobTask]) -> list[JobReport]:
        """HELD also for a released job whose supervisor died before anything ran: release it again."""
        with _available("asking for jobs"):
            return [self._report(task.job_id, task.array_index) for task in jobs]

    def _report(self, job_id: str, index: int) -> JobReport:
        if index != 0:
            return JobReport(job_id, index, JobState.ABSENT)
        standing = self._standing(job_id)
        process = _read_json(self._jobs / job_id / "process.json") or {}
        started = _read_json(self._jobs / job_id / "started.json") or {}
        folder = self._jobs / job_id
        left = standing.state is JobState.ENDED and (folder / "overdue").exists() and _is_held(folder / "lock")
        if left or (standing.state is JobState.RUNNING and not _lives(process)):
            self._end_overdue(folder, _time(started.get("started_at")))
        ended = standing.ended or {}
        return JobReport(
            job_id, index, standing.state, standing.cause, standing.message,
            host=process.get("host"),
            started_at=_time(started.get("started_at")),
            ended_at=_time(ended.get("ended_at")),
            wall_seconds=ended.get("wall_seconds"),
            cpu_hours=ended.get("cpu_hours"),
            peak_memory_gb=ended.get("peak_memory_gb"),
        )  # fmt: skip

    def _standing(self, job_id: str) -> Standing:
        folder = self._jobs / job_id
        if not TOKEN.fullmatch(job_id) or not (folder / "record.json").exists():
            return Standing(JobState.ABSENT)
        if (ended := _read_json(folder / "ended.json")) is not None:
            return self._standing_ended(folder, ended)
        if _is_held(folder / "lock"):
            return self._standing_held(folder)
        if (ended := _read_json(folder / "ended.json")) is not None:  # it ended while we looked
            return self._standing_ended(folder, ended)
        return self._standing_alone(folder)

    def _standing_ended(self, folder: Path, ended: dict[str, Any]) -> Standing:
        """By the supervisor's record. That the job script could not begin is known at once: its exit code tells it,
        where the attempt has no record that would make it the program's own."""
        standing = _ended(ended)
        if standing.cause is not None or ended.get("exit_code") != UNUSABLE or not self._base_dir.is_dir():
            return standing
        job = self._exit_record(folder).parent
        if (job / "started.json").exists() or (job / "exit.json").exists():
            return standing
        said = _last_line(folder / "script.log") or f"exit code {UNUSABLE}"
        return Standing(JobState.ENDED, "container", f"the job could not begin: {said}", ended)

    def _standing_held(self, folder: Path) -> Standing:
        """Something of the job lives: it has not ended, unless only leftovers outlived its supervisor."""
        if not (folder / "started.json").exists():
            return Standing(JobState.PENDING)
        tended = any(_lives(_read_json(folder / name)) for name in ("process.json", "script.json"))
        if tended or not self._exit_record(folder).exists() or (folder / "ended.json").exists():
            return Standing(JobState.RUNNING)
        cause = "timeout" if (folder / "overdue").exists() else None
        return Standing(JobState.ENDED, cause, "processes that it left behind still run")

    def _exit_record(self, folder: Path) -> Path:
        record = _read_json(folder / "record.json") or {}
        return Path(str(record.get("attempt", ""))) / "job" / "exit.json"

    def _standing_alone(self, folder: Path) -> Standing:
        """Nothing of the job runs and no supervisor saw its end: the attempt's own folder decides."""
        if not self._base_dir.is_dir():
            return Standing(JobState.UNKNOWN, message=f"{self._base_dir} is not there")
        job = self._exit_record(folder).parent
        if (folder / "overdue").exists():
            return Standing(JobState.ENDED, "timeout", "it reached its time limit; its supervisor had been killed")
        if (job / "exit.json").exists():
            return Standing(JobState.ENDED, message="its supervisor was killed; the job's own record stands")
        if (job / "claims").is_dir() and any((job / "claims").iterdir()):
            return self._standing_lost(folder)
        if (folder / "cancel").exists():
            return Standing(JobState.ENDED, CAUSES["cancelled"], "cancelled before it began")
        return Standing(JobState.HELD)

    def _standing_lost(self, folder: Path) -> Standing:
        process = _read_json(folder / "process.json") or {}
        if process.get("boot_id") not in (None, _boot_id()):
            return Standing(JobState.ENDED, "node-failure", "this machine was started anew while the job ran")
        return Standing(JobState.ENDED, "lost", "its processes were killed before they recorded an end")

    # --- ending ---------------------------------------------------------------------------------------------

    def _end_overdue(self, folder: Path, started_at: datetime | None) -> None:
        """The time limit of a job that lost its supervisor, who would have kept to it."""
        record = _read_json(folder / "record.json") or {}
        if started_at is None or "time_seconds" not in record:
            return
        overdue = (self._clock.now() - started_at).total_seconds() - float(record["time_seconds"])
        if overdue <= 0:
            return
        if not (folder / "overdue").exists():
            self._write(folder / "overdue", {"format": 1, "at": self._clock.now().isoformat()})
        if overdue <= float(record["kill_after_seconds"]) and not self._exit_record(folder).exists():
            self._end(folder)
        else:
            self._kill(folder)

    def list_held(self) -> list[FoundJob]:
        """None to be swept: nothing starts a held job here but a release, and `_sweep` forgets it."""
        return []

    def cancel(self, jobs: Sequence[JobTask]) -> None:
        """Mark each job, then tell its supervisor, or the script that lost it; what waits never begins."""
        with _available("cancelling"):
            for task in jobs:
                folder = self._jobs / task.job_id
                if not TOKEN.fullmatch(task.job_id) or not (folder / "record.json").exists():
                    continue
                if not (folder / "cancel").exists():
                    self._write(folder / "cancel", {"format": 1, "at": self._clock.now().isoformat()})
                self._end(folder)

    def _end(self, folder: Path) -> None:
        for name in ("process.json", "script.json"):
            process = _read_json(folder / name)
            if process is not None and self._signal(process, folder.name):
                return
        self._kill(folder)

    def _kill(self, folder: Path) -> None:
        for pid in _list_holders(folder / "lock"):
            with self._effects.around("process.signal", folder.name), contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _signal(self, process: dict[str, Any], job_id: str) -> bool:
        """TERM to exactly the recorded process: a descriptor first, then its start is compared."""
        pid = int(process["pid"])
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if not _lives(process):
                return False
            with self._effects.around("process.signal", job_id):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)

    # --- files ----------------------------------------------------------------------------------------------

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from self._jobs.iterdir()

    def _count_live(self) -> int:
        with _available("counting jobs"):
            return sum(1 for folder in self._folders() if self._is_live(folder))

    def _is_live(self, folder: Path) -> bool:
        if (folder / "ended.json").exists():
            return False
        return self._standing(folder.name).state not in (JobState.ENDED, JobState.ABSENT)

    def _sweep(self) -> None:
        """Forget jobs that ended long ago; the ops-db and the run directory keep what matters."""
        oldest = self._clock.now().timestamp() - KEPT_DAYS * 86400
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < oldest and not self._is_live(folder):
                    with self._effects.around("file.remove", str(folder)):
                        shutil.rmtree(folder, ignore_errors=True)

    def _make_folder(self, folder: Path) -> None:
        with self._effects.around("file.mkdir", str(folder)):
            folder.mkdir(parents=True, exist_ok=True)

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        """Atomically and durably: hidden name, fsync, rename, fsync of the folder."""
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        with self._effects.around("file.write", str(path)), hidden.open("w", encoding="ascii") as file:
            file.write(json.dumps(data) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with self._effects.around("file.rename", str(path)):
            hidden.rename(path)
        fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# --- reading ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _available(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SchedulerUnavailableError(
            f"local batch system: {doing} failed: {error}",
            next="check that STATE_DIR is there, writable and not full",
        ) from error


def _ended(ended: dict[str, Any]) -> Standing:
    cause = ended.get("cause")
    message = {"timeout": "it reached its time limit", "cancelled": "it was cancelled"}.get(str(cause), "")
    return Standing(JobState.ENDED, CAUSES.get(str(cause), cause), message, ended)


def _is_held(lock: Path) -> bool:
    """Whether some process holds the lock (flock(2): freed by the kernel when the last holder is gone)."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _last_line(log: Path) -> str:
    """Of a log, what was said last; empty where there is nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _list_holders(lock: Path) -> list[int]:
    """Processes that have the lock's file open, however they came by it (proc(5), /proc/PID/fd)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            holds = any(fd.readlink() == lock for fd in (folder / "fd").iterdir())
            if holds and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def _lives(process: dict[str, Any] | None) -> bool:
    """Whether exactly the recorded process lives: same boot, same pid, same start."""
    if process is None or process.get("boot_id") != _boot_id():
        return False
    return _start_ticks(int(process["pid"])) == process.get("start_ticks")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("format") == 1 else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_ticks(pid: int) -> int | None:
    """When a living process began, in clock ticks since boot (proc(5), fields 3 and 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])  # a zombie takes signals and does nothing


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def _whole(value: object, default: int) -> int:
    return default if value is None else int(str(value))
