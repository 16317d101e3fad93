"""Decides which steps are due, and why. Touches: the ops-db.

Changes of any observation table become changed packages, through the join graph; they, the cursors and the events of
the steps that are due are committed in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from ccatwm.core.model import TriggerType
from ccatwm.core.rules import parse_since
from ccatwm.core.triggers import CronCursor, cron_verdict
from ccatwm.edges.opsdb.exclusions import end_expired
from ccatwm.edges.opsdb.stores import triggers
from ccatwm.edges.opsdb.stores.exclusions import list_expired
from ccatwm.edges.opsdb.stores.sub_groups import list_scopes
from ccatwm.edges.opsdb.stores.triggers import TriggeredStep
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

ROWS_PER_CHUNK = 5000  # changed rows of one observation table taken by one transaction
NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # where the cursor of an empty table stands

DueStep = tuple[TriggeredStep, str, str]  # with the kind of its event, and the reason
ChangedRows = dict[str, list[tuple[str, datetime]]]  # by observation table: row ids with their change times


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "trigger", options, _body)


def _body(frame: PassFrame) -> None:
    context = frame.context
    _end_expired_exclusions(frame)
    if not frame.only_looks:
        _start_cursors(frame)
        _compare_silent_tables(frame)
    with context.database.read() as connection:
        changes = _read_changes(context, connection)
        changed = frame.only_looks and _affects_packages(context, connection, changes)
        due = _due_steps(context, connection, frame.now, packages_changed=changed, full=frame.options.full)
    if not frame.only_looks:
        due = _write_all(frame, changes, due)
    due = due[: frame.options.limit]
    frame.report.selected = len(due)
    for step, _, reason in due:
        item = PassItem("due", reason, pipeline=step.pipeline, step=step.name)
        frame.report.add("done", item)


def _write_all(frame: PassFrame, changes: ChangedRows, due: list[DueStep]) -> list[DueStep]:
    """Chunk after chunk of changes until nothing new is there or the time is up; the steps that fell due."""
    if not (changes or due or frame.options.full or _cron_cursors_move(frame)):
        return []
    opened, more = _write(frame, full=frame.options.full)
    while more and not frame.time_is_up():
        frame.checkpoint()
        further, more = _write(frame)
        opened += further
    return opened


def _end_expired_exclusions(frame: PassFrame) -> None:
    """What was excluded `--until` now is decided on again."""
    with frame.context.database.read() as connection:
        if frame.only_looks or not list_expired(connection, frame.now):
            return
    with frame.context.database.write() as connection:
        ended = end_expired(connection, frame.context.grouping, frame.now)
    for target in ended:
        frame.report.add("done", PassItem("included", f"the exclusion of {target} is over"))


def _start_cursors(frame: PassFrame) -> None:
    """A table that is read for the first time is not read row by row: everything is grouped in full once.

    From then on its changes count; those inside the overlap that are there already count as seen.
    """
    context = frame.context
    tables = context.grouping.observed_tables()
    with context.database.read() as connection:
        if triggers.read_cursors(connection).keys() >= set(tables):
            return
    with context.database.write() as connection:
        cursors = triggers.read_cursors(connection)
        for table in (table for table in tables if table not in cursors):
            newest = context.grouping.newest_change(connection, table)
            if newest is not None:
                newest = min(newest, frame.now)
                start = triggers.overlap_start(newest, context.settings.change_overlap_seconds)
                context.grouping.remember_rows(connection, table, start)
            triggers.move_cursor(connection, table, newest or NEVER)
        triggers.forget_groupings(connection)


def _compare_silent_tables(frame: PassFrame) -> None:
    """A table that does not say when its rows change is compared in full now and then: where it is another than before,
    all that is grouped by it is. Nothing is begun again that is still being compared.
    """
    context = frame.context
    if not context.grouping.has_silent_tables:
        return
    usual = parse_since(context.settings.full_every)
    assert usual is not None
    with context.database.read() as connection:
        readers = _readers_of_silent_tables(context, connection)
        known = triggers.read_digests(connection)
        due = [
            table for table in sorted(readers)
            if table not in known
            or (frame.now - known[table][0]).total_seconds()
            >= context.grouping.full_every_seconds(table, usual.total_seconds())
        ]  # fmt: skip
        busy = triggers.scopes_to_regroup(connection)
        due = [table for table in due if table not in known or not readers[table] & busy]
        digests = {table: context.grouping.table_digest(connection, table) for table in due}
    for table, digest in digests.items():
        frame.checkpoint()
        with context.database.write() as connection:
            if table not in known or known[table][1] != digest:
                triggers.forget_groupings(connection, readers[table])
            triggers.record_digest(connection, table, digest, frame.now)


def _readers_of_silent_tables(context: Context, connection: sa.Connection) -> dict[str, set[int]]:
    """Ids of the grouping scopes that read such a table, by table."""
    readers: dict[str, set[int]] = {}
    for scope in list_scopes(connection):
        for table in context.grouping.silent_tables(scope.rules, scope.group_by):
            readers.setdefault(table, set()).add(scope.id)
    return readers


def _read_changes(context: Context, connection: sa.Connection) -> ChangedRows:
    """Rows changed since the cursor of each table, less those seen before inside the overlap."""
    changes: ChangedRows = {}
    cursors = triggers.read_cursors(connection)
    overlap = context.settings.change_overlap_seconds
    for table in context.grouping.observed_tables():
        since = triggers.overlap_start(cursors.get(table) or NEVER, overlap)
        rows = context.grouping.changed_rows(connection, table, since, ROWS_PER_CHUNK)
        if rows:
            changes[table] = rows
    return changes


def _affects_packages(context: Context, connection: sa.Connection, changes: ChangedRows) -> bool:
    """Whether any package belongs to what changed."""
    return any(
        connection.execute(query.limit(1)).first() is not None
        for table, rows in changes.items()
        for query in context.grouping.select_packages(table, [row_id for row_id, _ in rows])
    )


def _due_steps(
    context: Context, connection: sa.Connection, now: datetime, *, packages_changed: bool, full: bool
) -> list[DueStep]:
    """Steps that are due and have no open event yet."""
    steps = triggers.list_triggered_steps(connection, location(context))
    regroup = triggers.scopes_to_regroup(connection)
    due = triggers.steps_due(connection, now)
    asked = triggers.steps_asked_for(connection, now)
    cursors = triggers.read_cron_cursors(connection)
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
    cursors: Mapping[int, CronCursor],
    is_due: bool,
    regroup: bool,
    packages_changed: bool,
    full: bool,
) -> tuple[str, str] | None:
    if _cron_verdict(step, cursors, now)[0]:
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


def _cron_verdict(
    step: TriggeredStep, cursors: Mapping[int, CronCursor], now: datetime
) -> tuple[bool, CronCursor | None]:
    """Whether a step ticks, and where its cursor then stands; nothing of a step that has no cron."""
    if step.trigger.type is not TriggerType.CRON:
        return False, None
    return cron_verdict(step.trigger, cursors.get(step.id), step.changed_at, now)


def _cron_cursors_move(frame: PassFrame) -> bool:
    """Whether a cursor is to be written, or to go, though nothing is due: of a new step, or a changed trigger."""
    with frame.context.database.read() as connection:
        cursors = triggers.read_cron_cursors(connection)
        steps = triggers.list_triggered_steps(connection, location(frame.context))
    verdicts = [_cron_verdict(step, cursors, frame.now) for step in steps]
    return bool(_idle_cursors(steps, cursors)) or any(cursor is not None and not ticks for ticks, cursor in verdicts)


def _idle_cursors(steps: Sequence[TriggeredStep], cursors: Mapping[int, CronCursor]) -> set[int]:
    """Steps that were by cron."""
    return {step.id for step in steps if step.trigger.type is not TriggerType.CRON} & cursors.keys()


def _write(frame: PassFrame, *, full: bool = False) -> tuple[list[DueStep], bool]:
    """Changed packages, cursors and events in one transaction, in which everything is asked again.

    Returns the steps that fell due, and whether there may be more changes.
    """
    context = frame.context
    with context.database.write() as connection:
        changes = _read_changes(context, connection)
        noted = sum(_note(frame, connection, table, rows) for table, rows in changes.items())
        if full:
            triggers.forget_groupings(connection)
        due = _due_steps(context, connection, frame.now, packages_changed=bool(noted), full=full)
        due = due[: frame.options.limit]
        for step, kind, reason in due:
            scope = {"force": step.trigger.forces and kind == "cron"}
            triggers.open_event(connection, step.id, kind, reason, now=frame.now, scope=scope)
        ticked = {step.id for step, kind, _ in due if kind == "cron"}
        _move_cron_cursors(context, connection, frame.now, ticked)
    return due, any(len(rows) == ROWS_PER_CHUNK for rows in changes.values())


def _note(
    frame: PassFrame, connection: sa.Connection, table: str, rows: Sequence[tuple[str, datetime]]
) -> int:
    """The packages of changed rows are to be grouped again, and the cursor of their table moves; how many packages.

    A row that changed in the future moves the cursor no further than now: it would hide all others.
    """
    newest = min(max(at for _, at in rows), frame.now)
    position = max(newest, triggers.read_cursors(connection).get(table) or NEVER)
    start = triggers.overlap_start(position, frame.context.settings.change_overlap_seconds)
    triggers.remember_rows(connection, table, rows, forget_before=start)
    triggers.move_cursor(connection, table, position)
    packages = frame.context.grouping.select_packages(table, [row_id for row_id, _ in rows])
    return triggers.record_changed_packages(connection, packages, table, frame.now)


def _move_cron_cursors(context: Context, connection: sa.Connection, now: datetime, ticked: set[int]) -> None:
    """A tick that waits for an earlier event of its step keeps its cursor where it is."""
    cursors = triggers.read_cron_cursors(connection)
    steps = triggers.list_triggered_steps(connection, location(context))
    idle = _idle_cursors(steps, cursors)
    if idle:
        triggers.forget_cron_cursors(connection, idle)
    for step in steps:
        ticks, cursor = _cron_verdict(step, cursors, now)
        if cursor is not None and (step.id in ticked or not ticks):
            triggers.move_cron_cursor(connection, step.id, cursor)
