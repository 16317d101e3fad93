"""Rows of completed runs are made again from their directories, as they were, and nothing is run again for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccatwm.upkeep.importing import Importing, ImportReport, import_runs
from ccatwm.upkeep.requests import request_runs
from tests.cli.conftest import cli
from tests.passes.conftest import Observatory
from tests.passes.in_hand import use_site

__all__ = ["cli"]
ON_SQLITE = pytest.mark.parametrize("empty_observatory", ["sqlite"], indirect=True)  # what no database has a part in
TABLES = ("executed_reduction_step", "run_input", "run_attempt", "run_event", "data_product")
GIVEN_ANEW = {"run_input": {"id"}, "run_attempt": {"id", "submission_id"}, "run_event": {"id"}, "submission": {"id"}}
OLDER = (
    "UPDATE {schema}sub_group SET decision = 0, outcome = NULL, reason = NULL, details = NULL, decided_at = NULL, "
    "wanted_recipe = NULL, current_run_id = NULL, current_decision = 0, stale = NULL"
)


@pytest.fixture
def done(observatory: Observatory) -> Observatory:
    """All runs are completed, and their links removed."""
    observatory.until_quiet()
    assert {run["status"] for run in observatory.runs()} == {"COMPLETED"}
    return observatory


def import_all(done: Observatory, *directories: str, full: bool = False) -> ImportReport:
    context = done.context()
    asked = Importing(context.ops_db_uid, context.clock.now(), "ada", "dome", directories, full)
    return import_runs(context.database, context.workfiles, asked)


def lose_rows(done: Observatory) -> None:
    """As an ops-db of before the runs were made: restored, with the definitions applied and observations ingested."""
    for table in ("run_event", "run_attempt", "run_input", "data_product", "submission", "executed_reduction_step"):
        done.execute(f"DELETE FROM {{schema}}{table}")
    done.execute(OLDER)


def plain(value: Any) -> Any:
    """JSON as a value, whatever the database gives and in whatever order its keys are."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def content(done: Observatory, table: str) -> list[dict[str, Any]]:
    left_out = GIVEN_ANEW.get(table, set()) | {"inputs_removed_at", "replaced_at"}
    rows = [{key: plain(value) for key, value in row.items() if key not in left_out} for row in done.rows(table)]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def tokens(done: Observatory) -> set[tuple[int, int, str]]:
    by_id = {row["id"]: row["token"] for row in done.rows("submission")}
    return {(row["run_id"], row["number"], by_id[row["submission_id"]]) for row in done.rows("run_attempt")}


def current(done: Observatory) -> dict[tuple[int, str], int | None]:
    return {(row["step_id"], row["key"]): row["current_run_id"] for row in done.rows("sub_group")}


def record_of(done: Observatory, run_id: int) -> Path:
    return next(done.base.glob(f"otf/*/*/run-{run_id}/run.json"))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def grid(done: Observatory) -> int:
    return int(done.runs("grid")[0]["id"])


def test_every_row_comes_back_as_it_was(done):
    before = {table: content(done, table) for table in (*TABLES, "submission")}, tokens(done)
    lose_rows(done)
    report = import_all(done)
    assert (len(report.imported), report.refused) == (3, [])
    after = {table: content(done, table) for table in (*TABLES, "submission")}, tokens(done)
    imported = [row for row in after[0]["run_event"] if row["event"] == "IMPORTED"]
    assert {(row["to_status"], row["actor"]) for row in imported} == {("COMPLETED", "ada")}
    after[0]["run_event"] = [row for row in after[0]["run_event"] if row["event"] != "IMPORTED"]
    for table, rows in before[0].items():
        assert after[0][table] == rows, table
    assert after[1] == before[1]


def test_what_was_imported_counts_and_nothing_is_run_again(done):
    before = current(done)
    lose_rows(done)
    assert all(item.counts for item in import_all(done).imported)
    assert current(done) == before
    done.execute("UPDATE {schema}sub_group SET due_at = decided_at WHERE due_at IS NULL")
    done.until_quiet()
    assert (len(done.runs()), current(done)) == (3, before)


@ON_SQLITE
def test_of_two_runs_of_a_sub_group_the_one_decided_on_last_counts(done):
    done.edit("mode: hot_cold", "mode: cold")
    done.until_quiet()
    count, before = len(done.runs()), current(done)
    assert count > 3
    lose_rows(done)
    import_all(done)
    assert current(done) == before
    done.until_quiet()
    assert (len(done.runs()), current(done)) == (count, before)


