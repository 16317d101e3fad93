"""Runs job scripts on this host and watches them. Touches: processes (those that it starts), inotify, files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccatwm.core.commands import HOST_PATH
from ccatwm.edges.trials import _offline
from ccatwm.edges.trials.opened import OpenedFiles
from ccatwm.interfaces import Effects

LOOK_SECONDS = 0.02
LAST_SECONDS = 1.0  # that processes which were told to end may take for it
OFFLINE = (sys.executable, "-I", str(Path(_offline.__file__)))


@dataclass(frozen=True)
class Watched:
    """How a job went: wall seconds, files opened meanwhile (None: not seen, for the reason `unseen`), seconds from TERM to
    its end, and what it left running."""

    seconds: float
    opened: frozenset[Path] | None
    unseen: str = ""
    timed_out: bool = False
    end_seconds: float = 0.0
    left: tuple[str, ...] = ()


class LocalTrials:
    """Job scripts as processes of this host, each in a session of its own."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def why_network_stays(self) -> str | None:
        """Why a program cannot be run without network here, or None if it can (with `OFFLINE` as its launcher)."""
        done = subprocess.run([*OFFLINE, "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")

    def run(
        self, argv: Sequence[str], *, watch: Iterable[Path], begun: Path, timeout_seconds: float,
        term_after_seconds: float | None = None,
    ) -> Watched:  # fmt: skip
        """Run a job to its end. TERM comes so long after the file `begun` is there, or at the time-out."""
        opened = OpenedFiles(watch)
        with self._effects.around("process.start", argv[0]):
            process = subprocess.Popen(
                ["/usr/bin/env", "--default-signal=INT,QUIT", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env={"PATH": HOST_PATH}, cwd="/", start_new_session=True,
            )  # fmt: skip
        try:
            return _watch(process, opened, begun, timeout_seconds, term_after_seconds)
        finally:  # Ctrl-C
            if process.poll() is None:
                process.kill()
                process.wait()
            _end_session(process.pid)


def _watch(
    process: subprocess.Popen[bytes], opened: OpenedFiles, begun: Path, timeout_seconds: float, term_after: float | None
) -> Watched:
    start = time.monotonic()
    if term_after is not None and _wait(process, opened, begun.exists, timeout_seconds):
        _wait(process, opened, lambda: False, term_after)
    limit = 0.0 if term_after is not None else timeout_seconds
    _wait(process, opened, lambda: False, limit)
    told, timed_out = time.monotonic(), process.poll() is None
    if timed_out:
        process.send_signal(signal.SIGTERM)
        process.wait()  # the job script kills the program when its time is up
    ended = time.monotonic()
    left = _end_session(process.pid)
    seen = opened.close()
    return Watched(
        ended - start, seen, opened.why_blind, timed_out and term_after is None, ended - told if timed_out else 0.0, left
    )


def _wait(
    process: subprocess.Popen[bytes], opened: OpenedFiles, true: Callable[[], bool], seconds: float
) -> bool:
    """Until something is true, the process has ended or the time is up; True for the first."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        opened.take()
        if true():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
    return process.poll() is not None and true()


def _end_session(session: int) -> tuple[str, ...]:
    """What is still there of a session whose leader has ended, by name; it is ended, too.

    What the leader has just told to end is not yet gone when it ends itself, least of all on a busy host.
    """
    deadline = time.monotonic() + LAST_SECONDS
    while _members(session) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    left = []
    for pid in _members(session):
        try:
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
            os.kill(pid, signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue
        left.append(f"{name} (pid {pid})")
    return tuple(left)


def _members(session: int) -> list[int]:
    """Living processes of a session: proc(5), field 6 of `stat`."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(name))
    return found
