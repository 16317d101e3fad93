"""What lies in an output, by the job's own records, and what became of it since. Pure.

An output may have 100,000 files: names stay bytes, as they are on disk, and a file is two short texts here. Two records
say what the job saw: `outputs.list`, in the format of `find -printf '%y %s %T@\\0%P\\0%l\\0'` (kind, size, time of the last
change; path; where a link leads), and `outputs.sha256`, that of `sha256sum -z` (findutils and coreutils manuals).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TypeVar

from ccatwm.core.model import EntryKind, TreeEntry
from ccatwm.core.names import encode_name, raw_name

LIST = "outputs.list"
SUMS = "outputs.sha256"
MAX_RECORD = 90 << 20  # bytes of a record that is read: some 700,000 files; what one answer takes over SSH
HASH_LENGTH = 64
HASHED_AT_ONCE = 1000  # files
HASHED_BYTES = 2 << 30
NANO = 1_000_000_000

T = TypeVar("T")
Entries = dict[bytes, bytes]  # path -> kind, size and time of the last change, as they are recorded
Hashes = dict[bytes, bytes]  # path -> sha256 in hexadecimal digits

_KINDS = {EntryKind.FILE: b"f", EntryKind.DIRECTORY: b"d", EntryKind.SYMLINK: b"l", EntryKind.OTHER: b"?"}


class Verify(StrEnum):
    """What collecting compares with the job's records."""

    NONE = "none"
    SIZE = "size"
    FULL = "full"


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, and where the links among it lead."""

    entries: Entries
    targets: Mapping[bytes, bytes]

    def files(self) -> Iterable[bytes]:
        return (path for path, head in self.entries.items() if head.startswith(b"f"))


def head_of(kind: bytes, size: int, mtime_ns: int) -> bytes:
    """As `find -printf '%y %s %T@'` has it: ten digits after the point, the last one a zero."""
    return b"%s %d %d.%09d0" % (kind, size, mtime_ns // NANO, mtime_ns % NANO)


def entry_record(entry: TreeEntry) -> bytes:
    """One entry of a listing."""
    head = head_of(_KINDS[entry.kind], entry.size_bytes, entry.mtime_ns)
    return b"%s\0%s\0%s\0" % (head, raw_name(str(entry.path)), raw_name(entry.link_target or ""))


def listing_of(entries: Iterable[TreeEntry]) -> Listing:
    """The same of few entries."""
    return parse_listing(b"".join(map(entry_record, entries)))


def parse_listing(record: bytes) -> Listing:
    """Errors: ValueError for one that was cut."""
    fields = record.split(b"\0")
    if len(fields) % 3 != 1 or fields[-1]:
        raise ValueError("the record of its files was cut")
    heads, paths = fields[:-1:3], fields[1::3]
    entries = dict(zip(paths, heads, strict=True))
    links = [n for n, head in enumerate(heads) if head.startswith(b"l")]
    return Listing(entries, {paths[n]: fields[3 * n + 2] for n in links})


def parse_hashes(record: bytes) -> Hashes:
    """`sha256sum -z` of files called `./...`. Errors: ValueError for one that was cut."""
    lines = record.split(b"\0")
    if lines.pop():
        raise ValueError("the record of its checksums was cut")
    start = HASH_LENGTH + 2
    return {(line[start + 2 :] if line.startswith(b"./", start) else line[start:]): line[:HASH_LENGTH] for line in lines}


def size_of(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def _mtime_ns(head: bytes) -> int:
    seconds, _, fraction = head.rpartition(b" ")[2].partition(b".")
    return int(seconds) * NANO + int(fraction[:9])


def hashed_together(sized: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """As many files as one call hashes, of files with their bytes: between two calls others are heard."""
    some: list[T] = []
    size = 0
    for one, one_size in sized:
        some.append(one)
        size += one_size
        if len(some) == HASHED_AT_ONCE or size >= HASHED_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


# --- what became of it --------------------------------------------------------------------------------------------


def touched_since(then: Listing, now: Listing) -> list[bytes]:
    """Files of the same size as then that were written to since: their content may be another."""
    before = then.entries
    if before == now.entries:
        return []
    return [
        path for path, head in now.entries.items()
        if head.startswith(b"f") and (was := before.get(path)) is not None and was != head
        and was.startswith(b"f") and size_of(was) == size_of(head)
    ]  # fmt: skip


def touched_after(now: Listing, mtime_ns: int) -> list[bytes]:
    """Of a job that kept no list: files that were written to after its checksums."""
    return [path for path in now.files() if _mtime_ns(now.entries[path]) > mtime_ns]


def differences(then: Listing, now: Listing) -> list[str]:
    """Files that are not as the job saw them, in words: gone, new, or of another size. What is no file is no product."""
    before, after = then.entries, now.entries
    if before == after:
        return []
    was, is_there = set(then.files()), set(now.files())
    gone = [f"{shown(path)} was hashed by the job, but is gone" for path in sorted(was - is_there)]
    came = [f"{shown(path)} came after the job had hashed its output" for path in sorted(is_there - was)]
    changed = [
        f"{shown(path)} was changed after the job had hashed it: {size_of(after[path])} bytes instead of {size_of(head)}"
        for path, head in before.items()
        if path in is_there and head != after[path] and path in was and size_of(head) != size_of(after[path])
    ]
    return gone + came + sorted(changed)


def hash_differences(listing: Listing, hashes: Hashes) -> list[str]:
    """Files without a checksum of the job, and checksums without a file."""
    files = set(listing.files())
    gone = [f"{shown(path)} was hashed by the job, but is gone" for path in sorted(hashes.keys() - files)]
    return gone + [f"{shown(path)} came after the job had hashed its output" for path in sorted(files - hashes.keys())]


def shown(path: bytes) -> str:
    """A path for people, one line whatever it holds."""
    return encode_name(path)


def text_path(path: bytes) -> PurePosixPath:
    """As `WorkFiles` take it."""
    return PurePosixPath(path.decode("utf-8", "surrogateescape"))
