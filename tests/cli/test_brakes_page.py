"""The how-to docs/how-to/brakes.md: its commands are typed as they stand there, and say what stands there."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.test_your_own_data import BLOCK, expected

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "brakes.md").read_text(encoding="utf-8")
PIPELINE = re.compile(r"<!-- pipeline -->\n```yaml\n(.*?)```", re.DOTALL)


def test_the_how_to_on_brakes_does_what_it_says(cli: Cli) -> None:
    """In one process: some twenty commands would start Python as many times. Passes stage in earnest."""
    (written,) = PIPELINE.findall(PAGE)
    Path("otf.yaml").write_text(written)
    said, typed = "", 0
    for code, language, text in BLOCK.findall(PAGE):
        if language == "text":
            assert re.search("^" + expected(text), said, re.MULTILINE), f"{text}\nis not in what was said:\n{said}"
            continue
        said, last = type_in(cli, text)
        typed += 1
        assert last == int(code or 0), f"{text}\n{said}"
    assert typed == 13


def type_in(cli: Cli, text: str) -> tuple[str, int]:
    """What the lines of a block say, and the exit code of the last; all before it must do what they are asked for."""
    said, last = "", 0
    for ours, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith("ccatwm ")):
        assert last == 0, said
        if not ours:
            subprocess.run(["bash", "-e", "-c", "\n".join(lines)], check=True, timeout=10)
            continue
        for line in lines:
            assert last == 0, said
            answer = cli(*shlex.split(line)[1:])
            said, last = said + answer.out + answer.err, answer.code
    return said, last
