"""The ports between passes and the world, and the values that cross them. Pure.

This is the public API for plug-ins: a batch system is an entry point in the group `ccatwm.schedulers` that
returns a `Scheduler`. Everything a pass does to the world goes through these ports, each of which wraps every
single effect (a rename, a commit, a process start) in `Effects.around`, so that a test can stop the process
before it, after it, or make it fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

from ccatwm.core.model import EntryKind as EntryKind
from ccatwm.core.model import TreeEntry as TreeEntry
from ccatwm.errors import CcatwmError, MissingCopyError
from ccatwm.errors import SchedulerUnavailableError as SchedulerUnavailableError
from ccatwm.errors import TransportError as TransportError

INTERFACE_VERSION = 1
"""Raised when a plug-in has to be changed. Its scheduler says as `interface_version` what it was written for."""


# --- effects -------------------------------------------------------------------------------------------------


class Effects(Protocol):
    """Wraps single effects. `name` is stable (`file.rename`, `db.commit`, `process.start`), `detail` is for people."""

    def around(self, name: str, detail: str = "") -> AbstractContextManager[None]: ...


class PlainEffects:
    """What production uses: nothing happens around an effect."""

    _nothing = nullcontext()

    def around(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        return self._nothing


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds, for time budgets only."""
        ...

    def sleep(self, seconds: float) -> None: ...


# --- how far something is --------------------------------------------------------------------------------------


class Bar(Protocol):
    """Something under way, as whoever watches sees it."""

    def advance(self, count: int, /) -> None:
        """So much more of it is done."""
        ...

    def note(self, text: str, /) -> None:
        """What else is to be seen beside it; replaces the last note."""
        ...


class Progress(Protocol):
    """Shows a person who waits how far something is. Nothing depends on it, and without a person it is nothing."""

    def begin(
        self, what: str, total: int | None, unit: str, *, measure: Callable[[], int] | None = None
    ) -> AbstractContextManager[Bar]:
        """`what` is under way until the block ends; what begins inside is a part of it.

        `total` None: nobody knows how much it is. `unit`: `bytes`, or a noun in the plural. `measure`: asked now and then,
        by another thread, for how much is done, where nobody is there to advance; an OSError of it is no answer.
        """
        ...


class _NoBar:
    def advance(self, count: int, /) -> None: ...

    def note(self, text: str, /) -> None: ...


class NoProgress:
    """Nobody watches."""

    _nothing = nullcontext(_NoBar())

    def begin(
        self, what: str, total: int | None, unit: str, *, measure: Callable[[], int] | None = None
    ) -> AbstractContextManager[Bar]:
        return self._nothing


NO_PROGRESS: Progress = NoProgress()


# --- files below the base directory ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FileWrite:
    """A file to write atomically (hidden temporary name beside it, fsync, rename, fsync of the folder)."""

    path: PurePosixPath
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Received:
    """What arrived of a raw data package: bytes read from its copy, and files written with their tree digest."""

    size_bytes: int
    file_count: int
    tree_digest: str  # sha256:hex over sorted `path NUL size NUL sha256 LF`
    unpacked_bytes: int


@dataclass(frozen=True)
class Space:
    free_bytes: int
    free_inodes: int


@dataclass(frozen=True)
class TreeSize:
    """What lies in a folder, itself counted. Freed is what the file system has back when it is removed: not files that have
    another name elsewhere (a hard link), whose bytes stay with that. `files` counts names: a file may have several."""

    size_bytes: int
    inodes: int
    freed_bytes: int
    freed_inodes: int
    files: int


