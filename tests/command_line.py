"""The command line of ccatwm, run inside a test, or in a fork of it. Its command is made once a process: that is half of
what a call costs.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import typer.testing

make_command = cache(typer.testing._get_command)  # a command keeps nothing from one call to the next


def call_ccatwm(*arguments: str | Path | int) -> Any:
    """typer's `Result`; what a person would see as a traceback is raised."""
    from ccatwm.cli.main import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", make_command)
        return typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def fork_ccatwm(*arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process of its own that need not import anything: nothing of it is open afterwards.

    As a process that is started anew, but for signals: a test that kills starts one.
    """
    _import_all()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_ccatwm([str(argument) for argument in arguments], cwd, out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, _all_of(out), _all_of(err)


def _be_ccatwm(arguments: list[str], cwd: Path, out: int, err: int) -> None:
    """Never returns."""
    code = 70
    gc.disable()  # connections that the parent has left to it are not this process's to close
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), _writer(1), _writer(2)  # noqa: SIM115
        sys.argv = ["ccatwm", *arguments]
        os.chdir(cwd)
        import_module("ccatwm.cli.main").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _writer(descriptor: int) -> Any:
    return open(descriptor, "w", encoding="utf-8", errors="surrogateescape", closefd=False)


def _all_of(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode("utf-8", "surrogateescape")
    return text


@cache
def _import_all() -> None:
    """Modules of ccatwm are imported when they are needed: here once for all forks."""
    package = import_module("ccatwm")
    for module in walk_packages(package.__path__, "ccatwm."):
        if not module.name.startswith("ccatwm.testing") and not module.name.endswith(("__main__", "_supervisor", "env")):
            import_module(module.name)
