"""How the attempts of a step went lately: failures in a row, and what retries had to learn. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

step = t.reduction_step


def count_failure(connection: sa.Connection, step_id: int, failure: str, trip_after: int) -> bool:
    """Count one more attempt that failed as `failure`; True if this one trips the step."""
    again = sa.case((step.c.failures_class == failure, step.c.failures + 1), else_=1)
    connection.execute(
        sa.update(step).where(step.c.id == step_id).values(failures=again, failures_class=failure)
    )
    tripped = connection.execute(
        sa.update(step)
        .where(step.c.id == step_id, step.c.failures >= trip_after, step.c.tripped.is_(None))
        .values(tripped=failure)
    ).rowcount
    return bool(tripped == 1)


def end_streak(connection: sa.Connection, step_ids: Collection[int], failure: str | None = None) -> None:
    """Attempts of these steps succeeded; with `failure` they came so far that they cannot fail as that any more."""
    query = sa.update(step).where(step.c.id.in_(sorted(step_ids)), step.c.failures > 0)
    if failure is not None:
        query = query.where(step.c.failures_class == failure)
    connection.execute(query.values(failures=0, failures_class=None))


def record_learned(connection: sa.Connection, step_id: int, learned: Mapping[str, float]) -> None:
    """What later runs of the step begin with; it only grows."""
    known = connection.execute(sa.select(step.c.learned).where(step.c.id == step_id)).scalar() or {}
    grown = {name: max(value, known.get(name, value)) for name, value in learned.items()}
    if {**known, **grown} != known:
        connection.execute(sa.update(step).where(step.c.id == step_id).values(learned={**known, **grown}))
