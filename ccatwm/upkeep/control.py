"""What people say about runs: retry, cancel, hold, release. Touches: the ops-db only; passes carry it out."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.selection import Selection
from ccatwm.core.states import FINAL, WITHOUT_JOB, RunEvent, RunStatus
from ccatwm.core.wording import count_text, span_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import control, runs, sub_groups, views
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.interfaces import Clock
from ccatwm.upkeep._estimate import Estimate, again_text, estimate_again
from ccatwm.upkeep._readable import Readable, unreadable_notes
from ccatwm.upkeep._reason import require_reason

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
QUIET_SECONDS = 120.0  # so long without any pass, and somebody who waits is told
REPEAT_SECONDS = 1800.0  # and told again
RETRYABLE = (RunStatus.FAILED.value, RunStatus.CANCELLED.value)

Row = dict[str, Any]


@dataclass(frozen=True)
class Acted:
    """What became of one run: `outcome` is done, refused or unchanged."""

    run: int
    place: str
    outcome: str
    reason: str = ""
    held: bool = False  # it or its sub-group: no pass goes on with it

    def to_json(self) -> dict[str, Any]:
        pipeline, step, sub_group = self.place.split("/", 2)
        return {
            "run": self.run,
            "pipeline": pipeline,
            "step": step,
            "sub_group": sub_group,
            "outcome": self.outcome,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class ActReport:
    """What an act did; with `dry_run` what it would do."""

    act: str
    runs: tuple[Acted, ...]
    dry_run: bool = False
    follows: Estimate | None = None  # what trying them again costs
    brakes: tuple[str, ...] = ()  # what keeps them from starting, each with the command that ends it

    @property
    def exit_code(self) -> int:
        return 1 if any(item.outcome == "refused" for item in self.runs) else 0

    @property
    def done(self) -> list[int]:
        return [item.run for item in self.runs if item.outcome == "done"]

    @property
    def watched(self) -> list[int]:
        """Runs to which this is to happen: asked for now, or before and perhaps not carried out yet."""
        return [item.run for item in self.runs if item.outcome in ("done", "unchanged")]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": f"ccatwm.{self.act}/1",
            "dry_run": self.dry_run,
            "runs": [r.to_json() for r in self.runs],
            "follows": self.follows.to_json() if self.follows else None,
            "brakes": list(self.brakes),
        }

    def lines(self) -> list[str]:
        """One line per run, then what follows."""
        words = {"retry": "to be tried again", "cancel": "to be cancelled"}
        done = f"would be {words[self.act][6:]}" if self.dry_run else words[self.act]
        lines = [
            f"run {r.run} {r.place}: {done if r.outcome == 'done' else r.outcome}"
            + (f": {r.reason}" if r.reason else "")
            for r in self.runs
        ]
        if self.follows is not None and self.done:
            lines.append(again_text(self.follows))
        following = {"retry": "`ccatwm stage` goes on with them", "cancel": "`ccatwm poll` carries it out"}
        if self.done and not self.dry_run:
            goes_on = any(item.outcome == "done" and not item.held for item in self.runs)
            lines += self.brakes or ([following[self.act]] if goes_on else [])
        return lines or ["no run is meant; `ccatwm runs` with the same options lists those that they select"]


@dataclass(frozen=True)
class Wanted:
    """Which runs are meant (ids, or a selection), who says so and why."""

    run_ids: tuple[int, ...] = ()
    selection: Selection = field(default_factory=Selection)
    reason: str = ""
    actor: str = ""
    host: str = ""
    dry_run: bool = False
    yes: bool = False
    confirm_runs: int = 500


# --- retry --------------------------------------------------------------------------------------------------


def retry(database: Database, wanted: Wanted, *, now: datetime, readable: Readable | None = None) -> ActReport:
    """Try FAILED (CANCELLED only where named or selected by status) runs again, as they were frozen.

    Only what they ask of the batch system is what their step asks for now: somebody may have mended that. With `readable`
    it is said of which no copy can be read, so that they fail again.

    Errors: UsageError for no selection at all, unknown runs, or more than `confirm_runs` without `yes`.
    """
    _check_wanted(wanted, "retry")
    with _transaction(database, wanted) as connection:
        return _retry(connection, wanted, now, readable)


def _transaction(database: Database, wanted: Wanted) -> AbstractContextManager[sa.Connection]:
    """Whoever may only look may look at what an act would do."""
    return database.read() if wanted.dry_run else database.write()


def _retry(
    connection: sa.Connection, wanted: Wanted, now: datetime, readable: Readable | None = None
) -> ActReport:
    """As `retry`, inside a transaction of the caller."""
    statuses = wanted.selection.statuses or (RunStatus.FAILED.value,)
    rows = _rows_meant(connection, wanted, "retry", statuses)
    # Reads only: before the rows change, and before anything is refused for its number.
    cost = estimate_again(connection, rows)
    _confirm(wanted, "retry", rows, again_text(cost))
    notes = unreadable_notes(connection, readable, rows) if readable is not None else {}
    acted = _act_on(connection, wanted, "retry", rows, now, _retry_run)
    acted = tuple(_with_note(item, notes.get(item.run)) for item in acted)
    done = [row for row, item in zip(rows, acted, strict=True) if item.outcome == "done"]
    follows = cost if len(done) == len(rows) else estimate_again(connection, done)
    brakes = list_brakes(connection, {(row["pipeline"], row["step"]) for row in done})
    return ActReport("retry", acted, wanted.dry_run, follows, brakes)


def _with_note(item: Acted, note: str | None) -> Acted:
    if item.outcome != "done" or not note:
        return item
    return replace(item, reason="; ".join(filter(None, [note, item.reason])))


def list_brakes(connection: sa.Connection, places: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """What keeps all runs of these steps (pipeline, step) from starting, each with the command that ends it."""
    found: dict[str, None] = {}
    for step in views.list_steps(connection) if places else ():
        pipeline, place = step["pipeline"], f"{step['pipeline']}/{step['step']}"
        if (pipeline, step["step"]) in places:
            said = ((pipeline, "held", step["pipeline_held"]), (place, "held", step["held"]),
                    (place, "tripped", step["tripped"]))  # fmt: skip
            found |= {_brake_text(*brake): None for brake in said if brake[2]}
    return tuple(found)


def _brake_text(place: str, brake: str, why: str) -> str:
    return f"{place} is {brake} ({why}): nothing of it starts before `ccatwm release {shlex.quote(place)} --reason TEXT`"


def _retry_run(connection: sa.Connection, row: Row, wanted: Wanted, now: datetime) -> Acted:
    refusal = _why_no_retry(connection, row)
    if refusal:
        return _acted(row, "refused", refusal)
    if not wanted.dry_run:
        # To want it again is a newer decision than the one that found another run good enough meanwhile.
        counts = row["wanted_recipe"] in (None, row["recipe"])
        decided: dict[str, Any] = {"decision": sub_groups.next_decision(connection, row["sub_group_id"])} if counts else {}
        changed = runs.record_event(
            connection,
            row["run"],
            RunEvent.RETRY_REQUESTED,
            expected=row["status"],
            now=now,
            actor=wanted.actor,
            message=f"retry asked for by {wanted.actor}: {wanted.reason}",
            blocking=False,
            retries_used=0,
            free_retries_used=0,
            due_at=None,
            ended_at=None,
            cancel_requested_at=None,
            cancel_reason=None,
            inputs_removed_at=None,
            next_resources=control.find_resources_now(connection, row["run"]),
            **decided,
        )
        if not changed:
            return _acted(row, "refused", "it changed at this moment; look again")
        sub_groups.mark_due(connection, [row["sub_group_id"]], now)
    held = _hold_note(connection, row["run"])
    return replace(_acted(row, "done", "; ".join(filter(None, [_retry_note(row), held]))), held=bool(held))


def _why_no_retry(connection: sa.Connection, row: Row) -> str:
    if row["status"] not in RETRYABLE:
        return f"it is {row['status']}; only a FAILED or CANCELLED run can be tried again{_instead(row)}"
    if row["superseded"]:
        return "it was superseded: what it was made for is no longer wanted"
    other = control.find_other_open_run(connection, row["sub_group_id"], row["run"])
    return f"run {other} of the same sub-group is open" if other is not None else ""


def _instead(row: Row) -> str:
    if row["status"] != RunStatus.COMPLETED.value:
        return ""
    return f" (a new one: `ccatwm trigger --pipeline {row['pipeline']} --step {row['step']} --force --reason TEXT`)"


def _retry_note(row: Row) -> str:
    if row["wanted_recipe"] in (None, row["recipe"]):
        return ""
    return "what it was made for may no longer be wanted: `ccatwm resolve` then supersedes it"


def _hold_note(connection: sa.Connection, run_id: int) -> str:
    """What has to be released of this run alone; a step or pipeline is told once (`list_brakes`)."""
    return "; ".join(
        f"nothing goes on with it until `ccatwm release {shlex.quote(target)} --reason TEXT`: {reason}"
        for target, reason in control.list_own_holds(connection, run_id).items()
    )


# --- cancel -------------------------------------------------------------------------------------------------


def cancel(database: Database, wanted: Wanted, *, now: datetime) -> ActReport:
    """Ask for open runs to be cancelled; their recipe stays so until it changes or somebody says retry.

    Errors: as `retry`.
    """
    _check_wanted(wanted, "cancel")
    with _transaction(database, wanted) as connection:
        rows = _rows_meant(connection, wanted, "cancel", wanted.selection.statuses)
        _confirm(wanted, "cancel", rows, f"{len(rows)} runs")
        return ActReport("cancel", _act_on(connection, wanted, "cancel", rows, now, _cancel_run), wanted.dry_run)


def _cancel_run(connection: sa.Connection, row: Row, wanted: Wanted, now: datetime) -> Acted:
    if not row["is_open"]:
        return _acted(row, "refused", f"it has ended: {row['status']}")
    if row["cancel_requested_at"] is not None:
        return _acted(row, "unchanged", f"that was asked for before: {row['cancel_reason']}")
    if not wanted.dry_run and not control.request_cancel(connection, row["run"], wanted.reason, now):
        return _acted(row, "refused", "it ended at this moment")
    return _acted(row, "done")


# --- both ---------------------------------------------------------------------------------------------------


def _acted(row: Row, outcome: str, reason: str = "") -> Acted:
    return Acted(row["run"], f"{row['pipeline']}/{row['step']}/{row['sub_group']}", outcome, reason)


def _act_on(
    connection: sa.Connection,
    wanted: Wanted,
    act: str,
    rows: Sequence[Row],
    now: datetime,
    one: Callable[[sa.Connection, Row, Wanted, datetime], Acted],
) -> tuple[Acted, ...]:
    """Do `one` for every run that is meant, newest first; with the change log, in the caller's transaction."""
    acted = tuple(one(connection, row, wanted, now) for row in rows)
    if not wanted.dry_run:
        _log(connection, act, acted, wanted, now)
    return acted


