"""Reads the logs of an attempt. Touches: the ops-db and the run's directory, reading only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.errors import UsageError
from ccatwm.interfaces import WorkFiles

STREAMS = ("stdout", "stderr")
MAX_BYTES = 1 << 20


def build_logs(
    database: Database,
    workfiles: WorkFiles,
    run_id: int,
    *,
    attempt: int | None = None,
    streams: Sequence[str] = STREAMS,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """The document `ccatwm.logs/1`: the end of each log of the newest attempt, or of that number.

    Errors: UsageError for a run or an attempt that is not there, naming those that are.
    """
    with database.read() as connection:
        run = views.get_run(connection, run_id)
        attempts = views.list_attempts(connection, [run_id])[run_id]
    chosen = choose_attempt(run, attempts, attempt)
    return {
        "schema": "ccatwm.logs/1",
        "run": run_id,
        "attempt": chosen["number"],
        "logs": read_logs(workfiles, chosen["directory"], streams, max_bytes),
    }


def choose_attempt(
    run: dict[str, Any], attempts: Sequence[dict[str, Any]], number: int | None
) -> dict[str, Any]:
    """The newest one without a number. Errors: UsageError naming those that are there."""
    if not attempts:
        raise UsageError(
            f"run {run['id']} has no attempt yet: it is {run['status']}",
            next=f"`ccatwm show {run['id']}` says what it waits for",
        )
    found = attempts[-1] if number is None else next((a for a in attempts if a["number"] == number), None)
    if found is None:
        numbers = ", ".join(str(a["number"]) for a in attempts)
        raise UsageError(f"run {run['id']} has no attempt {number}", next=f"there are: {numbers}")
    return found


def read_logs(
    workfiles: WorkFiles, directory: str, streams: Sequence[str], max_bytes: int
) -> list[dict[str, Any]]:
    """One entry per stream; `text` is null where there is no such file, `cut`: only the end was read."""
    paths = {stream: PurePosixPath(directory) / "logs" / f"{stream}.log" for stream in streams}
    content = workfiles.read_tails(paths.values(), max_bytes=max_bytes + 1)
    return [_entry(workfiles, stream, path, content[path], max_bytes) for stream, path in paths.items()]


def _entry(
    workfiles: WorkFiles, stream: str, path: PurePosixPath, tail: bytes | None, max_bytes: int
) -> dict[str, Any]:
    cut = tail is not None and len(tail) > max_bytes
    if tail is not None and cut:
        _, newline, rest = tail.partition(b"\n")  # begin with a whole line where there is one
        tail = rest if newline and rest else tail[-max_bytes:]
    return {
        "stream": stream,
        "path": str(workfiles.root() / path),
        "cut": cut,
        "text": tail.decode("utf-8", "replace") if tail is not None else None,
    }
