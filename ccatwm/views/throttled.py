"""Says which runs wait for a ceiling, as the next `stage` and `submit` would find it, or for room.

Touches: the ops-db, reading only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.cache import Shortage
from ccatwm.core.states import RunStatus
from ccatwm.core.throttle import Throttle, admit
from ccatwm.edges.opsdb.stores import throttles

WAITING = (RunStatus.PENDING, RunStatus.STAGING_DATA, RunStatus.STAGED)


def add_throttles(
    connection: sa.Connection, rows: Iterable[dict[str, Any]], now: datetime, site_most: Mapping[str, int]
) -> None:
    """Give each run its `throttle`, or None. `site_most`: MAX_CONCURRENT by processing location, as far as it is known."""
    rows = list(rows)
    places = {row["processing_location"] for row in rows if row["is_open"] and row["status"] in WAITING}
    found = list_throttled(connection, places, now, site_most)
    for row in rows:
        row["throttle"] = found.get(row["run"], (None, None))[1]


def list_throttled(
    connection: sa.Connection, places: Collection[str], now: datetime, site_most: Mapping[str, int]
) -> dict[int, tuple[int, Throttle | Shortage]]:
    """Step, and ceiling or shortage, by run, at these locations."""
    found: dict[int, tuple[int, Throttle | Shortage]] = {}
    for place in sorted(places):
        found |= throttles.list_short(connection, place, now)
        most = site_most.get(place)
        if not throttles.read_ceilings(connection, place, most):
            continue
        for demand in (
            throttles.read_for_stage(connection, place, now, most),
            throttles.read_for_submit(connection, place, now, most, resources=False),
        ):
            found |= {run.id: (run.step_id, throttle) for run, throttle in admit(*demand).throttled}
    return found
