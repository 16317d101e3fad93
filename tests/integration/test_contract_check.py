"""`ccatwm contract check` with real programs: good ones, and one that breaks each point, on this host and in Apptainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ccatwm.edges.trials.local import LocalTrials
from ccatwm.interfaces import PlainEffects
from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.integration.apptainer_image import find_image

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "site-configs" / "demo"
PYTHON = os.path.realpath(sys.executable)

BEGIN = """
import json, os, pathlib, subprocess, sys, time
manifest = json.loads(pathlib.Path(os.environ["WORKFLOW_MANIFEST"]).read_text())
out = pathlib.Path(os.environ["WORKFLOW_OUTPUT_DIR"])
files = sorted(f for i in manifest["inputs"] for f in pathlib.Path(i["path"]).rglob("*") if f.is_file())
text = "".join(f.read_text(encoding="ascii") for f in files)
"""
END = """
(out / "science" / "map.txt").write_text(text)
"""
SLEEP = "time.sleep(0.4)\n"

# What breaks a point, as the middle or the whole of a program; and the points it must be told for.
BREAKERS: dict[str, tuple[str, set[str]]] = {
    "fails": (BEGIN + "sys.exit('no gain')", {"exit-code"}),
    "asks for a retry": (BEGIN + "sys.exit(75)", {"exit-code"}),
    "makes nothing": (BEGIN, {"products"}),
    "ignores its input": (BEGIN.replace("text = ", "text = 'x'; unused = 0 and ") + END, {"inputs", "nonsense-input"}),
    "accepts nonsense": (BEGIN.replace('encoding="ascii"', 'encoding="latin-1"') + END, {"nonsense-input"}),
    "writes beside the folders": (BEGIN + END + "(out / 'map.txt').write_text('x')", {"product-types"}),
    "leaves a link": (BEGIN + END + "os.symlink('map.txt', out / 'science' / 'latest.txt')", {"product-types"}),
    "declares what is not there": (
        BEGIN + END + "(out / 'products.json').write_text('{\"products\": [{\"path\": \"science/gone\"}]}')",
        {"products-json"},
    ),
    "declares in bad JSON": (BEGIN + END + "(out / 'products.json').write_text('{')", {"products-json"}),
    "needs a home": (BEGIN + "open(os.path.expanduser('~/.chairc'))" + END, {"exit-code", "home"}),
    "needs a network": (
        BEGIN + "assert len(pathlib.Path('/proc/net/dev').read_text().splitlines()) > 3, 'no network'" + END, {"network"},
    ),
    "writes the time": (
        BEGIN + "text += time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime()) + f'.{time.time_ns() % 10**9}'" + END,
        {"source-date", "repeatable"},
    ),
    "is random": (BEGIN + "text += os.urandom(4).hex()" + END, {"repeatable"}),
    "ignores TERM": (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + BEGIN + "time.sleep(2.5)" + END, {"term"},
    ),
}  # fmt: skip
ON_THIS_HOST: dict[str, tuple[str, set[str]]] = {
    "writes into its input": (BEGIN + "files[0].chmod(0o644); files[0].write_text(text)" + END, {"writes"}),
    "makes a file beside its input": (BEGIN + "(files[0].parent / 'new').touch()" + END, {"writes"}),
    "leaves a process": (BEGIN + "subprocess.Popen(['sleep', '30'])" + END, {"left-running"}),
}
IN_A_CONTAINER: dict[str, tuple[str, set[str]]] = {
    "writes into its input": (BEGIN + "(files[0].parent / 'new').touch()" + END, {"exit-code", "writes"}),
    "writes into its image": (BEGIN + "open('/usr/new', 'w')" + END, {"exit-code", "writes"}),
}


@dataclass
class Kit:
    """A program and its data; `check` gives the document, with its points by name."""

    folder: Path
    cli: Cli
    image: Path | None = None
    options: list[str] = field(default_factory=list)

    def program(self, text: str) -> None:
        (self.folder / "program.py").write_text(textwrap.dedent(text))

    def check(self, *more: str | Path) -> dict[str, Any]:
        inside = "/workflow/reference/program" if self.image else str(self.folder / "program.py")
        python = "python3" if self.image else PYTHON
        what: list[str | Path] = [self.image, "--reference", f"program={self.folder}/program.py"] if self.image else []
        answer = self.cli(
            "contract", "check", *what, "--command", f"{python} {inside}", "--input", self.folder / "data",
            "--term-seconds", "1", "--json", *self.options, *more,
        )  # fmt: skip
        document = answer.json
        assert "error" not in document, document
        assert answer.code == (0 if document["holds"] else 1)
        document["points"] = {row["name"]: row for row in document["contract"]}
        return document

    def wrong(self, *more: str | Path) -> set[str]:
        return {name for name, row in self.check(*more)["points"].items() if row["state"] == "wrong"}


@pytest.fixture
def kit(tmp_path: Path, cli: Cli) -> Kit:  # noqa: F811
    folder = tmp_path / "kit"
    (folder / "data" / "scan-1").mkdir(parents=True)
    (folder / "data" / "scan-1" / "raw.txt").write_text("counts\n")
    return Kit(folder, cli)


@pytest.fixture
def contained(kit: Kit) -> Kit:
    kit.image = find_image()
    return kit


def needs_cut_network(points: set[str]) -> None:
    why = LocalTrials(PlainEffects()).why_network_stays()
    if "network" in points and why is not None:
        pytest.skip(why)


def test_a_good_program_keeps_every_point(kit: Kit) -> None:
    kit.program(BEGIN + SLEEP + END)
    document = kit.check()
    states = {name: row["state"] for name, row in document["points"].items()}
    if LocalTrials(PlainEffects()).why_network_stays() is None:
        assert set(states.values()) == {"ok"}, document
    assert (document["schema"], document["version"], document["runtime"]) == ("ccatwm.contract/1", 1, "none")


@pytest.mark.parametrize("name", [*BREAKERS, *ON_THIS_HOST])
def test_a_program_that_breaks_a_point_is_told_for_it_alone(kit: Kit, name: str) -> None:
    text, points = {**BREAKERS, **ON_THIS_HOST}[name]
    needs_cut_network(points)
    kit.program(text)
    assert kit.wrong() == points


@pytest.mark.apptainer
@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *BREAKERS, *IN_A_CONTAINER])
def test_the_same_in_a_container(contained: Kit, name: str) -> None:
    text, points = {"": (BEGIN + SLEEP + END, set[str]()), **BREAKERS, **IN_A_CONTAINER}[name]
    needs_cut_network(points)
    contained.program(text)
    assert contained.wrong() == points


def test_what_is_wrong_is_told_to_people_with_how_to_mend_it(kit: Kit) -> None:
    kit.program(BEGIN)
    answer = kit.cli("contract", "check", "--command", f"{PYTHON} {kit.folder}/program.py", "--skip", "term")
    assert answer.code == 1
    assert "WRONG    products        the program ended well but left no product" in answer.out
    assert "next: write products as plain files below the folder that WORKFLOW_OUTPUT_DIR names" in answer.out
    assert "not checked, because no input was given: --input DIR" in answer.out
    assert "1 of 14 points do not hold" in answer.out


def test_tar_packages_plain_files_companions_and_upstream_products_arrive_as_in_a_run(kit: Kit) -> None:
    data = kit.folder / "data"
    (data / "scan-1").rename(kit.folder / "scan-1")
    for name in ("input", "companions/loads", "workspace/calibrate/qa"):
        (data / name).mkdir(parents=True)
    with tarfile.open(data / "input" / "scan-1.tar", "w") as tar:
        tar.add(kit.folder / "scan-1" / "raw.txt", "raw.txt")
    (data / "input" / "scan-2.dat").write_text("two\n")
    (data / "companions" / "loads" / "load-1.dat").write_text("hot\n")
    (data / "workspace" / "calibrate" / "spectra.txt").write_text("k\n")
    (data / "workspace" / "calibrate" / "qa" / "tsys.txt").write_text("300\n")
    kit.program("""
        import json, os, pathlib
        manifest = json.loads(pathlib.Path(os.environ["WORKFLOW_MANIFEST"]).read_text())
        text = ""
        for i in manifest["inputs"]:
            path = pathlib.Path(i["path"])
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            said = "".join(f.read_text(encoding="ascii") for f in files).strip()
            text += f"{i['name']} {i['kind']} {i.get('companion', i['role'])} {i.get('upstream_step')} {said}" + chr(10)
        (pathlib.Path(os.environ["WORKFLOW_OUTPUT_DIR"]) / "science" / "seen.txt").write_text(text)
        """)
    assert kit.wrong("--keep", kit.folder / "kept", "--skip", "term") == set()
    (seen,) = (kit.folder / "kept").glob("*/*/all/run-1/attempt-1/output/science/seen.txt")
    assert seen.read_text().splitlines() == [
        "scan-1 package member None counts",
        "scan-2.dat package member None two",
        "load-1.dat package loads None hot",
        "spectra.txt product member calibrate k",
    ]


STEP = """
name: grid
depends_on: [calibrate]
role: intermediate
software: gridder
references: [beam]
config: {pixel_arcsec: 5.0}
environment: {MODE: "a,b"}
partial_exit_codes: [2]
resources: {cpu: 3}
"""


def test_a_step_alone_says_configuration_role_and_partial_exit_codes(kit: Kit) -> None:
    (kit.folder / "step.yaml").write_text(STEP)
    (kit.folder / "beam").write_text("b")
    kit.program(BEGIN + """
