"""Reads the site's opsdb-map.yaml, and finds the tables that it names. Touches: the map, the state folder, the ops-db.

A map that was read before is known by the digest of its text, so that a pass need not import what checks it. Nothing
of the database is remembered: its catalogue is asked each time, in one query.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccatwm import __version__
from ccatwm.core.opsdb_map import FORMAT, MAP_FILE, OpsDbMap
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.foreign import OWN_SCHEMA, Foreign, Lack, find_tables
from ccatwm.edges.opsdb.observations import ObservationTables
from ccatwm.edges.opsdb.statements import identifier
from ccatwm.errors import ObservationTablesError, Problem
from ccatwm.settings.schema import Settings

KEPT = "opsdb-map.json"  # in the state folder
GRANTS_SHOWN = 5


@dataclass(frozen=True)
class ReadMap:
    """A map, the file that it came from, and the line of each part (`tables.Source.columns.name`)."""

    mapped: OpsDbMap
    path: Path
    lines: Mapping[str, int]

    def where(self, place: tuple[str | int, ...]) -> str:
        """`file:line` of a part, or of the nearest around it."""
        parts = [str(part) for part in place]
        while parts and ".".join(parts) not in self.lines:
            parts.pop()
        return f"{self.path}:{self.lines.get('.'.join(parts), 1)}"


def map_path(settings: Settings) -> Path:
    """Where the map of this site lies."""
    if settings.opsdb_map is not None:
        return settings.opsdb_map
    return (settings.site_dir or Path.cwd()) / MAP_FILE


def read_map(settings: Settings) -> ReadMap:
    """The map of the site. Errors: ObservationTablesError with every mistake in it at once."""
    path = map_path(settings)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ObservationTablesError(
            f"the map of the observation tables cannot be read: {error.strerror}",
            where=str(path),
            next="`ccatwm init --opsdb URL DIR` drafts one; OPSDB_MAP names another file",
        ) from error
    known = hashlib.sha256(b"%d %s\0" % (FORMAT, __version__.encode()) + content).hexdigest()
    kept = settings.state_dir / KEPT
    read = _recall(kept, known, path) or parse_map(path)
    _remember(kept, known, read)
    return read


def parse_map(path: Path) -> ReadMap:
    """Read and check a map. Errors: ObservationTablesError with every mistake in it at once."""
    from pydantic import ValidationError

    from ccatwm.core.opsdb_map_file import MapFile, build_map, find_mistakes
    from ccatwm.upkeep._yaml import read_yaml

    document, problems = read_yaml(path, too_large="a map is small: is this the file?")
    if document is None:
        raise _wrong_map(path, problems)
    try:
        file = MapFile.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        problems += [_problem(document, told) for told in error.errors(include_url=False)]
        raise _wrong_map(path, problems) from error
    problems += [Problem(document.where(at), what, next) for at, what, next in find_mistakes(file, OWN_SCHEMA)]
    if problems:
        raise _wrong_map(path, problems)
    lines = {".".join(map(str, at)): line for at, line in document.lines.items()}
    return ReadMap(build_map(file), path, lines)


def _problem(document: Any, told: Mapping[str, Any]) -> Problem:
    """What pydantic says, where it was written; it names the branch of a choice (`ColumnPart`), which stands nowhere."""
    at: list[str | int] = []
    for part in told["loc"]:
        if (*at, part) in document.lines:
            at.append(part)
    missing = told["type"] == "missing"
    name = ".".join(map(str, (*at, told["loc"][-1]) if missing or told["type"] == "extra_forbidden" else at))
    texts = {"missing": "is missing", "extra_forbidden": "unknown key"}
    what = texts.get(told["type"], told["msg"].removeprefix("Value error, "))
    return Problem(document.where(tuple(at)), f"{name or 'the map'}: {what}")


def _wrong_map(path: Path, problems: list[Problem]) -> ObservationTablesError:
    told = sorted(dict.fromkeys(problems), key=lambda p: int(p.where.rpartition(":")[2]) if ":" in p.where else 0)
    noun = "mistake" if len(told) == 1 else "mistakes"
    return ObservationTablesError(
        f"{len(told)} {noun} in the map of the observation tables",
        where=str(path),
        problems=told,
        next="`ccatwm schema opsdb-map` says what may stand there",
    )


# --- remembering ----------------------------------------------------------------------------------------------


def _recall(kept: Path, known: str, path: Path) -> ReadMap | None:
    """What was read of this very text before."""
    try:
        data = json.loads(kept.read_bytes())
        if data["digest"] != known or data["path"] != str(path):
            return None
        return ReadMap(OpsDbMap.from_json(data["map"]), path, data["lines"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(kept: Path, known: str, read: ReadMap) -> None:
    """Best effort: who may only look reads the map again."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if kept.is_file() and json.loads(kept.read_bytes()).get("digest") == known:
            return
    data = {"digest": known, "path": str(read.path), "map": read.mapped.to_json(), "lines": dict(read.lines)}
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.write_text(json.dumps(data))
        temporary.replace(kept)


# --- the tables -----------------------------------------------------------------------------------------------


def find_observation_tables(settings: Settings, database: Database) -> ObservationTables:
    """The tables of the map as they are now. Errors: ObservationTablesError with all that is missing at once."""
    read = read_map(settings)
    with database.read() as connection:
        foreign = find_tables(connection, read.mapped)
    if foreign.lacks:
        raise missing_tables(read, foreign, database)
    return foreign.tables


def missing_tables(read: ReadMap, foreign: Foreign, database: Database) -> ObservationTablesError:
    """Everything that the map names and that is not there, or not for this role."""
    return ObservationTablesError(
        "the observation tables are not as the map says",
        where=str(read.path),
        problems=[Problem(read.where(lack.place), lack.what, lack.next or grant(lack, database)) for lack in foreign.lacks],
        next="correct the map, or ask for what is missing: `ccatwm db check` lists it",
    )


def grant(lack: Lack, database: Database) -> str:
    """The statement that gives a right that is lacking, for whoever owns the tables."""
    if lack.denied is None:
        return ""
    schema, table, column = (identifier(part) for part in lack.denied)
    what = f"SELECT ({column})" if lack.denied[2] else "SELECT"
    role = identifier(role_of(database))
    return f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT {what} ON {schema}.{table} TO {role};"


def role_of(database: Database) -> str:
    """Whom rights are given to."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("SELECT current_user").scalar_one())
