"""How packages are shared among staging jobs, and what the end of one means for those it did not bring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.model import FailureClass
from ccatwm.core.reconciling import parse_tasks
from ccatwm.core.transfers import (
    MOST_PACKAGES,
    attempt_directory,
    begun,
    claiming_job,
    job_claim,
    missed,
    share_out,
)


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(0, 5), st.integers(1, 150))
def test_each_package_goes_with_one_job_at_most_and_those_with_an_earlier_turn_first(sizes, most_jobs, job_bytes):
    shares = share_out(sizes, most_jobs, job_bytes)
    given_out = sorted(index for share in shares for index in share)
    assert given_out == list(range(len(given_out)))
    assert len(shares) <= most_jobs and all(shares)
    for share in shares:
        assert len(share) == 1 or sum(sizes[index] for index in share) <= job_bytes
    if len(given_out) < len(sizes):  # what waits would have made any job too large
        assert len(shares) == most_jobs
        assert all(sum(sizes[i] for i in share) + sizes[len(given_out)] > job_bytes for share in shares)


def test_many_small_packages_are_shared_evenly_and_no_job_has_too_many():
    assert [len(share) for share in share_out([1] * 10, 4, 1000)] == [3, 3, 2, 2]
    assert [len(share) for share in share_out([0] * 3 * MOST_PACKAGES, 2, 1000)] == [MOST_PACKAGES] * 2


def test_a_package_larger_than_a_job_may_bring_has_one_for_itself():
    assert share_out([500, 1, 1], 2, 10) == [[0], [1, 2]]


def test_a_claim_says_whether_a_job_has_it():
    assert claiming_job(job_claim("abc")) == "abc"
    assert claiming_job("boot:12:34") is None and claiming_job(None) is None


@pytest.mark.parametrize(
    ("answered", "at"),
    [([], {0}), ([0], {0, 1}), ([1], {0, 1, 2}), ([0, 1, 2, 3], {0, 1, 2, 3}), ([0, 2], {0, 1, 2, 3})],
)
def test_a_job_has_begun_what_it_answered_what_comes_before_and_the_next(answered, at):
    assert begun(range(4), answered) == at
    assert begun([], answered) == set()


@pytest.mark.parametrize("failure", [FailureClass.TIMEOUT, FailureClass.CANCELLED_OUTSIDE])
def test_a_job_that_was_ended_after_it_brought_some_is_gone_on_with(failure):
    assert missed(failure, "", "staging job 7", brought=1) is None
    assert missed(failure, "", "staging job 7", brought=0) is not None


@pytest.mark.parametrize(
    ("failure", "runs_fail_as", "remedy"),
    [
        (FailureClass.TIMEOUT, FailureClass.STAGING, "raise STAGE.time_hours"),
        (FailureClass.OUT_OF_MEMORY, FailureClass.STAGING, "raise STAGE.memory_gb"),
        (FailureClass.NON_ZERO_EXIT, FailureClass.STAGING, ""),
        (FailureClass.NODE_FAILURE, FailureClass.NODE_FAILURE, ""),
        (FailureClass.NO_SPACE, FailureClass.NO_SPACE, ""),
    ],
)
def test_what_runs_are_told_of_a_job_that_brought_nothing(failure, runs_fail_as, remedy):
    told = missed(failure, "it said why", "staging job 7", brought=0)
    assert told is not None and told[0] is runs_fail_as
    assert told[1].startswith("staging job 7 ended before it had brought the package: it said why")
    assert told[1].endswith(remedy)


def test_a_job_that_brings_packages_is_no_run_to_be_reconciled():
    assert parse_tasks("abc", f"{attempt_directory('abc')}\n".encode()) == []
    assert parse_tasks("abc", f"{attempt_directory('other')}\n".encode()) is None
