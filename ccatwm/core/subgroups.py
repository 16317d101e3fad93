"""Sub-group keys and the dimensions that make them. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ccatwm.core.recipe import digest_of
from ccatwm.core.rules import choices, wrong_json_path
from ccatwm.errors import Problem

MAX_KEY = 120
HASH_CHARACTERS = 20
ALL = "all"
NULL = "~null"
_SAFE = frozenset(string.ascii_letters + string.digits + "._-")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,39}")
MAX_DIMENSIONS = 8
FREE_KEYS = ("name", "table", "column", "json_path")


@dataclass(frozen=True)
class Dimension:
    """What sub-groups are told apart by: a column, reached from RawDataPackage. `label` stands in the key."""

    name: str
    table: str
    column: str
    json_path: str | None = None
    label: str = ""
    named: bool = True

    @property
    def shown(self) -> str:
        return self.label or self.name


NAMED = {
    d.name: d
    for d in (
        Dimension("executed_obs_unit", "RawDataPackage", "executed_obs_unit_id"),
        Dimension("obs_unit", "ObsUnit", "name"),
        Dimension("source", "Source", "name"),
        Dimension("instrument", "Instrument", "name"),
        Dimension("instrument_module", "InstrumentModule", "name", label="module"),
        Dimension("observing_program", "ObservingProgram", "short_name"),
        Dimension("obs_date", "ExecutedObsUnit", "start_time"),
        Dimension("raw_data_package", "RawDataPackage", "name"),
    )
}


def parse_group_by(raw: object, where: str = "group_by") -> tuple[tuple[Dimension, ...], list[Problem]]:
    """The dimensions of a group_by, or all that is wrong with it."""
    if not isinstance(raw, list | tuple):
        return (), [Problem(where, "group_by is not a list", f"write a list of: {', '.join(NAMED)}")]
    problems: list[Problem] = []
    found = [_parse_dimension(item, f"{where}[{n}]", problems) for n, item in enumerate(raw)]
    dims = tuple(d for d in found if d is not None)
    names = [d.shown for d in dims]
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.append(Problem(where, f"dimension {name} is there twice"))
    if len(dims) > MAX_DIMENSIONS:
        problems.append(Problem(where, f"{len(dims)} dimensions", f"at most {MAX_DIMENSIONS} are allowed"))
    return dims, problems


def _parse_dimension(item: object, where: str, problems: list[Problem]) -> Dimension | None:
    if isinstance(item, str):
        if item not in NAMED:
            hint = f"{choices(item, tuple(NAMED))}; or write {{name, table, column}}"
            problems.append(Problem(where, f"unknown dimension {item!r}", hint))
        return NAMED.get(item)
    if not isinstance(item, dict):
        problems.append(Problem(where, "is no dimension", "write a name or {name, table, column, json_path}"))
        return None
    before = len(problems)
    problems += _free_problems(item, where)
    if len(problems) > before:
        return None
    return Dimension(item["name"], item["table"], item["column"], item.get("json_path"), named=False)


def _free_problems(item: dict[Any, Any], where: str) -> list[Problem]:
    unknown = [key for key in item if key not in FREE_KEYS]
    problems = [Problem(where, f"unknown key {key!r}", choices(str(key), FREE_KEYS)) for key in unknown]
    missing = [key for key in FREE_KEYS[:3] if not isinstance(item.get(key), str)]
    problems += [Problem(where, f"{key} is missing or no text") for key in missing]
    name = item.get("name")
    if isinstance(name, str) and (name in NAMED or not _NAME.fullmatch(name)):
        hint = "use 1 to 40 of A-Z a-z 0-9 . _ - and no built-in name"
        problems.append(Problem(where, f"dimension name {name[:60]!r}", hint))
    path = item.get("json_path")
    if path is not None and (wanted := wrong_json_path(path)):
        problems.append(Problem(where, f"json_path {path!r:.80}", wanted))
    return problems


def group_by_json(dims: Sequence[Dimension]) -> list[Any]:
    """Canonical JSON of dimensions: names, and mappings for free ones."""
    return [d.name if d.named else _free_json(d) for d in dims]


def _free_json(dim: Dimension) -> dict[str, str]:
    data = {"name": dim.name, "table": dim.table, "column": dim.column}
    return data | ({"json_path": dim.json_path} if dim.json_path else {})


def group_by_digest(dims: Sequence[Dimension]) -> str:
    return digest_of(group_by_json(dims))


def sub_group_key(dims: Sequence[tuple[str, Any]]) -> str:
    """One safe path component for (name, value) pairs, at most 120 characters, another for every other pairs.

    What is not safe in a value is `~XX` per byte of UTF-8, an absent value is `~null`.
    A key too long ends in a hash. Values are text or None, anything else counts as its text.
    """
    if not dims:
        return ALL
    key = "+".join(f"{_escaped_name(name)}={_escaped(value)}" for name, value in dims)
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(key.encode("ascii")).hexdigest()[:HASH_CHARACTERS]
    return f"{key[: MAX_KEY - HASH_CHARACTERS - 2]}~~{digest}"


MOST_NATURAL = 100_000  # as many keys are put into natural order in about a second
# A value that is a number as a whole, with a sign, with a fraction; and any number inside of a value.
_NUMBERS = re.compile(
    r"(?<==)-(?P<below>[0-9]+(?:\.[0-9]+)?)(?=\+|$)|(?<==)(?P<above>[0-9]+\.[0-9]+)(?=\+|$)|(?P<inside>[0-9]+)"
)
_TURNED = str.maketrans("0123456789", "9876543210")


def natural_key(text: str) -> str:
    """Sort key of a key or name as people list them: numbers inside by their value, `scan=2` before `scan=10`.

    A value that is a number as a whole may have a sign and a fraction: -10, -2.5, -2.25, 0.25, 0.5, 7.
    """
    return _NUMBERS.sub(_natural, text)


def _natural(match: re.Match[str]) -> str:
    """Before the digits how many there are; of what is below zero all turned round. 7 and 007 stay two."""
    number = match["below"] or match["above"] or match["inside"]
    whole, dot, fraction = number.partition(".")
    value = whole.lstrip("0") or "0"
    zeros = "\0" * (len(whole) - len(value))
    if match["below"] is None:
        return f"{chr(len(value))}{value}{dot}{fraction}{zeros}"
    return f"\0{chr(127 - len(value))}{f'{value}{dot}{fraction}'.translate(_TURNED)}~{zeros}"


def in_order(keys: Collection[str]) -> list[str]:
    """Keys as people are shown them: in natural order, and where there are too many for that, as texts."""
    return sorted(keys, key=natural_key) if len(keys) <= MOST_NATURAL else sorted(keys)


def _escaped_name(name: str) -> str:
    escaped = _escaped(name)
    return _bytes(name[0]) + escaped[1:] if name.startswith((".", "-")) else escaped


def _escaped(value: Any) -> str:
    if value is None:
        return NULL
    text = str(value)
    if _SAFE.issuperset(text):  # nearly all are, and there may be a million
        return text
    return "".join(c if c in _SAFE else _bytes(c) for c in text)


def _bytes(character: str) -> str:
    return "".join(f"~{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def obs_date(start: datetime, timezone: str) -> date:
    """The date on which the observing night began: a night runs from local noon to local noon."""
    local = start.astimezone(ZoneInfo(timezone))
    return (local.replace(tzinfo=None) - timedelta(hours=12)).date()
