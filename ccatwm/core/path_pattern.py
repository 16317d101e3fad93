"""Reads what a path says of a package, by a pattern such as `{source}/{obs_date}/{scan}.fits`. Pure.

A field in braces stands for any text of one file or folder name, `*` for any text that nobody needs. `obs_date` is a date.
A field that stands twice must have the same text in both places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ccatwm.core.wording import one_line
from ccatwm.errors import Problem

OBS_DATE = "obs_date"
ANY = "*"
_PIECE = re.compile(r"\{([^{}]*)\}|(\*)|([^{}*]+)|([{}])")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_DATE = re.compile(r"(\d{4})(-?)(\d\d)\2(\d\d)", re.ASCII)
DATE_EXAMPLE = "2026-03-01 or 20260301"


@dataclass(frozen=True)
class Piece:
    """A literal text, `*`, or a field by its name."""

    text: str
    is_field: bool = False

    @property
    def shown(self) -> str:
        return f"{{{self.text}}}" if self.is_field else repr(self.text)

    @property
    def takes_any(self) -> bool:
        return self.is_field or self.text == ANY

    def expression(self, number: int) -> str:
        if not self.takes_any:
            return re.escape(self.text)
        return f"(?P<g{number}>{_DATE_TEXT if self.text == OBS_DATE else '.+?'})" if self.is_field else ".*?"


_DATE_TEXT = r"\d{4}-\d\d-\d\d|\d{8}"


@dataclass(frozen=True)
class PathPattern:
    """A pattern by the parts of a path: `levels[0]` is for the topmost folder, the last one for the package."""

    text: str
    levels: tuple[tuple[Piece, ...], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once, in their order."""
        return tuple(dict.fromkeys(p.text for level in self.levels for p in level if p.is_field))

    @property
    def depth(self) -> int:
        return len(self.levels)

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """What the fields are for this path, or None where it is no package of the pattern."""
        return self._fields_of(parts) if len(parts) == self.depth else None

    def leads_on(self, parts: Sequence[str]) -> bool:
        """Whether packages may lie below this folder."""
        return len(parts) < self.depth and self._fields_of(parts) is not None

    def _fields_of(self, parts: Sequence[str]) -> dict[str, str] | None:
        found: dict[str, str] = {}
        for level, part in zip(self.levels, parts, strict=False):
            here = _read_level(level, part)
            if here is None or any(found.get(name, value) != value for name, value in here.items()):
                return None
            found |= here
        return found

    def mismatch(self, parts: Sequence[str]) -> tuple[int, str]:
        """How far a path goes along with the pattern (larger is farther), and what is different there, for people."""
        found: dict[str, str] = {}
        for depth, (level, part) in enumerate(zip(self.levels, parts, strict=False)):
            here = _read_level(level, part)
            if here is None:
                along, what = _difference(level, part)
                return depth * 1000 + along, what
            other = next((n for n, value in here.items() if found.get(n, value) != value), None)
            if other is not None:
                what = f"{{{other}}} is {found[other]!r} before and {here[other]!r} in {one_line(part)!r}"
                return depth * 1000 + 500, what
            found |= here
        where = f"the pattern's packages lie {_folders(self.depth - 1)} deep, this lies {_folders(len(parts) - 1)} deep"
        return (self.depth * 1000 if len(parts) > self.depth else len(parts) * 1000 - 999), where


def _folders(count: int) -> str:
    return f"{count} folder{'' if count == 1 else 's'}"


def _read_level(level: Sequence[Piece], part: str) -> dict[str, str] | None:
    if not _is_plain(part):
        return None
    found = re.fullmatch(_expression(level), part, re.ASCII | re.DOTALL)
    if found is None:
        return None
    fields: dict[str, str] = {}
    for number, piece in enumerate(level):
        if piece.is_field:
            value = found[f"g{number}"]
            if fields.setdefault(piece.text, value) != value or (piece.text == OBS_DATE and parse_date(value) is None):
                return None
    return fields


def _is_plain(part: str) -> bool:
    """Whether the name can be a text of the ops-db that people read."""
    return part.isprintable()


def _expression(level: Sequence[Piece]) -> str:
    return "".join(piece.expression(number) for number, piece in enumerate(level))


def _difference(level: Sequence[Piece], part: str) -> tuple[int, str]:
    """How many pieces go along, and what the name has where the next one should be."""
    shown = repr(one_line(part))
    if not _is_plain(part):
        return 0, f"{shown} has characters that are no plain text"
    for count in range(len(level), 0, -1):
        found = re.match(_expression(level[:count]), part, re.ASCII | re.DOTALL)
        if found is None:
            continue
        if count == len(level):
            return count, f"after {level[-1].shown} {shown} goes on with {part[found.end() :]!r}"
        return count, f"{shown} has no {_wanted(level[count])} after {level[count - 1].shown}"
    return 0, f"{shown} does not begin with {_wanted(level[0])}"


def _wanted(piece: Piece) -> str:
    return f"{piece.shown} (a date: {DATE_EXAMPLE})" if piece.is_field and piece.text == OBS_DATE else piece.shown


def parse_date(text: str) -> date | None:
    """`2026-03-01` or `20260301`; None for anything else."""
    found = _DATE.fullmatch(text)
    try:
        return date(int(found[1]), int(found[3]), int(found[4])) if found else None
    except ValueError:
        return None


def parse_pattern(text: str) -> tuple[PathPattern | None, list[Problem]]:
    """The pattern, or None with all that is wrong with it."""
    where, problems = "--pattern", []
    if not text.strip("/"):
        return None, [Problem(where, "it is empty", "such as '{source}/{obs_date}/{scan}.fits'")]
    if text.startswith("/"):
        problems.append(Problem(where, f"{text!r} begins at the root", "write it as seen from the folder of --scan"))
    names = text.strip("/").split("/")
    levels = []
    for name in names:
        if name in ("", ".", ".."):
            problems.append(Problem(where, f"a part of {text!r} is {name!r}", "each part names a folder or a file"))
        levels.append(_parse_level(name, where, problems))
    return (None, problems) if problems else (PathPattern(text, tuple(levels)), [])


def _parse_level(name: str, where: str, problems: list[Problem]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for found in _PIECE.finditer(name):
        if found[4] is not None:
            problems.append(Problem(where, f"a lone {found[4]!r} in {name!r}", "a field is written {source}"))
            continue
        is_field = found[1] is not None
        piece = Piece(found[1] if is_field else found[0], is_field)
        if is_field and not _NAME.fullmatch(piece.text):
            what = f"{{{piece.text}}} is no name of a field"
            problems.append(Problem(where, what, "names are letters, digits and _; what need not be known is *"))
        if pieces and pieces[-1].takes_any and piece.takes_any:
            what = f"nothing stands between {pieces[-1].shown} and {piece.shown} in {name!r}"
            problems.append(Problem(where, what, "so nobody knows where the first one ends: put a text between them"))
        pieces.append(piece)
    return tuple(pieces)

