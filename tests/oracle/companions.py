"""Which packages from outside a sub-group go with it, written down once more from what is documented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.oracle.keys import key_of
from tests.oracle.rules import matches

Row = Mapping[str, Any]  # a package and all that stands around it: `Table.column` -> value


@dataclass(frozen=True)
class Companions:
    """Those of one name. `lacking`: names of the packages of obs units that have none.

    `serves`: for which packages each is there, by name; it is known by its id.
    """

    name: str
    packages: tuple[Row, ...]
    lacking: frozenset[str]
    serves: Mapping[int, frozenset[str]]


def companions_of(
    wanted: Mapping[str, Any], reduced: Sequence[Row], others: Sequence[Row], timezone: str
) -> Companions:
    """The companions of the packages that are `reduced`, among `others` that can be used.

    Every executed obs unit gets its own, and each part of it that differs in `same`.
    """
    those = [row for row in others if all(matches(rule, row, datetime.min) for rule in wanted["rules"])]
    parts: dict[Any, list[Row]] = {}
    for row in reduced:
        parts.setdefault((scan_of(row), key_of(row, wanted["same"], timezone)), []).append(row)
    chosen: dict[int, Row] = {}
    serves: dict[int, set[str]] = {}
    lacking: set[str] = set()
    for (scan, key), rows in parts.items():
        alike = [row for row in those if key_of(row, wanted["same"], timezone) == key]
        found = nearest(wanted["nearest"], scan[0], alike) if "nearest" in wanted else alike
        chosen |= {row["RawDataPackage.id"]: row for row in found}
        for row in found:
            serves.setdefault(row["RawDataPackage.id"], set()).update(r["RawDataPackage.name"] for r in rows)
        if not found:
            lacking |= {row["RawDataPackage.name"] for row in rows}
    return Companions(wanted["name"], tuple(chosen.values()), frozenset(lacking),
                      {one: frozenset(names) for one, names in serves.items()})  # fmt: skip


def scan_of(row: Row) -> tuple[datetime | None, str]:
    """When the executed obs unit of a package began, and which one it is."""
    return row.get("ExecutedObsUnit.start_time"), str(row.get("ExecutedObsUnit.id"))


def nearest(limits: Mapping[str, Any], start: datetime | None, rows: Sequence[Row]) -> list[Row]:
    """All packages of so many scans before `start` and after it; one that began at the very same time is before."""
    if start is None:
        return []
    within = timedelta(hours=limits["within_hours"]) if "within_hours" in limits else timedelta.max
    scans = {
        (began, scan)
        for began, scan in map(scan_of, rows)
        if began is not None and abs(began - start) <= within
    }
    before = sorted((start - began, scan) for began, scan in scans if began <= start)[
        : limits.get("before", 0)
    ]
    after = sorted((began - start, scan) for began, scan in scans if began > start)[: limits.get("after", 0)]
    chosen = {scan for _, scan in (*before, *after)}
    return [row for row in rows if scan_of(row)[0] is not None and scan_of(row)[1] in chosen]
