"""What follows from an act, told before it is done: sub-groups, bytes, core hours. Touches: the ops-db (reads)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import PackageState, Resources
from ccatwm.core.wording import core_hours_text, count_text, size_text
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import control, views
from ccatwm.edges.opsdb.stores import definitions as store
from ccatwm.edges.opsdb.stores.past_runs import past_core_hours
from ccatwm.errors import UsageError


@dataclass(frozen=True)
class CoreHours:
    """Of one run."""

    hours: float
    measured: bool


@dataclass
class Estimate:
    """What the next passes will look at, at most."""

    sub_groups: int = 0  # those that fall due, and all that have archived packages now
    bytes: int = 0  # of archived packages that were not grouped before, for steps that read raw data
    core_hours: float = 0.0  # of a run of each
    measured: int = 0  # how many of them are of steps whose last runs tell the core hours; the others' are as asked

    def add(self, sub_groups: int, per_run: CoreHours) -> None:
        """So many sub-groups of a step."""
        self.sub_groups += sub_groups
        self.core_hours += sub_groups * per_run.hours
        self.measured += sub_groups if per_run.measured else 0

    @property
    def basis(self) -> str:
        """What the core hours stand on: `past runs`, `what is asked for`, or `past runs, else what is asked for`."""
        if self.measured == self.sub_groups:
            return "past runs" if self.sub_groups else "nothing"
        return "past runs, else what is asked for" if self.measured else "what is asked for"

    def to_json(self) -> dict[str, Any]:
        return {
            "sub_groups": self.sub_groups,
            "bytes": self.bytes,
            "core_hours": round(self.core_hours, 2),
            "core_hours_from": self.basis,
        }

    def text(self, are: str) -> str:
        """The sub-groups that `are`, or `would be`, looked at, and what comes of it."""
        if not self.sub_groups:
            return f"no sub-group {'is' if are == 'are' else are} looked at"
        new = f" ({size_text(self.bytes)} of packages not grouped before)" if self.bytes else ""
        are = "is" if (are, self.sub_groups) == ("are", 1) else are
        return (
            f"{count_text(self.sub_groups, 'sub-group')} {are} looked at{new}: at most as many runs, {self.cost}"
        )

    @property
    def cost(self) -> str:
        """`4 core hours (by what is asked for)`."""
        return f"{core_hours_text(self.core_hours)} (by {self.basis})"

    def confirm(self, confirm_runs: int, *, yes: bool, next: str) -> None:
        """Errors: UsageError where it is more than `confirm_runs` and nobody said `yes`."""
        if self.sub_groups > confirm_runs and not yes:
            raise UsageError(f"{self.text('would be')}, more than CONFIRM_RUNS ({confirm_runs})", next=next)


def estimate_again(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """What trying runs again costs. `rows`: `run` and `step_id` of each; its bytes are those of all their inputs."""
    found = Estimate(bytes=control.sum_input_bytes(connection, [row["run"] for row in rows]))
    past = past_core_hours(connection, {row["step_id"] for row in rows})
    asked = {step["id"]: step["definition"].get("resources", {}) for step in views.list_steps(connection)}
    for row in rows:
        found.add(1, core_hours_of(asked[row["step_id"]], past.get(row["step_id"])))
    return found


def estimate_sub_groups(
    connection: sa.Connection, sub_group_ids: Collection[int], without: Collection[str] = ()
) -> Estimate:
    """What a run of each of these sub-groups costs. Its bytes: of its archived packages as they are known, less those
    named `without`, where its step reads raw data.
    """
    rows = store.list_due(connection, sub_group_ids)
    readers = {(row.scope_id, row.key) for row in rows if row.raw_inputs}
    found = Estimate(bytes=store.sum_member_bytes(connection, readers, without))
    past = past_core_hours(connection, {row.step_id for row in rows})
    for row in rows:
        found.add(1, core_hours_of(row.resources, past.get(row.step_id)))
    return found


def again_text(estimate: Estimate) -> str:
    """`29 runs, 231 B of inputs, 29 core hours (by what is asked for)`."""
    size = f", {size_text(estimate.bytes)} of inputs" if estimate.bytes else ""
    return f"{count_text(estimate.sub_groups, 'run')}{size}, {estimate.cost}"


def estimate_runs(
    connection: sa.Connection,
    grouping: GroupingEngine,
    scopes: Sequence[store.Concerned],
    now: datetime,
    settled: Mapping[int, frozenset[str]] | None = None,
) -> Estimate:
    """What the next passes look at in these scopes, less the keys that are `settled` for a step.

    The rules are asked, not the members known so far: packages may have come that no pass has grouped yet.
    """
    found = Estimate()
    past = past_core_hours(connection, [step.id for scope in scopes for step in scope.steps])
    for scope in scopes:
        keys, size = _sub_groups_of(connection, grouping, scope, now)
        found.bytes += size
        for step in scope.steps:
            count = len((keys | step.keys) - (settled or {}).get(step.id, frozenset()))
            found.add(count, core_hours_of(step.resources, past.get(step.id)))
    return found


def _sub_groups_of(
    connection: sa.Connection, grouping: GroupingEngine, scope: store.Concerned, now: datetime
) -> tuple[set[str], int]:
    """Keys of the sub-groups that have archived packages, and the bytes of those packages that are no members yet: none
    where no step of the scope reads packages.
    """
    reads = any(step.raw_inputs for step in scope.steps)
    keys: set[str] = set()
    size = 0
    for page in grouping.pages(connection, scope.filter_rules, scope.group_by, now=now):
        archived = [p for p in page if p.state == PackageState.ARCHIVED]
        keys |= {p.key for p in archived}
        if reads:
            members = store.grouped_packages(connection, scope.scope_id, [p.package_id for p in archived])
            size += sum(p.size_bytes or 0 for p in archived if p.package_id not in members)
    return keys, size


def core_hours_of(resources: Mapping[str, Any], past: float | None) -> CoreHours:
    """Of one run of a step: as its last completed ones took (`past`), else all that it asks for."""
    if past is not None:
        return CoreHours(past, measured=True)
    asked = Resources.from_json(resources)
    return CoreHours(asked.cpu * asked.tasks * asked.time_hours, measured=False)
