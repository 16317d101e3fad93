"""Hands runs to the batch system, each attempt once. Touches: the ops-db, the batch system, files below the base directory.

Intent first: the submission with its token and the map from array index to attempt is committed before the batch
system hears of it; the job is handed over held, its id committed, then it is released. A submission found half-way is
looked up by its token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import sqlalchemy as sa

from ccatwm.core.model import Attempt, FailureClass, Resources, Run, RunInput
from ccatwm.core.staging import SUBMISSIONS
from ccatwm.core.states import RunEvent, RunStatus
from ccatwm.core.throttle import WaitingRun, admit
from ccatwm.core.wording import count_text
from ccatwm.edges.opsdb.stores import attempts, leases, runs, throttles
from ccatwm.edges.opsdb.stores.attempts import NewAttempt, Submission, build_job_request
from ccatwm.errors import CcatwmError, NoSpaceError, SchedulerUnavailableError
from ccatwm.interfaces import FileWrite, Found, JobState, JobTask, SubmitResult
from ccatwm.passes._attempt_files import attempt_files, attempt_folders, inputs_lists, job_script
from ccatwm.passes._claims import keep_first, new_token, supersede
from ccatwm.passes._context import Context
from ccatwm.passes._failures import record_failure
from ccatwm.passes._frame import PassFrame, PassItem, PassOptions, PassReport, location, run_framed
from ccatwm.passes._throttled import report_queue_full, report_throttled, waiting_item

log = logging.getLogger("ccatwm.passes.submit")
SUBMISSIONS_PER_CHUNK = 20
ATTEMPTS_PER_CHUNK = 1000  # what is in doubt together if the pass is killed


@dataclass(frozen=True)
class Planned:
    """A submission to be made: its token and its runs with the number and directory of their attempt."""

    token: str
    resources: Resources
    runs: tuple[WaitingRun, ...]

    @property
    def directory(self) -> PurePosixPath:
        return SUBMISSIONS / self.token


def run(context: Context, options: PassOptions) -> PassReport:
    return run_framed(context, "submit", options, _body)


def settle_half_way(context: Context, options: PassOptions) -> PassReport:
    """Only look up what an earlier pass left half-way; nothing is handed over."""
    return run_framed(context, "submit", options, _settle_half_way)


def _body(frame: PassFrame) -> None:
    if frame.dry_run:
        _preview(frame)
        return
    _settle_half_way(frame)
    with frame.context.database.read() as connection:
        _, blocked = leases.read_brakes(connection)
    if blocked is not None:
        frame.report.tell(PassItem("blocked", f"submission is blocked: {blocked}"))
        return
    _submit_staged(frame)


def _preview(frame: PassFrame) -> None:
    for item in _select(frame):
        frame.report.add("done", waiting_item(item, "would be submitted"))


def _item(run: Run, outcome: str, reason: str = "") -> PassItem:
    return PassItem(outcome, reason, run.id, run.pipeline, run.step, run.sub_group)


def _attempt_item(outcome: str, reason: str, attempt: Attempt) -> PassItem:
    """Whose attempt it is says its directory."""
    pipeline, step, sub_group = PurePosixPath(attempt.directory).parts[:3]
    return PassItem(outcome, reason, attempt.run_id, pipeline, step, sub_group)


def _belongs(submission: Submission) -> dict[str, object]:
    """For a log line of a submission: its run, if it has one alone, and its pipeline, if its runs are of one."""
    found: dict[str, set[object]] = {
        "run": {attempt.run_id for attempt in submission.attempts},
        "pipeline": {PurePosixPath(attempt.directory).parts[0] for attempt in submission.attempts},
    }
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _select(frame: PassFrame) -> list[WaitingRun]:
    """Runs that may be handed over now, the first ones first; those that a ceiling holds back are told."""
    most = frame.context.settings.max_concurrent
    with frame.context.database.read() as connection:
        demand = throttles.read_for_submit(connection, location(frame.context), frame.now, most)
    admission = admit(*demand)
    selected = admission.admitted[: frame.options.limit]
    frame.report.selected = len(selected) + len(admission.throttled)
    report_throttled(frame, admission.throttled)
    return selected


# --- new submissions ----------------------------------------------------------------------------------------------


def _submit_staged(frame: PassFrame) -> None:
    selected = _select(frame)
    if not selected:
        return
    limits = frame.context.scheduler.limits()
    if limits.free_tasks is not None:
        free = max(0, limits.free_tasks)
        report_queue_full(frame, selected[free:])
        selected = selected[:free]
    planned = plan_submissions(selected, limits.max_array_size)
    for chunk in chunks_of(planned):
        if frame.time_is_up():
            return
        frame.checkpoint()
        if not _submit_chunk(frame, chunk):
            return


def chunks_of(planned: Sequence[Planned]) -> Iterator[list[Planned]]:
    """Submissions that are committed, written and released together."""
    chunk: list[Planned] = []
    for plan in planned:
        attempts_there = sum(len(p.runs) for p in chunk)
        if chunk and (
            len(chunk) == SUBMISSIONS_PER_CHUNK or attempts_there + len(plan.runs) > ATTEMPTS_PER_CHUNK
        ):
            yield chunk
            chunk = []
        chunk.append(plan)
    if chunk:
        yield chunk


def plan_submissions(selected: Sequence[WaitingRun], max_array_size: int) -> list[Planned]:
    """Alike runs (same resources) leave together, chunked to `max_array_size`, in the order of their first ones.

    So many runs that are alike do not go before the first of another kind: the pass may have no time for all.
    """
    alike: dict[Resources, list[tuple[int, WaitingRun]]] = {}
    for place, item in enumerate(selected):
        alike.setdefault(item.resources, []).append((place, item))
    arrays = [
        group[start : start + max_array_size]
        for group in alike.values()
        for start in range(0, len(group), max_array_size)
    ]
    return [
        Planned(new_token(), array[0][1].resources, tuple(item for _, item in array))
        for array in sorted(arrays, key=lambda array: array[0][0])
    ]


def _submit_chunk(frame: PassFrame, planned: Sequence[Planned]) -> bool:
    """False when the batch system, or the disk, takes no more now."""
    submissions = _commit_intent(frame, planned)
    try:
        _write_files(frame.context, submissions)
    except CcatwmError as error:  # nothing was handed over: no need to look for it later
        for submission in submissions:
            _record_absent(frame, submission, error.message)
        if isinstance(error, NoSpaceError):
            return False
        raise
    requests = [build_job_request(submission) for submission in submissions]
    results = {r.token: r for r in frame.context.scheduler.submit(requests)} if requests else {}
    held = [s for s in submissions if _record_result(frame, s, results.get(s.token))]
    _release(frame, held)
    _refuse_silence(frame, [s for s in submissions if _is_unknown(results.get(s.token))], results)
    return not any(result.outcome in ("throttled", "not-asked") for result in results.values())


def _is_unknown(result: SubmitResult | None) -> bool:
    return result is None or result.outcome == "unknown"


def _refuse_silence(
    frame: PassFrame, submissions: Sequence[Submission], results: Mapping[str, SubmitResult]
) -> None:
    """Errors: SchedulerUnavailableError where the answer to a submission was lost: later passes find out."""
    if not submissions:
        return
    said = next((r.message for s in submissions if (r := results.get(s.token)) and r.message), "no answer")
    for submission in submissions:
        for attempt in submission.attempts:
            frame.report.add("waiting", _attempt_item("unanswered", said, attempt))
    many = count_text(sum(len(s.attempts) for s in submissions), "run")
    raise SchedulerUnavailableError(
        f"whether the batch system took {many} is not known: {said}",
        next="nothing to do: the next passes look for the jobs by their tokens",
    )


def _commit_intent(frame: PassFrame, planned: Sequence[Planned]) -> list[Submission]:
    """Submission, attempts and the runs' SUBMITTING in one transaction; runs that changed meanwhile are left out."""
    scheduler = frame.context.scheduler
    ids = []
    with frame.context.database.write() as connection:
        for plan in planned:
            taken = _take(frame, connection, plan.runs)
            if not taken:
                continue
            submission_id = attempts.insert_submission(
                connection, plan.token, scheduler.backend, scheduler.cluster, frame.now
            )
            ids.append(submission_id)
            attempts.insert_attempts(
                connection,
                submission_id,
                [_new_attempt(item, index, plan.resources) for index, item in enumerate(taken)],
                frame.now,
            )
        unsettled = attempts.list_unsettled_submissions(connection, scheduler.backend, scheduler.cluster)
    return [s for s in unsettled if s.id in ids]


