"""Which failures are tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.model import FailureClass, Resources
from ccatwm.core.retries import MAX_FREE_RETRIES, RetryLimits, plan_retry

pytestmark = pytest.mark.quick
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIMITS = RetryLimits(base_seconds=60, max_seconds=600, max_memory_gb=8, max_time_hours=4)


def plan(failure, exit_code=1, used=0, free_used=0, retry=None, resources=None, max_retries=3):
    return plan_retry(
        failure, exit_code, now=NOW, max_retries=max_retries, retries_used=used, free_retries_used=free_used,
        resources=resources or Resources(), step_retry=retry or {}, limits=LIMITS,
    )  # fmt: skip


@pytest.mark.parametrize("failure", [FailureClass.STAGING, FailureClass.LOST, FailureClass.TIMEOUT])
def test_what_may_pass_is_tried_again_until_the_retries_are_used(failure):
    assert plan(failure).due_at == NOW + timedelta(seconds=60)
    assert plan(failure, used=3).due_at is None


@pytest.mark.parametrize(
    "failure", [FailureClass.SUBMIT_REJECTED, FailureClass.CONTAINER, FailureClass.CANCELLED_OUTSIDE]
)
def test_what_a_person_must_mend_is_not_tried_again(failure):
    assert plan(failure).due_at is None


@pytest.mark.parametrize("failure", [FailureClass.NON_ZERO_EXIT, FailureClass.BAD_OUTPUT])
def test_a_program_that_fails_is_tried_again_only_where_the_step_says_so(failure):
    assert plan(failure).due_at is None
    assert plan(failure, retry={failure.value: {"times": 1}}).due_at is not None
    assert plan(failure, retry={failure.value: {"times": 1}}, used=1).due_at is None


def test_exit_code_75_asks_for_a_retry():
    assert plan(FailureClass.NON_ZERO_EXIT, exit_code=75).due_at is not None
    assert plan(FailureClass.NON_ZERO_EXIT, exit_code=75, used=3).due_at is None


@pytest.mark.parametrize("failure", [FailureClass.NODE_FAILURE, FailureClass.PREEMPTED])
def test_what_is_nobodys_fault_is_not_charged_but_bounded(failure):
    assert plan(failure, used=3).free
    assert plan(failure, used=3).due_at is not None
    assert plan(failure, free_used=MAX_FREE_RETRIES).due_at is None


def test_inputs_that_were_purged_before_the_job_began_are_charged_to_nobody():
    assert plan(FailureClass.STAGING, exit_code=76, used=3).free
    assert plan(FailureClass.STAGING, exit_code=76, free_used=MAX_FREE_RETRIES).due_at is None
    assert not plan(FailureClass.STAGING).free, "packages that cannot be had are"
    assert plan(FailureClass.NON_ZERO_EXIT, exit_code=76).due_at is None, "a program may end so, too"


def test_a_full_disk_is_waited_out_and_uses_up_nothing():
    waits = plan(FailureClass.NO_SPACE, used=3, free_used=MAX_FREE_RETRIES)
    assert (waits.free, waits.counted) == (True, False)
    assert waits.due_at == NOW + timedelta(seconds=300)


def test_the_back_off_doubles_up_to_the_maximum():
    waits = [
        (plan(FailureClass.LOST, used=used, max_retries=9).due_at - NOW).total_seconds() for used in range(6)
    ]
    assert waits == [60, 120, 240, 480, 600, 600]


def test_out_of_memory_gets_more_memory_up_to_the_cap():
    more = plan(FailureClass.OUT_OF_MEMORY, resources=Resources(memory_gb=4)).resources
    assert more.memory_gb == 6
    assert plan(FailureClass.OUT_OF_MEMORY, resources=Resources(memory_gb=7)).resources.memory_gb == 8


def test_a_step_may_say_how_much_more_a_retry_asks_for():
    twice = {"out-of-memory": {"factor": 2.0}, "timeout": {"factor": 1.0}}
    asked = Resources(memory_gb=3, time_hours=1)
    more = plan(FailureClass.OUT_OF_MEMORY, resources=asked, retry=twice).resources
    assert (more.memory_gb, more.time_hours) == (6, 1)
    assert plan(FailureClass.TIMEOUT, resources=asked, retry=twice).resources == asked


@pytest.mark.parametrize("failure", [FailureClass.OUT_OF_MEMORY, FailureClass.TIMEOUT])
def test_a_step_that_asks_for_more_than_the_cap_is_not_given_less_than_it_asks_for(failure):
    asked = Resources(memory_gb=32, time_hours=12)
    assert plan(failure, resources=asked).resources == asked


def test_a_time_out_gets_more_time_and_no_more_memory():
    more = plan(FailureClass.TIMEOUT, resources=Resources(memory_gb=4, time_hours=2)).resources
    assert (more.memory_gb, more.time_hours) == (4, 3)
