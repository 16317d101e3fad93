"""Refuses what is asked of disabled steps: it would wait unseen, and be carried out whenever they are enabled.

Touches: the ops-db, reading only.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from ccatwm.edges.opsdb.stores import views
from ccatwm.errors import UsageError

ENABLE = "`ccatwm apply FILE` with `enabled: true`, then ask again"


def list_disabled(connection: sa.Connection, pipeline: str, steps: Collection[str]) -> tuple[str, ...]:
    """Those of a pipeline's steps that are disabled.

    Errors: UsageError where the pipeline is, or all of the steps are.
    """
    rows = [row for row in views.list_steps(connection, pipeline) if row["step"] in steps]
    if rows and not rows[0]["pipeline_enabled"]:
        raise UsageError(f"pipeline {pipeline} is disabled", next=ENABLE)
    disabled = tuple(row["step"] for row in rows if not row["enabled"])
    if rows and len(disabled) == len(rows):
        names = ", ".join(f"{pipeline}/{name}" for name in disabled)
        raise UsageError(f"{names} {'is' if len(disabled) == 1 else 'are'} disabled", next=ENABLE)
    return disabled
