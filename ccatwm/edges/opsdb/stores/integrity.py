"""What the ops-db says of files, a page at a time, and what `fsck` writes down. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from ccatwm.core.cache import NOTHING, Amount
from ccatwm.core.integrity import KnownPackage, KnownProduct
from ccatwm.core.model import run_directory
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import products
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_due
from ccatwm.edges.opsdb.stores.staged import Claimed, claim_packages, read_staged, release_claims

run, product, staged = t.executed_reduction_step, t.data_product, t.staged_package


class CompletedRun(NamedTuple):
    """A run whose output was recorded. Paths are below the base directory."""

    id: int
    directory: str
    output: str


def count_completed(connection: sa.Connection, location: str) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(run).where(_completed(location))).scalar_one())


def completed_runs(connection: sa.Connection, location: str, after: int, limit: int) -> list[CompletedRun]:
    """By id, those above `after`."""
    query = sa.select(run.c.id, run.c.pipeline_name, run.c.step_name, run.c.sub_group_key, run.c.output_directory)
    query = query.where(_completed(location), run.c.id > after).order_by(run.c.id).limit(limit)
    return [
        CompletedRun(r.id, run_directory(r.pipeline_name, r.step_name, r.sub_group_key, r.id), r.output_directory)
        for r in connection.execute(query)
    ]


def _completed(location: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        run.c.processing_location == location,
        run.c.status == RunStatus.COMPLETED.value,
        run.c.output_directory.is_not(None),
    )


def present_products(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[KnownProduct]]:
    """Products that are said to be there, by run."""
    return _products(connection, run_ids, "present")


def missing_products(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[KnownProduct]]:
    """Products that are said to be missing, by run; nothing of ours removed them."""
    return _products(connection, run_ids, "missing")


def removed_products(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, list[KnownProduct]]:
    """Products that `gc` took away, by run."""
    return _products(connection, run_ids, "removed")


def present_amounts(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, Amount]:
    """What products take that are said to be there, by run."""
    found: dict[int, Amount] = {}
    for chunk in chunks(sorted(run_ids)):
        sums = (sa.func.sum(column) for column in (product.c.size_bytes, product.c.file_count))
        query = sa.select(product.c.run_id, *sums).where(product.c.run_id.in_(chunk), product.c.status == "present")
        for run_id, size, count in connection.execute(query.group_by(product.c.run_id)):
            found[run_id] = Amount(int(size), int(count))
    return found


def runs_with_missing_products(connection: sa.Connection, location: str) -> set[int]:
    """Completed runs of which products are said to be missing, and none was removed by us."""
    theirs = sa.select(product.c.id).where(product.c.run_id == run.c.id)
    missing, removed = (theirs.where(product.c.status == status).exists() for status in ("missing", "removed"))
    return set(connection.execute(sa.select(run.c.id).where(_completed(location), missing, sa.not_(removed))).scalars())


def _products(connection: sa.Connection, run_ids: Collection[int], status: str) -> dict[int, list[KnownProduct]]:
    found: dict[int, list[KnownProduct]] = {run_id: [] for run_id in run_ids}
    columns = (product.c.id, product.c.run_id, run.c.sub_group_id, product.c.path, product.c.full_path,
               product.c.is_directory, product.c.size_bytes, product.c.file_count, product.c.sha256)  # fmt: skip
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(*columns).join(run, run.c.id == product.c.run_id)
        query = query.where(product.c.run_id.in_(chunk), product.c.status == status)
        for row in connection.execute(query.order_by(product.c.id)):
            found[row.run_id].append(KnownProduct(*row))
    return found


def runs_with_absent_products(connection: sa.Connection, run_ids: Collection[int]) -> set[int]:
    """Runs of which products were removed or are known to be missing: what lies in their output is not compared."""
    found: set[int] = set()
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(product.c.run_id).where(product.c.run_id.in_(chunk), product.c.status != "present")
        found |= set(connection.execute(query.distinct()).scalars())
    return found


def sub_group_folders(connection: sa.Connection) -> set[str]:
    """Those in which runs are, or were."""
    query = sa.select(run.c.pipeline_name, run.c.step_name, run.c.sub_group_key).distinct()
    return {f"{row.pipeline_name}/{row.step_name}/{row.sub_group_key}" for row in connection.execute(query)}


def staged_packages(connection: sa.Connection, location: str) -> Iterator[KnownPackage]:
    query = sa.select(staged).where(staged.c.processing_location == location, staged.c.state == "PRESENT")
    for row in connection.execute(query.order_by(staged.c.id)):
        yield KnownPackage(row.id, row.package_name, row.directory, row.size_bytes, row.file_count, row.tree_digest)


def known_cache_folders(connection: sa.Connection, location: str) -> set[str]:
    """Those that are there or are being made or removed."""
    query = sa.select(staged.c.directory).where(staged.c.processing_location == location, staged.c.state != "GONE")
    return set(connection.execute(query).scalars())


class InTrash(NamedTuple):
    """Something that `gc` has taken away and not deleted yet."""

    run_id: int
    kind: str
    path: str
    trash_path: str


def in_trash(connection: sa.Connection, location: str) -> list[InTrash]:
    trash = t.trash
    columns = (trash.c.run_id, trash.c.kind, trash.c.path, trash.c.trash_path)
    query = sa.select(*columns).join(run, run.c.id == trash.c.run_id).where(
        run.c.processing_location == location, trash.c.trashed_at.is_not(None), trash.c.emptying_at.is_(None),
        trash.c.deleted_at.is_(None), trash.c.undone_at.is_(None),
    )  # fmt: skip
    return [InTrash(*row) for row in connection.execute(query.order_by(trash.c.id))]


def known_trash(connection: sa.Connection) -> set[str]:
    """Folders of the trash that some row speaks of, as it is now or was."""
    return set(connection.execute(sa.select(t.trash.c.trash_path)).scalars())


# --- writing down -----------------------------------------------------------------------------------------------------


def record_products_missing(
    connection: sa.Connection, product_ids: Sequence[int], sub_group_ids: Collection[int], now: datetime
) -> None:
    """They are not there; what was made of them is decided on again."""
    products.record_missing(connection, product_ids)
    mark_due(connection, sorted(sub_group_ids), now)


def record_products_back(
    connection: sa.Connection, product_ids: Sequence[int], sub_group_ids: Collection[int], now: datetime
) -> set[int]:
    """They are there again, and what is made of them is decided on again. Which: something may have come between."""
    mark_due(connection, sorted(sub_group_ids), now)
    return products.record_back(connection, product_ids)


@dataclass(frozen=True)
class Claimant:
    """Who removes packages from the cache. Claims carry `token`; `is_gone` tells of another's whether its process ended."""

    token: str
    now: datetime
    until: datetime
    is_gone: Callable[[str], bool]


