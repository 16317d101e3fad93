"""Runs that a person asks for: a manual trigger event per step. Touches: the ops-db only."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import Outcome
from ccatwm.core.selection import suggest
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import triggers
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.definitions import list_concerned
from ccatwm.edges.opsdb.stores.requests import find_pipeline, list_steps, settled_keys, sub_group_keys
from ccatwm.errors import UsageError
from ccatwm.upkeep._estimate import Estimate, estimate_runs

NO_PIPELINES = "there are none yet: `ccatwm apply FILE` defines them"
SETTLED = (Outcome.UP_TO_DATE.value, Outcome.RESTORED.value, Outcome.ACCEPTED.value)


@dataclass(frozen=True)
class RequestReport:
    """The steps that were asked for; `resolve` decides on their sub-groups."""

    pipeline: str
    steps: tuple[str, ...]
    sub_group: str | None
    force: bool
    follows: Estimate | None  # None: it is one sub-group

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.request/1",
            "pipeline": self.pipeline,
            "steps": list(self.steps),
            "sub_group": self.sub_group,
            "force": self.force,
            **(self.follows.to_json() if self.follows is not None else {}),
        }

    def lines(self) -> list[str]:
        """For people."""
        follows = f"{self.follows.text('are')}; " if self.follows is not None else ""
        asked = f"asked for runs of {self.pipeline}: {', '.join(self.steps)}"
        return [f"{asked}; {follows}`ccatwm resolve` decides on them next"]


def request_runs(
    database: Database,
    grouping: GroupingEngine,
    pipeline: str,
    *,
    step: str | None = None,
    sub_group: str | None = None,
    force: bool = False,
    reason: str,
    actor: str,
    now: datetime,
    yes: bool = False,
    confirm_runs: int = 500,
) -> RequestReport:
    """Ask for a pipeline's runs: of all steps or one, of all sub-groups or one; `force` also where all is up to date.

    Errors: UsageError without a reason; for a pipeline, step or sub-group that is not there, naming what is; above
    `confirm_runs` without `yes`.
    """
    if not reason.strip():
        raise UsageError("say why: --reason TEXT", next="it is kept with every run that is made for it")
    with database.write() as connection:
        steps = _wanted_steps(connection, pipeline, step)
        follows = None
        if sub_group is not None:
            steps = _with_sub_group(connection, pipeline, steps, sub_group)
        else:
            follows = _estimate(connection, grouping, [step_id for step_id, _ in steps], force, now)
            follows.confirm(confirm_runs, yes=yes, next="ask for one --step or --sub-group, or say --yes")
        for step_id, _ in steps:
            triggers.open_event(
                connection, step_id, "manual", reason, now=now, actor=actor,
                scope={"sub_group": sub_group, "force": force},
            )  # fmt: skip
        report = RequestReport(pipeline, tuple(name for _, name in steps), sub_group, force, follows)
        record_change(
            connection, at=now, actor=actor, host=socket.gethostname(), act="trigger", target=pipeline, reason=reason,
            details=report.to_json(),
        )  # fmt: skip
    return report


def _estimate(
    connection: sa.Connection, grouping: GroupingEngine, step_ids: Sequence[int], force: bool, now: datetime
) -> Estimate:
    """Of the steps that were named alone: what depends on them follows by its own triggers."""
    scopes = [
        replace(scope, steps=tuple(step for step in scope.steps if step.id in step_ids))
        for scope in list_concerned(connection, step_ids, ())
    ]
    settled = {} if force else {step_id: settled_keys(connection, step_id, SETTLED) for step_id in step_ids}
    return estimate_runs(connection, grouping, [scope for scope in scopes if scope.steps], now, settled)


def _wanted_steps(connection: sa.Connection, pipeline: str, step: str | None) -> list[tuple[int, str]]:
    known = find_pipeline(connection, pipeline)
    if known.id is None:
        raise UsageError(f"there is no pipeline {pipeline!r}", next=suggest(pipeline, known.names, none=NO_PIPELINES))
    steps = list_steps(connection, known.id)
    if step is None:
        return steps
    found = [(step_id, name) for step_id, name in steps if name == step]
    if not found:
        raise UsageError(
            f"pipeline {pipeline} has no step {step!r}", next=suggest(step, [n for _, n in steps])
        )
    return found


def _with_sub_group(
    connection: sa.Connection, pipeline: str, steps: Sequence[tuple[int, str]], key: str
) -> list[tuple[int, str]]:
    found = [(step_id, name) for step_id, name in steps if key in sub_group_keys(connection, step_id)]
    if not found:
        keys = [k for step_id, _ in steps for k in sub_group_keys(connection, step_id)]
        raise UsageError(f"no step of {pipeline} has a sub-group {key!r}", next=suggest(key, keys))
    return found
