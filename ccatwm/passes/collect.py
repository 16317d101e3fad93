"""Records what runs made: products with checksums and lineage. Touches: the ops-db, files below the base directory.

Files come first: the output is verified against the job's checksums and `run-{id}/output` switched before one
transaction records products, the current run and who falls due downstream.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TypeVar

import sqlalchemy as sa

from ccatwm.core.gap import EXCLUDED
from ccatwm.core.latest import LatestLink
from ccatwm.core.lineage import ProductRow, write_run_record
from ccatwm.core.model import Attempt, FailureClass, Run, RunInput
from ccatwm.core.names import encode_name
from ccatwm.core.outputs import (
    LIST,
    MAX_RECORD,
    SUMS,
    Hashes,
    Listing,
    Verify,
    differences,
    hashed_together,
    parse_hashes,
    parse_listing,
    shown,
    size_of,
    text_path,
    touched_after,
    touched_since,
)
from ccatwm.core.products import ProductPlan, joined, plan_output
from ccatwm.core.run_record import RunRecord, build_record, completed
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.exclusions import find_excluded
from ccatwm.edges.opsdb.stores import attempts, latest, products, run_records, runs, sub_groups
from ccatwm.edges.opsdb.stores.exclusions import active_ids
from ccatwm.errors import (
    NO_FAULT_OF_A_RUN,
    CcatwmError,
    FilesUnavailableError,
    NoSpaceError,
    NotPermittedError,
)
from ccatwm.interfaces import FileWrite, TreeEntry
from ccatwm.passes._attempt_files import INPUTS_LIST
from ccatwm.passes._context import Context
from ccatwm.passes._failures import fail_run
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

PRODUCTS_JSON = PurePosixPath("products.json")
T = TypeVar("T")
RUNS_AT_ONCE = 20  # that are read, published and recorded together
FILES_AT_ONCE = 2000  # of their outputs; where there are more, a run is taken alone
CLEAN_UP_PER_PASS = 200
CLEAN_UP_AT_ONCE = 50
LINKS_AT_ONCE = 500
WAIT_SECONDS = 30  # less than cron's minute
SET_ASIDE = 3  # runs beside which nothing can be written: where there is no other, it is not they


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
    files: int = 0
    numbers: Sequence[int] = ()  # of its products

    @property
    def output(self) -> str:
        """Below the base directory."""
        return f"{self.attempt.directory}/output"

    def rows(self) -> Iterator[ProductRow]:
        """Rows of `data_product`, one by one: there may be 100,000."""
        output = f"{encode_name(self.output)}/"
        last, text = None, ""
        for number, planned in zip(self.numbers, self.plan.products, strict=True):
            kind, raw, is_directory, size_bytes, file_count, sha256, dims, quality = planned
            if kind is not last:
                last, text = kind, kind.value
            name = encode_name(raw)
            yield number, text, name, output + name, is_directory, size_bytes, file_count, sha256, dims, quality


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
    aside: list[FilesUnavailableError] = []
    for item in frame.units(selected):
        some.append(item)
        if len(some) >= at_once:
            files = _collect_some(frame, some, newest, inputs, aside)
            at_once = min(2 * at_once, RUNS_AT_ONCE) if files < FILES_AT_ONCE else 1
            some = []
    if some:
        _collect_some(frame, some, newest, inputs, aside)
    _switch_latest(frame)
    _remove_inputs(frame)
    if aside:
        raise aside[0]


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _collect_some(
    frame: PassFrame,
    some: Sequence[Run],
    newest: Mapping[int, Attempt],
    inputs: Mapping[int, Sequence[RunInput]],
    aside: list[FilesUnavailableError],
) -> int:
    """Runs from COLLECTING_RESULTS to COMPLETED, read, published and written down together; the failure of one is its
    own. How many files they have, so that few are together where outputs are large. `aside`: why nothing can be written
    beside the output of some; these stay as they are."""
    outputs = _read_each(frame, {newest[item.id].id: _asked(frame, item, newest[item.id]) for item in some})
    good = []
    files = 0
    for item in some:
        attempt = newest[item.id]
        try:
            found = outputs.pop(attempt.id)
            if isinstance(found, CcatwmError):
                raise found
            good.append(_collect(frame, item, attempt, inputs[item.id], found))
            files += good[-1].files
        except RecordsNotThereError as error:
            _wait_or_fail(frame, item, error)
        except NO_FAULT_OF_A_RUN:
            raise
        except NotPermittedError as error:  # the job could read all of it
            aside.append(_set_aside(frame, item, "not read", error, error.next))
        except CcatwmError as error:
            fail_run(
                frame, item, RunStatus.COLLECTING_RESULTS, FailureClass.BAD_OUTPUT, error.message, by_pass="collect",
                exit_code=attempt.exit_code,
            )  # fmt: skip
    good, records = _numbered(frame, good)
    try:
        published = _publish_checked(frame, good, records, aside)
    except NoSpaceError as error:
        for collected in good:
            _wait(frame, collected.run, FailureClass.NO_SPACE.value, error, failure_class=FailureClass.NO_SPACE.value)
    else:
        _record(frame, published)
    if len(aside) >= SET_ASIDE and not frame.report.done:
        raise aside[0]
    return files


def _wait(frame: PassFrame, item: Run, outcome: str, error: CcatwmError, **values: str) -> None:
    """It says for what it waits, and is looked at again in a while."""
    message = error.with_next
    with frame.context.database.write() as connection:
        due_at = frame.now + timedelta(seconds=WAIT_SECONDS)
        runs.update_run(connection, item.id, message=message, due_at=due_at, **values)
    frame.report.add("waiting", _item(item, outcome, message))


def _set_aside(frame: PassFrame, item: Run, outcome: str, error: CcatwmError, next: str) -> FilesUnavailableError:
    """What is said of a run that waits for a person; others go on."""
    told = FilesUnavailableError(error.message, where=item.directory, next=next)
    _wait(frame, item, outcome, told)
    return told


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
class Asked:
    """What is looked at of an attempt's output."""

    folder: PurePosixPath
    verify: Verify


