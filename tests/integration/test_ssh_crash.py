"""Passes over SSH to a real Slurm, and their agent there, are killed; what is left is checked.

`bin/crash --campaign ssh` takes every distinct effect in every way; here: the hand-over to Slurm in all of them, and
one or two of each other kind.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.test_planted_defects import Defect, check_that_it_is_caught
from tests.integration.cluster import PROJECT, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.ssh, pytest.mark.slow]

SAMPLE = "|".join(
    (
        "submit: slurm.sbatch[:,].*", "scontrol release, agent-last", "submit: remote.call files.write_files, adrift",
        "submit: ssh.connect, after", "stage: remote.call files.receive_tar .2., agent",
        "stage: remote.call files.link_trees, adrift", "poll: slurm.sacct: remote.call commands.run, after",
        "collect: remote.call files.switch_link, adrift", "collect: remote.call files.remove_trees, agent",
    )
)  # fmt: skip

REPEATED = Defect(
    "a command whose answer was lost is given again",
    "ccatwm/edges/transport/ssh.py",
    'return CommandResult(None, b"", str(error).encode("utf-8", "replace"))',
    "return self.run(argv, environment=environment, stdin=stdin, timeout_seconds=timeout_seconds)",
    ("--campaign", "ssh", "--match", "slurm.sbatch, agent-last"),
    "was submitted as",
)


def test_kills_on_both_sides_of_the_connection_are_survived(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.crash.points", "--campaign", "ssh", "--jobs", "4"]
    done = subprocess.run(
        [*command, "--match", f"({SAMPLE})$"],
        cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "CCATWM_CLUSTER_DIR": str(cluster.dir)},
    )  # fmt: skip
    record_property("found", f"crash --campaign ssh: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) effects, (\d+) points, 0 wrong", done.stdout)
    assert counts is not None
    assert int(counts[2]) == 15


def test_a_planted_defect_is_caught(cluster: Cluster, tmp_path: Path) -> None:
    check_that_it_is_caught(REPEATED, tmp_path, CCATWM_CLUSTER_DIR=str(cluster.dir))
