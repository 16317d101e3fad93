"""Staging mode `request`: data transfer brings packages, and keeps them as long as our request is open.

Data transfer is played by the test: it sets the status of a staging job, unpacks the package at the processing location and
records the copy there.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.observations import ObservationTables
from ccatwm.edges.opsdb.staging_requests import open_requests
from ccatwm.edges.opsdb.types import Uuid
from ccatwm.errors import MissingRightError
from ccatwm.settings.schema import StageSettings
from tests.passes.bad_world import COPY, Scan, by_package, good_tar, observe, reduce, tar

GOOD = good_tar()
ON_POSTGRESQL = pytest.mark.parametrize("empty_observatory", ["postgresql"], indirect=True)  # where tables of others are


@pytest.fixture
def night(empty_observatory):
    """Two scans whose packages lie in an archive; their runs are made."""
    empty_observatory.settings_changes |= {"staging_mode": "request", "staging_job_hours": 5.0}
    observe(empty_observatory, Scan("one", GOOD), Scan("two", GOOD))
    reduce(empty_observatory, COPY)
    empty_observatory.run_pass("trigger")
    empty_observatory.run_pass("resolve")
    return empty_observatory


def observed(night, table: sa.Table) -> list[dict[str, Any]]:
    """Rows of an observation table, which lie in another schema than ours."""
    with night.context().database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.id)).mappings()]


def jobs(night) -> list[dict[str, Any]]:
    return observed(night, t.staging_job)


def change(night, statement: sa.Executable) -> None:
    with night.context().database.write() as connection:
        connection.execute(statement)


def transfer(night, job: dict[str, Any], status: str, **more: str) -> None:
    """Data transfer says what has become of a job."""
    values = {"status": status, "updated_at": night.context().clock.now(), **more}
    change(night, sa.update(t.staging_job).where(t.staging_job.c.id == job["id"]).values(values))


def name_of(night, job: dict[str, Any]) -> str:
    return next(p["name"] for p in observed(night, t.raw_data_package) if p["id"] == job["raw_data_package_id"])


def here(night) -> int:
    return next(place["id"] for place in observed(night, t.data_location) if place["name"] == "local")


def record_copy(night, job: dict[str, Any], path: str, status: str) -> None:
    change(night, sa.insert(t.physical_copy).values(
        raw_data_package_id=job["raw_data_package_id"], data_location_id=here(night), path=path, status=status,
        updated_at=night.context().clock.now(),
    ))  # fmt: skip


def bring(night, job: dict[str, Any], *, content: bytes = GOOD) -> str:
    """Unpack the package at the processing location and record the copy; its path there."""
    path = f"staged/{name_of(night, job)}"
    (night.base / path).mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.2 knows of none
        archive.extractall(night.base / path)
    record_copy(night, job, path, "staged")
    return path


def list_file(night, job: dict[str, Any], checksum: str) -> None:
    """The ops-db lists the one file of a job's package."""
    change(night, sa.insert(t.raw_data_file).values(
        raw_data_package_id=job["raw_data_package_id"], name="a.bin", size_bytes=99, checksum=checksum,
        updated_at=night.context().clock.now(),
    ))  # fmt: skip


def stage(night) -> list[tuple[str, str]]:
    night.minute += 1
    return [(item.outcome, item.reason) for item in night.run_pass("stage").items]


def test_packages_that_are_not_here_are_asked_for_once(night):
    assert {outcome for outcome, _ in stage(night)} == {"requested"}
    assert [(j["status"], bool(j["active"]), j["requested_by"]) for j in jobs(night)] == [("pending", True, "ccatwm")] * 2
    assert stage(night) and len(jobs(night)) == 2
    assert {run["status"] for run in night.runs()} == {"STAGING_DATA"}
    assert not (night.base / ".cache" / "packages").exists() or not list((night.base / ".cache" / "packages").iterdir())


def test_a_run_goes_on_when_its_package_has_come_and_links_it(night):
    stage(night)
    transfer(night, jobs(night)[0], "completed")
    path = bring(night, jobs(night)[0])
    inode = (night.base / path / "a.bin").stat().st_ino
    assert "staged" in [outcome for outcome, _ in stage(night)]
    (cached,) = (night.base / ".cache" / "packages").glob("*/a.bin")
    assert cached.stat().st_ino == inode  # no second copy on the disk
    night.until_quiet()
    assert sorted(run["status"] for run in night.runs()) == ["COMPLETED", "STAGING_DATA"]
    trusted = "one-LFA: taken as data transfer brought it: the ops-db lists none of its files"
    assert [trusted in str(run["warnings"]) for run in by_package(night).values()] == [True, False]


