"""Says how full the cache of staged packages is. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ccatwm.core.cache import GIB
from ccatwm.core.wording import count_text, size_text
from ccatwm.edges.opsdb.stores import staged


def build_cache(connection: sa.Connection, location: str, cache_max_gb: float | None) -> dict[str, Any]:
    """The cache at a processing location, in bytes; `limit_bytes` None: of any size."""
    size = staged.read_cache_size(connection, location)
    return {
        "processing_location": location,
        "packages": size.packages,
        "size_bytes": size.held.size_bytes,
        "files": size.held.inodes,
        "pinned_bytes": size.pinned.size_bytes,
        "limit_bytes": None if cache_max_gb is None else int(cache_max_gb * GIB),
    }


def cache_text(cache: Mapping[str, Any]) -> str:
    """`12 packages, 41.2 GB of 53.7 GB, 12.0 GB of them needed by runs`."""
    limit = "" if cache["limit_bytes"] is None else f" of {size_text(cache['limit_bytes'])}"
    packages = count_text(cache["packages"], "package")
    return f"{packages}, {size_text(cache['size_bytes'])}{limit}, {size_text(cache['pinned_bytes'])} of it needed by runs"
