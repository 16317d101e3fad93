"""Records of published sets below the base directory. Touches: files below the base directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ccatwm.core.set_records import (
    FOLDER,
    SetRecord,
    build_record,
    differing_words,
    has_same_products,
    parse_record,
    record_path,
    recorded_name,
    words_command,
)
from ccatwm.errors import CcatwmError, UsageError
from ccatwm.interfaces import FileWrite, WorkFiles

log = logging.getLogger("ccatwm.upkeep.set_records")
LARGEST_BYTES = 1 << 30
IMPORT = "`ccatwm fsck --import` makes its row again, where its products have theirs"


class Recorded(NamedTuple):
    """A record that lies there: what it says, or None and what is wrong with it."""

    record: SetRecord | None
    problem: str


def list_recorded(files: WorkFiles) -> list[str]:
    """Names of sets that have a record."""
    return [name for file in files.list_others([FOLDER])[FOLDER] if (name := recorded_name(file)) is not None]


def read_recorded(files: WorkFiles, names: Iterable[str], uid: str) -> dict[str, Recorded]:
    """By name, without those that have no record."""
    paths = {record_path(name): name for name in names}
    content = files.read_files(paths, max_bytes=LARGEST_BYTES) if paths else {}
    return {
        paths[path]: Recorded(*parse_record(text, paths[path], uid)) for path, text in content.items() if text is not None
    }


def write_record(files: WorkFiles, row: Mapping[str, Any], uid: str) -> None:
    """Put the record of a set in its place, as the ops-db keeps the set."""
    files.make_trees([FOLDER])
    files.write_files([FileWrite(record_path(row["name"]), build_record(row, uid))])


def taken_error(name: str, found: Recorded) -> UsageError:
    """For a new set whose name a record has that the ops-db knows no set of."""
    where, record = str(record_path(name)), found.record
    if record is None:
        return UsageError(
            f"the record of a set {name} lies there, and is damaged: {found.problem}", where=where,
            next="bring it back from a backup of the base directory, or take another name",
        )  # fmt: skip
    return UsageError(
        f"{name} was published by {record.actor} on {record.created_at:%Y-%m-%d}, and the ops-db does not know it any "
        "more: it was restored from a backup of before", where=where, next=f"{IMPORT}; or take another name",
    )  # fmt: skip


@dataclass(frozen=True)
class SetRecords:
    """Where `publish` leaves its records. `uid`: of the ops-db."""

    make_files: Callable[[], WorkFiles]
    uid: str

    def find(self, name: str) -> Recorded | None:
        """What lies there of a set; also None where nobody can look: who cannot leaves no record, and is told then."""
        try:
            return read_recorded(self.make_files(), [name], self.uid).get(name)
        except CcatwmError:
            return None

    def keep(self, row: Mapping[str, Any], said: Collection[str]) -> None:
        """Leave the record of a set, where none says the same. `said`: words that a person has given just now; others
        that the record has otherwise, and other products, stay in it and are told."""
        try:
            self._keep(row, said)
        except CcatwmError as error:  # the set is published all the same
            log.warning(
                "%s is published, and its record %s is not written: %s; `ccatwm fsck --yes --reason TEXT` writes it",
                row["name"], record_path(row["name"]), error.message,
            )  # fmt: skip

    def _keep(self, row: Mapping[str, Any], said: Collection[str]) -> None:
        files = self.make_files()
        found = read_recorded(files, [row["name"]], self.uid).get(row["name"])
        if found is not None and found.record is not None:
            words = differing_words(found.record, row)
            if not has_same_products(found.record, row["products"]):
                log.warning("%s is of other products than the ops-db has in the set", record_path(row["name"]))
                return
            if unsaid := [key for key in words if key not in said]:
                log.warning(
                    "%s has another %s than the ops-db, and stays; %s says that of the record",
                    record_path(row["name"]), " and ".join(unsaid), words_command(found.record, unsaid),
                )  # fmt: skip
                return
            if not words:
                return
        write_record(files, row, self.uid)
