"""Nights of scans with any raw data, whatever they are called; what people are told, and what must stay as it was."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ccatwm.cli._conditions import tell_news
from ccatwm.passes._frame import PassReport
from ccatwm.views.left import any_waits_for_inputs
from tests.passes.conftest import Observatory


@dataclass
class Scan:
    """One executed obs unit with its package. `content`: what the ops-db knows; `copies`: what lies there, if else."""

    name: str
    content: bytes
    source: str = "NGC253"
    copies: Mapping[str, bytes | None] = field(default_factory=dict)  # location -> bytes, None: no file
    ending: str = "tar"
    metadata: Mapping[str, str] = field(default_factory=dict)


def good_tar(**files: bytes) -> bytes:
    return tar(
        [(name.replace("__", "/"), content) for name, content in (files or {"a.bin": b"a" * 99}).items()]
    )


def tar(members: Sequence[tuple[str | tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    """A tar of members by name, or by header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def header(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devmajor, info.devminor = kind, target, 1, 3
    return info


def observe(observatory: Observatory, *scans: Scan) -> None:
    """Write the packages of these scans and ingest what was observed."""
    folder = observatory.folder
    for name in ("raw", "buffer", "base", "state"):
        (folder / name).mkdir(exist_ok=True)
    for scan in scans:
        for location, content in ({"raw": scan.content} | dict(scan.copies)).items():
            if content is not None:
                (folder / location / f"{scan.name}.{scan.ending}").write_bytes(content)
    (folder / "night.json").write_text(json.dumps(_observations(folder, scans)))
    (folder / "night.json").rename(folder / "night.yaml")  # JSON is YAML
    observatory.arrive("night.yaml")


def _observations(folder: Path, scans: Sequence[Scan]) -> dict[str, Any]:
    places = (("raw", "long_term_archive", 1), ("buffer", "buffer", 9), ("base", "processing", 0))
    sources = sorted({scan.source for scan in scans})
    return {
        "sites": [{"name": "here"}],
        "data_locations": [
            {"name": "local" if name == "base" else name, "location_type": kind, "storage_type": "disk",
             "site": "here", "priority": priority, "base_path": str(folder / name)}
            for name, kind, priority in places
        ],
        "sources": [{"name": s, "kind": "fixed", "ra_deg": 11.9, "dec_deg": -25.3} for s in sources],
        "obs_units": [{"name": f"ou-{n}", "source": s, "line_id": "CO43"} for n, s in enumerate(sources)],
        "executed_obs_units": [
            {"name": scan.name, "obs_unit": f"ou-{sources.index(scan.source)}", "status": "completed",
             "start_time": "2026-03-01T01:00:00Z", "end_time": "2026-03-01T01:10:00Z"}
            for scan in scans
        ],
        "raw_data_packages": [
            {"name": f"{scan.name}-LFA", "executed_obs_unit": scan.name, "instrument_module": "CHAI/LFA",
             "state": "archived", "size_bytes": len(scan.content), "metadata": dict(scan.metadata),
             "checksum": f"sha256:{hashlib.sha256(scan.content).hexdigest()}",
             "copies": [{"location": place, "path": f"{scan.name}.{scan.ending}"}
                        for place in ("raw", *(p for p in scan.copies if p != "raw"))]}
            for scan in scans
        ],
    }  # fmt: skip


def reduce(
    observatory: Observatory, script: str, *, group_by: str = "executed_obs_unit", more: str = ""
) -> None:
    """Apply the pipeline `otf` whose step `calibrate` runs a shell script in each output folder; `more`: steps."""
    observatory.scripts = True
    (observatory.folder / "program.sh").write_text(PROLOGUE + script)
    (observatory.folder / "pipeline.yaml").write_text(
        PIPELINE.format(program=observatory.folder / "program.sh", group_by=group_by) + more
    )
    observatory.apply()


# Notes that it was executed; the script goes on in the output folder.
PROLOGUE = """
attempt=${WORKFLOW_LOG_DIR%/logs}
base=${attempt%/otf/*}
echo "${attempt#"$base"/}" >>"$base/executions.log"
cd "$WORKFLOW_OUTPUT_DIR" || exit 1
"""
# A second step over everything that the first one made.
GRID = """      - {name: grid, software: cal, group_by: [], depends_on: [calibrate]}
"""
COPY = """
[ "$WORKFLOW_STEP" = calibrate ] || WORKFLOW_INPUT_DIR=$WORKFLOW_WORKSPACE_DIR
mkdir -p science && cp -r "$WORKFLOW_INPUT_DIR"/*/. science/
"""
PIPELINE = """
software:
  - {{name: cal, versions: [{{version: 1.0.0, command: [/bin/sh, {program}]}}]}}
data_groupings:
  - {{name: everything, filter_rules: [{{table: RawDataPackage, column: state, operator: eq, value: archived}}]}}
pipelines:
  - name: otf
    data_grouping: everything
    processing_location: local
    trigger: {{type: CONTINUOUS}}
    steps:
      - {{name: calibrate, software: cal, group_by: [{group_by}]}}
"""


def as_site(observatory: Observatory) -> Path:
    """A site folder for the command line."""
    site = observatory.folder / "site"
    site.mkdir()
    values = {
        "OPSDB_URL": observatory.url,
        "PIPELINE_BASE_DIR": str(observatory.base),
        "PROCESSING_LOCATION_ID": "local",
        "STATE_DIR": str(observatory.folder / "state"),
        "CONTAINER_RUNTIME": "none",
    }
    lines = ["[default]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (site / "settings.toml").write_text("\n".join(lines) + "\n")
    (observatory.base / ".ccatwm.json").write_text(json.dumps({"format": 1, "ops_db_uid": ""}))
    return site


# --- what people are told -----------------------------------------------------------------------------------------


def told(observatory: Observatory, reports: Sequence[PassReport]) -> list[str]:
    """The lines that cron would mail."""
    context = observatory.context()
    wait = partial(any_waits_for_inputs, context.database)
    return tell_news(observatory.folder / "state", reports, context.clock.now(), wait)


def by_package(observatory: Observatory) -> dict[str, dict]:
    """The newest run that took each package, by the scan's name."""
    runs = {run["id"]: run for run in observatory.runs()}
    inputs = observatory.rows("run_input")
    return {i["name"].removesuffix("-LFA"): runs[i["run_id"]] for i in inputs if i["kind"] == "package"}


def executions(observatory: Observatory) -> list[str]:
    log = observatory.base / "executions.log"
    return sorted(log.read_text().splitlines()) if log.exists() else []


# --- what must stay -----------------------------------------------------------------------------------------------


@contextmanager
def nothing_outside_touched(observatory: Observatory) -> Iterator[None]:
    """Everything around base directory, state and batch system stays; below the base directory is nothing special."""
    before = _outside(observatory)
    yield
    assert _outside(observatory) == before
    special = [
        path
        for path in (observatory.base / ".cache").rglob("*")
        if not (stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode))
    ]
    assert special == []


def _outside(observatory: Observatory) -> dict[str, tuple[int, bytes]]:
    own = [observatory.folder / name for name in ("base", "state", "batch")]
    found = {}
    for path in sorted(observatory.folder.parent.rglob("*")):
        if path.name.startswith("opsdb.sqlite") or any(one == path or one in path.parents for one in own):
            continue
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (path.lstat().st_mode, content)
    return found
