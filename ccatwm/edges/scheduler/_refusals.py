"""What refusals tell of a submit limit that the cluster does not show: of a partition's QOS, of an account above.
Touches: a file in STATE_DIR.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from ccatwm.interfaces import Clock

FORGOTTEN_SECONDS = 3600.0
DOUBLED_SECONDS = 300.0


class Refusals:
    """The newest refusal, and how many tasks of ours may be in the queue because of it.

    Half of what was refused is tried next: what is refused again and again would get an attempt in every pass. Then
    more and more is dared, one task after five minutes, three after ten, until all is forgotten after an hour.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def record(self, queued: int, tasks: int) -> None:
        """`tasks` more were refused while `queued` of ours were there."""
        document = {"at": self._clock.now().timestamp(), "most": queued + tasks // 2}
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden = self._file.with_name(f".{self._file.name}.{secrets.token_hex(4)}")
        hidden.write_text(json.dumps(document), encoding="ascii")
        hidden.replace(self._file)

    def most(self) -> int | None:
        """How many tasks of ours the queue is believed to take; None if nothing is known against more."""
        try:
            document = json.loads(self._file.read_bytes())
            passed, most = self._clock.now().timestamp() - float(document["at"]), int(document["most"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not 0 <= passed < FORGOTTEN_SECONDS:
            return None
        return most + (1 << int(passed / DOUBLED_SECONDS)) - 1
