"""Which runs a person means: the selection that is the same in every command. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches

from ccatwm.core.model import FailureClass, ProductType
from ccatwm.core.states import RunStatus
from ccatwm.core.subgroups import in_order
from ccatwm.core.wording import one_line
from ccatwm.errors import Problem, UsageError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SHOWN_NAMES, SHOWN_LENGTH = 10, 80
FIRST_YEAR = 1900  # of times at which data were observed
TIMES_ALLOWED = "allowed: 2h, 30m, 7d (ago), 2026-03-01, 2026-03-01T09:00:00Z"
ENDS_ALLOWED = "allowed: 2h, 30m, 7d (from now), 2026-03-01, 2026-03-01T09:00:00Z (UTC unless it says otherwise)"


@dataclass(frozen=True)
class Selection:
    """All given conditions hold.

    Times aware UTC: of the last change of a run's status, of a product's recording.
    """

    pipeline: str | None = None
    step: str | None = None
    sub_group: str | None = None
    statuses: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return all(getattr(self, field.name) in (None, ()) for field in fields(self))


def build_selection(
    now: datetime,
    *,
    pipeline: str | None = None,
    step: str | None = None,
    sub_group: str | None = None,
    statuses: Sequence[str] = (),
    classes: Sequence[str] = (),
    types: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
) -> Selection:
    """A selection from what was typed; lists may be split by commas.

    Errors: UsageError with all mistakes at once.
    """
    problems: list[Problem] = []
    selection = Selection(
        pipeline=pipeline,
        step=step,
        sub_group=sub_group,
        statuses=_words("--status", statuses, [s.value for s in RunStatus], problems),
        classes=_words("--class", classes, [c.value for c in FailureClass], problems),
        types=_words("--type", types, [p.value for p in ProductType], problems),
        since=_moment("--since", since, now, problems),
        until=_moment("--until", until, now, problems),
    )
    if problems:
        raise UsageError("the selection is wrong", problems=problems)
    return selection


def _words(
    option: str, given: Sequence[str], known: Sequence[str], problems: list[Problem]
) -> tuple[str, ...]:
    words = [word for text in given for word in text.split(",") if word]
    by_case = {name.casefold(): name for name in known}
    for word in words:
        if word.casefold() not in by_case:
            problems.append(Problem(option, f"{word!r} is not known", f"allowed: {', '.join(known)}"))
    return tuple(dict.fromkeys(by_case[w.casefold()] for w in words if w.casefold() in by_case))


def _moment(option: str, text: str | None, now: datetime, problems: list[Problem]) -> datetime | None:
    if text is None:
        return None
    found = parse_moment(text, now)
    if found is None:
        problems.append(Problem(option, f"{text!r} is not a time", TIMES_ALLOWED))
    return found


def parse_moment(text: str, now: datetime, *, ahead: bool = False) -> datetime | None:
    """`2h` (ago; with `ahead` from now), a date or a date and time; UTC unless it says otherwise. None if it is no time."""
    span = _SPAN.fullmatch(text.strip())
    try:
        if span:
            length = timedelta(**{_UNITS[span[2]]: float(span[1])})
            return now + length if ahead else now - length
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def suggest(wrong: str, names: Iterable[str], *, none: str = "there are none yet") -> str:
    """What to do about a name that is not there: close ones, else those that exist."""
    known = in_order(set(names))
    close = [_shortened(name) for name in get_close_matches(wrong, known, n=3)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
    shown = ", ".join(_shortened(name) for name in known[:SHOWN_NAMES])
    return f"there are: {shown}{more}" if known else none


def _shortened(name: str) -> str:
    """Names may be as long as a file name can be, and longer, and hold any character."""
    name = one_line(name)
    return name if len(name) <= SHOWN_LENGTH else f"{name[: SHOWN_LENGTH - 3]}..."
