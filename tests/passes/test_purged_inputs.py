"""A purge of the file system takes inputs of a run between the passes: the job misses them, and the run is staged again."""

from __future__ import annotations

import shutil

import pytest

from tests.passes.bad_world import COPY, Scan, executions, good_tar, observe, reduce


@pytest.fixture
def staged(empty_observatory):
    """A run whose inputs are staged; nothing is handed over yet."""
    observe(empty_observatory, Scan("one", good_tar(a__bin=b"a" * 99, b__bin=b"b" * 50)))
    reduce(empty_observatory, COPY)
    for name in ("trigger", "resolve", "stage"):
        empty_observatory.run_pass(name)
    return empty_observatory


def inputs(observatory):
    return next((observatory.base / "otf").glob("*/*/run-*/input"))


@pytest.mark.parametrize("moment", ["before submit", "while queued"])
@pytest.mark.parametrize("what", ["a file", "everything"])
def test_what_was_purged_is_staged_again_and_the_program_never_sees_less(staged, moment, what):
    if moment == "while queued":
        staged.run_pass("submit")
    if what == "a file":
        next(p for p in inputs(staged).rglob("*") if p.is_file()).unlink()
    else:
        shutil.rmtree(inputs(staged))
    staged.until_quiet()
    staged.minute += 120  # the back-off of a retry
    staged.until_quiet()
    (run,) = staged.runs()
    assert run["status"] == "COMPLETED" and run["attempt"] == 2
    assert (run["retries_used"], run["free_retries_used"]) == (0, 1), "a purge is no fault of the step"
    assert len(executions(staged)) == 1  # the first attempt ended before its program began
    science = staged.base / run["output_directory"] / "science"
    assert sorted(p.read_bytes()[:1] for p in science.rglob("*") if p.is_file()) == [b"a", b"b"]


def test_a_purge_under_a_whole_queue_trips_nothing(empty_observatory):
    most = empty_observatory.context().settings.trip_after
    observe(empty_observatory, *(Scan(f"s{n}", good_tar(a__bin=b"%d" % n)) for n in range(most + 1)))
    reduce(empty_observatory, COPY)
    for name in ("trigger", "resolve", "stage", "submit"):
        empty_observatory.run_pass(name)
    for folder in (empty_observatory.base / "otf").glob("*/*/run-*/input"):
        shutil.rmtree(folder)
    empty_observatory.jobs()
    empty_observatory.run_pass("poll")
    runs = empty_observatory.runs()
    assert len(runs) > most and all(run["is_open"] and run["free_retries_used"] == 1 for run in runs)
    assert not [step["name"] for step in empty_observatory.rows("reduction_step") if step["tripped"]]


def test_the_list_of_inputs_goes_with_them(staged):
    run = inputs(staged).parent
    assert (run / "inputs.list").read_text().count("\n") == 2
    staged.until_quiet()
    staged.run_pass("collect")
    assert not (run / "inputs.list").exists() and not (run / "input").exists()
