"""Processes by pid file, told apart from others that got the same number later. Touches: processes, /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from layout import Layout


def start_process(layout: Layout, service: str, argv: Sequence[str], *, user: str | None = None) -> None:
    """Start a daemon in the foreground of a session of its own: it outlives this program and its terminal."""
    # Only subprocess's own rule is asked for here: None means as who runs this.
    with layout.log(service).open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=layout.dir,
            env={**layout.environment, "MYSQL_UNIX_PORT": str(layout.database_socket)},
            umask=0o022,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    layout.pid_file(service).write_text(f"{process.pid} {_started(process.pid)}\n")


def find_pid(layout: Layout, service: str) -> int | None:
    """The live process of this service, or None."""
    try:
        pid, started = map(int, layout.pid_file(service).read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    return pid if _started(pid) == started and _state(pid) != "Z" else None


def is_paused(pid: int) -> bool:
    return _state(pid) == "T"


def send(layout: Layout, service: str, number: signal.Signals) -> bool:
    """Whether there was a process to signal."""
    pid = find_pid(layout, service)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True


def stop_process(layout: Layout, service: str, *, patience: float = 5.0) -> None:
    """Ask, wait, then kill. One that is paused could not hear."""
    if send(layout, service, signal.SIGTERM):
        send(layout, service, signal.SIGCONT)
        if not wait_until(lambda: find_pid(layout, service) is None, patience):
            send(layout, service, signal.SIGKILL)
            wait_until(lambda: find_pid(layout, service) is None, patience)
    layout.pid_file(service).unlink(missing_ok=True)


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.02) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def kill_leftovers(layout: Layout, uid: int | None, known: Callable[[], set[int]]) -> None:
    """What jobs and SSH sessions left behind, with or without their daemons; and those known otherwise."""
    wait_until(lambda: not _kill_all(_leftovers(layout, uid) | known()), 5.0)


def _kill_all(pids: set[int]) -> set[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _leftovers(layout: Layout, uid: int | None) -> set[int]:
    """With their children, who may have changed whatever they are known by."""
    found = {pid for pid in _all_pids() if _is_leftover(layout, uid, pid)}
    parents = {pid: int(fields[1]) for pid in _all_pids() if (fields := _stat(pid)) and fields[0] != "Z"}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid(), os.getppid()}


def _is_leftover(layout: Layout, uid: int | None, pid: int) -> bool:
    """A process of the throw-away user, a job's (of root's too), or the guard of a job's step."""
    try:
        if _state(pid) in ("Z", None):
            return False
        if uid is not None and os.stat(f"/proc/{pid}").st_uid == uid:
            return True
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        of_job = any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
        if of_job and f"SLURM_CONF={layout.slurm_conf}".encode() in environment:
            return True
        # A guard has overwritten its environment with its title, but is still where slurmd was started.
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name == "slurmstepd" and Path(os.readlink(f"/proc/{pid}/cwd")) == layout.dir
    except OSError:
        return False


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    # The name in the second field may hold blanks and parentheses (proc(5)): read from its last one.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _state(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[0] if fields else None


def _started(pid: int) -> int:
    """In clock ticks since the machine started, field 22 of proc(5): with the pid it names one process only."""
    fields = _stat(pid)
    return int(fields[19]) if fields else -1
