"""What tells whether work flows: the oldest of what waits. Touches: the ops-db, reading only."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from ccatwm.core.health import OldestRun
from ccatwm.edges.opsdb import tables as t

WAITING = ("PENDING", "STAGING_DATA", "STAGED", "SUBMITTING", "COLLECTING_RESULTS")


def list_oldest_runs(connection: sa.Connection, location: str, now: datetime) -> list[OldestRun]:
    """Of each status in which a run waits for a pass, the one that is longest in it and is not held, nor due later."""
    run = t.executed_reduction_step
    found = []
    for status in WAITING:
        query = (
            sa.select(run.c.id, run.c.status_at)
            .where(
                run.c.processing_location == location, run.c.status == status, run.c.is_open, run.c.held.is_(None),
                sa.or_(run.c.due_at.is_(None), run.c.due_at <= now),
            )
            .order_by(run.c.status_at)
            .limit(1)
        )  # fmt: skip
        row = connection.execute(query).first()
        if row is not None:
            found.append(OldestRun(row.id, status, row.status_at))
    return found


def first_change_noted(connection: sa.Connection) -> datetime | None:
    """When the package was noted that waits longest to be grouped again."""
    noted: datetime | None = connection.execute(sa.select(sa.func.min(t.changed_package.c.noted_at))).scalar()
    return noted
