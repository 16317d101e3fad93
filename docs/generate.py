"""Writes the pages of the reference that are made from the code: `reference/generated/`. Called by conf.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_pages(folder: Path) -> None:
    """Make the pages anew."""
    from api_page import api_page
    from tables_page import tables_page

    os.environ["COLUMNS"] = "100"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "help": help_page(),
        "interfaces": api_page(),
        "schemas": schemas_page(),
        "states": states_page(),
        "tables": tables_page(),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def help_page() -> str:
    """What every command says of itself."""
    import typer
    from typer.testing import CliRunner

    from ccatwm.cli.main import app

    parts = ["# What each command says with --help", ""]
    for words in [(), *_commands(typer.main.get_command(app))]:
        said = CliRunner().invoke(app, [*words, "--help"]).output.rstrip()
        parts += [f"## {' '.join(('ccatwm', *words))}", "", "```text", said, "```", ""]
    return "\n".join(parts)


def _commands(entry: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, below in getattr(entry, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from _commands(below, (*above, name))
        elif not below.hidden:
            yield (*above, name)


def states_page() -> str:
    """Which event leads from which status to which."""
    from ccatwm.core.states import TRANSITIONS, RunEvent, RunStatus

    events = [event for event in RunEvent if any(known is event for _, known in TRANSITIONS)]
    parts = [
        "# Statuses of a run", "",
        "Which event leads from which status to which; what is empty is refused. `COMPLETED`, `FAILED` and",
        "`CANCELLED` are final: late news of a job moves no run out of them. What failed may be cancelled, so that it is",
        "not tried again.", "",
        f"| event | {' | '.join(f'`{status}`' for status in RunStatus)} |", f"|---|{'---|' * len(RunStatus)}",
    ]  # fmt: skip
    for event in events:
        cells = [TRANSITIONS.get((status, event), "") for status in RunStatus]
        parts.append(f"| `{event}` | {' | '.join(f'`{cell}`' if cell else '' for cell in cells)} |")
    return "\n".join([*parts, ""])


def schemas_page() -> str:
    """The JSON Schemas of what people and programs write and read."""
    from ccatwm.upkeep.schemas import NAMES, json_schema

    parts = ["# JSON Schemas", "", "As `ccatwm schema NAME` prints them, for editors and validators.", ""]
    for name in NAMES:
        text = json.dumps(json_schema(name), indent=2, ensure_ascii=False)
        parts += [f"## {name}", "", "```json", text, "```", ""]
    return "\n".join(parts)
