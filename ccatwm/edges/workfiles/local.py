"""Files below the base directory on this host. Touches: those files only.

Every single change is an effect. What is made appears at once and whole: under a hidden name beside its place first,
then renamed. No link below the base directory is ever followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from ccatwm.core.input_lists import input_line
from ccatwm.core.names import encode_name
from ccatwm.edges.workfiles._folders import (
    Folders,
    Parts,
    Sweeper,
    hidden_name,
    names_in,
    record,
    remove_entry,
    statuses,
    walk,
)
from ccatwm.edges.workfiles._receive import TreeWriter, is_resumable, receive_file_into, receive_tree_into
from ccatwm.edges.workfiles._system import (
    FOLDER,
    FULL,
    NEW_FILE,
    can_clone_at,
    close_checked,
    errors_at,
    find_folder,
    find_regular,
    find_status,
    is_locked,
    link_or_copy,
    rename_new,
    sync_file_systems,
    syncfs_tells,
    tell_errors,
    write_all,
)
from ccatwm.edges.workfiles._tar import receive_tar_into
from ccatwm.errors import CcatwmError, CorruptCopyError, IncompleteTreeError, MissingCopyError
from ccatwm.interfaces import Effects, FileWrite, Received, Space, TreeEntry, TreeSize, WorkFiles

T = TypeVar("T")
MANY = 16  # files from which on whole file systems are flushed
MOST_TOLD = 8 << 20  # bytes that one call tells of what it has linked
TOGETHER = 256  # files that are open at once, well below what a process may have open
UNLIMITED_INODES = 1 << 40  # what file systems without a fixed number of inodes are said to have free


def space_at(folder: str | os.PathLike[str]) -> Space:
    """What is free there for this account. Errors: OSError."""
    found = os.statvfs(folder)
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else UNLIMITED_INODES)


class LocalWorkFiles:
    """`WorkFiles` by system calls of this host. `seen_as` is what jobs call the base directory, if it is not ours."""

    _flushes = True  # each file that is received, and each folder

    def __init__(self, base_dir: Path, effects: Effects, *, seen_as: PurePosixPath | None = None) -> None:
        self._base = Path(os.path.abspath(base_dir))
        self._effects = effects
        self._seen_as = seen_as

    def root(self) -> PurePosixPath:
        return self._seen_as or PurePosixPath(self._base)

    # --- making and writing ----------------------------------------------------------------------------------

    def make_trees(self, paths: Iterable[PurePosixPath]) -> None:
        with self._folders() as folders:
            for path in paths:
                with self._at(path):
                    folders.make(_parts(path))

    def make_exclusive(self, path: PurePosixPath, *, mode: int = 0o770) -> bool:
        return self.make_exclusives([path], mode=mode)[path]

    def make_exclusives(self, paths: Iterable[PurePosixPath], *, mode: int = 0o770) -> dict[PurePosixPath, bool]:
        made, changed = dict[PurePosixPath, bool](), dict[Parts, None]()
        with self._folders() as folders:
            for path in paths:
                above, name = _split(path)
                with self._at(path):
                    parent = folders.make(above)
                    with self._effects.around("file.mkdir", str(path)):
                        try:
                            os.mkdir(name, mode, dir_fd=parent)
                        except FileExistsError:
                            made[path] = False
                            continue
                made[path] = True
                changed[above] = None
            self._sync_all(folders, changed)
        return made

    def write_files(self, files: Iterable[FileWrite]) -> None:
        files = list(files)
        if len(files) > MANY and syncfs_tells():
            self._write_many(files)
            return
        sweeper, written = Sweeper(self._effects), dict[Parts, None]()
        with self._folders() as folders:
            for file in files:
                above, name = _split(file.path)
                with self._at(file.path):
                    parent = folders.make(above)
                    sweeper.sweep(parent, above, name)
                    self._write(parent, name, file)
                written[above] = None
            self._sync_all(folders, written)

    def _write(self, parent: int, name: str, file: FileWrite) -> None:
        hidden = hidden_name(name)
        try:
            self._write_hidden(parent, hidden, file)
            with self._effects.around("file.rename", str(file.path)):
                os.replace(hidden, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            self._discard(parent, hidden)
            raise

    def _write_hidden(self, parent: int, hidden: str, file: FileWrite) -> None:
        with self._effects.around("file.write", str(file.path)):
            descriptor = _write_new(parent, hidden, file)
        with self._effects.around("file.fsync", str(file.path)):
            close_checked(descriptor, os.fsync)

    def _write_many(self, files: list[FileWrite]) -> None:
        """The same, flushing whole file systems instead of each file and folder: thousands of small files take a while."""
        sweeper, written = Sweeper(self._effects), dict[Parts, None]()
        with self._folders() as folders:
            for start in range(0, len(files), TOGETHER):
                some = files[start : start + TOGETHER]
                self._write_together(folders, sweeper, some)
                written |= dict.fromkeys(_split(file.path)[0] for file in some)
            with self._at(PurePosixPath()), self._effects.around("file.syncfs", f"{len(written)} folders"):
                _sync_around(folders, written)

    def _write_together(self, folders: Folders, sweeper: Sweeper, files: list[FileWrite]) -> None:
        """All hidden and locked, one flush, all renamed. After an error those that were not renamed vanish."""
        hidden: list[tuple[FileWrite, str, int]] = []
        renamed = 0
        try:
            for file in files:
                hidden.append((file, *self._hide(folders, sweeper, file)))
            with self._at(files[0].path), self._effects.around("file.syncfs", f"{len(files)} files"):
                sync_file_systems(descriptor for _, _, descriptor in hidden)
                for _, _, descriptor in hidden:
                    tell_errors(descriptor)
            for file, temporary, _ in hidden:
                self._show(folders, file, temporary)
                renamed += 1
        finally:
            for number, (file, temporary, descriptor) in enumerate(hidden):
                os.close(descriptor)
                if number >= renamed:
                    self._discard(folders.make(_split(file.path)[0]), temporary)

    def _hide(self, folders: Folders, sweeper: Sweeper, file: FileWrite) -> tuple[str, int]:
        """(hidden name, descriptor) of the new file."""
        above, name = _split(file.path)
        with self._at(file.path):
            parent = folders.make(above)
            sweeper.sweep(parent, above, name)
            temporary = hidden_name(name)
            try:
                with self._effects.around("file.write", str(file.path)):
                    return temporary, _write_new(parent, temporary, file)
            except BaseException:
                self._discard(parent, temporary)
                raise

    def _show(self, folders: Folders, file: FileWrite, temporary: str) -> None:
        above, name = _split(file.path)
        with self._at(file.path), self._effects.around("file.rename", str(file.path)):
            parent = folders.get(above)
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def switch_link(self, link: PurePosixPath, target: str) -> None:
        _parts(PurePosixPath(target))
        with self._folders() as folders, self._at(link):
            self._put_link(folders.make(_split(link)[0]), link, target)

    def switch_links(self, links: Iterable[tuple[PurePosixPath, str | None]]) -> list[PurePosixPath]:
        in_the_way = []
        with self._folders() as folders:
            for link, target in links:
                above, name = _split(link)
                with self._at(link):
                    parent = folders.find(above) if target is None else folders.make(above)
                    found = None if parent is None else find_status(parent, name)
                    if found is not None and not stat.S_ISLNK(found.st_mode):
                        in_the_way.append(link)
                    elif target is not None:
                        _parts(PurePosixPath(target))
                        self._put_link(folders.get(above), link, target)
                    elif found is not None:
                        self._take_link(folders.get(above), link)
        return in_the_way

    def _put_link(self, parent: int, link: PurePosixPath, target: str) -> None:
        above, name = _split(link)
        if _link_target(parent, name) == target:
            return
        Sweeper(self._effects).sweep(parent, above, name)
        hidden = hidden_name(name)
        with self._effects.around("file.symlink", str(link)):
            os.symlink(target, hidden, dir_fd=parent)
        try:
            with self._effects.around("file.rename", str(link)):
                os.replace(hidden, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            self._discard(parent, hidden)
            raise
        self._sync(parent, above)

    def _take_link(self, parent: int, link: PurePosixPath) -> None:
        above, name = _split(link)
        with self._effects.around("file.unlink", str(link)), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        self._sync(parent, above)

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> bool:
        (old_above, old), (new_above, new) = _split(source), _split(target)
        with self._folders() as olds, self._folders() as news, self._at(source):
            new_parent = news.make(new_above)
            old_parent = olds.find(old_above)
            if find_status(new_parent, new) is not None:
                return False
            if old_parent is None:
                raise FileNotFoundError(2, "there is no such file or folder")
            with self._effects.around("file.rename", str(target)):
                done = rename_new(old_parent, old, new_parent, new)
            if done:
                self._sync(new_parent, new_above)
                if old_above != new_above:
                    self._sync(old_parent, old_above)
        return done

    # --- reading -----------------------------------------------------------------------------------------------

    def modes(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, int | None]:
        found = self._each(paths, find_status)
        return {
            path: None if status is None else stat.S_IMODE(status.st_mode) for path, status in found.items()
        }

    def exists(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bool]:
        return {path: status is not None for path, status in self._each(paths, find_status).items()}

    def read_links(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, str | None]:
        return self._each(paths, _link_target)

    def read_files(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int = 1 << 22
    ) -> dict[PurePosixPath, bytes | None]:
        return self._each(paths, lambda parent, name: _read(parent, name, max_bytes, tail=False))

    def read_tails(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int
    ) -> dict[PurePosixPath, bytes | None]:
        return self._each(paths, lambda parent, name: _read(parent, name, max_bytes, tail=True))

    def hash_files(
        self, paths: Iterable[PurePosixPath], *, algorithm: str = "sha256"
    ) -> dict[PurePosixPath, tuple[int, str] | None]:
        return self._each(paths, lambda parent, name: _hash(parent, name, algorithm))

    def list_tree(self, path: PurePosixPath) -> list[TreeEntry] | None:
        with self._folders() as folders, self._at(path):
            folder = folders.find(_parts(path))
            if folder is None:
                return None
            return sorted(walk(folder), key=lambda entry: os.fsencode(str(entry.path)))

    def list_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[TreeEntry] | None]:
        return {path: self.list_tree(path) for path in paths}

    def measure_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, TreeSize | None]:
        answers: dict[PurePosixPath, TreeSize | None] = {}
        names: Counter[tuple[int, int]] = Counter()  # of files with several: how many were met
        with self._folders() as folders:
            for path in paths:
                with self._at(path):
                    folder = folders.find(_parts(path))
                    answers[path] = None if folder is None else _measure(folder, names)
        return answers

    def list_records(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bytes | None]:
        answers: dict[PurePosixPath, bytes | None] = {}
        with self._folders() as folders:
            for path in paths:
                with self._at(path):
                    folder = folders.find(_parts(path))
                    answers[path] = None if folder is None else record(folder)
        return answers

    def list_folders(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        return self._names(paths, folders=True)

    def list_others(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        return self._names(paths, folders=False)

    def _names(self, paths: Iterable[PurePosixPath], *, folders: bool) -> dict[PurePosixPath, list[str]]:
        answers: dict[PurePosixPath, list[str]] = {}
        with self._folders() as opened:
            for path in paths:
                with self._at(path):
                    folder = opened.find(_parts(path))
                    answers[path] = [] if folder is None else sorted(names_in(folder, folders=folders))
        return answers

    def space(self) -> Space:
        with self._at(PurePosixPath()):
            return space_at(self._base)

    def shares_blocks(self) -> bool:
        return can_clone_at(self._base)

    def _each(
        self, paths: Iterable[PurePosixPath], look: Callable[[int, str], T | None]
    ) -> dict[PurePosixPath, T | None]:
        """What `look` finds by (folder, name); None where the folder is not there."""
        answers: dict[PurePosixPath, T | None] = {}
        with self._folders() as folders:
            for path in paths:
                above, name = _split(path, base_name=".")
                with self._at(path):
                    parent = folders.find(above)
                    answers[path] = None if parent is None else look(parent, name)
        return answers

    # --- linking -----------------------------------------------------------------------------------------------

    def link_trees(
        self,
        links: Iterable[tuple[PurePosixPath, PurePosixPath]],
        *,
        hard: bool = True,
        whole: Mapping[PurePosixPath, tuple[int, int]] | None = None,
    ) -> dict[PurePosixPath, bytes | None]:
        sweeper = Sweeper(self._effects)
        listed = dict[PurePosixPath, bytes | None]()
        told = 0
        with self._folders() as olds, self._folders() as news:
            for source, target in links:
                (old_above, old), (above, name) = _split(source), _split(target)
                wanted = (whole or {}).get(source)
                listed[target] = None
                with self._at(target):
                    parent = news.make(above)
                    if find_status(parent, name) is not None:
                        if wanted is None or _counted(parent, name) == wanted:
                            continue
                        self._remove(parent, name)  # the machine went down before all of it was on disk
                    sweeper.sweep(parent, above, name)
                with self._at(source), _whole_or_not(source, wanted) as count:
                    if self._link(olds.get(old_above), old, parent, name, hard, count):
                        listed[target] = count.lines(target, MOST_TOLD - told)
                told += len(listed[target] or b"")
        return listed

    def _link(self, old_parent: int, old: str, parent: int, name: str, hard: bool, count: _Count) -> bool:
        """Whether it is there by this call."""
        hidden = hidden_name(name)
        try:
            self._link_entry(old_parent, old, parent, hidden, hard, count, b"")
            count.compare()
            with self._effects.around("file.rename", name):
                done = rename_new(parent, hidden, parent, name)
        except BaseException:
            self._discard(parent, hidden)
            raise
        if not done:  # somebody else was faster
            self._discard(parent, hidden)
        return done

    def _link_entry(
        self, old_parent: int, old: str, parent: int, name: str, hard: bool, count: _Count, path: bytes
    ) -> None:
        """`path`: what it is called below the top of the tree."""
        found = os.stat(old, dir_fd=old_parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            self._link_folder(old_parent, old, parent, name, hard, count, path)
        elif stat.S_ISREG(found.st_mode):
            with self._effects.around("file.link", old):
                link_or_copy(old_parent, old, parent, name, hard=hard)
            count.add(path, found.st_size)
        else:
            raise UnlinkableError(f"{encode_name(old)} is neither a file nor a folder: it cannot be an input")

    def _link_folder(
        self, old_parent: int, old: str, parent: int, name: str, hard: bool, count: _Count, path: bytes = b""
    ) -> None:
        with self._effects.around("file.mkdir", old):
            os.mkdir(name, dir_fd=parent)
        with _opened(old_parent, old) as source, _opened(parent, name) as target:
            is_locked(target)
            for inner in sorted(os.listdir(source)):
                self._link_entry(source, inner, target, inner, hard, count, b"%s/%s" % (path, os.fsencode(inner)))

    def adopt_tree(self, source: PurePosixPath, target: PurePosixPath) -> Received:
        above, name = _split(target)
        with self._folders() as folders, self._at(target):
            parent = folders.make(above)
            Sweeper(self._effects).sweep(parent, above, name)
            hidden, count = hidden_name(name), _Count(source, None)
            try:
                self._link_foreign(source, parent, hidden, count)
                self._put(parent, hidden, name)
            except BaseException:
                self._discard(parent, hidden)
                raise
            self._sync(parent, above)
        return Received(count.bytes, count.files, "", count.bytes)

    def _link_foreign(self, source: PurePosixPath, parent: int, name: str, count: _Count) -> None:
        """Errors: MissingCopyError, CorruptCopyError."""
        shown = encode_name(str(source))
        try:
            with _folder_at(source.parent) as outside:
                if not stat.S_ISDIR(os.stat(source.name, dir_fd=outside, follow_symlinks=False).st_mode):
                    raise CorruptCopyError(f"{shown} is no folder")
                self._link_folder(outside, source.name, parent, name, True, count)
                self._sync_tree(parent, name)
        except FileNotFoundError as error:
            raise MissingCopyError(f"{shown} is not there, or lost files while it was linked") from error
        except (IncompleteTreeError, UnlinkableError) as error:
            raise CorruptCopyError(f"{shown}: {error.message}") from error

    def _sync_tree(self, parent: int, name: str) -> None:
        """Flush every folder of a tree of links."""
        with _opened(parent, name) as folder:
            for inner in names_in(folder, folders=True):
                self._sync_tree(folder, inner)
            self._sync(folder, (name,))

    # --- receiving ---------------------------------------------------------------------------------------------

    def receive_tar(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        return self._receive(
            target, members, lambda writer: receive_tar_into(writer, stream, size_bytes, checksum)
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
            target, None, lambda writer: receive_file_into(writer, stream, name, size_bytes, checksum)
        )

    def receive_tree(
        self,
        files: Iterable[tuple[str, BinaryIO]],
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        return self._receive(
            target, members, lambda writer: receive_tree_into(writer, files, size_bytes, checksum)
        )

    def _receive(
        self,
        target: PurePosixPath,
        members: Mapping[str, tuple[int, str | None]] | None,
        fill: Callable[[TreeWriter], Received],
    ) -> Received:
        """Fill a hidden folder beside `target`, then rename it; on any error nothing is left. What a killed process left
        is gone on with where every file can be checked.
        """
        above, name = _split(target)
        with self._folders() as folders, self._at(target):
            parent = folders.make(above)
            sweeper = self._sweeper()
            left = self._interrupted(sweeper, parent, above, name) if is_resumable(members) else None
            sweeper.sweep(parent, above, name, keep=left)
            hidden = left or hidden_name(name)
            try:
                received = self._fill_folder(parent, hidden, members, fill, resumed=left is not None)
                self._filled(parent, hidden, target)
            except BaseException:
                self._discard(parent, hidden)
                raise
        return received

    def _sweeper(self) -> Sweeper:
        return Sweeper(self._effects)

    def _filled(self, parent: int, hidden: str, target: PurePosixPath) -> None:
        """What was received is whole, and on disk: it appears."""
        above, name = _split(target)
        self._put(parent, hidden, name)
        self._sync(parent, above)

    @contextmanager
    def receiving_together(self) -> Iterator[WorkFiles]:
        if not syncfs_tells():
            yield self
            return
        together = _Together(self._base, self._effects, seen_as=self._seen_as)
        try:
            yield together
            together.show_all()
        finally:
            together.close()

    def _fill_folder(
        self,
        parent: int,
        name: str,
        members: Mapping[str, tuple[int, str | None]] | None,
        fill: Callable[[TreeWriter], Received],
        *,
        resumed: bool,
    ) -> Received:
        if not resumed:
            with self._effects.around("file.mkdir", name):
                os.mkdir(name, dir_fd=parent)
        with _opened(parent, name) as folder:
            is_locked(folder)
            os.fchmod(folder, 0o755 | (os.fstat(folder).st_mode & stat.S_ISGID))
            with TreeWriter(folder, self._effects, members, resumed=resumed, flushes=self._flushes) as writer:
                return fill(writer)

    def _interrupted(self, sweeper: Sweeper, parent: int, above: Parts, name: str) -> str | None:
        """The folder in which a killed process was unpacking `name`."""
        for left in sweeper.leftovers(parent, above, name):
            found = find_status(parent, left)
            if found is not None and stat.S_ISDIR(found.st_mode):
                return left
        return None

    def _put(self, parent: int, hidden: str, name: str) -> None:
        """Rename to the visible name. What is there was not verified just now: it gives way."""
        with self._effects.around("file.rename", name):
            done = rename_new(parent, hidden, parent, name)
        if not done:
            self._remove(parent, name)
            with self._effects.around("file.rename", name):
                os.rename(hidden, name, src_dir_fd=parent, dst_dir_fd=parent)

    # --- removing ----------------------------------------------------------------------------------------------

    def remove_trees(self, paths: Iterable[PurePosixPath]) -> None:
        sweeper = Sweeper(self._effects)
        with self._folders() as folders:
            for path in paths:
                above, name = _split(path)
                with self._at(path):
                    parent = folders.find(above)
                    if parent is not None:
                        self._remove(parent, name)
                        sweeper.sweep(parent, above, name)

    def _remove(self, parent: int, name: str) -> None:
        """A folder vanishes at once, by a hidden name; a half-removed one is never seen."""
        found = find_status(parent, name)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            name = self._hidden_to_remove(parent, name)
        remove_entry(parent, name, self._effects)

    def _hidden_to_remove(self, parent: int, name: str) -> str:
        """Its hidden name; its own where the folder that it lies in cannot grow by a longer one, for want of room."""
        hidden = hidden_name(name)
        try:
            with self._effects.around("file.rename", name):
                os.rename(name, hidden, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            if error.errno in FULL:
                return name
            raise
        return hidden

    def _discard(self, parent: int, hidden: str) -> None:
        """Away with what was being made; that it cannot be removed is not what went wrong."""
        with suppress(OSError):
            remove_entry(parent, hidden, self._effects)

    # --- common ------------------------------------------------------------------------------------------------

    def _folders(self) -> Folders:
        return Folders.below(self._base, self._effects)

    @contextmanager
    def _at(self, path: PurePosixPath) -> Iterator[None]:
        with errors_at(encode_name(str(self._base / path))):
            yield

    def _sync(self, folder: int, parts: Parts) -> None:
        with self._effects.around("file.fsync", "/".join(parts)):
            os.fsync(folder)

    def _sync_all(self, folders: Folders, changed: Collection[Parts]) -> None:
        """Flush folders whose entries have changed; of many their file systems."""
        if len(changed) > MANY and syncfs_tells():
            with self._at(PurePosixPath()), self._effects.around("file.syncfs", f"{len(changed)} folders"):
                _sync_around(folders, changed)
            return
        for parts in changed:
            with self._at(PurePosixPath(*parts)):
                self._sync(folders.get(parts), parts)


class _Together(LocalWorkFiles):
    """Receives packages without flushing each: they stay hidden and locked until one flush has brought all to disk."""

    _flushes = False

    def __init__(self, base_dir: Path, effects: Effects, *, seen_as: PurePosixPath | None = None) -> None:
        super().__init__(base_dir, effects, seen_as=seen_as)
        self._one_sweeper = Sweeper(effects)
        self._hidden: list[tuple[PurePosixPath, str, int]] = []
        self._shown = 0

    def _sweeper(self) -> Sweeper:
        """Hundreds of packages lie in the same folder, which is listed once."""
        return self._one_sweeper

    def _filled(self, parent: int, hidden: str, target: PurePosixPath) -> None:
        self._hidden.append((target, hidden, _locked(parent, hidden)))

    def show_all(self) -> None:
        """Errors: as those of receiving one; then what was not renamed vanishes."""
        if not self._hidden:
            return
        with self._folders() as folders:
            with self._at(PurePosixPath()), self._effects.around("file.syncfs", f"{len(self._hidden)} packages"):
                sync_file_systems(descriptor for _, _, descriptor in self._hidden)
            for target, hidden, _ in self._hidden:
                above, name = _split(target)
                with self._at(target):
                    self._put(folders.get(above), hidden, name)
                self._shown += 1
            self._sync_all(folders, dict.fromkeys(_split(target)[0] for target, _, _ in self._hidden))

    def close(self) -> None:
        with self._folders() as folders:
            for number, (target, hidden, descriptor) in enumerate(self._hidden):
                os.close(descriptor)
                if number >= self._shown:
                    self._discard(folders.make(_split(target)[0]), hidden)


class UnlinkableError(CcatwmError):
    """A link or a special file, where files and folders alone are linked."""


@contextmanager
def _folder_at(path: PurePosixPath) -> Iterator[int]:
    """A folder outside the base directory, to read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _counted(parent: int, name: str) -> tuple[int, int] | None:
    """Files and bytes of a tree; None where it is none."""
    folder = find_folder(parent, name)
    if folder is None:
        return None
    try:
        files = [found.st_size for found in statuses(folder) if stat.S_ISREG(found.st_mode)]
    finally:
        os.close(folder)
    return len(files), sum(files)


