"""Receives raw data packages: verified while they are read, written at once, safe against hostile members.

Touches: one hidden folder, below its descriptor. Hashing and flushing to disk go on in threads beside the reading.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from ccatwm.core.digests import known_checksum, tree_digest
from ccatwm.core.names import encode_name
from ccatwm.edges.workfiles._folders import Folders, Parts, remove_entry, walk
from ccatwm.edges.workfiles._system import (
    BLOCK,
    NEW_FILE,
    close_checked,
    find_regular,
    find_status,
    write_all,
)
from ccatwm.errors import CorruptCopyError
from ccatwm.interfaces import Effects, EntryKind, Received

MAX_EXPANSION = 20  # a package that unpacks to more than this many times its size, and 1 GiB, is a bomb
EXPANSION_ALLOWANCE = 1 << 30
LONGEST_PATH = 1024  # bytes, of a member; with the base directory it must stay below PATH_MAX
SMALL = 1 << 16  # bytes that are hashed sooner than handed to a thread
QUEUED_BLOCKS = 8
QUEUED_FLUSHES = 16
FLUSHED_FILES, FLUSHED_BYTES = 16, 1 << 23  # that go to one thread together

Members = Mapping[str, tuple[int, str | None]]


def is_resumable(members: Members | None) -> bool:
    """Whether each file can be checked by itself, so that those of an interrupted unpacking need not be read again."""
    return bool(members) and all(checksum is not None for _, checksum in (members or {}).values())


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Crew:
    """Threads beside the reading one: one hashes what is read, one what is written, some flush files to disk."""

    def __init__(self) -> None:
        self.reading = ThreadPoolExecutor(1)
        self.writing = ThreadPoolExecutor(1)
        self.flushing = ThreadPoolExecutor(8)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self.reading, self.writing, self.flushing):
            pool.shutdown(wait=True)


class Digest:
    """A hash fed in order by a thread of its own (hashlib lets others run meanwhile)."""

    def __init__(self, algorithm: str, pool: ThreadPoolExecutor) -> None:
        self._hash: Any = hashlib.new(algorithm, usedforsecurity=False)
        self._pool = pool
        self._queue: deque[Future[None]] = deque()

    def update(self, data: bytes) -> None:
        if len(data) <= SMALL and not self._queue:
            self._hash.update(data)
            return
        while len(self._queue) >= QUEUED_BLOCKS:
            self._queue.popleft().result()
        self._queue.append(self._pool.submit(self._hash.update, data))

    def hexdigest(self) -> str:
        while self._queue:
            self._queue.popleft().result()
        return str(self._hash.hexdigest())


class VerifyingReader:
    """A stream that hashes and counts what is read of it, and stops a copy that is longer than it should be."""

    def __init__(self, stream: Readable, size_bytes: int | None, checksum: str | None, crew: Crew) -> None:
        self._stream = stream
        self._expected = size_bytes
        self._wanted = None if checksum is None else known_checksum(checksum)
        self._digest = None if self._wanted is None else Digest(self._wanted[0], crew.reading)
        self._block = b""
        self._taken = 0
        self.size = 0

    def peek(self, count: int) -> bytes:
        """The first bytes, before anything is read."""
        self._next()
        return self._block[:count]

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes, at most what is left of a block; empty at the end only."""
        if self._taken == len(self._block):
            self._next()
        end = len(self._block) if count < 0 else min(self._taken + count, len(self._block))
        data = self._block[self._taken : end]
        self._taken = end
        return data

    def _next(self) -> None:
        self._block, self._taken = self._stream.read(BLOCK), 0
        self.size += len(self._block)
        if self._expected is not None and self.size > self._expected:
            raise CorruptCopyError(f"longer than the {self._expected} bytes it should have")
        if self._digest is not None:
            self._digest.update(self._block)

    def finish(self) -> None:
        """Read to the end and compare. Errors: CorruptCopyError."""
        self._next()
        while self._block:
            self._next()
        if self._expected is not None and self.size != self._expected:
            raise CorruptCopyError(f"{self.size} bytes, {self._expected} expected")
        if self._digest is not None and self._wanted is not None:
            algorithm, wanted = self._wanted
            found = self._digest.hexdigest()
            if found != wanted:
                raise CorruptCopyError(f"{algorithm} is {found}, {wanted} expected")


