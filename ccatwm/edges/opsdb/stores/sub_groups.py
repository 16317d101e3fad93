"""Sub-groups, their members and what feeds them. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED, SETTLED, WANTED_CHANGED, Member, Outcome, UpstreamGroup
from ccatwm.core.model import InputKind, InputRole, ProductType, RunInput
from ccatwm.core.states import OPEN
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.bulk import insert_rows, json_text, update_rows
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.edges.opsdb.stores.due import mark_downstream_due as mark_downstream_due
from ccatwm.edges.opsdb.stores.due import mark_due as mark_due
from ccatwm.edges.opsdb.stores.due import mark_fed_due as mark_fed_due
from ccatwm.edges.opsdb.stores.due import mark_where_due, round_of_opened
from ccatwm.edges.opsdb.stores.steps import StepRecord, Upstream

sub_group = t.sub_group
member = t.sub_group_member
runs = t.executed_reduction_step
# Products that feed a downstream step and are part of its recipe.
FEEDING_TYPES = (ProductType.SCIENCE.value, ProductType.INTERMEDIATE.value)


@dataclass(frozen=True)
class Scope:
    """One data grouping under one group_by."""

    id: int
    name: str  # of the data grouping
    rules: Any
    digest: str
    group_by: Any
    resolved_digest: str | None
    progress: dict[str, Any] | None  # how far a full comparison has come: rules' digest, phase, after, fresh


@dataclass(frozen=True)
class SubGroupRow:
    """A sub-group as read by `resolve`."""

    id: int
    key: str
    dims: Mapping[str, Any]
    created_at: datetime
    due_at: datetime | None
    round_at: datetime | None
    input_changed_at: datetime | None
    decision: int
    outcome: str | None
    current_run_id: int | None
    stale: str | None
    held: str | None
    requested: Mapping[str, Any] | None
    asked: bool
    reason: str | None
    details: Mapping[str, Any] | None
    wanted_recipe: str | None
    current_decision: int


# --- scopes and members -----------------------------------------------------------------------------------------


def list_scopes(connection: sa.Connection) -> list[Scope]:
    """Those that a step or one of its companions uses; `apply` has others grouped anew before they are used again."""
    grouping = t.data_grouping
    columns = (t.grouping_scope, grouping.c.name, grouping.c.filter_rules, grouping.c.digest)
    query = sa.select(*columns).join(grouping, grouping.c.id == t.grouping_scope.c.data_grouping_id)
    scope_id, step, companion = t.grouping_scope.c.id, t.reduction_step.c, t.step_companion.c
    used = sa.or_(
        sa.exists().where(step.scope_id == scope_id),
        sa.exists().where(sa.or_(companion.scope_id == scope_id, companion.target_scope_id == scope_id)),
    )
    return [
        Scope(row.id, row.name, row.filter_rules, row.digest, row.group_by, row.resolved_digest, row.progress)
        for row in connection.execute(query.where(used).order_by(scope_id))
    ]


def list_member_rows(
    connection: sa.Connection, scope_id: int, package_ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Member rows of a scope by package id."""
    found: dict[str, dict[str, Any]] = {}
    for chunk in chunks(list(package_ids)):
        query = sa.select(member).where(member.c.scope_id == scope_id, member.c.package_id.in_(chunk))
        found |= {row["package_id"]: dict(row) for row in connection.execute(query).mappings()}
    return found


def list_member_ids(
    connection: sa.Connection, scope_id: int, after: int, limit: int
) -> list[tuple[int, str]]:
    """(row id, package id) of a scope's members, for paging."""
    query = sa.select(member.c.id, member.c.package_id).where(
        member.c.scope_id == scope_id, member.c.id > after
    )
    return [(row.id, row.package_id) for row in connection.execute(query.order_by(member.c.id).limit(limit))]


def write_members(
    connection: sa.Connection, scope_id: int, *, remove: Sequence[int], insert: Sequence[Mapping[str, Any]]
) -> None:
    """Remove member rows by their ids, and insert new ones."""
    for chunk in chunks(list(remove)):
        connection.execute(sa.delete(member).where(member.c.id.in_(chunk)))
    dims = {row["key"]: row["dims"] for row in insert}
    texts = {key: json_text(value) for key, value in dims.items()}
    values = itemgetter(*_MEMBER_COLUMNS)
    insert_rows(
        connection, member, ("scope_id", "dims", *_MEMBER_COLUMNS),
        ((scope_id, texts[row["key"]], *values(row)) for row in insert),
    )  # fmt: skip


_MEMBER_COLUMNS = tuple(c.name for c in member.columns if c.name not in ("id", "scope_id", "dims"))


