"""Folders below a root: opened one component at a time, made, walked and removed; no link is ever passed.

Touches: what lies below the root's descriptor.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType

from ccatwm.core.outputs import head_of
from ccatwm.edges.workfiles._system import (
    FOLDER,
    errors_at,
    find_folder,
    find_status,
    is_locked,
    make_writable,
)
from ccatwm.errors import CcatwmError, FilesUnavailableError
from ccatwm.interfaces import Effects, EntryKind, TreeEntry

DEEPEST = 200  # levels below a listed folder; every level holds a descriptor
DEEPEST_REMOVED = 64  # deeper folders are moved up first

Parts = tuple[str, ...]


class Folders:
    """Descriptors of folders below one root; the way to the last one stays open, neighbours are cheap.

    A descriptor is good until the next call.
    """

    def __init__(self, root: int, effects: Effects) -> None:
        self._root = root
        self._effects = effects
        self._way: list[tuple[str, int]] = []

    @classmethod
    def below(cls, base: Path, effects: Effects) -> Folders:
        """Errors: FilesUnavailableError if `base` is not there (its file system may not be mounted)."""
        with errors_at(str(base)):
            try:
                return cls(os.open(base, os.O_RDONLY | os.O_DIRECTORY), effects)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise FilesUnavailableError(
                    f"the base directory {base} is not there",
                    next="mount its file system, or run `ccatwm init`",
                ) from error

    def __enter__(self) -> Folders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(0)
        os.close(self._root)

    def find(self, parts: Parts) -> int | None:
        """The folder, or None where there is none (or a link is on the way)."""
        self._keep(parts)
        for part in parts[len(self._way) :]:
            descriptor = find_folder(self._here, part)
            if descriptor is None:
                return None
            self._way.append((part, descriptor))
        return self._here

    def get(self, parts: Parts) -> int:
        """The folder. Errors: FileNotFoundError, CcatwmError for a link or a file on the way."""
        descriptor = self.find(parts)
        if descriptor is None:
            reached = len(self._way)
            self._refuse_other(parts[: reached + 1])
            raise FileNotFoundError(2, f"there is no folder {'/'.join(parts)}")
        return descriptor

    def make(self, parts: Parts, mode: int = 0o777) -> int:
        """The folder, made where it was not, with `mode` as the umask allows."""
        self._keep(parts)
        while len(self._way) < len(parts):
            part = parts[len(self._way)]
            descriptor = find_folder(self._here, part)
            if descriptor is None:
                descriptor = self._make_one(parts[: len(self._way) + 1], mode)
            self._way.append((part, descriptor))
        return self._here

    def _make_one(self, parts: Parts, mode: int) -> int:
        with self._effects.around("file.mkdir", "/".join(parts)):
            try:
                os.mkdir(parts[-1], mode, dir_fd=self._here)
            except FileExistsError:  # somebody else was faster, or it is no folder
                self._refuse_other(parts)
        return os.open(parts[-1], FOLDER, dir_fd=self._here)

    def _refuse_other(self, parts: Parts) -> None:
        found = find_status(self._here, parts[-1])
        if found is not None and not stat.S_ISDIR(found.st_mode):
            kind = "a link, and links are not followed" if stat.S_ISLNK(found.st_mode) else "not a folder"
            raise CcatwmError(f"{'/'.join(parts)} is {kind}")

    @property
    def _here(self) -> int:
        return self._way[-1][1] if self._way else self._root

    def _keep(self, parts: Parts) -> None:
        same = 0
        for (name, _), part in zip(self._way, parts, strict=False):
            if name != part:
                break
            same += 1
        self._leave(same)

    def _leave(self, level: int) -> None:
        while len(self._way) > level:
            os.close(self._way.pop()[1])


# --- hidden names -------------------------------------------------------------------------------------------------


def hidden_name(name: str) -> str:
    """A hidden name beside `name` that nothing has had before."""
    return f"{_prefix(name)}{secrets.token_hex(6)}.part"


def _prefix(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) > 200:  # with the rest it would be too long for a name
        name = hashlib.sha256(raw).hexdigest()
    return f".{name}."


class Sweeper:
    """Removes what killed processes left under hidden names; what a living one holds locked stays."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._seen: dict[Parts, list[str]] = {}

    def sweep(self, folder: int, parts: Parts, name: str, keep: str | None = None) -> None:
        """Remove leftovers for `name` in the folder, but for `keep`; it is listed once in this object's life."""
        for left in self.leftovers(folder, parts, name):
            if left != keep:
                remove_entry(folder, left, self._effects)

    def leftovers(self, folder: int, parts: Parts, name: str) -> list[str]:
        """What killed processes left of `name`."""
        if parts not in self._seen:
            self._seen[parts] = [left for left in os.listdir(folder) if left.endswith(".part")]
        pattern = re.compile(re.escape(_prefix(name)) + r"[0-9a-f]{12}\.part")
        return [left for left in self._seen[parts] if pattern.fullmatch(left) and not _is_alive(folder, left)]


def _is_alive(folder: int, name: str) -> bool:
    found = find_status(folder, name)
    if found is None or not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)


# --- walking ------------------------------------------------------------------------------------------------------


def walk(folder: int, below: PurePosixPath = PurePosixPath(), depth: int = 0) -> Iterator[TreeEntry]:
    """All entries below the folder, links not followed, in no order; what vanishes meanwhile is left out."""
    if depth > DEEPEST:
        raise CcatwmError(f"folders are nested more than {DEEPEST} deep: {str(below)[:80]}...")
    with os.scandir(folder) as entries:
        for entry in entries:
            found = find_status(folder, entry.name)
            if found is None:
                continue
            path = below / entry.name
            yield _entry(folder, path, found)
            if stat.S_ISDIR(found.st_mode):
                yield from _walk_into(folder, entry.name, path, depth + 1)


