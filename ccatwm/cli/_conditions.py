"""Decides what a pass, or `health`, says under cron: a condition when it begins, daily while it lasts, and when it ends.

Touches: `conditions.json` in STATE_DIR.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccatwm.core.staging import UNAVAILABLE
from ccatwm.core.wording import count_text

if TYPE_CHECKING:
    from ccatwm.passes._frame import PassItem, PassReport

HEALTH = "health"  # among the passes: who met a condition
AGAIN_AFTER = timedelta(days=1)
NAMED_RUNS = 5  # of a step, that failed for good in one pass
HELD_BACK = {  # by outcome of items
    "no-space": "no space",
    "not permitted": "the account may not read, or not change, their files",
    "throttled": "the batch system takes no more",
    UNAVAILABLE: "their data cannot be reached",
}
MOST_REMEMBERED = 100  # runs of a condition
NO_ROOM = "no room"  # what holds back `stage`, whose items have the same outcome


@dataclass(frozen=True)
class Condition:
    """Something that lasts. `passes` met it last time; `key` is the same for all of them. `runs`: those that it keeps
    waiting, where not every pass looks at them: as long as one of them waits it is not over."""

    key: str
    message: str
    passes: tuple[str, ...]
    since: datetime
    told_at: datetime
    runs: tuple[int, ...] = ()


def plan_news(
    known: Sequence[Condition], met: Mapping[str, Mapping[str, str]], seen: Sequence[str], now: datetime
) -> tuple[list[str], list[Condition]]:
    """Lines to print and the conditions to remember.

    `met` has the conditions (message by key) that each pass met; `seen` are the passes that ran at all: a condition
    has ended when no pass that met it meets it any more.
    """
    lines: list[str] = []
    remembered: list[Condition] = []
    for old in known:
        passes = _passes(old, met, seen)
        if not passes:
            lines.append(f"ccatwm: over since {_clock(now)}, begun {_clock(old.since)}: {old.message}")
            continue
        again = now - old.told_at >= AGAIN_AFTER
        if again:
            lines.append(f"ccatwm: still, since {_clock(old.since)}: {old.message}")
        remembered.append(replace(old, passes=passes, told_at=now if again else old.told_at))
    known_keys = {old.key for old in known}
    new = {key: message for conditions in met.values() for key, message in conditions.items()}
    for key, message in new.items():
        if key not in known_keys:
            lines.append(f"ccatwm: {message}")
            passes = tuple(name for name, conditions in met.items() if key in conditions)
            remembered.append(Condition(key, _what(message), passes, now, now))
    return lines, remembered


def _passes(old: Condition, met: Mapping[str, Mapping[str, str]], seen: Sequence[str]) -> tuple[str, ...]:
    """The passes that meet a condition still: those that say so, and those that did and have not run since."""
    still = tuple(name for name in old.passes if name not in seen or old.key in met.get(name, {}))
    return still + tuple(name for name, now in met.items() if old.key in now and name not in still)


def _what(message: str) -> str:
    """A message without what to do next: that holds only when it is new."""
    return message.partition("\n  next: ")[0]


def _clock(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")


def tell_news(
    state_dir: Path, reports: Sequence[PassReport], now: datetime, wait: Callable[[Sequence[int]], bool] | None = None
) -> list[str]:
    """Lines to print for these reports: conditions, runs that failed for good, bad copies, what was missed.

    `wait` says whether one of some runs still waits for its inputs; it is asked only where a condition may be over.
    """
    seen = [r.pass_name for r in reports if r.skipped != "locked"]
    met = {r.pass_name: _conditions(r) for r in reports}
    with _alone(state_dir):
        memory = state_dir / "conditions.json"
        known = _read(memory)
        for report in reports:
            others = [old for old in known if old.key not in met[report.pass_name]]
            met[report.pass_name] |= _not_looked_at(report, others, wait)
        lines, remembered = plan_news(known, met, seen, now)
        remembered = _with_runs(remembered, reports)
        if remembered != known:
            _write(memory, remembered)
    return lines + [line for r in reports for line in (*_told_once(r), *_failed_for_good(r))]


def tell_health(state_dir: Path, conditions: Mapping[str, str], now: datetime) -> list[str]:
    """Lines to print for what `health` met. What a pass on this host has met, and tells itself, is left to it."""
    with _alone(state_dir):
        memory = state_dir / "conditions.json"
        known = _read(memory)
        told = [old for old in known if set(old.passes) - {HEALTH}]
        met = {key: message for key, message in conditions.items() if not _is_told(key, told)}
        if "health ops-db" in conditions:  # what it says of runs and passes was not seen: it is not over
            met = {old.key: old.message for old in known if HEALTH in old.passes} | met
        lines, remembered = plan_news(known, {HEALTH: met}, [HEALTH], now)
        if remembered != known:
            _write(memory, remembered)
    return lines


def _is_told(key: str, told: Sequence[Condition]) -> bool:
    """Whether passes tell it: the error that ended one, work that they hold back, a data location or an ops-db that is
    away."""
    _, kind, name = [*key.split(" "), "", ""][:3]
    if kind == "error":
        return any(name in old.passes for old in told)
    if kind == "throttled":
        return any(old.key.endswith(" throttled") for old in told)
    if kind == "data":
        return any(old.key.endswith(f" {UNAVAILABLE}") for old in told)
    return kind == "ops-db" and any(old.key.startswith(("OpsDbUnavailableError", "OpsDbUnusableError")) for old in told)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Passes that cron starts in the same minute do not tell a thing twice; where no lock can be had, they may."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(state_dir / ".conditions.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _conditions(report: PassReport) -> dict[str, str]:
    """What the pass met that lasts, message by key: the world that did not answer, work that is held back."""
    found = {}
    if report.error is not None:
        found[f"{type(report.error).__name__} {report.error.where}"] = str(report.error)
    for item in report.items:
        if item.outcome == "blocked" and item.run is None:  # until somebody acts, whether or not a run waits for it
            found[f"{report.pass_name} blocked"] = f"{report.pass_name}: {item.reason}\n  next: ccatwm doctor --reconcile"
    for outcome, words in HELD_BACK.items():
        waiting = [item for item in report.items if item.outcome == outcome and not item.intended]
        if waiting:
            words = NO_ROOM if (report.pass_name, outcome) == ("stage", "throttled") else words
            many = count_text(sum(item.count for item in waiting), "run")
            found[f"{report.pass_name} {outcome}"] = (
                f"{report.pass_name}: {many} held back, {words}: {waiting[0].reason}"
            )
    return found


def _not_looked_at(
    report: PassReport, known: Sequence[Condition], wait: Callable[[Sequence[int]], bool] | None
) -> dict[str, str]:
    """What a pass met last time and cannot know to be over: if it ended early, all the work that it held back; else runs
    that are looked at again later, or whose data a batch job tries to reach."""
    mine = [c for c in known if report.pass_name in c.passes and c.key.startswith(f"{report.pass_name} ")]
    if report.error is None and report.skipped is None:
        mine = [condition for condition in mine if condition.runs and wait is not None and wait(condition.runs)]
    return {condition.key: condition.message for condition in mine}


def _with_runs(conditions: Sequence[Condition], reports: Sequence[PassReport]) -> list[Condition]:
    """Each with the runs that it keeps waiting by what the last pass saw that met it."""
    waiting: dict[str, list[int]] = {}
    for report in reports:
        for item in report.items:
            if item.outcome == UNAVAILABLE and item.run is not None and not item.intended:
                waiting.setdefault(f"{report.pass_name} {UNAVAILABLE}", []).append(item.run)
    return [replace(c, runs=tuple(waiting[c.key][:MOST_REMEMBERED])) if c.key in waiting else c for c in conditions]


def _failed_for_good(report: PassReport) -> list[str]:
    """Each run with what to type, of many of a step the first few; then what is tripped."""
    needing: dict[tuple[str | None, str | None], list[PassItem]] = {}
    for item in report.items:
        if item.needs_you:
            needing.setdefault((item.pipeline, item.step), []).append(item)
    lines = [line for items in needing.values() for line in _failed_lines(report.pass_name, items)]
    return lines + [
        f"ccatwm: {report.pass_name}: step {item.pipeline}/{item.step} is tripped: {item.reason}"
        for item in report.items
        if item.outcome == "tripped" and item.run is None and not item.sub_group  # not the decisions that follow from it
    ]


def _failed_lines(pass_name: str, items: Sequence[PassItem]) -> list[str]:
    """Of one step. A mail of a thousand lines hides the other steps' single ones."""
    named = items if len(items) <= NAMED_RUNS + 1 else items[:NAMED_RUNS]
    lines = [
        f"ccatwm: {pass_name}: run {item.run} ({item.pipeline}/{item.step}/{item.sub_group}) failed: {item.reason}"
        for item in named
    ]
    if len(named) < len(items):
        pipeline, step = items[0].pipeline, items[0].step
        lines.append(f"ccatwm: {pass_name}: {len(items) - len(named)} more runs of {pipeline}/{step} failed for good\n"
                     f"  next: ccatwm runs --pipeline {pipeline} --step {step} --status FAILED")  # fmt: skip
    return lines


def _told_once(report: PassReport) -> list[str]:
    return [
        f"ccatwm: {report.pass_name}: {item.reason}" for item in report.items if item.news or item.outcome == "bad-copy"
    ]


def _read(memory: Path) -> list[Condition]:
    try:
        return [_from_json(entry) for entry in json.loads(memory.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _from_json(entry: Mapping[str, Any]) -> Condition:
    since, told_at = (datetime.fromisoformat(entry[name]) for name in ("since", "told_at"))
    runs = tuple(entry.get("runs", ()))  # files of before have none
    return Condition(entry["key"], entry["message"], tuple(entry["passes"]), since, told_at, runs)


def _write(memory: Path, conditions: Sequence[Condition]) -> None:
    """By rename; a state folder that cannot be written costs only repeated messages."""
    entries = [
        {"key": c.key, "message": c.message, "passes": c.passes, "since": c.since.isoformat(),
         "told_at": c.told_at.isoformat(), "runs": c.runs}
        for c in conditions
    ]  # fmt: skip
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries), encoding="utf-8")
        os.replace(temporary, memory)
    except OSError:
        pass
