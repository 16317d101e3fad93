"""Says how full the cache of staged packages is, and which jobs fill it. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ccatwm.core.wording import GB, count_text, size_text, some_text, utc_text
from ccatwm.edges.opsdb.stores import staged, transfers


def build_cache(connection: sa.Connection, location: str, cache_max_gb: float | None) -> dict[str, Any]:
    """The cache at a processing location, in bytes; `limit_bytes` None: of any size."""
    size = staged.read_cache_size(connection, location)
    return {
        "processing_location": location,
        "packages": size.packages,
        "size_bytes": size.held.size_bytes,
        "files": size.held.inodes,
        "pinned_bytes": size.pinned.size_bytes,
        "limit_bytes": None if cache_max_gb is None else round(cache_max_gb * GB),
    }


def cache_text(cache: Mapping[str, Any]) -> str:
    """`12 packages, 41.2 GB of 53.7 GB, 12.0 GB of them needed by runs`."""
    limit = "" if cache["limit_bytes"] is None else f" of {size_text(cache['limit_bytes'])}"
    packages = count_text(cache["packages"], "package")
    return f"{packages}, {size_text(cache['size_bytes'])}{limit}, {size_text(cache['pinned_bytes'])} of it needed by runs"


def build_staging_jobs(connection: sa.Connection, location: str) -> list[dict[str, Any]]:
    """Batch jobs that bring packages to a processing location, with what they are still to bring."""
    found = []
    for transfer in transfers.list_open(connection, location):
        left = transfers.list_claimed(connection, transfer.token)
        found.append(
            {
                "job_id": transfer.job_id,
                "token": transfer.token,
                "state": transfer.state.lower(),
                "created_at": utc_text(transfer.created_at),
                "packages": transfer.packages,
                "packages_left": len(left),
                "bytes_left": sum(row.size_bytes or 0 for row in left),
            }
        )
    return found


def staging_jobs_text(jobs: Sequence[Mapping[str, Any]]) -> str:
    """`2 (4711, 4712), 14 packages and 120.5 GB to come`."""
    names = some_text([str(job["job_id"] or job["token"]) for job in jobs], 5)
    left = count_text(sum(job["packages_left"] for job in jobs), "package")
    return f"{len(jobs)} ({names}), {left} and {size_text(sum(job['bytes_left'] for job in jobs))} to come"
