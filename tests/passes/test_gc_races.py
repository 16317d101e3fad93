"""`gc` and `resolve` at the same time: no run is made of files that go, and no file goes of which a run is being made."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.passes._frame import PassOptions, PassReport
from tests.passes.conftest import Observatory
from tests.passes.test_gc import first_night, nights, reduced, request, statuses

__all__ = ["first_night", "nights", "reduced"]
MADE = r"SELECT data_product\.id.*data_product\.status !=.*LIMIT"  # whether all inputs of the new runs are there still
DOOMED = r"UPDATE \S*data_product SET status="
LONG_ENOUGH_SECONDS = 1.0  # for the other one to come to the lock, and to wait there


class AtCommit:
    """At the commit of the first transaction that said `said` somebody else begins; it goes on a moment later."""

    def __init__(self, said: str, other: Callable[[], None]) -> None:
        self._said, self._other = said, other
        self._wrote = False
        self.thread: threading.Thread | None = None
        self.waited = False
        self._mine = threading.get_ident()

    @contextmanager
    def listening(self) -> Iterator[AtCommit]:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._see)
        try:
            yield self
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", self._see)
            if self.thread is not None:
                self.thread.join(60)

    def _see(self, _connection: Any, _cursor: Any, text: str, *_more: Any) -> None:
        mine = threading.get_ident() == self._mine
        self._wrote |= mine and re.search(self._said, text.replace("ccatwm.", ""), re.DOTALL) is not None

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        if name == "db.commit" and self._wrote and self.thread is None:
            self.thread = threading.Thread(target=self._other)
            self.thread.start()
            self.thread.join(LONG_ENOUGH_SECONDS)
            self.waited = self.thread.is_alive()
        yield


@pytest.fixture
def wanted(reduced: Observatory) -> Observatory:
    """The calibrations may go, and another map of them was just asked for."""
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    return reduced


def resolve(observatory: Observatory, effects: Any = None) -> PassReport:
    report = wiring.run_pass("resolve", observatory.context(effects), PassOptions())
    assert report.error is None, report.error
    return report


def collect(observatory: Observatory, effects: Any = None) -> PassReport:
    report, _ = wiring.run_gc(observatory.context(effects), PassOptions(), lambda plan: None)
    assert report.error is None, report.error
    return report


def not_due(observatory: Observatory) -> None:
    """`gc` began before the map was asked for: only the run itself keeps what it reads."""
    observatory.execute("UPDATE {schema}sub_group SET due_at = NULL, asked = false, requested = NULL")


@pytest.mark.parametrize("nights", ["postgresql"], indirect=True)
def test_nothing_goes_of_which_a_run_is_being_made(wanted):
    """Others have replaced the calibrations while the map of them is decided on: nothing but that run keeps them.

    SQLite has one writer: there nobody replaces anything meanwhile.
    """
    wanted.settings_changes |= {"retention_intermediate_days": "keep", "retention_superseded_days": 0.0}
    calibrate = wanted.sub_group("calibrate")["step_id"]

    def replace_and_collect() -> None:
        wanted.execute(f"UPDATE {{schema}}sub_group SET current_run_id = NULL WHERE step_id = {calibrate}")
        collect(wanted)

    with AtCommit(MADE, replace_and_collect).listening() as race:
        resolve(wanted, race)
    assert race.waited
    assert statuses(wanted)["calibrate"] == {"present"}
    assert len(wanted.runs("grid")) == 2


def test_no_run_is_made_of_what_is_going(reduced):
    request(reduced, "grid", force=True)
    reduced.run_pass("trigger")
    asked = reduced.sub_group("grid")
    not_due(reduced)

    def ask_and_resolve() -> None:
        reduced.execute(f"UPDATE {{schema}}sub_group SET due_at = round_at, asked = true WHERE id = {asked['id']}")
        resolve(reduced)

    with AtCommit(DOOMED, ask_and_resolve).listening() as race:
        collect(reduced, race)
    assert race.waited
    assert statuses(reduced)["calibrate"] == {"removed"}
    assert len(reduced.runs("grid")) == 1
