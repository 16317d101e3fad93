"""Definitions in the ops-db: each `put_` makes a row as it should be and says what it changed. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import PackageState
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

APPLY_LOCK = 0x63636174  # any number that nobody else locks


@dataclass
class Known:
    """What the ops-db has already, by name."""

    software: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # name -> version -> row
    references: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    groupings: dict[str, Any] = field(default_factory=dict)  # name -> filter_rules
    pipelines: dict[str, str] = field(default_factory=dict)  # name -> processing location
    steps: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # pipeline -> step -> depends_on


@dataclass(frozen=True)
class ConcernedStep:
    """A step that the next passes look at: its resources, and the keys of its sub-groups that fall due.

    `raw_inputs`: whether it reads raw data packages.
    """

    id: int
    resources: dict[str, Any]
    keys: frozenset[str]
    raw_inputs: bool = True


@dataclass(frozen=True)
class Concerned:
    """A scope of steps that the next passes look at."""

    scope_id: int
    filter_rules: Any
    group_by: Any
    steps: tuple[ConcernedStep, ...]


def read_known(connection: sa.Connection) -> Known:
    """Everything that new definitions may refer to."""
    known = Known()
    version, software = t.reduction_software_version, t.reduction_software
    for row in connection.execute(
        sa.select(version, software.c.name).join(software, software.c.id == version.c.software_id)
    ).mappings():
        known.software.setdefault(row["name"], {})[row["version"]] = dict(row)
    for row in connection.execute(
        sa.select(t.reference_data_version, t.reference_data.c.name).join(
            t.reference_data, t.reference_data.c.id == t.reference_data_version.c.reference_id
        )
    ).mappings():
        known.references.setdefault(row["name"], {})[row["version"]] = dict(row)
    for row in connection.execute(
        sa.select(t.data_grouping.c.name, t.data_grouping.c.filter_rules).where(_said_by_people())
    ).mappings():
        known.groupings[row["name"]] = row["filter_rules"]
    for row in connection.execute(sa.select(t.pipeline.c.name, t.pipeline.c.processing_location)).mappings():
        known.pipelines[row["name"]] = row["processing_location"]
    query = sa.select(
        t.pipeline.c.name.label("pipeline"), t.reduction_step.c.name, t.reduction_step.c.definition
    ).join(t.reduction_step, t.reduction_step.c.pipeline_id == t.pipeline.c.id)
    for row in connection.execute(query).mappings():
        known.steps.setdefault(row["pipeline"], {})[row["name"]] = list(
            row["definition"].get("depends_on") or []
        )
    return known


def lock_and_read_known(connection: sa.Connection) -> Known:
    """The same, and nobody else applies before this transaction ends (on SQLite it is the only writer anyway)."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(APPLY_LOCK)))
    return read_known(connection)


def _get_or_insert(connection: sa.Connection, table: sa.Table, **values: Any) -> tuple[int, bool]:
    where = [table.c[name] == value for name, value in values.items()]
    found = connection.execute(sa.select(table.c.id).where(*where)).scalar()
    if found is not None:
        return int(found), False
    return int(connection.execute(sa.insert(table).values(**values).returning(table.c.id)).scalar_one()), True


def put_software_version(connection: sa.Connection, name: str, now: datetime, **values: Any) -> bool:
    """Add a version, or fill in an image digest that was not known; True if something changed."""
    software_id, _ = _get_or_insert(connection, t.reduction_software, name=name)
    table = t.reduction_software_version
    row = connection.execute(
        sa.select(table).where(table.c.software_id == software_id, table.c.version == values["version"])
    ).first()
    if row is None:
        connection.execute(sa.insert(table).values(software_id=software_id, created_at=now, **values))
        return True
    if row.image_digest is None and values.get("image_digest") is not None:
        connection.execute(
            sa.update(table).where(table.c.id == row.id).values(image_digest=values["image_digest"])
        )
        return True
    return False


