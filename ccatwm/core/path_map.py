"""Paths of a shared file system that has another name on the processing host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath


def path_there(path: str, path_map: Mapping[str, str]) -> str:
    """`path` as the processing host names it: by the longest of our paths in `path_map` that it lies in, else as it is."""
    parts = PurePosixPath(path)
    best = max(
        (PurePosixPath(ours) for ours in path_map if parts.is_relative_to(ours)),
        key=lambda ours: len(ours.parts),
        default=None,
    )
    if best is None:
        return path
    theirs = next(theirs for ours, theirs in path_map.items() if PurePosixPath(ours) == best)
    return str(PurePosixPath(theirs) / parts.relative_to(best))
