"""What is concluded of a job."""

from __future__ import annotations

import json

import pytest

from ccatwm.core.model import FailureClass
from ccatwm.core.outcomes import JobFacts, Patience, Verdict, conclude, parse_exit_record

pytestmark = pytest.mark.quick


def record(**changes):
    data = {
        "format": 1,
        "token": "tok",
        "exit_code": 0,
        "signal": None,
        "reason": "payload",
        "hash_exit_code": 0,
    } | changes
    return parse_exit_record(json.dumps(data).encode())


PATIENCE = Patience(record=60, requeue=150, grace=900)


def judge(state="ended", cause=None, exit_record=None, gone=0.0, container=lambda code: code == 255, **changes):
    facts = {"settled": True, "started": True, "cancel_requested": False} | changes
    return conclude(
        JobFacts(state, cause, "", record=exit_record, gone_seconds=gone, **facts),
        token="tok",
        partial_exit_codes=(2,),
        container_failed=container,
        patience=PATIENCE,
    )


def test_silence_changes_nothing():
    assert judge("unknown", exit_record=record()).verdict is Verdict.WAIT


def test_gone_from_the_queue_is_not_success():
    assert judge("absent", gone=899).verdict is Verdict.WAIT
    late = judge("absent", gone=901)
    assert (late.verdict, late.failure) == (Verdict.FAILED, FailureClass.LOST)


def test_an_absent_job_with_a_record_is_accepted_only_after_the_grace_period():
    assert judge("absent", exit_record=record(), gone=899).verdict is Verdict.WAIT
    accepted = judge("absent", exit_record=record(), gone=901)
    assert (accepted.verdict, accepted.message) == (Verdict.SUCCEEDED, "the batch system never told of its end")


def test_an_ended_job_without_a_trace_is_lost_only_if_its_claim_is_won():
    """Without accounting a job that is out of the queue may never have begun."""
    assert judge("ended", gone=61, started=False).needs_claim
    assert not judge("ended", gone=61, started=True).needs_claim


def test_a_job_whose_attempt_another_began_is_not_lost_while_that_one_may_run():
    assert judge("ended", refused=True, gone=61, limit_seconds=600).verdict is Verdict.WAIT
    assert judge("ended", refused=True, gone=661, limit_seconds=600).failure is FailureClass.LOST
    assert judge("ended", refused=True, started=False, gone=61, limit_seconds=600).failure is FailureClass.LOST


def test_a_lost_job_that_never_began_is_lost_only_if_its_claim_is_won():
    assert judge("absent", gone=901, started=False).needs_claim
    assert not judge("absent", gone=901, started=True).needs_claim


def test_an_ended_job_gets_time_to_show_its_record():
    assert judge("ended", gone=59).verdict is Verdict.WAIT
    assert judge("ended", gone=61).failure is FailureClass.LOST


@pytest.mark.parametrize("cause", ["preempted", "node-failure", "lost"])
def test_a_job_that_may_come_back_is_waited_for(cause):
    assert judge(cause=cause, settled=False, gone=149).verdict is Verdict.WAIT
    assert judge(cause=cause, settled=False, gone=151).failure == cause
    assert judge(cause=cause, settled=True).failure == cause


def test_a_task_cancelled_while_pending_is_cancelled_at_once_if_we_asked_and_its_claim_is_won():
    ours = judge("absent", "cancelled-outside", started=False, cancel_requested=True)
    assert (ours.verdict, ours.needs_claim) == (Verdict.CANCELLED, True)
    begun = judge("absent", started=True, cancel_requested=True)
    assert begun.verdict is Verdict.WAIT


def test_a_task_that_left_no_record_while_its_array_did_was_cancelled_by_somebody():
    late = judge("absent", "cancelled-outside", gone=901, started=False)
    assert (late.failure, late.needs_claim) == (FailureClass.CANCELLED_OUTSIDE, True)