class _Count:
    """Files and bytes of a tree while it is linked, and what it should have."""

    def __init__(self, path: PurePosixPath, whole: tuple[int, int] | None) -> None:
        self._path = path
        self._whole = whole
        self._sizes: list[tuple[bytes, int]] = []
        self.files = self.bytes = 0

    def add(self, path: bytes, size: int) -> None:
        self.files += 1
        self.bytes += size
        self._sizes.append((path, size))

    def lines(self, target: PurePosixPath, most: int) -> bytes | None:
        """What was linked there, as `core.input_lists` has it; None for more than `most` bytes."""
        above = os.fsencode(target)
        if sum(len(path) for path, _ in self._sizes) + self.files * (len(above) + 2) > most:
            return None
        return b"".join([input_line(above + path, size) for path, size in self._sizes])

    def compare(self) -> None:
        """Errors: IncompleteTreeError."""
        if self._whole is not None and self._whole != (self.files, self.bytes):
            files, size = self._whole
            raise IncompleteTreeError(
                f"{encode_name(str(self._path))} has {self.files} files of {self.bytes} bytes, {files} of {size} bytes "
                "expected"
            )


@contextmanager
def _whole_or_not(path: PurePosixPath, whole: tuple[int, int] | None) -> Iterator[_Count]:
    """Counts what is linked inside; where it must be whole, what vanishes meanwhile makes it incomplete."""
    try:
        yield _Count(path, whole)
    except FileNotFoundError as error:
        if whole is None:
            raise
        raise IncompleteTreeError(f"{encode_name(str(path))} is gone, or lost files while it was linked") from error


