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
import time
from pathlib import Path
from typing import Any

from cluster_place import ClusterPlace
from foreign_place import ForeignPlace
from places import HERE, LocalPlace, Site, apptainer_works, build_image, say, write_pipelines


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
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--slurm",
        action="store_true",
        help="by SSH and sbatch on the private cluster of bin/cluster (CCATWM_CLUSTER_DIR names another), with "
        "PostgreSQL; needs root; the default folder is a new one in the cluster's scratch",
    )
    whose.add_argument(
        "--foreign",
        action="store_true",
        help="with the scans in the PostgreSQL of an observatory that was there before, which is read and not altered",
    )
    options = parser.parse_args()
    forget_settings()
    if options.scans < 3:
        parser.error("at least 3 scans: one has a corrupt copy, one comes in two packages")
    place = find_place(options)
    wanted = options.dir.resolve() if options.dir is not None else None
    if wanted is not None:
        refuse_complete(wanted)
        place.check_folder(wanted)
    try:
        place.bring_up()
        folder = prepare_folder(wanted or place.new_folder(), place)
    except KeyboardInterrupt:
        print("\nbin/demo: interrupted", file=sys.stderr)
        sys.exit(130)
    begun = time.monotonic()
    try:
        image = find_image(folder, options.no_apptainer, place)
        run_campaign(folder, image, options.scans, place)
    except (KeyboardInterrupt, SystemExit) as end:
        interrupted = isinstance(end, KeyboardInterrupt)
        if not interrupted:
            print(end.code, file=sys.stderr)
        again = f"bin/demo {place.option}--dir {folder}"
        print(f"\nbin/demo: {'interrupted; ' * interrupted}`{again}` begins anew; or clear up:", file=sys.stderr)
        for line in place.how_to_end(folder):
            print(f"  {line}", file=sys.stderr)
        sys.exit(130 if interrupted else 1)
    write_state(folder, "complete")
    if told := place.told_at_end():
        say(told)
    say(f"done in {time.monotonic() - begun:.0f} s; to go on by hand")
    site = folder / "site"
    for line in (
        f"bin/ccatwm --site {site} status",
        f"bin/ccatwm --site {site} explain ngc253-otf grid",
        f"bin/ccatwm --site {site} runs --pipeline ngc253-otf",
        *place.how_to_look(folder),
        f"bin/ccatwm --site {site} trigger --pipeline ngc253-otf --step grid --force --reason 'once more'",
        f"bin/ccatwm --site {site} cycle --until-idle",
        f"edit {site}/pipelines.yaml, then bin/ccatwm --site {site} apply {site}/pipelines.yaml --dry-run",
        *place.how_to_end(folder),
    ):
        print(f"  {line}")


def find_place(options: argparse.Namespace) -> LocalPlace:
    if options.slurm:
        return ClusterPlace(apptainer=not options.no_apptainer)
    return ForeignPlace() if options.foreign else LocalPlace()


MARKER = ".ccatwm-demo.json"


def prepare_folder(folder: Path, place: LocalPlace) -> Path:
    """An empty folder with a marker in it: new, empty, or an interrupted demo of ours that begins anew."""
    folder.mkdir(parents=True, exist_ok=True)
    state = read_state(folder)
    if state is None and any(folder.iterdir()):
        sys.exit(f"bin/demo: {folder} is not empty and holds no demo; name a folder that is new or empty")
    lock_folder(folder)
    refuse_complete(folder)  # another may have been at work in it
    if state is not None:
        say(f"the demo in {folder} was interrupted: it begins anew")
        place.clear(folder)
        clear_folder(folder)
    write_state(folder, "begun")
    return folder


def refuse_complete(folder: Path) -> None:
    if read_state(folder) == "complete":
        stop = f"{folder}/opsdb/ctl stop; " if (folder / "opsdb" / "ctl").exists() else ""
        sys.exit(
            f"bin/demo: {folder} holds a demo already; look at it with `bin/ccatwm --site {folder}/site status`, "
            f"or remove it ({stop}rm -r {folder}) and begin anew"
        )


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
    """Remove what a demo makes (images stay)."""
    for part in (folder / name for name in ("site", "data", "opsdb", "pipelines")):
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


def find_image(folder: Path, forbidden: bool, place: LocalPlace) -> Path | None:
    """The image, or None with the reason said."""
    why = "--no-apptainer was said" if forbidden else apptainer_works()
    image = None
    if why is None:
        say("building the container image (once; the base is cached)")
        image, why = build_image(folder)
        if image is not None and (why := place.why_no_containers(image)):
            image = None
    if image is None:
        say(f"running without containers: {why}")
        place.interpreter()  # ends the demo where there is none
    return image


def run_campaign(folder: Path, image: Path | None, scans: int, place: LocalPlace) -> None:
    data = folder / "data"
    say(f"simulating an observing campaign of {scans} scans: raw data packages in {data}")
    subprocess.run([sys.executable, HERE / "simulate.py", data, "--scans", str(scans)], check=True)
    say(f"making a site: {place.words}")
    site = place.make_site(folder, image)
    say("the first night arrives; one package is still on its way, one copy is corrupt")
    place.arrive(site, data, 1)
    site.run("apply", str(write_pipelines(place, site, image)))
    site.cycle()
    say("the corrupt copy was found while it was read, reported, and the other one taken")
    site.run("lineage", f"package:{site.ask('status')['bad_copies'][0]['package']}")
    say("why there is no map yet")
    site.run("explain", "ngc253-otf", "grid")
    say("the missing package arrives, so do the loads of the end of the night: the first map can be made")
    place.arrive(site, data, 2)
    site.cycle()
    first = show_map(site, "first map")
    say("the loads between which each scan was made; some scans were made again when those came that are nearer")
    site.run("runs", "--pipeline", "ngc253-otf", "--step", "calibrate")
    say("a late scan arrives: the map is made again, the first one stays")
    place.arrive(site, data, 3)
    site.cycle()
    second = show_map(site, "second map")
    assert second["run"] != first["run"], "the late scan made no new map"
    say("the products of the map that counts now")
    site.run("products", "--pipeline", "ngc253-otf", "--step", "grid")
    say("where the map comes from")
    site.run("lineage", str(site.current("integrated.fits")["product"]))
    print(f"\npicture: {site.current('.png')['path']}")


if __name__ == "__main__":
    main()
