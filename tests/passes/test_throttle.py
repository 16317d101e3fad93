"""Ceilings of steps, pipelines and locations, turns between pipelines, and passes that find thousands of runs waiting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb import tables as t
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.runs import build_runs
from ccatwm.views.show import build_show, show_lines
from ccatwm.views.status import build_status, step_cells
from tests.crash.rig import SteppingClock
from tests.passes.conftest import Observatory

SECOND_PIPELINE = """
  - name: other
    data_grouping: ngc253
    processing_location: local
    steps:
      - {name: calibrate, software: cal, group_by: [executed_obs_unit]}
"""


def define(observatory: Observatory, *, step: str = "", pipeline: str = "", more: str = "") -> None:
    """Write a line into the step, into the pipeline, or after both."""
    path = observatory.folder / "pipeline.yaml"
    text = path.read_text().replace("{name: calibrate,", f"{{name: calibrate, {step}")
    text = text.replace("    steps:\n", f"    {pipeline}\n    steps:\n") + more
    path.write_text(text)


def throttle_step(observatory: Observatory) -> None:
    define(observatory, step="max_concurrent: 1,")


def throttle_pipeline(observatory: Observatory) -> None:
    define(observatory, pipeline="max_concurrent: 1")


def throttle_site(observatory: Observatory) -> None:
    observatory.settings_changes = {"max_concurrent": 1}


def statuses(observatory: Observatory) -> Counter[str]:
    status = t.executed_reduction_step.c.status
    with observatory.context().database.read() as connection:
        found = connection.execute(sa.select(status, sa.func.count()).group_by(status))
        return Counter({str(row[0]): int(row[1]) for row in found})


def outcomes(report: PassReport) -> Counter[str]:
    return Counter(item.outcome for item in report.items)


def reasons(report: PassReport) -> set[str]:
    return {item.reason for item in report.items if item.outcome == "throttled"}


CEILINGS = [
    (throttle_step, "of otf/calibrate", "max_concurrent"),
    (throttle_pipeline, "of pipeline otf", "max_concurrent"),
    (throttle_site, "at local", "MAX_CONCURRENT"),
]


@pytest.mark.parametrize(("throttle", "whose", "setting"), CEILINGS)
def test_no_more_runs_are_under_way_than_the_ceiling_says(
    three_scans: Observatory, throttle: Callable[[Observatory], None], whose: str, setting: str
) -> None:
    throttle(three_scans)
    three_scans.make_runs()
    staged = three_scans.run_pass("stage")
    assert (staged.selected, staged.done, staged.waiting) == (3, 2, 1)
    assert reasons(staged) == {
        f"2 runs {whose} staged, under way or before it, twice {setting}, which is 1",
    }
    submitted = three_scans.run_pass("submit")
    assert outcomes(submitted) == {"submitted": 1, "throttled": 1}
    assert reasons(submitted) == {f"1 run {whose} under way or before it, {setting} is 1"}
    for _ in range(2):  # twice in a row changes nothing
        assert (three_scans.run_pass("stage").done, three_scans.run_pass("submit").done) == (0, 0)
    assert statuses(three_scans) == {"SUBMITTED": 1, "STAGED": 1, "PENDING": 1}


@pytest.mark.parametrize("throttle", [throttle_step, throttle_pipeline, throttle_site])
def test_under_a_ceiling_everything_is_made_one_after_the_other(
    three_scans: Observatory, throttle: Callable[[Observatory], None]
) -> None:
    throttle(three_scans)
    three_scans.make_runs()
    most = 0
    for _ in range(12):
        three_scans.cycle()
        most = max(most, statuses(three_scans)["SUBMITTED"] + statuses(three_scans)["RUNNING"])
        three_scans.jobs()
    assert most == 1
    assert statuses(three_scans) == {"COMPLETED": 3}
    assert len((three_scans.base / "executions.log").read_text().splitlines()) == 3


def test_a_ceiling_counts_from_the_next_pass_when_it_is_changed(three_scans: Observatory) -> None:
    throttle_step(three_scans)
    three_scans.make_runs()
    three_scans.run_pass("stage")
    three_scans.edit("max_concurrent: 1", "max_concurrent: 2")
    assert three_scans.run_pass("stage").done == 1
    assert outcomes(three_scans.run_pass("submit")) == {"submitted": 2, "throttled": 1}
    three_scans.edit("max_concurrent: 2, ", "")
    assert three_scans.run_pass("submit").done == 1


def test_staged_runs_that_people_hold_back_take_no_room(three_scans: Observatory) -> None:
    throttle_site(three_scans)
    three_scans.make_runs()
    three_scans.run_pass("stage")
    three_scans.execute("UPDATE {schema}executed_reduction_step SET held = 'look' WHERE status = 'STAGED'")
    assert three_scans.run_pass("stage").done == 1
    assert three_scans.run_pass("submit").done == 1


def test_a_staging_that_was_broken_off_goes_on_under_its_own_count(three_scans: Observatory) -> None:
    throttle_step(three_scans)
    three_scans.make_runs()
    three_scans.run_pass("stage")
    three_scans.execute(
        "UPDATE {schema}executed_reduction_step SET status = 'STAGING_DATA' WHERE status = 'STAGED'"
    )
    again = three_scans.run_pass("stage")
    assert outcomes(again) == {"staged": 2, "throttled": 1}


def test_a_dry_run_tells_which_would_wait_and_a_limit_is_of_those_that_go(three_scans: Observatory) -> None:
    define(three_scans, step="max_concurrent: 2,")
    three_scans.make_runs()
    assert outcomes(three_scans.run_pass("stage", dry_run=True)) == {"would be staged": 3}
    three_scans.run_pass("stage")
    assert outcomes(three_scans.run_pass("submit", dry_run=True)) == {"would be submitted": 2, "throttled": 1}
    assert outcomes(three_scans.run_pass("submit", limit=1)) == {"submitted": 1, "throttled": 1}


def test_pipelines_of_one_priority_take_turns(three_scans: Observatory) -> None:
    define(three_scans, more=SECOND_PIPELINE)
    three_scans.make_runs()
    items = three_scans.run_pass("stage").items
    assert [i.pipeline for i in items if i.outcome == "staged"] == ["otf", "other"] * 3
    submitted = three_scans.run_pass("submit", limit=3)
    assert Counter(i.pipeline for i in submitted.items) == {"otf": 2, "other": 1}
    # The next ones are those of the pipeline that has fewer under way.
    assert [i.pipeline for i in three_scans.run_pass("submit", limit=1).items] == ["other"]


def test_a_ceiling_is_told_where_people_look(three_scans: Observatory) -> None:
    throttle_site(three_scans)
    three_scans.make_runs()
    for name in ("stage", "submit"):
        three_scans.run_pass(name)
    context = three_scans.context()
    now, most = context.clock.now(), {"local": 1}
    runs = build_runs(context.database, Selection(), now=now, site_most=most)["runs"]
    assert sorted(run["state"] for run in runs) == [
        "PENDING (throttled, 2 of 2)", "STAGED (throttled, 1 of 1)", "SUBMITTED"
    ]  # fmt: skip
    reason = "1 run at local under way or before it, MAX_CONCURRENT is 1"
    assert [r["throttled"] for r in runs if r["status"] == "STAGED"] == [reason]
    document = build_status(context.database, context.grouping, Selection(), now=now, site_most=most)
    assert document["status"][0]["throttled"] == {"runs": 2, "figure": "1 of 1", "reason": reason}
    assert step_cells(document["status"][0])[-1] == "2 throttled, 1 of 1"
    lines = explain_lines(build_explain(context.database, "otf", now=now, site_most=most))
    assert f"  changes when other runs end: {reason}" in lines
    staged = next(r["run"] for r in runs if r["status"] == "STAGED")
    places = three_scans.places
    shown = show_lines(build_show(context.database, context.workfiles, staged, places=places, now=now, site_most=most))
    assert f"  throttled  {reason}" in shown
    # Another site that serves another location knows no ceiling here.
    assert {r["throttled"] for r in build_runs(context.database, Selection(), now=now)["runs"]} == {None}


# --- after an outage -------------------------------------------------------------------------------------------

MANY = 30_000


class TickingClock(SteppingClock):
    """Each look at it takes a second."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


