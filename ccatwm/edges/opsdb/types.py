"""Column types that are the same on SQLite and PostgreSQL. Touches: nothing.

The PostgreSQL dialect is imported only where it is used: it brings asyncio along, for which every start pays.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


def utc_text(value: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ`, which sorts by time. Errors: ValueError without a time zone."""
    return f"{as_utc(value).isoformat(timespec='microseconds')[:26]}Z"


def as_utc(value: datetime) -> datetime:
    """Errors: ValueError without a time zone."""
    if value.tzinfo is None:
        raise ValueError(f"a time without a time zone reached the ops-db: {value!r}")
    return value.astimezone(UTC)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC: timestamptz on PostgreSQL, text `YYYY-MM-DDTHH:MM:SS.ffffffZ` (sorts by time) on SQLite."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(sa.String(27))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        return as_utc(value) if dialect.name == "postgresql" else utc_text(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        return _from_session if dialect.name == "postgresql" else _from_text


def _from_session(value: datetime | None) -> datetime | None:
    """Sessions are in UTC, unless something between us and the server dropped that option."""
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


class _Jsonb(sa.types.TypeDecorator[Any]):
    """JSONB, named late."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB())


Json = sa.JSON().with_variant(_Jsonb(), "postgresql")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# --- columns of other people's tables -------------------------------------------------------------------------------


class NaiveUtc(sa.types.TypeDecorator[datetime]):
    """A time without a zone, which is taken as UTC."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        return None if value is None else as_utc(value).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Labels(sa.Text):
    """An enum of PostgreSQL: texts, of which the type knows `labels` alone; any other text is an error of the server."""

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.labels = labels


class Uuid(sa.Text):
    """A UUID, told and compared as its text; a text that is none is an error of the server."""


class Opaque(sa.Text):
    """A type that nothing is known of: its text is what is compared and shown."""


class PaddedText(sa.types.TypeDecorator[str]):
    """character(n): blanks at the end are none of the value."""

    impl = sa.Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.rstrip(" ")
