"""Decides which runs are missing, and makes them. Touches: the ops-db; looks whether products that count again are there.

First the changed packages are grouped again: sub-groups whose members changed fall due. Then every open event's step
has its due sub-groups decided on, upstream steps first, in chunks of one transaction each.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.decision_text import decision_text
from ccatwm.core.exclusions import Excluded
from ccatwm.core.gap import (
    SETTLED,
    Decision,
    Member,
    Outcome,
    Request,
    RunFacts,
    SubGroupView,
    changed_config,
    decide,
    plan_trial,
)
from ccatwm.core.members import membership_change
from ccatwm.core.model import (
    InputKind,
    InputRole,
    ResolvedStep,
    RunInput,
    SoftwareVersion,
    TriggerType,
    UpstreamStep,
)
from ccatwm.core.retries import with_learned
from ccatwm.core.states import RunEvent
from ccatwm.edges.opsdb.exclusions import ExclusionReader
from ccatwm.edges.opsdb.stores import products, runs, sub_groups, triggers
from ccatwm.edges.opsdb.stores.exclusions import insert_acceptance, list_acceptances
from ccatwm.edges.opsdb.stores.steps import StepRecord, get_step_record, step_depths
from ccatwm.edges.opsdb.stores.sub_groups import Feed, Scope, SubGroupRow
from ccatwm.edges.opsdb.stores.triggers import OpenEvent
from ccatwm.errors import ConflictError
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

log = logging.getLogger("ccatwm.passes.resolve")
PACKAGES_PER_CHUNK = 500
SUB_GROUPS_PER_CHUNK = 100
WAITING = frozenset({Outcome.WAITING_FOR_DATA, Outcome.WAITING_FOR_UPSTREAM, Outcome.WAITING_FOR_IMAGE})


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "resolve", options, _body)


def _body(frame: PassFrame) -> None:
    if frame.dry_run:
        _rehearse(frame)
    else:
        _resolve(frame)


def _rehearse(frame: PassFrame) -> None:
    """Everything as in earnest, of which nothing stays: so a dry run tells what would really be decided."""
    database = frame.context.database
    frame.limit_seconds(database.rehearsal_seconds)
    with database.rehearsal() as rehearsed:
        frame.context = dataclasses.replace(frame.context, database=rehearsed)
        _resolve(frame)
    if frame.time_is_up():
        why = "the time of this dry run was up before everything was looked at: resolve may do more"
        frame.report.add("waiting", PassItem("not-looked-at", why))


def _resolve(frame: PassFrame) -> None:
    _regroup_changed(frame)
    _regroup_scopes(frame)
    _decide_all(frame)


# --- grouping ----------------------------------------------------------------------------------------------------


def _regroup_changed(frame: PassFrame) -> None:
    """Group changed packages again for every scope, one transaction per chunk."""
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            rows = triggers.list_changed_packages(connection, PACKAGES_PER_CHUNK)
            if not rows:
                return
            package_ids = sorted({package_id for _, package_id in rows})
            for scope in sub_groups.list_scopes(connection):
                _regroup(frame, connection, scope, package_ids)
            triggers.remove_changed_packages(connection, [row_id for row_id, _ in rows])


def _regroup(frame: PassFrame, connection: sa.Connection, scope: Scope, package_ids: Sequence[str]) -> None:
    grouped = frame.context.grouping.members(
        connection, scope.rules, scope.group_by, now=frame.now, package_ids=package_ids
    )
    new = {g.package_id: _member_row(g, frame) for g in grouped}
    old = sub_groups.list_member_rows(connection, scope.id, package_ids)
    change = membership_change(package_ids, old, new)
    if change:
        sub_groups.write_members(connection, scope.id, remove=change.remove, insert=change.insert)
        sub_groups.mark_keys_due(connection, scope.id, change.keys, frame.now)


def _member_row(grouped: Any, frame: PassFrame) -> dict[str, Any]:
    return {
        "key": grouped.key,
        "dims": dict(grouped.dims),
        "package_id": grouped.package_id,
        "package_name": grouped.package_name,
        "checksum": grouped.checksum,
        "size_bytes": grouped.size_bytes,
        "state": grouped.state,
        "executed_obs_unit_id": grouped.executed_obs_unit_id,
        "instrument_module_id": grouped.instrument_module_id,
        "ended": grouped.ended,
        "observed_at": grouped.observed_at,
        "since": frame.now,
    }


def _regroup_scopes(frame: PassFrame) -> None:
    """Compare all packages of scopes that are new or whose rules changed; an interrupted one begins again."""
    with frame.context.database.read() as connection:
        scopes = [s for s in sub_groups.list_scopes(connection) if s.resolved_digest != s.digest]
    for scope in scopes:
        if not (_add_new_members(frame, scope) and _drop_old_members(frame, scope)):
            return
        with frame.context.database.write() as connection:
            sub_groups.add_missing_sub_groups(connection, scope.id, frame.now)
            sub_groups.settle_scope(connection, scope.id, scope.digest)


def _add_new_members(frame: PassFrame, scope: Scope) -> bool:
    """Page through the packages that the rules select; False when the time is up."""
    after: str | None = None
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            page = frame.context.grouping.members(
                connection,
                scope.rules,
                scope.group_by,
                now=frame.now,
                after_id=after,
                limit=PACKAGES_PER_CHUNK,
            )
            if not page:
                return True
            package_ids = [g.package_id for g in page]
            old = sub_groups.list_member_rows(connection, scope.id, package_ids)
            change = membership_change(package_ids, old, {g.package_id: _member_row(g, frame) for g in page})
            if change:
                sub_groups.write_members(connection, scope.id, remove=change.remove, insert=change.insert)
                sub_groups.mark_keys_due(connection, scope.id, change.keys, frame.now)
        after = package_ids[-1]
    return False


def _drop_old_members(frame: PassFrame, scope: Scope) -> bool:
    """Page through the members that were there; those the rules no longer select go. False when the time is up."""
    after = 0
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.write() as connection:
            page = sub_groups.list_member_ids(connection, scope.id, after, PACKAGES_PER_CHUNK)
            if not page:
                return True
            _regroup(frame, connection, scope, [package_id for _, package_id in page])
        after = page[-1][0]
    return False


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
    views = _build_views(frame, connection, step, rows, excluded) if rows else {}
    trial = event.scope["trial"]
    items = []
    for row in rows:
        view = replace(views[row.id], request=Request(text=event.reason))
        planned = plan_trial(view, trial)
        run_id = None
        if planned.outcome is Outcome.RUN:
            config = changed_config(step.policy.config, trial.get("config") or {})
            run_id = _create_run(
                frame, connection, step, row, planned, row.decision, view.observed_at, trial=True, config=config
            )
        text = decision_text(planned) if run_id is None else f"trial: {event.reason}"
        item = PassItem(planned.outcome.value, text, run_id, step.pipeline, step.name, row.key)
        items.append(("done" if run_id is not None else "waiting", item))
    return items


def _request_columns(event: OpenEvent) -> dict[str, Any]:
    if event.kind == "full":
        return {}
    request = {
        "reason": "scheduled" if event.kind == "cron" else "requested",
        "text": event.reason if event.kind == "manual" else "",
        "force": bool(event.scope.get("force")),
        "actor": event.actor,
    }
    return {"requested": request, "asked": True}


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
            items = _decide_rows(frame, connection, step, rows, exclusions.read(connection))
        finished = len(rows) < size
        if finished:
            triggers.close_events(connection, step_events.ids, frame.now)
    frame.report.selected += len(rows)
    for kind, item in items:
        frame.report.add(kind, item)
    return finished


def _decide_rows(
    frame: PassFrame, connection: sa.Connection, step: StepRecord, rows: Sequence[SubGroupRow], excluded: Excluded
) -> list[tuple[str, PassItem]]:
    views = _build_views(frame, connection, step, rows, excluded)
    items = []
    changed: list[int] = []
    settled: list[int] = []
    for row in rows:
        decision = _decide_with_files(frame, connection, views[row.id])
        decision, run_id = _carry_out(frame, connection, step, row, decision, views[row.id].observed_at)
        if decision.outcome in SETTLED:
            (changed if _differs(row, decision) else settled).append(row.id)
        # The run of a dry run never comes to be: its number is nobody's.
        items.append(_report_item(step, row, decision, None if frame.dry_run else run_id))
    sub_groups.mark_downstream_due(connection, changed, frame.now)
    # They were looked at again, for nothing; who found them due meanwhile waits for them still.
    sub_groups.mark_downstream_due(connection, settled, frame.now, waiting_only=True)
    return items


def _decide_with_files(frame: PassFrame, connection: sa.Connection, view: SubGroupView) -> Decision:
    """The decision, where an older run is to count again after a look whether its files are there."""
    while True:
        decision = decide(view)
        if decision.outcome is not Outcome.RESTORED or decision.current_run_id is None:
            return decision
        paths = products.paths_of_run(connection, decision.current_run_id)
        there = frame.context.workfiles.exists(PurePosixPath(path) for path in paths.values())
        missing = {product: path for product, path in paths.items() if not there[PurePosixPath(path)]}
        if not missing:
            return decision
        log.warning("run %d is made again: of its products %s is gone, %d in all", decision.current_run_id,
                    min(missing.values()), len(missing))  # fmt: skip
        products.record_missing(connection, missing)
        facts = [
            dataclasses.replace(run, files_present=run.files_present and run.id != decision.current_run_id)
            for run in view.runs
        ]
        view = dataclasses.replace(view, runs=facts)


def _differs(row: SubGroupRow, decision: Decision) -> bool:
    current = decision.current_run_id
    return row.outcome != decision.outcome.value or (current is not None and row.current_run_id != current)


def _build_views(
    frame: PassFrame, connection: sa.Connection, step: StepRecord, rows: Sequence[SubGroupRow], excluded: Excluded
) -> dict[int, SubGroupView]:
    """Everything that decisions on these sub-groups read, by a bounded number of queries."""
    if excluded:
        step = _without_versions(step, excluded)
    keys = [row.key for row in rows]
    members = sub_groups.list_members(connection, step.scope_id, keys)
    names = {key: {m.name for m in found} for key, found in members.items()}
    feeds = sub_groups.list_feeds(connection, step, keys, frame.now)
    fed = sub_groups.list_feeding_products(connection, [f for fs in feeds.values() for f in fs], names)
    facts = runs.list_run_facts(connection, [row.id for row in rows])
    current_ids = sub_groups.current_runs_inputs(connection, rows)
    inputs = runs.list_inputs(connection, current_ids)
    frozen = {run.id: run.resolved_step for run in runs.get_runs(connection, current_ids).values()}
    if excluded:
        stands_on = sub_groups.packages_of_runs(connection, current_ids)
        members = {key: _marked_members(step, found, excluded) for key, found in members.items()}
        facts = {group: _marked_runs(step, found, excluded, stands_on) for group, found in facts.items()}
    accepted = list_acceptances(connection, [row.id for row in rows])
    return {
        row.id: _view(frame, step, row, members[row.key], feeds[row.key], fed.get(row.key, []), facts[row.id],
                      inputs, frozen, accepted.get(row.id, {}))
        for row in rows
    }  # fmt: skip


def _without_versions(step: StepRecord, excluded: Excluded) -> StepRecord:
    """The step as if the excluded versions of its software were not there."""
    kept = tuple(v for v in step.versions if not excluded.version(step.pipeline, v.software, v.version))
    return replace(step, versions=kept, excluded_versions=tuple(v.version for v in step.versions if v not in kept))


def _marked_members(step: StepRecord, members: Sequence[Member], excluded: Excluded) -> list[Member]:
    return [replace(m, excluded=excluded.package(step.pipeline, m.package_id)) for m in members]


def _marked_runs(
    step: StepRecord, facts: Sequence[RunFacts], excluded: Excluded, stands_on: Mapping[int, Sequence[str]]
) -> list[RunFacts]:
    """Runs that are excluded, that were made by an excluded version, or (current ones) that stand on excluded packages."""
    return [
        replace(
            run, excluded=excluded.run(step.pipeline, run.id, run.software, run.version, stands_on.get(run.id, ()))
        )
        for run in facts
    ]


def _view(
    frame: PassFrame,
    step: StepRecord,
    row: SubGroupRow,
    members: Sequence[Any],
    feeds: Sequence[Feed],
    products: Sequence[RunInput],
    facts: Sequence[RunFacts],
    inputs: Mapping[int, Sequence[RunInput]],
    frozen: Mapping[int, ResolvedStep],
    accepted: Mapping[str, int],
) -> SubGroupView:
    current = row.current_run_id
    made_as = frozen.get(current) if current is not None else None
    return SubGroupView(
        now=frame.now,
        policy=step.policy,
        created_at=row.created_at,
        round_at=row.round_at or frame.now,
        members=members,
        upstream=[feed.group for feed in feeds],
        products=products,
        references=step.references,
        versions=step.versions,
        runs=facts,
        current_run_id=current,
        current_inputs=inputs.get(current, ()) if current is not None else (),
        current_config=dict(made_as.config) if made_as is not None else None,
        current_environment=dict(made_as.environment) if made_as is not None else None,
        input_changed_at=row.input_changed_at,
        request=_request(row),
        held=row.held or step.held,
        tripped=step.tripped,
        accepted=accepted,
        excluded_versions=step.excluded_versions,
    )


def _request(row: SubGroupRow) -> Request | None:
    if row.requested is None:
        return None
    asked = row.requested
    return Request(
        str(asked.get("reason", "requested")),
        str(asked.get("text") or ""),
        bool(asked.get("force")),
        bool(asked.get("accept")),
    )


# --- carrying out ---------------------------------------------------------------------------------------------------


def _carry_out(
    frame: PassFrame,
    connection: sa.Connection,
    step: StepRecord,
    row: SubGroupRow,
    decision: Decision,
    observed_at: datetime,
) -> tuple[Decision, int | None]:
    """Write the decision and, if it says so, its run; the decision as it came to be, and the run's id."""
    number = row.decision + 1
    if decision.supersede_run_id is not None and not _supersede(frame, connection, decision.supersede_run_id):
        # It was handed over meanwhile: the sub-group is busy until that run ends.
        decision = Decision(Outcome.BUSY, details={"run": decision.supersede_run_id}, recipe=decision.recipe,
                            stale=decision.stale, keeps_request=True)  # fmt: skip
    run_id = None
    details = dict(decision.details)
    if decision.outcome is Outcome.RUN:
        run_id = _create_run(frame, connection, step, row, decision, number, observed_at)
        details["run"] = run_id
    values: dict[str, Any] = {
        "decision": number,
        "outcome": decision.outcome.value,
        "reason": decision.reason,
        "details": details,
        "decided_at": frame.now,
        "due_at": decision.due_at,
        "round_at": (row.round_at or frame.now) if decision.outcome in WAITING else None,
        "stale": decision.stale,
        "requested": row.requested if decision.keeps_request else None,
        "asked": decision.keeps_request and row.asked,
    }
    if decision.recipe is not None:
        values["wanted_recipe"] = decision.recipe.digest
    if decision.current_run_id is not None:
        values |= {"current_run_id": decision.current_run_id, "current_decision": number}
    if decision.accepts:
        _record_acceptance(frame, connection, row, decision)
    sub_groups.record_decision(connection, row.id, **values)
    return decision, run_id


