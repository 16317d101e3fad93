"""`ccatwm rerun RUN --by-hand DIR`: a failed run in somebody's hands, and nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.roles import build_roles
from tests.cli.conftest import Cli, cli
from tests.crash.rig import snapshot
from tests.passes.conftest import Observatory
from tests.passes.in_hand import FAILING, PROGRAM, tree_of, use_site

__all__ = ["cli"]
NOBODY = 65534


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made in the folder where somebody stands is made in one of the test's own."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def failed(three_scans: Observatory, monkeypatch: pytest.MonkeyPatch) -> Observatory:
    """Every run failed with exit code 3, as the program says because of `mode: hot_cold`."""
    three_scans.scripts = True
    (three_scans.folder / "program.sh").write_text(FAILING)
    three_scans.apply()
    three_scans.edit("software: cal,", "software: cal, max_retries: 0,")
    three_scans.until_quiet()
    assert {run["status"] for run in three_scans.runs()} == {"FAILED"}
    use_site(three_scans, monkeypatch)
    return three_scans


def first(observatory: Observatory) -> dict:
    """Of scan-1."""
    return next(run for run in observatory.runs() if run["sub_group_key"].endswith("unit=1"))


def run_folder(observatory: Observatory, run: dict) -> Path:
    names = (run["pipeline_name"], run["step_name"], run["sub_group_key"], f"run-{run['id']}")
    return observatory.base.joinpath(*names)


def rerun(cli: Cli, observatory: Observatory, *options: str, folder: str = "mine"):
    return cli("rerun", str(first(observatory)["id"]), "--by-hand", folder, *options)


@pytest.mark.parametrize("option", [("--set", "mode"), ("--image", "/no/such/image.sif")])
def test_what_is_refused_leaves_no_folder(failed, cli, option):
    answer = rerun(cli, failed, *option)
    assert answer.code == 2 and option[0].strip("-") in answer.err
    assert not Path("mine").exists()


def purge(observatory: Observatory) -> None:
    """What eviction and the end of a run leave: no links, nothing in the cache."""
    for folder in observatory.base.rglob("run-*"):
        for name in ("input", "workspace"):
            shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(observatory.base / ".cache")


def test_a_program_that_failed_fails_again_in_a_folder_of_its_own(failed, cli):
    answer = rerun(cli, failed)
    assert (answer.code, "exit code 3" in answer.err) == (1, True)
    (output,) = Path("mine").glob("output/manifest.json")
    attempt = run_folder(failed, first(failed)) / "attempt-1"
    then, now = json.loads((attempt / "output/manifest.json").read_text()), json.loads(output.read_text())
    for key in ("run", "attempt", "config", "created_at", "software", "resources", "references", "sub_group"):
        assert now[key] == then[key], key
    assert [(i["name"], i["checksum"], i["role"]) for i in now["inputs"]] == [
        (i["name"], i["checksum"], i["role"]) for i in then["inputs"]
    ]
    assert Path("mine/output/notes.txt").read_bytes() == (attempt / "output/notes.txt").read_bytes()
    assert Path("mine/output/notes.txt").read_text().startswith("scan-1")


def test_the_program_sees_the_environment_of_the_job_with_other_folders(failed, cli):
    rerun(cli, failed)
    attempt = run_folder(failed, first(failed)) / "attempt-1"
    then = (attempt / "output/environment.txt").read_text()
    now = Path("mine/output/environment.txt").read_text()
    mine = str(Path("mine").resolve())
    assert now == then.replace(str(attempt), mine).replace(str(attempt.parent), mine)


def test_nothing_is_written_to_the_ops_db_or_below_the_base_directory(failed, cli):
    before = snapshot(failed.url), tree_of(failed.base), tree_of(failed.folder / "state")
    rerun(cli, failed)
    purged = Path("purged")
    rerun(cli, failed, "--set", "mode=cold", folder=str(purged))
    assert (snapshot(failed.url), tree_of(failed.base), tree_of(failed.folder / "state")) == before


def test_a_value_that_is_set_reaches_the_program(failed, cli):
    answer = rerun(cli, failed, "--set", "mode=cold", "--set", "sky.opacity=0.1", "--json")
    assert (answer.code, answer.json["exit_code"], answer.json["succeeded"]) == (0, 0, True)
    assert answer.json["changed"] == {"mode": "cold", "sky.opacity": 0.1}
    manifest = json.loads(Path("mine/output/manifest.json").read_text())
    assert manifest["config"] == {"mode": "cold", "sky": {"opacity": 0.1}}


def test_what_is_set_wrongly_is_told_at_once(failed, cli):
    answer = rerun(cli, failed, "--set", "cold", "--set", "mode.load=1", "--set", "a=[1, 2]", "--set", "b={")
    assert (answer.code, Path("mine/config").exists()) == (2, False)
    for text in ("--set cold: is no change", "mode has a value and no keys below", "--set a=[1, 2]: is no single value"):
        assert text in answer.err, answer.err


def test_inputs_that_were_purged_are_brought_from_where_they_are_archived(failed, cli):
    purge(failed)
    answer = rerun(cli, failed)
    assert "package scan-1-LFA (from raw)" in answer.err
    assert Path("mine/output/notes.txt").read_text().startswith("scan-1")
    assert not (failed.base / ".cache").exists()


def test_a_corrupt_copy_is_passed_over(failed, cli):
    purge(failed)
    run = next(run for run in failed.runs() if run["sub_group_key"].endswith("unit=2"))
    answer = cli("rerun", str(run["id"]), "--by-hand", "mine", "--json")
    assert answer.json["inputs"] == [{"name": "package scan-2-LFA", "from": "raw"}]


def test_an_input_that_cannot_be_had_is_named_with_every_place_that_was_looked_at(failed, cli):
    purge(failed)
    (failed.folder / "raw" / "scan-1.tar").unlink()
    answer = rerun(cli, failed)
    assert answer.code == 2
    assert "package scan-1-LFA" in answer.err and "raw: scan-1.tar" in answer.err
    assert "run 1: " in answer.err and "the processing location: .cache/packages" in answer.err
    assert "ccatwm lineage package:scan-1-LFA" in answer.err
    assert not Path("mine").exists()


def test_a_folder_that_is_not_empty_is_left_as_it_is(failed, cli):
    Path("mine").mkdir()
    Path("mine/notes").write_text("keep")
    answer = rerun(cli, failed)
    assert (answer.code, "is not empty" in answer.err) == (2, True)
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]


def test_a_folder_below_the_base_directory_is_refused(failed, cli):
    Path("there").symlink_to(failed.base)  # by whatever name
    for folder in ("there/mine", f"{failed.base}/otf/mine"):
        answer = cli("rerun", "1", "--by-hand", folder)
        assert (answer.code, "lies below the base directory" in answer.err) == (2, True)
        assert "next: name a folder elsewhere" in answer.err
    assert not list(failed.base.rglob("mine"))


def test_a_run_that_is_not_there_is_told_with_the_newest_that_are(failed, cli):
    answer = cli("rerun", "99", "--by-hand", "mine")
    assert (answer.code, "there is no run 99" in answer.err, "the newest are" in answer.err) == (2, True, True)


def test_show_leads_to_the_command_and_to_a_run_by_hand(failed, cli):
    run = first(failed)["id"]
    following = cli("show", str(run), "--json").json["next"]
    assert following[1:3] == [f"ccatwm command {run}", f"ccatwm rerun {run} --by-hand DIR"]


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "a-failed-run.md"
TYPED = re.findall(r"^ccatwm .*?(?= +#|$)", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in TYPED if "--shell" not in line and "--image" not in line])
def test_what_the_page_on_failed_runs_says_can_be_typed(failed, cli, line):
    run = first(failed)
    words = {"RUN": str(run["id"]), "PIPELINE": "otf", "STEP": "calibrate", "KEY": run["sub_group_key"]}
    answer = cli(*(words.get(word, word) for word in shlex.split(line)[1:]))
    assert answer.code == int("--by-hand" in line and "mode=cold" not in line), answer.err


def test_without_a_folder_it_says_how_it_is_called_and_what_records(failed, cli):
    answer = cli("rerun", "1")
    assert (answer.code, "--by-hand DIR" in answer.err, "ccatwm retry 1" in answer.err) == (2, True, True)


def test_a_shell_has_the_environment_and_the_inputs_of_the_program(failed, cli):
    typed = "echo run=$WORKFLOW_RUN_ID; ls $WORKFLOW_INPUT_DIR; pwd; exit 7\n"
    command = [sys.executable, "-m", "ccatwm", "rerun", str(first(failed)["id"]), "--by-hand", "mine", "--shell"]
    done = subprocess.run(command, input=typed, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["run=1", "scan-1-LFA", str(Path("mine/scratch").resolve())]


def test_what_is_printed_for_another_time_works(failed, cli):
    rerun(cli, failed)
    shutil.rmtree("mine/output")
    Path("mine/output").mkdir()
    done = subprocess.run(["mine/command.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr, Path("mine/output/notes.txt").exists()) == (3, "the load is hot\n", True)


@pytest.mark.parametrize("empty_observatory", ["postgresql"], indirect=True)
def test_somebody_without_any_right_to_write_can_do_it(failed):
    """Another account, with the readers' role: the run, its folders and the ops-db are not his."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("takes root, and setpriv, to become somebody else")
    settings = {key: value for key, value in os.environ.items() if key.startswith("CCAT_WORKFLOW_MANAGER_")}
    owner = failed.context().database
    with owner.engine.connect() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS onlooker"))
        connection.execute(sa.text("CREATE ROLE onlooker LOGIN"))
        for statement in build_roles("p", "o", "onlooker", managed=True)[2].statements:
            connection.execute(sa.text(statement))
        connection.commit()
    settings["CCAT_WORKFLOW_MANAGER_OPSDB_URL"] = owner.url.set(username="onlooker").render_as_string(hide_password=False)
    before = _give_away(failed.base), snapshot(failed.url)
    sockets = Path(str(owner.url.query["host"]))
    mode = sockets.stat().st_mode
    try:
        sockets.chmod(0o711)  # a real server's folder of sockets is open
        done = _without_privileges(failed, settings)
        assert "exit code 3" in done.stderr, done.stderr
        assert Path("mine/output/notes.txt").read_text().startswith("scan-1")
        assert (tree_of(failed.base), snapshot(failed.url)) == before
    finally:
        sockets.chmod(mode)
        with owner.engine.connect() as connection:
            connection.execute(sa.text("DROP OWNED BY onlooker"))
            connection.execute(sa.text("DROP ROLE onlooker"))
            connection.commit()
        owner.dispose()


