"""`bin/demo --foreign`: the demo's story on the PostgreSQL of an observatory, which may be read and is not altered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import yaml
from psycopg2.extensions import parse_dsn

from tests.demo.science import PROJECT, Science, ask
from tests.guard import run_when_gone

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
LAUNCHER = PROJECT / "bin" / "ccatwm"


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root")}
    command = [str(word) for word in (PROJECT / "bin" / "demo", "--foreign", "--no-apptainer", *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Path, str]]:
    """The folder of a demo, where PostgreSQL's account gets to, and what it said."""
    folder = Path(tempfile.mkdtemp(prefix="ccatwm-demo-", dir="/var/tmp"))
    folder.chmod(0o755)
    call_off = run_when_gone("sh", "-c", '"$0/opsdb/ctl" stop; rm -rf "$0"', str(folder))
    try:
        done = run_demo("--scans", "4", "--dir", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder, done.stdout
    finally:
        subprocess.run([folder / "opsdb" / "ctl", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder)
        call_off()


@pytest.fixture(scope="module")
def demo(told: tuple[Path, str]) -> Path:
    return told[0]


class TestScience(Science):
    pass


def url_of_reader(demo: Path) -> str:
    settings = (demo / "site" / "settings.toml").read_text().splitlines()
    line = next(line for line in settings if line.startswith("OPSDB_URL"))
    return str(json.loads(line.removeprefix("OPSDB_URL = ")))


def dump(demo: Path) -> str:
    program = next(demo.glob("opsdb/programs/*/*/bin/pg_dump"))
    told = parse_dsn((demo / "opsdb" / "url").read_text().strip())
    command = [program, "--exclude-schema=ccatwm", f"--host={told['host']}", f"--username={told['user']}", told["dbname"]]
    environment = {**os.environ, "PGPASSWORD": told["password"]}
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith("\\"))


def test_nothing_of_theirs_was_altered_and_nothing_is(told: tuple[Path, str]) -> None:
    folder, said = told
    assert "pg_dump of its database said the same before and after the passes, 3 times" in said
    before = dump(folder)
    assert "their_17" in before and "CREATE TABLE public.pipeline" in before and "schema ccatwm" not in before.lower()
    runs = [run["run"] for run in ask(folder, "runs")["runs"]]
    ask(folder, "trigger", "--full")
    ask(folder, "cycle", "--until-idle")
    assert [run["run"] for run in ask(folder, "runs")["runs"]] == runs, "a full comparison found nothing to do"
    assert dump(folder) == before


def test_the_role_could_not_alter_it_nor_read_what_it_need_not(demo: Path) -> None:
    connection = psycopg2.connect(url_of_reader(demo))
    connection.autocommit = True
    for statement in ("UPDATE scan SET outcome = 'ABORTED'", "DELETE FROM package_copy", "CREATE TABLE public.mine (n int)",
                      "INSERT INTO site VALUES (9, 'here')", "SELECT * FROM observer_account"):  # fmt: skip
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
            cursor.execute(statement)
    connection.close()


def test_its_password_is_in_a_file_of_its_own_only(told: tuple[Path, str]) -> None:
    folder, said = told
    file = folder / "opsdb" / "passwords"
    password = file.read_text().strip().rpartition(":")[2]
    assert file.stat().st_mode & 0o777 == 0o600 and len(password) > 20
    assert password not in said and password not in (folder / "site" / "settings.toml").read_text()


def test_the_check_has_nothing_to_ask_for(demo: Path) -> None:
    found = ask(demo, "db", "check")["observations"]
    assert (found["fine"], found["missing"], found["slow"], found["ask_for"]) == (True, [], [], [])


def test_the_map_is_the_draft_with_what_a_person_corrected(demo: Path) -> None:
    tables = yaml.safe_load((demo / "site" / "opsdb-map.yaml").read_text())["tables"]
    assert tables["RawDataPackage"]["table"] == "data_package"
    assert tables["RawDataPackage"]["values"]["state"]["waiting"] == "ANNOUNCED"
    assert tables["Source"]["change_time"] is None


def test_groupings_and_lineage_are_told_from_their_tables(demo: Path) -> None:
    shown = ask(demo, "groupings", "show", "ngc253-co43", "--group-by", "obs_date")["grouping"]
    nights = [(row["sub_group"], row["packages"]) for row in shown]
    assert nights == [("obs_date=2026-02-28", 5), ("obs_date=2026-03-01", 1)]
    lineage = ask(demo, "lineage", "package:CHAI-LFA-20260302-0006")
    assert (lineage["package"]["state"], [copy["location"] for copy in lineage["copies"]]) == ("archived", ["archive"])


def test_a_folder_that_postgresql_does_not_get_to_is_told_before_anything_is_made(tmp_path: Path) -> None:
    closed = tmp_path / "closed" / ("x" * 40) / ("y" * 40)
    done = run_demo("--dir", closed)
    assert (done.returncode, closed.exists()) == (1, False)
    assert "does not do for --foreign" in done.stderr and "--dir" in done.stderr and "Traceback" not in done.stderr
