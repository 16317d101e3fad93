"""Decides which steps are due, and why. Touches: the ops-db.

Changes of any observation table become changed packages, through the join graph; they, the cursors and the events of
the steps that are due are committed in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from ccatwm.core.model import TriggerType
from ccatwm.core.triggers import tick_due
from ccatwm.edges.opsdb.exclusions import end_expired
from ccatwm.edges.opsdb.stores import triggers
from ccatwm.edges.opsdb.stores.exclusions import list_expired
from ccatwm.edges.opsdb.stores.triggers import TriggeredStep
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

MAX_ROWS = 5000  # changed rows of one observation table taken by one pass; the rest waits for the next


@dataclass
class Changes:
    """What changed in the observation tables: rows by table, packages by the table that caused it."""

    rows: dict[str, list[tuple[str, datetime]]] = field(default_factory=dict)
    packages: dict[str, set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows)


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "trigger", options, _body)


def _body(frame: PassFrame) -> None:
    context = frame.context
    _end_expired_exclusions(frame)
    with context.database.read() as connection:
        changes = _read_changes(context, connection)
        due = _due_steps(
            context, connection, frame.now, packages_changed=bool(changes.packages), full=frame.options.full
        )
    due = due[: frame.options.limit]
    frame.report.selected = len(due)
    for step, _, reason in due:
        item = PassItem("due", reason, pipeline=step.pipeline, step=step.name)
        frame.report.add("done", item)
    if (changes or due or _new_cron_steps(context)) and not frame.dry_run:
        _write(context, frame.now, changes, frame.options)


def _end_expired_exclusions(frame: PassFrame) -> None:
    """What was excluded `--until` now is decided on again."""
    with frame.context.database.read() as connection:
        if frame.dry_run or not list_expired(connection, frame.now):
            return
    with frame.context.database.write() as connection:
        ended = end_expired(connection, frame.context.grouping, frame.now)
    for target in ended:
        frame.report.add("done", PassItem("included", f"the exclusion of {target} is over"))


def _read_changes(context: Context, connection: sa.Connection) -> Changes:
    """Rows changed since the cursor of each table, less those seen before inside the overlap."""
    changes = Changes()
    cursors = triggers.read_cursors(connection)
    overlap = context.settings.change_overlap_seconds
    for table in context.grouping.observed_tables():
        since = triggers.overlap_start(cursors.get(table), overlap)
        rows = context.grouping.changed_rows(connection, table, since, _page(connection, table, overlap))
        new = triggers.unseen_rows(connection, table, rows)[:MAX_ROWS]
        if new:
            changes.rows[table] = new
            packages = context.grouping.packages_of(connection, table, [row_id for row_id, _ in new])
            if packages:
                changes.packages[table] = packages
    return changes


def _page(connection: sa.Connection, table: str, overlap_seconds: int) -> int:
    """Enough rows to get past all that were seen inside the overlap."""
    return triggers.count_seen(connection, table) + MAX_ROWS


def _due_steps(
    context: Context, connection: sa.Connection, now: datetime, *, packages_changed: bool, full: bool
) -> list[tuple[TriggeredStep, str, str]]:
    """(step, kind of event, reason) of steps that are due and have no open event yet."""
    steps = triggers.list_triggered_steps(connection, location(context))
    regroup = triggers.scopes_to_regroup(connection)
    due = triggers.steps_due(connection, now)
    asked = triggers.steps_asked_for(connection, now)
    cursors = triggers.read_cursors(connection)
    waiting = {event.step_id for event in triggers.list_open_events(connection)}
    packages_changed = packages_changed or triggers.any_changed_package(connection)
    found = []
    for step in steps:
        is_due = step.id in (due if step.trigger.type is TriggerType.CONTINUOUS else asked)
        why = _why_due(step, now, cursors, is_due, step.scope_id in regroup, packages_changed, full)
        if why is not None and step.id not in waiting:
            found.append((step, *why))
    return found


def _why_due(
    step: TriggeredStep,
    now: datetime,
    cursors: Mapping[str, datetime | None],
    is_due: bool,
    regroup: bool,
    packages_changed: bool,
    full: bool,
) -> tuple[str, str] | None:
    if step.trigger.type is TriggerType.CRON:
        last = cursors.get(_cron_cursor(step))
        if last is not None and tick_due(step.trigger, last, now):
            return "cron", f"cron {step.trigger.config['cron']}"
    if step.trigger.type is not TriggerType.CONTINUOUS:
        return ("asked", "a sub-group that was asked for need no longer wait") if is_due else None
    if full:
        return "full", "everything is compared"
    if regroup:
        return "changed", "its data grouping is new or has changed"
    if is_due:
        return "due", "a sub-group is due"
    return ("changed", "packages changed") if packages_changed else None


def _cron_cursor(step: TriggeredStep) -> str:
    return f"cron:{step.id}"


def _new_cron_steps(context: Context) -> bool:
    """Whether a CRON step has no cursor yet: its ticks count from now on."""
    with context.database.read() as connection:
        cursors = triggers.read_cursors(connection)
        steps = triggers.list_triggered_steps(connection, location(context))
    return any(s.trigger.type is TriggerType.CRON and _cron_cursor(s) not in cursors for s in steps)


def _write(context: Context, now: datetime, changes: Changes, options: PassOptions) -> None:
    """Changed packages, cursors and events in one transaction; what is due is asked again inside it."""
    overlap = context.settings.change_overlap_seconds
    with context.database.write() as connection:
        for table, rows in changes.rows.items():
            new = triggers.unseen_rows(connection, table, rows)
            newest = max(at for _, at in rows)
            position = max(newest, triggers.read_cursors(connection).get(table) or newest)
            start = triggers.overlap_start(position, overlap)
            assert start is not None
            triggers.remember_rows(connection, table, new, forget_before=start)
            triggers.move_cursor(connection, table, position)
            if new:
                triggers.record_changed_packages(
                    connection, sorted(changes.packages.get(table, ())), table, now
                )
        if options.full:
            triggers.forget_groupings(connection)
        due = _due_steps(context, connection, now, packages_changed=bool(changes.packages), full=options.full)
        due = due[: options.limit]
        for step, kind, reason in due:
            scope = {"force": step.trigger.forces and kind == "cron"}
            triggers.open_event(connection, step.id, kind, reason, now=now, scope=scope)
        _move_cron_cursors(context, connection, now, {step.id for step, kind, _ in due if kind == "cron"})


def _move_cron_cursors(context: Context, connection: sa.Connection, now: datetime, ticked: set[int]) -> None:
    cursors = triggers.read_cursors(connection)
    for step in triggers.list_triggered_steps(connection, location(context)):
        if step.trigger.type is TriggerType.CRON and (step.id in ticked or _cron_cursor(step) not in cursors):
            triggers.move_cursor(connection, _cron_cursor(step), now)
