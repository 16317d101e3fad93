"""What to make of run directories that a restored ops-db does not know. Pure.

An ops-db restored from a backup is older than the files. An attempt that it does not know, of a run that it does know and
that was not at its end, is adopted: the run is led to where it was handed over with this attempt, and the passes find out
by its token, as after a crash. All else is named, for a person.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType

from ccatwm.core.shell_text import quote_path
from ccatwm.core.states import TRANSITIONS, RunEvent, RunStatus
from ccatwm.core.transfers import attempt_directory

_RUN = re.compile(r"run-([1-9]\d{0,17})")
_ATTEMPT = re.compile(r"attempt-([1-9]\d{0,8})")
RUN_DEPTH = 4  # pipeline/step/sub-group/run-{id}


@dataclass(frozen=True)
class KnownRun:
    """A run of the ops-db. `settling`: a submission of it was found half-way and must be looked up first."""

    id: int
    directory: str
    status: RunStatus
    is_open: bool
    attempt: int

    @property
    def settling(self) -> bool:
        return self.status is RunStatus.SUBMITTING


@dataclass(frozen=True)
class FoundAttempt:
    """An attempt as the files of its submission tell it: line `index` of `.submissions/{token}/tasks`."""

    token: str
    index: int
    directory: str
    run_directory: str
    run_id: int
    number: int


@dataclass(frozen=True)
class Left:
    """What only a person can judge. `attempts` may have jobs."""

    directory: str
    why: str
    next: str
    attempts: tuple[FoundAttempt, ...] = ()


@dataclass(frozen=True)
class Copy:
    """A run directory that somebody has copied or moved: its record is that of a run which the ops-db knows as `original`.
    `there`: whether that is there, too."""

    directory: str
    run_id: int
    original: str
    there: bool

    @property
    def what(self) -> str:
        if self.there:
            return f"a copy of run {self.run_id} ({self.original})"
        return f"run {self.run_id}, which the ops-db knows as {self.original}, where nothing is"

    def mend(self, root: PurePosixPath) -> str:
        """What to type; `root`: the base directory."""
        place, original = quote_path(root / self.directory), root / self.original
        if self.there:
            return f"`mv {place} FOLDER` moves it away"
        return f"`mkdir -p {quote_path(original.parent)} && mv {place} {quote_path(original)}` moves it back"


@dataclass(frozen=True)
class Plan:
    """`live`: attempts to adopt, at most one of a run; `past`: those before them, or of no use any more; `numbers`: the
    last number given, of runs whose last attempt was never handed over."""

    live: tuple[FoundAttempt, ...] = ()
    past: tuple[FoundAttempt, ...] = ()
    numbers: Mapping[int, int] = field(default_factory=dict)
    waiting: tuple[Left, ...] = ()
    left: tuple[Left, ...] = ()


def parse_run_directory(directory: str) -> int | None:
    """The run's id of `{pipeline}/{step}/{sub-group}/run-{id}`."""
    parts = PurePosixPath(directory).parts
    found = _RUN.fullmatch(parts[-1]) if len(parts) == RUN_DEPTH else None
    return int(found[1]) if found else None


def run_directory_of(path: str) -> str:
    """The run directory that a path below the base directory is in."""
    return "/".join(path.split("/")[:RUN_DEPTH])


def parse_attempt_name(name: str) -> int | None:
    found = _ATTEMPT.fullmatch(name)
    return int(found[1]) if found else None


def parse_tasks(token: str, content: bytes) -> list[FoundAttempt] | None:
    """The attempts of a submission, or None where its file is none of ours. A job that brings packages has no attempts."""
    attempts: list[FoundAttempt] = []
    for index, line in enumerate(content.decode("utf-8", "surrogateescape").splitlines()):
        path = PurePosixPath(line)
        if path == attempt_directory(token):
            continue
        run_id, number = parse_run_directory(str(path.parent)), parse_attempt_name(path.name)
        if run_id is None or number is None:
            return None
        attempts.append(FoundAttempt(token, index, line, str(path.parent), run_id, number))
    return attempts


def list_strange(
    submissions: Mapping[str, Sequence[FoundAttempt] | None], known: Mapping[str, Collection[int]]
) -> dict[str, Sequence[FoundAttempt] | None]:
    """What the ops-db does not know of submissions. It may know some tasks of an array and not others: those that were
    adopted, and those of runs made after the backup."""
    strange: dict[str, Sequence[FoundAttempt] | None] = {}
    for token, tasks in submissions.items():
        if token not in known:
            strange[token] = tasks
        elif unknown := [task for task in tasks or () if task.index not in known[token]]:
            strange[token] = unknown
    return strange


