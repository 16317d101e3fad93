"""Makes a site: settings, ops-db, folders. Touches: the folder of the site, the ops-db.

Asks nothing, and changes nothing that is there: made again it only adds what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import places
from ccatwm.edges.opsdb.stores.leases import read_uid
from ccatwm.errors import (
    FilesUnavailableError,
    MissingRightError,
    OpsDbUnavailableError,
    SchemaVersionError,
    SettingsError,
)
from ccatwm.interfaces import FileWrite, Transport, WorkFiles
from ccatwm.settings.find import DEFAULT_FOLDER, MARK_FILE, PREFIX, SETTINGS_FILE
from ccatwm.settings.load import (
    DATABASE_FILE,
    load_settings,
    mask_url,
    network_file_system,
    parse_mark,
    read_mark,
)
from ccatwm.settings.schema import Settings
from ccatwm.upkeep.opsdb_map import map_path
from ccatwm.upkeep.schema_versions import upgrade_schema

if TYPE_CHECKING:
    from ccatwm.upkeep.opsdb_draft import Draft

PROCESSING, RAW = "local", "raw"
PLAIN = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}  # environment of commands on the processing host


@dataclass
class InitReport:
    """What was made, what was there, and what to type next.

    On somebody else's ops-db also what was `guessed` of their tables, and the statements to ask their owner for.
    """

    folder: Path
    settings: Settings
    uid: str
    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the ops-db has our tables: else whoever owns it gives a right first."""
        return bool(self.uid)

    @property
    def next(self) -> list[str]:
        site = "" if self.folder == Path.cwd() / DEFAULT_FOLDER else f" --site {self.folder}"
        if self.settings.observations == "foreign":
            again = [] if self.complete else [f"ccatwm init {self.folder}   # again, once that is given"]
            return [
                f"edit {map_path(self.settings)}   # correct what was guessed",
                *again,
                f"ccatwm{site} db check                 # what is missing, and what to ask for",
                f"ccatwm{site} apply PIPELINES.yaml     # say what to process, and how",
            ]
        raw = "" if self.settings.files_over_ssh else f" (in {self.folder / RAW})"
        return [
            f"ccatwm{site} ingest --scan DIR --pattern '{{source}}/{{obs_date}}/{{scan}}.fits'   # find raw data packages",
            f"ccatwm{site} ingest OBSERVATIONS.yaml   # or tell of them{raw}",
            f"ccatwm{site} apply PIPELINES.yaml       # say what to process, and how",
            f"ccatwm{site} cycle --until-idle         # do it",
            f"ccatwm{site} status                     # look at it",
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.init/1",
            "site": str(self.folder),
            "opsdb_url": mask_url(self.settings.opsdb_url),
            "ops_db_uid": self.uid,
            "pipeline_base_dir": str(self.settings.pipeline_base_dir),
            "processing_location": self.settings.processing_location,
            "container_runtime": self.settings.container_runtime,
            "observations": self.settings.observations,
            "made": self.made,
            "there": self.there,
            "guessed": self.guessed,
            "ask_for": self.asks,
            "next": self.next,
        }


OpenBase = Callable[[Settings], AbstractContextManager[tuple[Transport, WorkFiles]]]


def initialise(
    folder: Path,
    *,
    now: datetime,
    environ: Mapping[str, str],
    opsdb_url: str | None = None,
    open_base_there: OpenBase | None = None,
) -> InitReport:
    """Make a site in `folder`, or complete it.

    Where the environment names PIPELINE_BASE_DIR and PROCESSING_LOCATION_ID, the site is made for them. Where settings
    that are there say that files are reached by SSH, the base directory is made through `open_base_there`.
    Errors: SettingsError for SQLite on a network file system, WorldError where the ops-db or the host does not answer.
    """
    folder = folder.expanduser().resolve()
    made: list[str] = []
    there: list[str] = []
    draft = _find_draft(folder, environ, opsdb_url)
    _write_settings(folder, environ, opsdb_url, draft, made, there)
    settings = load_settings(str(folder), environ, folder.parent)
    if settings.observations == "foreign":
        return _on_another_ops_db(settings, folder, draft, now, made, there)
    if not settings.files_over_ssh:
        _refuse_base_of_another(settings, made)
    if settings.files_over_ssh and open_base_there is not None:
        with open_base_there(settings) as (transport, files):
            transport.run(["true"], environment=PLAIN)  # a host that is not reached leaves nothing half made
            uid = _prepare_here(settings, folder, now, made, there)
            _prepare_base_there(transport, files, settings.ssh.host, uid, made, there)
    else:
        for path in (settings.pipeline_base_dir, folder / RAW):
            _make_folder(path, made, there)
        uid = _prepare_here(settings, folder, now, made, there)
        _write_mark(settings, folder, uid, made, there)
    return InitReport(folder, settings, uid, made, there)


