"""Checks that base directory and ops-db belong together, and the location is known. Touches: both (read)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine, Location
from ccatwm.edges.opsdb.stores.leases import read_uid
from ccatwm.errors import BaseDirError, SettingsError
from ccatwm.interfaces import WorkFiles
from ccatwm.settings.find import MARK_FILE
from ccatwm.settings.load import parse_mark, read_mark
from ccatwm.settings.schema import Settings


def check_database_file(settings: Settings) -> None:
    """Only `ccatwm init` makes a database: SQLite would make an empty file. Errors: SettingsError."""
    path = settings.opsdb_url.removeprefix("sqlite:///")
    if path != settings.opsdb_url and not Path(path).exists():
        raise SettingsError(
            "there is no such database",
            where=settings.opsdb_url,
            next="`ccatwm init` makes one, or correct OPSDB_URL",
        )


def check_base_dir(settings: Settings, database: Database) -> None:
    """Refuse to work where run directories and ops-db do not belong together. Errors: BaseDirError."""
    mark = read_mark(settings.pipeline_base_dir)
    _check_mark(mark, settings.pipeline_base_dir / MARK_FILE, database)


def check_files(files: WorkFiles, database: Database | None) -> None:
    """The same for a base directory that only these files reach. Without a database only that it was prepared.

    Errors: BaseDirError, WorldError.
    """
    name = PurePosixPath(MARK_FILE)
    _check_mark(parse_mark(files.read_files([name])[name]), files.root() / name, database)


def _check_mark(mark: Mapping[str, Any], file: PurePath, database: Database | None) -> None:
    if not mark:
        raise BaseDirError(
            "the base directory is not prepared: no such file, or nothing readable in it",
            where=str(file),
            next="mount it, if it is not mounted; else set PIPELINE_BASE_DIR to the folder that `ccatwm init` made, or run "
            "`ccatwm init`",
        )
    if database is None:
        return
    with database.read() as connection:
        uid = read_uid(connection)
    if mark.get("ops_db_uid") != uid:
        raise BaseDirError(
            f"the base directory belongs to the ops-db {mark.get('ops_db_uid')!r}, "
            f"but {database.safe_url} is {uid!r}",
            where=str(file),
            next="set OPSDB_URL or PIPELINE_BASE_DIR so that they belong together",
        )


def settle_location(settings: Settings, database: Database, grouping: GroupingEngine) -> Settings:
    """The settings with the processing location by name: `PROCESSING_LOCATION_ID` may be an id.

    Where the observation tables tell nothing of data locations it is as it was set.

    Errors: SettingsError for a location that is not there or that is not for processing.
    """
    wanted = settings.processing_location
    try:
        with database.read() as connection:
            known = grouping.locations(connection)
    except KeyError:
        return settings
    found = _find(wanted, known)
    where = settings.origins.get("PROCESSING_LOCATION_ID", "")
    if found is None:
        names = [place.name for place in known if place.location_type == "processing"]
        close = get_close_matches(wanted, names, n=1)
        raise SettingsError(
            f"PROCESSING_LOCATION_ID is {wanted!r}: the ops-db knows no such data location",
            where=where,
            next=f"did you mean {close[0]}?"
            if close
            else f"locations for processing: {', '.join(names) or 'none'}",
        )
    if found.location_type != "processing":
        raise SettingsError(
            f"PROCESSING_LOCATION_ID is {wanted!r}: that location is of type {found.location_type}, not processing",
            where=where,
            next="name a data location of type processing",
        )
    return settings if found.name == wanted else dataclasses.replace(settings, processing_location=found.name)


def _find(wanted: str, known: list[Location]) -> Location | None:
    """By name first: a name may look like a number."""
    by_name = next((place for place in known if place.name == wanted), None)
    return by_name or next((place for place in known if place.id == wanted), None)