def plan_reconciliation(
    known: Mapping[int, KnownRun],
    submissions: Mapping[str, Sequence[FoundAttempt] | None],
    directories: Mapping[str, Sequence[int]],
    told_before: frozenset[str] = frozenset(),
    *,
    copies: Mapping[str, Copy] = MappingProxyType({}),
    root: PurePosixPath = PurePosixPath(),
    refused: Collection[str] | None = None,
) -> Plan:
    """`submissions` that the ops-db does not know, by token; `directories` of runs on disk with their attempts' numbers,
    those among them that are `copies`, below the base directory `root`; `refused`: what an import just before has refused,
    None without one.

    What a person has let be before (`told_before`, by directory) is not told again.
    """
    by_run: dict[str, list[FoundAttempt]] = {}
    for attempts in submissions.values():
        for attempt in attempts or ():
            by_run.setdefault(attempt.run_directory, []).append(attempt)
    live: list[FoundAttempt] = []
    past: list[FoundAttempt] = []
    numbers: dict[int, int] = {}
    waiting: list[Left] = []
    left = [_unreadable(token) for token, attempts in submissions.items() if attempts is None]
    for directory in sorted({*directories, *by_run}):
        found = sorted(by_run.get(directory, ()), key=lambda a: a.number)
        run = known.get(parse_run_directory(directory) or 0)
        if run is None or run.directory != directory:
            copy = copies.get(directory)
            left.append(_unknown(directory, found, run, refused) if copy is None else _copied(copy, found, root))
            continue
        last = max([*directories.get(directory, ()), *(a.number for a in found)], default=0)
        if last <= run.attempt:
            left += [_conflict(run, found)] if found else []
        elif run.settling:
            waiting.append(_half_way(run, found))
        elif not run.is_open:
            left.append(_ended(run, found))
        else:
            newer = [a for a in found if a.number > run.attempt]
            handed_over = bool(newer) and newer[-1].number == last
            live += newer[-1:] if handed_over else []
            past += newer[:-1] if handed_over else newer
            numbers |= {} if handed_over else {run.id: last}
    return Plan(tuple(live), tuple(past), numbers, tuple(waiting),
                tuple(item for item in left if item.directory not in told_before))  # fmt: skip


LET_BE = "`ccatwm doctor --reconcile --yes` ends what may still run of it and lets its files be"
IMPORT = "`ccatwm doctor --reconcile --import` makes its rows again if it had completed"
REFUSED = "what is said above, where it is REFUSED, then the same command again"


def _let_be(found: Sequence[FoundAttempt]) -> str:
    return LET_BE if found else "`ccatwm doctor --reconcile --yes` lets its files be"


def _copied(copy: Copy, found: Sequence[FoundAttempt], root: PurePosixPath) -> Left:
    next = f"{copy.mend(root)}, then the same command again; or {_let_be(found)}"
    return Left(copy.directory, copy.what, next, tuple(found))


def _unknown(
    directory: str, found: Sequence[FoundAttempt], run: KnownRun | None, refused: Collection[str] | None
) -> Left:
    if run is not None:
        return Left(directory, f"the ops-db knows run {run.id} as {run.directory}", _let_be(found), tuple(found))
    why = "a run made after the backup, which the ops-db does not know"
    if refused is None:
        return Left(directory, why, f"{IMPORT}; {LET_BE}", tuple(found))
    if directory in refused:
        return Left(directory, why, f"{REFUSED}; or {LET_BE}", tuple(found))
    return Left(directory, f"{why}, and which had not completed", LET_BE, tuple(found))


def _unreadable(token: str) -> Left:
    return Left(f".submissions/{token}", "a submission whose `tasks` are not there, or name no attempts", LET_BE)


def _conflict(run: KnownRun, found: Sequence[FoundAttempt]) -> Left:
    why = f"the ops-db knows another submission of attempt {found[0].number} of run {run.id}"
    return Left(run.directory, why, LET_BE, tuple(found))


def _half_way(run: KnownRun, found: Sequence[FoundAttempt]) -> Left:
    why = f"run {run.id} was being submitted when the backup was made, and has a later attempt"
    return Left(run.directory, why, "`ccatwm submit` looks up what was half-way; then again", tuple(found))


def _ended(run: KnownRun, found: Sequence[FoundAttempt]) -> Left:
    why = f"run {run.id} is {run.status.value} as of the backup, and has a later attempt"
    return Left(run.directory, why, LET_BE, tuple(found))


_TO_STAGED: Mapping[RunStatus, tuple[RunEvent, ...]] = {
    RunStatus.PENDING: (RunEvent.STAGE_STARTED, RunEvent.INPUTS_STAGED),
    RunStatus.STAGING_DATA: (RunEvent.INPUTS_STAGED,),
    RunStatus.STAGED: (),
}


def events_to_pending(status: RunStatus) -> list[tuple[RunStatus, RunEvent]]:
    """What has happened to a run since, that is seen in this status and is to be tried again: (status, event) pairs."""
    if status in _TO_STAGED:
        return []
    events = [] if status is RunStatus.FAILED else [RunEvent.ATTEMPT_FAILED]
    return _path(status, [*events, RunEvent.RETRY_DUE])


def events_to_staged(status: RunStatus) -> list[tuple[RunStatus, RunEvent]]:
    """The same for one that was staged again."""
    first = events_to_pending(status)
    return [*first, *_path(RunStatus.PENDING if first else status, _TO_STAGED[RunStatus.PENDING if first else status])]


def _path(status: RunStatus, events: Sequence[RunEvent]) -> list[tuple[RunStatus, RunEvent]]:
    path = []
    for event in events:
        path.append((status, event))
        status = TRANSITIONS[status, event]
    return path
