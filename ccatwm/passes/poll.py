"""Asks the batch system for its jobs, and retries or cancels runs. Touches: the ops-db, the batch system, job records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.model import Attempt, FailureClass, Run
from ccatwm.core.outcomes import (
    Conclusion,
    ExitRecord,
    JobFacts,
    Patience,
    Verdict,
    conclude,
    parse_exit_record,
    parse_started_record,
    parse_time,
)
from ccatwm.core.products import container_failure
from ccatwm.core.retries import learned_resources
from ccatwm.core.states import BEFORE_SUBMIT, RunEvent, RunStatus
from ccatwm.edges.opsdb.stores import attempts, runs, streaks, sub_groups, transfers
from ccatwm.edges.opsdb.stores.attempts import OpenJob
from ccatwm.errors import CcatwmError, ConflictError, SchedulerUnavailableError
from ccatwm.interfaces import JobReport, JobState, JobTask
from ccatwm.passes._claims import full_sign, list_restarts, with_claim
from ccatwm.passes._context import Context
from ccatwm.passes._failures import record_failure
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed

log = logging.getLogger("ccatwm.passes.poll")
STDERR_TAIL_BYTES = 4096
GOOD_AT_ONCE = 50  # starts and successes that are written down in one transaction
METRICS = ("wall_seconds", "cpu_hours", "peak_memory_gb")
STRAYS_DAYS = 1  # how long jobs of submissions that were given up are watched for
METRICS_PER_PASS = 1000  # attempts whose metrics are asked for again
METRICS_WAIT = timedelta(seconds=5)  # before the second time; it doubles
METRICS_PATIENCE = timedelta(days=1)  # how far accounting may lag behind


@dataclass(frozen=True)
class Watched:
    """A run with its newest attempt and what was read of it."""

    run: Run
    attempt: Attempt
    report: JobReport
    started: dict[str, Any] | None
    record: ExitRecord | None
    stderr_tail: bytes
    restart: int = 0
    refused: bool = False
    full: bool = False


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "poll", options, _body)


def _body(frame: PassFrame) -> None:
    _cancel_without_job(frame)
    _cancel_jobs(frame)
    _watch_jobs(frame)
    _sweep_strays(frame)
    _retry_due(frame)
    _tell_waits_for_space(frame)


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _tell_waits_for_space(frame: PassFrame) -> None:
    """Runs whose jobs met a full disk wait for room: that lasts, and is told as long as it does."""
    with frame.context.database.read() as connection:
        count, message = runs.count_waits_for_space(connection, location(frame.context))
    if count:
        frame.report.add("waiting", PassItem(FailureClass.NO_SPACE.value, message, count=count))


# --- cancelling ----------------------------------------------------------------------------------------------------


def _cancel_without_job(frame: PassFrame) -> None:
    """Runs that have no job (any more) are cancelled at once."""
    without_job = BEFORE_SUBMIT | {RunStatus.FAILED, RunStatus.COLLECTING_RESULTS}
    with frame.context.database.read() as connection:
        asked = [
            r
            for r in runs.list_cancel_requests(connection, location(frame.context))
            if r.status in without_job
        ]
    for item in asked:
        if frame.dry_run:
            frame.report.add("done", _item(item, "would be cancelled"))
            continue
        with frame.context.database.write() as connection:
            cancelled = _record_cancelled(frame, connection, item, RunStatus(item.status))
        if cancelled:
            frame.report.add("done", _item(item, "cancelled", item.cancel_reason or ""))


def _record_cancelled(frame: PassFrame, connection: sa.Connection, item: Run, expected: RunStatus) -> bool:
    """The recipe stays cancelled until it changes or somebody says `retry`."""
    changed = runs.record_event(
        connection, item.id, RunEvent.CANCELLED, expected=expected, now=frame.now, by_pass="poll",
        message=item.cancel_reason, blocking=True, due_at=None,
    )  # fmt: skip
    if changed:
        sub_groups.mark_due(connection, [item.sub_group_id], frame.now)
    return changed


def _cancel_jobs(frame: PassFrame) -> None:
    """Ask the batch system to end the jobs of runs that are to be cancelled; they are CANCELLED when they have."""
    with frame.context.database.read() as connection:
        asked = runs.list_cancel_requests(connection, location(frame.context))
        with_job = [r for r in asked if r.status in (RunStatus.SUBMITTED, RunStatus.RUNNING)]
        found = attempts.newest_attempts(connection, [r.id for r in with_job])
    jobs = [_task(a) for a in found.values() if a.job_id is not None]
    if jobs and not frame.dry_run:
        frame.context.scheduler.cancel(jobs)


# --- watching -------------------------------------------------------------------------------------------------------


def _watch_jobs(frame: PassFrame) -> None:
    """One question to the batch system for all jobs, one reading of all records; a transaction for each run that failed,
    and one for many that did well."""
    with frame.context.database.read() as connection:
        open_jobs = attempts.list_open_jobs(connection, location(frame.context))
    late = _list_without_metrics(frame)
    reports = _ask(frame, open_jobs, late)
    _fill_metrics(frame, late, reports)
    frame.report.selected = len(open_jobs)
    good: list[tuple[Watched, Conclusion]] = []
    try:
        _act(frame, _look_closer(frame, _tell_quiet(frame, open_jobs, reports), reports), good)
    except CcatwmError:  # what went wrong with one says nothing of those before it
        _apply_together(frame, good)
        raise
    _apply_together(frame, good)


def _act(frame: PassFrame, looked_at: Sequence[Watched], good: list[tuple[Watched, Conclusion]]) -> None:
    """Conclude and write down; `good` is what is left to be written: starts and successes go together."""
    held, hopeless = [], []
    for item in looked_at:
        if frame.time_is_up():
            return
        frame.checkpoint()
        conclusion = _conclude(frame, item)
        if conclusion.verdict is Verdict.RELEASE:
            held.append(str(item.attempt.job_id))
        elif frame.dry_run:
            frame.report.add("done", _item(item.run, f"would be {conclusion.verdict}", conclusion.message))
        elif conclusion.verdict is Verdict.FAILED and item.report.state is JobState.PENDING:
            hopeless.append((item, conclusion))
        elif conclusion.verdict in (Verdict.STARTED, Verdict.SUCCEEDED):
            good.append((item, conclusion))
        else:
            if conclusion.verdict is Verdict.FAILED:
                _apply_together(frame, good)  # a success before it ended the streak of failures
            _apply(frame, item, conclusion)
            if conclusion.failure is FailureClass.NO_SPACE:
                _make_room(frame, item)
        if len(good) == GOOD_AT_ONCE:
            _apply_together(frame, good)
    if held and not frame.dry_run:
        frame.context.scheduler.release(held)
    _give_up(frame, hopeless)


def _make_room(frame: PassFrame, item: Watched) -> None:
    """What an attempt wrote before its disk was full is no product, and would fill it again at the next one."""
    folder = PurePosixPath(item.attempt.directory_of(item.restart))
    frame.context.workfiles.remove_trees([folder / "output", folder / "scratch"])


def _give_up(frame: PassFrame, hopeless: Sequence[tuple[Watched, Conclusion]]) -> None:
    """Jobs that would wait for ever: their claims are won, so they do nothing any more; they leave the queue."""
    if hopeless:
        frame.context.scheduler.cancel([_task(item.attempt) for item, _ in hopeless])
    for item, conclusion in hopeless:
        _apply(frame, item, conclusion)


def _tell_quiet(
    frame: PassFrame, open_jobs: Sequence[OpenJob], reports: Mapping[int, JobReport]
) -> list[OpenJob]:
    """Count those that wait or run as before; why they wait is written down. The others are to be looked at closer."""
    news = []
    said_anew: dict[str, list[int]] = {}
    for job in open_jobs:
        report = reports[job.attempt_id]
        if not _is_quiet(job, report):
            news.append(job)
            continue
        if job.gone_at is not None or (job.message or "") != report.message:
            said_anew.setdefault(report.message, []).append(job.attempt_id)
        place = (job.run_id, job.pipeline, job.step, job.sub_group)
        frame.report.add("waiting", PassItem(job.status, _of_job(report, report.message), *place))
    if said_anew and not frame.dry_run:
        with frame.context.database.write() as connection:
            for message, attempt_ids in said_anew.items():
                attempts.record_alive(connection, attempt_ids, message or None)
    return news


def _is_quiet(job: OpenJob, report: JobReport) -> bool:
    """Whether a job is where its run says it is."""
    if report.state is JobState.PENDING:
        return report.cause is None and job.status == RunStatus.SUBMITTED
    return report.state is JobState.RUNNING and job.status == RunStatus.RUNNING


def _look_closer(
    frame: PassFrame, news: Sequence[OpenJob], reports: Mapping[int, JobReport]
) -> list[Watched]:
    if not news:
        return []
    with frame.context.database.read() as connection:
        found = runs.get_runs(connection, [job.run_id for job in news])
        newest = attempts.newest_attempts(connection, [job.run_id for job in news])
    pairs = [(found[job.run_id], newest[job.run_id]) for job in news]
    return _read_records(frame.context, [(r, a, reports[a.id]) for r, a in pairs if a.id in reports])


def _ask(frame: PassFrame, watched: Sequence[OpenJob], late: Sequence[Attempt]) -> dict[int, JobReport]:
    """What the batch system says of attempts, by their id. That it cannot tell of `late` ones is no failure."""
    asked = {j.attempt_id: JobTask(j.job_id, j.array_index, j.token, j.submitted_at) for j in watched}
    more = {attempt.id: _task(attempt) for attempt in late}
    try:
        reports = _poll(frame, asked | more)
    except SchedulerUnavailableError:
        if not late:
            raise
        reports = _poll(frame, asked)
    silent = JobReport("", 0, JobState.UNKNOWN)
    return {attempt_id: reports.get(task[:2], silent) for attempt_id, task in (asked | more).items()}


def _poll(frame: PassFrame, asked: Mapping[int, JobTask]) -> dict[tuple[str, int], JobReport]:
    reports = frame.context.scheduler.poll(list(asked.values())) if asked else []
    return {(report.job_id, report.array_index): report for report in reports}


def _task(attempt: Attempt) -> JobTask:
    return JobTask(str(attempt.job_id), attempt.array_index, attempt.token, attempt.submitted_at)


def _read_records(context: Context, seen: Sequence[tuple[Run, Attempt, JobReport]]) -> list[Watched]:
    """Read the jobs' own records; only of attempts that may have some."""
    old_news = (JobState.PENDING, JobState.HELD, JobState.UNKNOWN)
    telling = [attempt for _, attempt, report in seen if report.state not in old_news]
    restarts = list_restarts(context.workfiles, [a.first_directory for a in telling]) if telling else {}
    folders = {a.id: PurePosixPath(a.directory_of(restarts[a.first_directory])) for a in telling}
    paths = [folder / "job" / name for folder in folders.values() for name in ("started.json", "exit.json")]
    content = context.workfiles.read_files(paths, max_bytes=65536) if paths else {}
    records = {a: parse_exit_record(content[folder / "job" / "exit.json"]) for a, folder in folders.items()}
    failed = {
        a: folders[a] / "logs" / "stderr.log"
        for a, r in records.items()
        if r is not None and r.exit_code == 255
    }
    tails = context.workfiles.read_tails(failed.values(), max_bytes=STDERR_TAIL_BYTES) if failed else {}
    ended = {attempt.id for _, attempt, report in seen if report.state is JobState.ENDED}
    silent = {a: folders[a] / "job" / "refused" for a, r in records.items() if r is None and a in ended}
    gone = ended | {attempt.id for _, attempt, report in seen if report.state is JobState.ABSENT}
    signs = {a.id: full_sign(a.first_directory) for a in telling if a.id in gone and records[a.id] is None}
    there = context.workfiles.exists([*silent.values(), *signs.values()]) if signs else {}
    return [
        Watched(
            run,
            attempt,
            report,
            parse_started_record(content.get(folders[attempt.id] / "job" / "started.json"))
            if attempt.id in folders
            else None,
            records.get(attempt.id),
            tails.get(failed[attempt.id]) or b"" if attempt.id in failed else b"",
            restarts.get(attempt.first_directory, attempt.restart),
            attempt.id in silent and there[silent[attempt.id]],
            attempt.id in signs and there[signs[attempt.id]],
        )
        for run, attempt, report in seen
    ]


