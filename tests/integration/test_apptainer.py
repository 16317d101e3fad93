"""The container contract kept by the real Apptainer: argv of ours, folders as passes make them, probes inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ccatwm.core.commands import RunFacts, attempt_directories, build_argv
from ccatwm.core.manifest import build_manifest
from ccatwm.core.model import ReferenceVersion, ResolvedStep, SoftwareVersion, StepRole, UpstreamStep
from ccatwm.core.products import container_failure
from tests.integration.apptainer_image import ASTROPY, find_image, require_apptainer

pytestmark = pytest.mark.apptainer
NOBODY = 65534
RUN = PurePosixPath("otf/calibrate/all/run-7")
ATTEMPT = RUN / "attempt-2"
REPORT = "import json, os, pathlib\nout = pathlib.Path(os.environ['WORKFLOW_OUTPUT_DIR'])\n"


@dataclass
class Job:
    """An attempt on disk whose program is a probe, mounted as the reference `probe`."""

    base: Path
    image: str
    step: ResolvedStep

    @property
    def attempt(self) -> Path:
        return self.base / ATTEMPT

    @property
    def output(self) -> Path:
        return self.attempt / "output"

    def facts(self) -> RunFacts:
        return RunFacts(
            7, "all", 2, PurePosixPath(self.base), RUN, ATTEMPT, datetime(2026, 3, 2, tzinfo=UTC), 2, 4.0
        )

    def make(self) -> None:
        for name in attempt_directories(self.step):
            (self.attempt / name).mkdir(parents=True, exist_ok=True)
        (self.base / RUN / "input" / "scan-1").mkdir(parents=True, exist_ok=True)
        (self.base / RUN / "input" / "scan-1" / "raw.fits").write_text("raw")
        for upstream in self.step.upstream:
            (self.base / RUN / "workspace" / upstream.directory).mkdir(parents=True, exist_ok=True)
            (self.base / RUN / "workspace" / upstream.directory / "spectra").write_text("up")
        manifest = build_manifest(self.step, self.facts(), [], runtime="apptainer")
        (self.attempt / "config" / "manifest.json").write_text(json.dumps(manifest))

    def run(self, probe: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Runs `probe`, Python that may use `out`, as the job script would."""
        (self.base / "probe.py").write_text(REPORT + probe)
        self.make()
        argv = build_argv(self.step, self.facts(), runtime="apptainer")
        return subprocess.run(argv, cwd=self.attempt / "scratch", check=False, capture_output=True, **options)

    def value(self, expression: str, **options: Any) -> Any:
        """The value of an expression inside the container."""
        done = self.run(f"print(json.dumps({expression}))", **options)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


def make_job(base: Path, image: str, **changes: Any) -> Job:
    base.mkdir(parents=True, exist_ok=True)
    step = ResolvedStep(
        pipeline="otf", step="calibrate", role=StepRole.FINAL, group_by=(), config={},
        software=SoftwareVersion("probe", "1", ("python3", "/workflow/reference/probe"), image=image),
        references=(ReferenceVersion("probe", "1", str(base / "probe.py")),),
    )  # fmt: skip
    return Job(base, image, replace(step, **changes))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path / "base", str(find_image()))


UPSTREAM = (UpstreamStep("otf", "baseline", "baseline", True),)


@pytest.mark.parametrize(
    "path",
    [
        "/workflow/input/scan-1",
        "/workflow/config",
        "/workflow/workspace/baseline",
        "/workflow/reference/probe",
    ],
)
def test_read_only_binds_hold(job, path):
    job.step = replace(job.step, upstream=UPSTREAM)
    target = path if path.endswith("probe") else path + "/new"
    done = job.run(f"open({target!r}, 'w')")
    assert done.returncode == 1 and b"Read-only file system" in done.stderr


def test_inputs_and_upstream_products_can_be_read(job):
    job.step = replace(job.step, upstream=UPSTREAM)
    files = ("/workflow/input/scan-1/raw.fits", "/workflow/workspace/baseline/spectra")
    assert job.value(f"[open(f).read() for f in {files!r}]") == ["raw", "up"]


def test_nothing_is_made_on_the_host_below_the_run_by_binds(job):
    job.step = replace(job.step, upstream=UPSTREAM, role=StepRole.INTERMEDIATE)
    job.value("1")
    assert sorted(p.name for p in (job.base / RUN / "workspace").iterdir()) == ["baseline"]


def test_output_of_an_intermediate_step_appears_at_both_places(job):
    job.step = replace(job.step, role=StepRole.INTERMEDIATE)
    probe = "(out / 'a').write_text('x'); print(out, pathlib.Path('/workflow/output/a').read_text())"
    assert job.run(probe).stdout == b"/workflow/workspace/calibrate x\n"
    assert (job.output / "a").read_text() == "x"


def test_nothing_of_the_callers_environment_leaks_in(job):
    leaks = {"SECRET": "s", "APPTAINERENV_SECRET": "s", "SINGULARITYENV_SECRET": "s", "APPTAINER_BIND": "/etc:/leaked",
             "PYTHONPATH": "/leaked"}  # fmt: skip
    found, leaked = job.value("[dict(os.environ), os.path.exists('/leaked')]", env={**os.environ, **leaks})
    assert not {"SECRET", "PYTHONPATH"} & found.keys() and not leaked
    assert "leaked" not in str(found)


