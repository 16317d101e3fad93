"""All that a decision on sub-groups reads, put together. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.companions import Chosen
from ccatwm.core.exclusions import Excluded
from ccatwm.core.gap import Acceptance, Member, Request, RunFacts, SubGroupView, earlier_to_compare
from ccatwm.core.model import ResolvedStep, RunInput
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb.exclusions import why_excluded
from ccatwm.edges.opsdb.stores import runs, sub_groups
from ccatwm.edges.opsdb.stores.companions import choose_companions
from ccatwm.edges.opsdb.stores.exclusions import list_acceptances, versions_behind
from ccatwm.edges.opsdb.stores.steps import StepRecord
from ccatwm.edges.opsdb.stores.sub_groups import Feed, SubGroupRow


def build_views(
    connection: sa.Connection, step: StepRecord, rows: Sequence[SubGroupRow], excluded: Excluded, now: datetime
) -> dict[int, SubGroupView]:
    """Everything that decisions on these sub-groups read, by a bounded number of queries."""
    if excluded:
        step = _without_versions(step, excluded)
    keys = [row.key for row in rows]
    members = sub_groups.list_members(connection, step.scope_id, keys)
    names = {key: {m.name for m in found} for key, found in members.items()}
    feeds = sub_groups.list_feeds(connection, step, keys, now)
    if excluded:
        feeds = _without_excluded(connection, step, feeds, excluded)
    fed = sub_groups.list_feeding_products(connection, [f for fs in feeds.values() for f in fs], names)
    facts = runs.list_run_facts(connection, [row.id for row in rows])
    compared = {row.id: _compared_run(row, facts[row.id]) for row in rows}
    compared_ids = sorted({run_id for run_id in compared.values() if run_id is not None})
    inputs = runs.list_inputs(connection, compared_ids)
    frozen = {run.id: run.resolved_step for run in runs.get_runs(connection, compared_ids).values()}
    if excluded:
        completed = [run.id for found in facts.values() for run in found if run.status is RunStatus.COMPLETED]
        stands_on = sub_groups.packages_of_runs(connection, completed)
        members = {key: _marked_members(step, found, excluded) for key, found in members.items()}
        behind = versions_behind(connection, completed) if excluded.versions else {}
        facts = {group: _marked_runs(step, found, excluded, stands_on, behind) for group, found in facts.items()}
    companions = choose_companions(connection, step.companions, members, excluded)
    accepted = list_acceptances(connection, [row.id for row in rows])
    views = {
        row.id: _view(now, step, row, members[row.key], feeds[row.key], fed.get(row.key, []), facts[row.id],
                      compared[row.id], inputs, frozen, accepted.get(row.id, {}), companions[row.key])
        for row in rows
    }  # fmt: skip
    return _with_earlier_inputs(connection, views)


def _with_earlier_inputs(connection: sa.Connection, views: Mapping[int, SubGroupView]) -> dict[int, SubGroupView]:
    """The inputs of earlier runs, too, where one of these may do: by one query for all of the views."""
    wanted = {group: found for group, view in views.items() if (found := earlier_to_compare(view))}
    if not wanted:
        return dict(views)
    inputs = runs.list_inputs(connection, sorted({run_id for found in wanted.values() for run_id in found}))
    return {
        group: replace(view, earlier_inputs={run_id: inputs[run_id] for run_id in wanted.get(group, ())})
        for group, view in views.items()
    }


def _compared_run(row: SubGroupRow, facts: Sequence[RunFacts]) -> int | None:
    """The run with which what is wanted is compared: the current one, else the newest."""
    return row.current_run_id if row.current_run_id is not None else next((run.id for run in reversed(facts)), None)


def _without_versions(step: StepRecord, excluded: Excluded) -> StepRecord:
    """The step as if the excluded versions of its software were not there."""
    kept = tuple(v for v in step.versions if not excluded.version(step.pipeline, v.software, v.version))
    return replace(step, versions=kept, excluded_versions=tuple(v.version for v in step.versions if v not in kept))


def _without_excluded(
    connection: sa.Connection, step: StepRecord, feeds: Mapping[str, Sequence[Feed]], excluded: Excluded
) -> dict[str, list[Feed]]:
    """What is excluded for this pipeline alone feeds others still: of their steps' products it sees those no more."""
    found = [feed for fs in feeds.values() for feed in fs if feed.upstream.pipeline != step.pipeline]
    runs = {feed.current_run_id: step.pipeline for feed in found if feed.current_run_id is not None}
    out = {run for run, why in why_excluded(connection, excluded, runs).items() if why is not None} if runs else set()
    return {key: [_emptied(feed) if feed.current_run_id in out else feed for feed in fs] for key, fs in feeds.items()}


def _emptied(feed: Feed) -> Feed:
    return replace(feed, group=replace(feed.group, has_product=False, removed=False), current_run_id=None)


def _marked_members(step: StepRecord, members: Sequence[Member], excluded: Excluded) -> list[Member]:
    return [m._replace(excluded=excluded.package(step.pipeline, m.package_id)) for m in members]


def _marked_runs(
    step: StepRecord,
    facts: Sequence[RunFacts],
    excluded: Excluded,
    stands_on: Mapping[int, Sequence[str]],
    behind: Mapping[int, Collection[tuple[str, str]]],
) -> list[RunFacts]:
    """Runs that are excluded, that were made by an excluded version, or that stand on excluded packages or on what an
    excluded version made.
    """
    return [
        replace(
            run,
            excluded=excluded.run(step.pipeline, run.id, run.software, run.version, stands_on.get(run.id, ()),
                                  behind.get(run.id, ())),
            excluded_itself=excluded.names_run(step.pipeline, run.id),
        )
        for run in facts
    ]  # fmt: skip


def _view(
    now: datetime,
    step: StepRecord,
    row: SubGroupRow,
    members: Sequence[Any],
    feeds: Sequence[Feed],
    products: Sequence[RunInput],
    facts: Sequence[RunFacts],
    compared: int | None,
    inputs: Mapping[int, Sequence[RunInput]],
    frozen: Mapping[int, ResolvedStep],
    accepted: Mapping[str, Acceptance],
    companions: Sequence[Chosen],
) -> SubGroupView:
    made_as = frozen.get(compared) if compared is not None else None
    return SubGroupView(
        now=now,
        policy=step.policy,
        created_at=row.created_at,
        round_at=row.round_at or now,
        members=members,
        upstream=[feed.group for feed in feeds],
        products=products,
        references=step.references,
        versions=step.versions,
        runs=facts,
        current_run_id=row.current_run_id,
        compared_inputs=inputs.get(compared, ()) if compared is not None else (),
        compared_config=dict(made_as.config) if made_as is not None else None,
        compared_environment=dict(made_as.environment) if made_as is not None else None,
        stale=row.stale,
        input_changed_at=row.input_changed_at,
        request=_request(row),
        held=row.held or step.held,
        tripped=step.tripped,
        accepted=accepted,
        excluded_versions=step.excluded_versions,
        fixed=step.fixed_parts,
        companions=companions,
        without=(row.details or {}).get("without", ()),
    )


def _request(row: SubGroupRow) -> Request | None:
    if row.requested is None:
        return None
    asked = row.requested
    return Request(
        str(asked.get("reason", "requested")),
        str(asked.get("text") or ""),
        bool(asked.get("force")),
    )
