"""JSON Schemas of what people write and of what programs read. Touches: nothing."""

from __future__ import annotations

from typing import Any

from ccatwm.errors import UsageError

NAMES = ("pipeline", "observations", "manifest", "opsdb-map")


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) called `name`. Errors: UsageError."""
    if name == "pipeline":
        from ccatwm.core.definitions import Definitions

        schema = _numbers_for_texts(Definitions.model_json_schema())
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    if name == "manifest":
        from ccatwm.core.manifest import manifest_schema

        return manifest_schema()
    if name == "opsdb-map":
        from ccatwm.core.opsdb_map_file import map_schema

        return map_schema()
    if name == "observations":
        return _observations_schema()
    raise UsageError(f"there is no schema {name!r}", next=f"there are: {', '.join(NAMES)}")


def _numbers_for_texts(schema: Any) -> Any:
    """A text may be written as a number: `version: 1.10` needs no quotes."""
    if isinstance(schema, list):
        return [_numbers_for_texts(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # Words to choose from, and keys of mappings, stay texts.
    whole = {k: v if k in ("propertyNames", "default") else _numbers_for_texts(v) for k, v in schema.items()}
    if whole.get("type") == "string" and not {"enum", "const"} & whole.keys():
        whole["type"] = ["string", "number"]
    return whole


def _observations_schema() -> dict[str, Any]:
    from ccatwm.upkeep import ingest

    sections = {
        plural: {"type": "array", "items": _kind_schema(kind)} for plural, kind in ingest.PLURALS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Observations, as `ccatwm ingest` reads them from YAML",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
    }


def _kind_schema(kind: str) -> dict[str, Any]:
    from ccatwm.upkeep import ingest

    spec = ingest.KINDS[kind]
    properties = {name: _field_schema(parse) for name, parse in spec.fields.items()}
    properties |= {name: _field_schema(ingest._text) for name in spec.references}
    if kind == "raw_data_package":
        properties["files"] = {"type": "array", "items": _part_schema(ingest.FILE_FIELDS, ["name"])}
        properties["copies"] = {
            "type": "array",
            "items": _part_schema(ingest.COPY_FIELDS, ["location", "path"]),
        }
    return {
        "type": "object",
        "properties": properties,
        "required": list(spec.needed),
        "additionalProperties": kind == "raw_data_package",
    }


def _part_schema(fields: Any, required: list[str]) -> dict[str, Any]:
    properties = {name: _field_schema(parse) for name, parse in fields.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _field_schema(parse: Any) -> dict[str, Any]:
    from ccatwm.upkeep import ingest

    if isinstance(parse, ingest.Between):
        bounds = {"minimum": parse.low} | ({} if parse.high is None else {"maximum": parse.high})
        return {"type": "integer" if parse.whole else "number", **bounds}
    closure = getattr(parse, "__closure__", None)
    if closure:  # one of some words
        return {"enum": list(closure[0].cell_contents)}
    kinds: dict[Any, dict[str, Any]] = {
        ingest._text: {"type": ["string", "number"]},
        ingest._name: {"type": ["string", "number"], "maxLength": ingest.LONGEST_NAME},
        ingest._file_name: {"type": ["string", "number"], "maxLength": ingest.LONGEST_FILE_NAME},
        ingest._number: {"type": "number"},
        ingest._integer: {"type": "integer"},
        ingest._size: {"type": "integer", "minimum": 0},
        ingest._relative: {"type": "string", "maxLength": ingest.LONGEST_COPY_PATH},
        ingest._boolean: {"type": "boolean"},
        ingest._time: {"type": "string", "format": "date-time"},
        ingest._mapping: {"type": "object"},
        ingest._checksum: {"type": "string", "pattern": _checksum_pattern()},
        ingest._list: {"type": "array"},
    }
    return kinds[parse]


def _checksum_pattern() -> str:
    """JSON Schema has no flag for either case."""
    from ccatwm.core.digests import DIGITS

    def either(name: str) -> str:
        return "".join(f"[{c.upper()}{c}]" if c.isalpha() else c for c in name)

    kinds = "|".join(f"{either(name)}:[0-9A-Fa-f]{{{digits}}}" for name, digits in DIGITS.items())
    return f"^({kinds})$"
