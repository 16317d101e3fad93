"""What the last runs of steps took. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import Resources
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t

runs = t.executed_reduction_step
LAST_RUNS = 20


def past_core_hours(connection: sa.Connection, step_ids: Collection[int]) -> dict[int, float]:
    """Core hours of a run of each step, the median of its last completed ones; steps without any are absent.

    A core hour is an hour of a core that was kept for the job, used or not: that is what a site's budget loses.
    """
    found: dict[int, float] = {}
    for step_id in sorted(set(step_ids)):
        query = (
            sa.select(runs.c.resolved_step, runs.c.next_resources, runs.c.wall_seconds, runs.c.cpu_hours)
            .where(runs.c.step_id == step_id, runs.c.wall_seconds.is_not(None))  # ix_run_measured
            .where(runs.c.status == RunStatus.COMPLETED.value, runs.c.wall_seconds > 0)
            .order_by(runs.c.id.desc())
            .limit(LAST_RUNS)
        )
        hours = [_core_hours(row) for row in connection.execute(query)]
        if hours:
            found[step_id] = median(hours)
    return found


def _core_hours(row: Any) -> float:
    """Wall time by the cores that were kept; never less than was used (several nodes)."""
    asked = Resources.from_json(row.next_resources or row.resolved_step["resources"])
    return max(float(row.wall_seconds) / 3600 * asked.cpu * asked.tasks, float(row.cpu_hours or 0.0))
