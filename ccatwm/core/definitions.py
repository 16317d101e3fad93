"""Definitions as people write them: pydantic models, and the checks that one file or many can be given alone. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ccatwm.core.commands import RESERVED
from ccatwm.core.flags import flag_problem
from ccatwm.core.model import LARGEST_PRIORITY
from ccatwm.core.outputs import Verify
from ccatwm.core.policy import version_problem
from ccatwm.core.retention import KEEP, LARGEST_LIMIT
from ccatwm.core.wording import short_text

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
StepReference = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}/)?[a-z0-9][a-z0-9._-]{0,62}$")
]
ReferenceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(@[^\s@]{1,60})?$")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A configuration travels as JSON: line breaks and tabs may stay.
_CONTROL_IN_CONFIG = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SHA256 = re.compile(r"^sha256:[0-9a-f]{64}$")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
# Variables that the container contract sets, or that would reach into Apptainer itself.
OWN_VARIABLES = RESERVED | {"LD_PRELOAD"}
OWN_PREFIXES = ("WORKFLOW_", "APPTAINER", "SINGULARITY")
RETRY_CLASSES = (
    "staging", "submit-rejected", "out-of-memory", "timeout", "node-failure", "preempted", "container",
    "non-zero-exit", "lost", "bad-output", "no-space", "cancelled-outside",
)  # fmt: skip


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has a control character (line break, tab, NUL, ...)")
    return text


def _image(text: str) -> str:
    if not text.startswith("/") and not _URI.match(text):
        raise ValueError(
            f"{text[:60]!r} is relative, and jobs start in other folders: "
            "write an absolute path, or a URI such as oras://registry/name:tag"
        )
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text[:60]!r} is relative, and jobs start in other folders: write an absolute path")
    return text


def _command(words: list[str]) -> list[str]:
    program = words[0]
    if "/" in program and not program.startswith("/"):
        raise ValueError(
            f"{program[:60]!r} is relative, and jobs start in other folders: "
            "write an absolute path, or the name alone of a program in PATH"
        )
    return words


def _version(text: str) -> str:
    problem = version_problem(text)
    if problem is not None:
        raise ValueError(f"{short_text(str(text))} {problem}")
    return text


def _flag(text: str) -> str:
    problem = flag_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _checksum(text: str) -> str:
    if not _SHA256.fullmatch(text.lower()):
        raise ValueError(
            "is no checksum: write sha256: and 64 hexadecimal digits (of a folder: its tree digest)"
        )
    return text.lower()


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,100}", name):
        raise ValueError("is no name of a variable: use letters, digits and _")
    if name in OWN_VARIABLES or name.startswith(OWN_PREFIXES):
        raise ValueError("is a variable that ccatwm sets itself")
    return name


def _config(data: dict[str, Any]) -> dict[str, Any]:
    texts: list[Any] = [data]
    while texts:
        value = texts.pop()
        if isinstance(value, dict):
            texts += [*value, *value.values()]
        elif isinstance(value, list):
            texts += value
        elif isinstance(value, str) and _CONTROL_IN_CONFIG.search(value):
            raise ValueError(f"{value[:40]!r} has a control character")
    if len(json.dumps(data)) > 65536:
        raise ValueError("is larger than 64 KiB: put it into a reference")
    return data


def _requires(value: Any) -> str | float:
    if value == "all":
        return "all"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    raise ValueError("is neither all nor a fraction such as 0.8")


def _limit(value: Any) -> str | float:
    if value == KEEP:
        return KEEP
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST_LIMIT:
        return float(value)
    raise ValueError(f"is neither {KEEP} nor a number from 0 to {LARGEST_LIMIT}")


def _cron(text: str) -> str:
    check_cron(text)
    return text


def _timezone(text: str) -> str:
    check_timezone(text)
    return text


def _retry_class(name: str) -> str:
    if name not in RETRY_CLASSES:
        raise ValueError(f"unknown failure class; allowed: {', '.join(RETRY_CLASSES)}")
    return name


def _exit_code(code: int) -> int:
    if code == 75:
        raise ValueError("75 asks for a retry")
    return code


# What is wrong between the fields of one model: the fields (the first is where it is told), and what it is.
Clash = tuple[tuple[tuple[str | int, ...], ...], str]


def _refuse(found: list[Clash]) -> None:
    """All of it at once: `ctx["mistakes"]` of the one error that pydantic takes from a model's validator."""
    if found:
        text = "; ".join(text for _, text in found)
        raise PydanticCustomError("mistakes", "{text}", {"text": text, "mistakes": found})


