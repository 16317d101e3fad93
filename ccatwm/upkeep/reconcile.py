"""Brings a restored ops-db and the run directories together, and lets submission go on.

Touches: the ops-db, files below the base directory, the batch system.

What is decided lies in `core.reconciling`. Nothing here makes a run succeed or fail: what is adopted the passes look up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.reconciling import (
    Copy,
    FoundAttempt,
    Left,
    Plan,
    list_strange,
    parse_run_directory,
    parse_tasks,
    plan_reconciliation,
)
from ccatwm.core.staging import SUBMISSIONS
from ccatwm.core.transfers import TRANSFERS, attempt_directory
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import reconciling
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.latest import mark_all_links_due
from ccatwm.edges.opsdb.stores.transfers import list_open_tokens
from ccatwm.errors import CcatwmError
from ccatwm.interfaces import FoundJob, JobState, JobTask, Scheduler, WorkFiles
from ccatwm.upkeep.importing import find_copies
from ccatwm.upkeep.run_folders import find_attempts, find_run_folders, find_tokens

Supersede = Callable[[WorkFiles, str], bool]
MAY_RUN = (JobState.HELD, JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True)
class ReconcileReport:
    """What was found and done. `blocked`: why submission still is, None where it is not."""

    plan: Plan
    jobs: Mapping[str, FoundJob]
    let_be: tuple[Left, ...]
    was_blocked: str | None
    blocked: str | None
    last_run_id: int

    @property
    def open(self) -> tuple[Left, ...]:
        return (*self.plan.waiting, *(item for item in self.plan.left if item not in self.let_be))

    @property
    def exit_code(self) -> int:
        return 1 if self.open else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.reconcile/1",
            "submission_blocked": self.blocked,
            "was_blocked": self.was_blocked,
            "last_run_id": self.last_run_id,
            "adopted": [self._attempt(a) for a in self.plan.live],
            "ended": [self._attempt(a) for a in self.plan.past],
            "numbers": [{"run": run, "attempt": number} for run, number in self.plan.numbers.items()],
            "let_be": [self._left(item) for item in self.let_be],
            "left": [self._left(item) for item in self.open],
        }

    def _attempt(self, attempt: FoundAttempt) -> dict[str, Any]:
        job = self.jobs.get(attempt.token)
        return {"run": attempt.run_id, "attempt": attempt.number, "directory": attempt.directory, "token": attempt.token,
                "job_id": job.job_id if job else None, "job_state": job.state.value if job else None}  # fmt: skip

    def _left(self, item: Left) -> dict[str, Any]:
        return {"directory": item.directory, "why": item.why, "next": item.next,
                "attempts": [self._attempt(a) for a in item.attempts]}  # fmt: skip

    def lines(self) -> list[str]:
        lines = [f"adopted   {self._text(a)}" for a in self.plan.live]
        lines += [f"ended     {self._text(a)}" for a in self.plan.past]
        lines += [f"number    run {run}: its next attempt is {n + 1}" for run, n in self.plan.numbers.items()]
        lines += [f"let be    {item.directory}: {item.why}" for item in self.let_be]
        for item in self.open:
            lines.append(f"LEFT      {item.directory}: {item.why}")
            lines += [f"          {self._text(a)}" for a in item.attempts]
            lines.append(f"          next: {item.next}")
        return [*lines, self._summary()]

    def _text(self, attempt: FoundAttempt) -> str:
        job = self.jobs.get(attempt.token)
        told = f"job {job.job_id} is {job.state.value}" if job else "the batch system knows no job of it"
        return f"{attempt.directory} ({told})"

    def _summary(self) -> str:
        if self.blocked is not None:
            return f"submission stays blocked: {count_text(len(self.open), 'run')} left to you"
        if self.was_blocked is not None:
            return "ops-db and run directories agree; submission goes on"
        return "submission was not blocked" if not self.open else f"{len(self.open)} left to you"


@dataclass(frozen=True)
class _Found:
    """`copies`: those of the directories that are; `refused`: by an import just before, None without one."""

    submissions: Mapping[str, Sequence[FoundAttempt] | None]
    directories: Mapping[str, Sequence[int]]
    copies: Mapping[str, Copy]
    root: PurePosixPath
    refused: Collection[str] | None


def reconcile(
    database: Database,
    files: WorkFiles,
    make_scheduler: Callable[[], Scheduler],
    *,
    uid: str,
    supersede: Supersede,
    now: datetime,
    actor: str,
    host: str,
    yes: bool,
    refused: Collection[str] | None = None,
) -> ReconcileReport:
    """List what the ops-db does not know, adopt what can be, and release submission when nothing is left; with `yes` also
    what is left is let be: nothing of it runs any more, its files stay, and its ids are not used again.

    `uid`: of the ops-db. `refused`: directories that an import just before has refused, None without one.
    """
    found = _look(database, files, uid, refused)
    with database.read() as connection:
        plan = _plan(connection, found)
    scheduler = make_scheduler() if _attempts_of(plan) else None
    found_jobs = _find_jobs(scheduler, _attempts_of(plan))
    jobs = {token: those[0] for token, those in found_jobs.items()}
    let_be = plan.left if yes and not plan.waiting else ()
    for attempt in (*plan.past, *(a for item in let_be for a in item.attempts)):
        supersede(files, attempt.directory)  # a job that has not begun does nothing then
    if scheduler is not None:
        _end_jobs(scheduler, [a for item in let_be for a in item.attempts], found_jobs)
    last = max((parse_run_directory(folder) or 0 for folder in found.directories), default=0)
    strange = _strange_staging_jobs(database, files)
    if strange:
        _end_staging_jobs(make_scheduler(), files, strange, supersede)
    with database.write() as connection:
        was_blocked = reconciling.lock_blocked(connection)
        if _plan(connection, found) != plan:
            raise CcatwmError("runs changed while they were looked at", next="the same command again")
        _write(connection, plan, let_be, scheduler, now, actor)
        if last:
            reconciling.raise_run_ids(connection, last)
        released = not plan.waiting and len(let_be) == len(plan.left)
        if released:
            reconciling.block_submission(connection, None)
            mark_all_links_due(connection)  # those on disk may lead to runs that were made after the backup
        report = ReconcileReport(plan, jobs, let_be, was_blocked, None if released else was_blocked, last)
        if was_blocked is not None or plan.live or plan.past or let_be:
            record_change(
                connection, at=now, actor=actor, host=host, act=reconciling.ACT, target="run directories",
                reason=was_blocked, text="\n".join(report.lines()),
                details={"let_be": [item.directory for item in let_be]},
            )  # fmt: skip
    return report


def _strange_staging_jobs(database: Database, files: WorkFiles) -> list[str]:
    """Tokens of jobs that bring packages and that the ops-db does not know, or knows as ended. Files first: what is made
    meanwhile was recorded before its files were."""
    there = files.list_folders([TRANSFERS])[TRANSFERS]
    if not there:
        return []
    with database.read() as connection:
        return sorted(set(there) - list_open_tokens(connection))


def _end_staging_jobs(
    scheduler: Scheduler, files: WorkFiles, tokens: Sequence[str], supersede: Supersede
) -> None:
    """What they were to bring is brought by others; no run and no product is theirs."""
    whole = [token for token in tokens if not token.startswith(".")]  # else half removed
    for token in whole:
        supersede(files, str(attempt_directory(token)))
    found = scheduler.find(whole)
    tasks = [JobTask(job.job_id, 0, token) for token, jobs in found.jobs.items() for job in jobs]
    if tasks:
        scheduler.cancel(tasks)
    files.remove_trees([folder / token for token in tokens for folder in (TRANSFERS, SUBMISSIONS)])


def _look(database: Database, files: WorkFiles, uid: str, refused: Collection[str] | None) -> _Found:
    """Submissions first: what is made meanwhile was recorded before its files were."""
    tokens = find_tokens(files)
    paths = {SUBMISSIONS / token / "tasks": token for token in tokens}
    submissions: dict[str, Sequence[FoundAttempt] | None] = {}
    for path, content in (files.read_files(paths) if paths else {}).items():
        submissions[paths[path]] = None if content is None else parse_tasks(paths[path], content)
    directories = find_attempts(files, find_run_folders(files))
    with database.read() as connection:
        known = reconciling.known_runs(connection, {parse_run_directory(folder) or 0 for folder in directories})
    copies = find_copies(files, known, directories, uid)
    return _Found(submissions, directories, copies, files.root(), refused)


def _plan(connection: sa.Connection, found: _Found) -> Plan:
    strange = list_strange(found.submissions, reconciling.known_tasks(connection, found.submissions))
    ids = {parse_run_directory(folder) or 0 for folder in found.directories}
    ids |= {a.run_id for tasks in strange.values() for a in tasks or ()}
    runs = reconciling.known_runs(connection, ids)
    return plan_reconciliation(
        runs, strange, found.directories, reconciling.told_before(connection),
        copies=found.copies, root=found.root, refused=found.refused,
    )  # fmt: skip


def _attempts_of(plan: Plan) -> list[FoundAttempt]:
    return [*plan.live, *plan.past, *(a for item in (*plan.left, *plan.waiting) for a in item.attempts)]


def _find_jobs(scheduler: Scheduler | None, attempts: Sequence[FoundAttempt]) -> dict[str, list[FoundJob]]:
    """The jobs of each token that the batch system knows, those that may run first."""
    if scheduler is None:
        return {}
    found = scheduler.find(sorted({a.token for a in attempts}))
    return {
        token: sorted(jobs, key=lambda job: job.state not in MAY_RUN) for token, jobs in found.jobs.items() if jobs
    }


def _end_jobs(
    scheduler: Scheduler, attempts: Sequence[FoundAttempt], jobs: Mapping[str, Sequence[FoundJob]]
) -> None:
    """Twins too. The state of an array is not that of each of its tasks; what has ended the batch system leaves alone."""
    tasks = [JobTask(job.job_id, a.index, a.token) for a in attempts for job in jobs.get(a.token, ())]
    if tasks:
        scheduler.cancel(tasks)


def _write(
    connection: sa.Connection, plan: Plan, let_be: Sequence[Left], scheduler: Scheduler | None, now: datetime, actor: str
) -> None:
    if scheduler is not None:
        where = {"backend": scheduler.backend, "cluster": scheduler.cluster}
        reconciling.adopt(connection, plan.live, plan.past, **where, now=now, actor=actor)
        reconciling.record_late(connection, [a for item in let_be for a in item.attempts], **where, now=now, actor=actor)
    reconciling.give_numbers(connection, plan.numbers.items(), now=now, actor=actor)
