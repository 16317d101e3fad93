"""Work on files that a pass has done side by side, apart from the ops-db. Touches: what the work touches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Protocol

from ccatwm.core.cache import Amount, total

LOOK_SECONDS = 1.0  # how long to wait for work to be done before the pass has a look at its lease and its time


class Work(Protocol):
    """A piece of work on files. Whoever asked for it looks afterwards at what came of it."""

    def work(self) -> None:
        """Do it. What goes wrong and is expected is kept, not raised."""
        ...

    @property
    def coming(self) -> Amount:
        """What it will write and has not written yet."""
        ...


class WorkQueue:
    """Work in the order in which it was asked for, `at_once` pieces at a time; a single one is done by whoever asks."""

    def __init__(self, at_once: int = 1) -> None:
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "work") if at_once > 1 else None
        self._waiting: deque[Work] = deque()
        self._under_way: dict[Future[None], Work] = {}
        self._stopping = Event()

    @property
    def coming(self) -> Amount:
        return total(work.coming for work in (*self._under_way.values(), *self._waiting))

    @property
    def is_full(self) -> bool:
        """Whether more work would only wait."""
        return len(self._waiting) + len(self._under_way) >= self._at_once

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._under_way

    def is_stopping(self) -> bool:
        """What work asks now and then: it ends when this is true."""
        return self._stopping.is_set()

    def add(self, some: Iterable[Work]) -> None:
        self._waiting.extend(some)
        self._start()

    def do_some(self) -> list[Work]:
        """Work that is done now; empty where there was none, or it takes its time."""
        if self._pool is None:
            return self._do_one()
        if not self._under_way:
            return []
        done, _ = wait(self._under_way, LOOK_SECONDS, FIRST_COMPLETED)
        ended = [future for future in self._under_way if future in done]  # in the order of their beginning
        works = [self._under_way.pop(future) for future in ended]
        for future in ended:
            future.result()  # what nobody expected
        self._start()
        return works

    def _do_one(self) -> list[Work]:
        if not self._waiting:
            return []
        work = self._waiting.popleft()
        work.work()
        return [work]

    def _start(self) -> None:
        while self._pool is not None and self._waiting and len(self._under_way) < self._at_once:
            work = self._waiting.popleft()
            self._under_way[self._pool.submit(work.work)] = work

    def drop_waiting(self) -> list[Work]:
        """What was not begun, and is not done any more."""
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped

    def close(self) -> None:
        """Whatever is under way ends soon, and nothing more begins."""
        self._stopping.set()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
