"""Reads a tar (plain, gz, bz2 or xz) once, front to end, and has its members written.

Touches: nothing itself. tarfile only reads headers here; none of its extraction is used, its filters have been got
round before (CVE-2025-4517 and others).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from ccatwm.core.names import encode_name
from ccatwm.edges.workfiles._receive import (
    EXPANSION_ALLOWANCE,
    MAX_EXPANSION,
    Readable,
    TreeWriter,
    VerifyingReader,
    safe_parts,
)
from ccatwm.errors import CorruptCopyError
from ccatwm.interfaces import Received

BUFFER = 1 << 17  # tarfile copies what is left of its buffer at every header
LONGEST_HEADER = 1 << 20  # bytes of an extended header
LONGEST_HEADERS = 1 << 22  # bytes of all that comes before a member
MOST_MEMBERS = 2_000_000
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK)  # fmt: skip
MAGIC: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError)


class _Member(tarfile.TarInfo):
    """A header. tarfile itself takes a damaged one, or the end of the bytes, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            cast(_Archive, archive).has_end_mark = True
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged header at byte {archive.offset}: {error}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in EXTENDED and not 0 <= self.size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"extended header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Archive(tarfile.TarFile):
    tarinfo = _Member
    has_end_mark = False


class _Inflated:
    """What comes out of a decompressor, counted: a bomb ends before it fills anything."""

    def __init__(self, reader: VerifyingReader) -> None:
        self._reader = reader
        first = reader.peek(6)
        openers = [opener for magic, opener in MAGIC if first.startswith(magic)]
        self._stream: Readable = openers[0](reader) if openers else reader
        self._size = 0
        self._header_ends: int | None = None

    @contextmanager
    def header(self) -> Iterator[None]:
        """A header is read inside, which tarfile keeps in memory: extended ones, maps of sparse files."""
        self._header_ends = self._size + LONGEST_HEADERS
        yield
        self._header_ends = None

    @property
    def allowed(self) -> int:
        """Bytes that may come of what has been read so far."""
        return self._reader.size * MAX_EXPANSION + EXPANSION_ALLOWANCE

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self._size += len(data)
        if self._size > self.allowed:
            raise CorruptCopyError(f"unpacks to more than {self.allowed} bytes, far more than its size")
        if self._header_ends is not None and self._size > self._header_ends:
            raise CorruptCopyError(
                f"not a whole tar: more than {LONGEST_HEADERS} bytes of headers before a member"
            )
        return data

    def drain(self) -> None:
        """To the end, where gz and xz have their own checksums."""
        while self.read(BUFFER):
            pass


def receive_tar_into(
    writer: TreeWriter, stream: Readable, size_bytes: int | None, checksum: str | None
) -> Received:
    """Write the members of a tar while it is read once. Errors: CorruptCopyError."""
    if writer.resumed and _is_plain(stream):
        return _go_on(writer, stream, size_bytes)
    reader = VerifyingReader(stream, size_bytes, checksum, writer.crew)
    try:
        has_end_mark = _unpack_all(writer, _Inflated(reader))
    except BROKEN as error:
        reader.finish()  # where size or checksum already tell what is wrong, they say it better
        raise CorruptCopyError(f"not a whole tar: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        reader.finish()  # bz2 and gzip say so of damaged data
        raise CorruptCopyError(f"not a whole tar: {error}") from error
    reader.finish()
    if not has_end_mark and checksum is None:
        raise CorruptCopyError(
            "not a whole tar: it has no end mark, and no checksum to tell that it is whole"
        )
    return writer.finish(reader.size)


def _is_plain(stream: Readable) -> bool:
    """Whether members of it can be passed over: an archive that is not compressed, and can be read from anywhere."""
    if not getattr(stream, "seekable", bool)():
        return False
    first = stream.read(6)
    cast(Any, stream).seek(0)
    return not any(first.startswith(magic) for magic, _ in MAGIC)


def _go_on(writer: TreeWriter, stream: Readable, size_bytes: int | None) -> Received:
    """Write what an interrupted unpacking has not; every file is checked by itself, the whole archive is not read."""
    try:
        with _Archive.open(
            fileobj=cast(Any, stream), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for _ in range(MOST_MEMBERS):
                member = archive.next()
                if member is None:
                    break
                _unpack(writer, archive, member, None)
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
    except BROKEN as error:
        raise CorruptCopyError(f"not a whole tar: {error}") from error
    return writer.finish(size_bytes or writer.unpacked_bytes)


def _unpack_all(writer: TreeWriter, inflated: _Inflated) -> bool:
    with inflated.header():  # opening reads the first one
        archive = _Archive.open(
            fileobj=cast(Any, inflated), mode="r|", bufsize=BUFFER, encoding="utf-8", errors="surrogateescape"
        )
    with archive:
        for member in _members(archive, inflated):
            _unpack(writer, archive, member, inflated.allowed)
        inflated.drain()
    return archive.has_end_mark


def _members(archive: tarfile.TarFile, inflated: _Inflated) -> Iterator[tarfile.TarInfo]:
    for _ in range(MOST_MEMBERS):
        with inflated.header():
            member = archive.next()
        if member is None:
            return
        yield member
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
    raise CorruptCopyError(f"more than {MOST_MEMBERS} members")


def _unpack(writer: TreeWriter, archive: tarfile.TarFile, member: tarfile.TarInfo, allowed: int | None) -> None:
    parts = safe_parts(member.name)
    if member.isdir():
        writer.make_folder(parts)
    elif not parts:
        raise CorruptCopyError(f"member {encode_name(member.name)!r} is a file without a name")
    elif member.isreg():
        source = archive.extractfile(member)
        assert source is not None, "a regular member has content"
        writer.write(parts, source, allowed)
    elif member.islnk():
        writer.copy(parts, safe_parts(member.linkname), allowed)
    else:
        raise CorruptCopyError(
            f"member {encode_name(member.name)[:200]} is {_kind(member)}: packages hold files and folders only"
        )


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "a symbolic link"
    return "a device" if member.isdev() and not member.isfifo() else "a FIFO or another special file"
