"""The examples in `--help`: every command has some, they can be typed, and they fit a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from ccatwm.cli._examples import EXAMPLES, example_lines
from ccatwm.cli.main import app
from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick


def commands(entry: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, below in getattr(entry, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from commands(below, (*above, name))
        elif not below.hidden:
            yield " ".join((*above, name)), below


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_every_command_has_examples_and_no_other() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_of_their_command_and_can_be_typed(name: str) -> None:
    for typed, _ in EXAMPLES[name]:
        words = shlex.split(typed.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0].partition(" | ")[0])
        program, *rest = words
        path = name.split()
        assert (program, rest[: len(path)]) == ("ccatwm", path)
        COMMANDS[name].make_context(name, rest[len(path) :])  # refuses what it does not know, and what is missing


def test_help_shows_them_within_eighty_columns(cli: Cli) -> None:
    for name in COMMANDS:
        lines = cli(*name.split(), "--help").out.partition("Examples:\n")[2].splitlines()
        assert [line.strip() for line in lines] == [line.strip() for line in example_lines(name)]
        assert all(len(line) <= 80 for line in lines), name
