"""A site goes on after its ops-db went back in time: nothing runs twice, nothing is lost, no directory is used again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.restore.conftest import Place


def blocked_submit(place: Place) -> None:
    before = place.executions()
    first, second = place("submit"), place("submit")
    assert "submission is blocked: restored" in first.out + first.err and "doctor --reconcile" in first.out + first.err
    assert "blocked" not in second.out + second.err, "told once"
    assert [item["outcome"] for item in place("submit", "--json").json["items"]] == ["blocked"]
    place.idle()  # ends
    assert place.executions() == before


def test_what_was_done_after_the_backup_is_found_again(place: Place, tmp_path: Path) -> None:
    for name in ("trigger", "resolve", "stage"):
        place(name)
    assert {row["status"] for row in place.runs().values()} == {"STAGED"}
    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    assert backup.stat().st_mode & 0o777 == 0o600

    place.idle()
    place.observe("late.yaml")
    place.idle()
    before, files, executed = place.runs(), place.files(), place.executions()
    assert {row["status"] for row in before.values()} == {"COMPLETED"}
    assert len(before) > 3

    restored = place("db", "restore", "--yes", "--reason", "disk lost", "--json", backup).json
    assert restored["schema"] == "ccatwm.db-restore/1"
    assert {row["status"] for row in place.runs().values()} == {"STAGED"}
    assert re.match(r"restored from the backup of [\d-]{10} [\d:]{8} UTC;", place.blocked() or "")
    assert any("doctor --reconcile" in str(line) for line in place("status", "--json").json["next"])
    assert "submission is blocked: restored" in json.dumps(place.run("health", "--json").json)
    blocked_submit(place)

    first = place("doctor", "--reconcile", "--json", code=1).json
    assert {(a["run"], a["attempt"]) for a in first["adopted"]} == {(1, 1), (2, 1)}
    assert len(first["left"]) == len(before) - 2 and place.blocked()
    assert all("--yes" in item["next"] and item["why"] for item in first["left"])
    last = place("doctor", "--reconcile", "--yes", "--json").json
    assert (last["left"], last["submission_blocked"], place.blocked()) == ([], None, None)
    assert place("doctor", "--reconcile", "--json").json["left"] == []

    place.idle()
    place.observe("late.yaml")
    place.idle()
    after = place.runs()
    assert {row["status"] for row in after.values()} == {"COMPLETED"}
    assert set(place.executions().values()) == {1}
    assert not executed - place.executions()
    assert files.items() <= place.files().items()
    assert {1, 2} == set(before) & set(after), "ids of runs made after the backup are used again"
    assert {"run-1/attempt-1", "run-2/attempt-1"} <= {"/".join(Path(name).parts[-2:]) for name in executed}
    said = place("history", "--json").out
    assert "disk lost" in said and "reconcile" in said


def test_a_job_that_ran_when_the_backup_was_made_is_not_run_again(place: Place, tmp_path: Path) -> None:
    for name in ("trigger", "resolve", "stage", "submit"):
        place(name)
    backup = tmp_path / "ops.dump"
    place("db", "backup", "-q", backup)
    place.idle()
    files = place.files()
    place("db", "restore", "--yes", backup)
    assert [path.name for path in place.site.glob("*-journal")] == []
    place("poll")  # passes may come first
    place("doctor", "--reconcile", "--yes")
    place.idle()
    assert {row["status"] for row in place.runs().values()} == {"COMPLETED"}
    assert set(place.executions().values()) == {1}
    assert files.items() <= place.files().items()


AMID_A_SUBMISSION = """
import subprocess, sys
from ccatwm.cli.main import main
from ccatwm.edges.scheduler.local import LocalScheduler

site, backup, when = sys.argv[1:]
submit = LocalScheduler.submit

def backed_up(self, *arguments, **options):
    def back_up():
        subprocess.run([sys.executable, "-m", "ccatwm", "--site", site, "db", "backup", "-q", backup], check=True)
    if when == "before":
        back_up()
    made = submit(self, *arguments, **options)
    if when == "after":
        back_up()
    return made

