"""What other software does to the observation tables, act by act: three small numbers pick what it concerns.

An act returns False where the passes do not look before the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.oracle.site import Clock
from tests.oracle.sky import FIRST_NIGHT, LINES, MODES, SOURCES, STATES, Sky

START = datetime(2026, 4, 6, tzinfo=UTC)
CONTENTS = ["first", "other", "third"]  # of one length: a package without a checksum is told by its size


class Observing:
    """Changes rows of its sky at the time of its clock."""

    sky: Sky
    clock: Clock

    @property
    def now(self) -> datetime:
        return self.clock.at

    def _observe(self, unit: int, hours: int, several: int) -> bool:
        """A scan; it may be going on, and not all of its packages need be there."""
        scan = self.sky.observe(unit, hours * 3, ended=several % 4 != 0, at=self.now)
        for module in range(1 + several % 2):
            state = STATES[several % 3] if module else "archived"
            self.sky.arrive(scan, module, state, MODES[hours % len(MODES)], self.now)
        return several % 3 != 0

    def _arrive(self, scan: int, module: int, state: int) -> bool:
        self.sky.arrive(self._scan(scan), module, STATES[state % 4], MODES[state % len(MODES)], self.now)
        return module % 3 != 0

    def _come_late(self, scan: int, module: int, minutes: int) -> None:
        """Written half an hour ago, seen only now."""
        at = self.now - timedelta(minutes=25 + 3 * (minutes % 10))
        self.sky.arrive(self._scan(scan), module, "archived", MODES[module % len(MODES)], at)

    def _scan(self, number: int) -> int | None:
        return None if number == 11 else self.sky.pick("executed_obs_unit", number)

    def _package(self, number: int) -> int | None:
        return self.sky.pick("raw_data_package", number) if self.sky.ids("raw_data_package") else None

    def _change_state(self, package: int, state: int, go_on: int) -> bool | None:
        row, wanted = self._package(package), STATES[state % 4]
        size = {"size_bytes": len(f"{row} {CONTENTS[0]}\n")} if wanted == "archived" else {}
        return self._change_package(package, go_on, state=wanted, **size)

    def _change_bytes(self, package: int, content: int, go_on: int) -> bool | None:
        row = self._package(package)
        if row is not None:
            self.sky.rewrite(row, CONTENTS[content % 3], self.now)
        return go_on % 3 != 0

    def _forget_checksum(self, package: int, _b: int, go_on: int) -> bool | None:
        return self._change_package(package, go_on, checksum=None)

    def _change_size(self, package: int, size: int, go_on: int) -> bool | None:
        """Only of what is not there yet: a size that is wrong is a corrupt copy."""
        row = self._package(package)
        if row is None or self.sky.tables["raw_data_package"][row]["state"] == "archived":
            return False
        return self._change_package(package, go_on, size_bytes=size)

    def _change_package(self, package: int, go_on: int, **values: Any) -> bool | None:
        row = self._package(package)
        if row is not None:
            self.sky.change("raw_data_package", row, self.now, **values)
        return go_on % 3 != 0

    def _change_metadata(self, package: int, mode: int, go_on: int) -> bool | None:
        row = self._package(package)
        data = self.sky.metadata_of(row) if row is not None else None
        if data is not None:
            self.sky.change("raw_data_package_metadata", data, self.now, data={"mode": MODES[mode % len(MODES)]})
        return go_on % 3 != 0

    def _move(self, package: int, scan: int, go_on: int) -> bool | None:
        return self._change_package(package, go_on, executed_obs_unit_id=self._scan(scan))

    def _withdraw(self, package: int, _b: int, _c: int) -> bool | None:
        """Its row goes, which only a full comparison finds."""
        row = self._package(package)
        if row is not None:
            self.sky.withdraw(row)
        return None

    def _rename(self, source: int, name: int, go_on: int) -> bool:
        row, wanted = self.sky.pick("source", source), SOURCES[name % len(SOURCES)]
        if wanted not in [s["name"] for s in self.sky.tables["source"].values()]:
            self.sky.change("source", row, self.now, name=wanted)
        return go_on % 3 != 0

    def _retarget(self, unit: int, source: int, line: int) -> bool:
        source_id = None if source == 11 else self.sky.pick("source", source)
        self.sky.change("obs_unit", self.sky.pick("obs_unit", unit), self.now, source_id=source_id, line_id=LINES[line % 3])
        return line % 4 != 0

    def _end_scan(self, scan: int, how: int, go_on: int) -> bool:
        values = [{"end_time": self.now}, {"status": "Completed"}, {"end_time": None, "status": "running"}][how % 3]
        self.sky.change("executed_obs_unit", self.sky.pick("executed_obs_unit", scan), self.now, **values)
        return go_on % 3 != 0

    def _shift_scan(self, scan: int, hours: int, go_on: int) -> bool:
        start = FIRST_NIGHT + timedelta(hours=3 * hours)
        self.sky.change("executed_obs_unit", self.sky.pick("executed_obs_unit", scan), self.now, start_time=start)
        return go_on % 3 != 0


OBSERVING: dict[str, Callable[..., bool | None]] = {
    "observe": Observing._observe,
    "arrive": Observing._arrive,
    "come late": Observing._come_late,
    "change state": Observing._change_state,
    "change bytes": Observing._change_bytes,
    "forget checksum": Observing._forget_checksum,
    "change size": Observing._change_size,
    "change metadata": Observing._change_metadata,
    "move": Observing._move,
    "withdraw": Observing._withdraw,
    "rename": Observing._rename,
    "retarget": Observing._retarget,
    "end scan": Observing._end_scan,
    "shift scan": Observing._shift_scan,
}
