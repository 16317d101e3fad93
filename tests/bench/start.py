"""Group `start`: whole processes, from exec to exit. Touches: processes, a temporary site."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.figures import Figure, measure


def run_group() -> Iterator[Figure]:
    """`help` beside `import typer`; `idle-cycle` (six passes, no work) beside `import sqlalchemy.orm`."""
    with tempfile.TemporaryDirectory(prefix="ccatwm-bench-") as folder:
        site = str(Path(folder) / "site")
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CCAT_WORKFLOW_MANAGER_")}
        _process(environ, "-m", "ccatwm", "init", site)()
        yield measure(
            "help",
            _process(environ, "-m", "ccatwm", "--help"),
            _process(environ, "-c", "import typer"),
            "<=1.6",
        )
        yield measure(
            "idle-cycle",
            _process(environ, "-m", "ccatwm", "--site", site, "cycle"),
            _process(environ, "-c", "import sqlalchemy.orm"),
            "<=1.6",
        )


def _process(environ: dict[str, str], *arguments: str) -> Callable[[], None]:
    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )

    return run
