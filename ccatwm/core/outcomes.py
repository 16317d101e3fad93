"""What may be concluded of a job from what the batch system says and from the job's own records. Pure.

Absence from the queue is never success: the exit record decides. Silence changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from ccatwm.core.model import FailureClass

RECORD_FORMATS = (1,)
PROGRAMS_MISSING = "programs-missing"


class Verdict(StrEnum):
    WAIT = "wait"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASE = "release"  # the batch system has it, held: let it go again
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class ExitRecord:
    """`job/exit.json` of an attempt. `reason`: payload, input-missing, out-of-memory, no-space, signalled,
    programs-missing; of the last `missing` names them."""

    token: str
    exit_code: int
    signal: str | None
    reason: str
    hash_exit_code: int
    started_at: datetime | None
    ended_at: datetime | None
    host: str | None
    missing: str = ""


@dataclass(frozen=True)
class Conclusion:
    verdict: Verdict
    failure: FailureClass | None = None
    exit_code: int | None = None
    message: str = ""
    partial: bool = False
    needs_claim: bool = False  # holds only if the job never began: win its claim before it is written down


def parse_exit_record(content: bytes | None) -> ExitRecord | None:
    """The record, or None where it is absent, cut or of an unknown format."""
    data = _parse(content)
    if data is None:
        return None
    return ExitRecord(
        token=str(data.get("token", "")),
        exit_code=int(data["exit_code"]),
        signal=str(data["signal"]) if data.get("signal") else None,
        reason=str(data.get("reason", "payload")),
        hash_exit_code=int(data.get("hash_exit_code") or 0),
        started_at=parse_time(data.get("started_at")),
        ended_at=parse_time(data.get("ended_at")),
        host=str(data["host"]) if data.get("host") else None,
        missing=str(data.get("missing") or ""),
    )


def missing_text(record: ExitRecord) -> str:
    """What is wrong with a host on which no job can be run, and what to do."""
    return (
        f"{record.host or 'its host'} lacks programs that every job needs: {record.missing}; install them there "
        "(coreutils, findutils, grep), or set the PATH that the batch system gives its jobs"
    )


def parse_started_record(content: bytes | None) -> dict[str, Any] | None:
    """`job/started.json` as a mapping, or None."""
    data = _parse(content, required="token")
    return data


def _parse(content: bytes | None, required: str = "exit_code") -> dict[str, Any] | None:
    if not content:
        return None
    try:
        data = json.loads(content.decode("utf-8", "replace").rstrip("\0 \n"))
    except ValueError:
        return None
    good = isinstance(data, dict) and data.get("format") in RECORD_FORMATS and data.get(required) is not None
    return data if good else None


def parse_time(text: Any) -> datetime | None:
    """RFC 3339 text as aware UTC, or None."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


@dataclass(frozen=True)
class Patience:
    """How long silence is waited out, seconds.

    `record`: a job that has ended and left no record yet (a network file system takes its time).
    `requeue`: a job that accounting calls preempted or failed with its node, and that may come back to the queue.
    `grace`: a job that neither queue nor accounting knows, or that the batch system says it will not start.
    """

    record: float = 120.0
    requeue: float = 150.0
    grace: float = 900.0


@dataclass(frozen=True)
class JobFacts:
    """What is known of one attempt. `state` and `cause` are the batch system's (JobState, FailureClass value);
    `settled` False: it may say otherwise yet. `started`, `record`: the job's own records. `refused`: a job found the
    attempt begun by another. `gone_seconds`: since when it is out of the queue, or (pending with a cause) waits there
    for what no time brings. `limit_seconds`: its time limit. `full`: it left the sign that its disk was
    full, where it could write no record."""

    state: str
    cause: str | None = None
    message: str = ""
    settled: bool = True
    record: ExitRecord | None = None
    started: bool = False
    refused: bool = False
    full: bool = False
    gone_seconds: float = 0.0
    limit_seconds: float = 0.0
    cancel_requested: bool = False


def conclude(
    facts: JobFacts,
    *,
    token: str,
    partial_exit_codes: Collection[int],
    container_failed: Callable[[int], bool],
    patience: Patience,
) -> Conclusion:
    """The conclusion for one attempt: the verdict table of docs/explanation/verdicts.md."""
    if facts.record is not None and facts.record.token != token:
        facts = replace(facts, record=None)  # another attempt's record is no record
    if facts.state == "pending" and facts.cause is not None:
        return _of_hopeless(facts, patience)
    if facts.state in ("unknown", "pending"):
        return Conclusion(Verdict.WAIT, message=facts.message)
    if facts.state == "held":
        return Conclusion(Verdict.RELEASE)
    if facts.state == "running":
        return Conclusion(Verdict.STARTED if facts.started else Verdict.WAIT, message=facts.message)
    if facts.state == "absent":
        return _of_absent(facts, partial_exit_codes, container_failed, patience)
    return _of_ended(facts, partial_exit_codes, container_failed, patience)


def _of_hopeless(facts: JobFacts, patience: Patience) -> Conclusion:
    """The batch system has it, and says for what reason it will not start it. That may pass: a node was down."""
    if facts.cancel_requested or facts.gone_seconds < patience.grace:
        return Conclusion(Verdict.WAIT, message=facts.message)
    text = f"the batch system took it and does not start it: {facts.message}"
    return Conclusion(Verdict.FAILED, FailureClass(str(facts.cause)), message=text, needs_claim=True)


