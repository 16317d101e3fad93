"""The crontabs that are given to people, run by a real cron daemon for two minutes; and exit codes as cron sees them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.cron import Cron, running_cron

PROJECT = Path(__file__).resolve().parents[2]
CRONTABS = [PROJECT / "crontab.example", *sorted((PROJECT / "site-configs").glob("*/crontab"))]
PASSES = ("trigger", "resolve", "stage", "submit", "poll", "collect")
PYTHON = [sys.executable, "-P", "-m", "ccatwm"]
MOST_SECONDS = 125
ASSIGNED = re.compile(r"^(CCATWM|CCAT_WORKFLOW_MANAGER_SITE|MAILTO)=.*\n", re.MULTILINE)
HOURLY = re.compile(r"^\d+ \* \* \* \*", re.MULTILINE)


def as_cron(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """`ccatwm` with what cron gives a command, and nothing else (crontab(5))."""
    given = [f"HOME={home}", "LOGNAME=nobody", "SHELL=/bin/sh", "PATH=/usr/bin:/bin"]
    return subprocess.run(
        ["env", "-i", *given, *PYTHON, *map(str, arguments)], cwd=home, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def make_site(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    done = as_cron("init", folder / "site", "-q", home=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "here")


# --- exit codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*PASSES, "cycle"])
def test_a_pass_with_nothing_to_do_is_silent_and_ends_with_0(site: Path, command: str) -> None:
    done = as_cron("--site", site, command, home=site.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_paused_pass_is_silent_and_ends_with_0(site: Path) -> None:
    assert as_cron("--site", site, "pause", "--reason", "upgrade", home=site.parent).returncode == 0
    done = as_cron("--site", site, "cycle", home=site.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failed_run_ends_with_1_and_is_told_once(site: Path) -> None:
    (site / "data").mkdir(exist_ok=True)
    (site.parent / "raw").mkdir()
    (site.parent / "raw" / "scan-1").write_text("x")
    (site.parent / "definitions.yaml").write_text("""
software: [{name: none, versions: [{version: "1", command: [/no/such/program]}]}]
data_groupings: [{name: every, filter_rules: []}]
pipelines:
  - {name: p, data_grouping: every, processing_location: local,
     steps: [{name: s, software: none, group_by: [], max_retries: 0}]}
""")
    (site.parent / "observations.yaml").write_text(f"""
data_locations: [{{name: archive, location_type: long_term_archive, storage_type: disk, base_path: {site.parent}/raw}}]
raw_data_packages: [{{name: scan-1, state: archived, physical_copies: [{{location: archive, path: scan-1}}]}}]
""")
    for command in (("ingest", "observations.yaml"), ("apply", "definitions.yaml")):
        done = as_cron("--site", site, command[0], site.parent / command[1], home=site.parent)
        assert done.returncode == 0, done.stdout + done.stderr
    done = as_cron("--site", site, "cycle", "--until-idle", home=site.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("run 1 (p/s/all) failed") == 1
    done = as_cron("--site", site, "cycle", home=site.parent)
    assert (done.returncode, done.stderr) == (0, "")
    done = as_cron("--site", site, "health", home=site.parent)
    assert done.returncode == 1 and "p/s: 1 sub-group with a run that failed for good" in done.stdout
    assert "next: ccatwm runs --pipeline p --step s --status FAILED" in done.stdout
    done = as_cron("--site", site, "health", home=site.parent)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("command", [["cycle", "--nonsense"], ["show", "99"], ["trigger", "--step", "s"]])
def test_a_wrong_command_line_ends_with_2(site: Path, command: list[str]) -> None:
    assert as_cron("--site", site, *command, home=site.parent).returncode == 2


@pytest.mark.parametrize("command", ["cycle", "health", "status"])
def test_no_site_and_wrong_settings_end_with_3(site: Path, command: str) -> None:
    assert as_cron(command, home=site.parent).returncode == 3
    with (site / "settings.toml").open("a") as file:
        file.write('COLOUR = "red"\n')
    done = as_cron("--site", site, command, home=site.parent)
    assert done.returncode == 3 and "COLOUR" in done.stderr and "Traceback" not in done.stderr


def test_an_ops_db_that_is_away_ends_with_4_and_is_told_once_by_all_together(site: Path) -> None:
    settings = site / "settings.toml"
    text = re.sub(r"(?m)^OPSDB_URL.*\n", "", settings.read_text())
    settings.write_text(text.replace("[default]\n", '[default]\nOPSDB_URL = "postgresql://nobody@127.0.0.1:1/none"\n', 1))
    started = [
        subprocess.Popen(
            ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={site.parent}", *PYTHON, "--site", str(site), name],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name in PASSES
    ]  # fmt: skip
    told = [process.communicate(timeout=120)[1] for process in started]
    assert {process.returncode for process in started} == {4}
    assert len([text for text in told if text]) == 1, told
    done = as_cron("--site", site, "health", home=site.parent)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", ""), "passes have told it"
    done = as_cron("--site", site, "status", home=site.parent)
    assert done.returncode == 4 and "Traceback" not in done.stderr


def test_an_ops_db_that_a_person_must_mend_ends_with_3_and_is_told_once(site: Path) -> None:
    file = site / "opsdb.sqlite"
    good = file.read_bytes()
    file.write_bytes(b"no database" * 1000)
    done = [as_cron("--site", site, name, home=site.parent) for name in ("trigger", "cycle", "cycle")]
    assert [(d.returncode, d.stdout) for d in done] == [(3, "")] * 3
    assert "damaged" in done[0].stderr and "next: `ccatwm db restore FILE --yes` brings a backup back" in done[0].stderr
    assert [d.stderr for d in done[1:]] == ["", ""]
    done = [as_cron("--site", site, "health", home=site.parent)]
    assert (done[0].returncode, done[0].stdout, done[0].stderr) == (3, "", ""), "passes have told it"
    done = [as_cron("--site", site, "status", home=site.parent)]
    assert done[0].returncode == 3 and "damaged" in done[0].stderr and "Traceback" not in done[0].stderr
    file.write_bytes(good)
    done = [as_cron("--site", site, "cycle", home=site.parent)]
    assert done[0].returncode == 0 and "over since" in done[0].stderr


def test_passes_that_have_stopped_are_told_by_health_once_and_when_they_run_again(site: Path) -> None:
    done = as_cron("--site", site, "health", home=site.parent)
    assert done.returncode == 1 and "no pass has ever run for local" in done.stdout
    assert as_cron("--site", site, "health", home=site.parent).stdout == ""
    assert as_cron("--site", site, "cycle", home=site.parent).returncode == 0
    done = as_cron("--site", site, "health", home=site.parent)
    assert done.returncode == 0 and "over since" in done.stdout and "no pass has ever run" in done.stdout


def test_a_program_that_was_stopped_ends_in_good_order(site: Path) -> None:
    """A crontab line that is killed leaves nothing that stops the next one."""
    command = [*PYTHON, "--site", str(site), "cycle"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert as_cron("--site", site, "cycle", home=site.parent).returncode == 0


# --- the daemon ---------------------------------------------------------------------------------------------


def crontab_for(file: Path, site: Path) -> str:
    """The file as somebody would install it: his own paths at the top. What is hourly is done every minute."""
    text = ASSIGNED.sub("", file.read_text())
    program = " ".join(PYTHON)
    return f"CCATWM={program}\nCCAT_WORKFLOW_MANAGER_SITE={site}\n{HOURLY.sub('* * * * *', text)}"


@pytest.mark.slow
def test_every_crontab_is_run_by_a_real_cron(tmp_path: Path) -> None:
    sites = {file: make_site(tmp_path / f"site-{n}") for n, file in enumerate(CRONTABS)}
    table = "\n".join(crontab_for(file, site) for file, site in sites.items())
    wanted = sum(line.startswith("* * * * *") for line in table.splitlines())
    with running_cron(tmp_path / "cron", table) as cron:
        lines = cron.wait(lambda lines: len(lines) >= 2 * wanted, MOST_SECONDS)
        told = [line for line in lines if line.said and "health" not in line.command]
        assert len(lines) >= wanted, (lines, (tmp_path / "cron" / "stderr").read_text())
        assert [line for line in lines if line.code not in (0, 1)] == [] and told == [], lines
        assert_environment(cron)
    for site in sites.values():
        done = as_cron("--site", site, "health", "--json", home=tmp_path)
        assert done.returncode == 0 and json.loads(done.stdout)["healthy"], done.stdout


def assert_environment(cron: Cron) -> None:
    """It was cron that called: no terminal's variables came along."""
    assert {"HOME", "LOGNAME", "SHELL"} <= cron.environment()
    assert not {"VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "TERM"} & cron.environment()


def test_a_crontab_for_people_names_each_thing_that_must_be_run() -> None:
    for file in CRONTABS:
        text = file.read_text()
        assert "$CCATWM cycle" in text or all(f"$CCATWM {name}" in text for name in PASSES), file
        assert re.search(r"(?m)^\d+ \* \* \* \* +(umask 0002; )?\$CCATWM health$", text), file
        assert not re.search(r"(?m)^[^#\n]*[^\\]%", text), f"{file}: cron reads % as a line break"


