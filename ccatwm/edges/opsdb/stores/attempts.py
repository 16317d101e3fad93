"""Attempts and their submissions. Touches: the ops-db."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import sqlalchemy as sa

from ccatwm.core.model import Attempt, Resources
from ccatwm.core.staging import SUBMISSIONS
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.interfaces import JobRequest

submission = t.submission
attempt = t.run_attempt


@dataclass(frozen=True)
class Submission:
    """A submission with its attempts. `state`: INTENDED, HELD, RELEASED or ABSENT."""

    id: int
    token: str
    state: str
    job_id: str | None
    created_at: datetime
    attempts: tuple[Attempt, ...]


def insert_submission(
    connection: sa.Connection, token: str, backend: str, cluster: str, now: datetime
) -> int:
    result = connection.execute(
        sa.insert(submission).values(
            token=token, backend=backend, cluster=cluster, state="INTENDED", created_at=now
        )
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def change_submission(
    connection: sa.Connection, submission_id: int, expected: Collection[str], state: str, **changes: Any
) -> bool:
    """Compare-and-swap of a submission's state."""
    changed = connection.execute(
        sa.update(submission)
        .where(submission.c.id == submission_id, submission.c.state.in_(list(expected)))
        .values(state=state, **changes)
    ).rowcount
    return bool(changed == 1)


@dataclass(frozen=True)
class NewAttempt:
    """An attempt to be written down. `directory` is below the base directory."""

    run_id: int
    number: int
    array_index: int
    directory: str
    resources: Resources


def insert_attempts(
    connection: sa.Connection, submission_id: int, new: Sequence[NewAttempt], now: datetime
) -> None:
    rows = [
        {
            "run_id": item.run_id, "number": item.number, "submission_id": submission_id,
            "array_index": item.array_index, "directory": item.directory, "created_at": now,
            "resources_asked": dataclasses.asdict(item.resources),
        }
        for item in new
    ]  # fmt: skip
    if rows:
        connection.execute(sa.insert(attempt), rows)


def update_attempt(connection: sa.Connection, attempt_id: int, **changes: Any) -> None:
    connection.execute(sa.update(attempt).where(attempt.c.id == attempt_id).values(**changes))


def list_unsettled_submissions(connection: sa.Connection, backend: str, cluster: str) -> list[Submission]:
    """Submissions found half-way: INTENDED or HELD, with their attempts."""
    query = (
        sa.select(submission)
        .where(
            submission.c.state.in_(["INTENDED", "HELD"]),
            submission.c.backend == backend,
            submission.c.cluster == cluster,
        )
        .order_by(submission.c.id)
    )
    rows = connection.execute(query).all()
    attempts = _attempts_of(connection, [row.id for row in rows])
    return [Submission(r.id, r.token, r.state, r.job_id, r.created_at, tuple(attempts[r.id])) for r in rows]


def get_submission(connection: sa.Connection, submission_id: int) -> Submission:
    """A submission that is there, with all its attempts."""
    row = connection.execute(sa.select(submission).where(submission.c.id == submission_id)).one()
    attempts = _attempts_of(connection, [submission_id])[submission_id]
    return Submission(row.id, row.token, row.state, row.job_id, row.created_at, tuple(attempts))


def build_job_request(submission: Submission) -> JobRequest:
    """What the batch system is asked for."""
    resources = submission.attempts[0].resources
    return JobRequest(
        token=submission.token,
        name=f"ccatwm-{submission.token}",
        directory=SUBMISSIONS / submission.token,
        attempt_directories=tuple(PurePosixPath(a.first_directory) for a in submission.attempts),
        cpu=resources.cpu,
        memory_gb=resources.memory_gb,
        time_seconds=resources.time_seconds,
        options={
            "tasks": resources.tasks,
            "nodes": resources.nodes,
            "gpus": resources.gpus,
            "partition": resources.partition,
            "account": resources.account,
            "qos": resources.qos,
            "constraint": resources.constraint,
            "extra": resources.extra,
        },
    )


def list_given_up_tokens(
    connection: sa.Connection, backend: str, cluster: str, since: datetime
) -> dict[str, int]:
    """Number of tasks by token of submissions made after `since` that were given up although
    a job of theirs may appear yet. Of an array not all tasks need be known."""
    last = sa.select(sa.func.max(attempt.c.array_index)).where(attempt.c.submission_id == submission.c.id)
    tasks = sa.func.coalesce(last.scalar_subquery() + 1, 0)
    query = sa.select(submission.c.token, tasks).where(
        submission.c.doubtful,
        submission.c.created_at >= since,
        submission.c.backend == backend,
        submission.c.cluster == cluster,
    )
    return {str(token): int(count) for token, count in connection.execute(query)}


