"""Command lines, environments and manifests of runs."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import PurePosixPath as P

import jsonschema
import pytest

from ccatwm.core.commands import (
    Mount,
    RunFacts,
    build_argv,
    build_argv_file,
    build_environment,
    build_mount,
    build_mounts,
)
from ccatwm.core.manifest import build_manifest, manifest_schema
from ccatwm.core.model import (
    InputKind,
    InputRole,
    ReferenceVersion,
    ResolvedStep,
    RunInput,
    SoftwareVersion,
    StepRole,
    UpstreamStep,
)

pytestmark = pytest.mark.quick
FACTS = RunFacts(
    7,
    "source=a",
    2,
    P("/base dir"),
    P("p/s/k/run-7"),
    P("p/s/k/run-7/attempt-2"),
    datetime(2026, 3, 1, tzinfo=UTC),
    2,
    4.0,
)


def step(role=StepRole.FINAL, **changes):
    values = {
        "pipeline": "p", "step": "grid", "role": role, "group_by": ("source",),
        "software": SoftwareVersion("cal", "1.0", ("run-it", "--x", "$(id)"), "/images/a,b.sif", "sha256:aa"),
        "config": {"order": 1}, "environment": {"MODE": "a,b $(touch x)", "HOME": "/root", "WORKFLOW_STEP": "evil"},
        "references": (ReferenceVersion("pointing", "1", "/refs/p.json", "sha256:bb"),),
        "upstream": (UpstreamStep("p", "cal", "cal", False),), "raw_inputs": True,
    } | changes  # fmt: skip
    return ResolvedStep(**values)


def argv(runtime="apptainer", **changes):
    return build_argv(step(**changes), FACTS, runtime=runtime)


def test_the_container_starts_from_an_empty_environment_with_everything_closed():
    line = argv()
    assert line[:2] == ("/usr/bin/env", "-i")
    for flag in ("--containall", "--cleanenv", "--no-eval"):
        assert flag in line
    assert "--env" not in line


def test_what_a_person_wrote_is_one_argument_each():
    line = argv()
    assert line[-3:] == ("run-it", "--x", "$(id)")
    assert line[-4] == "/images/a,b.sif"
    assert "APPTAINERENV_MODE=a,b $(touch x)" in line


def test_the_contracts_variables_cannot_be_replaced_by_a_steps_own():
    environment = build_environment(step(), FACTS, runtime="apptainer")
    assert (environment["HOME"], environment["WORKFLOW_STEP"]) == ("/workflow/home", "grid")


def test_inputs_are_read_only_and_only_the_attempts_own_folders_are_writable():
    writable = {str(m.target) for m in build_mounts(step(), FACTS) if m.writable}
    assert writable == {"/workflow/output", "/workflow/logs", "/workflow/scratch"}


def test_an_intermediate_steps_output_appears_in_the_workspace_too():
    mounts = {str(m.target): str(m.source) for m in build_mounts(step(StepRole.INTERMEDIATE), FACTS)}
    assert (
        mounts["/workflow/workspace/grid"]
        == mounts["/workflow/output"]
        == "/base dir/p/s/k/run-7/attempt-2/output"
    )
    assert (
        build_environment(step(StepRole.INTERMEDIATE), FACTS, runtime="apptainer")["WORKFLOW_OUTPUT_DIR"]
        == "/workflow/workspace/grid"
    )


def test_the_workspace_is_never_mounted_as_a_whole():
    assert "/workflow/workspace" not in {str(m.target) for m in build_mounts(step(), FACTS)}


@pytest.mark.parametrize("path", ["/a,b", '/a "quoted" one', "/plain", "/ü ñ"])
def test_a_mount_is_quoted_so_that_it_is_read_back_as_it_was(path):
    fields = next(csv.reader([build_mount(Mount(P(path), P("/workflow/x")))]))
    assert fields == ["type=bind", f"source={path}", "destination=/workflow/x", "ro"]


def test_without_a_container_the_same_variables_have_host_paths():
    environment = build_environment(step(), FACTS, runtime="none")
    assert environment["WORKFLOW_INPUT_DIR"] == "/base dir/p/s/k/run-7/input"
    line = argv("none")
    assert line[-3:] == ("run-it", "--x", "$(id)")
    assert "WORKFLOW_ATTEMPT=2" in line


def test_argv_is_a_line_an_argument_and_an_end_mark():
    assert build_argv_file(["a b", "c"]) == b"a b\nc\n#end-of-argv\n"
    with pytest.raises(ValueError, match="control character"):
        build_argv_file(["a\nb"])


INPUTS = [
    RunInput(InputKind.PACKAGE, InputRole.MEMBER, "x; rm -rf ~", "1", "sha256:cc", 5),
    RunInput(
        InputKind.PRODUCT,
        InputRole.OUTSIDE,
        "a/b.fits",
        "9",
        "sha256:dd",
        6,
        3,
        "p",
        "cal",
        "k1",
        "SCIENCE",
        False,
        ("x",),
    ),
]


@pytest.mark.parametrize("runtime", ["apptainer", "none"])
def test_a_manifest_is_what_its_schema_says(runtime):
    manifest = build_manifest(step(), FACTS, INPUTS, runtime=runtime)
    jsonschema.validate(manifest, manifest_schema())


def test_a_manifest_tells_where_inputs_lie_and_where_they_came_from():
    package, product = build_manifest(step(), FACTS, INPUTS, runtime="apptainer")["inputs"]
    assert package["path"] == "/workflow/input/x~3B~20rm~20-rf~20~7E"
    assert product["path"] == "/workflow/workspace/cal/k1/a/b.fits"
    assert (product["role"], product["upstream_run"], product["stands_on"]) == ("outside", 3, ["x"])
