"""When a step's trigger opens it for an evaluation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ccatwm.core.model import TriggerType

DEFAULT_TIMEZONE = "UTC"
CLOCK_TOLERANCE = timedelta(hours=1)  # a clock that goes back by less makes no tick happen twice


@dataclass(frozen=True)
class StepTrigger:
    """A step's own trigger, else its pipeline's."""

    type: TriggerType
    config: Mapping[str, Any]

    @property
    def forces(self) -> bool:
        return self.type is TriggerType.CRON and bool(self.config.get("force"))


def effective_trigger(
    step_type: str | None,
    step_config: Mapping[str, Any] | None,
    pipeline_type: str,
    pipeline_config: Mapping[str, Any],
) -> StepTrigger:
    if step_type is not None:
        return StepTrigger(TriggerType(step_type), step_config or {})
    return StepTrigger(TriggerType(pipeline_type), pipeline_config)


def next_tick(cron: str, timezone: str | None, after: datetime) -> datetime:
    """The first tick later than `after`, as aware UTC.

    cronsim follows Debian's cron over daylight saving: a fixed time skipped in spring runs at the change,
    one repeated in autumn runs once. Asked within the repeated hour it may name the tick of the first one.
    """
    from cronsim import CronSim

    local = after.astimezone(ZoneInfo(timezone or DEFAULT_TIMEZONE))
    ticks = (tick.astimezone(UTC) for tick in CronSim(cron, local))
    return next(tick for tick in ticks if tick > after)


@dataclass(frozen=True)
class CronCursor:
    """Up to when the ticks of a step have been seen to, and by which expression; None: not known."""

    position: datetime
    cron: str | None = None
    timezone: str | None = None

    def tick_by(self, until: datetime) -> bool:
        """Whether at least one of its ticks lies in (position, until]: missed ones become one."""
        return self.cron is not None and next_tick(self.cron, self.timezone, self.position) <= until


def cron_verdict(
    trigger: StepTrigger, cursor: CronCursor | None, changed_at: datetime, now: datetime
) -> tuple[bool, CronCursor | None]:
    """Whether the step ticks now, and the cursor to be written (where it ticks: once that is carried out).

    Ticks count from when the step is first seen; those of another expression or time zone from when they were
    `changed_at`, and until then the old ones. A cursor far in the future was written by a clock that went wrong.
    """
    cron, timezone = str(trigger.config["cron"]), trigger.config.get("timezone")
    if cursor is None or cursor.position - now > CLOCK_TOLERANCE:
        return False, CronCursor(now, cron, timezone)
    since, before = cursor.position, False
    if cursor.cron is not None and (cursor.cron, cursor.timezone) != (cron, timezone):
        since = min(max(changed_at, cursor.position), now)
        before = cursor.tick_by(since)
    ticks = before or CronCursor(since, cron, timezone).tick_by(now)
    moved = CronCursor(now if ticks else since, cron, timezone)
    return ticks, moved if moved != cursor else None
