"""The tutorial docs/tutorial/your-own-data.md: its commands are typed as they stand there, and say what stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "tutorial" / "your-own-data.md"
BLOCK = re.compile(r"(?:<!-- fails: (\d+) -->\n)?```(sh|text)\n(.*?)```", re.DOTALL)


def expected(text: str) -> str:
    """A regular expression of what a command says: `...` is any text, on a line of its own any lines."""
    lines = ["(?:.*\n)*?" if line == "..." else _line(line) for line in text.splitlines()]
    return "".join(lines)


def _line(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.split("...")) + "\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """`ccatwm` as a command, for a person who has nothing else of ours."""
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "ccatwm"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(TOP))} exec {shlex.quote(sys.executable)} -m ccatwm "$@"\n')
    script.chmod(0o755)
    path, user = f"{commands}:/usr/bin:/bin", os.environ.get("USER", "me")
    return {"PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "USER": user}


def test_the_tutorial_does_what_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "my work"
    work.mkdir()
    said, typed = "", 0
    for code, language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "text":
            assert re.search("^" + expected(text), said, re.MULTILINE), f"{text}\nis not in what was said:\n{said}"
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        said, typed = done.stdout + done.stderr, typed + 1
        assert done.returncode == int(code or 0), f"{text}\n{said}"
    assert typed == 10
    assert len(list(work.glob("ccatwm-data/pipelines/nightly/average/*/run-*/attempt-1/output/science/mean.fits"))) == 8
