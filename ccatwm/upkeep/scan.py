"""Makes files known that lie below a folder: `ingest --scan`. Touches: those files (reading only), the ops-db.

What a path and a FITS header say becomes the objects that `ingest FILE` reads, and goes the same way. Nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ccatwm.core.fits_cards import HeaderCard, parse_wanted, pick_cards
from ccatwm.core.names import encode_name
from ccatwm.core.path_pattern import PathPattern, parse_pattern
from ccatwm.core.scanned import (
    TIMESYS,
    FoundPackage,
    KnownCopy,
    ScanPlan,
    keep_statuses,
    needs_checksum,
    plan_objects,
    vanished_copies,
)
from ccatwm.core.wording import size_text
from ccatwm.edges.hostfiles.found import Walked, checksum_package, read_header, walk_packages
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import scanned as store
from ccatwm.errors import Problem, UsageError
from ccatwm.interfaces import NO_PROGRESS, Progress
from ccatwm.upkeep.ingest import IngestReport, ingest_objects

SHOWN = 5
EXAMPLE = "ccatwm ingest --scan DIR --pattern '{source}/{obs_date}/{scan}.fits'"


@dataclass(frozen=True)
class ScanRequest:
    """What somebody asks for. `roots`: where data locations lie by the settings, which win over the ops-db."""

    folder: Path
    pattern: str
    fits_header: Sequence[str] = ()
    constants: Sequence[str] = ()
    location: str | None = None
    checksum: bool = False
    timezone: str = "UTC"
    roots: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ScanReport:
    """What was found, and what became of it in the ops-db (`ingest`)."""

    folder: str
    location: str
    packages: int
    size_bytes: int
    metadata: list[str]
    others: list[str]
    other_count: int
    vanished: list[str]
    unread: Mapping[str, str]
    plan: ScanPlan
    ingest: IngestReport
    hashed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The document of `ingest`, with what was found under `scan`."""
        found = {
            "dir": self.folder,
            "location": self.location,
            "packages": self.packages,
            "size_bytes": self.size_bytes,
            "hashed": self.hashed,
            "metadata": self.metadata,
            "not_matching": {"count": self.other_count, "first": self.others[:SHOWN]},
            "vanished": self.vanished,
            "unread": dict(self.unread),
            "without_header": self.plan.headless,
            "without_keyword": self.plan.missing,
            "times_not_read": self.plan.untimely,
        }
        return {**self.ingest.to_json(), "scan": found}

    def lines(self) -> list[str]:
        """For people."""
        hashed = f", {_files(self.hashed)} summed up" if self.hashed else ""
        found = f"{_files(self.packages)}, {size_text(self.size_bytes)}{hashed}"
        lines = [f"{self.folder}: {found}; data location {self.location}"]
        if self.metadata:
            lines.append(f"metadata of packages: {', '.join(self.metadata)}")
        if self.other_count:
            lines.append(f"not matching: {_first(self.others, self.other_count)}")
        if self.plan.headless:
            lines.append(f"no FITS header: {_files(self.plan.headless)}")
        lines += [f"no {keyword} in the header: {_files(count)}" for keyword, count in self.plan.missing.items()]
        if self.plan.untimely:
            lines.append(f"no time in UTC, kept as metadata: {_first(self.plan.untimely, len(self.plan.untimely))}")
        if self.vanished:
            lines.append(f"vanished, still known to the ops-db: {_first(self.vanished, len(self.vanished))}")
        lines += [f"cannot be read: {path}: {why}" for path, why in list(self.unread.items())[:SHOWN]]
        if len(self.unread) > SHOWN:
            lines.append(f"cannot be read: {len(self.unread) - SHOWN} more")
        if self.ingest.dry_run:
            lines.append("this would be ingested:")
        return lines + self.ingest.lines()


def _files(count: int) -> str:
    return f"{count} package{'' if count == 1 else 's'}"


def _first(names: Sequence[str], count: int) -> str:
    more = count - min(len(names), SHOWN)
    return f"{count} ({', '.join(names[:SHOWN])}{f' and {more} more' if more > 0 else ''})"


