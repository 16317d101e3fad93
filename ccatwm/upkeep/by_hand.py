"""Prepares a run to be run again by hand: same inputs, manifest and binds, its output in a folder of somebody's own.

Touches: the ops-db, the run's folder, images and references (read); that folder (written). Nothing is written to the
ops-db or below the base directory, and no lock is taken.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ccatwm.core.commands import RunFacts, attempt_directories, build_argv
from ccatwm.core.model import ResolvedStep, Resources, Run, RunInput
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import attempts, runs, views
from ccatwm.errors import Problem, UsageError
from ccatwm.interfaces import WorkFiles
from ccatwm.settings.schema import Settings
from ccatwm.upkeep._by_hand import (
    Here,
    build_facts,
    check_folder,
    check_image,
    check_references,
    make_folder,
    runtime_of,
    write_command,
)
from ccatwm.upkeep._restage import Wanted, bring, lie_in_place, list_wanted, remove_all
from ccatwm.upkeep._yaml import parse_yaml

SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi")


@dataclass(frozen=True)
class Asked:
    """What is wanted: `folder` is empty or not there; `changes` are `KEY.SUB=VALUE`; `term` is the terminal's kind."""

    run_id: int
    folder: Path
    shell: bool = False
    image: str | None = None
    changes: tuple[str, ...] = ()
    term: str | None = None


@dataclass(frozen=True)
class Prepared:
    """What is to be started: `argv` in `directory`. `origins`: where each input was brought from, none if all were left
    in place."""

    run: Run
    folder: Path
    runtime: str
    argv: tuple[str, ...]
    directory: Path
    step: ResolvedStep
    in_place: bool
    origins: Mapping[str, str]
    changed: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def to_json(self, exit_code: int | None) -> dict[str, Any]:
        return {
            "schema": "ccatwm.rerun/1",
            "run": self.run.id,
            "directory": str(self.folder),
            "output": str(self.folder / "output"),
            "runtime": self.runtime,
            "image": self.step.software.image,
            "argv": list(self.argv),
            "inputs_in_place": self.in_place,
            "inputs": [{"name": name, "from": place} for name, place in self.origins.items()],
            "changed": dict(self.changed),
            "warnings": list(self.warnings),
            "exit_code": exit_code,
            "succeeded": None if exit_code is None else self.is_good(exit_code),
        }

    def is_good(self, exit_code: int) -> bool:
        """Success, also with warnings."""
        return exit_code == 0 or exit_code in self.step.partial_exit_codes

    def lines(self) -> list[str]:
        image = self.step.software.image
        run = self.run
        lines = [f"run {run.id} {run.pipeline}/{run.step} {run.sub_group}, by hand in {self.folder}"]
        lines.append(f"  {self.runtime} {image}" if self.runtime != "none" else "  on this host, without a container")
        lines += [f"  changed  {key} = {value!r}" for key, value in self.changed.items()]
        if self.in_place:
            lines.append("  inputs where the run has them, read-only")
        else:
            lines += [f"  input    {name} (from {place})" for name, place in self.origins.items()]
        return [*lines, *(f"  warning  {warning}" for warning in self.warnings)]


def prepare(asked: Asked, here: Here, tell: Callable[[str], None]) -> Prepared:
    """Everything but the start of the program.

    Errors: UsageError with all that is in the way at once; then there is no folder that was not there before.
    """
    check_folder(asked.folder, Path(here.settings.pipeline_base_dir))
    run, inputs, resources, number, place = _read(here.database, asked.run_id)
    problems: list[Problem] = []
    changed = _read_changes(asked.changes, run.resolved_step.config, problems)
    step = _step(asked, run.resolved_step, changed, problems)
    runtime = runtime_of(here.settings, step.software)
    warnings = _check_runtime(asked, step, runtime, here, problems)
    check_references(step.references, here.host_files, problems)
    if problems:
        raise UsageError(f"run {run.id} cannot be run by hand", problems=problems)
    made = make_folder(asked.folder)
    wanted = list_wanted(here.database, here.grouping, here.settings, run, inputs, place)
    # Nothing keeps a program without a container from writing into its inputs: it gets copies.
    in_place = runtime != "none" and lie_in_place(here.settings, run, wanted)
    try:
        origins = _fill(here, step, wanted, in_place, tell)
        facts = _facts(asked.folder, here.settings, run, resources, number, in_place)
        argv = _write(here.files, asked, step, facts, inputs, runtime)
    except BaseException:
        remove_all(here.files, (entry.name for entry in os.scandir(asked.folder)))
        if made:
            asked.folder.rmdir()
        raise
    return Prepared(
        run, asked.folder, runtime, argv, asked.folder / "scratch", step, in_place, origins, changed, tuple(warnings)
    )


