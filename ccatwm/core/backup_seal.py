"""The seal of a backup: what it is of, and by which sums a torn one is told from a whole one. Pure.

A backup file is what the database's own tool made (an SQLite file, or an archive of pg_dump, which other programs read,
too), one line of JSON, and an end of fixed length: sizes, and the SHA-256 of all that comes before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1
_END = re.compile(rb"\nccatwm-backup-end (\d{20}) (\d{10}) ([0-9a-f]{64})\n")
END_BYTES = len("\nccatwm-backup-end \n") + 20 + 1 + 10 + 1 + 64
MAX_LINE = 1 << 16


@dataclass(frozen=True)
class Seal:
    """What a backup is of. `revisions`: of the tables by branch; `made_at`: RFC 3339."""

    format: int
    release: str
    dialect: str
    observations: str
    uid: str
    revisions: Mapping[str, str]
    made_at: str
    tool: str


@dataclass(frozen=True)
class End:
    """The end of a backup file: sizes of what comes before, and the sum of it."""

    payload_bytes: int
    line_bytes: int
    sha256: str


def build_line(seal: Seal) -> bytes:
    return (json.dumps(asdict(seal), sort_keys=True) + "\n").encode()


def build_end(end: End) -> bytes:
    return f"\nccatwm-backup-end {end.payload_bytes:020} {end.line_bytes:010} {end.sha256}\n".encode()


def parse_end(data: bytes) -> End | None:
    """None for what is no end of a backup, such as that of a torn one."""
    found = _END.fullmatch(data)
    return End(int(found[1]), int(found[2]), found[3].decode()) if found else None


def parse_line(data: bytes) -> Seal | None:
    """None for what is no seal of ours; what a later format says besides is left out."""
    try:
        told: dict[str, Any] = json.loads(data)
        return Seal(**{name: told[name] for name in Seal.__dataclass_fields__})
    except (ValueError, KeyError, TypeError):
        return None
