"""Writes what was decided on sub-groups of one step: decisions, and runs with their inputs.

Touches: the ops-db. A chunk of decisions is written together, within the transaction that read what they stand on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import Backfill, has_to_wait
from ccatwm.core.gap import Decision, Outcome
from ccatwm.core.latest import is_usable
from ccatwm.core.model import InputKind, InputRole, ResolvedStep, RunInput, SoftwareVersion, UpstreamStep
from ccatwm.core.retries import with_learned
from ccatwm.edges.opsdb.bulk import JsonText, json_text
from ccatwm.edges.opsdb.stores import runs, sub_groups
from ccatwm.edges.opsdb.stores.steps import StepRecord
from ccatwm.edges.opsdb.stores.sub_groups import SubGroupRow

WAITING = frozenset({Outcome.WAITING_FOR_DATA, Outcome.WAITING_FOR_UPSTREAM, Outcome.WAITING_FOR_IMAGE})


@dataclass
class Decided:
    """A sub-group with its decision as it came to be, and the run that was made for it."""

    row: SubGroupRow
    decision: Decision
    observed_at: datetime  # when its newest observation began
    run_id: int | None = None


def carry_out(
    connection: sa.Connection,
    step: StepRecord,
    decided: Sequence[Decided],
    now: datetime,
    backfill: Backfill | None = None,
) -> None:
    """Write decisions, and what they say is to be done; `decided` is changed to what became of it.

    `backfill`: it opened these sub-groups; what has to wait stays its own.
    """
    for one in decided:
        older = one.decision.supersede_run_id
        if older is not None and not _supersede(connection, older, now):
            # It was handed over meanwhile: the sub-group is busy until that run ends.
            one.decision = Decision(Outcome.BUSY, details={"run": older}, recipe=one.decision.recipe,
                                    stale=one.decision.stale, keeps_request=True)  # fmt: skip
    make_runs(connection, step, decided, now, backfill=backfill)
    columns = {one.row.id: _columns(one, now) for one in decided}
    if backfill is not None:
        for one in decided:
            columns[one.row.id]["backfill_id"] = backfill.id if has_to_wait(one.decision) else None
    sub_groups.record_decisions(connection, columns)
    _record_replaced(connection, decided, now)
    _ask_again(connection, step, decided, now)


def _record_replaced(connection: sa.Connection, decided: Sequence[Decided], now: datetime) -> None:
    pairs = ((one.row.current_run_id, one.decision.current_run_id) for one in decided)
    replaced = {old: new for old, new in pairs if old is not None and new is not None and old != new}
    runs.record_replaced(connection, replaced, now)


def _ask_again(connection: sa.Connection, step: StepRecord, decided: Sequence[Decided], now: datetime) -> None:
    """What was removed upstream and is to be read is made again: in the transaction that lets the reader wait for it."""
    for one in decided:
        if one.decision.asks:
            text = f"its files were removed, and {step.pipeline}/{step.name} {one.row.key} needs them"
            sub_groups.ask_again(connection, one.decision.asks, text, now)


def _supersede(connection: sa.Connection, run_id: int, now: datetime) -> bool:
    """Cancel a run that has not been handed over; False if it has been meanwhile."""
    run = runs.get_runs(connection, [run_id])[run_id]
    return runs.supersede(
        connection, run_id, "its recipe is no longer wanted", expected=run.status, now=now, by_pass="resolve"
    )


def _columns(one: Decided, now: datetime) -> dict[str, Any]:
    """What the sub-group keeps of its decision; one that says what was said before keeps its number and time."""
    row, decision = one.row, one.decision
    values: dict[str, Any] = {
        "due_at": decision.due_at,
        "round_at": (row.round_at or now) if decision.outcome in WAITING else None,
        "requested": row.requested if decision.keeps_request else None,
        # Also where its run is under way: only a decision after that tells that it has settled.
        "asked": row.asked and (decision.keeps_request or decision.outcome is Outcome.BUSY),
    }
    return values if _says_the_same(row, decision) else values | _new_decision(one, now)


def _says_the_same(row: SubGroupRow, decision: Decision) -> bool:
    """Whether all that people and passes read of the decision is there already.

    The run that it points to must have the newest number: else an older one that ends later would win.
    """
    if decision.outcome is Outcome.RUN:
        return False
    current = decision.current_run_id
    if not same_outcome(row, decision) or (row.reason, row.stale) != (decision.reason, decision.stale):
        return False
    if current is not None and (row.current_run_id, row.current_decision) != (current, row.decision):
        return False
    if decision.recipe is not None and row.wanted_recipe != decision.recipe.digest:
        return False
    return bool(row.details == json.loads(json_text(decision.details)))


def same_outcome(row: SubGroupRow, decision: Decision) -> bool:
    """A run that was `restored` is still so when it is looked at again, though it is the current one by then."""
    return row.outcome == decision.outcome.value or (
        (row.outcome, decision.outcome) == (Outcome.RESTORED.value, Outcome.UP_TO_DATE)
        and row.current_run_id == decision.current_run_id
    )


def _new_decision(one: Decided, now: datetime) -> dict[str, Any]:
    row, decision = one.row, one.decision
    number = row.decision + 1
    details = decision.details if one.run_id is None else {**decision.details, "run": one.run_id}
    values: dict[str, Any] = {
        "decision": number,
        "outcome": decision.outcome.value,
        "reason": decision.reason,
        "details": details,
        "decided_at": now,
        "stale": decision.stale,
    }
    if decision.recipe is not None:
        values["wanted_recipe"] = decision.recipe.digest
    current = row.current_run_id
    if decision.current_run_id is not None:
        current = decision.current_run_id
        values |= {"current_run_id": current, "current_decision": number}
    if (current, is_usable(decision.stale)) != (row.current_run_id, is_usable(row.stale)):
        values["latest_due"] = True
    return values


# --- runs -----------------------------------------------------------------------------------------------------------


def make_runs(
    connection: sa.Connection,
    step: StepRecord,
    decided: Sequence[Decided],
    now: datetime,
    *,
    trial: Mapping[str, Any] | None = None,
    backfill: Backfill | None = None,
) -> None:
    """The runs that decisions ask for. `trial`: the configuration of runs that never count."""
    wanted = [one for one in decided if one.decision.outcome is Outcome.RUN]
    frozen = _Frozen(step, trial)
    made = [_run_columns(step, one, frozen, trial is not None) for one in wanted]
    if backfill is not None:
        made = [columns | {"priority": backfill.priority, "backfill_id": backfill.id} for columns in made]
    references = [
        RunInput(InputKind.REFERENCE, InputRole.MEMBER, r.name, f"{r.name}@{r.version}", r.checksum, None)
        for r in step.references
    ]
    inputs = {}
    for one, run_id in zip(wanted, runs.insert_runs(connection, made, now=now, by_pass="resolve"), strict=True):
        one.run_id = run_id
        inputs[run_id] = [*one.decision.inputs, *references]
    runs.insert_inputs(connection, inputs)
    runs.refuse_gone_inputs(connection, (item for items in inputs.values() for item in items))


class _Frozen:
    """What runs freeze of their step, written once for all that take the same version."""

    def __init__(self, step: StepRecord, config: Mapping[str, Any] | None) -> None:
        self._step, self._config = step, config
        self._made: dict[SoftwareVersion, tuple[JsonText, dict[str, Any] | None]] = {}

    def of(self, software: SoftwareVersion) -> tuple[JsonText, dict[str, Any] | None]:
        """(the resolved step as JSON, resources that the first attempt asks for instead of its own)."""
        if software not in self._made:
            resolved = build_resolved_step(self._step, software)
            if self._config is not None:
                resolved = replace(resolved, config=dict(self._config))
            learned = with_learned(resolved.resources, self._step.learned)
            other = dataclasses.asdict(learned) if learned != resolved.resources else None
            self._made[software] = json_text(resolved.to_json()), other
        return self._made[software]


def _run_columns(step: StepRecord, one: Decided, frozen: _Frozen, trial: bool) -> dict[str, Any]:
    row, decision = one.row, one.decision
    assert decision.recipe is not None and decision.software is not None and decision.reason is not None
    resolved, resources = frozen.of(decision.software)
    return {
        "step_id": step.id, "sub_group_id": row.id, "pipeline_name": step.pipeline, "step_name": step.name,
        "sub_group_key": row.key, "processing_location": step.location,
        "decision": row.decision if trial else row.decision + 1, "reason": decision.reason,
        "reason_details": decision.details, "recipe": decision.recipe.digest, "recipe_parts": decision.recipe.to_json(),
        "resolved_step": resolved, "priority": step.priority, "observed_at": one.observed_at, "trial": trial,
        "next_resources": resources,
    }  # fmt: skip


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
        verify=(policy.collect or {}).get("verify"),
    )
