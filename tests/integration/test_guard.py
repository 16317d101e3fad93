"""What is left to be done when whoever runs the tests is gone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.guard import run_when_gone

PROJECT = Path(__file__).resolve().parents[2]
KILLED = "from tests.guard import run_when_gone\nrun_when_gone('touch', sys.argv[1])\nos.kill(os.getpid(), 9)"


def test_it_is_done_after_kill_9(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import os, sys\n{KILLED}", tmp_path / "done"], cwd=PROJECT)
    assert done.returncode == -9
    until = time.monotonic() + 30
    while not (tmp_path / "done").exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_it_is_not_done_once_it_was_called_off(tmp_path: Path) -> None:
    run_when_gone("touch", tmp_path / "done")()  # ends when the watcher has ended
    assert not (tmp_path / "done").exists()
