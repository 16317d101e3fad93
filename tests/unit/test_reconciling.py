"""What is made of run directories that a restored ops-db does not know."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from ccatwm.core.backup_seal import END_BYTES, End, build_end, parse_end, parse_line
from ccatwm.core.reconciling import (
    Copy,
    KnownRun,
    events_to_pending,
    events_to_staged,
    list_strange,
    parse_run_directory,
    parse_tasks,
    plan_reconciliation,
)
from ccatwm.core.states import BEFORE_SUBMIT, RunStatus, next_status

pytestmark = pytest.mark.quick
S = RunStatus


def run(number: int = 1, status: RunStatus = S.STAGED, attempt: int = 0, is_open: bool = True) -> dict[int, KnownRun]:
    return {number: KnownRun(number, f"p/s/k/run-{number}", status, is_open, attempt)}


def tasks(token: str, *lines: str):
    return {token: parse_tasks(token, "".join(f"p/s/k/{line}\n" for line in lines).encode())}


def test_the_newest_attempt_is_adopted_and_those_before_it_have_ended() -> None:
    found = tasks("a", "run-1/attempt-1") | tasks("b", "run-1/attempt-2")
    plan = plan_reconciliation(run(), found, {"p/s/k/run-1": [1, 2]})
    assert [(a.token, a.number) for a in plan.live] == [("b", 2)]
    assert [(a.token, a.number) for a in plan.past] == [("a", 1)]
    assert (plan.left, plan.waiting, plan.numbers) == ((), (), {})


def test_tasks_of_an_array_are_known_one_by_one() -> None:
    found = tasks("a", "run-1/attempt-1", "run-2/attempt-1") | tasks("b", "run-3/attempt-1") | {"c": None, "d": None}
    strange = list_strange(found, {"a": {0}, "b": {0}, "c": set()})
    assert {token: [a.run_id for a in those or ()] for token, those in strange.items()} == {"a": [2], "d": []}


def test_a_folder_that_was_never_handed_over_takes_its_number() -> None:
    plan = plan_reconciliation(run(), tasks("a", "run-1/attempt-1"), {"p/s/k/run-1": [1, 2]})
    assert (plan.live, [a.token for a in plan.past], plan.numbers) == ((), ["a"], {1: 2})


def test_a_run_whose_submission_was_half_way_waits_for_submit() -> None:
    plan = plan_reconciliation(run(status=S.SUBMITTING, attempt=1), tasks("b", "run-1/attempt-2"), {})
    assert (plan.live, plan.left, [w.directory for w in plan.waiting]) == ((), (), ["p/s/k/run-1"])
    assert "ccatwm submit" in plan.waiting[0].next


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({}, "made after the backup"),
        ({1: KnownRun(1, "p/other/k/run-1", S.STAGED, True, 0)}, "as p/other/k/run-1"),
        (run(status=S.FAILED, is_open=False, attempt=0), "is FAILED as of the backup"),
        (run(attempt=1), "another submission of attempt 1"),
    ],
)
def test_what_only_a_person_can_judge_is_named_with_what_to_type_and_told_once(known, why: str) -> None:
    found = tasks("a", "run-1/attempt-1")
    plan = plan_reconciliation(known, found, {"p/s/k/run-1": [1]})
    assert (plan.live, plan.past) == ((), ())
    assert [why in item.why and "--yes" in item.next for item in plan.left] == [True]
    assert plan_reconciliation(known, found, {"p/s/k/run-1": [1]}, frozenset({"p/s/k/run-1"})).left == ()


@pytest.mark.parametrize(
    ("refused", "has", "lacks"),
    [(None, "--import", "above"), ({"p/s/k/run-1"}, "REFUSED", "--import"), (set(), "--yes", "--import")],
)
def test_after_an_import_nobody_is_told_to_import(refused, has: str, lacks: str) -> None:
    (left,) = plan_reconciliation({}, {}, {"p/s/k/run-1": [1]}, refused=refused).left
    assert has in left.next and lacks not in left.next and "--yes" in left.next
    assert ("had not completed" in left.why) == (refused == set())


@pytest.mark.parametrize(
    ("there", "what", "next"),
    [
        (True, "a copy of run 1 (p/s/k/run-1)", "`mv /b/p/s/k2/run-1 FOLDER` moves it away"),
        (False, "run 1, which the ops-db knows as p/s/k/run-1, where nothing is",
         "`mkdir -p /b/p/s/k && mv /b/p/s/k2/run-1 /b/p/s/k/run-1` moves it back"),
    ],
)  # fmt: skip
def test_a_copy_of_a_known_run_is_named_as_one_and_nothing_of_it_is_said_to_run(there: bool, what: str, next: str) -> None:
    place = "p/s/k2/run-1"
    copies = {place: Copy(place, 1, "p/s/k/run-1", there)}
    known = run(status=S.COMPLETED, is_open=False, attempt=1)
    (left,) = plan_reconciliation(known, {}, {place: [1]}, copies=copies, root=PurePosixPath("/b")).left
    assert left.why == what
    assert left.next == f"{next}, then the same command again; or `ccatwm doctor --reconcile --yes` lets its files be"


def test_an_array_is_taken_apart() -> None:
    plan = plan_reconciliation(run(), tasks("a", "run-1/attempt-1", "run-2/attempt-1"), {})
    assert [(a.run_id, a.index) for a in plan.live] == [(1, 0)]
    assert [a.index for item in plan.left for a in item.attempts] == [1]


def test_a_submission_that_cannot_be_read_is_named() -> None:
    assert parse_tasks("a", b"nothing\n") is None
    assert plan_reconciliation({}, {"a": None}, {}).left[0].directory == ".submissions/a"


def test_what_the_ops_db_knows_is_no_news() -> None:
    plan = plan_reconciliation(run(attempt=2, status=S.RUNNING), {}, {"p/s/k/run-1": [1, 2]})
    assert plan == plan_reconciliation({}, {}, {})


@pytest.mark.parametrize("status", [s for s in S if s not in (S.COMPLETED, S.CANCELLED, S.SUBMITTING)])
def test_every_open_run_is_led_along_the_state_machine(status: RunStatus) -> None:
    for events, ends in ((events_to_staged(status), {S.STAGED}), (events_to_pending(status), BEFORE_SUBMIT)):
        at = status
        for expected, event in events:
            assert at is expected
            following = next_status(at, event)
            assert following is not None
            at = following
        assert at in ends


def test_only_run_directories_have_the_id_of_a_run() -> None:
    assert parse_run_directory("p/s/k/run-17") == 17
    for text in ("p/s/run-17", "p/s/k/run-017", "p/s/k/run-x", ".cache/packages/x/run-1/y", ""):
        assert parse_run_directory(text) is None


def test_the_end_of_a_backup_has_a_fixed_length() -> None:
    end = End(1 << 50, 300, "a" * 64)
    assert (len(build_end(end)), parse_end(build_end(end))) == (END_BYTES, end)
    assert parse_end(build_end(end)[1:]) is None
    assert parse_line(b"{}") is None