def _record_acceptance(
    frame: PassFrame, connection: sa.Connection, row: SubGroupRow, decision: Decision
) -> None:
    assert row.requested is not None and decision.recipe is not None and decision.current_run_id is not None
    insert_acceptance(
        connection, row.id, decision.recipe.digest, decision.current_run_id, reason=str(row.requested.get("text") or ""),
        actor=str(row.requested.get("actor") or ""), now=frame.now,
    )  # fmt: skip


def _supersede(frame: PassFrame, connection: sa.Connection, run_id: int) -> bool:
    """Cancel a run that has not been handed over; False if it has been meanwhile."""
    run = runs.get_runs(connection, [run_id])[run_id]
    return runs.record_event(
        connection, run_id, RunEvent.CANCELLED, expected=run.status, now=frame.now, by_pass="resolve",
        message="superseded: its recipe is no longer wanted", superseded=True, due_at=None,
    )  # fmt: skip


def _create_run(
    frame: PassFrame,
    connection: sa.Connection,
    step: StepRecord,
    row: SubGroupRow,
    decision: Decision,
    number: int,
    observed_at: datetime,
    *,
    trial: bool = False,
    config: Mapping[str, Any] | None = None,
) -> int:
    """`config`: instead of the step's."""
    assert decision.recipe is not None and decision.software is not None and decision.reason is not None
    resolved = build_resolved_step(step, decision.software)
    if config is not None:
        resolved = replace(resolved, config=dict(config))
    resources = with_learned(resolved.resources, step.learned)
    run_id = runs.insert_run(
        connection, now=frame.now, by_pass="resolve",
        step_id=step.id, sub_group_id=row.id, pipeline_name=step.pipeline, step_name=step.name,
        sub_group_key=row.key, processing_location=step.location, decision=number, reason=decision.reason,
        reason_details=decision.details, recipe=decision.recipe.digest, recipe_parts=decision.recipe.to_json(),
        resolved_step=resolved.to_json(), priority=step.priority,
        observed_at=observed_at, trial=trial,
        next_resources=dataclasses.asdict(resources) if resources != resolved.resources else None,
    )  # fmt: skip
    references = [
        RunInput(InputKind.REFERENCE, InputRole.MEMBER, r.name, f"{r.name}@{r.version}", r.checksum, None)
        for r in step.references
    ]
    runs.insert_inputs(connection, run_id, [*decision.inputs, *references])
    return run_id


