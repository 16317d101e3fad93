"""Remembers digests of large files by what identifies their content. Touches: one file below STATE_DIR."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ccatwm.interfaces import Effects


class DigestMemory:
    """`sha256:hex` by (path, fingerprint): an image of some GB is read once. A memory that is lost costs time only."""

    def __init__(self, file: Path, effects: Effects) -> None:
        self._file = file
        self._effects = effects

    def find(self, path: str, fingerprint: str) -> str | None:
        return self._read().get(f"{path}\0{fingerprint}")

    def record(self, path: str, fingerprint: str, digest: str) -> None:
        """In place of what was known of `path`."""
        kept = {key: value for key, value in self._read().items() if key.partition("\0")[0] != path}
        kept[f"{path}\0{fingerprint}"] = digest
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with self._effects.around("file.write", str(self._file)):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(temporary, self._file)

    def _read(self) -> dict[str, str]:
        try:
            data = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}
