"""A pause stops passes from beginning, on both databases, and nobody slips through while it is said."""

from __future__ import annotations

import threading
import time

import pytest

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import leases
from ccatwm.edges.opsdb.stores.leases import Holder, Lease
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.upkeep.pausing import pause, resume, wait_until_still
from ccatwm.views.status import brake_lines, build_status
from tests.crash.rig import SteppingClock
from tests.opsdb.looked_at import NOW, World, world

__all__ = ["world"]

ELSEWHERE = Holder("boot:1:1", "login2", 4711, "boot")


def said(world: World, act: str = "pause", reason: str = "release 0.2"):
    return {"pause": pause, "resume": resume}[act](
        world.database, reason=reason, actor="ada", host="login1", now=NOW
    )


def take(world: World, holder: Holder = ELSEWHERE, seconds: int = 300) -> None:
    with world.database.write() as connection:
        lease = leases.read_lease(connection, "stage", "local")
        leases.take_lease(connection, "stage", "local", holder, fence=lease.fence, seconds=seconds)


def paused(world: World) -> str | None:
    return world.row(t.ops_db, 1)["paused"]


def test_a_pause_and_its_end_are_in_the_change_log(world):
    assert said(world).changed
    assert paused(world) == "release 0.2"
    assert said(world, "resume", "").changed
    assert paused(world) is None
    logged = [
        (r["actor"], r["act"], r["target"], r["reason"], r["details"]) for r in world.rows(t.change_log)
    ]
    assert logged == [
        ("ada", "pause", "all passes", "release 0.2", None),
        ("ada", "resume", "all passes", None, {"before": "release 0.2"}),
    ]


def test_a_pause_that_holds_stays_as_it_is(world):
    said(world)
    again = said(world, reason="another")
    assert (again.changed, again.before, paused(world)) == (False, "release 0.2", "release 0.2")
    assert not said(world, "resume").at_work
    assert not said(world, "resume").changed


def test_a_pause_wants_a_reason(world):
    with pytest.raises(UsageError, match="--reason"):
        said(world, reason=" ")
    assert paused(world) is None


def test_status_says_who_paused_and_how_it_ends(world):
    said(world)
    document = build_status(world.database, world.grouping, _everything(), now=NOW)
    assert brake_lines(document) == [f"ALL PASSES ARE PAUSED: release 0.2 (ada, {document['paused_at']})"]
    assert document["next"][0] == "ccatwm resume"


def _everything():
    from ccatwm.core.selection import Selection

    return Selection()


def test_who_is_still_at_work_is_told_and_waited_for(world):
    take(world)
    assert "still at work: stage at local on login2, pid 4711" in said(world).lines()
    with pytest.raises(CcatwmError, match="stage at local"):
        wait_until_still(world.database, SteppingClock(NOW), is_gone=lambda _: False, timeout_seconds=0)
    take(world, seconds=-1)
    wait_until_still(world.database, SteppingClock(NOW), is_gone=lambda _: False, timeout_seconds=0)


def test_a_holder_that_is_gone_is_not_waited_for(world):
    take(world)
    asked: list[Lease] = []
    wait_until_still(
        world.database, SteppingClock(NOW), is_gone=lambda x: not asked.append(x), timeout_seconds=0
    )
    assert [lease.holder for lease in asked] == [ELSEWHERE]


def test_a_pass_that_takes_its_lease_while_the_pause_is_said_is_seen(world):
    """Without a shared lock the pause would find no lease, and the pass no pause."""
    begun = threading.Event()

    def begin() -> None:
        with world.database.write() as connection:
            assert leases.read_brakes(connection, share=True)[0] is None
            begun.set()
            time.sleep(0.5)
            leases.take_lease(connection, "stage", "local", ELSEWHERE, fence=0, seconds=300)

    take(world, seconds=-1)
    with world.database.write() as connection:
        leases.release_lease(connection, "stage", "local", fence=1)
        connection.execute(t.pass_lease.update().values(fence=0))
    thread = threading.Thread(target=begin)
    thread.start()
    begun.wait(10)
    report = said(world)
    thread.join()
    assert [work.pass_name for work in report.at_work] == ["stage"]
