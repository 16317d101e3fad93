"""The reduction of the histories: three steps in two pipelines, whose products show what they were made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

PIPELINES = {"calibrate": "otf", "grid": "otf", "sum": "survey"}  # by step, upstream first
STEPS = tuple(PIPELINES)
PATHS = {"calibrate": "spectra.txt", "grid": "science/map.txt", "sum": "science/sum.txt"}
FAILS = 3


def text_of(step: str, key: str, version: str, config: dict[str, Any], inputs: list[tuple[str, str]]) -> str:
    """A blind program makes the same of everything; another one shows version, configuration and inputs."""
    seen = [] if config["blind"] else [version, json.dumps(config, sort_keys=True), *map(list, sorted(inputs))]
    return json.dumps([step, key, *seen])


def products_of(run: Any) -> list[tuple[str, str]]:
    """(path, SHA-256) of what a completed run of the oracle left for later steps."""
    inputs = [(m.name, m.checksum or "") for m in (*run.members, *(m for _, m in run.companions))]
    inputs += [(f"{p.step}/{p.key}/{p.path}", f"sha256:{p.sha256}") for p in run.products]
    text = text_of(run.step, run.key, run.version, dict(run.config), inputs)
    return [(PATHS[run.step], hashlib.sha256(text.encode()).hexdigest())]


def run_program(output: Path, manifest: dict[str, Any]) -> int:
    """The same from a manifest, by the program itself; what it notes of its quality is new each time."""
    inputs = [(_place(item), item["checksum"] or "") for item in manifest["inputs"]]
    version, config = manifest["software"]["version"], manifest["config"]
    path = output / PATHS[manifest["step"]]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text_of(manifest["step"], manifest["sub_group"], version, config, inputs))
    (output / "qa").mkdir(exist_ok=True)
    (output / "qa" / "noise.txt").write_text(str(output))
    return 0


def _place(item: dict[str, Any]) -> str:
    above = item.get("upstream_step")
    return f"{above}/{item['upstream_sub_group']}/{item['name']}" if above else str(item["name"])
