"""Whether all passes are paused, who said so, and who is still at work. Touches: the ops-db."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import database_now


@dataclass(frozen=True)
class AtWork:
    """A pass that holds its lease."""

    pass_name: str
    location: str
    host: str
    pid: int
    boot_id: str
    token: str


def write_paused(connection: sa.Connection, reason: str | None) -> None:
    """Pause all passes for a reason, or None: let them go on. It waits for passes that begin at this moment."""
    connection.execute(sa.update(t.ops_db).values(paused=reason))


def list_at_work(connection: sa.Connection) -> list[AtWork]:
    """Holders of leases that have not expired by the database's clock."""
    lease = t.pass_lease
    rows = connection.execute(
        sa.select(lease)
        .where(lease.c.holder.isnot(None), lease.c.expires_at > database_now(connection.dialect.name))
        .order_by(lease.c.pass_name, lease.c.location)
    )
    return [AtWork(r.pass_name, r.location, r.host, r.pid, r.boot_id, r.holder) for r in rows]


def read_pause(connection: sa.Connection) -> tuple[str, datetime] | None:
    """Who paused all passes last and when, by the change log."""
    log = t.change_log
    row = connection.execute(
        sa.select(log.c.actor, log.c.at).where(log.c.act == "pause").order_by(log.c.id.desc()).limit(1)
    ).first()
    return (row.actor, row.at) if row is not None else None
