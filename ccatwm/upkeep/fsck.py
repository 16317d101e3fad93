"""Compares what the ops-db says of files with what lies on disk, both ways. Touches: files (read), the ops-db.

Nothing is changed unless somebody says so: then products that are not what was recorded are written down as missing, so
that what counts is made again, those that are back are counted again, staged packages that are not what was staged leave
the cache, and links lead where they have to.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.integrity import (
    MENDED,
    Difference,
    GoneOutput,
    Kind,
    KnownPackage,
    KnownProduct,
    cache_difference,
    clues_of,
    gather_away,
    gone_outputs,
    is_stray,
    is_stray_in_run,
    latest_difference,
    left_by_program,
    name_published,
    pipelines_missed,
    product_differences,
    products_back,
    products_in_trash,
    run_differences,
    run_places,
    runs_losing,
    runs_without_products,
    set_difference,
    special_entries,
    strange_attempts,
    stray,
    stray_folders,
    trash_missing,
    trash_unknown,
    unknown_attempt,
    unknown_cache_folder,
    unknown_run,
    unknown_set,
    without_found,
)
from ccatwm.core.latest import LatestLink
from ccatwm.core.lineage import TAIL_BYTES, is_cut, write_run_record
from ccatwm.core.model import EntryKind, TreeEntry
from ccatwm.core.names import decode_path, encode_name
from ccatwm.core.outputs import LIST, MAX_RECORD, parse_listing
from ccatwm.core.reconciling import parse_run_directory
from ccatwm.core.run_record import build_record, parse_record
from ccatwm.core.set_records import record_path
from ccatwm.core.staging import CACHE
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import integrity as store
from ccatwm.edges.opsdb.stores import latest, products, publishing, reconciling, run_records
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.integrity import Claimant
from ccatwm.errors import NO_FAULT_OF_A_RUN, CcatwmError, UsageError
from ccatwm.interfaces import NO_PROGRESS, FileWrite, Progress, WorkFiles
from ccatwm.upkeep._estimate import estimate_sub_groups
from ccatwm.upkeep.importing import (
    LARGEST_BYTES,
    MAX_PROBLEMS,
    NO_RUNS,
    RUN_JSON,
    Alike,
    find_copies,
    supersede_alike,
)
from ccatwm.upkeep.in_trash import TRASH, find_held, hash_entries, move_back
from ccatwm.upkeep.run_folders import find_levels, list_attempts, runs_among
from ccatwm.upkeep.set_records import list_recorded, read_recorded, write_record

log = logging.getLogger("ccatwm.upkeep.fsck")
RUNS_AT_ONCE = 200
NO_NUMBER = "of no attempt: it has no number"
PACKAGES_AT_ONCE = 50
LINKS_AT_ONCE = 500
RECORDS = (Kind.RUN_RECORD_MISSING, Kind.RUN_RECORD_DAMAGED)
SET_RECORDS = (Kind.SET_RECORD_MISSING, Kind.SET_RECORD_DAMAGED)


@dataclass(frozen=True)
class Checking:
    """What is compared with what. `full`: bytes are read and hashed, too. `claimant`: who removes what leaves the cache.
    `uid`: of the ops-db."""

    database: Database
    files: WorkFiles
    location: str
    full: bool
    claimant: Claimant
    uid: str
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class FsckReport:
    """What differs; of these `mended` were written down or removed. `alike`: runs that were to make what is back."""

    differences: tuple[Difference, ...]
    mended: frozenset[Difference]
    runs: int
    packages: int
    full: bool
    alike: Alike = NO_RUNS

    @property
    def exit_code(self) -> int:
        return 1 if set(self.differences) - self.mended else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.fsck/1",
            "runs": self.runs,
            "packages": self.packages,
            "full": self.full,
            "fsck": [
                {"kind": d.kind.value, "path": d.path, "what": d.what, "next": d.next, "mended": d in self.mended}
                for d in self.differences
            ],
            **self.alike.to_json(),
        }

    def lines(self) -> list[str]:
        lines = []
        for difference in self.differences:
            mended = difference in self.mended
            lines.append(f"{'mended ' if mended else 'DIFFERS'}  {difference.path}: {difference.what}")
            if not mended:
                lines.append(f"         next: {difference.next}")
        return [*lines, *self.alike.lines(), self._summary()]

    def _summary(self) -> str:
        compared = f"{count_text(self.runs, 'run')} and {count_text(self.packages, 'staged package')} compared"
        how = "" if self.full else " by size; `ccatwm fsck --full` reads every byte"
        if not self.differences:
            return f"{compared}{how}: nothing differs"
        counts = Counter(difference.kind for difference in self.differences)
        told = ", ".join(f"{counts[kind]} {kind.value}" for kind in Kind if counts[kind])
        return f"{compared}{how}: {told}; {len(self.mended)} mended"


def fsck(
    checking: Checking, *, yes: bool, reason: str | None, now: datetime, actor: str, host: str,
    confirm_runs: int = 500, lost: int | None = None,
) -> FsckReport:  # fmt: skip
    """All differences; with `yes` what can be mended is. What is away as a whole is never written down.

    Errors: UsageError for `yes` without a reason; where more runs than `confirm_runs` have lost files, and more than the
    `lost` that somebody said.
    """
    if yes and not reason:
        raise UsageError("what is written down needs a reason", next="ccatwm fsck --yes --reason TEXT")
    differences: list[Difference] = []
    with checking.database.read() as connection:
        total = store.count_completed(connection, checking.location)
    with checking.progress.begin("comparing", total, "runs") as bar:
        for count, found in _products(checking):
            differences += found
            bar.advance(count)
    packages, found = _cache(checking)
    differences += found
    differences += _latest(checking)
    differences += _sets(checking)
    levels = find_levels(checking.files)
    folders = checking.files.list_folders(map(PurePosixPath, runs_among(levels)))
    differences += _strays(checking, levels)
    differences += _strays_below(checking, folders)
    differences += _unknown_folders(checking, folders)
    differences += _trash(checking, [folder / TRASH for folder, names in folders.items() if TRASH.name in names])
    differences = gather_away(differences, _away(checking, pipelines_missed(differences)), checking.files.root())
    in_trash = _found_in_trash(checking, differences)
    differences = _with_sets(checking, [*without_found(differences, in_trash), *in_trash])
    ordered = sorted(differences, key=lambda d: (list(Kind).index(d.kind), d.path))
    if yes:
        _confirm(checking, ordered, confirm_runs if lost is None else max(lost, confirm_runs), confirm_runs)
    mended, alike = _mend(checking, ordered, reason or "", now, actor, host) if yes else ([], NO_RUNS)
    return FsckReport(tuple(ordered), frozenset(mended), total, packages, checking.full, alike)


def _with_sets(checking: Checking, differences: list[Difference]) -> list[Difference]:
    if not runs_losing(differences):
        return differences
    with checking.database.read() as connection:
        return name_published(differences, publishing.names_by_product(connection))


def _away(checking: Checking, pipelines: Sequence[str]) -> list[str]:
    """Those that have no folder, or none in it: an empty place where something is mounted; with them an empty cache."""
    there = checking.files.list_folders([*map(PurePosixPath, pipelines), CACHE])
    empty = {folder.parts[0] for folder, names in there.items() if all(name.startswith(".") for name in names)}
    return sorted(empty) if empty - {CACHE.parts[0]} else []


def _confirm(checking: Checking, differences: Sequence[Difference], may_be: int, confirm_runs: int) -> None:
    """Errors: UsageError where more runs have lost files than `may_be`."""
    runs = runs_losing(differences)
    if runs <= may_be:
        return
    with checking.database.read() as connection:
        cost = estimate_sub_groups(connection, {d.sub_group for d in differences if d.sub_group is not None}).cost
    raise UsageError(
        f"products of {runs} runs would be written down as missing, and those that count made again: at most as many runs, "
        f"{cost}, more than CONFIRM_RUNS ({confirm_runs})",
        next="look with `ccatwm fsck` whether all is mounted and restored as it was; where the files are lost, add "
        f"--lost {runs}",
    )


# --- what the ops-db says -------------------------------------------------------------------------------------------------


def _products(checking: Checking) -> Iterator[tuple[int, list[Difference]]]:
    """(how many runs, what differs) page by page."""
    after = 0
    while True:
        with checking.database.read() as connection:
            page = store.completed_runs(connection, checking.location, after, RUNS_AT_ONCE)
        if not page:
            return
        yield len(page), _page(checking, page)
        after = page[-1].id


def _page(checking: Checking, page: Sequence[store.CompletedRun]) -> list[Difference]:
    """What differs of some runs. What was removed while they were looked at is asked of the ops-db once more."""
    ids = [run.id for run in page]
    with checking.database.read() as connection:
        present = store.present_products(connection, ids)
        absent = store.runs_with_absent_products(connection, ids)
        missing = store.missing_products(connection, absent)
    trees = checking.files.list_trees(PurePosixPath(run.output) for run in page)
    beside = [PurePosixPath(run.directory) / name for run in page for name in ("run.json", "output")]
    there = checking.files.exists(beside)
    links = checking.files.read_links(PurePosixPath(run.directory) / "output" for run in page)
    damaged = _damaged_records(checking, [run.directory for run in page if run.id not in absent])
    outputs = [PurePosixPath(run.output) for run in page if present[run.id] or missing.get(run.id)]
    left = _left(checking, {output: trees[output] for output in outputs})
    found: list[Difference] = []
    for run in page:
        entries = trees[PurePosixPath(run.output)]
        gone = missing.get(run.id, [])
        if present[run.id] or gone:
            hashes = _hashes(checking, PurePosixPath(run.output), entries) if present[run.id] else None
            differing = product_differences(
                present[run.id], entries, run.output, hashes, root=checking.files.root(),
                left=left.get(PurePosixPath(run.output), ()), missing=gone,
            )  # fmt: skip
            found += differing
        if run.id not in absent:
            names = {name: there[PurePosixPath(run.directory) / name] for name in ("run.json", "output")}
            link = links[PurePosixPath(run.directory) / "output"]
            found += run_differences(run.id, run.directory, run.output, names, link, damaged.get(run.directory))
        elif gone:
            found += _back(checking, gone, PurePosixPath(run.output), entries)
    return _still_so(checking, found, ids) if found else found


def _damaged_records(checking: Checking, directories: Sequence[str]) -> dict[str, str]:
    """Run directories whose record is not whole, with what is wrong: its end is looked at, and all of it where bytes are.

    One that is not there is told here, too.
    """
    paths = {directory: PurePosixPath(directory) / RUN_JSON for directory in directories}
    tails = checking.files.read_tails(paths.values(), max_bytes=TAIL_BYTES)
    found = {}
    for directory, path in paths.items():
        tail = tails[path]
        if tail is None:
            found[directory] = "it is no file"
        elif is_cut(tail):
            found[directory] = "it is cut" if tail else "it is empty"
        elif checking.full:
            content = checking.files.read_files([path], max_bytes=LARGEST_BYTES)[path] or b""
            _, problems = parse_record(content, directory, uid=checking.uid)
            if problems:
                found[directory] = "; ".join(problems[:MAX_PROBLEMS])
    return found


def _left(
    checking: Checking, trees: Mapping[PurePosixPath, Sequence[TreeEntry] | None]
) -> dict[PurePosixPath, set[PurePosixPath]]:
    """Of outputs that hold links or special files: which of them their programs had left, by the records of their jobs."""
    found = {}
    for output, entries in trees.items():
        if special := special_entries(entries):
            record = output.parent / "job" / LIST
            listed = checking.files.read_files([record], max_bytes=MAX_RECORD)[record]
            with suppress(ValueError):  # cut, or longer than anybody writes: as good as none
                found[output] = left_by_program(special, parse_listing(listed or b""))
    return found


def _back(
    checking: Checking, missing: Sequence[KnownProduct], output: PurePosixPath, entries: Sequence[TreeEntry] | None
) -> list[Difference]:
    """Products recorded as missing that are there again: their bytes are read, whatever is asked for."""
    sized = {difference.row for difference in products_back(missing, entries, None)}
    likely = [product for product in missing if product.id in sized]
    paths = {decode_path(product.path) for product in likely}
    wanted = [e for e in entries or () if e.path in paths or paths.intersection(e.path.parents)]
    return products_back(likely, entries, hash_entries(checking.files, output, wanted)) if likely else []


def _still_so(checking: Checking, found: Sequence[Difference], ids: Sequence[int]) -> list[Difference]:
    with checking.database.read() as connection:
        present = {p.id for some in store.present_products(connection, ids).values() for p in some}
        missing = {p.id for some in store.missing_products(connection, ids).values() for p in some}
    still = {Kind.PRODUCT_MISSING: present, Kind.PRODUCT_CHANGED: present, Kind.PRODUCT_BACK: missing}
    return [d for d in found if d.kind not in still or d.row in still[d.kind]]


def _hashes(
    checking: Checking, folder: PurePosixPath, entries: Sequence[TreeEntry] | None
) -> dict[PurePosixPath, str] | None:
    """sha256 (hex) by path below `folder`, where bytes are compared."""
    return hash_entries(checking.files, folder, entries or ()) if checking.full else None


def _cache(checking: Checking) -> tuple[int, list[Difference]]:
    with checking.database.read() as connection:
        packages = list(store.staged_packages(connection, checking.location))
    found: list[Difference] = []
    with checking.progress.begin("comparing", len(packages), "packages") as bar:
        for start in range(0, len(packages), PACKAGES_AT_ONCE):
            some = packages[start : start + PACKAGES_AT_ONCE]
            found += _cache_page(checking, some)
            bar.advance(len(some))
    return len(packages), found + _unknown_cache(checking)


def _cache_page(checking: Checking, some: Sequence[KnownPackage]) -> list[Difference]:
    trees = checking.files.list_trees(PurePosixPath(package.directory) for package in some)
    found = []
    for package in some:
        folder = PurePosixPath(package.directory)
        difference = cache_difference(package, trees[folder], _hashes(checking, folder, trees[folder]))
        if difference is not None:
            found.append(difference)
    with checking.database.read() as connection:
        known = store.known_cache_folders(connection, checking.location)
    return [difference for difference in found if difference.path in known]


def _unknown_cache(checking: Checking) -> list[Difference]:
    """Folders first: what is made meanwhile was claimed before."""
    names = checking.files.list_folders([CACHE])[CACHE]
    with checking.database.read() as connection:
        known = store.known_cache_folders(connection, checking.location)
    folders = [str(CACHE / name) for name in names if not name.startswith(".")]
    return [unknown_cache_folder(folder) for folder in folders if folder not in known]


# --- stable paths ------------------------------------------------------------------------------------------------------


def _latest(checking: Checking) -> list[Difference]:
    """Links `latest` that lead elsewhere. Of those that are wrong the ops-db is asked once more."""
    found: list[Difference] = []
    after = 0
    while page := _links(checking, after):
        after = page[-1].sub_group_id
        paths = [link.path for link in page]
        there, targets = checking.files.exists(paths), checking.files.read_links(paths)
        wrong = {link: latest_difference(link, targets[link.path], there=there[link.path]) for link in page}
        if any(wrong.values()):
            still = set(_links(checking, page[0].sub_group_id - 1))
            found += [difference for link, difference in wrong.items() if difference is not None and link in still]
    return found


def _links(checking: Checking, after: int) -> list[LatestLink]:
    with checking.database.read() as connection:
        return latest.list_links(connection, checking.location, after, LINKS_AT_ONCE)


# --- published sets --------------------------------------------------------------------------------------------------


def _sets(checking: Checking) -> list[Difference]:
    """Files first: a record is written when its row is committed. A set of just now may have none yet."""
    names = list_recorded(checking.files)
    with checking.database.read() as connection:
        sets = {row["name"]: row for row in publishing.list_sets(connection)}
    recorded = read_recorded(checking.files, sets, checking.uid)
    root = checking.files.root()
    found = [set_difference(row, recorded.get(name), root) for name, row in sets.items()]
    return [d for d in found if d is not None] + [unknown_set(name) for name in names if name not in sets]


def _write_set_records(checking: Checking, wrong: Sequence[Difference]) -> list[Difference]:
    """Records of sets made again from their rows."""
    paths = {d.path: d for d in wrong}
    if not paths:
        return []
    with checking.database.read() as connection:
        rows = [row for row in publishing.list_sets(connection) if str(record_path(row["name"])) in paths]
    written = []
    for row in rows:
        path = str(record_path(row["name"]))
        try:
            write_record(checking.files, row, checking.uid)
        except NO_FAULT_OF_A_RUN:
            raise
        except CcatwmError as error:
            log.warning("%s is not made again: %s", path, error.message)
            continue
        written.append(paths[path])
    return written


# --- what lies on disk ----------------------------------------------------------------------------------------------------


def _unknown_folders(checking: Checking, folders: Mapping[PurePosixPath, Sequence[str]]) -> list[Difference]:
    """Runs and attempts that the ops-db does not know. `folders`: names of those in each run directory, looked at first:
    rows were committed before them.

    What a person has let be after a restore is no difference any more.
    """
    attempts = list_attempts(folders)
    with checking.database.read() as connection:
        known = reconciling.known_runs(connection, {parse_run_directory(folder) or 0 for folder in attempts})
        let_be = reconciling.told_before(connection)
    found: list[Difference] = []
    strange = []
    for folder, numbers in attempts.items():
        if folder in let_be:
            continue
        run = known.get(parse_run_directory(folder) or 0)
        if run is None or run.directory != folder:
            strange.append(folder)
        else:
            found += [unknown_attempt(folder, run.id, number) for number in numbers if number > run.attempt]
    records = checking.files.exists(map(_record, strange))
    copies = find_copies(checking.files, known, [f for f in strange if records[_record(f)]], checking.uid)
    root = checking.files.root()
    found += [unknown_run(f, has_record=records[_record(f)], copy=copies.get(f), root=root) for f in strange]
    return found


def _record(folder: str) -> PurePosixPath:
    return PurePosixPath(folder) / RUN_JSON


def _strays(checking: Checking, levels: Sequence[Sequence[PurePosixPath]]) -> list[Difference]:
    """What is no step, sub-group or run among them. Folders first: rows were committed before those of runs were made.
    Empty folders are no difference."""
    files = checking.files
    with checking.database.read() as connection:
        places = run_places(levels, store.sub_group_folders(connection))
    folders = stray_folders(levels, places)
    inner = files.list_folders(folders)
    between = [path for level in levels[:-1] for path in level if path in places]
    others = files.list_others([*between, *folders])
    lying = [folder / name for folder in between for name in others[folder] if is_stray(folder / name)]
    links = files.read_links(lying)
    root = files.root()
    found = [stray(path, EntryKind.DIRECTORY, None, root) for path in folders if inner[path] or others[path]]
    return found + [stray(path, EntryKind.FILE, links[path], root) for path in lying]


def _strays_below(checking: Checking, folders: Mapping[PurePosixPath, Sequence[str]]) -> list[Difference]:
    """Files and links in run directories and attempts, and folders that only look like attempts; files in the cache and the
    trash, which hold folders. Below these nothing is looked at. `folders`: names of those in each run directory."""
    files = checking.files
    attempts = [PurePosixPath(run) / f"attempt-{n}" for run, numbers in list_attempts(folders).items() for n in numbers]
    others = files.list_others([*folders, *attempts])
    lying = [path / name for path, names in others.items() for name in names if is_stray_in_run(path / name)]
    others = files.list_others([CACHE.parent, CACHE, TRASH])
    ours = [path / name for path, names in others.items() for name in names if not name.startswith(".")]
    links, root = files.read_links([*lying, *ours]), files.root()
    found = [stray(path, EntryKind.FILE, links[path], root, "of no run and no attempt") for path in lying]
    found += [stray(path, EntryKind.FILE, links[path], root, "none of ours") for path in ours]
    return found + [stray(path, EntryKind.DIRECTORY, None, root, NO_NUMBER) for path in strange_attempts(folders)]


def _trash(checking: Checking, beside: Sequence[PurePosixPath]) -> list[Difference]:
    """Folders first: what is taken away meanwhile was written down before. `beside`: the trash of runs of their own."""
    lying = checking.files.list_folders([TRASH, *beside])
    folders = [str(trash / name) for trash, names in lying.items() for name in names]
    with checking.database.read() as connection:
        expected, known = store.in_trash(connection, checking.location), store.known_trash(connection)
    there = checking.files.exists(PurePosixPath(path) for row in expected for path in (row.path, row.trash_path))
    missing = [row for row in expected if not there[PurePosixPath(row.trash_path)]]
    with checking.database.read() as connection:  # emptied or undone while it was looked for
        still = {row.trash_path for row in store.in_trash(connection, checking.location)} if missing else set()
    found = [
        trash_missing(row.trash_path, row.run_id, row.kind, row.path if there[PurePosixPath(row.path)] else None)
        for row in missing
        if row.trash_path in still
    ]
    return found + [trash_unknown(encode_name(folder)) for folder in folders if folder not in known]


def _found_in_trash(checking: Checking, differences: Sequence[Difference]) -> list[Difference]:
    """Folders of the trash that hold all products of a run of which none is at its place: their bytes are read."""
    unknown = [d.path for d in differences if d.kind is Kind.TRASH_UNKNOWN]
    gone = _gone_outputs(checking, differences) if unknown else {}
    clues: dict[tuple[PurePosixPath, int | None], set[int]] = {}
    for output in gone.values():
        clues.setdefault(output.clue, set()).add(output.run_id)
    found = []
    for start in range(0, len(unknown) if gone else 0, PACKAGES_AT_ONCE):
        some = {path: decode_path(path) for path in unknown[start : start + PACKAGES_AT_ONCE]}
        trees = checking.files.list_trees(some.values())
        for path, folder in some.items():
            entries = trees[folder] or ()
            likely = [gone[run] for clue in clues.keys() & clues_of(entries) for run in clues[clue] if run in gone]
            if (held := find_held(checking.files, folder, entries, likely)) is not None:
                found.append(products_in_trash(path, gone.pop(held.run_id), checking.files.root()))
    return found


def _gone_outputs(checking: Checking, differences: Sequence[Difference]) -> dict[int, GoneOutput]:
    """Outputs that a rename would bring back: nothing is at their place, and that place is there."""
    with checking.database.read() as connection:
        runs = runs_without_products(differences) | store.runs_with_missing_products(connection, checking.location)
        present, missing = store.present_products(connection, runs), store.missing_products(connection, runs)
    gone = gone_outputs(differences, present, missing)
    there = checking.files.exists(path for o in gone.values() for path in (o.output, o.output.parent))
    return {run: o for run, o in gone.items() if there[o.output.parent] and not there[o.output]}


# --- mending ---------------------------------------------------------------------------------------------------------


def _mend(
    checking: Checking, differences: Sequence[Difference], reason: str, now: datetime, actor: str, host: str
) -> tuple[list[Difference], Alike]:
    """Rows first: no row speaks of a file that is not there."""
    mendable = [difference for difference in differences if difference.kind in MENDED]
    if not mendable:
        return [], NO_RUNS
    lost = [d for d in mendable if d.kind in (Kind.PRODUCT_MISSING, Kind.PRODUCT_CHANGED)]
    linked = _mend_outputs(checking, [d for d in mendable if d.kind is Kind.OUTPUT_LINK_WRONG])
    records = _write_records(checking, [d for d in mendable if d.kind in RECORDS])
    records += _write_set_records(checking, [d for d in mendable if d.kind in SET_RECORDS])
    moved = _move_back(checking, [d for d in mendable if d.kind is Kind.PRODUCTS_IN_TRASH])
    stable = [d for d in mendable if d.kind is Kind.LATEST_LINK_WRONG and d.sub_group is not None]
    claimant = checking.claimant
    with checking.database.write() as connection:
        groups = {d.sub_group for d in lost if d.sub_group is not None}
        store.record_products_missing(connection, [d.row for d in lost if d.row is not None], groups, now)
        back = _count_again(connection, [d for d in mendable if d.kind is Kind.PRODUCT_BACK], now)
        latest.mark_link_due(connection, [d.sub_group for d in stable if d.sub_group is not None])
        _count_moved(connection, moved, now)
        alike = _supersede(connection, [*back, *moved], now, actor)
        leaving = _claim(connection, checking.location, mendable, claimant)
        mended = [*lost, *back, *moved, *records, *linked, *stable]
        record_change(
            connection, at=now, actor=actor, host=host, act="fsck", target="files", reason=reason,
            text="\n".join([
                *(f"{d.path}: {d.what}" for d in (*mended, *leaving)),
                *(f"run {run.id}, which was to make the same, is superseded" for run in alike.superseded),
            ]),
        )  # fmt: skip
    if leaving:
        checking.files.remove_trees(decode_path(d.path) for d in leaving)
        with checking.database.write() as connection:
            store.record_removed(connection, checking.location, [d.path for d in leaving], claimant)
    return mended + leaving, alike


def _mend_outputs(checking: Checking, wrong: Sequence[Difference]) -> list[Difference]:
    """Links to the output that counts, made again; nothing but a link gives way."""
    in_the_way = checking.files.switch_links([(decode_path(d.path), d.target) for d in wrong])
    return [d for d in wrong if decode_path(d.path) not in in_the_way]


def _write_records(checking: Checking, wrong: Sequence[Difference]) -> list[Difference]:
    """Records made again from the rows, one by one: a run may have very many products. What lies in their way stays."""
    written = []
    for difference in wrong:
        run_id = difference.row or 0
        with checking.database.read() as connection:
            record = run_records.read_records(connection, [run_id], checking.uid)[run_id]
            rows = products.recorded_products(connection, run_id)
        path = PurePosixPath(record.directory) / RUN_JSON
        try:
            checking.files.write_files([FileWrite(path, write_run_record(build_record(record), rows))])
        except NO_FAULT_OF_A_RUN:
            raise
        except CcatwmError as error:
            log.warning("%s is not made again: %s", difference.path, error.message)
            continue
        written.append(difference)
    return written


def _move_back(checking: Checking, found: Sequence[Difference]) -> list[Difference]:
    """From the trash to where the ops-db says that they are; what cannot be moved stays a difference."""
    return [d for d in found if move_back(checking.files, decode_path(d.path), PurePosixPath(d.target or ""))]


def _count_moved(connection: sa.Connection, moved: Sequence[Difference], now: datetime) -> None:
    """What was moved back counts, also where it had been recorded as missing."""
    missing = store.missing_products(connection, [d.row for d in moved if d.row is not None])
    groups = {d.sub_group for d in moved if d.sub_group is not None}
    store.record_products_back(connection, [product.id for some in missing.values() for product in some], groups, now)


def _count_again(connection: sa.Connection, back: Sequence[Difference], now: datetime) -> list[Difference]:
    groups = {d.sub_group for d in back if d.sub_group is not None}
    done = store.record_products_back(connection, [d.row for d in back if d.row is not None], groups, now)
    return [d for d in back if d.row in done]


def _supersede(connection: sa.Connection, back: Sequence[Difference], now: datetime, actor: str) -> Alike:
    """What is back as a whole is not made again."""
    runs = {d.row if d.kind is Kind.PRODUCTS_IN_TRASH else parse_run_directory(d.run_directory) for d in back}
    ids = {run for run in runs if run is not None}
    whole = sorted(ids - store.runs_with_absent_products(connection, ids))
    return supersede_alike(connection, whole, "the products that it was to make are back", now=now, actor=actor)


def _claim(
    connection: sa.Connection, location: str, mendable: Sequence[Difference], claimant: Claimant
) -> list[Difference]:
    """What is taken out of the cache: nobody links it, or brings it again, until that is done."""
    damaged = {d.row: d for d in mendable if d.kind is Kind.CACHE_DAMAGED and d.row is not None}
    mine = store.claim_damaged(connection, list(damaged), claimant)
    unknown = [
        d
        for d in mendable
        if d.kind is Kind.CACHE_UNKNOWN and store.claim_unknown(connection, location, d.path, claimant)
    ]
    return [damaged[row] for row in sorted(mine)] + unknown
