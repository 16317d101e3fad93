"""Who owns an attempt: claims in its folder, of jobs and of passes. Touches: files below the base directory.

A job claims its attempt by making `job/claims/{restart}` before it does anything. To supersede a job is to win the
claim oneself.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from pathlib import PurePosixPath

from ccatwm.core.outcomes import Conclusion, Verdict, of_claimed
from ccatwm.errors import NoSpaceError
from ccatwm.interfaces import FoundJob, JobState, WorkFiles

SUPERSEDED_MODE = 0o500
MAX_RESTARTS = 1000


def new_token() -> str:
    """26 characters of base32: what a job's name can carry, and nobody else has."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


def supersede(workfiles: WorkFiles, attempt_directory: str) -> bool:
    """Win the claim of an attempt, now or in a pass that died; False if a job has it.

    A claim made here has no write permission: mkdir(2) sets that in the same act, so it tells whose claim it is.
    """
    claim = _claim(attempt_directory, 0)
    if workfiles.make_exclusive(claim, mode=SUPERSEDED_MODE):
        return True
    mode = workfiles.modes([claim])[claim]
    return mode is not None and not mode & 0o200


def with_claim(workfiles: WorkFiles, conclusion: Conclusion, attempt_directory: str) -> Conclusion:
    """The conclusion, once the claim is won that it needs; what follows where a job has it. Where no claim can be made for
    want of room it waits, and nothing else does."""
    if not conclusion.needs_claim:
        return conclusion
    try:
        won = supersede(workfiles, attempt_directory)
    except NoSpaceError as error:
        text = f"the job has gone, which cannot be settled yet: {error.with_next}"
        return Conclusion(Verdict.WAIT, message=text)
    return conclusion if won else of_claimed(conclusion)


def full_sign(attempt_directory: str) -> PurePosixPath:
    """What a job leaves that could leave no record because its disk was full: a folder moved there, which takes no room."""
    return PurePosixPath(attempt_directory) / "job" / "full"


def keep_first(job: FoundJob) -> tuple[bool, int, str]:
    """Sort key of jobs with one token: one that runs is kept, else the oldest."""
    return job.state is JobState.HELD, len(job.job_id), job.job_id


def list_restarts(workfiles: WorkFiles, attempt_directories: Iterable[str]) -> dict[str, int]:
    """How often the batch system started each attempt again: the highest claim. One look for all, for most."""
    restarts = dict.fromkeys(attempt_directories, 0)
    looked_at = list(restarts)
    for number in range(1, MAX_RESTARTS):
        claims = {_claim(directory, number): directory for directory in looked_at}
        found = workfiles.exists(claims) if claims else {}
        looked_at = [claims[claim] for claim, there in found.items() if there]
        if not looked_at:
            break
        restarts |= dict.fromkeys(looked_at, number)
    return restarts


def _claim(attempt_directory: str, restart: int) -> PurePosixPath:
    return PurePosixPath(attempt_directory) / "job" / "claims" / str(restart)