def _confirm(wanted: Wanted, act: str, rows: Sequence[Row], concerned: str) -> None:
    """Errors: UsageError where it is more than `confirm_runs` and nobody said `yes`."""
    if len(rows) > wanted.confirm_runs and not (wanted.yes or wanted.dry_run):
        raise UsageError(
            f"{act} would concern {concerned}, more than CONFIRM_RUNS ({wanted.confirm_runs})",
            next=f"look with `ccatwm {act} --dry-run` and the same selection, then say --yes, or select fewer",
        )


def _check_wanted(wanted: Wanted, act: str) -> None:
    if wanted.run_ids and not wanted.selection.empty:
        raise UsageError(
            "name runs, or select them by options; not both",
            next=f"`ccatwm runs` with the same options lists what they select, `ccatwm {act} RUN...` takes single ones",
        )
    if not wanted.run_ids and wanted.selection.empty:
        raise UsageError(
            f"which runs? {act} without any selection would mean all of them",
            next=f"`ccatwm {act} RUN...`, or options such as --pipeline, --step, --class, --since",
        )
    if not wanted.dry_run:
        require_reason(wanted.reason, "it is kept in the change log, for whoever asks later")


def _rows_meant(connection: sa.Connection, wanted: Wanted, act: str, statuses: Sequence[str]) -> list[Row]:
    """Named runs as they are named; selected ones only where the act can mean them."""
    if wanted.run_ids:
        for run_id in wanted.run_ids:
            views.get_run(connection, run_id)
        return control.list_meant(connection, run_ids=wanted.run_ids, locked=not wanted.dry_run)
    views.check_selection(connection, wanted.selection)
    return control.list_meant(
        connection,
        locked=not wanted.dry_run,
        selection=wanted.selection,
        statuses=statuses,
        open_only=act == "cancel",
        wanted_only=act == "retry",
    )


