"""Keeps a login that was refused from being tried every minute: that locks accounts. Touches: one file below STATE_DIR."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ccatwm.errors import LoginError
from ccatwm.interfaces import Clock

FIRST_MINUTES, LONGEST_MINUTES = 30, 24 * 60


class LoginBreaker:
    """Open for 30 minutes after a refusal, twice as long after each further one, a day at most.

    A success closes it, and so does any change of what is shown at the door: `identity` tells it (settings, files,
    keys of the agent); it is asked only while the breaker is open.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def check(self, where: str, identity: Callable[[], str]) -> None:
        """Errors: LoginError with the refusal that opened it, while it is open."""
        known = self._read()
        if known and self._clock.now() < _until(known) and known["identity"] == identity():
            raise self._error(where, known)

    def refuse(self, error: LoginError, identity: str) -> LoginError:
        """Remember a refusal; the error to raise, which says until when."""
        known = self._read()
        count = known["count"] + 1 if known and known["identity"] == identity else 1
        minutes = min(LONGEST_MINUTES, FIRST_MINUTES * 2 ** min(count - 1, 16))
        until = (self._clock.now() + timedelta(minutes=minutes)).replace(microsecond=0)
        known = {"count": count, "until": until.isoformat(), "identity": identity, "message": error.message}
        known["next"] = error.next
        self._write(known)
        return self._error(error.where, known)

    def reset(self) -> None:
        with suppress(OSError):
            self._file.unlink()

    def _error(self, where: str, known: dict[str, Any]) -> LoginError:
        until = f"{_until(known):%Y-%m-%d %H:%M} UTC"
        return LoginError(
            f"{known['message']}; no new attempt before {until}",
            where=where,
            next=f"{known['next']}; a changed setting, key file or agent is tried at once, and so is everything after "
            f"`rm {self._file}`",
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            known = json.loads(self._file.read_bytes())
            _until(known), known["count"] + 1, known["identity"], known["message"], known["next"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(known)

    def _write(self, known: dict[str, Any]) -> None:
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        os.replace(temporary, self._file)


def _until(known: dict[str, Any]) -> datetime:
    until = datetime.fromisoformat(known["until"])
    if until.utcoffset() is None:
        raise ValueError("a time without its zone")
    return until
