"""Says what is left when no pass has anything to do, and when it goes on. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from ccatwm.core.selection import Selection
from ccatwm.core.wording import count_text, until_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.views.runs import needs_person, waits_for, waits_for_space

NAMED_RUNS = 3


def build_left(database: Database, location: str, *, now: datetime) -> dict[str, Any]:
    """Runs of a processing location that are not done with, by what they wait for, and sub-groups due later."""
    with database.read() as connection:
        rows = [
            row
            for row in views.list_attention(connection, Selection(), None)
            if row["processing_location"] == location
        ]
        due_at = views.list_later_due(connection, location, now)
    still = [row for row in rows if not needs_person(row)]
    later = [row for row in still if row["due_at"] is not None and not row["held"]]
    again = [row for row in later if row["status"] != "FAILED"]
    why = next(filter(None, map(waits_for, again)), None)
    return {
        "needs_you": sorted(row["run"] for row in rows if needs_person(row)),
        "retries": _waiting([row["due_at"] for row in later if row["status"] == "FAILED"]),
        "again": {**_waiting([row["due_at"] for row in again]), "waits_for": why},
        "open": sum(1 for row in still if row not in later),
        "sub_groups": _waiting(due_at),
    }


def _waiting(times: Sequence[datetime]) -> dict[str, Any]:
    return {"count": len(times), "next_at": utc_text(min(times, default=None))}


def left_line(document: Mapping[str, Any], now: datetime) -> str:
    """In one line for people; empty where nothing is left."""
    retries, again, groups = document["retries"], document["again"], document["sub_groups"]
    parts = []
    if retries["count"]:
        verb = "wait" if retries["count"] > 1 else "waits"
        parts.append(f"{count_text(retries['count'], 'run')} {verb} for a retry, {_next(retries, now)}")
    if again["count"]:
        parts.append(_waits_text(again, now))
    if document["open"]:
        parts.append(f"{count_text(document['open'], 'run')} under way or held: ccatwm status")
    if groups["count"]:
        verb = "are" if groups["count"] > 1 else "is"
        parts.append(f"{count_text(groups['count'], 'sub-group')} {verb} decided on later, {_next(groups, now)}")
    if document["needs_you"]:
        parts.append(_needs_you(document["needs_you"]))
    return "; ".join(parts)


def _waits_text(again: Mapping[str, Any], now: datetime) -> str:
    """Of runs that a pass left waiting for something outside: it only looks whether that has come."""
    text = f"{count_text(again['count'], 'run')} {'wait' if again['count'] > 1 else 'waits'}"
    text += f" ({again['waits_for']})" if again["waits_for"] else ""
    return f"{text}, looked at again {until_text(datetime.fromisoformat(again['next_at']), now)}"


def waits_text(document: Mapping[str, Any], now: datetime) -> str:
    """What goes on by itself, in a few words: `2 runs under way, 1 retry in 40 s`."""
    counted = ((document["retries"], "retry"), (document["again"], "try"), (document["sub_groups"], "decision"))
    parts = [f"{count_text(document['open'], 'run')} under way"] if document["open"] else []
    parts += [_waits(waiting, noun, now) for waiting, noun in counted if waiting["count"]]
    return ", ".join(parts)


def _waits(waiting: Mapping[str, Any], noun: str, now: datetime) -> str:
    many = noun if waiting["count"] == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{waiting['count']} {many} {until_text(datetime.fromisoformat(waiting['next_at']), now)}"


def _next(waiting: Mapping[str, Any], now: datetime) -> str:
    when = until_text(datetime.fromisoformat(waiting["next_at"]), now)
    return f"the next {when}" if waiting["count"] > 1 else when


def _needs_you(runs: Collection[int]) -> str:
    if len(runs) > NAMED_RUNS:
        return f"{len(runs)} runs need you: ccatwm status"
    commands = ", ".join(f"ccatwm show {run}" for run in runs)
    return f"{count_text(len(runs), 'run')} {'needs' if len(runs) == 1 else 'need'} you: {commands}"


def any_waits_for_inputs(database: Database, run_ids: Collection[int]) -> bool:
    """Whether one of these runs waits still for what it is to read, and not for room."""
    with database.read() as connection:
        found = views.list_runs_by_id(connection, run_ids)
    return any(row["status"] == "STAGING_DATA" and row["is_open"] and not waits_for_space(row) for row in found.values())


def any_failed(database: Database, run_ids: Collection[int]) -> bool:
    """Whether one of these runs is FAILED still."""
    with database.read() as connection:
        found = views.list_runs_by_id(connection, run_ids)
    return any(row["status"] == "FAILED" for row in found.values())
