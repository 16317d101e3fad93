"""`run.json`: all that the ops-db knows of a completed run, so that its rows can be made again from it. Pure.

A record that is not whole is refused with everything that is wrong with it: rows that are guessed would be provenance that
is guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.digests import tree_digest
from ccatwm.core.model import (
    EntryKind,
    InputKind,
    InputRole,
    ProductType,
    ResolvedStep,
    TreeEntry,
    run_directory,
)
from ccatwm.core.names import decode_path, encode_name
from ccatwm.core.recipe import Recipe
from ccatwm.core.states import RunEvent, RunStatus

SCHEMA = "ccatwm.run/1"
_SHA256 = re.compile("[0-9a-f]{64}")
Fields = Mapping[str, str]  # by name: the kind of its value; with `?` it may be null

RUN: Fields = {
    "pipeline_name": "text", "step_name": "text", "sub_group_key": "text", "processing_location": "text",
    "status": "text", "status_at": "time", "is_open": "bool", "decision": "int", "reason": "text",
    "reason_details": "json?", "recipe": "text", "recipe_parts": "json", "resolved_step": "json", "priority": "int",
    "observed_at": "time", "trial": "bool", "backfill_id": "int?", "attempt": "int", "retries_used": "int",
    "free_retries_used": "int", "due_at": "time?", "next_resources": "json?", "failure_class": "text?",
    "message": "text?", "room_figure": "text?", "room_reason": "text?", "blocking": "bool", "superseded": "bool",
    "warnings": "json", "cancel_requested_at": "time?", "cancel_reason": "text?", "held": "text?",
    "wall_seconds": "float?", "cpu_hours": "float?", "peak_memory_gb": "float?", "exit_code": "int?",
    "output_directory": "text", "created_at": "time", "ended_at": "time",
}  # fmt: skip
SUBMISSION: Fields = {
    "token": "text", "backend": "text", "cluster": "text", "state": "text", "job_id": "text?", "message": "text?",
    "doubtful": "bool", "created_at": "time", "submitted_at": "time?",
}  # fmt: skip
ATTEMPT: Fields = {
    "number": "int", "array_index": "int", "directory": "text", "restart": "int", "host": "text?", "created_at": "time",
    "started_at": "time?", "ended_at": "time?", "outcome": "text?", "exit_code": "int?", "failure_class": "text?",
    "message": "text?", "resources_asked": "json", "resources_used": "json?", "metrics_at": "time?",
}  # fmt: skip
INPUT: Fields = {
    "kind": "text", "role": "text", "identity": "text", "name": "text", "checksum": "text?", "size_bytes": "int?",
    "details": "json?",
}  # fmt: skip
EVENT: Fields = {
    "event": "text", "from_status": "text?", "to_status": "text", "at": "time", "by_pass": "text?", "actor": "text?",
    "message": "text?",
}  # fmt: skip
PRODUCT: Fields = {
    "id": "int", "type": "text", "path": "text", "full_path": "text", "is_directory": "bool", "size_bytes": "int",
    "file_count": "int", "sha256": "text", "dims": "json?", "quality": "json?",
}  # fmt: skip
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """A run as rows, each by the names of its columns; times aware. An attempt also has its `submission`; `dims` are the
    sub-group's."""

    id: int
    uid: str
    dims: Any
    run: Row
    attempts: tuple[Row, ...]
    inputs: tuple[Row, ...]
    events: tuple[Row, ...]
    products: tuple[Row, ...]

    @property
    def directory(self) -> str:
        run = self.run
        return run_directory(run["pipeline_name"], run["step_name"], run["sub_group_key"], self.id)

    def upstream_runs(self) -> set[int]:
        """Runs that made its inputs."""
        found = ((item["details"] or {}).get("upstream_run_id") for item in self.inputs if item["kind"] == "product")
        return {int(run) for run in found if run is not None}


def build_record(record: RunRecord) -> dict[str, Any]:
    """The document without its products, of which there may be very many: `core.lineage.write_run_record` adds them."""
    run = record.run
    return {
        "schema": SCHEMA,
        "ops_db": record.uid,
        "run": record.id,
        "pipeline": run["pipeline_name"],
        "step": run["step_name"],
        "sub_group": run["sub_group_key"],
        "dims": record.dims,
        "row": _encoded(RUN, run),
        "attempts": [
            {**_encoded(ATTEMPT, row), "submission": _encoded(SUBMISSION, row["submission"])} for row in record.attempts
        ],
        "inputs": [_encoded(INPUT, row) for row in record.inputs],
        "events": [_encoded(EVENT, row) for row in record.events],
    }


def _encoded(fields: Fields, row: Row) -> dict[str, Any]:
    return {name: _time_text(row[name]) if kind.startswith("time") else row[name] for name, kind in fields.items()}


def _time_text(time: datetime | None) -> str | None:
    return time.isoformat().replace("+00:00", "Z") if time is not None else None


