"""Backs an ops-db up into a file and restores it from one. Touches: the ops-db, files of this host.

The base directory is read: whose it is, and which run directories there are.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm import __version__
from ccatwm.core.backup_seal import FORMAT, Seal
from ccatwm.core.wording import clock_text
from ccatwm.edges.opsdb import backup_file, backup_sqlite
from ccatwm.edges.opsdb.backup_file import Backup, already_there, at_work, read_backup
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.statements import after_restore
from ccatwm.edges.opsdb.stores import leases, pausing
from ccatwm.edges.opsdb.stores.leases import Lease
from ccatwm.edges.opsdb.types import utc_text
from ccatwm.edges.opsdb.upgrade import KNOWN, read_revisions
from ccatwm.errors import CcatwmError, SchemaVersionError, SettingsError, UsageError
from ccatwm.interfaces import NO_PROGRESS, Progress, WorkFiles
from ccatwm.settings.find import MARK_FILE
from ccatwm.settings.load import parse_mark
from ccatwm.settings.schema import Settings
from ccatwm.upkeep._said_since import SaidSince, keep_said_since, read_said_since
from ccatwm.upkeep.run_folders import last_run_id

RUNS = "executed_reduction_step"


@dataclass(frozen=True)
class BackupReport:
    """A backup that was made."""

    path: Path
    size_bytes: int
    seal: Seal

    def to_json(self) -> dict[str, Any]:
        return {"schema": "ccatwm.db-backup/1", "file": str(self.path), "size_bytes": self.size_bytes, **_of(self.seal)}

    def lines(self) -> list[str]:
        return [f"{self.path}: {self.size_bytes / 1e6:.1f} MB, the ops-db as of {self.seal.made_at}, by {self.seal.tool}",
                f"`ccatwm db restore {shlex.quote(str(self.path))} --yes` brings it back"]  # fmt: skip


@dataclass(frozen=True)
class RestoreReport:
    """A backup that was restored. `aside`: where the file before it is kept (SQLite). `said`: what it has taken away."""

    path: Path
    url: str
    aside: Path | None
    blocked: str
    seal: Seal
    said: SaidSince

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.db-restore/1", "file": str(self.path), "url": self.url,
            "kept": str(self.aside) if self.aside else None, "submission_blocked": self.blocked,
            "said_since": self.said.to_json(), "next": NEXT, **_of(self.seal),
        }  # fmt: skip

    def lines(self) -> list[str]:
        kept = [f"the file before it is kept as {self.aside}"] if self.aside else []
        return [f"{self.url} is as it was at {self.seal.made_at}", *kept, *self.said.lines(),
                "nothing is submitted until run directories and ops-db agree", f"next: {NEXT}"]  # fmt: skip


NEXT = "ccatwm doctor --reconcile"


def _of(seal: Seal) -> dict[str, Any]:
    return {"made_at": seal.made_at, "dialect": seal.dialect, "release": seal.release, "ops_db_uid": seal.uid,
            "revisions": dict(seal.revisions), "tool": seal.tool}  # fmt: skip


# --- backup ------------------------------------------------------------------------------------------------------


def back_up(
    database: Database,
    path: Path,
    *,
    observations: str,
    now: datetime,
    overwrite: bool = False,
    progress: Progress = NO_PROGRESS,
) -> BackupReport:
    """Write a backup, as of one moment while passes run; there is a whole file or none.

    Errors: UsageError where the file is there and may not be replaced, or cannot be written.
    """
    path = path.absolute()
    if path.exists() and not overwrite:
        raise already_there(path)
    database.check_schema(observations=observations)
    with database.read() as connection:
        uid, revisions = leases.read_uid(connection), read_revisions(connection)
    with backup_file.unfinished(path) as part:
        with progress.begin("backup", _size_before(database), "bytes", measure=lambda: part.stat().st_size):
            tool = _fill(database, part, observations)
        seal = Seal(FORMAT, __version__, database.dialect, observations, uid, revisions, utc_text(now), tool)
        size = backup_file.finish(part, path, seal, overwrite=overwrite)
    return BackupReport(path, size, seal)


def _size_before(database: Database) -> int | None:
    """What will have to be written, where that can be told: PostgreSQL's dump is packed."""
    return Path(str(database.url.database)).stat().st_size if database.dialect == "sqlite" else None


def _fill(database: Database, part: Path, observations: str) -> str:
    """The database's own copy of itself, and by which program."""
    if database.dialect == "sqlite":
        backup_sqlite.copy_database(Path(str(database.url.database)), part)
        return f"SQLite {sqlite3.sqlite_version}"
    from ccatwm.edges.opsdb import backup_postgresql

    with database.read() as connection:
        programs = backup_postgresql.find_programs(backup_postgresql.read_server_major(connection))
    backup_postgresql.dump_database(database, programs, part, observations=observations)
    return f"pg_dump {programs.version}"


# --- restore -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """Who restores, when, and why."""

    actor: str
    host: str
    now: datetime
    reason: str