Plain = Annotated[str, AfterValidator(_plain)]
Version = Annotated[str, AfterValidator(_version)]
Flag = Annotated[str, AfterValidator(_flag)]
Variable = Annotated[str, AfterValidator(_variable)]
Config = Annotated[dict[str, JsonValue], AfterValidator(_config)]
Requires = Annotated[
    str | float,
    BeforeValidator(_requires),
    WithJsonSchema(
        {
            "anyOf": [{"const": "all"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}],
            "default": "all",
        }
    ),
]
Limit = Annotated[
    float | str,
    BeforeValidator(_limit),
    WithJsonSchema({"anyOf": [{"const": KEEP}, {"type": "number", "minimum": 0, "maximum": LARGEST_LIMIT}]}),
]
ExitCode = Annotated[int, Field(ge=1, le=254), AfterValidator(_exit_code)]


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class SoftwareVersionDefinition(Strict):
    version: Version
    image: Annotated[Plain, AfterValidator(_image)] | None = None
    command: Annotated[list[Plain], Field(min_length=1), AfterValidator(_command)]
    contract: Literal[1] = 1


class SoftwareDefinition(Strict):
    name: Name
    versions: Annotated[list[SoftwareVersionDefinition], Field(min_length=1)]


class ReferenceVersionDefinition(Strict):
    version: Version
    path: Annotated[Plain, AfterValidator(_absolute)]
    checksum: Annotated[str, AfterValidator(_checksum)] | None = None


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
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _cron_only(self) -> TriggerDefinition:
        if self.type != "CRON":
            given = tuple((name,) for name in ("cron", "timezone", "force") if getattr(self, name))
            text = f"cron, timezone and force belong to type CRON, this is {self.type}"
            _refuse([((*given, ("type",)), text)] if given else [])
        elif self.cron is None:
            _refuse([((("cron",), ("type",)), 'type CRON needs cron, such as "0 9 * * *"')])
        return self

    def config(self) -> dict[str, Any]:
        """What `trigger_config` holds."""
        return {k: v for k, v in self.model_dump(exclude={"type"}).items() if v not in (None, False)}


CRON_FIELDS = 5


def check_cron(text: str) -> None:
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    if (count := len(text.split())) != CRON_FIELDS:  # of six, cronsim takes the first for seconds
        raise ValueError(
            f"{text!r}: a cron expression has five fields, minute hour day month weekday, such as 0 9 * * *; "
            f"this has {count}"
        )
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

    @model_validator(mode="after")
    def _nodes_have_tasks(self) -> ResourcesDefinition:
        """sbatch gives no more nodes than tasks, and says so in a warning only (sbatch(1), --nodes)."""
        if self.nodes > self.tasks:
            text = f"nodes {self.nodes} with tasks {self.tasks}: each node needs a task, raise tasks or lower nodes"
            _refuse([((("nodes",), ("tasks",)), text)])
        return self


class RetryDefinition(Strict):
    times: Annotated[int, Field(ge=0, le=100)] | None = None
    backoff_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] | None = None
    factor: Annotated[float, Field(ge=1, le=10)] | None = None


class NearestDefinition(Strict):
    """How many companions before an executed obs unit and after it, by their start times."""

    before: Annotated[int, Field(ge=0, le=100)] = 0
    after: Annotated[int, Field(ge=0, le=100)] = 0
    by: Literal["ExecutedObsUnit.start_time"] = "ExecutedObsUnit.start_time"
    within_hours: Annotated[float, Field(gt=0, le=24 * 366)] | None = None

    @model_validator(mode="after")
    def _some(self) -> NearestDefinition:
        if not self.before and not self.after:
            text = "nearest with before 0 and after 0 chooses nothing: write before: 1, after: 1 or both"
            _refuse([((("before",), ("after",)), text)])
        return self


class CompanionDefinition(Strict):
    name: Name
    rules: list[JsonValue]
    nearest: NearestDefinition | None = None
    same: list[str | dict[str, str]] = []
    required: bool = True


class RetentionDefinition(Strict):
    """What may go of a step's files and when; what is absent goes by the site's settings. `keep` alone: nothing goes."""

    intermediate_days: Limit | None = None
    superseded_days: Limit | None = None
    scratch_days: Limit | None = None
    log_days: Limit | None = None
    log_max_gb: Limit | None = None

    @model_validator(mode="before")
    @classmethod
    def _all_kept(cls, value: Any) -> Any:
        return dict.fromkeys(cls.model_fields, KEEP) if value == KEEP else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"const": KEEP}, handler(schema)]}


