"""An error that a person has to act on, and the report of an act, end with what to type or do next."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_examples import COMMANDS

pytestmark = pytest.mark.quick

TOP = Path(__file__).resolve().parents[2]
# Errors that say by their class that a person acts, and the plain one, which is 1 for people's commands.
FOR_PEOPLE = {
    "CcatwmError", "UsageError", "SettingsError", "MissingRightError", "BaseDirError", "ObservationTablesError",
    "DefinitionsError", "SchemaVersionError", "OpsDbUnusableError", "HostKeyError",
}  # fmt: skip
# Where it is no message to a person at a command, and why.
ELSEWHERE = {
    "ccatwm/agent.py": "it goes over SSH; whoever asked words it",
    "ccatwm/cli/_frame.py": "an error of the file system: what it says is all that is known",
    "ccatwm/edges/transport/_session.py": "what the agent told, with what it said is next",
    "ccatwm/edges/workfiles/_folders.py": "becomes the reason of a run's failure, which `ccatwm show` follows up",
    "ccatwm/transfer_job.py": "it runs in a staging job; its last line is in the message of the runs that wait for it",
    "ccatwm/edges/workfiles/_system.py": "becomes the reason of a run's failure, which `ccatwm show` follows up",
}
# Reports of acts that are no end, and what says the rest.
FOLLOWED = {
    "Imported": "what goes on with a job (`Alike`) names what ends it",
    "Prepared": "`rerun --by-hand` starts the program then, and says how to do it again",
    "ScanReport": "the report of what was ingested stands below it",
}


def without_next(source: str) -> Iterator[tuple[int, str]]:
    """Line and class of every such error that names neither what is next nor single mistakes, which name it each."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in FOR_PEOPLE:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            said = given.get("next", given.get("problems"))
            if None not in given and (said is None or (isinstance(said, ast.Constant) and not said.value)):
                yield call.lineno, call.func.id


def files() -> dict[str, str]:
    found = sorted((TOP / "ccatwm").rglob("*.py"))
    return {str(path.relative_to(TOP)): path.read_text(encoding="utf-8") for path in found}


def test_what_has_no_next_step_is_found() -> None:
    source = 'raise UsageError("no")\nraise UsageError("no", next="")\nraise UsageError("no", next="`ccatwm runs`")\n'
    assert [line for line, _ in without_next(source)] == [1, 2]
    fine = 'SettingsError("2 mistakes", problems=found)\nWorldError("away")\nUsageError(*told, **more)'
    assert not list(without_next(fine))


def test_every_error_for_people_says_what_is_next() -> None:
    found = [
        f"{name}:{line}: {error}"
        for name, source in files().items()
        if name not in ELSEWHERE
        for line, error in without_next(source)
    ]
    assert found == []


def test_only_files_that_need_it_are_left_out() -> None:
    sources = files()
    assert [name for name in ELSEWHERE if name not in sources or not list(without_next(sources[name]))] == []


def test_every_report_of_an_act_says_what_is_next() -> None:
    silent = {
        entry.name
        for name, source in files().items() if name.startswith("ccatwm/upkeep/")
        for entry in ast.walk(ast.parse(source)) if isinstance(entry, ast.ClassDef)
        for method in entry.body if isinstance(method, ast.FunctionDef) and method.name == "lines"
        if not re.search(r"`ccatwm |NEXT|next: ", ast.get_source_segment(source, method) or "")
    }  # fmt: skip
    assert silent == set(FOLLOWED)


def test_commands_that_messages_name_exist() -> None:
    groups = {name.partition(" ")[0] for name in COMMANDS if " " in name}
    named = {
        (found[1], found[2], f"{name}:{text.lineno}")
        for name, source in files().items()
        for text in ast.walk(ast.parse(source)) if isinstance(text, ast.Constant) and isinstance(text.value, str)
        for found in re.finditer(r"`ccatwm ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", text.value)
    }  # fmt: skip
    assert len(named) > 100
    wrong = [(a, b, where) for a, b, where in named if (f"{a} {b}" if a in groups and b else a) not in {*COMMANDS, *groups}]
    assert wrong == []
