"""Raw data packages on disk locations. Touches: those files, read only."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ccatwm.core.archives import TAR_MAGIC, TAR_MAGIC_OFFSET, is_tar_name
from ccatwm.core.names import encode_name
from ccatwm.errors import (
    CcatwmError,
    CopyUnavailableError,
    CorruptCopyError,
    FilesUnavailableError,
    LocationSettingsError,
    MissingCopyError,
)
from ccatwm.interfaces import Effects, PackageCopy

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
BLOCK = 1 << 20
LOST_AND_FOUND = "lost+found"  # an empty file system has it, too


class DiskStorage:
    """`Storage` for data locations whose root is a path of this host."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def form(self, copy: PackageCopy) -> str:
        path = _path(copy)
        with _errors(copy):
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode):
                return "directory"
            if not stat.S_ISREG(found.st_mode):
                raise CorruptCopyError(f"{_where(copy)} is neither a file nor a folder")
            if is_tar_name(copy.path) or _has_magic(path):
                return "tar"
        return "file"

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        """The bytes of a tar or plain file; one that changes while it is read is corrupt."""
        path = _path(copy)
        with _reading(copy, path, os.O_RDONLY) as stream:
            yield stream

    def open_tree(self, copy: PackageCopy) -> Iterator[tuple[str, BinaryIO]]:
        root = _path(copy)
        with _errors(copy):
            names = sorted(_names(root, copy), key=os.fsencode)
        for name in names:
            with _reading(copy, Path(root, name), os.O_RDONLY | os.O_NOFOLLOW) as stream:
                yield name, stream


class _CopyFile(io.FileIO):
    """A file whose errors while reading say which copy is bad, so that another can be tried."""

    def __init__(self, descriptor: int, copy: PackageCopy) -> None:
        super().__init__(descriptor, "rb")
        self._copy = copy

    def readinto(self, buffer: Any) -> int | None:
        with _errors(self._copy):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _errors(self._copy):
            return super().readall()


@contextmanager
def _reading(copy: PackageCopy, path: Path, flags: int) -> Iterator[BinaryIO]:
    with _errors(copy):
        descriptor = os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for ever
    with io.BufferedReader(_CopyFile(descriptor, copy), BLOCK) as stream:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise CorruptCopyError(f"{_where(copy)}: {encode_name(path.name)} is not a regular file")
        yield cast(BinaryIO, stream)
        if _state(os.fstat(descriptor)) != _state(before) or _was_replaced(path, before):
            raise CorruptCopyError(f"{_where(copy)}: {encode_name(path.name)} changed while it was read")


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


def _was_replaced(path: Path, before: os.stat_result) -> bool:
    """Whether another file has the name now. One that was removed meanwhile was read in whole nevertheless."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev)


def _path(copy: PackageCopy) -> Path:
    """Where the copy lies.

    Errors: LocationSettingsError for a location without a root, CorruptCopyError for a path that leaves it.
    """
    if copy.root is None or not os.path.isabs(copy.root):
        raise LocationSettingsError(
            f"data location {copy.location} has no absolute root to read from (root is {copy.root!r})",
            next=f"set locations.{copy.location}.root in settings.toml",
        )
    if os.path.isabs(copy.path) or ".." in Path(copy.path).parts or "\0" in copy.path:
        raise CorruptCopyError(f"path {copy.path!r} leads out of data location {copy.location}")
    root = os.path.realpath(copy.root)
    path = os.path.realpath(os.path.join(root, copy.path))
    if os.path.commonpath([root, path]) != root:
        raise CorruptCopyError(f"{_where(copy)} is a link that leads out of its data location, to {path}")
    return Path(path)


def _where(copy: PackageCopy) -> str:
    return f"{encode_name(copy.path)} at {copy.location} ({copy.root})"


@contextmanager
def _errors(copy: PackageCopy) -> Iterator[None]:
    """What makes this copy useless lets another be tried; all else is the world not answering."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in GONE:
            raise _missing(copy) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise MissingCopyError(f"{_where(copy)} may not be read: {reason}") from error
        if error.errno == errno.EIO:  # a bad sector, as far as one can tell
            raise CorruptCopyError(f"{_where(copy)} cannot be read: {reason}") from error
        raise FilesUnavailableError(f"{_where(copy)}: {reason}") from error


def _missing(copy: PackageCopy) -> CcatwmError:
    """Of a whole location that is not there nothing is known about one copy: a mount point is there, and empty."""
    assert copy.root is not None, "it has a path"
    root = encode_name(copy.root)
    try:
        with os.scandir(copy.root) as entries:
            is_there = any(entry.name != LOST_AND_FOUND for entry in entries)
        what = f"its root {root} is empty"
    except OSError as error:
        is_there = error.errno not in GONE
        what = f"its root {root} is not there"
    if is_there:
        return MissingCopyError(f"{_where(copy)} is not there")
    return CopyUnavailableError(
        f"data location {copy.location}: {what}: is its file system mounted?",
        next="it is looked at again by itself; if its files lie elsewhere, set "
        f"locations.{copy.location}.root in settings.toml",
    )


def _names(root: Path, copy: PackageCopy) -> Iterator[str]:
    """Names of the regular files below, relative to `root`. Errors: CorruptCopyError for links and special files."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                name = os.path.join(below, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file(follow_symlinks=False):
                    yield name
                else:
                    kind = "a symbolic link" if entry.is_symlink() else "a special file"
                    raise CorruptCopyError(
                        f"{_where(copy)}: {encode_name(name)} is {kind}: packages hold files and folders only"
                    )


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(TAR_MAGIC_OFFSET)
        return stream.read(len(TAR_MAGIC)) == TAR_MAGIC
