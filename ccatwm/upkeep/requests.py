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
from ccatwm.edges.opsdb.stores.requests import (
    find_pipeline,
    keys_at_rest,
    list_steps,
    step_versions,
    sub_group_keys,
)
from ccatwm.edges.opsdb.stores.views import list_sub_groups
from ccatwm.errors import Problem, UsageError
from ccatwm.upkeep._disabled import list_disabled
from ccatwm.upkeep._estimate import Estimate, again_text, estimate_runs, estimate_sub_groups
from ccatwm.upkeep._reason import require_reason
from ccatwm.upkeep._yaml import parse_yaml

NO_PIPELINES = "there are none yet: `ccatwm apply FILE` defines them"
SETTLED = (Outcome.UP_TO_DATE.value, Outcome.RESTORED.value)  # asking ends an acceptance


@dataclass(frozen=True)
class RequestReport:
    """The steps that were asked for; `resolve` decides on their sub-groups."""

    pipeline: str
    steps: tuple[str, ...]
    sub_group: str | None
    force: bool
    follows: Estimate
    trial: dict[str, Any] | None = None  # version, config
    disabled: tuple[str, ...] = ()  # steps that were left out

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.request/1",
            "pipeline": self.pipeline,
            "steps": list(self.steps),
            "disabled": list(self.disabled),
            "sub_group": self.sub_group,
            "force": self.force,
            "trial": self.trial,
            **self.follows.to_json(),
        }

    def lines(self) -> list[str]:
        """For people."""
        kind = "trial runs" if self.trial else "runs"
        left_out = f" (without {', '.join(self.disabled)}: disabled)" if self.disabled else ""
        asked = f"asked for {kind} of {self.pipeline}: {', '.join(self.steps)}{left_out}"
        return [f"{asked}; {self._follows_text()}; `ccatwm resolve` decides on them next"]

    def _follows_text(self) -> str:
        if self.sub_group is None:
            return self.follows.text("are")
        if not self.follows.sub_groups:
            return "it has what is wanted, so no run follows"
        return f"at most {again_text(self.follows)}"


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
    trial: Sequence[str] = (),
) -> RequestReport:
    """Ask for a pipeline's runs: of all steps or one, of all sub-groups or one; `force` also where all is up to date.

    Errors: UsageError without a reason; for options that contradict each other; for a pipeline, step or sub-group that
    is not there, naming what is; for what is disabled; above `confirm_runs` without `yes`.

    `trial`: `version=1.3.0`, `config.KEY=VALUE`; runs of one step that never count.
    """
    require_reason(reason, "it is kept with every run that is made for it")
    if force and trial:
        what = "--force and --trial do not go together: a trial is made in any case, and never counts"
        raise UsageError(what, next="leave --force out")
    with database.write() as connection:
        steps = _wanted_steps(connection, pipeline, step)
        if sub_group is not None:
            steps = _with_sub_group(connection, pipeline, steps, sub_group)
        disabled = list_disabled(connection, pipeline, [name for _, name in steps])
        steps = [(step_id, name) for step_id, name in steps if name not in disabled]
        step_ids = [step_id for step_id, _ in steps]
        if sub_group is not None:
            follows = _estimate_one(connection, step_ids, sub_group, force or bool(trial))
        else:
            follows = _estimate(connection, grouping, step_ids, force or bool(trial), now)
            follows.confirm(confirm_runs, yes=yes, next="ask for one --step or --sub-group, or say --yes")
        scope: dict[str, Any] = {"sub_group": sub_group, "force": force}
        changes = _read_trial(connection, trial, steps) if trial else None
        if changes is not None:
            scope = {"sub_group": sub_group, "trial": changes}
        for step_id, _ in steps:
            kind = "manual" if changes is None else "trial"
            triggers.open_event(connection, step_id, kind, reason, now=now, actor=actor, scope=scope)
        names = tuple(name for _, name in steps)
        report = RequestReport(pipeline, names, sub_group, force, follows, changes, disabled)
        record_change(
            connection, at=now, actor=actor, host=socket.gethostname(), act="trigger", target=pipeline, reason=reason,
            details=report.to_json(),
        )  # fmt: skip
    return report


def _read_trial(
    connection: sa.Connection, texts: Sequence[str], steps: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """{"version", "config"} of what was typed. Errors: UsageError with all mistakes at once."""
    if len(steps) != 1:
        raise UsageError("a trial is of one step: --step NAME", next=f"steps: {', '.join(n for _, n in steps)}")
    problems = _contradictions(texts)
    found: dict[str, Any] = {}
    versions = step_versions(connection, steps[0][0])
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not (key == "version" or (key.startswith("config.") and all(key.split(".")))):
            problems.append(Problem(f"--trial {text}", "is no change", "write version=1.3.0 or config.KEY=VALUE"))
        elif key == "version" and value not in versions:
            problems.append(Problem(f"--trial {text}", "there is no such version", suggest(value, versions)))
        elif key == "version":
            found["version"] = value
        else:
            found.setdefault("config", {})[key.removeprefix("config.")] = _read_value(text, value, problems)
    if problems:
        raise UsageError("the trial is wrong", problems=problems)
    return found


def _contradictions(texts: Sequence[str]) -> list[Problem]:
    """Changes of which one would undo the other: of the same key, or of a key and one below it."""
    keys = {text: text.partition("=")[0] for text in texts}
    return [
        Problem(f"--trial {first} --trial {second}", "contradict each other", "say one of them")
        for n, first in enumerate(keys)
        for second in list(keys)[n + 1 :]
        if _is_within(keys[first], keys[second]) or _is_within(keys[second], keys[first])
    ]


def _is_within(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.")


def _read_value(text: str, value: str, problems: list[Problem]) -> Any:
    """A value as it would be written in a pipeline file."""
    document, wrong = parse_yaml(value, "")
    problems += [Problem(f"--trial {text}", problem.what, problem.next) for problem in wrong]
    return document.data if document is not None else None


def _estimate(
    connection: sa.Connection, grouping: GroupingEngine, step_ids: Sequence[int], force: bool, now: datetime
) -> Estimate:
    """Of the steps that were named alone: what depends on them follows by its own triggers."""
    scopes = [
        replace(scope, steps=tuple(step for step in scope.steps if step.id in step_ids))
        for scope in list_concerned(connection, step_ids, ())
    ]
    settled = {} if force else {step_id: _settled(connection, step_id) for step_id in step_ids}
    return estimate_runs(connection, grouping, [scope for scope in scopes if scope.steps], now, settled)


def _settled(connection: sa.Connection, step_id: int) -> frozenset[str]:
    """Sub-groups for which asking makes no run. What was removed is made again for who asks for it."""
    return keys_at_rest(connection, step_id, SETTLED, with_files=True)


def _estimate_one(connection: sa.Connection, step_ids: Sequence[int], key: str, force: bool) -> Estimate:
    """Of one sub-group of each step, less where it has what is wanted."""
    settled = set() if force else {s for s in step_ids if key in _settled(connection, s)}
    rows = list_sub_groups(connection, [s for s in step_ids if s not in settled], key)
    return estimate_sub_groups(connection, [row["id"] for row in rows])


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
