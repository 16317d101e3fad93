"""Batch jobs that bring packages into the cache. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.cache import Amount
from ccatwm.core.model import InputKind
from ccatwm.core.states import RunStatus
from ccatwm.core.transfers import job_claim
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

jobs = t.transfer_job
staged = t.staged_package
runs = t.executed_reduction_step
NEAR = 200  # jobs made before or after one, of all locations, among which the last ones are looked for


@dataclass(frozen=True)
class Transfer:
    """A job that has not ended. `state`: INTENDED, HELD or RELEASED."""

    id: int
    token: str
    backend: str
    cluster: str
    state: str
    job_id: str | None
    packages: int
    size_bytes: int
    limit_seconds: float
    created_at: datetime
    submitted_at: datetime | None
    gone_at: datetime | None


def list_open(connection: sa.Connection, location: str) -> list[Transfer]:
    """Those of a processing location that have not ended, the oldest first."""
    query = sa.select(jobs).where(jobs.c.processing_location == location, jobs.c.state != sa.literal_column("'ENDED'"))
    return [
        Transfer(
            r.id, r.token, r.backend, r.cluster, r.state, r.job_id, r.packages, r.size_bytes, r.limit_seconds,
            r.created_at, r.submitted_at, r.gone_at,
        )
        for r in connection.execute(query.order_by(jobs.c.id))
    ]  # fmt: skip


def list_open_tokens(connection: sa.Connection) -> set[str]:
    """Of all processing locations."""
    return set(connection.execute(sa.select(jobs.c.token).where(jobs.c.state != sa.literal_column("'ENDED'"))).scalars())


def insert_transfer(
    connection: sa.Connection, location: str, token: str, backend: str, cluster: str, *, packages: int, size_bytes: int,
    limit_seconds: float, now: datetime,
) -> None:  # fmt: skip
    connection.execute(
        sa.insert(jobs).values(
            processing_location=location, token=token, backend=backend, cluster=cluster, state="INTENDED",
            packages=packages, size_bytes=size_bytes, limit_seconds=limit_seconds, created_at=now,
        )
    )  # fmt: skip


def change_transfer(connection: sa.Connection, token: str, expected: Collection[str], **changes: Any) -> bool:
    """Compare-and-swap by its state."""
    changed = connection.execute(
        sa.update(jobs).where(jobs.c.token == token, jobs.c.state.in_(list(expected))).values(**changes)
    ).rowcount
    return bool(changed == 1)


def list_brought(connection: sa.Connection, location: str, beside: Transfer, most: int) -> list[int]:
    """How many packages the last jobs that began and have ended brought, the newest first, without this one."""
    near = jobs.c.id.between(beside.id - NEAR, beside.id + NEAR)
    query = sa.select(jobs.c.brought).where(
        near, jobs.c.id != beside.id, jobs.c.processing_location == location, jobs.c.brought.is_not(None)
    )
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(most)).scalars())


def list_given_up_tokens(connection: sa.Connection, backend: str, cluster: str, since: datetime) -> set[str]:
    """Of jobs made after `since` that were given up although they may appear yet."""
    query = sa.select(jobs.c.token).where(
        jobs.c.doubtful, jobs.c.created_at >= since, jobs.c.backend == backend, jobs.c.cluster == cluster
    )
    return set(connection.execute(query).scalars())


def list_claimed(connection: sa.Connection, token: str) -> list[Any]:
    """Rows of the packages that a job is still to bring."""
    query = sa.select(staged).where(staged.c.claim == job_claim(token), staged.c.claim.is_not(None))
    return list(connection.execute(query.order_by(staged.c.id)))


def read_coming(connection: sa.Connection, tokens: Sequence[str]) -> Amount:
    """What jobs are still to bring."""
    found = Amount()
    for token in tokens:
        for row in list_claimed(connection, token):
            found += Amount(row.size_bytes or 0, row.file_count or 0)
    return found


def list_waiting_runs(
    connection: sa.Connection, location: str, packages: Collection[tuple[str, str | None]]
) -> list[int]:
    """Runs that are being staged and have one of these packages (id and checksum) among their inputs."""
    inputs = t.run_input
    found: set[int] = set()
    for chunk in chunks(sorted({package_id for package_id, _ in packages})):
        query = (
            sa.select(inputs.c.identity, inputs.c.checksum, runs.c.id)
            .join(runs, runs.c.id == inputs.c.run_id)
            .where(
                inputs.c.kind == InputKind.PACKAGE.value, inputs.c.identity.in_(chunk),
                runs.c.processing_location == location, runs.c.status == RunStatus.STAGING_DATA.value,
            )
        )  # fmt: skip
        found |= {row.id for row in connection.execute(query) if (row.identity, row.checksum) in packages}
    return sorted(found)


def look_again(connection: sa.Connection, run_ids: Collection[int]) -> None:
    """Runs that waited for a job are looked at in this very pass."""
    for chunk in chunks(sorted(run_ids)):
        connection.execute(
            sa.update(runs)
            .where(runs.c.id.in_(chunk), runs.c.status == RunStatus.STAGING_DATA.value)
            .values(due_at=None)
        )