def _conclude(frame: PassFrame, item: Watched) -> Conclusion:
    report, attempt = item.report, item.attempt
    settings = frame.context.settings
    facts = JobFacts(
        report.state,
        report.cause,
        report.message,
        settled=report.settled,
        record=item.record,
        started=item.started is not None,
        refused=item.refused,
        full=item.full,
        gone_seconds=(frame.now - attempt.gone_at).total_seconds() if attempt.gone_at is not None else 0.0,
        limit_seconds=attempt.resources.time_seconds,
        cancel_requested=item.run.cancel_requested_at is not None,
    )
    contained = item.run.resolved_step.software.image is not None and settings.container_runtime != "none"
    conclusion = conclude(
        facts,
        token=attempt.token,
        partial_exit_codes=item.run.resolved_step.partial_exit_codes,
        container_failed=lambda code: contained and container_failure(code, item.stderr_tail),
        patience=Patience(
            settings.record_wait_seconds,
            settings.slurm.requeue_seconds,
            frame.context.scheduler.grace_seconds,
        ),
    )
    return conclusion if frame.dry_run else with_claim(frame.context.workfiles, conclusion, attempt.first_directory)


def _apply(frame: PassFrame, item: Watched, conclusion: Conclusion) -> None:
    """Write what was concluded: one transaction, by compare-and-swap."""
    if conclusion.verdict is Verdict.WAIT:
        _wait(frame, item, conclusion.message)
        return
    with frame.context.database.write() as connection:
        changed = _record(frame, connection, item, conclusion)
    if changed and conclusion.verdict is not Verdict.FAILED:
        frame.report.add("done", _item(item.run, conclusion.verdict.value, conclusion.message))


