"""Says which runs there are, and in what state each one is. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ccatwm.core.backfill import BackfillState
from ccatwm.core.cache import Shortage
from ccatwm.core.model import FailureClass
from ccatwm.core.retries import FREE
from ccatwm.core.selection import Selection
from ccatwm.core.states import OPEN, WITHOUT_JOB
from ccatwm.core.throttle import Throttle
from ccatwm.core.wording import count_text, until_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.views.throttled import add_throttles

DEFAULT_LIMIT = 50
NO_CEILING: Mapping[str, int] = {}
SHOWN_REASONS = 5  # that runs of a table wait for
SHOWN_RUNS = 3  # of those that wait for the same
COLUMNS = ("run", "step", "sub-group", "state", "job", "reason")


def build_runs(
    database: Database,
    selection: Selection,
    *,
    now: datetime,
    limit: int | None = DEFAULT_LIMIT,
    site_most: Mapping[str, int] = NO_CEILING,
) -> dict[str, Any]:
    """The document `ccatwm.runs/1`: runs newest first, and how many there are in all.

    `site_most`: MAX_CONCURRENT of processing locations.
    """
    with database.read() as connection:
        views.check_selection(connection, selection)
        rows = views.list_runs(connection, selection, limit)
        add_throttles(connection, rows, now, site_most)
        total = len(rows) if limit is None or len(rows) < limit else views.count_runs(connection, selection)
    return {"schema": "ccatwm.runs/1", "total": total, "runs": [run_json(row, now) for row in rows]}


def run_json(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    """One run as scripts read it. `job_id` is text or null; `state` is for people."""
    throttle: Throttle | Shortage | None = row["throttle"]
    return {
        "run": row["run"],
        "pipeline": row["pipeline"],
        "step": row["step"],
        "sub_group": row["sub_group"],
        "status": row["status"],
        "attempt": row["attempt"],
        "job_id": row["job_id"],
        "array_index": row["array_index"],
        "reason": row["reason"],
        "warnings": row["warnings"],
        "state": run_state(row, now),
        "throttled": throttle.reason if throttle else None,
        "waits_for": waits_for(row),
        "needs_you": needs_person(row),
        "failure_class": row["failure_class"],
        "exit_code": row["exit_code"],
        "message": row["message"],
        "host": row["host"],
        "held": row["held"],
        "braked": brake_text(row),
        "superseded": row["superseded"],
        "trial": row["trial"],
        "backfill": row["backfill_id"],
        "processing_location": row["processing_location"],
        "created_at": utc_text(row["created_at"]),
        "status_at": utc_text(row["status_at"]),
        "retry_at": utc_text(row["due_at"]) if row["status"] == "FAILED" else None,
        "retries_used": row["retries_used"],
        "max_retries": row["max_retries"],
        "cancel_requested_at": utc_text(row["cancel_requested_at"]),
        "cancel_reason": row["cancel_reason"],
    }


def needs_person(row: dict[str, Any]) -> bool:
    """Whether nothing more happens to a failed run until somebody acts."""
    return row["status"] == "FAILED" and not row["is_open"] and not row["superseded"]


def waits_for_space(row: Mapping[str, Any]) -> bool:
    """Whether an open run could not be staged, or ran, for want of room."""
    return bool(row["is_open"]) and row["failure_class"] == FailureClass.NO_SPACE.value


def waits_for(row: Mapping[str, Any]) -> str | None:
    """What an open run waits for, in the words of the pass that left it waiting; None where it has but to have its turn."""
    if not row["is_open"] or row["status"] == "FAILED" or row.get("throttle"):
        return None
    left_waiting = row["due_at"] is not None and row["due_at"] > row["status_at"]
    return row["message"] or None if left_waiting else None


def is_paused(row: Mapping[str, Any]) -> bool:
    """Whether an open run has no job and gets none, since its backfill is paused."""
    return bool(row["is_open"]) and row["backfill_state"] == BackfillState.PAUSED and row["status"] in WITHOUT_JOB


def brake_text(row: Mapping[str, Any]) -> str | None:
    """What keeps an open run without a job from being handed over, said of more than itself: `tripped: timeout`."""
    if not row["is_open"] or row["status"] not in WITHOUT_JOB:
        return None
    if row["tripped"]:
        return f"tripped: {row['tripped']}"
    return f"held: {row['held_above']}" if row["held_above"] else None


def run_state(row: dict[str, Any], now: datetime) -> str:
    """The status with what is to be expected: `FAILED (retry 2 of 3 in 4 min)`, `FAILED (needs you)`."""
    note = _note(row, now)
    return f"{row['status']} ({note})" if note else str(row["status"])


def _note(row: dict[str, Any], now: datetime) -> str:
    if row["is_open"] and row["cancel_requested_at"] is not None:
        return "to be cancelled"
    if row["is_open"] and row["held"]:
        return "held"
    brake = brake_text(row)
    if brake is not None:
        return brake.partition(":")[0]
    if is_paused(row):
        return f"backfill {row['backfill_id']} is paused"
    if row["superseded"]:
        message = str(row["message"] or "")
        return message if message.startswith("backfill ") else "superseded"  # taken back with it, for nothing else
    if waits_for_space(row) and row["due_at"] is not None:
        return f"no space, again {until_text(row['due_at'], now)}"
    if row["status"] == "FAILED":
        return _retry_note(row, now)
    waits = waits_for(row)
    if waits or (row["status"] in OPEN and row["due_at"] is not None and row["due_at"] > now):
        return f"{'waits, ' if waits else ''}again {until_text(row['due_at'], now)}"
    if row["throttle"]:
        return f"throttled, {row['throttle'].figure}"
    return count_text(len(row["warnings"]), "warning") if row["warnings"] else ""


def _retry_note(row: dict[str, Any], now: datetime) -> str:
    if not row["is_open"] or row["due_at"] is None:
        return "needs you"
    when = until_text(row["due_at"], now)
    if row["failure_class"] in FREE:
        return f"retry {when}, not counted"
    return f"retry {row['retries_used']} of {row['max_retries']} {when}"


def run_cells(row: dict[str, Any]) -> tuple[object, ...]:
    """A row for people, of a run as JSON."""
    return (
        row["run"],
        f"{row['pipeline']}/{row['step']}",
        row["sub_group"],
        row["state"],
        _short_job(row["job_id"]),
        row["failure_class"] if row["status"] == "FAILED" and row["failure_class"] else _reason(row),
    )


def waiting_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What runs as JSON wait for; those for whose packages the same is said in one line."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["waits_for"]:
            alike.setdefault(_without_package(run["waits_for"]), []).append(run)
    lines = [_waiting_line(some) for some in alike.values()]
    more = [f"and {len(lines) - SHOWN_REASONS} more reasons: ccatwm show RUN"] if len(lines) > SHOWN_REASONS + 1 else []
    return [*lines[:SHOWN_REASONS], *more] if more else lines


def _waiting_line(some: Sequence[Mapping[str, Any]]) -> str:
    numbers = ", ".join(str(run["run"]) for run in some[:SHOWN_RUNS])
    which = f"run {numbers} waits" if len(some) == 1 else f"runs {numbers} wait"
    if len(some) > SHOWN_RUNS:
        which = f"{len(some)} runs ({numbers}, ...) wait"
    return f"{which}: {some[0]['waits_for']}"


def _without_package(message: str) -> str:
    return message.partition(": ")[2] if message.startswith(("package ", "packages ")) else message


def _reason(row: Mapping[str, Any]) -> object:
    if row["backfill"] is not None:
        return f"{row['reason']} (backfill {row['backfill']})"
    return f"{row['reason']} (trial)" if row["trial"] else row["reason"]


def _short_job(job_id: str | None) -> str | None:
    """Numbers of batch systems are short; where ids are not, their beginning tells them apart."""
    return f"{job_id[:8]}..." if job_id is not None and len(job_id) > 12 else job_id
