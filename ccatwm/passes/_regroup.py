"""Keeps the members of sub-groups as the data groupings select them now; sub-groups that changed fall due.

Touches: the ops-db. Packages that changed are grouped again for every scope; a scope that is new, or whose rules
changed, is compared in full, page by page, and goes on where an earlier pass stopped. Sub-groups that a changed package
may serve as a companion fall due too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from ccatwm.core.members import MembershipChange, membership_change
from ccatwm.core.rules import goes_by_time
from ccatwm.core.wording import count_text, some_text
from ccatwm.edges.opsdb.exclusions import find_excluded
from ccatwm.edges.opsdb.grouping import GroupedPackage
from ccatwm.edges.opsdb.stores import sub_groups, triggers
from ccatwm.edges.opsdb.stores.companions import mark_concerned
from ccatwm.edges.opsdb.stores.sub_groups import Scope
from ccatwm.passes._frame import PassFrame, PassItem, location

CHANGED_PER_CHUNK = 500
PACKAGES_PER_PAGE = 5000
SHOWN_NAMES = 3
MOST_KEYS = 500_000  # are remembered of those that fell due: memory stays the same however many there are


def regroup(frame: PassFrame) -> None:
    """Changed packages first, then the scopes to be compared in full."""
    _regroup_changed(frame)
    with frame.context.database.read() as connection:
        scopes = [s for s in sub_groups.list_scopes(connection) if s.resolved_digest != s.digest]
    for scope in scopes:
        if not _regroup_scope(frame, scope):
            return


def _regroup_changed(frame: PassFrame) -> None:
    """Group changed packages again for every scope, one transaction per chunk."""
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            noted = triggers.list_changed_packages(connection, CHANGED_PER_CHUNK)
            if not noted:
                return
            for scope in sub_groups.list_scopes(connection):
                _regroup_packages(frame, connection, scope, sorted(noted))
            triggers.remove_changed_packages(connection, [row for rows in noted.values() for row in rows])


def _regroup_packages(
    frame: PassFrame, connection: sa.Connection, scope: Scope, package_ids: Sequence[str]
) -> MembershipChange:
    grouped = frame.context.grouping.members(
        connection, scope.rules, scope.group_by, now=frame.now, package_ids=package_ids
    )
    return _compare(frame, connection, scope, package_ids, grouped)


def _compare(
    frame: PassFrame,
    connection: sa.Connection,
    scope: Scope,
    package_ids: Sequence[str],
    grouped: Sequence[GroupedPackage],
    *,
    fresh: bool = False,
    due: DueKeys | None = None,
) -> MembershipChange:
    """Member rows of these packages become what they are grouped as now; what was not so.

    `fresh`: none of them is a member yet. `due`: which keys fell due in this comparison already.
    """
    new = {g.package_id: _member_row(g, frame) for g in grouped}
    old = {} if fresh else sub_groups.list_member_rows(connection, scope.id, package_ids)
    change = membership_change(package_ids, old, new)
    if change:
        sub_groups.write_members(connection, scope.id, remove=change.remove, insert=change.insert)
        keys = change.keys if due is None else due.add(connection, change.keys)
        sub_groups.mark_keys_due(connection, scope.id, keys, frame.now)
        sub_groups.mark_fed_due(connection, scope.id, change.left, frame.now)
        excluded = partial(find_excluded, connection, frame.context.grouping, frame.now)
        mark_concerned(connection, scope.id, old, change, excluded, frame.now)
    return change


class DueKeys:
    """Keys whose sub-groups fell due in this comparison, and that nobody can have decided on since.

    Where ids of packages are random, as UUIDs are, every page has packages of most sub-groups: these need fall due once.
    Sub-groups are decided on by `resolve` of the location of their step, here after the comparison. So nothing is
    remembered while another location has a step of the scope, and nothing from before its steps were others.
    """

    def __init__(self, scope_id: int, here: str) -> None:
        self._scope_id, self._here = scope_id, here
        self._steps: dict[int, str] = {}
        self._keys: set[str] = set()

    def add(self, connection: sa.Connection, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the keys (key -> dims) that are not remembered; now they are."""
        steps = sub_groups.step_locations(connection, self._scope_id)
        if steps != self._steps or any(place != self._here for place in steps.values()):
            self._steps, self._keys = steps, set()
        new = {key: dims for key, dims in keys.items() if key not in self._keys}
        if len(self._keys) + len(new) > MOST_KEYS:
            self._keys.clear()
        self._keys.update(new)
        return new


