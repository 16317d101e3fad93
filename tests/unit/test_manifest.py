"""The manifest: what it holds, and that its schema says so."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import PurePosixPath

import jsonschema
import pytest

from ccatwm.core.commands import RunFacts
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
RUN = PurePosixPath("p/grid/k/run-7")
FACTS = RunFacts(
    7, "source=a", 2, PurePosixPath("/base"), RUN, RUN / "attempt-2", datetime(2026, 3, 1, tzinfo=UTC), 2, 4.5
)
STEP = ResolvedStep(
    pipeline="p", step="grid", role=StepRole.FINAL, group_by=("source",), config={"order": 1, "α": ['a,b "q"']},
    software=SoftwareVersion("cal", "1.0", ("run-it",), "/images/a.sif", "sha256:aa"),
    environment={"TOKEN": "secret-value"}, references=(ReferenceVersion("pointing", "1", "/refs/p.json", "sha256:bb"),),
    upstream=(UpstreamStep("p", "cal", "cal", False),), partial_exit_codes=(2,),
)  # fmt: skip
INPUTS = [
    RunInput(InputKind.PACKAGE, InputRole.COMPANION, "x; rm -rf ~", "1", "sha256:cc", 5, companion="loads"),
    RunInput(
        InputKind.PRODUCT, InputRole.OUTSIDE, "a/b.fits", "9", "sha256:dd", 6, 3, "p", "cal", "k1", "SCIENCE", False, ("x",)
    ),
    RunInput(InputKind.REFERENCE, InputRole.MEMBER, "pointing", "pointing@1", "sha256:bb", None),
]  # fmt: skip


def manifest(runtime: str = "apptainer") -> dict:
    return build_manifest(STEP, FACTS, INPUTS, runtime=runtime)


@pytest.mark.parametrize("runtime", ["apptainer", "none"])
def test_a_manifest_is_what_its_schema_says(runtime):
    jsonschema.validate(json.loads(json.dumps(manifest(runtime))), manifest_schema())


def test_the_schema_is_a_valid_one():
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


@pytest.mark.parametrize("key", sorted(manifest()))
def test_every_key_is_required_by_the_schema(key):
    without = copy.deepcopy(manifest())
    del without[key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(without, manifest_schema())


def test_the_schema_knows_no_other_keys():
    with pytest.raises(jsonschema.ValidationError, match="stray"):
        jsonschema.validate({**manifest(), "stray": 1}, manifest_schema())


def test_inputs_tell_where_they_lie_and_where_they_came_from():
    package, product = manifest()["inputs"]
    assert package["path"] == "/workflow/input/x~3B~20rm~20-rf~20~7E"
    assert (package["role"], package["checksum"], package["size_bytes"]) == ("companion", "sha256:cc", 5)
    assert package["companion"] == "loads"
    assert product["path"] == "/workflow/workspace/cal/k1/a/b.fits"
    assert (product["role"], product["upstream_run"], product["stands_on"]) == ("outside", 3, ["x"])


def test_references_are_listed_apart_from_inputs():
    assert [i["kind"] for i in manifest()["inputs"]] == ["package", "product"]
    assert manifest()["references"] == [
        {"name": "pointing", "version": "1", "path": "/workflow/reference/pointing", "checksum": "sha256:bb"}
    ]


def test_without_a_container_paths_are_those_of_the_host():
    seen = manifest("none")
    assert seen["output_dir"] == "/base/p/grid/k/run-7/attempt-2/output"
    assert seen["inputs"][0]["path"].startswith("/base/p/grid/k/run-7/input/")
    assert seen["references"][0]["path"] == "/refs/p.json"


def test_values_of_variables_stay_out():
    assert manifest()["environment"] == ["TOKEN"]
    assert "secret-value" not in json.dumps(manifest())


def test_software_and_configuration_are_those_frozen_with_the_run():
    assert manifest()["software"]["image_digest"] == "sha256:aa"
    assert manifest()["config"] == {"order": 1, "α": ['a,b "q"']}
