"""Compares trees before and after, and reads what was made. Touches: the files that are named to it, reading only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath

from ccatwm.core.contract import FileSeen, find_clock
from ccatwm.core.fits_sums import BLOCK_BYTES, MAGIC, add_words, data_bytes, parse_cards, without_checksums

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


@dataclass(frozen=True)
class _Fits:
    """The data sums of all parts, the cards of all headers (`2.DATE`: of the third part), and their text."""

    sums: tuple[int, ...]
    header: Mapping[str, str]
    text: bytes


def _read_fits(path: Path) -> _Fits | None:
    """None for a file that is no FITS."""
    sums: list[int] = []
    header: dict[str, str] = {}
    text = b""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        file.seek(0)
        try:
            while (found := _read_header(file.read)) is not None:
                cards, blocks = found
                header |= {f"{len(sums)}.{key}" if sums else key: value for key, value in cards}
                text += blocks
                sums.append(_sum(file.read, data_bytes(cards)))
        except ValueError:  # cut, or what only looks like FITS
            return None
    return _Fits(tuple(sums), header, text)


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


def _sum(read: Read, size: int) -> int:
    total = 0
    while size > 0:
        content = read(min(size, READ_BYTES))
        if not content or len(content) % 4:
            raise ValueError("its data are cut")
        total = add_words(total, content)
        size -= len(content)
    return total

