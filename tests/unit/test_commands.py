"""Command lines of runs: argv, environment, binds."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from ccatwm.core.commands import (
    Mount,
    RunFacts,
    attempt_directories,
    build_argv,
    build_argv_file,
    build_environment,
    build_mount,
    build_mounts,
    srun_launcher,
)
from ccatwm.core.model import (
    ReferenceVersion,
    ResolvedStep,
    Resources,
    SoftwareVersion,
    StepRole,
    UpstreamStep,
)

pytestmark = pytest.mark.quick
RUN = PurePosixPath("otf/grid/all/run-7")
FACTS = RunFacts(
    7, "all", 2, PurePosixPath("/base"), RUN, RUN / "attempt-2", datetime(2026, 3, 2, tzinfo=UTC), 2, 4.5
)
STEP = ResolvedStep(
    pipeline="otf", step="grid", role=StepRole.FINAL, group_by=(), config={},
    software=SoftwareVersion("grid", "1", ("chai-grid", "-v"), image="/images/grid.sif"),
)  # fmt: skip


def targets(step: ResolvedStep) -> dict[str, tuple[str, bool]]:
    return {str(m.target): (str(m.source), m.writable) for m in build_mounts(step, FACTS)}


def test_a_container_starts_from_an_empty_environment():
    argv = build_argv(STEP, FACTS, runtime="apptainer")
    assert argv[:2] == ("/usr/bin/env", "-i") and argv[2].startswith("PATH=")
    start = argv.index("apptainer")
    assert argv[start + 1 : start + 6] == ("-q", "exec", "--containall", "--cleanenv", "--no-eval")
    assert "--env" not in argv


def test_image_and_command_come_last():
    assert build_argv(STEP, FACTS, runtime="apptainer")[-3:] == ("/images/grid.sif", "chai-grid", "-v")


@pytest.mark.parametrize(
    ("runtime", "prefix"), [("apptainer", "APPTAINERENV_"), ("singularity", "SINGULARITYENV_")]
)
def test_variables_have_the_prefix_of_their_runtime(runtime, prefix):
    argv = build_argv(STEP, FACTS, runtime=runtime)
    assert f"{prefix}WORKFLOW_RUN_ID=7" in argv and runtime in argv


def test_home_and_working_folders_lie_in_the_scratch_of_the_attempt():
    argv = build_argv(STEP, FACTS, runtime="apptainer")
    scratch = "/base/otf/grid/all/run-7/attempt-2/scratch"
    assert argv[argv.index("--home") + 1] == f"{scratch}/home:/workflow/home"
    assert argv[argv.index("--workdir") + 1] == scratch
    assert argv[argv.index("--pwd") + 1] == "/workflow/scratch"


@pytest.mark.parametrize("flag", ["--nv", "--rocm"])
def test_gpus_add_the_flag_of_the_site(flag):
    step = replace(STEP, resources=Resources(gpus=1))
    assert flag in build_argv(step, replace(FACTS, gpu_flag=flag), runtime="apptainer")
    assert flag not in build_argv(STEP, replace(FACTS, gpu_flag=flag), runtime="apptainer")


def test_without_a_container_the_same_variables_hold_host_paths():
    argv = build_argv(STEP, FACTS, runtime="none")
    assert "WORKFLOW_OUTPUT_DIR=/base/otf/grid/all/run-7/attempt-2/output" in argv
    assert "HOME=/base/otf/grid/all/run-7/attempt-2/scratch/home" in argv
    assert argv[-2:] == ("chai-grid", "-v")
    contained = build_environment(STEP, FACTS, runtime="apptainer")
    assert build_environment(STEP, FACTS, runtime="none").keys() == contained.keys()


def test_a_step_may_not_replace_variables_of_the_contract():
    step = replace(STEP, environment={"WORKFLOW_RUN_ID": "1", "HOME": "/", "PATH": "/x", "MODE": "fast"})
    environment = build_environment(step, FACTS, runtime="apptainer")
    assert environment["WORKFLOW_RUN_ID"] == "7" and environment["HOME"] == "/workflow/home"
    assert environment["MODE"] == "fast" and "PATH" not in environment


def test_memory_and_threads_are_those_of_the_attempt():
    environment = build_environment(STEP, FACTS, runtime="apptainer")
    assert (environment["WORKFLOW_MEMORY_GB"], environment["OMP_NUM_THREADS"]) == ("4.5", "2")


def test_only_output_logs_and_scratch_may_be_written():
    step = replace(STEP, upstream=(UpstreamStep("otf", "calibrate", "calibrate", False),),
                   references=(ReferenceVersion("pointing", "1", "/refs/p.json"),))  # fmt: skip
    writable = {target for target, (_, is_writable) in targets(step).items() if is_writable}
    assert writable == {"/workflow/output", "/workflow/logs", "/workflow/scratch"}


def test_each_upstream_step_is_mounted_by_itself():
    step = replace(STEP, upstream=tuple(UpstreamStep("otf", name, name, True) for name in ("a", "b")))
    seen = targets(step)
    assert seen["/workflow/workspace/a"] == ("/base/otf/grid/all/run-7/workspace/a", False)
    assert "/workflow/workspace/b" in seen and "/workflow/workspace" not in seen


def test_an_intermediate_step_writes_where_its_readers_will_look():
    step = replace(STEP, role=StepRole.INTERMEDIATE)
    output = "/base/otf/grid/all/run-7/attempt-2/output"
    assert targets(step)["/workflow/workspace/grid"] == (output, True) == targets(step)["/workflow/output"]
    assert (
        build_environment(step, FACTS, runtime="apptainer")["WORKFLOW_OUTPUT_DIR"]
        == "/workflow/workspace/grid"
    )


def test_references_are_mounted_by_name():
    step = replace(STEP, references=(ReferenceVersion("pointing", "1", "/refs/p.json"),))
    assert targets(step)["/workflow/reference/pointing"] == ("/refs/p.json", False)


@pytest.mark.parametrize("name", ["a,b", 'a "b"', "two words", "a=b", "it's"])
def test_a_bind_keeps_its_fields_whatever_its_path(name):
    text = build_mount(Mount(PurePosixPath("/base") / name, PurePosixPath("/x")))
    assert next(csv.reader([text])) == ["type=bind", f"source=/base/{name}", "destination=/x", "ro"]


def test_typed_folders_are_made_for_final_steps_only():
    assert PurePosixPath("output/science") in attempt_directories(STEP)
    intermediate = attempt_directories(replace(STEP, role=StepRole.INTERMEDIATE))
    assert PurePosixPath("output") in intermediate and PurePosixPath("output/science") not in intermediate


def test_every_folder_that_is_mounted_from_the_attempt_is_made():
    mounted = {m.source.relative_to("/base" / FACTS.attempt_directory) for m in build_mounts(STEP, FACTS)
               if m.source.is_relative_to("/base" / FACTS.attempt_directory)}  # fmt: skip
    assert mounted <= set(attempt_directories(STEP))


@pytest.mark.parametrize("bad", ["a\nb", "a\0b", "\x1b[1m", "a\x7f"])
def test_control_characters_in_a_command_line_are_refused(bad):
    step = replace(STEP, environment={"MODE": bad})
    with pytest.raises(ValueError, match="control character"):
        build_argv(step, FACTS, runtime="apptainer")


def test_the_argv_file_has_an_argument_a_line_and_an_end_mark():
    assert build_argv_file(["a b", "", "é"]) == "a b\n\né\n#end-of-argv\n".encode()


@pytest.mark.parametrize("runtime", ["apptainer", "none"])
def test_what_a_person_wrote_is_one_argument_each(runtime):
    software = SoftwareVersion("cal", "1.0", ("run-it", "--x", "$(id)"), "/images/a,b.sif")
    step = replace(STEP, software=software, environment={"MODE": "a,b $(touch x)"})
    line = build_argv(step, FACTS, runtime=runtime)
    assert line[-3:] == ("run-it", "--x", "$(id)")
    prefix = "" if runtime == "none" else "APPTAINERENV_"
    assert f"{prefix}MODE=a,b $(touch x)" in line
    assert runtime == "none" or line[-4] == "/images/a,b.sif"


def test_a_control_character_never_reaches_the_argv_file():
    with pytest.raises(ValueError, match="control character"):
        build_argv_file(["a\nb"])


def test_several_tasks_are_started_by_srun_before_the_environment_is_cleared():
    launcher = srun_launcher(Resources(cpu=2, tasks=4))
    argv = build_argv(STEP, replace(FACTS, launcher=launcher), runtime="apptainer")
    assert argv[:4] == ("srun", "--ntasks=4", "--cpus-per-task=2", "--kill-on-bad-exit=1")
    assert argv[4:6] == ("/usr/bin/env", "-i")
    assert srun_launcher(Resources(cpu=2)) == ()
