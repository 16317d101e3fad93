"""Brings the inputs of runs to the processing location. Touches: the ops-db, storage, files below the base directory.

Raw data packages are verified while they are read, unpacked once into a shared cache, and linked into the run's
folder; upstream products are linked from the run that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

from ccatwm.core.cache import NOTHING, Amount, Shortage, never_fits, total
from ccatwm.core.model import FailureClass, Run, RunInput
from ccatwm.core.staging import input_path, packages_of, products_of
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.throttle import WaitingRun, admit
from ccatwm.edges.opsdb.stores import products, runs, staged, streaks, throttles
from ccatwm.errors import (
    NO_FAULT_OF_A_RUN,
    CcatwmError,
    IncompleteTreeError,
    MissingRightError,
    NoSpaceError,
)
from ccatwm.passes._attempt_files import write_staged_lists
from ccatwm.passes._bring import (
    Looked,
    Sought,
    Tally,
    claim,
    directory_of,
    look,
    receive,
    receive_together,
    record,
    release,
    seek,
)
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, PassOptions, PassReport, location, run_framed
from ccatwm.passes._not_staged import ClaimedElsewhereError, not_staged, run_item
from ccatwm.passes._request import Requests
from ccatwm.passes._room import Room
from ccatwm.passes._run_folder import (
    Links,
    StagingError,
    check_host_files,
    gets_hard_links,
    make_links,
    make_run_directories,
    plan_links,
    remove_links,
    workspace_of,
)
from ccatwm.passes._throttled import report_behind, report_short, report_throttled, report_turn, waiting_item
from ccatwm.passes._transfers import Transfers
from ccatwm.passes._work import WorkQueue

RUNS_AT_ONCE = 50  # that begin, and end, in one transaction
SMALL = Amount(4 << 20, 16)  # packages up to here come some at a time, with one flush for all
MOST_TOGETHER = Amount(32 << 20, 32)  # bytes, and packages
MOST_SHORT = 50  # runs without room that a pass looks at: behind them no others are
MOST_TRIES = 2  # a package that a purge has taken files of is brought again, and linked again, in the same pass
TELL_AFTER_SECONDS = 1.0  # that a run is staged is not kept back longer while others take their time


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "stage", options, _body)


def _body(frame: PassFrame) -> None:
    if frame.dry_run:
        transfers = None
    else:
        transfers = Transfers(frame, lambda run, error: not_staged(frame, run, error, by_job=True))
        transfers.settle()
    most = frame.context.settings.max_concurrent
    with frame.context.database.read() as connection:
        demand = throttles.read_for_stage(connection, location(frame.context), frame.now, most)
    frame.report.selected = len(demand.waiting)
    admission = admit(*demand)
    report_throttled(frame, admission.throttled)
    if transfers is None:
        for waiting in frame.units(admission.admitted):
            frame.report.add("done", waiting_item(waiting, "would be staged"))
    elif admission.admitted:
        with frame.context.progress.begin("stage", len(admission.admitted), "runs") as bar:
            turn = sorted(admission.admitted, key=lambda waiting: waiting.id not in transfers.came)
            _Staging(frame, turn, Tally(bar, frame.context.clock), transfers).stage_all()
            transfers.hand_over()
    if frame.context.settings.staging_mode == "request" and not frame.dry_run:
        Requests(frame.context).close_unneeded()


def _still_waits(run: Run) -> bool:
    """Nothing became of it since it was selected."""
    return run.status in (RunStatus.PENDING, RunStatus.STAGING_DATA) and run.cancel_requested_at is None


@dataclass
class _RunStaged:
    """A run whose inputs are on their way.

    `missing`: packages that it waits for; `elsewhere`: one that another process brings; `in_jobs`: those that batch jobs
    bring, by their cache folder; `copies`: what it takes beside the cache, for which there is room; `listed`: its list of
    inputs, as far as linking told it.
    """

    run: Run
    inputs: Sequence[RunInput]
    missing: set[PurePosixPath] = field(default_factory=set)
    whole: dict[PurePosixPath, tuple[int, int]] = field(default_factory=dict)
    elsewhere: str | None = None
    in_jobs: dict[PurePosixPath, str] = field(default_factory=dict)
    tries: int = 0
    copies: Amount = NOTHING
    listed: bytes | None = None


@dataclass
class _Package:
    """A package that is brought, and the runs that wait for it."""

    sought: Sought
    waiting: list[_RunStaged]

    @property
    def wanted_by(self) -> list[Run]:
        return [staging.run for staging in self.waiting]


@dataclass
class _PackageWork:
    """A package that is brought, or small ones together."""

    context: Context
    packages: list[_Package]
    away: dict[str, str]  # of the pass: what was met at data locations that do not answer now
    tally: Tally
    stopped: Callable[[], bool]

    @property
    def coming(self) -> Amount:
        return total(package.sought.coming for package in self.packages)

    def work(self) -> None:
        some = [package.sought for package in self.packages]
        if len(some) == 1:
            receive(self.context, some[0], self.away, self.tally.read, self.stopped)
        else:
            receive_together(self.context, some, self.away, self.tally.read, self.stopped)


@dataclass
class _LinkWork:
    """The inputs of runs, linked into their folders. `errors` by run."""

    context: Context
    some: list[tuple[_RunStaged, Links]]
    coming: Amount = NOTHING
    errors: dict[int, CcatwmError] = field(default_factory=dict)

    def work(self) -> None:
        try:
            listed = make_links(self.context, [links for _, links in self.some])
            for staging, links in self.some:
                staging.listed = links.lines(listed)
        except CcatwmError as error:
            if len(self.some) == 1:
                self.errors[self.some[0][0].run.id] = error
            else:  # of one of them: what is linked already stays
                self._make_each()

    def _make_each(self) -> None:
        for staging, links in self.some:
            try:
                make_links(self.context, [links])
            except CcatwmError as error:
                self.errors[staging.run.id] = error


def together(packages: Sequence[_Package]) -> Iterator[list[_Package]]:
    """Small ones with one another, each other one by itself."""
    some: list[_Package] = []
    amount = NOTHING
    for package in packages:
        one = package.sought.amount
        if not (0 < one.size_bytes <= SMALL.size_bytes and one.inodes <= SMALL.inodes):
            yield [package]
            continue
        if some and (amount.size_bytes + one.size_bytes > MOST_TOGETHER.size_bytes or len(some) == MOST_TOGETHER.inodes):
            yield some
            some, amount = [], NOTHING
        some.append(package)
        amount += one
    if some:
        yield some


@dataclass(frozen=True)
class _Known:
    """What was found of packages of runs that begin together, before the first has its turn."""

    looked: Looked
    sought: dict[PurePosixPath, Sought]


class _Staging:
    """Stages runs in their turn; packages come, and links are made, side by side.

    Runs begin some at a time, and are written down as staged some at a time, no later than after a moment. They are read
    shortly before it is their turn: many thousands may wait. The more goes well, the more begin at once: of a step that
    trips none is left half-way.
    """

    def __init__(
        self, frame: PassFrame, admitted: Sequence[WaitingRun], tally: Tally, transfers: Transfers
    ) -> None:
        self.frame = frame
        self._transfers = transfers
        self._admitted = admitted
        self._tally = tally
        self._away: dict[str, str] = {}
        self._requests = Requests(frame.context)
        settings = frame.context.settings
        # One connection carries one call at a time: beside it, others would only wait.
        self._queue = WorkQueue(1 if settings.files_over_ssh else settings.stage_parallel)
        self._room = Room(frame.context, [w.id for w in admitted], frame.now, self._coming, self._ordered)
        self._packages: dict[PurePosixPath, _Package] = {}  # under way, each once
        self._planned: list[_Package] = []  # of runs that begin together: not claimed yet
        self._lost: set[PurePosixPath] = set()  # of what is planned: what is there is not what was staged
        self._whole: list[_RunStaged] = []  # runs whose packages are all there: to be linked
        self._open: dict[int, _RunStaged] = {}
        self._ready: list[_RunStaged] = []
        self._short: list[tuple[Run, Shortage]] = []
        self._at_once = 1
        self._told_at = frame.context.clock.monotonic()

    def stage_all(self) -> None:
        try:
            self._stage_in_turn()
            while not self._queue.is_empty and not self.frame.time_is_up():
                self._go_on()
            self._let_go()
            while not self._queue.is_empty:  # what is under way is waited for
                self._go_on()
        except CcatwmError:  # a world that is away for one is no reason to stage the others again
            self._break_off()
            self._finish()
            raise
        except BaseException:  # a person who does not wait
            self._break_off()
            raise
        self._queue.close()
        self._finish()

    def _coming(self) -> Amount:
        """What this pass brings, or jobs do, and is not on the disk yet; copies of runs that are not linked yet too."""
        copies = total(staging.copies for staging in self._open.values() if staging.copies != NOTHING)
        return self._queue.coming + self._transfers.coming + copies

    def _ordered(self) -> Amount:
        """What is to come and has not been claimed yet."""
        return total(package.sought.amount for package in self._planned) + self._transfers.ordered

    def _stage_in_turn(self) -> None:
        """Runs begin together, as many as went well before; what they need is claimed, brought and linked together."""
        count = 0
        admitted = self._admitted[: self.frame.options.limit]
        while count < len(admitted) and not self.frame.time_is_up():
            self.frame.checkpoint()
            if len(self._short) >= MOST_SHORT:
                self._report_behind(self._admitted[count:])
                return
            if self._transfers.is_full:
                report_turn(self.frame, self._admitted[count:], self._transfers.full_text)
                return
            turn = admitted[count : count + self._at_once]
            count, self._at_once = count + len(turn), min(2 * self._at_once, RUNS_AT_ONCE)
            self._take_together(turn)
            while self._queue.is_full and not self.frame.time_is_up():
                self._go_on()

    def _take_together(self, turn: Sequence[WaitingRun]) -> None:
        begun = _begin(self.frame, [w.id for w in turn if w.step_id not in self.frame.tripped])
        errors = make_run_directories(self.frame.context, [run for run, _ in begun.values()])
        fresh = [inputs for run, inputs in begun.values() if not _is_again(run)]
        known = self._look_and_seek([package for inputs in fresh for package in packages_of(inputs)])
        for waiting in turn:
            if waiting.id in begun and waiting.step_id not in self.frame.tripped:
                self._take(*begun[waiting.id], known, errors.get(waiting.id))
        self._bring_planned()
        self._link_whole()

    def _go_on(self) -> None:
        """Some work is done, and what follows from it is said."""
        self.frame.checkpoint()
        for work in self._queue.do_some():
            if isinstance(work, _PackageWork):
                self._packages_done(work.packages)
            elif isinstance(work, _LinkWork):
                for staging, _ in work.some:
                    self._linked(staging, work.errors.get(staging.run.id))
        self._bring_planned()
        self._link_whole()

    def _let_go(self) -> None:
        """Packages that were not begun are left to others, or to the next pass."""
        dropped = self._queue.drop_waiting()
        packages = [p.sought for work in dropped if isinstance(work, _PackageWork) for p in work.packages]
        for one in packages:
            self._packages.pop(one.directory)
        self._queue.add(work for work in dropped if isinstance(work, _LinkWork))
        release(self.frame.context, packages)

    def _break_off(self) -> None:
        """Nothing goes on. What has come by now is kept; an ops-db that is away keeps claims, which others take over."""
        self._queue.close()
        packages = list(self._packages.values())
        with suppress(CcatwmError):
            record(self.frame, [(p.sought, p.wanted_by) for p in packages if p.sought.received is not None])
            release(self.frame.context, [p.sought for p in packages if p.sought.received is None])

    # --- one run -------------------------------------------------------------------------------------------------------

    def _look_and_seek(self, packages: Sequence[RunInput], *, verify: bool = False) -> _Known:
        """What is in the cache, with `verify` by every file of it, and where the rest can be had."""
        looked = look(self.frame.context, packages, verify=verify)
        sought = seek(self.frame.context, looked.missing, looked.rows)
        return _Known(looked, {one.directory: one for one in sought})

    def _take(self, run: Run, inputs: Sequence[RunInput], known: _Known, error: CcatwmError | None) -> None:
        """The next run has its turn: what it needs is on its way, or it waits, or has failed."""
        staging = _RunStaged(run, inputs)
        self._open[run.id] = staging
        try:
            if error is not None:
                raise error
            check_host_files(self.frame.context, run)
            if _is_again(run):  # the job found an input gone or changed: link everything anew
                remove_links(self.frame.context, run)
                known = self._look_and_seek(packages_of(inputs), verify=True)
            self._bring(staging, known)
        except CcatwmError as error_met:
            self._ended(staging, error_met)

    def _bring(self, staging: _RunStaged, known: _Known) -> None:
        """Have what is missing brought, if there is room for it; where nothing is, have it linked."""
        staging.tries += 1
        context, run = self.frame.context, staging.run
        packages = {directory_of(package): package for package in packages_of(staging.inputs)}
        looked = known.looked.of(packages)
        for folder, what in looked.lost.items():
            if folder not in self._packages:
                self.frame.report.tell(run_item(run, "lost-in-cache", f"{folder.name}: {what}; brought again"))
        missing = [directory_of(package) for package in looked.missing]
        under_way = [d for d in missing if d in self._packages]
        in_jobs = [d for d in missing if self._transfers.has(d, looked.rows)]
        sought = [known.sought[d] for d in missing if d not in under_way and d not in in_jobs]
        absent = [one for one in sought if one.has_no_good_copy]
        if absent and context.settings.staging_mode == "request":
            refused = {one.package.identity for one in absent if one.copies}
            self._requests.ask({one.package.identity: one.package for one in absent}, refused)
        if not self._has_room(staging, sought, looked):
            return
        by_job = [one for one in sought if self._transfers.takes(one)]
        self._transfers.gather(by_job)
        staging.in_jobs = {d: packages[d].name for d in (*in_jobs, *(one.directory for one in by_job))}
        staging.whole = looked.whole
        staging.missing = set(missing) - staging.in_jobs.keys()
        for directory in under_way:
            self._packages[directory].waiting.append(staging)
        planned = [_Package(one, [staging]) for one in sought if one not in by_job]
        self._planned += planned
        self._packages |= {package.sought.directory: package for package in planned}
        self._lost |= looked.lost.keys()
        self._link_if_whole(staging)

    def _bring_planned(self) -> None:
        """Claim what is to come, and begin to bring it; what others have claimed is waited for."""
        planned, self._planned = self._planned, []
        if not planned:
            return
        context = self.frame.context
        mine = {one.directory for one in claim(context, [package.sought for package in planned])}
        context.workfiles.remove_trees([directory for directory in sorted(mine) if directory in self._lost])
        self._lost -= mine
        self._queue.add(
            _PackageWork(context, some, self._away, self._tally, self._queue.is_stopping)
            for some in together([package for package in planned if package.sought.directory in mine])
        )
        for package in planned:
            if package.sought.directory not in mine:
                self._packages.pop(package.sought.directory)
                for staging in package.waiting:
                    staging.elsewhere = package.sought.package.name
                    staging.missing.discard(package.sought.directory)
                    self._link_if_whole(staging)

    def _has_room(self, staging: _RunStaged, sought: Sequence[Sought], looked: Looked) -> bool:
        """Errors: StagingError for a run that never fits."""
        need, run = total(one.amount for one in sought), staging.run
        everything = Amount(sum(package.size_bytes or 0 for package in packages_of(staging.inputs)))
        why = never_fits(everything, self._room.limits)
        if why is not None:
            raise StagingError(f"{why}, then `ccatwm retry {run.id} --reason TEXT`", for_good=True)
        again = total(one.amount for one in sought if one.directory in looked.lost)
        copies = self._copies(staging, sought, looked)
        shortage = self._room.make(run.id, need, again=again, copies=copies)
        if shortage is None:
            staging.copies = copies
            return True
        self._short.append((run, shortage))
        self._open.pop(run.id)
        self._tally.bar.advance(1)
        return False

    def _copies(self, staging: _RunStaged, sought: Sequence[Sought], looked: Looked) -> Amount:
        """What its packages and upstream products take in its own folder, where they are no hard links and are not there
        yet."""
        context, run = self.frame.context, staging.run
        if gets_hard_links(context, run):
            return NOTHING
        known = {one.directory: one.amount for one in sought}
        amounts = {PurePosixPath(run.directory) / input_path(package): self._amount_here(package, known, looked)
                   for package in packages_of(staging.inputs)}  # fmt: skip
        upstream = products_of(staging.inputs)
        if upstream:
            with context.database.read() as connection:
                sizes = products.product_amounts(connection, [int(product.identity) for product in upstream])
            amounts |= {workspace_of(run, product): sizes[int(product.identity)] for product in upstream}
        if run.attempt > 0 or run.status is RunStatus.STAGING_DATA:
            there = context.workfiles.exists(amounts)
            amounts = {target: amount for target, amount in amounts.items() if not there[target]}
        copies = total(amounts.values())
        return Amount(0, copies.inodes) if copies != NOTHING and self._shares_blocks else copies

    def _amount_here(self, package: RunInput, known: Mapping[PurePosixPath, Amount], looked: Looked) -> Amount:
        """Of a package in the cache, or on its way there."""
        folder = directory_of(package)
        if folder in looked.whole:
            files, size = looked.whole[folder]
            return Amount(size, files)
        if folder in self._packages:
            return self._packages[folder].sought.amount
        return known.get(folder, Amount(package.size_bytes or 0))

    @cached_property
    def _shares_blocks(self) -> bool:
        return self.frame.context.workfiles.shares_blocks()

    def _link_if_whole(self, staging: _RunStaged) -> None:
        if staging.missing or staging.run.id not in self._open:
            return
        if staging.elsewhere is not None:
            self._ended(staging, ClaimedElsewhereError(staging.elsewhere))
        elif staging.in_jobs:
            self._open.pop(staging.run.id)
            self._tally.bar.advance(1)
            self._transfers.wait_for(staging.run, staging.in_jobs)
        else:
            self._whole.append(staging)

    def _link_whole(self) -> None:
        """Have the runs linked whose packages are all there."""
        whole, self._whole = self._whole, []
        some = []
        for staging in whole:
            try:
                some.append((staging, plan_links(self.frame.context, staging.run, staging.inputs, staging.whole)))
            except StagingError as error:
                self._ended(staging, error)
        if some:
            self._queue.add([_LinkWork(self.frame.context, some)])

    def _packages_done(self, packages: Sequence[_Package]) -> None:
        for package in packages:
            self._packages.pop(package.sought.directory)
        record(self.frame, [(package.sought, package.wanted_by) for package in packages])
        for package in packages:
            sought, waiting = package.sought, [s for s in package.waiting if s.run.id in self._open]
            if sought.received is not None:
                self._tally.add_package()
            for staging in waiting:
                if sought.received is None:
                    assert sought.error is not None, "it came or it did not"
                    self._ended(staging, sought.error)
                else:
                    staging.missing.discard(sought.directory)
                    staging.whole[sought.directory] = (sought.received.file_count, sought.received.unpacked_bytes)
                    self._link_if_whole(staging)

    def _linked(self, staging: _RunStaged, error: CcatwmError | None) -> None:
        if isinstance(error, IncompleteTreeError) and staging.tries < MOST_TRIES:
            try:
                self._bring(staging, self._look_and_seek(packages_of(staging.inputs), verify=True))
            except CcatwmError as error_met:
                self._ended(staging, error_met)
        else:
            self._ended(staging, error)

    def _ended(self, staging: _RunStaged, error: CcatwmError | None) -> None:
        """All is there that the run needs, or its failure is its own: the pass goes on."""
        run = staging.run
        if isinstance(error, (*NO_FAULT_OF_A_RUN, MissingRightError)):
            raise error
        self._open.pop(run.id, None)
        self._tally.bar.advance(1)
        if error is None:
            self._ready.append(staging)
        else:
            self._at_once = 1
            self._finish()  # those that went well meanwhile: else the failures between them would look like a streak
            not_staged(self.frame, run, error)
        clock = self.frame.context.clock
        if len(self._ready) >= RUNS_AT_ONCE or clock.monotonic() - self._told_at > TELL_AFTER_SECONDS:
            self._finish()
            self._told_at = clock.monotonic()

    # --- what came of them -----------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write down which runs are staged, and which wait for room."""
        turn = {waiting.id: place for place, waiting in enumerate(self._admitted)} if self._ready else {}
        ready, self._ready = sorted(self._ready, key=lambda s: turn[s.run.id]), []
        _record_ready(self.frame, self._listed(ready))
        short = self._short[self._told_short :]
        self._told_short = len(self._short)
        if short:
            with self.frame.context.database.write() as connection:
                for run, shortage in short:
                    runs.update_run(connection, run.id, room_figure=shortage.figure, room_reason=shortage.reason)
            report_short(self.frame, short)

    def _listed(self, ready: Sequence[_RunStaged]) -> Sequence[_RunStaged]:
        """Those whose list of inputs is written: all, or none where there is no space for it."""
        try:
            known = {staging.run.id: staging.listed for staging in ready if staging.listed is not None}
            write_staged_lists(self.frame.context, [staging.run for staging in ready], known)
        except NoSpaceError as error:
            for staging in ready:
                not_staged(self.frame, staging.run, error)
            return []
        return ready

    _told_short = 0

    def _report_behind(self, behind: Sequence[WaitingRun]) -> None:
        """So many did not fit that no more are looked at in this pass."""
        report_behind(self.frame, behind, self._short[-1][1])


