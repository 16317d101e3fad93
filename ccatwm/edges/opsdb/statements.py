"""SQL as text: for owners of databases to say, and where one is being restored and no engine works. Touches: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ccatwm.edges.opsdb.types import utc_text
from ccatwm.errors import UsageError


def literal(text: str) -> str:
    """A text as SQL reads it, on SQLite and on PostgreSQL with standard_conforming_strings (its default)."""
    if "\0" in text:
        raise UsageError("a text has a null character in it", next="leave it out")
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as PostgreSQL reads it: quoted where it would be read otherwise, reserved words too."""
    from sqlalchemy.dialects import postgresql  # late: it brings asyncio along

    return str(postgresql.dialect().identifier_preparer.quote(name))  # type: ignore[no-untyped-call]


def after_restore(
    prefix: str, *, blocked: str, at: datetime, actor: str, host: str, target: str, reason: str
) -> Sequence[str]:
    """Block submission, free the leases of the time of the backup, and write down who did it. `prefix`: `ccatwm.`"""
    return (
        f"UPDATE {prefix}ops_db SET submission_blocked = {literal(blocked)}",
        f"UPDATE {prefix}pass_lease SET holder = NULL, expires_at = NULL",
        f"INSERT INTO {prefix}change_log (at, actor, host, act, target, reason) VALUES "
        f"({literal(utc_text(at))}, {literal(actor)}, {literal(host)}, 'restore', {literal(target)}, {literal(reason)})",
    )
