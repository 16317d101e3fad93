"""The main job, end to end: `bin/demo` finds the source that was put in, and the late scan makes a better map."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A demo in the folder of an interrupted one, beside somebody's own settings in the environment."""
    folder = tmp_path_factory.mktemp("demo") / "d"
    (folder / "site").mkdir(parents=True)
    (folder / ".ccatwm-demo.json").write_text('{"demo": "begun"}')
    (folder / "site" / "settings.toml").write_text("half writ")
    own = {"CCAT_WORKFLOW_MANAGER_SITE": "elsewhere", "CCAT_WORKFLOW_MANAGER_HPC_BACKEND": "slurm"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), **own}
    command = [PROJECT / "bin" / "demo", "--dir", folder, "--scans", "4", "--no-apptainer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def ask(demo: Path, *arguments: str) -> dict:
    command = [PROJECT / "bin" / "ccatwm", "--site", demo / "site", *arguments, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def maps(demo: Path, name: str) -> list[dict]:
    """All products of the map step whose path ends with `name`, oldest run first."""
    found = ask(demo, "products", "--pipeline", "ngc253-otf", "--step", "grid", "--all")["products"]
    return sorted((p for p in found if p["path"].endswith(name)), key=lambda p: p["run"])


def source(product: dict) -> dict:
    return json.loads(Path(product["path"]).read_text())


def test_the_source_is_found_where_it_was_put_with_its_flux(demo):
    truth = json.loads((demo / "data" / "truth.json").read_text())
    found = source(maps(demo, "source.json")[-1])
    assert abs(found["lon_off_arcsec"] - truth["lon_off_arcsec"]) < 1.0
    assert abs(found["lat_off_arcsec"] - truth["lat_off_arcsec"]) < 1.0
    assert abs(found["flux_k_km_s_arcsec2"] / truth["flux_k_km_s_arcsec2"] - 1.0) < 0.05


def test_the_map_itself_has_the_source_at_its_sky_position(demo):
    """Read by astropy alone: the brightest pixel's coordinates against the simulated ones."""
    truth = json.loads((demo / "data" / "truth.json").read_text())
    with fits.open(maps(demo, "integrated.fits")[-1]["path"]) as hdus:
        image, wcs = hdus[0].data, WCS(hdus[0].header)
        centre = hdus[0].header["CRVAL1"], hdus[0].header["CRVAL2"]
    j, i = np.unravel_index(np.nanargmax(image), image.shape)
    ra, dec = wcs.pixel_to_world_values(i, j)
    east = (float(ra) - centre[0]) * np.cos(np.radians(centre[1])) * 3600
    north = (float(dec) - centre[1]) * 3600
    assert abs(east - truth["lon_off_arcsec"]) < 6.0
    assert abs(north - truth["lat_off_arcsec"]) < 6.0


def test_the_late_scan_makes_a_map_of_lower_noise_that_counts_now(demo):
    first, second = maps(demo, "source.json")
    assert source(second)["rms_k"] < source(first)["rms_k"]
    assert [first["current"], second["current"]] == [False, True]
    current = ask(demo, "products", "--pipeline", "ngc253-otf", "--step", "grid")["products"]
    assert {p["run"] for p in current} == {second["run"]}


def test_the_first_map_and_its_files_remain(demo):
    for product in maps(demo, ".fits"):
        content = Path(product["path"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (product["sha256"], product["size"])


def test_the_corrupt_copy_was_found_and_reported(demo):
    bad = ask(demo, "status")["bad_copies"]
    assert [(c["location"], c["finding"]) for c in bad] == [("buffer", "corrupt")]
    package = f"package:{bad[0]['package']}"
    assert {c["location"]: c["finding"] for c in ask(demo, "lineage", package)["copies"]} == {
        "buffer": "corrupt", "archive": None,
    }  # fmt: skip


def test_the_corrupt_copy_did_no_harm(demo):
    lineage = ask(demo, "lineage", str(maps(demo, "integrated.fits")[-1]["product"]))
    text = json.dumps(lineage)
    assert "CHAI-LFA-20260301-0003" in text
    runs = ask(demo, "runs", "--pipeline", "ngc253-otf")["runs"]
    assert {run["status"] for run in runs} == {"COMPLETED"}


def test_a_scan_of_two_packages_waits_for_both(demo):
    runs = ask(demo, "runs", "--pipeline", "ngc253-otf", "--step", "calibrate")["runs"]
    manifests = [(demo / "site" / "pipelines").glob(f"*/*/*/run-{r['run']}/attempt-1/config/manifest.json") for r in runs]
    packages = [sorted(i["name"] for i in json.loads(next(m).read_text())["inputs"]) for m in manifests]
    split = [names for names in packages if any("part" in name for name in names)]
    assert split == [["CHAI-LFA-20260301-0002-part1", "CHAI-LFA-20260301-0002-part2"]]


def test_an_interrupted_demo_begins_anew_and_leaves_nothing_of_the_first(demo):
    assert "half writ" not in (demo / "site" / "settings.toml").read_text()
    assert sorted(p.name for p in demo.iterdir()) == [".ccatwm-demo.json", "data", "site"]


def test_a_demo_is_refused_in_a_folder_with_other_files(tmp_path):
    (tmp_path / "mine").write_text("x")
    command = [PROJECT / "bin" / "demo", "--dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "is not empty and holds no demo" in done.stderr) == (1, True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_second_demo_in_the_same_folder_says_what_to_do(demo):
    done = subprocess.run([PROJECT / "bin" / "demo", "--dir", demo], capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds a demo already" in done.stderr