def completed(record: RunRecord, warnings: Sequence[str], output: str, now: datetime) -> RunRecord:
    """The record of a run whose results are being collected, as it will be when they are recorded at `now`.

    The file is written before any row speaks of the products.
    """
    ended = {
        "status": RunStatus.COMPLETED.value, "status_at": now, "is_open": False, "ended_at": now,
        "warnings": list(warnings), "due_at": None, "failure_class": None, "output_directory": output,
    }  # fmt: skip
    event = {
        "event": RunEvent.PRODUCTS_RECORDED.value, "from_status": record.run["status"], "to_status": ended["status"],
        "at": now, "by_pass": "collect", "actor": None, "message": None,
    }  # fmt: skip
    run = {**record.run, **ended}
    return replace(record, run=run, events=(*record.events, event))


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_record(content: bytes, directory: str, *, uid: str) -> tuple[RunRecord | None, list[str]]:
    """The record in the run directory `directory` (relative to the base directory) of the ops-db `uid`, or all that is
    wrong with it."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        return None, [f"it is no JSON: {error}"]
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return None, [f"its schema is not {SCHEMA}"]
    problems: list[str] = []
    record = _read(data, problems)
    if record is None:
        return None, problems
    problems += _contradictions(record, directory, uid)
    return (None, problems) if problems else (record, [])


def recorded_directory(content: bytes, *, uid: str) -> str | None:
    """The run directory of the ops-db `uid` that a record was written for, where it tells: of a copy another one than that
    which it lies in."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    record = _read(data, []) if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    return record.directory if record is not None and record.uid == uid else None


def _read(data: Mapping[str, Any], problems: list[str]) -> RunRecord | None:
    """Every value of its kind, whatever it says."""
    head = _decoded({"run": "int", "ops_db": "text", "dims": "json"}, data, "", problems)
    run = _decoded(RUN, data.get("row"), "row", problems)
    attempts = [
        {**row, "submission": _decoded(SUBMISSION, raw.get("submission"), f"{where}.submission", problems)}
        for where, raw, row in _rows(ATTEMPT, data, "attempts", problems)
    ]
    others = {
        name: tuple(row for _, _, row in _rows(fields, data, name, problems))
        for name, fields in (("inputs", INPUT), ("events", EVENT), ("products", PRODUCT))
    }
    if problems:
        return None
    return RunRecord(head["run"], head["ops_db"], head["dims"], run, tuple(attempts), **others)


