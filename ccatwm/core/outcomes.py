"""What may be concluded of a job from what the batch system says and from the job's own records. Pure.

Absence from the queue is never success: the exit record decides. Silence changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ccatwm.core.model import FailureClass

RECORD_FORMATS = (1,)


class Verdict(StrEnum):
    WAIT = "wait"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASE = "release"  # the batch system has it, held: let it go again
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class ExitRecord:
    """`job/exit.json` of an attempt. `reason`: payload, input-missing, superseded, signalled."""

    token: str
    exit_code: int
    signal: str | None
    reason: str
    hash_exit_code: int
    started_at: datetime | None
    ended_at: datetime | None
    host: str | None


@dataclass(frozen=True)
class Conclusion:
    verdict: Verdict
    failure: FailureClass | None = None
    exit_code: int | None = None
    message: str = ""
    partial: bool = False


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


def conclude(
    state: str,
    cause: str | None,
    message: str,
    record: ExitRecord | None,
    *,
    token: str,
    started: bool,
    partial_exit_codes: Collection[int],
    container_failed: Callable[[int], bool],
    silent_seconds: float,
    patience_seconds: float,
    cancel_requested: bool,
) -> Conclusion:
    """The conclusion for one attempt.

    `state` and `cause` are the batch system's (JobState, FailureClass value); `silent_seconds` is how long the job
    has been gone without the record that should be there, `patience_seconds` how long that is waited for.
    """
    if record is not None and record.token != token:
        record = None  # another attempt's record is no record
    if state in ("unknown",):
        return Conclusion(Verdict.WAIT, message=message)
    if state in ("pending",):
        return Conclusion(Verdict.WAIT, message=message)
    if state == "held":
        return Conclusion(Verdict.RELEASE)
    if state == "running":
        return Conclusion(Verdict.STARTED if started else Verdict.WAIT, message=message)
    if cancel_requested:
        return Conclusion(Verdict.CANCELLED)
    if record is not None:
        return _from_record(record, cause, message, partial_exit_codes, container_failed)
    if cause is not None:
        return Conclusion(
            Verdict.FAILED, FailureClass(cause), message=message or f"the batch system says {cause}"
        )
    if silent_seconds < patience_seconds:
        return Conclusion(Verdict.WAIT, message="the job has gone, its exit record has not shown yet")
    return Conclusion(
        Verdict.FAILED, FailureClass.LOST, message=f"the job is {state} and left no exit record"
    )


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
