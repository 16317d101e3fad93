"""Gives a Python on the processing host the modules it needs, from memory. Touches: `sys.meta_path` there.

Runs alone there: the standard library is all it has. Nothing is installed and nothing is written.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import zlib
from collections.abc import Sequence
from types import ModuleType


class SentModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds modules among sources that were sent: `{name: (is a package, source)}`.

    A `ccatwm` that is installed there is of another release, perhaps: nothing of it is ever taken.
    """

    def __init__(self, sources: dict[str, tuple[bool, str]]) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "ccatwm":
            return None
        if name not in self._sources:
            raise ModuleNotFoundError(f"{name} was not sent to the processing host", name=name)
        return importlib.machinery.ModuleSpec(
            name, self, origin=f"<sent>/{name}", is_package=self._sources[name][0]
        )

    def get_source(self, name: str) -> str:
        return self._sources[name][1]

    def is_package(self, name: str) -> bool:
        return self._sources[name][0]


def serve_sent() -> None:
    """Read the sources from stdin, import the agent from them, and let it serve stdin and stdout."""
    stream = sys.stdin.buffer
    sources = json.loads(zlib.decompress(stream.read(int.from_bytes(stream.read(8), "big"))))
    sys.meta_path.insert(0, SentModules(sources))
    importlib.import_module("ccatwm.agent").serve()
