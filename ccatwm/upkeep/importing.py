"""Makes the rows of completed runs again from the `run.json` in their directories, where the ops-db does not have them, and
then those of published sets from their records.

Touches: the ops-db; files below the base directory (read). What the ops-db has is never changed to what a file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.integrity import GoneOutput, KnownProduct
from ccatwm.core.reconciling import Copy, KnownRun, parse_run_directory
from ccatwm.core.run_record import RunRecord, list_absent, parse_record, recorded_directory
from ccatwm.core.states import WITHOUT_JOB, RunStatus
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import reconciling, run_records, runs
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.run_records import OpenRun
from ccatwm.errors import ConflictError
from ccatwm.interfaces import WorkFiles
from ccatwm.upkeep.importing_sets import ACT, ImportedSets, import_sets
from ccatwm.upkeep.in_trash import TrashSearch, hash_entries
from ccatwm.upkeep.run_folders import find_run_folders

RUN_JSON = "run.json"
LARGEST_BYTES = 1 << 30
TOGETHER = 100  # records that are read at once
MAX_PROBLEMS = 5


@dataclass(frozen=True)
class Refused:
    """A run directory whose rows could not be made again, and why."""

    directory: str
    why: str
    next: str


@dataclass(frozen=True)
class Alike:
    """Runs that were to make what is there: those that are `superseded`, and those that go on: they have a job,
    or a person wants them."""

    superseded: tuple[OpenRun, ...] = ()
    going_on: tuple[OpenRun, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "superseded": [run.id for run in self.superseded],
            "going_on": [{"run": run.id, "status": run.status.value} for run in self.going_on],
        }

    def lines(self) -> list[str]:
        lines = [f"          run {run.id}, which was to make the same, is superseded" for run in self.superseded]
        for run in self.going_on:
            kept = f"; {run.kept}" if run.kept is not None else ""
            lines.append(f"          run {run.id} makes the same, and is {run.status.value}{kept}")
            lines.append(f"          next: `ccatwm cancel {run.id} --reason TEXT` ends it, or let it go on")
        return lines


NO_RUNS = Alike()


@dataclass(frozen=True)
class Written:
    """What came of the rows of a run: whether it `counts`, and the runs that were to make the same."""

    counts: bool
    alike: Alike


@dataclass(frozen=True)
class Imported:
    """A run that has rows again. `absent`: products whose files are not there as recorded, by path. `from_trash`: the
    folder from which its output was brought back."""

    run_id: int
    directory: str
    products: int
    written: Written
    absent: Mapping[str, str]
    from_trash: str | None = None

    @property
    def counts(self) -> bool:
        return self.written.counts

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run_id, "directory": self.directory, "products": self.products, "counts": self.counts,
            "absent": [{"path": path, "why": why} for path, why in self.absent.items()],
            "from_trash": self.from_trash,
            **self.written.alike.to_json(),
        }  # fmt: skip

    def lines(self) -> list[str]:
        counts = ", which counts" if self.counts else ""
        lines = [f"imported  {self.directory} ({count_text(self.products, 'product')}){counts}"]
        if self.from_trash is not None:
            lines.append(f"          its output was in the trash, and was brought back from {self.from_trash}")
        lines += [f"          {path} {why}" for path, why in self.absent.items()]
        return [*lines, *self.written.alike.lines()]


@dataclass(frozen=True)
class LeftOut:
    """A completed run that has rows of another state: what the ops-db has is not changed to what a file says.
    `reconciles`: its attempt is adopted right after this, where that is needed."""

    directory: str
    run: KnownRun
    reconciles: bool = False

    @property
    def why(self) -> str:
        return f"it has completed since the backup; the ops-db knows run {self.run.id} as {self.run.status.value}"

    @property
    def next(self) -> str:
        if self.run.is_open and self.reconciles:
            return "`ccatwm cycle` collects it"
        if self.run.is_open:
            return "`ccatwm doctor --reconcile` adopts its attempt where it is newer, then `ccatwm cycle` collects it"
        return f"`ccatwm retry {self.run.id}` has it made again where it is wanted; the files stay as they are"

    def to_json(self) -> dict[str, Any]:
        return {"directory": self.directory, "run": self.run.id, "why": self.why, "next": self.next}

    def lines(self) -> list[str]:
        return [f"left out  {self.directory}: {self.why}", f"          next: {self.next}"]


@dataclass
class ImportReport:
    """What was found. `known`: directories whose runs the ops-db has, where they were named."""

    imported: list[Imported] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    sets: ImportedSets = field(default_factory=ImportedSets)

    @property
    def exit_code(self) -> int:
        return 1 if self.refused or self.sets.open else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.import/1",
            "imported": [item.to_json() for item in self.imported],
            "refused": [{"directory": r.directory, "why": r.why, "next": r.next} for r in self.refused],
            "left_out": [item.to_json() for item in self.left_out],
            "known": self.known,
            "sets": self.sets.to_json(),
        }

    def lines(self) -> list[str]:
        lines = [line for item in sorted(self.imported, key=lambda item: item.directory) for line in item.lines()]
        lines += [line for item in self.left_out for line in item.lines()]
        for refused in self.refused:
            lines += [f"REFUSED   {refused.directory}: {refused.why}", f"          next: {refused.next}"]
        lines += [f"known     {directory}" for directory in self.known]
        lines += self.sets.lines()
        sets = f", {count_text(len(self.sets.imported), 'published set')}" if self.sets.imported else ""
        return [*lines, f"{count_text(len(self.imported), 'run')}{sets} imported"]


@dataclass(frozen=True)
class Importing:
    """Who imports what. `directories` are relative to the base directory, none: all that are there. `full`: checksums of
    all products, else their sizes. `reconciles`: it is the first part of `doctor --reconcile`."""

    uid: str
    now: datetime
    actor: str
    host: str
    directories: tuple[str, ...] = ()
    full: bool = False
    reason: str | None = None
    reconciles: bool = False


def import_runs(database: Database, files: WorkFiles, asked: Importing) -> ImportReport:
    """Rows of every completed run that the ops-db does not know, each run in a transaction of its own, upstream first; of
    published sets then, unless directories are named."""
    report = ImportReport()
    folders = sorted(asked.directories or find_run_folders(files), key=lambda folder: parse_run_directory(folder) or 0)
    search = TrashSearch(database, files)
    for record in _read_records(database, files, folders, asked, report):
        _import_one(database, files, record, asked, report, search)
    if not asked.directories:
        report.sets = import_sets(database, files, asked)
    return report


def find_copies(
    files: WorkFiles, known: Mapping[int, KnownRun], folders: Iterable[str], uid: str
) -> dict[str, Copy]:
    """Those of run directories that are copies of runs which the ops-db `uid` knows elsewhere, as their records say."""
    elsewhere = [
        (folder, run)
        for folder in folders
        if (run := known.get(parse_run_directory(folder) or 0)) is not None and run.directory != folder
    ]
    found = {}
    for start in range(0, len(elsewhere), TOGETHER):
        some = elsewhere[start : start + TOGETHER]
        content = files.read_files([PurePosixPath(f) / RUN_JSON for f, _ in some], max_bytes=LARGEST_BYTES)
        there = files.exists(PurePosixPath(run.directory) for _, run in some)
        for folder, run in some:
            record = content[PurePosixPath(folder) / RUN_JSON] or b""
            if recorded_directory(record, uid=uid) == run.directory:
                found[folder] = Copy(folder, run.id, run.directory, there[PurePosixPath(run.directory)])
    return found


def _read_records(
    database: Database, files: WorkFiles, folders: Sequence[str], asked: Importing, report: ImportReport
) -> Iterator[RunRecord]:
    """Whole records of runs that are not known, by their ids, which upstream runs have smaller ones of."""
    for start in range(0, len(folders), TOGETHER):
        chunk = folders[start : start + TOGETHER]
        ids = {folder: parse_run_directory(folder) for folder in chunk}
        with database.read() as connection:
            known = reconciling.known_runs(connection, {n for n in ids.values() if n is not None})
        new = [folder for folder in chunk if ids[folder] not in known or known[ids[folder] or 0].directory != folder]
        there = [known[ids[folder] or 0] for folder in chunk if folder not in new]
        report.left_out += _left_out(files, there, reconciles=asked.reconciles)
        if asked.directories:
            report.known += [run.directory for run in there if run.status is RunStatus.COMPLETED]
        copies = find_copies(files, known, new, asked.uid)
        report.refused += [Refused(f, copy.what, copy.mend(files.root())) for f, copy in copies.items()]
        new = [folder for folder in new if folder not in copies]
        content = files.read_files([PurePosixPath(f) / RUN_JSON for f in new], max_bytes=LARGEST_BYTES) if new else {}
        for folder in new:
            record = _parse(folder, content[PurePosixPath(folder) / RUN_JSON], asked, report)
            if record is not None:
                yield record


def _left_out(files: WorkFiles, known: Iterable[KnownRun], *, reconciles: bool) -> list[LeftOut]:
    """Of runs that the ops-db has those that are completed on disk alone."""
    records = {PurePosixPath(run.directory) / RUN_JSON: run for run in known if run.status is not RunStatus.COMPLETED}
    there = files.exists(records) if records else {}
    return [LeftOut(run.directory, run, reconciles) for path, run in records.items() if there[path]]


def _parse(folder: str, content: bytes | None, asked: Importing, report: ImportReport) -> RunRecord | None:
    if content is None:  # it never ended well: there is nothing that could be imported
        if asked.directories:
            report.refused.append(Refused(folder, f"there is no {RUN_JSON}: only completed runs have one",
                                          "name the directories of completed runs"))  # fmt: skip
        return None
    record, problems = parse_record(content, folder, uid=asked.uid)
    if problems:
        more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
        why = f"{RUN_JSON} is damaged: {'; '.join(problems[:MAX_PROBLEMS])}{more}"
        report.refused.append(Refused(folder, why, "bring the file back from a backup of the base directory"))
    return record


def _import_one(
    database: Database, files: WorkFiles, record: RunRecord, asked: Importing, report: ImportReport, search: TrashSearch
) -> None:
    absent = _find_absent(files, record, full=asked.full)  # before a row says that they are there
    from_trash = search.bring_back(_as_gone(record)) if absent and len(absent) == len(record.products) else None
    if from_trash is not None:
        absent = {}
    try:
        written = _write(database, record, absent, asked, report)
    except ConflictError as error:  # a record that contradicts itself is no reason not to import others
        next = "compare its run.json with what the ops-db has; the files stay as they are"
        report.refused.append(Refused(record.directory, error.message, next))
        return
    if written is None:
        return
    names = {row["id"]: row["path"] for row in record.products}
    gone = {names[number]: why for number, why in absent.items()}
    brought = None if from_trash is None else str(from_trash)
    report.imported.append(Imported(record.id, record.directory, len(record.products), written, gone, brought))


def _as_gone(record: RunRecord) -> GoneOutput:
    """Its output, as something that is looked for; its sub-group may have no number yet."""
    names = ("path", "full_path", "is_directory", "size_bytes", "file_count", "sha256")
    products = (KnownProduct(p["id"], record.id, 0, *(p[name] for name in names)) for p in record.products)
    return GoneOutput(record.id, 0, PurePosixPath(record.run["output_directory"]), tuple(products), recorded=False)


def _write(
    database: Database, record: RunRecord, absent: Mapping[int, str], asked: Importing, report: ImportReport
) -> Written | None:
    """None where the run was refused."""
    with database.write() as connection:
        place = run_records.find_place(connection, record)
        if place is None:
            report.refused.append(_undefined(record))
            return None
        if conflicts := run_records.list_conflicts(connection, record):
            why, next = ("; ".join(dict.fromkeys(texts)) for texts in zip(*conflicts, strict=True))
            report.refused.append(Refused(record.directory, why, next))
            return None
        counts = run_records.insert_record(connection, record, place, absent, now=asked.now, actor=asked.actor)
        why = f"run {record.id}, which was imported, has made the same"
        whole = [] if absent else [record.id]
        alike = supersede_alike(connection, whole, why, now=asked.now, actor=asked.actor)
        record_change(
            connection, at=asked.now, actor=asked.actor, host=asked.host, act=ACT, target=f"run {record.id}",
            reason=asked.reason, text=None,
            details={"directory": record.directory, "superseded": [run.id for run in alike.superseded]},
        )  # fmt: skip
    return Written(counts, alike)


def supersede_alike(connection: sa.Connection, whole: Sequence[int], why: str, *, now: datetime, actor: str) -> Alike:
    """Of runs that are to make what these `whole` ones have made, those of which nothing is handed over are not made.
    What a person holds, or has forced all the same, is left to that person."""
    alike = [other for some in run_records.list_open_alike(connection, whole).values() for other in some]
    superseded = tuple(
        run
        for run in alike
        if run.status in WITHOUT_JOB
        and run.kept is None
        and runs.supersede(connection, run.id, why, expected=run.status, now=now, actor=actor)
    )
    return Alike(superseded, tuple(run for run in alike if run not in superseded))


def _undefined(record: RunRecord) -> Refused:
    name = f"{record.run['pipeline_name']}/{record.run['step_name']}"
    next = "`ccatwm apply` the file that defines it, then this command again"
    return Refused(record.directory, f"{name} is not defined any more", next)


def _find_absent(files: WorkFiles, record: RunRecord, *, full: bool) -> dict[int, str]:
    """By number, with why."""
    output = PurePosixPath(record.run["output_directory"])
    entries = files.list_tree(output)
    hashes = hash_entries(files, output, entries or ()) if full else None
    return list_absent(record.products, entries, hashes)