class CollectDefinition(Strict):
    verify: Verify


class StalenessDefinition(Strict):
    ignore: list[
        Literal[
            "input-added", "input-withdrawn", "input-changed", "companion-changed", "upstream-changed",
            "reference-changed", "config-changed",
        ]
    ] = []  # fmt: skip
    ignore_config: list[Annotated[Plain, Field(min_length=1)]] = []


class StepDefinition(Strict):
    name: Name
    software: Name
    depends_on: list[StepReference] = []
    version_policy: Literal["exact", "compatible", "latest"] = "compatible"
    version: Version | None = None
    references: list[ReferenceName] = []
    config: Config = {}
    environment: dict[Variable, Plain] = {}
    group_by: list[str | dict[str, str]]
    trigger: TriggerDefinition | None = None
    cooldown_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = 0
    settle_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = 0
    requires: Requires = "all"
    deadline_hours: Annotated[float, Field(gt=0, le=24 * 366)] | None = None
    complete: Literal["executed_obs_unit", "none"] | None = None
    on_upstream_failure: Literal["wait", "skip"] = "wait"
    companions: list[CompanionDefinition] = []
    staleness: StalenessDefinition = StalenessDefinition()
    resources: ResourcesDefinition = ResourcesDefinition()
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    retry: dict[Annotated[str, AfterValidator(_retry_class)], RetryDefinition] = {}
    partial_exit_codes: list[ExitCode] = []
    retention: RetentionDefinition | None = None
    collect: CollectDefinition | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    order: Literal["newest", "oldest"] = "newest"
    role: Literal["intermediate", "final"] | None = None
    raw_inputs: bool | None = None
    scratch: Literal["run", "node"] = "run"
    enabled: bool = True

    @model_validator(mode="after")
    def _whole(self) -> StepDefinition:
        found: list[Clash] = []
        if self.version_policy == "exact" and self.version is None:
            found.append(((("version_policy",), ("version",)), "version_policy exact needs version"))
        if self.raw_inputs is False and not self.depends_on:
            text = "raw_inputs false without depends_on leaves the step without any input"
            found.append(((("raw_inputs",), ("depends_on",)), text))
        names = [companion.name for companion in self.companions]
        found += [
            ((("companions", n, "name"),), f"two companions are called {name!r}")
            for n, name in enumerate(names)
            if name in names[:n]
        ]
        _refuse(found)
        return self

    def normalised(self, *, role: str, group_by: list[Any]) -> dict[str, Any]:
        """The step with every default filled in: what `reduction_step.definition` holds."""
        data: dict[str, Any] = self.model_dump(mode="json")
        by_unit = "executed_obs_unit" in group_by
        data["group_by"] = group_by
        data["role"] = role
        data["complete"] = self.complete or ("executed_obs_unit" if by_unit else "none")
        data["raw_inputs"] = self.raw_inputs if self.raw_inputs is not None else not self.depends_on
        data["retention"] = self.retention.model_dump(exclude_none=True) if self.retention else {}
        data["retry"] = {k: v.model_dump(exclude_none=True) for k, v in self.retry.items()}
        return data


class PipelineDefinition(Strict):
    name: Name
    data_grouping: Name
    processing_location: Annotated[Plain, Field(min_length=1)]
    description: str | None = None
    trigger: TriggerDefinition = TriggerDefinition(type="CONTINUOUS")
    priority: Annotated[int, Field(ge=-LARGEST_PRIORITY, le=LARGEST_PRIORITY)] = 0
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    enabled: bool = True
    steps: Annotated[list[StepDefinition], Field(min_length=1)]


class Definitions(Strict):
    """One file of definitions; every section may be absent."""

    software: list[SoftwareDefinition] = []
    references: list[ReferenceDefinition] = []
    presets: list[PresetDefinition] = []
    data_groupings: list[DataGroupingDefinition] = []
    pipelines: list[PipelineDefinition] = []


def find_cycles(upstream: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Cycles in a graph of names (name -> what it depends on), the first name of each repeated at its end.

    Without the last dependency of each the graph has no cycle.
    """
    cycles: list[list[str]] = []
    done: set[str] = set()
    for start in upstream:
        if start in done:
            continue
        path = {start: 0}  # name -> its place on the way
        stack = [iter(upstream[start])]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                done.add(path.popitem()[0])
            elif following in path:
                cycles.append([*list(path)[path[following] :], following])
            elif following not in done:
                path[following] = len(path)
                stack.append(iter(upstream.get(following, ())))
    return cycles