def multiply_runs(observatory: Observatory, many: int) -> None:
    """As many waiting runs, each like the first one, without inputs. The database copies them: it is the fastest."""
    database = observatory.context().database
    run, group = t.executed_reduction_step, t.sub_group
    number = sa.select(sa.literal(1).label("n")).cte("number", recursive=True)
    number = number.union_all(sa.select(number.c.n + 1).where(number.c.n < many))
    key = sa.literal("executed_obs_unit=copy-") + sa.cast(number.c.n, sa.String)
    first = sa.select(run.c.id).limit(1).scalar_subquery()
    with database.write() as connection:
        source = group.alias()
        like = sa.select(run.c.sub_group_id).where(run.c.id == first).scalar_subquery()
        copy_rows(connection, group, source, {"key": key}, number, source.c.id == like)
        source, copies = run.alias(), group.alias()
        changes = {"sub_group_id": copies.c.id, "sub_group_key": copies.c.key}
        chosen = sa.and_(source.c.id == first, copies.c.key.like("%=copy-%"))
        copy_rows(connection, run, source, changes, copies, chosen)


def copy_rows(
    connection: sa.Connection,
    table: sa.Table,
    source: sa.Alias,
    changes: dict[str, sa.ColumnElement[Any]],
    beside: sa.FromClause,
    chosen: sa.ColumnElement[bool],
) -> None:
    """One new row for each row of `beside`: the chosen row of `source`, with these columns changed."""
    names = [column.name for column in table.columns if column.name != "id"]
    columns = [changes.get(name, source.c[name]) for name in names]
    rows = sa.select(*columns).select_from(source.join(beside, sa.true())).where(chosen)
    connection.execute(sa.insert(table).from_select(names, rows))


