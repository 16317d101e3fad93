"""Says where a recorded path lies, from the site that asks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ccatwm.core.names import decode_name


@dataclass(frozen=True)
class Places:
    """The base directories that one site knows: its own, and those its settings name.

    `here`: the processing location that this site serves. `roots`: base directory by name of another one
    (`locations.NAME.root`). Sites that share an ops-db each have a base directory, and none knows another's by itself.
    """

    here: str
    base_dir: PurePosixPath
    roots: Mapping[str, str] = field(default_factory=dict)

    def path(self, location: str, recorded: str | None) -> str | None:
        """The absolute path of what was recorded below the base directory of `location`, as the name is on disk.

        None where nothing was recorded, or where this site does not know that base directory.
        """
        base_dir = self.base_dir if location == self.here else self.roots.get(location)
        if recorded is None or base_dir is None:
            return None
        return str(PurePosixPath(base_dir) / decode_name(recorded))


def told_path(location: str, path: str | None, relative_path: str | None) -> str | None:
    """A path for people: `NAME:relative/path` where the base directory of location NAME is not known here."""
    if path is not None or relative_path is None:
        return path
    return f"{location}:{relative_path}"
