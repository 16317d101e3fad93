"""Steps as `resolve` wants them: policy, software, references, upstream. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import ReferenceVersion, SoftwareVersion, StepRole, TriggerType
from ccatwm.core.policy import StepPolicy, version_key
from ccatwm.core.recipe import FixedParts, fixed_parts
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.companions import CompanionLink, list_links


@dataclass(frozen=True)
class Upstream:
    """A step that this one depends on."""

    step_id: int
    pipeline: str
    step: str
    scope_id: int
    same_group_by: bool
    continuous: bool
    enabled: bool = True  # with its pipeline


@dataclass(frozen=True)
class StepRecord:
    """One step with all that a decision about its sub-groups reads."""

    id: int
    pipeline: str
    name: str
    priority: int
    location: str
    role: StepRole
    scope_id: int
    group_by: Sequence[Any]
    definition: dict[str, Any]
    held: str | None
    tripped: str | None
    learned: dict[str, float] | None
    versions: tuple[SoftwareVersion, ...]
    references: tuple[ReferenceVersion, ...]
    upstream: tuple[Upstream, ...]
    excluded_versions: tuple[str, ...] = ()
    companions: tuple[CompanionLink, ...] = ()

    @cached_property
    def policy(self) -> StepPolicy:
        return StepPolicy.from_json(self.definition)

    @cached_property
    def fixed_parts(self) -> FixedParts:
        return fixed_parts(self.references, self.policy.config, self.policy.environment)


def get_step_record(connection: sa.Connection, step_id: int) -> StepRecord:
    step, pipeline, scope = t.reduction_step, t.pipeline, t.grouping_scope
    row = connection.execute(
        sa.select(
            step, pipeline.c.name.label("pipeline_name"), pipeline.c.priority, pipeline.c.processing_location,
            pipeline.c.held.label("pipeline_held"), scope.c.group_by, scope.c.group_by_digest,
        )
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .join(scope, scope.c.id == step.c.scope_id)
        .where(step.c.id == step_id)
    ).one()  # fmt: skip
    policy = StepPolicy.from_json(row.definition)
    return StepRecord(
        id=row.id,
        pipeline=row.pipeline_name,
        name=row.name,
        priority=row.priority,
        location=row.processing_location,
        role=StepRole(row.role),
        scope_id=row.scope_id,
        group_by=row.group_by,
        definition=row.definition,
        held=row.held or row.pipeline_held,
        tripped=row.tripped,
        learned=row.learned,
        versions=_list_versions(connection, row.software_id),
        references=tuple(_wanted_reference(connection, name) for name in policy.references),
        upstream=_list_upstream(connection, row.id, row.group_by_digest),
        companions=tuple(list_links(connection, step_id=row.id)) if policy.companions else (),
    )


def _list_versions(connection: sa.Connection, software_id: int) -> tuple[SoftwareVersion, ...]:
    version, software = t.reduction_software_version, t.reduction_software
    query = (
        sa.select(version, software.c.name)
        .join(software, software.c.id == version.c.software_id)
        .where(version.c.software_id == software_id)
    )
    return tuple(
        SoftwareVersion(row.name, row.version, tuple(row.command), row.image, row.image_digest, row.contract)
        for row in connection.execute(query)
    )


def _wanted_reference(connection: sa.Connection, wanted: str) -> ReferenceVersion:
    """The newest version of a reference, or the one pinned by `name@version`."""
    name, _, pinned = wanted.partition("@")
    version, reference = t.reference_data_version, t.reference_data
    query = (
        sa.select(version)
        .join(reference, reference.c.id == version.c.reference_id)
        .where(reference.c.name == name)
    )
    rows = sorted(connection.execute(query), key=lambda row: version_key(row.version))
    row = next(row for row in reversed(rows) if not pinned or row.version == pinned)
    return ReferenceVersion(name, row.version, row.path, row.checksum)


def _list_upstream(connection: sa.Connection, step_id: int, group_by_digest: str) -> tuple[Upstream, ...]:
    dependency, step, pipeline, scope = (
        t.reduction_step_dependency,
        t.reduction_step,
        t.pipeline,
        t.grouping_scope,
    )
    query = (
        sa.select(
            step.c.id,
            pipeline.c.name.label("pipeline"),
            step.c.name,
            step.c.scope_id,
            scope.c.group_by_digest,
            sa.func.coalesce(step.c.trigger_type, pipeline.c.trigger_type).label("trigger_type"),
            sa.and_(step.c.enabled, pipeline.c.enabled).label("enabled"),
        )
        .join(dependency, dependency.c.upstream_step_id == step.c.id)
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .join(scope, scope.c.id == step.c.scope_id)
        .where(dependency.c.step_id == step_id)
        .order_by(step.c.id)
    )
    return tuple(
        Upstream(
            row.id,
            row.pipeline,
            row.name,
            row.scope_id,
            row.group_by_digest == group_by_digest,
            row.trigger_type == TriggerType.CONTINUOUS,
            bool(row.enabled),
        )
        for row in connection.execute(query)
    )


def step_depths(connection: sa.Connection, step_ids: Sequence[int]) -> dict[int, int]:
    """How far each step is from a step without upstream: smaller is decided first."""
    dependency = t.reduction_step_dependency
    upstream: dict[int, list[int]] = {}
    for row in connection.execute(sa.select(dependency.c.step_id, dependency.c.upstream_step_id)):
        upstream.setdefault(row.step_id, []).append(row.upstream_step_id)
    depths: dict[int, int] = {}
    for step_id in step_ids:
        _depth(step_id, upstream, depths)
    return {step_id: depths[step_id] for step_id in step_ids}


def _depth(step_id: int, upstream: dict[int, list[int]], depths: dict[int, int]) -> int:
    if step_id not in depths:
        depths[step_id] = 0  # `apply` refuses cycles
        depths[step_id] = 1 + max(
            (_depth(u, upstream, depths) for u in upstream.get(step_id, ())), default=-1
        )
    return depths[step_id]
