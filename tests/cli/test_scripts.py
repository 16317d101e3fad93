"""What the scripts in bin/ say when something is not as they need it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with the scripts and nothing else."""
    top = tmp_path / "release"
    shutil.copytree(PROJECT / "bin", top / "bin")
    (top / "pyproject.toml").write_text("")
    (top / ".venv" / "bin").mkdir(parents=True)
    return top


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([script, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def pip(release: Path, code: int) -> None:
    """An interpreter whose pip warns, and ends with this code."""
    python = release / ".venv" / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho 'WARNING: noise' >&2\ncase $2 in pip) exit {code};; esac\n")
    python.chmod(0o755)


def test_without_an_environment_the_launcher_says_how_to_make_one(release: Path) -> None:
    done = run(release / "bin" / "ccatwm", "status")
    assert (done.returncode, "there is no environment in" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("name", "module"), [("ccatwm", "ccatwm"), ("ccat_workflow_manager", "ccatwm.managers")]
)
def test_a_launcher_runs_the_program_of_its_name_also_through_a_link(release: Path, name: str, module: str) -> None:
    python = release / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    (release / ".venv" / ".ccatwm-environment").touch()
    (release.parent / "current").symlink_to(release)
    for script in (release / "bin" / name, release.parent / "current" / "bin" / name):
        assert run(script, "x").stdout == f"-P -m {module} x\n"


def test_an_interpreter_out_of_reach_is_not_called_absent(release: Path) -> None:
    (release / ".venv" / "bin" / "python").symlink_to("/nowhere/bin/python3")
    done = run(release / "bin" / "ccatwm", "status")
    assert done.returncode == 3
    assert "is there, but account" in done.stderr and "/nowhere/bin/python3" in done.stderr


def test_an_environment_that_was_not_finished_is_not_used(release: Path) -> None:
    pip(release, 0)
    done = run(release / "bin" / "ccatwm", "status")
    assert (done.returncode, "was not finished" in done.stderr) == (3, True)


def test_a_package_of_our_name_where_somebody_stands_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "ccatwm").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "ccatwm" / name).write_text("print('from the folder where somebody stands')")
    launcher = PROJECT / "bin" / "ccatwm"
    done = subprocess.run([launcher, "--help"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, "somebody stands" in done.stdout) == (0, False)


def test_the_environment_of_passes_alone_has_no_extras(release: Path) -> None:
    pip(release, 0)
    python = release / ".venv" / "bin" / "python"
    python.write_text(python.read_text() + f'echo "$@" >>{release}/said\n')
    python.write_text(python.read_text().replace("case $2 in pip) exit 0;; esac\n", ""))
    assert run(release / "bin" / "setup-env", "none").returncode == 0
    assert "-e .\n" in (release / "said").read_text()


def test_what_pip_says_is_kept_back_when_it_succeeds(release: Path) -> None:
    pip(release, 0)
    done = run(release / "bin" / "setup-env", "test")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("WARNING") == 1  # of compileall: the fake warns always


def test_what_pip_says_is_shown_when_it_fails(release: Path) -> None:
    pip(release, 1)
    done = run(release / "bin" / "setup-env", "test")
    assert (done.returncode, done.stderr.count("WARNING")) == (1, 1)
    assert not (release / ".venv" / ".ccatwm-environment").exists()


def test_the_help_of_bin_test_runs_no_tests(release: Path) -> None:
    done = run(release / "bin" / "test", "--help")
    assert (done.returncode, done.stdout.startswith("bin/test [PYTEST ARGUMENTS]")) == (0, True)
