"""The process that runs one local job and outlives the pass. Touches: processes, the job's folder, slots.

Started as `python -I -S _supervisor.py JOB_FOLDER`; imports little, to start in milliseconds. It detaches,
holds the job's lock (the job inherits it, so it is free only when nothing of the job runs), waits for a slot,
runs the job script, enforces the time limit, ends what the job leaves behind, and writes `ended.json`.
"""

# pathlib would double the start-up time.

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
import time
from typing import Any

TICK_SECONDS = 1.0
SLOT_SECONDS = 0.1
LOCK_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class LeftQueue(Exception):
    """The job was cancelled while it waited."""


class Job:
    """One job under supervision; `waiting` allows the signal handler to break off a blocking lock."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.record: dict[str, Any] = read_json(os.path.join(folder, "record.json"))
        self.lock = -1
        self.slot = -1
        self.waiting = False
        self.terminated = False

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def cancelled(self) -> bool:
        return self.terminated or os.path.exists(self.path("cancel"))

    def on_signal(self, number: int, frame: object) -> None:
        self.terminated = True
        if self.waiting:
            raise LeftQueue


# --- small things -------------------------------------------------------------------------------------------


def read_json(path: str) -> Any:
    with open(path, "rb") as file:
        return json.loads(file.read())


def write_json(folder: str, name: str, data: dict[str, Any]) -> None:
    """Atomically: hidden name, fsync, rename, fsync of the folder."""
    hidden = os.path.join(folder, f".{name}.{os.getpid()}")
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, json.dumps(data).encode("ascii") + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(hidden, os.path.join(folder, name))
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1_000_000):06d}Z"


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (proc(5)); the second may hold spaces and brackets."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode("ascii").split()


def start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot: with the pid it names one process."""
    return int(stat_fields(pid)[19])


def identity(pid: int) -> dict[str, Any]:
    return {"format": 1, "pid": pid, "start_ticks": start_ticks(pid), "boot_id": boot_id()}


# --- beginning ----------------------------------------------------------------------------------------------


def take_lock(path: str) -> int:
    """The job's lock, or -1 if another supervisor, or a job that lost its own, has it.

    Somebody who only looks takes it for a moment, hence the patience.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return -1
            time.sleep(0.02)


def detach() -> int:
    """Go on in a child with a session of its own; the starter ends when what this returns is closed."""
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        os.close(ready_read)
        os.setsid()
        return ready_write
    os.close(ready_write)
    os.read(ready_read, 1)
    os._exit(0)


def announce(job: Job, starter: int) -> None:
    """Say who supervises, before anything of the job can happen."""
    write_json(job.folder, "process.json", {**identity(os.getpid()), "host": os.uname().nodename})
    os.close(starter)


# --- slots --------------------------------------------------------------------------------------------------


def wait_for_slot(job: Job) -> None:
    """First come, first served: the kernel queues on one lock, and only its holder looks for a free slot."""
    folder = str(job.record["slots_dir"])
    os.makedirs(folder, exist_ok=True)
    queue = os.open(os.path.join(folder, "queue"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        job.waiting = True
        if job.cancelled():
            raise LeftQueue
        fcntl.flock(queue, fcntl.LOCK_EX)
        while (slot := find_slot(folder, int(job.record["slots"]))) < 0:
            if job.cancelled():
                raise LeftQueue
            time.sleep(SLOT_SECONDS)
        job.slot = slot
    finally:
        job.waiting = False
        os.close(queue)


def find_slot(folder: str, slots: int) -> int:
    """A descriptor that holds a free slot, or -1."""
    for number in range(slots):
        fd = os.open(os.path.join(folder, str(number)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            os.close(fd)
    return -1


# --- running ------------------------------------------------------------------------------------------------

WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def start_script(job: Job) -> int:
    """Run the job script; it inherits the locks of job and slot."""
    script = [str(part) for part in job.record["command"]]
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(job.path("script.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd in (job.lock, job.slot):
            os.set_inheritable(fd, True)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execve(script[0], script, {str(k): str(v) for k, v in job.record["environment"].items()})
    except BaseException as error:
        os.write(2, f"cannot start {script[0]}: {error}\n".encode("utf-8", "replace"))
    os._exit(78)


def supervise(job: Job, script: int) -> tuple[int, str | None]:
    """Wait for the script, reaping everything; (exit code as a shell says it, why it was ended or None)."""
    began = time.monotonic()
    deadline = began + float(job.record["time_seconds"])
    kill_at: float | None = None
    cause: str | None = None
    while True:
        code = reap(script)
        if code is not None:
            return code, cause
        now = time.monotonic()
        if cause is None:
            cause = "cancelled" if job.cancelled() else "timeout" if now >= deadline else None
            if cause is not None:
                kill_at = now + float(job.record["kill_after_seconds"])
                os.kill(script, signal.SIGTERM)
        elif kill_at is not None and now >= kill_at:
            kill_descendants()
        wait_for_news(job, (kill_at or deadline) - now)


def wait_for_news(job: Job, seconds: float) -> None:
    got = signal.sigtimedwait(WATCHED, max(0.02, min(TICK_SECONDS, seconds)))
    if got is not None and got.si_signo != signal.SIGCHLD:
        job.terminated = True


def reap(script: int) -> int | None:
    """Collect all children that have ended; the exit code of the script if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == script:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


# --- ending -------------------------------------------------------------------------------------------------


def list_descendants() -> list[int]:
    """All processes below this one, whatever their session: orphans become children of a subreaper."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                children.setdefault(int(stat_fields(int(name))[1]), []).append(int(name))
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_descendants() -> None:
    for pid in list_descendants():
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def end_leftovers() -> None:
    """Kill until there is nobody left to wait for."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            kill_descendants()
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def record_end(job: Job, cause: str | None, code: int | None, began: float | None, wall: float) -> None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended: dict[str, Any] = {"format": 1, "cause": cause, "exit_code": code, "ended_at": utc(time.time())}
    ended["host"] = os.uname().nodename
    if began is not None:
        ended["started_at"] = utc(began)
        ended["wall_seconds"] = wall
        ended["cpu_hours"] = (used.ru_utime + used.ru_stime) / 3600
        ended["peak_memory_gb"] = used.ru_maxrss / (1 << 20)  # KiB: getrusage(2)
    write_json(job.folder, "ended.json", ended)


def run(job: Job) -> None:
    wait_for_slot(job)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    if job.cancelled():
        raise LeftQueue
    began, began_monotonic = time.time(), time.monotonic()
    write_json(job.folder, "started.json", {"format": 1, "started_at": utc(began), "boot_id": boot_id()})
    script = start_script(job)
    write_json(job.folder, "script.json", identity(script))
    code, cause = supervise(job, script)
    end_leftovers()
    record_end(job, cause, code, began, time.monotonic() - began_monotonic)


def main(folder: str) -> None:
    job = Job(folder)
    job.lock = take_lock(job.path("lock"))
    if job.lock < 0 or os.path.exists(job.path("ended.json")):
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, job.on_signal)
    starter = detach()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    announce(job, starter)
    try:
        run(job)
    except LeftQueue:
        record_end(job, "cancelled", None, None, 0.0)


if __name__ == "__main__":
    main(sys.argv[1])