def _give_away(base: Path) -> dict[str, str]:
    """The base directory is another account's, which lets everybody read; what it holds."""
    for path in (base, *base.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return tree_of(base)


def _without_privileges(failed: Observatory, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Without capabilities root is an account like others: modes hold."""
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    refused = subprocess.run([*plain, "touch", failed.base / "x"], capture_output=True, text=True)
    assert "ermission denied" in refused.stderr, refused.stderr
    command = [sys.executable, "-m", "ccatwm", "rerun", str(first(failed)["id"]), "--by-hand", "mine"]
    environment = {**settings, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run([*plain, *command], env=environment, text=True, capture_output=True)


# --- upstream products --------------------------------------------------------------------------------------


@pytest.fixture
def gridded(observatory: Observatory, monkeypatch: pytest.MonkeyPatch) -> Observatory:
    observatory.scripts = True
    (observatory.folder / "program.sh").write_text(PROGRAM)
    observatory.edit("depends_on: [calibrate]", "depends_on: [calibrate], max_retries: 0")
    observatory.until_quiet()
    use_site(observatory, monkeypatch)
    return observatory


def test_products_of_upstream_steps_are_brought_where_the_run_had_them(gridded, cli):
    (run,) = gridded.runs("grid")
    made = (run_folder(gridded, run) / "attempt-1/output/upstream.txt").read_bytes()
    purge(gridded)
    answer = cli("rerun", str(run["id"]), "--by-hand", "mine", "--json")
    assert answer.code in (0, 1) and answer.json["exit_code"] == 0
    assert Path("mine/output/upstream.txt").read_bytes() == made != b""


def test_a_product_that_is_gone_is_named_with_the_run_that_made_it(gridded, cli):
    (run,) = gridded.runs("grid")
    purge(gridded)
    (upstream, *_) = gridded.runs("calibrate")
    (run_folder(gridded, upstream) / "attempt-1/output/notes.txt").unlink()
    answer = cli("rerun", str(run["id"]), "--by-hand", "mine")
    assert answer.code == 2
    assert f"product notes.txt of run {upstream['id']} (calibrate " in answer.err


def test_a_product_that_was_changed_is_not_taken_for_the_one_that_was_read(gridded, cli):
    (run,) = gridded.runs("grid")
    purge(gridded)
    (upstream, *_) = gridded.runs("calibrate")
    path = run_folder(gridded, upstream) / "attempt-1/output/notes.txt"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    answer = cli("rerun", str(run["id"]), "--by-hand", "mine")
    assert (answer.code, "expected" in answer.err) == (2, True)


# --- images -------------------------------------------------------------------------------------------------


@pytest.fixture
def imageless(three_scans: Observatory, monkeypatch: pytest.MonkeyPatch) -> Observatory:
    """The image of the program is not there: nothing was ever staged."""
    three_scans.settings_changes = {"container_runtime": "apptainer"}
    path = three_scans.folder / "pipeline.yaml"
    image = three_scans.folder / "cal.sif"
    path.write_text(path.read_text().replace("command: [", f"image: {image}, command: ["))
    image.write_bytes(b"image")
    three_scans.apply()
    image.unlink()
    three_scans.until_quiet()
    assert {(run["status"], run["failure_class"]) for run in three_scans.runs()} == {("FAILED", "container")}
    use_site(three_scans, monkeypatch, CONTAINER_RUNTIME="apptainer")
    return three_scans


def test_an_image_that_is_missing_is_told_with_what_to_do(imageless, cli):
    answer = rerun(cli, imageless)
    assert answer.code == 2
    assert f"image {imageless.folder / 'cal.sif'}: is missing" in answer.err and "--image FILE" in answer.err
    assert not Path("mine").exists()


def test_a_site_without_containers_runs_the_command_as_its_jobs_do(imageless, cli, monkeypatch):
    use_site(imageless, monkeypatch)
    (imageless.folder / "program.sh").write_text(FAILING)
    answer = rerun(cli, imageless, "--set", "mode=cold", "--json")
    assert (answer.json["exit_code"], answer.json["runtime"]) == (0, "none")
    refused = rerun(cli, imageless, "--image", "x.sif", folder="other")
    assert (refused.code, "without containers" in refused.err) == (2, True)
