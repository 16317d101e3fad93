"""Passes are killed, or their effects fail, at every point of a small campaign; what is left is checked.

`bin/crash --all` takes every effect in every mode on both databases; here: kills on SQLite and with real jobs at every kind
of effect (`--thin`: of those that come in rows some), and a regular sample of failing effects and of PostgreSQL. A kill
before an effect leaves what a kill after the one before it leaves, so `after` is every point.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]
Tell = Callable[[str, object], None]


def crash(record_property: Tell, *arguments: str) -> None:
    """Run the rig in a process of its own (small ones fork faster); its counts are told at the end."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.crash.points", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1500)
    record_property("found", f"crash {' '.join(arguments)}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) effects, (\d+) points, 0 wrong", done.stdout)
    assert counts is not None
    assert int(counts[1]) > 100


def test_kills_on_sqlite_are_survived(record_property):
    crash(record_property, "--mode", "after", "--thin")


def test_failing_effects_on_sqlite_are_survived(record_property):
    crash(record_property, "--mode", "fail", "--every", "25")


def test_kills_with_real_jobs_are_survived(record_property):
    crash(record_property, "--campaign", "local", "--mode", "after", "--thin")


def test_a_kill_amid_an_eviction_and_what_follows_it_is_survived(record_property):
    """The cache has room for one package; `--campaign tight` alone takes every point."""
    names = ("--match", r"rename scan-\d-LFA-|rmdir \.scan")
    crash(record_property, "--campaign", "tight", "--mode", "after", *names)


@pytest.mark.postgres
def test_kills_on_postgresql_are_survived(record_property):
    crash(record_property, "--database", "postgresql", "--mode", "after", "--every", "120")


def test_a_job_that_a_batch_system_runs_twice_is_executed_once(record_property):
    crash(record_property, "--campaign", "twice", "--only", "1")