@dataclass(frozen=True)
class Output:
    """What an attempt left; None where something is not there. Of very many files these are some megabytes of text."""

    job: list[TreeEntry] | None
    listed: bytes | None  # job/outputs.list: what the job saw
    sums: bytes | None  # job/outputs.sha256
    declared: bytes | None  # output/products.json
    there: bytes | None  # what is there now; not asked for where the job's list is trusted


def _asked(frame: PassFrame, item: Run, attempt: Attempt) -> Asked:
    verify = item.resolved_step.verify or frame.context.settings.collect_verify
    return Asked(PurePosixPath(attempt.directory), Verify(verify))


def _read_each(frame: PassFrame, asked: Mapping[int, Asked]) -> dict[int, Output | CcatwmError]:
    """By attempt id: its output, or why it cannot be read. An output that cannot be is no reason not to read others."""
    try:
        return dict(_read_outputs(frame.context, asked))
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        if len(asked) == 1:
            return dict.fromkeys(asked, error)
    return {key: output for one in asked.items() for key, output in _read_each(frame, dict([one])).items()}


def _read_outputs(context: Context, asked: Mapping[int, Asked]) -> dict[int, Output]:
    """In four questions to the files."""
    folders = [one.folder for one in asked.values()]
    jobs = context.workfiles.list_trees(folder / "job" for folder in folders)
    records = [folder / "job" / name for folder in folders for name in (LIST, SUMS)]
    texts = context.workfiles.read_files(records, max_bytes=MAX_RECORD + 1)
    declared = context.workfiles.read_files([folder / "output" / PRODUCTS_JSON for folder in folders])
    looked = [
        one.folder / "output" for one in asked.values()
        if one.verify is not Verify.NONE or texts[one.folder / "job" / LIST] is None
    ]  # fmt: skip
    there = context.workfiles.list_records(looked)
    return {
        attempt_id: Output(
            jobs[f / "job"], texts[f / "job" / LIST], texts[f / "job" / SUMS], declared[f / "output" / PRODUCTS_JSON],
            there.get(f / "output"),
        )
        for attempt_id, f in ((attempt_id, one.folder) for attempt_id, one in asked.items())
    }  # fmt: skip


def _collect(
    frame: PassFrame, item: Run, attempt: Attempt, inputs: Sequence[RunInput], output: Output
) -> Collected:
    listing, hashes = _checked_output(frame, _asked(frame, item, attempt), output)
    step = item.resolved_step
    exit_code = attempt.exit_code or 0
    partial = exit_code != 0 and exit_code in step.partial_exit_codes
    plan = plan_output(listing, hashes, output.declared, role=step.role)
    if plan.problem is not None:
        raise BadOutputError(plan.problem)
    warnings = [*item.warnings, *plan.warnings]
    if partial:
        warnings.append(f"partial: the program ended with exit code {exit_code}")
    warnings += _mixed_versions(frame.context, inputs)
    return Collected(item, attempt, tuple(inputs), plan, tuple(warnings), len(listing.entries))


