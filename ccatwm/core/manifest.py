"""The manifest: everything a program can know of its run (container contract v1). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.commands import Places, RunFacts, places
from ccatwm.core.model import InputKind, InputRole, ResolvedStep, RunInput
from ccatwm.core.staging import input_path, workspace_path

SCHEMA = "ccatwm.manifest/1"


def build_manifest(
    step: ResolvedStep, facts: RunFacts, inputs: Sequence[RunInput], *, runtime: str
) -> dict[str, Any]:
    """The content of `manifest.json`; paths are container paths (host paths without a container)."""
    seen = places(step, facts, runtime=runtime)
    software = step.software
    return {
        "schema": SCHEMA,
        "run": facts.run_id,
        "pipeline": step.pipeline,
        "step": step.step,
        "sub_group": facts.sub_group,
        "group_by": list(step.group_by),
        "attempt": facts.attempt,
        "role": step.role.value,
        "created_at": facts.created_at.isoformat().replace("+00:00", "Z"),
        "software": {
            "name": software.software,
            "version": software.version,
            "image": software.image,
            "image_digest": software.image_digest,
            "command": list(software.command),
            "contract": software.contract,
        },
        "config": dict(step.config),
        "environment": sorted(step.environment),
        "references": [
            {
                "name": r.name,
                "version": r.version,
                "path": str(seen.reference[r.name]),
                "checksum": r.checksum,
            }
            for r in step.references
        ],
        "resources": {
            "cpu": facts.cpu,
            "memory_gb": facts.memory_gb,
            "time_hours": step.resources.time_hours,
        },
        "partial_exit_codes": list(step.partial_exit_codes),
        "output_dir": str(seen.output),
        "inputs": [_input(step, item, seen) for item in inputs if item.kind is not InputKind.REFERENCE],
    }


def _input(step: ResolvedStep, item: RunInput, seen: Places) -> dict[str, Any]:
    common: dict[str, Any] = {
        "kind": item.kind.value,
        "role": item.role.value,
        "name": item.name,
        "path": str(_seen_path(step, item, seen)),
        "checksum": item.checksum,
        "size_bytes": item.size_bytes,
    }
    if item.role is InputRole.COMPANION:
        return common | {"companion": item.companion}
    if item.kind is InputKind.PACKAGE:
        return common
    return common | {
        "type": item.product_type,
        "is_directory": item.is_directory,
        "upstream_pipeline": item.upstream_pipeline,
        "upstream_step": item.upstream_step,
        "upstream_sub_group": item.upstream_sub_group,
        "upstream_run": item.upstream_run_id,
        "stands_on": list(item.stands_on),
        "companions": list(item.companions),
    }


def _seen_path(step: ResolvedStep, item: RunInput, seen: Places) -> PurePosixPath:
    if item.kind is InputKind.PACKAGE:
        return seen.input / input_path(item).relative_to("input")
    return seen.workspace / workspace_path(step, item).relative_to("workspace")


# --- JSON Schema -----------------------------------------------------------------------------------------------------

_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": ["string", "null"]}
_INTEGER = {"type": "integer"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `manifest.json`."""
    upstream = {
        "type": _OPTIONAL_TEXT,
        "is_directory": {"type": "boolean"},
        "upstream_pipeline": _TEXT,
        "upstream_step": _TEXT,
        "upstream_sub_group": _TEXT,
        "upstream_run": _INTEGER,
        "stands_on": _TEXTS,
        "companions": _TEXTS,
    }
    item = {
        "kind": {"enum": ["package", "product"]},
        "role": {"enum": ["member", "companion", "outside"]},
        "name": _TEXT,
        "path": _TEXT,
        "checksum": _OPTIONAL_TEXT,
        "size_bytes": {"type": ["integer", "null"]},
        "companion": _TEXT,
        **upstream,
    }
    reference = {"name": _TEXT, "version": _TEXT, "path": _TEXT, "checksum": _OPTIONAL_TEXT}
    software = {"name": _TEXT, "version": _TEXT, "image": _OPTIONAL_TEXT, "image_digest": _OPTIONAL_TEXT,
                "command": _TEXTS, "contract": _INTEGER}  # fmt: skip
    resources = {"cpu": _INTEGER, "memory_gb": {"type": "number"}, "time_hours": {"type": "number"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of a run, as its program reads it",
        **_object(
            {
                "schema": {"const": SCHEMA},
                "run": _INTEGER,
                "pipeline": _TEXT,
                "step": _TEXT,
                "sub_group": _TEXT,
                "group_by": _TEXTS,
                "attempt": _INTEGER,
                "role": {"enum": ["intermediate", "final"]},
                "created_at": _TEXT,
                "software": _object(software),
                "config": {"type": "object"},
                "environment": _TEXTS,
                "references": {"type": "array", "items": _object(reference)},
                "resources": _object(resources),
                "partial_exit_codes": {"type": "array", "items": _INTEGER},
                "output_dir": _TEXT,
                "inputs": {"type": "array", "items": _object(item, optional=("companion", *upstream))},
            }
        ),
    }