def test_what_was_decided_since_the_restore_wins_and_keeps_its_products(done):
    """The ops-db was restored and went on before anybody imported: its new runs count, and are not made again."""
    lose_rows(done)
    done.execute("UPDATE {schema}sub_group SET due_at = created_at")
    done.until_quiet()
    newer = current(done)
    assert min(run["id"] for run in done.runs()) > 3
    report = import_all(done)
    assert (len(report.imported), [item.counts for item in report.imported]) == (3, [False] * 3)
    count = len(done.runs())
    done.until_quiet()
    assert (len(done.runs()), current(done)) == (count, newer)


def decide_again(done: Observatory, *passes: str) -> list[int]:
    """Runs of what the restored ops-db has decided on before anybody imported."""
    lose_rows(done)
    done.execute("UPDATE {schema}sub_group SET due_at = created_at")
    for name in ("trigger", "resolve", *passes):
        done.run_pass(name)
    return sorted(run["id"] for run in done.runs())


@pytest.mark.parametrize("passes", [(), ("stage",)])
def test_what_was_decided_on_again_and_is_imported_then_is_not_done_again(done, passes):
    before, jobs = current(done), done.jobs()
    again = decide_again(done, *passes)
    assert len(again) == 2 and min(again) > 3
    report = import_all(done)
    assert sorted(run.id for item in report.imported for run in item.written.alike.superseded) == again
    assert f"run {again[0]}, which was to make the same, is superseded" in "\n".join(report.lines())
    done.until_quiet()
    assert (current(done), done.jobs(), len(done.runs())) == (before, jobs, 5)
    ends = {(run["status"], bool(run["superseded"]), bool(run["blocking"])) for run in done.runs() if run["id"] in again}
    assert ends == {("CANCELLED", True, False)}
    log = [row for row in done.rows("change_log") if row["act"] == "import"]
    assert sorted(n for row in log for n in plain(row["details"])["superseded"]) == again


@ON_SQLITE
def test_what_was_handed_over_again_is_told_with_what_ends_it(done):
    again = decide_again(done, "stage", "submit")
    report = import_all(done)
    going_on = [run for item in report.imported for run in item.written.alike.going_on]
    assert [(run.id, run.status) for run in going_on] == [(number, "SUBMITTED") for number in again]
    assert all(f"`ccatwm cancel {number} --reason TEXT` ends it" in "\n".join(report.lines()) for number in again)
    done.until_quiet()
    assert {run["status"] for run in done.runs()} == {"COMPLETED"}
    assert not any(item.written.alike.superseded for item in report.imported)


def test_what_a_person_holds_or_has_forced_is_superseded_by_no_import(done):
    held, other = decide_again(done)
    done.execute(f"UPDATE {{schema}}executed_reduction_step SET held = 'to be seen' WHERE id = {held}")
    done.run_pass("trigger")
    report = import_all(done)
    assert [run.id for item in report.imported for run in item.written.alike.superseded] == [other]
    assert f"run {held} makes the same, and is PENDING; it is held: to be seen" in "\n".join(report.lines())


def test_what_was_asked_for_with_force_is_superseded_by_no_import(done):
    lose_rows(done)
    context = done.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", force=True, reason="made anew", actor="ada",
                 now=context.clock.now(), yes=True)  # fmt: skip
    for name in ("trigger", "resolve"):
        done.run_pass(name)
    assert [plain(run["reason_details"])["forced"] for run in done.runs()] == [True, True]
    report = import_all(done)
    kept = [run for item in report.imported for run in item.written.alike.going_on]
    assert len(kept) == 2 and {run.kept for run in kept} == {"it was asked for with --force"}
    assert not any(item.written.alike.superseded for item in report.imported)


@ON_SQLITE
def test_a_run_whose_files_are_gone_supersedes_none(done):
    for path in done.base.glob("otf/calibrate/*/run-*/attempt-1/output/spectra.txt"):
        path.unlink()
    decide_again(done)
    assert not any(item.written.alike.superseded for item in import_all(done).imported)


