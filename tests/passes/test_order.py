"""Which of many waiting runs go first."""

from __future__ import annotations

from collections.abc import Sequence

from ccatwm.core.model import Resources
from ccatwm.core.states import RunStatus
from ccatwm.core.throttle import WaitingRun
from ccatwm.edges.opsdb.stores.runs import list_open_runs
from ccatwm.passes.submit import plan_submissions
from tests.passes.conftest import Observatory

# Scan 1 is the oldest; they are ingested, and their runs made, in the order 1, 2, 3.
OLDEST_FIRST = ["scan-1", "scan-2", "scan-3"]


def scans(observatory: Observatory, reported: Sequence[object]) -> list[str]:
    """The scans of runs, in the order in which a pass reported them."""
    packages = {i["run_id"]: i["name"] for i in observatory.rows("run_input")}
    return [packages[run_id].removesuffix("-LFA") for run_id in reported]


def staged_in_order(observatory: Observatory) -> list[str]:
    items = observatory.run_pass("stage").items
    return scans(observatory, [item.run for item in items if item.outcome == "staged"])


def test_the_runs_of_the_newest_observations_go_first(three_scans: Observatory) -> None:
    three_scans.make_runs()
    assert staged_in_order(three_scans) == OLDEST_FIRST[::-1]
    submitted = three_scans.run_pass("submit")
    assert scans(three_scans, [item.run for item in submitted.items]) == OLDEST_FIRST[::-1]


def test_a_step_may_have_its_oldest_observations_first(three_scans: Observatory) -> None:
    write_order(three_scans, "oldest")
    three_scans.make_runs()
    assert staged_in_order(three_scans) == OLDEST_FIRST


def test_the_order_of_a_step_can_be_changed_while_its_runs_wait(three_scans: Observatory) -> None:
    three_scans.make_runs()
    write_order(three_scans, "oldest")
    three_scans.apply()
    assert staged_in_order(three_scans) == OLDEST_FIRST


def test_a_limited_pass_takes_the_first_ones_and_the_next_goes_on(three_scans: Observatory) -> None:
    three_scans.make_runs()
    first = three_scans.run_pass("stage", limit=1)
    assert scans(three_scans, [item.run for item in first.items]) == ["scan-3"]
    assert staged_in_order(three_scans) == ["scan-2", "scan-1"]


def test_priority_counts_more_than_age(three_scans: Observatory) -> None:
    three_scans.make_runs()
    oldest = min(three_scans.runs(), key=lambda run: str(run["observed_at"]))
    three_scans.execute(
        f"UPDATE {{schema}}executed_reduction_step SET priority = 99 WHERE id = {oldest['id']}"
    )
    assert staged_in_order(three_scans) == ["scan-1", "scan-3", "scan-2"]


def test_a_step_with_the_newest_first_comes_before_one_with_the_oldest_first(
    three_scans: Observatory,
) -> None:
    path = three_scans.folder / "pipeline.yaml"
    again = "      - {name: again, software: cal, group_by: [executed_obs_unit], order: oldest, raw_inputs: true}\n"
    path.write_text(path.read_text() + again)
    three_scans.make_runs()
    with three_scans.context().database.read() as connection:
        found = list_open_runs(connection, "local", (RunStatus.PENDING,))
    assert [run.step for run in found] == ["calibrate"] * 3 + ["again"] * 3
    assert scans(three_scans, [run.id for run in found]) == [*OLDEST_FIRST[::-1], *OLDEST_FIRST]


def test_a_run_whose_observation_has_no_start_counts_from_when_it_was_made(three_scans: Observatory) -> None:
    observation_tables = "" if three_scans.url.startswith("sqlite") else "public."
    three_scans.execute(
        f"UPDATE {observation_tables}executed_obs_unit SET start_time = NULL WHERE name = 'scan-1'"
    )
    three_scans.make_runs()
    assert staged_in_order(three_scans) == ["scan-1", "scan-3", "scan-2"]


def test_many_alike_runs_do_not_go_before_the_first_of_another_kind() -> None:
    small, large = Resources(cpu=1), Resources(cpu=8)
    selected = [
        WaitingRun(n, 1, 1, "p", "s", f"k{n}", resources=large if n in (1, 5) else small) for n in range(8)
    ]
    planned = plan_submissions(selected, max_array_size=3)
    assert [[run.id for run in plan.runs] for plan in planned] == [[0, 2, 3], [1, 5], [4, 6, 7]]
    assert [plan.resources for plan in planned] == [small, large, small]


def write_order(observatory: Observatory, order: str) -> None:
    path = observatory.folder / "pipeline.yaml"
    text = path.read_text()
    assert "name: calibrate," in text
    path.write_text(text.replace("name: calibrate,", f"name: calibrate, order: {order},"))
