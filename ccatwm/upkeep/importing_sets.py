"""Makes the rows of published sets again from their records, where the ops-db does not have them.

Touches: the ops-db; files below the base directory (read). What the ops-db has is never changed to what a record says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ccatwm.core.set_records import (
    Identity,
    SetRecord,
    differing_words,
    has_same_products,
    identity,
    record_path,
    words_command,
)
from ccatwm.core.wording import count_text, some_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import publishing as store
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.run_records import AGAIN
from ccatwm.interfaces import WorkFiles
from ccatwm.upkeep.set_records import list_recorded, read_recorded

if TYPE_CHECKING:
    from ccatwm.upkeep.importing import Importing

ACT = "import"
MAX_NAMED = 5


@dataclass(frozen=True)
class SetLeft:
    """A record that has not become a row, or says otherwise than the row that is there, and why."""

    name: str
    why: str
    next: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "why": self.why, "next": self.next}


@dataclass
class ImportedSets:
    """Of published sets: names of those that have rows again, those that have none, and those whose rows `differ`."""

    imported: list[str] = field(default_factory=list)
    refused: list[SetLeft] = field(default_factory=list)
    differ: list[SetLeft] = field(default_factory=list)

    @property
    def open(self) -> list[SetLeft]:
        return [*self.refused, *self.differ]

    def to_json(self) -> dict[str, Any]:
        return {
            "imported": self.imported,
            "refused": [item.to_json() for item in self.refused],
            "differ": [item.to_json() for item in self.differ],
        }

    def lines(self) -> list[str]:
        lines = [f"imported  published set {name}" for name in self.imported]
        told = [*(("DIFFERS", item) for item in self.differ), *(("REFUSED", item) for item in self.refused)]
        for word, item in told:
            lines += [f"{word}   published set {item.name}: {item.why}", f"          next: {item.next}"]
        return lines


def import_sets(database: Database, files: WorkFiles, asked: Importing) -> ImportedSets:
    """Rows of every recorded set that the ops-db does not know and whose products all have rows, each in a transaction."""
    report = ImportedSets()
    recorded = read_recorded(files, list_recorded(files), asked.uid)
    with database.read() as connection:
        known = set(store.list_set_names(connection)) if recorded else set()
    for name, found in recorded.items():
        if found.record is not None:
            _import_set(database, found.record, asked, report)
        elif name not in known:  # else `fsck` makes it again
            next = "bring the file back from a backup of the base directory, or move it away: the set is lost without it"
            report.refused.append(SetLeft(name, f"{record_path(name)} is damaged: {found.problem}", next))
    return report


def _import_set(database: Database, record: SetRecord, asked: Importing, report: ImportedSets) -> None:
    with database.write() as connection:
        store.lock(connection)
        known = store.find_set(connection, record.name)
        if known is not None:
            report.differ += _differing(record, known)
            return
        numbers = _numbers(connection, record)
        left = _why_not(connection, record, numbers)
        if left is not None:
            report.refused.append(left)
            return
        products = [{**item, "product": numbers[identity(item)]} for item in record.products]
        store.insert_set(connection, record.name, products, record.words, actor=record.actor, now=record.created_at)
        record_change(
            connection, at=asked.now, actor=asked.actor, host=asked.host, act=ACT, target=f"published set {record.name}",
            reason=asked.reason, details={"record": str(record_path(record.name))},
        )  # fmt: skip
    report.imported.append(record.name)


def _differing(record: SetRecord, known: Mapping[str, Any]) -> list[SetLeft]:
    """What a record says otherwise than the set that the ops-db has."""
    if not has_same_products(record, known["products"]):
        next = f"`ccatwm publish {record.name}` shows those; `ccatwm fsck` says how to take the record away"
        return [SetLeft(record.name, "the ops-db has it with other products", next)]
    if words := differing_words(record, known):
        next = f"{words_command(record, words)} says what the record has"
        return [SetLeft(record.name, f"the ops-db has it with another {' and '.join(words)}", next)]
    return []


def _numbers(connection: sa.Connection, record: SetRecord) -> dict[Identity, int]:
    """The numbers that its products have now."""
    rows = views.list_products_of_runs(connection, record.run_ids)
    return {(row["run"], row["full_path"], row["sha256"]): row["product"] for row in rows}


def _why_not(connection: sa.Connection, record: SetRecord, numbers: Mapping[Identity, int]) -> SetLeft | None:
    absent = [item for item in record.products if identity(item) not in numbers]
    if absent:
        unknown = sorted({item["run"] for item in absent} - {run for run, _, _ in numbers})
        return SetLeft(record.name, f"the ops-db does not know {_absent_text(absent)}", _next(unknown, absent[0]["run"]))
    doi = record.words["doi"]
    other = store.find_name_by_doi(connection, doi) if doi is not None else None
    if other is not None:
        next = f"`ccatwm publish {other} --doi ''` takes it away there where that is wrong, then {AGAIN}"
        return SetLeft(record.name, f"its DOI {doi} is that of {other}", next)
    return None


def _absent_text(absent: Sequence[Mapping[str, Any]]) -> str:
    named = some_text([f"{item['path']} of run {item['run']}" for item in absent], MAX_NAMED)
    return f"{count_text(len(absent), 'product')} ({named})"


def _next(unknown: Sequence[int], run: int) -> str:
    """`unknown`: runs without any rows of products; `run`: one that is meant."""
    if not unknown:
        return f"`ccatwm show {run}` tells which products it has; where these are right, publish them under another name"
    named = ", ".join(map(str, unknown[:MAX_NAMED])) + (" ..." if len(unknown) > MAX_NAMED else "")
    run_directories = f"the directory of run {named}" if len(unknown) == 1 else f"the directories of runs {named}"
    return f"`ccatwm fsck --import` makes their rows again, from {run_directories}: see what is said of these"
