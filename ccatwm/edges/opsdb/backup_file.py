"""Backup files: written beside, sealed, renamed; read only when they are whole. Touches: one folder of this host."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ccatwm.core.backup_seal import (
    END_BYTES,
    FORMAT,
    MAX_LINE,
    End,
    Seal,
    build_end,
    build_line,
    parse_end,
    parse_line,
)
from ccatwm.errors import CcatwmError, NoSpaceError, SettingsError, UsageError

CHUNK = 1 << 20


class DamagedBackupError(SettingsError):
    """A file is no backup, or not a whole one. A person takes another."""


@dataclass(frozen=True)
class Backup:
    """A whole backup file."""

    path: Path
    seal: Seal
    payload_bytes: int


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, mode 0600, that nobody else writes; what a killed process left there is used again.

    Whoever has filled it calls `finish`. Errors: CcatwmError where somebody writes it now, or nobody can.
    """
    part = path.with_name(f".{path.name}.part")
    with _plain_errors(path):
        descriptor = _lock(part)
    try:
        with _plain_errors(path):
            os.ftruncate(descriptor, 0)
            yield part
    finally:
        if _is_open_as(descriptor, part):
            part.unlink()
        os.close(descriptor)


def _lock(part: Path) -> int:
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise CcatwmError(
                "it is being written by another process", where=str(part),
                next="wait until that has ended, or name another file: `ccatwm db backup FILE`",
            ) from error  # fmt: skip
        if _is_open_as(descriptor, part):
            os.fchmod(descriptor, 0o600)
            return descriptor
        os.close(descriptor)  # the other one has finished meanwhile


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        import errno

        kind = NoSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(
            f"the backup cannot be written: {error.strerror or error}", where=str(path),
            next="name a file in a folder that is there, that this account may write to, with room",
        ) from error  # fmt: skip


def finish(part: Path, path: Path, seal: Seal, *, overwrite: bool) -> int:
    """Seal the file, bring it to disk and give it its name; its size. Errors: UsageError where there is one already."""
    with part.open("r+b") as file:
        digest, size = _digest(file, None)
        line = build_line(seal)
        digest.update(line)
        file.write(line)
        file.write(build_end(End(size, len(line), digest.hexdigest())))
        file.flush()
        os.fsync(file.fileno())
        total = file.tell()
    if overwrite:
        part.replace(path)
    else:
        try:
            os.link(part, path)  # unlike a rename it leaves a file alone that came to be meanwhile
        except FileExistsError as error:
            raise already_there(path) from error
        part.unlink()
    sync_folder(path.parent)
    return total


def already_there(path: Path) -> UsageError:
    return UsageError("there is such a file already", where=str(path), next="--yes replaces it; or name another file")


def at_work(who: str) -> CcatwmError:
    return CcatwmError(
        f"passes are at work: {who}", next="`ccatwm pause --wait --reason TEXT` waits until none is; then again"
    )


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_backup(path: Path) -> Backup:
    """A backup whose sum is right. Errors: DamagedBackupError, UsageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise UsageError(
            f"it cannot be read: {error.strerror or error}", where=str(path),
            next="name a file that `ccatwm db backup` made",
        ) from error  # fmt: skip


def _read(path: Path, file: BinaryIO) -> Backup:
    total = file.seek(0, os.SEEK_END)
    file.seek(max(0, total - END_BYTES))
    end = parse_end(file.read(END_BYTES))
    if end is None or end.line_bytes > MAX_LINE or end.payload_bytes + end.line_bytes + END_BYTES != total:
        raise _damaged(path, "it is no backup of `ccatwm db backup`, or its end is missing")
    file.seek(0)
    digest, _ = _digest(file, end.payload_bytes)
    line = file.read(end.line_bytes)
    digest.update(line)
    if digest.hexdigest() != end.sha256:
        raise _damaged(path, "its content is not what was written: the checksum differs")
    seal = parse_line(line)
    if seal is None or seal.format > FORMAT:
        raise SettingsError(
            "the backup was written by a newer release of ccatwm", where=str(path), next="restore it with that release"
        )
    return Backup(path, seal, end.payload_bytes)


def _damaged(path: Path, what: str) -> DamagedBackupError:
    return DamagedBackupError(what, where=str(path), next="take another backup; nothing was changed")


def copy_payload(backup: Backup, target: BinaryIO) -> None:
    """What the database's own tool made, without the seal."""
    with backup.path.open("rb") as file:
        left = backup.payload_bytes
        while left and (data := file.read(min(CHUNK, left))):
            target.write(data)
            left -= len(data)


def _digest(file: BinaryIO, size: int | None) -> tuple[hashlib._Hash, int]:
    """The sum of the first `size` bytes, or of all, and how many they are."""
    digest, done = hashlib.sha256(), 0
    while data := file.read(CHUNK if size is None else min(CHUNK, size - done)):
        digest.update(data)
        done += len(data)
    return digest, done
