"""Ceilings and turns."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.throttle import Active, Ceilings, WaitingRun, admit

pytestmark = pytest.mark.quick

NUMBERS = count(1)
SHARED, LONELY = 1, 2  # pipelines


def run(pipeline: int = SHARED, step: int = 0, priority: int = 0, *, counted: bool = False) -> WaitingRun:
    """Steps are numbered by pipeline: 11 is the second of the first one."""
    step_id = 10 * pipeline + step
    names = (f"p{pipeline}", f"s{step}", "all")
    return WaitingRun(next(NUMBERS), pipeline, step_id, *names, priority=priority, counted=counted)


def test_without_ceilings_all_go() -> None:
    waiting = [run() for _ in range(3)]
    admission = admit(waiting, [], Ceilings())
    assert (admission.admitted, admission.throttled) == (waiting, [])


def test_a_step_that_is_full_does_not_stop_the_runs_behind_it() -> None:
    waiting = [run(step=0), run(step=0), run(step=1)]
    admission = admit(waiting, [Active(SHARED, 10, 3)], Ceilings(steps={10: 4}))
    assert admission.admitted == [waiting[0], waiting[2]]
    ((throttled, why),) = admission.throttled
    assert throttled is waiting[1]
    assert why.reason == "4 runs of p1/s0 under way or before it, max_concurrent is 4"
    assert why.figure == "4 of 4"


def test_a_pipeline_and_a_location_that_are_full_are_told() -> None:
    waiting = [run(SHARED), run(SHARED), run(LONELY), run(LONELY)]
    ceilings = Ceilings("ramses", 2, {SHARED: 1})
    told = {why.reason for _, why in admit(waiting, [], ceilings).throttled}
    assert told == {
        "1 run of pipeline p1 under way or before it, max_concurrent is 1",
        "2 runs at ramses under way or before it, MAX_CONCURRENT is 2",
    }


def test_a_ceiling_that_was_lowered_lets_nothing_through_and_tells_how_many_there_are() -> None:
    ((_, why),) = admit([run()], [Active(SHARED, 10, 6)], Ceilings(steps={10: 4})).throttled
    assert why.figure == "6 of 4"


def test_ahead_of_the_jobs_as_many_again_are_staged() -> None:
    waiting = [run() for _ in range(5)]
    admission = admit(waiting, [Active(SHARED, 10, 2)], Ceilings(steps={10: 3}, ahead=2))
    assert len(admission.admitted) == 4
    assert admission.throttled[0][1].reason == (
        "6 runs of p1/s0 staged, under way or before it, twice max_concurrent, which is 3"
    )


def test_what_was_let_through_before_goes_on_however_full_it_is() -> None:
    waiting = [run(), run(counted=True)]
    admission = admit(waiting, [Active(SHARED, 10, 1)], Ceilings(steps={10: 1}))
    assert admission.admitted == waiting[1:]


def test_runs_that_merely_wait_take_no_room_from_a_larger_priority() -> None:
    staged = Active(SHARED, 10, 4, priority=0)
    waiting = [run(LONELY, priority=5), run(LONELY)]
    admission = admit(waiting, [staged], Ceilings("here", 4))
    assert admission.admitted == waiting[:1]
    running = Active(SHARED, 10, 4)
    assert admit(waiting, [running], Ceilings("here", 4)).admitted == []


def test_priority_counts_more_than_turns() -> None:
    urgent = [run(SHARED, priority=1) for _ in range(3)]
    waiting = [*urgent, run(LONELY)]
    assert admit(waiting, [Active(SHARED, 10, 9)], Ceilings()).admitted == waiting


def test_a_pipeline_of_few_runs_does_not_wait_for_one_of_many() -> None:
    many, few = [run(SHARED) for _ in range(1000)], [run(LONELY) for _ in range(2)]
    assert admit([*many, *few], [], Ceilings()).admitted[:4] == [many[0], few[0], many[1], few[1]]


def test_a_pipeline_that_has_more_under_way_waits_until_the_others_have_as_many() -> None:
    waiting = [run(SHARED), run(LONELY), run(LONELY), run(LONELY)]
    admitted = admit(waiting, [Active(SHARED, 10, 2)], Ceilings()).admitted
    assert [item.pipeline_id for item in admitted] == [LONELY, LONELY, SHARED, LONELY]


def test_runs_that_are_throttled_do_not_cost_their_pipeline_its_turns() -> None:
    full, free = [run(SHARED, 0) for _ in range(100)], [run(SHARED, 1) for _ in range(5)]
    other = [run(LONELY) for _ in range(100)]
    admitted = admit([*full, *other, *free], [], Ceilings("here", 11, steps={10: 1})).admitted
    assert Counter(item.pipeline_id for item in admitted) == {SHARED: 5, LONELY: 6}


RUNS = st.lists(
    st.builds(
        run,
        st.integers(1, 4),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=60,
)
STEPS = [10 * pipeline + step for pipeline in range(1, 5) for step in range(3)]
ACTIVE = st.lists(
    st.builds(lambda step, n: Active(step // 10, step, n), st.sampled_from(STEPS), st.integers(1, 5)),
    max_size=6,
)
MOST = st.integers(1, 12)
CEILINGS = st.builds(
    Ceilings,
    st.just("here"),
    st.none() | MOST,
    st.dictionaries(st.integers(1, 4), MOST),
    st.dictionaries(st.sampled_from(STEPS), MOST),
    st.sampled_from([1, 2]),
)


@given(RUNS, ACTIVE, CEILINGS)
def test_each_run_is_admitted_or_throttled_and_no_ceiling_is_passed(waiting, active, ceilings) -> None:
    admission = admit(waiting, active, ceilings)
    assert sorted(item.id for item in [*admission.admitted, *(r for r, _ in admission.throttled)]) == sorted(
        item.id for item in waiting
    )
    for key, most in [
        *((("step_id", step), most) for step, most in ceilings.steps.items()),
        *((("pipeline_id", pipeline), most) for pipeline, most in ceilings.pipelines.items()),
        *([(None, ceilings.most)] if ceilings.most is not None else []),
    ]:
        concerned = [r for r in admission.admitted if key is None or getattr(r, key[0]) == key[1]]
        before = sum(a.count for a in active if key is None or getattr(a, key[0]) == key[1])
        assert len(concerned) <= max(0, most * ceilings.ahead - before)


@given(RUNS, ACTIVE, CEILINGS)
def test_every_throttled_run_has_a_ceiling_that_is_full_at_the_end(waiting, active, ceilings) -> None:
    for _, why in admit(waiting, active, ceilings).throttled:
        assert why.active >= why.most * why.ahead


@given(RUNS, ACTIVE, CEILINGS)
def test_the_order_is_kept_within_a_pipeline_and_between_priorities(waiting, active, ceilings) -> None:
    admitted = admit(waiting, active, ceilings).admitted
    assert [r.priority for r in admitted] == sorted((r.priority for r in admitted), reverse=True)
    place = {r.id: n for n, r in enumerate(waiting)}
    for pipeline in range(1, 5):
        own = [(-r.priority, place[r.id]) for r in admitted if r.pipeline_id == pipeline]
        assert own == sorted(own)


@given(RUNS, CEILINGS)
def test_no_pipeline_starves_another_of_the_same_priority(waiting, ceilings) -> None:
    """After each admission the shares of pipelines that still get some later differ by one at most."""
    waiting = [item for item in waiting if item.priority == 0]
    admitted = admit(waiting, [], ceilings).admitted
    shares: Counter[int] = Counter()
    for n, item in enumerate(admitted):
        later = {r.pipeline_id for r in admitted[n:]}
        assert shares[item.pipeline_id] == min(shares[p] for p in later)
        assert max(shares[p] for p in later) - min(shares[p] for p in later) <= 1
        shares[item.pipeline_id] += 1