@pytest.mark.parametrize("flaw", ["", "changed"])
@pytest.mark.parametrize("kind", ["md5", "SHA512", "blake2b"])
def test_checksums_of_any_known_kind_are_compared_of_what_was_brought(night, kind, flaw):
    stage(night)
    first = jobs(night)[0]
    listed = hashlib.new(kind.lower(), b"a" * 99).hexdigest()
    list_file(night, first, f"{kind}:{listed.upper()}")
    bring(night, first, content=tar([("a.bin", b"a" * 98 + (b"b" if flaw else b"a"))]))
    transfer(night, first, "completed")
    said = {outcome: reason for outcome, reason in stage(night) if outcome in ("failed", "staged")}
    assert list(said) == (["failed"] if flaw else ["staged"])
    assert not flaw or f"{kind.lower()}:{listed} are listed" in said["failed"]


def test_a_checksum_that_cannot_be_checked_is_said_and_held_against_no_copy_and_no_request(night):
    stage(night)
    first = jobs(night)[0]
    list_file(night, first, "crc32c:00000000")
    bring(night, first)
    transfer(night, first, "completed")
    (said,) = [reason for outcome, reason in stage(night) if outcome == "failed"]
    assert "local: checksum 'crc32c:00000000' cannot be checked: known are sha256" in said
    assert night.rows("copy_report") == []
    assert ("completed", True) in [(job["status"], bool(job["active"])) for job in jobs(night)]


@pytest.mark.parametrize("flaw", ["", "changed", "short"])
def test_what_was_brought_has_the_files_and_the_checksums_that_are_listed(night, flaw):
    stage(night)
    first = jobs(night)[0]
    list_file(night, first, f"sha256:{hashlib.sha256(b'a' * 99).hexdigest()}")
    transfer(night, first, "completed")
    bring(night, first, content=tar([("a.bin", {"": b"a" * 99, "changed": b"a" * 98 + b"b", "short": b"a"}[flaw])]))
    said = [reason for outcome, reason in stage(night) if outcome in ("failed", "staged")]
    if not flaw:
        assert len(said) == 1 and "corrupt" not in said[0]
        return
    found = hashlib.sha256(b"a" * 98 + b"b").hexdigest()
    why = f"has 99 bytes and sha256:{found}" if flaw == "changed" else "has 1 files of 1"
    assert len(said) == 1 and why in said[0], said
    assert not list((night.base / ".cache" / "packages").iterdir()), "nothing of it is in the cache"
    assert len(list((night.base / "staged").rglob("a.bin"))) == 1, "and nothing of theirs is taken away"


def test_the_request_is_our_pin_and_is_closed_when_no_run_needs_the_package(night):
    stage(night)
    for job in jobs(night):
        transfer(night, job, "completed")
        bring(night, job)
    stage(night)
    assert [bool(job["active"]) for job in jobs(night)] == [True, True]
    night.until_quiet()
    stage(night)
    assert [bool(job["active"]) for job in jobs(night)] == [False, False]
    assert len(list((night.base / "staged").iterdir())) == 2  # data transfer alone deletes


def test_a_transfer_that_failed_fails_the_attempt_and_is_asked_for_again_by_the_next(night):
    stage(night)
    first = jobs(night)[0]
    transfer(night, first, "failed", message="the tape robot is ill")
    assert [o for o, r in stage(night) if "data transfer failed to bring it: the tape robot is ill" in r] == ["failed"]
    assert not jobs(night)[0]["active"]
    night.minute += 120
    night.run_pass("poll")
    stage(night)
    assert len([j for j in jobs(night) if j["raw_data_package_id"] == first["raw_data_package_id"]]) == 2


def test_a_transfer_that_takes_too_long_is_given_up(night):
    stage(night)
    transfer(night, jobs(night)[0], "in_progress")
    night.minute += 4 * 60
    assert {outcome for outcome, _ in stage(night)} == {"requested"}
    night.minute += 2 * 60
    assert any("data transfer has not brought it within 5 h (it is in progress)" in reason for _, reason in stage(night))


def test_a_copy_that_is_said_to_be_there_and_is_not_recorded_is_waited_for_shortly(night):
    stage(night)
    transfer(night, jobs(night)[0], "completed")
    assert {outcome for outcome, _ in stage(night)} == {"requested"}
    night.minute += 20
    assert any("but no copy is recorded here" in reason for _, reason in stage(night))