def put_reference_version(connection: sa.Connection, name: str, now: datetime, **values: Any) -> bool:
    reference_id, _ = _get_or_insert(connection, t.reference_data, name=name)
    table = t.reference_data_version
    row = connection.execute(
        sa.select(table).where(table.c.reference_id == reference_id, table.c.version == values["version"])
    ).first()
    if row is None:
        connection.execute(sa.insert(table).values(reference_id=reference_id, created_at=now, **values))
        return True
    if row.checksum is None and values.get("checksum") is not None:
        connection.execute(sa.update(table).where(table.c.id == row.id).values(checksum=values["checksum"]))
        return True
    return False


def put_grouping(
    connection: sa.Connection, name: str, now: datetime, **values: Any
) -> tuple[dict[str, Any] | None, bool]:
    """(what it was, whether it changed)."""
    table = t.data_grouping
    row = connection.execute(sa.select(table).where(table.c.name == name)).mappings().first()
    if row is None:
        connection.execute(sa.insert(table).values(name=name, updated_at=now, **values))
        return None, True
    if all(row[key] == value for key, value in values.items()):
        return dict(row), False
    connection.execute(sa.update(table).where(table.c.id == row["id"]).values(updated_at=now, **values))
    return dict(row), True


def put_pipeline(connection: sa.Connection, name: str, now: datetime, *, grouping: str, actor: str, **values: Any) -> tuple[
    int, dict[str, Any] | None, bool
]:  # fmt: skip
    """(id, what it was, whether it changed)."""
    table = t.pipeline
    grouping_id = connection.execute(
        sa.select(t.data_grouping.c.id).where(t.data_grouping.c.name == grouping)
    ).scalar_one()
    values["data_grouping_id"] = grouping_id
    row = connection.execute(sa.select(table).where(table.c.name == name)).mappings().first()
    if row is None:
        query = (
            sa.insert(table)
            .values(name=name, created_by=actor, updated_at=now, **values)
            .returning(table.c.id)
        )
        return int(connection.execute(query).scalar_one()), None, True
    if all(row[key] == value for key, value in values.items()):
        return row["id"], dict(row), False
    connection.execute(sa.update(table).where(table.c.id == row["id"]).values(updated_at=now, **values))
    return row["id"], dict(row), True


def put_step(
    connection: sa.Connection,
    pipeline_id: int,
    name: str,
    now: datetime,
    *,
    grouping: str,
    group_by: list[Any],
    group_by_digest: str,
    software: str,
    config: dict[str, Any],
    config_digest: str,
    **values: Any,
) -> tuple[int, dict[str, Any] | None, bool]:
    """(id, what it was, whether it changed). A new step has its scope regrouped, so that its sub-groups are made."""
    table = t.reduction_step
    grouping_id = connection.execute(
        sa.select(t.data_grouping.c.id).where(t.data_grouping.c.name == grouping)
    ).scalar_one()
    values |= {
        "scope_id": _put_scope(connection, grouping_id, group_by, group_by_digest),
        "software_id": connection.execute(
            sa.select(t.reduction_software.c.id).where(t.reduction_software.c.name == software)
        ).scalar_one(),
        "config_id": _put_config(connection, config, config_digest, now),
        "oldest_first": values["definition"].get("order") == "oldest",
    }
    where = sa.and_(table.c.pipeline_id == pipeline_id, table.c.name == name)
    row = connection.execute(sa.select(table).where(where)).mappings().first()
    if row is None:
        query = (
            sa.insert(table)
            .values(pipeline_id=pipeline_id, name=name, updated_at=now, **values)
            .returning(table.c.id)
        )
        step_id = int(connection.execute(query).scalar_one())
        _regroup(connection, values["scope_id"])
        return step_id, None, True
    if all(row[key] == value for key, value in values.items()):
        return row["id"], dict(row), False
    if row["definition"].get("resources") != values["definition"].get("resources"):
        values["learned"] = None  # somebody thought about it: what was learned of the old ones is over
    if row["scope_id"] != values["scope_id"]:
        _regroup(connection, values["scope_id"])
    connection.execute(sa.update(table).where(table.c.id == row["id"]).values(updated_at=now, **values))
    return row["id"], dict(row), True


