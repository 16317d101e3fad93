"""Nights of scans, and of loads that serve them as companions: packages on disk, observation and pipeline files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.passes.conftest import Observatory

NIGHT = datetime(2026, 3, 1, tzinfo=UTC)
PLACES = """
sites: [{name: here}]
data_locations:
  - {name: raw, location_type: long_term_archive, storage_type: disk, site: here, priority: 1, base_path: RAW}
  - {name: local, location_type: processing, storage_type: disk, site: here, base_path: BASE}
sources: [{name: NGC253, kind: fixed, ra_deg: 11.9, dec_deg: -25.3}]
obs_units:
  - {name: otf, source: NGC253, obs_mode: otf}
  - {name: loads, obs_mode: loads}
"""
PIPELINE = """
software:
  - name: cal
    versions: [{version: 1.0.0, command: [/bin/true]}]
data_groupings:
  - name: ngc253
    filter_rules: [{table: Source, column: name, operator: eq, value: NGC253}]
pipelines:
  - name: otf
    data_grouping: ngc253
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - name: calibrate
        software: cal
        group_by: [executed_obs_unit]
        companions:
          - name: loads
            rules: [{table: ObsUnit, column: obs_mode, operator: eq, value: loads}]
            nearest: {before: 1, after: 1, within_hours: 2}
            same: [instrument_module]
      - {name: grid, software: cal, group_by: [], depends_on: [calibrate]}
"""


def at(minute: int) -> datetime:
    return NIGHT + timedelta(minutes=minute)


class Nights:
    """An observatory whose packages are told by kind and minute: `scan-30-LFA` began half an hour after midnight."""

    def __init__(self, observatory: Observatory) -> None:
        self.observatory = observatory
        folder = observatory.folder
        for name in ("raw", "base", "state"):
            (folder / name).mkdir(parents=True)
        places = PLACES.replace("RAW", str(folder / "raw")).replace("BASE", str(folder / "base"))
        (folder / "places.yaml").write_text(places)
        (folder / "pipeline.yaml").write_text(PIPELINE)
        observatory.arrive("places.yaml")

    def observe(self, kind: str, *minutes: int, modules: tuple[str, ...] = ("LFA",), **package: str) -> None:
        """Executed obs units that began at these minutes, with a package of each module; all in one file."""
        lines = []
        for minute in minutes:
            unit = f"{kind}-{minute}"
            lines.append(
                {"kind": "executed_obs_unit", "name": unit, "obs_unit": "loads" if kind == "load" else "otf",
                 "start_time": at(minute).isoformat(), "end_time": at(minute + 2).isoformat(), "status": "completed"}
            )  # fmt: skip
            lines += [self._package(unit, module, package) for module in modules]
        self.say(*lines)

    def say(self, *lines: dict) -> None:
        """Whatever `ingest` reads."""
        (self.observatory.folder / "news.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.observatory.arrive("news.jsonl")

    def _package(self, unit: str, module: str, package: dict[str, str]) -> dict:
        name = f"{unit}-{module}"
        path = self.observatory.folder / "raw" / f"{name}.tar"
        _tar(path, f"{name} {package.get('content', '')}")
        content = path.read_bytes()
        return {
            "kind": "raw_data_package", "name": name, "executed_obs_unit": unit, "instrument_module": f"CHAI/{module}",
            "state": package.get("state", "archived"), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size_bytes": len(content), "copies": [{"location": "raw", "path": path.name}],
        }  # fmt: skip

    def used(self) -> dict[str, list[str]]:
        """Of each scan that has one: the companions of its current run, as `loads/NAME`."""
        current = {g["current_run_id"] for g in self.observatory.rows("sub_group")}
        found: dict[str, list[str]] = {}
        for run in self.observatory.runs("calibrate"):
            if run["id"] in current:
                inputs = [i for i in self.observatory.rows("run_input") if i["run_id"] == run["id"]]
                names = sorted(i["name"] for i in inputs if i["role"] == "companion")
                found |= {i["name"]: names for i in inputs if i["role"] == "member"}
        return found

    def decisions(self) -> dict[str, int]:
        """Of each scan the number of its last decision."""
        scans = {(m["key"], m["scope_id"]): m["package_name"] for m in self.observatory.rows("sub_group_member")}
        step = next(s for s in self.observatory.rows("reduction_step") if s["name"] == "calibrate")
        groups = [g for g in self.observatory.rows("sub_group") if g["step_id"] == step["id"]]
        return {scans[g["key"], step["scope_id"]]: g["decision"] for g in groups}

    def moved(self, unit: str, minute: int) -> dict:
        """News that an obs unit began at another minute."""
        times = {"start_time": at(minute).isoformat(), "end_time": at(minute + 2).isoformat()}
        return {"kind": "executed_obs_unit", "name": unit, **times}


def _tar(path: Path, text: str) -> None:
    content = text.encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("spectra.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def program(output: Path, manifest: dict) -> int:
    """Its product says what it was made from."""
    folder = output / "science" if manifest["step"] == "grid" else output
    folder.mkdir(exist_ok=True)
    (folder / "made-from.txt").write_text(
        "\n".join(sorted(f"{i['role']} {i['name']} {i['checksum']}" for i in manifest["inputs"]))
    )
    return 0
