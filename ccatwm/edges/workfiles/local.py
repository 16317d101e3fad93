"""Files below the base directory on this host. Touches: those files only.

Every single change is an effect. What is made appears at once under its name: it is made under a hidden name beside it,
then renamed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ccatwm.edges.workfiles._receive import TreeWriter, receive_file_into, receive_tar_into, receive_tree_into
from ccatwm.errors import CcatwmError, FilesUnavailableError, NoSpaceError
from ccatwm.interfaces import Effects, EntryKind, FileWrite, Received, Space, TreeEntry

FULL = (errno.ENOSPC, errno.EDQUOT)
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
NEXT_METHOD = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EINVAL, errno.ENOTTY)
FICLONE = 0x40049409  # ioctl_ficlone(2)
BLOCK = 1 << 20


class LocalWorkFiles:
    """`WorkFiles` by plain system calls."""

    def __init__(self, base_dir: Path, effects: Effects) -> None:
        self._base = Path(os.path.abspath(base_dir))
        self._effects = effects

    def root(self) -> PurePosixPath:
        return PurePosixPath(self._base)

    # --- making and writing ----------------------------------------------------------------------------------

    def make_trees(self, paths: Iterable[PurePosixPath]) -> None:
        with _errors():
            for path in paths:
                self._make_tree(self._path(path))

    def make_exclusive(self, path: PurePosixPath, *, mode: int = 0o770) -> bool:
        full = self._path(path)
        with _errors():
            self._make_tree(full.parent)
            with self._effects.around("file.mkdir", str(path)):
                try:
                    os.mkdir(full, mode)
                except FileExistsError:
                    return False
        return True

    def modes(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, int | None]:
        with _errors():
            return {path: _mode(self._path(path)) for path in paths}

    def write_files(self, files: Iterable[FileWrite]) -> None:
        with _errors():
            for file in files:
                self._write(self._path(file.path), file.content, file.mode)

    def switch_link(self, link: PurePosixPath, target: str) -> None:
        full = self._path(link)
        with _errors():
            if os.path.islink(full) and os.readlink(full) == target:
                return
            temporary = hidden(full)
            with self._effects.around("file.symlink", str(link)):
                os.symlink(target, temporary)
            with self._effects.around("file.rename", str(link)):
                os.replace(temporary, full)
            self._sync_folder(full.parent)

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> bool:
        with _errors():
            return self._rename_new(self._path(source), self._path(target))

    def remove_trees(self, paths: Iterable[PurePosixPath]) -> None:
        with _errors():
            for path in paths:
                full = self._path(path)
                if full == self._base:
                    raise ValueError("the base directory is never removed")
                self._remove(full)

    # --- reading -----------------------------------------------------------------------------------------------

    def read_files(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int = 1 << 22
    ) -> dict[PurePosixPath, bytes | None]:
        with _errors():
            return {path: _read(self._path(path), max_bytes, tail=False) for path in paths}

    def read_tails(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int
    ) -> dict[PurePosixPath, bytes | None]:
        with _errors():
            return {path: _read(self._path(path), max_bytes, tail=True) for path in paths}

    def exists(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bool]:
        with _errors():
            return {path: os.path.lexists(self._path(path)) for path in paths}

    def list_tree(self, path: PurePosixPath) -> list[TreeEntry] | None:
        with _errors():
            try:
                folder = os.open(self._path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return None
                raise
            try:
                return sorted(_walk(folder, PurePosixPath()), key=lambda e: os.fsencode(str(e.path)))
            finally:
                os.close(folder)

    def hash_files(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, tuple[int, str] | None]:
        with _errors():
            return {path: _hash(self._path(path)) for path in paths}

    def space(self) -> Space:
        with _errors():
            found = os.statvfs(self._base)
        inodes = found.f_favail if found.f_files else 1 << 40  # btrfs and others have no fixed number
        return Space(found.f_bavail * found.f_frsize, inodes)

    # --- linking -----------------------------------------------------------------------------------------------

    def link_trees(self, links: Iterable[tuple[PurePosixPath, PurePosixPath]], *, hard: bool = True) -> None:
        with _errors():
            for source, target in links:
                self._link(self._path(source), self._path(target), hard)

    def _link(self, source: Path, target: Path, hard: bool) -> None:
        if os.path.lexists(target):
            return
        self._make_tree(target.parent)
        self._sweep(target)
        temporary = hidden(target)
        if stat.S_ISDIR(os.lstat(source).st_mode):
            self._link_tree(source, temporary, hard)
        else:
            self._link_file(source, temporary, hard)
        self._rename_new(temporary, target)

    def _link_tree(self, source: Path, target: Path, hard: bool) -> None:
        with self._effects.around("file.mkdir", str(target)):
            os.mkdir(target)
        with os.scandir(source) as entries:
            for entry in sorted(entries, key=lambda e: os.fsencode(e.name)):
                if entry.is_dir(follow_symlinks=False):
                    self._link_tree(source / entry.name, target / entry.name, hard)
                else:
                    self._link_file(source / entry.name, target / entry.name, hard)

    def _link_file(self, source: Path, target: Path, hard: bool) -> None:
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise CcatwmError(f"{source} is neither a file nor a folder: it cannot be an input")
        with self._effects.around("file.link", str(target)):
            if hard and _tried(lambda: os.link(source, target, follow_symlinks=False)):
                return
            if _tried(lambda: _reflink(source, target)):
                return
            _copy(source, target)

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive_tar(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        return self._receive(
            target, lambda writer: receive_tar_into(writer, stream, size_bytes, checksum, members)
        )

    def receive_file(
        self, stream: BinaryIO, target: PurePosixPath, *, name: str, size_bytes: int | None, checksum: str | None
    ) -> Received:
        return self._receive(target, lambda writer: receive_file_into(writer, stream, name, size_bytes, checksum))

    def receive_tree(
        self,
        files: Iterable[tuple[str, BinaryIO]],
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        return self._receive(
            target, lambda writer: receive_tree_into(writer, files, size_bytes, checksum, members)
        )

    def _receive(self, target: PurePosixPath, fill: Callable[[TreeWriter], Received]) -> Received:
        """Fill a hidden folder beside `target`, then rename it; on any error nothing is left."""
        full = self._path(target)
        with _errors():
            self._make_tree(full.parent)
            self._sweep(full)
            temporary = hidden(full)
            with self._effects.around("file.mkdir", str(temporary)):
                os.mkdir(temporary)
            try:
                received = fill(TreeWriter(temporary, self._effects))
            except BaseException:
                with suppress(OSError):
                    self._remove(temporary)
                raise
            self._rename_new(temporary, full)
        return received

    # --- single effects ---------------------------------------------------------------------------------------------

    def _path(self, path: PurePosixPath) -> Path:
        """The absolute path; one that is absolute, climbs, or passes through a link is refused."""
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"not a path below the base directory: {path}")
        return self._base / path

    def _make_tree(self, full: Path) -> None:
        if full.is_dir():
            return
        if full != self._base:
            self._make_tree(full.parent)
        with self._effects.around("file.mkdir", str(full)), suppress(FileExistsError):
            os.mkdir(full)

    def _write(self, full: Path, content: bytes, mode: int) -> None:
        self._make_tree(full.parent)
        temporary = hidden(full)
        try:
            with self._effects.around("file.write", str(full)):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
                with open(descriptor, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            with self._effects.around("file.rename", str(full)):
                os.replace(temporary, full)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._sync_folder(full.parent)

    def _rename_new(self, source: Path, target: Path) -> bool:
        """Rename without replacing; False, and `source` removed, if the target is there."""
        with self._effects.around("file.rename", str(target)):
            done = _rename_no_replace(source, target)
        if done:
            self._sync_folder(target.parent)
        else:
            self._remove(source)
        return done

    def _sync_folder(self, folder: Path) -> None:
        with self._effects.around("file.fsync", str(folder)):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _sweep(self, target: Path) -> None:
        """Remove what a killed pass left under hidden names for this target."""
        prefix = f".{_short(target.name)}."
        with os.scandir(target.parent) as entries:
            left = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(".part")]
        for name in left:
            self._remove(target.parent / name)

    def _remove(self, full: Path) -> None:
        try:
            found = os.lstat(full)
        except FileNotFoundError:
            return
        with self._effects.around("file.remove", str(full)):
            if stat.S_ISDIR(found.st_mode):
                _remove_tree(full)
            else:
                os.unlink(full)


# --- helpers without state ------------------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of the system as errors of this project."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoSpaceError(f"no space: {error.strerror}: {error.filename or ''}".rstrip(": ")) from error
        if error.errno in AWAY:
            raise FilesUnavailableError(f"the file system did not answer: {error}") from error
        raise CcatwmError(str(error)) from error


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:180])


def hidden(full: Path) -> Path:
    """A hidden name beside `full`, never used before."""
    return full.with_name(f".{_short(full.name)}.{secrets.token_hex(6)}.part")


def _mode(full: Path) -> int | None:
    try:
        return stat.S_IMODE(os.lstat(full).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_regular(full: Path) -> int | None:
    """A descriptor of the regular file itself, or None: links and special files are never opened for long."""
    try:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _read(full: Path, max_bytes: int, *, tail: bool) -> bytes | None:
    descriptor = _open_regular(full)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as stream:
        if tail:
            stream.seek(max(0, os.fstat(descriptor).st_size - max_bytes))
        return stream.read(max_bytes)


def _hash(full: Path) -> tuple[int, str] | None:
    descriptor = _open_regular(full)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()


def _walk(folder: int, below: PurePosixPath) -> Iterator[TreeEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            path = below / entry.name
            if stat.S_ISDIR(found.st_mode):
                yield TreeEntry(path, EntryKind.DIRECTORY, 0, found.st_mtime_ns)
                yield from _walk_into(folder, entry.name, path)
            else:
                yield _entry(folder, entry.name, path, found)


def _walk_into(folder: int, name: str, path: PurePosixPath) -> Iterator[TreeEntry]:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:  # swapped or removed meanwhile: listed as it was, not entered
        return
    try:
        yield from _walk(inner, path)
    finally:
        os.close(inner)


def _entry(folder: int, name: str, path: PurePosixPath, found: os.stat_result) -> TreeEntry:
    if stat.S_ISREG(found.st_mode):
        return TreeEntry(path, EntryKind.FILE, found.st_size, found.st_mtime_ns)
    if stat.S_ISLNK(found.st_mode):
        target = os.readlink(name, dir_fd=folder)
        return TreeEntry(path, EntryKind.SYMLINK, 0, found.st_mtime_ns, target)
    return TreeEntry(path, EntryKind.OTHER, 0, found.st_mtime_ns)


def _tried(act: Callable[[], None]) -> bool:
    """False where the file system does not do this: another method is taken."""
    try:
        act()
    except OSError as error:
        if error.errno in NEXT_METHOD:
            return False
        raise
    return True


def _reflink(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            os.unlink(target)
            raise


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, BLOCK)
        new.flush()
        os.fsync(new.fileno())


def _remove_tree(full: Path) -> None:
    def make_writable(function: Callable[..., Any], path: str, _error: Any) -> None:
        os.chmod(os.path.dirname(path), 0o700)
        if not os.path.islink(path) and os.path.isdir(path):
            os.chmod(path, 0o700)
        function(path)

    shutil.rmtree(full, onerror=make_writable)


_libc = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE = 1
AT_FDCWD = -100


def _rename_no_replace(source: Path, target: Path) -> bool:
    """renameat2(2) with RENAME_NOREPLACE; where a file system lacks it, look first (one writer per name)."""
    result = _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE)
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(target))
    if os.path.lexists(target):
        return False
    os.rename(source, target)
    return True
