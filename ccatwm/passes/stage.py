"""Brings the inputs of runs to the processing location. Touches: the ops-db, storage, files below the base directory.

Raw data packages are verified while they are read, unpacked once into a shared cache, and linked into the run's
folder; upstream products are linked from the run that made them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath

from ccatwm.core.model import FailureClass, Run, RunInput
from ccatwm.core.names import decode_name
from ccatwm.core.staging import (
    cache_directory,
    copy_order,
    input_path,
    not_readable_here,
    packages_of,
    products_of,
    workspace_path,
)
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.throttle import WaitingRun, admit
from ccatwm.core.wording import count_text, size_text
from ccatwm.edges.opsdb.stores import products, runs, staged, throttles
from ccatwm.edges.storage.receiving import receive_copy
from ccatwm.errors import (
    NO_FAULT_OF_A_RUN,
    CcatwmError,
    CopyUnavailableError,
    CorruptCopyError,
    MissingCopyError,
    NoSpaceError,
)
from ccatwm.interfaces import Bar, FileWrite, PackageCopy, Received
from ccatwm.passes._context import Context
from ccatwm.passes._failures import fail_run
from ccatwm.passes._frame import (
    PassFrame,
    PassItem,
    PassOptions,
    PassReport,
    boot_id,
    location,
    process_start,
    run_framed,
    this_process,
)
from ccatwm.passes._throttled import report_throttled, waiting_item

CLAIM_HOURS = 6  # a claim whose process cannot be looked at (another host) ends after this
UNAVAILABLE = "unavailable"  # outcome of a run that waits for a data location to answer
WAIT_SECONDS = 30  # less than cron's minute: each pass looks again, and so tells that it lasts
MARKER = ".ccatwm-run.json"
RUNS_AT_ONCE = 20  # that begin, and end, in one transaction
TELL_AFTER_SECONDS = 1.0  # that a run is staged is not kept back longer while others take their time


class StagingError(CcatwmError):
    """The inputs of a run cannot be had: this attempt fails."""

    def __init__(self, message: str, failure: FailureClass = FailureClass.STAGING) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass
class _Tally:
    """What was brought so far, for whoever watches."""

    bar: Bar
    packages: int = 0
    size_bytes: int = 0
    away: dict[str, str] = field(default_factory=dict)  # what was met at data locations that do not answer now

    def add(self, received: Received) -> None:
        self.packages += 1
        self.size_bytes += received.size_bytes
        self.bar.note(f"{count_text(self.packages, 'package')}, {size_text(self.size_bytes)}")


class ClaimedElsewhereError(CcatwmError):
    """Another stage process is bringing the same package: this run waits."""


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "stage", options, _body)


def _body(frame: PassFrame) -> None:
    most = frame.context.settings.max_concurrent
    with frame.context.database.read() as connection:
        demand = throttles.read_for_stage(connection, location(frame.context), frame.now, most)
    frame.report.selected = len(demand.waiting)
    admission = admit(*demand)
    report_throttled(frame, admission.throttled)
    if frame.dry_run:
        for waiting in frame.units(admission.admitted):
            frame.report.add("done", waiting_item(waiting, "would be staged"))
    elif admission.admitted:
        with frame.context.progress.begin("stage", len(admission.admitted), "runs") as bar:
            _stage_in_turn(frame, admission.admitted, _Tally(bar))


def _stage_in_turn(frame: PassFrame, admitted: Sequence[WaitingRun], tally: _Tally) -> None:
    """Runs begin some at a time, and are written down as staged some at a time, no later than after a moment.

    They are read shortly before it is their turn: many thousands may wait. The more goes well, the more begin at once:
    of a step that trips none is left half-way.
    """
    clock = frame.context.clock
    begun: dict[int, tuple[Run, list[RunInput]]] = {}
    ready: list[Run] = []
    at_once, next_begin, told_at = 1, 0, clock.monotonic()
    try:
        for count, waiting in enumerate(frame.units(admitted)):
            if count == next_begin:
                turn = admitted[count : count + at_once]
                begun = _begin(frame, [w.id for w in turn if w.step_id not in frame.tripped])
                next_begin, at_once = count + at_once, min(2 * at_once, RUNS_AT_ONCE)
            if waiting.id not in begun or waiting.step_id in frame.tripped:
                continue
            run, inputs = begun[waiting.id]
            is_staged = _stage_run(frame, run, inputs, tally)
            tally.bar.advance(1)
            if is_staged:
                ready.append(run)
            else:
                at_once = 1
            if len(ready) >= RUNS_AT_ONCE or clock.monotonic() - told_at > TELL_AFTER_SECONDS:
                _finish(frame, ready)
                ready, told_at = [], clock.monotonic()
    except CcatwmError:  # a world that is away for one is no reason to stage the others again
        _finish(frame, ready)
        raise
    _finish(frame, ready)


def _still_waits(run: Run) -> bool:
    """Nothing became of it since it was selected."""
    return run.status in (RunStatus.PENDING, RunStatus.STAGING_DATA) and run.cancel_requested_at is None


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _stage_run(frame: PassFrame, run: Run, inputs: Sequence[RunInput], tally: _Tally) -> bool:
    """Whether all is there that the run needs; its failure is its own, the pass goes on."""
    try:
        _bring_inputs(frame, run, inputs, tally)
    except ClaimedElsewhereError as error:
        frame.report.add("waiting", _item(run, "waiting", error.message))
    except NoSpaceError as error:
        message = f"{error.message}; {error.next}" if error.next else error.message
        _wait(frame, run, FailureClass.NO_SPACE.value, message, failure_class=FailureClass.NO_SPACE.value)
    except CopyUnavailableError as error:
        _wait(frame, run, UNAVAILABLE, error.message)
    except StagingError as error:
        fail_run(frame, run, RunStatus.STAGING_DATA, error.failure, error.message, by_pass="stage")
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        fail_run(frame, run, RunStatus.STAGING_DATA, FailureClass.STAGING, error.message, by_pass="stage")
    else:
        return True
    return False


def _begin(frame: PassFrame, run_ids: Sequence[int]) -> dict[int, tuple[Run, list[RunInput]]]:
    """Those that are STAGING_DATA now, whoever began them, with their inputs."""
    with frame.context.database.write() as connection:
        some = {run.id: run for run in runs.get_runs(connection, run_ids).values() if _still_waits(run)}
        pending = [run.id for run in some.values() if run.status == RunStatus.PENDING]
        begun = runs.record_events(
            connection, pending, RunEvent.STAGE_STARTED, expected=RunStatus.PENDING, now=frame.now, by_pass="stage",
            inputs_removed_at=None, ended_at=None,
        )  # fmt: skip
        going_on = some.keys() - set(pending)
        inputs = runs.list_inputs(connection, sorted(begun | going_on))
    return {run_id: (some[run_id], found) for run_id, found in inputs.items()}


def _finish(frame: PassFrame, ready: Sequence[Run]) -> None:
    if not ready:
        return
    with frame.context.database.write() as connection:
        changed = runs.record_events(
            connection, [run.id for run in ready], RunEvent.INPUTS_STAGED, expected=RunStatus.STAGING_DATA,
            now=frame.now, by_pass="stage", due_at=None, failure_class=None,
        )  # fmt: skip
    for run in ready:
        if run.id in changed:
            frame.report.add("done", _item(run, "staged"))


def _wait(frame: PassFrame, run: Run, outcome: str, message: str, **values: str) -> None:
    """No attempt is charged: the run is looked at again in a while."""
    due_at = frame.now + timedelta(seconds=WAIT_SECONDS)
    with frame.context.database.write() as connection:
        runs.update_run(connection, run.id, due_at=due_at, message=message, **values)
    frame.report.add("waiting", _item(run, outcome, message))


# --- one run ------------------------------------------------------------------------------------------------------


def _bring_inputs(frame: PassFrame, run: Run, inputs: Sequence[RunInput], tally: _Tally) -> None:
    context = frame.context
    _check_host_files(context, run)
    _make_run_directory(context, run)
    again = run.attempt > 0 and run.failure_class == FailureClass.STAGING
    if again:  # the job found an input gone or changed: link everything anew
        folder = PurePosixPath(run.directory)
        context.workfiles.remove_trees([folder / "input", folder / "workspace"])
    for package in packages_of(inputs):
        _bring_package(frame, run, package, tally, verify=again)
    _link_inputs(context, run, inputs)


def _check_host_files(context: Context, run: Run) -> None:
    """The image and the references are there, and the image is the one that was frozen."""
    step = run.resolved_step
    if step.software.image is not None and context.settings.container_runtime != "none":
        digest = context.host_files.digest(step.software.image)
        if digest is None:
            raise StagingError(
                f"image {step.software.image} of {step.software.software} {step.software.version} is missing; "
                f"put it there, then `ccatwm retry {run.id} --reason TEXT`",
                FailureClass.CONTAINER,
            )
        if step.software.image_digest not in (None, digest):
            raise StagingError(
                f"image {step.software.image} is not the one that {step.software.software} {step.software.version} "
                f"was applied with ({step.software.image_digest}, found {digest}); "
                "put the old file back, or apply the new one as a new version",
                FailureClass.CONTAINER,
            )
    for reference in step.references:
        found = context.host_files.digest(reference.path)
        if found is None:
            raise StagingError(f"reference {reference.name} {reference.version}: {reference.path} is missing")
        if reference.checksum not in (None, found):
            raise StagingError(
                f"reference {reference.path} is not the one that {reference.name} {reference.version} was applied "
                f"with ({reference.checksum}, found {found}); put the old one back, or apply the new one as a new version"
            )


def _make_run_directory(context: Context, run: Run) -> None:
    """The run's folder, made once; its marker says whose it is, so that a restored ops-db cannot write into it."""
    folder = PurePosixPath(run.directory)
    marker = folder / MARKER
    content = {
        "format": 1,
        "run": run.id,
        "ops_db": context.ops_db_uid,
        "created_at": run.created_at.isoformat(),
    }
    if not context.workfiles.make_exclusive(folder):
        text = context.workfiles.read_files([marker])[marker]
        if text is not None:
            if json.loads(text) != content:
                raise StagingError(
                    f"{run.directory} belongs to another run: {text.decode('utf-8', 'replace')}"
                )
            return
    context.workfiles.write_files([FileWrite(marker, json.dumps(content).encode())])


