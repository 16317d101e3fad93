"""Packages that batch jobs bring: which go together, and what the end of a job means for those it did not bring. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from ccatwm.core.model import FailureClass

TRANSFERS = PurePosixPath(".transfers")
MOST_PACKAGES = 500  # of one job: each has files of its own there
FRUITLESS = 3  # jobs in a row that brought nothing: that is no fault of the packages that they were at
_PREFIX = "job:"
# A job that was let work until then has done its part; what is left is another job's.
_ENDED_FROM_OUTSIDE = frozenset({FailureClass.TIMEOUT, FailureClass.CANCELLED_OUTSIDE})
_OF_THEIR_OWN = frozenset(
    {FailureClass.NODE_FAILURE, FailureClass.PREEMPTED, FailureClass.CANCELLED_OUTSIDE, FailureClass.NO_SPACE}
)
_REMEDIES = {
    FailureClass.TIMEOUT: "raise STAGE.time_hours",
    FailureClass.OUT_OF_MEMORY: "raise STAGE.memory_gb",
}


def job_claim(token: str) -> str:
    """What stands in the claim of a package that the job of this token brings."""
    return _PREFIX + token


def claiming_job(claim: str | None) -> str | None:
    """The token of the job that has a claim; None where a process has it, or nobody."""
    return claim.removeprefix(_PREFIX) if claim is not None and claim.startswith(_PREFIX) else None


def attempt_directory(token: str) -> PurePosixPath:
    """Where the job script finds its command and leaves its records, below the base directory."""
    return TRANSFERS / token / "attempt"


def share_out(sizes: Sequence[int], most_jobs: int, job_bytes: int) -> list[list[int]]:
    """Which packages go with which job: indices of `sizes` (bytes), which are in the order of their turn.

    Each goes with the job that has least to do. With the first that has no room in any the rest waits for later jobs; a
    package that is larger than a job may bring has one for itself.
    """
    shares: list[list[int]] = [[] for _ in range(most_jobs)]
    loads = [0] * most_jobs
    for index, size in enumerate(sizes):
        job = min(range(most_jobs), key=lambda j: (loads[j], len(shares[j])), default=None)
        if job is None or len(shares[job]) >= MOST_PACKAGES or (shares[job] and loads[job] + size > job_bytes):
            break
        shares[job].append(index)
        loads[job] += size
    return [share for share in shares if share]


def begun(orders: Collection[int], answered: Collection[int]) -> set[int]:
    """Of a job's orders those that it has, or may have, come to: it takes them one after the other, by their numbers.

    All up to its last answer, and the next, at which it was when it ended.
    """
    last = max(answered, default=-1)
    return {n for n in orders if n <= last} | set(sorted(n for n in orders if n > last)[:1])


def missed(failure: FailureClass, message: str, job: str, brought: int) -> tuple[FailureClass, str] | None:
    """What runs are told whose packages an ended job did not bring; None where another job simply goes on.

    `brought`: how many packages it brought. Those that it had not `begun` are spared, but for the last of `FRUITLESS` jobs.
    """
    if failure in _ENDED_FROM_OUTSIDE and brought:
        return None
    text = f"{job} ended before it had brought the package: {message or failure.value}"
    if failure in _REMEDIES:
        text += f"; {_REMEDIES[failure]}"
    return (failure if failure in _OF_THEIR_OWN else FailureClass.STAGING), text