def _read(database: Database, run_id: int) -> tuple[Run, list[RunInput], Resources, int, str]:
    """The run, its inputs, what its newest attempt asked for and its number, and its processing location."""
    with database.read() as connection:
        row = views.get_run(connection, run_id)
        run = runs.get_runs(connection, [run_id])[run_id]
        inputs = runs.list_inputs(connection, [run_id])[run_id]
        newest = attempts.newest_attempts(connection, [run_id]).get(run_id)
    resources = run.resources if newest is None else newest.resources
    return run, inputs, resources, max(1, run.attempt), str(row["processing_location"])


# --- what is other than it was ------------------------------------------------------------------------------


def _read_changes(texts: Sequence[str], config: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for text in texts:
        where = f"--set {text}"
        key, separator, value = text.partition("=")
        if not separator or not all(key.split(".")):
            problems.append(Problem(where, "is no change", "write KEY=VALUE or KEY.SUB=VALUE"))
            continue
        document, wrong = parse_yaml(value, "")
        problems += [Problem(where, problem.what, problem.next) for problem in wrong]
        data = document.data if document is not None else None
        if isinstance(data, dict | list):
            problems.append(Problem(where, "is no single value", "set one by one: KEY.SUB=VALUE"))
        above = _blocked(config, key)
        if above is not None:
            problems.append(Problem(where, f"{above} has a value and no keys below", f"set {above}=VALUE"))
        found[key] = data
    return found


def _blocked(config: Mapping[str, Any], key: str) -> str | None:
    """The part of a dotted key that is a value already."""
    level: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1]):
        level = level.get(part, {})
        if not isinstance(level, Mapping):
            return ".".join(parts[: depth + 1])
    return None


def with_changes(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with values set by dotted keys; what is above them is made where it is not there."""
    changed = copy.deepcopy(dict(config))
    for key, value in changes.items():
        *above, last = key.split(".")
        level = changed
        for part in above:
            level = level.setdefault(part, {})
        level[last] = value
    return changed


def _step(asked: Asked, step: ResolvedStep, changed: Mapping[str, Any], problems: list[Problem]) -> ResolvedStep:
    software = step.software
    if asked.image is not None:
        image = asked.image if "://" in asked.image else os.path.abspath(asked.image)
        software = replace(software, image=image, image_digest=None)
    config = step.config if problems else with_changes(step.config, changed)
    return replace(step, software=software, config=config)


def _check_runtime(
    asked: Asked, step: ResolvedStep, runtime: str, here: Here, problems: list[Problem]
) -> list[str]:
    """Warnings; what keeps the program from starting goes to `problems`."""
    if runtime == "none" and step.software.image is not None and asked.image is not None:
        problems.append(
            Problem("--image", "this site runs programs without containers",
                    "CONTAINER_RUNTIME names the runtime; or leave --image out")
        )  # fmt: skip
    mend = "put the file there, or use another one by --image FILE"
    return check_image(step.software, runtime, here.host_files, problems, mend=mend)


# --- the folder ---------------------------------------------------------------------------------------------


def _fill(
    here: Here, step: ResolvedStep, wanted: Sequence[Wanted], in_place: bool, tell: Callable[[str], None]
) -> dict[str, str]:
    """The folders of an attempt, and the inputs where they are not left where they are."""
    folders = [path for path in attempt_directories(step) if path.parts[0] != "job"]
    if not in_place:
        folders += [PurePosixPath("input"), *(PurePosixPath("workspace") / u.directory for u in step.upstream)]
    here.files.make_trees([*folders, PurePosixPath("workspace")] if not in_place else folders)
    return {} if in_place else bring(here.files, here.storages, wanted, tell, here.progress)


def _facts(
    folder: Path, settings: Settings, run: Run, resources: Resources, number: int, in_place: bool
) -> RunFacts:
    """The run's folder has the inputs where they are left in place."""
    own = PurePosixPath(settings.pipeline_base_dir) / run.directory if in_place else PurePosixPath()
    return build_facts(run, settings, resources, number, base_dir=PurePosixPath(folder), inputs_in=own)


def _write(
    files: WorkFiles, asked: Asked, step: ResolvedStep, facts: RunFacts, inputs: Sequence[RunInput], runtime: str
) -> tuple[str, ...]:
    """Manifest and script; the command line. A shell finds the program's own command in the script."""
    argv = write_command(files, step, facts, inputs, runtime)
    if not asked.shell:
        return argv
    environment = {**({"TERM": asked.term} if asked.term else {}), **step.environment}
    in_shell = replace(step, software=replace(step.software, command=SHELL), environment=environment)
    return build_argv(in_shell, facts, runtime=runtime)
