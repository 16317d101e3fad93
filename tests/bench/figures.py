"""What a figure is: our operation beside a bare one, measured in interleaved pairs. Touches: the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MIN_PAIRS = 5


@dataclass(frozen=True)
class Figure:
    """Medians in seconds; `ratio_range` over the pairs; `aim` is text with a direction, `<=1.6`."""

    name: str
    ours: float
    bare: float
    ratio: float
    ratio_range: tuple[float, float]
    aim: str

    @property
    def met(self) -> bool:
        limit = float(self.aim.lstrip("<>="))
        return self.ratio <= limit if self.aim.startswith("<=") else self.ratio >= limit

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ours": round(self.ours, 6),
            "bare": round(self.bare, 6),
            "ratio": round(self.ratio, 3),
            "ratio_range": [round(r, 3) for r in self.ratio_range],
            "aim": self.aim,
            "met": self.met,
        }


def measure(
    name: str, ours: Callable[[], Any], bare: Callable[[], Any], aim: str, *, pairs: int = 9, times: int = 1,
    warm: bool = True,
) -> Figure:
    """Medians of interleaved pairs, after one of each that does not count. Each call does the operation `times`.

    `warm` false: the first counts too, for what takes an hour. A call that has something to prepare returns the
    seconds that count.
    """
    if warm:
        ours(), bare()
        pairs = max(pairs, MIN_PAIRS)
    timed = [(_seconds(ours) / times, _seconds(bare) / times) for _ in range(pairs)]
    ratios = [mine / its for mine, its in timed]
    middle_ours, middle_bare = (statistics.median(side) for side in zip(*timed, strict=True))
    return Figure(name, middle_ours, middle_bare, middle_ours / middle_bare, (min(ratios), max(ratios)), aim)


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    counted = call()
    return counted if isinstance(counted, float) else time.perf_counter() - begun