def test_a_request_of_somebody_else_is_waited_for_and_not_closed(night):
    now = night.context().clock.now()
    change(night, sa.insert(t.staging_job).values(
        raw_data_package_id=observed(night, t.raw_data_package)[0]["id"], destination_location_id=here(night),
        status="in_progress", active=True, requested_by="a person", created_at=now, updated_at=now,
    ))  # fmt: skip
    stage(night)
    assert [job["requested_by"] for job in jobs(night)] == ["a person", "ccatwm"]
    bring(night, jobs(night)[0])
    night.until_quiet()
    stage(night)
    assert bool(jobs(night)[0]["active"])


def asked(night, package: str) -> list[dict[str, Any]]:
    return [job for job in jobs(night) if name_of(night, job) == f"{package}-LFA"]


def deliver_bad(night, job: dict[str, Any]) -> str:
    """A tar that is not what it should be; its path at the processing location."""
    path = f"staged/{name_of(night, job)}.tar"
    (night.base / "staged").mkdir(exist_ok=True)
    (night.base / path).write_bytes(GOOD[:-1] + b"?")
    if not [c for c in observed(night, t.physical_copy) if c["path"] == path]:
        record_copy(night, job, path, "present")
    transfer(night, job, "completed")
    return path


def try_again(night, minutes: int = 120) -> list[tuple[str, str]]:
    night.minute += minutes
    night.run_pass("poll")
    return stage(night)


def test_a_delivery_that_is_bad_ends_its_request_with_the_reason_and_the_retry_asks_anew(night):
    stage(night)
    path = deliver_bad(night, asked(night, "one")[0])
    assert [o for o, r in stage(night) if "no good copy: local: corrupt" in r] == ["failed"]
    (first,) = asked(night, "one")
    assert (first["status"], bool(first["active"])) == ("failed", False)
    assert first["message"].startswith("refused by ccatwm: package one-LFA: no good copy: local: corrupt")
    assert [c["finding"] for c in night.rows("copy_report")] == ["corrupt"]
    assert (night.base / path).exists(), "what they brought is theirs to remove"
    assert any("one-LFA: asked of data transfer" in reason for _, reason in try_again(night))
    assert [job["status"] for job in asked(night, "one")] == ["failed", "pending"]
    night.minute += 1
    assert {outcome for outcome, _ in stage(night)} == {"requested"}, "the copy that was refused is not read meanwhile"
    assert len(asked(night, "one")) == 2 and by_package(night)["one"]["retries_used"] == 1


def test_a_delivery_that_a_staging_job_found_bad_ends_its_request_too(night):
    night.settings_changes |= {"stage": StageSettings(executor="job")}
    stage(night)
    deliver_bad(night, asked(night, "one")[0])
    said: list[tuple[str, str]] = []
    for _ in range(3):
        said += stage(night)
        night.jobs()
    assert [o for o, r in said if "no good copy: local: corrupt" in r] == ["failed"]
    assert [(job["status"], bool(job["active"])) for job in asked(night, "one")] == [("failed", False)]
    try_again(night)
    assert [job["status"] for job in asked(night, "one")] == ["failed", "pending"]


def test_what_is_brought_anew_to_the_same_place_is_taken_and_the_copy_is_no_bad_one_any_more(night):
    stage(night)
    path = deliver_bad(night, asked(night, "one")[0])
    stage(night)
    try_again(night)
    (night.base / path).write_bytes(GOOD)
    transfer(night, asked(night, "one")[1], "completed")
    items = stage(night)
    assert {outcome for outcome, _ in items} == {"requested"}, "it may come to another place, and be recorded soon"
    (said,) = [reason for _, reason in items if "one-LFA" in reason]
    assert re.search(r"refused; it is read again at 2026-\d\d-\d\d [\d:]+ UTC, another one at once$", said)
    night.minute += 15
    assert [outcome for outcome, _ in stage(night)].count("staged") == 1
    assert night.rows("copy_report") == [] and bool(asked(night, "one")[1]["active"])


def test_deliveries_that_stay_bad_use_up_the_retries_of_the_run(night):
    stage(night)
    for number in range(4):
        assert len(asked(night, "one")) == number + 1
        deliver_bad(night, asked(night, "one")[number])
        night.minute += 15
        assert [o for o, r in stage(night) if "no good copy" in r] == ["failed"]
        try_again(night, 300)
    assert [(job["status"], bool(job["active"])) for job in asked(night, "one")] == [("failed", False)] * 4
    run = by_package(night)["one"]
    assert (run["status"], run["due_at"]) == ("FAILED", None)


