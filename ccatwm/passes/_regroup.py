"""Keeps the members of sub-groups as the data groupings select them now; sub-groups that changed fall due.

Touches: the ops-db. Packages that changed are grouped again for every scope; a scope that is new, or whose rules
changed, is compared in full, page by page, and goes on where an earlier pass stopped. Sub-groups that a changed package
may serve as a companion fall due too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from ccatwm.core.members import membership_change
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.exclusions import find_excluded
from ccatwm.edges.opsdb.grouping import GroupedPackage
from ccatwm.edges.opsdb.stores import sub_groups, triggers
from ccatwm.edges.opsdb.stores.companions import mark_concerned
from ccatwm.edges.opsdb.stores.sub_groups import Scope
from ccatwm.passes._frame import PassFrame, PassItem, location

CHANGED_PER_CHUNK = 500
PACKAGES_PER_PAGE = 5000
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
) -> int:
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
) -> int:
    """Member rows of these packages become what they are grouped as now; how many packages were not so.

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
    return change.packages


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
    if progress["phase"] == "add":
        # Between two passes packages that changed may have become members.
        if not _add_new_members(frame, scope, progress, fresh=progress["fresh"] and not resumed):
            return False
        progress = {**progress, "phase": "drop", "after": 0}
    if not progress["fresh"] and not _drop_old_members(frame, scope, progress):
        return False
    with frame.context.database.write() as connection:
        sub_groups.settle_scope(connection, scope.id, scope.digest)
    return True


def _add_new_members(frame: PassFrame, scope: Scope, progress: dict[str, Any], *, fresh: bool) -> bool:
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
            repaired = _compare(frame, connection, scope, package_ids, page, fresh=fresh, due=due)
            if not fresh:
                keys = {grouped.key: grouped.dims for grouped in page}
                sub_groups.add_missing(connection, scope.id, keys, frame.now)
            sub_groups.record_progress(connection, scope.id, {**progress, "after": after})
        _report_repaired(frame, scope, progress, repaired)
    return False


def _report_repaired(frame: PassFrame, scope: Scope, progress: dict[str, Any], packages: int) -> None:
    """Tell of packages that no change-driven pass had seen change; not of new rules, and not of what is new."""
    if packages and scope.resolved_digest is None and not progress["fresh"]:
        dims = ", ".join(d if isinstance(d, str) else str(d["name"]) for d in scope.group_by)
        why = f"{count_text(packages, 'package')} of data grouping {scope.name} by [{dims}] had changed unnoticed"
        frame.report.add("done", PassItem("repaired", why, count=packages))


def _drop_old_members(frame: PassFrame, scope: Scope, progress: dict[str, Any]) -> bool:
    """Page through the members that were there; those the rules no longer select go. False when the time is up."""
    after: int = progress["after"]
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            page = sub_groups.list_member_ids(connection, scope.id, after, PACKAGES_PER_PAGE)
            if not page:
                return True
            after = page[-1][0]
            repaired = _regroup_packages(frame, connection, scope, [package_id for _, package_id in page])
            sub_groups.record_progress(connection, scope.id, {**progress, "after": after})
        _report_repaired(frame, scope, progress, repaired)
    return False
