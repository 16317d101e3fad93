"""Commands that take a run in hand: `command rerun rebuild history`. Touches: the program that `rerun` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Limit, command
from ccatwm.cli._selection import read_selection
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.upkeep.by_hand import Prepared

STDERR = 2
Run = Annotated[int, typer.Argument(metavar="RUN", help="Number of a run.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (command_, rerun, rebuild, history):
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


def rerun(
    common: Common,
    run: Run,
    by_hand: Annotated[
        Path | None, typer.Option("--by-hand", metavar="DIR", help="Where: a folder that is empty, or not there yet.")
    ] = None,
    shell: Annotated[
        bool, typer.Option("--shell", help="Open a shell there instead of starting the program.")
    ] = False,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="In this image instead of its own.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="With another configuration; KEY.SUB=VALUE, may be repeated."),
    ] = None,
) -> int:
    """Run it again by hand: same inputs and manifest, output in DIR, nothing recorded."""
    if by_hand is None:
        raise UsageError(
            "where? A run by hand has a folder of its own",
            next=f"`ccatwm rerun {run} --by-hand DIR`; to have it made again and recorded: `ccatwm retry {run}`",
        )
    if shell and common.json:
        raise UsageError("--shell is for people, --json for scripts", next="leave one of them out")
    from ccatwm import wiring
    from ccatwm.upkeep.by_hand import Asked, prepare

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    folder = Path(os.path.abspath(by_hand))
    asked = Asked(run, folder, shell, image, tuple(changes or ()), os.environ.get("TERM"))
    prepared = prepare(asked, wiring.build_here(context, folder), lambda line: _tell(common, line))
    context.database.dispose()  # nobody knows how long the program takes
    if not common.json and not common.quiet:
        for line in prepared.lines():
            _tell(common, line)
    code = _start(common, prepared, shell)
    if common.json:
        _frame.emit_json(prepared.to_json(code))
    elif not common.quiet:
        _tell(common, "" if shell else f"the program ended with exit code {code}")
        _tell(common, f"output: {folder / 'output'}")
        _tell(common, f"again:  {folder / 'command.sh'}")
    return int(not shell and not prepared.is_good(code))


def _tell(common: Common, line: str) -> None:
    """On stderr: stdout is the program's."""
    if line and not common.quiet:
        print(_frame.printable(line), file=sys.stderr, flush=True)


def _start(common: Common, prepared: Prepared, shell: bool) -> int:
    """The exit code of the program, which has this terminal; as for a job, there is nothing to read for it."""
    given = None if shell else subprocess.DEVNULL
    out = STDERR if common.json else None
    done = subprocess.run(prepared.argv, cwd=prepared.directory, stdin=given, stdout=out, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def rebuild(
    common: Common,
    product: Annotated[int, typer.Argument(metavar="PRODUCT", help="Number of a product.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where: a folder that is empty, or not there yet.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, metavar="N", help="So many programs side by side.")
    ] = 1,
) -> int:
    """Make a product again from raw data, and say whether it is the same."""
    if folder is None:
        raise UsageError(
            "where? What is made again has a folder of its own", next=f"`ccatwm rebuild {product} --dir DIR`"
        )
    from ccatwm import wiring
    from ccatwm.upkeep.rebuild import Asked
    from ccatwm.upkeep.rebuild import rebuild as rebuild_product

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    asked = Asked(product, Path(os.path.abspath(folder)), jobs)
    here = wiring.build_here(context, asked.folder)
    report = rebuild_product(asked, here, context.clock, lambda line: _tell(common, line))
    if common.json:
        _frame.emit_json(report.to_json())
    else:
        for line in report.lines():
            print(_frame.printable(line))
    return report.exit_code


def history(
    common: Common,
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[SUBJECT]", help="Number of a run, PIPELINE[/STEP[/KEY]], package:NAME, backfill:N; else everything."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Since: 2h, 7d, 2026-03-01 (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before.")] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Also every change of status of its runs; a run's are always shown.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="Also the text of what was applied.")] = False,
    limit: Limit = None,
) -> int:
    """Show who did what, when and why, newest first (50 unless --limit says otherwise)."""
    from ccatwm.views.history import COLUMNS, DEFAULT_LIMIT, build_history, history_cells, text_lines

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    when = read_selection(context.clock.now(), None, None, None, None, None, since, until)
    document = build_history(
        context.database, subject, when, events=events, texts=text, limit=limit or DEFAULT_LIMIT
    )
    if common.json:
        _frame.emit_json(document)
        return 0
    rows = [history_cells(row) for row in document["history"]]
    if not rows:
        print("nobody did anything")
        return 0
    _frame.print_table("", COLUMNS, rows)
    for line in (line for row in document["history"] if text for line in text_lines(row)):
        _frame.print_lines([line])
    return 0
