"""The cache of staged packages, and what was found of physical copies. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

staged = t.staged_package


def read_staged(connection: sa.Connection, location: str, directory: str) -> Any:
    """The row of a cache folder, or None."""
    return connection.execute(
        sa.select(staged).where(staged.c.processing_location == location, staged.c.directory == directory)
    ).first()


def cache_bytes(connection: sa.Connection, location: str) -> int:
    """What the packages in the cache have together, unpacked."""
    query = sa.select(sa.func.coalesce(sa.func.sum(staged.c.size_bytes), 0))
    present = query.where(staged.c.processing_location == location, staged.c.state == "PRESENT")
    return int(connection.execute(present).scalar_one())


def claim_package(
    connection: sa.Connection,
    location: str,
    directory: str,
    *,
    package_id: str,
    package_name: str,
    checksum: str | None,
    claim: str,
    now: datetime,
    until: datetime,
    holder_is_gone: Callable[[str], bool],
) -> bool:
    """Claim the staging of a package; False while another living process has it."""
    row = read_staged(connection, location, directory)
    values = {"state": "STAGING", "claim": claim, "claimed_until": until}
    if row is None:
        connection.execute(
            sa.insert(staged).values(
                processing_location=location, directory=directory, package_id=package_id,
                package_name=package_name, checksum=checksum, **values,
            )
        )  # fmt: skip
        return True
    mine = (
        row.state != "STAGING" or row.claim == claim or row.claimed_until <= now or holder_is_gone(row.claim)
    )
    if not mine:
        return False
    changed = connection.execute(
        sa.update(staged)
        .where(staged.c.id == row.id, staged.c.claim.is_not_distinct_from(row.claim))
        .values(**values)
    ).rowcount
    return bool(changed == 1)


def record_staged(
    connection: sa.Connection, location: str, directory: str, *, now: datetime, **values: Any
) -> None:
    """The package lies in its cache folder, verified."""
    connection.execute(
        sa.update(staged)
        .where(staged.c.processing_location == location, staged.c.directory == directory)
        .values(state="PRESENT", claim=None, claimed_until=None, staged_at=now, last_used_at=now, **values)
    )


def release_claim(connection: sa.Connection, location: str, directory: str, claim: str) -> None:
    connection.execute(
        sa.update(staged)
        .where(
            staged.c.processing_location == location, staged.c.directory == directory, staged.c.claim == claim
        )
        .values(state="GONE", claim=None, claimed_until=None)
    )


def touch_staged(connection: sa.Connection, location: str, directories: list[str], now: datetime) -> None:
    connection.execute(
        sa.update(staged)
        .where(staged.c.processing_location == location, staged.c.directory.in_(directories))
        .values(last_used_at=now)
    )


def known_bad_copies(connection: sa.Connection, package_id: str) -> set[tuple[str, str]]:
    """(location, path) of copies that were found corrupt or missing."""
    report = t.copy_report
    query = sa.select(report.c.location, report.c.path).where(report.c.package_id == package_id)
    return {(row.location, row.path) for row in connection.execute(query)}


def record_copy_report(
    connection: sa.Connection,
    *,
    package_id: str,
    package_name: str,
    location: str,
    path: str,
    finding: str,
    message: str,
    now: datetime,
) -> None:
    """A copy was found corrupt or missing; the newest finding is kept."""
    report = t.copy_report
    connection.execute(
        sa.delete(report).where(
            report.c.package_id == package_id, report.c.location == location, report.c.path == path
        )
    )
    connection.execute(
        sa.insert(report).values(
            package_id=package_id, package_name=package_name, location=location, path=path, finding=finding,
            message=message, found_at=now,
        )
    )  # fmt: skip


def forget_copy_report(connection: sa.Connection, package_id: str, location: str, path: str) -> None:
    """A copy that was bad has been read and was good."""
    report = t.copy_report
    connection.execute(
        sa.delete(report).where(
            report.c.package_id == package_id, report.c.location == location, report.c.path == path
        )
    )
