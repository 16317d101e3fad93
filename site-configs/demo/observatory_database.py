"""The observatory of `bin/demo --foreign`: its own PostgreSQL, and the software that writes there what was observed.

Touches: that database, as its owner. Nothing here knows of ccatwm, but for the role that its owner is asked for.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
from postgresql import ROLE, PostgreSql

FOLDER = Path(__file__).resolve().parent / "observatory"
OWNER = "observatory"
STATES = {"transferring": "IN_TRANSFER", "archived": "ARCHIVED"}
KINDS = {"long_term_archive": "LONG_TERM_ARCHIVE", "buffer": "BUFFER"}
Row = Mapping[str, Any]


class ObservatoryDatabase:
    """On a server of its own, and written by its owner."""

    def __init__(self, server: PostgreSql) -> None:
        self._server = server
        self._connection: Any = None

    def make(self, reduction: tuple[str, Path], static: Row) -> None:
        """Their tables, and all that is there before anything is observed.

        `reduction`: what they call the place where data are reduced, and its folder.
        """
        self._server.make()
        self._connection = psycopg2.connect(self._server.url_file.read_text().strip())
        self._connection.autocommit = True
        self._execute((FOLDER / "tables.sql").read_text())
        self._record_places(reduction, static)
        self._record_instruments(static)
        self._record_blocks(static)

    def grant(self) -> str:
        """The role that reads: its URL."""
        password = secrets.token_urlsafe(24)
        self._execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD %s", (password,))
        self._execute((FOLDER / "role.sql").read_text())
        return self._server.admit(ROLE, password)

    def observe(self, lines: Iterable[Row]) -> None:
        """What was observed, or archived, meanwhile."""
        record: Mapping[str, Callable[[Row], None]] = {
            "executed_obs_unit": self._record_scan, "raw_data_package": self._record_package,
        }  # fmt: skip
        for line in lines:
            record[line["kind"]](line)

    def dump(self) -> str:
        """All that is theirs, as text."""
        lines = self._server.dump("--exclude-schema=ccatwm").splitlines()
        return "\n".join(line for line in lines if not line.startswith("\\"))  # pg_dump has a key of its own each time

    # --- rows of theirs -------------------------------------------------------------------------------------

    def _record_places(self, reduction: tuple[str, Path], static: Row) -> None:
        numbers = {row["name"]: n for n, row in enumerate(static["sites"], 1)}
        for name, number in numbers.items():
            self._insert("site", site_no=number, short_name=name)
        for row in static["data_locations"]:
            self._insert(
                "storage_location", loc_uuid=key(row["name"]), site_no=numbers[row["site"]], label=row["name"],
                kind=KINDS[row["location_type"]], storage="POSIX", folder=row["base_path"], rank=row["priority"],
            )  # fmt: skip
        label, folder = reduction
        self._insert(
            "storage_location", loc_uuid=key(label), site_no=numbers["datacenter"], label=label, kind="PROCESSING",
            storage="POSIX", folder=str(folder), rank=0,
        )  # fmt: skip

    def _record_instruments(self, static: Row) -> None:
        for row in static["instruments"]:
            self._insert("instrument", code=row["name"], label=row["name"])
        for number, row in enumerate(static["instrument_modules"], 1):
            self._insert("receiver", receiver_no=number, instrument_code=row["instrument"], module_name=row["name"])

    def _record_blocks(self, static: Row) -> None:
        for row in static["sources"]:
            self._insert(
                "target", target_uuid=key(row["name"]), target_name=row["name"], target_class=row["kind"],
                ra_deg=row["ra_deg"], dec_deg=row["dec_deg"], entered_by="Ada",
            )  # fmt: skip
        for row in static["obs_units"]:
            source = row.get("source")
            self._insert(
                "observing_block", block_uuid=key(row["name"]), label=row["name"], spectral_line=row.get("line_id"),
                target_uuid=None if source is None else key(source), mode=row["obs_mode"], tiling=[1, 1],
            )  # fmt: skip

    def _record_scan(self, line: Row) -> None:
        name = line["name"]
        began = line["start_time"].removesuffix("+00:00")
        self._insert(
            "scan", scan_uuid=key(name), label=name, block_uuid=key(line["obs_unit"]), began=began, outcome="FINISHED",
            pwv_mm=0.42,
        )  # fmt: skip

    def _record_package(self, line: Row) -> None:
        """A package that is known already has come further: its row is changed."""
        name, facts = line["name"], {"lifecycle": STATES[line["state"]]}
        if "checksum" in line:
            facts |= {"sha256": line["checksum"].removeprefix("sha256:"), "n_bytes": line["size_bytes"]}
        changes = ", ".join(f"{column} = %s" for column in facts)
        self._execute(f"UPDATE data_package SET {changes}, changed = now() WHERE label = %s", [*facts.values(), name])
        module = line["instrument_module"].partition("/")[2]
        self._execute(
            "INSERT INTO data_package "
            "(package_uuid, label, scan_uuid, receiver_no, shift_leader, lifecycle, sha256, n_bytes) "
            "SELECT %s, %s, %s, receiver_no, 'Ada', %s, %s, %s FROM receiver WHERE module_name = %s ON CONFLICT DO NOTHING",
            [key(name), name, key(line["executed_obs_unit"]), facts["lifecycle"], facts.get("sha256"),
             facts.get("n_bytes"), module],
        )  # fmt: skip
        self._record_contents(name, line)

    def _record_contents(self, name: str, line: Row) -> None:
        if "observation" in line:
            document = json.dumps({"observation": line["observation"], "line": line["line"]})
            self._insert("package_metadata", metadata_uuid=key(f"{name} header"), package_uuid=key(name), document=document)
        for row in line.get("files", ()):
            self._insert(
                "raw_file", file_uuid=key(f"{name} {row['name']}"), package_uuid=key(name), path=row["name"],
                n_bytes=row["size_bytes"], sha256=row["checksum"].removeprefix("sha256:"),
            )  # fmt: skip
        for row in line.get("copies", ()):
            last = row["location"] == "buffer"  # what the archive has may go from there
            self._insert(
                "package_copy", copy_uuid=key(f"{name} {row['location']}"), package_uuid=key(name),
                loc_uuid=key(row["location"]), rel_path=row["path"], status="DELETION_POSSIBLE" if last else "PRESENT",
            )  # fmt: skip

    def _insert(self, table: str, **values: Any) -> None:
        columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        text = f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        self._execute(text, list(values.values()))

    def _execute(self, text: str, values: Sequence[Any] | None = None) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(text, values)


def key(name: str) -> str:
    """A UUID of theirs."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
