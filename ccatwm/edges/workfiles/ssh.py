"""Everything below the base directory of the processing host. Touches: nothing; the connection does.

The account there does all writing. Batches are cut so that one call stays within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

from ccatwm.errors import MissingCopyError
from ccatwm.interfaces import (
    CopyThere,
    FileWrite,
    Received,
    RemoteCalls,
    Space,
    TreeEntry,
    TreeSize,
    WorkFiles,
)

T = TypeVar("T")
Members = Mapping[str, tuple[int, str | None]]

TOGETHER = 2000  # paths of one call
TOGETHER_BYTES = 16 << 20  # of content in one call
TREES_TOGETHER = 200  # listed by one call: nobody knows how long a listing is


class SshWorkFiles:
    """`WorkFiles` there. `root` is the base directory as the processing host names it.

    `check` is called before the first use: it refuses a base directory that is not ours.
    """

    def __init__(
        self,
        remote: RemoteCalls,
        root: PurePosixPath,
        check: Callable[[SshWorkFiles], None] | None = None,
    ) -> None:
        self._remote = remote
        self._root = root
        self._check = check

    def root(self) -> PurePosixPath:
        return self._root

    # --- making and writing ----------------------------------------------------------------------------------

    def make_trees(self, paths: Iterable[PurePosixPath]) -> None:
        for some in _cut(paths):
            self._call("make_trees", paths=some)

    def make_exclusive(self, path: PurePosixPath, *, mode: int = 0o770) -> bool:
        return bool(self._call("make_exclusive", path=path, mode=mode))

    def make_exclusives(self, paths: Iterable[PurePosixPath], *, mode: int = 0o770) -> dict[PurePosixPath, bool]:
        answers: dict[PurePosixPath, bool] = {}
        for some in _cut(paths):
            answers |= self._call("make_exclusives", paths=some, mode=mode)
        return answers

    def receiving_together(self) -> AbstractContextManager[WorkFiles]:
        """One call a package: each is on disk when it is answered."""
        return nullcontext(self)

    def write_files(self, files: Iterable[FileWrite]) -> None:
        for some in _cut(files, lambda file: len(file.content)):
            self._call("write_files", files=some)

    def link_trees(
        self,
        links: Iterable[tuple[PurePosixPath, PurePosixPath]],
        *,
        hard: bool = True,
        whole: Mapping[PurePosixPath, tuple[int, int]] | None = None,
    ) -> dict[PurePosixPath, bytes | None]:
        known, listed = whole or {}, dict[PurePosixPath, bytes | None]()
        for some in _cut(links):
            counts = {source: tuple(known[source]) for source, _ in some if source in known}
            listed |= self._call("link_trees", links=some, hard=hard, whole=counts)
        return listed

    def adopt_tree(self, source: PurePosixPath, target: PurePosixPath) -> Received:
        received: Received = self._call("adopt_tree", source=source, target=target)
        return received

    def switch_link(self, link: PurePosixPath, target: str) -> None:
        self._call("switch_link", link=link, target=target)

    def switch_links(self, links: Iterable[tuple[PurePosixPath, str | None]]) -> list[PurePosixPath]:
        in_the_way: list[PurePosixPath] = []
        for some in _cut(links):
            in_the_way += self._call("switch_links", links=some)
        return in_the_way

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> bool:
        return bool(self._call("rename", source=source, target=target))

    def remove_trees(self, paths: Iterable[PurePosixPath]) -> None:
        for some in _cut(paths):
            self._call("remove_trees", paths=some)

    # --- looking ---------------------------------------------------------------------------------------------

    def modes(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, int | None]:
        return self._each("modes", paths)

    def exists(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bool]:
        return self._each("exists", paths)

    def read_links(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, str | None]:
        return self._each("read_links", paths)

    def hash_files(
        self, paths: Iterable[PurePosixPath], *, algorithm: str = "sha256"
    ) -> dict[PurePosixPath, tuple[int, str] | None]:
        return self._each("hash_files", paths, algorithm=algorithm)

    def read_files(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int = 1 << 22
    ) -> dict[PurePosixPath, bytes | None]:
        return self._read(paths, max_bytes=max_bytes, tails=False)

    def read_tails(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int
    ) -> dict[PurePosixPath, bytes | None]:
        return self._read(paths, max_bytes=max_bytes, tails=True)

    def list_tree(self, path: PurePosixPath) -> list[TreeEntry] | None:
        found: list[TreeEntry] | None = self._call("list_tree", path=path)
        return found

    def list_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[TreeEntry] | None]:
        answers: dict[PurePosixPath, list[TreeEntry] | None] = {}
        for some in _cut(paths, lambda _: TOGETHER_BYTES // TREES_TOGETHER):
            answers |= self._call("list_trees", paths=some)
        return answers

    def measure_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, TreeSize | None]:
        return self._each("measure_trees", paths)

    def list_records(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bytes | None]:
        answers: dict[PurePosixPath, bytes | None] = {}
        for some in _cut(paths, lambda _: TOGETHER_BYTES // TREES_TOGETHER):
            answers |= self._call("list_records", paths=some)
        return answers

    def list_folders(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        return self._names("list_folders", paths)

    def list_others(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        return self._names("list_others", paths)

    def space(self) -> Space:
        found: Space = self._call("space")
        return found

    def shares_blocks(self) -> bool:
        return bool(self._call("shares_blocks"))

    def _names(self, method: str, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        answers: dict[PurePosixPath, list[str]] = {}
        for some in _cut(paths, lambda _: TOGETHER_BYTES // TREES_TOGETHER):
            answers |= self._call(method, paths=some)
        return answers

    def _each(self, method: str, paths: Iterable[PurePosixPath], **more: Any) -> dict[PurePosixPath, Any]:
        answers: dict[PurePosixPath, Any] = {}
        for some in _cut(paths):
            answers |= self._call(method, paths=some, **more)
        return answers

    def _read(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int, tails: bool
    ) -> dict[PurePosixPath, bytes | None]:
        """Each call answers as many as one answer takes; the rest is asked for again."""
        answers: dict[PurePosixPath, bytes | None] = {}
        for some in _cut(dict.fromkeys(paths)):
            while some:
                found = self._call("read_some", paths=some, max_bytes=max_bytes, tails=tails)
                answers |= found
                some = [path for path in some if path not in found] if found else []
        return answers

    # --- receiving -------------------------------------------------------------------------------------------

    def receive_tar(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Members | None = None,
    ) -> Received:
        return self._receive(
            "receive_tar", stream, target, size_bytes=size_bytes, checksum=checksum, members=_plain(members)
        )

    def receive_file(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        name: str,
        size_bytes: int | None,
        checksum: str | None,
    ) -> Received:
        return self._receive(
            "receive_file", stream, target, name=name, size_bytes=size_bytes, checksum=checksum
        )

    def receive_tree(
        self,
        files: Iterable[tuple[str, BinaryIO]],
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Members | None = None,
    ) -> Received:
        return self._receive(
            "receive_tree", files, target, size_bytes=size_bytes, checksum=checksum, members=_plain(members)
        )

    def _receive(self, method: str, source: object, target: PurePosixPath, **expected: Any) -> Received:
        """Errors: MissingCopyError for a source that is no copy over there: raw data does not cross the connection."""
        if not isinstance(source, CopyThere):
            raise MissingCopyError(
                "this copy would have to cross the SSH connection, and raw data does not",
                next="give its data location a root that the processing host has, or let data transfer bring it there",
            )
        received: Received = self._call(method, copy=source.copy, target=target, **expected)
        return received

    # --- common ----------------------------------------------------------------------------------------------

    def _call(self, method: str, **arguments: Any) -> Any:
        if self._check is not None:
            check, self._check = self._check, None
            try:
                check(self)
            except BaseException:
                self._check = check
                raise
        return self._remote.call("files", method, **arguments)


def _cut(values: Iterable[T], size: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """Lists of at most `TOGETHER` values, or of about `TOGETHER_BYTES` by their `size`; none of no value."""
    some: list[T] = []
    total = 0
    for value in values:
        if some and (len(some) == TOGETHER or total + size(value) > TOGETHER_BYTES):
            yield some
            some, total = [], 0
        some.append(value)
        total += size(value)
    if some:
        yield some


def _plain(members: Members | None) -> dict[str, tuple[int, str | None]] | None:
    return None if members is None else dict(members)