def has_members(connection: sa.Connection, scope_id: int) -> bool:
    query = sa.select(member.c.id).where(member.c.scope_id == scope_id).order_by(member.c.key).limit(1)
    return connection.execute(query).first() is not None


def record_progress(connection: sa.Connection, scope_id: int, progress: Mapping[str, Any] | None) -> None:
    """How far a full comparison of the scope has come."""
    scope = t.grouping_scope
    connection.execute(sa.update(scope).where(scope.c.id == scope_id).values(progress=progress))


def settle_scope(connection: sa.Connection, scope_id: int, digest: str) -> None:
    """The members of the scope stand for the rules with this digest."""
    scope = t.grouping_scope
    connection.execute(
        sa.update(scope).where(scope.c.id == scope_id).values(resolved_digest=digest, progress=None)
    )


# --- falling due ----------------------------------------------------------------------------------------------------


def mark_keys_due(connection: sa.Connection, scope_id: int, keys: Mapping[str, Any], now: datetime) -> None:
    """The sub-groups of every step of a scope with these keys (key -> dims) fall due; missing ones are made."""
    for step_id, chunk, known in _known_keys(connection, scope_id, keys):
        _insert_new(connection, step_id, [(key, keys[key]) for key in chunk if key not in known], now)
        if known:
            where = sa.and_(sub_group.c.step_id == step_id, sub_group.c.key.in_(sorted(known)))
            mark_where_due(connection, where, now, input_changed_at=now)


def step_locations(connection: sa.Connection, scope_id: int) -> dict[int, str]:
    """The steps of a scope, and the processing location that each belongs to."""
    step, pipeline = t.reduction_step, t.pipeline
    query = sa.select(step.c.id, pipeline.c.processing_location).join(pipeline, pipeline.c.id == step.c.pipeline_id)
    return {row[0]: row[1] for row in connection.execute(query.where(step.c.scope_id == scope_id))}


def step_names(connection: sa.Connection, scope_id: int) -> list[str]:
    """`pipeline/step` of the steps of a scope."""
    step, pipeline = t.reduction_step, t.pipeline
    query = sa.select(pipeline.c.name, step.c.name).join(pipeline, pipeline.c.id == step.c.pipeline_id)
    rows = connection.execute(query.where(step.c.scope_id == scope_id))
    return sorted(f"{row[0]}/{row[1]}" for row in rows)


def add_missing(connection: sa.Connection, scope_id: int, keys: Mapping[str, Any], now: datetime) -> None:
    """Sub-groups of steps that were defined after the members of these keys (key -> dims) had been found."""
    for step_id, chunk, known in _known_keys(connection, scope_id, keys):
        _insert_new(connection, step_id, [(key, keys[key]) for key in chunk if key not in known], now)


def _known_keys(
    connection: sa.Connection, scope_id: int, keys: Collection[str]
) -> Iterator[tuple[int, Sequence[str], set[str]]]:
    """(step, a chunk of the keys, those of the chunk that are sub-groups of the step) for every step of the scope."""
    step = t.reduction_step
    steps = connection.execute(sa.select(step.c.id).where(step.c.scope_id == scope_id)).scalars().all()
    for step_id in steps:
        for chunk in chunks(sorted(keys)):
            query = sa.select(sub_group.c.key).where(
                sub_group.c.step_id == step_id, sub_group.c.key.in_(chunk)
            )
            yield step_id, chunk, set(connection.execute(query).scalars())


def _insert_new(
    connection: sa.Connection, step_id: int, keys: Sequence[tuple[str, Any]], now: datetime
) -> None:
    """New sub-groups of a step, by key and dims, to be looked at."""
    rows = [(step_id, key, json_text(dims), now, now, now, now) for key, dims in keys]
    columns = ("step_id", "key", "dims", "created_at", "due_at", "round_at", "input_changed_at")
    insert_rows(connection, sub_group, columns, rows)


def mark_asked(connection: sa.Connection, step_id: int, now: datetime) -> None:
    """A tick opens the sub-groups that are due: those that have to wait stay asked for, and for no backfill."""
    connection.execute(
        sa.update(sub_group)
        .where(sub_group.c.step_id == step_id, sub_group.c.due_at <= now)
        .values(asked=True, backfill_id=None, round_at=round_of_opened(now))
    )


def mark_step_due(
    connection: sa.Connection, step_id: int, now: datetime, key: str | None = None, **changes: Any
) -> int:
    """All sub-groups of a step (or the one with `key`) are to be looked at; returns how many."""
    where = sub_group.c.step_id == step_id
    return mark_where_due(
        connection, where if key is None else sa.and_(where, sub_group.c.key == key), now, **changes
    )