(out / "facts.json").write_text(json.dumps([manifest["config"], os.environ["MODE"], os.environ["WORKFLOW_CPUS"],
    manifest["references"][0]["name"], manifest["role"], text]))
sys.exit(2)
""")
    options = ("--step", kit.folder / "step.yaml", "--reference", f"beam={kit.folder}/beam", "--skip", "term")
    document = kit.check(*options, "--keep", kit.folder / "kept")
    assert document["holds"] and document["role"] == "intermediate", document
    (facts,) = (kit.folder / "kept").glob("*/grid/all/run-1/attempt-1/output/facts.json")
    assert json.loads(facts.read_text()) == [{"pixel_arcsec": 5.0}, "a,b", "3", "beam", "intermediate", "counts\n"]


def test_mistakes_in_the_step_are_told_at_once_with_their_lines(kit: Kit) -> None:
    step = kit.folder / "step.yaml"
    step.write_text("config: {}\nresources: {cpu: none}\ncolour: red\n")
    answer = kit.cli("contract", "check", "--command", "true", "--step", step)
    assert answer.code == 3
    assert f"{step}:2" in answer.err and f"{step}:3" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "which command?"),
        (["--command", "no-such-program"], 3, "there is no program 'no-such-program'"),
        (["--command", "'a"], 2, "close the quotes"),
        (["--command", "true", "--input", "nowhere"], 2, "is no folder"),
        (["--command", "true", "--skip", "colour"], 2, "no point colour"),
        (["--command", "true", "--reference", "beam=/nowhere"], 2, "no reference data: beam"),
        (["--command", "true", "--runtime", "docker"], 2, "--runtime 'docker' is unknown"),
        (["--command", "true", "--runtime", "apptainer"], 2, "which image?"),
        (["/bin/true.sif", "--command", "true"], 3, ""),
    ],
)
def test_what_cannot_be_tried_is_said(cli: Cli, arguments: list[str], code: int, said: str) -> None:  # noqa: F811
    answer = cli("contract", "check", *arguments)
    assert (answer.code, said in answer.err) == (code, True), answer.err
    assert "Traceback" not in answer.err


@pytest.mark.apptainer
def test_an_image_that_is_none_cannot_be_run(kit: Kit) -> None:
    find_image()
    (kit.folder / "empty.sif").write_bytes(b"no image")
    answer = kit.cli("contract", "check", kit.folder / "empty.sif", "--command", "true")
    assert answer.code == 3 and "the container could not be started" in answer.err


def test_nothing_is_left_behind(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    kit.program(BEGIN + END)
    before = sorted(kit.folder.rglob("*"))
    kit.check("--skip", "term")
    assert list(temporary.iterdir()) == [] and sorted(kit.folder.rglob("*")) == before


# --- the demo's programs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw data of the demo's simulation: a scan with its loads, as the kit takes them."""
    pytest.importorskip("astropy")
    folder = tmp_path_factory.mktemp("night")
    simulated = folder / "simulated"
    subprocess.run([sys.executable, DEMO / "simulate.py", simulated, "--scans", "3"], check=True, capture_output=True)
    archive = simulated / "archive" / "2026" / "03" / "01"
    for name, scans in (("input", [1]), ("companions/loads", [101, 103])):
        (folder / "data" / name).mkdir(parents=True)
        for scan in scans:
            package = f"CHAI-LFA-20260301-{scan:04}.tar"
            (folder / "data" / name / package).symlink_to(archive / package)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["none", pytest.param("apptainer", marks=pytest.mark.apptainer)])