def build_resolved_step(step: StepRecord, software: SoftwareVersion) -> ResolvedStep:
    """What a run freezes of its step."""
    policy = step.policy
    names = [upstream.step for upstream in step.upstream]
    return ResolvedStep(
        pipeline=step.pipeline,
        step=step.name,
        role=step.role,
        group_by=tuple(d if isinstance(d, str) else str(d["name"]) for d in step.group_by),
        software=software,
        config=policy.config,
        environment=policy.environment,
        references=step.references,
        resources=policy.resources,
        upstream=tuple(
            UpstreamStep(
                u.pipeline,
                u.step,
                u.step if names.count(u.step) == 1 else f"{u.pipeline}.{u.step}",
                u.same_group_by,
            )
            for u in step.upstream
        ),
        raw_inputs=bool(policy.raw_inputs),
        partial_exit_codes=tuple(policy.partial_exit_codes),
        max_retries=policy.max_retries,
        retry=policy.retry,
    )


# --- reporting ------------------------------------------------------------------------------------------------------


def _report_item(
    step: StepRecord, row: SubGroupRow, decision: Decision, run_id: int | None
) -> tuple[str, PassItem]:
    kind = "waiting" if decision.outcome in WAITING | {Outcome.BUSY, Outcome.SETTLING} else "done"
    return kind, PassItem(
        decision.outcome.value, decision_text(decision), run_id, step.pipeline, step.name, row.key
    )
