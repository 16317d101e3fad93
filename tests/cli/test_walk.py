"""The walk through all commands, docs/tutorial/a-walk.md: what stands below a command is what a terminal shows of it.

`CCATWM_RECORD=1 python -m pytest tests/cli/test_walk.py` writes down what the terminal shows, where it is something else.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.test_examples import COMMANDS
from tests.fakes.terminal import run_on_terminal

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "tutorial" / "a-walk.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*) -->\n)?```sh\n(?P<typed>.*?)```\n(?:\n```text\n(?P<said>.*?)```\n)?", re.DOTALL
)
COLUMNS = 100
PATIENCE_SECONDS = 60.0

FOLDER = "/srv/telescope"  # what the page calls the folder of the walk, whose real name is as long: tables break alike
HOST, PERSON = "dome", "ada"
INSTALLED = "only owners and groups may write to /opt/ccatwm, /usr/bin/python3.11"  # what `doctor` says of this program
# Commands that nobody can type on this site, and why. All others are in the walk.
CANNOT: dict[str, str] = {}
CONTAINERS = ("apptainer", "singularity")  # not on this site: with them `init` would say other things
# `ccatwm` on a host of this name: a name of another length would break tables elsewhere.
PROGRAM = f"""
import os, socket, sys
host = os.uname()
os.uname = lambda: os.uname_result((host[0], {HOST!r}, *host[2:]))
socket.gethostname = lambda: {HOST!r}
sys.argv[0] = "ccatwm"
from ccatwm.cli.main import main
main()
"""


@dataclass(frozen=True)
class Block:
    """What is typed at one go, and what the page says is shown then. `span`: where that stands in the page."""

    note: str
    typed: str
    said: str
    span: tuple[int, int]

    @property
    def code(self) -> int | None:
        """The exit code; None where it depends on the machine."""
        fails = re.search(r"fails: (\d+)", self.note)
        return None if self.names_only else int(fails[1]) if fails else 0

    @property
    def names_only(self) -> bool:
        return "names only" in self.note

    @property
    def after_jobs(self) -> bool:
        return "when no job is at work" in self.note


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer(page)
    return [Block(m["note"] or "", m["typed"], m["said"] or "", m.span("said")) for m in found]


# --- what is the same each time ---------------------------------------------------------------------------------------

PASS = re.compile(r"(trigger|resolve|stage|submit|poll|collect): (\d+) done(?:, \d+ [a-z]+)*")
# Without any space or newline in between: a longer number moves the end of a line.
DIFFERS = (
    (r"\d{4}-\d\d-\d\d(?:T|(?=\d\d:))\d\d:\d\d:\d\d(?:\.\d+)?Z?", "TIME"),
    (r"\d{8}T\d{6}Z", "TIME"),
    (r"(?<=publishedon)\d{4}-\d\d-\d\d", "DAY"),
    (r"SOURCE_DATE_EPOCH=\d+", "EPOCH"),
    (r"\d+sago", "AGO"),
    (r"after\d+\.\d+s|\d+\.\d+safter", "SECONDS"),
    (r"(wall_seconds|cpu_hours|peak_memory_gb)(?:[\d.e-]+(?:->)?)+", r"\1 N"),
    (r"[\d.]+(?:e-\d+)?corehours\(bypast|\([\d.]+(?:e-\d+)?corehourswhen", "HOURS"),
    (r"[\d.]+GBand\d+inodes", "FREE"),
    (r"[\d.]+MB,theops-db", "SIZE"),
    (r"SQLite\d+\.\d+\.\d+", "SQLite"),
    (r"[a-z2-7]{8}\.\.\.|(?<=job)[a-z2-7]{26}", "JOB"),
    (r"product\d+ofrun|(?<=/)run-\d+", "NUMBER"),  # whose job ends first when two are at work
    (r"(?<=sha256file)\d+(?=8SCIENCE)|(?<=-product)\d+(?=,nightly)", "NUMBER"),  # the same, where it is published
    (r"trying:thesamewithoutnetwork\.\.\.|(?:ok|skipped)network.*?(?=(?:ok|skipped)left-running)", ""),
    (r"(?:ok|skipped)term.*?(?=nothingbreaks)|(?<=thecontract),\d+notchecked", ""),  # a program may end before TERM comes
)  # fmt: skip


def stable(said: str, *, names_only: bool) -> str:
    """`said` without what differs between two walks, or two machines: times, durations, ids, free space, and how often the
    passes had to look."""
    if names_only:
        return " ".join(re.findall(r"^(?:ok|warning|skipped|WRONG) +(\S+)", said, re.MULTILINE))
    lines, done = [], dict[str, int]()
    for line in said.splitlines():
        if "RUNNING (JOB_STARTED)" in line:  # whoever polls a moment later does not see it
            continue
        passed = PASS.fullmatch(line)
        if passed is None:
            lines.append(line)
        else:
            counts = passed[1] in ("stage", "submit", "collect")
            done[passed[1]] = done.get(passed[1], 0) + counts * int(passed[2])
    text = re.sub(r"\s", "", "".join(lines))
    for pattern, word in DIFFERS:
        text = re.sub(pattern, word, text, flags=re.DOTALL)
    return f"{sorted(done.items())} {text}"


@pytest.mark.quick
def test_what_differs_between_two_walks_is_known() -> None:
    once = (
        "2026-03-01T12:00:00Z poll: run 3\npoll: 1 done, 1 waiting\npoll: 2 done\nstage: 2 done\n"
        "  wall_seconds 0.118, cpu_hours 1.44e-0\n5\nset a, published on 2026-03-\n01, 1 product\n"
    )
    again = (
        "2026-03-02T12:00:00Z poll: run 3\npoll: 2 done\nstage: 1 done\nstage: 1 done\n"
        "  wall_seconds 0.1, cpu_hours 1.2e-05\nset a, published on 2026-03-02, 1 product\n"
    )
    assert stable(once, names_only=False) == stable(again, names_only=False)
    assert stable(once, names_only=False) != stable(again.replace("run 3", "run 4"), names_only=False)
    assert stable(once, names_only=False) != stable(again.replace("stage: 1", "stage: 2"), names_only=False)


# --- the walk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where it is walked: a new folder whose path is as long as FOLDER, with `/` at the same places."""
    made = Path(tempfile.mkdtemp(prefix="w", dir="/tmp"))
    assert len(str(made)) == len(FOLDER)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a person who has `ccatwm`, the system's programs, and no containers."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for program in {p.name: p for folder in ("/bin", "/usr/bin") for p in Path(folder).iterdir()}.values():
        if program.name not in CONTAINERS:
            (commands / program.name).symlink_to(program)
    (tmp_path / "program.py").write_text(PROGRAM)
    words = shlex.join([sys.executable, str(tmp_path / "program.py")])
    (commands / "ccatwm").write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(TOP))} exec {words} "$@"\n')
    (commands / "ccatwm").chmod(0o755)
    return {"PATH": str(commands), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "USER": PERSON, "LOGNAME": PERSON}