def test_the_programs_of_the_demo_keep_the_contract(night: Path, kit: Kit, runtime: str) -> None:
    """One after the other, each on what the one before made."""
    from tests.integration.apptainer_image import ASTROPY

    pipelines = kit.folder / "pipelines.yaml"
    image = f"image: {json.dumps(str(find_image(ASTROPY)))}, " if runtime == "apptainer" else ""
    programs = "/workflow/reference/programs" if image else str(DEMO / "programs")
    program = f"python3, {programs}" if image else f"{json.dumps(sys.executable)}, {programs}"
    text = (DEMO / "pipelines.yaml").read_text().replace("{image}", image).replace("{programs}", program)
    pipelines.write_text(text)
    data, reference = night / "data", ["--reference", f"programs={DEMO / 'programs'}"] if image else []
    for step in ("calibrate", "baseline", "grid"):
        kept = kit.folder / f"kept-{step}"
        answer = kit.cli(
            "contract", "check", "--step", pipelines, "--of", f"ngc253-otf/{step}", "--input", data, "--keep", kept,
            "--json", *reference,
        )  # fmt: skip
        wrong = [row for row in answer.json["contract"] if row["state"] == "wrong"]
        assert (answer.code, wrong) == (0, [])
        (output,) = kept.glob(f"*/{step}/all/run-1/attempt-1/output")
        data = kit.folder / f"data-{step}"
        (data / "workspace").mkdir(parents=True)
        output.rename(data / "workspace" / step)


FITS = BEGIN.replace("{", "{{").replace("}", "}}") + """
from astropy.io import fits
import numpy
part = fits.PrimaryHDU(numpy.arange(10.0))
part.header["DATE"] = {date}
part.writeto(os.path.join(os.environ["WORKFLOW_OUTPUT_DIR"], "science", "map.fits"), checksum=True)
"""


@pytest.mark.parametrize(
    ("date", "points"),
    [
        ("'2020-02-02T20:20:20'", set()),  # the comments of DATASUM and CHECKSUM tell when it was written all the same
        ("__import__('datetime').datetime.now(__import__('datetime').UTC).isoformat()[:26]", {"source-date", "repeatable"}),
    ],
)
def test_fits_files_are_held_to_their_data_and_the_values_of_their_headers(kit: Kit, date: str, points: set[str]) -> None:
    pytest.importorskip("astropy")
    kit.program(FITS.format(date=date))
    command = f"{sys.executable} {kit.folder}/program.py"  # of this environment, which has astropy
    answer = kit.cli("contract", "check", "--command", command, "--skip", "term", "--json")
    assert {row["name"] for row in answer.json["contract"] if row["state"] == "wrong"} == points