def test_the_exit_record_decides():
    assert judge(exit_record=record()).verdict is Verdict.SUCCEEDED
    failed = judge(exit_record=record(exit_code=3))
    assert (failed.failure, failed.exit_code) == (FailureClass.NON_ZERO_EXIT, 3)


def test_a_time_limit_wins_over_exit_code_zero():
    assert judge(cause="timeout", exit_record=record()).failure is FailureClass.TIMEOUT


def test_a_partial_exit_code_is_success():
    partial = judge(exit_record=record(exit_code=2))
    assert partial.verdict is Verdict.SUCCEEDED
    assert partial.partial


def test_a_container_that_did_not_start_is_told_from_a_program_that_failed():
    assert judge(exit_record=record(exit_code=255)).failure is FailureClass.CONTAINER
    own = judge(exit_record=record(exit_code=255), container=lambda code: False)
    assert own.failure is FailureClass.NON_ZERO_EXIT


def test_an_output_that_vanished_while_it_was_hashed_is_bad_output():
    assert judge(exit_record=record(hash_exit_code=1)).failure is FailureClass.BAD_OUTPUT


def test_an_input_gone_when_the_job_began_is_a_failure_of_staging():
    assert judge(exit_record=record(exit_code=76, reason="input-missing")).failure is FailureClass.STAGING


def test_a_host_without_the_programs_of_a_job_waits_for_a_person_and_is_named():
    told = judge(exit_record=record(exit_code=78, reason="programs-missing", missing="stat xargs", host="node7"))
    assert (told.verdict, told.failure, told.exit_code) == (Verdict.FAILED, FailureClass.CONTAINER, 78)
    assert "node7 lacks programs that every job needs: stat xargs" in told.message
    assert judge(exit_record=record(exit_code=78)).failure is FailureClass.NON_ZERO_EXIT, "the program's own code"


def test_memory_that_ran_out_is_known_from_the_record_where_the_batch_system_did_not_notice():
    killed = judge(exit_record=record(exit_code=137, reason="out-of-memory"))
    assert (killed.failure, killed.exit_code) == (FailureClass.OUT_OF_MEMORY, 137)
    both = judge(cause="timeout", exit_record=record(exit_code=1, reason="out-of-memory"))
    assert both.failure is FailureClass.TIMEOUT


def test_a_signal_from_outside_is_no_failure_of_the_program():
    assert judge(exit_record=record(signal="TERM", exit_code=0)).failure is FailureClass.CANCELLED_OUTSIDE


def test_another_attempts_record_is_no_record():
    assert judge(exit_record=record(token="other")).verdict is Verdict.WAIT


def test_a_job_that_was_to_be_cancelled_is_cancelled_whatever_it_left():
    assert judge(exit_record=record(), cancel_requested=True).verdict is Verdict.CANCELLED
    assert judge("running", cancel_requested=True).verdict is Verdict.STARTED


def test_a_job_that_will_never_start_is_refused_after_the_grace_period_if_its_claim_is_won():
    assert judge("pending", "submit-rejected", gone=899, started=False).verdict is Verdict.WAIT
    late = judge("pending", "submit-rejected", gone=901, started=False)
    assert (late.verdict, late.failure, late.needs_claim) == (
        Verdict.FAILED,
        FailureClass.SUBMIT_REJECTED,
        True,
    )
    assert judge("pending", gone=901).verdict is Verdict.WAIT


def test_a_held_job_is_let_go_again():
    assert judge("held").verdict is Verdict.RELEASE


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"format":99,"exit_code":0}', b'{"format":1}', b"\xff\xfe"]
)
def test_a_cut_or_unknown_record_is_no_record(content):
    assert parse_exit_record(content) is None


def test_a_record_padded_to_its_reserved_blocks_is_read():
    assert (
        parse_exit_record(b'{"format":1,"token":"t","exit_code":4}\n' + b" " * 4000 + b"\0" * 10).exit_code
        == 4
    )
