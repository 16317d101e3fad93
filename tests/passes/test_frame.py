"""Locks, leases and brakes."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.stores import leases, pausing, places
from ccatwm.edges.opsdb.stores.leases import Holder
from ccatwm.passes._failures import what_to_type
from ccatwm.passes._frame import boot_id, this_process


def hold(observatory, holder: Holder, seconds: int = 300) -> None:
    with observatory.context().database.write() as connection:
        lease = leases.read_lease(connection, "resolve", "local")
        assert leases.take_lease(connection, "resolve", "local", holder, fence=lease.fence, seconds=seconds)


def test_a_pass_leaves_when_another_process_holds_the_lease(observatory):
    observatory.run_pass("trigger")
    hold(observatory, this_process())
    report = observatory.run_pass("resolve")
    assert (report.skipped, report.exit_code) == ("locked", 0)


def test_the_lease_of_a_process_that_is_gone_is_taken_over(observatory, caplog):
    observatory.run_pass("trigger")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    hold(observatory, Holder(f"{boot_id()}:{pid}:1", "h", pid, boot_id()))
    assert observatory.run_pass("resolve").skipped is None
    assert "taken over" in caplog.text


def test_the_lease_of_another_machine_is_only_taken_over_when_it_has_expired(observatory):
    observatory.run_pass("trigger")
    hold(observatory, Holder("other:1:1", "elsewhere", 1, "other"), seconds=300)
    assert observatory.run_pass("resolve").skipped == "locked"
    hold(observatory, Holder("other:1:1", "elsewhere", 1, "other"), seconds=-1)
    assert observatory.run_pass("resolve").skipped is None


def test_a_paused_system_does_nothing(observatory):
    observatory.execute("DELETE FROM {schema}ops_db")
    observatory.execute(
        "INSERT INTO {schema}ops_db (uid, created_at, paused) VALUES ('x', '2026-01-01T00:00:00.000000Z', 'upgrade')"
    )
    assert {r.skipped for r in observatory.cycle()} == {"paused"}
    assert observatory.runs() == []


def test_a_pass_at_work_notices_a_pause_when_it_renews_its_lease(observatory):
    from ccatwm.passes._frame import PassFrame, PassOptions, run_framed

    context = observatory.context()
    with context.database.write() as connection:
        places.record_uid(connection, "uid", context.clock.now())
    context.settings = replace(context.settings, max_seconds=1e9)
    seen = []

    def body(frame: PassFrame) -> None:
        for unit in frame.units(["a", "b", "c"]):
            seen.append(unit)
            with context.database.write() as connection:
                pausing.write_paused(connection, "upgrade")
            frame._renewed -= 1e6  # a third of the lease has gone by

    assert run_framed(context, "trigger", PassOptions(), body).error is None
    assert seen == ["a", "b"]


def test_an_unknown_schema_version_ends_a_pass_with_4(observatory):
    observatory.execute(
        "UPDATE {schema}ccatwm_version SET version_num = 'pipeline_9999' WHERE version_num LIKE 'pipeline%'"
    )
    report = observatory.run_pass("trigger")
    assert report.exit_code == 4
    assert "db upgrade" in str(report.error)


def test_an_ops_db_that_goes_away_in_the_middle_of_a_pass_ends_it_with_4(observatory):
    class Away:
        def around(self, name, detail=""):
            raise sa.exc.OperationalError("COMMIT", None, Exception("server closed the connection"))

    from ccatwm import wiring
    from ccatwm.passes._frame import PassOptions

    report = wiring.run_pass("trigger", observatory.context(Away()), PassOptions())
    assert report.exit_code == 4
    assert report.error.next == "the next pass tries again"
    assert observatory.rows("trigger_event") == []


def forbid_writing(database) -> None:
    """From its next connection on."""
    if database.dialect == "sqlite":
        sa.event.listen(database.engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only=ON"))
        return
    with database.write() as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(
            sa.text(f'ALTER ROLE CURRENT_USER IN DATABASE "{name}" SET role TO pg_read_all_data')
        )


def test_a_pass_whose_account_may_not_write_the_ops_db_ends_as_a_mistake_for_a_person(observatory):
    from ccatwm import wiring
    from ccatwm.errors import SettingsError
    from ccatwm.passes._frame import PassOptions

    forbid_writing(observatory.context().database)
    if observatory.kept is not None:
        observatory.kept.dispose()  # what is open keeps its rights
    context = observatory.context()
    if context.database.dialect == "sqlite":
        forbid_writing(context.database)
    report = wiring.run_pass("trigger", context, PassOptions())
    assert isinstance(report.error, SettingsError) and report.exit_code == 3
    assert re.search(r"may not write|lacks a right", report.error.message)


def test_what_only_waits_is_one_line_of_the_log_and_not_one_per_run(observatory, caplog):
    for name in ("trigger", "resolve", "stage", "submit"):
        observatory.run_pass(name)
    caplog.set_level("INFO", logger="ccatwm")
    caplog.clear()
    report = observatory.run_pass("poll")
    assert report.waiting > 1
    waiting = f"poll: {report.selected} selected, 0 done, {report.waiting} waiting, 0 failed, "
    assert [record.getMessage().startswith(waiting) for record in caplog.records] == [True]


def test_a_pass_that_finds_nothing_logs_nothing(observatory, caplog):
    caplog.set_level("INFO", logger="ccatwm")
    observatory.run_pass("collect")
    assert caplog.records == []


def test_a_waiting_run_is_told_by_its_status_and_its_job_by_the_batch_systems_word(observatory):
    for name in ("trigger", "resolve", "stage", "submit"):
        observatory.run_pass(name)
    item = observatory.run_pass("poll").items[0]
    assert (item.outcome, item.reason) == ("SUBMITTED", "its job is pending")


@pytest.mark.parametrize("message", ["exit code 3", "a.sif is missing; put it there, then `ccatwm retry 7 --reason TEXT`"])
def test_how_to_retry_a_failed_run_is_said_once(message):
    assert f"{message}; {what_to_type(7, message)}".count("`ccatwm retry 7 --reason TEXT`") == 1


def test_what_a_person_must_mend_is_recorded_and_the_lease_goes_back(observatory):
    from ccatwm.edges.opsdb.stores import views
    from ccatwm.errors import UsageError
    from ccatwm.passes._frame import PassOptions, run_framed

    context = observatory.context()

    def body(frame):
        raise UsageError("a number is too large", next="correct the number")

    report = run_framed(context, "trigger", PassOptions(), body)
    assert (report.exit_code, report.error.next) == (2, "correct the number")
    with context.database.read() as connection:
        (record,) = views.list_pass_records(connection)
        assert record["message"] == "a number is too large"
        assert views.list_leases(connection) == []