def _log(
    connection: sa.Connection, act: str, acted: Collection[Acted], wanted: Wanted, now: datetime
) -> None:
    for item in acted:
        if item.outcome == "done":
            record_change(
                connection,
                at=now,
                actor=wanted.actor,
                host=wanted.host,
                act=act,
                target=f"run {item.run}",
                reason=wanted.reason,
                details=item.to_json(),
            )


# --- hold and release ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HoldReport:
    """What is held or released; `before` the reason why it was held, None if it was not."""

    act: str
    target: str
    before: str | None
    changed: bool
    retried: ActReport | None = None
    tripped: str | None = None  # the failure class that had tripped it, and did not hold it
    failed: int = 0  # its runs that failed for good and are not tried again
    brakes: tuple[str, ...] = ()  # what still keeps all or some of it from starting

    def to_json(self) -> dict[str, Any]:
        retried = [item.to_json() for item in self.retried.runs] if self.retried else []
        return {
            "schema": f"ccatwm.{self.act}/1",
            "target": self.target,
            "before": self.before,
            "changed": self.changed,
            "runs": retried,
            "follows": self.retried.follows.to_json() if self.retried and self.retried.follows else None,
            "brakes": list(self.brakes),
        }

    def lines(self) -> list[str]:
        word = {"hold": "held", "release": "released"}[self.act]
        first = f"{self.target}: {word}" if self.changed else f"{self.target}: nothing to {self.act}"
        was = "tripped" if self.tripped else "held"
        before = f" (it was {was}: {self.before})" if self.before else ""
        retried = self.retried if self.retried is not None and self.retried.runs else None
        followed = replace(retried, brakes=self.brakes).lines() if retried is not None else self._left_lines()
        lines = [first + before, *followed]
        if self.act == "hold":
            return [*lines, f"`ccatwm release {shlex.quote(self.target.removeprefix('run '))}` ends it"]
        lines += [brake for brake in self.brakes if brake not in lines]
        goes_on = self.changed and not self.brakes
        return [*lines, "the next passes go on with it; `ccatwm cycle` runs them by hand"] if goes_on else lines

    def _left_lines(self) -> list[str]:
        if not self.failed:
            return []
        stay = "stays" if self.failed == 1 else "stay"
        return [f"{count_text(self.failed, 'run')} of it that failed {stay} so; `ccatwm release "
                f"{shlex.quote(self.target.removeprefix('run '))} --retry --reason TEXT` tries them again"]  # fmt: skip


