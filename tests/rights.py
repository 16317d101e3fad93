"""An account for which permissions count: root's powers over files are put away for a while."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
_CAPGET, _CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}.get(os.uname().machine, (0, 0))
_VERSION_3 = 0x20080522  # capget(2)
_OVER_FILES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: capabilities(7)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def ordinary_rights() -> Iterator[None]:
    """In this thread and those that it starts. Programs that it starts have root's powers again."""
    if os.geteuid() != 0:
        yield
        return
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _call(_CAPGET, header, data)
    kept = data[0]
    data[0] &= ~_OVER_FILES
    _call(_CAPSET, header, data)
    try:
        yield
    finally:
        data[0] = kept
        _call(_CAPSET, header, data)


def _call(number: int, *arguments: object) -> None:
    if _libc.syscall(number, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "the powers of this thread cannot be changed")


def close(path: Path) -> None:
    """Nobody but its owner may read it, who is somebody else; where this account may not give it away, nobody at all."""
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def open_again(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 0, 0, follow_symlinks=False)
    path.chmod(0o755)