def _put_scope(connection: sa.Connection, grouping_id: int, group_by: list[Any], digest: str) -> int:
    table = t.grouping_scope
    where = sa.and_(table.c.data_grouping_id == grouping_id, table.c.group_by_digest == digest)
    found = connection.execute(sa.select(table.c.id).where(where)).scalar()
    if found is not None:
        return int(found)
    query = sa.insert(table).values(data_grouping_id=grouping_id, group_by=group_by, group_by_digest=digest)
    return int(connection.execute(query.returning(table.c.id)).scalar_one())


@dataclass(frozen=True)
class CompanionRow:
    """A companion of a step as `put_companions` wants it: `digest` of its rules, `group_by` what is the same."""

    name: str
    rules: list[Any]
    digest: str
    group_by: list[Any]
    group_by_digest: str


HIDDEN = "~"  # how the names of data groupings begin that no person defined


def _said_by_people() -> sa.ColumnElement[bool]:
    return sa.not_(t.data_grouping.c.name.startswith(HIDDEN))


def put_companions(
    connection: sa.Connection, step_id: int, grouping: str, companions: Sequence[CompanionRow], now: datetime
) -> None:
    """The companions of a step and their scopes; steps with the same rules and the same dimensions share them."""
    table = t.step_companion
    grouping_id = connection.execute(
        sa.select(t.data_grouping.c.id).where(t.data_grouping.c.name == grouping)
    ).scalar_one()
    wanted = []
    for position, item in enumerate(companions):
        hidden_id = _put_hidden_grouping(connection, item, now)
        scope_ids = [_put_scope(connection, n, item.group_by, item.group_by_digest) for n in (hidden_id, grouping_id)]
        for scope_id in scope_ids:
            if not _is_used(connection, scope_id):
                _regroup(connection, scope_id)
        wanted.append((item.name, position, *scope_ids))
    columns = (table.c.name, table.c.position, table.c.scope_id, table.c.target_scope_id)
    query = sa.select(*columns).where(table.c.step_id == step_id).order_by(table.c.position)
    if [tuple(row) for row in connection.execute(query)] == wanted:
        return
    connection.execute(sa.delete(table).where(table.c.step_id == step_id))
    if wanted:
        connection.execute(
            sa.insert(table), [{"step_id": step_id, **dict(zip(_LINKED, row, strict=True))} for row in wanted]
        )


_LINKED = ("name", "position", "scope_id", "target_scope_id")


def _put_hidden_grouping(connection: sa.Connection, item: CompanionRow, now: datetime) -> int:
    table, name = t.data_grouping, f"{HIDDEN}companion-{item.digest}"
    found = connection.execute(sa.select(table.c.id).where(table.c.name == name)).scalar()
    if found is not None:
        return int(found)
    query = sa.insert(table).values(name=name, filter_rules=item.rules, digest=item.digest, updated_at=now)
    return int(connection.execute(query.returning(table.c.id)).scalar_one())


def _is_used(connection: sa.Connection, scope_id: int) -> bool:
    """Whether the passes keep the members of a scope up to date."""
    step, link = t.reduction_step, t.step_companion
    users = (
        sa.select(step.c.id).where(step.c.scope_id == scope_id),
        sa.select(link.c.id).where(sa.or_(link.c.scope_id == scope_id, link.c.target_scope_id == scope_id)),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in users)


def _put_config(connection: sa.Connection, config: dict[str, Any], digest: str, now: datetime) -> int:
    table = t.reduction_step_config
    found = connection.execute(sa.select(table.c.id).where(table.c.digest == digest)).scalar()
    if found is not None:
        return int(found)
    query = sa.insert(table).values(digest=digest, data=config, created_at=now).returning(table.c.id)
    return int(connection.execute(query).scalar_one())


def _regroup(connection: sa.Connection, scope_id: int) -> None:
    connection.execute(
        sa.update(t.grouping_scope)
        .where(t.grouping_scope.c.id == scope_id)
        .values(resolved_digest=None, progress=None)
    )


def put_dependencies(connection: sa.Connection, step_id: int, upstream_ids: Sequence[int]) -> bool:
    """The upstream steps of a step; True if they changed."""
    table = t.reduction_step_dependency
    known = set(
        connection.execute(sa.select(table.c.upstream_step_id).where(table.c.step_id == step_id)).scalars()
    )
    if known == set(upstream_ids):
        return False
    connection.execute(sa.delete(table).where(table.c.step_id == step_id))
    if upstream_ids:
        connection.execute(
            sa.insert(table), [{"step_id": step_id, "upstream_step_id": u} for u in sorted(set(upstream_ids))]
        )
    return True


