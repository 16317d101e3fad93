"""Backfills: asked for with an estimate first, paused, resumed, cancelled. Touches: the ops-db; `resolve` makes runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import Backfill, BackfillState
from ccatwm.core.gap import SETTLED
from ccatwm.core.model import LARGEST_PRIORITY, PackageState
from ccatwm.core.selection import FIRST_YEAR, TIMES_ALLOWED, parse_moment
from ccatwm.core.wording import count_text, size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import backfills as store
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.definitions import Concerned, list_concerned
from ccatwm.edges.opsdb.stores.past_runs import past_core_hours
from ccatwm.edges.opsdb.stores.requests import keys_at_rest, list_steps
from ccatwm.errors import Problem, UsageError
from ccatwm.upkeep._disabled import list_disabled
from ccatwm.upkeep._estimate import Estimate, core_hours_of
from ccatwm.upkeep._reason import require_reason
from ccatwm.upkeep.exclude import Act


@dataclass(frozen=True)
class Asked:
    """What a person typed; times as text."""

    pipeline: str
    since: str | None
    until: str | None
    most_runs: int | None = None
    priority: int | None = None


@dataclass
class StepEstimate:
    """Of one step: sub-groups of the period that have not what is wanted, as far as is known now, and their packages."""

    step: str
    missing: int
    bytes: int
    cost: Estimate = field(default_factory=Estimate)

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "runs": self.missing, "bytes": self.bytes,
                "core_hours": round(self.cost.core_hours, 2), "core_hours_from": self.cost.basis}  # fmt: skip


@dataclass
class BackfillReport:
    """A backfill as it was asked for, or would be with `dry_run`."""

    number: int | None
    asked: Asked
    since: datetime
    until: datetime
    priority: int
    steps: list[StepEstimate]
    total: Estimate
    dry_run: bool

    @property
    def estimate(self) -> dict[str, Any]:
        return {
            "runs": self.total.sub_groups,
            "bytes": self.total.bytes,
            "core_hours": round(self.total.core_hours, 2),
            "core_hours_from": self.total.basis,
            "steps": [step.to_json() for step in self.steps],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.backfill/1",
            "backfill": self.number,
            "dry_run": self.dry_run,
            "pipeline": self.asked.pipeline,
            "since": utc_text(self.since),
            "until": utc_text(self.until),
            "priority": self.priority,
            "limit_runs": self.asked.most_runs,
            "estimate": self.estimate,
        }

    @property
    def follows(self) -> str:
        if not self.total.sub_groups:
            return "no run is missing, as far as is known now"
        size = f", {size_text(self.total.bytes)} of raw data packages" if self.total.bytes else ""
        return f"at most {count_text(self.total.sub_groups, 'run')}{size}, {self.total.cost}"

    def lines(self) -> list[str]:
        """For people."""
        name = f"backfill {self.number}" if self.number is not None else "backfill"
        period = f"{utc_text(self.since)} to {utc_text(self.until)}"
        lines = [f"{name} of {self.asked.pipeline}, {period}, priority {self.priority}: {self.follows}"]
        lines += [f"  {s.step}: {count_text(s.missing, 'run')}, {s.cost.cost}" for s in self.steps if s.missing]
        if self.dry_run:
            return [*lines, "nothing was asked for: a dry run"]
        return [*lines, f"`ccatwm resolve` makes its runs a few at a time; `ccatwm backfill --list` shows how far it is, "
                        f"`ccatwm backfill {self.number} --pause --reason TEXT` stops it"]  # fmt: skip


def start_backfill(database: Database, grouping: GroupingEngine, asked: Asked, act: Act) -> BackfillReport:
    """Ask for what is missing of a pipeline's data that were observed in a period.

    Errors: UsageError for wrong times, an unknown pipeline, one that is under way already, without a reason, and above
    `confirm_runs`.
    """
    since, until = _read_asked(asked, act.now)
    if not act.dry_run:
        require_reason(act.reason, "it is kept with the backfill and with every run that it makes")
    untold = grouping.check(_period_rules(since, until), [])
    if untold:  # tables of others may say less than ours
        what = f"the ops-db does not tell when anything was observed: {untold[0].what}"
        raise UsageError(what, next="name it in opsdb-map.yaml, if it is there; `ccatwm trigger --force` needs no period")
    with database.write() if not act.dry_run else database.read() as connection:
        pipeline = views.get_pipeline(connection, asked.pipeline)
        _refuse_idle(connection, pipeline, since, until)
        steps = _estimate_steps(connection, grouping, pipeline["id"], since, until, act.now, asked.most_runs)
        lowest = store.lowest_priority(connection, pipeline["processing_location"])
        priority = lowest - 1 if asked.priority is None else asked.priority
        report = BackfillReport(None, asked, since, until, priority, steps, _sum(steps), act.dry_run)
        if act.dry_run:
            return report
        if report.total.sub_groups > act.confirm_runs and not act.yes:
            more = f"{report.follows}, more than CONFIRM_RUNS ({act.confirm_runs})"
            raise UsageError(more, next="look at it with --dry-run, then say --yes, or --limit-runs N")
        report.number = store.insert_backfill(
            connection, pipeline["id"], since=since, until=until, priority=priority, most_runs=asked.most_runs,
            estimate=report.estimate, reason=act.reason, actor=act.actor, now=act.now,
        )  # fmt: skip
        _log(connection, "backfill", report.number, act, report.to_json())
    return report


def _read_asked(asked: Asked, now: datetime) -> tuple[datetime, datetime]:
    """The period. Errors: UsageError with all mistakes at once."""
    problems: list[Problem] = []
    if asked.priority is not None and abs(asked.priority) > LARGEST_PRIORITY:
        allowed = f"as of a pipeline: -{LARGEST_PRIORITY} to {LARGEST_PRIORITY}"
        problems.append(Problem("--priority", f"{asked.priority} is out of range", allowed))
    found = []
    for option, text in (("--since", asked.since), ("--until", asked.until)):
        time = parse_moment(text, now) if text is not None else None
        if time is None:
            what = "is missing: a backfill is of a period" if text is None else f"{text!r} is not a time"
            problems.append(Problem(option, what, TIMES_ALLOWED))
        elif time.year < FIRST_YEAR:
            problems.append(Problem(option, f"{text!r} is before the year {FIRST_YEAR}", "no data were observed then"))
        else:
            found.append(time)
    if len(found) == 2 and found[0] >= found[1]:
        problems.append(Problem("--until", "is not later than --since", "the first moment that no longer belongs to it"))
    if problems:
        raise UsageError("the backfill cannot be asked for like this", problems=problems)
    return found[0], found[1]


def _refuse_idle(connection: sa.Connection, pipeline: Mapping[str, Any], since: datetime, until: datetime) -> None:
    list_disabled(connection, pipeline["name"], [name for _, name in list_steps(connection, pipeline["id"])])
    same = store.find_same(connection, pipeline["id"], since, until)
    if same is not None:
        raise UsageError(
            f"backfill {same} is of this period and is not over", next="`ccatwm backfill --list` shows how far it is"
        )


# --- what follows -----------------------------------------------------------------------------------------------


def _estimate_steps(
    connection: sa.Connection,
    grouping: GroupingEngine,
    pipeline_id: int,
    since: datetime,
    until: datetime,
    now: datetime,
    most_runs: int | None,
) -> list[StepEstimate]:
    """By step, in the order of the pipeline; the first ones take what `most_runs` allows."""
    names = dict(list_steps(connection, pipeline_id))
    past = past_core_hours(connection, list(names))
    found: dict[int, StepEstimate] = {}
    for scope in list_concerned(connection, list(names), ()):
        packages = _packages_of(connection, grouping, scope, since, until, now)
        for step in (step for step in scope.steps if step.id in names):
            missing = packages.keys() - keys_at_rest(connection, step.id, [outcome.value for outcome in SETTLED])
            size = sum(packages[key] for key in missing) if step.raw_inputs else 0
            estimate = StepEstimate(names[step.id], len(missing), size)
            estimate.cost.add(len(missing), core_hours_of(step.resources, past.get(step.id)))
            found[step.id] = estimate
    steps = [found[step_id] for step_id in names if step_id in found]
    return steps if most_runs is None else _cut(steps, most_runs)


def _cut(steps: Sequence[StepEstimate], most_runs: int) -> list[StepEstimate]:
    cut = []
    for step in steps:
        runs = min(step.missing, most_runs)
        most_runs -= runs
        share = runs / step.missing if step.missing else 0.0
        cost = Estimate(runs, 0, step.cost.core_hours * share, runs if step.cost.measured else 0)
        cut.append(StepEstimate(step.step, runs, round(step.bytes * share), cost))
    return cut


def _sum(steps: Sequence[StepEstimate]) -> Estimate:
    total = Estimate()
    for step in steps:
        total.sub_groups += step.missing
        total.bytes += step.bytes
        total.core_hours += step.cost.core_hours
        total.measured += step.cost.measured
    return total


def _period_rules(since: datetime, until: datetime) -> list[dict[str, str]]:
    observed = {"table": "ExecutedObsUnit", "column": "start_time"}
    return [
        {**observed, "operator": "gte", "value": since.isoformat()},
        {**observed, "operator": "lt", "value": until.isoformat()},
    ]


def _packages_of(
    connection: sa.Connection, grouping: GroupingEngine, scope: Concerned, since: datetime, until: datetime, now: datetime
) -> dict[str, int]:
    """Bytes of the archived packages observed in the period, by sub-group: the rules are asked."""
    period = _period_rules(since, until)
    found: dict[str, int] = {}
    for page in grouping.pages(connection, [*scope.filter_rules, *period], scope.group_by, now=now):
        for package in page:
            if package.state == PackageState.ARCHIVED:
                found[package.key] = found.get(package.key, 0) + (package.size_bytes or 0)
    return found


# --- what is said of one later ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangedReport:
    """What became of a backfill. `taken_back`: runs that were not handed over and are cancelled with it."""

    number: int
    pipeline: str
    act: str
    changed: bool
    state: str
    taken_back: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.backfill-changed/1",
            "backfill": self.number,
            "pipeline": self.pipeline,
            "act": self.act,
            "changed": self.changed,
            "state": self.state,
            "taken_back": self.taken_back,
        }

    def lines(self) -> list[str]:
        """For people."""
        words = {
            "pause": "paused: nothing more of it is made or submitted; jobs go on. "
            f"`ccatwm backfill {self.number} --resume` ends it",
            "resume": "goes on with the next `ccatwm resolve`",
            "cancel": f"cancelled: {count_text(self.taken_back, 'run')} taken back, jobs go on",
        }
        return [f"backfill {self.number} of {self.pipeline}: {words[self.act] if self.changed else f'it is {self.state}'}"]


def pause_backfill(database: Database, number: int, act: Act) -> ChangedReport:
    """Nothing more of it is made or submitted until it is resumed; jobs go on."""
    require_reason(act.reason, "it is shown wherever the backfill shows")
    return _change(database, number, act, "pause", BackfillState.OPEN, BackfillState.PAUSED)


def resume_backfill(database: Database, number: int, act: Act) -> ChangedReport:
    """A paused backfill goes on where it was."""
    return _change(database, number, act, "resume", BackfillState.PAUSED, BackfillState.OPEN)


def cancel_backfill(database: Database, number: int, act: Act) -> ChangedReport:
    """Nothing more of it is made, and its runs that were not handed over are taken back; jobs go on."""
    require_reason(act.reason, "it is shown wherever the backfill shows")
    return _change(database, number, act, "cancel", None, BackfillState.CANCELLED, _take_back)


def _take_back(connection: sa.Connection, backfill: Backfill, act: Act) -> int:
    return store.take_back_runs(connection, backfill.id, act.actor, act.reason, act.now)


def _change(
    database: Database,
    number: int,
    act: Act,
    word: str,
    before: BackfillState | None,
    after: BackfillState,
    also: Callable[[sa.Connection, Backfill, Act], int] | None = None,
) -> ChangedReport:
    """`before` None: from any state in which it has not ended. Errors: UsageError for one that is not there or over."""
    with database.write() as connection:
        backfill = store.lock_backfill(connection, number)
        if backfill is None:
            raise UsageError(f"there is no backfill {number}", next="`ccatwm backfill --list` shows them")
        if backfill.state == after:
            return ChangedReport(number, backfill.pipeline, word, False, backfill.state)
        if backfill.state in (BackfillState.DONE, BackfillState.CANCELLED):
            what = f"backfill {number} is {backfill.state}: there is nothing to {word}"
            raise UsageError(what, next="its runs: `ccatwm runs`, `ccatwm cancel`")
        if before is not None and backfill.state != before:
            return ChangedReport(number, backfill.pipeline, word, False, backfill.state)
        reason = act.reason if after is not BackfillState.OPEN else None
        store.set_state(connection, number, after, reason=reason, now=act.now)
        taken_back = also(connection, backfill, act) if also is not None else 0
        report = ChangedReport(number, backfill.pipeline, word, True, after.value, taken_back)
        _log(connection, f"backfill-{word}", number, act, report.to_json())
    return report


def _log(connection: sa.Connection, what: str, number: int, act: Act, details: Mapping[str, Any]) -> None:
    record_change(
        connection, at=act.now, actor=act.actor, host=act.host, act=what, target=f"backfill {number}", reason=act.reason,
        details=dict(details),
    )  # fmt: skip
