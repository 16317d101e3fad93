"""Settings: precedence, all mistakes at once, sites, secrets."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ccatwm.core.retention import Retention
from ccatwm.errors import SettingsError
from ccatwm.settings import load, schema
from ccatwm.settings.find import PREFIX
from ccatwm.settings.load import load_settings, mask_url, show_settings
from ccatwm.settings.schema import Settings

pytestmark = pytest.mark.quick

BASE = '[default]\nPIPELINE_BASE_DIR = "pipelines"\nPROCESSING_LOCATION_ID = "local"\n'


def write_site(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.toml").write_text(BASE + text)
    return folder


def load_site(folder: Path, **environ: str) -> Settings:
    return load_settings(str(folder), environ, folder)


def problems(folder: Path, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_site(folder, **environ)
    return [str(problem) for problem in caught.value.problems]


# --- precedence --------------------------------------------------------------------------------------------


def test_built_in_values_hold_where_nothing_is_said(tmp_path: Path) -> None:
    assert load_site(write_site(tmp_path / "s")).grace_seconds == 900


def test_the_default_section_wins_over_built_in_values(tmp_path: Path) -> None:
    assert load_site(write_site(tmp_path / "s", "GRACE_SECONDS = 30\n")).grace_seconds == 30


def test_the_named_section_wins_over_the_default_section(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "GRACE_SECONDS = 30\n[production]\nGRACE_SECONDS = 40\n")
    assert load_site(folder, ENV_FOR_DYNACONF="production").grace_seconds == 40


def test_a_section_that_is_not_named_does_not_count(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "GRACE_SECONDS = 30\n[production]\nGRACE_SECONDS = 40\n")
    assert load_site(folder).grace_seconds == 30


def test_the_environment_wins_over_every_section(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "GRACE_SECONDS = 30\n[production]\nGRACE_SECONDS = 40\n")
    environ = {"ENV_FOR_DYNACONF": "production", f"{PREFIX}GRACE_SECONDS": "50"}
    assert load_site(folder, **environ).grace_seconds == 50


def test_a_key_inside_a_table_can_be_set_by_the_environment(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "[default.local]\nslots = 3\nmax_queued = 7\n")
    settings = load_site(folder, **{f"{PREFIX}LOCAL__SLOTS": "5"})
    assert (settings.local.slots, settings.local.max_queued) == (5, 7)


def test_relative_paths_are_relative_to_the_site(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", '[default.locations.raw]\nroot = "raw"\n')
    settings = load_site(folder)
    assert settings.pipeline_base_dir == folder / "pipelines"
    assert settings.locations["raw"].root == str(folder / "raw")
    assert settings.opsdb_url == f"sqlite:///{folder}/opsdb.sqlite"


def test_the_url_may_come_from_a_file(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", 'OPSDB_URL_FILE = "url"\n')
    (folder / "url").write_text("postgresql://me:secret@db/ops\n")
    assert load_site(folder).opsdb_url == "postgresql://me:secret@db/ops"


def test_a_file_with_the_url_that_the_environment_names_wins_over_the_url_of_the_site(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", 'OPSDB_URL = "postgresql://ccatwm@db/ops"\n')
    (tmp_path / "mine").write_text("postgresql://anna@db/ops\n")
    settings = load_site(folder, **{f"{PREFIX}OPSDB_URL_FILE": str(tmp_path / "mine")})
    assert settings.opsdb_url == "postgresql://anna@db/ops"
    assert settings.origins["OPSDB_URL"] == str(tmp_path / "mine")


def test_the_url_wins_over_a_file_with_one_that_the_same_place_names(tmp_path: Path) -> None:
    text = 'OPSDB_URL = "postgresql://ccatwm@db/ops"\nOPSDB_URL_FILE = "url"\n'
    assert load_site(write_site(tmp_path / "s", text)).opsdb_url == "postgresql://ccatwm@db/ops"


def test_a_file_with_the_url_that_is_not_there_is_one_mistake(tmp_path: Path) -> None:
    [told] = problems(write_site(tmp_path / "s", 'OPSDB_URL_FILE = "url"\n'))
    assert f"OPSDB_URL_FILE: {tmp_path}/s/url cannot be read" in told


def test_every_value_knows_where_it_comes_from(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "GRACE_SECONDS = 30\n")
    origins = load_site(folder, **{f"{PREFIX}TRIP_AFTER": "5"}).origins
    assert origins["GRACE_SECONDS"] == f"{folder}/settings.toml [default]"
    assert origins["TRIP_AFTER"] == f"environment variable {PREFIX}TRIP_AFTER"
    assert origins["LEASE_SECONDS"] == "built-in"


# --- mistakes ----------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", 'GRACE_SECONDS = "soon"\nSTAGING_MODE = "push"\nTRIP_AFTER = -1\n')
    assert len(problems(folder)) == 3


def test_a_site_has_no_ceiling_unless_it_says_so_and_none_of_zero(tmp_path: Path) -> None:
    assert load_site(write_site(tmp_path / "s")).max_concurrent is None
    assert load_site(write_site(tmp_path / "t", "MAX_CONCURRENT = 4\n")).max_concurrent == 4
    [text] = problems(write_site(tmp_path / "u", "MAX_CONCURRENT = 0\n"))
    assert "MAX_CONCURRENT: 0 is too small; allowed: a whole number, more than 0" in text


def test_a_mistake_names_file_key_and_what_is_allowed(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", 'STAGING_MODE = "push"\n')
    [text] = problems(folder)
    assert (
        f"{folder}/settings.toml [default]: STAGING_MODE: 'push' is not known; allowed: fetch"
        in text
    )


def test_an_unknown_key_is_refused_with_the_key_that_was_meant(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s", "GRACE_SECOND = 30\n"))
    assert "GRACE_SECOND" in text and "did you mean GRACE_SECONDS?" in text


def test_an_unknown_key_in_the_environment_is_refused(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s"), **{f"{PREFIX}GRACE": "3"})
    assert f"environment variable {PREFIX}GRACE" in text


def test_a_batch_system_that_is_not_installed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s"), **{f"{PREFIX}HPC_BACKEND": "pbs"})
    assert text == (
        f"environment variable {PREFIX}HPC_BACKEND: HPC_BACKEND: 'pbs' is no batch system that is installed; "
        "allowed: local, slurm"
    )


def test_a_number_is_no_path_in_the_file_but_may_be_one_in_the_environment(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s")
    file = folder / "settings.toml"
    file.write_text(re.sub("PIPELINE_BASE_DIR = .*", "PIPELINE_BASE_DIR = 5", BASE))
    with pytest.raises(SettingsError, match="PIPELINE_BASE_DIR: 5 is no text"):
        load_site(folder)
    environ = {f"{PREFIX}PIPELINE_BASE_DIR": "5"}
    assert load_settings(str(folder), environ, tmp_path).pipeline_base_dir == tmp_path / "5"


def test_a_mistake_inside_a_table_is_told_of_whoever_said_it(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "[default.local]\nslots = 3\nmax_queued = -1\n")
    queued, slots = sorted(problems(folder, **{f"{PREFIX}LOCAL__SLOTS": "0"}))
    assert slots.startswith(f"environment variable {PREFIX}LOCAL__SLOTS: LOCAL.slots: 0 is too small")
    assert queued.startswith(f"{folder}/settings.toml [default]: LOCAL.max_queued: -1 is too small")


def test_a_root_given_by_the_environment_is_relative_to_where_we_are(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", '[default.locations.raw]\nroot = "raw"\n')
    environ = {f"{PREFIX}LOCATIONS__other": '@json {"root": "other"}'}
    locations = load_settings(str(folder), environ, tmp_path / "here").locations
    assert (locations["raw"].root, locations["other"].root) == (
        str(folder / "raw"),
        str(tmp_path / "here" / "other"),
    )


def test_a_section_that_the_file_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "[production]\nGRACE_SECONDS = 40\n")
    with pytest.raises(SettingsError) as caught:
        load_site(folder, ENV_FOR_DYNACONF="nosuch")
    assert "'nosuch'" in caught.value.message
    assert caught.value.next == "sections: default, production"


def test_without_a_file_no_section_is_missing(tmp_path: Path) -> None:
    environ = {
        "ENV_FOR_DYNACONF": "nosuch",
        f"{PREFIX}PIPELINE_BASE_DIR": str(tmp_path),
        f"{PREFIX}PROCESSING_LOCATION_ID": "local",
        f"{PREFIX}OPSDB_URL": f"sqlite:///{tmp_path}/opsdb.sqlite",
    }
    assert load_settings(None, environ, tmp_path).processing_location == "local"


def test_an_unknown_key_inside_a_table_is_refused(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s", "[default.local]\nslot = 3\n"))
    assert "slot" in text and "slots" in text


@pytest.mark.parametrize("value", ["nan", "inf", "true", "[1]", "-5", "1.5", "ten"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    assert len(problems(write_site(tmp_path / "s"), **{f"{PREFIX}GRACE_SECONDS": value})) == 1


def test_a_time_zone_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s", 'OBS_TIMEZONE = "America/Atlantis"\n'))
    assert "Atlantis" in text


def test_a_key_outside_any_section_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "settings.toml").write_text("GRACE_SECONDS = 5\n" + BASE)
    [text] = problems(folder)
    assert "[default]" in text


def test_a_file_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", "GRACE_SECONDS = = 3\n")
    with pytest.raises(SettingsError, match="line 4"):
        load_site(folder)


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "network_file_system", lambda path: "nfs4")
    [text] = problems(write_site(tmp_path / "s"))
    assert "nfs4" in text and "postgresql://" in text


def test_the_observations_of_others_are_not_in_sqlite(tmp_path: Path) -> None:
    foreign = 'OBSERVATIONS = "foreign"\n'
    [told] = problems(write_site(tmp_path / "s", f'{foreign}OPSDB_URL = "sqlite:///opsdb.sqlite"\n'))
    assert "OBSERVATIONS: is 'foreign', but the ops-db is SQLite" in told
    assert "foreign on postgresql://, managed on both" in told
    theirs = write_site(tmp_path / "theirs", f'{foreign}OPSDB_URL = "postgresql://me@db/ops"\n')
    assert load_site(theirs).observations == "foreign"


def test_options_with_which_no_job_is_made_are_no_setting(tmp_path: Path) -> None:
    site = write_site(tmp_path, '[default.slurm]\nextra = ["--comment=two words", "--help", "--mem=1G"]\n')
    unwanted, own = problems(site)
    assert "'--help' is an option with which sbatch ends without a job" in unwanted
    assert "'--mem=1G' is an option that ccatwm sets itself" in own


# --- sites -------------------------------------------------------------------------------------------------


def test_without_any_site_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"HOME": str(tmp_path)}, tmp_path)
    assert "ccatwm init" in str(caught.value)


def test_the_folder_of_the_default_site_is_found(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "ccatwm-data")
    assert load_settings(None, {"HOME": str(tmp_path)}, tmp_path).site_dir == folder


def test_the_environment_names_the_site_before_the_default_folder(tmp_path: Path) -> None:
    write_site(tmp_path / "ccatwm-data")
    other = write_site(tmp_path / "other")
    environ = {"HOME": str(tmp_path), f"{PREFIX}SITE": str(other)}
    assert load_settings(None, environ, tmp_path).site_dir == other


def test_the_option_names_the_site_before_the_environment(tmp_path: Path) -> None:
    first, second = write_site(tmp_path / "first"), write_site(tmp_path / "second")
    environ = {f"{PREFIX}SITE": str(second)}
    assert load_settings(str(first), environ, tmp_path).site_dir == first


def test_the_users_data_folder_is_the_last_resort(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "home" / "ccatwm")
    environ = {"XDG_DATA_HOME": str(tmp_path / "home")}
    assert load_settings(None, environ, tmp_path).site_dir == folder


def test_a_site_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("atacama", {}, tmp_path)
    assert "site-configs" in str(caught.value) and "/etc/ccatwm" in str(caught.value)


# --- secrets -----------------------------------------------------------------------------------------------


def test_passwords_in_urls_are_masked() -> None:
    assert mask_url("postgresql://me:pa%40ss@db:5/ops?sslmode=require") == (
        "postgresql://me:***@db:5/ops?sslmode=require"
    )


def test_passwords_in_the_query_of_a_url_are_masked() -> None:
    assert "hunter2" not in mask_url("postgresql://db/ops?user=me&password=hunter2")


def test_shown_settings_hold_no_password(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "s", 'OPSDB_URL = "postgresql://me:hunter2@db/ops"\n')
    assert "hunter2" not in str(show_settings(load_site(folder)))


# --- documentation -----------------------------------------------------------------------------------------


def documented() -> set[str]:
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in row.split("`")[1::2]}


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert {name for name in documented() if "." not in name} == load.known_keys() - {"SITE"}


def test_every_key_of_a_table_is_documented_and_nothing_else_is() -> None:
    tables = {"slurm": schema.SlurmSettings, "ssh": schema.SshSettings, "stage": schema.StageSettings}
    known = {f"{name}.{field.name}" for name, table in tables.items() for field in dataclasses.fields(table)}
    assert {name for name in documented() if "." in name} == known


# --- retention ----------------------------------------------------------------------------------------------


def test_a_site_keeps_products_and_logs_and_scratch_for_a_week(tmp_path: Path) -> None:
    assert load_site(write_site(tmp_path / "s")).retention == Retention(scratch_days=7)


def test_a_site_says_how_long_what_stays(tmp_path: Path) -> None:
    text = 'RETENTION_SCRATCH_DAYS = "keep"\nRETENTION_LOG_DAYS = 0\nRETENTION_SUPERSEDED_DAYS = 90\n'
    settings = load_site(write_site(tmp_path / "s", text))
    assert settings.retention == Retention(superseded_days=90, log_days=0)


def test_a_retention_that_is_no_number_is_a_mistake_that_says_what_is_allowed(tmp_path: Path) -> None:
    [text] = problems(write_site(tmp_path / "s", 'RETENTION_LOG_DAYS = "a while"\n'))
    assert "RETENTION_LOG_DAYS: 'a while' is no number; allowed: keep, or a number, 0 or more" in text
