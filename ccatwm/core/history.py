"""Whose history is asked for, and which acts of people belong to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RUN = re.compile(r"run[ :](\d+)")


@dataclass(frozen=True)
class Subject:
    """`run`, or `place` (pipeline, step, sub-group as far as named), or `thing` as it was written in an act; else all."""

    run: int | None = None
    place: tuple[str, ...] = ()
    thing: str = ""

    @property
    def text(self) -> str:
        if self.run is not None:
            return f"run {self.run}"
        return "/".join(self.place) or self.thing


def parse_subject(text: str | None) -> Subject:
    """`12` or `run:12` is a run, `backfill:3`, `package:NAME` and the like are things, else PIPELINE[/STEP[/KEY]]."""
    if not text:
        return Subject()
    if text.isascii() and text.isdigit():
        return Subject(run=int(text))
    kind, colon, name = text.partition(":")
    if colon and "/" not in kind:
        if kind == "run" and name.isascii() and name.isdigit():
            return Subject(run=int(name))
        return Subject(thing=f"{kind} {name}" if kind == "backfill" else text)
    return Subject(place=tuple(text.split("/", 2)))


def runs_named(target: str) -> list[int]:
    """Runs that an act was about."""
    return [int(found[1]) for part in target.split(", ") if (found := _RUN.fullmatch(part))]


def concerns(
    subject: Subject, target: str, details: Mapping[str, Any] | None, places: Iterable[Sequence[str]]
) -> bool:
    """Whether an act belongs to the history of `subject`. `places` are those of the runs that the act names.

    What was said of a pipeline is part of the history of its steps and sub-groups, and the other way round.
    """
    parts = target.split(", ")
    if subject.run is not None:
        return subject.run in runs_named(target) or (details or {}).get("run") == subject.run
    if subject.thing:
        return subject.thing in parts
    if not subject.place:
        return True
    acted = [*places, *(part.split("/", 2) for part in parts), *_places_in(details or {})]
    return any(_overlap(subject.place, tuple(place)) for place in acted)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one of them is the other or lies below it."""
    length = min(len(one), len(other))
    return length > 0 and one[:length] == other[:length]


def _places_in(details: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where an act says itself where it was: its keys `pipeline`, `step` or `steps`, `sub_group`, or lines of changes."""
    found = [place for line in details.get("changes", ()) if (place := _place_in(str(line)))]
    pipeline = details.get("pipeline")
    if not isinstance(pipeline, str):
        return found
    steps = details.get("steps") or [details.get("step")]
    names = [step if isinstance(step, str) else None for step in steps]
    sub_group = details.get("sub_group")
    return found + [tuple(n for n in (pipeline, step, sub_group if step else None) if n) for step in names]


def _place_in(line: str) -> tuple[str, ...]:
    """`~ step otf/grid: config` is of a place, `+ software cal` of none."""
    words = line.split()
    if len(words) < 3 or words[1] not in ("pipeline", "step"):
        return ()
    return tuple(words[2].rstrip(":").split("/", 2))
