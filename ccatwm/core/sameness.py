"""Whether a product that was made again is the same: in every byte, in its data, or not, and where. Pure.

The same data means: of FITS every HDU's data, and every card but those that say when the file was made; of a tree every
file, but for times of the making in the JSON beside its chunks. FITS Standard 4.0: DATE tells when an HDU was made
(4.4.2.1), COMMENT and HISTORY are for people (4.4.2.4), CHECKSUM and DATASUM follow from the rest (4.4.2.7).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.fits_sums import CHECKSUMS, FitsPart
from ccatwm.core.names import encode_name
from ccatwm.core.products import TREE_MARKERS

DOCUMENTS = TREE_MARKERS | {".zmetadata"}  # JSON beside the chunks of a Zarr store, by name (Zarr 2 and 3)
MADE_AT = frozenset({*CHECKSUMS, "DATE"})
MAX_NAMED = 10
_ROUNDED = timedelta(seconds=1)  # times are often written in whole seconds


class Sameness(StrEnum):
    IDENTICAL = "identical"
    SAME_DATA = "same data"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Content:
    """A file as it is compared: its SHA-256 (hex), its HDUs where it is FITS, its JSON where it is one of `DOCUMENTS`."""

    sha256: str
    parts: tuple[FitsPart, ...] | None = None
    document: Any = None


@dataclass(frozen=True)
class Since:
    """When the making of each began (aware): a time from then on tells of the making, one before it is data."""

    recorded: datetime
    again: datetime


@dataclass(frozen=True)
class Answer:
    """`where` it is another: what differs, or, of the same data, what does not count."""

    sameness: Sameness
    where: tuple[str, ...] = ()


IDENTICAL = Answer(Sameness.IDENTICAL)


@dataclass(frozen=True)
class _Difference:
    text: str
    counts: bool = True


def compare_contents(
    recorded: Mapping[PurePosixPath, Content], again: Mapping[PurePosixPath, Content], since: Since
) -> Answer:
    """All files of a product, by path."""
    found = [
        _Difference(f"{_shown(path)}: {'was not made again' if path in recorded else 'was not there'}")
        for path in sorted(recorded.keys() ^ again.keys())
    ]
    for path in sorted(recorded.keys() & again.keys()):
        found += _file_differences(path, recorded[path], again[path], since)
    return _answer(found)


def _answer(found: Sequence[_Difference]) -> Answer:
    if not found:
        return IDENTICAL
    counting = [d.text for d in found if d.counts]
    return Answer(Sameness.DIFFERS if counting else Sameness.SAME_DATA, _first(counting or [d.text for d in found]))


def _first(texts: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(texts) - MAX_NAMED} more",) if len(texts) > MAX_NAMED else ()
    return (*texts[:MAX_NAMED], *more)


def _file_differences(path: PurePosixPath, recorded: Content, again: Content, since: Since) -> list[_Difference]:
    if recorded.sha256 == again.sha256:
        return []
    name = _shown(path)
    if recorded.parts is not None and again.parts is not None:
        return _fits_differences(name, recorded.parts, again.parts, since)
    if recorded.document is not None and again.document is not None:
        return _document_differences(name, recorded.document, again.document, since)
    return [_Difference(f"{name}: other bytes (sha256 {again.sha256[:12]}, recorded {recorded.sha256[:12]})")]


# --- FITS ------------------------------------------------------------------------------------------------------------


def _fits_differences(
    name: str, recorded: Sequence[FitsPart], again: Sequence[FitsPart], since: Since
) -> list[_Difference]:
    if len(recorded) != len(again):
        return [_Difference(f"{name}: {len(again)} HDUs, recorded {len(recorded)}")]
    found: list[_Difference] = []
    for number, (one, other) in enumerate(zip(recorded, again, strict=True)):
        if (one.data_sum, one.sha256) != (other.data_sum, other.sha256):
            sums = f"DATASUM {other.data_sum}, recorded {one.data_sum}"
            found.append(_Difference(f"{name}: data of HDU {number} ({sums})"))
        found += _card_differences(f"{name}: header of HDU {number}", one.cards, other.cards, since)
    return found or [_Difference(f"{name}: COMMENT, HISTORY or the layout of a header", counts=False)]


def _card_differences(
    where: str, recorded: Mapping[str, str], again: Mapping[str, str], since: Since
) -> Iterator[_Difference]:
    for key in [*recorded, *(key for key in again if key not in recorded)]:
        one, other = recorded.get(key), again.get(key)
        if one != other:
            counts = key not in MADE_AT and not _both_tell_the_making(one, other, since)
            yield _Difference(f"{where}: {key} is {_value(other)}, recorded {_value(one)}", counts)


def _value(value: object) -> str:
    return "not there" if value is None else encode_name(str(value))[:80]


# --- JSON beside chunks ----------------------------------------------------------------------------------------------


def _document_differences(name: str, recorded: Any, again: Any, since: Since) -> list[_Difference]:
    found = [
        _Difference(f"{name}: {key or 'content'} is {_value(other)}, recorded {_value(one)}",
                    not _both_tell_the_making(one, other, since))
        for key, one, other in _different_leaves("", recorded, again)
    ]  # fmt: skip
    return found or [_Difference(f"{name}: the layout of its JSON", counts=False)]


def _different_leaves(key: str, recorded: Any, again: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value, other value); what is in one of them only has None for the other."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for name in sorted({*recorded, *again}):
            yield from _different_leaves(f"{key}.{name}" if key else name, recorded.get(name), again.get(name))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for number, (one, other) in enumerate(zip(recorded, again, strict=True)):
            yield from _different_leaves(f"{key}[{number}]", one, other)
    elif not _equal(recorded, again):
        yield key, recorded, again


def _equal(one: Any, other: Any) -> bool:
    nan = all(isinstance(value, float) and math.isnan(value) for value in (one, other))
    return nan or (type(one) is type(other) and one == other)


# --- times of the making ---------------------------------------------------------------------------------------------


def _both_tell_the_making(recorded: object, again: object, since: Since) -> bool:
    return _tells_the_making(recorded, since.recorded) and _tells_the_making(again, since.again)


def _tells_the_making(value: object, since: datetime) -> bool:
    """Whether it is a time (ISO 8601, UTC where it does not say) not before `since`."""
    text = value.strip().strip("'").strip() if isinstance(value, str) else ""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return False
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    begun = since.astimezone(UTC) - _ROUNDED
    return at.date() >= begun.date() if len(text) == len("2026-03-01") else at >= begun


def _shown(path: PurePosixPath) -> str:
    return encode_name(str(path))