def _apply_together(frame: PassFrame, good: list[tuple[Watched, Conclusion]]) -> None:
    """The same in one transaction for all, which takes them out of `good`; where a row is refused, one by one."""
    if not good:
        return
    some = good.copy()
    good.clear()
    try:
        with frame.context.database.write() as connection:
            changed = [_record(frame, connection, item, conclusion) for item, conclusion in some]
    except ConflictError:
        for item, conclusion in some:
            _apply(frame, item, conclusion)
        return
    for (item, conclusion), moved in zip(some, changed, strict=True):
        if moved:
            frame.report.add("done", _item(item.run, conclusion.verdict.value, conclusion.message))


def _record(frame: PassFrame, connection: sa.Connection, item: Watched, conclusion: Conclusion) -> bool:
    expected = RunStatus(item.run.status)
    if conclusion.verdict is Verdict.STARTED:
        return _record_started(frame, connection, item, expected)
    _record_restart(connection, item)
    _record_attempt_end(frame, connection, item, conclusion)
    if conclusion.verdict is Verdict.SUCCEEDED:
        return _record_success(frame, connection, item, conclusion, expected)
    if conclusion.verdict is Verdict.CANCELLED:
        return _record_cancelled(frame, connection, item.run, expected)
    assert conclusion.failure is not None
    return record_failure(
        frame, connection, item.run, expected, conclusion.failure, conclusion.message, by_pass="poll",
        exit_code=conclusion.exit_code, **_metrics(item),
    )  # fmt: skip


