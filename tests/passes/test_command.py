"""`ccatwm command` prints what an attempt was started with, and a shell takes it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from ccatwm.core.shell_text import build_shell_command, read_environment
from ccatwm.edges.scheduler.slurm import SlurmScheduler
from ccatwm.errors import UsageError
from ccatwm.interfaces import SchedulerSetup
from ccatwm.views.command import build_command, command_lines
from tests.passes.conftest import Observatory

HARD = ["a b", "it's", '"q"', "$HOME", "`id`", "a\\b", "*", "é", "", "-n", "#x"]


def document(observatory: Observatory, run: int, **options) -> dict:
    context = observatory.context()
    make = options.pop("make_scheduler", lambda: context.scheduler)
    return build_command(context.database, context.workfiles, make, run, **options)


def paste(lines: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(["bash"], input="\n".join(lines) + "\n", text=True, capture_output=True, **options)


@pytest.fixture
def done(observatory: Observatory) -> Observatory:
    """Two scans are calibrated by real jobs."""
    observatory.scripts = True
    observatory.until_quiet()
    return observatory


def test_what_is_pasted_into_a_shell_does_what_the_job_did(done):
    run = done.runs("calibrate")[0]
    output = done.base / run["output_directory"]
    made = (output / "spectra.txt").read_bytes()
    (output / "spectra.txt").unlink()
    result = paste(command_lines(document(done, run["id"])), env={"PATH": "/usr/bin:/bin", "WORKFLOW_STEP": "wrong"})
    assert (result.returncode, result.stderr) == (0, "")
    assert (output / "spectra.txt").read_bytes() == made


def test_the_command_is_the_one_that_the_job_read(done):
    run = done.runs("calibrate")[0]
    found = document(done, run["id"])
    attempt = Path(found["directory"]).parent
    assert (attempt / "job" / "argv").read_text().splitlines()[:-1] == found["argv"]
    assert found["environment"]["WORKFLOW_RUN_ID"] == str(run["id"])
    assert found["submission"]["backend"] == "fake" and found["submission"]["command"] is None


def test_it_warns_that_it_writes_into_the_attempt_and_names_what_does_not(done):
    (run, *_) = done.runs("calibrate")
    lines = command_lines(document(done, run["id"]))
    assert any(f"ccatwm rerun {run['id']} --by-hand DIR" in line for line in lines if line.startswith("#"))


def test_options_of_sbatch_are_told_where_slurm_took_the_job(done, tmp_path):
    """The attempt says that Slurm took it; the site's settings say how."""
    done.execute("UPDATE {schema}submission SET backend='slurm', cluster='ramses', job_id='77'")
    context = done.context()
    options = {"partition": "smp", "account": "chai", "conf": "/etc/slurm/own.conf"}
    setup = SchedulerSetup("ramses", str(tmp_path), str(done.base), options, context.effects, context.clock)
    run = done.runs("calibrate")[0]
    found = document(done, run["id"], make_scheduler=lambda: SlurmScheduler(setup))["submission"]
    assert {"--partition=smp", "--account=chai", "--hold", "--export=ALL"} <= set(found["argv"])
    assert shlex.split(found["command"])[:2] == ["env", "-i"]
    assert "SLURM_CONF=/etc/slurm/own.conf" in shlex.split(found["command"])
    assert found["argv"][-1].startswith(str(done.base))


def test_an_attempt_that_is_not_there_is_a_usage_error_that_names_those_that_are(done):
    run = done.runs("calibrate")[0]["id"]
    with pytest.raises(UsageError, match=f"run {run} has no attempt 7") as caught:
        document(done, run, attempt=7)
    assert caught.value.next == "there are: 1"


def test_a_run_without_an_attempt_says_what_can_be_done(observatory):
    observatory.make_runs()
    with pytest.raises(UsageError, match="has no attempt yet") as caught:
        document(observatory, observatory.runs()[0]["id"])
    assert "rerun" in caught.value.next


def test_a_command_whose_file_is_gone_says_where_it_was_and_what_does_without(done):
    run = done.runs("calibrate")[0]
    argv = done.base / run["output_directory"] / ".." / "job" / "argv"
    argv.unlink()
    with pytest.raises(UsageError, match="no whole command") as caught:
        document(done, run["id"])
    assert "rerun" in caught.value.next and caught.value.where.endswith("job/argv")


@pytest.mark.quick
def test_arguments_arrive_in_a_shell_as_they_are(tmp_path):
    program = "import json, sys, os; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    text = build_shell_command(["python3", "-c", program, *HARD], directory=str(folder))
    assert json.loads(paste([text]).stdout) == [str(folder), HARD]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/env", "-i", "PATH=/bin", "A=1=2", "/bin/prog", "B=3"], {"PATH": "/bin", "A": "1=2"}),
        (["srun", "env", "-i", "PATH=/bin", "APPTAINERENV_A=1", "apptainer", "exec"], {"A": "1"}),
        (["prog"], {}),
    ],
)
def test_the_environment_is_read_from_the_command_line(argv, expected):
    assert read_environment(argv) == expected
