"""Says how far backfills are. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ccatwm.core.wording import utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import backfills as store
from ccatwm.edges.opsdb.stores import views

COLUMNS = ("backfill", "pipeline", "period", "priority", "state", "made", "done", "open", "failed", "left")
ENDED_SHOWN = 20


def build_backfills(database: Database, pipeline: str | None = None, number: int | None = None) -> dict[str, Any]:
    """The document `ccatwm.backfills/1`, newest first: those that have not ended, and the last ones that have."""
    with database.read() as connection:
        if pipeline is not None:
            views.get_pipeline(connection, pipeline)
        rows = store.list_all(connection, pipeline, number)
        over = [row["id"] for row in rows if row["ended_at"] is not None][:ENDED_SHOWN]
        shown = [row for row in rows if row["ended_at"] is None or row["id"] in over]
        found = [
            {**row, "left": _left(connection, row, asked)}
            for row, asked in zip(_progress(connection, shown), shown, strict=True)
        ]
    return {"schema": "ccatwm.backfills/1", "backfills": found}


def list_open_backfills(connection: sa.Connection, pipeline: str | None = None) -> list[dict[str, Any]]:
    """Those that have not ended, newest first; what is `left` is not counted, which may take a second."""
    return _progress(connection, [row for row in store.list_all(connection, pipeline) if row["ended_at"] is None])


def _left(connection: sa.Connection, row: Mapping[str, Any], asked: Mapping[str, Any]) -> int:
    """Sub-groups that it looks at yet, as far as it may make runs for them."""
    if asked["ended_at"] is not None:
        return 0
    left: int = store.count_not_looked_at(connection, asked) + sum(row["waiting"].values())
    most: int | None = asked["most_runs"]
    return left if most is None else min(left, max(0, most - row["made"]))


def _progress(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    numbers = [row["id"] for row in rows]
    statuses = store.count_by_status(connection, numbers)
    waiting = store.count_waiting(connection, numbers)
    return [_backfill(row, statuses[row["id"]], waiting[row["id"]]) for row in rows]


def _backfill(
    row: Mapping[str, Any], statuses: Mapping[tuple[str, bool], int], waiting: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "backfill": row["id"],
        "pipeline": row["pipeline"],
        "since": utc_text(row["since"]),
        "until": utc_text(row["until"]),
        "priority": row["priority"],
        "limit_runs": row["most_runs"],
        "state": row["state"],
        "state_reason": row["state_reason"],
        "made": sum(statuses.values()),
        "done": statuses.get(("COMPLETED", False), 0),
        "open": sum(count for (_, is_open), count in statuses.items() if is_open),
        "failed": statuses.get(("FAILED", False), 0),
        "cancelled": statuses.get(("CANCELLED", False), 0),
        "waiting": dict(waiting),
        "estimate": row["estimate"],
        "reason": row["reason"],
        "actor": row["actor"],
        "created_at": utc_text(row["created_at"]),
        "ended_at": utc_text(row["ended_at"]),
    }


def backfill_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A row for people."""
    period = f"{_short(row['since'])} to {_short(row['until'])}"
    return (row["backfill"], row["pipeline"], period, row["priority"], _state(row), *(row[key] for key in COLUMNS[5:]))


def _state(row: Mapping[str, Any]) -> str:
    waits = ", ".join(f"{count} {name}" for name, count in sorted(row["waiting"].items()))
    return ": ".join(part for part in (row["state"], row["state_reason"] or waits) if part)


def _short(time: str) -> str:
    """`2026-03-01` where it is midnight."""
    return time[:10] if time[10:19] == "T00:00:00" else time[:16].replace("T", " ")


def backfill_line(row: Mapping[str, Any]) -> str:
    """`backfill 3 of otf is open: 40 made, 30 done, 10 open, 0 failed`."""
    counts = ", ".join(f"{row[key]} {key}" for key in ("made", "done", "open", "failed"))
    return f"backfill {row['backfill']} of {row['pipeline']} is {_state(row)}: {counts}"
