"""Says which failed runs fail again, since no copy of a package of theirs can be read. Touches: the ops-db (reads)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import FailureClass
from ccatwm.core.staging import not_readable_here
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import views
from ccatwm.interfaces import PackageCopy


@dataclass(frozen=True)
class Readable:
    """What the `stage` of a processing location reads by itself: copies of these storage types."""

    location: str
    grouping: GroupingEngine
    storages: frozenset[str]


def unreadable_notes(connection: sa.Connection, readable: Readable, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Of runs that failed in staging, why staging fails again as long as the ops-db knows no other copies; by run."""
    failed = [
        row["run"] for row in rows
        if row["failure_class"] == FailureClass.STAGING and row["processing_location"] == readable.location
    ]  # fmt: skip
    inputs = views.list_inputs(connection, failed)
    packages = {run: {i["identity"]: i["name"] for i in rows if i["kind"] == "package"} for run, rows in inputs.items()}
    copies = readable.grouping.copies(connection, sorted({identity for some in packages.values() for identity in some}))
    found = {}
    for run, names in packages.items():
        for identity, name in names.items():
            known = copies.get(identity, [])
            if not any(copy.storage in readable.storages for copy in known):
                found[run] = _note(name, known)
                break
    return found


def _note(package: str, copies: Sequence[PackageCopy]) -> str:
    where = [f"{copy.location}: {not_readable_here(copy.storage, copy.location)}" for copy in copies]
    why = "; ".join(where) or "the ops-db knows no copy of it at an active location"
    return (
        f"it fails again until a copy of package {package} can be read here ({why}); "
        f"`ccatwm lineage package:{package}` lists its copies"
    )
