"""Brings the inputs of a run into a folder of somebody's own, from wherever they can still be had, verified.

Touches: the ops-db, the run's folder, the cache and data locations (read); that folder (written).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from ccatwm.core.model import Run, RunInput
from ccatwm.core.names import decode_path
from ccatwm.core.staging import (
    cache_directory,
    copy_order,
    input_path,
    not_readable_here,
    packages_of,
    products_of,
    workspace_path,
)
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import products, staged
from ccatwm.edges.storage.receiving import receive_copy
from ccatwm.errors import CcatwmError, NoSpaceError, Problem, UsageError
from ccatwm.interfaces import NO_PROGRESS, Bar, PackageCopy, Progress, Storage, WorkFiles
from ccatwm.settings.schema import Settings

INCOMING = PurePosixPath(".incoming")


@dataclass(frozen=True)
class Wanted:
    """An input: where it belongs below a run's folder, what it must be, and where it may be had, best first.

    `tree`: digest of its files where it lies unpacked; `members`: (size, checksum) of the files that a package lists.
    """

    item: RunInput
    path: PurePosixPath
    sources: tuple[PackageCopy, ...]
    tree: str | None = None
    members: Mapping[str, tuple[int, str | None]] | None = None
    unpacked: frozenset[str] = frozenset()  # ids of sources that lie here as they will be read


def list_wanted(
    database: Database, grouping: GroupingEngine, settings: Settings, run: Run, inputs: Sequence[RunInput], place: str
) -> list[Wanted]:
    """Every package and product of a run, with the places where it may lie."""
    base = str(settings.pipeline_base_dir)
    packages, upstream = packages_of(inputs), products_of(inputs)
    with database.read() as connection:
        ids = [package.identity for package in packages]
        copies = grouping.copies(connection, ids) if packages else {}
        known_bad, files = staged.known_bad_copies(connection, ids), grouping.file_lists(connection, ids)
        paths = products.product_paths(connection, [int(p.identity) for p in upstream])
        wanted = []
        for item in packages:
            cache = cache_directory(item.identity, item.name, item.checksum)
            row = staged.read_staged(connection, place, str(cache))
            bad = known_bad[item.identity]
            outside = sorted(
                (copy.at_root(settings.root_of(copy.location)) for copy in copies.get(item.identity, [])),
                key=lambda c: copy_order(c.location, c.storage, c.priority, c.path, here=place, known_bad=bad),
            )
            here = _here(base, run, input_path(item), cache)
            wanted.append(
                Wanted(
                    item, input_path(item), (*here, *outside), None if row is None else row.tree_digest,
                    files[item.identity] or None, frozenset(c.id for c in here),
                )
            )  # fmt: skip
    for item in upstream:
        path = decode_path(workspace_path(run.resolved_step, item))
        made = paths.get(int(item.identity))
        here = _here(base, run, path, None if made is None else decode_path(made))
        wanted.append(Wanted(item, path, here, item.checksum, None, frozenset(c.id for c in here)))
    return wanted


def _here(base: str, run: Run, path: PurePosixPath, other: PurePosixPath | None) -> tuple[PackageCopy, ...]:
    """The run's own folder, then what it was linked from."""
    own = PackageCopy("run", f"run {run.id}", "disk", base, f"{run.directory}/{path}")
    return (own,) if other is None else (own, PackageCopy("origin", "the processing location", "disk", base, str(other)))


def lie_in_place(settings: Settings, run: Run, wanted: Sequence[Wanted]) -> bool:
    """Whether this account can read every input where the run has it."""
    folder = os.path.join(settings.pipeline_base_dir, run.directory)
    needed = ["input", "workspace", *(str(item.path) for item in wanted)]
    return all(os.access(os.path.join(folder, path), os.R_OK) for path in needed)


def bring(
    files: WorkFiles,
    storages: Mapping[str, Storage],
    wanted: Sequence[Wanted],
    tell: Callable[[str], None],
    progress: Progress = NO_PROGRESS,
) -> dict[str, str]:
    """Have all of them below the root of `files`; where each came from, by name.

    Errors: UsageError that names each one that cannot be had, and where it was looked for; NoSpaceError.
    """
    origins: dict[str, str] = {}
    problems: list[Problem] = []
    for number, item in enumerate(wanted):
        try:
            origins[_label(item.item)] = _bring_one(files, storages, item, number, tell, progress)
        except _NowhereError as error:
            problems.append(Problem(_label(item.item), error.message, error.next))
    files.remove_trees([INCOMING])
    if problems:
        raise UsageError("inputs of the run cannot be had any more", problems=problems)
    return origins


