"""`gc` where all files are behind a real SSH connection, whole and broken off at each of its calls."""

from __future__ import annotations

import gc as collector
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ccatwm import wiring
from ccatwm.core.names import decode_path
from ccatwm.errors import WorldError
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.upkeep.gc import GcPlan
from tests.fakes.sshd import Server, Site
from tests.integration.test_ssh_site import SshObservatory, make_world, mark_base, server, site

__all__ = ["server", "site"]
pytestmark = pytest.mark.ssh
DAY = 24 * 60


@dataclass
class Calls:
    """Effects of a pass that does something at its n-th call of the agent, before or after it."""

    at: int = 0
    when: str = "before"
    act: Callable[[], None] = lambda: None
    count: int = 0

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        struck = False
        if name == "remote.call":
            self.count += 1
            struck = self.count == self.at
        if struck and self.when == "before":
            self.act()
        yield
        if struck and self.when == "after":
            self.act()


@dataclass
class Night:
    """The first night, reduced over there; calibrations may go after ten days, and eleven have passed."""

    observatory: SshObservatory
    kept: Path
    user: str

    def begin_anew(self) -> None:
        """All files and rows as they were."""
        self.observatory.close()
        folder = self.observatory.folder
        for name in ("base", *(path.name for path in self.kept.glob("opsdb.sqlite*"))):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            subprocess.run(["cp", "-a", str(self.kept / name), str(path)], check=True)

    def gc(self, effects: Any = None) -> tuple[PassReport, GcPlan]:
        self.observatory.minute += 1
        return wiring.run_gc(self.observatory.context(effects), PassOptions(), lambda plan: None)

    def gc_killed(self, effects: Calls) -> None:
        """In a process of its own, which ends where `effects` say, if they do."""
        self.observatory.close()
        self.observatory.minute += 1
        pid = os.fork()
        if pid == 0:
            collector.disable()
            try:
                context: Context = self.observatory.context(effects)
                wiring.run_gc(context, PassOptions(), lambda plan: None)
                os._exit(1)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9

    def look(self) -> None:
        """What counts as present is there; of what was removed nothing is lost before it is being deleted."""
        rows = {row["run_id"]: row for row in self.observatory.rows("trash") if not row["undone_at"]}
        for product in self.observatory.rows("data_product"):
            path = decode_path(product["full_path"])
            places = [self.observatory.base / path]
            row = rows.get(product["run_id"])
            if product["status"] == "removed":
                assert row is not None
                places.append(self.observatory.base / row["trash_path"] / path.relative_to(row["path"]))
                if row["emptying_at"]:
                    continue
            assert [place.stat().st_size for place in places if place.exists()] == [product["size_bytes"]]

    def trashed(self) -> list[str]:
        return sorted(path.name.partition("-")[0] for path in (self.observatory.base / ".trash").iterdir())


@pytest.fixture(scope="module")
def first(site: Site, server: Server) -> Iterator[Night]:
    observatory = make_world(site)
    folder = observatory.folder
    observatory.settings_changes = {
        "transport": "ssh", "ssh": server.settings(site.key("me")), "retention_scratch_days": "keep",
        "retention_intermediate_days": 10.0,
    }  # fmt: skip
    mark_base(observatory)
    observatory.arrive("night.yaml")
    observatory.apply()
    observatory.until_quiet()
    observatory.close()
    subprocess.run(["chown", "-R", site.user, str(observatory.base)], check=True)  # as if its jobs had run there
    observatory.minute += 11 * DAY
    kept = site.folder / "kept"
    kept.mkdir()
    for path in (observatory.base, *folder.glob("opsdb.sqlite*")):
        subprocess.run(["cp", "-a", str(path), str(kept)], check=True)
    yield Night(observatory, kept, site.user)
    observatory.close()


@pytest.fixture
def night(first: Night) -> Night:
    first.begin_anew()
    return first


def outcomes(report: PassReport) -> list[tuple[str, int | None]]:
    assert report.error is None, report.error
    return [(item.outcome, item.run) for item in report.items]


