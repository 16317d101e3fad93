"""`ccatwm init`: one command makes a site that works, and changes nothing when it is run again."""

from __future__ import annotations

import json
from pathlib import Path

import paramiko
import pytest

from ccatwm.edges.opsdb.engine import Database
from ccatwm.errors import SettingsError
from ccatwm.settings.find import MARK_FILE, PREFIX
from ccatwm.settings.load import load_settings
from ccatwm.upkeep.base_dir import check_base_dir, settle_location
from ccatwm.wiring import build_grouping
from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_init_makes_settings_database_and_folders(cli: Cli) -> None:
    assert cli("init").code == 0
    names = {path.name for path in Path("ccatwm-data").iterdir()}
    assert {"settings.toml", "opsdb.sqlite", "pipelines", "state", "raw"} <= names


def test_init_explains_each_thing_that_it_made(cli: Cli) -> None:
    out = cli("init").out
    made = cli("init", "other", "--json").json["made"]
    said = out[: out.index("next:")].splitlines()[1:]
    explained = [line for line in said if line.startswith("  ")]  # the rest is about containers, where there are none
    assert len(explained) == 2 * len(made)
    assert [line.startswith("      ") for line in explained] == [False, True] * len(made)
    assert "ccatwm ingest --scan DIR --pattern '{source}/{obs_date}/{scan}.fits'" in out


def test_init_says_that_apptainer_was_not_found_only_where_it_looked(cli: Cli, monkeypatch) -> None:
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME", "none")
    out = cli("init").out
    assert "Apptainer was not found" not in out
    assert "CONTAINER_RUNTIME is none (environment variable CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME)" in out
    monkeypatch.delenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "uncontained: Apptainer was not found" in cli("init", "other").out


def test_init_says_that_jobs_of_a_batch_system_run_elsewhere(cli: Cli, monkeypatch) -> None:
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME", "none")
    assert "programs run on this host, uncontained" in cli("init").out
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_HPC_BACKEND", "slurm")
    assert "programs run on the nodes of the batch system, uncontained" in cli("init").out


def test_init_of_a_named_site_completes_it_where_its_settings_are(cli: Cli, monkeypatch, tmp_path) -> None:
    shelf = tmp_path / "shelf"
    cli("init", shelf / "cluster")
    (shelf / "cluster" / "raw").rmdir()
    monkeypatch.setattr("ccatwm.settings.find.project_sites", lambda: shelf)
    answer = cli("--site", "cluster", "init", "--json")
    assert answer.json["made"] == [f"{shelf}/cluster/raw/"]
    assert not Path("cluster").exists()


def test_init_makes_nothing_where_the_processing_host_is_not_reached(cli: Cli) -> None:
    site = Path("over-there")
    site.mkdir()
    text = '[default]\nPIPELINE_BASE_DIR = "/base"\nPROCESSING_LOCATION_ID = "there"\nHPC_BACKEND = "slurm"\n'
    text += 'TRANSPORT = "ssh"\nSTATE_DIR = "new/state"\n[default.ssh]\nhost = "127.0.0.1"\nport = 9\nagent = false\n'
    paramiko.ECDSAKey.generate().write_private_key_file("key")
    (site / "settings.toml").write_text(text + f'key_file = "{Path("key").resolve()}"\n')
    answer = cli("init", site)
    assert (answer.code, "cannot be reached" in answer.err) == (4, True)
    assert [path.name for path in site.iterdir()] == ["settings.toml"]


