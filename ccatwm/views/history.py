"""Tells who did what, when and why. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ccatwm.core.history import Subject, concerns, parse_subject, runs_named
from ccatwm.core.selection import Selection
from ccatwm.core.wording import utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import history, views

DEFAULT_LIMIT = 50
COLUMNS = ("when (UTC)", "who", "what", "on", "why")

Row = dict[str, Any]


def build_history(
    database: Database,
    text: str | None,
    when: Selection,
    *,
    events: bool = False,
    texts: bool = False,
    limit: int = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """The document `ccatwm.history/1`, newest first. `when`: its times; `events`: also changes of status, which a run's
    history has anyway; `texts`: with the text of what was applied.

    Errors: UsageError for a run, pipeline, step or sub-group that is not there, with what is.
    """
    subject = parse_subject(text)
    with database.read() as connection:
        _check(connection, subject)
        rows = _acts(connection, subject, when, limit)
        if events or subject.run is not None:
            rows += _events(connection, subject, when, limit)
        rows = sorted(rows, key=lambda row: row["order"], reverse=True)[:limit]
        if texts:
            numbers = [row["act"] for row in rows if row["act"] is not None]
            applied = history.read_texts(connection, numbers)
            rows = [{**row, "text": applied.get(row["act"])} for row in rows]
    kept = [{key: value for key, value in row.items() if key != "order"} for row in rows]
    return {"schema": "ccatwm.history/1", "subject": subject.text or None, "history": kept}


def _check(connection: sa.Connection, subject: Subject) -> None:
    if subject.run is not None:
        views.get_run(connection, subject.run)
    if subject.place:
        pipeline, step, sub_group = (*subject.place, None, None)[:3]
        views.check_selection(connection, Selection(pipeline, step, sub_group))


def _acts(connection: sa.Connection, subject: Subject, when: Selection, limit: int) -> list[Row]:
    """Newest first, read in pages until there are enough."""
    found: list[Row] = []
    for page in history.iterate_acts(connection, when.since, when.until):
        named = {run for row in page for run in runs_named(row["target"])} if subject.place else set()
        runs = views.list_runs_by_id(connection, named)
        places = {run: (row["pipeline"], row["step"], row["sub_group"]) for run, row in runs.items()}
        for row in page:
            mine = [places[run] for run in runs_named(row["target"]) if run in places]
            if concerns(subject, row["target"], row["details"], mine):
                found.append(_act(row))
        if len(found) >= limit:
            break
    return found[:limit]


def _act(row: Row) -> Row:
    return {
        "at": utc_text(row["at"]),
        "actor": row["actor"],
        "host": row["host"],
        "pass": None,
        "what": row["act"],
        "target": row["target"],
        "reason": row["reason"],
        "from": None,
        "to": None,
        "act": row["id"],
        "digest": row["digest"],
        "details": row["details"],
        "order": (row["at"], 1, row["id"]),
    }


def _events(connection: sa.Connection, subject: Subject, when: Selection, limit: int) -> list[Row]:
    rows = history.list_run_events(
        connection, run_id=subject.run, place=subject.place, since=when.since, until=when.until, limit=limit
    )
    return [_event(row) for row in rows]


def _event(row: Row) -> Row:
    return {
        "at": utc_text(row["at"]),
        "actor": row["actor"],
        "host": None,
        "pass": row["by_pass"],
        "what": row["event"],
        "target": f"run {row['run_id']}",
        "reason": row["message"],
        "from": row["from_status"],
        "to": row["to_status"],
        "act": None,
        "digest": None,
        "details": {"pipeline": row["pipeline_name"], "step": row["step_name"], "sub_group": row["sub_group_key"]},
        "order": (row["at"], 0, row["id"]),
    }


def history_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A row for people."""
    who = f"{row['actor']} on {row['host']}" if row["host"] else row["actor"] or row["pass"] or "?"
    what = row["what"] if row["to"] is None else f"{row['to']} ({row['what']})"
    return row["at"][:19].replace("T", " "), who, what, row["target"], row["reason"] or "-"


def text_lines(row: Mapping[str, Any]) -> list[str]:
    """What was applied by an act, where it was something."""
    if not row["digest"]:
        return []
    head = f"applied at {row['at'][:19].replace('T', ' ')} by {row['actor']}: {row['target']}, {row['digest']}"
    text = row.get("text")
    return [head, *(f"  {line}" for line in (text or "(its text was not kept, only its digest)").splitlines())]
