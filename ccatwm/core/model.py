"""The nouns of the ops-db as plain values. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple

LARGEST_PRIORITY = 1_000_000  # and its negative the smallest

PASSES = ("trigger", "resolve", "stage", "submit", "poll", "collect")  # in the order of the data flow


class TriggerType(StrEnum):
    CONTINUOUS = "CONTINUOUS"
    CRON = "CRON"
    MANUAL = "MANUAL"


class PackageState(StrEnum):
    WAITING = "waiting"
    TRANSFERRING = "transferring"
    ARCHIVED = "archived"
    FAILED = "failed"


class FailureClass(StrEnum):
    STAGING = "staging"
    SUBMIT_REJECTED = "submit-rejected"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    NODE_FAILURE = "node-failure"
    PREEMPTED = "preempted"
    CONTAINER = "container"
    NON_ZERO_EXIT = "non-zero-exit"
    LOST = "lost"
    BAD_OUTPUT = "bad-output"
    NO_SPACE = "no-space"
    CANCELLED_OUTSIDE = "cancelled-outside"


class ProductType(StrEnum):
    SCIENCE = "SCIENCE"
    QA_METRIC = "QA_METRIC"
    PLOT = "PLOT"
    STATISTICS = "STATISTICS"
    LOG = "LOG"
    INTERMEDIATE = "INTERMEDIATE"
    UNCLASSIFIED = "UNCLASSIFIED"


class StepRole(StrEnum):
    INTERMEDIATE = "intermediate"
    FINAL = "final"


class InputRole(StrEnum):
    MEMBER = "member"
    COMPANION = "companion"
    OUTSIDE = "outside"


class InputKind(StrEnum):
    PACKAGE = "package"
    PRODUCT = "product"
    REFERENCE = "reference"


@dataclass(frozen=True)
class Resources:
    """What a job asks for. `memory_gb` is GiB for the whole job, `time_hours` wall time."""

    cpu: int = 1
    memory_gb: float = 2.0
    time_hours: float = 1.0
    tasks: int = 1
    nodes: int = 1
    gpus: int = 0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: tuple[str, ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Resources:
        return Resources(**{**data, "extra": tuple(data.get("extra", ()))})

    @property
    def time_seconds(self) -> int:
        return max(1, round(self.time_hours * 3600))


@dataclass(frozen=True)
class SoftwareVersion:
    """One version of a reduction software. `image` None means the command runs without a container."""

    software: str
    version: str
    command: tuple[str, ...]
    image: str | None = None
    image_digest: str | None = None  # "sha256:hex" or None until known
    contract: int = 1


@dataclass(frozen=True)
class ReferenceVersion:
    name: str
    version: str
    path: str
    checksum: str | None = None


@dataclass(frozen=True)
class UpstreamStep:
    """An upstream step as a run sees it: `directory` is its folder below the workspace."""

    pipeline: str
    step: str
    directory: str
    same_group_by: bool


@dataclass(frozen=True)
class ResolvedStep:
    """Everything of a step that a run freezes when it is created; later definitions do not reach it."""

    pipeline: str
    step: str
    role: StepRole
    group_by: tuple[str, ...]
    software: SoftwareVersion
    config: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    references: tuple[ReferenceVersion, ...] = ()
    resources: Resources = Resources()
    upstream: tuple[UpstreamStep, ...] = ()
    raw_inputs: bool = True
    partial_exit_codes: tuple[int, ...] = ()
    max_retries: int = 3
    retry: Mapping[str, Any] = field(default_factory=dict)
    verify: str | None = None  # how its output is compared with what its job saw; None: as the site does
    scratch: str = "run"  # "run" (in the attempt) or "node" (the node's own disk)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ResolvedStep:
        """The value written by `to_json`; tuples come back as tuples."""
        software = dict(data["software"])
        software["command"] = tuple(software["command"])
        return ResolvedStep(
            **{
                **data,
                "role": StepRole(data["role"]),
                "group_by": tuple(data["group_by"]),
                "software": SoftwareVersion(**software),
                "references": tuple(ReferenceVersion(**r) for r in data["references"]),
                "resources": Resources.from_json(data["resources"]),
                "upstream": tuple(UpstreamStep(**u) for u in data["upstream"]),
                "partial_exit_codes": tuple(data["partial_exit_codes"]),
            }
        )


class RunInput(NamedTuple):
    """One frozen input of a run, with all that provenance needs copied in.

    `name` is the package name, or for a product its path below the upstream's output. `checksum` is `algorithm:hex`. For
    a product `upstream_*` say whose it is. A tuple, because millions are made, and a tuple is made in a third of the time.
    """

    kind: InputKind
    role: InputRole
    name: str
    identity: str  # package id as text, product id as text, or "name@version" of a reference
    checksum: str | None
    size_bytes: int | None
    upstream_run_id: int | None = None
    upstream_pipeline: str | None = None
    upstream_step: str | None = None
    upstream_sub_group: str | None = None
    product_type: str | None = None
    is_directory: bool = False
    stands_on: tuple[str, ...] = ()  # names of the raw packages a product stands on
    companions: tuple[str, ...] = ()  # those of `stands_on` that came as companions only
    companion: str | None = None  # what a package of role `companion` is to the step: the name that the step gives it
    serves: tuple[str, ...] = ()  # for which members it was chosen
    same: str | None = None  # of several with the same one, which serve the same, only the first says so


@dataclass(frozen=True)
class Run:
    """A run (executed reduction step) as passes read it. Times are aware UTC."""

    id: int
    pipeline: str
    step: str
    sub_group: str
    pipeline_id: int
    step_id: int
    sub_group_id: int
    status: str
    attempt: int  # number of the newest attempt, 0 before the first
    retries_used: int
    decision: int
    reason: str
    priority: int
    resolved_step: ResolvedStep
    created_at: datetime
    status_at: datetime
    due_at: datetime | None = None
    failure_class: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    held: bool = False
    is_open: bool = True
    trial: bool = False
    free_retries_used: int = 0
    next_resources: Resources | None = None

    @property
    def resources(self) -> Resources:
        """What the next attempt asks for."""
        return self.next_resources or self.resolved_step.resources

    @property
    def directory(self) -> str:
        """The run's folder below the base directory, as text with forward slashes."""
        return run_directory(self.pipeline, self.step, self.sub_group, self.id)