def _begin(frame: PassFrame, run_ids: Sequence[int]) -> dict[int, tuple[Run, list[RunInput]]]:
    """Those that are STAGING_DATA now, whoever began them, with their inputs."""
    with frame.context.database.write() as connection:
        some = {run.id: run for run in runs.get_runs(connection, run_ids).values() if _still_waits(run)}
        pending = [run.id for run in some.values() if run.status == RunStatus.PENDING]
        begun = runs.record_events(
            connection, pending, RunEvent.STAGE_STARTED, expected=RunStatus.PENDING, now=frame.now, by_pass="stage",
            inputs_removed_at=None, ended_at=None, room_figure=None, room_reason=None,
        )  # fmt: skip
        going_on = some.keys() - set(pending)
        inputs = runs.list_inputs(connection, sorted(begun | going_on))
    return {run_id: (some[run_id], found) for run_id, found in inputs.items()}


def _record_ready(frame: PassFrame, ready: Sequence[_RunStaged]) -> None:
    """Their packages have been used now, in the same transaction: those that were not are the first to leave the cache.

    An attempt that is staged cannot fail as `staging` any more: those before it that did are no streak of their step's.
    """
    if not ready:
        return
    by_id = {staging.run.id: staging.run for staging in ready}
    used = sorted({str(folder) for staging in ready for folder in staging.whole})
    with frame.context.database.write() as connection:
        changed = runs.record_events(
            connection, list(by_id), RunEvent.INPUTS_STAGED, expected=RunStatus.STAGING_DATA,
            now=frame.now, by_pass="stage", due_at=None, failure_class=None, room_figure=None, room_reason=None,
        )  # fmt: skip
        staged.touch_staged(connection, location(frame.context), used, frame.context.clock.now())
        steps = {by_id[run_id].step_id for run_id in changed if not by_id[run_id].trial}
        streaks.end_streak(connection, steps, FailureClass.STAGING.value)
    for run_id, run in by_id.items():
        if run_id in changed:
            frame.report.add("done", run_item(run, "staged"))


def _is_again(run: Run) -> bool:
    """Whether its job has found an input gone or changed."""
    return run.attempt > 0 and run.failure_class == FailureClass.STAGING
