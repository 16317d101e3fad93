"""What must be taken down even if nobody is left to do it: after kill -9, or Ctrl-C in the middle of tidying up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

WATCH = "import subprocess, sys\nsys.stdin.buffer.read() or subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)"


def run_when_gone(*command: str | Path, **environment: str) -> Callable[[], None]:
    """Once this process is gone a process of its own session runs the command; the answer calls it off."""
    reading, writing = os.pipe()
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-c", WATCH, *command],
        stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **environment}, cwd="/",
    )  # fmt: skip
    os.close(reading)

    def call_off() -> None:
        os.write(writing, b"not needed")
        os.close(writing)
        watcher.wait()

    return call_off