def test_a_bad_copy_that_is_not_said_to_be_brought_yet_ends_no_request(night):
    stage(night)
    job = asked(night, "one")[0]
    deliver_bad(night, job)
    transfer(night, job, "in_progress")
    stage(night)
    assert (asked(night, "one")[0]["status"], bool(asked(night, "one")[0]["active"])) == ("in_progress", True)
    assert {outcome for outcome, _ in try_again(night)} == {"requested"}
    assert len(asked(night, "one")) == 1


def test_two_runs_that_share_a_refused_package_ask_for_it_once_more(night):
    twin = (night.folder / "pipeline.yaml").read_text().replace("name: otf", "name: twin")
    (night.folder / "pipeline.yaml").write_text(twin)
    night.apply()
    for name in ("trigger", "resolve"):
        night.run_pass(name)
    stage(night)
    assert len(jobs(night)) == 2
    deliver_bad(night, asked(night, "one")[0])
    assert [o for o, r in stage(night) if "corrupt" in r].count("failed") == 2
    try_again(night)
    assert [job["status"] for job in asked(night, "one")] == ["failed", "pending"]


def test_what_somebody_else_asked_for_and_is_bad_is_theirs_to_end_and_we_ask_ourselves(night):
    stage(night)
    change(night, sa.update(t.staging_job).values(requested_by="a person"))
    deliver_bad(night, asked(night, "one")[0])
    stage(night)
    try_again(night)
    theirs, ours = asked(night, "one")
    assert (theirs["status"], bool(theirs["active"]), theirs["message"]) == ("completed", True, None)
    assert (ours["status"], bool(ours["active"]), ours["requested_by"]) == ("pending", True, "ccatwm")


def test_what_somebody_else_asked_for_in_vain_is_asked_for_by_us_and_costs_no_attempt(night):
    stage(night)
    change(night, sa.update(t.staging_job).values(requested_by="a person", status="failed"))
    night.minute += 1
    assert {outcome for outcome, _ in stage(night)} == {"requested"}
    assert [(job["status"], bool(job["active"])) for job in asked(night, "one")] == [("failed", True), ("pending", True)]


def test_what_lies_elsewhere_is_not_read(night):
    for name in ("one", "two"):
        (night.folder / "raw" / f"{name}.tar").unlink()
    assert {outcome for outcome, _ in stage(night)} == {"requested"}
    assert night.rows("copy_report") == []


def test_a_tar_that_was_brought_is_unpacked_and_verified(night):
    stage(night)
    job = jobs(night)[0]
    (night.base / "staged").mkdir()
    (night.base / "staged" / "package.tar").write_bytes(GOOD[:-1] + b"?")
    record_copy(night, job, "staged/package.tar", "present")
    assert any("no good copy: local: corrupt (" in reason for _, reason in stage(night))


def test_links_in_what_was_brought_are_refused(night):
    stage(night)
    path = bring(night, jobs(night)[0])
    (night.base / path / "out").symlink_to("/etc/passwd")
    assert any("neither a file nor a folder" in reason for _, reason in stage(night))
    assert by_package(night)["one"]["status"] == "FAILED"


def test_a_table_of_ours_is_used_where_the_observation_tables_have_none(night):
    context = night.context()
    tables = context.grouping.tables
    without = {name: table for name, table in tables.tables.items() if name != "StagingJob"}
    with context.database.write() as connection:
        requests = open_requests(connection, ObservationTables(without), "1", "local")
        now = context.clock.now()
        requests.ask(connection, "7", "scan-7", now)
        requests.ask(connection, "8", "scan-8", now)
        (asked,) = requests.newest(connection, ["7", "9"]).values()
        assert (asked.package_id, asked.status, asked.active, asked.created_at) == ("7", "pending", True, now)
        requests.close(connection, [asked], now)
        assert [request.package_id for request in requests.ours_active(connection)] == ["8"]
        names = sa.select(t.staging_request.c.package_name).order_by(t.staging_request.c.id)
        assert connection.execute(names).scalars().all() == ["scan-7", "scan-8"]


WISH = """
CREATE SCHEMA IF NOT EXISTS ext;
CREATE TABLE ext.wish (nr uuid PRIMARY KEY DEFAULT gen_random_uuid(), packet text NOT NULL, goal integer NOT NULL,
                       zustand text NOT NULL CHECK (zustand IN ('NEW', 'DONE', 'BROKEN')), is_open char(1) NOT NULL);
"""


