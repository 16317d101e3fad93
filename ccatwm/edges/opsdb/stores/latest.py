"""Which links `latest` have to be switched. Touches: the ops-db.

`sub_group.latest_due` is set in the transaction that changes which run counts, or whether its products are to be used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ccatwm.core.latest import LatestLink, is_usable
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

sub_group = t.sub_group
runs = t.executed_reduction_step


def list_links_due(connection: sa.Connection, location: str, limit: int) -> list[LatestLink]:
    """Links that may have to be switched at a processing location, as they have to be."""
    here = sa.func.coalesce(runs.c.processing_location, t.pipeline.c.processing_location) == location
    return _links(connection, _select_links().where(sub_group.c.latest_due, here).limit(limit))


def list_links(connection: sa.Connection, location: str, after: int, limit: int) -> list[LatestLink]:
    """Links at a processing location that are settled, as they have to be: of sub-groups above the number `after`."""
    here = sa.func.coalesce(runs.c.processing_location, t.pipeline.c.processing_location) == location
    query = _select_links().where(sub_group.c.id > after, sa.not_(sub_group.c.latest_due), here)
    return _links(connection, query.order_by(sub_group.c.id).limit(limit))


def list_links_of(
    connection: sa.Connection, location: str, sub_group_ids: Collection[int]
) -> tuple[list[LatestLink], list[LatestLink]]:
    """Links of these sub-groups, due or not: as they have to be here, and those that are another location's by now."""
    here, elsewhere = list[LatestLink](), list[LatestLink]()
    place = sa.func.coalesce(runs.c.processing_location, t.pipeline.c.processing_location)
    for chunk in chunks(sorted(sub_group_ids)):
        query = _select_links().where(sub_group.c.id.in_(chunk))
        here += _links(connection, query.where(place == location))
        elsewhere += _links(connection, query.where(place != location))
    return here, elsewhere


def mark_link_due(connection: sa.Connection, sub_group_ids: Collection[int]) -> None:
    """The disk says something else than it has to."""
    for chunk in chunks(sorted(sub_group_ids)):
        connection.execute(sa.update(sub_group).where(sub_group.c.id.in_(chunk)).values(latest_due=True))


def settle_links(connection: sa.Connection, switched: Sequence[LatestLink]) -> int:
    """These links are as was said; how many still have to be so.

    What changed meanwhile stays due, also where somebody else has settled it since: a process that was stopped for long
    may have switched the link back.
    """
    settled = 0
    for chunk in chunks([link.sub_group_id for link in switched]):
        query = _select_links().where(sub_group.c.id.in_(chunk)).with_for_update(of=sub_group)
        now = set(_links(connection, query))
        good = [link.sub_group_id for link in switched if link in now]
        connection.execute(sa.update(sub_group).where(sub_group.c.id.in_(good)).values(latest_due=False))
        others = sorted(set(chunk) - set(good))
        connection.execute(sa.update(sub_group).where(sub_group.c.id.in_(others)).values(latest_due=True))
        settled += len(good)
    return settled


def mark_links_due(connection: sa.Connection, run_ids: Collection[int]) -> None:
    """Products of these runs came or went: whether a link may lead there is to be looked at."""
    for chunk in chunks(sorted(run_ids)):
        due = sa.update(sub_group).where(sub_group.c.current_run_id.in_(chunk)).values(latest_due=True)
        connection.execute(due)


def mark_all_links_due(connection: sa.Connection) -> None:
    """The disk may say anything: the ops-db was restored to an older state."""
    connection.execute(sa.update(sub_group).values(latest_due=True))


def _select_links() -> sa.Select[Any]:
    step, pipeline, product = t.reduction_step, t.pipeline, t.data_product
    present = sa.exists().where(product.c.run_id == sub_group.c.current_run_id, product.c.status == "present")
    columns = (sub_group.c.id, pipeline.c.name, step.c.name, sub_group.c.key, sub_group.c.current_run_id, sub_group.c.stale)
    return (
        sa.select(*columns, present)
        .join(step, step.c.id == sub_group.c.step_id)
        .join(pipeline, pipeline.c.id == step.c.pipeline_id)
        .outerjoin(runs, runs.c.id == sub_group.c.current_run_id)
    )


def _links(connection: sa.Connection, query: sa.Select[Any]) -> list[LatestLink]:
    return [
        LatestLink(id_, pipeline, step, key, run_id if present and is_usable(stale) else None)
        for id_, pipeline, step, key, run_id, stale, present in connection.execute(query)
    ]