def _parts(path: PurePosixPath) -> Parts:
    """Its components. Errors: ValueError for a path that is absolute or climbs."""
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"not a path below the base directory: {path}")
    return path.parts


def _split(path: PurePosixPath, base_name: str = "") -> tuple[Parts, str]:
    """(components of the folder, name). The base directory itself has no name to make, write or remove."""
    parts = _parts(path)
    if not parts and not base_name:
        raise ValueError("the base directory itself is not to be changed")
    return parts[:-1], parts[-1] if parts else base_name


def _write_new(parent: int, name: str, file: FileWrite) -> int:
    """The new file's descriptor, written, not yet flushed; locked, so that nobody sweeps it away."""
    descriptor = os.open(name, NEW_FILE, file.mode, dir_fd=parent)
    try:
        is_locked(descriptor)
        write_all(descriptor, file.content)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync_around(folders: Folders, written: Iterable[Parts]) -> None:
    """Flush the file systems that these folders lie on, each once."""
    seen: set[int] = set()
    for parts in written:
        descriptor = folders.get(parts)
        device = os.fstat(descriptor).st_dev
        if device not in seen:
            sync_file_systems([descriptor])
            seen.add(device)


def _locked(parent: int, name: str) -> int:
    """A descriptor that keeps others from sweeping away what was made under a hidden name."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    is_locked(descriptor)
    return descriptor


@contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link_target(parent: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return None


def _measure(folder: int, names: Counter[tuple[int, int]]) -> TreeSize:
    """Each file once, freed with the last of its names; `names` are those that were met before."""
    size, inodes, freed_size, freed_inodes, files = 0, 1, 0, 1, 0
    here: set[tuple[int, int]] = set()
    for found in statuses(folder):
        is_folder, one = stat.S_ISDIR(found.st_mode), (found.st_dev, found.st_ino)
        length = found.st_size if stat.S_ISREG(found.st_mode) else 0
        files += stat.S_ISREG(found.st_mode)
        names[one] += not is_folder and found.st_nlink > 1
        if one not in here:
            size, inodes = size + length, inodes + 1
        if is_folder or names[one] == found.st_nlink or found.st_nlink == 1:
            freed_size, freed_inodes = freed_size + length, freed_inodes + 1
        here.add(one)
    return TreeSize(size, inodes, freed_size, freed_inodes, files)


def _read(parent: int, name: str, max_bytes: int, *, tail: bool) -> bytes | None:
    descriptor = find_regular(parent, name)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as stream:
        size = os.fstat(descriptor).st_size
        if tail:
            stream.seek(max(0, size - max_bytes))
        return stream.read(min(max_bytes, size))  # as much memory is taken as is asked for


def _hash(parent: int, name: str, algorithm: str) -> tuple[int, str] | None:
    descriptor = find_regular(parent, name)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
        return stream.tell(), digest.hexdigest()