@pytest.fixture
def wishes(empty_observatory):
    """Somebody else's table of requests, with other names, words and keys than ours."""
    with empty_observatory.context().database.write() as connection:
        for statement in WISH.split(";")[:2]:
            connection.exec_driver_sql(statement)
    columns = (sa.Column("nr", Uuid), sa.Column("packet", sa.Text), sa.Column("goal", sa.BigInteger),
               sa.Column("zustand", sa.Text), sa.Column("is_open", sa.Text))  # fmt: skip
    renamed = {"id": "nr", "raw_data_package_id": "packet", "destination_location_id": "goal", "status": "zustand",
               "active": "is_open"}  # fmt: skip
    return empty_observatory, ObservationTables(
        {"StagingJob": sa.Table("wish", sa.MetaData(), *columns, schema="ext")},
        renamed={("StagingJob", ours): theirs for ours, theirs in renamed.items()},
        values={("StagingJob", "status"): {"pending": ("NEW",), "completed": ("DONE",), "failed": ("BROKEN",)},
                ("StagingJob", "active"): {True: ("y",), False: ("n",)}},
    )  # fmt: skip


@ON_POSTGRESQL
def test_requests_are_written_into_a_table_of_others_in_its_own_words(wishes):
    observatory, tables = wishes
    now = observatory.context().clock.now()
    with observatory.context().database.write() as connection:
        requests = open_requests(connection, tables, "3", "local")
        requests.ask(connection, "p-7", "scan-7", now)
        row = connection.exec_driver_sql("SELECT packet, goal, zustand, is_open FROM ext.wish").one()
        assert tuple(row) == ("p-7", 3, "NEW", "y")
        connection.exec_driver_sql("UPDATE ext.wish SET zustand = 'BROKEN'")
        (request,) = requests.newest(connection, ["p-7"]).values()
        assert (request.status, request.active) == ("failed", True)
        requests.close(connection, [request], now)
        assert connection.exec_driver_sql("SELECT is_open FROM ext.wish").scalar_one() == "n"


@ON_POSTGRESQL
def test_a_refusal_is_written_into_a_table_of_others_as_far_as_it_takes_it(wishes):
    observatory, tables = wishes
    now = observatory.context().clock.now()
    with observatory.context().database.write() as connection:
        requests = open_requests(connection, tables, "3", "local")
        for broken in (True, False):
            requests.ask(connection, "p-7", "scan-7", now)
            connection.exec_driver_sql("UPDATE ext.wish SET zustand = 'DONE' WHERE is_open = 'y'")
            if not broken:
                connection.exec_driver_sql("ALTER TABLE ext.wish ADD CHECK (zustand <> 'BROKEN') NOT VALID")
            requests.refuse(connection, {"p-7": "it is short"}, now)
        rows = connection.exec_driver_sql("SELECT zustand, is_open FROM ext.wish ORDER BY zustand").all()
        assert [tuple(row) for row in rows] == [("BROKEN", "n"), ("DONE", "n")]


@ON_POSTGRESQL
def test_a_table_of_others_that_this_role_may_not_write_is_let_be_and_ours_is_used(wishes):
    observatory, tables = wishes
    with observatory.context().database.write() as connection:
        connection.exec_driver_sql("CREATE ROLE ccatwm_reader_of_wishes")
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA ext, ccatwm TO ccatwm_reader_of_wishes")
        connection.exec_driver_sql("GRANT SELECT ON ext.wish TO ccatwm_reader_of_wishes")
        connection.exec_driver_sql("GRANT ALL ON ALL TABLES IN SCHEMA ccatwm TO ccatwm_reader_of_wishes")
        connection.exec_driver_sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA ccatwm TO ccatwm_reader_of_wishes")
        connection.exec_driver_sql("SET LOCAL ROLE ccatwm_reader_of_wishes")
        requests = open_requests(connection, tables, "3", "local")
        requests.ask(connection, "p-7", "scan-7", observatory.context().clock.now())
        assert [r.package_id for r in requests.ours_active(connection)] == ["p-7"]
        connection.exec_driver_sql("RESET ROLE")
        assert connection.exec_driver_sql("SELECT count(*) FROM ext.wish").scalar_one() == 0
        connection.exec_driver_sql("DROP OWNED BY ccatwm_reader_of_wishes")
        connection.exec_driver_sql("DROP ROLE ccatwm_reader_of_wishes")


@ON_POSTGRESQL
def test_a_table_of_others_that_takes_no_row_of_ours_is_told_with_what_to_do(wishes):
    observatory, tables = wishes
    with observatory.context().database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE ext.wish ADD COLUMN who text NOT NULL")
        requests = open_requests(connection, tables, "3", "local")
        with pytest.raises(MissingRightError, match="wish takes no request of ours: ") as refused:
            requests.ask(connection, "p-7", "scan-7", observatory.context().clock.now())
    assert "staging_request" in refused.value.next
