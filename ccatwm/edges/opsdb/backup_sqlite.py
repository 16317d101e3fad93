"""Backup and restore of an ops-db on SQLite. Touches: the database file and files beside it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from ccatwm.edges.opsdb.backup_file import Backup, at_work, copy_payload, sync_folder, unfinished
from ccatwm.edges.opsdb.types import utc_text
from ccatwm.errors import CcatwmError, OpsDbUnavailableError, SettingsError

BUSY_SECONDS = 10.0
BESIDE = ("-wal", "-shm", "-journal")


def copy_database(source: Path, part: Path) -> None:
    """A copy as of one moment, while others read and write (https://www.sqlite.org/backup.html)."""
    try:
        with closing(_open(source, "ro")) as old, closing(sqlite3.connect(part)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
            _check(new, str(source))
    except sqlite3.Error as error:
        raise OpsDbUnavailableError(f"the ops-db could not be copied: {error}", where=str(source)) from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _check(connection: sqlite3.Connection, where: str) -> None:
    told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if told != "ok":
        raise SettingsError(f"the database is damaged: {told}", where=where, next="keep the backup before this one")


def replace_database(
    path: Path,
    backup: Backup,
    *,
    aside: Path,
    change: Callable[[sqlite3.Connection], None],
    gone: Sequence[str],
    now: datetime,
) -> bool:
    """Put the backup in place of the database file, by one rename; the old file is kept as `aside`. False if there was
    none.

    `change` is made to the new one before it gets the name, and no id that the old one has given is given again;
    Errors: CcatwmError where a pass holds a lease of the old one, but for those that are `gone`, or a process has it open.
    """
    with unfinished(path) as part:
        with part.open("r+b") as file:
            copy_payload(backup, file)
        with closing(sqlite3.connect(part, isolation_level=None)) as new:
            new.execute("PRAGMA journal_mode=DELETE")
            _check(new, str(backup.path))
            with _only_one(path, gone, now) as old_ids:
                new.execute("BEGIN IMMEDIATE")
                raise_ids(new, old_ids)
                change(new)
                new.execute("COMMIT")
                new.close()
                return _exchange(path, part, aside)


@contextmanager
def _only_one(path: Path, gone: Sequence[str], now: datetime) -> Iterator[Mapping[str, int]]:
    """While nobody else has the database file open, and nothing of it lies in a file beside it: its last ids."""
    old = _take(path, gone, now)
    if old is None:
        yield {}
        return
    with closing(old):
        yield _last_ids(old)


def _take(path: Path, gone: Sequence[str], now: datetime) -> sqlite3.Connection | None:
    """None where there is no file, or one that nobody can work with: then nobody is in the way."""
    if not path.exists():
        return None
    old = _open(path, "rw")
    try:
        _check_leases(old, gone, now)
        # Leaves the write-ahead log: that takes the only connection, and keeps a log of the old file from the new one.
        old.execute("PRAGMA journal_mode=DELETE")
        old.execute("BEGIN EXCLUSIVE")
        if old.execute("PRAGMA journal_mode").fetchone()[0] != "delete":  # somebody was in between
            raise sqlite3.OperationalError("database is locked")
        _check_leases(old, gone, now)
    except sqlite3.OperationalError as error:
        old.close()
        raise CcatwmError(
            f"another process has the ops-db open: {error}", where=str(path),
            next="wait until it is done, or end it (managers keep it open); `ccatwm pause --wait` keeps passes away",
        ) from error  # fmt: skip
    except sqlite3.DatabaseError:
        old.close()
        return None
    except BaseException:
        old.close()
        raise
    return old


def _check_leases(old: sqlite3.Connection, gone: Sequence[str], now: datetime) -> None:
    """Errors: CcatwmError while a pass that may live holds one."""
    if not has_table(old, "pass_lease"):
        return
    query = "SELECT pass_name, holder FROM pass_lease WHERE holder IS NOT NULL AND expires_at > ?"
    left = [name for name, holder in old.execute(query, (utc_text(now),)) if holder not in gone]
    if left:
        raise at_work(", ".join(left))


def has_table(connection: sqlite3.Connection, table: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
    return found.fetchone() is not None


def _last_ids(old: sqlite3.Connection) -> dict[str, int]:
    return dict(old.execute("SELECT name, seq FROM sqlite_sequence")) if has_table(old, "sqlite_sequence") else {}


def _exchange(path: Path, part: Path, aside: Path) -> bool:
    """The old file gets another name as well, then the new one its name: there is a database at every moment."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    there = path.exists()
    if there:
        os.chmod(part, path.stat().st_mode & 0o777)
        os.link(path, aside)
    for ending in BESIDE:  # of a file that could not be opened, or is gone
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    part.replace(path)
    sync_folder(path.parent)
    return there


def raise_ids(connection: sqlite3.Connection, least: Mapping[str, int]) -> None:
    """No id at or below these is given again (https://www.sqlite.org/autoinc.html)."""
    for table, seq in least.items():
        known = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        if known is None:
            if has_table(connection, table):
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, seq))
        elif known[0] < seq:
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (seq, table))
