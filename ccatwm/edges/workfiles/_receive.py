"""Receives raw data packages: verified while they are read, written at once, safe against hostile members.

Touches: one hidden folder below the base directory. Nothing is left to tarfile's extraction: members are opened below
directory descriptors, exclusively and without following links.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ccatwm.core.digests import ALGORITHMS, split_checksum, tree_digest
from ccatwm.core.names import decode_name, encode_name
from ccatwm.errors import CorruptCopyError
from ccatwm.interfaces import Effects, Received

BLOCK = 1 << 20
MAX_EXPANSION = 20  # a compressed tar that grows beyond this many times its size (and 1 GiB) is a bomb
EXPANSION_ALLOWANCE = 1 << 30
FILE_MODE = 0o444

Members = Mapping[str, tuple[int, str | None]]


class VerifyingReader:
    """A stream that hashes and counts what is read, and stops a copy that is longer than it should be."""

    def __init__(self, stream: BinaryIO, size_bytes: int | None, checksum: str | None) -> None:
        self._stream = stream
        self._expected = size_bytes
        self._checksum = checksum
        self._hash = _new_hash(checksum)
        self.size = 0

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self.size += len(data)
        if self._hash is not None:
            self._hash.update(data)
        if self._expected is not None and self.size > self._expected:
            raise CorruptCopyError(f"longer than the {self._expected} bytes it should have")
        return data

    def finish(self) -> None:
        """Read to the end and compare. Errors: CorruptCopyError."""
        while self.read(BLOCK):
            pass
        if self._expected is not None and self.size != self._expected:
            raise CorruptCopyError(f"{self.size} bytes, {self._expected} expected")
        if self._hash is not None and self._checksum is not None:
            algorithm, wanted = split_checksum(self._checksum)
            found = self._hash.hexdigest()
            if found != wanted:
                raise CorruptCopyError(f"{algorithm} is {found}, {wanted} expected")


def _new_hash(checksum: str | None) -> Any:
    if checksum is None:
        return None
    algorithm, value = split_checksum(checksum)
    if algorithm not in ALGORITHMS or not value:
        raise CorruptCopyError(f"checksum {checksum!r} is of no known kind ({', '.join(ALGORITHMS)}, as algorithm:hex)")
    return hashlib.new(algorithm)


class TreeWriter:
    """Writes files below one folder and remembers their digests."""

    def __init__(self, folder: Path, effects: Effects) -> None:
        self._folder = folder
        self._effects = effects
        self._seen: dict[bytes, tuple[int, str]] = {}
        self._folders: set[tuple[str, ...]] = {()}
        self._unpacked = 0

    @property
    def files(self) -> Mapping[bytes, tuple[int, str]]:
        return self._seen

    def make_folder(self, parts: tuple[str, ...]) -> None:
        if parts in self._folders:
            return
        self.make_folder(parts[:-1])
        if os.fsencode("/".join(parts)) in self._seen:
            raise CorruptCopyError(f"{_shown(parts)} is both a file and a folder")
        with self._effects.around("file.mkdir", "/".join(parts)), suppress(FileExistsError):
            os.mkdir(self._folder.joinpath(*parts))
        self._folders.add(parts)

    def write(self, parts: tuple[str, ...], source: BinaryIO, limit: Callable[[], int] | None = None) -> int:
        """One file, created exclusively, mode 0444, flushed to disk; its size."""
        if parts in self._folders or os.fsencode("/".join(parts)) in self._seen:
            raise CorruptCopyError(f"{_shown(parts)} is there twice")
        self.make_folder(parts[:-1])
        digest = hashlib.sha256()
        size = 0
        with self._effects.around("file.write", "/".join(parts)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(self._folder.joinpath(*parts), flags, FILE_MODE)
            with open(descriptor, "wb", buffering=0) as target:
                while data := source.read(BLOCK):
                    size += len(data)
                    if limit is not None and self._unpacked + size > limit():
                        raise CorruptCopyError("unpacks to far more than its size")
                    digest.update(data)
                    _write_all(target, data)
                os.fchmod(target.fileno(), FILE_MODE)
                os.fsync(target.fileno())
        self._seen[os.fsencode("/".join(parts))] = (size, digest.hexdigest())
        self._unpacked += size
        return size

    def copy(self, parts: tuple[str, ...], earlier: tuple[str, ...]) -> int:
        """A second name for a file written before."""
        if os.fsencode("/".join(earlier)) not in self._seen:
            raise CorruptCopyError(f"{_shown(parts)} is a link to {_shown(earlier)}, which is not before it in the package")
        with open(self._folder.joinpath(*earlier), "rb") as source:
            return self.write(parts, source)

    def received(self, size_bytes: int) -> Received:
        digest = tree_digest((path, size, sha) for path, (size, sha) in self._seen.items())
        unpacked = sum(size for size, _ in self._seen.values())
        return Received(size_bytes, len(self._seen), f"sha256:{digest}", unpacked)


def _write_all(target: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _shown(parts: tuple[str, ...]) -> str:
    return encode_name("/".join(parts))


def safe_parts(name: str) -> tuple[str, ...]:
    """The components of a member's name. Errors: CorruptCopyError for one that leaves its folder."""
    if name.startswith("/"):
        raise CorruptCopyError(f"member {encode_name(name)} has an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise CorruptCopyError(f"member {encode_name(name)} leads out of its package")
    if "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise CorruptCopyError(f"member {encode_name(name)[:80]} has a name that no file can have")
    return parts


def receive_tar_into(
    writer: TreeWriter, stream: BinaryIO, size_bytes: int | None, checksum: str | None, members: Members | None
) -> Received:
    """Unpack a tar (plain, gz, bz2 or xz) while it is read once."""
    reader = VerifyingReader(stream, size_bytes, checksum)
    try:
        with tarfile.open(fileobj=reader, mode="r|*", bufsize=BLOCK, encoding="utf-8",  # type: ignore[call-overload]
                          errors="surrogateescape") as archive:  # fmt: skip
            for member in archive:
                _unpack(writer, archive, member, reader)
    except (tarfile.TarError, EOFError, zlib.error, OverflowError, UnicodeError, ValueError) as error:
        _explain(reader)
        raise CorruptCopyError(f"not a whole tar: {error}") from error
    reader.finish()
    _check_members(writer, members)
    return writer.received(reader.size)


def _explain(reader: VerifyingReader) -> None:
    """Where size or checksum already say what is wrong, say that."""
    reader.finish()


def _unpack(writer: TreeWriter, archive: Any, member: tarfile.TarInfo, reader: VerifyingReader) -> None:
    parts = safe_parts(member.name)
    if member.isdir():
        writer.make_folder(parts)
    elif member.isreg() and parts:
        source = archive.extractfile(member)
        size = writer.write(parts, source, lambda: max(reader.size * MAX_EXPANSION, EXPANSION_ALLOWANCE))
        if size != member.size:
            raise CorruptCopyError(f"member {_shown(parts)} is cut short")
    elif member.islnk():
        writer.copy(parts, safe_parts(member.linkname))
    else:
        kind = "symbolic link" if member.issym() else "device, FIFO or other special file"
        raise CorruptCopyError(f"member {encode_name(member.name)} is a {kind}: packages hold files and folders only")


def receive_file_into(
    writer: TreeWriter, stream: BinaryIO, name: str, size_bytes: int | None, checksum: str | None
) -> Received:
    """One plain file."""
    reader = VerifyingReader(stream, size_bytes, checksum)
    writer.write(safe_parts(name), reader)  # type: ignore[arg-type]
    reader.finish()
    return writer.received(reader.size)


def receive_tree_into(
    writer: TreeWriter,
    files: Iterable[tuple[str, BinaryIO]],
    size_bytes: int | None,
    checksum: str | None,
    members: Members | None,
) -> Received:
    """A package that is a folder; its checksum is the tree digest, its size the sum of its files."""
    for name, stream in files:
        writer.write(safe_parts(name), stream)
    received = writer.received(sum(size for size, _ in writer.files.values()))
    if size_bytes is not None and received.size_bytes != size_bytes:
        raise CorruptCopyError(f"{received.size_bytes} bytes, {size_bytes} expected")
    if checksum is not None and received.tree_digest != checksum.lower():
        raise CorruptCopyError(f"tree digest is {received.tree_digest}, {checksum} expected")
    _check_members(writer, members)
    return received


def _check_members(writer: TreeWriter, members: Members | None) -> None:
    """Files that the package lists are there, with their sizes and SHA-256 sums."""
    if not members:
        return
    for name, (size, checksum) in members.items():
        found = _find(writer.files, name)
        if found is None:
            raise CorruptCopyError(f"file {name} is listed but not in the package")
        if size is not None and found[0] != size:
            raise CorruptCopyError(f"file {name} has {found[0]} bytes, {size} expected")
        if checksum is not None and checksum.startswith("sha256:") and checksum.lower() != f"sha256:{found[1]}":
            raise CorruptCopyError(f"file {name} has sha256 {found[1]}, {checksum} expected")


def _find(files: Mapping[bytes, tuple[int, str]], name: str) -> tuple[int, str] | None:
    return files.get(os.fsencode(name)) or files.get(os.fsencode(decode_name(name)))
