"""What tells whether work flows: the oldest of what waits. Touches: the ops-db, reading only."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from ccatwm.core.health import OldestRun, Unreached
from ccatwm.core.staging import location_trouble
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


def list_unreached(connection: sa.Connection, location: str, after: datetime) -> list[Unreached]:
    """What runs wait for that `stage` has left waiting for data, to be looked at again later than `after`."""
    run = t.executed_reduction_step
    query = sa.select(run.c.id, run.c.message, run.c.status_at).where(
        run.c.processing_location == location, run.c.status == "STAGING_DATA", run.c.is_open, run.c.due_at > after
    )
    found: dict[str, Unreached] = {}
    for row in connection.execute(query.order_by(run.c.id)):
        why = location_trouble(row.message or "")
        if why is not None:
            so_far = found.get(why, Unreached(why, 0, row.id, row.status_at))
            found[why] = replace(so_far, runs=so_far.runs + 1, since=min(so_far.since, row.status_at))
    return list(found.values())


def first_change_noted(connection: sa.Connection) -> datetime | None:
    """When the package was noted that waits longest to be grouped again."""
    noted: datetime | None = connection.execute(sa.select(sa.func.min(t.changed_package.c.noted_at))).scalar()
    return noted
