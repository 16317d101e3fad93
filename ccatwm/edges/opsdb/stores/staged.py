"""The cache of staged packages, and what was found of physical copies. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ccatwm.core.cache import Amount, CachedPackage, total
from ccatwm.core.model import InputKind
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

staged = t.staged_package


def read_staged(connection: sa.Connection, location: str, directory: str) -> Any:
    """The row of a cache folder, or None."""
    return list_staged(connection, location, [directory]).get(directory)


def list_staged(connection: sa.Connection, location: str, directories: Sequence[str]) -> dict[str, Any]:
    """The rows of cache folders, as far as there are any."""
    found: dict[str, Any] = {}
    for chunk in chunks(directories):
        query = sa.select(staged).where(staged.c.processing_location == location, staged.c.directory.in_(chunk))
        found |= {row.directory: row for row in connection.execute(query)}
    return found


def cache_bytes(connection: sa.Connection, location: str) -> int:
    """What the packages in the cache have together, unpacked."""
    query = sa.select(sa.func.coalesce(sa.func.sum(staged.c.size_bytes), 0))
    present = query.where(staged.c.processing_location == location, staged.c.state == "PRESENT")
    return int(connection.execute(present).scalar_one())


class Claimed(NamedTuple):
    """A package to be claimed. `amount`: what it is thought to need, until it is known better."""

    directory: str
    package_id: str
    package_name: str
    checksum: str | None
    amount: Amount


def claim_packages(
    connection: sa.Connection,
    location: str,
    packages: Sequence[Claimed],
    *,
    claim: str,
    now: datetime,
    until: datetime,
    holder_is_gone: Callable[[str], bool],
) -> set[str]:
    """Claim the staging of packages; the directories of those that no other living process has."""
    rows = list_staged(connection, location, [package.directory for package in packages])
    values = {"state": "STAGING", "claim": claim, "claimed_until": until}
    new = [
        {
            "processing_location": location, "directory": p.directory, "package_id": p.package_id,
            "package_name": p.package_name, "checksum": p.checksum, "size_bytes": p.amount.size_bytes,
            "file_count": p.amount.inodes, **values,
        }
        for p in packages
        if p.directory not in rows
    ]  # fmt: skip
    if new:
        connection.execute(sa.insert(staged), new)
    mine = {str(row["directory"]) for row in new}
    for row in rows.values():
        if row.claim == claim or not _is_claimed(row, now, holder_is_gone):
            changed = connection.execute(
                sa.update(staged)
                .where(staged.c.id == row.id, staged.c.claim.is_not_distinct_from(row.claim))
                .values(**values)
            ).rowcount
            mine |= {row.directory} if changed == 1 else set()
    return mine


def _is_claimed(row: Any, now: datetime, holder_is_gone: Callable[[str], bool]) -> bool:
    """Whether a process that may be alive brings or removes it."""
    return row.state == "STAGING" and row.claimed_until > now and not holder_is_gone(row.claim)


class Arrived(NamedTuple):
    """A package that lies in its cache folder, verified."""

    directory: str
    size_bytes: int
    file_count: int
    tree_digest: str | None


def record_staged(connection: sa.Connection, location: str, arrived: Sequence[Arrived], now: datetime) -> None:
    """Packages lie in their cache folders."""
    if not arrived:
        return
    connection.execute(
        sa.update(staged)
        .where(staged.c.processing_location == location, staged.c.directory == sa.bindparam("in_directory"))
        .values(state="PRESENT", claim=None, claimed_until=None, staged_at=now, last_used_at=now),
        [
            {"in_directory": one.directory, "size_bytes": one.size_bytes, "file_count": one.file_count,
             "tree_digest": one.tree_digest}
            for one in arrived
        ],
    )  # fmt: skip


def release_claims(connection: sa.Connection, location: str, directories: Sequence[str], claim: str) -> None:
    """What was claimed did not come, or has been removed."""
    for chunk in chunks(directories):
        connection.execute(
            sa.update(staged)
            .where(
                staged.c.processing_location == location, staged.c.directory.in_(chunk), staged.c.claim == claim
            )
            .values(state="GONE", claim=None, claimed_until=None)
        )


def touch_staged(connection: sa.Connection, location: str, directories: Sequence[str], now: datetime) -> None:
    """They are used now."""
    for chunk in chunks(directories):
        connection.execute(
            sa.update(staged)
            .where(staged.c.processing_location == location, staged.c.directory.in_(chunk))
            .values(last_used_at=now)
        )


# --- the whole cache ------------------------------------------------------------------------------------------------

inputs = t.run_input
runs = t.executed_reduction_step
THERE = ("STAGING", "PRESENT")
NOT_LINKED = (RunStatus.PENDING.value, RunStatus.STAGING_DATA.value)


def read_held(connection: sa.Connection, location: str) -> Amount:
    """What is in the cache or on its way into it, as the rows say."""
    query = sa.select(sa.func.sum(staged.c.size_bytes), sa.func.sum(staged.c.file_count)).where(
        staged.c.processing_location == location, staged.c.state.in_(THERE)
    )
    size, files = connection.execute(query).one()
    return Amount(int(size or 0), int(files or 0))


def read_only_linked(connection: sa.Connection, location: str) -> Amount:
    """What has left the cache while links of runs keep its files (a purge takes one name of a file, not the other)."""
    linked, _ = list_pins(connection, location)
    found = Amount()
    for chunk in chunks(sorted({package_id for package_id, _ in linked})):
        query = sa.select(staged).where(
            staged.c.package_id.in_(chunk), staged.c.processing_location == location, staged.c.state == "GONE",
            staged.c.staged_at.is_not(None),
        )  # fmt: skip
        for row in connection.execute(query):
            if (row.package_id, row.checksum) in linked:
                found += Amount(row.size_bytes or 0, row.file_count or 0)
    return found


def _has_inputs(location: str) -> sa.ColumnElement[bool]:
    return sa.and_(runs.c.processing_location == location, runs.c.inputs_removed_at.is_(None))


def list_cached(
    connection: sa.Connection, location: str, now: datetime, holder_is_gone: Callable[[str], bool]
) -> list[CachedPackage]:
    """What is in the cache, with the runs that need it; what others are bringing or removing is left out."""
    rows = connection.execute(
        sa.select(staged).where(staged.c.processing_location == location, staged.c.state.in_(THERE))
    )
    linked, wanted = list_pins(connection, location)
    return [
        CachedPackage(
            row.id, row.directory, row.package_name, Amount(row.size_bytes or 0, row.file_count or 0), row.last_used_at,
            linked=(row.package_id, row.checksum) in linked,
            wanted_by=frozenset(wanted.get((row.package_id, row.checksum), ())),
            abandoned=row.state == "STAGING",
        )
        for row in rows
        if not _is_claimed(row, now, holder_is_gone)
    ]  # fmt: skip


Pinned = tuple[str, str | None]  # package id and checksum


def list_pins(connection: sa.Connection, location: str) -> tuple[set[Pinned], dict[Pinned, set[int]]]:
    """Packages that runs have links to, and those that runs wait for, with their ids."""
    query = (
        sa.select(inputs.c.identity, inputs.c.checksum, runs.c.id, runs.c.status)
        .join(runs, runs.c.id == inputs.c.run_id)
        .where(_has_inputs(location), inputs.c.kind == InputKind.PACKAGE.value)
    )
    linked: set[Pinned] = set()
    wanted: dict[Pinned, set[int]] = {}
    for row in connection.execute(query):
        if row.status in NOT_LINKED:
            wanted.setdefault((row.identity, row.checksum), set()).add(row.id)
        else:
            linked.add((row.identity, row.checksum))
    return linked, wanted


class CacheSize(NamedTuple):
    """`pinned`: what runs need whose inputs were not removed yet."""

    packages: int
    held: Amount
    pinned: Amount


def read_cache_size(connection: sa.Connection, location: str) -> CacheSize:
    """How full the cache is, with what has left it and still takes room."""
    linked, wanted = list_pins(connection, location)
    rows = connection.execute(
        sa.select(staged).where(staged.c.processing_location == location, staged.c.state.in_(THERE))
    )
    amounts = [(Amount(row.size_bytes or 0, row.file_count or 0), (row.package_id, row.checksum)) for row in rows]
    elsewhere = read_only_linked(connection, location)
    pinned = total(amount for amount, package in amounts if package in linked or package in wanted)
    return CacheSize(len(amounts), total(amount for amount, _ in amounts) + elsewhere, pinned + elsewhere)


def claim_leaving(
    connection: sa.Connection, location: str, package: CachedPackage, *, claim: str, now: datetime, until: datetime,
    holder_is_gone: Callable[[str], bool],
) -> bool:  # fmt: skip
    """Claim the removal of a package; False if it was used, claimed or linked since it was chosen."""
    row = connection.execute(sa.select(staged).where(staged.c.id == package.id)).one_or_none()
    if row is None or row.state not in THERE or _is_claimed(row, now, holder_is_gone):
        return False
    linking = (
        sa.select(inputs.c.id)
        .join(runs, runs.c.id == inputs.c.run_id)
        .where(
            inputs.c.kind == InputKind.PACKAGE.value, inputs.c.identity == staged.c.package_id,
            inputs.c.checksum.is_not_distinct_from(staged.c.checksum), _has_inputs(location),
            runs.c.status.not_in(NOT_LINKED),
        )
    )  # fmt: skip
    changed = connection.execute(
        sa.update(staged)
        .where(
            staged.c.id == row.id, staged.c.state == row.state, staged.c.claim.is_not_distinct_from(row.claim),
            staged.c.last_used_at.is_not_distinct_from(package.last_used_at), sa.not_(linking.exists()),
        )
        .values(state="STAGING", claim=claim, claimed_until=until)
    ).rowcount  # fmt: skip
    return bool(changed == 1)


# --- copies ---------------------------------------------------------------------------------------------------------


def known_bad_copies(connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, set[tuple[str, str]]]:
    """By package, (location, path) of copies that were found corrupt or missing."""
    report = t.copy_report
    found: dict[str, set[tuple[str, str]]] = {package_id: set() for package_id in package_ids}
    for chunk in chunks(list(found)):
        query = sa.select(report.c.package_id, report.c.location, report.c.path).where(report.c.package_id.in_(chunk))
        for row in connection.execute(query):
            found[row.package_id].add((row.location, row.path))
    return found


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