def hurried_pass(observatory: Observatory, name: str, max_seconds: float) -> tuple[PassReport, int]:
    """A pass by a clock that ticks, and the number of its statements."""
    observatory.minute += 1
    context: Context = observatory.context()
    context.clock = TickingClock(context.clock.now())
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    engine = context.database._write_engine, context.database.engine
    for one in engine:
        sa.event.listen(one, "before_cursor_execute", note)
    report = wiring.run_pass(name, context, PassOptions(max_seconds=max_seconds))
    for one in engine:
        sa.event.remove(one, "before_cursor_execute", note)
    assert report.error is None, report.error
    return report, len(statements)


def test_thousands_of_waiting_runs_are_taken_in_passes_of_a_few_and_polling_goes_on(
    observatory: Observatory,
) -> None:
    for name in ("trigger", "resolve"):
        observatory.run_pass(name)
    multiply_runs(observatory, MANY)
    total = statuses(observatory)["PENDING"]
    assert total > MANY

    staged, statements = hurried_pass(observatory, "stage", max_seconds=20)
    assert staged.selected == total
    assert 0 < staged.done < 20 and staged.failed == 0
    assert statements < 300  # of the runs that were taken, not of those that wait
    found = statuses(observatory)
    assert (found["STAGED"], sum(found.values())) == (staged.done, total)
    assert found.get("STAGING_DATA", 0) < 20  # begun together with those that were taken

    submitted, _ = hurried_pass(observatory, "submit", max_seconds=20)
    assert submitted.done == staged.done
    assert observatory.jobs() == submitted.done
    polled, statements = hurried_pass(observatory, "poll", max_seconds=100)
    assert (polled.selected, polled.done) == (submitted.done, submitted.done)
    assert statements < 300

    # All have been staged, as by many passes: `submit` takes as many as it has time for.
    observatory.execute(
        "UPDATE {schema}executed_reduction_step SET status = 'STAGED' WHERE status IN ('PENDING', 'STAGING_DATA')"
    )
    waiting = statuses(observatory)["STAGED"]
    hurried, _ = hurried_pass(observatory, "submit", max_seconds=4)
    assert hurried.selected == waiting
    assert 0 < hurried.done < 1000 and hurried.failed == 0
    assert statuses(observatory) == {
        "STAGED": waiting - hurried.done, "SUBMITTED": hurried.done, "COLLECTING_RESULTS": polled.done
    }  # fmt: skip
    assert hurried_pass(observatory, "poll", max_seconds=1e6)[0].selected == hurried.done


def test_thousands_of_runs_behind_a_ceiling_are_told_by_their_number(observatory: Observatory) -> None:
    observatory.settings_changes = {"max_concurrent": 1}
    for name in ("trigger", "resolve"):
        observatory.run_pass(name)
    multiply_runs(observatory, 500)
    report = observatory.run_pass("stage")
    assert (report.selected, report.done, report.waiting) == (502, 2, 500)
    assert len(report.items) < 20
    assert sum(item.count for item in report.items if item.outcome == "throttled") == 500
    json.dumps(report.to_json())