def _rows(
    fields: Fields, data: Mapping[str, Any], name: str, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    found = data.get(name)
    if not isinstance(found, list):
        problems.append(f"{name} is no list")
        return
    for number, raw in enumerate(found):
        where = f"{name}[{number}]"
        yield where, raw if isinstance(raw, dict) else {}, _decoded(fields, raw, where, problems)


def _decoded(fields: Fields, raw: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        problems.append(f"{where} is no object")
        return {}
    found: dict[str, Any] = {}
    for name, kind in fields.items():
        place = f"{where}.{name}" if where else name
        if name not in raw:
            problems.append(f"{place} is not there")
        elif raw[name] is None and kind.endswith("?"):
            found[name] = None
        else:
            found[name] = _value(kind.removesuffix("?"), raw[name], place, problems)
    return found


_TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "time": (str,), "json": (dict, list),
}  # fmt: skip


def _value(kind: str, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        problems.append(f"{where} is no {kind}")
        return None
    if wrong := _unstorable(value):
        problems.append(f"{where} has {wrong}")
        return None
    return _time(str(value), where, problems) if kind == "time" else value


def _unstorable(value: Any) -> str | None:
    """What of it no ops-db takes, or None. A file that a disk has spoilt is JSON all the same."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and ("\0" in item or any("\ud800" <= c <= "\udfff" for c in item)):
            return "a text with a NUL character or half a character"
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            return "a number beyond 64 bits"
        if isinstance(item, float) and not math.isfinite(item):
            return "a number that is infinite or none"
        waiting += [*item.keys(), *item.values()] if isinstance(item, dict) else item if isinstance(item, list) else ()
    return None


def _time(text: str, where: str, problems: list[str]) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):  # the zone of a time in the year 1 or 9999 may lead out of the calendar
        pass
    problems.append(f"{where} is no time with a time zone: {text[:40]!r}")
    return None


def _contradictions(record: RunRecord, directory: str, uid: str) -> list[str]:
    """What cannot be so, though every value is of its kind."""
    run = record.run
    problems = [] if record.uid == uid else [f"it is of another ops-db ({record.uid}, this one is {uid})"]
    if record.directory != directory:
        problems.append(f"it is of {record.directory}")
    if (run["status"], run["is_open"]) != (RunStatus.COMPLETED.value, False):
        problems.append(f"its run is {run['status']}, not completed")
    if run["attempt"] not in {row["number"] for row in record.attempts}:
        problems.append(f"attempt {run['attempt']}, which made its products, is not among its attempts")
    problems += [
        f"{path} leads out of the run directory"
        for path in (run["output_directory"], *(row[key] for key, row in _paths(record)))
        if ".." in PurePosixPath(path).parts or not path.startswith(f"{record.directory}/")
    ]
    problems += _wrong_products(record)
    problems += _wrong_inputs(record)
    problems += [f"attempts[{n}].number is below 1" for n, row in enumerate(record.attempts) if row["number"] < 1]
    numbers = [row["number"] for row in record.attempts]
    if len(set(numbers)) < len(numbers):
        problems.append("two of its attempts have one number")
    try:
        ResolvedStep.from_json(run["resolved_step"])
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"row.resolved_step is no step: {error!r}")
    try:
        if Recipe.from_json(run["recipe_parts"]).digest != run["recipe"]:
            problems.append("row.recipe is not the digest of row.recipe_parts")
    except (KeyError, TypeError) as error:
        problems.append(f"row.recipe_parts is no recipe: {error!r}")
    return problems


def _wrong_inputs(record: RunRecord) -> Iterator[str]:
    kinds, roles = {kind.value for kind in InputKind}, {role.value for role in InputRole}
    for number, item in enumerate(record.inputs):
        if item["kind"] not in kinds:
            yield f"inputs[{number}].kind is {item['kind']!r}, none of {', '.join(sorted(kinds))}"
        if item["role"] not in roles:
            yield f"inputs[{number}].role is {item['role']!r}, none of {', '.join(sorted(roles))}"
        details = item["details"]
        if details is not None and not isinstance(details, dict):
            yield f"inputs[{number}].details is no object"
        elif item["kind"] == InputKind.PRODUCT and type((details or {}).get("upstream_run_id")) is not int:
            yield f"inputs[{number}].details.upstream_run_id is not the number of a run"


def _wrong_products(record: RunRecord) -> list[str]:
    """Rows that `collect` cannot have written."""
    ids, problems = set(), []
    for number, row in enumerate(record.products):
        where = f"products[{number}]"
        if row["id"] in ids or row["id"] < 1:
            problems.append(f"{where}.id is no number of its own")
        ids.add(row["id"])
        if row["type"] not in ProductType.__members__:
            problems.append(f"{where}.type is none of {', '.join(ProductType.__members__)}")
        if min(row["size_bytes"], row["file_count"]) < 0:
            problems.append(f"{where} has less than no bytes or files")
        if _SHA256.fullmatch(row["sha256"]) is None:
            problems.append(f"{where}.sha256 is no checksum")
        if row["full_path"] != f"{encode_name(record.run['output_directory'])}/{row['path']}":
            problems.append(f"{where}.full_path is not its path in the output")
    return problems


def _paths(record: RunRecord) -> Iterator[tuple[str, Row]]:
    yield from (("directory", row) for row in record.attempts)
    yield from (("full_path", row) for row in record.products)


# --- what becomes of it ----------------------------------------------------------------------------------------------


def imported_decision(number: int, created_at: datetime, last: int, decided_at: datetime | None) -> int:
    """The number of the decision that made an imported run.

    An ops-db that was restored and has not decided since is older than the run: it keeps its number, above all that are
    known, and of several such runs the newest decision counts. What has been decided since is newer than the run, whatever
    numbers it gave: the run takes none above, and counts only when `resolve` finds that it is what is wanted.
    """
    return number if decided_at is None or decided_at < created_at else min(number, last)


def list_absent(
    products: Sequence[Row], entries: Sequence[TreeEntry] | None, hashes: Mapping[PurePosixPath, str] | None
) -> dict[int, str]:
    """Products (by number) that are not there as recorded, each with why. `entries` of the output of the winning attempt,
    None where it is gone; `hashes` by path below it, None where sizes suffice."""
    files = {e.path: e for e in entries or () if e.kind is EntryKind.FILE}
    folders = {e.path for e in entries or () if e.kind is EntryKind.DIRECTORY}
    absent = {}
    for row in products:
        path = decode_path(row["path"])
        below = _below(path, files) if row["is_directory"] else [files[path]] if path in files else []
        why = None
        if not below and not (row["is_directory"] and path in folders):
            why = "is gone"
        elif sum(e.size_bytes for e in below) != row["size_bytes"] or len(below) != row["file_count"]:
            why = "has another size"
        elif hashes is not None and _digest(path, below, hashes, row["is_directory"]) != row["sha256"]:
            why = "has another checksum"
        if why is not None:
            absent[row["id"]] = why
    return absent


def _below(folder: PurePosixPath, files: Mapping[PurePosixPath, TreeEntry]) -> list[TreeEntry]:
    return [entry for path, entry in files.items() if folder in path.parents]


def _digest(
    path: PurePosixPath, below: Sequence[TreeEntry], hashes: Mapping[PurePosixPath, str], is_directory: bool
) -> str:
    if not is_directory:
        return hashes.get(path, "")
    return tree_digest(
        (str(e.path.relative_to(path)).encode("utf-8", "surrogateescape"), e.size_bytes, hashes.get(e.path, ""))
        for e in below
    )
