"""Leases and records of passes. Touches: the ops-db, by its own clock only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import database_now

lease = t.pass_lease


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: unique per process start (`token` has boot id, pid and start time)."""

    token: str
    host: str
    pid: int
    boot_id: str


@dataclass(frozen=True)
class Lease:
    """A lease as read. `expired` by the database's clock."""

    holder: Holder | None
    fence: int
    expires_at: datetime | None
    expired: bool


def read_lease(connection: sa.Connection, pass_name: str, location: str) -> Lease:
    """The lease of a pass at a location; made empty where there is none (then inside a write transaction)."""
    now = database_now(connection.dialect.name)
    query = sa.select(lease, now.label("database_now")).where(
        lease.c.pass_name == pass_name, lease.c.location == location
    )
    row = connection.execute(query).first()
    if row is None:
        connection.execute(sa.insert(lease).values(pass_name=pass_name, location=location, fence=0))
        return Lease(None, 0, None, True)
    holder = Holder(row.holder, row.host, row.pid, row.boot_id) if row.holder else None
    expired = row.expires_at is None or row.expires_at <= row.database_now
    return Lease(holder, row.fence, row.expires_at, expired)


def take_lease(
    connection: sa.Connection, pass_name: str, location: str, holder: Holder, *, fence: int, seconds: int
) -> int | None:
    """Take the lease if its fence is still `fence`; the new fence, or None if somebody else was first."""
    now = read_clock(connection)
    changed = connection.execute(
        sa.update(lease)
        .where(lease.c.pass_name == pass_name, lease.c.location == location, lease.c.fence == fence)
        .values(
            holder=holder.token, host=holder.host, pid=holder.pid, boot_id=holder.boot_id,
            fence=fence + 1, taken_at=now, expires_at=now + timedelta(seconds=seconds),
        )
    ).rowcount  # fmt: skip
    return fence + 1 if changed == 1 else None


def renew_lease(
    connection: sa.Connection, pass_name: str, location: str, *, fence: int, seconds: int
) -> bool:
    """Put the expiry off; False if the lease was taken over."""
    expires_at = read_clock(connection) + timedelta(seconds=seconds)
    changed = connection.execute(
        sa.update(lease)
        .where(lease.c.pass_name == pass_name, lease.c.location == location, lease.c.fence == fence)
        .values(expires_at=expires_at)
    ).rowcount
    return bool(changed == 1)


def release_lease(connection: sa.Connection, pass_name: str, location: str, *, fence: int) -> None:
    connection.execute(
        sa.update(lease)
        .where(lease.c.pass_name == pass_name, lease.c.location == location, lease.c.fence == fence)
        .values(holder=None, expires_at=None)
    )


def read_clock(connection: sa.Connection) -> datetime:
    """What time it is for the database."""
    now: datetime = connection.execute(sa.select(database_now(connection.dialect.name))).scalar_one()
    return now


def record_pass(
    connection: sa.Connection, pass_name: str, location: str, *, keep: bool, **values: Any
) -> None:
    """The latest record of a pass; the one before stays as history only if `keep` was said for it."""
    record = t.pass_record
    here = sa.and_(record.c.pass_name == pass_name, record.c.location == location, record.c.latest)
    row = connection.execute(sa.select(record.c.id, record.c.done, record.c.failed).where(here)).first()
    new = {"pass_name": pass_name, "location": location, "latest": True, **values}
    if row is None:
        connection.execute(sa.insert(record).values(**new))
    elif keep and (row.done or row.failed):
        connection.execute(sa.update(record).where(record.c.id == row.id).values(latest=False))
        connection.execute(sa.insert(record).values(**new))
    else:
        connection.execute(sa.update(record).where(record.c.id == row.id).values(**new))


def read_brakes(connection: sa.Connection, *, share: bool = False) -> tuple[str | None, str | None]:
    """(why passes are paused, why submission is blocked), each None normally.

    With `share`, in a write transaction, nobody changes them before it has ended.
    """
    query = sa.select(t.ops_db.c.paused, t.ops_db.c.submission_blocked)
    row = connection.execute(query.with_for_update(read=True) if share else query).first()
    return (row.paused, row.submission_blocked) if row is not None else (None, None)


def read_uid(connection: sa.Connection) -> str:
    """Who this ops-db is, or the empty text where nobody said."""
    return str(connection.execute(sa.select(t.ops_db.c.uid)).scalar() or "")
