"""What a restored ops-db knows of runs and submissions, and what it learns of later ones. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import run_directory
from ccatwm.core.reconciling import (
    FoundAttempt,
    KnownRun,
    events_to_pending,
    events_to_staged,
)
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import attempts, runs
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.attempts import NewAttempt

run = t.executed_reduction_step
ACT = "reconcile"


def block_submission(connection: sa.Connection, reason: str | None) -> None:
    """None: let it go on."""
    connection.execute(sa.update(t.ops_db).values(submission_blocked=reason))


def lock_blocked(connection: sa.Connection) -> str | None:
    """Why submission is blocked, until the end of this transaction."""
    found: str | None = connection.execute(sa.select(t.ops_db.c.submission_blocked).with_for_update()).scalar()
    return found


def known_tasks(connection: sa.Connection, tokens: Collection[str]) -> dict[str, set[int]]:
    """Those of `tokens` that are submissions of this ops-db, each with the array indices that it knows of it."""
    found: dict[str, set[int]] = {}
    for chunk in chunks(sorted(tokens)):
        query = (
            sa.select(t.submission.c.token, t.run_attempt.c.array_index)
            .outerjoin(t.run_attempt, t.run_attempt.c.submission_id == t.submission.c.id)
            .where(t.submission.c.token.in_(chunk))
        )
        for token, index in connection.execute(query):
            found.setdefault(token, set()).update(() if index is None else (index,))
    return found


def known_runs(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, KnownRun]:
    found = {}
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(
            run.c.id, run.c.pipeline_name, run.c.step_name, run.c.sub_group_key, run.c.status, run.c.is_open, run.c.attempt
        ).where(run.c.id.in_(chunk))
        for r in connection.execute(query):
            place = run_directory(r.pipeline_name, r.step_name, r.sub_group_key, r.id)
            found[r.id] = KnownRun(r.id, place, RunStatus(r.status), r.is_open, r.attempt)
    return found


def told_before(connection: sa.Connection) -> frozenset[str]:
    """Directories that a person has let be."""
    log = t.change_log
    told: set[str] = set()
    for details in connection.execute(sa.select(log.c.details).where(log.c.act == ACT)).scalars():
        told |= set((details or {}).get("let_be", ()))
    return frozenset(told)


def raise_run_ids(connection: sa.Connection, least: int) -> None:
    """No id up to this one is given to a run. It is never lowered."""
    raise_ids(connection, run, least)


def raise_ids(connection: sa.Connection, table: sa.Table, least: int) -> None:
    """No id up to this one is given to a new row of `table`. It is never lowered."""
    if connection.dialect.name == "postgresql":
        name = f"{t.SCHEMA}.{table.name}_id_seq"
        last = sa.text(f"SELECT last_value, is_called FROM {name}")
        value, called = connection.execute(last).one()
        if value < least or (value == least and not called):
            connection.execute(sa.text("SELECT setval(:name, :value)"), {"name": name, "value": least})
        return
    bound = {"name": table.name, "value": least}
    changed = connection.execute(
        sa.text("UPDATE sqlite_sequence SET seq = max(seq, :value) WHERE name = :name"), bound
    ).rowcount
    if not changed:
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :value)"), bound)


def adopt(
    connection: sa.Connection,
    live: Sequence[FoundAttempt],
    past: Sequence[FoundAttempt],
    *,
    backend: str,
    cluster: str,
    now: datetime,
    actor: str,
) -> None:
    """Write down attempts that were made after the backup.

    Those that are `live` are as if this moment their submission had been recorded and not yet answered: the next
    `submit` looks for their jobs by token; where others of their array were adopted before, they are where those are.
    Those that are `past` have ended.
    """
    of_runs = runs.get_runs(connection, {a.run_id for a in (*live, *past)})
    released = set()
    for token in sorted({a.token for a in (*live, *past)}):
        found, state = _find_submission(connection, token)
        submission_id = found or attempts.insert_submission(connection, token, backend, cluster, now)
        released |= {token} if state == "RELEASED" else set()
        mine = [a for a in (*live, *past) if a.token == token]
        attempts.insert_attempts(connection, submission_id, [
            NewAttempt(a.run_id, a.number, a.index, a.directory, of_runs[a.run_id].resources) for a in mine
        ], now)  # fmt: skip
        if any(a in live for a in mine):
            attempts.change_submission(connection, submission_id, ("ABSENT",), "INTENDED", message=None, doubtful=False)
        elif found is None:
            attempts.change_submission(connection, submission_id, ("INTENDED",), "ABSENT", message=PAST, doubtful=True)
    _end_attempts(connection, past, now)
    for attempt in live:
        status = RunStatus(of_runs[attempt.run_id].status)
        _end_before(connection, attempt.run_id, attempt.number, now)
        _follow(connection, attempt.run_id, events_to_staged(status), now, actor)
        moved = runs.record_event(
            connection, attempt.run_id, RunEvent.SUBMIT_STARTED, expected=RunStatus.STAGED, now=now, actor=actor,
            message=ADOPTED, attempt=attempt.number,
        )  # fmt: skip
        assert moved, attempt
        if attempt.token in released:
            _follow(connection, attempt.run_id, [(RunStatus.SUBMITTING, RunEvent.JOB_ACCEPTED)], now, actor)


def _find_submission(connection: sa.Connection, token: str) -> tuple[int | None, str | None]:
    query = sa.select(t.submission.c.id, t.submission.c.state).where(t.submission.c.token == token)
    row = connection.execute(query).one_or_none()
    return (None, None) if row is None else (row.id, row.state)


PAST = "made after the backup; a later attempt followed, or nobody waits for it"
ADOPTED = "handed over after the backup that the ops-db was restored from"


def give_numbers(connection: sa.Connection, numbers: Iterable[tuple[int, int]], *, now: datetime, actor: str) -> None:
    """Runs whose last attempt was never handed over: they are tried again, with a number that was not used."""
    for run_id, number in numbers:
        status = RunStatus(runs.get_runs(connection, [run_id])[run_id].status)
        _end_before(connection, run_id, number + 1, now)
        _follow(connection, run_id, events_to_pending(status), now, actor)
        runs.update_run(connection, run_id, attempt=number)


def record_late(
    connection: sa.Connection, found: Sequence[FoundAttempt], *, backend: str, cluster: str, now: datetime, actor: str
) -> None:
    """Attempts that a person lets be, those of runs that are known: a retry of the run takes the next number."""
    known = known_runs(connection, {a.run_id for a in found})
    late = [
        a for a in sorted(found, key=lambda a: a.number)
        if a.run_id in known and known[a.run_id].directory == a.run_directory and a.number > known[a.run_id].attempt
    ]  # fmt: skip
    adopt(connection, (), late, backend=backend, cluster=cluster, now=now, actor=actor)
    for attempt in late:
        runs.update_run(connection, attempt.run_id, attempt=attempt.number)


def _follow(
    connection: sa.Connection, run_id: int, events: Sequence[tuple[RunStatus, RunEvent]], now: datetime, actor: str
) -> None:
    for status, event in events:
        changes: dict[str, Any] = {"due_at": now if event is RunEvent.ATTEMPT_FAILED else None}
        moved = runs.record_event(
            connection, run_id, event, expected=status, now=now, actor=actor, message=ADOPTED, **changes
        )
        assert moved, (run_id, status, event)


def _end_before(connection: sa.Connection, run_id: int, number: int, now: datetime) -> None:
    """Of a run that has a later attempt those before it have ended."""
    connection.execute(
        sa.update(t.run_attempt)
        .where(t.run_attempt.c.run_id == run_id, t.run_attempt.c.number < number, t.run_attempt.c.outcome.is_(None))
        .values(outcome="failed", message="ended after the backup; a later attempt followed", ended_at=now)
    )


def _end_attempts(connection: sa.Connection, past: Sequence[FoundAttempt], now: datetime) -> None:
    for attempt in past:
        connection.execute(
            sa.update(t.run_attempt)
            .where(t.run_attempt.c.run_id == attempt.run_id, t.run_attempt.c.number == attempt.number)
            .values(outcome="failed", message=PAST, ended_at=now)
        )
