"""Images and reference data on this host. Touches: those files (read), a small memory of digests below STATE_DIR."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ccatwm.interfaces import Effects


class LocalHostFiles:
    """Digests are remembered by path, size, inode and change time: an image of some GB is read once."""

    def __init__(self, state_dir: Path, effects: Effects) -> None:
        self._memory = state_dir / "file-digests.json"
        self._effects = effects

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def digest(self, path: str) -> str | None:
        try:
            stat = os.stat(path)
        except OSError:
            return None
        key = f"{path}\0{stat.st_size}\0{stat.st_ino}\0{stat.st_mtime_ns}"
        known = self._read()
        if key not in known:
            digest = _sha256(path)
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


def _sha256(path: str) -> str | None:
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError:
        return None
