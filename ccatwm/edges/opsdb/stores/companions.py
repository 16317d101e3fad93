"""Companions: packages from outside a sub-group that go with it, and whom a changed one concerns. Touches: the ops-db.

Only what lies around the obs units in question is read: a probe tells how far the nearest ones reach, then that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.core.companions import (
    Alike,
    Candidate,
    Chosen,
    CompanionRule,
    Neighbour,
    Span,
    Target,
    by_key,
    choose,
    clusters,
    concerned,
    enough,
    merged,
)
from ccatwm.core.exclusions import Excluded
from ccatwm.core.gap import Member
from ccatwm.core.members import MembershipChange
from ccatwm.core.model import PackageState
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_where_due

member = t.sub_group_member
BATCH = 40  # selects in one statement
# What of a companion's row matters to those that it serves.
_FACTS = ("key", "package_name", "checksum", "size_bytes", "executed_obs_unit_id", "observed_at")
Row = Any


@dataclass(frozen=True)
class CompanionLink:
    """A companion of a step: where its packages are grouped by `same`, and where those of the step itself are.

    `known`: both are grouped by the rules that hold now.
    """

    step_id: int
    pipeline: str
    step_scope_id: int
    rule: CompanionRule
    scope_id: int
    target_scope_id: int
    known: bool


def list_links(
    connection: sa.Connection, *, step_id: int | None = None, scope_id: int | None = None
) -> list[CompanionLink]:
    """The companions of a step, or all that read a scope, in the order of the definitions."""
    link, step = t.step_companion, t.reduction_step
    scopes, groupings = zip(*((t.grouping_scope.alias(), t.data_grouping.alias()) for _ in range(2)), strict=True)
    known = [s.c.resolved_digest == g.c.digest for s, g in zip(scopes, groupings, strict=True)]
    query = (
        sa.select(link, step.c.scope_id.label("step_scope_id"), step.c.definition, t.pipeline.c.name.label("pipeline"),
                  sa.func.coalesce(sa.and_(*known), sa.false()).label("known"))
        .join(step, step.c.id == link.c.step_id)
        .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
    )  # fmt: skip
    for column, scope, grouping in zip((link.c.scope_id, link.c.target_scope_id), scopes, groupings, strict=True):
        query = query.join(scope, scope.c.id == column).join(grouping, grouping.c.id == scope.c.data_grouping_id)
    if step_id is not None:
        query = query.where(link.c.step_id == step_id)
    if scope_id is not None:
        query = query.where(sa.or_(link.c.scope_id == scope_id, link.c.target_scope_id == scope_id))
    rows = connection.execute(query.order_by(link.c.step_id, link.c.position))
    return [
        CompanionLink(
            r.step_id, r.pipeline, r.step_scope_id, _rule(r.definition, r.name), r.scope_id, r.target_scope_id,
            bool(r.known),
        )
        for r in rows
    ]


def _rule(definition: Mapping[str, Any], name: str) -> CompanionRule:
    return CompanionRule.from_json(next(c for c in definition["companions"] if c["name"] == name))


@dataclass(frozen=True)
class Far:
    """The companion nearest to an obs unit that has none in reach; `away` is negative where it is earlier."""

    name: str
    away: timedelta


def find_nearest(connection: sa.Connection, link: CompanionLink, key: str, package_name: str) -> Far | None:
    """However far away: the archived companion nearest to a package of the sub-group `key`; None where there is none."""
    here, there, own = member.alias("here"), member.alias("there"), member.alias("own")
    query = (
        sa.select(here.c.observed_at, there.c.key)
        .join(there, sa.and_(there.c.package_id == here.c.package_id, there.c.scope_id == link.target_scope_id))
        .where(here.c.scope_id == link.step_scope_id, here.c.key == key, here.c.package_name == package_name)
    )
    target = connection.execute(query).first()
    if target is None or target.observed_at is None:
        return None
    mine = sa.select(own.c.package_id).where(own.c.scope_id == link.step_scope_id, own.c.key == key)
    at = member.c.observed_at
    near = sa.select(member.c.package_name, at).where(
        member.c.scope_id == link.scope_id, member.c.key == target.key, member.c.state == PackageState.ARCHIVED.value,
        member.c.package_id.not_in(mine),
    )  # fmt: skip
    sides = (
        near.where(at <= target.observed_at).order_by(at.desc(), member.c.package_name).limit(1),
        near.where(at > target.observed_at).order_by(at, member.c.package_name).limit(1),
    )
    found = [Far(row[0], row[1] - target.observed_at) for side in sides for row in connection.execute(side)]
    return min(found, key=lambda far: abs(far.away), default=None)


# --- the companions of sub-groups -----------------------------------------------------------------------------------


def choose_companions(
    connection: sa.Connection, links: Sequence[CompanionLink], members: Mapping[str, Sequence[Member]], excluded: Excluded
) -> dict[str, tuple[Chosen, ...]]:
    """The companions of sub-groups by key, in the order of `links`; `members` has all of each sub-group."""
    found: dict[str, list[Chosen]] = {key: [] for key in members}
    owners = {m.package_id: key for key, ms in members.items() for m in ms}
    for link in links:
        if not link.known:
            for chosen in found.values():
                chosen.append(Chosen(link.rule.name, link.rule.required, known=False))
            continue
        same = _list_same(connection, link, members)
        targets = {key: _targets(ms, same) for key, ms in members.items()}
        candidates = _list_candidates(connection, link, targets, owners, excluded)
        for key, ms in members.items():
            found[key].append(choose(link.rule, targets[key], candidates, {m.package_id for m in ms}))
    return {key: tuple(chosen) for key, chosen in found.items()}


def _list_same(connection: sa.Connection, link: CompanionLink, keys: Collection[str]) -> dict[str, str]:
    """Package id -> its key of `same`, for the members of sub-groups."""
    here, there = member.alias("here"), member.alias("there")
    query = (
        sa.select(here.c.package_id, there.c.key)
        .join(there, sa.and_(there.c.package_id == here.c.package_id, there.c.scope_id == link.target_scope_id))
        .where(here.c.scope_id == link.step_scope_id)
    )
    return {
        row.package_id: row.key
        for chunk in chunks(sorted(keys))
        for row in connection.execute(query.where(here.c.key.in_(chunk)))
    }


def _targets(members: Iterable[Member], same: Mapping[str, str]) -> list[Target]:
    """What of a sub-group wants companions: each executed obs unit of its inputs, apart for each key of `same`."""
    found: dict[tuple[str, str, datetime | None], list[Member]] = {}
    for m in members:
        if m.usable and m.package_id in same:
            found.setdefault((same[m.package_id], m.unit or "", m.observed_at), []).append(m)
    return [
        Target(unit or None, key, at, tuple(sorted(m.name for m in found[key, unit, at]))) for key, unit, at in found
    ]


def _list_candidates(
    connection: sa.Connection,
    link: CompanionLink,
    targets: Mapping[str, Sequence[Target]],
    owners: Mapping[str, str],
    excluded: Excluded,
) -> dict[str, Alike]:
    """By key of `same`: all packages among which the companions of these targets are."""

    def why(row: Row) -> str | None:
        return excluded.package(link.pipeline, row.package_id)

    rule, wanted = link.rule, [target for found in targets.values() for target in found]
    if rule.nearest:
        times: dict[str, set[datetime]] = {}
        for target in wanted:
            if target.observed_at is not None:
                times.setdefault(target.key, set()).add(target.observed_at)
        around = _Around(connection, link.scope_id, rule.before, rule.after, rule.within)
        rows = around.read(times, lambda read: _neighbours((r for r in read if why(r) is None), owners))
    else:
        rows = _rows_of_keys(connection, link.scope_id, {target.key for target in wanted})
    return by_key(
        Candidate(
            r.package_id, r.package_name, r.checksum, r.size_bytes, r.key, r.executed_obs_unit_id, r.observed_at, why(r)
        )
        for r in rows
    )


def _neighbours(rows: Iterable[Row], owners: Mapping[str, str]) -> list[Neighbour]:
    """Usable units by time; `owners`: package id -> the sub-group that it is a member of."""
    units: dict[tuple[datetime, str], set[str | None]] = {}
    for row in rows:
        owner = owners.get(row.package_id)
        units.setdefault((row.observed_at, row.executed_obs_unit_id or ""), set()).add(owner)
    return [
        Neighbour(at, next(iter(units[at, unit])) if len(units[at, unit]) == 1 else None) for at, unit in sorted(units)
    ]


# --- reading around times -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stretch:
    """A series of times, of one key, around which companions are read."""

    key: str
    first: datetime
    last: datetime


@dataclass(frozen=True)
class _Around:
    """Reads archived members of a scope around times: so many `earlier` and `later` ones, as far as `within`."""

    connection: sa.Connection
    scope_id: int
    earlier: int
    later: int
    within: timedelta | None

    def read(
        self, times: Mapping[str, Collection[datetime]], neighbours: Callable[[Iterable[Row]], list[Neighbour]]
    ) -> list[Row]:
        """Member rows; `neighbours` says which of them can be used. What cannot is read past, further each time."""
        todo = [_Stretch(key, *ends) for key in sorted(times) for ends in clusters(times[key])]
        found: dict[int, Row] = {}
        size = max(self.earlier, self.later) + 1
        while todo:
            before, after = self._probe(todo, size)
            spans = [Span(min([s.first, *before[n]]), max([s.last, *after[n]])) for n, s in enumerate(todo)]
            rows = self._rows(todo, spans)
            found |= {row.id: row for read in rows for row in read}
            todo = [
                s
                for n, s in enumerate(todo)
                if not self._reaches(s, neighbours(rows[n]), len(before[n]) < size, len(after[n]) < size)
            ]
            size *= 4
        return list(found.values())

    def _reaches(self, s: _Stretch, found: Sequence[Neighbour], no_earlier: bool, no_later: bool) -> bool:
        earlier = (n for n in reversed(found) if n.observed_at < s.first)
        later = (n for n in found if n.observed_at > s.last)
        return (no_earlier or not self.earlier or enough(earlier, self.earlier) is not None) and (
            no_later or not self.later or enough(later, self.later) is not None
        )

    def _probe(
        self, stretches: Sequence[_Stretch], size: int
    ) -> tuple[list[list[datetime]], list[list[datetime]]]:
        """Start times of the next companions before and after each stretch, `size` of them at most."""
        found: tuple[list[list[datetime]], list[list[datetime]]] = ([[] for _ in stretches], [[] for _ in stretches])
        selects = [
            self._nearest(s, n, side, size)
            for n, s in enumerate(stretches)
            for side, wanted in enumerate((self.earlier, self.later))
            if wanted
        ]
        for row in self._execute(selects):
            found[row.side][row.stretch].append(row.observed_at)
        return found

    def _nearest(self, s: _Stretch, number: int, side: int, size: int) -> sa.Select[Any]:
        at = member.c.observed_at
        where = [at < s.first, at > s.last][side]
        if self.within is not None:
            where = sa.and_(where, [at >= s.first - self.within, at <= s.last + self.within][side])
        times = self._select(at).where(member.c.key == s.key, where).distinct()
        nearest = times.order_by(at if side else at.desc()).limit(size).subquery()
        return sa.select(sa.literal(number).label("stretch"), sa.literal(side).label("side"), nearest.c.observed_at)

    def _rows(self, stretches: Sequence[_Stretch], spans: Sequence[Span]) -> list[list[Row]]:
        found: list[list[Row]] = [[] for _ in stretches]
        selects = [
            self._select(sa.literal(n).label("stretch"), *_COLUMNS).where(
                member.c.key == s.key, member.c.observed_at.between(span.first, span.last)
            )
            for n, (s, span) in enumerate(zip(stretches, spans, strict=True))
        ]
        for row in self._execute(selects):
            found[row.stretch].append(row)
        return found

    def _select(self, *columns: Any) -> sa.Select[Any]:
        return sa.select(*columns).where(
            member.c.scope_id == self.scope_id, member.c.state == PackageState.ARCHIVED.value
        )

    def _execute(self, selects: Sequence[sa.Select[Any]]) -> Iterator[Row]:
        return _execute(self.connection, selects)


_COLUMNS = (
    member.c.id, member.c.package_id, member.c.package_name, member.c.checksum, member.c.size_bytes, member.c.key,
    member.c.executed_obs_unit_id, member.c.observed_at,
)  # fmt: skip


def _execute(connection: sa.Connection, selects: Sequence[sa.Select[Any]]) -> Iterator[Row]:
    """Each select finds its way in an index by itself; some of them go in one statement."""
    for some in chunks(selects, BATCH):
        yield from connection.execute(sa.union_all(*some))


def _rows_of_keys(connection: sa.Connection, scope_id: int, keys: Collection[str]) -> list[Row]:
    query = sa.select(*_COLUMNS).where(
        member.c.scope_id == scope_id, member.c.state == PackageState.ARCHIVED.value
    )
    return [row for chunk in chunks(sorted(keys)) for row in connection.execute(query.where(member.c.key.in_(chunk)))]


# --- whom a changed companion concerns ------------------------------------------------------------------------------

Places = Mapping[str, Collection[datetime | None]]  # key of `same` -> start times


def mark_concerned(
    connection: sa.Connection,
    scope_id: int,
    old: Mapping[str, Mapping[str, Any]],
    change: MembershipChange,
    read_excluded: Callable[[], Excluded],
    now: datetime,
) -> None:
    """Members of a scope have changed (`old`: as they were): sub-groups for which they may be companions fall due.

    So do sub-groups whose own packages want other companions now.
    """
    removed = {row["id"] for row in old.values()} & set(change.remove)
    before = {package_id: row for package_id, row in old.items() if row["id"] in removed}
    after = {row["package_id"]: row for row in change.insert}
    links = list_links(connection, scope_id=scope_id)
    excluded = read_excluded() if any(link.scope_id == scope_id for link in links) else Excluded()
    for link in links:
        keys: set[str] = set()
        if link.scope_id == scope_id:
            keys |= _keys_served(connection, link, _places(before, after), excluded)
        if link.target_scope_id == scope_id != link.step_scope_id:
            keys |= _keys_of_packages(connection, link.step_scope_id, before.keys() | after.keys())
        for chunk in chunks(sorted(keys)):
            where = sa.and_(t.sub_group.c.step_id == link.step_id, t.sub_group.c.key.in_(chunk))
            mark_where_due(connection, where, now, input_changed_at=now)


def _places(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> Places:
    """Where companions were, and where they are now, of those that are others than they were."""
    found: dict[str, set[datetime | None]] = {}
    for package_id in before.keys() | after.keys():
        was, now = (_archived(rows.get(package_id)) for rows in (before, after))
        if was is not None and now is not None and all(was[f] == now[f] for f in _FACTS):
            continue
        for row in (was, now):
            if row is not None:
                found.setdefault(row["key"], set()).add(row["observed_at"])
    return found


def _archived(row: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return row if row is not None and row["state"] == PackageState.ARCHIVED else None


def sub_groups_served(
    connection: sa.Connection,
    package_ids: Collection[str],
    read_excluded: Callable[[], Excluded],
    pipeline: str | None,
) -> set[int]:
    """Ids of the sub-groups that could use these packages as companions; among themselves they are no rivals."""
    links: dict[int, list[CompanionLink]] = {}
    for link in list_links(connection):
        if pipeline in (None, link.pipeline):
            links.setdefault(link.scope_id, []).append(link)
    found: set[int] = set()
    by_scope = _places_of_packages(connection, links, package_ids)
    excluded = read_excluded() if by_scope else Excluded()
    for scope_id, places in by_scope.items():
        for link in links[scope_id]:
            keys = _keys_served(connection, link, places, excluded, set(package_ids))
            found |= _ids_of_keys(connection, link.step_id, keys)
    return found


def _places_of_packages(
    connection: sa.Connection, scope_ids: Collection[int], package_ids: Collection[str]
) -> dict[int, dict[str, set[datetime | None]]]:
    found: dict[int, dict[str, set[datetime | None]]] = {}
    if not scope_ids:
        return found
    query = sa.select(member.c.scope_id, member.c.key, member.c.observed_at).where(
        member.c.scope_id.in_(sorted(scope_ids)), member.c.state == PackageState.ARCHIVED.value
    )
    for chunk in chunks(sorted(package_ids)):
        for row in connection.execute(query.where(member.c.package_id.in_(chunk))):
            found.setdefault(row.scope_id, {}).setdefault(row.key, set()).add(row.observed_at)
    return found


def _keys_served(
    connection: sa.Connection,
    link: CompanionLink,
    places: Places,
    excluded: Excluded,
    leaving: Collection[str] = (),
) -> set[str]:
    """Keys of the step's sub-groups that a companion at one of these places could serve."""
    if not link.rule.nearest:
        return _keys_in_spans(connection, link, {key: [Span(None, None)] for key in places})
    rule = link.rule

    def usable(rows: Iterable[Row]) -> list[Neighbour]:
        kept = [
            r for r in rows if r.package_id not in leaving and excluded.package(link.pipeline, r.package_id) is None
        ]
        return _neighbours(kept, _owners(connection, link.step_scope_id, [r.package_id for r in kept]))

    times = {key: {at for at in found if at is not None} for key, found in places.items()}
    # Those before a companion reach down to its `after`-th predecessor, those after it up to its `before`-th successor.
    rows = _Around(connection, link.scope_id, rule.after, rule.before, rule.within).read(times, usable)
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    spans = {}
    for key, changed in times.items():
        around = usable(by_key.get(key, ()))
        spans[key] = merged(concerned(rule, at, around) for at in changed)
    return _keys_in_spans(connection, link, spans)


