"""Work on files that a pass has done in turn, apart from what it says to the ops-db. Touches: what the work touches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ccatwm.core.cache import Amount, total


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
    """Work that waits, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()

    @property
    def coming(self) -> Amount:
        return total(work.coming for work in self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether more work would only wait."""
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, some: Iterable[Work]) -> None:
        self._waiting.extend(some)

    def do_some(self) -> list[Work]:
        """Work that is done now; empty where there was none."""
        if not self._waiting:
            return []
        work = self._waiting.popleft()
        work.work()
        return [work]

    def drop_waiting(self) -> list[Work]:
        """What was not begun, and is not done any more."""
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped
