"""The sites to begin with: they say what is to be filled in, load with it, and set nothing that there is not."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cronsim import CronSim

from ccatwm.errors import SettingsError
from ccatwm.settings.load import load_settings
from ccatwm.settings.schema import Settings

pytestmark = pytest.mark.quick

SITES = Path(__file__).resolve().parents[2] / "site-configs"
TO_FILL_IN = ("local", "demo", "ramses", "cologne-over-ssh")
NAMES = (*TO_FILL_IN, "sandbox")
ON_THIS_HOST = ("local", "demo")
OVER_SSH = ("cologne-over-ssh", "sandbox")
URL = "postgresql://ops:secret@db.example.org/ops"

# What a person fills in: the words of each placeholder.
FILLED = {
    "sandbox": {},
    "demo": {"DIR: the folder of bin/demo --dir DIR, which fills this in": "/srv/demo"},
    "local": {"folder of the site": "/srv/site", "folder of run directories and products": "/srv/pipelines"},
    "ramses": {
        "BASE: set-gid folder of the group on the parallel file system": "/scratch/chai/pipelines",
        "folder on a disk of the login node; with scrontab one on the parallel file system": "/var/lib/ccatwm",
        "IMAGES: folder of images that compute nodes have": "/scratch/chai/images",
        "Slurm account of your group, ag-...": "ag-chai",
    },
    "cologne-over-ssh": {
        "BASE: set-gid folder of the group on the parallel file system of RAMSES": "/scratch/chai/pipelines",
        "folder on a disk of this host": "/var/lib/ccatwm",
        "IMAGES: folder of images that compute nodes have": "/scratch/chai/images",
        "login node of RAMSES": "login.example.org",
        "account there": "chai",
        "key that is exempt from the second factor": "id_ed25519",
        "full path of a Python 3.11 or newer there": "/opt/python/bin/python3",
        "Slurm account of your group, ag-...": "ag-chai",
    },
}


def copy(name: str, folder: Path, *, filled: bool, everything: bool = False) -> Path:
    """The site in a folder of its own; `everything`: with the lines that only show what may be set."""
    target = folder / name
    shutil.copytree(SITES / name, target)
    file = target / "settings.toml"
    text = file.read_text()
    if filled:
        for words, value in FILLED[name].items():
            assert f"<{words}>" in text, words
            text = text.replace(f"<{words}>", value)
    if everything:
        text = re.sub(r'(?m)^# (?=\[|"?[A-Za-z_./]+"? = )', "", text)
    file.write_text(text)
    if "OPSDB_URL_FILE" in text:
        (target / "opsdb-url").write_text(URL)
    return target


def load(site: Path) -> Settings:
    return load_settings(str(site), {}, site.parent)


@pytest.mark.parametrize("name", TO_FILL_IN)
def test_what_is_to_be_filled_in_is_told_and_nothing_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(copy(name, tmp_path, filled=False))
    assert {problem.what for problem in caught.value.problems} == {"is to be filled in"}
    told = {words.strip("<>") for problem in caught.value.problems for words in problem.next.split(", <")}
    assert told == set(FILLED[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_site_that_is_filled_in_loads(name: str, tmp_path: Path) -> None:
    settings = load(copy(name, tmp_path, filled=True))
    assert settings.hpc_backend == ("local" if name in ON_THIS_HOST else "slurm")
    assert settings.transport == ("ssh" if name in OVER_SSH else "local")
    if name in ("ramses", "cologne-over-ssh"):
        assert (settings.slurm.partition, settings.slurm.account, settings.opsdb_url) == (
            "smp",
            "ag-chai",
            URL,
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_key_that_a_site_shows_is_known_and_every_setting_is_shown(name: str, tmp_path: Path) -> None:
    settings = load(copy(name, tmp_path, filled=True, everything=True))
    elsewhere = {"SCHEDULER_OPTIONS", "SLURM_PARTITION"}
    if name in ON_THIS_HOST:
        elsewhere |= {"CLUSTER", "GRACE_SECONDS", "PATH_MAP", "SLURM", "SSH", "STAGE", "TRANSPORT", "WORKFILES"}
    else:
        elsewhere |= {"LOCAL"}
    if name == "ramses":
        elsewhere |= {"PATH_MAP", "SSH", "TRANSPORT", "WORKFILES"}
    assert {key for key, origin in settings.origins.items() if origin == "built-in"} == elsewhere


@pytest.mark.parametrize("name", NAMES)
def test_lines_that_only_show_a_built_in_value_show_the_right_one(name: str, tmp_path: Path) -> None:
    """Numbers are; names and paths are examples."""
    plain = load(copy(name, tmp_path / "plain", filled=True))
    shown = load(copy(name, tmp_path / "shown", filled=True, everything=True))
    for field in ("max_seconds", "max_seconds_stage", "lease_seconds", "retry_base_seconds", "retry_max_seconds",
                  "confirm_runs", "trip_after", "backfill_open_runs", "change_overlap_seconds",
                  "keep_failed_inputs_hours", "staging_mode",
                  "health_pass_seconds", "health_run_hours", "health_pause_hours",
                  "obs_timezone", "container_gpu_flag", "grace_seconds", "record_wait_seconds"):  # fmt: skip
        assert getattr(shown, field) == getattr(plain, field), field
    for table, fields in (
        ("slurm", ("command_timeout_seconds", "warn_seconds", "requeue_seconds", "accounting")),
        ("stage", ("executor", "cpu", "memory_gb", "time_hours", "job_gb")),
        ("ssh", ("port", "agent", "connect_timeout_seconds", "banner_timeout_seconds", "auth_timeout_seconds",
                 "keepalive_seconds")),
    ):  # fmt: skip
        ours, theirs = getattr(shown, table), getattr(plain, table)
        assert replace(theirs, **{field: getattr(ours, field) for field in fields}) == theirs


def test_paths_of_the_ssh_connection_are_relative_to_the_site(tmp_path: Path) -> None:
    site = copy("cologne-over-ssh", tmp_path, filled=True)
    ssh = load(site).ssh
    assert (ssh.known_hosts, ssh.key_file) == (str(site / "known_hosts"), str(site / "id_ed25519"))


def test_every_site_has_settings_and_a_crontab_and_a_slurm_site_a_scrontab_or_says_why_not() -> None:
    assert {file.parent.name for file in SITES.glob("*/settings.toml")} == set(NAMES)
    for name in NAMES:
        crontab = (SITES / name / "crontab").read_text()
        assert re.search(r"^MAILTO=", crontab, re.MULTILINE), name
        scrontab = (SITES / name / "scrontab").exists()
        assert scrontab or name in ON_THIS_HOST or "There is no scrontab" in crontab, name


@pytest.mark.parametrize(
    "file", sorted(SITES.glob("*/*crontab")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_crontabs_have_times_and_commands_that_there_are(file: Path) -> None:
    from typer.main import get_command

    from ccatwm.cli.main import app

    known = set(get_command(app).commands)
    lines = [line for line in file.read_text().splitlines() if re.match(r"[*0-9]", line)]
    commands = [re.search(r"(?:CCATWM|ccatwm(?: --site \S+)?) (\w+)", line) for line in lines]
    assert {command[1] for command in commands if command} <= known
    assert None not in commands
    assert any(command[1] in ("cycle", "collect") for command in commands if command)
    for line in lines:
        CronSim(" ".join(line.split()[:5]), load_time())
    if file.parent.name == "ramses":
        assert all("umask 0002; " in line for line in lines)


def load_time():
    from datetime import UTC, datetime

    return datetime(2026, 3, 1, tzinfo=UTC)


def test_the_readme_names_every_site() -> None:
    text = (SITES / "README.md").read_text()
    assert {name for name in NAMES if f"| `{name}` |" not in text} == set()