def statuses(folder: int, depth: int = 0) -> Iterator[os.stat_result]:
    """lstat(2) of all that is below, as far as `DEEPEST` levels."""
    with os.scandir(folder) as entries:
        for entry in entries:
            found = find_status(folder, entry.name)
            if found is None:
                continue
            yield found
            inner = find_folder(folder, entry.name) if stat.S_ISDIR(found.st_mode) and depth < DEEPEST else None
            if inner is not None:
                try:
                    yield from statuses(inner, depth + 1)
                finally:
                    os.close(inner)


def record(folder: int) -> bytes:
    """All entries below the folder as `core.outputs` reads them, for trees of very many files. `find` mostly has the same
    order: that of the folders, what is in a folder right behind it."""
    found: list[bytes] = []
    _record(folder, b"", found, 0)
    return b"".join(found)


def _record(folder: int, below: bytes, found: list[bytes], depth: int) -> None:
    if depth > DEEPEST:
        raise CcatwmError(f"folders are nested more than {DEEPEST} deep: {os.fsdecode(below)[:80]}...")
    with os.scandir(folder) as entries:
        for entry in entries:  # of these there may be 100,000: each call counts
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            name = below + entry.name.encode("utf-8", "surrogateescape")
            kind = _LETTERS.get(status.st_mode & _KIND, b"U")
            target = os.fsencode(_link_target(folder, entry.name) or "") if kind == b"l" else b""
            found.append(b"%s\0%s\0%s\0" % (head_of(kind, status.st_size, status.st_mtime_ns), name, target))
            if kind == b"d":
                _record_inner(folder, entry.name, name + b"/", found, depth + 1)


def _record_inner(parent: int, name: str, below: bytes, found: list[bytes], depth: int) -> None:
    folder = find_folder(parent, name)
    if folder is None:  # swapped or removed meanwhile
        return
    try:
        _record(folder, below, found, depth)
    finally:
        os.close(folder)


_KIND = 0o170000  # S_IFMT: the bits that say what it is
_LETTERS = {  # as `find -printf %y` calls them
    stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p", stat.S_IFSOCK: b"s",
    stat.S_IFCHR: b"c", stat.S_IFBLK: b"b",
}  # fmt: skip


def names_in(folder: int, *, folders: bool) -> Iterator[str]:
    """Of the folders in this one, or of all that is none; links are none."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) is folders:
                yield entry.name


def _walk_into(parent: int, name: str, path: PurePosixPath, depth: int) -> Iterator[TreeEntry]:
    folder = find_folder(parent, name)
    if folder is None:  # swapped or removed meanwhile
        return
    try:
        yield from walk(folder, path, depth)
    finally:
        os.close(folder)


def _entry(folder: int, path: PurePosixPath, found: os.stat_result) -> TreeEntry:
    if stat.S_ISREG(found.st_mode):
        return TreeEntry(path, EntryKind.FILE, found.st_size, found.st_mtime_ns)
    if stat.S_ISDIR(found.st_mode):
        return TreeEntry(path, EntryKind.DIRECTORY, 0, found.st_mtime_ns)
    if stat.S_ISLNK(found.st_mode):
        return TreeEntry(path, EntryKind.SYMLINK, 0, found.st_mtime_ns, _link_target(folder, path.name))
    return TreeEntry(path, EntryKind.OTHER, 0, found.st_mtime_ns)


def _link_target(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:  # replaced or removed meanwhile
        return None


# --- removing -----------------------------------------------------------------------------------------------------


def remove_entry(parent: int, name: str, effects: Effects) -> None:
    """Remove a file, a link itself, or a folder with all that is in it. Absent is fine."""
    found = find_status(parent, name)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        _remove_folder(parent, name, found, effects)
    else:
        with effects.around("file.unlink", name):
            _unlink(parent, name)


def _remove_folder(parent: int, name: str, found: os.stat_result, effects: Effects) -> None:
    folder = _open_writable(parent, name, found, effects)
    try:
        while os.listdir(folder):
            _empty(folder, folder, effects, 0)
    finally:
        os.close(folder)
    with effects.around("file.rmdir", name):
        os.rmdir(name, dir_fd=parent)


def _empty(folder: int, top: int, effects: Effects, depth: int) -> None:
    for name in os.listdir(folder):
        found = find_status(folder, name)
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            with effects.around("file.unlink", name):
                _unlink(folder, name)
        elif depth >= DEEPEST_REMOVED:
            with effects.around("file.rename", name):
                os.rename(name, f"{secrets.token_hex(8)}.deep", src_dir_fd=folder, dst_dir_fd=top)
        else:
            _empty_inner(folder, name, found, top, effects, depth)


def _empty_inner(
    parent: int, name: str, found: os.stat_result, top: int, effects: Effects, depth: int
) -> None:
    folder = _open_writable(parent, name, found, effects)
    try:
        _empty(folder, top, effects, depth + 1)
    finally:
        os.close(folder)
    with effects.around("file.rmdir", name):
        os.rmdir(name, dir_fd=parent)


def _open_writable(parent: int, name: str, found: os.stat_result, effects: Effects) -> int:
    if found.st_mode & 0o700 != 0o700:
        with effects.around("file.chmod", name):
            make_writable(parent, name)
    return os.open(name, FOLDER, dir_fd=parent)


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
