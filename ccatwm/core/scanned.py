"""Says of files that were found what `ingest` says of observations: packages, scans, obs units, sources. Pure.

The same files give the same objects, whatever else lies beside them: names come from the path alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from ccatwm.core.fits_cards import END, START, CardValue, HeaderCard, parse_time
from ccatwm.core.path_pattern import OBS_DATE, parse_date
from ccatwm.core.wording import utc_text
from ccatwm.errors import Problem

# What makes the name of an obs unit, and of an executed one, in this order.
UNIT_FIELDS = ("observing_program", "source", "line_id")
SCAN_FIELDS = (*UNIT_FIELDS, "obs_unit", OBS_DATE, "scan")
MODULE_FIELDS = ("instrument", "instrument_module")
FIELDS = (*SCAN_FIELDS, *MODULE_FIELDS, START, END)
KEPT = (OBS_DATE, "scan")  # also metadata, as they were written: rules and `group_by` reach them there
TIMESYS = HeaderCard("TIMESYS", "TIMESYS")
# A package is called by its path without one of these.
ENDINGS = (
    ".fits.gz", ".fits.fz", ".fits", ".fit", ".fts", ".tar.gz", ".tar.xz", ".tar.bz2", ".tgz", ".txz", ".tbz2", ".tar",
)  # fmt: skip


@dataclass(frozen=True)
class FoundPackage:
    """A file or folder that matches: `path` below the folder of the scan, `fields` by the pattern, `header` by keyword."""

    path: str
    fields: Mapping[str, str]
    size_bytes: int
    changed_at: datetime
    is_folder: bool = False
    header: Mapping[str, CardValue] | None = None  # None: it has none
    checksum: str | None = None

    @property
    def name(self) -> str:
        return package_name(self.path, is_folder=self.is_folder)


@dataclass(frozen=True)
class KnownCopy:
    """A copy of a package as the ops-db knows it."""

    package: str
    location: str
    path: str
    status: str
    size_bytes: int | None = None
    checksum: str | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Said:
    """One object as `ingest` reads it."""

    kind: str
    item: Mapping[str, Any]
    where: str


@dataclass
class ScanPlan:
    """What there is to ingest, or what is wrong; `untimely` are headers whose times are none."""

    objects: list[Said] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)  # keyword -> packages without it
    headless: int = 0
    untimely: list[str] = field(default_factory=list)


def package_name(path: str, *, is_folder: bool = False) -> str:
    """`NGC253-2026-03-01-0001` of `NGC253/2026-03-01/0001.fits`."""
    lower = path.lower()
    ending = "" if is_folder else next((e for e in ENDINGS if lower.endswith(e)), "")
    bare = path[: len(path) - len(ending)]
    return (path if bare.endswith("/") or not bare else bare).replace("/", "-")


def needs_checksum(found: FoundPackage, known: KnownCopy | None, *, wanted: bool) -> bool:
    """Whether its content is to be read: not again where size and time are those of the checksum that is known.

    What changed has one from then on: by it alone runs tell the new content from the old.
    """
    if known is None:
        return wanted
    return not _is_as_known(found, known) or (wanted and known.checksum is None)


def _is_as_known(found: FoundPackage, known: KnownCopy) -> bool:
    return (found.size_bytes, found.changed_at) == (known.size_bytes, known.changed_at)


def vanished_copies(known: Iterable[KnownCopy], found: Collection[str], unread: Sequence[str]) -> list[str]:
    """Paths of copies that were there and are not found now, less those below folders that could not be read."""
    return sorted(
        copy.path
        for copy in known
        if copy.path not in found
        and copy.status != "deleted"
        and not any(f"{copy.path}/".startswith(f"{path}/") for path in unread)
    )


def plan_objects(
    packages: Sequence[FoundPackage],
    *,
    cards: Sequence[HeaderCard],
    constants: Mapping[str, str],
    location: str,
    prefix: str,
    known: Mapping[str, Sequence[KnownCopy]],
    timezone: str,
) -> ScanPlan:
    """Objects in the order in which parents come first.

    `prefix` is the scan's folder below the location's root (empty, or ending in `/`). `known` are all copies of packages
    of these names.
    """
    plan = ScanPlan()
    units: dict[str, _Unit] = {}
    modules: dict[tuple[str, str], str] = {}
    said: list[Said] = []
    paths: dict[str, str] = {}
    for package in packages:
        before = paths.setdefault(package.name, package.path)
        if before != package.path:
            what = f"it would be the package {package.name}, as {before} would"
            plan.problems.append(Problem(package.path, what, "rename one of the two, or leave it out by the pattern"))
            continue
        values, metadata = _sort_values(package, cards, constants, timezone, plan)
        item = _package_item(package, location, prefix, known.get(package.name, ()), plan)
        unit = _unit_name(package, values)
        if unit is not None:
            units.setdefault(unit, _Unit()).add(package.path, unit, values, plan)
            item["executed_obs_unit"] = unit
        module = _module_of(values)
        if module is not None:
            item["instrument_module"] = module
            if "/" in module:
                instrument, _, name = module.partition("/")
                modules.setdefault((instrument, name), package.path)
        said.append(Said("raw_data_package", item | ({"metadata": metadata} if metadata else {}), package.path))
    plan.objects += [
        Said("instrument_module", {"name": name, "instrument": instrument}, where)
        for (instrument, name), where in modules.items()
    ]
    for name, unit_of in units.items():
        plan.objects += unit_of.said(name)
    plan.objects += said
    return plan


def keep_statuses(objects: Sequence[Said], finished: Collection[str]) -> list[Said]:
    """The objects, without the status of executed obs units of which somebody has said how they ended."""
    return [
        Said(one.kind, {key: value for key, value in one.item.items() if key != "status"}, one.where)
        if one.kind == "executed_obs_unit" and one.item["name"] in finished
        else one
        for one in objects
    ]


def _sort_values(
    package: FoundPackage,
    cards: Sequence[HeaderCard],
    constants: Mapping[str, str],
    timezone: str,
    plan: ScanPlan,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of our fields and metadata; the path wins over the header, the header over what is said of all."""
    values: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, text in constants.items():
        (values if name in FIELDS else metadata)[name] = text
    if cards and package.header is None:
        plan.headless += 1
    for card in cards if package.header is not None else ():
        assert package.header is not None
        value = package.header.get(card.keyword)
        if value is None:
            plan.missing[card.keyword] = plan.missing.get(card.keyword, 0) + 1
        elif card.field in (START, END):
            _take_time(package, card, value, timezone, values, metadata, plan)
        elif card.field in FIELDS and card.field not in package.fields:
            values[card.field] = str(value)
            if card.field in KEPT:
                metadata[card.field] = value
        else:
            metadata[card.keyword if card.field in FIELDS else card.field] = value
    for name, text in package.fields.items():
        if name in FIELDS:
            values[name] = text
        if name not in FIELDS or name in KEPT:
            metadata[name] = text
    _place_in_time(values, timezone)
    return values, metadata


