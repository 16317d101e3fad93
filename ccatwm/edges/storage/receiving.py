"""Brings one physical copy into a tree, whatever form it has. Touches: what the given storage and work files touch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from ccatwm.interfaces import PackageCopy, Received, Storage, WorkFiles


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
) -> Received:
    """`target` becomes a folder with its content: of a folder or, with `unpack`, an archive; else with the one file, as
    `name` or as it is called. Errors: those of the storage and of `WorkFiles.receive_tree`, `receive_tar`, `receive_file`.
    """
    form = storage.form(copy)
    if form == "directory":
        tree = storage.open_tree(copy)
        return work.receive_tree(tree, target, size_bytes=size_bytes, checksum=checksum, members=members)
    with storage.open(copy) as stream:
        if form == "tar" and unpack:
            return work.receive_tar(stream, target, size_bytes=size_bytes, checksum=checksum, members=members)
        file = name or PurePosixPath(copy.path).name
        return work.receive_file(stream, target, name=file, size_bytes=size_bytes, checksum=checksum)
