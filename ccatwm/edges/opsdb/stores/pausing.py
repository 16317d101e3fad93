"""Whether all passes are paused, who said so, and who is still at work. Touches: the ops-db."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import database_now
from ccatwm.edges.opsdb.stores.leases import Holder, Lease
from ccatwm.errors import SettingsError


@dataclass(frozen=True)
class AtWork:
    """A pass that holds its lease."""

    pass_name: str
    location: str
    lease: Lease


def lock_paused(connection: sa.Connection) -> str | None:
    """Why passes are paused, until the end of this transaction; None if they are not.

    Waits for passes that take their lease at this moment; whoever begins later sees what is written now.
    """
    before: str | None = connection.execute(sa.select(t.ops_db.c.paused).with_for_update()).scalar()
    return before


def write_paused(connection: sa.Connection, reason: str | None) -> None:
    """Pause all passes for a reason, or None: let them go on. Errors: SettingsError for an ops-db of no site."""
    if connection.execute(sa.update(t.ops_db).values(paused=reason)).rowcount == 0:
        raise SettingsError("the ops-db belongs to no site yet", next="run `ccatwm init`")


def write_nothing(connection: sa.Connection) -> None:
    """Write what is there already: fails where this account may not write."""
    connection.execute(sa.update(t.ops_db).values(paused=t.ops_db.c.paused))


def list_at_work(connection: sa.Connection) -> list[AtWork]:
    """Holders of leases that have not expired by the database's clock."""
    lease = t.pass_lease
    rows = connection.execute(
        sa.select(lease)
        .where(lease.c.holder.isnot(None), lease.c.expires_at > database_now(connection.dialect.name))
        .order_by(lease.c.pass_name, lease.c.location)
    )
    return [
        AtWork(
            r.pass_name,
            r.location,
            Lease(Holder(r.holder, r.host, r.pid, r.boot_id), r.fence, r.expires_at, False),
        )
        for r in rows
    ]


def read_pause(connection: sa.Connection) -> tuple[str, datetime] | None:
    """Who paused all passes last and when, by the change log."""
    log = t.change_log
    row = connection.execute(
        sa.select(log.c.actor, log.c.at).where(log.c.act == "pause").order_by(log.c.id.desc()).limit(1)
    ).first()
    return (row.actor, row.at) if row is not None else None