def _record_success(
    frame: PassFrame, connection: sa.Connection, item: Watched, conclusion: Conclusion, expected: RunStatus
) -> bool:
    changed = runs.record_event(
        connection, item.run.id, RunEvent.JOB_SUCCEEDED, expected=expected, now=frame.now, by_pass="poll",
        exit_code=conclusion.exit_code, failure_class=None, **_metrics(item),
    )  # fmt: skip
    if changed:
        if item.run.message:  # what an earlier attempt met
            runs.update_run(connection, item.run.id, message=None)
        if not item.run.trial:
            streaks.end_streak(connection, [item.run.step_id])
        learned = learned_resources(item.run.resolved_step.resources, item.attempt.resources)
        if learned is not None:
            streaks.record_learned(connection, item.run.step_id, learned)
    return changed


def _record_restart(connection: sa.Connection, item: Watched) -> None:
    """The folder of the last start is the attempt's: what earlier starts still write does not count."""
    if item.restart != item.attempt.restart:
        attempts.update_attempt(
            connection,
            item.attempt.id,
            restart=item.restart,
            directory=item.attempt.directory_of(item.restart),
        )


def _record_started(frame: PassFrame, connection: sa.Connection, item: Watched, expected: RunStatus) -> bool:
    _record_restart(connection, item)
    if expected is RunStatus.RUNNING:
        _record_alive(connection, item)
        return False
    host = item.report.host or (item.started or {}).get("host")
    started_at = parse_time((item.started or {}).get("started_at")) or frame.now
    attempts.update_attempt(connection, item.attempt.id, host=host, started_at=started_at, ended_at=None)
    return runs.record_event(
        connection, item.run.id, RunEvent.JOB_STARTED, expected=expected, now=frame.now, by_pass="poll"
    )


