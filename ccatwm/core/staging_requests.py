"""What becomes of a request to data transfer, which brings packages where the site's staging mode is `request`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from ccatwm.core.wording import clock_text

RECORD_GRACE = timedelta(minutes=10)  # between `completed` and the row of the copy
REQUESTED_BY = "ccatwm"
UNDER_WAY = ("pending", "scheduled", "in_progress")


@dataclass(frozen=True)
class StagingRequest:
    """A staging job of data transfer. While it is `active` data transfer keeps what it brought. Times aware UTC.

    `ours`: nobody else has asked, as far as one can tell; what others have asked for is theirs to end.
    """

    id: str
    package_id: str
    status: str  # pending, scheduled, in_progress, completed, failed; other words of theirs are under way, too
    active: bool
    created_at: datetime | None
    changed_at: datetime | None = None
    message: str | None = None
    ours: bool = True


class Next(Enum):
    ASK = "ask"
    WAIT = "wait"
    LOOK = "look"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Answer:
    """What to do about a package that is not there, and what people are told of it."""

    next: Next
    text: str = ""


def next_about(
    request: StagingRequest | None, now: datetime, patience_hours: float, *, refused: bool = False
) -> Answer:
    """`request`: the newest one for the package, None where nobody has asked. `refused`: a copy is here that was found bad,
    and that is not looked at again before it may have been brought anew.

    A request that ended is asked for again only by the next attempt of a run: giving up ends it. Where one of others came
    to nothing one of ours is made beside it.
    """
    if request is None or not request.active:
        return Answer(Next.ASK)
    answer = _about_active(request, now, patience_hours, refused)
    return answer if request.ours or answer.next is Next.WAIT else Answer(Next.ASK)


def _about_active(request: StagingRequest, now: datetime, patience_hours: float, refused: bool) -> Answer:
    if request.status == "failed":
        return Answer(Next.GIVE_UP, f"data transfer failed to bring it: {request.message or 'it does not say why'}")
    begun = request.created_at or now
    if request.status == "completed":
        said_at = request.changed_at or begun
        if now - said_at < RECORD_GRACE:
            return Answer(Next.WAIT, _not_yet(said_at, refused))
        if refused:  # it lies where the one lay that was bad
            return Answer(Next.LOOK)
        told = f"data transfer says that it has brought it ({clock_text(said_at)} UTC)"
        return Answer(Next.GIVE_UP, f"{told}, but no copy is recorded here")
    if now - begun > timedelta(hours=patience_hours):
        return Answer(
            Next.GIVE_UP, f"data transfer has not brought it within {patience_hours:g} h (it is {_words(request.status)})"
        )
    return Answer(Next.WAIT, f"asked of data transfer at {clock_text(begun)} UTC: {_words(request.status)}")


def _not_yet(said_at: datetime, refused: bool) -> str:
    """Why a package that is said to be here waits: data transfer may have recorded a copy where another was refused."""
    if refused:
        again = clock_text(said_at + RECORD_GRACE)
        return f"the copy that is recorded here was refused; it is read again at {again} UTC, another one at once"
    return "data transfer has brought it and has not recorded the copy yet"


def _words(status: str) -> str:
    return status.replace("_", " ")
