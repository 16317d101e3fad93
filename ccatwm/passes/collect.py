"""Records what runs made: products with checksums and lineage. Touches: the ops-db, files below the base directory.

Files come first: the output is verified against the job's checksums and `run-{id}/output` switched before one
transaction records products, the current run and who falls due downstream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED
from ccatwm.core.latest import LatestLink
from ccatwm.core.lineage import build_run_record, parse_sha256_list
from ccatwm.core.model import Attempt, FailureClass, Run, RunInput
from ccatwm.core.names import encode_name
from ccatwm.core.products import ProductPlan, plan_products
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.exclusions import find_excluded
from ccatwm.edges.opsdb.stores import attempts, latest, products, runs, sub_groups
from ccatwm.edges.opsdb.stores.exclusions import active_ids
from ccatwm.errors import NO_FAULT_OF_A_RUN, CcatwmError, FilesUnavailableError, NoSpaceError
from ccatwm.interfaces import EntryKind, FileWrite, TreeEntry
from ccatwm.passes._context import Context
from ccatwm.passes._failures import fail_run
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

PRODUCTS_JSON = PurePosixPath("products.json")
SUMS = "outputs.sha256"
RUNS_AT_ONCE = 20  # that are read, published and recorded together
FILES_AT_ONCE = 2000  # of their outputs; where there are more, a run is taken alone
CLEAN_UP_PER_PASS = 200
CLEAN_UP_AT_ONCE = 50
LINKS_AT_ONCE = 500


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
    if frame.dry_run:
        for item in frame.units(selected):
            frame.report.add("done", _item(item, "would be collected"))
        return
    _switch_latest(frame)
    some: list[Run] = []
    at_once = 1
    for item in frame.units(selected):
        some.append(item)
        if len(some) >= at_once:
            files = _collect_some(frame, some, newest, inputs)
            at_once = min(2 * at_once, RUNS_AT_ONCE) if files < FILES_AT_ONCE else 1
            some = []
    if some:
        _collect_some(frame, some, newest, inputs)
    _switch_latest(frame)
    _remove_inputs(frame)


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _collect_some(
    frame: PassFrame,
    some: Sequence[Run],
    newest: Mapping[int, Attempt],
    inputs: Mapping[int, Sequence[RunInput]],
) -> int:
    """Runs from COLLECTING_RESULTS to COMPLETED, read, published and written down together; the failure of one is its
    own. How many files they have, so that few are together where outputs are large."""
    outputs = _read_outputs(frame.context, [newest[item.id] for item in some])
    good = []
    for item in some:
        attempt = newest[item.id]
        try:
            good.append(_collect(frame.context, item, attempt, inputs[item.id], outputs[attempt.id]))
        except RecordsNotThereError as error:
            _wait_or_fail(frame, item, error)
        except NO_FAULT_OF_A_RUN:
            raise
        except CcatwmError as error:
            fail_run(
                frame, item, RunStatus.COLLECTING_RESULTS, FailureClass.BAD_OUTPUT, error.message, by_pass="collect",
                exit_code=attempt.exit_code,
            )  # fmt: skip
    try:
        _publish_checked(frame.context, good)
    except NoSpaceError as error:
        for collected in good:
            frame.report.add("waiting", _item(collected.run, FailureClass.NO_SPACE.value, error.message))
    else:
        _record(frame, good)
    return sum(len(output.entries or ()) for output in outputs.values())


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


@dataclass(frozen=True)
class Output:
    """What an attempt left: entries of its output and of `job/` (None where that is no folder), two files of it."""

    entries: list[TreeEntry] | None
    job: list[TreeEntry] | None
    sums: bytes | None  # job/outputs.sha256
    declared: bytes | None  # output/products.json


def _read_outputs(context: Context, some: Sequence[Attempt]) -> dict[int, Output]:
    """By attempt id, in three questions to the files."""
    folders = {attempt.id: PurePosixPath(attempt.directory) for attempt in some}
    trees = context.workfiles.list_trees(f / name for f in folders.values() for name in ("output", "job"))
    sums = context.workfiles.read_files([f / "job" / SUMS for f in folders.values()], max_bytes=1 << 30)
    declared = context.workfiles.read_files([f / "output" / PRODUCTS_JSON for f in folders.values()])
    return {
        attempt_id: Output(
            trees[f / "output"], trees[f / "job"], sums[f / "job" / SUMS], declared[f / "output" / PRODUCTS_JSON]
        )
        for attempt_id, f in folders.items()
    }


def _collect(
    context: Context, item: Run, attempt: Attempt, inputs: Sequence[RunInput], output: Output
) -> Collected:
    entries, hashes = _checked_output(context, PurePosixPath(attempt.directory), output)
    step = item.resolved_step
    exit_code = attempt.exit_code or 0
    partial = exit_code != 0 and exit_code in step.partial_exit_codes
    plan = plan_products(entries, hashes, output.declared, role=step.role)
    if plan.problem is not None:
        raise BadOutputError(plan.problem)
    warnings = [*item.warnings, *plan.warnings]
    if partial:
        warnings.append(f"partial: the program ended with exit code {exit_code}")
    warnings += _mixed_versions(context, inputs)
    return Collected(item, attempt, tuple(inputs), plan, tuple(warnings))


def _checked_output(
    context: Context, folder: PurePosixPath, output: Output
) -> tuple[list[TreeEntry], dict[PurePosixPath, str]]:
    """Entries of the output and the job's checksums; a file changed after it was hashed is hashed again."""
    listed = next((entry for entry in output.job or () if entry.path == PurePosixPath(SUMS)), None)
    if output.entries is None or listed is None:
        raise RecordsNotThereError(f"{folder}: the output or its checksums are not there")
    hashes = parse_sha256_list(output.sums or b"")
    late = [e.path for e in output.entries if e.kind is EntryKind.FILE and e.mtime_ns > listed.mtime_ns]
    if late:
        again = context.workfiles.hash_files([folder / "output" / path for path in late])
        for path in late:
            found = again[folder / "output" / path]
            if found is None or found[1] != hashes.get(path):
                raise BadOutputError(
                    f"output {encode_name(str(path))} was changed after the job had hashed it"
                )
    return output.entries, hashes


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


