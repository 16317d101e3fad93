"""Judges whether a site is well: what the ops-db and the disks say, in; findings with the command to type next, out. Pure.

`wrong` needs a person now, unless it is `away`: that may pass by itself. A `warning` is told, but harms nobody yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ccatwm.core.checkup import Finding, Judgement, away, ok, warning, wrong
from ccatwm.core.model import PASSES as PASSES
from ccatwm.core.wording import clock_text, count_text, span_text

EXIT_HEALTHY, EXIT_WRONG, EXIT_UNUSABLE, EXIT_AWAY = 0, 1, 3, 4
OPS_DB = "ops-db"  # of the finding that there is none to ask
CRON = "is cron at work? ccatwm doctor --as-cron checks what it has; ccatwm cycle runs all passes by hand"
COLLECTING = "COLLECTING_RESULTS"


@dataclass(frozen=True)
class PassSeen:
    """The latest record of a pass. `message`: the error that ended it; `at_work`: its lease is held now."""

    name: str
    location: str
    ended_at: datetime | None
    message: str | None = None
    at_work: bool = False


@dataclass(frozen=True)
class Cursor:
    """How far `trigger` has read an observation table, and its newest change."""

    table: str
    position: datetime | None
    newest: datetime | None


@dataclass(frozen=True)
class OldestRun:
    run: int
    status: str
    since: datetime


@dataclass(frozen=True)
class StepCount:
    """A number of runs, or sub-groups, of a step, and why."""

    place: str  # PIPELINE/STEP
    count: int
    why: str = ""


@dataclass(frozen=True)
class Unreached:
    """Runs that `stage` found waiting for data locations, all for the same reason."""

    why: str  # data location NAME: what it says
    runs: int
    run: int  # one of them
    since: datetime  # the first of them began to wait


@dataclass(frozen=True)
class Patience:
    """How long is too long. `pass_seconds`: since a pass last ended; `run_hours`: that a run waits to be handed over."""

    pass_seconds: float = 900.0
    run_hours: float = 24.0
    pause_hours: float = 4.0

    @property
    def collect_seconds(self) -> float:
        """That the output of a job may lie there uncollected."""
        return min(4 * self.pass_seconds, self.run_hours * 3600)


@dataclass(frozen=True)
class HealthFacts:
    """What was seen in the ops-db. `locations`: those of enabled pipelines; `here` is that of this site."""

    here: str
    locations: frozenset[str]
    passes: tuple[PassSeen, ...] = ()
    paused: str | None = None
    paused_by: str | None = None
    paused_at: datetime | None = None
    blocked: str | None = None
    needing: tuple[StepCount, ...] = ()
    tripped: tuple[StepCount, ...] = ()
    throttled: tuple[StepCount, ...] = ()
    cursors: tuple[Cursor, ...] = ()
    changed_since: datetime | None = None  # the first package that waits to be grouped again
    oldest: tuple[OldestRun, ...] = ()
    bad_copies: int = 0
    unreached: tuple[Unreached, ...] = ()
    cache: str = ""  # how full it is, where it has a limit


def judge_health(facts: HealthFacts, patience: Patience, now: datetime) -> list[Finding]:
    """Findings, brakes first; each area that is well has one, too."""
    return [
        *_brakes(facts, patience, now),
        *_passes(facts, patience, now),
        *_area("runs", "no run waits for a person", _needing(facts.needing)),
        *_area("tripped", "no step is tripped", _tripped(facts.tripped)),
        *_area("throttled", "no ceiling holds work back", _throttled(facts.throttled)),
        *_area("changes", "changes of the observation tables are read", _lagging(facts, patience, now)),
        *_area("waiting", "no run waits for long", _oldest(facts.oldest, patience, now)),
        *_area("copies", "no copy of a raw data package is known to be bad", _copies(facts.bad_copies)),
        *_area("data", "no run waits for a data location that cannot be reached", _unreached(facts.unreached)),
        *([ok("cache", facts.cache)] if facts.cache else []),
    ]


def exit_code(findings: Iterable[Finding]) -> int:
    """What a person must do outweighs what may pass by itself; an ops-db that is none is 3, as for every command."""
    bad = [finding for finding in findings if finding.state is Judgement.WRONG]
    if any(finding.name == OPS_DB and not finding.away for finding in bad):
        return EXIT_UNUSABLE
    if any(not finding.away for finding in bad):
        return EXIT_WRONG
    return EXIT_AWAY if bad else EXIT_HEALTHY


def conditions(findings: Iterable[Finding]) -> dict[str, str]:
    """What lasts, message by key, for whoever tells news."""
    return {
        f"health {f.name}": f"{f.found}\n  next: {f.next}" if f.next else f.found
        for f in findings
        if f.state in (Judgement.WRONG, Judgement.WARNING)
    }


def _area(name: str, well: str, found: list[Finding]) -> list[Finding]:
    return found or [ok(name, well)]


def _brakes(facts: HealthFacts, patience: Patience, now: datetime) -> list[Finding]:
    found = []
    if facts.blocked is not None:
        found.append(wrong("submission", f"submission is blocked: {facts.blocked}", "ccatwm doctor --reconcile"))
    if facts.paused is not None:
        found.append(_paused(facts, patience, now))
    return _area("brakes", "passes are not paused, submission is not blocked", found)


def _paused(facts: HealthFacts, patience: Patience, now: datetime) -> Finding:
    since = f" since {clock_text(facts.paused_at)} UTC" if facts.paused_at else ""
    text = f"all passes are paused{since} by {facts.paused_by or 'somebody'}: {facts.paused}"
    long = facts.paused_at is None or now - facts.paused_at > timedelta(hours=patience.pause_hours)
    return (wrong if long else warning)("paused", text, "ccatwm resume")


def _passes(facts: HealthFacts, patience: Patience, now: datetime) -> list[Finding]:
    """Every pass of every location that is served; records of others are of times gone by."""
    seen = {(p.location, p.name): p for p in facts.passes}
    places = sorted({facts.here, *facts.locations})
    found = [
        finding for place in places for finding in _passes_at(place, seen, facts, patience, now)
    ]
    many = len(places)
    fresh = f"all six passes ended within {span_text(patience.pass_seconds)}"
    return _area("passes", f"{fresh}, at {many} locations" if many > 1 else fresh, found)


def _passes_at(
    place: str, seen: Mapping[tuple[str, str], PassSeen], facts: HealthFacts, patience: Patience, now: datetime
) -> list[Finding]:
    records = [(name, seen.get((place, name))) for name in PASSES]
    if all(record is None for _, record in records):
        return [] if facts.paused else [wrong(f"passes {place}", f"no pass has ever run for {place}", CRON)]
    found = []
    for name, record in records:
        if record is not None and record.message:
            text = f"{name} at {place} was ended by an error: {record.message}"
            found.append(away(f"error {name} {place}", text, f"ccatwm {name} -v"))
        elif not facts.paused and not _is_fresh(record, patience, now):
            found.append(_stale(name, place, record, now))
    return found


def _is_fresh(record: PassSeen | None, patience: Patience, now: datetime) -> bool:
    if record is None:
        return False
    limit = timedelta(seconds=patience.pass_seconds)
    return record.at_work or (record.ended_at is not None and now - record.ended_at <= limit)


def _stale(name: str, place: str, record: PassSeen | None, now: datetime) -> Finding:
    ended = record.ended_at if record is not None else None
    last = "never" if ended is None else f"{span_text((now - ended).total_seconds())} ago, {clock_text(ended)} UTC"
    return wrong(f"pass {name} {place}", f"{name} at {place} last ended {last}", CRON)


def _needing(steps: Sequence[StepCount]) -> list[Finding]:
    return [
        wrong(
            f"runs {step.place}", f"{step.place}: {count_text(step.count, 'sub-group')} with a run that failed for good",
            f"ccatwm runs {_selection(step.place)} --status FAILED",
        )
        for step in steps
    ]  # fmt: skip


def _tripped(steps: Sequence[StepCount]) -> list[Finding]:
    return [
        wrong(
            f"tripped {step.place}", f"{step.place} is tripped ({step.why}): nothing more of it is submitted",
            f"ccatwm release {step.place} --retry --reason TEXT",
        )
        for step in steps
    ]  # fmt: skip


def _throttled(steps: Sequence[StepCount]) -> list[Finding]:
    return [
        warning(
            f"throttled {step.place}", f"{step.place}: {count_text(step.count, 'run')} held back: {step.why}",
            f"ccatwm explain {step.place.replace('/', ' ')}",
        )
        for step in steps
    ]  # fmt: skip


def _lagging(facts: HealthFacts, patience: Patience, now: datetime) -> list[Finding]:
    late = now - timedelta(seconds=patience.pass_seconds)
    behind = [c for c in facts.cursors if c.newest and c.newest <= late and (c.position is None or c.position < c.newest)]
    found = [
        wrong(
            f"cursor {c.table}", f"changes of {c.table} are read to {_at(c.position)}, the newest is of {_at(c.newest)}",
            "ccatwm trigger -v",
        )
        for c in behind
    ]  # fmt: skip
    if facts.changed_since is not None and facts.changed_since < late:
        text = f"packages that changed {_at(facts.changed_since)} are not grouped yet"
        found.append(wrong("regrouping", text, "ccatwm resolve -v"))
    return [] if facts.paused else found


def _at(time: datetime | None) -> str:
    return f"{clock_text(time)} UTC" if time is not None else "nowhere"


def _oldest(runs: Sequence[OldestRun], patience: Patience, now: datetime) -> list[Finding]:
    found = []
    for one in runs:
        limit = patience.collect_seconds if one.status == COLLECTING else patience.run_hours * 3600
        seconds = (now - one.since).total_seconds()
        if seconds > limit:
            text = f"run {one.run} is {one.status} for {span_text(seconds)}"
            found.append(wrong(f"waiting {one.status}", text, f"ccatwm show {one.run}"))
    return found


def _copies(count: int) -> list[Finding]:
    if not count:
        return []
    text = f"{count_text(count, 'copy') if count == 1 else f'{count} copies'} of raw data packages found corrupt or missing"
    return [warning("copies", text, "ccatwm status")]


def _unreached(found: Sequence[Unreached]) -> list[Finding]:
    """It may pass by itself; a setting that is wrong says so, and what to do."""
    return [
        away(
            one.why.partition(":")[0],  # data location NAME
            f"{count_text(one.runs, 'run')} {'wait' if one.runs > 1 else 'waits'} since {_at(one.since)}: {one.why}",
            f"ccatwm show {one.run}",
        )
        for one in found
    ]  # fmt: skip


def _selection(place: str) -> str:
    pipeline, _, step = place.partition("/")
    return f"--pipeline {pipeline} --step {step}"
