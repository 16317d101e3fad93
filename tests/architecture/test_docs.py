"""The documentation hangs together: what its pages name is there, and building it fails where something is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "docs"))
import dead_links  # noqa: E402
import outside_links  # noqa: E402


def answer(status: str, info: str) -> dict[str, object]:
    return {"filename": "a.md", "lineno": 3, "status": status, "info": info, "uri": "https://x.example"}


@pytest.mark.quick
def test_all_that_the_pages_name_is_there() -> None:
    assert dead_links.dead_links(TOP) == []


@pytest.mark.quick
def test_what_is_not_there_is_told_with_page_and_line(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# Some heading: here\n")
    page = "[b](docs/b.md#some-heading-here)\n\n[b](docs/b.md#nowhere) and [c](docs/c.md)\n`bin/gone --all`\n"
    (tmp_path / "README.md").write_text(page)
    assert dead_links.dead_links(tmp_path) == [
        "README.md:3: docs/b.md#nowhere: there is no heading #nowhere",
        "README.md:3: docs/c.md: there is no such file",
        "README.md:4: bin/gone: the repository has no such file",
    ]


@pytest.mark.quick
def test_a_host_that_does_not_answer_is_no_dead_link() -> None:
    away = answer("broken", "HTTPSConnectionPool(host='x.example', port=443): Max retries exceeded")
    assert outside_links.told([answer("working", ""), away])[1] == 4
    lines, code = outside_links.told([away, answer("broken", "404 Client Error: Not Found")])
    assert (code, lines[0]) == (1, "a.md:3: https://x.example: 404 Client Error: Not Found")
    assert outside_links.told([answer("working", ""), answer("unchecked", "")])[1] == 0


def test_a_build_fails_for_dead_links_and_for_a_page_that_nothing_leads_to(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    copy = tmp_path / "copy"
    shutil.copytree(TOP / "docs", copy / "docs", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for other in TOP.iterdir():
        if other.name != "docs":
            (copy / other.name).symlink_to(other)
    (copy / "docs" / "explanation" / "alone.md").write_text("# Alone\n\n{doc}`nowhere`, `tests/gone.py`\n")
    html = tmp_path / "html"
    # Every page is read and every reference resolved; no HTML is written.
    options = ["-b", "dummy", "-W", "--keep-going", "-q"]
    build = [sys.executable, "-m", "sphinx", *options, str(copy / "docs"), str(html)]
    done = subprocess.run(
        build, env={"PYTHONPATH": str(TOP), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    for told in (
        "alone.md: WARNING: document isn't included in any toctree",
        "alone.md:3: WARNING: unknown document: 'nowhere'",
        "WARNING: docs/explanation/alone.md:3: tests/gone.py: the repository has no such file",
    ):
        assert told in done.stderr, done.stderr
