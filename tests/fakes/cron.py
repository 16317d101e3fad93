"""A real cron daemon that sees one crontab of a test, and nothing of the machine's. Touches: mounts of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guard import run_when_gone

# Everything that Debian's cron reads of crontabs, and where its pid goes, is laid over in a mount namespace of its own.
START = """
set -e
mount --make-rprivate /
mount --bind "$1/spool" /var/spool/cron/crontabs
mount --bind "$1/cron.d" /etc/cron.d
mount --bind "$1/crontab" /etc/crontab
mount --bind "$1/run" /run
exec cron -f
"""
# In place of /bin/sh: runs a line as cron would, and keeps what came of it: exit code, output, environment.
RECORDER = """#!/bin/sh
out=$(/bin/sh "$@" 2>&1)
code=$?
number=$$
printf '%s\\n' "$code" "$2" "$out" >"{folder}/records/.$number"
env >"{folder}/environment"
mv "{folder}/records/.$number" "{folder}/records/$number"
exit $code
"""


@dataclass(frozen=True)
class Line:
    """What became of a line of the crontab, once."""

    code: int
    command: str
    said: str


@dataclass(frozen=True)
class Cron:
    """A daemon at work."""

    folder: Path

    def lines(self) -> list[Line]:
        files = sorted(p for p in (self.folder / "records").iterdir() if not p.name.startswith("."))
        parts = [path.read_text().split("\n", 2) for path in files]
        return [Line(int(code), command, said.strip()) for code, command, said in parts]

    def wait(self, true: Callable[[list[Line]], bool], seconds: float) -> list[Line]:
        """The lines as soon as something is true of them, or when the time is up."""
        end = time.monotonic() + seconds
        while not true(self.lines()) and time.monotonic() < end:
            time.sleep(0.5)
        return self.lines()

    def environment(self) -> set[str]:
        return {line.partition("=")[0] for line in (self.folder / "environment").read_text().splitlines()}


def why_no_cron() -> str | None:
    """Why no daemon can be had here."""
    if os.geteuid() != 0:
        return "only root can start a cron daemon that leaves the machine's crontabs alone"
    if shutil.which("cron", path="/usr/sbin:/usr/bin") is None:
        return "cron is not installed (bin/install-cron installs it on Debian)"
    tried = subprocess.run(["unshare", "--mount", "mount", "--make-rprivate", "/"], capture_output=True, text=True)
    return f"no mount namespace can be had: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def running_cron(folder: Path, crontab: str) -> Iterator[Cron]:
    """cron with this crontab, of the account that runs the tests; ended and gone at the end."""
    if why := why_no_cron():
        pytest.skip(why)
    folder.mkdir()
    for name in ("spool", "cron.d", "run", "records"):
        (folder / name).mkdir()
    (folder / "crontab").touch()
    recorder = folder / "recorder"
    recorder.write_text(RECORDER.replace("{folder}", str(folder)))
    recorder.chmod(0o755)
    table = folder / "spool" / "root"
    table.write_text(f"SHELL={recorder}\n{crontab}\n")
    table.chmod(0o600)
    command = ["unshare", "--mount", "/bin/sh", "-c", START, "start", str(folder)]
    daemon = subprocess.Popen(
        command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=(folder / "stderr").open("w"),
    )  # fmt: skip
    call_off = run_when_gone("kill", str(daemon.pid))
    try:
        yield Cron(folder)
    finally:
        call_off()
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)