# --- writing a tree ---------------------------------------------------------------------------------------------


class TreeWriter:
    """Writes files below one empty folder, exclusively, and remembers their digests.

    Files are mode 0444, folders 0755 with the set-group bit of their parent, whatever the umask.
    """

    def __init__(
        self, folder: int, effects: Effects, members: Members | None, *, resumed: bool = False, flushes: bool = True
    ) -> None:
        """`flushes` False: whoever asked flushes the file system afterwards."""
        self._effects = effects
        self._flushes_files = flushes
        self.resumed = resumed
        self._listed = {"/".join(safe_parts(name)): listed for name, listed in (members or {}).items()}
        self._missing = set(self._listed)
        self._written: dict[bytes, tuple[int, str]] = {}
        self._folders: set[Parts] = {()}
        self._flushes: deque[Future[None]] = deque()
        self._open: list[int] = []  # written, not yet on their way to the disk
        self._open_bytes = 0
        self._stack = ExitStack()
        self._tree = self._stack.enter_context(Folders(os.dup(folder), effects))
        self.crew = self._stack.enter_context(Crew())
        self.unpacked_bytes = 0

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for descriptor in self._open:
            os.close(descriptor)

    def make_folder(self, parts: Parts) -> None:
        for level in range(1, len(parts) + 1):
            self._make_level(parts[:level])

    def _make_level(self, parts: Parts) -> None:
        if parts in self._folders:
            return
        if _key(parts) in self._written:
            raise CorruptCopyError(f"{shown(parts)} is both a file and a folder")
        descriptor = self._tree.make(parts)
        os.fchmod(descriptor, 0o755 | (os.fstat(descriptor).st_mode & stat.S_ISGID))
        self._folders.add(parts)

    def write(self, parts: Parts, source: Readable, allowed: int | None = None) -> int:
        """One file; its size. `allowed`: more bytes than this make the package a bomb."""
        if parts in self._folders or _key(parts) in self._written:
            raise CorruptCopyError(f"{shown(parts)} is in the package twice")
        self.make_folder(parts[:-1])
        folder = self._tree.get(parts[:-1])
        if self.resumed and (kept := self._keep(folder, parts)) is not None:
            return kept
        with self._effects.around("file.write", "/".join(parts)):
            descriptor = _open_new(folder, parts)
            try:
                size, sha256 = self._fill(descriptor, parts, source, allowed)
            except BaseException:
                os.close(descriptor)
                raise
        return self._add(parts, descriptor, size, sha256)

    def _add(self, parts: Parts, descriptor: int, size: int, sha256: str) -> int:
        self._written[_key(parts)] = (size, sha256)
        self._open.append(descriptor)
        self._open_bytes += size
        if len(self._open) >= FLUSHED_FILES or self._open_bytes >= FLUSHED_BYTES:
            self._flush()
        return size

    def _keep(self, folder: int, parts: Parts) -> int | None:
        """The size of a file that the interrupted unpacking had written whole; what it left else is removed."""
        descriptor = find_regular(folder, parts[-1])
        if descriptor is not None:
            found = _digests(descriptor, self._find_listed(parts))
            if found is not None:
                size, sha256 = found
                self._take_listed(parts)
                self.unpacked_bytes += size
                os.fchmod(descriptor, 0o444)
                os.utime(descriptor)
                return self._add(parts, descriptor, size, sha256)
            os.close(descriptor)
        if find_status(folder, parts[-1]) is not None:
            remove_entry(folder, parts[-1], self._effects)
        return None

    def _fill(self, descriptor: int, parts: Parts, source: Readable, allowed: int | None) -> tuple[int, str]:
        sha256 = Digest("sha256", self.crew.writing)
        check = _MemberCheck(shown(parts), self._take_listed(parts), sha256, self.crew)
        size = 0
        while data := source.read(BLOCK):
            size += len(data)
            self.unpacked_bytes += len(data)
            if allowed is not None and self.unpacked_bytes > allowed:
                raise CorruptCopyError(f"unpacks to more than {allowed} bytes, far more than its size")
            check.update(data)
            write_all(descriptor, data)
        check.finish(size)
        os.fchmod(descriptor, 0o444)
        return size, sha256.hexdigest()

    def _take_listed(self, parts: Parts) -> tuple[int | None, str | None] | None:
        """What the package's list says of a file; lists may have names as the ops-db does, percent-encoded."""
        name = self._listed_name(parts)
        if name is None:
            return None
        self._missing.discard(name)
        return self._listed[name]

    def _find_listed(self, parts: Parts) -> tuple[int | None, str | None] | None:
        name = self._listed_name(parts)
        return None if name is None else self._listed[name]

    def _listed_name(self, parts: Parts) -> str | None:
        return next((name for name in ("/".join(parts), shown(parts)) if name in self._listed), None)

    def _flush(self) -> None:
        """fsync and close written files in a thread: small ones wait together. Errors come up in `finish`."""
        if not self._flushes_files:
            written, self._open, self._open_bytes = self._open, [], 0
            _close_all(written)
            return
        with self._effects.around("file.fsync", f"{len(self._open)} files"):
            self._flushes.append(self.crew.flushing.submit(_sync_and_close, self._open))
            self._open, self._open_bytes = [], 0
        while len(self._flushes) > QUEUED_FLUSHES:
            self._flushes.popleft().result()

    def copy(self, parts: Parts, earlier: Parts, allowed: int | None) -> int:
        """A second name for a file written before, as a file of its own."""
        if _key(earlier) not in self._written:
            raise CorruptCopyError(
                f"{shown(parts)} is a hard link to {shown(earlier)}, which is not before it"
            )
        folder = self._tree.get(earlier[:-1])
        descriptor = find_regular(folder, earlier[-1])
        assert descriptor is not None, "written before"
        with open(descriptor, "rb", buffering=0) as source:
            return self.write(parts, source, allowed)

    def finish(self, size_bytes: int) -> Received:
        """All of it is on disk, and has all files that are listed. Errors: CorruptCopyError, OSError."""
        self._flush()
        while self._flushes:
            self._flushes.popleft().result()
        if self._missing:
            missing = ", ".join(encode_name(name) for name in sorted(self._missing)[:3])
            raise CorruptCopyError(f"{len(self._missing)} listed files are not in the package: {missing}")
        if not self._written:
            raise CorruptCopyError("there is no file in the package")
        if self.resumed:
            self._remove_strangers()
        for parts in sorted(self._folders) if self._flushes_files else ():
            with self._effects.around("file.fsync", "/".join(parts)):
                os.fsync(self._tree.get(parts))
        digest = tree_digest((path, size, sha) for path, (size, sha) in self._written.items())
        return Received(size_bytes, len(self._written), f"sha256:{digest}", self.unpacked_bytes)

    def _remove_strangers(self) -> None:
        """What the interrupted unpacking left and the package does not have."""
        folder = self._tree.get(())
        for entry in list(walk(folder)):
            parts = entry.path.parts
            if entry.kind is not EntryKind.DIRECTORY and _key(parts) not in self._written:
                remove_entry(self._tree.get(parts[:-1]), parts[-1], self._effects)


