"""The ops-db goes away in the middle of each pass: that ends with 4, and later passes lose nothing and do nothing twice."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.edges.clock import SystemClock
from ccatwm.edges.opsdb.engine import Database
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from tests.crash.campaign import write_campaign
from tests.crash.rig import World, check, raw_digest
from tests.passes.away import OwnServer, Strike, own_server, pass_here, pass_in_child
from tests.passes.bad_world import as_site
from tests.passes.conftest import Observatory

IDLE = 2  # commits of a pass without work: its lease, its record
ROUNDS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server() as made:
        yield made


def first_night(folder: Path, url: str) -> Observatory:
    folder.mkdir(exist_ok=True)
    write_campaign(folder)
    made = Observatory(folder, url)
    made.arrive("night.yaml")
    made.apply()
    return made


@dataclass(frozen=True)
class Rehearsal:
    """Of each pass: the first round in which it has work, and how many effects and commits it has then."""

    rounds: dict[str, int] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)


def rehearse(observatory: Observatory) -> Rehearsal:
    """The campaign without faults, in this process: children find statements compiled."""
    found = Rehearsal()
    for number in range(ROUNDS):
        for name in wiring.PASSES:
            observatory.minute += 1
            every, commits = Strike(0), Strike(0, name="db.commit")
            wiring.run_pass(name, observatory.context(Both(every, commits)), PassOptions())
            if every.count > IDLE and name not in found.rounds:
                found.rounds[name], found.effects[name], found.commits[name] = (
                    number,
                    every.count,
                    commits.count,
                )
        observatory.jobs()
    assert set(found.rounds) == set(wiring.PASSES)
    return found


class Both:
    """Two that count the same effects."""

    def __init__(self, *several: Strike) -> None:
        self._several = several

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        with ExitStack() as stack:
            for one in self._several:
                stack.enter_context(one.around(name, detail))
            yield


@pytest.fixture(scope="module")
def rehearsal(server: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return rehearse(first_night(tmp_path_factory.mktemp("rehearsal") / "world", server.make(upgraded=True)))


@pytest.fixture(scope="module")
def rehearsal_on_sqlite(upgraded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("rehearsal") / "world"
    return rehearse(first_night(folder, copied(upgraded_sqlite, folder)))


def copied(template: Path, folder: Path) -> str:
    folder.mkdir()
    shutil.copy(template, folder / "opsdb.sqlite")
    return f"sqlite:///{folder}/opsdb.sqlite"


def survive(
    observatory: Observatory,
    rehearsal: Rehearsal,
    strike: Callable[[str], Strike],
    mend: Callable[[], None] = lambda: None,
    prepare: Callable[[Context], None] = lambda context: None,
) -> None:
    """Each pass is struck when it first has work; in the end everything is as if nothing had happened."""
    raw = raw_digest(observatory.folder)
    for number in range(ROUNDS):
        for name in wiring.PASSES:
            if rehearsal.rounds[name] == number:
                answer = pass_in_child(observatory, name, strike(name), prepare)
                mend()
                assert_world_did_not_answer(name, answer)
            again = pass_here(observatory, name)
            assert (name, again.exit_code, again.skipped) == (name, 0, None)
        observatory.jobs()
        if [r["status"] for r in observatory.runs()] == ["COMPLETED"] * 3:
            break
    world = World(observatory.folder, observatory.url, wanted={"calibrate": 2, "grid": 1}, scans=2)
    assert check(world, raw) == []
    assert [r["attempt"] for r in observatory.runs()] == [1, 1, 1]


def assert_world_did_not_answer(name: str, answer: dict[str, Any]) -> None:
    assert answer["struck"], f"{name} came to its end before the strike"
    assert (name, answer["code"]) == (name, 4)
    error = answer["report"]["error"]
    assert (error["class"], error["next"]) == ("OpsDbUnavailableError", "the next pass tries again")
    assert error["message"].startswith("the ops-db did not answer: ")
    assert "\n" not in error["message"]


SHARES = pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])


def part(count: int, share: float) -> int:
    """The number of an effect, of so many."""
    return 1 + round((count - 1) * share)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@SHARES
def test_a_server_that_stops_in_each_pass_costs_nothing_but_time(server, rehearsal, tmp_path, share):
    night = first_night(tmp_path / "world", server.make(upgraded=True))
    survive(
        night, rehearsal, lambda name: Strike(part(rehearsal.effects[name], share), server.stop), server.start
    )


@pytest.mark.postgres
@SHARES
def test_connections_that_are_ended_in_each_pass_cost_nothing_but_time(server, rehearsal, tmp_path, share):
    url = server.make(upgraded=True)
    night = first_night(tmp_path / "world", url)
    database = str(sa.make_url(url).database)

    def strike(name: str) -> Strike:
        at = part(rehearsal.commits[name], share)
        return Strike(at, lambda: server.break_connections(database), name="db.commit")

    survive(night, rehearsal, strike)


# What a pass reads or writes first once it has its lease.
TABLES = {
    "trigger": "change_cursor",
    "resolve": "changed_package",
    "stage": "executed_reduction_step",
    "submit": "submission",
    "poll": "executed_reduction_step",
    "collect": "executed_reduction_step",
}


@pytest.mark.postgres
def test_a_command_whose_ops_db_goes_away_exits_4_with_one_message(server, tmp_path):
    """It waits for a lock in the middle of its work when its connection is ended."""
    url = server.make(upgraded=True)
    night = first_night(tmp_path / "world", url)
    site = as_site(night)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for name, table in TABLES.items():
        with engine.connect() as connection:
            connection.execute(sa.text(f"LOCK TABLE ccatwm.{table} IN ACCESS EXCLUSIVE MODE"))
            command = subprocess.Popen(
                [sys.executable, "-m", "ccatwm", "--site", site, name], stderr=subprocess.PIPE, text=True
            )
            end_whoever_waits(url)
            _, said = command.communicate(timeout=30)
        assert (name, command.returncode) == (name, 4)
        first, second = said.splitlines()
        assert first.startswith("ccatwm: postgresql://") and ": the ops-db did not answer: " in first
        assert second == "  next: the next pass tries again"
        (night.folder / "state" / "conditions.json").unlink()  # the same condition is told once
    night.until_quiet()
    assert [(r["status"], r["attempt"]) for r in night.runs()] == [("COMPLETED", 1)] * 3


@pytest.mark.postgres
def test_a_cycle_without_an_ops_db_exits_4_with_one_message_for_all_passes(server, tmp_path):
    night = first_night(tmp_path / "world", server.make(upgraded=True))
    site = as_site(night)
    server.stop()
    command = [sys.executable, "-m", "ccatwm", "--site", site, "cycle"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        server.start()
    assert (done.returncode, done.stdout) == (4, "")
    assert [": the ops-db did not answer: " in line for line in done.stderr.splitlines()] == [True, False]
    assert done.stderr.endswith("  next: the next pass tries again\n")
    night.until_quiet()
    assert [(r["status"], r["attempt"]) for r in night.runs()] == [("COMPLETED", 1)] * 3


def end_whoever_waits(url: str) -> None:
    """End the connection that waits for a lock, as soon as there is one."""
    clock = SystemClock()
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for _ in range(1000):
            if connection.execute(sa.text(query)).all():
                return
            clock.sleep(0.02)
    raise AssertionError("nobody waited for the lock")


@pytest.mark.postgres
def test_transactions_share_a_session_and_one_that_was_ended_meanwhile_is_replaced(server):
    """Between two rounds of a manager its ops-db may be started anew: the next round does not fail for it."""
    url = server.make(upgraded=True)
    database = Database(url)

    def session() -> int:
        with database.write() as connection:
            return connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()

    first = session()
    assert session() == first
    server.break_connections(sa.make_url(url).database)
    second = session()
    assert second != first and session() == second
    database.dispose()


# --- SQLite -------------------------------------------------------------------------------------------------------


@SHARES
def test_a_file_that_another_writer_keeps_locked_costs_nothing_but_time(
    upgraded_sqlite, rehearsal_on_sqlite, tmp_path, share
):
    night = first_night(tmp_path / "world", copied(upgraded_sqlite, tmp_path / "world"))

    def impatient(context: Context) -> None:
        context.database = Database(night.url, context.effects, busy_seconds=0.05)

    survive(night, rehearsal_on_sqlite, lambda name: between(rehearsal_on_sqlite, name, share, lock(night)),
            prepare=impatient)  # fmt: skip


def between(rehearsal: Rehearsal, name: str, share: float, act: Callable[[], None]) -> Strike:
    """After a commit that is not the last: no transaction is open then."""
    return Strike(part(rehearsal.commits[name] - 1, share), act, "after", "db.commit")


def lock(night: Observatory) -> Callable[[], None]:
    held = []

    def act() -> None:
        connection = sqlite3.connect(night.folder / "opsdb.sqlite", timeout=5)
        connection.execute("BEGIN IMMEDIATE")
        held.append(connection)  # until this process ends

    return act


@SHARES
def test_a_file_that_is_taken_away_is_not_replaced_by_an_empty_one(
    upgraded_sqlite, rehearsal_on_sqlite, tmp_path, share
):
    night = first_night(tmp_path / "world", copied(upgraded_sqlite, tmp_path / "world"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def take_away() -> None:
        for file in night.folder.glob("opsdb.sqlite*"):
            file.rename(elsewhere / file.name)

    def bring_back() -> None:
        assert list(night.folder.glob("opsdb.sqlite*")) == []
        for file in elsewhere.iterdir():
            file.rename(night.folder / file.name)

    survive(
        night,
        rehearsal_on_sqlite,
        lambda name: between(rehearsal_on_sqlite, name, share, take_away),
        bring_back,
    )


def test_a_file_that_becomes_no_database_waits_for_a_person(upgraded_sqlite, tmp_path):
    night = first_night(tmp_path / "world", copied(upgraded_sqlite, tmp_path / "world"))
    file, kept = night.folder / "opsdb.sqlite", tmp_path / "kept"

    def replace() -> None:
        for one in night.folder.glob("opsdb.sqlite*"):
            one.rename(kept.with_name(f"kept{one.name.removeprefix('opsdb.sqlite')}"))
        file.write_bytes(b"no database" * 1000)

    answer = pass_in_child(night, "trigger", Strike(1, replace, "after", "db.commit"))
    assert (answer["struck"], answer["code"]) == (True, 3), answer
    error = answer["report"]["error"]
    assert error["class"] == "OpsDbUnusableError"
    assert "db restore" in error["next"], error
    assert file.read_bytes() == b"no database" * 1000
