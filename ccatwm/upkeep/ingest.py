"""Fills the observation tables from files, for sites without data transfer. Touches: the files read, the ops-db.

Everything of all files is checked before anything is written. A YAML file is one transaction; JSON Lines are written
in chunks, and what was interrupted is completed by ingesting the file again. The same file twice changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.core.digests import DIGITS, split_checksum
from ccatwm.core.wording import short_text, some_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import observations as store
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.errors import DefinitionsError, Problem, UsageError
from ccatwm.upkeep._yaml import READABLE, find_unstorable, in_file_order, read_json_lines, read_yaml

LINES_PER_TRANSACTION = 2000
MAX_PROBLEMS = 50
MAX_NAMES = 20  # of each kind, in a report for scripts
# In the order in which parents come before children.
ORDER = (
    "site", "data_location", "observatory", "telescope", "instrument", "instrument_module", "observing_program",
    "source", "obs_unit", "executed_obs_unit", "raw_data_package",
)  # fmt: skip
# What others name without saying what it is: in JSON Lines these come first, wherever they stand.
FIRST = ("data_location", "instrument_module")
PLURALS = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in ORDER}
DEFINED = ("software", "references", "presets", "data_groupings", "pipelines")  # sections of `ccatwm apply`


class WrongValueError(Exception):
    """A value that its field does not take; the text says what it takes."""


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongValueError("a text")
    text = str(value)
    if not text or find_unstorable(text) is not None:
        raise WrongValueError("a text of valid Unicode that is not empty and has no NUL character")
    return text


# Bytes of UTF-8 that fit into an index of PostgreSQL (a third of a page, 2704) with what else stands in it.
LONGEST_NAME, LONGEST_COPY_PATH, LONGEST_FILE_NAME = 1000, 1500, 2500


def _at_most(text: str, most: int) -> str:
    size = len(text.encode())
    if size > most:
        raise WrongValueError(f"a text of at most {most} bytes (it has {size})")
    return text


def _name(value: Any) -> str:
    return _at_most(_text(value), LONGEST_NAME)


def _file_name(value: Any) -> str:
    return _at_most(_text(value), LONGEST_FILE_NAME)


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise WrongValueError("a number")
    return number


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise WrongValueError("a whole number of at most 31 bits")
    return int(value)


@dataclass(frozen=True)
class Between:
    """A number that the sky, or counting, keeps between two bounds, both included; None: no bound."""

    low: float
    high: float | None = None
    whole: bool = False

    def __call__(self, value: Any) -> float:
        number = _integer(value) if self.whole else _number(value)
        if number < self.low or (self.high is not None and number > self.high):
            bounds = f"of {self.low:g} or more" if self.high is None else f"from {self.low:g} to {self.high:g}"
            raise WrongValueError(f"a {'whole ' if self.whole else ''}number {bounds}")
        return number


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise WrongValueError("a whole number of bytes")
    return int(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError("true or false")
    return value


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongValueError("a time such as 2026-03-01T04:05:06Z") from None
    raise WrongValueError("a time with its zone, such as 2026-03-01T04:05:06Z")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongValueError("a mapping")
    wrong = find_unstorable(value)
    if wrong is not None:
        raise WrongValueError(f"a mapping without {wrong}")
    return value


def _checksum(value: Any) -> str:
    algorithm, digits = split_checksum(_text(value))
    if algorithm not in DIGITS or set(digits) - set("0123456789abcdef"):
        raise WrongValueError(f"algorithm:hex, such as sha256:ab12..., with one of {', '.join(DIGITS)}")
    if len(digits) != DIGITS[algorithm]:
        raise WrongValueError(f"{algorithm}: and {DIGITS[algorithm]} hexadecimal digits (it has {len(digits)})")
    return f"{algorithm}:{digits}"


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value.lower() not in allowed:
            raise WrongValueError(f"one of {', '.join(allowed)}")
        return value.lower()

    return parse


def _module(value: Any) -> str:
    text = _text(value)
    if "" in text.split("/", 1):
        raise WrongValueError("INSTRUMENT/MODULE, or a module's name where only one instrument has it")
    return text


def _relative(value: Any) -> str:
    path = _text(value)
    if path.startswith("/") or ".." in path.split("/"):
        raise WrongValueError("a path below the location's root (no leading /, no ..)")
    return _at_most(path, LONGEST_COPY_PATH)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WrongValueError("a list")
    return value


@dataclass(frozen=True)
class Kind:
    """What may be said of one kind of object: fields by name, references by (field -> kind), needed fields, defaults."""

    fields: Mapping[str, Callable[[Any], Any]]
    references: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ("name",)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    key: str = "name"


STATES = ("waiting", "transferring", "archived", "failed")
COPY_STATES = (
    "present", "staged", "corrupt", "deletion_possible", "deletion_scheduled", "deletion_in_progress",
    "deletion_failed", "deleted",
)  # fmt: skip
KINDS: Mapping[str, Kind] = {
    "site": Kind({"name": _name, "short_name": _text, "location": _text}),
    "data_location": Kind(
        {
            "name": _name,
            "location_type": _one_of("source", "buffer", "long_term_archive", "processing"),
            "storage_type": _one_of("disk", "s3", "tape"),
            "priority": _integer,
            "active": _boolean,
            "base_path": _text,
            "details": _mapping,
        },
        {"site": "site"},
        ("name", "location_type"),
        {"storage_type": "disk"},
    ),
    "observatory": Kind({"name": _name}),
    "telescope": Kind(
        {"name": _name, "longitude_deg": Between(-180, 360), "latitude_deg": Between(-90, 90), "altitude_m": _number},
        {"observatory": "observatory"},
    ),
    "instrument": Kind({"name": _name, "instrument_type": _text, "available": _boolean}, {"telescope": "telescope"}),
    "instrument_module": Kind(
        {"name": _name, "pixels": Between(0, whole=True), "frequency_ghz": Between(0)},
        {"instrument": "instrument"},
        ("name", "instrument"),
    ),
    "observing_program": Kind(
        {"short_name": _name, "name": _name, "description": _text}, needed=("short_name",), key="short_name"
    ),
    "source": Kind(
        {
            "name": _name,
            "kind": _one_of("fixed", "solar_system_object", "constant_elevation"),
            "ra_deg": Between(0, 360),
            "dec_deg": Between(-90, 90),
            "frame": _text,
            "velocity_km_s": _number,
            "naif_id": _integer,
            # A telescope may turn further than once around, and (as the FYST) over the zenith.
            "azimuth_min_deg": Between(-360, 720),
            "azimuth_max_deg": Between(-360, 720),
            "elevation_deg": Between(0, 180),
        },
        defaults={"kind": "fixed"},
    ),
    "obs_unit": Kind(
        {"name": _name, "line_id": _text, "obs_mode": _text, "details": _mapping},
        {"source": "source", "observing_program": "observing_program"},
    ),
    "executed_obs_unit": Kind(
        {"name": _name, "start_time": _time, "end_time": _time, "status": _text, "details": _mapping},
        {"obs_unit": "obs_unit"},
    ),
    "raw_data_package": Kind(
        {"name": _name, "state": _one_of(*STATES), "checksum": _checksum, "size_bytes": _size, "created_at": _time,
         "metadata": _mapping, "files": _list, "copies": _list, "path": _relative, "location": _name},
        {"executed_obs_unit": "executed_obs_unit", "instrument_module": "instrument_module"},
        defaults={"state": "archived"},
    ),
}  # fmt: skip
FILE_FIELDS = {"name": _file_name, "size_bytes": _size, "checksum": _checksum}
COPY_FIELDS = {"location": _name, "path": _relative, "status": _one_of(*COPY_STATES)}
# What the source's kinds need beside their name.
SOURCE_NEEDS = {"solar_system_object": "naif_id", "constant_elevation": "elevation_deg"}


@dataclass
class Parsed:
    """One object, checked: its row, names of what it refers to, and what belongs to a package."""

    kind: str
    row: dict[str, Any]
    where: str
    references: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    copies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def digest(self) -> int:
        """The same for the same statement."""
        said = (self.row, self.references, self.metadata, self.files, self.copies)
        return hash(json.dumps(said, sort_keys=True, default=str))


@dataclass
class IngestReport:
    """How many objects of each kind were new, changed or as they were."""

    files: list[str]
    dry_run: bool = False
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    named: dict[str, set[str]] = field(default_factory=dict)  # made because somebody named them: nothing more is known

    def made_by_name(self, kind: str, names: Iterable[str]) -> None:
        self.named.setdefault(kind, set()).update(names)

    def described(self, kind: str, names: Iterable[str]) -> None:
        self.named.get(kind, set()).difference_update(names)

    def count(self, kind: str, done: store.Upserted) -> None:
        mine = self.counts.setdefault(kind, {"new": 0, "changed": 0, "unchanged": 0})
        mine["new"] += done.new
        mine["changed"] += done.changed
        mine["unchanged"] += done.unchanged

    @property
    def written(self) -> int:
        return sum(c["new"] + c["changed"] for c in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.ingest/1",
            "files": self.files,
            "dry_run": self.dry_run,
            "ingest": self.counts,
            "named_only": {kind: sorted(names)[:MAX_NAMES] for kind, names in self.named.items() if names},
        }

    def lines(self) -> list[str]:
        """For people: one line a kind."""
        shown = [
            f"{kind.replace('_', ' ')}: {c['new']} new, {c['changed']} changed, {c['unchanged']} unchanged"
            for kind, c in self.counts.items()
        ]
        shown += [
            f"made from the name only: {kind.replace('_', ' ')} {_some(sorted(names))}"
            for kind, names in self.named.items()
            if names
        ]
        packages = self.counts.get("raw_data_package", {})
        if not self.dry_run and packages.get("new", 0) + packages.get("changed", 0):
            shown.append("`ccatwm trigger` finds which steps are due by it")
        return shown or ["nothing to ingest"]


def _some(names: Sequence[str]) -> str:
    return some_text(names, 5)


def ingest_files(
    database: Database,
    paths: Sequence[Path],
    *,
    now: datetime,
    actor: str,
    host: str = "",
    dry_run: bool = False,
) -> IngestReport:
    """Ingest YAML (`.yaml`, `.yml`) and JSON Lines (anything else). Errors: DefinitionsError with file and line of
    every mistake; then nothing of any file is written."""
    if not paths:
        raise UsageError("no file to ingest", next="ccatwm ingest observations.yaml")
    problems: list[Problem] = []
    checked = [_check_file(Path(path), problems) for path in paths]
    report = IngestReport([str(path) for path in paths], dry_run)
    _ingest_checked(database, checked, problems, report, now=now, actor=actor, host=host)
    return report


def ingest_objects(
    database: Database,
    name: str,
    objects: Sequence[tuple[str, Mapping[str, Any], str]],
    *,
    now: datetime,
    actor: str,
    host: str = "",
    dry_run: bool = False,
    problems: Sequence[Problem] = (),
) -> IngestReport:
    """Ingest objects that stand in no file, each with its kind and where it comes from.

    `name` is what they are of as a whole, `problems` what is known to be wrong with them. Errors: DefinitionsError with
    every mistake; then nothing is written.
    """
    found = list(problems)
    checked = CheckedObjects(Path(name), given=objects)
    for item in checked.parse(found):
        checked.add(item, found)
    report = IngestReport([name], dry_run)
    _ingest_checked(database, [checked], found, report, now=now, actor=actor, host=host)
    return report


def _ingest_checked(
    database: Database,
    checked: Sequence[Checked],
    problems: list[Problem],
    report: IngestReport,
    *,
    now: datetime,
    actor: str,
    host: str,
) -> None:
    _refuse_mistakes(database, checked, problems)
    with _transactions(database, report.dry_run) as begin:
        for file in checked:
            log: Callable[[sa.Connection], None] = _change(file, now, actor, host)
            for chunk in file.chunks():
                with begin() as connection:
                    before = report.written
                    _write_kinds(connection, chunk, now, report)
                    if report.written > before:
                        log(connection)
                        log = _nothing


@contextmanager
def _transactions(
    database: Database, dry_run: bool
) -> Iterator[Callable[[], AbstractContextManager[sa.Connection]]]:
    """One transaction each time it is called; a dry run is one for everything, and rolled back."""
    if not dry_run:
        yield database.write
        return
    with database.read() as connection:
        yield lambda: nullcontext(connection)


def _change(file: Checked, now: datetime, actor: str, host: str) -> Callable[[sa.Connection], None]:
    """Says in the change log who ingested which file; called in the first transaction that changes something."""

    def log(connection: sa.Connection) -> None:
        record_change(
            connection, at=now, actor=actor, host=host, act="ingest", target=str(file.path),
            digest=f"sha256:{file.sha256()}", details={"objects": file.objects},
        )  # fmt: skip

    return log


def _nothing(_connection: sa.Connection) -> None:
    pass


# --- checking ---------------------------------------------------------------------------------------------------------


@dataclass
class Checked:
    """A file in which every object is right, what it names, and what of it must be written first."""

    path: Path
    objects: int = 0
    first: list[Parsed] = field(default_factory=list)
    locations: dict[str, str] = field(default_factory=dict)  # data location named by a copy -> where
    modules: dict[str, str] = field(default_factory=dict)  # module named without its instrument -> where
    pairs: set[tuple[str, str]] = field(default_factory=set)  # instrument, module
    said: dict[str, tuple[int, str]] = field(default_factory=dict)  # package -> digest of what is said, line
    half_times: dict[str, Parsed] = field(default_factory=dict)  # executed obs units with one time only

    @property
    def is_whole(self) -> bool:
        """Whether all of it is one transaction."""
        return is_yaml(self.path)

    def parse(self, problems: list[Problem]) -> Iterator[Parsed]:
        """Its objects, read anew each time."""
        return _parse_file(self.path, problems)

    def sha256(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def chunks(self) -> Iterator[list[Parsed]]:
        """What goes into one transaction."""
        if self.is_whole:
            yield list(self.parse([]))
            return
        chunk = list(self.first)
        for item in self.parse([]):
            if item.kind in FIRST:
                continue
            chunk.append(item)
            if len(chunk) >= LINES_PER_TRANSACTION:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def add(self, item: Parsed, problems: list[Problem]) -> None:
        self.objects += 1
        if item.kind == "raw_data_package":
            self._refuse_contradiction(item, problems)
        if item.kind == "executed_obs_unit" and len(item.row.keys() & {"start_time", "end_time"}) == 1:
            self.half_times[item.row["name"]] = item
        if item.kind in FIRST:
            self.first.append(item)
        if item.kind == "instrument_module":
            self.pairs.add((item.references.get("instrument", ""), item.row.get("name", "")))
        for copy in item.copies:
            self.locations.setdefault(copy.get("location", ""), item.where)
        module = item.references.get("instrument_module")
        if module is not None:
            instrument, separator, name = module.partition("/")
            if separator:
                self.pairs.add((instrument, name))
            else:
                self.modules.setdefault(module, item.where)

    def _refuse_contradiction(self, item: Parsed, problems: list[Problem]) -> None:
        """Two different statements about one package in one file: nobody can know which one is meant."""
        name, line = item.row["name"], item.where.rpartition(":")[2]
        digest, first = self.said.setdefault(name, (item.digest, line))
        if digest != item.digest:
            what = f"package {short_text(name)} is said twice in this file, and differently"
            problems.append(Problem(item.where, what, f"the other one is in line {first}"))


@dataclass
class CheckedObjects(Checked):
    """The same of objects that somebody found: their kinds, what is said of them, and where."""

    given: Sequence[tuple[str, Mapping[str, Any], str]] = ()

    @property
    def is_whole(self) -> bool:
        return False

    def parse(self, problems: list[Problem]) -> Iterator[Parsed]:
        parsed = (parse_object(kind, item, where, problems) for kind, item, where in self.given)
        return (one for one in parsed if one is not None)

    def sha256(self) -> str:
        text = json.dumps([[kind, item] for kind, item, _ in self.given], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _refuse_mistakes(database: Database, checked: Sequence[Checked], problems: list[Problem]) -> None:
    """Errors: DefinitionsError with what is wrong in any of the files, and with what they name that is not known."""
    with database.read() as connection:
        problems += _check_names(connection, checked)
    if problems:
        problems = in_file_order(problems, {str(file.path): n for n, file in enumerate(checked)}, elsewhere=-1)
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([Problem("", f"and {more} more")] if more > 0 else [])
        noun = "mistake" if len(problems) == 1 else "mistakes"
        raise DefinitionsError(f"{len(problems)} {noun}; nothing was written", problems=shown)


def _check_file(path: Path, problems: list[Problem]) -> Checked:
    file = Checked(path)
    wrong = _unreadable(path)
    if wrong is not None:
        problems.append(wrong)
        return file
    for item in _parse_file(path, problems):
        file.add(item, problems)
    return file


SCAN = "name files with observations; `ccatwm ingest --scan DIR --pattern PATTERN` finds the packages of a folder"


def _unreadable(path: Path) -> Problem | None:
    """Why a path is no file that can be read twice: once to check all of it, once to write."""
    where = str(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if where != "-":
            return Problem(where, f"cannot be read: {error.strerror}", READABLE)
        mode = 0
    if stat.S_ISREG(mode):
        return None
    what = "is a folder" if stat.S_ISDIR(mode) else "is no regular file, and is to be read twice"
    return Problem(where, what, SCAN if stat.S_ISDIR(mode) else "write what comes from it to a file, and name that")


def _check_names(connection: sa.Connection, files: Sequence[Checked]) -> list[Problem]:
    """Data locations and modules that are named only: known to the ops-db, to this file, or to one before it."""
    problems: list[Problem] = []
    locations = set(store.location_names(connection))
    modules = store.module_instruments(connection, [name for file in files for name in file.modules])
    for file in files:
        locations |= {item.row["name"] for item in file.first if item.kind == "data_location"}
        for instrument, module in file.pairs:
            modules.setdefault(module, set()).add(instrument)
        problems += [
            Problem(where, f"unknown data location {short_text(name)}", _choices(name, sorted(locations)))
            for name, where in file.locations.items()
            if name not in locations
        ]
        problems += [
            Problem(
                where, f"module {short_text(name)} is of {_of(modules.get(name, set()))}", "write INSTRUMENT/MODULE"
            )
            for name, where in file.modules.items()
            if len(modules.get(name, set())) != 1
        ]
        problems += _check_half_times(connection, file)
        _write_pairs_first(file)
    return problems


def _check_half_times(connection: sa.Connection, file: Checked) -> list[Problem]:
    """An end (or a start) that is said alone must go with the time that the ops-db knows."""
    known = store.unit_times(connection, list(file.half_times))
    problems = []
    for name, item in file.half_times.items():
        wrong = _wrong_times({**known.get(name, {}), **item.row})
        if wrong:
            problems.append(Problem(item.where, wrong, "the other one is what the ops-db knows"))
    return problems


def _wrong_times(row: Mapping[str, Any]) -> str | None:
    start, end = row.get("start_time"), row.get("end_time")
    if start is None or end is None or start <= end:
        return None
    return f"end_time {utc_text(end)} is before start_time {utc_text(start)}"


def _of(instruments: set[str]) -> str:
    return f"several instruments ({', '.join(sorted(instruments))})" if instruments else "no known instrument"


def _write_pairs_first(file: Checked) -> None:
    """A module that one line names bare and a later one with its instrument must be there at the first."""
    for instrument, module in sorted(file.pairs):
        if module in file.modules:
            file.first.append(
                Parsed("instrument_module", {"name": module}, "", references={"instrument": instrument})
            )


# --- reading ----------------------------------------------------------------------------------------------------------


def is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _parse_file(path: Path, problems: list[Problem]) -> Iterator[Parsed]:
    if is_yaml(path):
        yield from _parse_yaml(path, problems)
    else:
        yield from _parse_lines(path, problems)


def _parse_yaml(path: Path, problems: list[Problem]) -> Iterator[Parsed]:
    document, wrong = read_yaml(path, too_large="use JSON Lines for many objects")
    problems += wrong
    if document is None or document.data is None or wrong:
        return
    if not isinstance(document.data, dict):
        problems.append(Problem(str(path), "is no mapping of sections", f"sections: {', '.join(PLURALS)}"))
        return
    for section, items in document.data.items():
        kind = PLURALS.get(section)
        if kind is None:
            hint = "definitions: `ccatwm apply FILE`" if section in DEFINED else _choices(str(section), PLURALS)
            problems.append(Problem(document.where((section,)), f"unknown section {short_text(section)}", hint))
            continue
        if not isinstance(items, list):
            problems.append(Problem(document.where((section,)), f"{section} is not a list"))
            continue
        for n, item in enumerate(items):
            parsed = parse_object(kind, item, document.where((section, n)), problems)
            if parsed is not None:
                yield parsed


def _parse_lines(path: Path, problems: list[Problem]) -> Iterator[Parsed]:
    for number, item, wrong in read_json_lines(path):
        where = f"{path}:{number}"
        if wrong is not None:
            problems.append(wrong)
            continue
        kind = item.pop("kind", None) if isinstance(item, dict) else None
        if kind == "source" or kind in KINDS:
            parsed = parse_object(str(kind), item, where, problems)
            if parsed is not None:
                yield parsed
        else:
            problems.append(Problem(where, f"kind is {short_text(kind)}", f"allowed: {', '.join(KINDS)}"))


def parse_object(kind: str, item: Any, where: str, problems: list[Problem]) -> Parsed | None:
    """One object of a kind, or None with what is wrong added to `problems`."""
    if not isinstance(item, dict):
        problems.append(Problem(where, f"a {kind} that is no mapping"))
        return None
    before = len(problems)
    spec = KINDS[kind]
    item = dict(item)
    if "source_kind" in item and kind == "source":  # in JSON Lines `kind` says what the line is
        item["kind"] = item.pop("source_kind")
    parsed = Parsed(kind, {}, where)
    for name, value in item.items():
        _take(parsed, spec, str(name), value, problems)
    for name in spec.needed:
        if item.get(name) is None:
            problems.append(Problem(where, f"a {kind} without {name}"))
    if kind == "source":
        need = SOURCE_NEEDS.get(parsed.row.get("kind", "fixed"))
        if need is not None and item.get(need) is None:
            problems.append(Problem(where, f"a source of kind {parsed.row['kind']} without {need}"))
    if kind == "executed_obs_unit" and (wrong := _wrong_times(parsed.row)):
        problems.append(Problem(where, wrong))
    if kind == "raw_data_package":
        if (item.get("path") is None) != (item.get("location") is None):
            problems.append(Problem(where, "path and location stand together", "say both, or `copies`"))
        _take_package_parts(parsed, problems)
    return parsed if len(problems) == before else None


def _take(parsed: Parsed, spec: Kind, name: str, value: Any, problems: list[Problem]) -> None:
    if name in spec.references or name in spec.fields:
        parse: Callable[[Any], Any] = spec.fields.get(name, _module if name == "instrument_module" else _text)
        if value is None:
            return
        try:
            value = parse(value)
        except WrongValueError as error:
            problems.append(Problem(parsed.where, f"{name} is {short_text(value)}", f"it takes {error}"))
            return
        if name in spec.references:
            parsed.references[name] = value
        else:
            parsed.row[name] = value
    elif parsed.kind == "raw_data_package":
        wrong = find_unstorable({name: value})
        if wrong is not None:
            problems.append(Problem(parsed.where, f"{name} has {wrong}"))
        parsed.metadata[name] = value
    else:
        known = [*spec.fields, *spec.references]
        problems.append(Problem(parsed.where, f"unknown key {short_text(name)}", _choices(name, known)))


def _take_package_parts(parsed: Parsed, problems: list[Problem]) -> None:
    row = parsed.row
    parsed.metadata |= row.pop("metadata", {})
    parsed.files = [_part(f, FILE_FIELDS, ("name",), "files", parsed, problems) for f in row.pop("files", [])]
    copies = row.pop("copies", [])
    path, location = row.pop("path", None), row.pop("location", None)
    if path is not None and location is not None:
        copies = [*copies, {"location": location, "path": path}]
    parsed.copies = [_part(c, COPY_FIELDS, ("location", "path"), "copies", parsed, problems) for c in copies]


def _part(
    item: Any,
    fields: Mapping[str, Callable[[Any], Any]],
    needed: tuple[str, ...],
    name: str,
    parsed: Parsed,
    problems: list[Problem],
) -> dict[str, Any]:
    if not isinstance(item, dict):
        problems.append(Problem(parsed.where, f"{name}: {short_text(item)} is no mapping"))
        return {}
    done: dict[str, Any] = {}
    for key, value in item.items():
        if key not in fields:
            problems.append(
                Problem(parsed.where, f"{name}: unknown key {short_text(key)}", f"allowed: {', '.join(fields)}")
            )
            continue
        try:
            done[key] = fields[key](value) if value is not None else None
        except WrongValueError as error:
            problems.append(Problem(parsed.where, f"{name}: {key} is {short_text(value)}", f"it takes {error}"))
    for key in needed:
        if item.get(key) is None:
            problems.append(Problem(parsed.where, f"{name}: {key} is missing"))
    return done


def _choices(wrong: str, known: Any) -> str:
    close = get_close_matches(wrong, list(known), n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(known)}"


# --- writing -----------------------------------------------------------------------------------------------------------


def _write_kinds(
    connection: sa.Connection, items: Sequence[Parsed], now: datetime, report: IngestReport
) -> None:
    for kind in ORDER:
        mine = [item for item in items if item.kind == kind]
        if not mine:
            continue
        rows = _with_parents(connection, kind, mine, now, report)
        report.described(kind, [item.row[KINDS[kind].key] for item in mine])
        keys = ("instrument_id", "name") if kind == "instrument_module" else (KINDS[kind].key,)
        defaults = dict(KINDS[kind].defaults)
        if kind == "raw_data_package":
            defaults["created_at"] = now
        done = store.upsert(connection, kind, keys, rows, now, defaults)
        report.count(kind, done)
        if kind == "raw_data_package":
            _write_package_parts(connection, mine, done.ids, now, report)


def _with_parents(
    connection: sa.Connection, kind: str, items: Sequence[Parsed], now: datetime, report: IngestReport
) -> list[dict[str, Any]]:
    """Rows with the ids of what they refer to; parents that are not there are made from their names."""
    rows = [dict(item.row) for item in items]
    for name, parent in KINDS[kind].references.items():
        wanted = sorted({item.references[name] for item in items if name in item.references})
        ids = _parent_ids(connection, parent, wanted, items, now, report)
        for item, row in zip(items, rows, strict=True):
            if name in item.references:
                row[f"{name}_id"] = ids[item.references[name]]
    return rows


def _parent_ids(
    connection: sa.Connection,
    parent: str,
    names: Sequence[str],
    items: Sequence[Parsed],
    now: datetime,
    report: IngestReport,
) -> dict[str, int]:
    if parent == "instrument_module":
        return _module_ids(connection, names, items, now, report)
    key = KINDS[parent].key
    known = store.find_ids(connection, parent, (key,), [(name,) for name in names])
    missing = [{key: name} for name in names if (name,) not in known]
    if missing:
        done = store.upsert(connection, parent, (key,), missing, now, dict(KINDS[parent].defaults))
        report.count(parent, done)
        report.made_by_name(parent, [row[key] for row in missing])
        known |= done.ids
    return {name: known[(name,)] for name in names}


def _module_ids(
    connection: sa.Connection,
    names: Sequence[str],
    items: Sequence[Parsed],
    now: datetime,
    report: IngestReport,
) -> dict[str, int]:
    """`INSTRUMENT/MODULE`, or a module's bare name where only one instrument has it."""
    pairs = {name: name.split("/", 1) for name in names if "/" in name}
    instruments = _parent_ids(
        connection, "instrument", sorted({p[0] for p in pairs.values()}), items, now, report
    )
    rows = [{"instrument_id": instruments[p[0]], "name": p[1]} for p in pairs.values()]
    done = store.upsert(connection, "instrument_module", ("instrument_id", "name"), rows, now)
    if done.new:
        report.count("instrument_module", done)
    ids = {name: done.ids[(instruments[p[0]], p[1])] for name, p in pairs.items()}
    bare = [name for name in names if "/" not in name]
    known = store.modules_by_name(connection, bare)
    return ids | {name: known[name][0] for name in bare}


