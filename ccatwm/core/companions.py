"""Which packages from outside a sub-group go with it, and which sub-groups a changed one may concern. Pure.

The nearest are chosen for every executed obs unit by itself, by start time; one at the very same time counts as before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CompanionRule:
    """What a step says of one kind of companions. Not `nearest`: all with the same key are meant."""

    name: str
    required: bool = True
    nearest: bool = False
    before: int = 0
    after: int = 0
    within: timedelta | None = None

    @staticmethod
    def from_json(definition: Mapping[str, Any]) -> CompanionRule:
        """The rule written in an entry of a step's `companions`."""
        nearest, required = definition.get("nearest"), bool(definition.get("required", True))
        if nearest is None:
            return CompanionRule(definition["name"], required)
        hours = nearest.get("within_hours")
        within = None if hours is None else timedelta(hours=hours)
        before, after = int(nearest.get("before") or 0), int(nearest.get("after") or 0)
        return CompanionRule(definition["name"], required, True, before, after, within)


@dataclass(frozen=True)
class Target:
    """An executed obs unit of a sub-group, or its part with one key of `same`, that wants companions."""

    unit: str | None
    key: str
    observed_at: datetime | None
    packages: tuple[str, ...] = ()  # names


@dataclass(frozen=True)
class Candidate:
    """An archived package that the companion's rules select."""

    package_id: str
    name: str
    checksum: str | None
    size_bytes: int | None
    key: str
    unit: str | None
    observed_at: datetime | None
    excluded: str | None = None  # why it is not to be used


@dataclass(frozen=True)
class Chosen:
    """The companions of a sub-group of one name. `lacking`: for which of its obs units there is none at all.

    `served`: names of the sub-group's packages for which each was chosen, by its package id. `shared`: they are the same
    for all with the same key.
    """

    name: str
    required: bool
    packages: tuple[Candidate, ...] = ()
    lacking: tuple[Target, ...] = ()
    excluded: tuple[str, ...] = ()  # names of those that would have served what is lacking
    known: bool = True  # False: its packages are being grouped, nothing can be said yet
    within: timedelta | None = None  # how far away they may be
    served: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: bool = False


@dataclass(frozen=True)
class _Unit:
    observed_at: datetime
    name: str
    packages: tuple[Candidate, ...]


@dataclass(frozen=True)
class Alike:
    """The candidates of one key: all of them, and their executed obs units by time, where they have one."""

    candidates: tuple[Candidate, ...] = ()
    units: tuple[_Unit, ...] = ()


def by_key(candidates: Iterable[Candidate]) -> dict[str, Alike]:
    """Candidates as `choose` looks them up."""
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.key, []).append(candidate)
    return {key: Alike(tuple(alike), _units(alike)) for key, alike in found.items()}


def _units(candidates: Iterable[Candidate]) -> tuple[_Unit, ...]:
    found: dict[tuple[datetime, str], list[Candidate]] = {}
    for c in candidates:
        if c.observed_at is not None:
            found.setdefault((c.observed_at, c.unit or ""), []).append(c)
    return tuple(_Unit(at, name, tuple(found[at, name])) for at, name in sorted(found))


def choose(
    rule: CompanionRule, targets: Iterable[Target], candidates: Mapping[str, Alike], own: Collection[str] = ()
) -> Chosen:
    """The companions of a sub-group whose members' ids are `own`: these are never its companions."""
    chosen: dict[str, Candidate] = {}
    served: dict[str, list[str]] = {}  # by package id, or by key where all of a key serve the same
    lacking: list[Target] = []
    excluded: set[str] = set()
    for target in targets:
        alike = candidates.get(target.key, Alike())
        found = _nearest(rule, target, alike.units, own) if rule.nearest else _usable(alike.candidates, own)
        chosen |= {c.package_id: c for c in found}
        for place in {c.package_id if rule.nearest else c.key for c in found}:
            served.setdefault(place, []).extend(target.packages)
        if not found:
            lacking.append(target)
            others = (c for c in alike.candidates if c.excluded is not None and c.package_id not in own)
            excluded |= {c.name for c in others if _in_reach(rule, target, c)}
    packages = tuple(sorted(chosen.values(), key=lambda c: (c.name, c.package_id)))
    names = {place: tuple(sorted(set(found))) for place, found in served.items()}
    return Chosen(
        rule.name, rule.required, packages, tuple(lacking), tuple(sorted(excluded)), within=rule.within,
        served={c.package_id: names[c.package_id if rule.nearest else c.key] for c in packages}, shared=not rule.nearest,
    )  # fmt: skip


