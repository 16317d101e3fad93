"""What a finished run says of itself: `run.json`, and how outputs are read back. Pure."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.model import Attempt, Run, RunInput

PRODUCTS_AT_ONCE = 1000
PRODUCT_COLUMNS = ("type", "path", "full_path", "is_directory", "size_bytes", "file_count", "sha256", "dims", "quality")
# A tuple, because there may be 100,000 of them: type, path, full_path, is_directory, size_bytes, file_count, sha256, dims,
# quality.
ProductRow = tuple[str, str, str, bool, int, int, str, Mapping[str, Any] | None, Mapping[str, Any] | None]


def parse_sha256_list(content: bytes) -> dict[PurePosixPath, str]:
    """`sha256sum -z` output: path -> hex. Paths are bytes on disk, text with surrogate escapes here."""
    found: dict[PurePosixPath, str] = {}
    for record in content.split(b"\0"):
        digest, separator, path = record.partition(b"  ")
        if separator and len(digest) == 64:
            name = path.decode("utf-8", "surrogateescape")
            found[PurePosixPath(name.removeprefix("./"))] = digest.decode("ascii")
    return found


def build_run_record(run: Run, attempt: Attempt, inputs: Sequence[RunInput], *, uid: str) -> dict[str, Any]:
    """The whole record of a run but for its products, as in `run.json` beside its output."""
    step = run.resolved_step
    return {
        "schema": "ccatwm.run/1",
        "ops_db": uid,
        "run": run.id,
        "pipeline": run.pipeline,
        "step": run.step,
        "sub_group": run.sub_group,
        "decision": run.decision,
        "reason": run.reason,
        "created_at": _text(run.created_at),
        "warnings": list(run.warnings),
        "resolved_step": step.to_json(),
        "inputs": [_input(item) for item in inputs],
        "attempt": {
            "number": attempt.number,
            "directory": attempt.directory,
            "token": attempt.token,
            "job_id": attempt.job_id,
            "exit_code": attempt.exit_code,
            "started_at": _text(attempt.started_at),
            "ended_at": _text(attempt.gone_at),
        },
    }


def write_run_record(record: dict[str, Any], products: Iterable[ProductRow]) -> bytes:
    """The record as JSON, its products last and one in a line."""
    text = io.BytesIO()
    text.write(json.dumps(record, indent=1, sort_keys=True).encode().removesuffix(b"\n}") + b',\n "products": [')
    products, separator = iter(products), "\n  "
    while some := list(itertools.islice(products, PRODUCTS_AT_ONCE)):
        text.write((separator + ",\n  ".join(map(_product_line, some))).encode())
        separator = ",\n  "
    text.write(b"\n ]\n}")
    return text.getvalue()


def _product_line(row: ProductRow) -> str:
    """JSON of one product; an encoder for each would take longer than everything else that is done with it."""
    kind, path, full_path, is_directory, size_bytes, file_count, sha256, dims, quality = row
    return (
        f'{{"type": "{kind}", "path": {_QUOTED(path)}, "full_path": {_QUOTED(full_path)}, '
        f'"is_directory": {"true" if is_directory else "false"}, "size_bytes": {size_bytes}, "file_count": {file_count}, '
        f'"sha256": "{sha256}", "dims": {_value(dims)}, "quality": {_value(quality)}}}'
    )


def _value(data: Mapping[str, Any] | None) -> str:
    return "null" if data is None else json.dumps(data, sort_keys=True)


_QUOTED = json.encoder.encode_basestring_ascii


def _input(item: RunInput) -> dict[str, Any]:
    return {
        "kind": item.kind.value,
        "role": item.role.value,
        "name": item.name,
        "checksum": item.checksum,
        "size_bytes": item.size_bytes,
        "upstream_run": item.upstream_run_id,
        "upstream_step": item.upstream_step,
        "upstream_sub_group": item.upstream_sub_group,
        "stands_on": list(item.stands_on),
        "companions": list(item.companions),
        "companion": item.companion,
    }


def _text(time: datetime | None) -> str | None:
    return time.isoformat().replace("+00:00", "Z") if time is not None else None