def into_trash(done: Observatory, *run_ids: int, beside: bool = False) -> list[Path]:
    """Outputs as `gc` moves them; where they lie then."""
    folders = []
    for run_id in run_ids:
        output = next(done.base.glob(f"otf/*/*/run-{run_id}/attempt-1/output"))
        folder = (output.parents[1] if beside else done.base) / ".trash" / f"{run_id}-20260301T000000Z"
        folder.parent.mkdir(exist_ok=True)
        output.rename(folder)
        folders.append(folder)
    return folders


@pytest.mark.parametrize("beside", [False, True])
def test_what_gc_took_away_since_the_backup_is_brought_back_and_not_made_again(done, beside):
    before, jobs = current(done), done.jobs()
    folders = into_trash(done, 1, 2, beside=beside)
    again = decide_again(done)
    report = import_all(done)
    found = {item.run_id: item.from_trash for item in report.imported}
    assert found == {1: str(folders[0].relative_to(done.base)), 2: str(folders[1].relative_to(done.base)), 3: None}
    assert f"was brought back from {found[1]}" in "\n".join(report.lines())
    assert all(item.counts and not item.absent for item in report.imported)
    assert sorted(run.id for item in report.imported for run in item.written.alike.superseded) == again
    assert {row["status"] for row in done.rows("data_product")} == {"present"} and not any(f.exists() for f in folders)
    done.until_quiet()
    assert (current(done), done.jobs(), len(done.runs())) == (before, jobs, 3 + len(again))


@ON_SQLITE
@pytest.mark.parametrize("what", ["other bytes", "one file less", "something at its place", "a row speaks of it"])
def test_what_is_not_whole_in_the_trash_or_has_no_free_place_stays_there(done, what):
    (folder,) = into_trash(done, 1)
    file = folder / "spectra.txt"
    file.chmod(0o644)
    if what == "other bytes":
        file.write_text(file.read_text().swapcase())
    elif what == "one file less":
        file.unlink()
    elif what == "something at its place":
        next(done.base.glob("otf/*/*/run-1/attempt-1")).joinpath("output").mkdir()
    lose_rows(done)
    if what == "a row speaks of it":
        import_all(done, str(record_of(done, 2).parent.relative_to(done.base)))
        done.execute(
            "INSERT INTO {schema}trash (kind, run_id, path, trash_path, size_bytes, inodes, freed_bytes, rule, reason, "
            f"actor, doomed_at) SELECT 'scratch', 2, 'x', '.trash/{folder.name}', 0, 0, 0, 'x', 'x', 'x', created_at "
            "FROM {schema}executed_reduction_step WHERE id = 2"
        )
    (item,) = [i for i in import_all(done).imported if i.run_id == 1]
    assert (item.from_trash, item.counts, len(item.absent)) == (None, False, 2) and folder.is_dir()


@ON_SQLITE
@pytest.mark.parametrize(
    ("status", "is_open", "next"),
    [("STAGED", 1, "`ccatwm doctor --reconcile` adopts its attempt"), ("FAILED", 0, "`ccatwm retry 1`")],
)
def test_a_completed_run_that_is_left_out_is_told_with_what_to_type(done, status, is_open, next):
    """The backup was made before it completed."""
    done.execute(f"UPDATE {{schema}}executed_reduction_step SET status = '{status}', is_open = {is_open} WHERE id = 1")
    report = import_all(done)
    (left,) = report.left_out
    assert left.directory == str(record_of(done, 1).parent.relative_to(done.base))
    assert left.why.endswith(f"the ops-db knows run 1 as {status}") and left.next.startswith(next)
    assert (report.to_json()["left_out"][0]["run"], report.exit_code, report.imported) == (1, 0, [])


@ON_SQLITE
def test_what_stands_on_a_run_that_is_under_way_says_to_let_it_end_first(done):
    number = grid(done)
    for table in ("run_event", "run_attempt", "run_input", "data_product"):
        done.execute(f"DELETE FROM {{schema}}{table} WHERE run_id = {number}")
    done.execute(f"DELETE FROM {{schema}}executed_reduction_step WHERE id = {number}")
    done.execute("DELETE FROM {schema}data_product WHERE run_id = 1")
    done.execute("UPDATE {schema}executed_reduction_step SET status = 'RUNNING', is_open = 1 WHERE id = 1")
    (refused,) = import_all(done).refused
    assert refused.why == "it stands on run 1, which is RUNNING"
    assert refused.next == "`ccatwm cycle` until run 1 is completed, then this command again"


