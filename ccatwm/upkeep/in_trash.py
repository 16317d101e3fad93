"""Finds outputs in the trash that no row speaks of, as after a restore. Touches: files, the ops-db (read)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ccatwm.core.integrity import GoneOutput, clues_of, is_whole
from ccatwm.core.model import EntryKind, TreeEntry
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores.integrity import known_trash
from ccatwm.edges.opsdb.stores.trash import FOLDER
from ccatwm.errors import NO_FAULT_OF_A_RUN, CcatwmError
from ccatwm.interfaces import WorkFiles

log = logging.getLogger("ccatwm.upkeep.in_trash")
TRASH = PurePosixPath(FOLDER)
TOGETHER = 50  # folders that are listed at once


def hash_entries(files: WorkFiles, folder: PurePosixPath, entries: Iterable[TreeEntry]) -> dict[PurePosixPath, str]:
    """sha256 (hex) of the files among these, by path below `folder`."""
    paths = [entry.path for entry in entries if entry.kind is EntryKind.FILE]
    found = files.hash_files(folder / path for path in paths)
    return {path: summed[1] for path in paths if (summed := found[folder / path]) is not None}


def find_held(
    files: WorkFiles, folder: PurePosixPath, entries: Sequence[TreeEntry], likely: Sequence[GoneOutput]
) -> GoneOutput | None:
    """The output that a folder holds, of the run made first: all of its products are there, byte by byte."""
    sized = sorted((output for output in likely if is_whole(output, entries)), key=lambda output: output.run_id)
    hashes = hash_entries(files, folder, entries) if sized else {}
    return next((output for output in sized if is_whole(output, entries, hashes)), None)


def move_back(files: WorkFiles, folder: PurePosixPath, output: PurePosixPath) -> bool:
    """From the trash to its place; False where it cannot be moved, or something is there already."""
    try:
        return files.rename(folder, output)
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        log.warning("%s stays in the trash: %s", folder, error.message)
        return False


class TrashSearch:
    """What lies in the trash that no row speaks of. It is listed once, and only where something is looked for."""

    def __init__(self, database: Database, files: WorkFiles) -> None:
        self._database, self._files = database, files
        self._by_clue: dict[tuple[PurePosixPath, int | None], list[PurePosixPath]] | None = None

    def bring_back(self, gone: GoneOutput) -> PurePosixPath | None:
        """From where an output was moved back to its place; None where it lies in no trash, or its place is not free."""
        there = self._files.exists([gone.output, gone.output.parent])
        if there[gone.output] or not there[gone.output.parent]:
            return None
        beside = self._unknown(gone.output.parents[1] / TRASH)
        for folder in [*self._with_clue(gone), *beside]:
            entries = self._files.list_tree(folder) or ()
            if find_held(self._files, folder, entries, [gone]) and move_back(self._files, folder, gone.output):
                return folder
        return None

    def _with_clue(self, gone: GoneOutput) -> list[PurePosixPath]:
        if self._by_clue is None:
            self._by_clue = {}
            folders = self._unknown(TRASH)
            for start in range(0, len(folders), TOGETHER):
                for folder, entries in self._files.list_trees(folders[start : start + TOGETHER]).items():
                    for clue in clues_of(entries or ()):
                        self._by_clue.setdefault(clue, []).append(folder)
        return self._by_clue.get(gone.clue, [])

    def _unknown(self, trash: PurePosixPath) -> list[PurePosixPath]:
        """Folders first: what is taken away meanwhile was written down before."""
        folders = [trash / name for name in self._files.list_folders([trash])[trash]]
        if not folders:
            return []
        with self._database.read() as connection:
            known = known_trash(connection)
        return [folder for folder in folders if str(folder) not in known]
