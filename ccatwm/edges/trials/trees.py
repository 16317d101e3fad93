"""Compares trees before and after, and reads what was made. Touches: the files that are named to it, reading only."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath
from typing import Any

from ccatwm.core.contract import FileSeen, find_clock
from ccatwm.core.fits_sums import (
    BLOCK_BYTES,
    MAGIC,
    FitsPart,
    add_words,
    data_bytes,
    parse_cards,
    without_checksums,
)
from ccatwm.core.sameness import DOCUMENTS, Content

Seen = Mapping[str, tuple[object, ...]]
Read = Callable[[int], bytes]
LOOKED_AT_BYTES = 8 << 20  # of a file, for times in it
READ_BYTES = BLOCK_BYTES * 256
CACHES = frozenset({"__pycache__"})  # of Python, beside the programs of a host; an image is read-only


def look_at(tops: Iterable[Path], *, without: Collection[Path] = ()) -> Seen:
    """What stands below `tops`, each entry with all that changes when it is written to; links are not followed."""
    found: dict[str, tuple[object, ...]] = {}
    for top in tops:
        _look(str(top), {str(path) for path in without}, found)
    return found


def _look(path: str, without: Collection[str], found: dict[str, tuple[object, ...]]) -> None:
    if path in without:
        return
    try:
        seen = os.lstat(path)
        inside = sorted(os.listdir(path)) if stat.S_ISDIR(seen.st_mode) else None
    except OSError:  # gone meanwhile, or not ours to read
        return
    if inside is None:
        found[path] = (seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        return
    found[path] = (seen.st_ino, seen.st_mode)
    for name in inside:
        if name not in CACHES:
            _look(os.path.join(path, name), without, found)


def list_changes(before: Seen, after: Seen) -> list[str]:
    """What was written, made or removed."""
    told = [f"{path} (made)" for path in after.keys() - before.keys()]
    told += [f"{path} (removed)" for path in before.keys() - after.keys()]
    told += [f"{path} (changed)" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(told)


def read_files(
    folder: Path, hashes: Mapping[PurePosixPath, str], begun: datetime, ended: datetime
) -> dict[PurePosixPath, FileSeen]:
    """Each file of `hashes` below `folder` as it is compared: FITS by its data. Times are looked for as UTC and as this
    host shows them."""
    zones = [UTC, begun.astimezone().tzinfo or UTC]
    return {path: _file_seen(folder / path, digest, begun, ended, zones) for path, digest in hashes.items()}


def _file_seen(path: Path, digest: str, begun: datetime, ended: datetime, zones: list[tzinfo]) -> FileSeen:
    try:
        fits = _read_fits(path)
        if fits is not None:
            return FileSeen(digest, fits.sums, fits.header, find_clock(fits.text, begun, ended, zones))
        with path.open("rb") as file:
            return FileSeen(digest, clock=find_clock(file.read(LOOKED_AT_BYTES), begun, ended, zones))
    except OSError:
        return FileSeen(digest)


def read_contents(path: Path, name: PurePosixPath) -> dict[PurePosixPath, Content]:
    """A product as it is compared: the file `path` as `name`, or every file of the folder by its path below it.

    Links are not followed. Errors: OSError.
    """
    if not path.is_dir():
        return {name: _content(path)}
    below = (os.path.join(above, found) for above, _, names in os.walk(path) for found in names)
    files = [Path(file) for file in below if stat.S_ISREG(os.lstat(file).st_mode)]
    return {PurePosixPath(file.relative_to(path)): _content(file) for file in files}


def _content(path: Path) -> Content:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    fits = _read_fits(path)
    return Content(digest, None if fits is None else fits.parts, _read_document(path) if path.name in DOCUMENTS else None)


def _read_document(path: Path) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class _Fits:
    """All HDUs, and the text of their headers."""

    parts: tuple[FitsPart, ...]
    text: bytes

    @property
    def sums(self) -> tuple[int, ...]:
        return tuple(part.data_sum for part in self.parts)

    @property
    def header(self) -> dict[str, str]:
        """The cards of all headers (`2.DATE`: of the third part)."""
        return {f"{n}.{key}" if n else key: value for n, part in enumerate(self.parts) for key, value in part.cards.items()}


def _read_fits(path: Path) -> _Fits | None:
    """None for a file that is no FITS."""
    parts: list[FitsPart] = []
    text = b""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        file.seek(0)
        try:
            while (found := _read_header(file.read)) is not None:
                cards, blocks = found
                text += blocks
                parts.append(FitsPart(*_sums(file.read, data_bytes(cards)), dict(cards)))
        except ValueError:  # cut, or what only looks like FITS
            return None
    return _Fits(tuple(parts), text)


def _read_header(read: Read) -> tuple[list[tuple[str, str]], bytes] | None:
    """The cards of a header and its text; None at the end of the file. Errors: ValueError if it has no end."""
    cards: list[tuple[str, str]] = []
    text = b""
    while block := read(BLOCK_BYTES):
        found, ended = parse_cards(block)
        cards += found
        text += without_checksums(block)
        if ended:
            return cards, text
    if text:
        raise ValueError("a header without END")
    return None


def _sums(read: Read, size: int) -> tuple[int, str]:
    """DATASUM and SHA-256 of the data that follow."""
    total, digest = 0, hashlib.sha256()
    while size > 0:
        content = read(min(size, READ_BYTES))
        if not content or len(content) % 4:
            raise ValueError("its data are cut")
        total = add_words(total, content)
        digest.update(content)
        size -= len(content)
    return total, digest.hexdigest()
