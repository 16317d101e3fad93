"""Values of FITS header cards, and the times among them. Pure.

FITS Standard 4.0: values of cards 4.2; times 9.1.1 (ISO-8601), 9.2.1 (UTC where TIMESYS says nothing else), the old form
DD/MM/YY 4.4.2.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ccatwm.errors import Problem

CardValue = str | int | float | bool
KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_OLD_DATE = re.compile(r"(\d\d)/(\d\d)/(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?Z?)?", re.ASCII)
START, END = "start_time", "end_time"
# Where a card's value goes; every other one is metadata of its own name.
FIELD_OF = {
    "OBJECT": "source", "DATE-OBS": START, "DATE-BEG": START, "DATE-END": END, "INSTRUME": "instrument",
    "PROGID": "observing_program", "PROPID": "observing_program",
}  # fmt: skip
MANDATORY_SCALES = ("UTC", "UT")


@dataclass(frozen=True)
class HeaderCard:
    """A card that is asked for, and the field that its value is."""

    keyword: str
    field: str


def parse_wanted(texts: Sequence[str]) -> tuple[list[HeaderCard], list[Problem]]:
    """The cards of `OBJECT,DATE-OBS,BACKEND=instrument_module`, and all that is wrong with it."""
    cards: list[HeaderCard] = []
    problems = []
    for item in (part.strip() for text in texts for part in text.split(",")):
        keyword, equals, name = item.partition("=")
        keyword = keyword.strip().upper()
        name = name.strip() if equals else FIELD_OF.get(keyword, keyword)
        if not KEYWORD.fullmatch(keyword):
            hint = "keywords have at most 8 of A-Z 0-9 _ -, as in OBJECT,DATE-OBS"
            problems.append(Problem("--fits-header", f"{item!r} names no FITS keyword", hint))
        elif equals and not _FIELD.fullmatch(name):
            hint = "KEYWORD=FIELD, as in BACKEND=instrument_module"
            problems.append(Problem("--fits-header", f"{item!r} names no field", hint))
        else:
            cards.append(HeaderCard(keyword, name))
    return cards, problems


def card_value(text: str) -> CardValue | None:
    """What the text of a card's value (as `fits_sums.parse_cards` has it) is; None where it has none that is plain."""
    if text.startswith("'"):
        content = text[1:-1] if len(text) > 1 and text.endswith("'") else text[1:]
        content = content.replace("''", "'").rstrip()
        return content if content and content.isprintable() else None
    if text in ("T", "F"):
        return text == "T"
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text)
    try:
        number = float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def pick_cards(cards: Sequence[tuple[str, str]], wanted: Sequence[HeaderCard]) -> dict[str, CardValue]:
    """Values of the wanted keywords that are there; the first card of a keyword counts."""
    texts = dict(reversed(cards))
    found = {card.keyword: card_value(texts[card.keyword]) for card in wanted if card.keyword in texts}
    return {keyword: value for keyword, value in found.items() if value is not None}


def parse_time(value: object, scale: str = "UTC") -> datetime | date | None:
    """A time of a header in UTC, a date where it says no more; None where it is neither, or its scale is none of ours."""
    text = str(value).strip()
    old = _OLD_DATE.fullmatch(text)
    if old is not None:
        text = f"19{old[3]}-{old[2]}-{old[1]}"
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    try:
        day = date.fromisoformat(found[1])
        if found[2] is None:
            return day
        if scale.upper() not in MANDATORY_SCALES:
            return None
        seconds = int(found[4])  # 60 in a leap second
        moment = datetime(day.year, day.month, day.day, int(found[2]), int(found[3]), tzinfo=UTC)
        return moment + timedelta(seconds=seconds, microseconds=int((found[5] or "0")[:6].ljust(6, "0")))
    except (ValueError, OverflowError):
        return None