def _take_time(
    package: FoundPackage,
    card: HeaderCard,
    value: CardValue,
    timezone: str,
    values: dict[str, Any],
    metadata: dict[str, Any],
    plan: ScanPlan,
) -> None:
    moment = parse_time(value, str((package.header or {}).get(TIMESYS.keyword, "UTC")))
    if moment is None:
        plan.untimely.append(f"{package.path} ({card.keyword} {value!r})")
        metadata[card.keyword] = value
    elif isinstance(moment, datetime):
        values[card.field] = moment
    elif card.field == START:
        values.setdefault(START, _night_begin(moment, timezone))
    else:
        metadata[card.keyword] = value  # a date is no end


def _place_in_time(values: dict[str, Any], timezone: str) -> None:
    """A date alone is an observing night: what was observed in it began when the night did, at its local noon."""
    day = parse_date(str(values.get(OBS_DATE, "")))
    if START not in values and day is not None:
        values[START] = _night_begin(day, timezone)


def _night_begin(day: date, timezone: str) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(timezone)).astimezone(UTC)


def _unit_name(package: FoundPackage, values: Mapping[str, Any]) -> str | None:
    """The executed obs unit: by the fields of the path and the scan, or the package's own name where no scan is known."""
    if not any(name in values for name in (*SCAN_FIELDS, START, END)):
        return None
    if "scan" not in values:
        return package.name
    return "-".join(str(values[n]) for n in SCAN_FIELDS if n in values and (n in package.fields or n == "scan"))


def _module_of(values: Mapping[str, Any]) -> str | None:
    """`INSTRUMENT/MODULE`; an instrument of which no module is known is its own."""
    instrument, module = (values.get(name) for name in MODULE_FIELDS)
    if instrument is None:
        return module
    return f"{str(instrument).replace('/', '-')}/{module if module is not None else instrument}"


def _package_item(
    package: FoundPackage, location: str, prefix: str, known: Sequence[KnownCopy], plan: ScanPlan
) -> dict[str, Any]:
    path = prefix + package.path
    here = next((c for c in known if (c.location, c.path) == (location, path)), None)
    others = [c for c in known if c.status != "deleted" and c is not here]
    if here is None and others:
        what = f"a package {package.name} is known already: {others[0].path} at {others[0].location}"
        hint = "if this is another copy of it, say so in a file (`copies`); else scan from a folder above both"
        plan.problems.append(Problem(package.path, what, hint))
    copy = {"location": location, "path": path}
    if here is not None and (here.status == "deleted" or (here.status == "corrupt" and not _is_as_known(package, here))):
        copy["status"] = "present"
    item: dict[str, Any] = {
        "name": package.name, "state": "archived", "size_bytes": package.size_bytes,
        "created_at": utc_text(package.changed_at), "copies": [copy],
    }  # fmt: skip
    return item | ({"checksum": package.checksum} if package.checksum is not None else {})


@dataclass
class _Unit:
    """What all packages of one executed obs unit say of it."""

    values: dict[str, tuple[str, str]] = field(default_factory=dict)  # field -> value, path that said it
    starts: list[datetime] = field(default_factory=list)
    ends: list[datetime] = field(default_factory=list)

    def add(self, path: str, unit: str, values: Mapping[str, Any], plan: ScanPlan) -> None:
        for name in (*UNIT_FIELDS, "obs_unit"):
            if name in values:
                value, first = self.values.setdefault(name, (str(values[name]), path))
                if value != str(values[name]):
                    what = f"{name} of {unit} is {values[name]}, and in {first} it is {value}"
                    plan.problems.append(Problem(path, what, "one scan has one"))
        self.starts += [values[START]] if START in values else []
        self.ends += [values[END]] if END in values else []

    def said(self, name: str) -> list[Said]:
        where = next((path for _, path in self.values.values()), name)
        item: dict[str, Any] = {"name": name}
        parts = {key: value for key, (value, _) in self.values.items()}
        obs_unit = parts.pop("obs_unit", None) or "-".join(parts[n] for n in UNIT_FIELDS if n in parts)
        objects = []
        if obs_unit:
            item["obs_unit"] = obs_unit
            objects.append(Said("obs_unit", {"name": obs_unit, **parts}, where))
        if self.starts:
            item["start_time"] = utc_text(min(self.starts))
        if self.ends:
            item["end_time"] = utc_text(max(self.ends))
        item["status"] = "completed"  # its files lie there: no more is known to come
        return [*objects, Said("executed_obs_unit", item, where)]