def _link_inputs(context: Context, run: Run, inputs: Sequence[RunInput]) -> None:
    folder = PurePosixPath(run.directory)
    # Nothing keeps a program without a container from writing into its inputs: then never by hard link.
    hard = context.settings.container_runtime != "none" and run.resolved_step.software.image is not None
    links = [
        (cache_directory(p.identity, p.name, p.checksum), folder / input_path(p)) for p in packages_of(inputs)
    ]
    upstream = products_of(inputs)
    paths: dict[int, str] = {}
    if upstream:
        with context.database.read() as connection:
            paths = products.product_paths(connection, [int(p.identity) for p in upstream])
    for product in upstream:
        source = decode_path(PurePosixPath(paths[int(product.identity)]))
        links.append((source, folder / decode_path(workspace_path(run.resolved_step, product))))
    context.workfiles.make_trees([folder / "input", folder / "workspace"])
    context.workfiles.link_trees(links, hard=hard)


def decode_path(path: PurePosixPath) -> PurePosixPath:
    """A recorded product path as it is on disk."""
    return PurePosixPath(decode_name(str(path)))


# --- one package ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sought:
    """A package on its way into the cache."""

    package: RunInput
    directory: PurePosixPath
    claim: str


def _bring_package(frame: PassFrame, run: Run, package: RunInput, tally: _Tally, *, verify: bool) -> None:
    """Have the package, verified and unpacked, in the shared cache."""
    context = frame.context
    directory = cache_directory(package.identity, package.name, package.checksum)
    place = location(context)
    with context.database.read() as connection:
        row = staged.read_staged(connection, place, str(directory))
    if row is not None and row.state == "PRESENT" and _is_whole(context, row, directory, verify=verify):
        return
    sought = _Sought(package, directory, this_process().token)
    _claim(context, sought)
    if row is not None and row.state == "PRESENT":
        context.workfiles.remove_trees([directory])  # it was there, but is no longer what was staged
    try:
        received = _receive_best(frame, run, sought, tally.away)
    except CcatwmError:
        with context.database.write() as connection:
            staged.release_claim(connection, place, str(directory), sought.claim)
        raise
    with context.database.write() as connection:
        staged.record_staged(
            connection, place, str(directory), now=context.clock.now(), size_bytes=received.unpacked_bytes,
            file_count=received.file_count, tree_digest=received.tree_digest,
        )  # fmt: skip
    tally.add(received)


