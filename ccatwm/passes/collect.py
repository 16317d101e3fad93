"""Records what runs made: products with checksums and lineage. Touches: the ops-db, files below the base directory.

Files come first: the output is verified against the job's checksums and `run-{id}/output` switched before one
transaction records products, the current run and who falls due downstream.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED
from ccatwm.core.lineage import build_run_record, parse_sha256_list
from ccatwm.core.model import Attempt, FailureClass, Run, RunInput
from ccatwm.core.names import encode_name
from ccatwm.core.products import ProductPlan, plan_products
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.exclusions import find_excluded
from ccatwm.edges.opsdb.stores import attempts, products, runs, sub_groups
from ccatwm.edges.opsdb.stores.exclusions import active_ids
from ccatwm.errors import NO_FAULT_OF_A_RUN, CcatwmError, FilesUnavailableError, NoSpaceError
from ccatwm.interfaces import EntryKind, FileWrite, TreeEntry
from ccatwm.passes._context import Context
from ccatwm.passes._failures import fail_run
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

PRODUCTS_JSON = PurePosixPath("products.json")
CLEAN_UP_PER_PASS = 200
CLEAN_UP_AT_ONCE = 50


class BadOutputError(CcatwmError):
    """What the program left cannot be recorded as products."""


class RecordsNotThereError(CcatwmError):
    """The output or its checksums do not show yet (a network file system may need its time)."""


@dataclass(frozen=True)
class Collected:
    """A run whose output is verified and planned."""

    run: Run
    attempt: Attempt
    inputs: tuple[RunInput, ...]
    plan: ProductPlan
    warnings: tuple[str, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of `data_product`."""
        output = f"{self.attempt.directory}/output"
        return [
            {
                "type": p.type.value,
                "path": encode_name(str(p.path)),
                "full_path": encode_name(f"{output}/{p.path}"),
                "is_directory": p.is_directory,
                "size_bytes": p.size_bytes,
                "file_count": p.file_count,
                "sha256": p.sha256,
                "dims": p.dims,
                "quality": p.quality,
            }
            for p in self.plan.products
        ]


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "collect", options, _body)


def _body(frame: PassFrame) -> None:
    with frame.context.database.read() as connection:
        selected = runs.list_open_runs(
            connection,
            location(frame.context),
            (RunStatus.COLLECTING_RESULTS,),
            due_by=frame.now,
            include_held=True,
        )
        selected = [r for r in selected if r.cancel_requested_at is None]
        newest = attempts.newest_attempts(connection, [r.id for r in selected])
        inputs = runs.list_inputs(connection, [r.id for r in selected])
    frame.report.selected = len(selected)
    for item in frame.units(selected):
        if frame.dry_run:
            frame.report.add("done", _item(item, "would be collected"))
        else:
            _collect_run(frame, item, newest[item.id], inputs[item.id])
    if not frame.dry_run:
        _remove_inputs(frame)


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _collect_run(frame: PassFrame, item: Run, attempt: Attempt, inputs: Sequence[RunInput]) -> None:
    """One run from COLLECTING_RESULTS to COMPLETED; its failure is its own."""
    try:
        collected = _collect(frame.context, item, attempt, inputs)
        _publish_checked(frame.context, collected)
    except RecordsNotThereError as error:
        _wait_or_fail(frame, item, error)
    except NoSpaceError as error:
        frame.report.add("waiting", _item(item, FailureClass.NO_SPACE.value, error.message))
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        fail_run(
            frame, item, RunStatus.COLLECTING_RESULTS, FailureClass.BAD_OUTPUT, error.message, by_pass="collect",
            exit_code=attempt.exit_code,
        )  # fmt: skip
    else:
        _record(frame, collected)


def _wait_or_fail(frame: PassFrame, item: Run, error: RecordsNotThereError) -> None:
    patience = timedelta(seconds=frame.context.settings.record_wait_seconds)
    if frame.now - item.status_at < patience:
        frame.report.add("waiting", _item(item, "waiting", error.message))
    else:
        fail_run(
            frame,
            item,
            RunStatus.COLLECTING_RESULTS,
            FailureClass.BAD_OUTPUT,
            error.message,
            by_pass="collect",
        )


# --- verifying ---------------------------------------------------------------------------------------------------


def _collect(context: Context, item: Run, attempt: Attempt, inputs: Sequence[RunInput]) -> Collected:
    folder = PurePosixPath(attempt.directory)
    entries, hashes = _read_output(context, folder)
    declared = context.workfiles.read_files([folder / "output" / PRODUCTS_JSON])[
        folder / "output" / PRODUCTS_JSON
    ]
    step = item.resolved_step
    exit_code = attempt.exit_code or 0
    partial = exit_code != 0 and exit_code in step.partial_exit_codes
    plan = plan_products(entries, hashes, declared, role=step.role)
    if plan.problem is not None:
        raise BadOutputError(plan.problem)
    warnings = [*item.warnings, *plan.warnings]
    if partial:
        warnings.append(f"partial: the program ended with exit code {exit_code}")
    warnings += _mixed_versions(context, inputs)
    return Collected(item, attempt, tuple(inputs), plan, tuple(warnings))


