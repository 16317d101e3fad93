"""Images and reference data on this host. Touches: those files (read), a small memory of digests below STATE_DIR."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ccatwm.core.digests import tree_digest
from ccatwm.edges.hostfiles._memory import DigestMemory
from ccatwm.interfaces import Effects


class BareHostFiles:
    """`HostFiles` without a memory: every digest is a whole reading."""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def digest(self, path: str) -> str | None:
        try:
            if os.path.isdir(path):
                return f"sha256:{_tree_hex(path)}"
            return f"sha256:{_hex(path)}" if os.path.isfile(path) else None
        except OSError:
            return None

    def fingerprint(self, path: str) -> str | None:
        """What changes with the content of `path`: size, inode, change time, of a folder those of all files below.
        None where nothing is."""
        try:
            if not os.path.isdir(path):
                return _seen(path)
            seen = hashlib.sha256()
            for name in _names(path):
                seen.update(os.fsencode(f"{name}\0{_seen(os.path.join(path, name))}\n"))
            return seen.hexdigest()
        except OSError:
            return None


def _seen(path: str) -> str:
    found = os.stat(path)
    return f"{found.st_size}\0{found.st_ino}\0{found.st_mtime_ns}"


def _names(folder: str) -> list[str]:
    """Files below, relative to `folder`, sorted by their bytes."""
    found = (os.path.join(above, name) for above, _, names in os.walk(folder) for name in names)
    return sorted((os.path.relpath(path, folder) for path in found), key=os.fsencode)


def _tree_hex(folder: str) -> str:
    files = [(name, os.path.join(folder, name)) for name in _names(folder)]
    return tree_digest((os.fsencode(n), os.stat(p).st_size, _hex(p)) for n, p in files if os.path.isfile(p))


def _hex(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class LocalHostFiles:
    """`HostFiles` of this host; digests are remembered."""

    def __init__(self, state_dir: Path, effects: Effects) -> None:
        self._files = BareHostFiles()
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