def _is_whole(context: Context, row: object, directory: PurePosixPath, *, verify: bool) -> bool:
    if not verify:
        return context.workfiles.exists([directory])[directory]
    entries = context.workfiles.list_tree(directory)
    files = [e for e in entries or () if e.kind == "file"]
    size, count = getattr(row, "size_bytes", None), getattr(row, "file_count", None)
    return entries is not None and len(files) == count and sum(e.size_bytes for e in files) == size


def _claim(context: Context, sought: _Sought) -> None:
    now = context.clock.now()
    with context.database.write() as connection:
        mine = staged.claim_package(
            connection, location(context), str(sought.directory),
            package_id=sought.package.identity, package_name=sought.package.name, checksum=sought.package.checksum,
            claim=sought.claim, now=now, until=now + timedelta(hours=CLAIM_HOURS), holder_is_gone=_claimant_is_gone,
        )  # fmt: skip
    if not mine:
        raise ClaimedElsewhereError(f"package {sought.package.name} is being staged by another process")


def _claimant_is_gone(claim: str) -> bool:
    """Whether the process that made a claim certainly lives no more."""
    boot, pid, start = claim.rsplit(":", 2)
    return boot == boot_id() and boot != "unknown" and process_start(int(pid)) != start


def _receive_best(frame: PassFrame, run: Run, sought: _Sought, away: dict[str, str]) -> Received:
    """Read the package from its best copy; where one is bad or its place is away, say so and try the next."""
    context, package = frame.context, sought.package
    with context.database.read() as connection:
        copies = context.grouping.copies(connection, [package.identity]).get(package.identity, [])
        bad = staged.known_bad_copies(connection, package.identity)
        files = context.grouping.file_list(connection, package.identity)
    if not copies:
        raise StagingError(f"package {package.name}: the ops-db knows no copy of it at an active location")
    copies.sort(
        key=lambda c: copy_order(c.location, c.storage, c.priority, c.path, here=location(context), known_bad=bad)
    )
    _require_space(context, package)
    findings = []
    for copy in copies:
        if copy.location in away:
            continue
        try:
            received = _receive(context, sought, copy, files)
        except CopyUnavailableError as error:
            away[copy.location] = error.message
            continue
        except (CorruptCopyError, MissingCopyError) as error:
            finding = "corrupt" if isinstance(error, CorruptCopyError) else "missing"
            findings.append(f"{copy.location}: {finding} ({error.message})")
            news = (copy.location, copy.path) not in bad
            _report_copy(frame, run, package, copy, finding, error.message, news=news)
            continue
        if (copy.location, copy.path) in bad:
            with context.database.write() as connection:
                staged.forget_copy_report(connection, package.identity, copy.location, copy.path)
        return received
    waited_for = [away[copy.location] for copy in copies if copy.location in away]
    if waited_for:
        raise CopyUnavailableError(f"package {package.name}: {'; '.join([*waited_for, *findings])}")
    raise StagingError(f"package {package.name}: no good copy: {'; '.join(findings)}")