def _member_row(grouped: GroupedPackage, frame: PassFrame) -> dict[str, Any]:
    row = grouped._asdict()
    row["since"] = frame.now
    return row


def _regroup_scope(frame: PassFrame, scope: Scope) -> bool:
    """Compare all packages of a scope; False when the time is up before the end."""
    progress = scope.progress
    resumed = progress is not None and progress["digest"] == scope.digest
    if progress is None or not resumed:
        with frame.context.database.read() as connection:
            fresh = not sub_groups.has_members(connection, scope.id)
        progress = {"digest": scope.digest, "phase": "add", "after": None, "fresh": fresh}
    repaired = _begin_repair(frame, scope)
    try:
        if progress["phase"] == "add":
            # Between two passes packages that changed may have become members.
            if not _add_new_members(frame, scope, progress, repaired, fresh=progress["fresh"] and not resumed):
                return False
            progress = {**progress, "phase": "drop", "after": 0}
        if not progress["fresh"] and not _drop_old_members(frame, scope, progress, repaired):
            return False
    finally:
        if scope.resolved_digest is None and not progress["fresh"]:  # nothing is told of new rules, and of what is new
            _report_repaired(frame, scope, repaired)
    with frame.context.database.write() as connection:
        sub_groups.settle_scope(connection, scope.id, scope.digest)
    return True


@dataclass
class _Repaired:
    """Names of packages of a scope that no change-driven pass had seen change, or go."""

    place: str
    news: bool  # whether people are told: where `trigger --full` was needed something was missed
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def add(self, change: MembershipChange) -> None:
        self.changed += change.changed
        self.gone += change.gone


def _begin_repair(frame: PassFrame, scope: Scope) -> _Repaired:
    with frame.context.database.read() as connection:
        steps = sub_groups.step_names(connection, scope.id)
        asked = triggers.is_compared_in_full(connection)
    dims = ", ".join(d if isinstance(d, str) else str(d["name"]) for d in scope.group_by)
    place = f"data grouping {scope.name} by [{dims}]" + (f" ({_some(steps)})" if steps else "")
    return _Repaired(place, asked and not frame.dry_run)


def _report_repaired(frame: PassFrame, scope: Scope, repaired: _Repaired) -> None:
    """One line; of what rules select no more because time went by, which is no news, another."""
    by_time = goes_by_time(scope.rules)
    for names, what, news in (
        (repaired.changed + ([] if by_time else repaired.gone), "had changed unnoticed", repaired.news),
        (repaired.gone if by_time else [], "had gone, unnoticed or as time went by", False),
    ):
        if names:
            why = f"{count_text(len(names), 'package')} of {repaired.place} {what}: {_some(names)}"
            frame.report.add("done", PassItem("repaired", why, count=len(names), news=news))


def _some(names: Sequence[str]) -> str:
    return some_text(names, SHOWN_NAMES)


def _add_new_members(
    frame: PassFrame, scope: Scope, progress: dict[str, Any], repaired: _Repaired, *, fresh: bool
) -> bool:
    """Page through the packages that the rules select; False when the time is up."""
    after: str | None = progress["after"]
    due = DueKeys(scope.id, location(frame.context))
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            page = frame.context.grouping.members(
                connection, scope.rules, scope.group_by, now=frame.now, after_id=after, limit=PACKAGES_PER_PAGE
            )
            if not page:
                return True
            package_ids = [grouped.package_id for grouped in page]
            after = package_ids[-1]
            change = _compare(frame, connection, scope, package_ids, page, fresh=fresh, due=due)
            if not fresh:
                keys = {grouped.key: grouped.dims for grouped in page}
                sub_groups.add_missing(connection, scope.id, keys, frame.now)
            sub_groups.record_progress(connection, scope.id, {**progress, "after": after})
        repaired.add(change)
    return False


def _drop_old_members(frame: PassFrame, scope: Scope, progress: dict[str, Any], repaired: _Repaired) -> bool:
    """Page through the members that were there; those the rules no longer select go. False when the time is up."""
    after: int = progress["after"]
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            page = sub_groups.list_member_ids(connection, scope.id, after, PACKAGES_PER_PAGE)
            if not page:
                return True
            after = page[-1][0]
            change = _regroup_packages(frame, connection, scope, [package_id for _, package_id in page])
            sub_groups.record_progress(connection, scope.id, {**progress, "after": after})
        repaired.add(change)
    return False
