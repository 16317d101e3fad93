"""Images and reference data on the processing host. Touches: the connection, a memory of digests below STATE_DIR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ccatwm.core.path_map import path_there
from ccatwm.edges.hostfiles._memory import DigestMemory
from ccatwm.interfaces import Effects, RemoteCalls


class SshHostFiles:
    """`HostFiles` there. `path_map` maps our paths to those of the processing host; digests are remembered here."""

    def __init__(
        self, remote: RemoteCalls, state_dir: Path, path_map: Mapping[str, str], effects: Effects
    ) -> None:
        self._remote = remote
        self._map = path_map
        self._memory = DigestMemory(state_dir / "file-digests-there.json", effects)

    def exists(self, path: str) -> bool:
        return bool(self._remote.call("host", "exists", path=path_there(path, self._map)))

    def digest(self, path: str) -> str | None:
        there = path_there(path, self._map)
        fingerprint = self._remote.call("host", "fingerprint", path=there)
        if fingerprint is None:
            return None
        digest = self._memory.find(there, fingerprint)
        if digest is None:
            digest = self._remote.call("host", "digest", path=there)
            if digest is not None:
                self._memory.record(there, fingerprint, digest)
        return digest