def _record_attempt_end(
    frame: PassFrame, connection: sa.Connection, item: Watched, conclusion: Conclusion
) -> None:
    record, report = item.record, item.report
    outcome = {Verdict.SUCCEEDED: "succeeded", Verdict.CANCELLED: "cancelled"}.get(
        conclusion.verdict, "failed"
    )
    started = item.attempt.started_at or (record.started_at if record else None) or report.started_at
    attempts.update_attempt(
        connection, item.attempt.id,
        outcome=outcome,
        exit_code=conclusion.exit_code,
        failure_class=conclusion.failure.value if conclusion.failure else None,
        message=conclusion.message or None,
        host=report.host or (record.host if record else None),
        started_at=started,
        ended_at=(record.ended_at if record else None) or report.ended_at or frame.now,
        resources_used=_used(item),
        metrics_at=frame.now if report.metrics_later else None,
    )  # fmt: skip


def _metrics(item: Watched) -> dict[str, Any]:
    """Wall seconds, CPU hours, peak memory (GiB): the batch system's, but for the wall time where the record has it:
    accounting knows whole seconds only."""
    report, record = item.report, item.record
    wall = report.wall_seconds
    if record is not None and record.started_at and record.ended_at:
        wall = (record.ended_at - record.started_at).total_seconds()
    return {"wall_seconds": wall, "cpu_hours": report.cpu_hours, "peak_memory_gb": report.peak_memory_gb}


def _used(item: Watched) -> dict[str, Any]:
    """What an attempt keeps of the batch system's accounting, which forgets: the metrics, node and queue wait too."""
    return _accounted(item.report) | _metrics(item)


def _accounted(report: JobReport) -> dict[str, Any]:
    return {
        **{name: getattr(report, name) for name in METRICS},
        "node": report.host,
        "queue_seconds": report.queue_seconds,
        "scheduler_exit_code": report.exit_code,
    }


# --- metrics that come later ----------------------------------------------------------------------------------------


def _list_without_metrics(frame: PassFrame) -> list[Attempt]:
    """Attempts that ended before accounting knew all of them: they are asked for together with the others."""
    if frame.dry_run:
        return []
    settings = frame.context.settings
    with frame.context.database.read() as connection:
        return attempts.list_without_metrics(
            connection, settings.hpc_backend, settings.cluster, frame.now, limit=METRICS_PER_PASS
        )


def _fill_metrics(frame: PassFrame, late: Sequence[Attempt], reports: Mapping[int, JobReport]) -> None:
    """Keep what accounting says by now; ask again in twice the time where it is not all yet, for a day at most."""
    if not late:
        return
    with frame.context.database.write() as connection:
        found = runs.get_runs(connection, [attempt.run_id for attempt in late])
        for attempt in late:
            report = reports[attempt.id]
            complete = report.state is JobState.ENDED and not report.metrics_later
            said = {name: value for name, value in _accounted(report).items() if value is not None}
            known = attempt.resources_used or {}
            if known.get("wall_seconds") is not None:
                said.pop("wall_seconds", None)
            used = {**known, **said}
            next_at = None if complete else _next_metrics(attempt, frame.now)
            attempts.update_attempt(connection, attempt.id, resources_used=used, metrics_at=next_at)
            if found[attempt.run_id].attempt == attempt.number:
                runs.update_run(connection, attempt.run_id, **{name: used.get(name) for name in METRICS})


