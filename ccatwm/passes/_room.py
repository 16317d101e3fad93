"""Makes room for the inputs of runs in the cache of staged packages and on its file system.

Touches: the ops-db, the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import PurePosixPath

from ccatwm.core.cache import (
    NOTHING,
    Amount,
    CachedPackage,
    CacheLimits,
    RoomPlan,
    Shortage,
    leaving_order,
    plan_room,
)
from ccatwm.core.transfers import claiming_job
from ccatwm.core.wording import GB
from ccatwm.edges.opsdb.stores import staged
from ccatwm.passes._context import Context
from ccatwm.passes._frame import boot_id, location, process_start, this_process
from ccatwm.settings.schema import Settings

CLAIM_HOURS = 6  # a claim whose process cannot be looked at (another host) ends after this


def cache_limits(settings: Settings) -> CacheLimits:
    most = settings.cache_max_gb
    free = Amount(round(settings.min_free_gb * GB), settings.min_free_inodes)
    return CacheLimits(None if most is None else round(most * GB), free)


def claimant_is_gone(claim: str) -> bool:
    """Whether the process that made a claim certainly lives no more. That of a job is ended by whoever looks after jobs."""
    if claiming_job(claim) is not None:
        return False
    boot, pid, start = claim.rsplit(":", 2)
    return boot == boot_id() and boot != "unknown" and process_start(int(pid)) != start


def evict(context: Context, packages: Sequence[CachedPackage]) -> list[CachedPackage]:
    """Remove packages from the cache, except those that were used meanwhile; those that are gone now.

    Each is claimed, removed, and only then said to be gone: whoever dies in between leaves a claim that the next one
    takes over.
    """
    gone = []
    for package in packages:
        claim, now = this_process().token, context.clock.now()
        with context.database.write() as connection:
            mine = staged.claim_leaving(
                connection, location(context), package, claim=claim, now=now, until=now + timedelta(hours=CLAIM_HOURS),
                holder_is_gone=claimant_is_gone,
            )  # fmt: skip
        if mine:
            context.workfiles.remove_trees([PurePosixPath(package.directory)])
            with context.database.write() as connection:
                staged.release_claims(connection, location(context), [package.directory], claim)
            gone.append(package)
    return gone


class Room:
    """The room that one pass finds and makes.

    `turns`: ids of the runs in the order in which they have their turn. `coming`: what this pass is bringing, as far as
    it is not on the disk yet. `planned`: what it has found room for, and has not claimed yet.
    """

    def __init__(
        self, context: Context, turns: Sequence[int], now: datetime, coming: Callable[[], Amount] = lambda: NOTHING,
        planned: Callable[[], Amount] = lambda: NOTHING,
    ) -> None:
        self._context = context
        self._now = now
        self._turn: Mapping[int, int] = {run_id: place for place, run_id in enumerate(turns)}
        self._coming = coming
        self._planned = planned
        self._cached: list[CachedPackage] | None = None
        self.limits = cache_limits(context.settings)

    @cached_property
    def _only_linked(self) -> Amount:
        with self._context.database.read() as connection:
            return staged.read_only_linked(connection, location(self._context))

    @cached_property
    def _where(self) -> str:
        return str(self._context.workfiles.root())

    def make(
        self, run_id: int, need: Amount, *, again: Amount = NOTHING, copies: Amount = NOTHING
    ) -> Shortage | None:
        """Have room for what a run needs; what is short if there is none, and then nothing has left.

        `again`: what of it counts as being in the cache, and comes again since it is not whole; `copies`: what the run
        takes beside the cache.
        """
        if need + copies == NOTHING:
            return None

        def plan_with(may_leave: Sequence[CachedPackage]) -> RoomPlan:
            held, free = self._held() - again, self._free()
            return plan_room(need, held, free, self.limits, may_leave, where=self._where, copies=copies)

        for _ in range(3):  # somebody else may have used what was chosen
            plan = plan_with(())
            if plan.shortage is not None:
                plan = plan_with(leaving_order(self._list_cached(), self._waiting_before(run_id)))
            if plan.shortage is not None or not plan.leaving:
                return plan.shortage
            gone = evict(self._context, plan.leaving)
            self._forget(plan.leaving)
            if len(gone) == len(plan.leaving):
                return None
        return plan_with(()).shortage

    def _waiting_before(self, run_id: int) -> Collection[int]:
        """The run itself and those that have their turn before it."""
        last = self._turn.get(run_id, len(self._turn))
        return {other for other, place in self._turn.items() if place <= last} | {run_id}

    def _held(self) -> Amount:
        """Asked anew each time, where it matters: other processes bring packages, too."""
        if self.limits.most_bytes is None:
            return NOTHING
        with self._context.database.read() as connection:
            return staged.read_held(connection, location(self._context)) + self._only_linked + self._planned()

    def _free(self) -> Amount:
        expected = self._coming() + self._planned()  # first: what comes meanwhile is counted twice, not left out
        space = self._context.workfiles.space()
        return Amount(space.free_bytes, space.free_inodes) - expected

    def _list_cached(self) -> list[CachedPackage]:
        """As it was when this pass first wanted to know: what came since is in use."""
        if self._cached is None:
            with self._context.database.read() as connection:
                self._cached = staged.list_cached(
                    connection, location(self._context), self._now, claimant_is_gone
                )
        return self._cached

    def _forget(self, packages: Sequence[CachedPackage]) -> None:
        left = set(packages)
        self._cached = [package for package in self._list_cached() if package not in left]
