"""Raw data packages on disk locations of the processing host. Touches: nothing; the connection does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, cast

from ccatwm.core.path_map import path_there
from ccatwm.interfaces import CopyThere, PackageCopy, RemoteCalls


class SshDiskStorage:
    """`Storage` for disk locations whose root is a path of the processing host.

    What it opens are stand-ins: the files there open and read the copy themselves (`SshWorkFiles.receive_*`).
    """

    def __init__(self, remote: RemoteCalls, path_map: Mapping[str, str]) -> None:
        self._remote = remote
        self._map = path_map

    def form(self, copy: PackageCopy) -> str:
        return str(self._remote.call("disk", "form", copy=self._there(copy)))

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        yield cast(BinaryIO, CopyThere(self._there(copy)))

    def open_tree(self, copy: PackageCopy) -> Iterator[tuple[str, BinaryIO]]:
        return CopyThere(self._there(copy))

    def _there(self, copy: PackageCopy) -> PackageCopy:
        if copy.root is None:
            return copy  # refused there, with what to set
        return dataclasses.replace(copy, root=path_there(copy.root, self._map))
