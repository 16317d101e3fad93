"""Exclusions carried through: which packages, runs and versions they concern now. Touches: the ops-db, reading only.

Rules are asked again each time, so that an exclusion of a module and a time also holds for packages that come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa

from ccatwm.core.exclusions import Excluded, Target
from ccatwm.edges.opsdb.grouping import GroupedPackage, GroupingEngine
from ccatwm.edges.opsdb.stores import exclusions as store
from ccatwm.edges.opsdb.stores.companions import sub_groups_served
from ccatwm.edges.opsdb.stores.due import mark_downstream_due, mark_due
from ccatwm.edges.opsdb.stores.sub_groups import packages_of_runs


class ExclusionReader:
    """What is excluded, found out again only when exclusions have come or gone.

    A package that comes while a pass is at work is grouped by the next one, and not decided on before.
    """

    def __init__(self, grouping: GroupingEngine, now: datetime) -> None:
        self._grouping, self._now = grouping, now
        self._ids: tuple[int, ...] = ()
        self._found = Excluded()

    def read(self, connection: sa.Connection) -> Excluded:
        ids = store.active_ids(connection)
        if ids != self._ids:
            self._found = find_excluded(connection, self._grouping, self._now) if ids else Excluded()
            self._ids = ids
        return self._found


def find_excluded(connection: sa.Connection, grouping: GroupingEngine, now: datetime) -> Excluded:
    """All that is excluded at this moment."""
    found = Excluded()
    for row in store.list_exclusions(connection):
        item = row.exclusion
        entry = (item.pipeline, item.reason)
        if item.kind == "software":
            found.versions.setdefault((item.selection["software"], item.selection["version"]), []).append(entry)
        elif "rules" not in item.selection:
            found.named.setdefault(item.selection["run"], []).append(entry)
            for run_id in store.runs_on_runs(connection, [item.selection["run"]]):
                found.runs.setdefault(run_id, []).append(entry)
        else:
            for package in _select(connection, grouping, item.selection, now):
                found.packages.setdefault(package.package_id, []).append(entry)
                found.names.setdefault(package.package_name, []).append(entry)
    return found


def _select(
    connection: sa.Connection, grouping: GroupingEngine, selection: Mapping[str, Any], now: datetime
) -> Iterator[GroupedPackage]:
    for page in grouping.pages(connection, selection["rules"], [], now=now, few=True):
        yield from page


# --- what is concerned ----------------------------------------------------------------------------------------


@dataclass
class Impact:
    """What an exclusion concerns at this moment."""

    packages: set[str] = field(default_factory=set)  # names
    sub_groups: set[int] = field(default_factory=set)  # to be decided on again
    current: list[dict[str, Any]] = field(default_factory=list)  # current runs that stand on it, by run
    feeding: set[int] = field(default_factory=set)  # sub-groups of such runs, also of other pipelines
    products: list[dict[str, Any]] = field(default_factory=list)  # of those runs
    former: list[dict[str, Any]] = field(default_factory=list)  # products of runs that counted before they were excluded
    under_way: list[int] = field(default_factory=list)  # open runs that read it
    published: list[dict[str, Any]] = field(default_factory=list)  # sets that hold a product made from it, current or not

    def add(self, other: Impact) -> None:
        known = {row["run"] for row in self.current}
        self.packages |= other.packages
        self.sub_groups |= other.sub_groups
        self.feeding |= other.feeding
        self.under_way = sorted({*self.under_way, *other.under_way})
        self.current += [row for row in other.current if row["run"] not in known]
        self.products += [row for row in other.products if row["run"] not in known]
        before = {row["product"] for row in self.former}
        self.former += [row for row in other.former if row["product"] not in before]
        for row in other.published:
            same = next((mine for mine in self.published if mine["name"] == row["name"]), None)
            if same is None:
                self.published.append(row)
            else:
                same["products"] = sorted({*same["products"], *row["products"]})


def find_impact(
    connection: sa.Connection, grouping: GroupingEngine, target: Target, pipeline: str | None, now: datetime
) -> Impact:
    """What comes of excluding a target, or of bringing it back."""
    found = Impact()
    if target.of_packages:
        packages = {p.package_id: p.package_name for p in _select(connection, grouping, target.selection, now)}
        found.packages = set(packages.values())
        found.sub_groups = store.sub_groups_of_packages(connection, set(packages), pipeline)
        excluded = partial(find_excluded, connection, grouping, now)
        found.sub_groups |= sub_groups_served(connection, set(packages), excluded, pipeline)
        run_ids = store.runs_on_packages(connection, set(packages))
    elif target.kind == "software":
        software, version = target.selection["software"], target.selection["version"]
        found.sub_groups = store.sub_groups_of_software(connection, software, pipeline)
        run_ids = store.runs_on_runs(connection, store.runs_of_version(connection, software, version))
    else:
        run_ids = store.runs_on_runs(connection, [target.selection["run"]])
    found.current = store.current_of_runs(connection, run_ids, pipeline)
    found.feeding = {row["sub_group_id"] for row in store.current_of_runs(connection, run_ids, None)}
    found.under_way = store.open_of_runs(connection, run_ids, pipeline)
    found.products = store.products_of_runs(connection, {row["run"] for row in found.current})
    found.former = store.products_of_runs(connection, store.former_of_runs(connection, run_ids, pipeline))
    made = store.products_of_runs(connection, run_ids, gone_too=True)
    found.published = store.published_sets_of(connection, [row["product"] for row in made])
    found.sub_groups |= {row["sub_group_id"] for row in found.current}
    found.sub_groups |= store.sub_groups_of_runs(connection, run_ids, pipeline)
    return found


def impact_of(
    connection: sa.Connection, grouping: GroupingEngine, rows: Iterable[store.ExclusionRow], now: datetime
) -> Impact:
    """What exclusions concern that hold now."""
    found = Impact()
    for row in rows:
        target = Target(row.exclusion.kind, row.exclusion.text, row.exclusion.selection)
        found.add(find_impact(connection, grouping, target, row.exclusion.pipeline, now))
    return found


def end_exclusions(
    connection: sa.Connection,
    grouping: GroupingEngine,
    rows: Iterable[store.ExclusionRow],
    impact: Impact,
    now: datetime,
) -> Excluded:
    """They hold no more; what they concerned is decided on again, and products that nothing else excludes count at once:
    steps by hand or by cron are not decided on before somebody, or a tick, asks. Returns what is excluded still."""
    store.end_exclusions(connection, [row.exclusion.id for row in rows], now)
    excluded = find_excluded(connection, grouping, now)
    for sub_group_id, why in _still_excluded(connection, excluded, impact.current).items():
        store.unmark(connection, sub_group_id, why)
    mark_due(connection, impact.sub_groups, now)
    mark_downstream_due(connection, impact.feeding, now)
    return excluded


def _still_excluded(
    connection: sa.Connection, excluded: Excluded, current: Iterable[Mapping[str, Any]]
) -> dict[int, str | None]:
    """Why current runs are excluded now, by sub-group; None where they are not."""
    rows = {row["run"]: row for row in current}
    why = why_excluded(connection, excluded, {run: row["pipeline"] for run, row in rows.items()})
    return {row["sub_group_id"]: why[run] for run, row in rows.items()}


def why_excluded(
    connection: sa.Connection, excluded: Excluded, runs: Mapping[int, str]
) -> dict[int, str | None]:
    """Why the products of runs are not to be used in a pipeline (run -> pipeline); None where they are."""
    if not excluded:
        return dict.fromkeys(runs)
    versions, behind = store.versions_of(connection, runs), store.versions_behind(connection, runs)
    stands_on = packages_of_runs(connection, sorted(runs))
    return {
        run: excluded.run(pipeline, run, *versions[run], stands_on[run], behind[run]) for run, pipeline in runs.items()
    }


def end_expired(connection: sa.Connection, grouping: GroupingEngine, now: datetime) -> list[str]:
    """End the exclusions whose time is over; what they named."""
    expired = store.list_expired(connection, now)
    if expired:
        end_exclusions(connection, grouping, expired, impact_of(connection, grouping, expired, now), now)
    return [row.exclusion.text for row in expired]