def _write_package_parts(
    connection: sa.Connection,
    items: Sequence[Parsed],
    ids: Mapping[store.Key, int],
    now: datetime,
    report: IngestReport,
) -> None:
    """Metadata, files and physical copies of packages."""
    by_name: dict[str, int] = {item.row["name"]: ids[(item.row["name"],)] for item in items}
    metadata = [
        {"raw_data_package_id": by_name[i.row["name"]], "data": i.metadata} for i in items if i.metadata
    ]
    files = [{"raw_data_package_id": by_name[i.row["name"]], **f} for i in items for f in i.files]
    copies = _copy_rows(connection, items, by_name)
    parts: tuple[tuple[str, tuple[str, ...], list[dict[str, Any]]], ...] = (
        ("raw_data_package_metadata", ("raw_data_package_id",), metadata),
        ("raw_data_file", ("raw_data_package_id", "name"), files),
        ("physical_copy", ("raw_data_package_id", "data_location_id", "path"), copies),
    )
    for kind, keys, rows in parts:
        if rows:
            defaults = {"status": "present"} if kind == "physical_copy" else {}
            report.count(kind, store.upsert(connection, kind, keys, rows, now, defaults))


def _copy_rows(
    connection: sa.Connection, items: Sequence[Parsed], by_name: Mapping[str, int]
) -> list[dict[str, Any]]:
    locations = store.location_names(connection)
    return [
        {
            "raw_data_package_id": by_name[item.row["name"]],
            "data_location_id": locations[copy["location"]],
            "path": copy["path"],
        }
        | ({"status": copy["status"]} if copy.get("status") else {})
        for item in items
        for copy in item.copies
    ]
