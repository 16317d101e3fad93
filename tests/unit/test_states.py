"""The state machine of a run."""

from __future__ import annotations

import pytest

from ccatwm.core.states import FINAL, OPEN, TRANSITIONS, RunEvent, RunStatus, next_status, statuses_before

pytestmark = pytest.mark.quick


def test_every_status_that_is_not_final_can_fail_and_can_be_cancelled():
    for status in OPEN:
        assert next_status(status, RunEvent.ATTEMPT_FAILED) is RunStatus.FAILED
        assert next_status(status, RunEvent.CANCELLED) is RunStatus.CANCELLED


def test_a_completed_run_never_moves_again():
    assert all(next_status(RunStatus.COMPLETED, event) is None for event in RunEvent)


def test_late_news_never_moves_a_run_back():
    assert next_status(RunStatus.COLLECTING_RESULTS, RunEvent.JOB_STARTED) is None
    assert next_status(RunStatus.RUNNING, RunEvent.JOB_ACCEPTED) is None
    assert next_status(RunStatus.CANCELLED, RunEvent.JOB_SUCCEEDED) is None


def test_only_a_retry_leads_out_of_a_final_status():
    leaving = {event for (status, event), after in TRANSITIONS.items() if status in FINAL and after in OPEN}
    assert leaving == {RunEvent.RETRY_DUE, RunEvent.RETRY_REQUESTED}


def test_every_status_is_reached_and_every_event_is_used():
    reached = set(TRANSITIONS.values()) | {RunStatus.PENDING}
    assert reached == set(RunStatus)
    assert {event for _, event in TRANSITIONS} == set(RunEvent)


def test_a_job_faster_than_one_poll_may_succeed_without_having_been_seen_running():
    assert set(statuses_before(RunEvent.JOB_SUCCEEDED)) == {RunStatus.SUBMITTED, RunStatus.RUNNING}