def _usable(candidates: Iterable[Candidate], own: Collection[str]) -> list[Candidate]:
    return [c for c in candidates if c.excluded is None and c.package_id not in own]


def _nearest(
    rule: CompanionRule, target: Target, units: Sequence[_Unit], own: Collection[str]
) -> list[Candidate]:
    at = target.observed_at
    if at is None:
        return []
    middle = bisect_right(units, at, key=lambda unit: unit.observed_at)
    sides = (
        (rule.before, (units[n] for n in range(middle - 1, -1, -1))),
        (rule.after, (units[n] for n in range(middle, len(units)))),
    )
    return [c for count, side in sides for c in _first(rule, at, count, side, own)]


def _first(
    rule: CompanionRule, at: datetime, count: int, units: Iterable[_Unit], own: Collection[str]
) -> list[Candidate]:
    """Of the first `count` of `units` that can be used; they come nearest first, those at one time go by name."""
    found: list[list[Candidate]] = []
    for time, tied in groupby(units, key=lambda unit: unit.observed_at):
        if len(found) >= count or (rule.within is not None and abs(time - at) > rule.within):
            break
        usable = (_usable(unit.packages, own) for unit in sorted(tied, key=lambda unit: unit.name))
        found += [packages for packages in usable if packages]
    return [c for packages in found[:count] for c in packages]


def _in_reach(rule: CompanionRule, target: Target, candidate: Candidate) -> bool:
    if not rule.nearest:
        return True
    if target.observed_at is None or candidate.observed_at is None:
        return False
    distance = candidate.observed_at - target.observed_at
    side = rule.before if distance <= timedelta(0) else rule.after
    return side > 0 and (rule.within is None or abs(distance) <= rule.within)


# --- what a changed companion may concern ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbour:
    """A companion unit that can be used. `owner`: the sub-group of which all its packages are members, if any."""

    observed_at: datetime
    owner: str | None = None


@dataclass(frozen=True)
class Span:
    """Start times from `first` to `last`, both of them included; None: without an end."""

    first: datetime | None
    last: datetime | None

    @property
    def empty(self) -> bool:
        return self.first is not None and self.last is not None and self.first > self.last


def enough(neighbours: Iterable[Neighbour], count: int) -> datetime | None:
    """The time of the neighbour (they come nearest first) with which every sub-group has `count` companions of them.

    A sub-group cannot use what it owns. None: there are not that many.
    """
    owned: Counter[str] = Counter()
    for total, neighbour in enumerate(neighbours, 1):
        if neighbour.owner is not None:
            owned[neighbour.owner] += 1
        if total - max(owned.values(), default=0) >= count:
            return neighbour.observed_at
    return None


def concerned(rule: CompanionRule, changed_at: datetime, neighbours: Sequence[Neighbour]) -> Span:
    """Start times of the obs units that a companion at `changed_at`, come or gone, may serve. `neighbours`: by time.

    It serves those after it up to the `before`-th next companion, and those before it down to the `after`-th previous.
    """
    first: datetime | None = changed_at  # at the very same time it counts as before
    last: datetime | None = changed_at - datetime.resolution
    if rule.after:
        first = enough((n for n in reversed(neighbours) if n.observed_at < changed_at), rule.after)
    if rule.before:
        next_at = enough((n for n in neighbours if n.observed_at > changed_at), rule.before)
        last = None if next_at is None else next_at - datetime.resolution
    if rule.within is not None:
        earliest, latest = changed_at - rule.within, changed_at + rule.within
        first = earliest if first is None else max(first, earliest)
        last = latest if last is None else min(last, latest)
    return Span(first, last)


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same times in as few spans as there can be."""
    found: list[Span] = []
    for span in sorted((s for s in spans if not s.empty), key=lambda s: s.first or _ALWAYS):
        before = found[-1] if found else None
        if before is None or not _touch(before, span):
            found.append(span)
        elif before.last is not None and (span.last is None or span.last > before.last):
            found[-1] = Span(before.first, span.last)
    return found


def _touch(before: Span, span: Span) -> bool:
    return before.last is None or span.first is None or span.first <= before.last + datetime.resolution


# --- reading in pieces ----------------------------------------------------------------------------------------------

GAP = timedelta(hours=1)


def clusters(times: Iterable[datetime], gap: timedelta = GAP) -> Iterator[tuple[datetime, datetime]]:
    """First and last of every series of times with no `gap` between them."""
    ordered = sorted(set(times))
    start = 0
    for n in range(1, len(ordered) + 1):
        if n == len(ordered) or ordered[n] - ordered[n - 1] > gap:
            yield ordered[start], ordered[n - 1]
            start = n
