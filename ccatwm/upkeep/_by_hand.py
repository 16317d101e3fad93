"""What all programs run by hand have in common: a folder like an attempt's, and what keeps a program from starting.

Touches: images and references (read); the folder (written).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ccatwm.core.commands import HOST_PATH, RunFacts, build_argv
from ccatwm.core.manifest import build_manifest
from ccatwm.core.model import ReferenceVersion, ResolvedStep, Resources, Run, RunInput, SoftwareVersion
from ccatwm.core.shell_text import build_shell_command
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.errors import Problem, UsageError
from ccatwm.interfaces import NO_PROGRESS, FileWrite, HostFiles, Progress, Storage, WorkFiles
from ccatwm.settings.schema import Settings

SCRIPT = "command.sh"


@dataclass(frozen=True)
class Here:
    """The world as this host sees it: settings, ops-db, files below the new folder, copies, images."""

    settings: Settings
    database: Database
    grouping: GroupingEngine
    files: WorkFiles
    storages: Mapping[str, Storage]
    host_files: HostFiles
    progress: Progress = NO_PROGRESS


def check_folder(folder: Path, base: Path) -> None:
    """Errors: UsageError where it is not empty, lies below the base directory, or cannot be used."""
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(base)):
        raise UsageError(
            f"{folder} lies below the base directory {base}, where only passes write",
            next="name a folder elsewhere",
        )
    if any(ord(c) < 32 or c == ":" for c in str(folder)):
        raise UsageError(
            f"{str(folder)!r} has a colon or a control character, which container runtimes do not take",
            next="name another folder",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is {'not empty' if folder.is_dir() else 'no folder'}",
            next="name an empty folder, or one that is not there yet: nothing is ever written over",
        )


def make_folder(folder: Path) -> bool:
    """Only once nothing is known to be in the way. False if it was there. Errors: UsageError."""
    if folder.exists():
        return False
    try:
        folder.mkdir(parents=True)
        return True
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", next="name another folder") from error


def runtime_of(settings: Settings, software: SoftwareVersion) -> str:
    """What starts its program: `none` where it has no image."""
    return "none" if software.image is None else settings.container_runtime


def check_image(
    software: SoftwareVersion, runtime: str, host_files: HostFiles, problems: list[Problem], *, mend: str
) -> list[str]:
    """Images that are there but another file than was frozen, as text; what keeps the program from starting goes to
    `problems`. `mend`: what to do where the image is missing."""
    image = software.image
    if image is None or runtime == "none":
        return []
    if shutil.which(runtime, path=HOST_PATH) is None:
        problems.append(
            Problem(runtime, "is not installed on this host", "run this command on a host that has it")
        )
    if "://" in image:
        return []
    digest = host_files.digest(image) if software.image_digest else None
    if digest is None and not host_files.exists(image):
        problems.append(Problem(f"image {image}", "is missing", mend))
    elif software.image_digest not in (None, digest):
        return [f"the image is not the one that the run was made with ({software.image_digest}, found {digest})"]
    return []


def check_references(
    references: Iterable[ReferenceVersion], host_files: HostFiles, problems: list[Problem]
) -> None:
    problems += [
        Problem(f"reference {r.name} {r.version}", f"{r.path} is missing", "put it back there")
        for r in references
        if not host_files.exists(r.path)
    ]


def build_facts(
    run: Run, settings: Settings, resources: Resources, number: int, *, base_dir: PurePosixPath, inputs_in: PurePosixPath,
    folder: PurePosixPath = PurePosixPath(),
) -> RunFacts:  # fmt: skip
    """As for a job, with `folder` (below `base_dir`) for the attempt's, and `inputs_in` for the run's."""
    return RunFacts(
        run_id=run.id,
        sub_group=run.sub_group,
        attempt=number,
        base_dir=base_dir,
        run_directory=inputs_in,
        attempt_directory=folder,
        created_at=run.created_at,
        cpu=resources.cpu,
        memory_gb=resources.memory_gb,
        gpu_flag=settings.container_gpu_flag,
    )


def write_command(
    files: WorkFiles, step: ResolvedStep, facts: RunFacts, inputs: Sequence[RunInput], runtime: str
) -> tuple[str, ...]:
    """Manifest, and a script for another time; the command line."""
    manifest = build_manifest(step, facts, inputs, runtime=runtime)
    argv = build_argv(step, facts, runtime=runtime)
    folder = facts.attempt_directory
    directory = facts.base_dir / folder / "scratch"
    script = f"#!/bin/sh\n# run {facts.run_id} by hand\n{build_shell_command(argv, directory=directory)}\n"
    files.write_files(
        [
            FileWrite(folder / "config/manifest.json", json.dumps(manifest, indent=1).encode()),
            FileWrite(folder / SCRIPT, script.encode("utf-8", "surrogateescape"), 0o755),
        ]
    )
    return argv
