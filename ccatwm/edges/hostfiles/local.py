"""Images and reference data on this host. Touches: those files (read), a small memory of digests below STATE_DIR."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ccatwm.core.digests import tree_digest
from ccatwm.interfaces import Effects


class LocalHostFiles:
    """Digests are remembered by path, size, inode and change time: an image of some GB is read once."""

    def __init__(self, state_dir: Path, effects: Effects) -> None:
        self._memory = state_dir / "file-digests.json"
        self._effects = effects

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def digest(self, path: str) -> str | None:
        key = _identity(path)
        if key is None:
            return None
        known = self._read()
        if key not in known:
            digest = _sha256(path) if os.path.isfile(path) else _tree_sha256(path)
            if digest is None:
                return None
            self._remember(known, path, key, digest)
            return digest
        return known[key]

    def _read(self) -> dict[str, str]:
        try:
            data = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _remember(self, known: dict[str, str], path: str, key: str, digest: str) -> None:
        kept = {k: v for k, v in known.items() if k.partition("\0")[0] != path} | {key: digest}
        temporary = self._memory.with_name(f".{self._memory.name}.{os.getpid()}")
        with self._effects.around("file.write", str(self._memory)):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(temporary, self._memory)


def _identity(path: str) -> str | None:
    """What changes when the file or a file of the folder does; None where there is neither."""
    try:
        stat = os.stat(path)
        if not os.path.isdir(path):
            return f"{path}\0{stat.st_size}\0{stat.st_ino}\0{stat.st_mtime_ns}"
        seen = hashlib.sha256()
        for name in _names(path):
            found = os.stat(os.path.join(path, name))
            seen.update(os.fsencode(f"{name}\0{found.st_size}\0{found.st_ino}\0{found.st_mtime_ns}\n"))
    except OSError:
        return None
    return f"{path}\0{seen.hexdigest()}"


def _names(folder: str) -> list[str]:
    """Files below, relative to `folder`, sorted by their bytes."""
    found = (os.path.join(above, name) for above, _, names in os.walk(folder) for name in names)
    return sorted((os.path.relpath(path, folder) for path in found), key=os.fsencode)


def _tree_sha256(folder: str) -> str | None:
    try:
        files = [(name, os.path.join(folder, name)) for name in _names(folder)]
        entries = [(os.fsencode(n), os.stat(p).st_size, _hex(p)) for n, p in files if os.path.isfile(p)]
    except OSError:
        return None
    return f"sha256:{tree_digest(entries)}"


def _sha256(path: str) -> str | None:
    try:
        return f"sha256:{_hex(path)}"
    except OSError:
        return None


def _hex(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
