"""What the ops-db knows of files that a scan found. Touches: the observation tables of a managed ops-db, reading only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ccatwm.core.scanned import KnownCopy
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks


@dataclass(frozen=True)
class KnownLocation:
    """A data location and where it lies; `kind` is source, buffer, long_term_archive or processing."""

    name: str
    kind: str
    storage: str
    root: str | None


def list_locations(connection: sa.Connection) -> list[KnownLocation]:
    """All data locations by name."""
    place = t.data_location
    columns = (place.c.name, place.c.location_type, place.c.storage_type, place.c.base_path)
    return [KnownLocation(*row) for row in connection.execute(sa.select(*columns).order_by(place.c.name))]


def copies_below(connection: sa.Connection, location: str, prefix: str) -> list[KnownCopy]:
    """Copies at a location whose path begins with `prefix`."""
    inside = t.physical_copy.c.path.startswith(prefix, autoescape=True)
    query = _copies().where(t.data_location.c.name == location, inside)
    return [copy for copy in _known(connection.execute(query)) if copy.path.startswith(prefix)]  # LIKE has no case


def copies_of(connection: sa.Connection, names: Sequence[str]) -> dict[str, list[KnownCopy]]:
    """All copies of packages by the name of the package."""
    found: dict[str, list[KnownCopy]] = {}
    for chunk in chunks(names):
        for copy in _known(connection.execute(_copies().where(t.raw_data_package.c.name.in_(chunk)))):
            found.setdefault(copy.package, []).append(copy)
    return found


def units_with_status(connection: sa.Connection, names: Sequence[str]) -> set[str]:
    """Which of these executed obs units have a status: somebody said how they ended."""
    unit = t.executed_obs_unit
    query = sa.select(unit.c.name).where(unit.c.status.is_not(None))
    return {name for chunk in chunks(names) for name in connection.execute(query.where(unit.c.name.in_(chunk))).scalars()}


def _copies() -> sa.Select[Any]:
    package, copy, place = t.raw_data_package, t.physical_copy, t.data_location
    return (
        sa.select(
            package.c.name, place.c.name, copy.c.path, copy.c.status, package.c.size_bytes, package.c.checksum,
            package.c.created_at,
        )
        .join_from(copy, package, package.c.id == copy.c.raw_data_package_id)
        .join(place, place.c.id == copy.c.data_location_id)
        .order_by(copy.c.id)
    )  # fmt: skip


def _known(rows: Iterable[Any]) -> Iterable[KnownCopy]:
    return (KnownCopy(*row) for row in rows)
