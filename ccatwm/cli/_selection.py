"""The options that select runs, the same in every command. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ccatwm.core.selection import Selection

Pipeline = Annotated[str | None, typer.Option("--pipeline", metavar="NAME", help="Of this pipeline.")]
Step = Annotated[str | None, typer.Option("--step", metavar="NAME", help="Of this step.")]
SubGroup = Annotated[str | None, typer.Option("--sub-group", metavar="KEY", help="Of this sub-group.")]
Status = Annotated[
    list[str] | None, typer.Option("--status", metavar="STATUS", help="In this status; may be repeated.")
]
Class = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="CLASS", help="Failed in this class (out-of-memory, ...)."),
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Changed since: 2h, 7d (ago), 2026-03-01 (UTC).")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Changed before; as --since.")]


def read_selection(
    now: datetime,
    pipeline: str | None,
    step: str | None,
    sub_group: str | None,
    status: list[str] | None,
    failure_class: list[str] | None,
    since: str | None,
    until: str | None,
    types: list[str] | None = None,
) -> Selection:
    """What was typed, as a selection."""
    from ccatwm.core.selection import build_selection

    return build_selection(
        now,
        pipeline=pipeline,
        step=step,
        sub_group=sub_group,
        statuses=status or (),
        classes=failure_class or (),
        types=types or (),
        since=since,
        until=until,
    )
