"""Times, spans and sizes as people and scripts read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

SMALLEST_PLAIN = 1e-9  # what is smaller is written with an exponent


def one_line(text: str) -> str:
    """The text with control characters, line ends and unpaired surrogates written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def short_text(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def some_text(names: Sequence[str], shown: int, separator: str = ", ") -> str:
    """The first names and how many more there are: `a, b, c and 4 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def role_text(item: Mapping[str, Any]) -> str:
    """What an input is to its run, where it is no plain member: ` (companion loads)`, ` (outside)`."""
    if item["role"] == "member":
        return ""
    return f" ({item['role']} {item['companion']})" if item.get("companion") else f" ({item['role']})"


def utc_text(time: datetime | None) -> str | None:
    """RFC 3339 with `Z`, as in every JSON document."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time is not None else None


def clock_text(time: datetime | None) -> str:
    """Short, for tables: `2026-03-01 09:00:00`, UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if time is not None else "-"


def span_text(seconds: float) -> str:
    """`50 s`, `4 min`, `3.5 h`, `2.1 d`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def until_text(time: datetime, now: datetime) -> str:
    """`in 4 min`, `now`."""
    seconds = (time - now).total_seconds()
    return f"in {span_text(seconds)}" if seconds > 0 else "now"


GB = 10**9  # what settings in `_GB` count in, as all that is told of files; memory is in GiB, as batch systems have it


def size_text(size_bytes: float | None) -> str:
    """`17 B`, `4.2 MB`; decimal units."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def number_text(number: float, digits: int = 3) -> str:
    """`0.123`, `9000`, `0.0000126`: so many digits, and no exponent unless that is a line of zeros."""
    if abs(number) >= 10**digits - 0.5:
        return f"{number:.0f}"
    text = f"{number:.{digits}g}"
    return f"{Decimal(text):f}" if "e" in text and abs(number) >= SMALLEST_PLAIN else text


def core_hours_text(hours: float) -> str:
    """`1 core hour`, `less than 0.01 core hours`: nobody plans by less."""
    return "less than 0.01 core hours" if 0 < hours < 0.01 else count_text(hours, "core hour")


def count_text(number: float, noun: str) -> str:
    """`1 sub-group`, `2 sub-groups`, `0.5 core hours`."""
    shown = number_text(number, 4) if isinstance(number, float) else str(number)
    return f"{shown} {noun}" if shown == "1" else f"{shown} {noun}s"
