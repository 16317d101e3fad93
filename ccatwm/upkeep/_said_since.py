"""What people said after a backup was made, which a restore of it takes away.

Touches: the ops-db (read), a file of this host.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.core.wording import clock_text, count_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import history
from ccatwm.errors import CcatwmError

MAX_SHOWN = 50
NO_DECISIONS = frozenset({"restore", "reconcile", "import", "fsck", "gc --undo"})  # on files, or on the ops-db as a whole


@dataclass(frozen=True)
class SaidSince:
    """Acts of people, newest first; None where the ops-db that is replaced cannot be read. `file`: all of them, with the
    texts that were applied."""

    acts: Sequence[dict[str, Any]] | None
    file: Path | None = None

    def to_json(self) -> dict[str, Any]:
        shown = [{key: act[key] for key in ("at", "act", "target", "actor", "host", "reason")} for act in self._shown]
        return {
            "readable": self.acts is not None, "count": len(self.acts or ()), "acts": shown,
            "file": str(self.file) if self.file else None,
        }  # fmt: skip

    @property
    def _shown(self) -> Sequence[dict[str, Any]]:
        return (self.acts or ())[:MAX_SHOWN]

    def lines(self) -> list[str]:
        sets = "published sets have records on disk: `ccatwm doctor --reconcile --import` makes them again"
        if self.acts is None:
            return [
                "LOST with it, as what was there could not be read: what people said since the backup (exclusions, holds, "
                "cancelled runs, definitions ...)",
                sets,
            ]
        if not self.acts:
            return []
        lines = [f"LOST with it: {self.text()} since the backup; say again what still holds:"]
        lines += [_line(act) for act in self._shown]
        if len(self.acts) > MAX_SHOWN:
            lines.append(f"  and {len(self.acts) - MAX_SHOWN} more before these")
        if self.file is not None:
            lines.append(f"all of it, with the texts that were applied: {self.file}")
        if any(act["act"] == "publish" for act in self.acts):
            lines.append(sets)
        return lines

    def text(self) -> str:
        """How much it is."""
        return f"what people said {count_text(len(self.acts or ()), 'time')}"


def _line(act: dict[str, Any]) -> str:
    why = f": {act['reason']}" if act["reason"] else ""
    at = clock_text(datetime.fromisoformat(act["at"]))
    return f"  {at}  {act['act']} {act['target']}, by {act['actor']} on {act['host']}{why}"


def read_said_since(database: Database, made_at: datetime) -> SaidSince:
    """From the ops-db as it is now, which may be damaged, of another release, or not there."""
    try:
        with database.read() as connection:
            return SaidSince([
                _act(row, texts[row["id"]])
                for page in history.iterate_acts(connection, made_at, None)
                for texts in [history.read_texts(connection, [row["id"] for row in page])]
                for row in page
                if row["act"] not in NO_DECISIONS
            ])  # fmt: skip
    except (sa.exc.DBAPIError, CcatwmError, ValueError):  # a damaged file gives values that are none
        return SaidSince(None)
    finally:
        database.dispose()


def _act(row: history.Row, text: str | None) -> dict[str, Any]:
    kept = {key: row[key] for key in ("act", "target", "actor", "host", "reason", "details", "digest")}
    return {"at": utc_text(row["at"]), **kept, "text": text}


def keep_said_since(said: SaidSince, folder: Path, now: datetime) -> SaidSince:
    """All acts as a file (JSON Lines, oldest first) in `folder`; without one where it cannot be written."""
    if not said.acts:
        return said
    file = folder / f"said-before-restore-{now:%Y%m%dT%H%M%SZ}.jsonl"
    try:
        file.write_text("".join(f"{json.dumps(act)}\n" for act in reversed(said.acts)), encoding="utf-8")
    except OSError:
        return said
    return SaidSince(said.acts, file)
