"""What a backfill may do next: a period of a pipeline's data, made a few runs at a time. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ccatwm.core.gap import Decision, Outcome


class BackfillState(StrEnum):
    OPEN = "open"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Backfill:
    """A backfill as the passes read it. `progress`: by step id, how far its sub-groups have been looked at."""

    id: int
    pipeline_id: int
    pipeline: str
    since: datetime
    until: datetime
    priority: int
    most_runs: int | None
    state: str
    reason: str
    progress: Mapping[str, Mapping[str, Any]]

    def done_to(self, step_id: int) -> int:
        """The last sub-group of a step that was looked at."""
        return int(self.progress.get(str(step_id), {}).get("done_to", 0))

    def finished(self, step_id: int) -> bool:
        """Whether all sub-groups of a step have been looked at once."""
        return bool(self.progress.get(str(step_id), {}).get("finished"))

    def moved(self, step_id: int, *, done_to: int, finished: bool) -> dict[str, Any]:
        """The progress after a further slice."""
        return {**self.progress, str(step_id): {"done_to": done_to, "finished": finished}}


def runs_left(backfill: Backfill, made: int) -> int | None:
    """How many runs may still be made in all; None: any number."""
    return None if backfill.most_runs is None else max(0, backfill.most_runs - made)


def room(backfill: Backfill, *, made: int, open_runs: int, most_open: int) -> int:
    """How many runs may be made now."""
    here, left = max(0, most_open - open_runs), runs_left(backfill, made)
    return here if left is None else min(here, left)


def fitting(decisions: Sequence[Decision], runs: int) -> int:
    """How many of the decisions, in their order, can be carried out with no more than so many new runs."""
    for place, decision in enumerate(decisions):
        if decision.outcome is Outcome.RUN:
            if runs == 0:
                return place
            runs -= 1
    return len(decisions)


_WAITING = frozenset(
    {Outcome.HELD, Outcome.TRIPPED, Outcome.WAITING_FOR_DATA, Outcome.WAITING_FOR_UPSTREAM, Outcome.WAITING_FOR_IMAGE,
     Outcome.SETTLING, Outcome.COOLING_DOWN, Outcome.BUSY}
)  # fmt: skip


def has_to_wait(decision: Decision) -> bool:
    """Whether the sub-group stays the backfill's, to be decided on again when it falls due."""
    return decision.outcome in _WAITING


def may_begin(step_id: int, upstream: Collection[int], backfill: Backfill, at_work: Collection[int]) -> bool:
    """Whether a step's turn has come: its upstream steps were looked at to the end, and nothing of them is `at_work`.

    Else `requires: 0.8` would be content with what happens to be there, and nobody would come again.
    """
    return all(backfill.finished(step) and step not in at_work for step in upstream if step != step_id)
