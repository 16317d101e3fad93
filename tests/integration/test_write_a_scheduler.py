"""The scheduler of docs/how-to/write-a-scheduler.md, built from the page alone: installed, tested, and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.campaign import write_campaign

pytestmark = pytest.mark.slow

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "how-to" / "write-a-scheduler.md"
BLOCK = re.compile(r"<!-- (?:file: )?([\w./-]+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def source(blocks: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ccatwm-spool")
    for name, text in blocks.items():
        if name != "settings":
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def environment(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With the package installed into a folder of its own; nothing is fetched."""
    target = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, source], check=True, capture_output=True
    )
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(target), "HOME": str(target)}


def run(environment: dict[str, str], *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


def test_its_author_runs_the_contract_suite_on_it(source: Path, environment: dict[str, str]) -> None:
    done = run(environment, "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    promises = (TOP / "ccatwm" / "testing" / "scheduler.py").read_text().count("\ndef test_")
    assert passed is not None and int(passed[1]) == promises > 10


def test_a_promise_that_is_broken_is_found(source: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """A scheduler that starts what it should hold."""
    broken = tmp_path / "test_broken.py"
    broken.write_text(
        (source / "tests" / "test_contract.py")
        .read_text()
        .replace("return ccatwm_spool.build_scheduler", "return eager")
        + """

class Eager(ccatwm_spool.SpoolScheduler):
    def submit(self, jobs):
        results = super().submit(jobs)
        self.release([result.job_id for result in results])
        return results


def eager(setup):
    return Eager(setup)
"""
    )
    done = run(
        environment, "pytest", "-q", "-p", "no:cacheprovider", "-k", "before_release", broken, cwd=tmp_path
    )
    assert (done.returncode, "test_nothing_runs_before_release" in done.stdout) == (1, True), done.stdout


def test_its_types_are_right(source: Path, environment: dict[str, str]) -> None:
    done = run(environment, "mypy", "--strict", "--cache-dir", os.devnull, "ccatwm_spool", cwd=source)
    assert done.returncode == 0, done.stdout


def make_site(folder: Path, blocks: dict[str, str]) -> Path:
    """The campaign of the crash tests, run by the plug-in."""
    write_campaign(folder)
    site = folder / "site"
    site.mkdir()
    own = "".join(
        f"{key} = {json.dumps(value)}\n"
        for key, value in {
            "PIPELINE_BASE_DIR": str(folder / "base"), "PROCESSING_LOCATION_ID": "local", "CONTAINER_RUNTIME": "none",
        }.items()
    )  # fmt: skip
    (site / "settings.toml").write_text(blocks["settings"].replace("[default]\n", f"[default]\n{own}", 1))
    return site


def test_a_small_pipeline_runs_through_it(
    blocks: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    site = make_site(tmp_path / "world", blocks)

    def ccatwm(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = run(environment, "ccatwm", "--site", site, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    ccatwm("init", site)
    ccatwm("ingest", tmp_path / "world" / "night.yaml")
    ccatwm("apply", tmp_path / "world" / "pipeline.yaml")
    checked = json.loads(ccatwm("doctor", "--json").stdout)["findings"]
    assert "spool answers: 50 jobs" in next(f["found"] for f in checked if f["name"] == "batch-system")
    ccatwm("cycle", "--until-idle")
    runs = json.loads(ccatwm("runs", "--json").stdout)["runs"]
    assert sorted((run["step"], run["status"]) for run in runs) == [
        ("calibrate", "COMPLETED"), ("calibrate", "COMPLETED"), ("grid", "COMPLETED"),
    ]  # fmt: skip
    shown = json.loads(ccatwm("show", runs[0]["run"], "--json").stdout)
    assert shown["resources"]["used"]["wall_seconds"] > 0
    executions = (tmp_path / "world" / "base" / "executions.log").read_text().splitlines()
    assert len(executions) == len(set(executions)) == 3


def test_one_for_another_version_of_the_interface_is_refused_by_name(
    blocks: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    site = make_site(tmp_path / "world", blocks)
    assert run(environment, "ccatwm", "init", site, cwd=tmp_path).returncode == 0
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "sitecustomize.py").write_text(
        "import ccatwm.interfaces\nccatwm.interfaces.INTERFACE_VERSION = 2\n"
    )
    later = environment | {"PYTHONPATH": f"{tmp_path / 'later'}:{environment['PYTHONPATH']}"}
    done = run(later, "ccatwm", "--site", site, "doctor", "--json", cwd=tmp_path)
    refused = next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "batch-system")
    assert (done.returncode, "written for version 1" in refused["found"]) == (3, True)
    assert "install a release of ccatwm-spool" in refused["next"]
