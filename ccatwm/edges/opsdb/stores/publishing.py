"""Published sets. Touches: the ops-db."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

published = t.published_set
runs = t.executed_reduction_step
COLUMNS = (
    published.c.id.label("published_set"),
    published.c.name,
    published.c.products,
    published.c.doi,
    published.c.contact,
    published.c.note,
    published.c.actor,
    published.c.created_at,
)


def lock(connection: sa.Connection) -> None:
    """One person publishes at a time, until the end of this transaction."""
    connection.execute(sa.select(t.ops_db.c.uid).with_for_update())


def find_set(connection: sa.Connection, name: str) -> dict[str, Any] | None:
    row = connection.execute(sa.select(*COLUMNS).where(published.c.name == name)).mappings().first()
    return dict(row) if row is not None else None


def find_name_by_doi(connection: sa.Connection, doi: str) -> str | None:
    """The set that has a DOI."""
    name: str | None = connection.execute(sa.select(published.c.name).where(published.c.doi == doi).limit(1)).scalar()
    return name


def list_sets(connection: sa.Connection) -> list[dict[str, Any]]:
    """By name, with their frozen products."""
    return [dict(row) for row in connection.execute(sa.select(*COLUMNS).order_by(published.c.name)).mappings()]


def names_by_product(connection: sa.Connection) -> dict[int, list[str]]:
    """The sets that each published product is in."""
    found: dict[int, list[str]] = {}
    for row in list_sets(connection):
        for item in row["products"]:
            found.setdefault(item["product"], []).append(row["name"])
    return found


def list_set_names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(published.c.name).order_by(published.c.name)).scalars())


def insert_set(
    connection: sa.Connection, name: str, products: Sequence[Mapping[str, Any]], words: Mapping[str, str | None],
    *, actor: str, now: datetime,
) -> None:  # fmt: skip
    """`words`: doi, contact, note."""
    connection.execute(
        sa.insert(published).values(name=name, products=list(products), actor=actor, created_at=now, **words)
    )


def update_words(connection: sa.Connection, name: str, words: Mapping[str, str | None]) -> None:
    """`words`: doi, contact, note."""
    connection.execute(sa.update(published).where(published.c.name == name).values(**words))


def recipes_of_runs(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, tuple[str, bool]]:
    """(recipe, whether it is a trial) by run."""
    found: dict[int, tuple[str, bool]] = {}
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(runs.c.id, runs.c.recipe, runs.c.trial).where(runs.c.id.in_(chunk))
        found |= {row.id: (row.recipe, bool(row.trial)) for row in connection.execute(query)}
    return found


def current_runs_beside(connection: sa.Connection, run_ids: Collection[int]) -> dict[int, int | None]:
    """The current run of the sub-group of each of these runs; None where it has none."""
    group = t.sub_group
    found: dict[int, int | None] = {}
    for chunk in chunks(sorted(run_ids)):
        query = sa.select(runs.c.id, group.c.current_run_id).join(group, group.c.id == runs.c.sub_group_id)
        found |= {row.id: row.current_run_id for row in connection.execute(query.where(runs.c.id.in_(chunk)))}
    return found