def _take(frame: PassFrame, connection: sa.Connection, planned: Sequence[WaitingRun]) -> list[WaitingRun]:
    """Those that nobody else took or changed meanwhile."""
    moved = runs.record_events(
        connection, [item.id for item in planned], RunEvent.SUBMIT_STARTED, expected=RunStatus.STAGED, now=frame.now,
        by_pass="submit", attempt=runs.next_attempt(),
    )  # fmt: skip
    return [item for item in planned if item.id in moved]


def _new_attempt(item: WaitingRun, index: int, resources: Resources) -> NewAttempt:
    number = item.attempt + 1
    return NewAttempt(item.id, number, index, f"{item.directory}/attempt-{number}", resources)


def _write_files(context: Context, submissions: Sequence[Submission]) -> None:
    """Attempt directories, made exclusively, with manifest, argv and inputs; one `tasks` and `job.sh` a submission."""
    run_ids = [attempt.run_id for s in submissions for attempt in s.attempts]
    with context.database.read() as connection:
        found = runs.get_runs(connection, run_ids)
        inputs: dict[int, list[RunInput]] = runs.list_inputs(connection, run_ids)
    pairs = [(found[attempt.run_id], attempt) for s in submissions for attempt in s.attempts]
    context.workfiles.make_trees(folder for run, attempt in pairs for folder in attempt_folders(run, attempt))
    listed = inputs_lists(context, found.values())
    files = [
        f
        for run, attempt in pairs
        for f in attempt_files(context, run, attempt, inputs[run.id], listed[run.id])
    ]
    context.workfiles.write_files([*files, *(file for s in submissions for file in _submission_files(s))])


