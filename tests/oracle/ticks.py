"""When a step by cron ticks, minute by minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)


def ticks_between(cron: str, timezone: str, after: datetime, until: datetime) -> bool:
    """Whether one of the minutes in (after, until] is one of the expression's, `M H,H,H * * *`."""
    minute, hours = cron.split()[:2]
    moment = after.replace(second=0, microsecond=0) + MINUTE
    while moment <= until:
        local = moment.astimezone(ZoneInfo(timezone))
        if local.minute == int(minute) and (hours == "*" or str(local.hour) in hours.split(",")):
            return True
        moment += MINUTE
    return False


@dataclass
class Ticker:
    """Ticks count from when a step by that expression is first seen; missed ones are one."""

    seen_to: dict[str, tuple[str, str, datetime]] = field(default_factory=dict)  # by step: cron, time zone

    def ticks(self, step: str, trigger: Mapping[str, Any] | None, now: datetime, *, busy: bool) -> bool:
        """Whether a step ticks now. `busy`: an earlier event of it was not seen to; the tick waits."""
        if trigger is None or trigger["type"] != "CRON":
            self.seen_to.pop(step, None)
            return False
        cron, timezone = trigger["cron"], trigger["timezone"]
        before = self.seen_to.get(step)
        if before is None:
            self.seen_to[step] = cron, timezone, now
            return False
        # Of another expression only those count that were missed: it is looked at as soon as it is defined.
        ticked = ticks_between(*before, now)
        if (ticked and not busy) or before[:2] != (cron, timezone):
            self.seen_to[step] = cron, timezone, now
        return ticked and not busy