def _publish_checked(context: Context, good: Sequence[Collected]) -> None:
    """What cannot be written here says nothing of the program's output: the next pass tries again."""
    try:
        _publish(context, good)
    except (NoSpaceError, *NO_FAULT_OF_A_RUN):
        raise
    except CcatwmError as error:
        where = good[0].run.directory if len(good) == 1 else ""
        raise FilesUnavailableError(
            error.message, where=where, next="see that the base directory can be written to"
        ) from error


def _publish(context: Context, good: Sequence[Collected]) -> None:
    """`run.json`, then `run-{id}/output` switched to the winning attempt, atomically; before any row speaks of it."""
    if good:
        context.workfiles.write_files([_run_record(context, collected) for collected in good])
    for collected in good:
        run_folder = PurePosixPath(collected.run.directory)
        target = PurePosixPath(collected.attempt.directory).relative_to(run_folder) / "output"
        context.workfiles.switch_link(run_folder / "output", str(target))


def _run_record(context: Context, collected: Collected) -> FileWrite:
    record = build_run_record(
        replace(collected.run, warnings=collected.warnings), collected.attempt, collected.inputs, collected.rows,
        uid=context.ops_db_uid,
    )  # fmt: skip
    content = json.dumps(record, indent=1, sort_keys=True).encode()
    return FileWrite(PurePosixPath(collected.run.directory) / "run.json", content)


def _record(frame: PassFrame, good: Sequence[Collected]) -> None:
    """Products, status, current run and downstream due, in one transaction."""
    if not good:
        return
    with frame.context.database.write() as connection:
        changed = _complete(frame, connection, [c for c in good if not c.warnings])
        for collected in good:
            if collected.warnings:
                changed |= _complete(frame, connection, [collected])
        recorded = [collected for collected in good if collected.run.id in changed]
        for collected in recorded:
            products.insert_products(connection, collected.run.id, collected.rows, frame.now)
        counted = [collected.run for collected in recorded if not collected.run.trial]
        stale = _excluded(frame, connection, counted)
        for item in counted:
            sub_groups.set_current_run(
                connection, item.sub_group_id, item.id, item.decision, stale.get(item.id), now=frame.now
            )
        sub_groups.mark_due(connection, [item.sub_group_id for item in counted], frame.now)
    for collected in recorded:
        warnings = f", {count_text(len(collected.warnings), 'warning')}" if collected.warnings else ""
        count = count_text(len(collected.plan.products), "product")
        frame.report.add("done", _item(collected.run, "completed", count + warnings))


def _complete(frame: PassFrame, connection: sa.Connection, alike: Sequence[Collected]) -> set[int]:
    """Those of runs with the same warnings that are COMPLETED now; somebody else may have been first."""
    if not alike:
        return set()
    places = {collected.run.id: f"{collected.attempt.directory}/output" for collected in alike}
    return runs.record_events(
        connection, list(places), RunEvent.PRODUCTS_RECORDED, expected=RunStatus.COLLECTING_RESULTS, now=frame.now,
        by_pass="collect", warnings=list(alike[0].warnings), due_at=None, failure_class=None,
        output_directory=runs.by_run(places),
    )  # fmt: skip


def _excluded(frame: PassFrame, connection: sa.Connection, counted: Sequence[Run]) -> dict[int, str]:
    """Of runs that have just ended well: why products are not to be used, where something was excluded meanwhile."""
    if not counted or not active_ids(connection):
        return {}
    excluded = find_excluded(connection, frame.context.grouping, frame.now)
    stands_on = sub_groups.packages_of_runs(connection, [run.id for run in counted])
    found = {}
    for run in counted:
        software = run.resolved_step.software
        why = excluded.run(run.pipeline, run.id, software.software, software.version, stands_on[run.id])
        if why is not None:
            found[run.id] = f"{EXCLUDED}{why}"
    return found


# --- the stable path ------------------------------------------------------------------------------------------------


def _switch_latest(frame: PassFrame) -> None:
    """Links `latest` whose run counts no more, or counts since now. They follow the ops-db: files first, then settled."""
    while not frame.time_is_up():
        frame.checkpoint()
        with frame.context.database.read() as connection:
            due = latest.list_links_due(connection, location(frame.context), LINKS_AT_ONCE)
        if not due:
            return
        try:
            in_the_way = set(_switched(frame.context, due))
        except NoSpaceError as error:
            frame.report.add("waiting", PassItem(FailureClass.NO_SPACE.value, error.message, count=0))
            return
        with frame.context.database.write() as connection:
            settled = latest.settle_links(connection, due)
        for link in due:
            if link.path in in_the_way:
                reason = f"{link.path} is no link of ours and stays; move it away, then `ccatwm doctor --reconcile`"
                frame.report.tell(PassItem("no-latest", reason, None, link.pipeline, link.step, link.sub_group))
        if settled < len(due):  # the rest changed meanwhile
            return


def _switched(context: Context, due: Sequence[LatestLink]) -> list[PurePosixPath]:
    """Where something that is no link is in the way."""
    try:
        return context.workfiles.switch_links([(link.path, link.target) for link in due])
    except (NoSpaceError, *NO_FAULT_OF_A_RUN):
        raise
    except CcatwmError as error:
        raise FilesUnavailableError(error.message, next="see that the base directory can be written to") from error


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
