"""A site of the small observatory as the command line sees it, and a program that says what it finds."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from ccatwm.settings.find import MARK_FILE
from tests.cli.conftest import Cli
from tests.passes.conftest import Observatory

PREFIX = "CCAT_WORKFLOW_MANAGER_"
PROGRAM = """
cat "$WORKFLOW_MANIFEST" >"$WORKFLOW_OUTPUT_DIR/manifest.json"
cat "$WORKFLOW_INPUT_DIR"/*/*/log/notes.txt >"$WORKFLOW_OUTPUT_DIR/notes.txt" 2>/dev/null
cat "$WORKFLOW_WORKSPACE_DIR"/calibrate/*/notes.txt >"$WORKFLOW_OUTPUT_DIR/upstream.txt" 2>/dev/null
env | grep WORKFLOW_ | sort >"$WORKFLOW_OUTPUT_DIR/environment.txt"
echo "I read $(wc -l <"$WORKFLOW_OUTPUT_DIR/notes.txt") lines"
"""
FAILING = PROGRAM + 'grep -q \'"mode": "cold"\' "$WORKFLOW_MANIFEST" || { echo "the load is hot" >&2; exit 3; }\n'


def use_site(observatory: Observatory, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """Commands typed from here on are about this observatory."""
    database = observatory.context().database
    if not observatory.rows("ops_db"):  # `ccatwm init` writes it
        observatory.execute("INSERT INTO {schema}ops_db (uid, created_at) VALUES ('uid-1', '2026-03-01T00:00:00.000000Z')")
    mark = {"ops_db_uid": observatory.context().ops_db_uid}
    (observatory.base / MARK_FILE).write_text(json.dumps(mark))
    values = {
        "OPSDB_URL": database.url.render_as_string(hide_password=False), "PIPELINE_BASE_DIR": str(observatory.base),
        "PROCESSING_LOCATION_ID": "local", "HPC_BACKEND": "local", "CONTAINER_RUNTIME": "none",
        "STATE_DIR": str(observatory.folder / "state"), **settings,
    }  # fmt: skip
    for key, value in values.items():
        monkeypatch.setenv(f"{PREFIX}{key}", value)


def tree_of(folder: Path) -> dict[str, str]:
    """Everything below a folder, as it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        kind = f"{stat.S_IFMT(status.st_mode):o} {status.st_mode:o} {status.st_size} {status.st_mtime_ns}"
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        found[str(path.relative_to(folder))] = f"{kind} {content}"
    return found


__all__ = ["FAILING", "PROGRAM", "Cli", "tree_of", "use_site"]