# --- reading for a decision -----------------------------------------------------------------------------------------


def list_due(
    connection: sa.Connection, step_id: int, now: datetime, limit: int, *, only_asked: bool = False
) -> list[SubGroupRow]:
    """Sub-groups of a step to be looked at, locked against being marked meanwhile (PostgreSQL).

    `only_asked`: those that a person or a tick opened.
    """
    query = (
        sa.select(sub_group)
        .where(sub_group.c.step_id == step_id, sub_group.c.due_at <= now)
        .order_by(sub_group.c.id)
        .limit(limit)
        .with_for_update()
    )
    if only_asked:
        query = query.where(sub_group.c.asked)
    return rows_of(connection, query)


def list_after(
    connection: sa.Connection, step_id: int, after: int, limit: int, key: str | None = None, *, lock: bool = False
) -> list[SubGroupRow]:
    """A page of the sub-groups of a step, or the one with `key`. `lock`: nobody decides on them meanwhile (PostgreSQL)."""
    query = sa.select(sub_group).where(sub_group.c.step_id == step_id, sub_group.c.id > after)
    if key is not None:
        query = query.where(sub_group.c.key == key)
    query = query.order_by(sub_group.c.id).limit(limit)
    return rows_of(connection, query.with_for_update() if lock else query)


def rows_of(connection: sa.Connection, query: sa.Select[Any]) -> list[SubGroupRow]:
    """What a query for sub-groups finds."""
    return [
        SubGroupRow(
            r.id, r.key, r.dims, r.created_at, r.due_at, r.round_at, r.input_changed_at, r.decision, r.outcome,
            r.current_run_id, r.stale, r.held, r.requested, r.asked, r.reason, r.details, r.wanted_recipe,
            r.current_decision,
        )
        for r in connection.execute(query)
    ]  # fmt: skip


def list_members(connection: sa.Connection, scope_id: int, keys: Collection[str]) -> dict[str, list[Member]]:
    """The members of sub-groups by key."""
    found: dict[str, list[Member]] = {key: [] for key in keys}
    for chunk in chunks(sorted(keys)):
        query = sa.select(*_MEMBER_FACTS).where(member.c.scope_id == scope_id, member.c.key.in_(chunk))
        for row in connection.execute(query).all():
            found[row[0]].append(Member(*row[1:]))
    return found


_MEMBER_FACTS = (
    member.c.key, member.c.package_id, member.c.package_name, member.c.checksum, member.c.size_bytes, member.c.state,
    member.c.ended, member.c.observed_at, member.c.executed_obs_unit_id,
)  # fmt: skip


@dataclass(frozen=True)
class Feed:
    """An upstream sub-group that feeds the sub-group with `key`."""

    key: str
    group: UpstreamGroup
    current_run_id: int | None
    upstream: Upstream


def list_feeds(
    connection: sa.Connection, step: StepRecord, keys: Collection[str], now: datetime
) -> dict[str, list[Feed]]:
    """What feeds sub-groups: upstream sub-groups whose sets of packages intersect with theirs."""
    found: dict[str, list[Feed]] = {key: [] for key in keys}
    for upstream in step.upstream:
        rows = _feeding_rows(connection, step.scope_id, upstream, keys)
        opened = _open_statuses(connection, {row.id for row in rows})
        removed = removed_runs(connection, {row.current_run_id for row in rows if row.current_run_id is not None})
        for row in rows:
            group = _upstream_group(row, upstream, opened.get(row.id), now, row.current_run_id in removed)
            current = row.current_run_id if group.has_product else None
            found[row.down_key].append(Feed(row.down_key, group, current, upstream))
    return found


def _feeding_rows(
    connection: sa.Connection, scope_id: int, upstream: Upstream, keys: Collection[str]
) -> list[Any]:
    here, there = member.alias("here"), member.alias("there")
    rows: list[Any] = []
    for chunk in chunks(sorted(keys)):
        query = (
            sa.select(
                here.c.key.label("down_key"), sub_group.c.id, sub_group.c.key, sub_group.c.created_at,
                sub_group.c.outcome, sub_group.c.due_at, sub_group.c.current_run_id, sub_group.c.decision,
                sub_group.c.current_decision, sub_group.c.stale,
            )
            .select_from(here)
            .join(there, sa.and_(there.c.package_id == here.c.package_id, there.c.scope_id == upstream.scope_id))
            .join(sub_group, sa.and_(sub_group.c.step_id == upstream.step_id, sub_group.c.key == there.c.key))
            .where(here.c.scope_id == scope_id, here.c.key.in_(chunk))
            .distinct()
            .order_by(here.c.key, sub_group.c.id)
        )  # fmt: skip
        rows += connection.execute(query).all()
    return rows


