"""What people excluded, and what that means to packages, runs and software versions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ccatwm.core.selection import FIRST_YEAR, TIMES_ALLOWED, parse_moment
from ccatwm.errors import UsageError

KINDS = ("package", "unit", "module", "run", "product", "software")
FORMS = (
    "package:NAME, unit:NAME (an executed obs unit), module:INSTRUMENT/MODULE@FROM..TO, product:NUMBER, run:NUMBER, "
    "software:NAME@VERSION"
)


@dataclass(frozen=True)
class Target:
    """What an exclusion names, as it is kept: packages by rules, all else by number or name."""

    kind: str
    text: str
    selection: Mapping[str, Any]

    @property
    def of_packages(self) -> bool:
        return "rules" in self.selection


@dataclass(frozen=True)
class Exclusion:
    """An exclusion that holds. `pipeline` None: for all."""

    id: int
    kind: str
    text: str
    selection: Mapping[str, Any]
    pipeline: str | None
    reason: str


def parse_target(text: str, now: datetime) -> Target:
    """`package:CHAI-LFA-0001` and the other forms. Errors: UsageError with the forms."""
    kind, separator, name = text.partition(":")
    if not separator or kind not in KINDS or not name:
        raise UsageError(f"{text!r} is nothing that can be excluded", next=f"write {FORMS}")
    if kind == "package":
        return Target(kind, text, {"rules": [_rule("RawDataPackage", "name", "eq", name)]})
    if kind == "unit":
        return Target(kind, text, {"rules": [_rule("ExecutedObsUnit", "name", "eq", name)]})
    if kind == "module":
        return Target(kind, text, {"rules": _module_rules(text, name, now)})
    if kind == "software":
        software, separator, version = name.rpartition("@")
        if not separator or not software or not version:
            raise UsageError(f"{text!r} names no version", next="write software:NAME@VERSION")
        return Target(kind, text, {"software": software, "version": version})
    if not (name.isascii() and name.isdigit()):
        raise UsageError(f"{text!r} has no number", next=f"write {kind}:NUMBER, as `ccatwm {kind}s` shows it")
    return Target(kind, text, {kind: int(name)})


def _module_rules(text: str, name: str, now: datetime) -> list[dict[str, Any]]:
    place, _, times = name.partition("@")
    instrument, _, module = place.partition("/")
    begin, separator, end = times.partition("..")
    first, last = parse_moment(begin, now), parse_moment(end, now)
    if not (instrument and module and separator and first is not None and last is not None and first < last):
        hint = f"write module:INSTRUMENT/MODULE@FROM..TO; times {TIMES_ALLOWED}"
        raise UsageError(f"{text!r} is no module in a range of time", next=hint)
    if first.year < FIRST_YEAR:
        whole = f"module:{place}@{FIRST_YEAR}-01-01..{end}"
        raise UsageError(f"{text!r} begins before the year {FIRST_YEAR}", next=f"no data were observed then: {whole}")
    return [
        _rule("Instrument", "name", "eq", instrument),
        _rule("InstrumentModule", "name", "eq", module),
        _rule("ExecutedObsUnit", "start_time", "gte", first.isoformat()),
        _rule("ExecutedObsUnit", "start_time", "lt", last.isoformat()),
    ]


def _rule(table: str, column: str, operator: str, value: Any) -> dict[str, Any]:
    return {"table": table, "column": column, "operator": operator, "value": value}


@dataclass
class Excluded:
    """All that holds at one moment, by what it concerns: reasons with the pipeline they are for (None: all)."""

    packages: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)  # by package id
    names: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)  # by package name
    named: dict[int, list[tuple[str | None, str]]] = field(default_factory=dict)  # runs, by themselves or a product
    runs: dict[int, list[tuple[str | None, str]]] = field(default_factory=dict)  # those, and all that stand on them
    versions: dict[tuple[str, str], list[tuple[str | None, str]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.packages or self.runs or self.versions)

    def package(self, pipeline: str, package_id: str) -> str | None:
        return _for(pipeline, self.packages.get(package_id))

    def version(self, pipeline: str, software: str, version: str) -> str | None:
        return _for(pipeline, self.versions.get((software, version)))

    def names_run(self, pipeline: str, run_id: int) -> bool:
        """Whether somebody excluded this very run, or a product of it."""
        return _for(pipeline, self.named.get(run_id)) is not None

    def run(
        self,
        pipeline: str,
        run_id: int,
        software: str,
        version: str,
        stands_on: Iterable[str] = (),
        behind: Iterable[tuple[str, str]] = (),
    ) -> str | None:
        """Why a run's products are not to be used.

        `stands_on`: names of the packages, `behind`: software and versions of the runs, that they stand on.
        """
        found = _for(pipeline, self.runs.get(run_id)) or self.version(pipeline, software, version)
        found = found or next((why for other in sorted(behind) if (why := self.version(pipeline, *other))), None)
        if found is not None or not self.names:
            return found
        return next((why for name in stands_on if (why := _for(pipeline, self.names.get(name)))), None)


def _for(pipeline: str, reasons: Iterable[tuple[str | None, str]] | None) -> str | None:
    return next((why for where, why in reasons or () if where in (None, pipeline)), None)
