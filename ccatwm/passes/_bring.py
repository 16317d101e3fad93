"""Brings raw data packages into the shared cache. Touches: the ops-db, storage, the cache.

`receive` is done side by side and touches files only: all that is said to the ops-db is said by the pass itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from ccatwm.core.cache import NOTHING, Amount
from ccatwm.core.model import EntryKind, Run, RunInput
from ccatwm.core.staging import cache_directory, copy_order
from ccatwm.core.wording import count_text, size_text
from ccatwm.edges.opsdb.stores import runs, staged
from ccatwm.edges.storage.receiving import bring_package, finding_of
from ccatwm.errors import CcatwmError, NoGoodCopyError, StoppedError
from ccatwm.interfaces import Bar, Brought, Clock, PackageCopy, PackageOrder, Received, WorkFiles
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassItem, location, this_process
from ccatwm.passes._request import Requests
from ccatwm.passes._room import CLAIM_HOURS, claimant_is_gone

Members = Mapping[str, tuple[int, str | None]]


IN_MEMORY = 16 << 20  # bytes of a package that were read and may not be written yet
NOTE_SECONDS = 0.2


class Tally:
    """What was brought so far and how fast, for whoever watches; told by all that are read side by side."""

    def __init__(self, bar: Bar, clock: Clock) -> None:
        self.bar = bar
        self._clock = clock
        self._lock = Lock()
        self._begun = self._noted = clock.monotonic()
        self._packages = self._bytes = 0

    def read(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            if self._clock.monotonic() - self._noted >= NOTE_SECONDS:
                self._note()

    def add_package(self) -> None:
        with self._lock:
            self._packages += 1
            self._note()

    def _note(self) -> None:
        """`3 packages, 1.2 GB, 210.0 MB/s`."""
        self._noted = self._clock.monotonic()
        seconds = self._noted - self._begun
        speed = f", {size_text(self._bytes / seconds)}/s" if seconds > 0 else ""
        self.bar.note(f"{count_text(self._packages, 'package')}, {size_text(self._bytes)}{speed}")


# --- what is there --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """Packages of a run: `missing` are to be brought; `whole` (files, bytes) of each folder that is there.

    `lost` says of which something was there and is not what was staged any more.
    """

    missing: list[RunInput]
    whole: dict[PurePosixPath, tuple[int, int]]
    lost: dict[PurePosixPath, str] = field(default_factory=dict)
    rows: Mapping[str, Any] = field(default_factory=dict)


    def of(self, folders: Mapping[PurePosixPath, RunInput]) -> Looked:
        """As far as it is about these packages, by their folders."""
        whole = {folder: self.whole[folder] for folder in folders if folder in self.whole}
        lost = {folder: self.lost[folder] for folder in folders if folder in self.lost}
        return Looked([p for folder, p in folders.items() if folder not in whole], whole, lost, self.rows)


def directory_of(package: RunInput) -> PurePosixPath:
    return cache_directory(package.identity, package.name, package.checksum)


def look(context: Context, packages: Sequence[RunInput], *, verify: bool) -> Looked:
    """Which packages are in the cache; with `verify` their files are counted, else the folder is looked for."""
    folders = {directory_of(package): package for package in packages}
    with context.database.read() as connection:
        rows = staged.list_staged(connection, location(context), [str(folder) for folder in folders])
    present = [f for f in folders if (row := rows.get(str(f))) is not None and row.state == "PRESENT"]
    whole = {folder: _counted(rows[str(folder)]) for folder in present}
    lost = _verified(context, whole) if verify else _gone(context, present)
    missing = [package for folder, package in folders.items() if folder not in whole or folder in lost]
    return Looked(missing, {f: count for f, count in whole.items() if f not in lost}, lost, rows)


def _counted(row: Any) -> tuple[int, int]:
    return row.file_count, row.size_bytes


def _gone(context: Context, folders: Sequence[PurePosixPath]) -> dict[PurePosixPath, str]:
    there = context.workfiles.exists(folders) if folders else {}
    return {folder: "it is gone from the cache" for folder in folders if not there[folder]}


def _verified(context: Context, whole: Mapping[PurePosixPath, tuple[int, int]]) -> dict[PurePosixPath, str]:
    """What is wrong with folders that do not have the files they should have."""
    trees = context.workfiles.list_trees(whole) if whole else {}
    lost = {}
    for folder, (count, size) in whole.items():
        sizes = [e.size_bytes for e in trees[folder] or () if e.kind is EntryKind.FILE]
        if trees[folder] is None:
            lost[folder] = "it is gone from the cache"
        elif (len(sizes), sum(sizes)) != (count, size):
            lost[folder] = (
                f"{len(sizes)} of its {count_text(count, 'file')} are in the cache, "
                f"{size_text(sum(sizes))} of {size_text(size)}"
            )
    return lost


# --- what is to come ------------------------------------------------------------------------------------------------


@dataclass
class Sought:
    """A package on its way into the cache. `read`: bytes that were read so far."""

    package: RunInput
    directory: PurePosixPath
    copies: list[PackageCopy]
    known_bad: set[tuple[str, str]]
    members: Members
    amount: Amount
    read: int = 0
    received: Received | None = None
    source: PackageCopy | None = None
    findings: list[tuple[PackageCopy, CcatwmError]] = field(default_factory=list)
    error: CcatwmError | None = None

    def to_claim(self) -> staged.Claimed:
        package = self.package
        return staged.Claimed(str(self.directory), package.identity, package.name, package.checksum, self.amount)

    @property
    def has_no_good_copy(self) -> bool:
        """As far as is known: none, or such only as were found bad."""
        return all((copy.location, copy.path) in self.known_bad for copy in self.copies)

    def settle(self, brought: Brought) -> None:
        """What came of it. Of a place that did not answer nothing was read."""
        self.received, self.source, self.error = brought.received, brought.source, brought.error
        self.findings = brought.findings

    @property
    def coming(self) -> Amount:
        """What may not be on the disk yet: what was read last is still on its way through memory."""
        if self.received is not None:
            return NOTHING
        written = max(0, min(self.amount.size_bytes, self.read) - IN_MEMORY)
        return Amount(self.amount.size_bytes - written, self.amount.inodes)


def seek(context: Context, packages: Sequence[RunInput], rows: Mapping[str, Any]) -> list[Sought]:
    """Where packages can be had, best copy first, and how much they are."""
    ids = [package.identity for package in packages]
    if not ids:
        return []
    with context.database.read() as connection:
        copies = context.grouping.copies(connection, ids)
        bad = staged.known_bad_copies(connection, ids)
        files = context.grouping.file_lists(connection, ids)
    if context.settings.staging_mode == "request":  # what lies elsewhere is for data transfer to bring
        copies = {i: [c for c in some if c.location == location(context)] for i, some in copies.items()}
    return [
        Sought(
            package, directory_of(package),
            _in_order(context, copies.get(package.identity, []), bad[package.identity]),
            bad[package.identity], files[package.identity],
            _amount(package, files[package.identity], rows.get(str(directory_of(package)))),
        )
        for package in packages
    ]  # fmt: skip


def _in_order(context: Context, copies: Sequence[PackageCopy], bad: set[tuple[str, str]]) -> list[PackageCopy]:
    here = location(context)
    return sorted(copies, key=lambda c: copy_order(c.location, c.storage, c.priority, c.path, here=here, known_bad=bad))


def _amount(package: RunInput, files: Members, row: Any) -> Amount:
    """As it was the last time it was here, or as its list or its size lets one think."""
    if row is not None and row.staged_at is not None and row.size_bytes is not None:
        return Amount(row.size_bytes, row.file_count)
    return Amount(package.size_bytes or sum(size for size, _ in files.values()), max(1, len(files)))


def claim(context: Context, sought: Sequence[Sought]) -> list[Sought]:
    """Those that nobody else is bringing or removing: they are ours now."""
    now = context.clock.now()
    with context.database.write() as connection:
        mine = staged.claim_packages(
            connection, location(context), [one.to_claim() for one in sought],
            claim=this_process().token, now=now, until=now + timedelta(hours=CLAIM_HOURS),
            holder_is_gone=claimant_is_gone,
        )  # fmt: skip
    return [one for one in sought if str(one.directory) in mine]


def release(context: Context, sought: Iterable[Sought]) -> None:
    """They do not come (now)."""
    directories = [str(one.directory) for one in sought]
    if directories:
        with context.database.write() as connection:
            staged.release_claims(connection, location(context), directories, this_process().token)


# --- bringing -------------------------------------------------------------------------------------------------------


def order_of(context: Context, sought: Sought) -> PackageOrder:
    """What is asked of whoever brings it: copies as this site has their places."""
    settings = context.settings
    copies = tuple(copy.at_root(settings.root_of(copy.location)) for copy in sought.copies)
    requested = settings.staging_mode == "request"  # then data transfer may have unpacked it here
    return PackageOrder(
        sought.package.name, sought.directory, copies, sought.package.size_bytes, sought.package.checksum,
        dict(sought.members),
        {copy.location: settings.path_there(copy.root or "/") for copy in copies} if requested else {},
    )  # fmt: skip


def receive_together(
    context: Context, some: Sequence[Sought], away: dict[str, str], told: Callable[[int], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """The same for packages that are small: one flush brings all of them to disk."""
    try:
        with context.workfiles.receiving_together() as together:
            for one in some:
                receive(context, one, away, told, stopped, into=together)
    except CcatwmError as error:
        for one in some:
            if one.error is None:
                one.received, one.error = None, error


def receive(
    context: Context, sought: Sought, away: dict[str, str], told: Callable[[int], None],
    stopped: Callable[[], bool] = lambda: False, into: WorkFiles | None = None,
) -> None:
    """Read the package from its best copy; where one is bad, or its place does not answer, from the next.

    What came of it is said in `sought`, and in `away` which data locations do not answer now: others need not ask them.
    `told` is told of every piece that is read; it is broken off when `stopped`.
    """

    @contextmanager
    def watch(_copy: PackageCopy) -> Iterator[Callable[[int], None]]:
        sought.read = 0
        with context.progress.begin(sought.package.name, sought.package.size_bytes, "bytes") as bar:

            def note_read(count: int) -> None:
                if stopped():
                    raise StoppedError(f"package {sought.package.name}: the pass ends")
                sought.read += count
                bar.advance(count)
                told(count)

            yield note_read

    sought.settle(bring_package(into or context.workfiles, context.storages, order_of(context, sought), away, watch))


def record(frame: PassFrame, some: Sequence[tuple[Sought, Sequence[Run]]], *, claim: str | None = None) -> None:
    """Say what came of packages, each with the runs that want it: where it is, and which copies are bad.

    `claim`: whose they were, if not this process's.
    """
    context, claim = frame.context, claim or this_process().token
    told = [
        (sought, for_runs, copy, error, _finding_text(sought, copy, error))
        for sought, for_runs in some
        for copy, error in sought.findings
    ]
    with context.database.write() as connection:
        for sought, for_runs, copy, error, text in told:
            _record_finding(context, connection, sought, copy, error)
            for run in for_runs:
                runs.add_warning(connection, run.id, text)
        for sought, for_runs in some:
            if _is_taken_on_trust(sought):
                for run in for_runs:
                    runs.add_warning(connection, run.id, _trust_text(sought))
        bad = [(s.package, s.error) for s, _ in some if s.findings]
        refused = {package.identity: error.message for package, error in bad if isinstance(error, NoGoodCopyError)}
        if refused and context.settings.staging_mode == "request":
            Requests(context).refuse(connection, refused)
        not_there = [str(sought.directory) for sought, _ in some if sought.received is None]
        staged.release_claims(connection, location(context), not_there, claim)
        arrived = [
            staged.Arrived(
                str(sought.directory), sought.received.unpacked_bytes, sought.received.file_count,
                sought.received.tree_digest or None,
            )
            for sought, _ in some
            if sought.received is not None
        ]  # fmt: skip
        staged.record_staged(connection, location(context), arrived, context.clock.now())
        for sought, _ in some:
            source = sought.source
            if source is not None and (source.location, source.path) in sought.known_bad:
                staged.forget_copy_report(connection, sought.package.identity, source.location, source.path)
    for sought, for_runs, copy, _, text in told:
        if (copy.location, copy.path) not in sought.known_bad:
            of_run = [(run.id, run.pipeline, run.step, run.sub_group) for run in for_runs[:1]]
            frame.report.tell(PassItem("bad-copy", text, *(of_run[0] if of_run else ())))


def _is_taken_on_trust(sought: Sought) -> bool:
    """A folder that data transfer has unpacked here, which is linked as it is, and of whose files none is listed."""
    return sought.received is not None and not sought.received.tree_digest and not sought.members


def _trust_text(sought: Sought) -> str:
    return (
        f"package {sought.package.name}: taken as data transfer brought it: the ops-db lists none of its files, so that "
        "there is nothing to compare them with"
    )


def _finding_text(sought: Sought, copy: PackageCopy, error: CcatwmError) -> str:
    where = f"package {sought.package.name}: its copy at {copy.location} ({copy.path})"
    return f"{where} is {finding_of(error)}: {error.message}"


def _record_finding(
    context: Context, connection: Any, sought: Sought, copy: PackageCopy, error: CcatwmError
) -> None:
    staged.record_copy_report(
        connection, package_id=sought.package.identity, package_name=sought.package.name, location=copy.location,
        path=copy.path, finding=finding_of(error), message=error.message, now=context.clock.now(),
    )  # fmt: skip