def _next_metrics(attempt: Attempt, now: datetime) -> datetime | None:
    age = now - (attempt.gone_at or attempt.created_at)
    return now + max(age, METRICS_WAIT) if age < METRICS_PATIENCE else None


# --- waiting ----------------------------------------------------------------------------------------------------------


def _wait(frame: PassFrame, item: Watched, message: str) -> None:
    """Nothing to conclude yet; remember since when a job has been gone without its record, and why it waits."""
    hopeless = item.report.state is JobState.PENDING and item.report.cause is not None
    gone = hopeless or item.report.state in (JobState.ENDED, JobState.ABSENT)
    known = item.report.state is not JobState.UNKNOWN
    with_news = (gone and item.attempt.gone_at is None) or (known and not gone and _has_news(item, message))
    if with_news:
        with frame.context.database.write() as connection:
            if gone:
                attempts.update_attempt(
                    connection, item.attempt.id, ended_at=frame.now, message=message or None
                )
            else:
                _record_alive(connection, item, message)
    if not known:
        log.warning("run %s: the batch system says nothing that is understood of job %s: %s", item.run.id,
                    item.attempt.job_id, item.report.message,
                    extra={"run": item.run.id, "pipeline": item.run.pipeline})  # fmt: skip
    frame.report.add("waiting", _item(item.run, item.run.status, _of_job(item.report, message)))


def _of_job(report: JobReport, message: str) -> str:
    return f"its job is {report.state.value}" + (f": {message}" if message else "")


def _has_news(item: Watched, message: str) -> bool:
    return item.attempt.gone_at is not None or (item.attempt.message or "") != message


def _record_alive(connection: sa.Connection, item: Watched, message: str = "") -> None:
    """It is in the queue, maybe again; `message` is why it waits there."""
    if _has_news(item, message):
        attempts.record_alive(connection, [item.attempt.id], message or None)


# --- strays ------------------------------------------------------------------------------------------------------------


def _sweep_strays(frame: PassFrame) -> None:
    """Cancel held jobs of submissions that were given up: one may appear later than anybody waited for it."""
    since = frame.now - timedelta(days=STRAYS_DAYS)
    settings = frame.context.settings
    with frame.context.database.read() as connection:
        given_up = attempts.list_given_up_tokens(connection, settings.hpc_backend, settings.cluster, since)
        staging = transfers.list_given_up_tokens(connection, settings.hpc_backend, settings.cluster, since)
        given_up |= dict.fromkeys(staging, 1)
    if not given_up or frame.dry_run:
        return
    strays = [job for job in frame.context.scheduler.list_held() if job.token in given_up]
    for job in strays:
        log.warning("submission %s: job %s appeared after it was given up: cancelled", job.token, job.job_id)
    if strays:
        tasks = [JobTask(j.job_id, index, j.token) for j in strays for index in range(given_up[j.token])]
        frame.context.scheduler.cancel(tasks)


# --- retries -----------------------------------------------------------------------------------------------------------


def _retry_due(frame: PassFrame) -> None:
    with frame.context.database.read() as connection:
        due = runs.list_open_runs(
            connection,
            location(frame.context),
            (RunStatus.FAILED,),
            due_by=frame.now,
            limit=frame.options.limit,
        )
    for item in frame.units(due):
        if frame.dry_run:
            frame.report.add("done", _item(item, "would be tried again"))
            continue
        with frame.context.database.write() as connection:
            changed = runs.record_event(
                connection, item.id, RunEvent.RETRY_DUE, expected=RunStatus.FAILED, now=frame.now, by_pass="poll",
                due_at=None, ended_at=None, blocking=False,
            )  # fmt: skip
        if changed:
            frame.report.add(
                "done", _item(item, "retry", f"retry {item.retries_used} after {item.failure_class}")
            )
