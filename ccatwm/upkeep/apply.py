"""Applies definitions: checks them whole, shows the difference, writes it in one transaction.

Touches: the files read, images and references where jobs see them (for their checksums), the ops-db.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.core.definitions import (
    CompanionDefinition,
    DataGroupingDefinition,
    PipelineDefinition,
    PresetDefinition,
    ReferenceDefinition,
    ReferenceVersionDefinition,
    SoftwareDefinition,
    SoftwareVersionDefinition,
    StepDefinition,
)
from ccatwm.core.gap import config_changes
from ccatwm.core.recipe import digest_of
from ccatwm.core.subgroups import group_by_digest, group_by_json, parse_group_by
from ccatwm.core.wording import short_text
from ccatwm.edges.hostfiles.local import BareHostFiles
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import definitions as store
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.definitions import Known
from ccatwm.edges.opsdb.stores.sub_groups import mark_step_due
from ccatwm.errors import ConflictError, DefinitionsError, Problem, UsageError
from ccatwm.upkeep._checks import find_mistakes, unmet_bounds
from ccatwm.upkeep._definitions import (
    Defined,
    Mistake,
    Placed,
    by_name,
    list_problems,
    read_definitions,
)
from ccatwm.upkeep._estimate import Estimate, estimate_runs

MAX_SHOWN = 40


NEXT = "`ccatwm trigger` finds what is due by it; `ccatwm cycle --dry-run` says what would be made"


@dataclass
class ApplyReport:
    """What was, or would be, changed. `changes` are lines such as `+ pipeline x`."""

    dry_run: bool
    changes: list[str] = field(default_factory=list)
    unchanged: int = 0
    follows: Estimate = field(default_factory=Estimate)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.apply/1",
            "dry_run": self.dry_run,
            "changes": self.changes,
            "unchanged": self.unchanged,
            **self.follows.to_json(),
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """For people."""
        shown = [*self.changes, *(f"warning: {text}" for text in self.warnings)]
        if not self.changes:
            return [*shown, f"nothing to change ({self.unchanged} definitions are as they should be)"]
        shown.append(
            f"{len(self.changes)} changed, {self.unchanged} unchanged; "
            + self.follows.text("would be" if self.dry_run else "are")
        )
        return shown if self.dry_run else [*shown, NEXT]


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
    checksum_of: Callable[[str], str | None] | None = None,
    reason: str | None = None,
) -> ApplyReport:
    """Apply files of definitions. `checksum_of` reads an image or reference where jobs see it, else on this host.

    Errors: DefinitionsError with every mistake; UsageError above `confirm_runs`; WorldError of `checksum_of`.
    """
    if not paths:
        raise UsageError("no file to apply", next="ccatwm apply pipelines.yaml")
    defined = read_definitions(paths)
    with database.read() as connection:
        known = store.read_known(connection)
        locations = _location_types(connection, grouping)
    files, changed, warnings = _file_checksums(defined, known, checksum_of or BareHostFiles().digest)
    problems = list_problems(defined, [*find_mistakes(defined, known, grouping, locations), *changed])
    if problems:
        raise _mistakes(problems)
    warnings += unmet_bounds(defined, known) + _location_warnings(defined, locations) + _idle_warnings(defined)
    report = ApplyReport(dry_run, warnings=warnings)
    with _transaction(database, dry_run) as connection:
        if store.lock_and_read_known(connection) != known:
            raise ConflictError("somebody else applied definitions at this moment", next="apply again")
        due, groupings = _put_all(connection, defined, files, now, actor, report)
        if prune:
            keep = {(p.item.name, s.name) for p in defined.pipelines for s in p.item.steps}
            report.changes += [f"- {what}: disabled" for what in store.disable_others(connection, keep, now)]
        concerned = store.list_concerned(connection, due, groupings)
        report.follows = estimate_runs(connection, grouping, concerned, now)
        if not dry_run:
            report.follows.confirm(confirm_runs, yes=yes, next="look at it with --dry-run, then say --yes")
        for step_id in dict.fromkeys(due):  # last: others wait for these rows
            mark_step_due(connection, step_id, now)
        if report.changes:
            _record(connection, defined, now, actor, host, reason, report)
    return report


def _transaction(database: Database, dry_run: bool) -> AbstractContextManager[sa.Connection]:
    """A dry run does everything and is rolled back."""
    return database.read() if dry_run else database.write()


def _record(
    connection: sa.Connection,
    defined: Defined,
    now: datetime,
    actor: str,
    host: str,
    reason: str | None,
    report: ApplyReport,
) -> None:
    text = "\n---\n".join(document.text for document in defined.documents)
    record_change(
        connection, at=now, actor=actor, host=host, act="apply",
        target=", ".join(document.file for document in defined.documents), reason=reason, text=text,
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", details={"changes": report.changes},
    )  # fmt: skip


def _mistakes(problems: Sequence[Problem]) -> DefinitionsError:
    noun = "mistake" if len(problems) == 1 else "mistakes"
    shown = list(problems[:MAX_SHOWN])
    if len(problems) > MAX_SHOWN:
        shown.append(Problem("", f"and {len(problems) - MAX_SHOWN} more"))
    return DefinitionsError(f"{len(problems)} {noun}; nothing was applied", problems=shown)


def _location_types(connection: sa.Connection, engine: GroupingEngine) -> dict[str, str | None]:
    """Type of each data location, by its name and by its id."""
    try:
        found = engine.locations(connection)
    except KeyError:  # the observation tables of this site tell nothing of data locations
        return {}
    return {key: place.location_type for place in found for key in (place.id, place.name)}


IDLE = ("scratch",)  # keys of a step that nothing acts on in this release


def _idle_warnings(defined: Defined) -> list[str]:
    found = []
    for pipeline in defined.pipelines:
        for step in pipeline.item.steps:
            said = step.model_dump(include=set(IDLE), exclude_defaults=True)
            if said:
                where = f"{pipeline.item.name}/{step.name}"
                found.append(f"{where}: {', '.join(said)}: kept, but nothing acts on it in this release")
    return found


def _location_warnings(defined: Defined, locations: Mapping[str, str | None]) -> list[str]:
    return [
        f"pipeline {p.item.name}: the ops-db knows no data location {p.item.processing_location!r} yet"
        for p in defined.pipelines
        if p.item.processing_location not in locations
    ]


# --- files ---------------------------------------------------------------------------------------------------------------


def _file_checksums(
    defined: Defined, known: Known, checksum_of: Callable[[str], str | None]
) -> tuple[dict[str, str | None], list[Mistake], list[str]]:
    """Checksums of images and references by path, before any transaction; what is wrong, what is only missing."""
    files = _Files(known, checksum_of)
    for software in defined.software:
        for n, version in enumerate(software.item.versions):
            files.image(software, n, version)
    for reference in defined.references:
        for n, path in enumerate(reference.item.versions):
            files.reference(reference, n, path)
    return files.checksums, files.mistakes, files.warnings


class _Files:
    """Each file is read once: several programs may share one image."""

    def __init__(self, known: Known, checksum_of: Callable[[str], str | None]) -> None:
        self.known = known
        self._checksum_of = checksum_of
        self.checksums: dict[str, str | None] = {}
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []

    def _checksum(self, path: str) -> str | None:
        if path not in self.checksums:
            self.checksums[path] = self._checksum_of(path)
        return self.checksums[path]

    def image(self, placed: Placed[SoftwareDefinition], n: int, version: SoftwareVersionDefinition) -> None:
        what = f"{placed.item.name} {version.version}"
        if version.image is None:
            return
        if "://" in version.image:
            why = f"image {version.image} is a URI, and nothing fetches those in this release: nothing runs with it"
            self.warnings.append(f"{what}: {why}; add a version whose image is a file")
            return
        old = self.known.software.get(placed.item.name, {}).get(version.version, {}).get("image_digest")
        found = self._checksum(version.image)
        if found is None and old is None:
            self.warnings.append(f"{what}: image {version.image} is not there; apply again when it is")
        if old is not None and found not in (None, old):
            text = f"image {version.image} is another file than {what} was applied with"
            self.mistakes.append(placed.mistake(("versions", n, "image"), text, "add a new version for it"))

    def reference(
        self, placed: Placed[ReferenceDefinition], n: int, version: ReferenceVersionDefinition
    ) -> None:
        what = f"reference {placed.item.name} {version.version}"
        old = self.known.references.get(placed.item.name, {}).get(version.version, {})
        found = self._checksum(version.path)
        if found is None:
            self.warnings.append(f"{what}: {version.path} is not there")
            found = self.checksums[version.path] = version.checksum
        elif version.checksum not in (None, found):
            text = f"{version.path} has the checksum {found}, not {version.checksum}"
            self.mistakes.append(
                placed.mistake(("versions", n, "checksum"), text, "correct the checksum or the file")
            )
            return
        if old and (
            old["path"] != version.path or (old["checksum"] and found not in (None, old["checksum"]))
        ):
            text = f"{what} was applied with another file"
            self.mistakes.append(placed.mistake(("versions", n, "path"), text, "add a new version for it"))


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
    presets = by_name(defined.presets)
    groupings = [
        g.item.name
        for g in defined.data_groupings
        if _put_grouping(connection, g.item, presets.get(g.item.preset or ""), now, report)
    ]
    pipelines = [placed.item for placed in defined.pipelines]
    for pipeline in pipelines:
        due += _put_pipeline(connection, pipeline, now, actor, report)
    ids = store.step_ids(connection)
    for pipeline in pipelines:
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
    for software in by_name(defined.software).values():
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
    for reference in by_name(defined.references).values():
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
    item: DataGroupingDefinition,
    preset: PresetDefinition | None,
    now: datetime,
    report: ApplyReport,
) -> bool:
    """Whether it selects others than before."""
    rules = [*(preset.filter_rules if preset else []), *item.filter_rules]
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
    store.put_companions(connection, step_id, pipeline.data_grouping, [_companion(c) for c in step.companions], now)
    _note(report, changed, _difference(f"step {pipeline.name}/{step.name}", old, values))
    return step_id, changed and _decides_otherwise(old, values)


UNDECIDED = ("retention",)  # keys of a step that no decision reads


def _decides_otherwise(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether another decision may come of it: what only says how long files stay is no reason to look at sub-groups."""
    if old is None:
        return True
    before, after = (
        {**row, "definition": {k: v for k, v in row["definition"].items() if k not in UNDECIDED}} for row in (old, new)
    )
    return any(before[key] != after[key] for key in new)


def _companion(item: CompanionDefinition) -> store.CompanionRow:
    dims, _ = parse_group_by(item.same)
    return store.CompanionRow(item.name, item.rules, digest_of(item.rules), group_by_json(dims), group_by_digest(dims))


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
    shown = [f"{key} {_shown(a)} -> {_shown(b)}" for key, (a, b) in changes.items()]
    return f"~ {what}: {'; '.join(shown[:8])}" if shown else f"~ {what}"


def _shown(value: Any) -> str:
    """A value in the words of the files."""
    if value is None:
        return "(absent)"
    return str(value).lower() if isinstance(value, bool) else short_text(value)