def run_directory(pipeline: str, step: str, sub_group: str, run_id: int) -> str:
    return f"{pipeline}/{step}/{sub_group}/run-{run_id}"


@dataclass(frozen=True)
class Attempt:
    """One submission of a run."""

    id: int
    run_id: int
    number: int
    directory: str  # below the base directory
    token: str
    submission_id: int
    array_index: int
    job_id: str | None
    created_at: datetime
    resources: Resources = Resources()
    gone_at: datetime | None = None  # when the batch system was first seen to be done with it
    outcome: str | None = None
    started_at: datetime | None = None
    submitted_at: datetime | None = None
    exit_code: int | None = None
    message: str | None = None
    restart: int = 0  # how often the batch system started it again by itself
    resources_used: Mapping[str, Any] | None = None

    @property
    def first_directory(self) -> str:
        """The folder of its first start, where its claims lie: `directory` is that of the last one."""
        return self.directory.removesuffix(f".r{self.restart}") if self.restart else self.directory

    def directory_of(self, restart: int) -> str:
        """The folder of its start number `restart`."""
        return f"{self.first_directory}.r{restart}" if restart else self.first_directory


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"  # device, socket, FIFO: never followed, never a product


@dataclass(frozen=True)
class TreeEntry:
    """One entry below a listed folder, found without following links. `path` is relative to that folder.

    File names are bytes on disk; here they are text with surrogate escapes (`os.fsdecode`).
    """

    path: PurePosixPath
    kind: EntryKind
    size_bytes: int = 0
    mtime_ns: int = 0
    link_target: str | None = None
