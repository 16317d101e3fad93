"""The files of an attempt, written before its job is handed over. Touches: files below the base directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from ccatwm.core.commands import RunFacts, attempt_directories, build_argv, build_argv_file, srun_launcher
from ccatwm.core.input_lists import lines_of
from ccatwm.core.manifest import build_manifest
from ccatwm.core.model import Attempt, ResolvedStep, Resources, Run, RunInput, StepRole
from ccatwm.interfaces import FileWrite
from ccatwm.passes._context import Context

KILL_AFTER_SECONDS = 15
LONGEST_LIST = 1 << 30  # bytes
TOGETHER_BYTES = 16 << 20  # of lists that are written in one call


@cache
def job_script() -> bytes:
    """The constant program that every job is."""
    return (files("ccatwm.edges.scheduler") / "job.sh").read_bytes()


def attempt_folders(run: Run, attempt: Attempt) -> list[PurePosixPath]:
    """The folders that must be there before the job starts: this attempt's alone, its number was committed before."""
    return [PurePosixPath(attempt.directory) / name for name in attempt_directories(run.resolved_step)]


def attempt_files(
    context: Context, run: Run, attempt: Attempt, inputs: Sequence[RunInput], listed: bytes
) -> list[FileWrite]:
    """Manifest, command, inputs (`listed`, of `inputs_lists`) and limits of an attempt."""
    folder = PurePosixPath(attempt.directory)
    step = _step_there(context, run.resolved_step)
    facts = _facts(context, run, attempt)
    runtime = "none" if step.software.image is None else context.settings.container_runtime
    manifest = build_manifest(step, facts, inputs, runtime=runtime)
    asked = attempt.resources
    limits = job_limits(asked.time_seconds, asked.memory_gb, final=step.role is StepRole.FINAL)
    return [
        FileWrite(folder / "config" / "manifest.json", json.dumps(manifest, indent=1).encode()),
        FileWrite(folder / "job" / "inputs.list", listed),
        FileWrite(folder / "job" / "limits", limits),
        FileWrite(folder / "job" / "argv", build_argv_file(build_argv(step, facts, runtime=runtime))),
    ]


def job_limits(time_seconds: int, memory_gb: float, *, final: bool) -> bytes:
    """`job/limits` of any job; `final`: its output has folders by type."""
    limits = f"time_seconds={time_seconds}\nkill_after_seconds={KILL_AFTER_SECONDS}\n"
    return f"{limits}memory_mb={round(memory_gb * 1024)}\nfinal={int(final)}\n".encode()


def _step_there(context: Context, step: ResolvedStep) -> ResolvedStep:
    """The step with the paths of its image and its references as the processing host names them."""
    there, software = context.settings.path_there, step.software
    if software.image is not None:
        software = replace(software, image=there(software.image))
    references = tuple(replace(reference, path=there(reference.path)) for reference in step.references)
    return replace(step, software=software, references=references)


def _facts(context: Context, run: Run, attempt: Attempt) -> RunFacts:
    return RunFacts(
        run_id=run.id,
        sub_group=run.sub_group,
        attempt=attempt.number,
        base_dir=context.workfiles.root(),
        run_directory=PurePosixPath(run.directory),
        attempt_directory=PurePosixPath(attempt.directory),
        created_at=run.created_at,
        cpu=attempt.resources.cpu,
        memory_gb=attempt.resources.memory_gb,
        gpu_flag=context.settings.container_gpu_flag,
        launcher=_launcher(context, attempt.resources),
    )


def _launcher(context: Context, resources: Resources) -> tuple[str, ...]:
    settings = context.settings
    if settings.hpc_backend != "slurm":
        return ()
    return srun_launcher(resources, f"{settings.slurm.bin_dir}/srun" if settings.slurm.bin_dir else "srun")


INPUTS_LIST = "inputs.list"  # in the run's folder: what it had when it was staged


def write_staged_lists(context: Context, runs: Sequence[Run], known: Mapping[int, bytes]) -> None:
    """Keep what was just linked: what a purge takes before the job is handed over is missed by the job then.

    `known`: the lists of those of which linking told them; of the others it is looked up, one after the other: a run may
    have very many inputs.
    """
    files = [_staged_list(run, known[run.id]) for run in runs if run.id in known]
    for run in runs:
        if run.id not in known:
            files.append(_staged_list(run, _list_inputs(context, [run])[run.id]))
        if files and (run is runs[-1] or sum(len(file.content) for file in files) > TOGETHER_BYTES):
            context.workfiles.write_files(files)
            files = []


def _staged_list(run: Run, listed: bytes) -> FileWrite:
    return FileWrite(PurePosixPath(run.directory) / INPUTS_LIST, listed)


def inputs_lists(context: Context, runs: Iterable[Run]) -> dict[int, bytes]:
    """By run id what its job compares before it starts: as it was staged, else (staged by an older release) as it is."""
    runs = list(runs)
    paths = {run.id: PurePosixPath(run.directory) / INPUTS_LIST for run in runs}
    kept = context.workfiles.read_files(paths.values(), max_bytes=LONGEST_LIST)
    found = {run_id: text for run_id, path in paths.items() if (text := kept[path]) is not None}
    return found | _list_inputs(context, [run for run in runs if run.id not in found])


def _list_inputs(context: Context, runs: Iterable[Run]) -> dict[int, bytes]:
    """By run id the files in its folders of inputs."""
    folders = {run.id: PurePosixPath(run.directory) for run in runs}
    places = {run_id: [folder / "input", folder / "workspace"] for run_id, folder in folders.items()}
    records = context.workfiles.list_records([path for paths in places.values() for path in paths])
    return {
        run_id: b"".join(lines_of(str(path), records[path] or b"") for path in paths) for run_id, paths in places.items()
    }