def _find_draft(folder: Path, environ: Mapping[str, str], opsdb_url: str | None) -> Draft | None:
    """A draft of the map where a new site is for a database that holds tables of others."""
    managed = environ.get(f"{PREFIX}OBSERVATIONS") == "managed"
    if (folder / SETTINGS_FILE).exists() or managed or not (opsdb_url or "").startswith("postgresql"):
        return None
    from ccatwm.upkeep.opsdb_draft import find_draft

    assert opsdb_url is not None
    return find_draft(opsdb_url, _location_name(environ.get(f"{PREFIX}PROCESSING_LOCATION_ID")))


def _on_another_ops_db(
    settings: Settings, folder: Path, draft: Draft | None, now: datetime, made: list[str], there: list[str]
) -> InitReport:
    """The rest of a site whose observation tables belong to others."""
    from ccatwm.upkeep.opsdb_check import own_schema_statements
    from ccatwm.upkeep.opsdb_draft import find_draft

    file = map_path(settings)
    if file.exists():
        there.append(str(file))
    else:
        draft = draft or find_draft(settings.opsdb_url, settings.processing_location)
        if draft is None:
            raise SettingsError(
                "OBSERVATIONS is 'foreign', but there are no tables of others in this database, or none that may be read",
                where=mask_url(settings.opsdb_url),
                next="ask for the right to read them, correct OPSDB_URL, or set OBSERVATIONS = managed",
            )
        _write_new(file, draft.text)
        made.append(str(file))
    guessed = draft.notes if draft is not None and str(file) in made else []
    for path in (settings.state_dir, *(() if settings.files_over_ssh else (settings.pipeline_base_dir,))):
        _make_folder(path, made, there)
    try:
        uid = _prepare_database(settings, folder, now, made, there)
    except (SchemaVersionError, MissingRightError):
        database = Database(settings.opsdb_url)
        asks = own_schema_statements(database)
        database.dispose()
        if not asks:
            raise
        return InitReport(folder, settings, "", made, there, guessed, asks)
    if not settings.files_over_ssh:
        _write_mark(settings, folder, uid, made, there)
    return InitReport(folder, settings, uid, made, there, guessed)


def _prepare_here(settings: Settings, folder: Path, now: datetime, made: list[str], there: list[str]) -> str:
    """State and ops-db, whose uid it gives."""
    _make_folder(settings.state_dir, made, there)
    return _prepare_database(settings, folder, now, made, there)


# --- files -------------------------------------------------------------------------------------------------


def _write_settings(
    folder: Path,
    environ: Mapping[str, str],
    opsdb_url: str | None,
    draft: Draft | None,
    made: list[str],
    there: list[str],
) -> None:
    file = folder / SETTINGS_FILE
    if file.exists():
        there.append(str(file))
        return
    if opsdb_url is None:
        _refuse_network_file_system(folder)
    elif not opsdb_url.startswith(("postgresql://", "postgresql+psycopg2://", "sqlite:///")):
        raise SettingsError(
            f"--opsdb names no database that is known: {mask_url(opsdb_url)}",
            next="use postgresql://USER@HOST/NAME, or leave it out for SQLite",
        )
    _make_folder(folder, made, there)
    text = build_settings_text(
        opsdb_url=opsdb_url or f"sqlite:///{DATABASE_FILE}",
        base_dir=environ.get(f"{PREFIX}PIPELINE_BASE_DIR") or "pipelines",
        location=draft.location if draft else _location_name(environ.get(f"{PREFIX}PROCESSING_LOCATION_ID")),
        runtime="apptainer" if shutil.which("apptainer", path=environ.get("PATH")) else "none",
        foreign=draft is not None,
    )
    _write_new(file, text, mode=0o600 if opsdb_url and "@" in opsdb_url else 0o644)
    made.append(str(file))


