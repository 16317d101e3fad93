"""Definitions as people write them: pydantic models, and the checks that one file or many can be given alone. Pure."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
StepReference = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}/)?[a-z0-9][a-z0-9._-]{0,62}$")
]
ReferenceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(@[^\s@]{1,60})?$")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FLAG = re.compile(r"^--?[A-Za-z][A-Za-z0-9-]*(=[^\s]*)?$")
RETRY_CLASSES = (
    "staging", "submit-rejected", "out-of-memory", "timeout", "node-failure", "preempted", "container",
    "non-zero-exit", "lost", "bad-output", "no-space", "cancelled-outside",
)  # fmt: skip


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has a control character (line break, tab, NUL, ...)")
    return text


def _version(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", text):
        raise ValueError("is no version: use letters, digits, . _ + -")
    return text


def _flag(text: str) -> str:
    if not _FLAG.fullmatch(text):
        raise ValueError("is no single scheduler option, such as --exclusive or --mail-type=END")
    return _plain(text)


Plain = Annotated[str, AfterValidator(_plain)]
Version = Annotated[str, AfterValidator(_version)]
Flag = Annotated[str, AfterValidator(_flag)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,100}$")]


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class SoftwareVersionDefinition(Strict):
    version: Version
    image: Plain | None = None
    command: Annotated[list[Plain], Field(min_length=1)]
    contract: Literal[1] = 1


class SoftwareDefinition(Strict):
    name: Name
    versions: Annotated[list[SoftwareVersionDefinition], Field(min_length=1)]


class ReferenceVersionDefinition(Strict):
    version: Version
    path: Plain
    checksum: Plain | None = None


class ReferenceDefinition(Strict):
    name: Name
    versions: Annotated[list[ReferenceVersionDefinition], Field(min_length=1)]


class PresetDefinition(Strict):
    name: Name
    description: str | None = None
    filter_rules: list[JsonValue]


class DataGroupingDefinition(Strict):
    """`filter_rules` are checked by the filter engine against the observation tables."""

    name: Name
    description: str | None = None
    preset: Name | None = None
    filter_rules: list[JsonValue] = []


class TriggerDefinition(Strict):
    type: Literal["CONTINUOUS", "CRON", "MANUAL"]
    cron: str | None = None
    timezone: str | None = None
    force: bool = False

    @model_validator(mode="after")
    def _cron_only(self) -> TriggerDefinition:
        if self.type != "CRON":
            if self.cron or self.timezone or self.force:
                raise ValueError(f"cron, timezone and force belong to type CRON, this is {self.type}")
            return self
        if not self.cron:
            raise ValueError('type CRON needs cron, such as "0 9 * * *"')
        check_cron(self.cron)
        check_timezone(self.timezone)
        return self

    def config(self) -> dict[str, Any]:
        """What `trigger_config` holds."""
        return {k: v for k, v in self.model_dump(exclude={"type"}).items() if v not in (None, False)}


def check_cron(text: str) -> None:
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(
            f"{text!r} is no cron expression ({error}): minute hour day month weekday"
        ) from error


def check_timezone(text: str | None) -> None:
    try:
        ZoneInfo(text or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{text!r} is no time zone: use a name such as America/Santiago") from error


class ResourcesDefinition(Strict):
    cpu: Annotated[int, Field(ge=1, le=4096)] = 1
    memory_gb: Annotated[float, Field(gt=0, le=65536)] = 2.0
    time_hours: Annotated[float, Field(gt=0, le=24 * 60)] = 1.0
    tasks: Annotated[int, Field(ge=1, le=100_000)] = 1
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    partition: Plain | None = None
    account: Plain | None = None
    qos: Plain | None = None
    constraint: Plain | None = None
    extra: list[Flag] = []


class RetryDefinition(Strict):
    times: Annotated[int, Field(ge=0, le=100)] | None = None
    backoff_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] | None = None
    factor: Annotated[float, Field(ge=1, le=10)] | None = None


class NearestDefinition(Strict):
    before: Annotated[int, Field(ge=0, le=100)] = 0
    after: Annotated[int, Field(ge=0, le=100)] = 0
    by: str = "ExecutedObsUnit.start_time"
    within_hours: Annotated[float, Field(gt=0)] | None = None


class CompanionDefinition(Strict):
    name: Name
    rules: list[JsonValue]
    nearest: NearestDefinition | None = None
    same: list[str] = []
    required: bool = True


class RetentionDefinition(Strict):
    keep_days: Annotated[float, Field(ge=0)] | None = None
    keep_versions: Annotated[int, Field(ge=1)] | None = None


class StepDefinition(Strict):
    name: Name
    software: Name
    depends_on: list[StepReference] = []
    version_policy: Literal["exact", "compatible", "latest"] = "compatible"
    version: Version | None = None
    references: list[ReferenceName] = []
    config: dict[str, JsonValue] = {}
    environment: dict[Variable, Plain] = {}
    group_by: list[str | dict[str, str]]
    trigger: TriggerDefinition | None = None
    cooldown_seconds: Annotated[float, Field(ge=0)] = 0
    settle_seconds: Annotated[float, Field(ge=0)] = 0
    requires: Literal["all"] | Annotated[float, Field(gt=0, le=1)] = "all"
    deadline_hours: Annotated[float, Field(gt=0)] | None = None
    complete: Literal["executed_obs_unit", "none"] | None = None
    on_upstream_failure: Literal["wait", "skip"] = "wait"
    companions: list[CompanionDefinition] = []
    resources: ResourcesDefinition = ResourcesDefinition()
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    retry: dict[str, RetryDefinition] = {}
    partial_exit_codes: list[Annotated[int, Field(ge=1, le=254)]] = []
    retention: RetentionDefinition | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    order: Literal["newest", "oldest"] = "newest"
    role: Literal["intermediate", "final"] | None = None
    raw_inputs: bool | None = None
    scratch: Literal["run", "node"] = "run"
    enabled: bool = True

    @model_validator(mode="after")
    def _whole(self) -> StepDefinition:
        if self.version_policy == "exact" and self.version is None:
            raise ValueError("version_policy exact needs version")
        unknown = sorted(set(self.retry) - set(RETRY_CLASSES))
        if unknown:
            raise ValueError(
                f"retry: unknown failure class {', '.join(unknown)}; allowed: {', '.join(RETRY_CLASSES)}"
            )
        if len(json.dumps(self.config)) > 65536:
            raise ValueError("config is larger than 64 KiB: put it into a reference")
        return self

    def normalised(self, *, role: str, group_by: list[Any]) -> dict[str, Any]:
        """The step with every default filled in: what `reduction_step.definition` holds."""
        data: dict[str, Any] = self.model_dump(mode="json")
        by_unit = "executed_obs_unit" in group_by
        data["group_by"] = group_by
        data["role"] = role
        data["complete"] = self.complete or ("executed_obs_unit" if by_unit else "none")
        data["raw_inputs"] = self.raw_inputs if self.raw_inputs is not None else not self.depends_on
        data["retry"] = {k: v.model_dump(exclude_none=True) for k, v in self.retry.items()}
        return data


class PipelineDefinition(Strict):
    name: Name
    data_grouping: Name
    processing_location: str
    description: str | None = None
    trigger: TriggerDefinition = TriggerDefinition(type="CONTINUOUS")
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    enabled: bool = True
    steps: Annotated[list[StepDefinition], Field(min_length=1)]


class Definitions(Strict):
    """One file of definitions; every section may be absent."""

    software: list[SoftwareDefinition] = []
    references: list[ReferenceDefinition] = []
    presets: list[PresetDefinition] = []
    data_groupings: list[DataGroupingDefinition] = []
    pipelines: list[PipelineDefinition] = []


def find_cycle(upstream: dict[str, list[str]]) -> list[str] | None:
    """A cycle in a graph of names (name -> what it depends on), first name repeated at the end; None if there is none."""
    done: set[str] = set()
    for start in upstream:
        path: list[str] = []
        stack = [(start, iter(upstream.get(start, [])))]
        path.append(start)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                stack.append((following, iter(upstream.get(following, []))))
    return None
