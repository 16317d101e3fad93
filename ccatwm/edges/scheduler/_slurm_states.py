"""What each word of Slurm for the state of a job means here. Pure.

The words are those of squeue(1) and sacct(1), "JOB STATE CODES", up to Slurm 25.11. A word that is not here changes
nothing: the job is waited for, and the word is logged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ccatwm.interfaces import JobState


@dataclass(frozen=True)
class SlurmState:
    """`cause` is a failure class where the word alone says why a job ended.

    `may_return`: accounting says so already while the job is on its way back into the queue (measured with Slurm
    22.05: sacct has NODE_FAIL or PREEMPTED, squeue has PENDING).
    """

    state: JobState
    cause: str | None = None
    may_return: bool = False


_PENDING = SlurmState(JobState.PENDING)
_RUNNING = SlurmState(JobState.RUNNING)

STATES: dict[str, SlurmState] = {
    # In the queue. CONFIGURING and POWER_UP_NODE: nodes are being got ready, the script has not begun.
    "PENDING": _PENDING,
    "CONFIGURING": _PENDING,
    "POWER_UP_NODE": _PENDING,
    "REQUEUED": SlurmState(JobState.PENDING, may_return=True),
    "REQUEUE_FED": _PENDING,
    "REQUEUE_HOLD": _PENDING,
    "SPECIAL_EXIT": _PENDING,
    "RESV_DEL_HOLD": _PENDING,
    "RUNNING": _RUNNING,
    "COMPLETING": _RUNNING,
    "RESIZING": _RUNNING,
    "SIGNALING": _RUNNING,
    "STAGE_OUT": _RUNNING,
    "STOPPED": _RUNNING,
    "SUSPENDED": _RUNNING,
    "UPDATE_DB": _RUNNING,
    "EXPEDITING": _PENDING,
    # Ended. COMPLETED and FAILED say only what the script's exit code was: the job's own record decides.
    "COMPLETED": SlurmState(JobState.ENDED),
    "FAILED": SlurmState(JobState.ENDED),
    "CANCELLED": SlurmState(JobState.ENDED, "cancelled-outside"),
    "TIMEOUT": SlurmState(JobState.ENDED, "timeout"),
    "DEADLINE": SlurmState(JobState.ENDED, "timeout"),
    "OUT_OF_MEMORY": SlurmState(JobState.ENDED, "out-of-memory"),
    "BOOT_FAIL": SlurmState(JobState.ENDED, "node-failure"),
    "LAUNCH_FAILED": SlurmState(JobState.ENDED, "node-failure"),
    "RECONFIG_FAIL": SlurmState(JobState.ENDED, "node-failure"),
    "NODE_FAIL": SlurmState(JobState.ENDED, "node-failure", may_return=True),
    "PREEMPTED": SlurmState(JobState.ENDED, "preempted", may_return=True),
    "REVOKED": SlurmState(JobState.ENDED, "lost", may_return=True),
}

UNKNOWN = SlurmState(JobState.UNKNOWN)

# Reasons of pending jobs (squeue(1), "JOB REASON CODES") that no other job's end takes away. Slurm accepts such jobs
# unless EnforcePartLimits forbids it, and a held one nearly always (measured with 22.05). A node that is down for a
# while gives some of them too.
_HOPELESS = re.compile(
    "BadConstraints|Partition(Config|NodeLimit|TimeLimit)|Invalid(Account|QOS)|(Account|QOS)NotAllowed"
    r"|MaxMemPerLimit|(Assoc|QOS)\w*PerJob\w*|QOSMin\w+"
)


@lru_cache  # thousands of jobs wait for a few reasons
def never_starts(reason: str) -> bool:
    """Whether a job that is pending for this reason waits for something that no time brings."""
    return _HOPELESS.fullmatch(reason.split(",")[0].strip()) is not None


@lru_cache
def parse_state(text: str) -> SlurmState:
    """The meaning of a state as printed: its first word decides (`CANCELLED by 1000`), a cut word is unknown."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    return STATES.get(word.upper(), UNKNOWN)
