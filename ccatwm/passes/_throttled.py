"""How runs that are held back are told: a few by name, the others by their number. Touches: nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ccatwm.core.cache import Shortage
from ccatwm.core.model import Run
from ccatwm.core.throttle import Throttle, WaitingRun
from ccatwm.passes._frame import PassFrame, PassItem

SHOWN = 10  # runs of a ceiling by name: tens of thousands may wait for one, in every pass


def waiting_item(run: WaitingRun, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def report_throttled(frame: PassFrame, throttled: Iterable[tuple[WaitingRun, Throttle]]) -> None:
    """Runs that wait for a ceiling, which people have set: no news."""
    by_ceiling: dict[tuple[str, str], list[tuple[WaitingRun, Throttle]]] = {}
    for run, throttle in throttled:
        by_ceiling.setdefault((throttle.whose, throttle.setting), []).append((run, throttle))
    for held_back in by_ceiling.values():
        _report(frame, [run for run, _ in held_back], held_back[-1][1].reason, intended=True)


def report_queue_full(frame: PassFrame, held_back: Sequence[WaitingRun]) -> None:
    """Runs that the batch system does not take now."""
    _report(frame, held_back, "the batch system takes no more jobs now", intended=False)


def report_short(frame: PassFrame, short: Sequence[tuple[Run, Shortage]]) -> None:
    """Runs whose inputs have no room now."""
    for run, shortage in short:
        item = PassItem("throttled", shortage.reason, run.id, run.pipeline, run.step, run.sub_group)
        item.intended = shortage.intended
        frame.report.add("waiting", item)


def report_behind(frame: PassFrame, behind: Sequence[WaitingRun], shortage: Shortage) -> None:
    """Runs behind many that had no room."""
    _report(frame, behind, f"behind runs that have no room: {shortage.reason}", intended=shortage.intended)


def report_turn(frame: PassFrame, behind: Sequence[WaitingRun], reason: str) -> None:
    """Runs whose inputs batch jobs are to bring, when those that bring others have ended."""
    _report(frame, behind, reason, intended=True)


def _report(frame: PassFrame, held_back: Sequence[WaitingRun], reason: str, *, intended: bool) -> None:
    items = [waiting_item(run, "throttled", reason) for run in held_back[:SHOWN]]
    others = len(held_back) - len(items)
    if others:
        items.append(PassItem("throttled", reason, count=others))
    for item in items:
        item.intended = intended
        frame.report.add("waiting", item)
