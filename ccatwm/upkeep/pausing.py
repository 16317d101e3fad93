"""Pauses all passes of an ops-db and lets them go on, for an upgrade. Touches: the ops-db only; jobs go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import pausing
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.leases import Lease
from ccatwm.edges.opsdb.stores.pausing import AtWork
from ccatwm.errors import CcatwmError
from ccatwm.interfaces import Clock
from ccatwm.upkeep._reason import require_reason

POLL_SECONDS = 0.5
TARGET = "all passes"


@dataclass(frozen=True)
class PauseReport:
    """What `pause` or `resume` changed; `before` is why passes were paused before it, None if they were not."""

    act: str
    before: str | None
    changed: bool
    at_work: tuple[AtWork, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": f"ccatwm.{self.act}/1",
            "before": self.before,
            "changed": self.changed,
            "at_work": [
                {"pass": w.pass_name, "location": w.location, "host": w.lease.holder and w.lease.holder.host,
                 "pid": w.lease.holder and w.lease.holder.pid}
                for w in self.at_work
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        if self.act == "resume":
            return [
                f"passes go on (they were paused: {self.before})"
                if self.changed
                else "passes were not paused"
            ]
        if not self.changed:
            return [f"all passes were paused before: {self.before}", *_work_lines(self.at_work)]
        return [
            "no pass begins any more; jobs go on, and `ccatwm resume` ends it",
            *_work_lines(self.at_work),
        ]


def _work_lines(at_work: tuple[AtWork, ...]) -> list[str]:
    return [f"still at work: {_who(work)}" for work in at_work]


def _who(work: AtWork) -> str:
    holder = work.lease.holder
    where = f" on {holder.host}, pid {holder.pid}" if holder else ""
    return f"{work.pass_name} at {work.location}{where}"


def pause(database: Database, *, reason: str, actor: str, host: str, now: datetime) -> PauseReport:
    """No pass begins any more, on any host; those at work see their work through. A pause that holds stays as it is."""
    require_reason(reason, "it is shown by `ccatwm status` for as long as it lasts")
    with database.write() as connection:
        before = pausing.lock_paused(connection)
        if before is None:
            pausing.write_paused(connection, reason)
            record_change(
                connection, at=now, actor=actor, host=host, act="pause", target=TARGET, reason=reason
            )
        at_work = pausing.list_at_work(connection)
    return PauseReport("pause", before, before is None, tuple(at_work))


def resume(database: Database, *, reason: str, actor: str, host: str, now: datetime) -> PauseReport:
    """Passes begin again."""
    with database.write() as connection:
        before = pausing.lock_paused(connection)
        if before is not None:
            pausing.write_paused(connection, None)
            record_change(
                connection, at=now, actor=actor, host=host, act="resume", target=TARGET, reason=reason or None,
                details={"before": before},
            )  # fmt: skip
    return PauseReport("resume", before, before is not None)


def wait_until_still(
    database: Database,
    clock: Clock,
    *,
    is_gone: Callable[[Lease], bool],
    timeout_seconds: float | None = None,
) -> None:
    """Until no pass holds a lease. `is_gone` tells of a holder that certainly lives no more; any other's lease counts
    until it expires. Errors: CcatwmError when the time is over first; the pause stays."""
    begun = clock.monotonic()
    while True:
        with database.read() as connection:
            at_work = [w for w in pausing.list_at_work(connection) if not is_gone(w.lease)]
        if not at_work:
            return
        if timeout_seconds is not None and clock.monotonic() - begun >= timeout_seconds:
            raise CcatwmError(
                f"still at work after {timeout_seconds:.0f} s: {', '.join(map(_who, at_work))}",
                next="passes stay paused; wait again, or see what it does",
            )
        clock.sleep(POLL_SECONDS)