def test_what_goes_is_counted_moved_brought_back_and_deleted_over_there(night: Night, server: Server) -> None:
    observatory, logins = night.observatory, server.logins()
    outputs = sorted(observatory.base.glob("otf/calibrate/*/run-*/attempt-*/output"))
    kept = observatory.base / "a-second-name"
    files = [path for folder in outputs for path in folder.rglob("*") if path.is_file()]
    kept.hardlink_to(files[0])
    report, plan = night.gc()
    assert outcomes(report) == [("in the trash", 1), ("in the trash", 2)]
    (reason,) = plan.reasons()
    sizes = [path.stat().st_size for folder in outputs for path in _at(observatory, folder).rglob("*") if path.is_file()]
    assert reason.size.size_bytes == sum(sizes) > 0
    assert reason.size.freed_bytes == sum(sizes) - kept.stat().st_size  # that one has another name
    assert (observatory.base / ".trash").owner() == night.user
    night.look()

    observatory.minute += 1
    undo_report, (undone,) = wiring.undo_gc(observatory.context(), PassOptions(), 1, "needed")
    assert (undo_report.error, undone.refused) == (None, None)
    night.look()
    observatory.minute += 2 * DAY
    report, plan = night.gc()
    assert outcomes(report) == [("deleted", 2)]
    assert sum(row.freed_bytes for row in plan.emptied) == sum(sizes) // 2
    night.look()
    assert night.trashed() == []
    assert server.logins() == logins + 3, "one connection each time"


def _at(observatory: SshObservatory, folder: Path) -> Path:
    """Where an output lies that has gone into the trash."""
    path = str(folder.relative_to(observatory.base))
    return observatory.base / next(row["trash_path"] for row in observatory.rows("trash") if row["path"] == path)


CALLS_TO_MOVE = 8  # the mark, its folder, records of published sets, sizes, what is there, links, two moves
CALLS_TO_EMPTY = 6


def strikes(calls: int) -> list[tuple[int, str]]:
    return [(at, when) for at in range(1, calls + 1) for when in ("before", "after")]


def test_the_calls_are_as_many_as_are_struck_below(night: Night) -> None:
    for calls in (CALLS_TO_MOVE, CALLS_TO_EMPTY):
        effects = Calls()
        outcomes(night.gc(effects)[0])
        assert effects.count == calls
        night.observatory.minute += 2 * DAY


def moved(night: Night) -> None:
    """Whatever came before: another `gc` and all is in the trash, whole."""
    night.look()
    outcomes(night.gc()[0])
    night.look()
    assert night.trashed() == ["1", "2"]
    assert outcomes(night.gc()[0]) == []


def emptied(night: Night) -> None:
    night.look()
    outcomes(night.gc()[0])
    night.look()
    assert night.trashed() == []
    assert all(row["deleted_at"] for row in night.observatory.rows("trash"))


def test_a_gc_killed_at_any_call_while_it_moves_loses_nothing_and_goes_on(night: Night) -> None:
    for at, when in strikes(CALLS_TO_MOVE):
        night.begin_anew()
        night.gc_killed(Calls(at, when, lambda: os._exit(9)))
        moved(night)


def test_a_gc_killed_at_any_call_while_it_empties_goes_on(night: Night) -> None:
    for at, when in strikes(CALLS_TO_EMPTY):
        night.begin_anew()
        night.gc()
        night.observatory.minute += 2 * DAY
        night.gc_killed(Calls(at, when, lambda: os._exit(9)))
        emptied(night)


@pytest.mark.parametrize("phase", ["moves", "empties"])
def test_a_connection_that_breaks_at_any_call_is_told_and_gc_goes_on(night: Night, server: Server, phase: str) -> None:
    calls = CALLS_TO_MOVE if phase == "moves" else CALLS_TO_EMPTY
    for at in range(2, calls + 1):  # before the first there is none
        night.begin_anew()
        if phase == "empties":
            night.gc()
            night.observatory.minute += 2 * DAY
        report, _ = night.gc(Calls(at, "before", server.cut))
        assert isinstance(report.error, WorldError) and report.exit_code == 4
        moved(night) if phase == "moves" else emptied(night)
