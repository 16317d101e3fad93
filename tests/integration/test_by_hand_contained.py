"""Runs by hand, and pasted commands, in a real container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ccatwm.settings.find import MARK_FILE
from ccatwm.views.command import build_command, command_lines
from tests.crash.rig import rows
from tests.integration.apptainer_image import find_image
from tests.integration.test_container_chain import Chain

pytestmark = pytest.mark.apptainer


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """All runs are done."""
    made = marked(Chain(tmp_path_factory.mktemp("chain") / "a world", find_image()))
    made.wait()
    return made


def marked(chain: Chain) -> Chain:
    """Commands take its base directory for a site's."""
    (chain.folder / "base" / MARK_FILE).write_text(json.dumps({"ops_db_uid": chain.context().ops_db_uid}))
    return chain


def rerun(chain: Chain, *options: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    return command(chain, "rerun", *options, typed=typed)


def command(chain: Chain, *words: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    settings = {
        "OPSDB_URL": chain.url, "PIPELINE_BASE_DIR": str(chain.folder / "base"), "PROCESSING_LOCATION_ID": "local",
        "HPC_BACKEND": "local", "CONTAINER_RUNTIME": "apptainer", "STATE_DIR": str(chain.folder / "state"),
    }  # fmt: skip
    environment = os.environ | {f"CCAT_WORKFLOW_MANAGER_{key}": value for key, value in settings.items()}
    argv = [sys.executable, "-m", "ccatwm", *words]
    return subprocess.run(argv, env=environment, input=typed, text=True, capture_output=True)


def spectra(chain: Chain, run: dict) -> bytes:
    return (chain.folder / "base" / run["output_directory"] / "spectra.txt").read_bytes()


def test_inputs_that_were_removed_come_back_and_the_products_are_the_same(chain, tmp_path):
    run = chain.runs()[0]
    done = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "a, b"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert (answer["runtime"], answer["inputs_in_place"]) == ("apptainer", False)
    assert (tmp_path / "a, b" / "output" / "spectra.txt").read_bytes() == spectra(chain, run)


def test_upstream_products_come_back_too(chain, tmp_path):
    (run,) = [r for r in chain.runs() if r["step_name"] == "grid"]
    done = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "g"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    made = chain.folder / "base" / run["output_directory"] / "science" / "map.txt"
    assert (tmp_path / "g" / "output" / "science" / "map.txt").read_bytes() == made.read_bytes()


def test_a_shell_is_in_the_container_and_cannot_write_to_the_inputs(chain, tmp_path):
    run = chain.runs()[0]
    typed = 'pwd; ls "$WORKFLOW_INPUT_DIR"; touch "$WORKFLOW_INPUT_DIR"/x || echo kept; touch "$WORKFLOW_OUTPUT_DIR"/mine\n'
    done = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "s"), "--shell", typed=typed)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "/workflow/scratch" and "kept" in lines
    assert (tmp_path / "s" / "output" / "mine").exists()


def test_another_image_takes_the_place_of_one_that_is_gone(chain, tmp_path):
    run = chain.runs()[0]
    gone = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "x"), "--image", str(tmp_path / "gone.sif"))
    assert (gone.returncode, "gone.sif: is missing" in gone.stderr) == (2, True)
    other = tmp_path / "other.sif"
    shutil.copy(find_image(), other)
    done = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "y"), "--image", str(other))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "y" / "config" / "manifest.json").read_text())
    assert manifest["software"]["image"] == str(other)


def test_a_run_that_has_its_inputs_gives_them_read_only_where_they_are(tmp_path):
    chain = marked(Chain(tmp_path / "world", find_image(), "exit 3\n"))
    chain.wait()
    run = next(r for r in chain.runs() if r["exit_code"] == 3)
    done = rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "f"), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit_code"], answer["inputs_in_place"]) == (1, 3, True)
    assert not (tmp_path / "f" / "input").exists()


def test_the_command_of_an_attempt_works_when_it_is_pasted(chain, tmp_path):
    run = chain.runs()[0]
    context = chain.context()
    document = build_command(context.database, context.workfiles, lambda: context.scheduler, run["id"])
    made = spectra(chain, run)
    folder = Path(document["directory"]).parents[1]
    assert not (folder / "input").exists()  # the run is final: its inputs are put back for this
    rerun(chain, str(run["id"]), "--by-hand", str(tmp_path / "again"))
    for name in ("input", "workspace"):
        shutil.copytree(tmp_path / "again" / name, folder / name)
    (chain.folder / "base" / run["output_directory"] / "spectra.txt").unlink()
    done = subprocess.run(["bash"], input="\n".join(command_lines(document)) + "\n", text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert spectra(chain, run) == made


def test_a_product_is_made_again_in_containers_from_raw_data(chain, tmp_path):
    (run,) = [r for r in chain.runs() if r["step_name"] == "grid"]
    (product,) = [p for p in rows(chain.url, "data_product") if p["run_id"] == run["id"] and p["type"] == "SCIENCE"]
    done = command(chain, "rebuild", str(product["id"]), "--dir", str(tmp_path / "a, b"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert (answer["answer"], len(answer["runs"]), answer["warnings"]) == ("identical", 3, [])


def test_an_image_that_is_another_by_now_is_refused_before_anything_runs(tmp_path):
    image = tmp_path / "image.sif"
    shutil.copy(find_image(), image)
    chain = marked(Chain(tmp_path / "world", image))
    chain.wait()
    (product,) = [p for p in rows(chain.url, "data_product") if p["type"] == "SCIENCE"]
    with image.open("ab") as file:
        file.write(b"more")
    done = command(chain, "rebuild", str(product["id"]), "--dir", str(tmp_path / "again"))
    assert (done.returncode, "the image is not the one" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "again").exists()
