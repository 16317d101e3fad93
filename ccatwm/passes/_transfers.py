"""Has packages brought by batch jobs at the processing site. Touches: the ops-db, the batch system, files below the base
directory.

Intent first, as for runs: the job with the claims on its packages is committed before the batch system hears of it; it is
handed over held, its id committed, then it is released. What it has done it says in files (`ccatwm.transfer_job`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.cache import Amount, total
from ccatwm.core.commands import SCRIPT_DIRECTORIES, build_argv_file
from ccatwm.core.model import FailureClass, InputKind, InputRole, Run, RunInput
from ccatwm.core.outcomes import (
    Conclusion,
    ExitRecord,
    JobFacts,
    Patience,
    Verdict,
    conclude,
    parse_exit_record,
    parse_started_record,
)
from ccatwm.core.staging import SUBMISSIONS
from ccatwm.core.transfers import (
    FRUITLESS,
    MOST_PACKAGES,
    TRANSFERS,
    attempt_directory,
    begun,
    claiming_job,
    job_claim,
    missed,
    share_out,
)
from ccatwm.core.wire import WireError
from ccatwm.core.wording import GB, count_text, some_text
from ccatwm.edges.opsdb.stores import leases, runs, staged, transfers
from ccatwm.edges.opsdb.stores.transfers import Transfer
from ccatwm.edges.transport import transfer_files
from ccatwm.errors import (
    NO_FAULT_OF_A_RUN,
    CcatwmError,
    CopyUnavailableError,
    MissingRightError,
    SchedulerUnavailableError,
    SettingsError,
)
from ccatwm.interfaces import (
    Brought,
    FileWrite,
    FoundJob,
    JobReport,
    JobRequest,
    JobState,
    JobTask,
    PackageOrder,
    SubmitResult,
)
from ccatwm.passes._attempt_files import job_limits, job_script
from ccatwm.passes._bring import Sought, order_of, record
from ccatwm.passes._claims import full_sign, keep_first, list_restarts, new_token, supersede, with_claim
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassFrame, location
from ccatwm.passes._room import claimant_is_gone

MOST_WAITING = 50  # runs that a pass tells what they wait for, once no job takes more
SHOWN = 3  # packages of a run by name
LONGEST_QUEUE_SECONDS = 7 * 86400.0  # a job that began is thought to have ended so long after its time limit
CLAIM_DAYS = 3650  # a job's claim ends with the job, not with time


class TransferringError(CcatwmError):
    """A batch job is to bring what a run needs: it waits. `next_in_turn`: for one that goes when another has ended."""

    def __init__(self, message: str, *, next_in_turn: bool = False) -> None:
        super().__init__(message)
        self.next_in_turn = next_in_turn


class MissedError(CcatwmError):
    """A batch job has ended without bringing a package: this attempt fails."""

    def __init__(self, failure: FailureClass, message: str) -> None:
        super().__init__(message)
        self.failure = failure


Ended = Callable[[Run, CcatwmError], None]


@dataclass
class _Planned:
    """A job to be handed over, and what it is to bring."""

    token: str
    packages: list[Sought]


@dataclass
class _Waiting:
    """A run that waits for jobs, with the cache folders that they are to bring."""

    run: Run
    names: dict[PurePosixPath, str] = field(default_factory=dict)


class Transfers:
    """The jobs of one processing location, as one pass sees and makes them.

    `ended` is told of runs for which an error has come of a job.
    """

    def __init__(self, frame: PassFrame, ended: Ended) -> None:
        self._frame = frame
        self._context: Context = frame.context
        self._ended = ended
        self._settings = frame.context.settings
        self._gathered: dict[PurePosixPath, Sought] = {}
        self._waiting: list[_Waiting] = []
        self._raised: CcatwmError | None = None
        self._none_goes = "the batch system takes no more jobs"
        self._unreached: set[int] = set()  # runs that wait for a data location, as this pass has said
        self._said: dict[str, str] = {}  # of jobs that are waited for: what was found of them
        self.came: set[int] = set()  # runs for which packages have come, as `settle` found
        with self._context.database.read() as connection:
            self._open = transfers.list_open(connection, location(self._context))

    @property
    def wanted(self) -> bool:
        """Whether this site has its packages brought by jobs."""
        return self._settings.stage.executor == "job"

    # --- what runs need ------------------------------------------------------------------------------------------------

    def has(self, directory: PurePosixPath, rows: Mapping[str, Any]) -> bool:
        """Whether a job is to bring this package; `rows`: of the cache, by folder."""
        row = rows.get(str(directory))
        claimed = row is not None and row.state == "STAGING" and claiming_job(row.claim) is not None
        return claimed or directory in self._gathered

    def takes(self, sought: Sought) -> bool:
        """Whether a job can be told of it, and read all its copies: keys that only our environment has it has not."""
        reads = bool(sought.copies) and all(self._reads(c.storage, c.location) for c in sought.copies)
        return self.wanted and reads and transfer_files.can_order(self._order(sought))

    def _reads(self, storage: str, place: str) -> bool:
        setting = self._settings.locations.get(place)
        return storage == "disk" or (storage == "s3" and setting is not None and bool(setting.credentials_file))

    def gather(self, sought: Sequence[Sought]) -> None:
        """Packages that jobs are to bring; they leave together at the end."""
        self._gathered |= {one.directory: one for one in sought}

    def wait_for(self, run: Run, names: Mapping[PurePosixPath, str]) -> None:
        """The run waits for jobs with these packages; it is told of which at the end."""
        self._waiting.append(_Waiting(run, dict(names)))

    @property
    def is_full(self) -> bool:
        """Whether more packages, or runs, would only wait for jobs that are not there yet."""
        most = max(0, self._settings.stage_parallel - len(self._open))
        size = total(one.amount for one in self._gathered.values()).size_bytes
        full = size >= most * self._settings.stage.job_gb * GB or len(self._gathered) >= most * MOST_PACKAGES
        return full and len(self._waiting) >= MOST_WAITING

    @property
    def full_text(self) -> str:
        return f"behind runs that wait for {count_text(len(self._open), 'staging job')}"

    @property
    def ordered(self) -> Amount:
        """What was gathered in this pass and has no job yet."""
        return total(one.amount for one in self._gathered.values())

    @cached_property
    def coming(self) -> Amount:
        """What jobs are to bring that were handed over before, and may not be on the disk yet."""
        if not self._open:
            return Amount()
        with self._context.database.read() as connection:
            return transfers.read_coming(connection, [transfer.token for transfer in self._open])

    # --- jobs that were handed over before ------------------------------------------------------------

    def settle(self) -> None:
        """Write down what jobs have brought, and what became of them.

        Errors: SchedulerUnavailableError, after everything is said that the files say; what went wrong for a package and
        is no fault of a run.
        """
        mine = [t for t in self._open if (t.backend, t.cluster) == (self._settings.hpc_backend, self._settings.cluster)]
        if mine:
            settled = self._settled_before(mine)
            mine = [t for t in mine if t not in settled]
            self._read_results([t for t in mine if t.state == "RELEASED"])
            self._settle_half_way([t for t in mine if t.state != "RELEASED"])
            self._look_after([t for t in mine if t.state == "RELEASED"])
            self._settle_again(settled)
            mine += settled
        for transfer in self._open:
            if transfer not in mine:
                self._settle_by_files(transfer)
        if self._open:
            self._sweep()
            with self._context.database.read() as connection:
                self._open = transfers.list_open(connection, location(self._context))
        if self._raised is not None:
            raise self._raised

    def _settled_before(self, some: Sequence[Transfer]) -> list[Transfer]:
        """Handed-over jobs whose files are gone: they were settled, and the ops-db was restored from before that."""
        folders = {TRANSFERS / t.token: t for t in some if t.state != "INTENDED"}
        there = self._context.workfiles.exists(folders) if folders else {}
        return [transfer for folder, transfer in folders.items() if not there[folder]]

    def _settle_again(self, settled: Sequence[Transfer]) -> None:
        """What they left tells nothing any more: once they do not run, others bring what is not there, and no run pays."""
        reports = self._poll(settled)
        for transfer in settled:
            state = reports[transfer.token].state
            if state is JobState.HELD:  # nobody would let it go any more
                self._context.scheduler.cancel([_task(transfer)])
            elif state not in (JobState.ENDED, JobState.ABSENT):
                continue
            with self._context.database.read() as connection:
                rows = transfers.list_claimed(connection, transfer.token)
            waiting = self._runs_waiting_for(rows) if rows else []
            self._close(transfer, "it was settled before, and its files removed; the ops-db is of before that")
            with self._context.database.write() as connection:
                transfers.look_again(connection, [run.id for run in waiting])

    def _poll(self, some: Sequence[Transfer]) -> dict[str, JobReport]:
        """By token."""
        polled = self._context.scheduler.poll([_task(transfer) for transfer in some]) if some else []
        reports = {report.job_id: report for report in polled}
        return {t.token: reports.get(str(t.job_id), JobReport("", 0, JobState.UNKNOWN)) for t in some}

    def _read_results(self, released: Sequence[Transfer]) -> None:
        for transfer in released:
            with self._context.database.read() as connection:
                rows = {row.directory: row for row in transfers.list_claimed(connection, transfer.token)}
            if rows:
                self._read_results_of(transfer, rows)

    def _read_results_of(self, transfer: Transfer, rows: Mapping[str, Any]) -> None:
        files, token = self._context.workfiles, transfer.token
        recorded = self._read_recorded(transfer)
        before = len(recorded)
        for number in transfer_files.numbers_of(files.list_tree(TRANSFERS / token / "results")):
            if number in recorded:
                continue
            paths = (transfer_files.order_path(token, number), transfer_files.result_path(token, number))
            data = files.read_files(paths, max_bytes=transfer_files.LONGEST)
            order_data, result_data = (data[path] for path in paths)
            if order_data is None or result_data is None:
                continue
            try:
                order = transfer_files.decode_order(order_data)
                brought = transfer_files.decode_result(result_data, f"package {order.name}")
            except WireError:
                continue  # torn by a disk, or of another release: as good as none, and told when the job has ended
            if str(order.target) in rows:  # else it was recorded before
                self._record(transfer, order, rows[str(order.target)], brought)
            recorded.add(number)
        if len(recorded) > before:
            content = transfer_files.encode_numbers(recorded)
            files.write_files([FileWrite(transfer_files.recorded_path(token), content)])

    def _read_recorded(self, transfer: Transfer) -> set[int]:
        """Numbers of answers that the ops-db has. A pass that died may have recorded others, too."""
        path = transfer_files.recorded_path(transfer.token)
        return transfer_files.decode_numbers(self._context.workfiles.read_files([path])[path])

    def _record(self, transfer: Transfer, order: PackageOrder, row: Any, brought: Brought) -> None:
        with self._context.database.read() as connection:
            bad = staged.known_bad_copies(connection, [row.package_id])[row.package_id]
        sought = Sought(_package_of(row), order.target, list(order.copies), bad, order.members, Amount())
        sought.settle(brought)
        waiting = self._runs_waiting_for([row])
        record(self._frame, [(sought, waiting)], claim=job_claim(transfer.token))
        if brought.error is None:
            with self._context.database.write() as connection:
                transfers.look_again(connection, [run.id for run in waiting])
            self.came |= {run.id for run in waiting}
        else:
            self._failed(waiting, brought.error)

    def _failed(self, waiting: Sequence[Run], error: CcatwmError) -> None:
        if isinstance(error, (*NO_FAULT_OF_A_RUN, MissingRightError)):
            self._raised = self._raised or error
            return
        for run in waiting:
            if isinstance(error, CopyUnavailableError):
                if run.id in self._unreached:
                    continue  # another of its packages said so
                self._unreached.add(run.id)
            self._ended(run, error)

    def _runs_waiting_for(self, rows: Sequence[Any]) -> list[Run]:
        packages = {(row.package_id, row.checksum) for row in rows}
        with self._context.database.read() as connection:
            found = runs.get_runs(connection, transfers.list_waiting_runs(connection, location(self._context), packages))
        return list(found.values())

    def _settle_half_way(self, some: Sequence[Transfer]) -> None:
        """Look up what an earlier pass left INTENDED or HELD."""
        intended = [t for t in some if t.state == "INTENDED"]
        held = [t for t in some if t.state == "HELD"]
        if intended:
            found = self._context.scheduler.find([t.token for t in intended])
            for transfer in intended:
                jobs = sorted(found.jobs.get(transfer.token, ()), key=keep_first)
                age = (self._frame.now - transfer.created_at).total_seconds()
                if jobs:
                    held += self._adopt(transfer, jobs)
                elif found.certain or age >= self._context.scheduler.grace_seconds:
                    self._give_up(transfer)
        self._release(held)

    def _adopt(self, transfer: Transfer, jobs: Sequence[FoundJob]) -> list[Transfer]:
        twins = [JobTask(job.job_id, 0, job.token) for job in jobs[1:] if job.state is JobState.HELD]
        if twins:
            self._context.scheduler.cancel(twins)
        return self._held(transfer, jobs[0].job_id, jobs[0].submitted_at)

    def _held(self, transfer: Transfer, job_id: str, submitted_at: Any) -> list[Transfer]:
        """The job, which waits for its release; none where another pass has given it up meanwhile."""
        with self._context.database.write() as connection:
            changed = transfers.change_transfer(
                connection, transfer.token, ("INTENDED", "HELD"), state="HELD", job_id=job_id, submitted_at=submitted_at
            )
        return [dataclasses.replace(transfer, state="HELD", job_id=job_id)] if changed else []

    def _give_up(self, transfer: Transfer) -> None:
        """The batch system never had it: win its claim, so that one that appears later does nothing."""
        if supersede(self._context.workfiles, str(attempt_directory(transfer.token))):
            self._close(transfer, "the batch system never had the job", doubtful=True)
        else:
            self._release(self._held(transfer, transfer.token, self._frame.now))

    def _release(self, held: Sequence[Transfer]) -> None:
        """Let held jobs go."""
        if not held:
            return
        released = self._context.scheduler.release([str(t.job_id) for t in held])
        with self._context.database.write() as connection:
            for transfer in held:
                if released.get(str(transfer.job_id)) or transfer.job_id == transfer.token:
                    transfers.change_transfer(connection, transfer.token, ("INTENDED", "HELD"), state="RELEASED")

    def _look_after(self, released: Sequence[Transfer]) -> None:
        """Ask what became of jobs; those that have ended are closed, with what they did not bring."""
        reports = self._poll(released)
        for transfer in released:
            report = reports[transfer.token]
            self._mark_gone(transfer, report)
            conclusion = self._conclude(transfer, report)
            self._said[transfer.token] = conclusion.message
            if conclusion.verdict is Verdict.RELEASE:
                self._context.scheduler.release([str(transfer.job_id)])
            elif conclusion.verdict in (Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED):
                if report.state in (JobState.PENDING, JobState.HELD):  # it would wait there for ever
                    self._context.scheduler.cancel([_task(transfer)])
                self._read_results([transfer])  # the last ones
                self._close_ended(transfer, conclusion)

    def _settle_by_files(self, transfer: Transfer) -> None:
        """A job of a batch system that this site uses no more: nobody can be asked about it, its files tell."""
        self._read_results([transfer])
        _, record, _ = self._read_records(transfer)
        age = (self._frame.now - transfer.created_at).total_seconds()
        never_began = record is None and supersede(self._context.workfiles, str(attempt_directory(transfer.token)))
        if record is not None or never_began or age > transfer.limit_seconds + LONGEST_QUEUE_SECONDS:
            self._close(transfer, "its batch system is not this site's any more", doubtful=never_began)

    def _mark_gone(self, transfer: Transfer, report: JobReport) -> None:
        here = report.state in (JobState.HELD, JobState.RUNNING) or (report.state is JobState.PENDING and not report.cause)
        if report.state is JobState.UNKNOWN or here is (transfer.gone_at is None):
            return
        with self._context.database.write() as connection:
            gone_at = None if here else self._frame.now
            transfers.change_transfer(connection, transfer.token, ("RELEASED",), gone_at=gone_at)

    def _conclude(self, transfer: Transfer, report: JobReport) -> Conclusion:
        files, first = self._context.workfiles, attempt_directory(transfer.token)
        folder, record, (started, refused, full) = self._read_records(transfer)
        gone = (self._frame.now - transfer.gone_at).total_seconds() if transfer.gone_at is not None else 0.0
        facts = JobFacts(
            report.state, report.cause, report.message, settled=report.settled, record=record, started=started,
            refused=refused, full=full, gone_seconds=gone, limit_seconds=transfer.limit_seconds,
        )  # fmt: skip
        patience = Patience(
            self._settings.record_wait_seconds, self._settings.slurm.requeue_seconds,
            self._context.scheduler.grace_seconds,
        )  # fmt: skip
        said = conclude(
            facts, token=transfer.token, partial_exit_codes=(), container_failed=lambda _: False, patience=patience
        )
        said = with_claim(files, said, str(first))
        if said.failure is FailureClass.NON_ZERO_EXIT:
            tail = files.read_tails([folder / "logs" / "stderr.log"], max_bytes=2000)[folder / "logs" / "stderr.log"]
            lines = (tail or b"").decode("utf-8", "replace").strip().splitlines()
            said = dataclasses.replace(said, message=": ".join([said.message, *lines[-1:]]))
        return said

    def _read_records(self, transfer: Transfer) -> tuple[PurePosixPath, ExitRecord | None, tuple[bool, bool, bool]]:
        """The folder of its last start with its exit record, and whether it has started, was refused, had no room."""
        files, first = self._context.workfiles, attempt_directory(transfer.token)
        restarts = list_restarts(files, [str(first)])[str(first)]
        folder = first.with_name(f"{first.name}.r{restarts}") if restarts else first
        started, ended, refused = (folder / "job" / name for name in ("started.json", "exit.json", "refused"))
        read = files.read_files([started, ended, refused], max_bytes=65536)
        has_started = parse_started_record(read[started]) is not None
        record, full = parse_exit_record(read[ended]), full_sign(str(first))
        is_full = record is None and files.exists([full])[full]
        return folder, record, (has_started, read[refused] is not None, is_full)

    def _close_ended(self, transfer: Transfer, conclusion: Conclusion) -> None:
        with self._context.database.read() as connection:
            rows = transfers.list_claimed(connection, transfer.token)
            others = transfers.list_brought(connection, location(self._context), transfer, FRUITLESS - 1)
        brought = transfer.packages - len(rows)
        fruitless = not brought and others == [0] * (FRUITLESS - 1)
        waiting = self._runs_waiting_for(rows) if rows else []
        failure = conclusion.failure or FailureClass.STAGING
        message = conclusion.message or "it left no answer for it that can be read"
        if fruitless:
            message += f" (none of the last {FRUITLESS} staging jobs brought anything)"
        told = missed(failure, message, f"staging job {transfer.job_id}", brought)
        for_all = fruitless or told is None or failure is FailureClass.NO_SPACE  # that costs nothing, and all wait for room
        charged = rows if for_all else self._begun(transfer, rows)
        at_fault = self._runs_waiting_for(charged) if told is not None and charged else []
        self._close(transfer, conclusion.message, brought=brought)
        if told is not None:
            self._failed(at_fault, MissedError(*told))
        if spared := {run.id for run in waiting} - {run.id for run in at_fault}:
            with self._context.database.write() as connection:
                transfers.look_again(connection, spared)

    def _begun(self, transfer: Transfer, rows: Sequence[Any]) -> list[Any]:
        """Of the packages that a job did not bring those that it had begun, as far as its files tell; else all."""
        files, folder = self._context.workfiles, TRANSFERS / transfer.token
        orders, answered = (
            transfer_files.numbers_of(files.list_tree(folder / name)) for name in ("orders", "results")
        )
        targets = set()
        for number in sorted(begun(orders, answered) - self._read_recorded(transfer)):
            path = transfer_files.order_path(transfer.token, number)
            try:
                data = files.read_files([path], max_bytes=transfer_files.LONGEST)[path]
                targets.add(str(transfer_files.decode_order(data or b"").target))
            except WireError:
                return list(rows)
        return [row for row in rows if row.directory in targets] or list(rows)

    def _close(
        self, transfer: Transfer, message: str, *, doubtful: bool = False, brought: int | None = None
    ) -> None:
        """It is over: its claims go back and its files go. Files last: what is left of a killed pass does no harm."""
        with self._context.database.write() as connection:
            rows = transfers.list_claimed(connection, transfer.token)
            directories = [row.directory for row in rows]
            staged.release_claims(connection, location(self._context), directories, job_claim(transfer.token))
            transfers.change_transfer(
                connection, transfer.token, ("INTENDED", "HELD", "RELEASED"), state="ENDED", message=message or None,
                doubtful=doubtful, brought=brought, ended_at=self._frame.now,
            )  # fmt: skip
        self._context.workfiles.remove_trees([TRANSFERS / transfer.token, SUBMISSIONS / transfer.token])

    def _sweep(self) -> None:
        """Folders of jobs that are over: of a pass that died before it removed them, or made since a backup."""
        files = self._context.workfiles
        there = files.list_folders([TRANSFERS])[TRANSFERS]
        with self._context.database.read() as connection:
            left = sorted(set(there) - transfers.list_open_tokens(connection)) if there else []
        files.remove_trees([folder / token for token in left for folder in (TRANSFERS, SUBMISSIONS)])

    # --- new ones ------------------------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Have what was gathered brought by new jobs, as many as may be there at once; tell runs what they wait for.

        Errors: SettingsError where the batch system refuses such jobs, SchedulerUnavailableError.
        """
        try:
            if self._gathered:
                self._submit(self._plan())
        finally:
            self._tell_waiting()

    def _plan(self) -> list[_Planned]:
        most = self._settings.stage_parallel - len(self._open)
        with self._context.database.read() as connection:
            blocked = leases.read_brakes(connection)[1]
        if blocked is not None:
            self._none_goes = f"submission is blocked: {blocked}"
        if most <= 0 or blocked is not None:
            return []
        free = self._context.scheduler.limits().free_tasks
        packages = list(self._gathered.values())
        shares = share_out(
            [one.package.size_bytes or one.amount.size_bytes for one in packages],
            most if free is None else max(0, min(most, free)), int(self._settings.stage.job_gb * GB),
        )  # fmt: skip
        return [_Planned(new_token(), [packages[index] for index in share]) for share in shares]

    def _submit(self, planned: Sequence[_Planned]) -> None:
        intended = self._commit_intent(planned)
        if not intended:
            return
        by_token = {plan.token: plan for plan in planned}
        try:
            for transfer in intended:
                self._write_files(transfer, by_token[transfer.token].packages)
        except CcatwmError as error:
            for transfer in intended:
                self._close(transfer, error.message)
            raise
        results = {r.token: r for r in self._context.scheduler.submit([self._request(t) for t in intended])}
        held = [
            one
            for t in intended
            if (r := results.get(t.token)) is not None and r.outcome == "accepted"
            for one in self._held(t, str(r.job_id), self._frame.now)
        ]
        for transfer in intended:
            result = results.get(transfer.token)
            if result is not None and result.outcome in ("throttled", "not-asked", "refused"):
                self._close(transfer, result.message)
        self._release(held)
        with self._context.database.read() as connection:
            self._open = transfers.list_open(connection, location(self._context))
        self._refuse(intended, results)

    def _refuse(self, intended: Sequence[Transfer], results: Mapping[str, SubmitResult]) -> None:
        for transfer in intended:
            result = results.get(transfer.token)
            if result is None or result.outcome == "unknown":
                said = result.message if result is not None and result.message else "no answer"
                raise SchedulerUnavailableError(
                    f"whether the batch system took a staging job is not known: {said}",
                    next="nothing to do: the next passes look for the job by its token",
                )
            if result.outcome == "refused":
                raise SettingsError(
                    f"the batch system takes no staging job: {result.message}",
                    next="correct the table `stage` of the settings, or set STAGE.executor = \"inline\"",
                )

    def _commit_intent(self, planned: Sequence[_Planned]) -> list[Transfer]:
        """Jobs and claims in one transaction; packages that others have claimed meanwhile are left out."""
        now, scheduler = self._frame.now, self._context.scheduler
        made = []
        with self._context.database.write() as connection:
            for plan in planned:
                mine = self._claim(connection, plan)
                plan.packages = [one for one in plan.packages if str(one.directory) in mine]
                if plan.packages:
                    made.append(plan.token)
                    transfers.insert_transfer(
                        connection, location(self._context), plan.token, scheduler.backend, scheduler.cluster,
                        packages=len(plan.packages), size_bytes=total(o.amount for o in plan.packages).size_bytes,
                        limit_seconds=self._settings.stage.time_hours * 3600, now=now,
                    )  # fmt: skip
            return [t for t in transfers.list_open(connection, location(self._context)) if t.token in made]

    def _claim(self, connection: Any, plan: _Planned) -> set[str]:
        now = self._frame.now
        return staged.claim_packages(
            connection, location(self._context), [one.to_claim() for one in plan.packages],
            claim=job_claim(plan.token), now=now, until=now + timedelta(days=CLAIM_DAYS), holder_is_gone=claimant_is_gone,
        )  # fmt: skip

    def _write_files(self, transfer: Transfer, packages: Sequence[Sought]) -> None:
        token, settings = transfer.token, self._settings
        there = attempt_directory(token)
        root = self._context.workfiles.root()
        python = settings.stage.python or (settings.ssh.python if settings.transport == "ssh" else sys.executable)
        argv = [python, "-I", str(root / transfer_files.program_path(token)), str(root), token]
        limits = job_limits(round(transfer.limit_seconds), settings.stage.memory_gb, final=False)
        orders = [self._order(one) for one in packages]
        self._context.workfiles.make_trees([there / "output", *(there / name for name in SCRIPT_DIRECTORIES)])
        self._context.workfiles.write_files(
            [
                FileWrite(transfer_files.program_path(token), transfer_files.build_program()),
                FileWrite(transfer_files.stores_path(token), transfer_files.encode_stores(self._stores(orders))),
                *(
                    FileWrite(transfer_files.order_path(token, number), transfer_files.encode_order(order))
                    for number, order in enumerate(orders)
                ),
                FileWrite(there / "config" / "manifest.json", b"{}\n"),
                FileWrite(there / "job" / "limits", limits),
                FileWrite(there / "job" / "argv", build_argv_file(argv)),
                FileWrite(SUBMISSIONS / token / "tasks", f"{there}\n".encode()),
                FileWrite(SUBMISSIONS / token / "job.sh", job_script(), 0o755),
            ]
        )

    def _order(self, one: Sought) -> PackageOrder:
        """With paths as the processing host names them."""
        order = order_of(self._context, one)
        copies = tuple(
            copy.at_root(self._settings.path_there(copy.root)) if copy.storage == "disk" and copy.root else copy
            for copy in order.copies
        )
        return dataclasses.replace(order, copies=copies)

    def _stores(self, orders: Sequence[PackageOrder]) -> dict[str, dict[str, str]]:
        """Where object stores answer, and which file there has the access keys; no keys."""
        names = {copy.location for order in orders for copy in order.copies if copy.storage == "s3"}
        found = {}
        for name in sorted(names & set(self._settings.locations)):
            fields = dataclasses.asdict(self._settings.locations[name])
            fields["credentials_file"] = self._settings.path_there(fields["credentials_file"])
            found[name] = {key: value for key, value in fields.items() if value is not None}
        return found

    def _request(self, transfer: Transfer) -> JobRequest:
        stage = self._settings.stage
        return JobRequest(
            token=transfer.token,
            name=f"ccatwm-{transfer.token}",
            directory=SUBMISSIONS / transfer.token,
            attempt_directories=(attempt_directory(transfer.token),),
            cpu=stage.cpu,
            memory_gb=stage.memory_gb,
            time_seconds=max(1, round(stage.time_hours * 3600)),
            options={
                "tasks": 1, "nodes": 1, "gpus": 0, "partition": stage.partition or None, "account": stage.account or None,
                "qos": stage.qos or None, "constraint": stage.constraint or None, "extra": stage.extra,
            },
        )  # fmt: skip

    # --- telling -------------------------------------------------------------------------------------------------------

    def _tell_waiting(self) -> None:
        """Each run by which job it waits for, or that it waits for one."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        jobs = {transfer.token: transfer for transfer in self._open}
        wanted = sorted({str(directory) for one in waiting for directory in one.names})
        with self._context.database.read() as connection:
            rows = staged.list_staged(connection, location(self._context), wanted)
        self._gathered.clear()
        for one in waiting:
            names = dict[str, list[str]]()  # by token
            for directory, name in one.names.items():
                row = rows.get(str(directory))
                job = jobs.get(claiming_job(row.claim) or "") if row is not None else None
                names.setdefault(job.token if job is not None else "", []).append(name)
            in_turn = "" in names and bool(self._open)
            texts = [
                f"package{'s' * (len(some) > 1)} {some_text(some, SHOWN)}: "
                f"{self._job_text(jobs.get(token), 'it' if len(some) == 1 else 'them')}"
                for token, some in names.items()
            ]
            self._ended(one.run, TransferringError(some_text(texts, SHOWN, "; "), next_in_turn=in_turn))

    def _job_text(self, job: Transfer | None, what: str) -> str:
        if job is None and not self._open:
            return f"no staging job can be handed over now: {self._none_goes}"
        if job is None:
            return f"waits for its turn behind {count_text(len(self._open), 'staging job')}"
        where = f" on partition {self._settings.stage.partition}" if self._settings.stage.partition else ""
        said = self._said.get(job.token)
        return f"staging job {job.job_id or job.token}{where} {f'is to bring {what}: {said}' if said else f'brings {what}'}"


def _task(transfer: Transfer) -> JobTask:
    return JobTask(str(transfer.job_id), 0, transfer.token, transfer.submitted_at)


def _package_of(row: Any) -> RunInput:
    """A package as a row of the cache knows it."""
    return RunInput(InputKind.PACKAGE, InputRole.MEMBER, row.package_name, row.package_id, row.checksum, None)