def scan_packages(
    database: Database,
    request: ScanRequest,
    *,
    now: datetime,
    actor: str,
    host: str = "",
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> ScanReport:
    """Ingest the packages below a folder.

    Errors: UsageError with all that is wrong with what was asked for, DefinitionsError where packages contradict each
    other or what is known; then nothing is written.
    """
    asked = _check_request(request)
    folder = request.folder.resolve()
    walked = walk_packages(folder, asked.pattern)
    if not walked.packages:
        raise _nothing_matches(request, asked.pattern, walked)
    with database.read() as connection:
        place = _choose_location(store.list_locations(connection), folder, request)
        prefix = _below(place.root, folder)
        known_here = {copy.path: copy for copy in store.copies_below(connection, place.name, prefix)}
        known = store.copies_of(connection, sorted({package.name for package in walked.packages}))
    _leave_out_links(walked, place)
    packages, hashed = _read_contents(folder, walked, asked.cards, request, known_here, prefix, progress)
    plan = plan_objects(
        packages, cards=asked.cards, constants=asked.constants, location=place.name, prefix=prefix, known=known,
        timezone=request.timezone,
    )  # fmt: skip
    units = [said.item["name"] for said in plan.objects if said.kind == "executed_obs_unit"]
    with database.read() as connection:
        finished = store.units_with_status(connection, units)
    objects = [(said.kind, said.item, said.where) for said in keep_statuses(plan.objects, finished)]
    if place.is_new:
        item = {"name": place.name, "location_type": "source", "storage_type": "disk", "base_path": str(place.root)}
        objects.insert(0, ("data_location", item, str(folder)))
    report = ingest_objects(
        database, str(folder), objects, now=now, actor=actor, host=host, dry_run=dry_run, problems=plan.problems
    )
    mine = [c for path, c in known_here.items() if asked.pattern.match(path.removeprefix(prefix).split("/")) is not None]
    unread = [prefix + path for path in walked.unread]
    return ScanReport(
        folder=str(folder),
        location=place.name,
        packages=len(packages),
        size_bytes=sum(package.size_bytes for package in packages),
        metadata=sorted({key for _, item, _ in objects for key in item.get("metadata", {})}),
        others=[encode_name(path) for path in walked.others[:SHOWN]],
        other_count=walked.other_count,
        vanished=vanished_copies(mine, {prefix + package.path for package in packages}, unread),
        unread=walked.unread,
        plan=plan,
        ingest=report,
        hashed=hashed,
    )


# --- what was asked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    pattern: PathPattern
    cards: list[HeaderCard]
    constants: dict[str, str]


def _check_request(request: ScanRequest) -> _Asked:
    pattern, problems = parse_pattern(request.pattern)
    cards, wrong = parse_wanted(request.fits_header)
    problems = problems + wrong
    constants: dict[str, str] = {}
    for text in request.constants:
        name, equals, value = text.partition("=")
        if equals and name.isidentifier() and value:
            constants[name] = value
        else:
            problems.append(Problem("--set", f"{text!r} sets nothing", "KEY=VALUE, as in instrument=CHAI"))
    if not request.folder.is_dir():
        what = "is no folder" if request.folder.exists() else "is not there"
        problems.append(Problem(f"--scan {request.folder}", what))
    if problems or pattern is None:
        noun = "mistake" if len(problems) == 1 else "mistakes"
        raise UsageError(f"{len(problems)} {noun}; nothing was looked at", problems=problems, next=EXAMPLE)
    return _Asked(pattern, cards, constants)


def _nothing_matches(request: ScanRequest, pattern: PathPattern, walked: Walked) -> UsageError:
    """With the file that comes nearest, and where it differs."""
    problems = [Problem(path, f"cannot be read: {why}") for path, why in list(walked.unread.items())[:SHOWN]]
    where = str(request.folder)
    if not walked.others:
        return UsageError("there is no file below this folder", where=where, problems=problems)
    nearest = max(walked.others, key=lambda path: pattern.mismatch(path.rstrip("/").split("/"))[0])
    parts = nearest.rstrip("/").split("/")
    _, what = pattern.mismatch(parts)
    deeper = nearest.endswith("/") and len(parts) == pattern.depth
    hint = "it is a folder; if packages lie in it, the pattern needs one more part: {field}/ or */" if deeper else ""
    problems.insert(0, Problem(f"nearest is {encode_name(nearest)}", what, hint))
    return UsageError(
        f"nothing matches {request.pattern!r} ({walked.other_count} looked at)", where=where, problems=problems,
        next="correct --pattern; it begins below the folder of --scan, and a folder that matches is one package",
    )  # fmt: skip


# --- where they lie ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    name: str
    root: Path
    is_new: bool = False


def _choose_location(known: Sequence[store.KnownLocation], folder: Path, request: ScanRequest) -> _Place:
    """The data location that was named, else the innermost one around the folder, else a new one of the folder's name."""
    roots = {one.name: request.roots.get(one.name) or one.root for one in known if one.storage == "disk"}
    places = {name: Path(root).resolve() for name, root in roots.items() if root is not None}
    if request.location is not None:
        return _named_location(request.location, {one.name for one in known}, places, folder)
    passive = {one.name for one in known if one.kind == "processing"}
    around = [_Place(n, root) for n, root in places.items() if n not in passive and folder.is_relative_to(root)]
    if around:
        return max(around, key=lambda place: len(place.root.parts))
    taken = {one.name for one in known}
    name = folder.name or "root"
    free = next(n for n in (name, *(f"{name}-{count}" for count in range(2, len(taken) + 3))) if n not in taken)
    return _Place(free, folder, is_new=True)


def _named_location(name: str, known: set[str], places: Mapping[str, Path], folder: Path) -> _Place:
    if name not in known:
        return _Place(name, folder, is_new=True)
    if name not in places:
        raise UsageError(f"data location {name} is no disk of this host", where="--location", next="name another one")
    if not folder.is_relative_to(places[name]):
        what = f"{folder} does not lie in data location {name}, which is {places[name]}"
        raise UsageError(what, where="--location", next="name another one: it is made if it is not there")
    return _Place(name, places[name])


def _below(root: Path, folder: Path) -> str:
    path = folder.relative_to(root).as_posix()
    return "" if path == "." else f"{path}/"


def _leave_out_links(walked: Walked, place: _Place) -> None:
    """Links that lead out of the data location are refused when they are staged: better said now."""
    astray = {path: to for path, to in walked.links.items() if not Path(to).is_relative_to(place.root)}
    if astray:
        walked.packages = [package for package in walked.packages if package.path not in astray]
        why = f"a link that leads out of data location {place.name}, to"
        walked.unread |= {path: f"{why} {to}" for path, to in astray.items()}


# --- what stands in them ----------------------------------------------------------------------------------------------


def _read_contents(
    folder: Path,
    walked: Walked,
    cards: Sequence[HeaderCard],
    request: ScanRequest,
    known: Mapping[str, KnownCopy],
    prefix: str,
    progress: Progress,
) -> tuple[list[FoundPackage], int]:
    """The packages with their headers and checksums, as far as they are to be read, and how many were summed up."""
    packages = walked.packages
    if cards:
        packages = _with_headers(folder, walked, cards, progress)
    to_hash = [p for p in packages if needs_checksum(p, known.get(prefix + p.path), wanted=request.checksum)]
    if not to_hash:
        return packages, 0
    sums: dict[str, str] = {}
    with progress.begin("checksums", sum(package.size_bytes for package in to_hash), "bytes") as bar:
        for number, package in enumerate(to_hash, 1):
            bar.note(f"package {number} of {len(to_hash)}")
            try:
                sums[package.path] = checksum_package(folder, package, bar.advance)
            except OSError as error:
                walked.unread[package.path] = error.strerror or str(error)
    kept = [package for package in packages if package.path not in walked.unread]
    return [replace(p, checksum=sums[p.path]) if p.path in sums else p for p in kept], len(sums)


def _with_headers(
    folder: Path, walked: Walked, cards: Sequence[HeaderCard], progress: Progress
) -> list[FoundPackage]:
    read: list[FoundPackage] = []
    with progress.begin("FITS headers", len(walked.packages), "packages") as bar:
        for package in walked.packages:
            try:
                header = read_header(folder, package, [card.keyword for card in cards])
            except OSError as error:
                walked.unread[package.path] = error.strerror or str(error)
            else:
                picked = None if header is None else pick_cards(header, [*cards, TIMESYS])
                read.append(replace(package, header=picked))
            bar.advance(1)
    return read

