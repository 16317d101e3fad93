"""Images and reference data on this host. Touches: those files (read), a small memory of digests below STATE_DIR."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ccatwm.core.digests import tree_digest
from ccatwm.edges.hostfiles._memory import DigestMemory
from ccatwm.interfaces import NO_PROGRESS, Effects, Progress

READ_BYTES = 1 << 20


class BareHostFiles:
    """`HostFiles` without a memory: every digest is a whole reading."""

    def __init__(self, progress: Progress = NO_PROGRESS) -> None:
        self._progress = progress

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def digest(self, path: str) -> str | None:
        try:
            if os.path.isdir(path):
                return f"sha256:{self._tree_hex(path)}"
            return f"sha256:{self._hex([path], path, os.path.getsize(path))[0]}" if os.path.isfile(path) else None
        except OSError:
            return None

    def _tree_hex(self, folder: str) -> str:
        names = [name for name in names_below(folder) if os.path.isfile(os.path.join(folder, name))]
        paths = [os.path.join(folder, name) for name in names]
        sizes = [os.path.getsize(path) for path in paths]
        sums = self._hex(paths, folder, sum(sizes))
        return tree_digest((os.fsencode(n), size, sha) for n, size, sha in zip(names, sizes, sums, strict=True))

    def _hex(self, paths: Sequence[str], what: str, total: int) -> list[str]:
        with self._progress.begin(f"checksum of {os.path.basename(what)}", total, "bytes") as bar:
            return [file_hex(path, bar.advance) for path in paths]

    def fingerprint(self, path: str) -> str | None:
        """What changes with the content of `path`: size, inode, change time, of a folder those of all files below.
        None where nothing is."""
        try:
            if not os.path.isdir(path):
                return _seen(path)
            seen = hashlib.sha256()
            for name in names_below(path):
                seen.update(os.fsencode(f"{name}\0{_seen(os.path.join(path, name))}\n"))
            return seen.hexdigest()
        except OSError:
            return None


def _seen(path: str) -> str:
    found = os.stat(path)
    return f"{found.st_size}\0{found.st_ino}\0{found.st_mtime_ns}"


def names_below(folder: str, refuse: Callable[[OSError], None] | None = None) -> list[str]:
    """Files below, relative to `folder`, sorted by their bytes. `refuse` is told of a folder that cannot be read."""
    found = (os.path.join(above, name) for above, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted((os.path.relpath(path, folder) for path in found), key=os.fsencode)


def file_hex(path: str, read: Callable[[int], None]) -> str:
    """SHA-256 of a file; `read` is told of every piece, in bytes. Errors: OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            read(len(piece))
    return digest.hexdigest()


class LocalHostFiles:
    """`HostFiles` of this host; digests are remembered."""

    def __init__(self, state_dir: Path, effects: Effects, progress: Progress = NO_PROGRESS) -> None:
        self._files = BareHostFiles(progress)
        self._memory = DigestMemory(state_dir / "file-digests.json", effects)

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def digest(self, path: str) -> str | None:
        fingerprint = self._files.fingerprint(path)
        if fingerprint is None:
            return None
        digest = self._memory.find(path, fingerprint) or self._files.digest(path)
        if digest is not None and self._memory.find(path, fingerprint) is None:
            self._memory.record(path, fingerprint, digest)
        return digest
