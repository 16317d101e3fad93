"""Says how an attempt was started: its command, its environment, and what the batch system was asked for.

Touches: the ops-db and the attempt's directory, reading only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.commands import END_OF_ARGV
from ccatwm.core.shell_text import build_command_line, build_shell_command, read_environment
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.attempts import build_job_request, get_submission
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.interfaces import DescribesSubmission, JobRequest, Scheduler, WorkFiles
from ccatwm.views.logs import choose_attempt


def build_command(
    database: Database,
    workfiles: WorkFiles,
    make_scheduler: Callable[[], Scheduler],
    run_id: int,
    *,
    attempt: int | None = None,
) -> dict[str, Any]:
    """The document `ccatwm.command/1`: of the newest attempt, or of that number.

    Errors: UsageError for a run or an attempt that is not there, or whose files are gone.
    """
    with database.read() as connection:
        run = views.get_run(connection, run_id)
        attempts = views.list_attempts(connection, [run_id])[run_id]
        try:
            chosen = choose_attempt(run, attempts, attempt)
        except UsageError as error:
            if not attempts:
                error.next = f"{error.next}; `ccatwm rerun {run_id} --by-hand DIR` runs it without one"
            raise
        request = build_job_request(get_submission(connection, chosen["submission_id"]))
    folder = PurePosixPath(chosen["directory"])
    argv = _read_argv(workfiles, folder, run_id, chosen["number"])
    cwd = workfiles.root() / folder / "scratch"
    place = PurePosixPath(run["pipeline_name"], run["step_name"], run["sub_group_key"])
    return {
        "schema": "ccatwm.command/1",
        "run": run_id,
        "attempt": chosen["number"],
        "place": str(place),
        "host": chosen["host"],
        "directory": str(cwd),
        "argv": argv,
        "environment": read_environment(argv),
        "command": build_shell_command(argv, directory=cwd),
        "inputs_removed": run["inputs_removed_at"] is not None,
        "submission": _submission(chosen, request, make_scheduler),
    }


def _read_argv(workfiles: WorkFiles, folder: PurePosixPath, run_id: int, number: int) -> list[str]:
    path = folder / "job" / "argv"
    content = workfiles.read_files([path])[path]
    lines = [] if content is None else content.decode("utf-8", "surrogateescape").split("\n")
    if END_OF_ARGV not in lines:
        raise UsageError(
            f"attempt {number} of run {run_id} has no whole command any more",
            where=str(workfiles.root() / path),
            next=f"`ccatwm rerun {run_id} --by-hand DIR` makes it again from the ops-db",
        )
    return lines[: lines.index(END_OF_ARGV)]


def _submission(
    chosen: Mapping[str, Any], request: JobRequest, make_scheduler: Callable[[], Scheduler]
) -> dict[str, Any]:
    """What handed it over; `argv` is null where the batch system of this site does not tell."""
    document: dict[str, Any] = {
        "backend": chosen["backend"],
        "cluster": chosen["cluster"],
        "job_id": chosen["job_id"],
        "array_index": chosen["array_index"],
        "token": chosen["token"],
        "argv": None,
        "environment": None,
        "command": None,
    }
    try:
        scheduler = make_scheduler()
    except CcatwmError:  # the settings name another one by now
        return document
    same = (scheduler.backend, scheduler.cluster) == (chosen["backend"], chosen["cluster"])
    if not (same and isinstance(scheduler, DescribesSubmission)):
        return document
    argv, environment = scheduler.describe_submission(request)
    return document | {
        "argv": list(argv),
        "environment": dict(environment),
        "command": build_command_line(argv, environment),
    }


def command_lines(document: Mapping[str, Any]) -> list[str]:
    """Text for a shell: all but the command itself is a comment."""
    run, submission = document["run"], document["submission"]
    lines = [
        f"# run {run}, attempt {document['attempt']}: {document['place']}",
        f"# It writes into the attempt's own folders; `ccatwm rerun {run} --by-hand DIR` leaves them as they are.",
    ]
    if document["inputs_removed"]:
        lines.append("# Its inputs were removed when it ended; `rerun --by-hand` brings them again.")
    job = submission["job_id"] or "no job"
    lines.append(f"# {submission['backend']} ({submission['cluster']}), job {job}, task {submission['array_index']}")
    if submission["command"]:
        lines += ["# handed over, by the settings of now, with:", f"# {submission['command']}"]
    return [*lines, *document["command"].split("\n")]