def wait_for_jobs(folder: Path) -> None:
    """Until every attempt that was handed over has ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while open_ones := [a for a in folder.glob("ccatwm-data/pipelines/*/*/*/run-*/attempt-*") if not _ended(a)]:
        assert time.monotonic() < until, open_ones
        time.sleep(0.1)


def _ended(attempt: Path) -> bool:
    exits = attempt / "job" / "exit.json"
    with suppress(OSError):
        return exits.stat().st_size > 0
    return False


def walk(page: str, folder: Path, environment: dict[str, str]) -> Iterator[tuple[Block, str]]:
    """Each block with what the terminal shows, in the words of the page."""
    real = os.uname().nodename
    for block in blocks(page):
        if block.after_jobs:
            wait_for_jobs(folder)
        argv = ["bash", "-e", "-c", block.typed]
        shown = run_on_terminal(argv, cwd=folder, environment=environment, columns=COLUMNS)
        said = "".join(f"{line}\n" for line in shown.lines)
        assert block.code in (None, shown.code), f"{block.typed}\nended with {shown.code}:\n{said}"
        said = re.sub(rf"\b(on|node) {re.escape(real)}\b", rf"\1 {HOST}", said)  # a job tells its host itself
        said = re.sub(r"^(\w+ +program +)\S.*?(?=^\w)", rf"\1{INSTALLED}\n", said, flags=re.MULTILINE | re.DOTALL)
        yield block, said.replace(str(folder), FOLDER)


@pytest.mark.slow
def test_the_page_shows_what_a_terminal_shows(folder: Path, environment: dict[str, str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    new, end, different = "", 0, []
    for block, said in walk(page, folder, environment):
        kept = block.said
        if stable(said, names_only=block.names_only) != stable(block.said, names_only=block.names_only):
            lines = difflib.unified_diff(block.said.splitlines(), said.splitlines(), "page", "terminal", lineterm="")
            different.append("\n".join((block.typed, *lines)))
            kept = said
            assert block.span != (-1, -1) or not said, f"nothing stands below, but this is shown:\n{block.typed}\n{said}"
        if block.span != (-1, -1):
            new, end = new + page[end : block.span[0]] + kept, block.span[1]
    if different and os.environ.get("CCATWM_RECORD"):
        PAGE.write_text(new + page[end:], encoding="utf-8")
        return
    assert not different, "\n".join((*different, "if this is right, record it: CCATWM_RECORD=1"))


@pytest.mark.quick
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in CANNOT])
def test_every_command_is_in_the_walk(command: str) -> None:
    typed = "\n".join(block.typed for block in blocks(PAGE.read_text(encoding="utf-8")))
    assert re.search(rf"(?:^|\$\()ccatwm {re.escape(command)}(?![\w-])", typed, re.MULTILINE)


@pytest.mark.quick
def test_only_commands_that_exist_are_left_out() -> None:
    assert set(CANNOT) <= set(COMMANDS)
