"""A small campaign for crash tests: raw packages on disk, a two-step pipeline, and a program that is a function."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

NIGHT = """
sites: [{name: here}]
data_locations:
  - {name: raw, location_type: long_term_archive, storage_type: disk, site: here, priority: 1, base_path: RAW}
  - {name: buffer, location_type: buffer, storage_type: disk, site: here, priority: 9, base_path: BUFFER}
  - {name: local, location_type: processing, storage_type: disk, site: here, base_path: BASE}
sources: [{name: NGC253, kind: fixed, ra_deg: 11.9, dec_deg: -25.3}]
obs_units: [{name: ou-1, source: NGC253, line_id: CO43}]
executed_obs_units:
  - {name: scan-1, obs_unit: ou-1, start_time: "2026-03-01T01:00:00Z", end_time: "2026-03-01T01:10:00Z", status: completed}
  - {name: scan-2, obs_unit: ou-1, start_time: "2026-03-01T02:00:00Z", end_time: "2026-03-01T02:10:00Z", status: completed}
"""
LATE = """
executed_obs_units:
  - {name: scan-3, obs_unit: ou-1, start_time: "2026-03-01T03:00:00Z", end_time: "2026-03-01T03:10:00Z", status: completed}
"""
PIPELINE = """
software:
  - name: cal
    versions: [{version: 1.0.0, command: [/bin/sh, PROGRAM]}]
data_groupings:
  - name: ngc253
    filter_rules: [{table: Source, column: name, operator: eq, value: NGC253}]
pipelines:
  - name: otf
    data_grouping: ngc253
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: calibrate, software: cal, group_by: [executed_obs_unit], config: {mode: hot_cold}}
      - {name: grid, software: cal, group_by: [], depends_on: [calibrate]}
"""


# What `program` below does, for jobs that are processes. It notes that it was executed.
PROGRAM = """
attempt=${WORKFLOW_LOG_DIR%/logs}
base=${attempt%/otf/*}
echo "${attempt#"$base"/}" >>"$base/executions.log"
cd "$WORKFLOW_OUTPUT_DIR"
if [ "$WORKFLOW_STEP" = calibrate ]; then
    echo "calibrated $WORKFLOW_SUB_GROUP" >spectra.txt
    mkdir -p qa && echo "100 K" >qa/tsys.txt
else
    mkdir -p science && grep -o '"upstream_sub_group": "[^"]*"' "$WORKFLOW_MANIFEST" >science/map.txt
fi
"""


def write_campaign(folder: Path) -> None:
    """Raw tars (one with a corrupt first copy), observation and pipeline files below `folder`."""
    for name in ("raw", "buffer", "base", "state"):
        (folder / name).mkdir(parents=True)
    packages = {n: _tar(folder / "raw" / f"scan-{n}.tar", f"scan-{n}", n) for n in (1, 2, 3)}
    spoilt = bytearray((folder / "raw" / "scan-2.tar").read_bytes())
    spoilt[600:620] = b"?" * 20  # inside the first file
    (folder / "buffer" / "scan-2.tar").write_bytes(bytes(spoilt))
    places = {"RAW": folder / "raw", "BUFFER": folder / "buffer", "BASE": folder / "base"}
    night = NIGHT + _packages({n: packages[n] for n in (1, 2)})
    for word, place in places.items():
        night = night.replace(f"base_path: {word}}}", f"base_path: {place}}}")
    (folder / "night.yaml").write_text(night)
    (folder / "late.yaml").write_text(LATE + _packages({3: packages[3]}))
    (folder / "program.sh").write_text(PROGRAM)
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("PROGRAM", str(folder / "program.sh")))
    (folder / "one-step.yaml").write_text(
        (folder / "pipeline.yaml").read_text().partition("      - {name: grid")[0]
    )
    small = "depends_on: [], resources: {cpu: 1, memory_gb: 0.05, time_hours: 0.1}, config:"
    (folder / "array.yaml").write_text((folder / "one-step.yaml").read_text().replace("config:", small))
    (folder / "one-scan.yaml").write_text(re.sub(r"(?m)^.*scan-2.*\n", "", night))


def _tar(path: Path, name: str, number: int) -> tuple[str, int]:
    with tarfile.open(path, "w") as archive:
        for part in ("spectra.bin", "log/notes.txt"):
            content = f"{name} {part} {number}\n".encode() * 50
            member = tarfile.TarInfo(f"{name}/{part}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


def _packages(packages: dict[int, tuple[str, int]]) -> str:
    lines = ["raw_data_packages:"]
    for n, (checksum, size) in packages.items():
        copies = f"[{{location: raw, path: scan-{n}.tar}}"
        copies += ", {location: buffer, path: scan-2.tar}]" if n == 2 else "]"
        lines.append(
            f"  - {{name: scan-{n}-LFA, executed_obs_unit: scan-{n}, instrument_module: CHAI/LFA, state: archived, "
            f"checksum: 'sha256:{checksum}', size_bytes: {size}, copies: {copies}}}"
        )
    return "\n".join(lines) + "\n"


def program(output: Path, manifest: dict) -> int:
    """What the containers of this campaign do."""
    if manifest["step"] == "calibrate":
        (output / "spectra.txt").write_text(f"calibrated {manifest['sub_group']}\n")
        (output / "qa").mkdir(exist_ok=True)
        (output / "qa" / "tsys.txt").write_text("100 K\n")
    else:
        (output / "science").mkdir(exist_ok=True)
        inputs = sorted(i["name"] + str(i.get("upstream_sub_group", "")) for i in manifest["inputs"])
        (output / "science" / "map.txt").write_text("\n".join(inputs))
    return 0
