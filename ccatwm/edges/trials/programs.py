"""Runs a program to its end on this host. Touches: a process, two files for what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def run_program(argv: Sequence[str], *, cwd: Path, stdout: Path, stderr: Path) -> int:
    """Its exit code as a shell tells it: 128 and more where a signal ended it. It has nothing to read.

    Errors: OSError where it cannot be started.
    """
    with stdout.open("wb") as out, stderr.open("wb") as err:
        done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