LocalScheduler.submit = backed_up
sys.argv = ["ccatwm", "--site", site, "submit"]
main()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_made_amid_a_submission_is_reconciled_at_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_RETRY_BASE_SECONDS", "0")
    place.fail_at_first()
    for name in ("trigger", "resolve", "stage"):
        place(name)
    backup = tmp_path / "ops.dump"
    command = [sys.executable, "-c", AMID_A_SUBMISSION, place.site, backup, when]
    subprocess.run(command, check=True, cwd=place.world)
    place.idle()
    files = place.files()
    place("db", "restore", "--yes", backup)
    assert "SUBMITTING" in {row["status"] for row in place.runs().values()}
    place("doctor", "--reconcile", "--yes")
    assert place.blocked() is None
    place.idle()
    assert {row["status"] for row in place.runs().values()} == {"COMPLETED"}
    assert set(place.executions().values()) == {1}
    assert files.items() <= place.files().items()


def test_without_yes_nothing_is_replaced(place: Place, tmp_path: Path) -> None:
    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    first = backup.read_bytes()
    assert "--yes" in place("db", "backup", backup, code=2).err
    assert backup.read_bytes() == first
    place("db", "backup", "--yes", backup)
    assert "--yes" in place("db", "restore", backup, code=2).err
    assert place.blocked() is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_torn_a_foreign_and_a_newer_backup_are_refused(place: Place, tmp_path: Path) -> None:
    from ccatwm.core.backup_seal import Seal
    from ccatwm.edges.opsdb.backup_file import DamagedBackupError, finish, read_backup, unfinished

    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    whole = backup.read_bytes()
    torn = tmp_path / "torn.dump"
    for data in (whole[:-1], whole[:-500], b"", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        torn.write_bytes(data)
        with pytest.raises(DamagedBackupError, match="nothing was changed"):
            read_backup(torn)
    assert "nothing was changed" in place("db", "restore", "--yes", torn, code=3).err
    seal = read_backup(backup).seal
    for changes, said in (
        ({"uid": "another"}, "backup of the ops-db 'another'"),
        ({"revisions": {"pipeline": "pipeline_9999"}}, "does not know"),
        ({"dialect": "oracle"}, "on oracle"),
    ):
        other = tmp_path / "other.dump"
        with unfinished(other) as part:
            part.write_bytes(b"payload")
            finish(part, other, Seal(**{**seal.__dict__, **changes}), overwrite=True)
        assert said in place("db", "restore", "--yes", other, code=3).err
    assert place.blocked() is None


def test_a_restore_waits_for_no_pass_and_disturbs_none(place: Place, tmp_path: Path) -> None:
    from ccatwm.edges.opsdb.stores import leases
    from ccatwm.wiring import open_context

    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    database = open_context(str(place.site)).database
    there = leases.Holder("other-boot:1:1", "elsewhere", 1, "other-boot")
    with database.write() as connection:
        lease = leases.read_lease(connection, "stage", "local")
        fence = leases.take_lease(connection, "stage", "local", there, fence=lease.fence, seconds=300)
    database.dispose()
    answer = place("db", "restore", "--yes", backup, code=1)
    assert "passes are at work" in answer.err and "pause --wait" in answer.err
    with database.write() as connection:
        leases.release_lease(connection, "stage", "local", fence=fence or 0)
    database.dispose()
    place("db", "restore", "--yes", backup)
    assert place.blocked()


def test_what_was_decided_on_again_between_two_imports_is_not_run(place: Place, tmp_path: Path) -> None:
    """The first import refuses the map, whose calibrations are adopted only then; once these are collected, `resolve` makes
    a run of it, which the second import supersedes."""
    for name in ("trigger", "resolve", "stage"):
        place(name)
    backup = tmp_path / "ops.dump"
    place("db", "backup", "-q", backup)
    place.idle()
    executed, files = place.executions(), place.files()
    place("db", "restore", "--yes", backup)
    first = place("doctor", "--reconcile", "--import", "--json", code=1).json["import"]
    assert [item["run"] for item in first["left_out"]] == [1, 2]
    (refused,) = first["refused"]
    assert "it stands on run 1, which is STAGED" in refused["why"] and "`ccatwm cycle` until run 1" in refused["next"]
    place.idle()
    (again,) = (number for number, row in place.runs().items() if row["status"] == "STAGED")
    second = place("doctor", "--reconcile", "--import", "--json").json["import"]
    assert [(item["run"], item["superseded"], item["going_on"]) for item in second["imported"]] == [(3, [again], [])]
    place.idle()
    assert (place.executions(), place.files(), place.runs()[again]["status"]) == (executed, files, "CANCELLED")
    assert {row["status"] for number, row in place.runs().items() if number != again} == {"COMPLETED"}


def test_what_people_said_since_the_backup_is_told_and_kept(place: Place, tmp_path: Path) -> None:
    place.idle()
    backup = tmp_path / "ops.dump"
    place("hold", "otf/grid", "--reason", "before")
    place("db", "backup", backup)
    place("publish", "dr1", "run:1", "--note", "first", "--yes")
    place("exclude", "run:2", "--reason", "hot load open", "--yes")
    assert "with what people said 2 times" in place("db", "restore", backup, code=2).err
    lines = place("db", "restore", "--yes", "--reason", "disk lost", backup).out.splitlines()
    start = lines.index("LOST with it: what people said 2 times since the backup; say again what still holds:")
    assert re.search(r"  [\d-]{10} [\d:]{8}  exclude run:2, by .* on .*: hot load open$", lines[start + 1])
    assert re.search(r"publish dr1, by .*: first$", lines[start + 2])
    file = Path(lines[start + 3].removeprefix("all of it, with the texts that were applied: "))
    assert [json.loads(line)["act"] for line in file.read_text().splitlines()] == ["publish", "exclude"]
    assert "`ccatwm doctor --reconcile --import` makes them again" in lines[start + 4]
    assert place("doctor", "--reconcile", "--import", "--json").json["import"]["sets"]["imported"] == ["dr1"]
    assert [row["name"] for row in place("publish", "--list", "--json").json["published_sets"]] == ["dr1"]
    again = place("db", "restore", "--yes", "--json", backup).json["said_since"]
    assert (again["readable"], again["count"]) == (True, 0)


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_restore_of_what_cannot_be_read_says_that_what_people_said_is_lost(
    place: Place, tmp_path: Path, damage: str
) -> None:
    if place.dialect != "sqlite":
        pytest.skip("a file that is gone, or torn")
    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    place("hold", "otf/grid", "--reason", "after")
    file = next(place.site.rglob("opsdb.sqlite"))
    file.unlink() if damage == "gone" else file.write_bytes(b"torn" * 5000)
    out = place("db", "restore", "--yes", backup).out
    assert "LOST with it, as what was there could not be read: what people said since the backup" in out
    assert "`ccatwm doctor --reconcile --import`" in out


def test_the_newest_acts_are_shown_and_all_are_in_the_file(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from ccatwm.upkeep._said_since import MAX_SHOWN, SaidSince, keep_said_since

    at = "2026-03-02T00:00:00Z"
    acts = [{"at": at, "act": "hold", "target": f"run {n}", "actor": "ada", "host": "h", "reason": ""} for n in range(60)]
    said = keep_said_since(SaidSince(acts), tmp_path, datetime(2026, 3, 3, tzinfo=UTC))
    assert said.file is not None and len(said.file.read_text().splitlines()) == 60
    lines = said.lines()
    assert lines[1] == "  2026-03-02 00:00:00  hold run 0, by ada on h"
    assert lines[MAX_SHOWN + 1] == "  and 10 more before these"
    assert len(said.to_json()["acts"]) == MAX_SHOWN
    assert keep_said_since(SaidSince(acts), tmp_path / "absent", datetime(2026, 3, 3, tzinfo=UTC)).file is None
