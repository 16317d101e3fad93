"""Slurm, by its own commands on the processing host. Touches: sbatch, squeue, sacct, scontrol, scancel, sacctmgr.

Silence changes nothing: a command that fails raises, a word nobody knows waits. A job that has left the queue is
judged by accounting and by its own record, never by its absence.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ccatwm.edges.scheduler import _slurm_text as text
from ccatwm.edges.scheduler._budget import CallBudget
from ccatwm.edges.scheduler._refusals import Refusals
from ccatwm.edges.scheduler._slurm_states import STATES, SlurmState, never_starts, parse_state
from ccatwm.errors import SchedulerUnavailableError, TransportError
from ccatwm.interfaces import (
    CommandResult,
    Found,
    FoundJob,
    JobReport,
    JobRequest,
    JobState,
    JobTask,
    SchedulerLimits,
    SchedulerSetup,
    SubmitResult,
    Transport,
)

log = logging.getLogger("ccatwm.scheduler.slurm")
PATH = "/usr/local/bin:/usr/bin:/bin"
DEFAULT_ARRAY_SIZE = 1001  # slurm.conf(5), MaxArraySize
CONFIG_SECONDS = 3600  # how long what the cluster said of its limits is believed
CLOCKS_MAY_DIFFER = timedelta(minutes=10)
Row = TypeVar("Row", text.QueueRow, text.AccountRow)
LAUNCH_FAILED = (0, 53)  # exit code and signal of a job whose script never ran (measured with 22.05)


_Accounts = dict[tuple[str, int | None], text.AccountRow]


@dataclass(frozen=True)
class _Limits:
    """What the cluster says of itself and of this account. `max_submit` None: no limit."""

    max_array_size: int
    max_submit: int | None


def build_scheduler(setup: SchedulerSetup) -> SlurmScheduler:
    """For `ccatwm.schedulers`. Options: docs/reference/settings.md, "Backend slurm"."""
    return SlurmScheduler(setup)


class SlurmScheduler:
    """`Scheduler` over a transport. One `squeue` answers all questions of a pass until something was changed."""

    backend = "slurm"

    def __init__(self, setup: SchedulerSetup) -> None:
        self.cluster = setup.cluster
        self.grace_seconds = setup.grace_seconds
        self.calls = 0
        self._setup = setup
        self._options = setup.options
        self._base_dir = PurePosixPath(setup.base_dir)
        self._state_dir = Path(setup.state_dir)
        self._accounting = bool(self._options.get("accounting", True))
        self._defaults = text.Defaults(
            **{name: self._option(name, "") for name in ("partition", "account", "qos", "constraint")},
            extra=tuple(self._option("extra", ())),
            warn_seconds=int(self._option("warn_seconds", 120)),
        )
        per_minute = int(self._option("calls_per_minute", 60))
        self._budget = CallBudget(self._state_dir / f"{self.cluster}-calls.json", per_minute, setup.clock)
        self._refusals = Refusals(self._state_dir / f"{self.cluster}-refusal.json", setup.clock)
        self._limits_file = self._state_dir / f"{self.cluster}-limits.json"
        self._limits_were_kept = False
        self._queue: list[text.QueueRow] | None = None
        self._queued = 0  # tasks in the queue, as `limits` saw it and with those that were accepted since

    def _option(self, name: str, default: Any) -> Any:
        value = self._options.get(name)
        return default if value is None else value

    @cached_property
    def _transport(self) -> Transport:
        return self._setup.make_transport()

    # --- handing over ---------------------------------------------------------------------------------------

    def limits(self) -> SchedulerLimits:
        """Asks the queue in any case: where the controller is away nothing is begun."""
        self._queued = len([row for row in self._ask_queue(fresh=True) if not _ended(row.state)])
        limits = self._cluster_limits
        most = self._options.get("max_queued")
        told = [int(str(most)) if most is not None else limits.max_submit, self._refusals.most()]
        size = min(
            limits.max_array_size, int(str(self._options.get("max_array_size") or limits.max_array_size))
        )
        known = [limit for limit in told if limit is not None]
        return SchedulerLimits(size, max(0, min(known) - self._queued) if known else None)

    def submit(self, jobs: Sequence[JobRequest]) -> list[SubmitResult]:
        """Once Slurm takes no more, the rest is not tried."""
        results: list[SubmitResult] = []
        for job in jobs:
            full = bool(results) and results[-1].outcome in ("throttled", "not-asked")
            results.append(
                SubmitResult(job.token, "not-asked", message=results[-1].message)
                if full
                else self._submit_one(job)
            )
        return results

    def describe_submission(self, job: JobRequest) -> tuple[Sequence[str], Mapping[str, str]]:
        """`DescribesSubmission`: by the settings of now."""
        argv = text.build_sbatch(job, self._base_dir, self._defaults, program="sbatch")
        return argv, self._environment(zone=False)

    def _submit_one(self, job: JobRequest) -> SubmitResult:
        argv = text.build_sbatch(job, self._base_dir, self._defaults, program="sbatch")
        self._queue = None
        try:
            result = self._run(argv, "sbatch", zone=False)
        except (TransportError, SchedulerUnavailableError) as error:
            return SubmitResult(job.token, "not-asked", message=error.message)
        answer = text.parse_sbatch(result.exit_code, result.stdout, result.stderr)
        if answer.outcome == "refused" and text.is_array_too_long(answer.message) and self._forget_limits():
            return SubmitResult(job.token, "not-asked", message="the cluster takes smaller arrays than it did; sent again")
        if answer.outcome == "unknown":
            log.warning(
                "submission %s: whether sbatch made the job is not known: %s", job.token, answer.message
            )
        if answer.outcome == "accepted":
            self._queued += len(job.attempt_directories)
        elif answer.outcome == "throttled":
            self._refusals.record(self._queued, len(job.attempt_directories))
        message = answer.message
        if answer.outcome == "refused":
            message = f"sbatch refused it: {message}; {text.refusal_advice(message, job.options)}"
        return SubmitResult(job.token, answer.outcome, answer.job_id, message)

    def release(self, job_ids: Sequence[str]) -> dict[str, bool]:
        """`scontrol release` in bulk; where it complains the queue tells which are held still."""
        released: dict[str, bool] = {}
        for chunk in text.in_chunks(list(job_ids)):
            self._queue = None
            result = self._run(["scontrol", "release", ",".join(chunk)], "scontrol")
            if result.exit_code == 0:
                released |= dict.fromkeys(chunk, True)
            else:
                held = {row.job_id for row in self._ask_queue(fresh=True) if row.held}
                released |= {job_id: job_id not in held for job_id in chunk}
        return released

    # --- looking --------------------------------------------------------------------------------------------

    def find(self, tokens: Sequence[str]) -> Found:
        """Queue first, accounting second. Never certain: a job may appear after sbatch has given up."""
        jobs: dict[str, dict[str, FoundJob]] = {}
        for row in self._ask_queue(fresh=True):
            if row.token in tokens:
                state = JobState.HELD if row.held else parse_state(row.state).state
                _note(jobs, FoundJob(str(row.token), row.job_id, state, row.submitted_at))
        missing = [token for token in tokens if token not in jobs]
        if missing and self._accounting:
            for account in self._accounts_by_name(missing):
                token, state = str(_token_of(account.name)), parse_state(account.state).state
                _note(jobs, FoundJob(token, account.job_id, state, account.submitted_at))
        return Found({token: tuple(ids.values()) for token, ids in jobs.items()}, certain=False)

    def list_held(self) -> list[FoundJob]:
        held = {(row.token, row.job_id) for row in self._ask_queue() if row.held and row.token is not None}
        return [FoundJob(str(token), job_id, JobState.HELD) for token, job_id in sorted(held, key=str)]

    def poll(self, jobs: Sequence[JobTask]) -> list[JobReport]:
        """One squeue, and one sacct for the tasks that the queue does not show alive."""
        queued = {(row.job_id, row.array_index): row for row in self._ask_queue(fresh=True)}
        rows = {task: _ours(queued.get((task.job_id, task.array_index)), task) for task in jobs}
        gone = [task for task, row in rows.items() if row is None or _ended(row.state)]
        try:
            accounts = self._accounts(gone) if gone and self._accounting else {}
        except SchedulerUnavailableError as error:
            if any(rows[task] is None for task in gone):
                raise
            log.warning("%s; the queue alone tells how jobs ended", error.message)
            accounts = {}
        return [self._report(task, rows[task], accounts) for task in jobs]

    def _report(self, task: JobTask, row: text.QueueRow | None, accounts: _Accounts) -> JobReport:
        if row is not None and not _ended(row.state):
            return _live(task, row)
        account = accounts.get(task[:2]) or _whole_array(accounts.get((task.job_id, None)))
        if account is not None and (row is None or _ended(account.state)):
            return _ended_report(task, account, may_return=row is None)
        if row is not None:
            return replace(_ended_report(task, row, may_return=False), metrics_later=self._accounting)
        return self._absent(task, known=any(job_id == task.job_id for job_id, _ in accounts))

    def _absent(self, task: JobTask, *, known: bool) -> JobReport:
        if not self._accounting:
            return JobReport(
                *task[:2], JobState.ENDED, message="it has left the queue; there is no accounting"
            )
        if known:  # a single task that is cancelled while pending leaves no record (measured with 22.05)
            message = "its array is on record, this task is not: it was cancelled before it began"
            return JobReport(*task[:2], JobState.ABSENT, "cancelled-outside", message)
        return JobReport(*task[:2], JobState.ABSENT, message="neither the queue nor accounting knows it")

    def _ask_queue(self, *, fresh: bool = False) -> list[text.QueueRow]:
        if fresh or self._queue is None:
            mark = secrets.token_hex(8)
            result = self._demand(text.build_squeue("squeue", mark), "squeue")
            self._queue = text.parse_squeue(result.stdout, mark)
        return self._queue

    def _accounts(self, tasks: Sequence[JobTask]) -> _Accounts:
        """The newest record of each task, of ours: a later job of the same id may be on record too."""
        by_job = {task.job_id: task for task in tasks}  # tasks of one job have one token
        found: dict[tuple[str, int | None], text.AccountRow] = {}
        for chunk in text.in_chunks(sorted(by_job)):
            result = self._demand(text.build_sacct("sacct", chunk), "sacct")
            rows = text.parse_sacct(
                result.stdout, lambda row: row.job_id in by_job and _ours(row, by_job[row.job_id]) is not None
            )
            found |= {(row.job_id, row.array_index): row for row in rows}
        return found

    def _accounts_by_name(self, tokens: Sequence[str]) -> Iterable[text.AccountRow]:
        since = self._setup.clock.now() - timedelta(days=14)
        for chunk in text.in_chunks([f"ccatwm-{token}" for token in tokens]):
            result = self._demand(text.build_sacct_names("sacct", chunk, since), "sacct")
            yield from (row for row in text.parse_sacct(result.stdout) if row.name in chunk)

    # --- ending ---------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[JobTask]) -> None:
        """`scancel` in bulk, of what the queue shows under our name and id; what has ended is left alone."""
        queued = {(row.job_id, row.array_index): row for row in self._ask_queue()}
        wanted = [
            t for t in jobs if (row := _ours(queued.get(t[:2]), t)) is not None and not _ended(row.state)
        ]
        for chunk in text.in_chunks(text.build_task_ids(_whole_jobs(wanted, queued))):
            self._queue = None
            result = self._run(["scancel", *chunk], "scancel")
            if result.exit_code != 0:
                log.warning("scancel: %s", result.stderr.decode("utf-8", "replace").strip()[-500:])

    # --- what the cluster allows ------------------------------------------------------------------------------

    @cached_property
    def _cluster_limits(self) -> _Limits:
        """Asked once an hour, kept in STATE_DIR."""
        now = self._setup.clock.now().timestamp()
        kept = _read_json(self._limits_file)
        self._limits_were_kept = kept is not None and 0 <= now - float(kept.get("at", 0)) < CONFIG_SECONDS
        if kept is None or not self._limits_were_kept:
            kept = {"at": now, **self._ask_limits()}
            _write_json(self._limits_file, kept)
        return _Limits(int(kept["max_array_size"]), kept["max_submit"])

    def _forget_limits(self) -> bool:
        """They have changed since they were asked for; False where that was in this pass."""
        if self._limits_were_kept:
            self._limits_file.unlink(missing_ok=True)
        return self._limits_were_kept

    def _ask_limits(self) -> dict[str, int | None]:
        config = text.parse_config(self._demand(["scontrol", "show", "config"], "scontrol").stdout)
        size = config.get("MaxArraySize", "")
        # MaxArraySize is one more than the largest index (slurm.conf(5)): so many tasks from index 0 on.
        tasks = int(size) if size.isdigit() and int(size) > 0 else DEFAULT_ARRAY_SIZE
        return {"max_array_size": tasks, "max_submit": self._ask_submit_limit()}

    def _ask_submit_limit(self) -> int | None:
        """The smallest limit of submitted jobs that applies to this account; None where there is none to be found."""
        if not self._accounting:
            return None
        account = self._defaults.account
        who = ["where", "user=" + self._user] + ([f"account={account}"] if account else [])
        numbers: list[int] = []
        assoc = self._run(
            ["sacctmgr", "-nP", "show", "assoc", *who, "format=MaxSubmitJobs,GrpSubmitJobs"], "sacctmgr"
        )
        numbers += text.parse_submit_limits(assoc.stdout) if assoc.exit_code == 0 else []
        if self._defaults.qos:
            fields = "format=MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount,GrpSubmitJobs"
            qos = self._run(
                ["sacctmgr", "-nP", "show", "qos", "where", f"name={self._defaults.qos}", fields], "sacctmgr"
            )
            numbers += text.parse_submit_limits(qos.stdout) if qos.exit_code == 0 else []
        return min(numbers) if numbers else None

    @cached_property
    def _user(self) -> str:
        result = self._transport.run(["id", "-un"], environment={"PATH": self._path})
        return result.stdout.decode("utf-8", "replace").strip()

    # --- commands -------------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        own = self._option("bin_dir", "")
        return f"{own}:{PATH}" if own else PATH

    def _environment(self, *, zone: bool) -> dict[str, str]:
        environment = {"PATH": self._path, "LC_ALL": "C"}
        if zone:
            environment["TZ"] = "UTC"  # times are printed without a zone
        if self._option("conf", ""):
            environment["SLURM_CONF"] = str(self._option("conf", ""))
        return environment

    def _run(self, argv: Sequence[str], what: str, *, zone: bool = True) -> CommandResult:
        """One command in an environment of its own: nothing of ours, no SBATCH_ or SQUEUE_ variable, reaches it."""
        environment = self._environment(zone=zone)
        self._budget.take()
        self.calls += 1
        with self._setup.effects.around(f"slurm.{what}", " ".join(argv)[:200]):
            return self._transport.run(
                argv,
                environment=environment,
                timeout_seconds=float(self._option("command_timeout_seconds", 60)),
            )

    def _demand(self, argv: Sequence[str], what: str) -> CommandResult:
        """A question that must be answered. Errors: SchedulerUnavailableError."""
        result = self._run(argv, what)
        if result.exit_code != 0:
            said = result.stderr.decode("utf-8", "replace").strip().replace("\n", "; ")[-300:]
            raise SchedulerUnavailableError(
                f"{what} on the cluster {self.cluster} gave no answer: {said or 'it did not end in time'}",
                next="nothing to do if Slurm is being restarted: the next pass asks again; else try "
                f"`{what}` by hand, and `scontrol ping`",
            )
        return result


# --- reading -------------------------------------------------------------------------------------------------


def _note(jobs: dict[str, dict[str, FoundJob]], job: FoundJob) -> None:
    """A job has many rows, of tasks and of starts: its state is that of the first, its age that of the oldest."""
    known = jobs.setdefault(job.token, {}).setdefault(job.job_id, job)
    times = [time for time in (known.submitted_at, job.submitted_at) if time is not None]
    jobs[job.token][job.job_id] = replace(known, submitted_at=min(times, default=None))


def _ours(row: Row | None, task: JobTask) -> Row | None:
    """The row if it is of the very job that was recorded: ids come round again, names and times tell."""
    if row is None:
        return None
    if task.token and _token_of(row.name) != task.token:
        return None
    if task.submitted_at and row.submitted_at and row.submitted_at < task.submitted_at - CLOCKS_MAY_DIFFER:
        return None
    return row


def _whole_array(row: text.AccountRow | None) -> text.AccountRow | None:
    """The row of an array that is true of each of its tasks: cancelled before it began."""
    return row if row is not None and row.state.startswith("CANCELLED") else None


@lru_cache  # all tasks of an array have one name
def _token_of(name: str) -> str | None:
    match = text.JOB_NAME.fullmatch(name)
    return match[1] if match else None


def _ended(state: str) -> bool:
    return parse_state(state).state is JobState.ENDED


def _live(task: JobTask, row: text.QueueRow) -> JobReport:
    meaning = parse_state(row.state)
    message = row.reason if meaning.state is JobState.PENDING and row.reason != "None" else ""
    if meaning.state is JobState.UNKNOWN:
        message = f"unknown state {row.state!r}"
    hopeless = bool(message) and meaning.state is JobState.PENDING and never_starts(message)
    if hopeless:
        message = f"{message}; {text.refusal_advice(message, {})}"
    return JobReport(
        *task[:2], meaning.state, "submit-rejected" if hopeless else None, message=message, host=row.nodes or None,
        started_at=row.started_at if meaning.state is JobState.RUNNING else None,
    )  # fmt: skip


def _ended_report(task: JobTask, row: text.QueueRow | text.AccountRow, *, may_return: bool) -> JobReport:
    meaning = parse_state(row.state)
    if meaning.state is not JobState.ENDED:  # accounting lags behind the queue, or says what nobody knows
        state = JobState.UNKNOWN if meaning.state is JobState.UNKNOWN else JobState.ABSENT
        return JobReport(*task[:2], state, message=f"left the queue; accounting says {row.state} still")
    settled = not (may_return and meaning.may_return)
    if isinstance(row, text.QueueRow):
        return JobReport(*task[:2], JobState.ENDED, meaning.cause, _because(row.state), row.nodes or None,
                         started_at=row.started_at, settled=settled)  # fmt: skip
    return _from_account(task, row, meaning, settled)


def _from_account(task: JobTask, row: text.AccountRow, meaning: SlurmState, settled: bool) -> JobReport:
    cause, message = meaning.cause, _because(row.state)
    if meaning.cause is None and (row.exit_code, row.signal) == LAUNCH_FAILED:
        cause, message = "node-failure", "Slurm could not start its script (exit code 0:53)"
    waited = None
    if row.started_at and row.submitted_at:
        waited = max(0.0, (row.started_at - row.submitted_at).total_seconds())
    return JobReport(
        *task[:2], JobState.ENDED, cause, message, host=row.nodes or None, started_at=row.started_at,
        ended_at=row.ended_at, wall_seconds=row.wall_seconds, cpu_hours=row.cpu_hours,
        peak_memory_gb=row.peak_memory_gb, settled=settled, exit_code=row.exit_code, queue_seconds=waited,
        metrics_later=row.started_at is not None and None in (row.cpu_hours, row.peak_memory_gb),
    )  # fmt: skip


def _because(state: str) -> str:
    words = {
        "TIMEOUT": "it reached its time limit",
        "DEADLINE": "it could not end before its deadline",
        "OUT_OF_MEMORY": "it used more memory than it asked for",
        "NODE_FAIL": "its node failed",
        "BOOT_FAIL": "its node could not be started",
        "PREEMPTED": "another job took its place",
    }
    word = state.split(maxsplit=1)[0] if state else ""
    if word == "CANCELLED":
        return f"cancelled in Slurm ({state})"
    return words.get(word, "" if word in STATES else f"Slurm says {state}")


def _whole_jobs(
    tasks: Sequence[JobTask], queued: dict[tuple[str, int], text.QueueRow]
) -> dict[str, Sequence[int] | None]:
    """Indices by job, None where every task that is in the queue is meant."""
    wanted: dict[str, set[int]] = {}
    for task in tasks:
        wanted.setdefault(task.job_id, set()).add(task.array_index)
    return {
        job_id: None if all(i in indices for j, i in queued if j == job_id) else sorted(indices)
        for job_id, indices in wanted.items()
    }


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and {"max_array_size", "max_submit"} <= data.keys() else None


def _write_json(file: Path, data: dict[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary.write_text(json.dumps(data), encoding="ascii")
    temporary.replace(file)