def hold(database: Database, target: str, *, reason: str, actor: str, host: str, now: datetime) -> HoldReport:
    """Hold `PIPELINE[/STEP[/KEY]]` or a run: nothing new of it starts, jobs go on."""
    require_reason(reason, "it is shown wherever the hold shows")
    with database.write() as connection:
        held = control.get_holdable(connection, target)
        changed = control.set_held(connection, held, reason)
        if changed:
            record_change(
                connection,
                at=now,
                actor=actor,
                host=host,
                act="hold",
                target=held.name,
                reason=reason,
                details={"before": held.held},
            )
    return HoldReport("hold", held.name, held.held, changed)


def release(
    database: Database,
    target: str,
    *,
    reason: str,
    actor: str,
    host: str,
    now: datetime,
    retry_failed: bool = False,
    yes: bool = False,
    confirm_runs: int = 500,
) -> HoldReport:
    """Let go on what is held or tripped; with `retry_failed` its failed runs are tried again, too.

    Errors: UsageError for what is not there; for more than `confirm_runs` failed runs without `yes`: then nothing is done.
    """
    with database.write() as connection:
        held = control.get_holdable(connection, target)
        changed = control.set_held(connection, held, None)
        if changed:
            sub_groups.mark_due(connection, control.list_braked_sub_groups(connection, held), now)
            record_change(
                connection,
                at=now,
                actor=actor,
                host=host,
                act="release",
                target=held.name,
                reason=reason,
                details={"before": held.held, "tripped": held.tripped},
            )
        run_ids = (held.id,) if held.kind == "run" else ()
        wanted = Wanted(run_ids, held.selection, reason or "released", actor, host, yes=yes, confirm_runs=confirm_runs)
        retried = _retry(connection, wanted, now) if retry_failed else None
        failed = 0 if retry_failed or not held.tripped else len(_rows_meant(connection, wanted, "retry", ("FAILED",)))
        brakes = list_brakes(connection, _places(connection, held))
    tripped = None if held.held else held.tripped
    return HoldReport("release", held.name, held.held or held.tripped, changed, retried, tripped, failed, brakes)


