"""What a finished run says of itself: `run.json`, and how outputs are read back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.model import Attempt, Run, RunInput


def parse_sha256_list(content: bytes) -> dict[PurePosixPath, str]:
    """`sha256sum -z` output: path -> hex. Paths are bytes on disk, text with surrogate escapes here."""
    found: dict[PurePosixPath, str] = {}
    for record in content.split(b"\0"):
        digest, separator, path = record.partition(b"  ")
        if separator and len(digest) == 64:
            name = path.decode("utf-8", "surrogateescape")
            found[PurePosixPath(name.removeprefix("./"))] = digest.decode("ascii")
    return found


def build_run_record(
    run: Run, attempt: Attempt, inputs: Sequence[RunInput], products: Sequence[dict[str, Any]], *, uid: str
) -> dict[str, Any]:
    """The whole record of a run, as `run.json` beside its output."""
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
        "products": list(products),
    }


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