def restore(
    settings: Settings,
    database: Database,
    files: WorkFiles,
    path: Path,
    said: Said,
    *,
    yes: bool,
    is_gone: Callable[[Lease], bool],
) -> RestoreReport:
    """Bring the ops-db back to a backup, all or nothing, and block submission until it is reconciled.

    Errors: SettingsError for a file that is damaged, of another ops-db or of a newer release; UsageError without `yes`;
    CcatwmError while passes are at work.
    """
    backup = read_backup(path.absolute())
    _check_fits(backup, settings, database, files)
    made_at = datetime.fromisoformat(backup.seal.made_at)
    if not yes:
        since = read_said_since(database, made_at)
        with_it = f", with {since.text()}" if since.acts else ""
        raise UsageError(
            f"{database.safe_url} would be as it was at {backup.seal.made_at}; what was written since then would be lost"
            f"{with_it}",
            where=str(path), next="`ccatwm db backup` another file of what is there now, then say --yes",
        )  # fmt: skip
    last = last_run_id(files)
    blocked = f"restored from the backup of {clock_text(made_at)} UTC; `ccatwm doctor --reconcile` comes first"
    with _passes_kept_away(settings):
        since = keep_said_since(read_said_since(database, made_at), settings.state_dir, said.now)
        aside = _replace(settings, database, backup, said, last, blocked, is_gone)
    return RestoreReport(backup.path, database.safe_url, aside, blocked, backup.seal, since)


def _check_fits(backup: Backup, settings: Settings, database: Database, files: WorkFiles) -> None:
    seal, where = backup.seal, str(backup.path)
    if seal.dialect != database.dialect:
        raise SettingsError(
            f"it is a backup of an ops-db on {seal.dialect}, {database.safe_url} is one on {database.dialect}",
            where=where, next="set OPSDB_URL to a database of the same kind",
        )  # fmt: skip
    if seal.observations != settings.observations:
        raise SettingsError(
            f"the backup was made with OBSERVATIONS = {seal.observations}, this site has {settings.observations}",
            where=where, next="set OBSERVATIONS as it was",
        )  # fmt: skip
    strange = [f"{b} {r}" for b, r in seal.revisions.items() if b not in KNOWN or r > max(KNOWN[b])]
    if strange:
        raise SchemaVersionError(
            f"the backup is of ccatwm {seal.release}, whose tables this release does not know: {', '.join(strange)}",
            where=where, next="restore it with that release, or a newer one",
        )  # fmt: skip
    name = PurePosixPath(MARK_FILE)
    of_base = str(parse_mark(files.read_files([name])[name]).get("ops_db_uid", ""))
    for whose, uid in ((f"the base directory {files.root()}", of_base), (database.safe_url, _uid_there(database))):
        if uid and uid != seal.uid:
            raise SettingsError(
                f"it is a backup of the ops-db {seal.uid!r}, but {whose} is of {uid!r}",
                where=where, next="take a backup of this ops-db, or correct --site",
            )  # fmt: skip
    if not of_base:
        raise SettingsError(
            "the base directory is not prepared, so nobody can tell whether it belongs to the backup",
            where=f"{files.root()}/{MARK_FILE}", next="bring the base directory back first, or correct PIPELINE_BASE_DIR",
        )  # fmt: skip


def _uid_there(database: Database) -> str:
    """Of what is there now; empty where there is nothing, or nothing readable."""
    if database.dialect == "sqlite" and not Path(str(database.url.database)).exists():
        return ""
    try:
        with database.read() as connection:
            return leases.read_uid(connection)
    except (SchemaVersionError, sa.exc.DBAPIError):
        return ""
    except CcatwmError:
        if database.dialect == "sqlite":
            return ""  # damaged: that is what a restore is for
        raise
    finally:
        database.dispose()


@contextmanager
def _passes_kept_away(settings: Settings) -> Iterator[None]:
    """The locks of passes on this host, held meanwhile. Errors: CcatwmError where one is at work."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        for file in sorted((settings.state_dir / "locks").glob("*.lock")):
            lock = FileLock(file, fallback_to_soft=False)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise at_work(file.stem) from error
            except (OSError, NotImplementedError):
                continue  # the leases must do
            stack.callback(lock.release)
        yield


def _replace(
    settings: Settings, database: Database, backup: Backup, said: Said, last: int, blocked: str,
    is_gone: Callable[[Lease], bool],
) -> Path | None:  # fmt: skip
    from ccatwm.edges.opsdb import backup_postgresql

    def after(prefix: str) -> Sequence[str]:
        return after_restore(prefix, blocked=blocked, at=said.now, actor=said.actor, host=said.host,
                             target=str(backup.path), reason=said.reason)  # fmt: skip

    gone = _holders_gone(database, is_gone)
    database.dispose()
    if database.dialect == "sqlite":
        return _replace_sqlite(database, backup, said.now, last, gone, after(""))
    with database.read() as connection:
        programs = backup_postgresql.find_programs(backup_postgresql.read_server_major(connection))
    backup_postgresql.restore_database(
        database, programs, backup.path, observations=settings.observations, gone=gone, least_ids={RUNS: last},
        after=after("ccatwm."),
    )  # fmt: skip
    return None


def _holders_gone(database: Database, is_gone: Callable[[Lease], bool]) -> list[str]:
    """Holders of leases that live no more. Errors: CcatwmError where one is at work, or may be."""
    if not _uid_there(database):
        return []
    with database.read() as connection:
        found = pausing.list_at_work(connection)
    left = [w for w in found if not is_gone(w.lease)]
    if left:
        raise at_work(", ".join(f"{w.pass_name} on {w.lease.holder.host if w.lease.holder else '?'}" for w in left))
    return [w.lease.holder.token for w in found if w.lease.holder is not None]


def _replace_sqlite(
    database: Database, backup: Backup, now: datetime, last: int, gone: Sequence[str], after: Sequence[str]
) -> Path | None:
    path = Path(str(database.url.database)).absolute()
    aside = _free_name(path, now)

    def change(new: sqlite3.Connection) -> None:
        backup_sqlite.raise_ids(new, {RUNS: last})
        for statement in after:
            new.execute(statement)

    kept = backup_sqlite.replace_database(path, backup, aside=aside, change=change, gone=gone, now=now)
    return aside if kept else None


def _free_name(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.before-restore-{now:%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())
