"""Command lines for Slurm and the reading of its answers. The answers were recorded from Slurm 22.05.8."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.edges.scheduler import _slurm_text as text
from ccatwm.edges.scheduler._slurm_states import STATES, never_starts, parse_state
from ccatwm.interfaces import JobRequest, JobState

pytestmark = pytest.mark.quick

TOKEN = "abcdefghij234567abcdefghij"


def request(tasks: int = 1, **changes) -> JobRequest:
    values = {
        "token": TOKEN,
        "name": f"ccatwm-{TOKEN}",
        "directory": PurePosixPath(".submissions") / TOKEN,
        "attempt_directories": tuple(PurePosixPath(f"run-{n}/attempt-1") for n in range(tasks)),
        "cpu": 2,
        "memory_gb": 1.5,
        "time_seconds": 3601,
    } | changes
    return JobRequest(**values)


def sbatch(job: JobRequest, base: str = "/base", **defaults) -> list[str]:
    return text.build_sbatch(job, PurePosixPath(base), text.Defaults(**defaults), program="sbatch")


# --- sbatch ------------------------------------------------------------------------------------------------


def test_a_job_is_handed_over_held_under_a_name_that_carries_its_token():
    argv = sbatch(request())
    assert {"--parsable", "--hold", f"--job-name=ccatwm-{TOKEN}", "--no-requeue", "--export=ALL"} <= set(argv)
    assert argv[-2:] == [f"/base/.submissions/{TOKEN}/job.sh", f"/base/.submissions/{TOKEN}"]


def test_alike_tasks_are_one_array_and_one_task_is_an_array_too():
    assert "--array=0-0" in sbatch(request(1))
    assert "--array=0-2" in sbatch(request(3))


def test_time_is_whole_minutes_and_memory_is_per_node():
    argv = sbatch(request(options={"nodes": 2, "tasks": 4}))
    assert {"--time=61", "--mem=768M", "--nodes=2", "--ntasks=4", "--cpus-per-task=2"} <= set(argv)


def test_every_resource_has_its_option_and_the_step_wins_over_the_site():
    options = {
        "gpus": 1,
        "partition": "gpu",
        "account": "me",
        "qos": None,
        "constraint": "a&b",
        "extra": ("--nice=5",),
    }
    argv = sbatch(request(options=options), partition="smp", qos="long", extra=("--exclusive",))
    assert {"--gpus=1", "--partition=gpu", "--account=me", "--qos=long", "--constraint=a&b"} <= set(argv)
    assert argv.index("--exclusive") < argv.index("--nice=5") < len(argv) - 2


def test_the_warning_comes_early_but_never_before_half_of_the_time():
    assert "--signal=B:USR1@120" in sbatch(request())
    assert "--signal=B:USR1@30" in sbatch(request(time_seconds=60))


def test_a_percent_sign_in_the_base_directory_is_no_pattern_of_the_log():
    argv = sbatch(request(), base="/b%j")
    assert f"--output=/b%%j/.submissions/{TOKEN}/slurm-%a.log" in argv
    assert f"--chdir=/b%j/.submissions/{TOKEN}" in argv


def test_a_backslash_in_the_base_directory_leaves_no_pattern_in_the_log():
    argv = sbatch(request(), base="/b\\c%j")
    assert f"--output=/b\\\\c%j/.submissions/{TOKEN}/slurm.log" in argv
    assert f"--chdir=/b\\c%j/.submissions/{TOKEN}" in argv


ERROR = b"sbatch: error: Batch job submission failed: "
ANSWERS = [
    (0, b"2\n", b"", "accepted"),
    (0, b"17;cologne\n", b"sbatch: warning: something\n", "accepted"),
    (0, b"Welcome!\n18\n", b"", "accepted"),
    (0, b"", b"", "unknown"),
    (0, b"17\n18\n", b"", "unknown"),
    (1, b"17\n", b"sbatch: error: Invalid something\n", "unknown"),
    (None, b"", b"", "unknown"),
    (137, b"", b"", "unknown"),
    (1, b"", b"", "unknown"),
    (1, b"", b"sbatch: error: invalid partition specified: nope\n" + ERROR
     + b"Invalid partition name specified\n", "refused"),
    (1, b"", ERROR + b"Invalid account or account/partition combination specified\n", "refused"),
    (1, b"", b"sbatch: error: Memory specification can not be satisfied\n" + ERROR
     + b"Requested node configuration is not available\n", "refused"),
    (1, b"", ERROR + b"Invalid qos specification\n", "refused"),
    (1, b"", ERROR + b"Invalid job array specification\n", "refused"),
    (1, b"", ERROR + b"Invalid feature specification\n", "refused"),
    (1, b"", b"sbatch: error: Invalid generic resource (gres) specification\n", "refused"),
    (255, b"", b"sbatch: unrecognized option '--foo=1'\nTry \"sbatch --help\" for more information\n", "refused"),
    (1, b"", b"sbatch: error: Unable to open file /base/job.sh\n", "not-asked"),
    (1, b"", ERROR + b"Socket timed out on send/recv operation\n", "unknown"),
    (1, b"", ERROR + b"Unable to contact slurm controller (connect failure)\n", "unknown"),
    (1, b"", ERROR + b"Zero Bytes were transmitted or received\n", "unknown"),
    (1, b"", ERROR + b"Invalid job credential\n", "unknown"),
    (1, b"", b"sbatch: error: AssocMaxSubmitJobLimit\n" + ERROR
     + b"Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n", "throttled"),
    (1, b"", b"sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + ERROR
     + b"Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n", "throttled"),
    (1, b"", b"sbatch: error: QOSMaxCpuPerJobLimit\n" + ERROR
     + b"Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n", "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "stdout", "stderr", "outcome"), ANSWERS)
def test_an_answer_of_sbatch_is_definite_only_where_nothing_else_is_possible(code, stdout, stderr, outcome):
    assert text.parse_sbatch(code, stdout, stderr).outcome == outcome


def test_a_refusal_says_why_in_one_line():
    answer = text.parse_sbatch(1, b"", ERROR + b"Invalid qos specification\n")
    assert answer.message == "Batch job submission failed: Invalid qos specification"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_answer_makes_a_job_of_noise(stdout, stderr):
    answer = text.parse_sbatch(1, stdout, stderr)
    assert answer.outcome != "accepted"
    assert answer.job_id is None


# --- squeue ------------------------------------------------------------------------------------------------

QUEUE = b"""m4rk|2|0|RUNNING|2026-11-24T15:15:51|2026-11-24T15:15:51|sandbox-2|None|ccatwm-aaa
m4rk|2|1|PENDING|2026-11-24T15:15:51|N/A||JobHeldUser|ccatwm-aaa
m4rk|3|N/A|PENDING|2026-11-24T15:15:51|N/A||launch failed requeued held|good
mark|99|0|COMPLETED|2026-11-24T15:15:51|N/A||None|ccatwm-aaa
m4rk|6|[0-2,5%2]|PENDING|2026-11-24T15:15:51|N/A||Resources|ccatwm-bbb
m4rk|7|0|PENDING
m4rk|8|0|CANCELLED|2026-11-24T15:15:51|N/A||JobHeldUser|ccatwm-ccc
"""


def test_tasks_of_the_queue_are_read_with_their_state_and_reason():
    rows = {(row.job_id, row.array_index): row for row in text.parse_squeue(QUEUE, "m4rk")}
    assert sorted(rows) == [("2", 0), ("2", 1), ("3", 0), ("6", 0), ("6", 1), ("6", 2), ("6", 5), ("8", 0)]
    assert rows["2", 0].started_at == datetime(2026, 11, 24, 15, 15, 51, tzinfo=UTC)
    assert (rows["2", 1].held, rows["2", 1].token) == (True, "aaa")
    assert not rows["8", 0].held
    assert (rows["3", 0].reason, rows["3", 0].token) == ("launch failed requeued held", None)


def test_a_job_whose_name_has_line_breaks_forges_no_row():
    """A name is free text: the line after the break does not begin with the mark, which nobody can know."""
    assert "99" not in {row.job_id for row in text.parse_squeue(QUEUE, "m4rk")}


@given(st.binary(max_size=300))
def test_noise_gives_no_row_of_the_queue(noise):
    assert text.parse_squeue(noise, "0123456789abcdef") == []


# --- sacct -------------------------------------------------------------------------------------------------

ACCOUNTS = b"""\
2_0|COMPLETED|0:0|2026-11-24T15:15:51|2026-11-24T15:15:53|2026-11-24T15:15:59|6|01:02:03||sandbox-2|ccatwm-aaa
2_0.batch|COMPLETED|0:0|2026-11-24T15:15:51|2026-11-24T15:15:51|2026-11-24T15:15:52|1|00:00.002|2832K|sandbox-2|batch
2_0.0|COMPLETED|0:0|2026-11-24T15:15:51|2026-11-24T15:15:51|2026-11-24T15:15:52|1|00:00.002|2G|sandbox-2|prog
5|NODE_FAIL|1:0|2026-11-24T15:00:00|2026-11-24T15:00:00|2026-11-24T15:01:00|60|1-00:00:00||sandbox-1|ccatwm-ccc
5|CANCELLED by 1000|0:15|2026-11-24T15:02:00|2026-11-24T15:02:10|2026-11-24T15:03:00|50|00:01.5||sandbox-1|ccatwm-ccc
9_[0,2]|CANCELLED by 0|0:0|2026-11-24T15:15:51|None|2026-11-24T15:15:52|0|00:00:00||None assigned|ccatwm-ddd
|
"""


def accounts():
    return {(row.job_id, row.array_index): row for row in text.parse_sacct(ACCOUNTS)}


def test_accounting_is_read_with_units_and_the_memory_of_the_largest_step():
    row = accounts()["2", 0]
    assert (row.wall_seconds, row.peak_memory_gb) == (6.0, 2.0)
    assert row.cpu_hours == pytest.approx(1 + 2 / 60 + 3 / 3600)
    assert (row.exit_code, row.signal, row.nodes, row.name) == (0, 0, "sandbox-2", "ccatwm-aaa")


def test_of_a_requeued_job_the_newest_record_counts():
    row = accounts()["5", None]
    assert (row.state, row.wall_seconds, row.cpu_hours) == (
        "CANCELLED by 1000",
        50.0,
        pytest.approx(1.5 / 3600),
    )


def test_a_cancelled_array_is_one_row_for_all_its_tasks():
    assert {key for key in accounts() if key[0] == "9"} == {("9", 0), ("9", 2)}


def test_a_later_record_that_is_not_wanted_hides_none_and_lends_no_memory():
    other = ACCOUNTS.replace(b"T15:15:", b"T16:15:").replace(b"ccatwm-aaa", b"other").replace(b"|2G|", b"|9G|")
    (row,) = text.parse_sacct(ACCOUNTS + other, lambda row: row.name == "ccatwm-aaa")
    assert (row.job_id, row.array_index, row.name, row.peak_memory_gb) == ("2", 0, "ccatwm-aaa", 2.0)


@given(st.binary(max_size=300))
def test_noise_is_no_account(noise):
    for row in text.parse_sacct(noise):
        assert row.job_id.isdigit()


# --- reasons to wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    ["BadConstraints", "PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "QOSMaxWallDurationPerJobLimit",
     "AssocMaxCpuPerJobLimit", "InvalidQOS"],
)  # fmt: skip
def test_a_job_that_asks_for_what_is_not_there_never_starts(reason):
    assert never_starts(reason)


@pytest.mark.parametrize(
    "reason",
    ["Resources", "Priority", "Dependency", "BeginTime", "None", "QOSMaxJobsPerUserLimit", "AssocGrpCpuLimit",
     "ReqNodeNotAvail, UnavailableNodes:n1", "JobHeldUser", "Licenses", "QOSGrpCpuLimit", ""],
)  # fmt: skip
def test_a_job_that_waits_for_others_starts_one_day(reason):
    assert not never_starts(reason)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "advice"),
    [
        ("Invalid account or account/partition combination specified", {"account": "x"}, "account in the step"),
        ("Invalid account or account/partition combination specified", {}, "set slurm.account"),
        ("invalid partition specified: nowhere", {"partition": "nowhere"}, "partition in the step"),
        ("Requested node configuration is not available", {"partition": "main"}, "lower them"),
        ("Memory specification can not be satisfied", {}, "lower them"),
        ("Invalid feature specification", {"constraint": "gpu80"}, "constraint in the step"),
        ("Invalid qos specification", {}, "set slurm.qos"),
        ("PartitionTimeLimit", {}, "lower them"),
        ("InvalidQOS", {}, "set slurm.qos"),
        ("unrecognized option '--nope'", {}, "slurm.extra"),
    ],
)
def test_a_refusal_says_what_to_do(words, options, advice):
    assert advice in text.refusal_advice(words, options)


# --- states ------------------------------------------------------------------------------------------------

# squeue(1) and sacct(1), "JOB STATE CODES".
MANUAL = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "RESV_DEL_HOLD",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
    "LAUNCH_FAILED",
    "RECONFIG_FAIL",
    "POWER_UP_NODE",
    "UPDATE_DB",
    "EXPEDITING",
}


def test_every_state_of_the_manual_has_a_meaning():
    assert set(STATES) == MANUAL


@pytest.mark.parametrize("word", ["OUT_OF_ME+", "", "  ", "FROBNICATED", "CANCELLED+", "by 0"])
def test_a_word_that_is_cut_or_unknown_says_nothing(word):
    assert parse_state(word).state is JobState.UNKNOWN


def test_only_the_first_word_of_a_state_counts():
    assert parse_state("CANCELLED by 1000").cause == "cancelled-outside"


# --- chunks ------------------------------------------------------------------------------------------------


@given(st.lists(st.text("0123456789_", min_size=1, max_size=12)), st.integers(12, 60))
def test_chunks_keep_all_words_in_order_and_their_length(words, longest):
    chunks = list(text.in_chunks(words, longest))
    assert [word for chunk in chunks for word in chunk] == words
    assert all(len(",".join(chunk)) <= longest for chunk in chunks)


def test_a_whole_job_is_cancelled_by_its_id_and_tasks_by_theirs():
    assert text.build_task_ids({"7": None, "8": [0, 3]}) == ["7", "8_0", "8_3"]
