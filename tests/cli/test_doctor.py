"""`ccatwm doctor` on a site of one machine: what it says of a healthy one, and of what is broken in it."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answer, Cli, MakeSite

pytestmark = pytest.mark.quick


@pytest.fixture
def site(make_site: MakeSite, tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    make_site(folder)
    file = folder / "settings.toml"
    file.write_text(file.read_text().replace('CONTAINER_RUNTIME = "apptainer"', 'CONTAINER_RUNTIME = "none"'))
    return folder


def findings(answer: Answer) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in answer.json["findings"]}


def change(site: Path, old: str, new: str) -> None:
    file = site / "settings.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_healthy_site_is_ok_and_nothing_is_left_in_it(cli: Cli, site: Path) -> None:
    before = sorted(site.rglob("*"))
    answer = cli("--site", site, "doctor", "--json")
    document = answer.json
    assert (answer.code, document["schema"], document["site"]) == (0, "ccatwm.doctor/1", "site")
    assert {f["state"] for f in document["findings"]} == {"ok", "skipped"}
    assert {"settings", "ops-db", "ops-db-schema", "base-dir", "base-dir-group", "state-dir", "program"} <= {
        f["name"] for f in document["findings"]
    }
    left = {path for path in site.rglob("*") if path not in before}
    assert not {p for p in left if "local-" not in p.name and not p.name.startswith("opsdb.sqlite-")}


def test_people_get_a_line_each_and_quiet_ones_only_what_is_to_be_done(cli: Cli, site: Path) -> None:
    answer = cli("--site", site, "doctor")
    assert answer.out.splitlines()[0].startswith("ok       settings ")
    assert answer.out.splitlines()[-1].startswith("nothing is wrong")
    assert cli("--site", site, "doctor", "-q").out == ""
    (site / "pipelines").chmod(0o777)
    quiet = cli("--site", site, "doctor", "-q")
    assert (quiet.code, quiet.out.count("\n")) == (3, 2)
    assert "next: chmod o-w" in quiet.out


def test_every_mistake_in_the_settings_is_told(cli: Cli, site: Path) -> None:
    change(site, "\n[default]\n", '\n[default]\nSTAGING_MODES = "fetch"\nCACHE_MAX_GB = -1\n')
    answer = cli("--site", site, "doctor", "--json")
    assert answer.code == 3
    assert [f["name"] for f in answer.json["findings"]] == ["settings", "settings"]
    assert "did you mean STAGING_MODE?" in answer.out


def test_no_site_is_told_with_what_makes_one(cli: Cli) -> None:
    answer = cli("doctor", "--json")
    assert (answer.code, answer.json["site"]) == (3, None)
    assert "ccatwm init" in answer.json["findings"][0]["next"]


def test_a_schema_that_is_behind_says_db_upgrade(cli: Cli, site: Path) -> None:
    with sqlite3.connect(site / "opsdb.sqlite") as database:
        database.execute("DELETE FROM ccatwm_version WHERE version_num LIKE 'pipeline%'")
    database.close()
    answer = cli("--site", site, "doctor", "--json")
    assert answer.code == 3
    assert "ccatwm db upgrade" in findings(answer)["ops-db-schema"]["next"]


def test_a_silent_ops_db_is_exit_4_and_the_rest_is_looked_at(cli: Cli, site: Path) -> None:
    change(site, '"sqlite:///opsdb.sqlite"', '"postgresql://nobody@127.0.0.1:1/none"')
    answer = cli("--site", site, "doctor", "--json")
    found = findings(answer)
    assert (answer.code, found["ops-db"]["state"], found["ops-db"]["away"]) == (4, "wrong", True)
    assert found["batch-system"]["state"] == "ok"
    assert found["base-dir"]["state"] == found["base-dir-group"]["state"] == "ok", "judged by itself"
    assert [name for name, finding in found.items() if finding["state"] == "wrong"] == ["ops-db"]
    assert not list((site / "pipelines").glob(".ccatwm-doctor-*"))


def test_a_base_directory_that_was_not_prepared_is_wrong_though_the_ops_db_is_silent(cli: Cli, site: Path) -> None:
    change(site, '"sqlite:///opsdb.sqlite"', '"postgresql://nobody@127.0.0.1:1/none"')
    (site / "pipelines" / ".ccatwm.json").unlink()
    answer = cli("--site", site, "doctor", "--json")
    assert (answer.code, "not prepared" in findings(answer)["base-dir"]["found"]) == (3, True)


def test_a_state_folder_that_is_not_there_is_told_and_not_made(cli: Cli, site: Path) -> None:
    change(site, 'STATE_DIR = "state"', 'STATE_DIR = "elsewhere/state"')
    found = findings(cli("--site", site, "doctor", "--json"))
    assert (found["state-dir"]["state"], "not there yet" in found["state-dir"]["found"]) == ("warning", True)
    assert not (site / "elsewhere").exists()


FAKE_SLURM = ("sbatch", "squeue", "scontrol", "scancel", "sacct", "sacctmgr")


def use_slurm(site: Path, tmp_path: Path, **slurm: str) -> None:
    """Commands that know their version and nothing else."""
    commands = tmp_path / "slurm"
    commands.mkdir()
    for name in FAKE_SLURM:
        (commands / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo "slurm 24.05.4"\n')
        (commands / name).chmod(0o755)
    change(site, 'HPC_BACKEND = "local"', 'HPC_BACKEND = "slurm"')
    lines = [f'{key} = "{value}"' for key, value in ({"bin_dir": str(commands)} | slurm).items()]
    file = site / "settings.toml"
    file.write_text(file.read_text() + "\n".join(["", "[default.slurm]", *lines, ""]))


def test_a_slurm_conf_that_is_not_there_is_named_as_what_is_wrong(cli: Cli, site: Path, tmp_path: Path) -> None:
    use_slurm(site, tmp_path, conf="/nonexist")
    answer = cli("--site", site, "doctor", "--no-job", "--json")
    found = findings(answer)
    assert (answer.code, "slurm.conf is /nonexist" in found["slurm-conf"]["found"]) == (3, True)
    assert "slurm-commands" not in found


def test_a_folder_of_commands_without_sbatch_is_wrong_though_the_path_has_one(
    cli: Cli, site: Path, tmp_path: Path
) -> None:
    use_slurm(site, tmp_path, bin_dir="/nonexist")
    answer = cli("--site", site, "doctor", "--no-job", "--json")
    assert answer.code == 3
    assert "slurm.bin_dir is /nonexist" in findings(answer)["slurm-bin-dir"]["found"]


def test_a_conf_and_a_folder_of_commands_that_are_there_are_not_mentioned(cli: Cli, site: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("")
    use_slurm(site, tmp_path, conf=str(tmp_path / "slurm.conf"))
    found = findings(cli("--site", site, "doctor", "--no-job", "--json"))
    assert found["slurm-commands"]["state"] == "ok"
    assert not {"slurm-conf", "slurm-bin-dir"} & set(found)


def test_a_base_directory_of_another_ops_db_is_wrong(cli: Cli, site: Path) -> None:
    mark = site / "pipelines" / ".ccatwm.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"ops_db_uid": "another"}))
    answer = cli("--site", site, "doctor", "--json")
    assert answer.code == 3
    assert "belongs to the ops-db 'another'" in findings(answer)["base-dir"]["found"]


def test_a_base_directory_that_is_gone_is_exit_4(cli: Cli, site: Path) -> None:
    (site / "pipelines").rename(site / "elsewhere")
    answer = cli("--site", site, "doctor", "--json")
    assert (answer.code, "mount its file system" in findings(answer)["base-dir"]["next"]) == (4, True)


def test_little_space_a_shared_folder_and_a_pause_are_told(cli: Cli, site: Path) -> None:
    change(site, "\n[default]\n", "\n[default]\nMIN_FREE_GB = 1e9\n")
    (site / "pipelines").chmod(0o2775)
    with sqlite3.connect(site / "opsdb.sqlite") as database:
        database.execute("UPDATE ops_db SET paused = 'upgrade'")
    database.close()
    umask = os.umask(0o022)
    try:
        found = findings(cli("--site", site, "doctor", "--json"))
    finally:
        os.umask(umask)
    assert (found["base-dir-space"]["state"], found["brakes"]["next"]) == ("wrong", "ccatwm resume")
    assert "umask 0002" in found["base-dir-group"]["next"]


def test_settings_with_a_password_are_for_their_account_alone(cli: Cli, site: Path) -> None:
    (site / "url").write_text("postgresql://ops:secret@127.0.0.1:1/none\n")
    (site / "url").chmod(0o644)
    change(site, 'OPSDB_URL = "sqlite:///opsdb.sqlite"', 'OPSDB_URL_FILE = "url"')
    answer = cli("--site", site, "doctor", "--json")
    assert findings(answer)["settings-files"]["next"] == f"chmod 600 {site / 'url'}"
    assert "secret@" not in answer.out


def test_a_runtime_and_a_folder_of_images_that_are_not_there(cli: Cli, site: Path) -> None:
    change(site, 'RUNTIME = "none"', 'RUNTIME = "singularity"')
    change(site, "\n[default]\n", '\n[default]\nSIF_CACHE_DIR = "images"\n')
    answer = cli("--site", site, "doctor", "--json")
    found = findings(answer)
    assert (answer.code, found["images"]["state"], found["container-runtime"]["state"]) == (
        3,
        "wrong",
        "wrong",
    )
    assert "CONTAINER_RUNTIME" in found["container-runtime"]["next"]


def test_as_cron_nothing_of_this_environment_is_left(
    cli: Cli, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME", "apptainer")
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_SITE", str(site))
    monkeypatch.setenv("HOME", str(site))
    answer = cli("doctor", "--as-cron", "--json")
    found = findings(answer)
    assert (answer.code, found["cron-environment"]["state"]) == (0, "warning")
    assert "CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME" in found["cron-environment"]["found"]
    assert "CONTAINER_RUNTIME is none" in found["container-runtime"]["found"]


def test_places_of_raw_data_that_cannot_be_asked_are_wrong(cli: Cli, site: Path, tmp_path: Path) -> None:
    """One that lost a file is there; one that is not mounted is not, and tape is not read here."""
    for number, name in enumerate(("archive", "buffer", "vault")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"NGC253-{number}.fits").write_text("data")
        assert cli("--site", site, "ingest", "--scan", tmp_path / name, "--pattern", "{source}-{scan}.fits").code == 0
    with sqlite3.connect(site / "opsdb.sqlite") as connection:
        connection.execute("UPDATE data_location SET storage_type = 'tape' WHERE name = 'vault'")
    (tmp_path / "archive/NGC253-0.fits").rename(tmp_path / "archive/elsewhere.fits")
    answer = cli("--site", site, "doctor", "--json")
    assert {n: f["state"] for n, f in findings(answer).items() if n.startswith("data-location")} == {
        "data-location archive": "ok", "data-location buffer": "ok", "data-location vault": "skipped",
    }  # fmt: skip
    (tmp_path / "buffer").rename(tmp_path / "away")
    away = cli("--site", site, "doctor", "--json")
    found = findings(away)["data-location buffer"]
    assert (answer.code, away.code, found["state"]) == (0, 4, "wrong")
    assert "is not there: is its file system mounted?" in found["found"]
