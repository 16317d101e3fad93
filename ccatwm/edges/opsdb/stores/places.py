"""Who this ops-db is, and which data locations it knows. Touches: the ops-db."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

places = t.data_location


@dataclass(frozen=True)
class Place:
    """A data location: `kind` is source, buffer, long_term_archive or processing."""

    id: str
    name: str
    kind: str


def record_uid(connection: sa.Connection, uid: str, now: datetime) -> str:
    """The uid of this ops-db: `uid` if it had none."""
    known = connection.execute(sa.select(t.ops_db.c.uid)).scalar()
    if known is None:
        connection.execute(sa.insert(t.ops_db).values(uid=uid, created_at=now))
    return str(known or uid)


def list_places(connection: sa.Connection) -> list[Place]:
    """All data locations by name."""
    rows = connection.execute(
        sa.select(places.c.id, places.c.name, places.c.location_type).order_by(places.c.name)
    )
    return [Place(str(row.id), row.name, row.location_type) for row in rows]


def record_site(connection: sa.Connection, name: str, now: datetime) -> int:
    """The id of the site called `name`, made if it is not there."""
    known = connection.execute(sa.select(t.site.c.id).where(t.site.c.name == name)).scalar()
    if known is not None:
        return int(known)
    made = connection.execute(sa.insert(t.site).values(name=name, updated_at=now).returning(t.site.c.id))
    return int(made.scalar_one())


def record_place(
    connection: sa.Connection,
    site_id: int,
    name: str,
    *,
    kind: str,
    base_path: str,
    priority: int,
    now: datetime,
) -> bool:
    """Make a data location on disk; False if one of this name is there (it stays as it is)."""
    if connection.execute(sa.select(places.c.id).where(places.c.name == name)).first() is not None:
        return False
    connection.execute(
        sa.insert(places).values(
            site_id=site_id, name=name, location_type=kind, storage_type="disk", base_path=base_path,
            priority=priority, active=True, updated_at=now,
        )
    )  # fmt: skip
    return True
