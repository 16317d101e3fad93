"""What a restored ops-db learns of arrays whose tasks it came to know one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from ccatwm.core.reconciling import FoundAttempt
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import attempts, reconciling
from tests.opsdb.looked_at import NOW, World
from tests.opsdb.looked_at import world as world

TOKEN = "a" * 26


@pytest.fixture
def array(world: World) -> list[FoundAttempt]:
    """Tasks of one array, each of a staged run."""
    found = []
    for index in range(2):
        run = world.run(world.sub_group("calibrate", f"executed_obs_unit={index}", outcome="run"), "STAGED")
        place = f"otf/calibrate/executed_obs_unit={index}/run-{run}"
        found.append(FoundAttempt(TOKEN, index, f"{place}/attempt-1", place, run, 1))
    return found


def adopt(world: World, live: list[FoundAttempt], past: list[FoundAttempt]) -> None:
    with world.database.write() as connection:
        reconciling.adopt(connection, live, past, backend="slurm", cluster="c", now=NOW, actor="tester")


def submission(world: World) -> dict[str, Any]:
    with world.database.read() as connection:
        (row,) = connection.execute(t.submission.select()).mappings()
    return dict(row)


def change(world: World, state: str, **changes: Any) -> None:
    with world.database.write() as connection:
        attempts.change_submission(connection, submission(world)["id"], ("INTENDED",), state, **changes)


def test_a_submission_is_known_by_its_tasks(world: World, array: list[FoundAttempt]) -> None:
    adopt(world, [array[1]], [])
    with world.database.read() as connection:
        assert reconciling.known_tasks(connection, [TOKEN, "b" * 26]) == {TOKEN: {1}}


def test_a_task_of_a_released_array_is_where_the_others_are(world: World, array: list[FoundAttempt]) -> None:
    adopt(world, [array[0]], [])
    change(world, "RELEASED", job_id="17")
    adopt(world, [array[1]], [])
    assert world.row(t.executed_reduction_step, array[1].run_id)["status"] == "SUBMITTED"
    assert (submission(world)["state"], submission(world)["job_id"]) == ("RELEASED", "17")


def test_an_array_of_which_a_task_is_wanted_again_is_looked_up(world: World, array: list[FoundAttempt]) -> None:
    adopt(world, [], [array[0]])
    assert (submission(world)["state"], bool(submission(world)["doubtful"])) == ("ABSENT", True)
    adopt(world, [array[1]], [])
    assert world.row(t.executed_reduction_step, array[1].run_id)["status"] == "SUBMITTING"
    assert (submission(world)["state"], bool(submission(world)["doubtful"])) == ("INTENDED", False)


def test_strays_are_looked_for_up_to_the_last_task_that_is_known(world: World, array: list[FoundAttempt]) -> None:
    adopt(world, [], [array[1]])
    with world.database.read() as connection:
        assert attempts.list_given_up_tokens(connection, "slurm", "c", NOW) == {TOKEN: 2}