def _places(connection: sa.Connection, held: control.Holdable) -> set[tuple[str, str]]:
    """Pipeline and step of all that a target means."""
    if held.kind == "run":
        row = views.list_runs_by_id(connection, [held.id])[held.id]
        return {(row["pipeline"], row["step"])}
    steps = [held.selection.step] if held.selection.step is not None else [
        step["step"] for step in views.list_steps(connection, held.selection.pipeline)
    ]  # fmt: skip
    return {(str(held.selection.pipeline), step) for step in steps}


# --- waiting ------------------------------------------------------------------------------------------------


def wait_until_ended(
    database: Database, run_ids: Collection[int], clock: Clock, *, timeout_seconds: float | None = None
) -> dict[int, str]:
    """Watch until every run is final and nothing more happens to it by itself; its status by run id.

    Warns when no pass has begun for two minutes. Errors: CcatwmError when the time is over first, or when nothing is
    left to wait for but runs that somebody has to release.
    """
    begun = clock.monotonic()
    last_pass, warned = clock.now(), -REPEAT_SECONDS
    while True:
        with database.read() as connection:
            rows = views.list_runs_by_id(connection, run_ids)
            last_pass = max([last_pass, *(record["started_at"] for record in views.list_pass_records(connection))])
        waiting = [row for row in rows.values() if row["is_open"] or row["status"] not in FINAL]
        if not waiting:
            return {run_id: str(row["status"]) for run_id, row in rows.items()}
        if all(map(_is_braked, waiting)):
            raise _braked_error(database, waiting)
        if timeout_seconds is not None and clock.monotonic() - begun >= timeout_seconds:
            states = ", ".join(f"run {row['run']} is {row['status']}" for row in waiting[:5])
            raise CcatwmError(
                f"not carried out after {timeout_seconds:.0f} s: {states}",
                next="passes carry it out; see `ccatwm status`",
            )
        quiet = (clock.now() - last_pass).total_seconds()
        if quiet >= QUIET_SECONDS and clock.monotonic() - warned >= REPEAT_SECONDS:
            warned = clock.monotonic()
            log.warning("still waiting, but no pass has begun for %s: is cron at work? `ccatwm cycle` runs all passes "
                        "by hand", span_text(quiet))  # fmt: skip
        clock.sleep(POLL_SECONDS)


def _is_braked(row: Row) -> bool:
    """Whether no pass does anything for the run before somebody releases what holds it; a cancellation needs no release."""
    if row["status"] not in WITHOUT_JOB or row["cancel_requested_at"] is not None:
        return False
    return bool(row["held"] or row["held_above"] or row["tripped"])


def _braked_error(database: Database, rows: Sequence[Row]) -> CcatwmError:
    """What keeps these runs, and the commands that end it."""
    with database.read() as connection:
        holds = [control.list_holds(connection, row["run"]) for row in rows]
    held = {target: f"held ({why})" for found in holds for target, why in found.items()}
    tripped = {f"{row['pipeline']}/{row['step']}": f"tripped ({row['tripped']})" for row in rows if row["tripped"]}
    brakes = held | tripped
    said = ", ".join(f"{'run ' if target.isdigit() else ''}{target} is {why}" for target, why in brakes.items())
    releases = " and ".join(f"`ccatwm release {shlex.quote(target)} --reason TEXT`" for target in brakes)
    numbers = ", ".join(str(row["run"]) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    noun = "run" if len(rows) == 1 else "runs"
    return CcatwmError(f"nothing happens to {noun} {numbers}: {said}", next=f"{releases}, then wait again")
