"""Where the demo takes place: on this machine alone, or on a private cluster (`cluster_place.py`). Touches: its folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postgresql import PostgreSql

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
LAUNCHER = PROJECT / "bin" / "ccatwm"
PROGRAMS = ("chai-calibrate", "chai-baseline", "chai-grid")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


class Site:
    """The demo's site, driven by the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> None:
        """One command, shown and run; the demo ends with it if it fails."""
        self.show(*arguments)
        code = subprocess.run([LAUNCHER, "--site", self.folder, *arguments], check=False).returncode
        if code != 0:
            sys.exit(f"bin/demo: this command ended with exit code {code}")

    def show(self, *arguments: str) -> None:
        print(f"$ bin/ccatwm --site {self.folder} {' '.join(arguments)}", flush=True)

    def ask(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        command = [LAUNCHER, "--site", self.folder, *arguments, "--json"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit(f"bin/demo: {' '.join(arguments)} ended with exit code {done.returncode}")
        return json.loads(done.stdout)

    def cycle(self) -> None:
        """All passes until nothing is left to do."""
        self.run("cycle", "--until-idle")

    def current(self, name: str) -> dict[str, Any]:
        """The current product whose path ends with `name`."""
        products = self.ask("products", "--pipeline", "ngc253-otf", "--step", "grid")["products"]
        return next(p for p in products if p["path"].endswith(name))

    def make(self) -> None:
        print(f"$ bin/ccatwm init {self.folder}", flush=True)
        if subprocess.run([LAUNCHER, "init", self.folder, "--quiet"], check=False).returncode != 0:
            sys.exit("bin/demo: the site could not be made")


class LocalPlace:
    """This machine: SQLite, the local batch system, programs in containers where Apptainer is."""

    words = "SQLite, local batch system"
    location = "local"
    option = ""  # of bin/demo

    def check_folder(self, folder: Path) -> None:
        """Before anything is made or started. Ends the demo where the folder cannot do."""

    def bring_up(self) -> None:
        """What must run before there is a folder."""

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="ccatwm-demo-"))

    def why_no_containers(self, image: Path) -> str | None:
        """Why this image cannot be run here, or None."""
        return None

    def make_site(self, folder: Path, image: Path | None) -> Site:
        """The settings beside this file, filled in, and `ccatwm init`."""
        site = Site(folder / "site")
        site.folder.mkdir()
        values: dict[str, Any] = {
            "OPSDB_URL": "sqlite:///opsdb.sqlite",
            "PIPELINE_BASE_DIR": "pipelines",
            "STATE_DIR": "state",
            "CONTAINER_RUNTIME": runtime(image),
            "local.slots": max(2, os.cpu_count() or 2),
        }
        head = "# The demo's site: site-configs/demo/settings.toml, filled in. Paths are relative to this file.\n\n"
        text = fill_in((HERE / "settings.toml").read_text(), values)
        (site.folder / "settings.toml").write_text(head + text[text.index("[default]") :])
        site.make()
        return site

    def arrive(self, site: Site, data: Path, phase: int) -> None:
        """What was observed so far becomes known."""
        first = [str(data / "observatory.yaml")] if phase == 1 else []
        site.run("ingest", *first, str(data / f"phase{phase}.jsonl"))

    def interpreter(self) -> list[str]:
        """The Python that programs run with where there are no containers."""
        return [sys.executable]

    def clear(self, folder: Path) -> None:
        """End what an interrupted demo, of whatever place, left running: it would write into the new one."""
        database = PostgreSql(folder / "opsdb")
        if (folder / "site" / "opsdb.sqlite").exists() or database.url_file.exists():
            end_jobs(folder / "site")
        database.stop()

    def told_at_end(self) -> str | None:
        return None

    def how_to_look(self, folder: Path) -> list[str]:
        return []

    def how_to_end(self, folder: Path) -> list[str]:
        return [f"rm -r {folder}   # when you have seen enough"]


def fill_in(text: str, values: Mapping[str, Any]) -> str:
    """Settings with other values; comments stay. Keys inside tables are `table.key`."""
    left, table, lines = dict(values), "", []
    for line in text.splitlines():
        if found := re.fullmatch(r"\[default(?:\.(\w+))?\]", line):
            table = f"{found[1]}." if found[1] else ""
        elif (found := re.fullmatch(r"(\w+) = (.*?)( +#.*)?", line)) and f"{table}{found[1]}" in left:
            line = f"{found[1]} = {json.dumps(left.pop(table + found[1]), ensure_ascii=False)}{found[3] or ''}"
        lines.append(line)
    assert not left, f"the settings do not say {', '.join(left)}"
    return "\n".join(lines) + "\n"


def runtime(image: Path | None) -> str:
    return "apptainer" if image is not None else "none"


def end_jobs(site: Path) -> None:
    open_runs = ("--status", "SUBMITTING,SUBMITTED,RUNNING", "--reason", "the demo begins anew", "--yes")
    for command in (("cancel", *open_runs), ("poll",), ("poll",)):
        subprocess.run([LAUNCHER, "--site", site, *command, "--quiet"], check=False, capture_output=True)


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


def write_pipelines(place: LocalPlace, site: Site, image: Path | None) -> Path:
    text = (HERE / "pipelines.yaml").read_text()
    text = text.replace("processing_location: local", f"processing_location: {place.location}")
    if image is not None:
        text = text.replace("{image}", f"image: {json.dumps(str(image))}, ")
        text = text.replace("{programs}/", "/opt/ccatwm-demo/bin/")
    else:
        text = text.replace("{image}", "")
        for name in PROGRAMS:
            command = [*place.interpreter(), str(HERE / "programs" / name)]
            text = text.replace(f"[{{programs}}/{name}]", json.dumps(command))
    path = site.folder / "pipelines.yaml"
    path.write_text(text)
    return path


def closed_part(path: Path) -> Path | None:
    """What keeps other accounts from reading `path`: the first folder on the way, or itself."""
    for part in [*reversed(path.parents), path]:
        wanted = 0o001 if part != path else 0o005 if path.is_dir() else 0o004
        if part.exists() and part.stat().st_mode & wanted != wanted:
            return part
    return None