def test_home_of_the_caller_is_not_seen(job):
    assert job.value("[os.environ['HOME'], os.listdir(os.environ['HOME'])]") == ["/workflow/home", []]


def test_variables_of_the_contract_are_set(job):
    found = job.value("dict(os.environ)")
    expected = {
        "WORKFLOW_INPUT_DIR": "/workflow/input", "WORKFLOW_WORKSPACE_DIR": "/workflow/workspace",
        "WORKFLOW_OUTPUT_DIR": "/workflow/output", "WORKFLOW_SCRATCH_DIR": "/workflow/scratch",
        "WORKFLOW_MANIFEST": "/workflow/config/manifest.json", "WORKFLOW_LOG_DIR": "/workflow/logs",
        "WORKFLOW_RUN_ID": "7", "WORKFLOW_STEP": "calibrate", "WORKFLOW_SUB_GROUP": "all", "WORKFLOW_ATTEMPT": "2",
        "WORKFLOW_CPUS": "2", "WORKFLOW_MEMORY_GB": "4", "OMP_NUM_THREADS": "2", "TMPDIR": "/tmp",
        "XDG_CACHE_HOME": "/workflow/scratch/cache", "SOURCE_DATE_EPOCH": "1772409600",
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_output_files_belong_to_the_caller(job):
    job.run("(out / 'science' / 'map').write_text('x')")
    assert (job.output / "science" / "map").stat().st_uid == os.getuid()


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp"])
def test_200_mb_fit_into_temporary_folders(job, folder):
    probe = f"f = open('{folder}/big', 'wb')\nfor _ in range(200): f.write(bytes(1 << 20))\n"
    assert job.run(probe).returncode == 0


def test_a_file_can_be_written_in_the_working_folder(job):
    assert job.value("[open('here', 'w').write('x'), os.getcwd()]") == [1, "/workflow/scratch"]
    assert (job.attempt / "scratch" / "here").read_text() == "x"


def test_logs_come_out(job):
    job.run("pathlib.Path(os.environ['WORKFLOW_LOG_DIR'], 'a.log').write_text('x')")
    assert (job.attempt / "logs" / "a.log").read_text() == "x"


def test_the_exit_code_is_the_programs(job):
    assert job.run("raise SystemExit(3)").returncode == 3


def test_a_missing_image_is_a_failure_of_the_container(job):
    job.step = replace(job.step, software=replace(job.step.software, image=str(job.base / "gone.sif")))
    done = job.run("")
    assert done.returncode == 255 and container_failure(done.returncode, done.stderr), done.stderr


def test_a_program_that_ends_with_255_is_no_failure_of_the_container(job):
    done = job.run("raise SystemExit(255)")
    assert done.returncode == 255 and not container_failure(done.returncode, done.stderr)


HARD = [
    "a,b",
    "$(touch x)",
    "`touch x`",
    '"quoted"',
    "it's",
    "two  spaces ",
    "α β",
    "${HOME}",
    "a\\nb",
    ";|&",
]


@pytest.mark.parametrize("value", HARD)
def test_values_arrive_as_they_are_and_are_never_executed(job, value):
    job.step = replace(job.step, environment={"MODE": value}, config={"mode": value})
    seen = "[os.environ['MODE'], json.load(open(os.environ['WORKFLOW_MANIFEST']))['config']['mode']]"
    assert job.value(seen) == [value, value]
    assert not list(job.base.rglob("x"))


@pytest.mark.parametrize("name", ["a,b", 'a "quoted" name', "two words", "$(touch x)", "it's", "é"])
def test_paths_may_hold_anything(tmp_path, name):
    job = make_job(tmp_path / name, str(find_image()))
    job.run("(out / 'science' / 'map').write_text('x')")
    assert (job.output / "science" / "map").read_text() == "x"


def test_arguments_of_the_command_arrive_as_they_are(job):
    command = (*job.step.software.command, *HARD)
    job.step = replace(job.step, software=replace(job.step.software, command=command))
    assert job.value("__import__('sys').argv[1:]") == HARD


@pytest.mark.slow
def test_astropy_can_be_imported_with_an_empty_home(tmp_path):
    job = make_job(tmp_path / "base", str(find_image(ASTROPY)))
    assert (
        job.value("__import__('astropy.table', fromlist=['x']).Table({'a': [1, 2]})['a'].sum().item()") == 3
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that an ordinary user reaches."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_ordinary_user_can_run_it(open_folder):
    require_apptainer()
    if os.getuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    image = open_folder / "small.sif"
    shutil.copy(find_image(), image)
    job = make_job(open_folder / "base", str(image))
    job.make()
    for path in (job.base, *job.base.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    done = job.run("(out / 'science' / 'map').write_text('x')", user=NOBODY, group=NOBODY, extra_groups=[])
    assert done.returncode == 0, done.stderr.decode()
    assert (job.output / "science" / "map").stat().st_uid == NOBODY