def test_ids_of_imported_runs_and_products_are_not_given_again(done):
    lose_rows(done)
    import_all(done)
    taken = {run["id"] for run in done.runs()}, {product["id"] for product in done.rows("data_product")}
    done.edit("mode: hot_cold", "mode: cold")
    done.until_quiet()
    assert min({run["id"] for run in done.runs()} - taken[0]) > max(taken[0])
    assert min({p["id"] for p in done.rows("data_product")} - taken[1]) > max(taken[1])


@ON_SQLITE
def test_what_the_ops_db_knows_is_left_as_it_is(done):
    before = {table: content(done, table) for table in TABLES}
    change(record_of(done, 1), warnings=["never"])
    assert import_all(done).imported == []
    named = str(record_of(done, 1).parent.relative_to(done.base))
    assert import_all(done, named).known == [named]
    assert {table: content(done, table) for table in TABLES} == before


@ON_SQLITE
def test_a_run_whose_files_are_gone_is_known_and_made_again(done):
    lost = next(done.base.glob("otf/calibrate/*/run-1/attempt-1/output/spectra.txt"))
    lost.unlink()
    lose_rows(done)
    report = import_all(done)
    (item,) = [i for i in report.imported if i.run_id == 1]
    assert (item.absent, item.counts) == ({"spectra.txt": "is gone"}, False)
    status = {p["path"]: p["status"] for p in done.rows("data_product") if p["run_id"] == 1}
    assert status == {"spectra.txt": "missing", "qa/tsys.txt": "present"}
    done.until_quiet()
    assert [run["reason"] for run in done.runs("calibrate")].count("new-sub-group") == 3


@ON_SQLITE
def test_a_file_of_the_same_size_is_told_by_its_checksum_where_that_is_asked_for(done):
    path = next(done.base.glob("otf/calibrate/*/run-1/attempt-1/output/spectra.txt"))
    path.chmod(0o644)
    path.write_text(path.read_text().swapcase())
    lose_rows(done)
    (item,) = [i for i in import_all(done, full=True).imported if i.run_id == 1]
    assert item.absent == {"spectra.txt": "has another checksum"}


@ON_SQLITE
def test_a_damaged_record_is_named_and_the_others_are_imported(done):
    path = record_of(done, 1)
    path.write_text(path.read_text()[:-100])
    lose_rows(done)
    report = import_all(done)
    damaged, downstream = report.refused
    assert damaged.directory == str(path.parent.relative_to(done.base))
    assert damaged.why.startswith("run.json is damaged: it is no JSON")
    assert [item.run_id for item in report.imported] == [2]
    assert downstream.why.startswith("it stands on run 1, which the ops-db does not know")


@ON_SQLITE
def test_a_record_that_the_ops_db_refuses_is_named_and_the_others_are_imported(done):
    path = record_of(done, grid(done))
    lose_rows(done)
    attempts = json.loads(path.read_text())["attempts"]
    change(path, attempts=[*attempts, {**attempts[0], "number": attempts[0]["number"] + 1}])  # one task twice
    report = import_all(done)
    (refused,) = report.refused
    assert refused.directory == str(path.parent.relative_to(done.base)) and "refused a row" in refused.why
    assert report.imported and all(run.directory != refused.directory for run in report.imported)


@ON_SQLITE
def test_a_run_of_a_pipeline_that_is_not_defined_is_named_and_left(done):
    lose_rows(done)
    done.execute("UPDATE {schema}pipeline SET name = 'other'")
    report = import_all(done)
    assert {r.why for r in report.refused} == {"otf/calibrate is not defined any more", "otf/grid is not defined any more"}
    assert (report.imported, done.runs()) == ([], [])


def test_a_sub_group_that_is_not_known_yet_comes_with_its_run(done):
    before = {(row["key"], json.dumps(plain(row["dims"]))) for row in done.rows("sub_group")}
    lose_rows(done)
    done.execute("DELETE FROM {schema}sub_group")
    assert len(import_all(done).imported) == 3
    assert {(row["key"], json.dumps(plain(row["dims"]))) for row in done.rows("sub_group")} == before


