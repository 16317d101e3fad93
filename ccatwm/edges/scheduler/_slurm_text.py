"""Command lines for Slurm, and how its answers are read. Pure.

Only fixed formats of numbers and known words are parsed, never the output of `--json`, whose layout changes with each
release. A job's name is free text of whoever submitted it, line breaks included: it stands last, lines of squeue begin
with a mark that nobody could know, and what does not look right is no line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from ccatwm.interfaces import JobRequest

JOB_NAME = re.compile(r"ccatwm-([a-z0-9-]{1,64})")
LONGEST_ARGUMENT = 100_000  # one argument of execve(2) may have 131,072 bytes
SQUEUE_FIELDS = "%F|%K|%T|%V|%S|%N|%r|%j"
SACCT_FIELDS = "JobID,State,ExitCode,Submit,Start,End,ElapsedRaw,TotalCPU,MaxRSS,NodeList,JobName"


# --- submitting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Defaults:
    """What a site gives to every job whose step says nothing of it."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    extra: tuple[str, ...] = ()
    warn_seconds: int = 120


def build_sbatch(job: JobRequest, base_dir: PurePosixPath, defaults: Defaults, *, program: str) -> list[str]:
    """The argv that hands `job` over, held. The script is the constant one; nothing in it comes from anybody.

    Always an array, also of one task: then a record of accounting is never a task's and the whole job's at once.
    `--hold`: it cannot start before its id is committed. `--no-requeue`: a new attempt is ours to make.
    `--export=ALL` of the empty environment that sbatch is run in: NIL, NONE and lists make Slurm load the user's
    login profile on the node (measured with 22.05).
    """
    folder = base_dir / job.directory
    tasks = len(job.attempt_directories)
    return [
        program, "--parsable", "--hold", f"--job-name={job.name}", "--no-requeue", "--export=ALL",
        f"--chdir={folder}", f"--output={_log_file(folder)}", "--open-mode=append",
        f"--array=0-{tasks - 1}", *_resources(job, defaults), str(folder / "job.sh"), str(folder),
    ]  # fmt: skip


def _log_file(folder: PurePosixPath) -> str:
    """sbatch(1), filename patterns: a percent sign begins one, and a backslash anywhere ends them all: then backslashes
    are taken off and nothing else is replaced (measured with 22.05), so all tasks append to one file."""
    path = str(folder)
    if "\\" in path:
        return path.replace("\\", "\\\\") + "/slurm.log"
    return path.replace("%", "%%") + "/slurm-%a.log"


