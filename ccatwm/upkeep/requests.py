"""Runs that a person asks for: a manual trigger event per step. Touches: the ops-db only."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.selection import suggest
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import triggers
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.requests import find_pipeline, list_steps, sub_group_keys
from ccatwm.errors import UsageError

NO_PIPELINES = "there are none yet: `ccatwm apply FILE` defines them"


@dataclass(frozen=True)
class RequestReport:
    """The steps that were asked for; `resolve` decides on their sub-groups."""

    pipeline: str
    steps: tuple[str, ...]
    sub_group: str | None
    force: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.request/1",
            "pipeline": self.pipeline,
            "steps": list(self.steps),
            "sub_group": self.sub_group,
            "force": self.force,
        }


def request_runs(
    database: Database,
    pipeline: str,
    *,
    step: str | None = None,
    sub_group: str | None = None,
    force: bool = False,
    reason: str,
    actor: str,
    now: datetime,
) -> RequestReport:
    """Ask for a pipeline's runs: of all steps or one, of all sub-groups or one; `force` also where all is up to date.

    Errors: UsageError without a reason; for a pipeline, step or sub-group that is not there, naming what is.
    """
    if not reason.strip():
        raise UsageError("say why: --reason TEXT", next="it is kept with every run that is made for it")
    with database.write() as connection:
        steps = _wanted_steps(connection, pipeline, step)
        if sub_group is not None:
            steps = _with_sub_group(connection, pipeline, steps, sub_group)
        for step_id, _ in steps:
            triggers.open_event(
                connection, step_id, "manual", reason, now=now, actor=actor,
                scope={"sub_group": sub_group, "force": force},
            )  # fmt: skip
        report = RequestReport(pipeline, tuple(name for _, name in steps), sub_group, force)
        record_change(
            connection, at=now, actor=actor, host=socket.gethostname(), act="trigger", target=pipeline, reason=reason,
            details=report.to_json(),
        )  # fmt: skip
    return report


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
