"""Drafts the map of somebody else's ops-db for `ccatwm init`. Touches: the ops-db, reading only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from ccatwm.core.opsdb_guess import (
    Guess,
    SeenTable,
    draft_text,
    guess_tables,
    has_packages,
    has_processing,
    summary,
)
from ccatwm.core.opsdb_map import MAP_FILE
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.catalogue import list_closed, list_tables, read_words, word_columns
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.foreign import Name, find_tables
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.statements import identifier
from ccatwm.edges.opsdb.upgrade import OBSERVATION, read_revisions
from ccatwm.errors import CcatwmError, SettingsError
from ccatwm.settings.find import PREFIX
from ccatwm.upkeep.opsdb_map import parse_map, role_of

CLOSED_SHOWN = 5  # schemas or tables that this role may not read


@dataclass
class Draft:
    """The text of a map, what was guessed in words, and a data location for processing."""

    text: str
    notes: list[str]
    location: str
    locations: list[str] = field(default_factory=list)  # all for processing


def find_draft(url: str, location: str) -> Draft | None:
    """A draft where the database holds tables of others; None where it is empty, or all of it is ours.

    `location`: what to call the processing location where theirs know none.
    """
    database = Database(url)
    try:
        database.check_answers()
        with database.read() as connection:
            if OBSERVATION in read_revisions(connection):
                return None
            seen, closed = list_tables(connection), list_closed(connection)
            if not seen and closed:
                raise _nothing_readable(database, closed)
            if not seen:
                return None
            found = guess_tables(_with_words(connection, seen))
            text = draft_text(found, seen, location=location)
            known = _locations(connection, text) if has_processing(found) else []
    finally:
        database.dispose()
    notes = summary(found)
    if closed:
        names = ", ".join(".".join(name) for name in closed[:CLOSED_SHOWN]) + (", ..." if closed[CLOSED_SHOWN:] else "")
        notes.append(
            f"{count_text(len(closed), 'table')} that this role may not read: {names}; ask for what is needed of them, and "
            f"let `init` draft anew without {MAP_FILE}"
        )
    if not has_packages(found):
        notes.insert(0, "no table was like raw data packages: name it in the map, or the passes have nothing to do")
    return Draft(text, notes, known[0] if known else location, known)


def _nothing_readable(database: Database, closed: Sequence[Name]) -> SettingsError:
    schemas, role = sorted({schema for schema, _ in closed}), identifier(role_of(database))
    grants = " ".join(
        f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {identifier(schema)} "
        f"TO {role};"
        for schema in schemas[:CLOSED_SHOWN]
    )
    return SettingsError(
        f"this database has tables of others (in {', '.join(schemas[:CLOSED_SHOWN])}), and this role may read none of them",
        where=database.safe_url,
        next=f"ask their owner for what is needed of: {grants} To have tables of ours beside them instead, set "
        f"{PREFIX}OBSERVATIONS=managed",
    )


def _with_words(connection: sa.Connection, seen: Sequence[SeenTable]) -> list[SeenTable]:
    """The tables with the values of columns whose words may be ours."""
    tables = {(table.schema, table.name): table for table in seen}
    for logical, guess in guess_tables(seen).items():
        for column in word_columns(logical):
            _read_words(connection, guess, column, tables)
    return list(tables.values())


def _read_words(
    connection: sa.Connection, guess: Guess, column: str, tables: dict[tuple[str, str], SeenTable]
) -> None:
    name = guess.columns.get(column, "").rpartition(".")[2]
    for table in (guess.table, *(joined for joined, _, _ in guess.joined)):
        there = table.columns.get(name)
        if there is not None and there.kind == "text" and not there.words:
            columns = dict(tables[table.schema, table.name].columns)
            columns[name] = dataclasses.replace(there, words=read_words(connection, table, name))
            tables[table.schema, table.name] = dataclasses.replace(table, columns=columns)


def _locations(connection: sa.Connection, text: str) -> list[str]:
    """Names of their data locations for processing, by the draft; none where it cannot be used as it is."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / MAP_FILE
        path.write_text(text, encoding="utf-8")
        try:
            mapped = parse_map(path).mapped
        except CcatwmError:
            return []
    tables = find_tables(connection, mapped).tables
    if not tables.has("DataLocation", "name"):
        return []
    places = GroupingEngine(tables, "postgresql", "UTC").locations(connection)
    return [place.name for place in places if place.location_type == "processing"]
