"""Decides which runs are missing, and makes them. Touches: the ops-db; looks whether products that count again are there.

First the changed packages are grouped again: sub-groups whose members changed fall due. Then every open event's step
has its due sub-groups decided on, upstream steps first, in chunks of one transaction each.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import Backfill
from ccatwm.core.decision_text import decision_text
from ccatwm.core.exclusions import Excluded
from ccatwm.core.gap import (
    SETTLED,
    Decision,
    Outcome,
    Request,
    SubGroupView,
    changed_config,
    decide,
    plan_trial,
)
from ccatwm.core.model import TriggerType
from ccatwm.core.names import decode_path
from ccatwm.edges.opsdb.exclusions import ExclusionReader
from ccatwm.edges.opsdb.stores import products, sub_groups, triggers
from ccatwm.edges.opsdb.stores.steps import StepRecord, get_step_record, step_depths
from ccatwm.edges.opsdb.stores.sub_groups import SubGroupRow
from ccatwm.edges.opsdb.stores.triggers import OpenEvent
from ccatwm.edges.opsdb.sub_group_views import build_views
from ccatwm.errors import ConflictError
from ccatwm.passes._backfill import advance_backfills
from ccatwm.passes._carry_out import WAITING, Decided, carry_out, make_runs, same_outcome
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed
from ccatwm.passes._regroup import regroup

log = logging.getLogger("ccatwm.passes.resolve")
SUB_GROUPS_PER_CHUNK = 500
NOT_LOOKED_AT = PassItem(
    "not-looked-at", "the time of this dry run was up before everything was looked at: resolve may do more"
)


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "resolve", options, _body)


def _body(frame: PassFrame) -> None:
    if frame.only_looks:
        _rehearse(frame)
    else:
        _resolve(frame)
        if frame.dry_run and frame.time_is_up():
            frame.report.add("waiting", NOT_LOOKED_AT)


def _rehearse(frame: PassFrame) -> None:
    """Everything as in earnest, of which nothing stays: so a dry run tells what would really be decided."""
    database = frame.context.database
    frame.limit_seconds(database.rehearsal_seconds)
    with database.rehearsal() as rehearsed:
        frame.context = dataclasses.replace(frame.context, database=rehearsed)
        _resolve(frame)
        if frame.time_is_up():
            frame.report.add("waiting", NOT_LOOKED_AT)


def _resolve(frame: PassFrame) -> None:
    regroup(frame)
    _decide_all(frame)


# --- deciding -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepEvents:
    """The open events of one step."""

    step_id: int
    events: tuple[OpenEvent, ...]
    continuous: bool

    @property
    def only_asked(self) -> bool:
        """Steps by cron or by hand decide only on what was opened; a full comparison looks at all."""
        return not self.continuous and all(event.kind != "full" for event in self.events)

    @property
    def ids(self) -> list[int]:
        return [event.id for event in self.events]


def _decide_all(frame: PassFrame) -> None:
    exclusions = ExclusionReader(frame.context.grouping, frame.now)
    for step_events in _list_step_events(frame.context):
        _apply_requests(frame, step_events)
        _make_trials(frame, step_events, exclusions)
        if not _decide_step(frame, step_events, exclusions):
            return
    advance_backfills(frame, partial(_decide_on, frame, exclusions), partial(_write_decided, frame))


def _list_step_events(context: Context) -> list[StepEvents]:
    """Open events by step, upstream steps first."""
    with context.database.read() as connection:
        steps = {
            step.id: step.trigger for step in triggers.list_triggered_steps(connection, location(context))
        }
        events = triggers.list_open_events(connection, steps)
        depths = step_depths(connection, sorted({event.step_id for event in events}))
    by_step: dict[int, list[OpenEvent]] = {}
    for event in events:
        by_step.setdefault(event.step_id, []).append(event)
    return [
        StepEvents(s, tuple(by_step[s]), steps[s].type is TriggerType.CONTINUOUS)
        for s in sorted(by_step, key=lambda s: (depths[s], s))
    ]


def _apply_requests(frame: PassFrame, step_events: StepEvents) -> None:
    """Manual events, ticks and full comparisons open sub-groups; once, also when the pass dies afterwards."""
    for event in step_events.events:
        if event.kind not in ("manual", "full", "cron") or event.scope.get("applied"):
            continue
        with frame.context.database.write() as connection:
            if event.kind == "cron" and not event.scope.get("force"):
                sub_groups.mark_asked(connection, step_events.step_id, frame.now)
            else:
                key = event.scope.get("sub_group")
                sub_groups.mark_step_due(
                    connection, step_events.step_id, frame.now, key, **_request_columns(event)
                )
            triggers.mark_applied(connection, event)


def _make_trials(frame: PassFrame, step_events: StepEvents, exclusions: ExclusionReader) -> None:
    for event in step_events.events:
        if event.kind == "trial" and not event.scope.get("applied"):
            _make_trial(frame, step_events.step_id, event, exclusions)


def _make_trial(frame: PassFrame, step_id: int, event: OpenEvent, exclusions: ExclusionReader) -> None:
    """The runs of a trial, a chunk of sub-groups in one transaction, each once; decisions are not touched."""
    done_to = int(event.scope.get("done_to") or 0)
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            step = get_step_record(connection, step_id)
            rows = sub_groups.list_after(
                connection, step.id, done_to, SUB_GROUPS_PER_CHUNK, event.scope.get("sub_group")
            )
            items = _trial_rows(frame, connection, step, rows, event, exclusions.read(connection))
            finished = len(rows) < SUB_GROUPS_PER_CHUNK
            if finished:
                triggers.mark_applied(connection, event)
            else:
                done_to = rows[-1].id
                triggers.set_scope(connection, event, done_to=done_to)
        frame.report.selected += len(rows)
        for kind, item in items:
            frame.report.add(kind, item)
        if finished:
            return


def _trial_rows(
    frame: PassFrame,
    connection: sa.Connection,
    step: StepRecord,
    rows: Sequence[SubGroupRow],
    event: OpenEvent,
    excluded: Excluded,
) -> list[tuple[str, PassItem]]:
    views = build_views(connection, step, rows, excluded, frame.now) if rows else {}
    trial = event.scope["trial"]
    planned = []
    for row in rows:
        view = replace(views[row.id], request=Request(text=event.reason))
        planned.append(Decided(row, plan_trial(view, trial), view.observed_at))
    config = changed_config(step.policy.config, trial.get("config") or {})
    make_runs(connection, step, planned, frame.now, trial=config)
    return [_trial_item(step, one, event.reason) for one in planned]


def _trial_item(step: StepRecord, planned: Decided, reason: str) -> tuple[str, PassItem]:
    text = f"no trial: {decision_text(planned.decision)}" if planned.run_id is None else f"trial: {reason}"
    outcome = planned.decision.outcome.value
    item = PassItem(outcome, text, planned.run_id, step.pipeline, step.name, planned.row.key)
    return "done" if planned.run_id is not None else "waiting", item


def _request_columns(event: OpenEvent) -> dict[str, Any]:
    if event.kind == "full":
        return {}
    request = {
        "reason": "scheduled" if event.kind == "cron" else "requested",
        "text": event.reason if event.kind == "manual" else "",
        "force": bool(event.scope.get("force")),
        "actor": event.actor,
    }
    return {"requested": request, "asked": True, "backfill_id": None}


def _decide_step(frame: PassFrame, step_events: StepEvents, exclusions: ExclusionReader) -> bool:
    """Decide on all due sub-groups of a step and close its events with the last chunk; False when time is up."""
    after_error = False
    while not frame.time_is_up():
        frame.checkpoint()
        size = 1 if after_error else SUB_GROUPS_PER_CHUNK
        if frame.options.limit is not None:
            size = min(size, frame.options.limit - frame.report.selected)
            if size <= 0:
                return False
        try:
            finished = _decide_chunk(frame, step_events, exclusions, size)
        except ConflictError as error:
            if after_error:
                item = PassItem("conflict", error.message)
                frame.report.add("failed", item)
                return True
            after_error = True
            continue
        if finished:
            return True
    return False


def _decide_chunk(frame: PassFrame, step_events: StepEvents, exclusions: ExclusionReader, size: int) -> bool:
    """One transaction: a chunk of decisions, their runs, and the end of the events when nothing is left."""
    items: list[tuple[str, PassItem]] = []
    with frame.context.database.write() as connection:
        step = get_step_record(connection, step_events.step_id)
        rows = sub_groups.list_due(connection, step.id, frame.now, size, only_asked=step_events.only_asked)
        if rows:
            decided = _decide_on(frame, exclusions, connection, step, rows)
            items = _write_decided(frame, connection, step, decided)
        finished = len(rows) < size
        if finished:
            triggers.close_events(connection, step_events.ids, frame.now)
    frame.report.selected += len(rows)
    for kind, item in items:
        frame.report.add(kind, item)
    return finished


def _decide_on(
    frame: PassFrame,
    exclusions: ExclusionReader,
    connection: sa.Connection,
    step: StepRecord,
    rows: Sequence[SubGroupRow],
) -> list[Decided]:
    """What is decided now; nothing is written yet."""
    excluded = exclusions.read(connection)
    views = build_views(connection, step, rows, excluded, frame.now)
    return [
        Decided(row, _decide_with_files(frame, connection, views[row.id]), views[row.id].observed_at) for row in rows
    ]


def _write_decided(
    frame: PassFrame,
    connection: sa.Connection,
    step: StepRecord,
    decided: Sequence[Decided],
    backfill: Backfill | None = None,
) -> list[tuple[str, PassItem]]:
    """Decisions with their runs, and who is to be looked at because of them; what to report."""
    carry_out(connection, step, decided, frame.now, backfill)
    settled = [one for one in decided if one.decision.outcome in SETTLED]
    changed = [one.row.id for one in settled if _differs(one.row, one.decision)]
    sub_groups.mark_downstream_due(connection, changed, frame.now)
    # They were looked at again, for nothing; who found them due meanwhile waits for them still.
    alike = [one.row.id for one in settled if not _differs(one.row, one.decision)]
    sub_groups.mark_downstream_due(connection, alike, frame.now, waiting_only=True)
    # The run of a dry run never comes to be: its number is nobody's.
    return [_report_item(step, one.row, one.decision, None if frame.dry_run else one.run_id) for one in decided]


def _decide_with_files(frame: PassFrame, connection: sa.Connection, view: SubGroupView) -> Decision:
    """The decision, where an older run is to count again after a look whether its files are there."""
    while True:
        decision = decide(view)
        if decision.current_run_id is None or not _counts_again(view, decision):
            return decision
        paths = products.paths_of_run(connection, decision.current_run_id)
        there = frame.context.workfiles.exists(decode_path(path) for path in paths.values())
        missing = {product: path for product, path in paths.items() if not there[decode_path(path)]}
        if not missing:
            return decision
        log.warning("run %d is made again: of its products %s is gone, %d in all", decision.current_run_id,
                    min(missing.values()), len(missing),
                    extra={"run": decision.current_run_id,
                           "pipeline": PurePosixPath(min(missing.values())).parts[0]})  # fmt: skip
        products.record_missing(connection, missing)
        facts = [
            dataclasses.replace(run, files_present=run.files_present and run.id != decision.current_run_id)
            for run in view.runs
        ]
        view = dataclasses.replace(view, runs=facts)


def _counts_again(view: SubGroupView, decision: Decision) -> bool:
    """Whether it is not the run that counts by now: nobody has looked at its files for long."""
    accepted_again = decision.outcome is Outcome.ACCEPTED and decision.current_run_id != view.current_run_id
    return decision.outcome is Outcome.RESTORED or accepted_again


def _differs(row: SubGroupRow, decision: Decision) -> bool:
    current = decision.current_run_id
    return not same_outcome(row, decision) or (current is not None and row.current_run_id != current)


# --- reporting ------------------------------------------------------------------------------------------------------


def _report_item(
    step: StepRecord, row: SubGroupRow, decision: Decision, run_id: int | None
) -> tuple[str, PassItem]:
    kind = "waiting" if decision.outcome in WAITING | {Outcome.BUSY, Outcome.SETTLING} else "done"
    return kind, PassItem(
        decision.outcome.value, decision_text(decision), run_id, step.pipeline, step.name, row.key
    )
