"""The wheel, in an environment of its own: it holds all that `init` and `db check` need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the working tree."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True
    ).stdout.decode()
    for name in listed.split("\0"):
        if name.startswith(("ccatwm/", "pyproject.toml", "README", "LICENSE")) and (TOP / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((TOP / name).read_bytes())
    (copy / "README.md").touch()
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an empty environment with the wheel in it.

    Dependencies come from the environment of the tests, by a path entry that lies behind its own packages; so
    nothing is fetched. The working tree is not on that path.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    commands = folder / "bin"
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "--python",
        str(commands / "python"),
    ]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    # Added as a plain folder: the .pth files in it (the working tree is one) are not read.
    (own / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return commands


def run(environment: Path, command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(environment / command), *arguments], cwd=cwd, env=environ, capture_output=True, text=True
    )


def test_the_wheel_holds_migrations_job_script_and_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "ccatwm/py.typed",
        "ccatwm/testing/scheduler.py",
        "ccatwm/edges/opsdb/migrations/env.py",
        "ccatwm/edges/opsdb/migrations/script.py.mako",
        "ccatwm/edges/opsdb/migrations/versions/pipeline_0001.py",
        "ccatwm/edges/opsdb/migrations/versions/observation_0001.py",
    } <= names
    scripts = {path.relative_to(TOP).as_posix() for path in (TOP / "ccatwm").rglob("*.sh")}
    assert scripts <= names | _untracked()


def _untracked() -> set[str]:
    command = ["git", "ls-files", "--others", "--exclude-standard", "ccatwm"]
    return set(subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout.split())


def test_the_installed_command_makes_a_site_and_checks_it(environment: Path, tmp_path: Path) -> None:
    assert run(environment, "ccatwm", "init", "--json", cwd=tmp_path).returncode == 0
    checked = run(environment, "ccatwm", "db", "check", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["fine"] is True


def test_the_installed_package_is_the_one_of_the_wheel(environment: Path, tmp_path: Path) -> None:
    shown = run(environment, "python", "-c", "import ccatwm; print(ccatwm.__file__)", cwd=tmp_path)
    assert shown.stdout.startswith(str(environment.parent))


def test_the_original_command_name_is_installed(environment: Path, tmp_path: Path) -> None:
    assert "workflow-manager" in run(environment, "ccat_workflow_manager", "--help", cwd=tmp_path).stdout
