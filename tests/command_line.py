"""The command line of ccatwm, run inside a test. Its command is made once a process: that is half of what a call costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
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