def _location_name(wanted: str | None) -> str:
    """A number is the id of a location that is still to be made: it gets the usual name."""
    return PROCESSING if wanted is None or wanted.isdigit() else wanted


def build_settings_text(
    *, opsdb_url: str, base_dir: str, location: str, runtime: str, foreign: bool = False
) -> str:
    """The commented settings of a new site."""
    values = {"url": opsdb_url, "base": base_dir, "location": location, "runtime": runtime}
    quoted = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    whose = 'OBSERVATIONS = "foreign"                 # the observation tables are others\': opsdb-map.yaml names them\n'
    return f"""\
# Settings of this site. An environment variable {PREFIX}KEY wins over a key here;
# a section named by ENV_FOR_DYNACONF wins over [default]. Relative paths are relative to this file.
# `ccatwm config show` prints what holds, and where it comes from.

[default]
OPSDB_URL = {quoted["url"]}
{whose if foreign else ""}PIPELINE_BASE_DIR = {quoted["base"]}          # run directories and products
PROCESSING_LOCATION_ID = {quoted["location"]}         # the data location that this site serves: name or id
STATE_DIR = "state"                      # locks, records of local jobs; on a local disk
HPC_BACKEND = "local"                    # local | slurm
CONTAINER_RUNTIME = {quoted["runtime"]}           # apptainer | singularity | none
# OBS_TIMEZONE = "America/Santiago"      # observing nights change at its noon
# GRACE_SECONDS = 900                    # how long a job handed over may take to show in the queue
# CACHE_MAX_GB = 500                     # size of the cache of staged raw data, GB

# [default.local]
# slots = 2                              # jobs at once on this machine

# [default.locations.raw]
# root = "raw"                           # where a data location lies, if not where the ops-db says
"""


def _write_new(file: Path, text: str, *, mode: int = 0o644) -> None:
    """Write by rename, so that nobody reads half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8"
    ) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _make_folder(path: Path, made: list[str], there: list[str]) -> None:
    if path.is_dir():
        there.append(f"{path}/")
        return
    path.mkdir(parents=True)
    made.append(f"{path}/")


def _refuse_network_file_system(folder: Path) -> None:
    kind = network_file_system(folder)
    if kind:
        raise SettingsError(
            f"the folder lies on {kind}: SQLite cannot be trusted on a network file system",
            where=str(folder),
            next="name a folder on a local disk (`ccatwm init DIR`), or use PostgreSQL "
            "(`ccatwm init --opsdb postgresql://USER@HOST/NAME DIR`)",
        )


def _write_mark(settings: Settings, folder: Path, uid: str, made: list[str], there: list[str]) -> None:
    """Say in the base directory whose it is, and where the rest of the site lies."""
    file = settings.pipeline_base_dir / MARK_FILE
    if _is_marked(read_mark(settings.pipeline_base_dir), uid, str(file)):
        there.append(str(file))
        return
    mark = {
        "format": 1,
        "ops_db_uid": uid,
        "site": str(folder),
        "state_dir": str(settings.state_dir),
        "container_runtime": settings.container_runtime,
    }
    if settings.opsdb_url.startswith("sqlite:"):
        mark["opsdb_url"] = settings.opsdb_url  # a password has no place here
    _write_new(file, json.dumps(mark, indent=2) + "\n")
    made.append(str(file))


def _is_marked(mark: Mapping[str, Any], uid: str, where: str) -> bool:
    """Whether a base directory is ours already. Errors: SettingsError where it is another ops-db's."""
    known = mark.get("ops_db_uid")
    if known not in (None, uid):
        raise SettingsError(
            f"the base directory belongs to another ops-db, {known!r}",
            where=where,
            next="name another PIPELINE_BASE_DIR, or the OPSDB_URL of that ops-db",
        )
    return known == uid


