"""What the kernel does with files beyond Python's own functions, and its errors as errors of this project.

Touches: files by descriptor and name, never by a path that could lead elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ccatwm.errors import (
    CcatwmError,
    FilesUnavailableError,
    NoSpaceError,
    NotPermittedError,
    OtherFileSystemError,
)

BLOCK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
# EROFS: a file system that had an error is mounted read-only, or is about to be taken away.
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EROFS)
DENIED = (errno.EACCES, errno.EPERM)
_GIVE_RIGHT = "let the account that ccatwm works by there read and change all that lies below (chown, chmod)"
NOT_THERE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
)  # O_NOFOLLOW says ELOOP, with O_DIRECTORY ENOTDIR, of a link
UNSUPPORTED = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES,
               errno.EINVAL, errno.ENOTTY, errno.ENOSYS)  # fmt: skip
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
FICLONE = 0x40049409  # ioctl_ficlone(2)
CLONED_BYTES = 1 << 16  # that are tried: some file systems keep less beside the name, where it is not shared
RENAME_NOREPLACE = 1  # renameat2(2)


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Errors of the system inside, as errors of this project that say where."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise NoSpaceError(
                f"{reason}: {where}", next="free space or inodes there, or raise the quota"
            ) from error
        if error.errno in AWAY:
            raise FilesUnavailableError(f"the file system did not answer: {where}: {reason}") from error
        if error.errno in DENIED:
            raise NotPermittedError(f"{where}: {reason}", next=_GIVE_RIGHT) from error
        if error.errno == errno.EXDEV:
            raise OtherFileSystemError(f"{where}: it lies on another file system") from error
        raise CcatwmError(f"{where}: {reason}") from error


def find_folder(parent: int, name: str) -> int | None:
    """A descriptor of a folder, or None where there is none: a link to one is none."""
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def find_status(parent: int, name: str) -> os.stat_result | None:
    """lstat(2), or None where nothing is."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def find_regular(parent: int, name: str) -> int | None:
    """A descriptor of a regular file to read, or None: links and special files are not opened."""
    found = find_status(parent, name)
    if found is None or not stat.S_ISREG(found.st_mode):
        return None
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        if error.errno in (*NOT_THERE, errno.ENXIO):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def write_all(descriptor: int, data: bytes) -> None:
    """Every byte, however many calls it takes: a nearly full disk takes a part first."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def close_checked(descriptor: int, act: Callable[[int], Any]) -> None:
    """Do `act` and close, both with their errors: network file systems tell of a full disk at close."""
    try:
        act(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)


def rename_new(old_parent: int, old: str, new_parent: int, new: str) -> bool:
    """Rename without replacing; False if `new` is there already."""
    code = _renameat2(old_parent, old, new_parent, new)
    if code == 0:
        return True
    if code == errno.EEXIST:
        return False
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code))
    if find_status(new_parent, new) is not None:  # no such flag here (NFS): names have one writer each
        return False
    os.rename(old, new, src_dir_fd=old_parent, dst_dir_fd=new_parent)
    return True


def _renameat2(old_parent: int, old: str, new_parent: int, new: str) -> int:
    function = _libc_function("renameat2")
    if function is None:
        return errno.ENOSYS
    if function(old_parent, os.fsencode(old), new_parent, os.fsencode(new), RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()


@cache
def _libc_function(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


@cache
def syncfs_tells() -> bool:
    """Whether syncfs(2) is there and tells of blocks that could not be written: since Linux 5.8, says its manual."""
    version = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return version >= (5, 8) and _libc_function("syncfs") is not None


def sync_file_systems(descriptors: Iterable[int]) -> None:
    """Flush every file system that one of the descriptors lies on. Errors: OSError."""
    for descriptor in {os.fstat(descriptor).st_dev: descriptor for descriptor in descriptors}.values():
        if _libc_function("syncfs")(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def tell_errors(descriptor: int) -> None:
    """What close(2) would tell, while the file stays open: network file systems flush at the close of any duplicate."""
    os.close(os.dup(descriptor))


def is_locked(descriptor: int) -> bool:
    """Whether a living process holds it; where there are no locks, nobody is known to."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def link_or_copy(old_parent: int, old: str, new_parent: int, new: str, *, hard: bool) -> None:
    """The file under a second name: hard link, else reflink, else copy."""
    if hard:
        try:
            os.link(old, new, src_dir_fd=old_parent, dst_dir_fd=new_parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
    source = find_regular(old_parent, old)
    if source is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
    try:
        mode = 0o444 | (os.fstat(source).st_mode & 0o111)
        target = os.open(new, NEW_FILE, mode, dir_fd=new_parent)
        close_checked(target, lambda target: _fill(source, target, mode))
    finally:
        os.close(source)


def can_clone_at(folder: str | os.PathLike[str]) -> bool:
    """Whether files there can share their blocks, as one tries on two that never get a name."""
    try:
        with _unnamed(folder) as source, _unnamed(folder) as target:
            write_all(source, bytes(CLONED_BYTES))
            return _clone(source, target)
    except OSError:
        return False


@contextmanager
def _unnamed(folder: str | os.PathLike[str]) -> Iterator[int]:
    """A file there without a name: gone with its descriptor."""
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _clone(source: int, target: int) -> bool:
    """Whether `target` has the blocks of `source` now; False where the file system shares none."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def _fill(source: int, target: int, mode: int) -> None:
    if not _clone(source, target):
        _copy(source, target)
    os.fchmod(target, mode)
    os.fsync(target)


def _copy(source: int, target: int) -> None:
    size = 0
    while data := os.read(source, BLOCK):
        write_all(target, data)
        size += len(data)
    if size != os.fstat(source).st_size:
        raise CcatwmError("a file changed while it was copied")


def make_writable(parent: int, name: str) -> None:
    """chmod u+rwx of the folder itself: by a descriptor, since chmod(2) would follow a link put in its place."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.chmod(f"/proc/self/fd/{descriptor}", mode | 0o700)
    finally:
        os.close(descriptor)