def _checked_output(frame: PassFrame, asked: Asked, output: Output) -> tuple[Listing, Hashes]:
    """What the output holds, and the job's checksums, compared as far as `asked.verify` says.

    Errors: BadOutputError for what is not as the job saw it, RecordsNotThereError.
    """
    written = next((entry for entry in output.job or () if entry.path == PurePosixPath(SUMS)), None)
    if written is None or output.sums is None or (output.there is None and output.listed is None):
        raise RecordsNotThereError(f"{asked.folder}: the output or its checksums are not there")
    hashes = _parsed(parse_hashes, output.sums)
    then = _parsed(parse_listing, output.listed) if output.listed is not None else None
    if output.there is None and asked.verify is Verify.NONE and then is not None:
        return then, hashes
    if output.there is None:
        raise RecordsNotThereError(f"{asked.folder}: the output is not there")
    if then is not None and output.there == output.listed:  # mostly, and then there is nothing to compare
        now = then
    else:
        now = _parsed(parse_listing, output.there)
    if then is not None and (wrong := differences(then, now)):
        raise BadOutputError(joined(wrong))
    touched: Iterable[bytes] = touched_after(now, written.mtime_ns) if then is None else touched_since(then, now)
    _hash_again(frame, asked.folder / "output", now.files() if asked.verify is Verify.FULL else touched, now, hashes)
    return now, hashes


def _parsed(parse: Callable[[bytes], T], record: bytes) -> T:
    """Errors: BadOutputError for a record that is too long or no whole one."""
    if len(record) > MAX_RECORD:
        raise BadOutputError(
            f"the record of its files is longer than {MAX_RECORD >> 20} MiB: write fewer and larger files, such as shards"
        )
    try:
        return parse(record)
    except ValueError as error:
        raise BadOutputError(str(error)) from error


def _hash_again(frame: PassFrame, output: PurePosixPath, paths: Iterable[bytes], now: Listing, hashes: Hashes) -> None:
    """Errors: BadOutputError for a file whose content is not what the job hashed."""
    for some in hashed_together((path, size_of(now.entries[path])) for path in paths):
        frame.checkpoint()  # the lease is renewed
        again = frame.context.workfiles.hash_files([output / text_path(path) for path in some])
        for path in some:
            found = again[output / text_path(path)]
            if path in hashes and (found is None or found[1].encode() != hashes[path]):
                raise BadOutputError(f"output {shown(path)} was changed after the job had hashed it")


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


def _numbered(frame: PassFrame, good: Sequence[Collected]) -> tuple[list[Collected], dict[int, RunRecord]]:
    """With numbers for their products, which `run.json` tells; and what else it tells of each, by run id."""
    if not good:
        return [], {}
    with frame.context.database.write() as connection:
        numbers = products.reserve_numbers(connection, sum(len(c.plan.products) for c in good))
        known = run_records.read_records(connection, [c.run.id for c in good], frame.context.ops_db_uid)
    ends = list(itertools.accumulate((len(c.plan.products) for c in good), initial=0))
    numbered = [replace(c, numbers=numbers[a:b]) for c, (a, b) in zip(good, itertools.pairwise(ends), strict=True)]
    return numbered, {c.run.id: completed(known[c.run.id], c.warnings, c.output, frame.now) for c in good}


def _publish_checked(
    frame: PassFrame,
    good: Sequence[Collected],
    records: Mapping[int, RunRecord],
    aside: list[FilesUnavailableError],
) -> list[Collected]:
    """Those that are published. What cannot be written here says nothing of the program's output: the next pass tries
    again, and what is in the way of one run is not in that of others."""
    try:
        _publish(frame.context, good, records)
    except (NoSpaceError, *NO_FAULT_OF_A_RUN):
        raise
    except CcatwmError as error:
        if len(good) > 1:
            return [done for one in good for done in _publish_checked(frame, [one], records, aside)]
        next = "see that the base directory can be written to, and that nothing else lies there"
        aside.append(_set_aside(frame, good[0].run, "not written", error, next))
        return []
    return list(good)


def _publish(context: Context, good: Sequence[Collected], records: Mapping[int, RunRecord]) -> None:
    """`run.json`, then `run-{id}/output` switched to the winning attempt, atomically; before any row speaks of it."""
    if good:
        context.workfiles.write_files([_run_record(collected, records[collected.run.id]) for collected in good])
    for collected in good:
        run_folder = PurePosixPath(collected.run.directory)
        target = PurePosixPath(collected.output).relative_to(run_folder)
        context.workfiles.switch_link(run_folder / "output", str(target))


def _run_record(collected: Collected, record: RunRecord) -> FileWrite:
    content = write_run_record(build_record(record), collected.rows())
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
            products.insert_products(connection, collected.run.id, collected.rows(), frame.now)
            if collected.run.message:  # what it waited for
                runs.update_run(connection, collected.run.id, message=None)
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
    places = {collected.run.id: collected.output for collected in alike}
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
                reason = (
                    f"{link.path} is no link of ours and stays; move it away, then `ccatwm fsck --yes --reason TEXT`, and "
                    "the next `ccatwm collect` makes the link"
                )
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
            PurePosixPath(directory) / name for _, directory in some for name in ("input", "workspace", INPUTS_LIST)
        )
        with frame.context.database.write() as connection:
            runs.record_inputs_removed(connection, [run_id for run_id, _ in some], frame.now)
