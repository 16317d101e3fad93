"""When a step's trigger opens it for an evaluation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from ccatwm.core.model import TriggerType

DEFAULT_TIMEZONE = "UTC"


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
    one repeated in autumn runs once.
    """
    from cronsim import CronSim

    local = after.astimezone(ZoneInfo(timezone or DEFAULT_TIMEZONE))
    tick: datetime = next(CronSim(cron, local))
    return tick.astimezone(UTC)


def tick_due(trigger: StepTrigger, last: datetime, now: datetime) -> bool:
    """Whether at least one tick lies in (last, now]: missed ones become one."""
    return next_tick(str(trigger.config["cron"]), trigger.config.get("timezone"), last) <= now
