"""Packages to products through real passes, the real local backend and a real image."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccatwm import wiring
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions
from ccatwm.settings.schema import Settings
from tests.crash.campaign import write_campaign
from tests.crash.points import make_tables, sqlite_url
from tests.crash.rig import World, define, ingest, rows
from tests.integration.apptainer_image import find_image

pytestmark = pytest.mark.apptainer
PROGRAM = """
set -e
cd "$WORKFLOW_OUTPUT_DIR"
if [ "$WORKFLOW_STEP" = calibrate ]; then
    cat "$WORKFLOW_INPUT_DIR"/*/*/log/notes.txt "$WORKFLOW_INPUT_DIR"/*/log/notes.txt 2>/dev/null >spectra.txt || true
    test -s spectra.txt
    mkdir -p qa && echo "100 K" >qa/tsys.txt
else
    cat "$WORKFLOW_WORKSPACE_DIR"/calibrate/*/spectra.txt >science/map.txt
fi
"""


class Chain:
    """A site with the real local backend; `wait` runs cycles until nothing is left to do."""

    def __init__(self, folder: Path, image: Path | str, program: str = PROGRAM) -> None:
        folder.mkdir()
        self.folder = folder
        self.url = sqlite_url(folder)
        make_tables(self.url)
        write_campaign(folder)
        (folder / "contained.sh").write_text(program)
        ingest(self.context(), [folder / "night.yaml"])
        define(self.context(), self._pipeline(image))

    def settings(self) -> Settings:
        changes = {"hpc_backend": "local", "cluster": "local", "container_runtime": "apptainer"}
        return replace(World(self.folder, self.url).settings(), **changes)

    def context(self) -> Context:
        return wiring.build_context(self.settings(), actor="tester")

    def _pipeline(self, image: Path | str) -> Path:
        path = self.folder / "pipeline.yaml"
        text = path.read_text()
        command = f"command: [/bin/sh, {self.folder / 'program.sh'}]"
        assert command in text
        text = text.replace(
            command, f"image: {json.dumps(str(image))}, command: [/bin/sh, /workflow/reference/program]"
        )
        text = text.replace("software: cal,", "software: cal, max_retries: 0, references: [program],")
        reference = {
            "name": "program",
            "versions": [{"version": "1", "path": str(self.folder / "contained.sh")}],
        }
        path.write_text(text + f"references: [{json.dumps(reference)}]\n")
        return path

    def wait(self, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            reports = wiring.run_cycle(self.context(), PassOptions())
            errors = [r.error for r in reports if r.error is not None]
            assert not errors
            if all(run["status"] in ("COMPLETED", "FAILED") for run in self.runs()) and not any(
                r.changed for r in wiring.run_cycle(self.context(), PassOptions())
            ):
                return
            time.sleep(0.2)
        raise AssertionError(f"not quiet: {[(r['step_name'], r['status']) for r in self.runs()]}")

    def runs(self) -> list[dict[str, Any]]:
        return rows(self.url, "executed_reduction_step")


def test_packages_become_products_in_containers(tmp_path):
    chain = Chain(tmp_path / "a world", find_image())
    chain.wait()
    assert [(r["step_name"], r["status"]) for r in chain.runs()] == [
        ("calibrate", "COMPLETED"), ("calibrate", "COMPLETED"), ("grid", "COMPLETED"),
    ]  # fmt: skip
    (product,) = [p for p in rows(chain.url, "data_product") if p["type"] == "SCIENCE"]
    text = (chain.folder / "base" / product["full_path"]).read_text()
    assert "scan-1 log/notes.txt" in text and "scan-2 log/notes.txt" in text


def test_an_image_that_is_none_is_a_failure_of_the_container(tmp_path):
    image = tmp_path / "empty.sif"
    image.write_bytes(b"no image")
    find_image()
    chain = Chain(tmp_path / "world", image)
    chain.wait()
    attempts = rows(chain.url, "run_attempt")
    assert {a["failure_class"] for a in attempts} == {"container"}