def _submission_files(submission: Submission) -> Iterable[FileWrite]:
    folder = SUBMISSIONS / submission.token
    tasks = "".join(f"{attempt.directory}\n" for attempt in submission.attempts)
    yield FileWrite(folder / "tasks", tasks.encode("utf-8", "surrogateescape"))
    yield FileWrite(folder / "job.sh", job_script(), 0o755)


def _record_result(frame: PassFrame, submission: Submission, result: SubmitResult | None) -> bool:
    """Commit what the batch system answered; True if the job is held there and waits for its release."""
    if result is None or _is_unknown(result):
        return False  # ambiguous: the next pass looks it up
    if result.outcome == "accepted":
        return _record_held(frame, submission, str(result.job_id), frame.now)
    if result.outcome in ("throttled", "not-asked"):
        _record_absent(frame, submission, result.message or "the batch system takes no more jobs now")
    else:
        _record_refused(frame, submission, result.message)
    return False


def _record_held(frame: PassFrame, submission: Submission, job_id: str, submitted_at: datetime | None) -> bool:
    """`submitted_at` of a job that is adopted is what the batch system says: by this pass's time it would be taken for
    another one that had its id before."""
    with frame.context.database.write() as connection:
        return attempts.change_submission(
            connection, submission.id, ("INTENDED", "HELD"), "HELD", job_id=job_id, submitted_at=submitted_at
        )


def _record_refused(frame: PassFrame, submission: Submission, message: str) -> None:
    """A definite refusal: a person must mend the step or the settings."""
    with frame.context.database.write() as connection:
        attempts.change_submission(connection, submission.id, ("INTENDED",), "ABSENT", message=message)
        found = runs.get_runs(connection, [a.run_id for a in submission.attempts])
        for attempt in submission.attempts:
            attempts.update_attempt(
                connection, attempt.id, outcome="failed", failure_class=FailureClass.SUBMIT_REJECTED.value,
                message=message, ended_at=frame.now,
            )  # fmt: skip
            record_failure(
                frame, connection, found[attempt.run_id], RunStatus.SUBMITTING, FailureClass.SUBMIT_REJECTED, message,
                by_pass="submit",
            )  # fmt: skip


def _record_absent(
    frame: PassFrame, submission: Submission, message: str, *, outcome: str = "throttled", doubtful: bool = False
) -> None:
    """Not there: the runs go back to STAGED, for a new attempt with a new token. `doubtful`: not for certain, but
    its claims are won."""
    due_at = frame.now + timedelta(seconds=1)
    with frame.context.database.write() as connection:
        if not attempts.change_submission(
            connection, submission.id, ("INTENDED", "HELD"), "ABSENT", message=message, doubtful=doubtful
        ):
            return
        for attempt in submission.attempts:
            attempts.update_attempt(
                connection, attempt.id, outcome="absent", message=message, ended_at=frame.now
            )
            runs.record_event(
                connection, attempt.run_id, RunEvent.JOB_ABSENT, expected=RunStatus.SUBMITTING, now=frame.now,
                by_pass="submit", message=message, due_at=due_at,
            )  # fmt: skip
            frame.report.add("waiting", _attempt_item(outcome, message, attempt))