def _resources(job: JobRequest, defaults: Defaults) -> Iterator[str]:
    options = job.options
    nodes = int(str(options.get("nodes") or 1))
    minutes = max(1, math.ceil(job.time_seconds / 60))  # Slurm counts whole minutes
    yield f"--time={minutes}"
    yield f"--nodes={nodes}"
    yield f"--ntasks={options.get('tasks') or 1}"
    yield f"--cpus-per-task={job.cpu}"
    yield f"--mem={max(1, math.ceil(job.memory_gb * 1024 / nodes))}M"  # per node
    warning = min(defaults.warn_seconds, job.time_seconds // 2)
    if warning > 0:
        yield f"--signal=B:USR1@{warning}"
    if options.get("gpus"):
        yield f"--gpus={options['gpus']}"
    for name in ("partition", "account", "qos", "constraint"):
        value = options.get(name) or getattr(defaults, name)
        if value:
            yield f"--{name}={value}"
    yield from defaults.extra
    extra = options.get("extra") or ()
    assert not isinstance(extra, str | int)
    yield from extra


REFUSED = (
    "invalid", "unrecognized option", "not available", "not permitted", "permission denied", "cannot be satisfied",
    "can not be satisfied", "no partition specified", "too long", "doesn't exist", "does not exist", "unknown option",
    "more processors requested than permitted", "node count specification", "requires an argument", "ambiguous",
    "violates accounting/qos policy", "disabled", "no such",
)  # fmt: skip
# These may come after the job was made, or say nothing of it; they win over the list above.
AMBIGUOUS = (
    "unable to contact", "timed out", "time-out", "zero bytes", "connection", "communication", "munge", "expired",
    "retrying", "transmit", "receiv", "backup", "try again", "shutting down", "protocol", "unexpected", "credential",
)  # fmt: skip
# sbatch reads the script before it asks anybody.
NOT_ASKED = ("unable to open file", "batch script is empty", "this does not look like a batch script")
LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*Limit\b")


@dataclass(frozen=True)
class Answer:
    """What sbatch said, in the outcomes of `SubmitResult`."""

    outcome: str
    job_id: str | None = None
    message: str = ""


def parse_sbatch(exit_code: int | None, stdout: bytes, stderr: bytes) -> Answer:
    """Read sbatch's answer. Definite is only an id on a line of its own, or a refusal that is on the list.

    Everything else, a killed sbatch and a lost connection included, may have made the job.
    """
    message = _last_words(stderr)
    ids = re.findall(rb"^(\d+)(?:;[A-Za-z0-9._-]+)?$", stdout, re.MULTILINE)
    if exit_code == 0 and len(ids) == 1:
        return Answer("accepted", ids[0].decode())
    if exit_code not in (1, 255) or ids:
        return Answer("unknown", message=message or "sbatch gave no answer")
    text = stderr.decode("utf-8", "replace")
    if any(word in text.lower() for word in AMBIGUOUS):
        return Answer("unknown", message=message)
    if any(word in text.lower() for word in NOT_ASKED):
        return Answer("not-asked", message=message)
    limits = LIMIT.findall(text)
    if any("Submit" in limit for limit in limits) or (
        not limits and "job submit limit" in text and "policy" in text
    ):
        return Answer("throttled", message=message)
    if any(word in text.lower() for word in REFUSED):
        return Answer("refused", message=message)
    return Answer("unknown", message=message)


def is_array_too_long(message: str) -> bool:
    """Whether a refusal is about the size of an array (Slurm's words; measured with 22.05)."""
    return "job array specification" in message.lower()


# A word of a refusal, and which option it is about. The first that fits.
_ABOUT = (
    ("account", "account"), ("partition", "partition"), ("qos", "qos"), ("feature", "constraint"),
)  # fmt: skip
_TOO_MUCH = ("node configuration", "processors", "node count", "cpu count", "memory", "time limit", "gres")

_TOO_MUCH_FOR = re.compile(r"BadConstraints|Partition(Config|NodeLimit|TimeLimit)|MaxMemPerLimit|PerJob")


def refusal_advice(message: str, options: Mapping[str, object]) -> str:
    """What a person may do about a job that was refused in these words, or does not start for this reason.

    `options` are what its step asked for.
    """
    words = message.lower()
    if any(part in words for part in _TOO_MUCH) or _TOO_MUCH_FOR.search(message):
        return "the step's resources are more than the cluster or the partition has: lower them and apply"
    for word, name in _ABOUT:
        if word in words:
            return (
                f"correct {name} in the step's resources and apply"
                if options.get(name)
                else f"set slurm.{name}"
            )
    return "correct the step's resources, or slurm.extra in the settings"


def _last_words(stderr: bytes) -> str:
    """The lines of an error in one, without the program's name before each."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    words = [re.sub(r"^(?:sbatch|scontrol|squeue|sacct|scancel): (?:error: )?", "", line) for line in lines]
    return "; ".join(words)[-500:]


# --- the queue -------------------------------------------------------------------------------------------------------


class QueueRow(NamedTuple):
    """One task in the queue. Times aware UTC. Light: there are thousands."""

    job_id: str
    array_index: int
    state: str
    submitted_at: datetime | None
    started_at: datetime | None
    nodes: str
    reason: str
    name: str

    @property
    def token(self) -> str | None:
        match = JOB_NAME.fullmatch(self.name)
        return match[1] if match else None

    @property
    def held(self) -> bool:
        """A job that was cancelled while it was held keeps that reason until Slurm forgets it (measured with 22.05)."""
        return self.state == "PENDING" and self.reason.startswith(("JobHeldUser", "JobHeldAdmin"))


def build_squeue(program: str, mark: str) -> list[str]:
    """All tasks of this account, each on a line: `--array` expands, `--me` keeps others' names out."""
    return [program, "--me", "--noheader", "--array", "--states=all", "-o", f"{mark}|{SQUEUE_FIELDS}"]


def parse_squeue(stdout: bytes, mark: str) -> list[QueueRow]:
    """Lines that begin with `mark`; an array that was not expanded (`[0-5%2]`) gives a row for each index."""
    rows = []
    for line in stdout.decode("utf-8", "replace").split("\n"):
        fields = line.split("|", 8)
        if len(fields) != 9 or fields[0] != mark or not fields[1].isdigit():
            continue
        for index in _indices(fields[2]):
            _, job_id, _, state, submitted_at, started_at, *rest = fields
            rows.append(QueueRow(job_id, index, state, _time(submitted_at), _time(started_at), *rest))
    return rows


def _indices(text: str) -> Iterable[int]:
    """`7`, `N/A` (no array: index 0), `[0,2-5%3]` or `0,2-5`."""
    if text.isdigit():
        return (int(text),)
    if text in ("N/A", ""):
        return (0,)
    found: list[int] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            return []
        found += range(int(first), int(last if dash else first) + 1)
    return found


# --- accounting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccountRow:
    """What accounting knows of one task: its allocation, with the peak memory of its steps. Memory GiB."""

    job_id: str
    array_index: (
        int | None
    )  # None: the whole array's row. Only CANCELLED holds for all its tasks: while the first
    # tasks run it may say of the array what is true of its last one (measured with 22.05).
    state: str
    exit_code: int | None
    signal: int | None
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    wall_seconds: float | None
    cpu_hours: float | None
    peak_memory_gb: float | None
    nodes: str
    name: str


def build_sacct(program: str, job_ids: Sequence[str]) -> list[str]:
    """Everything about these jobs, each record of a requeued one. With `-j` alone the window begins at the epoch;
    without it at midnight, which hides yesterday's jobs (sacct(1), "DEFAULT TIME WINDOW")."""
    return [
        program,
        "--noheader",
        "--parsable2",
        "--duplicates",
        f"--format={SACCT_FIELDS}",
        "-j",
        ",".join(job_ids),
    ]


def build_sacct_names(program: str, names: Sequence[str], since: datetime) -> list[str]:
    """Jobs by name, from `since` (UTC) on. It shows no job that is held or was cancelled while held (measured)."""
    begin = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return [
        program, "--noheader", "--parsable2", "--duplicates", "--allocations", f"--format={SACCT_FIELDS}",
        f"--starttime={begin}", "--endtime=now+1day", f"--name={','.join(names)}",
    ]  # fmt: skip


def parse_sacct(stdout: bytes, wanted: Callable[[AccountRow], bool] = lambda row: True) -> list[AccountRow]:
    """The newest record of each task, of those that are `wanted`; peak memory is the largest of its steps.

    The steps of a record follow it.
    """
    newest: dict[tuple[str, int | None], AccountRow] = {}
    memory: dict[tuple[str, int | None], float] = {}
    foreign: set[tuple[str, int | None]] = set()
    for fields in _sacct_fields(stdout):
        base, _, step = fields[0].partition(".")
        for key in _task_keys(base):
            if not step:
                row = _account_row(key, fields)
                (foreign.discard if wanted(row) else foreign.add)(key)
                if key not in foreign:
                    newest[key] = row if key not in newest else _newer(newest[key], row)
            if key not in foreign and (peak := _gib(fields[8])) is not None:
                memory[key] = max(peak, memory.get(key, 0.0))
    return [_with_memory(row, memory.get(key)) for key, row in newest.items()]


def _sacct_fields(stdout: bytes) -> Iterator[list[str]]:
    for line in stdout.decode("utf-8", "replace").split("\n"):
        fields = line.split("|", 10)
        if len(fields) == 11 and fields[0][:1].isdigit():
            yield fields


def _task_keys(text: str) -> list[tuple[str, int | None]]:
    """`17` (a job without tasks, or a whole array), `17_3`, `17_[0,2]`."""
    base, underscore, index = text.partition("_")
    if not base.isdigit():
        return []
    return [(base, i) for i in _indices(index)] if underscore else [(base, None)]


def _account_row(key: tuple[str, int | None], fields: Sequence[str]) -> AccountRow:
    code, _, signal = fields[2].partition(":")
    return AccountRow(
        key[0], key[1], fields[1],
        int(code) if code.isdigit() else None,
        int(signal) if signal.isdigit() else None,
        _time(fields[3]), _time(fields[4]), _time(fields[5]),
        float(fields[6]) if fields[6].isdigit() else None,
        _cpu_hours(fields[7]), None, fields[9], fields[10],
    )  # fmt: skip


def _newer(one: AccountRow, other: AccountRow) -> AccountRow:
    """A requeue resets Submit; records of the same second keep the order in which sacct lists them."""
    begin = datetime.min.replace(tzinfo=UTC)
    return other if (other.submitted_at or begin) >= (one.submitted_at or begin) else one


def _with_memory(row: AccountRow, peak: float | None) -> AccountRow:
    return row if peak is None else replace(row, peak_memory_gb=peak)


@lru_cache  # all tasks of an array were submitted at once
def _time(text: str) -> datetime | None:
    """Slurm prints local time without a zone: its commands are run with TZ=UTC."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None  # Unknown, N/A, None


def _cpu_hours(text: str) -> float | None:
    """`[days-[hours:]]minutes:seconds.fraction`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return days * 24 + hours + minutes / 60 + seconds / 3600


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


def _gib(text: str) -> float | None:
    """`120K`, `1.5G`; without a unit bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", text)
    return None if match is None else float(match[1]) * UNITS[match[2]] / 2**30


# --- limits ------------------------------------------------------------------------------------------------------------


def parse_config(stdout: bytes) -> dict[str, str]:
    """`scontrol show config`: `Name = value` lines."""
    pairs = (line.partition("=") for line in stdout.decode("utf-8", "replace").splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_submit_limits(stdout: bytes) -> list[int]:
    """`sacctmgr show assoc` or `show qos` with only numbers asked for: those that are set."""
    return [int(n) for n in re.findall(r"\d+", stdout.decode("utf-8", "replace"))]


# --- naming tasks ------------------------------------------------------------------------------------------------------


def build_task_ids(tasks: Mapping[str, Sequence[int] | None]) -> list[str]:
    """Arguments of scancel: `17` for a whole job, else `17_3` for each task."""
    return [
        argument
        for job_id, indices in tasks.items()
        for argument in ([job_id] if indices is None else [f"{job_id}_{index}" for index in indices])
    ]


def in_chunks(words: Sequence[str], longest: int = LONGEST_ARGUMENT) -> Iterator[list[str]]:
    """Lists of words that are together no longer than `longest` characters with a separator between."""
    chunk: list[str] = []
    size = 0
    for word in words:
        if chunk and size + len(word) + 1 > longest:
            yield chunk
            chunk, size = [], 0
        chunk.append(word)
        size += len(word) + 1
    if chunk:
        yield chunk
