"""Freezes products under a name: what is published is never replaced. Touches: the ops-db, records of sets on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ccatwm.core.publishing import WORDS, Named, check_members, freeze, read_asked
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.exclusions import find_excluded, why_excluded
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import publishing as store
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.errors import Problem, UsageError
from ccatwm.upkeep.exclude import Act
from ccatwm.upkeep.set_records import SetRecords, taken_error


def publish(
    database: Database, grouping: GroupingEngine, name: str, texts: Sequence[str], words: Mapping[str, str], act: Act,
    records: SetRecords | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Publish products as the set `name`; of a set that is there, change `words` (doi, contact, note) alone.

    Its record follows in `records`. Saying the same again does nothing but that. Returns the set as it is kept.

    Errors: UsageError, with all mistakes at once, for what is no name, product, DOI or address; for a DOI of another set;
    for products that are not there, gone, excluded or of trials; for those that are not current or stale without
    `act.yes`; for other products under a name that is taken; for one that is taken by a record which the ops-db does not
    know.
    """
    asked = read_asked(name, texts, words)
    recorded = records.find(name) if records is not None and not asked.problems else None
    with database.write() if not act.dry_run else database.read() as connection:
        if not act.dry_run:
            store.lock(connection)
        known = store.find_set(connection, name)
        if known is None and recorded is not None:
            raise taken_error(name, recorded)
        if known is None and not texts and not asked.problems:
            raise UsageError(f"no products are named for {name}", next="`ccatwm products` lists them")
        members = _read_members(connection, asked.named) if texts else []
        problems = [*asked.problems]
        doi = asked.words.get("doi")
        if doi is not None and (known is None or known["doi"] != doi):
            problems += _doi_problems(connection, doi)
        if known is None:
            problems += _problems(connection, grouping, asked.named, members, act)
        if problems:
            raise UsageError("nothing was published" if known is None else f"{name} stays as it is", problems=problems)
        if known is not None and texts and _numbers(members) != _numbers(known["products"]):
            raise UsageError(
                f"{name} is published with other products, and stays as it is",
                next=f"`ccatwm publish {name}` shows them; publish these under another name",
            )
        kept = {
            "name": name, "products": [freeze(row) for row in members], "doi": None, "contact": None, "note": None,
            "actor": act.actor, "created_at": act.now, **(known or {}), **asked.words,
        }  # fmt: skip
        if not act.dry_run and (known is None or any(known[key] != word for key, word in asked.words.items())):
            _write(connection, kept, act, new=known is None)
    if records is not None and not act.dry_run:
        records.keep(kept, asked.words)
    return kept


def _doi_problems(connection: sa.Connection, doi: str) -> list[Problem]:
    """A DOI leads to one set."""
    other = store.find_name_by_doi(connection, doi)
    if other is None:
        return []
    next = f"give another one; `ccatwm publish {other} --doi ''` takes it away there"
    return [Problem("--doi", f"{doi} is that of {other}", next)]


def _write(connection: sa.Connection, kept: Mapping[str, Any], act: Act, *, new: bool) -> None:
    words = {key: kept[key] for key in WORDS}
    if new:
        store.insert_set(connection, kept["name"], kept["products"], words, actor=act.actor, now=act.now)
    else:
        store.update_words(connection, kept["name"], words)
    record_change(
        connection, at=act.now, actor=act.actor, host=act.host, act="publish", target=kept["name"], reason=kept["note"],
        details={**words, "products": sorted(_numbers(kept["products"]))},
    )  # fmt: skip


def _numbers(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    return {int(row["product"]) for row in rows}


def _read_members(connection: sa.Connection, named: Named) -> list[dict[str, Any]]:
    """By number, with the recipe of their run."""
    rows = {**views.list_products_by_id(connection, named.products)}
    rows |= {row["product"]: row for row in views.list_products_of_runs(connection, named.runs)}
    made = store.recipes_of_runs(connection, {row["run"] for row in rows.values()})
    return [
        {**rows[number], "recipe": made[rows[number]["run"]][0], "trial": made[rows[number]["run"]][1]}
        for number in sorted(rows)
    ]


def _problems(
    connection: sa.Connection,
    grouping: GroupingEngine,
    named: Named,
    members: Sequence[Mapping[str, Any]],
    act: Act,
) -> list[Problem]:
    """What is wrong with the products of a new set."""
    pipelines = {row["run"]: row["pipeline"] for row in members}
    why = why_excluded(connection, find_excluded(connection, grouping, act.now), pipelines)
    trials = [row["run"] for row in members if row["trial"]]
    forbidden, doubtful = check_members(named, members, why, trials)
    return [*forbidden, *([] if act.yes else doubtful)]