def test_a_product_whose_number_is_taken_has_a_new_one_and_is_still_an_input(done):
    """Another run was given it by an ops-db that went on after the restore."""
    given = json.loads(record_of(done, 1).read_text())["products"]
    path = record_of(done, 2)
    products = json.loads(path.read_text())["products"]
    change(path, products=[{**p, "id": given[n]["id"]} for n, p in enumerate(products)])
    lose_rows(done)
    assert import_all(done).refused == []
    assert len({p["id"] for p in done.rows("data_product")}) == len(done.rows("data_product"))
    runs_of = {p["id"]: p["run_id"] for p in done.rows("data_product")}
    read = {row["product_id"] for row in done.rows("run_input") if row["run_id"] == grid(done)}
    assert {runs_of[number] for number in read} == {1, 2}


@ON_SQLITE
def test_reconciling_adopts_completed_runs_where_that_is_asked_for(done, cli, monkeypatch):
    use_site(done, monkeypatch)
    for path in done.base.glob("otf/*/*/run-*/run.json"):
        change(path, ops_db=done.context().ops_db_uid)
    lose_rows(done)
    answer = cli("doctor", "--reconcile", "--import", "--json")
    assert answer.code == 0, answer.out
    assert [item["run"] for item in answer.json["import"]["imported"]] == [1, 2, 3]
    assert (answer.json["left"], len(done.runs())) == ([], 3)
    assert "3 runs imported" not in cli("doctor", "--reconcile", "--import").out
    done.execute("UPDATE {schema}executed_reduction_step SET status = 'STAGED', is_open = 1 WHERE id = 1")
    (left_out,) = cli("doctor", "--reconcile", "--import", "--json").json["import"]["left_out"]
    assert left_out["next"] == "`ccatwm cycle` collects it"
    assert cli("doctor", "--import").code == 2


@ON_SQLITE
def test_fsck_names_what_it_does_not_know_with_the_command_that_makes_its_rows_again(done, cli, monkeypatch):
    use_site(done, monkeypatch)
    for path in done.base.glob("otf/*/*/run-*/run.json"):
        change(path, ops_db=done.context().ops_db_uid)
    lose_rows(done)
    answer = cli("fsck", "--json")
    unknown = [row for row in answer.json["fsck"] if row["kind"] == "run-unknown"]
    assert (answer.code, len(unknown)) == (1, 3)
    directories = [row["path"] for row in unknown]
    assert [row["next"] for row in unknown] == [f"`ccatwm fsck --import {d}` makes its rows again" for d in directories]
    assert "3 runs imported" in cli("fsck", "--import", *directories).out
    assert f"known     {directories[0]}" in cli("fsck", "--import", str(done.base / directories[0])).out
    assert cli("fsck", "--json").json["fsck"] == []


@ON_SQLITE
def test_run_directories_may_be_named_from_the_current_folder_and_are_imported_once_with_the_reason(
    done, cli, monkeypatch
):
    use_site(done, monkeypatch)
    for path in done.base.glob("otf/*/*/run-*/run.json"):
        change(path, ops_db=done.context().ops_db_uid)
    lose_rows(done)
    for folder in sorted(done.base.glob("otf/*/*/run-*"), key=lambda path: int(path.name[4:])):
        monkeypatch.chdir(folder.parent)
        said = cli("fsck", "--import", folder.name, f"{folder}/", "--reason", "restored").out
        assert said.count("imported  ") == 1 and "1 run imported" in said
    imports = [row["reason"] for row in done.rows("change_log") if row["act"] == "import"]
    assert imports == ["restored"] * 3


@ON_SQLITE
def test_what_is_no_run_directory_is_told_all_at_once(done, cli, monkeypatch):
    use_site(done, monkeypatch)
    wrong = ["otf", "otf/../../x", "../a/b/run-3", "", "/", "otf/grid/all/latest"]
    answer = cli("fsck", "--import", "otf/grid/all/run-3", *wrong)
    assert answer.code == 2 and answer.err.count("a run directory is PIPELINE/STEP/SUB_GROUP/run-N") == len(wrong)


@ON_SQLITE
@pytest.mark.parametrize(
    "words",
    [["--import", "/etc"], ["otf/grid/all/run-3"], ["--import", "--yes"], ["--reason", "x"], ["--lost", "3"], ["--yes"]],
)
def test_what_cannot_be_imported_is_refused_with_what_to_type(done, cli, monkeypatch, words):
    use_site(done, monkeypatch)
    answer = cli("fsck", *words)
    assert answer.code == 2 and ("next: " in answer.err or "a run directory is" in answer.err)
