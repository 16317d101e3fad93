"""Finds packages below a folder, reads their FITS headers and sums them up. Touches: those files, reading only."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

from ccatwm.core.digests import tree_digest
from ccatwm.core.fits_sums import BLOCK_BYTES, MAGIC, data_bytes, parse_cards
from ccatwm.core.names import encode_name
from ccatwm.core.path_pattern import PathPattern
from ccatwm.core.scanned import FoundPackage
from ccatwm.edges.hostfiles.local import file_hex, names_below

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_HEADER_BYTES = 1000 * BLOCK_BYTES
FITS_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")
MOST_OTHERS = 1000  # of which the nearest one is looked for


@dataclass
class Walked:
    """What lies below a folder: packages, the number of others (a folder, ending in `/`, is one) and the first of them,
    what cannot be read."""

    packages: list[FoundPackage] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    other_count: int = 0
    unread: dict[str, str] = field(default_factory=dict)  # path -> why
    links: dict[str, str] = field(default_factory=dict)  # path of a package that is a link -> the file that it leads to

    def leave(self, path: str) -> None:
        self.other_count += 1
        if len(self.others) < MOST_OTHERS:
            self.others.append(path)


def walk_packages(folder: Path, pattern: PathPattern) -> Walked:
    """Files and folders that match, in the order of their paths. Hidden ones and links to folders are passed over."""
    walked = Walked()
    _walk(str(folder), (), pattern, walked)
    return walked


def _walk(folder: str, above: tuple[str, ...], pattern: PathPattern, walked: Walked) -> None:
    here = "/".join(above)
    try:
        with os.scandir(os.path.join(folder, *above)) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
    except OSError as error:
        walked.unread[encode_name(here or folder)] = error.strerror or str(error)
        return
    for entry in entries:
        parts = (*above, entry.name)
        path = "/".join(parts)
        try:
            fields = pattern.match(parts)
            if entry.is_dir(follow_symlinks=False):
                if fields is not None:
                    walked.packages.append(_folder_package(entry.path, path, fields))
                elif pattern.leads_on(parts):
                    _walk(folder, parts, pattern, walked)
                else:
                    walked.leave(f"{path}/")
            elif fields is not None and entry.is_file():
                seen = entry.stat()
                walked.packages.append(FoundPackage(path, fields, seen.st_size, _time(seen.st_mtime_ns)))
                if entry.is_symlink():
                    walked.links[path] = os.path.realpath(entry.path)
            else:
                walked.leave(path)
        except OSError as error:
            walked.unread[encode_name(path)] = error.strerror or str(error)


def _folder_package(top: str, path: str, fields: dict[str, str]) -> FoundPackage:
    """Its size is that of its files, its time that of the newest one."""
    seen = [os.stat(os.path.join(top, name)) for name in names_below(top, _refuse)]
    newest = max((one.st_mtime_ns for one in seen), default=os.stat(top).st_mtime_ns)
    return FoundPackage(path, fields, sum(one.st_size for one in seen), _time(newest), is_folder=True)


def _time(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _refuse(error: OSError) -> None:
    """A folder that cannot be read."""
    raise error


# --- FITS headers -----------------------------------------------------------------------------------------------------


def read_header(folder: Path, package: FoundPackage, wanted: Collection[str]) -> list[tuple[str, str]] | None:
    """Cards of the primary header of a FITS file, or of the first one in a folder, and where it lacks some of the wanted
    keywords also of the first extension; data are passed over. None where there is no FITS file. Errors: OSError."""
    path = os.path.join(folder, package.path)
    if package.is_folder:
        first = next((name for name in names_below(path, _refuse) if name.lower().endswith(FITS_ENDINGS)), None)
        if first is None:
            return None
        path = os.path.join(path, first)
    with open(path, "rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raw.seek(0)
            return _header_of(raw, wanted)
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _header_of(cast(BinaryIO, unpacked), wanted)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return None


def _header_of(stream: BinaryIO, wanted: Collection[str]) -> list[tuple[str, str]] | None:
    first = stream.read(BLOCK_BYTES)
    if not first.startswith(MAGIC):
        return None
    cards = _read_cards(first, stream)
    if cards is None or {keyword for keyword, _ in cards}.issuperset(wanted):
        return cards
    try:
        stream.seek(data_bytes(cards), os.SEEK_CUR)
    except (ValueError, OverflowError):  # no size is told: there is nothing to be found behind it
        return cards
    return cards + (_read_cards(stream.read(BLOCK_BYTES), stream) or [])


def _read_cards(block: bytes, stream: BinaryIO) -> list[tuple[str, str]] | None:
    """Cards up to END, beginning with this block; None for a header that has no end."""
    cards: list[tuple[str, str]] = []
    read = 0
    while block and read < MOST_HEADER_BYTES:
        found, ended = parse_cards(block)
        cards += found
        if ended:
            return cards
        read += len(block)
        block = stream.read(BLOCK_BYTES)
    return None


# --- checksums --------------------------------------------------------------------------------------------------------


def checksum_package(folder: Path, package: FoundPackage, read: Callable[[int], None]) -> str:
    """SHA-256 of a file, of a folder the tree digest; `read` is told of every piece, in bytes. Errors: OSError."""
    top = os.path.join(folder, package.path)
    if not package.is_folder:
        return f"sha256:{file_hex(top, read)}"
    files = [(name, os.path.join(top, name)) for name in names_below(top, _refuse)]
    digest = tree_digest((os.fsencode(name), os.stat(path).st_size, file_hex(path, read)) for name, path in files)
    return f"sha256:{digest}"
