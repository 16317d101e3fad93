"""Sees which files below some folders are opened, whoever does it and by whatever mount. Touches: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

IN_OPEN, IN_Q_OVERFLOW, IN_ISDIR = 0x20, 0x4000, 0x40000000
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
HEADER = struct.Struct("iIII")


class OpenedFiles:
    """Watches folders from now on; `why_blind` says why it sees nothing, or is empty."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.why_blind = ""
        self._seen: set[Path] = set()
        self._folders: dict[int, Path] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self._number: int = libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._number < 0:
            self._give_up()
            return
        for folder in folders:
            for name, _, _ in os.walk(folder):
                watch = libc.inotify_add_watch(self._number, os.fsencode(name), IN_OPEN)
                if watch < 0:
                    self._give_up()
                    return
                self._folders[watch] = Path(name)

    def _give_up(self) -> None:
        self.why_blind = f"opened files cannot be watched here ({os.strerror(ctypes.get_errno())})"

    def take(self) -> None:
        """Read what has happened; often enough that the kernel's queue does not overflow."""
        while not self.why_blind:
            try:
                content = os.read(self._number, 1 << 16)
            except BlockingIOError:
                return
            self._read(content)

    def _read(self, content: bytes) -> None:
        place = 0
        while place < len(content):
            watch, mask, _, length = HEADER.unpack_from(content, place)
            name = content[place + HEADER.size : place + HEADER.size + length].rstrip(b"\0")
            place += HEADER.size + length
            if mask & IN_Q_OVERFLOW:
                self.why_blind = "more files were opened than the kernel could tell"
            elif name and not mask & IN_ISDIR and watch in self._folders:
                self._seen.add(self._folders[watch] / os.fsdecode(name))

    def close(self) -> frozenset[Path] | None:
        """The files that were opened, or None if it could not be seen."""
        self.take()
        if self._number >= 0:
            os.close(self._number)
        return None if self.why_blind else frozenset(self._seen)