class _NowhereError(CcatwmError):
    """No place has it."""


def _label(item: RunInput) -> str:
    if item.upstream_run_id is None:
        return f"package {item.name}"
    return f"product {item.name} of run {item.upstream_run_id} ({item.upstream_step} {item.upstream_sub_group})"


def _bring_one(
    files: WorkFiles, storages: Mapping[str, Storage], wanted: Wanted, number: int, tell: Callable[[str], None],
    progress: Progress,
) -> str:  # fmt: skip
    findings = []
    for source in wanted.sources:
        storage = storages.get(source.storage)
        if storage is None:
            findings.append(f"{source.location}: {not_readable_here(source.storage, source.location)}")
            continue
        try:
            storage.form(source)  # whether it is there: what is told comes from there
            tell(f"{_label(wanted.item)}: from {source.location}")
            with progress.begin(wanted.item.name, wanted.item.size_bytes, "bytes") as bar:
                _receive(files, storage, wanted, source, INCOMING / str(number), bar)
        except NoSpaceError:
            raise
        except CcatwmError as error:
            findings.append(f"{source.location}: {error.message}")
            continue
        _put(files, wanted, INCOMING / str(number))
        return source.location
    raise _nowhere(wanted, findings)


def _nowhere(wanted: Wanted, findings: Sequence[str]) -> _NowhereError:
    package = wanted.item.upstream_run_id is None
    return _NowhereError(
        "; ".join(findings) or "the ops-db knows no place",
        next=f"`ccatwm lineage {'package:' + wanted.item.name if package else wanted.item.identity}` tells what it is; "
        + ("bring it back to a data location" if package else "make it again: `ccatwm trigger --force`"),
    )


def list_unavailable(storages: Mapping[str, Storage], wanted: Sequence[Wanted]) -> list[Problem]:
    """Those that lie in no place, by a look at each place: nothing is read."""
    problems = []
    for item in wanted:
        findings = _look_for(storages, item)
        if findings is not None:
            error = _nowhere(item, findings)
            problems.append(Problem(_label(item.item), error.message, error.next))
    return problems


def _look_for(storages: Mapping[str, Storage], wanted: Wanted) -> list[str] | None:
    """What is said of each place; None where one has it."""
    findings = []
    for source in wanted.sources:
        storage = storages.get(source.storage)
        if storage is None:
            findings.append(f"{source.location}: {not_readable_here(source.storage, source.location)}")
            continue
        try:
            storage.form(source)
            return None
        except CcatwmError as error:
            findings.append(f"{source.location}: {error.message}")
    return findings


def _receive(
    files: WorkFiles, storage: Storage, wanted: Wanted, source: PackageCopy, target: PurePosixPath, bar: Bar
) -> None:
    """`target` is a folder: with the content of the package or product, or with the one file that the product is."""
    item, here = wanted.item, source.id in wanted.unpacked
    product = item.upstream_run_id is not None
    unpacked = here and not product  # its size and checksum are those of the archive file
    receive_copy(
        files, storage, source, target, name=wanted.path.name if product else None, unpack=not product,
        size_bytes=None if unpacked else item.size_bytes, checksum=wanted.tree if unpacked else item.checksum,
        members=wanted.members, read=bar.advance,
    )  # fmt: skip


def _put(files: WorkFiles, wanted: Wanted, received: PurePosixPath) -> None:
    """To its place, as the run had it."""
    single = wanted.item.upstream_run_id is not None and not wanted.item.is_directory
    source = received / wanted.path.name if single else received
    files.make_trees([wanted.path.parent])
    files.rename(source, wanted.path)


def remove_all(files: WorkFiles, names: Iterator[str]) -> None:
    """What a failed try has left; that it cannot be removed is not what went wrong."""
    with suppress(CcatwmError):
        files.remove_trees(PurePosixPath(name) for name in names)