class WorkFiles(Protocol):
    """Everything below PIPELINE_BASE_DIR. All paths are PurePosixPath relative to it; `..` is refused.

    Errors: `NoSpaceError` for a full disk or quota, `FilesUnavailableError` when the world does not answer.
    """

    def root(self) -> PurePosixPath:
        """The absolute base directory as jobs see it."""
        ...

    def make_trees(self, paths: Iterable[PurePosixPath]) -> None:
        """mkdir -p, mode 2770-like as umask allows."""
        ...

    def make_exclusive(self, path: PurePosixPath, *, mode: int = 0o770) -> bool:
        """mkdir(2) of the last component with `mode` (parents made); False if it was there.

        The mode is set by the very same system call: it says who made the folder.
        """
        ...

    def make_exclusives(self, paths: Iterable[PurePosixPath], *, mode: int = 0o770) -> dict[PurePosixPath, bool]:
        """`make_exclusive` of each. An error of one is raised; those before it are made."""
        ...

    def modes(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, int | None]:
        """Permission bits by path (links not followed), None where nothing is."""
        ...

    def write_files(self, files: Iterable[FileWrite]) -> None: ...

    def read_files(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int = 1 << 22
    ) -> dict[PurePosixPath, bytes | None]:
        """Content by path; None where there is no such regular file. Longer files are cut at `max_bytes`."""
        ...

    def read_tails(
        self, paths: Iterable[PurePosixPath], *, max_bytes: int
    ) -> dict[PurePosixPath, bytes | None]:
        """The last `max_bytes` of each file."""
        ...

    def exists(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bool]:
        """Whether something is there (links not followed)."""
        ...

    def read_links(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, str | None]:
        """What symbolic links lead to, as it is written in them; None where no link is."""
        ...

    def list_tree(self, path: PurePosixPath) -> list[TreeEntry] | None:
        """All entries below `path`, sorted by path, links not followed; None if `path` is no directory."""
        ...

    def list_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[TreeEntry] | None]:
        """`list_tree` of each; for many small trees."""
        ...

    def list_records(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, bytes | None]:
        """All entries below each folder as one text, which `core.outputs.parse_listing` reads, in no order, links not
        followed; None where there is no folder. For trees of very many files: a tenth of what `list_tree` takes."""
        ...

    def list_folders(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        """Names of the folders in each folder, sorted; nothing below them is read. None in what is no folder."""
        ...

    def list_others(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
        """Names of what else is in each folder, sorted: files, links and special files. None in what is no folder."""
        ...

    def measure_trees(self, paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, TreeSize | None]:
        """How large folders are, links not followed; None for what is no folder. A file with names in several of them is
        freed with the last: they are thought to be removed in this order."""
        ...

    def hash_files(
        self, paths: Iterable[PurePosixPath], *, algorithm: str = "sha256"
    ) -> dict[PurePosixPath, tuple[int, str] | None]:
        """(size, digest in hex) by path, read without following links; None where absent or not a regular file."""
        ...

    def link_trees(
        self,
        links: Iterable[tuple[PurePosixPath, PurePosixPath]],
        *,
        hard: bool = True,
        whole: Mapping[PurePosixPath, tuple[int, int]] | None = None,
    ) -> dict[PurePosixPath, bytes | None]:
        """For each (source, target): make `target` a copy of the file or tree `source` by hard link, else
        reflink, else copy; never half-done visible (made under a hidden name, renamed once). A target that is
        there stays as it is. `hard=False` forbids hard links (a program without a container could write through).
        `whole` says how many files and bytes a source must have: `IncompleteTreeError` where it has not, or is gone; a
        target that is there and has not is made anew. Nothing is flushed to disk: whoever reads the links compares them.

        Returns by target the files that were linked now, as `core.input_lists` has them; None for a target that was there,
        and where it would be too much to tell."""
        ...

    def adopt_tree(self, source: PurePosixPath, target: PurePosixPath) -> Received:
        """Make `target` a copy of the tree at the absolute path `source` of the processing host, as `link_trees` does: its
        files are somebody else's and are not changed. `tree_digest` is empty: nothing is read.

        Errors: `MissingCopyError` where it is not there, `CorruptCopyError` for links and special files in it.
        """
        ...

    def switch_link(self, link: PurePosixPath, target: str) -> None:
        """Make `link` a symbolic link to the relative `target`, atomically replacing an older link."""
        ...

    def switch_links(self, links: Iterable[tuple[PurePosixPath, str | None]]) -> list[PurePosixPath]:
        """`switch_link` of each to its target; with None the link is taken away. Nothing but links gives way: the
        paths where something else is, which stays."""
        ...

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> bool:
        """Rename within the base directory; False if `target` was there already."""
        ...

    def remove_trees(self, paths: Iterable[PurePosixPath]) -> None:
        """Remove files or trees; absent ones are fine. Never follows links, never leaves the base directory."""
        ...

    def receive_tar(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        """Unpack a tar in one streaming read into `target` (hidden folder, renamed once), hashing what is read.

        Errors: `CorruptCopyError` when size or `algorithm:hex` checksum differ, when the tar is cut, or when a
        member is absolute, leaves the folder, or is a device, FIFO or escaping link. `members` maps a file's
        path to (size, checksum or None) to be checked where the package lists them.
        Files end up mode 0444, touched now.
        """
        ...

    def receive_file(
        self,
        stream: BinaryIO,
        target: PurePosixPath,
        *,
        name: str,
        size_bytes: int | None,
        checksum: str | None,
    ) -> Received:
        """One plain file `name` into the folder `target`, verified while read, renamed once."""
        ...

    def receive_tree(
        self,
        files: Iterable[tuple[str, BinaryIO]],
        target: PurePosixPath,
        *,
        size_bytes: int | None,
        checksum: str | None,
        members: Mapping[str, tuple[int, str | None]] | None = None,
    ) -> Received:
        """A package that is a directory: (relative name, stream) pairs; `checksum` is the tree digest if given."""
        ...

    def receiving_together(self) -> AbstractContextManager[WorkFiles]:
        """Where many small packages are received: they may appear, and be on disk for certain, only when the block ends.

        What it gives is used for receiving alone, by one thread. An error at its end is that of all packages.
        """
        ...

    def space(self) -> Space: ...

    def shares_blocks(self) -> bool:
        """Whether a copy of a file shares the blocks of the first, and takes no room of its own (reflinks). Tried on files
        without a name; where that cannot be said it is False."""
        ...


# --- where raw data packages lie ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackageCopy:
    """One physical copy: `path` relative to the data location's root."""

    id: str
    location: str
    storage: str  # disk, s3, tape
    root: str | None
    path: str
    priority: int = 0

    def at_root(self, root: str | None) -> PackageCopy:
        """The same where the site says that its location lies at `root`; as it is where it says nothing."""
        return self if root is None else replace(self, root=root)


@dataclass(frozen=True)
class PackageOrder:
    """A package that is to come into the folder `target`, below the base directory.

    `copies`: where it can be had, the best one first. `members`: (size, checksum or None) of its files by path, where they
    are listed. `adopt_from`: by location, the folder of the processing host below which whole folders are linked rather
    than copied.
    """

    name: str
    target: PurePosixPath
    copies: tuple[PackageCopy, ...]
    size_bytes: int | None = None
    checksum: str | None = None
    members: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    adopt_from: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Brought:
    """What came of an order: `received` from `source`, or `error`; `findings` of copies that are bad or missing."""

    received: Received | None = None
    source: PackageCopy | None = None
    findings: list[tuple[PackageCopy, CcatwmError]] = field(default_factory=list)
    error: CcatwmError | None = None


class Storage(Protocol):
    """Reads physical copies of one storage type (disk, s3).

    Errors: `MissingCopyError`, `CorruptCopyError`; `CopyUnavailableError` where the whole location is away,
    `LocationSettingsError` where its settings are wrong; `WorldError`.
    """

    def form(self, copy: PackageCopy) -> str:
        """`tar`, `directory` or `file`."""
        ...

    def open(self, copy: PackageCopy) -> AbstractContextManager[BinaryIO]: ...

    def open_tree(self, copy: PackageCopy) -> Iterator[tuple[str, BinaryIO]]:
        """(relative name, stream) of each regular file, sorted; links inside a package are refused."""
        ...


class CopyThere:
    """Stands for the bytes, or the files, of a copy that only the processing host reads.

    A `Storage` behind a connection opens this; the `WorkFiles` behind the same connection let the host open `copy`.
    """

    def __init__(self, copy: PackageCopy) -> None:
        self.copy = copy

    def read(self, size: int = -1, /) -> bytes:
        raise self._refusal()

    def __iter__(self) -> CopyThere:
        return self

    def __next__(self) -> tuple[str, BinaryIO]:
        raise self._refusal()

    def _refusal(self) -> MissingCopyError:
        return MissingCopyError(
            f"{self.copy.path} at {self.copy.location} lies on the processing host and is not read from here",
            next="set WORKFILES = ssh, so that the host brings it below the base directory itself",
        )


class HostFiles(Protocol):
    """Files of the processing host outside the base directory: images and reference data."""

    def digest(self, path: str) -> str | None:
        """`sha256:hex` of the file, or of a folder its tree digest (remembered by sizes and change times); None if
        there is neither."""
        ...

    def exists(self, path: str) -> bool: ...


# --- the processing host, here or behind SSH --------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `exit_code` None: it may have begun, how it ended is not known: time-out, connection lost,
    more output than is kept. Below 0: ended by that signal."""

    exit_code: int | None
    stdout: bytes = b""
    stderr: bytes = b""


class Transport(Protocol):
    """Runs commands on the processing host, each an argv that no shell reads, in an environment of its own.

    Errors: `TransportError` when the command certainly never began: no connection, no such program.
    """

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        timeout_seconds: float = 60.0,
    ) -> CommandResult:
        """`environment` is the whole environment. After the time-out the command is left to itself: exit_code None."""
        ...

    def close(self) -> None: ...


class RemoteCalls(Protocol):
    """One connection to our own program on the processing host, which has the same edges there."""

    opened: int
    """Connections made so far."""

    def call(self, part: str, method: str, /, **arguments: Any) -> Any:
        """Call `method` of `part` (`files`, `disk`, `host`, `commands`) there; values as `core.wire` carries them.

        Errors: what the method raises there; `TransportError` when it certainly was not called;
        `ConnectionLostError` when it may have been.
        """
        ...

    def close(self) -> None: ...


# --- batch systems -------------------------------------------------------------------------------------------------


class JobState(StrEnum):
    """What a batch system says of a job. UNKNOWN changes nothing; ABSENT is an answer, not silence."""

    HELD = "held"
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"
    ABSENT = "absent"


@dataclass(frozen=True)
class JobRequest:
    """One submission: alike attempts, one task each. The job script and `tasks` lie in `directory` already.

    `directory` is `.submissions/{token}` below the base directory; its file `tasks` has one attempt directory
    (relative to the base directory) per line; `job.sh` is the constant script.
    """

    token: str
    name: str  # the job name, carries the token
    directory: PurePosixPath
    attempt_directories: tuple[PurePosixPath, ...]
    cpu: int
    memory_gb: float
    time_seconds: int
    options: Mapping[str, str | int | tuple[str, ...] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmitResult:
    """`accepted`: job_id is set. `unknown`: look it up later. All others are definite, the job is not there:
    `refused` (a person must act, `message` says on what), `throttled` (no more now), `not-asked` (nothing was sent)."""

    token: str
    outcome: str  # accepted | refused | throttled | not-asked | unknown
    job_id: str | None = None
    message: str = ""


@dataclass(frozen=True)
class FoundJob:
    """A job found by its token. `submitted_at` (aware UTC): when the batch system took it, where it tells.

    That is what a job that is adopted is known by from then on: it may be much older than the pass that finds it.
    """

    token: str
    job_id: str
    state: JobState
    submitted_at: datetime | None = None


@dataclass(frozen=True)
class Found:
    """Answer of `find`. Tokens in neither map were not found; `certain` says that this proves their absence now."""

    jobs: Mapping[str, tuple[FoundJob, ...]]
    certain: bool


class JobTask(NamedTuple):
    """One task of a job as it was recorded: what a batch system is asked about, or told to end.

    Ids of jobs come round again: `token` and `submitted_at` (aware UTC) tell ours from a later job of the same id.
    """

    job_id: str
    array_index: int = 0
    token: str = ""
    submitted_at: datetime | None = None


@dataclass(frozen=True)
class JobReport:
    """What the batch system knows of one task of a job. Times aware UTC; memory GiB.

    `settled` False: the batch system may still say otherwise (a requeue, accounting that lags behind).
    """

    job_id: str
    array_index: int
    state: JobState
    cause: str | None = None  # a FailureClass value where the batch system knows why it ended
    message: str = ""
    host: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    wall_seconds: float | None = None
    cpu_hours: float | None = None
    peak_memory_gb: float | None = None
    settled: bool = True
    exit_code: int | None = None  # the batch system's own idea of it; the job's record wins
    queue_seconds: float | None = None  # from submission to start
    metrics_later: bool = False  # accounting lags behind: asked again, it will tell what is missing of these numbers


@dataclass(frozen=True)
class SchedulerLimits:
    """`max_array_size` tasks per submission; `free_tasks` how many more tasks may be handed over now (None: any)."""

    max_array_size: int
    free_tasks: int | None = None


class Scheduler(Protocol):
    """A batch system. All calls are plural. Errors: `SchedulerUnavailableError` when it did not answer.

    `submit` hands over held: nothing starts before `release`. `release` and `cancel` are idempotent.
    """

    backend: str
    cluster: str
    grace_seconds: int  # a job not found may still appear until this long after its submission was recorded
    calls: int  # commands given to the batch system so far

    def limits(self) -> SchedulerLimits: ...

    def submit(self, jobs: Sequence[JobRequest]) -> list[SubmitResult]: ...

    def find(self, tokens: Sequence[str]) -> Found: ...

    def release(self, job_ids: Sequence[str]) -> dict[str, bool]:
        """True: released (now or before)."""
        ...

    def poll(self, jobs: Sequence[JobTask]) -> list[JobReport]:
        """One report for each, in the same order."""
        ...

    def cancel(self, jobs: Sequence[JobTask]) -> None: ...

    def list_held(self) -> list[FoundJob]:
        """Jobs of this account that carry a token of ours and are held, whoever made them."""
        ...


@runtime_checkable
class DescribesSubmission(Protocol):
    """What a `Scheduler` may have besides: how it hands jobs over, for `ccatwm command`."""

    def describe_submission(self, job: JobRequest) -> tuple[Sequence[str], Mapping[str, str]]:
        """The command that hands `job` over, and its whole environment; nothing is asked or done."""
        ...


def no_transport() -> Transport:
    """For a batch system that gives no commands."""
    raise NotImplementedError("this batch system was set up without a transport")


@dataclass(frozen=True)
class SchedulerSetup:
    """What an entry point `ccatwm.schedulers` is called with."""

    cluster: str
    state_dir: str
    base_dir: str
    options: Mapping[str, object]
    effects: Effects
    clock: Clock
    make_transport: Callable[[], Transport] = no_transport  # commands on the processing host; `base_dir` is a path there
    grace_seconds: int = 900


SchedulerFactory = Callable[[SchedulerSetup], Scheduler]