def _open_statuses(connection: sa.Connection, sub_group_ids: Collection[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks(sorted(sub_group_ids)):
        query = sa.select(runs.c.sub_group_id, runs.c.status).where(
            runs.c.sub_group_id.in_(chunk), runs.c.is_open, sa.not_(runs.c.trial)
        )
        found |= {row.sub_group_id: row.status for row in connection.execute(query)}
    return found


def removed_runs(connection: sa.Connection, run_ids: Collection[int]) -> set[int]:
    """Of these runs those whose files were removed."""
    product = t.data_product
    found: set[int] = set()
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(product.c.run_id).where(
            product.c.run_id.in_(chunk), product.c.status != "present", product.c.status == "removed"
        )  # both: the one is the condition of the index
        found |= set(connection.execute(query.distinct()).scalars())
    return found


def _upstream_group(
    row: Any, upstream: Upstream, open_status: str | None, now: datetime, removed: bool
) -> UpstreamGroup:
    """A step by cron or by hand is not decided on again when its run ends: its run itself tells."""
    to_be_looked_at = upstream.continuous and row.due_at is not None and row.due_at <= now
    ended = open_status is None and row.outcome == "run"
    failed = row.outcome in ("failed", "cancelled") or (ended and row.current_decision < row.decision)
    return UpstreamGroup(
        pipeline=upstream.pipeline,
        step=upstream.step,
        sub_group=row.key,
        known_at=row.created_at,
        state=open_status or row.outcome or "not decided yet",
        settled=open_status is None and not to_be_looked_at and (row.outcome in SETTLED or ended),
        failed=open_status is None and failed,
        # What was made from inputs that were all withdrawn, or are excluded, feeds nobody any more.
        has_product=row.current_run_id is not None
        and row.outcome != "no-inputs"
        and not (row.stale or "").startswith(EXCLUDED),
        id=row.id,
        removed=removed,
        enabled=upstream.enabled,
    )


def list_feeding_products(
    connection: sa.Connection, feeds: Iterable[Feed], member_names: Mapping[str, Collection[str]]
) -> dict[str, list[RunInput]]:
    """Current products (SCIENCE and INTERMEDIATE) of upstream sub-groups, as inputs by downstream key; also removed ones:
    what they were is known.

    `member_names`: the package names of each downstream sub-group; a product that stands on others too is `outside`.
    """
    feeds = [feed for feed in feeds if feed.current_run_id is not None]
    run_ids = sorted({feed.current_run_id for feed in feeds if feed.current_run_id is not None})
    products = _products_of(connection, run_ids)
    stands_on = _standing_of_runs(connection, run_ids)
    found: dict[str, list[RunInput]] = {}
    for feed in feeds:
        assert feed.current_run_id is not None
        standing = stands_on[feed.current_run_id]
        role = InputRole.MEMBER if standing.members <= set(member_names[feed.key]) else InputRole.OUTSIDE
        found.setdefault(feed.key, []).extend(
            _product_input(row, feed, role, standing) for row in products[feed.current_run_id]
        )
    return found


def _products_of(connection: sa.Connection, run_ids: Sequence[int]) -> dict[int, list[Any]]:
    product = t.data_product
    found: dict[int, list[Any]] = {run_id: [] for run_id in run_ids}
    for chunk in chunks(run_ids):
        query = sa.select(product).where(
            product.c.run_id.in_(chunk), product.c.type.in_(FEEDING_TYPES), product.c.status.in_(("present", "removed"))
        )
        for row in connection.execute(query.order_by(product.c.id)):
            found[row.run_id].append(row)
    return found


def _product_input(row: Any, feed: Feed, role: InputRole, standing: Standing) -> RunInput:
    return RunInput(
        kind=InputKind.PRODUCT,
        role=role,
        name=row.path,
        identity=str(row.id),
        checksum=f"sha256:{row.sha256}",
        size_bytes=row.size_bytes,
        upstream_run_id=row.run_id,
        upstream_pipeline=feed.upstream.pipeline,
        upstream_step=feed.upstream.step,
        upstream_sub_group=feed.group.sub_group,
        product_type=row.type,
        is_directory=row.is_directory,
        stands_on=standing.packages,
        companions=tuple(sorted(standing.companions - standing.members)),
    )


def packages_of_runs(connection: sa.Connection, run_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Names of the raw data packages that each run stands on, directly or through its input products."""
    return {run_id: standing.packages for run_id, standing in _standing_of_runs(connection, run_ids).items()}


@dataclass(frozen=True)
class Standing:
    """Names of the raw data packages that a run stands on: as members, and as companions."""

    members: set[str] = field(default_factory=set)
    companions: set[str] = field(default_factory=set)

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(sorted(self.members | self.companions))


def _standing_of_runs(connection: sa.Connection, run_ids: Sequence[int]) -> dict[int, Standing]:
    table = t.run_input
    found = {run_id: Standing() for run_id in run_ids}
    for chunk in chunks(run_ids):
        query = sa.select(table.c.run_id, table.c.kind, table.c.role, table.c.name, table.c.details).where(
            table.c.run_id.in_(chunk), table.c.kind.in_(["package", "product"])
        )
        for row in connection.execute(query):
            if row.kind == "package":
                companion = row.role == InputRole.COMPANION
                (found[row.run_id].companions if companion else found[row.run_id].members).add(row.name)
            else:
                companions = row.details.get("companions") or []
                found[row.run_id].companions.update(companions)
                found[row.run_id].members.update(set(row.details["stands_on"]) - set(companions))
    return found


# --- writing a decision ------------------------------------------------------------------------------------------------


def record_decisions(connection: sa.Connection, decisions: Mapping[int, Mapping[str, Any]]) -> None:
    """Columns to set of sub-groups, by id."""
    alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for sub_group_id, values in decisions.items():
        alike.setdefault(tuple(values), []).append((sub_group_id, *values.values()))
    for columns, rows in alike.items():
        update_rows(connection, sub_group, columns, rows)


def ask_again(connection: sa.Connection, sub_group_ids: Collection[int], text: str, now: datetime) -> None:
    """These sub-groups are to make again what was removed of them, unless they are asked for a run already."""
    for chunk in chunks(sorted(sub_group_ids)):
        query = sa.select(sub_group.c.id, sub_group.c.requested).where(sub_group.c.id.in_(chunk))
        free = [row.id for row in connection.execute(query.with_for_update()) if row.requested is None]
        request = {"reason": "requested", "text": text, "force": False, "actor": None, "removed": True}
        mark_where_due(connection, sub_group.c.id.in_(free), now, requested=request, asked=True)


def ask_no_more(connection: sa.Connection, sub_group_ids: Collection[int], now: datetime) -> None:
    """What was removed of them is there again: who asked for it is answered, and who waits is looked at."""
    for chunk in chunks(sorted(sub_group_ids)):
        query = sa.select(sub_group.c.id, sub_group.c.requested).where(sub_group.c.id.in_(chunk))
        asked = [row.id for row in connection.execute(query.with_for_update()) if (row.requested or {}).get("removed")]
        connection.execute(sa.update(sub_group).where(sub_group.c.id.in_(asked)).values(requested=sa.null(), asked=False))
    mark_downstream_due(connection, sub_group_ids, now, waiting_only=True)


def next_decision(connection: sa.Connection, sub_group_id: int) -> int:
    """The number of a decision that a person makes now."""
    query = sa.update(sub_group).where(sub_group.c.id == sub_group_id).values(decision=sub_group.c.decision + 1)
    return int(connection.execute(query.returning(sub_group.c.decision)).scalar_one())


def set_current_run(
    connection: sa.Connection, sub_group_id: int, run_id: int, decision: int, stale: str | None = None, *, now: datetime
) -> bool:
    """Make a completed run the current one unless a newer decision already has one; True if it did.

    Not what was wanted last, it is stale at once: a step by hand or by cron is not decided on when its run ends.
    """
    here = sa.and_(sub_group.c.id == sub_group_id, sub_group.c.current_decision < decision)
    before = sa.select(sub_group.c.current_run_id).where(here).scalar_subquery()
    connection.execute(sa.update(runs).where(runs.c.id == before).values(replaced_at=now))
    recipe = sa.select(runs.c.recipe).where(runs.c.id == run_id).scalar_subquery()
    as_decided = sa.case(
        (sub_group.c.outcome == Outcome.NO_INPUTS.value, "input-withdrawn"),
        (sub_group.c.wanted_recipe != recipe, WANTED_CHANGED),
        else_=None,
    )
    changed = connection.execute(
        sa.update(sub_group)
        .where(here)
        .values(
            current_run_id=run_id, current_decision=decision, stale=as_decided if stale is None else stale, latest_due=True
        )
    ).rowcount
    return bool(changed == 1)


OPEN_STATUSES = tuple(status.value for status in OPEN)
