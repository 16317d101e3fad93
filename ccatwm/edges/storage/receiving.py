"""Brings one physical copy into a tree, whatever form it has. Touches: what the given storage and work files touch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from ccatwm.core.digests import known_checksum
from ccatwm.core.names import encode_name
from ccatwm.core.outputs import hashed_together
from ccatwm.core.staging import not_readable_here, unreached_text
from ccatwm.errors import (
    CcatwmError,
    CopyUnavailableError,
    CorruptCopyError,
    LocationSettingsError,
    MissingCopyError,
    NoGoodCopyError,
    NotReadableHereError,
)
from ccatwm.interfaces import Brought, CopyThere, PackageCopy, PackageOrder, Received, Storage, WorkFiles

RECORDING = "by data transfer, or `ccatwm ingest`"
Watch = Callable[[PackageCopy], AbstractContextManager[Callable[[int], None]]]


def bring_package(
    work: WorkFiles, storages: Mapping[str, Storage], order: PackageOrder, away: dict[str, str], watch: Watch
) -> Brought:
    """Read a package from its best copy; where one is bad, or its place cannot be asked, from the next.

    `away`: data locations that cannot be asked now, and why: no copy there is tried, and those that are met are added.
    `watch` is entered for every copy that is read and gives what is told of every piece of it; what that raises breaks it
    off, and is what came of it.
    """
    brought, unread = Brought(), list[str]()
    try:
        for copy in order.copies:
            if copy.location in away:
                continue
            try:
                with watch(copy) as read:
                    brought.received = _bring_copy(work, storages, order, copy, read)
            except (CopyUnavailableError, LocationSettingsError) as error:
                away[copy.location] = error.with_next
            except NotReadableHereError as error:  # nothing is known against the copy
                unread.append(f"{copy.location}: {error.message}")
            except (CorruptCopyError, MissingCopyError) as error:
                brought.findings.append((copy, error))
            else:
                brought.source = copy
                return brought
    except CcatwmError as error:
        brought.error = error
    else:
        brought.error = _no_copy(order, brought, [away[c.location] for c in order.copies if c.location in away], unread)
    return brought


def _bring_copy(
    work: WorkFiles, storages: Mapping[str, Storage], order: PackageOrder, copy: PackageCopy, read: Callable[[int], None]
) -> Received:
    storage = storages.get(copy.storage)
    if storage is None:
        raise NotReadableHereError(not_readable_here(copy.storage, copy.location))
    if copy.location in order.adopt_from and storage.form(copy) == "directory":
        return _adopt(work, order, copy, read)
    return receive_copy(
        work, storage, copy, order.target,
        size_bytes=order.size_bytes, checksum=order.checksum, members=order.members or None, read=read,
    )  # fmt: skip


def _adopt(work: WorkFiles, order: PackageOrder, copy: PackageCopy, read: Callable[[int], None]) -> Received:
    """A package that data transfer has unpacked here: linked, not copied, where that can be. Where the ops-db lists its
    files, it has them all, and each with the checksum that is listed; else who brought it has verified it."""
    received = work.adopt_tree(PurePosixPath(order.adopt_from[copy.location]) / copy.path, order.target)
    try:
        problem = _unlike_listed(work, order, received, read)
    except BaseException:
        work.remove_trees([order.target])
        raise
    if problem is not None:
        work.remove_trees([order.target])
        raise CorruptCopyError(f"{copy.path} at {copy.location} {problem}")
    return received


def _unlike_listed(
    work: WorkFiles, order: PackageOrder, received: Received, read: Callable[[int], None]
) -> str | None:
    """In what a package that was linked is not what the ops-db lists of it; None where it is."""
    listed = (len(order.members), sum(size for size, _ in order.members.values()))
    if order.members and listed != (received.file_count, received.unpacked_bytes):
        return f"has {received.file_count} files of {received.unpacked_bytes} bytes, {listed[0]} of {listed[1]} are listed"
    sums: dict[str, dict[PurePosixPath, tuple[int, str]]] = {}  # by algorithm
    for name, (size, checksum) in order.members.items():
        if checksum is not None:
            algorithm, digest = known_checksum(checksum)
            sums.setdefault(algorithm, {})[order.target / name] = size, digest
    for algorithm, files in sums.items():
        for some in hashed_together((path, size) for path, (size, _) in files.items()):
            for path, found in work.hash_files(some, algorithm=algorithm).items():
                size, digest = files[path]
                read(size)
                if found != (size, digest):
                    name = encode_name(str(path.relative_to(order.target)))
                    said = "is not there" if found is None else f"has {found[0]} bytes and {algorithm}:{found[1]}"
                    return f"differs: {name} {said}, {size} bytes and {algorithm}:{digest} are listed"
    return None


def _no_copy(order: PackageOrder, brought: Brought, unanswered: list[str], unread: list[str]) -> CcatwmError:
    if unanswered:  # one of them may be good: no copy was found that is
        return CopyUnavailableError(unreached_text(order.name, unanswered))
    if not brought.findings and not unread:
        what = f"package {order.name}: the ops-db knows no copy of it at an active location"
        return NoGoodCopyError(what, next=f"have a copy recorded ({RECORDING}), or {_exclude(order)}")
    findings = [f"{copy.location}: {finding_of(error)} ({error.message})" for copy, error in brought.findings]
    bring = f"put a good copy there or have another one recorded ({RECORDING}), or {_exclude(order)}"
    return NoGoodCopyError(
        f"package {order.name}: no good copy: {'; '.join([*findings, *unread])}", next=bring if findings else ""
    )


def _exclude(order: PackageOrder) -> str:
    return f"leave the package out: `ccatwm exclude {shlex.quote(f'package:{order.name}')} --reason TEXT`"


def finding_of(error: CcatwmError) -> str:
    """What a copy is that could not be used."""
    return "corrupt" if isinstance(error, CorruptCopyError) else "missing"


def receive_copy(
    work: WorkFiles,
    storage: Storage,
    copy: PackageCopy,
    target: PurePosixPath,
    *,
    name: str | None = None,
    size_bytes: int | None = None,
    checksum: str | None = None,
    members: Mapping[str, tuple[int, str | None]] | None = None,
    unpack: bool = True,
    read: Callable[[int], None] | None = None,
) -> Received:
    """`target` becomes a folder with its content: of a folder or, with `unpack`, an archive; else with the one file, as
    `name` or as it is called. `read` is told of every piece that is read here, in bytes.

    Errors: those of the storage and of `WorkFiles.receive_tree`, `receive_tar`, `receive_file`.
    """
    form = storage.form(copy)
    if form == "directory":
        tree: Iterable[tuple[str, BinaryIO]] = storage.open_tree(copy)
        if read is not None and not isinstance(tree, CopyThere):
            tree = _told_tree(tree, read)
        return work.receive_tree(tree, target, size_bytes=size_bytes, checksum=checksum, members=members)
    with storage.open(copy) as opened:
        stream = opened if read is None or isinstance(opened, CopyThere) else _told(opened, read)
        if form == "tar" and unpack:
            return work.receive_tar(stream, target, size_bytes=size_bytes, checksum=checksum, members=members)
        file = name or PurePosixPath(copy.path).name
        return work.receive_file(stream, target, name=file, size_bytes=size_bytes, checksum=checksum)


class _Told:
    """A stream that tells of every piece that is read of it."""

    def __init__(self, stream: BinaryIO, read: Callable[[int], None]) -> None:
        self._stream = stream
        self._told = read

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._told(len(data))
        return data

    def seekable(self) -> bool:
        return bool(getattr(self._stream, "seekable", bool)())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Over what need not be read."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _told(stream: BinaryIO, read: Callable[[int], None]) -> BinaryIO:
    return cast(BinaryIO, _Told(stream, read))  # whoever receives does nothing but read


def _told_tree(files: Iterable[tuple[str, BinaryIO]], read: Callable[[int], None]) -> Iterator[tuple[str, BinaryIO]]:
    return ((name, _told(stream, read)) for name, stream in files)
