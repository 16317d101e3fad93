"""Decides which waiting runs go on now: ceilings, and turns between the pipelines of one priority. Pure."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ccatwm.core.model import Resources, run_directory
from ccatwm.core.wording import count_text

AHEAD = 2  # `stage` brings inputs for so many times what may be under way, so that jobs never wait for them


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run that waits, with no more than is needed to put many thousands of them in order.

    `counted`: it has been let through before (a staging that was broken off), and is among the active ones.
    `resources`: what its next attempt asks for, where that was read.
    """

    id: int
    pipeline_id: int
    step_id: int
    pipeline: str
    step: str
    sub_group: str
    priority: int = 0
    attempt: int = 0
    counted: bool = False
    resources: Resources = field(default_factory=Resources)

    @property
    def directory(self) -> str:
        return run_directory(self.pipeline, self.step, self.sub_group, self.id)


@dataclass(frozen=True, slots=True)
class Active:
    """So many runs of a step are active.

    `priority`: they take room from runs of no larger priority only (their inputs merely wait); None: from all.
    """

    pipeline_id: int
    step_id: int
    count: int
    priority: int | None = None


@dataclass(frozen=True)
class Ceilings:
    """Most runs at once, of all at a location, of pipelines and of steps (by id); `ahead` times that many here."""

    location: str = ""
    most: int | None = None
    pipelines: Mapping[int, int] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)
    ahead: int = 1

    def __bool__(self) -> bool:
        return self.most is not None or bool(self.pipelines or self.steps)


@dataclass(frozen=True, slots=True)
class Throttle:
    """The ceiling that a run waits for. `active` runs are there or go first, where `ahead` times `most` may be."""

    whose: str  # `of otf/grid`, `at ramses`
    setting: str
    most: int
    active: int
    ahead: int = 1

    @property
    def until(self) -> str:
        """What ends it."""
        return "other runs end"

    @property
    def figure(self) -> str:
        return f"{self.active} of {self.most * self.ahead}"

    @property
    def reason(self) -> str:
        """`4 runs of otf/grid under way or before it, max_concurrent is 4`."""
        runs = f"{count_text(self.active, 'run')} {self.whose}"
        if self.ahead == 1:
            return f"{runs} under way or before it, {self.setting} is {self.most}"
        times = "twice" if self.ahead == 2 else f"{self.ahead} times"
        return f"{runs} staged, under way or before it, {times} {self.setting}, which is {self.most}"


@dataclass(frozen=True)
class Admission:
    """`admitted` in the order in which they go; `throttled` with what each waits for."""

    admitted: list[WaitingRun]
    throttled: list[tuple[WaitingRun, Throttle]]


def admit(waiting: Sequence[WaitingRun], active: Sequence[Active], ceilings: Ceilings) -> Admission:
    """Which of the waiting runs go on now, larger priority first.

    Of one priority the pipelines take turns: the next run is one of the pipeline that has the fewest active and admitted
    ones, its first in the order of `waiting`. A run without room does not stop those behind it.
    """
    room = _Room(ceilings)
    admission = Admission([], [])
    always = [a for a in active if a.priority is None]
    by_priority = deque(
        sorted((a for a in active if a.priority is not None), key=lambda a: a.priority or 0, reverse=True)
    )
    for taken in always:
        room.take(taken.pipeline_id, taken.step_id, taken.count)
    in_order = sorted(waiting, key=lambda run: -run.priority)  # stable
    for priority, alike in groupby(in_order, key=lambda run: run.priority):
        while by_priority and (by_priority[0].priority or 0) >= priority:
            taken = by_priority.popleft()
            room.take(taken.pipeline_id, taken.step_id, taken.count)
        _take_turns(list(alike), room, admission)
    return admission


def _take_turns(alike: Sequence[WaitingRun], room: _Room, admission: Admission) -> None:
    """Admit runs of one priority."""
    queues: dict[int, deque[tuple[int, WaitingRun]]] = {}
    for place, run in enumerate(alike):
        queues.setdefault(run.pipeline_id, deque()).append((place, run))
    turns = [(room.pipelines[key], queue[0][0], key) for key, queue in queues.items()]
    heapq.heapify(turns)
    while turns:
        key = heapq.heappop(turns)[2]
        queue = queues[key]
        _admit_first(queue, room, admission)
        if queue:
            heapq.heappush(turns, (room.pipelines[key], queue[0][0], key))


def _admit_first(queue: deque[tuple[int, WaitingRun]], room: _Room, admission: Admission) -> None:
    """The first run of a pipeline that has room; those before it are throttled."""
    while queue:
        _, run = queue.popleft()
        throttle = None if run.counted else room.throttle(run)
        if throttle is None:
            admission.admitted.append(run)
            if not run.counted:
                room.take(run.pipeline_id, run.step_id, 1)
            return
        admission.throttled.append((run, throttle))


class _Room:
    """What is active at a location, of pipelines and of steps, against the ceilings."""

    def __init__(self, ceilings: Ceilings) -> None:
        self.pipelines: Counter[int] = Counter()
        self._ceilings = ceilings
        self._steps: Counter[int] = Counter()
        self._all = 0

    def take(self, pipeline_id: int, step_id: int, count: int) -> None:
        self._all += count
        self.pipelines[pipeline_id] += count
        self._steps[step_id] += count

    def throttle(self, run: WaitingRun) -> Throttle | None:
        """The narrowest ceiling that the run has reached."""
        at, ahead = self._ceilings, self._ceilings.ahead
        step, pipeline = at.steps.get(run.step_id), at.pipelines.get(run.pipeline_id)
        if step is not None and self._steps[run.step_id] >= step * ahead:
            whose = f"of {run.pipeline}/{run.step}"
            return Throttle(whose, "max_concurrent", step, self._steps[run.step_id], ahead)
        if pipeline is not None and self.pipelines[run.pipeline_id] >= pipeline * ahead:
            whose = f"of pipeline {run.pipeline}"
            return Throttle(whose, "max_concurrent", pipeline, self.pipelines[run.pipeline_id], ahead)
        if at.most is not None and self._all >= at.most * ahead:
            return Throttle(f"at {at.location}", "MAX_CONCURRENT", at.most, self._all, ahead)
        return None
