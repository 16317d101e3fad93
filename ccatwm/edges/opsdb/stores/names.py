"""Keys and numbers that people type, as far as they have typed them. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

MOST = 200  # at a time


def list_keys(connection: sa.Connection, step_ids: Iterable[int], begin: str) -> list[str]:
    """Keys of sub-groups of these steps."""
    key, found = t.sub_group.c.key, set[str]()
    for step_id in step_ids:
        query = sa.select(key).where(t.sub_group.c.step_id == step_id)
        query = query.where(key.startswith(begin, autoescape=True)) if begin else query
        found |= {row[0] for row in connection.execute(query.order_by(key).limit(MOST))}
    return sorted(found)[:MOST]


def list_run_numbers(connection: sa.Connection, begin: str) -> list[str]:
    """Numbers of runs, newest first: of all with this beginning among the newest thousands."""
    run = t.executed_reduction_step
    newest = connection.execute(sa.select(run.c.id).order_by(run.c.id.desc()).limit(20 * MOST)).scalars()
    return [str(number) for number in newest if str(number).startswith(begin)][:MOST]
