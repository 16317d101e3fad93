"""The house: who may import whom, what a start may load, and what stands in one place only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "ccatwm"


def sources(folder: Path = PACKAGE) -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(folder.rglob("*.py")):
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def attribute_calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git working tree")
    return [TOP / name for name in listed.stdout.decode().split("\0") if name and (TOP / name).is_file()]


def test_the_import_contracts_hold() -> None:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
    ]
    done = subprocess.run([*command, "--no-cache", "--no-logo"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["cycle", "--help"], ["status", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom ccatwm.cli.main import app\nsys.argv[0] = 'ccatwm'\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "heavy = 'sqlalchemy paramiko yaml dynaconf alembic rich psycopg2 numpy'.split()\n"
        "print('LOADED', *(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_only_the_clock_asks_the_time() -> None:
    asking = {
        ("datetime", "now"),
        ("datetime", "utcnow"),
        ("datetime", "today"),
        ("date", "today"),
        ("time", "time"),
    }
    # The supervisor is a process of its own beside the job, without the rest of the package.
    allowed = {PACKAGE / "edges" / "clock.py", PACKAGE / "edges" / "scheduler" / "_supervisor.py"}
    found = [
        f"{file.relative_to(TOP)}:{call.lineno}"
        for file, tree in sources()
        if file not in allowed
        for call in attribute_calls(tree)
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and (call.func.value.id, call.func.attr) in asking
    ]
    assert found == []


def test_only_one_place_moves_a_run_to_another_status() -> None:
    callers = [
        str(file.relative_to(PACKAGE))
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next_status"
    ]
    assert callers == ["edges/opsdb/stores/runs.py"]


def test_only_the_run_store_writes_the_status_of_a_run() -> None:
    pattern = re.compile(r"(update|insert)\(\s*(\w+\.)?(executed_reduction_step|runs?)\b")
    writers = {
        str(file.relative_to(PACKAGE))
        for file, tree in sources()
        for call in attribute_calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "values"
        and pattern.search(ast.unparse(call.func))
        and any(keyword.arg in ("status", None) for keyword in call.keywords)  # None: `**values`
    }
    assert writers <= {"edges/opsdb/stores/runs.py"}


def test_no_process_is_started_through_a_shell() -> None:
    found = [
        f"{file.relative_to(TOP)}:{node.lineno}"
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            any(k.arg == "shell" and getattr(k.value, "value", None) is not False for k in node.keywords)
            or (isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in ("os.system", "os.popen"))
        )
    ]
    assert found == []


def test_every_module_says_what_it_is_and_what_it_touches() -> None:
    silent = []
    for file, tree in sources():
        text = ast.get_docstring(tree) or ""
        named = file.name == "__init__.py" or "Touches:" in text or "Pure." in text
        if not (text and named):
            silent.append(str(file.relative_to(TOP)))
    assert silent == []


def test_no_file_names_a_package_registry_or_a_place_on_somebodys_machine() -> None:
    # Written in parts, so that this file does not find itself.
    names = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "index" + "-url",
        "trusted" + "-host",
        "/work" + "/",
        "/home" + "/",
    ]
    found = []
    for file in tracked_files():
        text = file.read_bytes().decode("utf-8", errors="replace")
        found += [
            f"{file.relative_to(TOP)}: {name}" for name in names if name in _without_container_paths(text)
        ]
    assert found == []


def _without_container_paths(text: str) -> str:
    """Homes and working folders inside the container are part of the contract."""
    return text.replace("/workflow", "").replace("/workspace", "")


def test_constraints_hold_versions_and_no_addresses() -> None:
    lines = [
        line
        for line in (TOP / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line)] == []


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    dates = {"tzdata>=2024.1"}  # numbered by year: there is no next major version
    open_ended = [d for d in project["dependencies"] if not re.search(r">=.+,<", d) and d not in dates]
    assert open_ended == []
