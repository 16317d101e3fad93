"""Two worlds are taken for one only where nothing but chance tells them apart."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.rig import World
from tests.crash.states import Ended, Trail, state_key

pytestmark = pytest.mark.quick
TOKENS = ("aaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccccccccc")
BOOT = "b363df7d-bd9b-45c1-9895-7f6c774658e9.pid:[4026531836]"


def make_world(folder: Path, tokens: tuple[str, ...] = TOKENS[:2], pid: int = 7) -> World:
    base = folder / "base"
    base.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "opsdb.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE submission (id INTEGER PRIMARY KEY, token TEXT, status TEXT)")
        connection.executemany("INSERT INTO submission (token, status) VALUES (?, 'INTENT')", [(t,) for t in tokens])
        connection.execute("CREATE TABLE staged_package (directory TEXT, claimed_by TEXT)")
        connection.execute("INSERT INTO staged_package VALUES (?, ?)", (f"{base}/p", f"{BOOT}:{pid}:{pid * 11}"))
        connection.execute("CREATE TABLE pass_lease (pass_name TEXT, location TEXT, holder TEXT, pid INTEGER)")
        connection.execute("INSERT INTO pass_lease VALUES ('stage', 'local', ?, ?)", (f"{BOOT}:{pid}", pid))
        connection.execute("CREATE TABLE pass_record (pid INTEGER)")
        connection.execute("INSERT INTO pass_record VALUES (?)", (pid,))
    (base / f".p.{pid:012x}.part").mkdir()
    for number, token in enumerate(tokens):
        (base / token).write_text(f"{number} {base}")
    os.link(base / tokens[0], base / "linked")
    (base / "link").symlink_to(base / tokens[0])
    return World(folder, f"sqlite:///{folder}/opsdb.sqlite", kill_at=3, mode="after")


def execute(world: World, statement: str) -> None:
    with closing(sqlite3.connect(world.folder / "opsdb.sqlite")) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "one")


@pytest.mark.parametrize("tokens", [TOKENS[1:], TOKENS[1::-1]], ids=["others", "the same, the other way round"])
def test_place_tokens_and_process_do_not_matter(world: World, tmp_path: Path, tokens: tuple[str, ...]):
    assert state_key(make_world(tmp_path / "two", tokens, pid=8)) == state_key(world)


def swap_files(base: Path) -> None:
    (base / TOKENS[0]).rename(base / "x")
    (base / TOKENS[1]).rename(base / TOKENS[0])
    (base / "x").rename(base / TOKENS[1])


def relink(base: Path) -> None:
    (base / "link").unlink()
    (base / "link").symlink_to(base / TOKENS[1])


CHANGES: dict[str, Callable[[Path], object]] = {
    "one more file": lambda base: (base / "new").touch(),
    "one more folder": lambda base: (base / "new").mkdir(),
    "one more partial folder": lambda base: (base / ".p.0123456789ab.part").mkdir(),
    "a file less": lambda base: (base / TOKENS[1]).unlink(),
    "other content": lambda base: (base / TOKENS[1]).write_bytes(b"\xff"),
    "another mode": lambda base: (base / TOKENS[1]).chmod(0o400),
    "a link that is a copy": lambda base: ((base / "linked").unlink(), (base / "linked").write_text(f"0 {base}")),
    "a symbolic link to another file": relink,
    "the files of two tokens exchanged": swap_files,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_a_file_is_another_state(world: World, change: Callable[[Path], object]):
    before = state_key(world)
    change(world.base)
    assert state_key(world) != before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE submission SET status = 'RELEASED' WHERE id = 2",
        "UPDATE submission SET id = 3 WHERE id = 2",
        "DELETE FROM submission WHERE id = 2",
        "UPDATE submission SET token = 'none' WHERE id = 2",
        "UPDATE staged_package SET claimed_by = NULL",
        "UPDATE pass_lease SET holder = NULL",
        "CREATE TABLE another (id INTEGER)",
    ],
)
def test_every_change_of_a_row_is_another_state(world: World, statement: str):
    before = state_key(world)
    execute(world, statement)
    assert state_key(world) != before


def test_the_time_and_what_is_asked_for_are_of_the_state(world: World):
    others = [replace(world, tick=1), replace(world, mode="fail"), replace(world, scans=2), replace(world, wanted={})]
    assert len({state_key(other) for other in (world, *others)}) == 5


def test_only_what_ended_well_after_its_fault_is_known(world: World, tmp_path: Path):
    ended = Ended(tmp_path)
    first, second = Trail(world, ended), Trail(world, ended)
    first.end_well()
    assert not first.joins_another() and first.keys == [], "the fault is still to come"
    world.counter.set(3)
    assert not first.joins_another() and not second.joins_another(), "it came to no end yet"
    first.end_well()
    assert second.joins_another()