def _of_ended(
    facts: JobFacts, partial: Collection[int], container_failed: Callable[[int], bool], patience: Patience
) -> Conclusion:
    """The batch system is done with it."""
    if facts.cancel_requested:
        return Conclusion(Verdict.CANCELLED)
    if not facts.settled and facts.gone_seconds < patience.requeue:
        return Conclusion(
            Verdict.WAIT, message=f"{facts.message or facts.cause}; it may come back to the queue"
        )
    if facts.record is not None:
        return _from_record(facts.record, facts.cause, facts.message, partial, container_failed)
    if facts.full and facts.cause in (None, FailureClass.CONTAINER):  # what could not begin is called so
        return _of_full(facts)
    if facts.cause is not None:
        text = facts.message or f"the batch system says {facts.cause}"
        return Conclusion(Verdict.FAILED, FailureClass(facts.cause), message=text)
    if facts.gone_seconds < patience.record:
        return Conclusion(Verdict.WAIT, message="the job has gone, its exit record has not shown yet")
    if facts.started and facts.refused and facts.gone_seconds < patience.record + facts.limit_seconds:
        return Conclusion(Verdict.WAIT, message="another job began its attempt before: that one's record is waited for")
    text = "the job has ended and left no exit record"
    return Conclusion(Verdict.FAILED, FailureClass.LOST, message=text, needs_claim=not facts.started)


def _of_absent(
    facts: JobFacts, partial: Collection[int], container_failed: Callable[[int], bool], patience: Patience
) -> Conclusion:
    """Nobody knows the job: never success by itself, and nothing before the grace period is over.

    What follows is only true of a job that never began: the pass wins its claim first (`needs_claim`).
    """
    if facts.cancel_requested and facts.record is None:
        if not facts.started or facts.gone_seconds >= patience.grace:
            return Conclusion(Verdict.CANCELLED, needs_claim=not facts.started)
        return Conclusion(
            Verdict.WAIT, message="it began, was cancelled, and accounting does not show it yet"
        )
    if facts.gone_seconds < patience.grace:
        return Conclusion(Verdict.WAIT, message=facts.message)
    if facts.record is not None:
        said = _from_record(facts.record, None, facts.message, partial, container_failed)
        return said if said.message else replace(said, message="the batch system never told of its end")
    if facts.full and facts.cause is None:
        return _of_full(facts)
    failure = FailureClass(facts.cause) if facts.cause else FailureClass.LOST
    text = facts.message or "the batch system does not know the job, and it left no exit record"
    return Conclusion(Verdict.FAILED, failure, message=text, needs_claim=not facts.started)


def _of_full(facts: JobFacts) -> Conclusion:
    text = "its disk or quota was full: the job could leave no record"
    return Conclusion(Verdict.FAILED, FailureClass.NO_SPACE, message=text, needs_claim=not facts.started)


def of_claimed(conclusion: Conclusion) -> Conclusion:
    """What follows where the claim cannot be won: it had begun after all. A cancelled one is waited for, what is lost has
    lost its record too."""
    if conclusion.failure is FailureClass.SUBMIT_REJECTED:
        return Conclusion(Verdict.WAIT, message="it has begun after all")
    if conclusion.verdict is Verdict.CANCELLED:
        return Conclusion(Verdict.WAIT, message="it began before it was cancelled; its end has not shown yet")
    if conclusion.failure is FailureClass.NO_SPACE:
        return replace(conclusion, needs_claim=False)
    text = "it began, and neither the batch system nor its own record tells how it ended"
    return Conclusion(Verdict.FAILED, FailureClass.LOST, message=text)


def _from_record(
    record: ExitRecord,
    cause: str | None,
    message: str,
    partial_exit_codes: Collection[int],
    container_failed: Callable[[int], bool],
) -> Conclusion:
    code = record.exit_code
    if record.reason == "input-missing":
        text = "an input was gone or had another size when the job began"
        return Conclusion(Verdict.FAILED, FailureClass.STAGING, code, text)
    if record.reason == PROGRAMS_MISSING:
        return Conclusion(Verdict.FAILED, FailureClass.CONTAINER, code, missing_text(record))
    if record.reason == "no-space" and cause is None:
        text = f"the job ended with exit code {code}, and its disk or quota is full"
        return Conclusion(Verdict.FAILED, FailureClass.NO_SPACE, code, text)
    if record.reason == "out-of-memory" and cause is None:  # the batch system did not notice
        text = f"the kernel ended a process of it for want of memory (exit code {code})"
        return Conclusion(Verdict.FAILED, FailureClass.OUT_OF_MEMORY, code, text)
    if cause is not None:  # time limit, out of memory, ...: whatever the program made of it
        return Conclusion(Verdict.FAILED, FailureClass(cause), code, message or f"ended by {cause}")
    if record.signal:
        text = f"ended on signal {record.signal} from outside"
        return Conclusion(Verdict.FAILED, FailureClass.CANCELLED_OUTSIDE, code, text)
    partial = code != 0 and code in partial_exit_codes
    if code != 0 and not partial:
        if container_failed(code):
            return Conclusion(
                Verdict.FAILED, FailureClass.CONTAINER, code, "the container could not be started"
            )
        return Conclusion(
            Verdict.FAILED, FailureClass.NON_ZERO_EXIT, code, f"the program ended with exit code {code}"
        )
    if record.hash_exit_code != 0:
        text = "an output vanished or could not be read while it was hashed"
        return Conclusion(Verdict.FAILED, FailureClass.BAD_OUTPUT, code, text)
    return Conclusion(Verdict.SUCCEEDED, None, code, partial=partial)
