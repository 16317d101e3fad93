"""`gc` is killed, or its effects fail, at every point: nothing that counts loses its file, and the next one goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ccatwm import wiring
from ccatwm.errors import UsageError
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from ccatwm.settings.schema import Settings
from tests.crash.points import SqliteStore, copy_world, fast_folder
from tests.crash.rig import CountingEffects, World, first_night, prepare, rebase, rows

pytestmark = pytest.mark.slow
DAY = 24 * 60
BROUGHT_BACK, REMOVED = 1, 2  # runs of the two calibrations


class GcWorld(World):
    """Calibrations may go after ten days, scratch never."""

    def settings(self) -> Settings:
        return replace(super().settings(), retention_intermediate_days=10.0, retention_scratch_days="keep")


def collect(context: Context) -> None:
    report, _ = wiring.run_gc(context, PassOptions(), lambda plan: None)
    assert report.error is None or failed_on_purpose(context), report.error


def bring_back(context: Context) -> None:
    with suppress(UsageError):  # it is back already: the one that was killed had done it
        report, _ = wiring.undo_gc(context, PassOptions(), BROUGHT_BACK, "needed")
        error = report.error
        assert error is None or isinstance(error, UsageError) or failed_on_purpose(context), error


def failed_on_purpose(context: Context) -> bool:
    assert isinstance(context.effects, CountingEffects)
    return context.effects.mode == "fail"


STORY: tuple[tuple[int, Callable[[Context], None]], ...] = ((11, collect), (11, bring_back), (14, collect))


@dataclass(frozen=True)
class Begin:
    """The state that each point begins with, and the effects of the story without any fault."""

    folder: Path
    url: str
    effects: int


@pytest.fixture(scope="module")
def begin() -> Iterator[Begin]:
    root = fast_folder()
    folder = root / "begin"
    folder.mkdir()
    world = World(folder, SqliteStore().make(folder), in_process=True)
    prepare(world)
    first_night(world)
    counted = run_story(GcWorld(folder=root / "counted", url=copied(folder, world.url, root / "counted")))
    yield Begin(folder, world.url, counted.counter.get())
    shutil.rmtree(root)


def copied(folder: Path, url: str, target: Path) -> str:
    made = copy_world(folder, url, target, SqliteStore())
    rebase(target, made, folder)
    return made


def run_story(world: GcWorld) -> GcWorld:
    """Each step until it comes to its end, with a look at what counts after each try."""
    files = sorted(path.name for path in world.base.rglob("*") if path.is_file())
    for number, (day, act) in enumerate(STORY):
        world.tick = day * DAY + 10 * number
        ended = world.in_child(act)
        look(world)
        if number < 2:
            assert sorted(path.name for path in world.base.rglob("*") if path.is_file()) == files
        if not ended or world.mode == "fail":
            assert world.in_child(act)
            look(world)
    return world


def look(world: GcWorld) -> None:
    """Whatever counts as present is there, byte by byte."""
    for product in rows(world.url, "data_product"):
        if product["status"] == "present":
            content = (world.base / product["full_path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == product["sha256"]


def left(world: GcWorld) -> tuple[dict[int, set[str]], list[str], list[str]]:
    """Status of products by run, what lies in the trash, and what of the removed run's output lies anywhere."""
    found: dict[int, set[str]] = {}
    for product in rows(world.url, "data_product"):
        found.setdefault(product["run_id"], set()).add(product["status"])
    removed = [str(p) for p in world.base.glob(f"otf/calibrate/*/run-{REMOVED}/attempt-*/output")]
    return found, [p.name for p in (world.base / ".trash").iterdir()], removed


@pytest.mark.parametrize("mode", ["after", "fail"])
def test_gc_survives_a_fault_at_every_effect(begin, mode, record_property):
    assert begin.effects > 20
    step = 1 if mode == "after" else 3  # a failing effect of one kind is like another
    for k in range(1, begin.effects + 1, step):
        root = fast_folder()
        try:
            world = GcWorld(root / "w", copied(begin.folder, begin.url, root / "w"), kill_at=k, mode=mode)
            run_story(world)
            assert left(world) == ({BROUGHT_BACK: {"present"}, REMOVED: {"removed"}, 3: {"present"}}, [], []), k
            assert [bool(row["deleted_at"]) for row in rows(world.url, "trash") if not row["undone_at"]] == [True], k
        finally:
            shutil.rmtree(root, ignore_errors=True)
    record_property("found", f"gc: {begin.effects} effects, {mode}")