def _read_output(context: Context, folder: PurePosixPath) -> tuple[list[TreeEntry], dict[PurePosixPath, str]]:
    """Entries of the output and the job's checksums; a file changed after it was hashed is hashed again."""
    entries = context.workfiles.list_tree(folder / "output")
    job = {entry.path: entry for entry in context.workfiles.list_tree(folder / "job") or ()}
    listed = job.get(PurePosixPath("outputs.sha256"))
    if entries is None or listed is None:
        raise RecordsNotThereError(f"{folder}: the output or its checksums are not there")
    path = folder / "job" / "outputs.sha256"
    content = context.workfiles.read_files([path], max_bytes=1 << 30)[path]
    hashes = parse_sha256_list(content or b"")
    late = [e.path for e in entries if e.kind is EntryKind.FILE and e.mtime_ns > listed.mtime_ns]
    if late:
        again = context.workfiles.hash_files([folder / "output" / path for path in late])
        for path in late:
            found = again[folder / "output" / path]
            if found is None or found[1] != hashes.get(path):
                raise BadOutputError(
                    f"output {encode_name(str(path))} was changed after the job had hashed it"
                )
    return entries, hashes


def _mixed_versions(context: Context, inputs: Sequence[RunInput]) -> list[str]:
    """A warning where upstream products were made by different versions of one software."""
    upstream = sorted({i.upstream_run_id for i in inputs if i.upstream_run_id is not None})
    if not upstream:
        return []
    with context.database.read() as connection:
        found = runs.get_runs(connection, upstream)
    versions: dict[str, set[str]] = {}
    for made_by in found.values():
        software = made_by.resolved_step.software
        versions.setdefault(software.software, set()).add(software.version)
    return [
        f"mixed-versions: inputs were made by {name} {', '.join(sorted(several))}"
        for name, several in sorted(versions.items())
        if len(several) > 1
    ]


# --- publishing and recording ---------------------------------------------------------------------------------------


def _publish_checked(context: Context, collected: Collected) -> None:
    """What cannot be written here says nothing of the program's output: the next pass tries again."""
    try:
        _publish(context, collected)
    except (NoSpaceError, *NO_FAULT_OF_A_RUN):
        raise
    except CcatwmError as error:
        raise FilesUnavailableError(
            error.message, where=collected.run.directory, next="see that the base directory can be written to"
        ) from error


def _publish(context: Context, collected: Collected) -> None:
    """`run.json`, then `run-{id}/output` switched to the winning attempt, atomically; before any row speaks of it."""
    run_folder = PurePosixPath(collected.run.directory)
    record = build_run_record(
        replace(collected.run, warnings=collected.warnings), collected.attempt, collected.inputs, collected.rows,
        uid=context.ops_db_uid,
    )  # fmt: skip
    content = json.dumps(record, indent=1, sort_keys=True).encode()
    context.workfiles.write_files([FileWrite(run_folder / "run.json", content)])
    target = PurePosixPath(collected.attempt.directory).relative_to(run_folder) / "output"
    context.workfiles.switch_link(run_folder / "output", str(target))


def _record(frame: PassFrame, collected: Collected) -> None:
    """Products, status, current run and downstream due, in one transaction."""
    item = collected.run
    with frame.context.database.write() as connection:
        changed = runs.record_event(
            connection, item.id, RunEvent.PRODUCTS_RECORDED, expected=RunStatus.COLLECTING_RESULTS, now=frame.now,
            by_pass="collect", warnings=list(collected.warnings), due_at=None, failure_class=None,
            output_directory=f"{collected.attempt.directory}/output",
        )  # fmt: skip
        if changed:
            products.insert_products(connection, item.id, collected.rows, frame.now)
            if not item.trial:
                stale = _excluded(frame, connection, item)
                sub_groups.set_current_run(connection, item.sub_group_id, item.id, item.decision, stale)
                sub_groups.mark_due(connection, [item.sub_group_id], frame.now)
    if changed:
        warnings = f", {count_text(len(collected.warnings), 'warning')}" if collected.warnings else ""
        frame.report.add(
            "done", _item(item, "completed", count_text(len(collected.plan.products), "product") + warnings)
        )


def _excluded(frame: PassFrame, connection: sa.Connection, run: Run) -> str | None:
    """Why a run's products are not to be used, though it has just ended well: something was excluded meanwhile."""
    if not active_ids(connection):
        return None
    excluded = find_excluded(connection, frame.context.grouping, frame.now)
    stands_on = sub_groups.packages_of_runs(connection, [run.id])[run.id]
    software = run.resolved_step.software
    why = excluded.run(run.pipeline, run.id, software.software, software.version, stands_on)
    return f"{EXCLUDED}{why}" if why is not None else None


# --- cleaning up ------------------------------------------------------------------------------------------------------


def _remove_inputs(frame: PassFrame) -> None:
    """The input and workspace links of final runs go; the cache and the upstream products stay."""
    settings = frame.context.settings
    failed_before = frame.now - timedelta(hours=settings.keep_failed_inputs_hours)
    with frame.context.database.read() as connection:
        final = runs.list_runs_with_inputs(
            connection, location(frame.context), failed_before=failed_before, limit=CLEAN_UP_PER_PASS
        )
    for start in range(0, len(final), CLEAN_UP_AT_ONCE):
        if frame.time_is_up():
            return
        frame.checkpoint()
        some = final[start : start + CLEAN_UP_AT_ONCE]
        frame.context.workfiles.remove_trees(
            PurePosixPath(directory) / name for _, directory in some for name in ("input", "workspace")
        )
        with frame.context.database.write() as connection:
            runs.record_inputs_removed(connection, [run_id for run_id, _ in some], frame.now)
