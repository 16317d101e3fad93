"""The main job, end to end: `bin/demo` finds the source that was put in, and the late scan makes a better map."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.demo.science import PROJECT, Science

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A demo in the folder of an interrupted one, beside somebody's own settings in the environment."""
    folder = tmp_path_factory.mktemp("demo") / "d"
    (folder / "site").mkdir(parents=True)
    (folder / ".ccatwm-demo.json").write_text('{"demo": "begun"}')
    (folder / "site" / "settings.toml").write_text("half writ")
    own = {"CCAT_WORKFLOW_MANAGER_SITE": "elsewhere", "CCAT_WORKFLOW_MANAGER_HPC_BACKEND": "slurm"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), **own}
    command = [PROJECT / "bin" / "demo", "--dir", folder, "--scans", "4", "--no-apptainer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class TestScience(Science):
    pass


def test_an_interrupted_demo_begins_anew_and_leaves_nothing_of_the_first(demo):
    assert "half writ" not in (demo / "site" / "settings.toml").read_text()
    assert sorted(p.name for p in demo.iterdir()) == [".ccatwm-demo.json", "data", "site"]


def test_a_demo_is_refused_in_a_folder_with_other_files(tmp_path):
    (tmp_path / "mine").write_text("x")
    command = [PROJECT / "bin" / "demo", "--dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "is not empty and holds no demo" in done.stderr) == (1, True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_second_demo_in_the_same_folder_says_what_to_do(demo):
    done = subprocess.run([PROJECT / "bin" / "demo", "--dir", demo], capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds a demo already" in done.stderr
