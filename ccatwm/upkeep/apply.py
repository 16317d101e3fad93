"""Applies definitions: checks them whole, shows the difference, writes it in one transaction.

Touches: the files read (also images and references, for their checksums), the ops-db.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from ccatwm.core.definitions import (
    DataGroupingDefinition,
    Definitions,
    PipelineDefinition,
    StepDefinition,
    find_cycle,
)
from ccatwm.core.gap import config_changes
from ccatwm.core.model import PackageState, Resources
from ccatwm.core.policy import version_key
from ccatwm.core.recipe import digest_of
from ccatwm.core.subgroups import group_by_digest, group_by_json, parse_group_by
from ccatwm.core.wording import count_text, size_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import definitions as store
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.definitions import Known
from ccatwm.edges.opsdb.stores.sub_groups import mark_step_due
from ccatwm.errors import ConflictError, DefinitionsError, Problem, UsageError
from ccatwm.upkeep._yaml import Document, Location, read_yaml

MAX_SHOWN = 40
PACKAGES_PER_PAGE = 5000


@dataclass
class Defined:
    """What one or many files define, by name, with where each thing stands."""

    documents: list[Document] = field(default_factory=list)
    software: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    presets: dict[str, Any] = field(default_factory=dict)
    groupings: dict[str, DataGroupingDefinition] = field(default_factory=dict)
    pipelines: dict[str, PipelineDefinition] = field(default_factory=dict)
    places: dict[tuple[str, ...], tuple[Document, Location]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # names of what is wrong itself: it is not unknown
    problems: list[Problem] = field(default_factory=list)

    def where(self, *key: str, inside: Location = ()) -> str:
        document, location = self.places[key]
        return document.where((*location, *inside))


@dataclass
class ApplyReport:
    """What was, or would be, changed. `changes` are lines such as `+ pipeline x`."""

    dry_run: bool
    changes: list[str] = field(default_factory=list)
    unchanged: int = 0
    sub_groups: int = 0  # looked at: those that fall due, and all that have archived packages now
    bytes: int = 0  # of archived packages that were not grouped before
    core_hours: float = 0.0  # what runs of all of them ask for, at most
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.apply/1",
            "dry_run": self.dry_run,
            "changes": self.changes,
            "unchanged": self.unchanged,
            "sub_groups": self.sub_groups,
            "bytes": self.bytes,
            "core_hours": round(self.core_hours, 2),
            "warnings": self.warnings,
        }

    def what_follows(self, are: str) -> str:
        """The sub-groups that `are`, or `would be`, looked at, and what comes of it."""
        if not self.sub_groups:
            return f"no sub-group {'is' if are == 'are' else are} looked at"
        new = f" ({size_text(self.bytes)} of packages not grouped before)" if self.bytes else ""
        are = "is" if (are, self.sub_groups) == ("are", 1) else are
        return (
            f"{count_text(self.sub_groups, 'sub-group')} {are} looked at{new}: at most as many runs, "
            f"{count_text(self.core_hours, 'core hour')}"
        )

    def lines(self) -> list[str]:
        """For people."""
        shown = [*self.changes, *(f"warning: {text}" for text in self.warnings)]
        if not self.changes:
            return [*shown, f"nothing to change ({self.unchanged} definitions are as they should be)"]
        shown.append(
            f"{len(self.changes)} changed, {self.unchanged} unchanged; "
            + self.what_follows("would be" if self.dry_run else "are")
        )
        return shown


def apply_definitions(
    database: Database,
    grouping: GroupingEngine,
    paths: Sequence[Path],
    *,
    now: datetime,
    actor: str,
    host: str,
    dry_run: bool = False,
    prune: bool = False,
    yes: bool = False,
    confirm_runs: int = 500,
) -> ApplyReport:
    """Apply files of definitions. Errors: DefinitionsError with every mistake; UsageError above `confirm_runs`."""
    if not paths:
        raise UsageError("no file to apply", next="ccatwm apply pipelines.yaml")
    defined = load_definitions(paths)
    with database.read() as connection:
        known = store.read_known(connection)
        types = _location_types(connection, defined, grouping)
    problems = [
        *defined.problems,
        *check_definitions(defined, known, grouping),
        *_check_locations(defined, types),
    ]
    files, more, warnings = _file_checksums(defined, known)
    if problems or more:
        raise _mistakes([*problems, *more])
    report = ApplyReport(dry_run, warnings=warnings + _location_warnings(defined, types))
    with _transaction(database, dry_run) as connection:
        if store.lock_and_read_known(connection) != known:
            raise ConflictError("somebody else applied definitions at this moment", next="apply again")
        due, groupings = _put_all(connection, defined, files, now, actor, report)
        if prune:
            keep = {(p.name, s.name) for p in defined.pipelines.values() for s in p.steps}
            report.changes += [f"- {what}: disabled" for what in store.disable_others(connection, keep, now)]
        _count(connection, grouping, store.list_concerned(connection, due, groupings), now, report)
        if report.sub_groups > confirm_runs and not (yes or dry_run):
            raise UsageError(
                f"{report.what_follows('would be')}, more than CONFIRM_RUNS ({confirm_runs})",
                next="look at it with --dry-run, then say --yes",
            )
        for step_id in dict.fromkeys(due):  # last: others wait for these rows
            mark_step_due(connection, step_id, now)
        if report.changes:
            _record(connection, defined, now, actor, host, report)
    return report


def _count(
    connection: sa.Connection,
    grouping: GroupingEngine,
    scopes: Sequence[store.Concerned],
    now: datetime,
    report: ApplyReport,
) -> None:
    """What the next passes will look at: nothing of it is written.

    The rules are asked, not the members known so far: packages may have come that no pass has grouped yet.
    """
    for scope in scopes:
        keys, size = _sub_groups_of(connection, grouping, scope, now)
        report.bytes += size
        for resources, known in scope.steps:
            count = len(keys | known)
            report.sub_groups += count
            report.core_hours += count * _core_hours(resources)


def _sub_groups_of(
    connection: sa.Connection, grouping: GroupingEngine, scope: store.Concerned, now: datetime
) -> tuple[set[str], int]:
    """Keys of the sub-groups that have archived packages, and the bytes of those packages that are no members yet."""
    keys: set[str] = set()
    size, last = 0, None
    while True:
        page = grouping.members(
            connection, scope.filter_rules, scope.group_by, now=now, after_id=last, limit=PACKAGES_PER_PAGE
        )
        archived = [p for p in page if p.state == PackageState.ARCHIVED]
        members = store.grouped_packages(connection, scope.scope_id, [p.package_id for p in archived])
        keys |= {p.key for p in archived}
        size += sum(p.size_bytes or 0 for p in archived if p.package_id not in members)
        if len(page) < PACKAGES_PER_PAGE:
            return keys, size
        last = page[-1].package_id


def _core_hours(resources: Mapping[str, Any]) -> float:
    asked = Resources.from_json(resources)
    return asked.cpu * asked.tasks * asked.time_hours


def _transaction(database: Database, dry_run: bool) -> AbstractContextManager[sa.Connection]:
    """A dry run does everything and is rolled back."""
    return database.read() if dry_run else database.write()


def _record(
    connection: sa.Connection, defined: Defined, now: datetime, actor: str, host: str, report: ApplyReport
) -> None:
    text = "\n---\n".join(document.text for document in defined.documents)
    record_change(
        connection, at=now, actor=actor, host=host, act="apply",
        target=", ".join(document.file for document in defined.documents), text=text,
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", details={"changes": report.changes},
    )  # fmt: skip


def _mistakes(problems: Sequence[Problem]) -> DefinitionsError:
    noun = "mistake" if len(problems) == 1 else "mistakes"
    shown = list(problems[:MAX_SHOWN])
    if len(problems) > MAX_SHOWN:
        shown.append(Problem("", f"and {len(problems) - MAX_SHOWN} more"))
    return DefinitionsError(f"{len(problems)} {noun}; nothing was applied", problems=shown)


# --- loading ------------------------------------------------------------------------------------------------------


def load_definitions(paths: Sequence[Path]) -> Defined:
    """Read and validate files. What is wrong with one thing does not hide what is wrong with another: the good ones
    are kept, so that they can be checked with each other."""
    defined = Defined()
    problems = defined.problems
    for path in paths:
        document, wrong = read_yaml(Path(path))
        problems += wrong
        if document is None:
            continue
        defined.documents.append(document)
        if document.data is None:
            continue
        try:
            part = Definitions.model_validate(document.data, strict=False)
        except ValidationError as error:
            problems += [_problem(document, e) for e in error.errors()]
            problems += _salvage(defined, document)
        else:
            problems += _merge(defined, document, part)
    return defined


def _salvage(defined: Defined, document: Document) -> list[Problem]:
    """Keep the definitions of a file that are right, each by itself; remember the names of those that are not."""
    problems: list[Problem] = []
    for section in Definitions.model_fields:
        items = document.data.get(section) if isinstance(document.data, dict) else None
        for n, item in enumerate(items if isinstance(items, list) else []):
            name = item.get("name") if isinstance(item, dict) else None
            part = _validate_known_keys({section: [item]})
            if part is None:
                defined.broken.add(str(name))
                continue
            problems += _merge(defined, document, part, first=n)
    return problems


def _validate_known_keys(data: dict[str, Any]) -> Definitions | None:
    """Definitions without the keys that nobody knows, so that these hide no other mistake; None if more is wrong."""
    try:
        return Definitions.model_validate(data)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
    data = copy.deepcopy(data)
    for location in unknown:
        inside: Any = data
        for part in location[:-1]:
            inside = inside[part]
        del inside[location[-1]]
    try:
        return Definitions.model_validate(data)
    except ValidationError:
        return None


def _problem(document: Document, error: Any) -> Problem:
    """One error of pydantic in the words of this project."""
    location = tuple(
        part
        for part in error["loc"]
        if not (isinstance(part, str) and part.startswith(("function-", "literal", "constrained")))
    )
    name = ".".join(str(part) for part in location) or "the file"
    where = document.where(location)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(where, f"unknown key {location[-1]!r}", _allowed_keys(location))
    if kind == "missing":
        return Problem(where, f"{name} is missing")
    if kind == "string_pattern_mismatch":
        hint = "use a-z 0-9 . _ -, beginning with a letter or digit, at most 63"
        return Problem(where, f"{name} is {error['input']!r}", hint)
    if kind == "literal_error":
        return Problem(where, f"{name} is {error['input']!r}", f"allowed: {context.get('expected')}")
    if kind == "value_error":
        return Problem(where, f"{name}: {context.get('error')}")
    return Problem(where, f"{name} is {_short(error['input'])}", str(error["msg"]))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MODELS: Mapping[str, Any] = {
    "software": "SoftwareDefinition", "references": "ReferenceDefinition", "presets": "PresetDefinition",
    "data_groupings": "DataGroupingDefinition", "pipelines": "PipelineDefinition", "steps": "StepDefinition",
    "trigger": "TriggerDefinition", "resources": "ResourcesDefinition", "companions": "CompanionDefinition",
    "nearest": "NearestDefinition", "retention": "RetentionDefinition", "retry": "RetryDefinition",
}  # fmt: skip


def _allowed_keys(location: Location) -> str:
    from ccatwm.core import definitions

    parents = [part for part in location[:-1] if isinstance(part, str)]
    model: Any = Definitions
    if parents:
        last = parents[-1]
        if last == "versions":
            last_model = (
                "SoftwareVersionDefinition" if parents[0] == "software" else "ReferenceVersionDefinition"
            )
            model = getattr(definitions, last_model)
        else:
            model = getattr(
                definitions, next((_MODELS[p] for p in reversed(parents) if p in _MODELS), "Definitions")
            )
    keys = list(model.model_fields)
    close = get_close_matches(str(location[-1]), keys, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(keys)}"


def _merge(defined: Defined, document: Document, part: Definitions, first: int = 0) -> list[Problem]:
    """Add what one file defines; a name may be defined once. `first`: the index of the first thing of a section."""
    problems = []
    sections: tuple[tuple[str, Sequence[Any], dict[str, Any]], ...] = (
        ("software", part.software, defined.software),
        ("references", part.references, defined.references),
        ("presets", part.presets, defined.presets),
        ("data_groupings", part.data_groupings, defined.groupings),
        ("pipelines", part.pipelines, defined.pipelines),
    )
    for section, items, target in sections:
        for n, item in enumerate(items, first):
            where = document.where((section, n, "name"))
            if item.name in target:
                problems.append(
                    Problem(
                        where, f"{section}: {item.name} is defined twice", defined.where(section, item.name)
                    )
                )
                continue
            target[item.name] = item
            defined.places[(section, item.name)] = (document, (section, n))
    return problems


# --- checking ---------------------------------------------------------------------------------------------------------


def check_definitions(defined: Defined, known: Known, grouping: GroupingEngine) -> list[Problem]:
    """What is wrong between definitions, and with the ops-db."""
    problems = _check_versions(defined, known)
    for data_grouping in defined.groupings.values():
        problems += _check_grouping(defined, data_grouping, grouping)
    for pipeline in defined.pipelines.values():
        problems += _check_pipeline(defined, known, pipeline, grouping)
    return problems or _check_cycles(defined, known)


def _check_versions(defined: Defined, known: Known) -> list[Problem]:
    """A version is what it was when it was first applied."""
    problems = []
    for software in defined.software.values():
        problems += _check_alike(defined, known.software, "software", software)
        for n, version in enumerate(software.versions):
            where = defined.where("software", software.name, inside=("versions", n))
            old = known.software.get(software.name, {}).get(version.version)
            new = {"image": version.image, "command": version.command, "contract": version.contract}
            different = [k for k, v in new.items() if old is not None and old[k] != v]
            if different:
                what = f"{software.name} {version.version} was applied with another {' and '.join(different)}"
                problems.append(Problem(where, what, "add a new version instead"))
    for reference in defined.references.values():
        problems += _check_alike(defined, known.references, "references", reference)
    return problems


def _check_alike(defined: Defined, known: Mapping[str, Any], section: str, item: Any) -> list[Problem]:
    """Of two versions one must be the newer: `1.0` and `v1.0` are no two versions."""
    problems = []
    seen = {version_key(version): version for version in known.get(item.name, {})}
    mine: set[str] = set()
    for n, version in enumerate(item.versions):
        where = defined.where(section, item.name, inside=("versions", n))
        other = seen.setdefault(version_key(version.version), version.version)
        if version.version in mine:
            problems.append(Problem(where, f"{item.name} {version.version} is there twice"))
        elif other != version.version:
            what = f"versions {other} and {version.version} of {item.name} compare as equal"
            problems.append(Problem(where, what, "name one of them so that it is newer or older"))
        mine.add(version.version)
    return problems


def _rules(defined: Defined, item: DataGroupingDefinition) -> list[Any]:
    preset = defined.presets.get(item.preset) if item.preset else None
    return [*(preset.filter_rules if preset else []), *item.filter_rules]


def _check_grouping(defined: Defined, item: DataGroupingDefinition, engine: GroupingEngine) -> list[Problem]:
    where = defined.where("data_groupings", item.name, inside=("filter_rules",))
    if item.preset and item.preset in defined.broken:
        return []
    if item.preset and item.preset not in defined.presets:
        place = defined.where("data_groupings", item.name, inside=("preset",))
        return [Problem(place, f"unknown preset {item.preset!r}", _choices(item.preset, defined.presets))]
    problems = []
    for n, rule in enumerate(item.filter_rules):
        place = defined.where("data_groupings", item.name, inside=("filter_rules", n))
        problems += [Problem(place, _without_place(p), p.next) for p in engine.check([rule], [])]
    if not problems:
        problems = engine.check(_rules(defined, item), [], where)
    return problems


def _without_place(problem: Problem) -> str:
    inside = problem.where.removeprefix("filter_rules[0]").lstrip(".")
    return f"{inside}: {problem.what}" if inside and inside != "group_by" else problem.what


def _check_pipeline(
    defined: Defined, known: Known, pipeline: PipelineDefinition, engine: GroupingEngine
) -> list[Problem]:
    problems = []
    names = [step.name for step in pipeline.steps]
    if pipeline.data_grouping not in {*defined.groupings, *known.groupings, *defined.broken}:
        where = defined.where("pipelines", pipeline.name, inside=("data_grouping",))
        hint = _choices(pipeline.data_grouping, [*defined.groupings, *known.groupings])
        problems.append(Problem(where, f"unknown data grouping {pipeline.data_grouping!r}", hint))
    for n, step in enumerate(pipeline.steps):
        inside: Location = ("steps", n)
        if names.index(step.name) != n:
            where = defined.where("pipelines", pipeline.name, inside=(*inside, "name"))
            problems.append(
                Problem(where, f"two steps are called {step.name!r}", "give each a name of its own")
            )
        problems += _check_step(defined, known, pipeline, step, inside, engine)
    return problems


def _check_step(
    defined: Defined,
    known: Known,
    pipeline: PipelineDefinition,
    step: StepDefinition,
    inside: Location,
    engine: GroupingEngine,
) -> list[Problem]:
    def at(*more: str | int) -> str:
        return defined.where("pipelines", pipeline.name, inside=(*inside, *more))

    problems = _check_software(defined, known, step, at("software"), at("version"))
    problems += engine.check([], step.group_by, at("group_by"))
    for reference in step.references:
        name, _, pinned = reference.partition("@")
        versions = _versions(defined.references.get(name)) | set(known.references.get(name, {}))
        if not versions and name not in defined.broken:
            hint = _choices(name, [*defined.references, *known.references])
            problems.append(Problem(at("references"), f"unknown reference {name!r}", hint))
        elif versions and pinned and pinned not in versions:
            problems.append(
                Problem(
                    at("references"),
                    f"{name} has no version {pinned!r}",
                    f"there are: {', '.join(sorted(versions))}",
                )
            )
    for upstream in step.depends_on:
        problems += _check_upstream(defined, known, pipeline, upstream, at("depends_on"))
    for n, companion in enumerate(step.companions):
        problems += [
            Problem(at("companions", n), _without_place(p), p.next)
            for p in engine.check(companion.rules, companion.same)
        ]
    return problems


def _versions(item: Any) -> set[str]:
    return {version.version for version in item.versions} if item is not None else set()


def _check_software(
    defined: Defined, known: Known, step: StepDefinition, at: str, at_version: str
) -> list[Problem]:
    versions = _versions(defined.software.get(step.software)) | set(known.software.get(step.software, {}))
    if step.software in defined.broken:
        return []
    if not versions:
        hint = _choices(step.software, [*defined.software, *known.software])
        return [Problem(at, f"unknown software {step.software!r}", hint)]
    if step.version_policy == "exact" and step.version not in versions:
        what = f"{step.software} has no version {step.version!r}"
        return [Problem(at_version, what, f"there are: {', '.join(sorted(versions))}")]
    return []


def _check_upstream(
    defined: Defined, known: Known, pipeline: PipelineDefinition, upstream: str, at: str
) -> list[Problem]:
    other, _, name = upstream.rpartition("/")
    other = other or pipeline.name
    if other in defined.broken:
        return []
    steps = _step_names(defined, known, other)
    if steps is None:
        return [
            Problem(
                at, f"unknown pipeline {other!r}", _choices(other, [*defined.pipelines, *known.pipelines])
            )
        ]
    if name not in steps:
        return [Problem(at, f"pipeline {other} has no step {name!r}", _choices(name, steps))]
    place = (
        defined.pipelines[other].processing_location if other in defined.pipelines else known.pipelines[other]
    )
    if place != pipeline.processing_location:
        return [Problem(at, f"{upstream} runs at {place}, this pipeline at {pipeline.processing_location}",
                        "steps depend on steps of the same location")]  # fmt: skip
    return []


def _step_names(defined: Defined, known: Known, pipeline: str) -> list[str] | None:
    """Steps of a pipeline: those of the files, and those that stay because no file names them."""
    if pipeline not in defined.pipelines:
        return list(known.steps.get(pipeline, {})) if pipeline in known.pipelines else None
    return [*known.steps.get(pipeline, {}), *(step.name for step in defined.pipelines[pipeline].steps)]


def _check_cycles(defined: Defined, known: Known) -> list[Problem]:
    graph: dict[str, list[str]] = {}
    depends = {p: dict(steps) for p, steps in known.steps.items()}
    for new in defined.pipelines.values():
        depends[new.name] = depends.get(new.name, {}) | {s.name: list(s.depends_on) for s in new.steps}
    for pipeline, steps in depends.items():
        for step, upstream in steps.items():
            graph[f"{pipeline}/{step}"] = [u if "/" in u else f"{pipeline}/{u}" for u in upstream]
    cycle = find_cycle(graph)
    if cycle is None:
        return []
    pipeline = next((n.partition("/")[0] for n in cycle if n.partition("/")[0] in defined.pipelines), "")
    where = defined.where("pipelines", pipeline, inside=("steps",)) if pipeline else ""
    return [Problem(where, f"steps depend on each other: {' > '.join(cycle)}", "take one dependency out")]


def _choices(wrong: str, known: Any) -> str:
    names = sorted(set(known))
    close = get_close_matches(wrong, names, n=2)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(names[:20])}" if names else "there are none yet"


def _location_types(
    connection: sa.Connection, defined: Defined, engine: GroupingEngine
) -> dict[str, str | None]:
    """Type of each processing location that is named, None where the ops-db knows none of that name."""
    found = {}
    for name in {pipeline.processing_location for pipeline in defined.pipelines.values()}:
        try:
            location = engine.location(connection, name)
        except KeyError:  # the observation tables of this site tell nothing of data locations
            continue
        found[name] = location.location_type if location is not None else None
    return found


def _check_locations(defined: Defined, types: Mapping[str, str | None]) -> list[Problem]:
    return [
        Problem(
            defined.where("pipelines", p.name, inside=("processing_location",)),
            f"{p.processing_location} is a data location of type {types[p.processing_location]}",
            "name one of type processing",
        )
        for p in defined.pipelines.values()
        if types.get(p.processing_location) not in (None, "processing")
    ]


def _location_warnings(defined: Defined, types: Mapping[str, str | None]) -> list[str]:
    return [
        f"pipeline {p.name}: the ops-db knows no data location {p.processing_location!r} yet"
        for p in defined.pipelines.values()
        if types.get(p.processing_location, "") is None
    ]


# --- files ---------------------------------------------------------------------------------------------------------------


def _file_checksums(defined: Defined, known: Known) -> tuple[dict[str, str | None], list[Problem], list[str]]:
    """Checksums of images and references by path, before any transaction; what is wrong, what is only missing."""
    checksums: dict[str, str | None] = {}
    problems, warnings = [], []
    for software in defined.software.values():
        for n, version in enumerate(software.versions):
            if version.image is None or "://" in version.image:
                continue
            old = known.software.get(software.name, {}).get(version.version, {}).get("image_digest")
            if version.image not in checksums:  # several programs may share one image
                checksums[version.image] = checksum_of(Path(version.image))
            found = checksums[version.image]
            if found is None and old is None:
                warnings.append(
                    f"{software.name} {version.version}: image {version.image} is not there; apply again when it is"
                )
            if old is not None and found not in (None, old):
                where = defined.where("software", software.name, inside=("versions", n))
                what = f"image {version.image} is another file than {software.name} {version.version} was applied with"
                problems.append(Problem(where, what, "add a new version for it"))
    for reference in defined.references.values():
        for n, version in enumerate(reference.versions):
            old = known.references.get(reference.name, {}).get(version.version, {})
            where = defined.where("references", reference.name, inside=("versions", n))
            if version.path not in checksums:
                checksums[version.path] = checksum_of(Path(version.path))
            found = checksums[version.path]
            if found is None:
                warnings.append(f"reference {reference.name} {version.version}: {version.path} is not there")
                found = checksums[version.path] = version.checksum
            elif version.checksum not in (None, found):
                what = f"{version.path} has the checksum {found}, not {version.checksum}"
                problems.append(Problem(where, what, "correct the checksum or the file"))
                continue
            changed = old and (
                old["path"] != version.path or (old["checksum"] and found not in (None, old["checksum"]))
            )
            if changed:
                what = f"reference {reference.name} {version.version} was applied with another file"
                problems.append(Problem(where, what, "add a new version for it"))
    return checksums, problems, warnings


def checksum_of(path: Path) -> str | None:
    """`sha256:hex` of a file, of a folder its tree digest; None if there is none."""
    from ccatwm.core.digests import tree_digest

    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return f"sha256:{tree_digest((bytes(p.relative_to(path)), p.stat().st_size, _sha256(p)) for p in files)}"
        return f"sha256:{_sha256(path)}" if path.is_file() else None
    except OSError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- writing --------------------------------------------------------------------------------------------------------------


def _put_all(
    connection: sa.Connection,
    defined: Defined,
    files: Mapping[str, str | None],
    now: datetime,
    actor: str,
    report: ApplyReport,
) -> tuple[list[int], list[str]]:
    """Write everything. Ids of the steps whose sub-groups are to be looked at, names of the groupings that changed."""
    due = _put_software(connection, defined, files, now, report)
    due += _put_references(connection, defined, files, now, report)
    groupings = [
        g.name for g in defined.groupings.values() if _put_grouping(connection, defined, g, now, report)
    ]
    for pipeline in defined.pipelines.values():
        due += _put_pipeline(connection, pipeline, now, actor, report)
    ids = store.step_ids(connection)
    for pipeline in defined.pipelines.values():
        for step in pipeline.steps:
            upstream = [ids[_full_name(pipeline.name, u)] for u in step.depends_on]
            step_id = ids[(pipeline.name, step.name)]
            if store.put_dependencies(connection, step_id, upstream):
                due.append(step_id)
    return due, groupings


def _full_name(pipeline: str, upstream: str) -> tuple[str, str]:
    other, _, name = upstream.rpartition("/")
    return other or pipeline, name


def _note(report: ApplyReport, changed: bool, line: str) -> bool:
    if changed:
        report.changes.append(line)
    else:
        report.unchanged += 1
    return changed


def _put_software(
    connection: sa.Connection,
    defined: Defined,
    files: Mapping[str, str | None],
    now: datetime,
    report: ApplyReport,
) -> list[int]:
    due: list[int] = []
    for software in defined.software.values():
        for version in software.versions:
            digest = files.get(version.image) if version.image is not None else None
            changed = store.put_software_version(
                connection, software.name, now, version=version.version, image=version.image, image_digest=digest,
                command=version.command, contract=version.contract,
            )  # fmt: skip
            if _note(report, changed, f"+ software {software.name} {version.version}"):
                due += store.steps_using(connection, software=software.name)
    return due


def _put_references(
    connection: sa.Connection,
    defined: Defined,
    files: Mapping[str, str | None],
    now: datetime,
    report: ApplyReport,
) -> list[int]:
    due: list[int] = []
    for reference in defined.references.values():
        for version in reference.versions:
            changed = store.put_reference_version(
                connection,
                reference.name,
                now,
                version=version.version,
                path=version.path,
                checksum=files.get(version.path),
            )
            if _note(report, changed, f"+ reference {reference.name} {version.version}"):
                due += store.steps_using(connection, reference=reference.name)
    return due


def _put_grouping(
    connection: sa.Connection,
    defined: Defined,
    item: DataGroupingDefinition,
    now: datetime,
    report: ApplyReport,
) -> bool:
    """Whether it selects others than before."""
    rules = _rules(defined, item)
    old, changed = store.put_grouping(
        connection, item.name, now, description=item.description, filter_rules=rules, digest=digest_of(rules)
    )
    _note(report, changed, f"{'+' if old is None else '~'} data grouping {item.name}")
    return changed and (old is None or old["digest"] != digest_of(rules))


def _put_pipeline(
    connection: sa.Connection, pipeline: PipelineDefinition, now: datetime, actor: str, report: ApplyReport
) -> list[int]:
    values = {
        "processing_location": pipeline.processing_location,
        "trigger_type": pipeline.trigger.type,
        "trigger_config": pipeline.trigger.config(),
        "priority": pipeline.priority,
        "enabled": pipeline.enabled,
        "definition": pipeline.model_dump(mode="json", exclude={"steps"}),
    }
    pipeline_id, old, changed = store.put_pipeline(
        connection, pipeline.name, now, grouping=pipeline.data_grouping, actor=actor, **values
    )
    _note(report, changed, _difference(f"pipeline {pipeline.name}", old, values))
    due = []
    for position, step in enumerate(pipeline.steps):
        step_id, step_changed = _put_step(connection, pipeline, pipeline_id, step, position, now, report)
        if step_changed or changed:
            due.append(step_id)
    return due


def _put_step(
    connection: sa.Connection,
    pipeline: PipelineDefinition,
    pipeline_id: int,
    step: StepDefinition,
    position: int,
    now: datetime,
    report: ApplyReport,
) -> tuple[int, bool]:
    dims, _ = parse_group_by(step.group_by)
    group_by = group_by_json(dims)
    role = (
        store.known_role(connection, pipeline.name, step.name) or step.role or _role_by_graph(pipeline, step)
    )
    definition = step.normalised(role=role, group_by=group_by)
    values = {
        "position": position,
        "role": role,
        "trigger_type": step.trigger.type if step.trigger else None,
        "trigger_config": step.trigger.config() if step.trigger else None,
        "enabled": step.enabled,
        "definition": definition,
    }
    step_id, old, changed = store.put_step(
        connection, pipeline_id, step.name, now, grouping=pipeline.data_grouping, group_by=group_by,
        group_by_digest=group_by_digest(dims), software=step.software, config=step.config,
        config_digest=digest_of(step.config), **values,
    )  # fmt: skip
    _note(report, changed, _difference(f"step {pipeline.name}/{step.name}", old, values))
    return step_id, changed


def _role_by_graph(pipeline: PipelineDefinition, step: StepDefinition) -> str:
    """Who feeds another step of its pipeline is intermediate."""
    feeds = {
        u.rpartition("/")[2]
        for s in pipeline.steps
        for u in s.depends_on
        if u.rpartition("/")[0] in ("", pipeline.name)
    }
    return "intermediate" if step.name in feeds else "final"


def _difference(what: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """`+ step a/b`, or `~ step a/b: config.order 1 -> 2`."""
    if old is None:
        return f"+ {what}"
    before, after = dict(old.get("definition") or {}), dict(new.get("definition") or {})
    changes = config_changes(before, after)
    if old["enabled"] != new["enabled"]:  # `--prune` disables without another definition
        changes = {**changes, "enabled": [old["enabled"], new["enabled"]]}
    shown = [f"{key} {_short(a)} -> {_short(b)}" for key, (a, b) in changes.items()]
    return f"~ {what}: {'; '.join(shown[:8])}" if shown else f"~ {what}"
