"""Decides what leaves the cache of staged packages so that others fit, and what has to wait. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ccatwm.core.wording import GB, count_text, size_text

CACHE_SETTING, BYTES_SETTING, INODES_SETTING = "CACHE_MAX_GB", "MIN_FREE_GB", "MIN_FREE_INODES"


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes and inodes; of a package its files."""

    size_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.size_bytes + other.size_bytes, self.inodes + other.inodes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.size_bytes - other.size_bytes, self.inodes - other.inodes)


NOTHING = Amount()


def total(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, NOTHING)


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """`most_bytes`: of the whole cache, None for any size; `free`: what stays free on its file system."""

    most_bytes: int | None = None
    free: Amount = NOTHING


@dataclass(frozen=True, slots=True)
class CachedPackage:
    """A package in the cache.

    `linked`: a run that is staged has links to its files, so that removing them would free nothing. `wanted_by`: runs
    that wait to be staged. `abandoned`: a process that is gone was bringing or removing it, and what is there is not whole.
    """

    id: int
    directory: str
    name: str
    amount: Amount
    last_used_at: datetime | None
    linked: bool = False
    wanted_by: frozenset[int] = frozenset()
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why something does not fit now. `figure` in brief, `reason` in a sentence.

    `intended`: people have set the limit that is reached, so there is no news in it.
    """

    setting: str
    figure: str
    reason: str
    intended: bool = False

    @property
    def until(self) -> str:
        """What ends it."""
        return "there is room"


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """`leaving` makes room; with a `shortage` nothing leaves, since it would not be enough."""

    leaving: tuple[CachedPackage, ...] = ()
    shortage: Shortage | None = None


def leaving_order(packages: Iterable[CachedPackage], waiting_before: Collection[int]) -> list[CachedPackage]:
    """Those that may leave, the first one first: what is not whole, then what no run needs, then what is wanted only by
    runs that have their turn later than those in `waiting_before`; of each kind the longest unused first.

    The last kind keeps runs from holding what others need while they wait for the rest themselves.
    """
    free = [p for p in packages if p.abandoned or (not p.linked and p.wanted_by.isdisjoint(waiting_before))]
    return sorted(free, key=lambda p: (not p.abandoned, bool(p.wanted_by), _age(p), p.directory))


def _age(package: CachedPackage) -> float:
    return package.last_used_at.timestamp() if package.last_used_at is not None else 0.0


def plan_room(
    need: Amount, held: Amount, free: Amount, limits: CacheLimits, may_leave: Sequence[CachedPackage], *, where: str = "",
    copies: Amount = NOTHING,
) -> RoomPlan:
    """What of `may_leave` (in its order) leaves so that `need` fits.

    `held`: what the cache holds, with what is on its way; `free`: on its file system (`where`), without what is on its way;
    `copies`: what the run itself takes beside the cache.
    """
    leaving: list[CachedPackage] = []
    for package in may_leave:
        if find_shortage(need, held, free, limits, where=where, copies=copies) is None:
            break
        leaving.append(package)
        held, free = held - package.amount, free + package.amount
    shortage = find_shortage(need, held, free, limits, where=where, copies=copies)
    return RoomPlan(tuple(leaving)) if shortage is None else RoomPlan(shortage=shortage)


def find_shortage(
    need: Amount, held: Amount, free: Amount, limits: CacheLimits, *, where: str = "", copies: Amount = NOTHING
) -> Shortage | None:
    """The limit that `need` would go beyond. What needs nothing always fits."""
    if need + copies == NOTHING:
        return None
    most = limits.most_bytes
    if need != NOTHING and most is not None and held.size_bytes + need.size_bytes > most:
        figure = f"{size_text(max(0, held.size_bytes))} of {size_text(most)}"
        return Shortage(
            CACHE_SETTING, figure,
            f"needs {size_text(need.size_bytes)} in the cache, of which other runs hold {figure} ({CACHE_SETTING})", True,
        )  # fmt: skip
    return _too_few_bytes(need + copies, free, limits, where) or _too_few_inodes(need + copies, free, limits, where)


def _too_few_bytes(need: Amount, free: Amount, limits: CacheLimits, where: str) -> Shortage | None:
    there, stays = max(0, free.size_bytes), limits.free.size_bytes
    if there >= need.size_bytes + stays:
        return None
    return Shortage(
        BYTES_SETTING, f"{size_text(there)} free, {size_text(need.size_bytes + stays)} needed",
        f"needs {size_text(need.size_bytes)} and {size_text(stays)} are to stay free ({BYTES_SETTING}), "
        f"but {size_text(there)} are free at {where}; free space there, or lower {BYTES_SETTING}",
    )  # fmt: skip


def _too_few_inodes(need: Amount, free: Amount, limits: CacheLimits, where: str) -> Shortage | None:
    there, stays = max(0, free.inodes), limits.free.inodes
    if there >= need.inodes + stays:
        return None
    return Shortage(
        INODES_SETTING, f"{there} inodes free, {need.inodes + stays} needed",
        f"needs {count_text(need.inodes, 'file')} and {count_text(stays, 'inode')} are to stay free ({INODES_SETTING}), "
        f"but {there} are free at {where}; remove files there, or lower {INODES_SETTING}",
    )  # fmt: skip


def never_fits(need: Amount, limits: CacheLimits) -> str | None:
    """Why what a run needs at once could not be had with an empty cache either."""
    most = limits.most_bytes
    if most is None or need.size_bytes <= most:
        return None
    return (
        f"its raw data are {size_text(need.size_bytes)}, and all of the cache may be {size_text(most)} "
        f"({CACHE_SETTING} = {most / GB:g}); raise {CACHE_SETTING}"
    )