def _refuse_base_of_another(settings: Settings, made: Sequence[str]) -> None:
    """Before anything is made: what is `made` so far goes away again. Errors: SettingsError."""
    mark = read_mark(settings.pipeline_base_dir)
    try:
        if mark.get("ops_db_uid") is not None:
            _is_marked(mark, _uid_so_far(settings), str(settings.pipeline_base_dir / MARK_FILE))
    except SettingsError:
        for name in reversed(made):
            Path(name).rmdir() if name.endswith("/") else Path(name).unlink()
        raise


def _uid_so_far(settings: Settings) -> str:
    """Whose the ops-db is; empty where it is still to be made."""
    path = Path(settings.opsdb_url.removeprefix("sqlite:///"))
    if settings.opsdb_url.startswith("sqlite:") and not path.exists():
        return ""
    database = Database(settings.opsdb_url)
    try:
        database.check_answers()
        with suppress(sa.exc.ProgrammingError, OpsDbUnavailableError), database.read() as connection:
            return read_uid(connection)
        return ""  # it answers, so what is missing are its tables
    finally:
        database.dispose()


def _prepare_base_there(
    transport: Transport, files: WorkFiles, host: str, uid: str, made: list[str], there: list[str]
) -> None:
    """The base directory on the processing host and the mark in it, which says nothing of folders of this host."""
    root, name = files.root(), PurePosixPath(MARK_FILE)
    try:
        mark = files.read_files([name])[name]
        there.append(f"{host}:{root}/")
    except FilesUnavailableError:
        _make_base_there(transport, root, host)
        mark = None
        made.append(f"{host}:{root}/")
    if _is_marked(parse_mark(mark), uid, f"{host}:{root / name}"):
        there.append(f"{host}:{root / name}")
        return
    content = json.dumps({"format": 1, "ops_db_uid": uid}, indent=2) + "\n"
    files.write_files([FileWrite(name, content.encode())])
    made.append(f"{host}:{root / name}")


def _make_base_there(transport: Transport, root: PurePosixPath, host: str) -> None:
    result = transport.run(["mkdir", "-p", "--", str(root)], environment=PLAIN)
    if result.exit_code != 0:
        raise FilesUnavailableError(
            f"the base directory cannot be made: {result.stderr.decode('utf-8', 'replace').strip()[-300:]}",
            where=f"{host}:{root}",
            next="set PIPELINE_BASE_DIR to a folder that the account there may make or write",
        )


# --- the ops-db --------------------------------------------------------------------------------------------


def _prepare_database(
    settings: Settings, folder: Path, now: datetime, made: list[str], there: list[str]
) -> str:
    database = Database(settings.opsdb_url)
    try:
        report = upgrade_schema(database, observations=settings.observations)
        for branch, (before, after) in report.changes.items():
            (there if before == after else made).append(f"{branch} tables in {database.safe_url}")
        with database.write() as connection:
            uid = places.record_uid(connection, str(uuid.uuid4()), now)
            if settings.observations == "managed":
                _record_places(connection, settings, folder, now, made, there)
        return uid
    finally:
        database.dispose()


def _record_places(
    connection: Any, settings: Settings, folder: Path, now: datetime, made: list[str], there: list[str]
) -> None:
    location = settings.processing_location
    if location.isdigit() and any(
        p.id == location and p.kind == "processing" for p in places.list_places(connection)
    ):
        there.append(f"data location {location} (processing)")
        location = ""
    elif location.isdigit():
        location = PROCESSING
    site_id = places.record_site(connection, folder.name, now)
    wanted = [(location, "processing", settings.pipeline_base_dir, 10)]
    if not settings.files_over_ssh:  # else raw data lies where the processing host reaches it: `ingest` tells
        wanted.append((RAW, "source", folder / RAW, 0))
    for name, kind, path, priority in wanted:
        if name:
            new = places.record_place(
                connection, site_id, name, kind=kind, base_path=str(path), priority=priority, now=now
            )
            (made if new else there).append(f"data location {name} ({kind}) at {path}")