def _attempts_of(connection: sa.Connection, submission_ids: list[int]) -> dict[int, list[Attempt]]:
    found: dict[int, list[Attempt]] = {submission_id: [] for submission_id in submission_ids}
    for chunk in chunks(submission_ids):
        query = _select().where(attempt.c.submission_id.in_(chunk)).order_by(attempt.c.array_index)
        for row in connection.execute(query):
            found[row.submission_id].append(_attempt(row))
    return found


def record_alive(connection: sa.Connection, attempt_ids: Sequence[int], message: str | None) -> None:
    """Their jobs are in the queue, maybe again; `message` is why they wait there."""
    for chunk in chunks(attempt_ids):
        connection.execute(
            sa.update(attempt).where(attempt.c.id.in_(chunk)).values(ended_at=None, message=message)
        )


class OpenJob(NamedTuple):
    """What a poll asks about: a run that has a job, with its newest attempt. Light: there are thousands."""

    run_id: int
    pipeline: str
    step: str
    sub_group: str
    status: str
    cancel_requested: bool
    attempt_id: int
    array_index: int
    gone_at: datetime | None
    message: str | None
    job_id: str
    token: str
    submitted_at: datetime | None


def list_open_jobs(connection: sa.Connection, location: str) -> list[OpenJob]:
    """Runs SUBMITTED or RUNNING at a processing location whose job's id is known, larger priority first."""
    runs = t.executed_reduction_step
    query = (
        sa.select(
            runs.c.id, runs.c.pipeline_name, runs.c.step_name, runs.c.sub_group_key, runs.c.status,
            runs.c.cancel_requested_at.isnot(None), attempt.c.id, attempt.c.array_index, attempt.c.ended_at,
            attempt.c.message, submission.c.job_id, submission.c.token, submission.c.submitted_at,
        )
        .join(attempt, sa.and_(attempt.c.run_id == runs.c.id, attempt.c.number == runs.c.attempt))
        .join(submission, submission.c.id == attempt.c.submission_id)
        .where(
            runs.c.is_open,
            runs.c.processing_location == location,
            runs.c.status.in_(["SUBMITTED", "RUNNING"]),
            submission.c.job_id.isnot(None),
        )
        .order_by(runs.c.priority.desc(), runs.c.id)
    )  # fmt: skip
    return [OpenJob(*row) for row in connection.execute(query)]


def newest_attempts(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Attempt]:
    """The newest attempt of each run, by run id."""
    found: dict[int, Attempt] = {}
    for chunk in chunks(sorted(run_ids)):
        query = _select().where(attempt.c.run_id.in_(chunk)).order_by(attempt.c.run_id, attempt.c.number)
        for row in connection.execute(query):
            found[row.run_id] = _attempt(row)
    return found


def list_without_metrics(
    connection: sa.Connection, backend: str, cluster: str, now: datetime, *, limit: int
) -> list[Attempt]:
    """Attempts that have ended and whose metrics accounting is to be asked for again by now."""
    query = (
        _select()
        .where(attempt.c.metrics_at <= now, submission.c.backend == backend, submission.c.cluster == cluster)
        .order_by(attempt.c.metrics_at, attempt.c.id)
        .limit(limit)
    )
    return [_attempt(row) for row in connection.execute(query)]


def _select() -> sa.Select[Any]:
    return sa.select(attempt, submission.c.token, submission.c.job_id, submission.c.submitted_at).join(
        submission, submission.c.id == attempt.c.submission_id
    )


def _attempt(row: Any) -> Attempt:
    return Attempt(
        id=row.id,
        run_id=row.run_id,
        number=row.number,
        directory=row.directory,
        token=row.token,
        submission_id=row.submission_id,
        array_index=row.array_index,
        job_id=row.job_id,
        created_at=row.created_at,
        resources=Resources.from_json(row.resources_asked),
        gone_at=row.ended_at,
        outcome=row.outcome,
        started_at=row.started_at,
        submitted_at=row.submitted_at,
        exit_code=row.exit_code,
        message=row.message,
        restart=row.restart,
        resources_used=row.resources_used,
    )