def _require_space(context: Context, package: RunInput) -> None:
    space = context.workfiles.space()
    margin = context.settings.min_free_gb * 2**30
    if space.free_bytes < (package.size_bytes or 0) + margin:
        raise NoSpaceError(
            f"package {package.name} needs {size_text(package.size_bytes or 0)} and {size_text(margin)} are to stay "
            f"free, but {size_text(space.free_bytes)} are free at {context.workfiles.root()}",
            next="free space there, or lower MIN_FREE_GB",
        )


def _receive(
    context: Context, sought: _Sought, copy: PackageCopy, files: dict[str, tuple[int, str | None]]
) -> Received:
    storage = context.storages.get(copy.storage)
    if storage is None:
        raise MissingCopyError(not_readable_here(copy.storage, copy.location))
    package = sought.package
    with context.progress.begin(package.name, package.size_bytes, "bytes") as bar:
        return receive_copy(
            context.workfiles, storage, copy.at_root(context.settings.root_of(copy.location)), sought.directory,
            size_bytes=package.size_bytes, checksum=package.checksum, members=files or None, read=bar.advance,
        )  # fmt: skip


def _report_copy(
    frame: PassFrame,
    run: Run,
    package: RunInput,
    copy: PackageCopy,
    finding: str,
    message: str,
    *,
    news: bool,
) -> None:
    """A bad copy is remembered, is a warning of the run that met it, and is told when it is first met."""
    text = f"package {package.name}: its copy at {copy.location} ({copy.path}) is {finding}: {message}"
    with frame.context.database.write() as connection:
        staged.record_copy_report(
            connection, package_id=package.identity, package_name=package.name, location=copy.location,
            path=copy.path, finding=finding, message=message, now=frame.context.clock.now(),
        )  # fmt: skip
        runs.add_warning(connection, run.id, text)
    if news:
        frame.report.tell(_item(run, "bad-copy", text))