def _digests(descriptor: int, listed: tuple[int | None, str | None] | None) -> tuple[int, str] | None:
    """(size, sha256) of a file that has the size and checksum that are listed of it; None: it has not."""
    if listed is None or listed[1] is None or os.fstat(descriptor).st_size != listed[0]:
        return None
    algorithm, wanted = known_checksum(listed[1])
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in {algorithm, "sha256"}}
    size = 0
    while data := os.pread(descriptor, BLOCK, size):
        size += len(data)
        for digest in sums.values():
            digest.update(data)
    return (size, sums["sha256"].hexdigest()) if sums[algorithm].hexdigest() == wanted else None


class _MemberCheck:
    """Compares one file with what the package's list says of it."""

    def __init__(
        self, name: str, listed: tuple[int | None, str | None] | None, sha256: Digest, crew: Crew
    ) -> None:
        self._name = name
        self._size, checksum = listed or (None, None)
        self._wanted = None if checksum is None else known_checksum(checksum)
        self._sha256 = sha256
        other = self._wanted is not None and self._wanted[0] != "sha256"
        self._digest = Digest(self._wanted[0], crew.writing) if self._wanted and other else sha256

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._digest is not self._sha256:
            self._digest.update(data)

    def finish(self, size: int) -> None:
        if self._size is not None and size != self._size:
            raise CorruptCopyError(f"file {self._name} has {size} bytes, {self._size} expected")
        if self._wanted is not None and (found := self._digest.hexdigest()) != self._wanted[1]:
            raise CorruptCopyError(
                f"file {self._name} has {self._wanted[0]} {found}, {self._wanted[1]} expected"
            )


