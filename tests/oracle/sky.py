"""What other software writes into the observation tables: plain rows, kept beside the databases that get them.

A change is made once in these lists, and noted; a site (`site.py`) then writes it into each of its databases.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

FIRST_NIGHT = datetime(2026, 4, 3, 22, 0, tzinfo=UTC)  # Chile ends daylight saving in the night to 5 April 2026
# Names that are safe in a path, that are not, and that are too long for a key.
SOURCES = ["NGC253", "a b", "α/β", "x" * 130, "x" * 129 + "y", "."]
MODES = [None, "map", 5, 1.5, True, "a+b=c"]
LINES = ["CO43", "CI", None]
STATES = ["waiting", "transferring", "archived", "failed"]

Row = dict[str, Any]


@dataclass
class Sky:
    """All observation rows by table and id, and the changes that the databases have not got yet."""

    tables: dict[str, dict[int, Row]] = field(default_factory=dict)
    pending: list[tuple[str, str, int, Row]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # raw data by their place
    made: Counter[str] = field(default_factory=Counter)  # rows by table: an id is never used again

    @staticmethod
    def with_first_rows(now: datetime) -> Sky:
        """Places, two modules and two obs units; nothing has been observed."""
        sky = Sky()
        sky.add("site", now, name="here")
        for name, kind, path in (("raw", "long_term_archive", "RAW"), ("local", "processing", "BASE")):
            sky.add("data_location", now, site_id=1, name=name, location_type=kind, storage_type="disk", base_path=path,
                    priority=1, active=True)  # fmt: skip
        instrument = sky.add("instrument", now, name="CHAI", available=True)
        for name in ("LFA", "HFA"):
            sky.add("instrument_module", now, name=name, instrument_id=instrument)
        for number in range(3):
            source = sky.add("source", now, name=SOURCES[number], kind="fixed")
            sky.add("obs_unit", now, name=f"unit {number}", source_id=source, line_id=LINES[number])
        return sky

    # --- rows -------------------------------------------------------------------------------------------------

    def ids(self, table: str) -> list[int]:
        return sorted(self.tables.get(table, {}))

    def pick(self, table: str, number: int) -> int:
        """The `number`-th row, counted round."""
        ids = self.ids(table)
        return ids[number % len(ids)]

    def add(self, table: str, at: datetime, **values: Any) -> int:
        self.made[table] += 1
        row_id = self.made[table]
        self.tables.setdefault(table, {})[row_id] = {"id": row_id, **values, "updated_at": at}
        self.pending.append(("insert", table, row_id, dict(self.tables[table][row_id])))
        return row_id

    def change(self, table: str, row_id: int, at: datetime, **values: Any) -> None:
        self.tables[table][row_id] |= {**values, "updated_at": at}
        self.pending.append(("update", table, row_id, {**values, "updated_at": at}))

    def delete(self, table: str, row_id: int) -> None:
        del self.tables[table][row_id]
        self.pending.append(("delete", table, row_id, {}))

    # --- what happens at a telescope ----------------------------------------------------------------------------

    def observe(self, unit: int, hours: int, ended: bool, at: datetime) -> int:
        """A scan begins `hours` after the first night began."""
        start = FIRST_NIGHT + timedelta(hours=hours)
        end = start + timedelta(minutes=10) if ended else None
        number = self.made["executed_obs_unit"] + 1
        return self.add("executed_obs_unit", at, name=f"scan-{number}", obs_unit_id=self.pick("obs_unit", unit),
                        start_time=start, end_time=end, status=None)  # fmt: skip

    def arrive(self, scan: int | None, module: int, state: str, mode: Any, at: datetime) -> int:
        """A package of a scan, with its file and what is said of it."""
        number = self.made["raw_data_package"] + 1
        package = self.add("raw_data_package", at, name=f"pack-{number}", executed_obs_unit_id=scan,
                           instrument_module_id=self.pick("instrument_module", module), state=state,
                           created_at=at, checksum=None, size_bytes=None)  # fmt: skip
        self.add("raw_data_package_metadata", at, raw_data_package_id=package, data={"mode": mode})
        self.rewrite(package, "first", at)
        return package

    def rewrite(self, package: int, content: str, at: datetime) -> None:
        """Other bytes under the same name: another checksum and copy; the old copy stays where it is."""
        data = f"{package} {content}\n".encode()
        digest = hashlib.sha256(data).hexdigest()
        self.files[digest] = data
        self.change("raw_data_package", package, at, checksum=f"sha256:{digest}", size_bytes=len(data))
        copies = self.tables.setdefault("physical_copy", {}).values()
        if not any(c["raw_data_package_id"] == package and c["path"] == digest for c in copies):
            self.add("physical_copy", at, raw_data_package_id=package, data_location_id=1, path=digest, status="present")

    def withdraw(self, package: int) -> None:
        """Its rows go; nothing is left that says when."""
        for table in ("raw_data_package_metadata", "physical_copy"):
            for row_id, row in list(self.tables.get(table, {}).items()):
                if row["raw_data_package_id"] == package:
                    self.delete(table, row_id)
        self.delete("raw_data_package", package)

    def metadata_of(self, package: int) -> int | None:
        rows = self.tables["raw_data_package_metadata"].items()
        return next((row_id for row_id, row in rows if row["raw_data_package_id"] == package), None)

    # --- joined -----------------------------------------------------------------------------------------------

    def joined(self) -> list[Row]:
        """Every package with all that stands around it, as `Table.column`."""
        return [self._joined(row) for _, row in sorted(self.tables.get("raw_data_package", {}).items())]

    def _joined(self, package: Row) -> Row:
        scan = self._get("executed_obs_unit", package["executed_obs_unit_id"])
        unit = self._get("obs_unit", scan.get("obs_unit_id"))
        module = self._get("instrument_module", package["instrument_module_id"])
        found = {
            "RawDataPackage": package,
            "ExecutedObsUnit": scan,
            "ObsUnit": unit,
            "Source": self._get("source", unit.get("source_id")),
            "InstrumentModule": module,
            "Instrument": self._get("instrument", module.get("instrument_id")),
        }
        flat = {f"{table}.{column}": value for table, row in found.items() for column, value in row.items()}
        data = self.metadata_of(package["id"])
        flat["RawDataPackage.metadata"] = self.tables["raw_data_package_metadata"][data]["data"] if data else None
        return flat

    def _get(self, table: str, row_id: int | None) -> Row:
        return self.tables.get(table, {}).get(row_id, {}) if row_id is not None else {}
