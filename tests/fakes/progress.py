"""A `Progress` that remembers what it was told. Touches: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class ToldBar:
    """What was told of one thing, and whether it has ended."""

    what: str
    total: int | None
    unit: str
    done: int = 0
    notes: list[str] = field(default_factory=list)
    ended: bool = False

    def advance(self, count: int, /) -> None:
        assert not self.ended
        self.done += count

    def note(self, text: str, /) -> None:
        self.notes.append(text)


class ToldProgress:
    """The things that were begun, in order."""

    def __init__(self) -> None:
        self.bars: list[ToldBar] = []

    @contextmanager
    def begin(
        self, what: str, total: int | None, unit: str, *, measure: Callable[[], int] | None = None
    ) -> Iterator[ToldBar]:
        bar = ToldBar(what, total, unit)
        self.bars.append(bar)
        try:
            yield bar
        finally:
            bar.done = bar.done if measure is None else measure()
            bar.ended = True
