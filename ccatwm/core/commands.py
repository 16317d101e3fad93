"""The command line of a run, as argv, and what its program finds in its environment (container contract v1). Pure.

Nothing a person wrote is ever read by a shell: argv is passed on as a list, variables as APPTAINERENV_* of an empty
environment (never `--env`, which splits at commas), binds as `--mount` with quoted fields.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from ccatwm.core.model import ResolvedStep, Resources, StepRole

CONTRACT_VERSION = 1
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTAINER = PurePosixPath("/workflow")
END_OF_ARGV = "#end-of-argv"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
RESERVED = frozenset(
    {"HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "SOURCE_DATE_EPOCH", "OMP_NUM_THREADS", "PATH"}
)  # fmt: skip
OUTPUT_DIRECTORIES = ("science", "qa", "plots", "statistics", "logs")


@dataclass(frozen=True)
class RunFacts:
    """What a command line needs to know of an attempt; directories relative to `base_dir`."""

    run_id: int
    sub_group: str
    attempt: int
    base_dir: PurePosixPath
    run_directory: PurePosixPath
    attempt_directory: PurePosixPath
    created_at: datetime
    cpu: int
    memory_gb: float
    gpu_flag: str = "--nv"
    launcher: tuple[str, ...] = ()  # what starts the program instead of the job script itself


@dataclass(frozen=True)
class Mount:
    """One bind: a host path, where the container sees it, and whether it may be written."""

    source: PurePosixPath
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True)
class Places:
    """Where the program finds things: container paths, or host paths without a container."""

    input: PurePosixPath
    workspace: PurePosixPath
    reference: Mapping[str, PurePosixPath]
    output: PurePosixPath  # what WORKFLOW_OUTPUT_DIR says
    config: PurePosixPath
    scratch: PurePosixPath
    logs: PurePosixPath
    home: PurePosixPath
    tmp: PurePosixPath

    @property
    def manifest(self) -> PurePosixPath:
        return self.config / "manifest.json"


# What the job script needs beside `output`, of any job.
SCRIPT_DIRECTORIES = tuple(
    PurePosixPath(name)
    for name in ("config", "logs", "scratch", "scratch/home", "scratch/tmp", "scratch/cache", "job", "job/claims")
)


def attempt_directories(step: ResolvedStep) -> list[PurePosixPath]:
    """Folders of an attempt that must be there before its job starts, relative to the attempt."""
    output = [PurePosixPath("output")]
    if step.role is StepRole.FINAL:
        output += [PurePosixPath("output") / name for name in OUTPUT_DIRECTORIES]
    return [*output, *SCRIPT_DIRECTORIES]


def places(step: ResolvedStep, facts: RunFacts, *, runtime: str) -> Places:
    """Paths as the program sees them."""
    if runtime == "none":
        return _host_places(step, facts)
    intermediate = step.role is StepRole.INTERMEDIATE
    return Places(
        input=CONTAINER / "input",
        workspace=CONTAINER / "workspace",
        reference={r.name: CONTAINER / "reference" / r.name for r in step.references},
        output=CONTAINER / "workspace" / step.step if intermediate else CONTAINER / "output",
        config=CONTAINER / "config",
        scratch=CONTAINER / "scratch",
        logs=CONTAINER / "logs",
        home=CONTAINER / "home",
        tmp=PurePosixPath("/tmp"),
    )


def _host_places(step: ResolvedStep, facts: RunFacts) -> Places:
    run, attempt = facts.base_dir / facts.run_directory, facts.base_dir / facts.attempt_directory
    return Places(
        input=run / "input",
        workspace=run / "workspace",
        reference={r.name: PurePosixPath(r.path) for r in step.references},
        output=attempt / "output",
        config=attempt / "config",
        scratch=attempt / "scratch",
        logs=attempt / "logs",
        home=attempt / "scratch" / "home",
        tmp=attempt / "scratch" / "tmp",
    )


def build_environment(step: ResolvedStep, facts: RunFacts, *, runtime: str) -> dict[str, str]:
    """The program's variables; the step's own may not replace those of the contract."""
    seen = places(step, facts, runtime=runtime)
    own = {k: v for k, v in step.environment.items() if k not in RESERVED and not k.startswith("WORKFLOW_")}
    return own | {
        "WORKFLOW_INPUT_DIR": str(seen.input),
        "WORKFLOW_WORKSPACE_DIR": str(seen.workspace),
        "WORKFLOW_OUTPUT_DIR": str(seen.output),
        "WORKFLOW_SCRATCH_DIR": str(seen.scratch),
        "WORKFLOW_MANIFEST": str(seen.manifest),
        "WORKFLOW_LOG_DIR": str(seen.logs),
        "WORKFLOW_RUN_ID": str(facts.run_id),
        "WORKFLOW_STEP": step.step,
        "WORKFLOW_SUB_GROUP": facts.sub_group,
        "WORKFLOW_ATTEMPT": str(facts.attempt),
        "WORKFLOW_CPUS": str(facts.cpu),
        "WORKFLOW_MEMORY_GB": f"{facts.memory_gb:g}",
        "OMP_NUM_THREADS": str(facts.cpu),
        "HOME": str(seen.home),
        "TMPDIR": str(seen.tmp),
        "XDG_CACHE_HOME": str(seen.scratch / "cache"),
        "MPLCONFIGDIR": str(seen.scratch / "cache"),
        "SOURCE_DATE_EPOCH": str(int(facts.created_at.timestamp())),
    }


def build_argv(
    step: ResolvedStep,
    facts: RunFacts,
    *,
    runtime: str,
    program: str | None = None,
    host_path: str = HOST_PATH,
) -> tuple[str, ...]:
    """The whole command line of an attempt. `runtime`: apptainer, singularity, or none (the command on the host)."""
    environment = build_environment(step, facts, runtime=runtime)
    if runtime == "none":
        pairs = [f"{key}={value}" for key, value in sorted(environment.items())]
        argv = ["/usr/bin/env", "-i", f"PATH={host_path}", *pairs, *step.software.command]
    else:
        argv = _container_argv(step, facts, environment, runtime, program or runtime, host_path)
    _refuse_control_characters(argv)
    return (*facts.launcher, *argv)


def srun_launcher(resources: Resources, srun: str = "srun") -> tuple[str, ...]:
    """What starts a step of several tasks on Slurm; nothing for one task.

    The CPUs of a task are said again: srun takes them over from sbatch no more since Slurm 22.05 (its release notes).
    """
    if resources.tasks <= 1:
        return ()
    return (srun, f"--ntasks={resources.tasks}", f"--cpus-per-task={resources.cpu}", "--kill-on-bad-exit=1")


def _container_argv(
    step: ResolvedStep,
    facts: RunFacts,
    environment: Mapping[str, str],
    runtime: str,
    program: str,
    host_path: str,
) -> list[str]:
    assert step.software.image is not None, "a container runtime needs an image"
    prefix = "SINGULARITYENV_" if runtime == "singularity" else "APPTAINERENV_"
    scratch = facts.base_dir / facts.attempt_directory / "scratch"
    # HOME is set by --home: the runtime refuses or ignores it as a variable.
    variables = [f"{prefix}{key}={value}" for key, value in sorted(environment.items()) if key != "HOME"]
    binds = [part for mount in build_mounts(step, facts) for part in ("--mount", build_mount(mount))]
    gpus = [facts.gpu_flag] if step.resources.gpus else []
    return [
        "/usr/bin/env", "-i", f"PATH={host_path}", *variables,
        program, "-q", "exec", "--containall", "--cleanenv", "--no-eval", *gpus,
        "--home", f"{scratch}/home:{CONTAINER}/home",
        "--workdir", str(scratch),
        "--pwd", f"{CONTAINER}/scratch",
        *binds,
        step.software.image, *step.software.command,
    ]  # fmt: skip


def build_mounts(step: ResolvedStep, facts: RunFacts) -> list[Mount]:
    """What the container sees. Upstream folders are mounted one by one, never the workspace as a whole: a bind below
    a read-only one makes Apptainer create directories on the host."""
    run, attempt = facts.base_dir / facts.run_directory, facts.base_dir / facts.attempt_directory
    workspace = CONTAINER / "workspace"
    mounts = [
        Mount(run / "input", CONTAINER / "input"),
        Mount(attempt / "config", CONTAINER / "config"),
        Mount(attempt / "output", CONTAINER / "output", True),
        Mount(attempt / "logs", CONTAINER / "logs", True),
        Mount(attempt / "scratch", CONTAINER / "scratch", True),
    ]
    mounts += [Mount(run / "workspace" / u.directory, workspace / u.directory) for u in step.upstream]
    mounts += [Mount(PurePosixPath(r.path), CONTAINER / "reference" / r.name) for r in step.references]
    if step.role is StepRole.INTERMEDIATE:
        mounts.append(Mount(attempt / "output", workspace / step.step, True))
    return mounts


def build_mount(mount: Mount) -> str:
    """The value of `--mount`: comma-separated fields, quoted as CSV where they need it (Apptainer's documentation)."""
    fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
    if not mount.writable:
        fields.append("ro")
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def build_argv_file(argv: Sequence[str]) -> bytes:
    """`job/argv`: one argument per line and an end mark."""
    _refuse_control_characters(argv)
    return "".join(f"{argument}\n" for argument in (*argv, END_OF_ARGV)).encode("utf-8", "surrogateescape")


def _refuse_control_characters(argv: Sequence[str]) -> None:
    """`apply` refuses them with a message; here it is a defect."""
    for argument in argv:
        if _CONTROL.search(argument):
            raise ValueError(f"a control character in the command line: {argument!r}")