def _owners(connection: sa.Connection, step_scope_id: int, package_ids: Sequence[str]) -> dict[str, str]:
    query = sa.select(member.c.package_id, member.c.key).where(member.c.scope_id == step_scope_id)
    return {
        row.package_id: row.key
        for chunk in chunks(package_ids)
        for row in connection.execute(query.where(member.c.package_id.in_(chunk)))
    }


def _keys_in_spans(
    connection: sa.Connection, link: CompanionLink, spans: Mapping[str, Sequence[Span]]
) -> set[str]:
    """Keys of the step's sub-groups with a member of this key of `same` that began in one of the spans."""
    here, there = member.alias("here"), member.alias("there")
    query = (
        sa.select(here.c.key)
        .select_from(there)
        .join(here, sa.and_(here.c.package_id == there.c.package_id, here.c.scope_id == link.step_scope_id))
        .where(there.c.scope_id == link.target_scope_id)
        .distinct()
    )
    selects = [
        query.where(there.c.key == key, *_in_span(there.c.observed_at, span))
        for key in sorted(spans)
        for span in spans[key]
    ]
    return {row.key for row in _execute(connection, selects)}


def _in_span(at: sa.ColumnElement[Any], span: Span) -> list[sa.ColumnElement[bool]]:
    first = [at >= span.first] if span.first is not None else []
    return [*first, *([at <= span.last] if span.last is not None else [])]


def _keys_of_packages(connection: sa.Connection, scope_id: int, package_ids: Collection[str]) -> set[str]:
    return set(_owners(connection, scope_id, sorted(package_ids)).values())


def _ids_of_keys(connection: sa.Connection, step_id: int, keys: Collection[str]) -> set[int]:
    group = t.sub_group
    query = sa.select(group.c.id).where(group.c.step_id == step_id)
    return {
        group_id
        for chunk in chunks(sorted(keys))
        for group_id in connection.execute(query.where(group.c.key.in_(chunk))).scalars()
    }