def claim_damaged(connection: sa.Connection, ids: Sequence[int], claimant: Claimant) -> set[int]:
    """Rows of the cache that are ours to remove now; somebody else may have claimed one meanwhile."""
    mine: set[int] = set()
    for chunk in chunks(sorted(ids)):
        claimed = (
            sa.update(staged)
            .where(staged.c.id.in_(chunk), staged.c.state == "PRESENT")
            .values(state="STAGING", claim=claimant.token, claimed_until=claimant.until)
        )
        mine |= set(connection.execute(claimed.returning(staged.c.id)).scalars())
    return mine


def claim_unknown(connection: sa.Connection, location: str, directory: str, claimant: Claimant) -> bool:
    """Whether a folder that no row speaks of is ours to remove now: nobody brings a package there meanwhile."""
    row = read_staged(connection, location, directory)
    if row is not None and row.state == "PRESENT":
        return False
    mine = claim_packages(
        connection, location, [Claimed(directory, "", "", None, NOTHING)],
        claim=claimant.token, now=claimant.now, until=claimant.until, holder_is_gone=claimant.is_gone,
    )  # fmt: skip
    return directory in mine


def record_removed(connection: sa.Connection, location: str, directories: Sequence[str], claimant: Claimant) -> None:
    """They have left the cache. Rows that were made to claim a folder go."""
    for chunk in chunks(sorted(directories)):
        here = sa.and_(
            staged.c.processing_location == location, staged.c.directory.in_(chunk), staged.c.claim == claimant.token
        )
        connection.execute(sa.delete(staged).where(here, staged.c.package_id == ""))
    release_claims(connection, location, sorted(directories), claimant.token)
