"""The demo: simulates a campaign, makes a site, reduces what arrives in three phases, and shows what came of it.

It uses nothing but the `ccatwm` command, as an operator would.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
LAUNCHER = PROJECT / "bin" / "ccatwm"


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


class Site:
    """The demo's site, driven by the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> None:
        """One command, shown and run; the demo ends with it if it fails."""
        print(f"$ bin/ccatwm --site {self.folder} {' '.join(arguments)}", flush=True)
        code = subprocess.run([LAUNCHER, "--site", self.folder, *arguments], check=False).returncode
        if code != 0:
            sys.exit(f"bin/demo: this command ended with exit code {code}")

    def ask(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        command = [LAUNCHER, "--site", self.folder, *arguments, "--json"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit(f"bin/demo: {' '.join(arguments)} ended with exit code {done.returncode}")
        return json.loads(done.stdout)

    def current(self, name: str) -> dict[str, Any]:
        """The current product whose path ends with `name`."""
        products = self.ask("products", "--pipeline", "ngc253-otf", "--step", "grid")["products"]
        return next(p for p in products if p["path"].endswith(name))


def apptainer_works() -> str | None:
    """None where Apptainer can run containers, else why not."""
    program = shutil.which("apptainer")
    if program is None:
        return "Apptainer is not installed"
    done = subprocess.run([program, "version"], check=False, capture_output=True, text=True)
    return None if done.returncode == 0 else f"apptainer does not work: {done.stderr.strip()[:200]}"


def build_image(folder: Path) -> tuple[Path | None, str]:
    """The demo's image, or why there is none."""
    builder = PROJECT / "bin" / "build-demo-image"
    if not builder.exists():
        return None, "no image can be built here"
    image = folder / "images" / "chai-demo-1.0.0.sif"
    if image.exists():
        return image, ""
    image.parent.mkdir(parents=True, exist_ok=True)
    command = [builder, image, "--programs", HERE / "programs"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return None, f"the image could not be built: {(done.stderr or done.stdout).strip()[-300:]}"
    return image, ""


def make_site(folder: Path, image: Path | None) -> Site:
    """`ccatwm init`, the container runtime that this demo uses, and the pipelines filled in."""
    site = Site(folder / "site")
    print(f"$ bin/ccatwm init {site.folder}", flush=True)
    if subprocess.run([LAUNCHER, "init", site.folder, "--quiet"], check=False).returncode != 0:
        sys.exit("bin/demo: the site could not be made")
    settings = site.folder / "settings.toml"
    lines = settings.read_text().splitlines()
    runtime = "apptainer" if image is not None else "none"
    lines = [
        f'CONTAINER_RUNTIME = "{runtime}"' if line.startswith("CONTAINER_RUNTIME") else line for line in lines
    ]
    if "[default.local]" not in lines:
        lines += ["", "[default.local]", f"slots = {max(2, os.cpu_count() or 2)}"]
    settings.write_text("\n".join(lines) + "\n")
    return site


def write_pipelines(site: Site, image: Path | None) -> Path:
    text = (HERE / "pipelines.yaml").read_text()
    if image is not None:
        text = text.replace("{image}", f"image: {json.dumps(str(image))}, ")
        text = text.replace("{programs}/", "/opt/ccatwm-demo/bin/")
    else:
        text = text.replace("{image}", "")
        for name in ("chai-calibrate", "chai-baseline", "chai-grid"):
            program = HERE / "programs" / name
            text = text.replace(f"[{{programs}}/{name}]", json.dumps([sys.executable, str(program)]))
    path = site.folder / "pipelines.yaml"
    path.write_text(text)
    return path


def show_map(site: Site, title: str) -> dict[str, Any]:
    """What the newest map found, beside what was put in."""
    product = site.current("source.json")
    found = json.loads(Path(product["path"]).read_text())
    true = json.loads((site.folder.parent / "data" / "truth.json").read_text())
    ratio = found["flux_k_km_s_arcsec2"] / true["flux_k_km_s_arcsec2"]
    print(f"{title} (run {product['run']}): {found['scans']} files, rms {found['rms_k'] * 1000:.2f} mK; "
          f"source at {found['lon_off_arcsec']:+.1f}\", {found['lat_off_arcsec']:+.1f}\" "
          f"(put in at {true['lon_off_arcsec']:+.1f}\", {true['lat_off_arcsec']:+.1f}\"), "
          f"flux {ratio:.3f} of what was put in")  # fmt: skip
    return {"run": product["run"], **found}


def forget_settings() -> None:
    """Settings of somebody's own site in the environment are not the demo's."""
    for name in [n for n in os.environ if n.startswith("CCAT_WORKFLOW_MANAGER_") or n == "ENV_FOR_DYNACONF"]:
        del os.environ[name]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, help="folder for everything (default: a new one below the temporary folder)"
    )
    parser.add_argument(
        "--scans", type=int, default=8, help="scans of the first night (default 8, at least 3)"
    )
    parser.add_argument(
        "--no-apptainer", action="store_true", help="run the programs on this host, without containers"
    )
    options = parser.parse_args()
    forget_settings()
    if options.scans < 3:
        parser.error("at least 3 scans: one has a corrupt copy, one comes in two packages")
    folder = prepare_folder(options.dir)
    begun = time.monotonic()
    try:
        image = find_image(folder, options.no_apptainer)
        run_campaign(folder, image, options.scans)
    except KeyboardInterrupt:
        print(f"\nbin/demo: interrupted; `bin/demo --dir {folder}` begins anew", file=sys.stderr)
        sys.exit(130)
    write_state(folder, "complete")
    say(f"done in {time.monotonic() - begun:.0f} s; to go on by hand")
    site = folder / "site"
    for line in (
        f"bin/ccatwm --site {site} status",
        f"bin/ccatwm --site {site} explain ngc253-otf grid",
        f"bin/ccatwm --site {site} runs --pipeline ngc253-otf",
        f"bin/ccatwm --site {site} trigger --pipeline ngc253-otf --step grid --force --reason 'once more'",
        f"bin/ccatwm --site {site} cycle --until-idle",
        f"edit {site}/pipelines.yaml, then bin/ccatwm --site {site} apply {site}/pipelines.yaml --dry-run",
        f"rm -r {folder}   # when you have seen enough",
    ):
        print(f"  {line}")


MARKER = ".ccatwm-demo.json"


def prepare_folder(wanted: Path | None) -> Path:
    """An empty folder with a marker in it: new, empty, or an interrupted demo of ours that begins anew."""
    folder = wanted.resolve() if wanted is not None else Path(tempfile.mkdtemp(prefix="ccatwm-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    state = read_state(folder)
    if state is None and any(folder.iterdir()):
        sys.exit(f"bin/demo: {folder} is not empty and holds no demo; name a folder that is new or empty")
    lock_folder(folder)
    if state == "complete":
        sys.exit(
            f"bin/demo: {folder} holds a demo already; look at it with `bin/ccatwm --site {folder}/site status`, "
            f"or remove it (rm -r {folder}) and begin anew"
        )
    if state is not None:
        say(f"the demo in {folder} was interrupted: it begins anew")
        clear_folder(folder)
    write_state(folder, "begun")
    return folder


def read_state(folder: Path) -> str | None:
    """`begun` or `complete` of a demo of ours, else None."""
    try:
        return str(json.loads((folder / MARKER).read_text())["demo"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "begun"  # it was interrupted while it wrote that


def write_state(folder: Path, state: str) -> None:
    (folder / MARKER).write_text(json.dumps({"demo": state}) + "\n")


def lock_folder(folder: Path) -> None:
    """Two demos must not work in one folder; the lock ends with this process."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"bin/demo: another bin/demo is at work in {folder}")


def clear_folder(folder: Path) -> None:
    """Remove what a demo makes (images stay); jobs that still run are ended first: they would write into the new one."""
    site = folder / "site"
    if (site / "opsdb.sqlite").exists():
        open_runs = ("--status", "SUBMITTING,SUBMITTED,RUNNING", "--reason", "the demo begins anew", "--yes")
        for command in (("cancel", *open_runs), ("poll",), ("poll",)):
            subprocess.run([LAUNCHER, "--site", site, *command, "--quiet"], check=False, capture_output=True)
    for part in (site, folder / "data"):
        if part.exists():
            part.rename(part.with_name(f".old-{part.name}-{os.getpid()}"))
    for old in folder.glob(".old-*"):
        make_writable(old)
        shutil.rmtree(old)


def make_writable(folder: Path) -> None:
    """Folders of staged packages are read-only: only root removes from them as they are."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)


def find_image(folder: Path, forbidden: bool) -> Path | None:
    """The image, or None with the reason said."""
    why = "--no-apptainer was said" if forbidden else apptainer_works()
    image = None
    if why is None:
        say("building the container image (once; the base is cached)")
        image, why = build_image(folder)
    if image is None:
        say(f"running without containers: {why}")
    return image


def run_campaign(folder: Path, image: Path | None, scans: int) -> None:
    data = folder / "data"
    say(f"simulating an observing campaign of {scans} scans: raw data packages in {data}")
    subprocess.run([sys.executable, HERE / "simulate.py", data, "--scans", str(scans)], check=True)
    say("making a site: SQLite, local batch system")
    site = make_site(folder, image)
    say("the first night arrives; one package is still on its way, one copy is corrupt")
    site.run("ingest", str(data / "observatory.yaml"), str(data / "phase1.jsonl"))
    site.run("apply", str(write_pipelines(site, image)))
    site.run("cycle", "--until-idle")
    say("the corrupt copy was found while it was read, reported, and the other one taken")
    site.run("lineage", f"package:{site.ask('status')['bad_copies'][0]['package']}")
    say("why there is no map yet")
    site.run("explain", "ngc253-otf", "grid")
    say("the missing package arrives: the first map can be made")
    site.run("ingest", str(data / "phase2.jsonl"))
    site.run("cycle", "--until-idle")
    first = show_map(site, "first map")
    say("a late scan arrives: the map is made again, the first one stays")
    site.run("ingest", str(data / "phase3.jsonl"))
    site.run("cycle", "--until-idle")
    second = show_map(site, "second map")
    assert second["run"] != first["run"], "the late scan made no new map"
    say("the products of the map that counts now")
    site.run("products", "--pipeline", "ngc253-otf", "--step", "grid")
    say("where the map comes from")
    site.run("lineage", str(site.current("integrated.fits")["product"]))
    print(f"\npicture: {site.current('.png')['path']}")


if __name__ == "__main__":
    main()