def step_ids(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """Step ids by (pipeline, step)."""
    query = sa.select(
        t.pipeline.c.name.label("pipeline"), t.reduction_step.c.name, t.reduction_step.c.id
    ).join(t.reduction_step, t.reduction_step.c.pipeline_id == t.pipeline.c.id)
    return {(row.pipeline, row.name): row.id for row in connection.execute(query)}


def known_role(connection: sa.Connection, pipeline: str, step: str) -> str | None:
    """The role fixed at the first apply."""
    query = (
        sa.select(t.reduction_step.c.role)
        .join(t.pipeline, t.pipeline.c.id == t.reduction_step.c.pipeline_id)
        .where(t.pipeline.c.name == pipeline, t.reduction_step.c.name == step)
    )
    return connection.execute(query).scalar()


def steps_using(
    connection: sa.Connection, *, software: str | None = None, reference: str | None = None
) -> list[int]:
    """Ids of steps that use a software or a reference."""
    step = t.reduction_step
    query = sa.select(step.c.id, step.c.definition, t.reduction_software.c.name).join(
        t.reduction_software, t.reduction_software.c.id == step.c.software_id
    )
    found = []
    for row in connection.execute(query):
        names = {str(r).partition("@")[0] for r in row.definition.get("references") or []}
        if row.name == software or (reference is not None and reference in names):
            found.append(row.id)
    return found


def list_groupings(connection: sa.Connection) -> list[dict[str, Any]]:
    """Data groupings by name: their rules, and the steps that use them."""
    grouping, scope, step = t.data_grouping, t.grouping_scope, t.reduction_step
    users = (
        sa.select(sa.func.count())
        .select_from(scope)
        .join(step, step.c.scope_id == scope.c.id)
        .where(scope.c.data_grouping_id == grouping.c.id)
        .scalar_subquery()
    )
    query = sa.select(grouping.c.name, grouping.c.description, grouping.c.filter_rules, users.label("steps"))
    query = query.where(_said_by_people()).order_by(grouping.c.name)
    return [dict(row) for row in connection.execute(query).mappings()]


def list_concerned(
    connection: sa.Connection, step_ids: Sequence[int], groupings: Sequence[str]
) -> list[Concerned]:
    """Scopes of enabled steps that may make runs when `step_ids` fall due and these data groupings have changed:
    those steps, the users of the groupings, and whatever depends on any of them.
    """
    step, scope, grouping = t.reduction_step, t.grouping_scope, t.data_grouping
    query = (
        sa.select(
            step.c.id,
            step.c.definition,
            step.c.scope_id,
            scope.c.group_by,
            grouping.c.name,
            grouping.c.filter_rules,
            sa.and_(step.c.enabled, t.pipeline.c.enabled).label("enabled"),
        )
        .join(scope, scope.c.id == step.c.scope_id)
        .join(grouping, grouping.c.id == scope.c.data_grouping_id)
        .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
        .order_by(step.c.id)
    )
    rows = connection.execute(query).all()
    concerned = _with_downstream(
        connection, {row.id for row in rows if row.id in step_ids or row.name in groupings}
    )
    found: dict[int, Concerned] = {}
    for row in rows:
        if row.id not in concerned or not row.enabled:
            continue
        keys = _known_keys(connection, row.id) if row.id in step_ids else frozenset()
        before = found[row.scope_id].steps if row.scope_id in found else ()
        steps = (*before, _concerned(row, keys))
        found[row.scope_id] = Concerned(row.scope_id, row.filter_rules, row.group_by, steps)
    return list(found.values())


def _concerned(row: Any, keys: frozenset[str]) -> ConcernedStep:
    return ConcernedStep(row.id, row.definition["resources"], keys, bool(row.definition.get("raw_inputs", True)))


def _with_downstream(connection: sa.Connection, step_ids: set[int]) -> set[int]:
    table = t.reduction_step_dependency
    pairs = connection.execute(sa.select(table.c.upstream_step_id, table.c.step_id)).all()
    found, new = set(step_ids), set(step_ids)
    while new:
        new = {down for up, down in pairs if up in new} - found
        found |= new
    return found


def grouped_packages(connection: sa.Connection, scope_id: int, package_ids: Sequence[str]) -> set[str]:
    """Those of `package_ids` that are members of the scope."""
    member = t.sub_group_member
    query = sa.select(member.c.package_id).where(member.c.scope_id == scope_id)
    return {
        package_id
        for chunk in chunks(list(package_ids))
        for package_id in connection.execute(query.where(member.c.package_id.in_(chunk))).scalars()
    }


@dataclass(frozen=True)
class DueSubGroup:
    """A sub-group with what a run of it takes. `raw_inputs`: whether its step reads raw data packages."""

    step_id: int
    scope_id: int
    key: str
    resources: dict[str, Any]
    raw_inputs: bool


def list_due(connection: sa.Connection, sub_group_ids: Collection[int]) -> list[DueSubGroup]:
    """These sub-groups, as far as their steps and pipelines are enabled."""
    step, group, owner = t.reduction_step, t.sub_group, t.pipeline
    query = (
        sa.select(step.c.id, step.c.scope_id, group.c.key, step.c.definition)
        .join(step, step.c.id == group.c.step_id)
        .join(owner, owner.c.id == step.c.pipeline_id)
        .where(step.c.enabled, owner.c.enabled)
    )
    found = (connection.execute(query.where(group.c.id.in_(chunk))) for chunk in chunks(sorted(sub_group_ids)))
    return [
        DueSubGroup(
            row.id, row.scope_id, row.key, row.definition.get("resources", {}), bool(row.definition.get("raw_inputs", True))
        )
        for rows in found
        for row in rows
    ]


def sum_member_bytes(
    connection: sa.Connection, readers: Collection[tuple[int, str]], without: Collection[str] = ()
) -> int:
    """Of the archived packages of these (scope, key), but not of those named `without`; what several read counts once."""
    member = t.sub_group_member
    query = sa.select(member.c.package_id, member.c.package_name, member.c.size_bytes)
    query = query.where(member.c.state == PackageState.ARCHIVED.value)
    sizes: dict[str, int] = {}
    for scope_id in {scope_id for scope_id, _ in readers}:
        keys = sorted(key for of_scope, key in readers if of_scope == scope_id)
        for chunk in chunks(keys):
            for row in connection.execute(query.where(member.c.scope_id == scope_id, member.c.key.in_(chunk))):
                sizes[row.package_id] = 0 if row.package_name in without else row.size_bytes or 0
    return sum(sizes.values())


def _known_keys(connection: sa.Connection, step_id: int) -> frozenset[str]:
    query = sa.select(t.sub_group.c.key).where(t.sub_group.c.step_id == step_id)
    return frozenset(connection.execute(query).scalars())


def disable_others(connection: sa.Connection, keep: set[tuple[str, str]], now: datetime) -> list[str]:
    """Disable pipelines and steps that are not among `keep`; what was disabled."""
    pipelines = {pipeline for pipeline, _ in keep}
    disabled = []
    for row in connection.execute(
        sa.select(t.pipeline.c.id, t.pipeline.c.name).where(t.pipeline.c.enabled)
    ).all():
        if row.name not in pipelines:
            connection.execute(
                sa.update(t.pipeline).where(t.pipeline.c.id == row.id).values(enabled=False, updated_at=now)
            )
            disabled.append(f"pipeline {row.name}")
    step = t.reduction_step
    query = (
        sa.select(step.c.id, step.c.name, t.pipeline.c.name.label("pipeline"))
        .join(t.pipeline, t.pipeline.c.id == step.c.pipeline_id)
        .where(step.c.enabled)
    )
    for found in connection.execute(query).all():
        if found.pipeline in pipelines and (found.pipeline, found.name) not in keep:
            connection.execute(
                sa.update(step).where(step.c.id == found.id).values(enabled=False, updated_at=now)
            )
            disabled.append(f"step {found.pipeline}/{found.name}")
    return disabled
