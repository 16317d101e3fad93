"""Defects planted on purpose must be caught: a rig that finds nothing proves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Defect:
    """One change of the source, and the arguments of the rig that must find it."""

    name: str
    file: str
    old: str
    new: str
    arguments: tuple[str, ...]
    finding: str


DEFECTS = (
    Defect(
        "products committed before they are published",
        "ccatwm/passes/collect.py",
        "        published = _publish_checked(frame, good, records, aside)\n",
        "        _record(frame, good)\n        published = _publish_checked(frame, good, records, aside)\n",
        ("--match", "run.json", "--mode", "fail"),
        "run.json",
    ),
    Defect(
        "claim dropped",
        "ccatwm/edges/scheduler/job.sh",
        'if ! mkdir "job/claims/$restart" 2>/dev/null; then',
        'if ! mkdir -p "job/claims/$restart" 2>/dev/null; then',
        ("--campaign", "twice", "--only", "1"),
        "was executed 2 times",
    ),
    Defect(
        "checksum skipped",
        "ccatwm/edges/workfiles/_receive.py",
        "            if found != wanted:\n",
        "            if False:\n",
        ("--only", "1"),
        "is not what was packed",
    ),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name)
def test_a_planted_defect_is_caught(defect: Defect, tmp_path: Path):
    check_that_it_is_caught(defect, tmp_path)


def check_that_it_is_caught(defect: Defect, tmp_path: Path, **environment: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ccatwm", "tests", "bin", "site-configs"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = copy / defect.file
    text = source.read_text()
    assert text.count(defect.old) == 1, "the place of the defect has changed: mend this test"
    source.write_text(text.replace(defect.old, defect.new))
    command = [sys.executable, "-m", "tests.crash.points", *defect.arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert defect.finding in done.stdout