def test_config_show_has_a_line_for_each_key_of_a_table(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("init")
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_SLURM__PARTITION", "smp")
    lines = [line.split(maxsplit=2) for line in cli("config", "show").out.splitlines()]
    assert ["SLURM.calls_per_minute", "60", "(built-in)"] in lines
    assert ["SLURM.partition", "smp", "(environment variable CCAT_WORKFLOW_MANAGER_SLURM__PARTITION)"] in lines
    assert ["HPC_BACKEND", "local", "(settings.toml [default])"] in lines
    assert not any("{" in word for line in lines for word in line)


def test_what_is_wrong_in_the_environment_alone_is_not_put_on_the_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("init")
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONFIRM_RUNS", "many")
    assert cli("status").err.startswith("ccatwm: environment variables: the settings are wrong")


def test_config_show_begins_with_whose_settings_they_are(cli: Cli) -> None:
    cli("init")
    assert cli("config", "show").out.splitlines()[0] == f"settings of {Path('ccatwm-data').resolve()}"


def test_init_again_changes_nothing(cli: Cli) -> None:
    cli("init")
    before = snapshot(Path("ccatwm-data"))
    answer = cli("init")
    assert answer.code == 0 and "nothing was changed" in answer.out
    assert snapshot(Path("ccatwm-data")) == before


def test_init_completes_what_is_missing(cli: Cli) -> None:
    cli("init")
    Path("ccatwm-data/pipelines", MARK_FILE).unlink()
    assert [Path(p).name for p in cli("init", "--json").json["made"]] == [MARK_FILE]


def test_init_leaves_edited_settings_alone(cli: Cli) -> None:
    cli("init")
    file = Path("ccatwm-data/settings.toml")
    file.write_text(file.read_text() + "TRIP_AFTER = 7\n")
    assert cli("init").code == 0
    assert "TRIP_AFTER = 7" in file.read_text()


def test_the_written_settings_are_valid_and_show_their_origin(cli: Cli) -> None:
    cli("init")
    shown = {row["key"]: row for row in cli("config", "show", "--json").json["settings"]}
    assert shown["HPC_BACKEND"]["value"] == "local"
    assert shown["HPC_BACKEND"]["origin"].endswith("settings.toml [default]")


def test_a_fresh_site_has_the_schema_of_this_release(cli: Cli) -> None:
    cli("init")
    answer = cli("db", "check", "--json")
    assert (answer.code, answer.json["fine"]) == (0, True)


def test_another_folder_than_the_default_can_be_named(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "a site with blanks"
    assert cli("init", folder).code == 0
    assert cli("--site", folder, "db", "check").code == 0
    assert cli("db", "check", "--site", folder).code == 0


def test_any_other_command_without_a_site_exits_3(cli: Cli) -> None:
    for arguments in (["db", "check"], ["db", "upgrade"], ["config", "show"], ["cycle"], ["stage"]):
        answer = cli(*arguments)
        assert (answer.code, "ccatwm init" in answer.err) == (3, True), arguments


def test_a_database_that_is_gone_is_not_made_anew_by_looking(cli: Cli) -> None:
    cli("init")
    file = Path("ccatwm-data/opsdb.sqlite")
    file.unlink()
    assert cli("db", "check").code == 3
    assert not file.exists()


def test_init_refuses_a_base_directory_of_another_ops_db(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    Path("ccatwm-data/opsdb.sqlite").unlink()
    answer = cli("init")
    assert answer.code == 3 and "another ops-db" in answer.err
    assert not Path("ccatwm-data/opsdb.sqlite").exists()


def test_init_for_a_base_directory_of_another_ops_db_makes_nothing(cli: Cli, monkeypatch) -> None:
    cli("init")
    monkeypatch.setenv(f"{PREFIX}PIPELINE_BASE_DIR", str(Path("ccatwm-data/pipelines").resolve()))
    answer = cli("init", "second")
    assert answer.code == 3 and "another ops-db" in answer.err
    assert not Path("second").exists()


def test_init_completes_a_site_whose_tables_are_gone_and_whose_base_directory_is_nobodys(cli: Cli) -> None:
    cli("init")
    Path("ccatwm-data/opsdb.sqlite").write_bytes(b"")
    Path("ccatwm-data/pipelines/.ccatwm.json").unlink()
    assert cli("init").code == 0


def test_errors_are_one_json_document_for_scripts(cli: Cli) -> None:
    answer = cli("db", "check", "--json")
    assert answer.code == 3
    assert set(answer.json["error"]) >= {"class", "message", "where", "next"}


# --- environment variables alone as a site -----------------------------------------------------------------


def only_environment(base: Path, location: str = "local") -> dict[str, str]:
    return {
        f"{PREFIX}HPC_BACKEND": "local",
        f"{PREFIX}PIPELINE_BASE_DIR": str(base),
        f"{PREFIX}PROCESSING_LOCATION_ID": location,
        "HOME": "/nonexistent",
    }


def test_environment_variables_find_the_database_of_the_base_directory(cli: Cli, tmp_path: Path) -> None:
    cli("init", tmp_path / "made")
    settings = load_settings(None, only_environment(tmp_path / "made" / "pipelines"), tmp_path)
    assert settings.opsdb_url == f"sqlite:///{tmp_path}/made/opsdb.sqlite"
    assert settings.state_dir == tmp_path / "made" / "state"


def test_environment_variables_may_name_the_folder_that_init_made(cli: Cli, tmp_path: Path) -> None:
    cli("init", tmp_path / "made")
    settings = load_settings(None, only_environment(tmp_path / "made"), tmp_path)
    assert settings.pipeline_base_dir == tmp_path / "made" / "pipelines"


def test_opsdb_url_wins_over_the_database_of_the_base_directory(cli: Cli, tmp_path: Path) -> None:
    cli("init", tmp_path / "made")
    environ = only_environment(tmp_path / "made" / "pipelines") | {
        f"{PREFIX}OPSDB_URL": "postgresql://db/ops"
    }
    assert load_settings(None, environ, tmp_path).opsdb_url == "postgresql://db/ops"


def test_without_init_the_environment_alone_is_told_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ccatwm init"):
        load_settings(None, only_environment(tmp_path), tmp_path)


def test_init_after_the_exports_serves_the_exported_base_directory(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in only_environment(tmp_path / "base", location="1").items():
        monkeypatch.setenv(key, value)
    assert cli("init", tmp_path / "made").code == 0
    settings = load_settings(None, only_environment(tmp_path / "base", location="1"), tmp_path)
    database = Database(settings.opsdb_url)
    check_base_dir(settings, database)
    assert settle_location(settings, database, build_grouping(settings, database)).processing_location == "local"


# --- base directory and location ---------------------------------------------------------------------------


def made_site(cli: Cli, tmp_path: Path, **environ: str) -> tuple[object, Database]:
    cli("init", tmp_path / "made")
    settings = load_settings(str(tmp_path / "made"), environ, tmp_path)
    return settings, Database(settings.opsdb_url)


def test_a_base_directory_of_another_ops_db_is_refused(cli: Cli, tmp_path: Path) -> None:
    settings = made_site(cli, tmp_path)
    mark = tmp_path / "made" / "pipelines" / MARK_FILE
    mark.write_text(json.dumps({"ops_db_uid": "another"}))
    with pytest.raises(SettingsError, match="another"):
        check_base_dir(*settings)  # type: ignore[arg-type]


def test_a_base_directory_that_nobody_prepared_is_refused(cli: Cli, tmp_path: Path) -> None:
    site = made_site(cli, tmp_path, **{f"{PREFIX}PIPELINE_BASE_DIR": str(tmp_path)})
    with pytest.raises(SettingsError, match="not prepared"):
        check_base_dir(*site)  # type: ignore[arg-type]


def test_a_location_that_is_not_there_is_refused_with_those_that_are(cli: Cli, tmp_path: Path) -> None:
    site = made_site(cli, tmp_path, **{f"{PREFIX}PROCESSING_LOCATION_ID": "lokal"})
    with pytest.raises(SettingsError, match="did you mean local"):
        settle_location(*site, build_grouping(*site))  # type: ignore[arg-type]


def test_a_location_that_is_not_for_processing_is_refused(cli: Cli, tmp_path: Path) -> None:
    site = made_site(cli, tmp_path, **{f"{PREFIX}PROCESSING_LOCATION_ID": "raw"})
    with pytest.raises(SettingsError, match="type source"):
        settle_location(*site, build_grouping(*site))  # type: ignore[arg-type]
