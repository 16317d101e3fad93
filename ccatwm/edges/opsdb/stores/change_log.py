"""The log of what people did. Touches: the ops-db."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t


def record_change(
    connection: sa.Connection,
    *,
    at: datetime,
    actor: str,
    host: str,
    act: str,
    target: str,
    reason: str | None = None,
    text: str | None = None,
    digest: str | None = None,
    details: Any = None,
) -> None:
    """One act of a person: who, where, when, what, why, and the text of what was applied."""
    connection.execute(
        sa.insert(t.change_log).values(
            at=at, actor=actor, host=host, act=act, target=target, reason=reason, text=text, digest=digest,
            details=details,
        )
    )  # fmt: skip