def _release(frame: PassFrame, submissions: Sequence[Submission]) -> None:
    """Let held jobs go; only then are their runs SUBMITTED."""
    if not submissions:
        return
    with frame.context.database.read() as connection:
        scheduler = frame.context.scheduler
        unsettled = attempts.list_unsettled_submissions(connection, scheduler.backend, scheduler.cluster)
    ids = {s.id for s in submissions}
    held = [s for s in unsettled if s.id in ids and s.state == "HELD" and s.job_id is not None]
    released = frame.context.scheduler.release([str(s.job_id) for s in held]) if held else {}
    for submission in held:
        if released.get(str(submission.job_id)):
            _record_released(frame, submission)
        else:
            for attempt in submission.attempts:
                text = f"job {submission.job_id} is held in the batch system and was not let go"
                frame.report.add("waiting", _attempt_item("held", text, attempt))


def _record_released(frame: PassFrame, submission: Submission) -> None:
    with frame.context.database.write() as connection:
        if not attempts.change_submission(connection, submission.id, ("INTENDED", "HELD"), "RELEASED"):
            return
        found = runs.get_runs(connection, [a.run_id for a in submission.attempts])
        accepted = runs.record_events(
            connection, [a.run_id for a in submission.attempts], RunEvent.JOB_ACCEPTED,
            expected=RunStatus.SUBMITTING, now=frame.now, by_pass="submit", due_at=None,
        )  # fmt: skip
    for attempt in submission.attempts:
        if attempt.run_id in accepted:
            frame.report.add("done", _item(found[attempt.run_id], "submitted", f"job {submission.job_id}"))


# --- submissions found half-way -----------------------------------------------------------------------------------


def _settle_half_way(frame: PassFrame) -> None:
    """Look up what an earlier pass left INTENDED or HELD: adopt it, or give it up once it is certainly absent."""
    settings = frame.context.settings
    with frame.context.database.read() as connection:
        unsettled = attempts.list_unsettled_submissions(connection, settings.hpc_backend, settings.cluster)
    if not unsettled:
        return
    scheduler = frame.context.scheduler
    intended = [s for s in unsettled if s.state == "INTENDED"]
    found = scheduler.find([s.token for s in intended]) if intended else Found({}, True)
    adopted = [s for s in unsettled if s.state == "HELD"]
    for submission in intended:
        if _settle_intended(frame, submission, found):
            adopted.append(submission)
    _release(frame, adopted)


def _settle_intended(frame: PassFrame, submission: Submission, found: Found) -> bool:
    """True if the job was found and adopted."""
    jobs = sorted(found.jobs.get(submission.token, ()), key=keep_first)
    if jobs:
        twins = [
            JobTask(job.job_id, a.array_index, job.token)
            for job in jobs[1:]
            if job.state is JobState.HELD  # nothing of it has run
            for a in submission.attempts
        ]
        if twins:
            frame.context.scheduler.cancel(twins)
        log.info("submission %s: adopted job %s", submission.token, jobs[0].job_id, extra=_belongs(submission))
        return _record_held(frame, submission, jobs[0].job_id, jobs[0].submitted_at)
    age = (frame.now - submission.created_at).total_seconds()
    if found.certain or age >= frame.context.scheduler.grace_seconds:
        _give_up(frame, submission)
    else:
        for attempt in submission.attempts:
            why = "looked up by its token until the grace period ends"
            frame.report.add("waiting", _attempt_item("waiting", why, attempt))
    return False


def _give_up(frame: PassFrame, submission: Submission) -> None:
    """Win the claim of every attempt first: a job that appears later will find it taken and do nothing."""
    if all(supersede(frame.context.workfiles, attempt.directory) for attempt in submission.attempts):
        _record_absent(frame, submission, "the batch system never had the job", outcome="absent", doubtful=True)
    else:
        _adopt_running(frame, submission)


def _adopt_running(frame: PassFrame, submission: Submission) -> None:
    log.warning("submission %s: unknown to the batch system, but its job runs: adopted", submission.token,
                extra=_belongs(submission))  # fmt: skip
    with frame.context.database.write() as connection:
        attempts.change_submission(
            connection, submission.id, ("INTENDED",), "HELD", job_id=submission.token, submitted_at=frame.now
        )
    _record_released(frame, submission)
