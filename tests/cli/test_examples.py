"""The examples in `--help`: every command has some, they can be typed, and they fit a terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ccatwm.cli._examples import EXAMPLES, example_lines
from ccatwm.cli.main import app
from tests.cli.conftest import Cli, MakeSite

pytestmark = pytest.mark.quick


def commands(entry: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, below in getattr(entry, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from commands(below, (*above, name))
        elif not below.hidden:
            yield " ".join((*above, name)), below


COMMANDS = dict(commands(typer.main.get_command(app)))
# What the examples speak of, before anything was observed.
DEFINITIONS = """
software: [{name: reduce, versions: [{version: 1.2.0, command: ["true"]}]}]
data_groupings: [{name: ngc253-co43, filter_rules: [{table: Source, column: name, operator: not_null}]}]
pipelines:
  - name: maps
    data_grouping: ngc253-co43
    processing_location: local
    steps:
      - {name: calibrate, software: reduce, group_by: [executed_obs_unit]}
      - {name: grid, software: reduce, depends_on: [calibrate], group_by: [], config: {order: 2}}
"""
# The first line of an answer that refuses: what the example names is not on this site, so all else about it was right.
NOT_HERE = re.compile(r"(there|is|has) (is )?no |no (package|products) (is|are)|No such file|did not answer")
NOT_HERE_EITHER = re.compile(r"^  (--scan data: is not there|product 17: there is no|run 5: has no|\S+: cannot be read)")


def test_every_command_has_examples_and_no_other() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


def words_of(typed: str) -> list[str]:
    """The command itself, without what a shell does with its output."""
    return shlex.split(typed.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0].partition(" | ")[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_of_their_command_and_can_be_typed(name: str) -> None:
    for typed, _ in EXAMPLES[name]:
        program, *rest = words_of(typed)
        path = name.split()
        assert (program, rest[: len(path)]) == ("ccatwm", path)
        COMMANDS[name].make_context(name, rest[len(path) :])  # refuses what it does not know, and what is missing


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "doctor"])  # it submits a job; it is in the walk
def test_examples_are_refused_for_nothing_but_what_is_not_there_yet(name: str, cli: Cli, make_site: MakeSite) -> None:
    Path("definitions.yaml").write_text(DEFINITIONS)
    make_site(Path("ccatwm-data"))
    assert cli("apply", "definitions.yaml").code == 0
    for typed, _ in EXAMPLES[name]:
        answer = cli(*words_of(typed)[1:])
        assert not answer.err or is_not_here(answer.err), f"{typed}\n{answer.err}"


def is_not_here(said: str) -> bool:
    """Whether an answer refuses because of names that this site does not know, and of nothing else."""
    first, *others = said.splitlines()
    mistakes = [line for line in others if line.startswith("  ") and not line.startswith("  next: ")]
    if mistakes:
        return all(NOT_HERE_EITHER.match(line) for line in mistakes)
    return NOT_HERE.search(first) is not None


def test_help_shows_them_within_eighty_columns(cli: Cli) -> None:
    for name in COMMANDS:
        lines = cli(*name.split(), "--help").out.partition("Examples:\n")[2].splitlines()
        assert [line.strip() for line in lines] == [line.strip() for line in example_lines(name)]
        assert all(len(line) <= 80 for line in lines), name
