"""Commands that take a run in hand: `command rerun`. Touches: the program that `rerun` starts."""

from __future__ import annotations

from typing import Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, command

Run = Annotated[int, typer.Argument(metavar="RUN", help="Number of a run.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (command_,):
        command(app, panel=_frame.LOOK)(function)


def command_(
    common: Common,
    run: Run,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Of this attempt; default the newest.")
    ] = None,
) -> int:
    """Print the command of an attempt, quoted for a shell, and how it was handed over."""
    from ccatwm.views.command import build_command, command_lines

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    document = build_command(
        context.database, context.workfiles, lambda: context.scheduler, run, attempt=attempt
    )
    if common.json:
        _frame.emit_json(document)
    else:
        for line in command_lines(document):
            print(line if not line.startswith("#") else _frame.printable(line))
    return 0
