"""Brings one physical copy into a tree, whatever form it has. Touches: what the given storage and work files touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from ccatwm.interfaces import CopyThere, PackageCopy, Received, Storage, WorkFiles


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