def _open_new(folder: int, parts: Parts) -> int:
    try:
        return os.open(parts[-1], NEW_FILE, 0o444, dir_fd=folder)
    except FileExistsError as error:  # names that this file system takes for the same: case, composed letters
        raise CorruptCopyError(
            f"{shown(parts)} is in the package twice, as this file system sees names"
        ) from error


def _sync_and_close(descriptors: Iterable[int]) -> None:
    """All are closed whatever happens; the first error is raised."""
    with ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(close_checked, descriptor, os.fsync)


def _close_all(descriptors: Iterable[int]) -> None:
    """The same without fsync: network file systems tell of a full disk at close."""
    with ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)


def _key(parts: Parts) -> bytes:
    return os.fsencode("/".join(parts))


def shown(parts: Parts) -> str:
    return encode_name("/".join(parts))


def safe_parts(name: str) -> Parts:
    """The components of a member's name. Errors: CorruptCopyError for one that no file below a folder can have."""
    if name.startswith("/"):
        raise CorruptCopyError(f"member {encode_name(name)[:200]} has an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise CorruptCopyError(f"member {encode_name(name)[:200]} leads out of its package")
    sizes = [len(os.fsencode(part)) for part in parts]
    if "\0" in name or max(sizes, default=0) > 255 or sum(sizes) + len(sizes) > LONGEST_PATH:
        raise CorruptCopyError(
            f"member {encode_name(name)[:200]} has a name that is too long or holds a zero byte"
        )
    return parts


# --- what is no tar ----------------------------------------------------------------------------------------------


def receive_file_into(
    writer: TreeWriter, stream: BinaryIO, name: str, size_bytes: int | None, checksum: str | None
) -> Received:
    """One plain file."""
    reader = VerifyingReader(stream, size_bytes, checksum, writer.crew)
    parts = safe_parts(name)
    if not parts:
        raise CorruptCopyError("a file needs a name")
    writer.write(parts, reader)
    reader.finish()
    return writer.finish(reader.size)


def receive_tree_into(
    writer: TreeWriter, files: Iterable[tuple[str, BinaryIO]], size_bytes: int | None, checksum: str | None
) -> Received:
    """A package that is a folder; its checksum is the tree digest, its size the sum of its files."""
    wanted = None if checksum is None else known_checksum(checksum)
    for name, stream in files:
        parts = safe_parts(name)
        writer.write(parts, stream)
        if size_bytes is not None and writer.unpacked_bytes > size_bytes:
            raise CorruptCopyError(f"longer than the {size_bytes} bytes it should have")
    received = writer.finish(writer.unpacked_bytes)
    if size_bytes is not None and received.size_bytes != size_bytes:
        raise CorruptCopyError(f"{received.size_bytes} bytes, {size_bytes} expected")
    if wanted is not None and received.tree_digest != ":".join(wanted):
        raise CorruptCopyError(f"the tree digest is {received.tree_digest}, {checksum} expected")
    return received
