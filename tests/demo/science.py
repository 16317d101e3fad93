"""What a demo has to show, wherever it took place: the source that was put in, and where everything came from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

PROJECT = Path(__file__).parents[2]


def ask(demo: Path, *arguments: str) -> dict:
    command = [PROJECT / "bin" / "ccatwm", "--site", demo / "site", *arguments, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def maps(demo: Path, name: str) -> list[dict]:
    """All products of the map step whose path ends with `name`, oldest run first."""
    found = ask(demo, "products", "--pipeline", "ngc253-otf", "--step", "grid", "--all")["products"]
    return sorted((p for p in found if p["path"].endswith(name)), key=lambda p: p["run"])


def source(product: dict) -> dict:
    return json.loads(Path(product["path"]).read_text())


class Science:
    """A subclass in a module with a fixture `demo`, the folder of a complete demo with four scans."""

    def test_the_source_is_found_where_it_was_put_with_its_flux(self, demo):
        truth = json.loads((demo / "data" / "truth.json").read_text())
        found = source(maps(demo, "source.json")[-1])
        assert abs(found["lon_off_arcsec"] - truth["lon_off_arcsec"]) < 1.0
        assert abs(found["lat_off_arcsec"] - truth["lat_off_arcsec"]) < 1.0
        assert abs(found["flux_k_km_s_arcsec2"] / truth["flux_k_km_s_arcsec2"] - 1.0) < 0.05

    def test_the_map_itself_has_the_source_at_its_sky_position(self, demo):
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

    def test_the_late_scan_makes_a_map_of_lower_noise_that_counts_now(self, demo):
        first, second = maps(demo, "source.json")
        assert source(second)["rms_k"] < source(first)["rms_k"]
        assert [first["current"], second["current"]] == [False, True]
        current = ask(demo, "products", "--pipeline", "ngc253-otf", "--step", "grid")["products"]
        assert {p["run"] for p in current} == {second["run"]}

    def test_the_first_map_and_its_files_remain(self, demo):
        for product in maps(demo, ".fits"):
            content = Path(product["path"]).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (product["sha256"], product["size"])

    def test_the_corrupt_copy_was_found_and_reported(self, demo):
        bad = ask(demo, "status")["bad_copies"]
        assert [(c["location"], c["finding"]) for c in bad] == [("buffer", "corrupt")]
        package = f"package:{bad[0]['package']}"
        assert {c["location"]: c["finding"] for c in ask(demo, "lineage", package)["copies"]} == {
            "buffer": "corrupt", "archive": None,
        }  # fmt: skip

    def test_the_corrupt_copy_did_no_harm(self, demo):
        lineage = ask(demo, "lineage", str(maps(demo, "integrated.fits")[-1]["product"]))
        text = json.dumps(lineage)
        assert "CHAI-LFA-20260301-0003" in text
        runs = ask(demo, "runs", "--pipeline", "ngc253-otf")["runs"]
        assert {run["status"] for run in runs} == {"COMPLETED"}

    def test_scans_are_calibrated_with_the_loads_nearest_in_time(self, demo):
        """Four scans, loads before each second one and after the last: these came later, and made two scans again."""
        runs = ask(demo, "runs", "--pipeline", "ngc253-otf", "--step", "calibrate")["runs"]
        again = {run["run"] for run in runs if run["reason"] == "companion-changed"}
        loads = {}
        for run in sorted(runs, key=lambda run: run["run"]):
            inputs = ask(demo, "show", str(run["run"]))["inputs"]
            of_run = sorted(i["name"][-4:] for i in inputs if i["companion"] == "loads")
            for i in inputs:
                if i["role"] == "member" and "part" not in i["name"]:
                    loads.setdefault(i["name"][-4:], []).append((run["run"] in again, of_run))
        assert loads == {
            "0001": [(False, ["0101", "0103"])],
            "0003": [(False, ["0103"]), (True, ["0103", "0105"])],
            "0004": [(False, ["0103"]), (True, ["0103", "0105"])],
            "0006": [(False, ["0106", "0107"])],
        }

    def test_the_gain_is_that_of_the_time_of_the_scan(self, demo):
        """It drifts by three tenths in an hour: scan 4 began an hour after the tuning, the loads before it earlier."""
        found = ask(demo, "products", "--pipeline", "ngc253-otf", "--step", "calibrate", "--all")["products"]
        measured = [m for p in found if p["path"].endswith("tsys.json") for m in source(p)]
        gains = [m["counts_per_k"] for m in measured if "0301-0004" in m["file"] and m["pixel"] == 0]
        before, between = sorted(gains)
        assert abs(between / before / (1.3 / 1.215) - 1.0) < 0.01
        assert all(abs(m["t_rec_k"] - 120.0) < 3.0 for m in measured)

    def test_a_scan_of_two_packages_waits_for_both(self, demo):
        runs = ask(demo, "runs", "--pipeline", "ngc253-otf", "--step", "calibrate")["runs"]
        manifests = [demo.glob(f"**/run-{r['run']}/attempt-1/config/manifest.json") for r in runs]
        inputs = [json.loads(next(m).read_text())["inputs"] for m in manifests]
        packages = [sorted(i["name"] for i in of_run if i["role"] == "member") for of_run in inputs]
        split = [names for names in packages if any("part" in name for name in names)]
        assert split == [["CHAI-LFA-20260301-0002-part1", "CHAI-LFA-20260301-0002-part2"]]
