"""Sub-group keys and observing nights, written down once more from what is documented."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle.rules import look_up

PLAIN = string.ascii_letters + string.digits + "._-"
COLUMNS = {
    "executed_obs_unit": ("executed_obs_unit", "RawDataPackage.executed_obs_unit_id"),
    "obs_unit": ("obs_unit", "ObsUnit.name"),
    "source": ("source", "Source.name"),
    "instrument": ("instrument", "Instrument.name"),
    "instrument_module": ("module", "InstrumentModule.name"),
    "raw_data_package": ("raw_data_package", "RawDataPackage.name"),
    "obs_date": ("obs_date", "ExecutedObsUnit.start_time"),
}


def night_of(start: datetime, timezone: str) -> str:
    """From local noon on it is that day's night, before it is that of the day before."""
    local = start.astimezone(ZoneInfo(timezone))
    day = local.date() if local.hour >= 12 else local.date() - timedelta(days=1)
    return day.isoformat()


def key_of(package: Mapping[str, Any], group_by: Sequence[Any], timezone: str) -> str:
    """The key of the sub-group that a package belongs to."""
    parts = [_part(package, dimension, timezone) for dimension in group_by]
    key = "+".join(parts) or "all"
    if len(key) > 120:
        key = key[:98] + "~~" + hashlib.sha256(key.encode()).hexdigest()[:20]
    return key


def _part(package: Mapping[str, Any], dimension: Any, timezone: str) -> str:
    if isinstance(dimension, dict):
        found = look_up(package.get(f"{dimension['table']}.{dimension['column']}"), dimension.get("json_path"))
        return f"{dimension['name']}={escape(found)}"
    label, column = COLUMNS[dimension]
    value = package.get(column)
    if dimension == "obs_date" and value is not None:
        value = night_of(value, timezone)
    return f"{label}={escape(value)}"


def escape(value: Any) -> str:
    if value is None:
        return "~null"
    return "".join(c if c in PLAIN else "".join(f"~{b:02X}" for b in c.encode()) for c in text(value))


def text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
