"""Raw data packages on disk locations. Touches: those files, read only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ccatwm.errors import CcatwmError, CorruptCopyError, FilesUnavailableError, MissingCopyError
from ccatwm.interfaces import Effects, PackageCopy

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
MAGIC_OFFSET, MAGIC = 257, b"ustar"
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


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
            raise CorruptCopyError(f"{path} is neither a file nor a folder")
        if path.name.lower().endswith(TAR_ENDINGS) or _has_magic(path):
            return "tar"
        return "file"

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        """The bytes of a tar or plain file; one that changes while it is read is corrupt."""
        path = _path(copy)
        with _errors(copy):
            stream = path.open("rb")
        with stream:
            before = _state(stream)
            yield stream
            if _state(stream) != before:
                raise CorruptCopyError(f"{path} changed while it was read")

    def open_tree(self, copy: PackageCopy) -> Iterator[tuple[str, BinaryIO]]:
        root = _path(copy)
        for path in sorted(_files(root, copy), key=os.fsencode):
            with _errors(copy):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as stream:
                before = _state(stream)
                yield os.path.relpath(path, root), stream
                if _state(stream) != before:
                    raise CorruptCopyError(f"{path} changed while it was read")


def _path(copy: PackageCopy) -> Path:
    """Where the copy lies. Errors: CcatwmError where the location has no root, or the path leaves it."""
    if copy.root is None or not os.path.isabs(copy.root):
        raise CcatwmError(
            f"data location {copy.location} has no absolute root; set LOCATIONS.{copy.location}.root in settings.toml"
        )
    if os.path.isabs(copy.path) or ".." in Path(copy.path).parts:
        raise CorruptCopyError(f"path {copy.path!r} leads out of data location {copy.location}")
    return Path(copy.root) / copy.path


@contextmanager
def _errors(copy: PackageCopy) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in GONE:
            raise MissingCopyError(f"{copy.path} is not at {copy.location} ({copy.root})") from error
        if error.errno == errno.EACCES:
            raise MissingCopyError(f"{copy.path} at {copy.location} may not be read: {error.strerror}") from error
        raise FilesUnavailableError(f"{copy.location}: {error}") from error


def _files(root: Path, copy: PackageCopy) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    with _errors(copy):
        for folder, folders, names in os.walk(root, onerror=refuse):
            for name in [*folders, *names]:
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    raise CorruptCopyError(f"{path} is a symbolic link: packages hold files and folders only")
            yield from (os.path.join(folder, name) for name in names)


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            stream.seek(MAGIC_OFFSET)
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _state(stream: BinaryIO) -> tuple[int, int, int]:
    found = os.fstat(stream.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino
