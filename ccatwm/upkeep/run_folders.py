"""Which run directories and submissions lie below a base directory, whatever the ops-db says. Touches: files (read)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from ccatwm.core.reconciling import RUN_DEPTH, parse_attempt_name, parse_run_directory
from ccatwm.core.staging import SUBMISSIONS
from ccatwm.interfaces import WorkFiles

TOGETHER = 500


def find_run_folders(files: WorkFiles) -> list[str]:
    """Run directories, by their names alone; nothing below them is read."""
    return runs_among(find_levels(files))


def find_levels(files: WorkFiles) -> list[list[PurePosixPath]]:
    """Folders of pipelines, of steps, of sub-groups, and those in these."""
    levels = [[PurePosixPath()]]
    for _ in range(RUN_DEPTH):
        levels.append(list(_below(files, levels[-1])))
    return levels[1:]


def runs_among(levels: Sequence[Sequence[PurePosixPath]]) -> list[str]:
    """Run directories among the folders of all levels."""
    return [str(path) for path in levels[-1] if parse_run_directory(str(path)) is not None]


def _below(files: WorkFiles, folders: Iterable[PurePosixPath]) -> Iterator[PurePosixPath]:
    """The folders in these, but for hidden ones, which are no pipelines and no runs."""
    for folder, names in files.list_folders(folders).items():
        yield from (folder / name for name in names if not name.startswith("."))


def find_attempts(files: WorkFiles, run_folders: Iterable[str]) -> dict[str, list[int]]:
    """Numbers of the attempts in each run directory."""
    return list_attempts(files.list_folders(PurePosixPath(folder) for folder in run_folders))


def list_attempts(found: Mapping[PurePosixPath, Iterable[str]]) -> dict[str, list[int]]:
    """The same from the names of the folders in each run directory."""
    return {
        str(folder): sorted(n for name in names if (n := parse_attempt_name(name)) is not None)
        for folder, names in found.items()
    }


def find_tokens(files: WorkFiles) -> list[str]:
    """Submissions that have files."""
    return [name for name in files.list_folders([SUBMISSIONS])[SUBMISSIONS] if not name.startswith(".")]


def last_run_id(files: WorkFiles) -> int:
    """The greatest id that a run directory has; 0 without any."""
    return max((parse_run_directory(folder) or 0 for folder in find_run_folders(files)), default=0)
