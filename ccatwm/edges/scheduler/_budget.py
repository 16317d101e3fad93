"""How many commands this host may give to a batch system in a minute, all passes together. Touches: a file in STATE_DIR."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ccatwm.errors import CallBudgetError
from ccatwm.interfaces import Clock

WINDOW_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 20.0


class CallBudget:
    """A sliding window over the times of past calls, shared through a locked file.

    Each process writes what it used at once; a lost file only forgets, it never blocks.
    """

    def __init__(self, file: Path, per_minute: int, clock: Clock) -> None:
        self._file = file
        self._per_minute = per_minute
        self._clock = clock

    def take(self) -> None:
        """One call: wait for its turn. Errors: CallBudgetError when that would take too long."""
        waited = 0.0
        while (seconds := self._try()) > 0:
            if waited + seconds > LONGEST_WAIT_SECONDS:
                raise CallBudgetError(
                    f"{self._per_minute} commands were given to the batch system within a minute; the rest waits",
                    next="nothing to do; slurm.calls_per_minute is the limit",
                )
            self._clock.sleep(seconds)
            waited += seconds

    def _try(self) -> float:
        """0 if the call was counted, else the seconds until there is room."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = self._clock.now().timestamp()
            recent = [at for at in _read(file.read()) if now - WINDOW_SECONDS < at <= now]
            if len(recent) >= self._per_minute:
                return max(0.05, recent[-self._per_minute] + WINDOW_SECONDS - now)
            file.seek(0)
            file.truncate()
            file.write(json.dumps([*recent, now]))
        return 0.0


def _read(text: str) -> list[float]:
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return [float(at) for at in found if isinstance(at, int | float)] if isinstance(found, list) else []
