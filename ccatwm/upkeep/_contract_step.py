"""Finds the step that a contract check plays: from a file of definitions, or one made up. Touches: the file read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ccatwm.core.model import (
    ReferenceVersion,
    ResolvedStep,
    Resources,
    SoftwareVersion,
    StepRole,
    UpstreamStep,
)
from ccatwm.core.policy import version_key
from ccatwm.errors import DefinitionsError, UsageError

NAME = "check"
BARE = {"name": NAME, "software": "software", "group_by": []}
PIPELINE = "contract-check"


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line. `image` and `command` win over the file's."""

    image: str | None = None
    command: tuple[str, ...] = ()
    file: Path | None = None
    of: str | None = None  # PIPELINE/STEP, or STEP
    references: tuple[str, ...] = ()  # NAME=PATH
    upstream: tuple[str, ...] = ()  # folders below the input's workspace, for a step that is not written down


def find_step(asked: Asked) -> ResolvedStep:
    """The step to play. Errors: DefinitionsError with all that is wrong in the file, UsageError for what is missing."""
    step = _made_up(asked) if asked.file is None else _from_file(asked.file, asked)
    software = step.software
    if asked.command:
        software = replace(software, command=asked.command)
    if asked.image is not None:
        software = replace(software, image=asked.image)
    if not software.command:
        raise UsageError("which command?", next="say --command 'PROGRAM ARGUMENT...', or --step FILE with its software")
    return replace(step, software=software, references=_with_paths(step.references, asked.references))


def _made_up(asked: Asked) -> ResolvedStep:
    return ResolvedStep(
        pipeline=PIPELINE, step=NAME, role=StepRole.FINAL, group_by=(), config={},
        software=SoftwareVersion("software", "0", ()),
        upstream=tuple(UpstreamStep(PIPELINE, name, name, True) for name in asked.upstream),
    )  # fmt: skip


def _with_paths(found: Sequence[ReferenceVersion], given: Sequence[str]) -> tuple[ReferenceVersion, ...]:
    """References with the paths that were said; others must be there."""
    known = {reference.name: reference for reference in found}
    for text in given:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise UsageError(f"--reference {text!r} is not NAME=PATH", next="such as --reference beams=/data/beams")
        known[name] = ReferenceVersion(name, known[name].version if name in known else "0", str(Path(path).absolute()))
    lost = [r for r in known.values() if not r.path or not Path(r.path).exists()]
    if lost:
        said = ", ".join(f"{r.name} ({r.path or 'no path'})" for r in lost)
        raise UsageError(f"no reference data: {said}", next="say where they lie: --reference NAME=PATH")
    return tuple(known.values())


# --- a file of definitions ---------------------------------------------------------------------------------------------


def _from_file(path: Path, asked: Asked) -> ResolvedStep:
    defined = _read(path)
    steps = {(p.item.name, s.name): (p.item, s) for p in defined.pipelines for s in p.item.steps}
    pipeline, step = _choose(steps, asked.of)
    role = step.role or ("intermediate" if _feeds(pipeline, step.name) else "final")
    return ResolvedStep(
        pipeline=pipeline.name,
        step=step.name,
        role=StepRole(role),
        group_by=_dimensions(step),
        software=_software(defined, step),
        config=step.config,
        environment=step.environment,
        references=tuple(_reference(defined, name) for name in step.references),
        resources=Resources.from_json(step.resources.model_dump()),
        upstream=tuple(_upstream(steps, pipeline, step)),
        partial_exit_codes=tuple(step.partial_exit_codes),
    )


def _read(path: Path) -> Any:
    """The definitions of a file, which may also be those of one step alone."""
    from ccatwm.upkeep._definitions import Defined, add_document, list_problems
    from ccatwm.upkeep._yaml import read_yaml

    defined = Defined()
    document, defined.unreadable = read_yaml(path, too_large="cut it down to the step")
    if document is not None:
        if isinstance(document.data, dict) and _is_a_step(document.data):
            document.data = {"pipelines": [_around(document.data)]}
            inside = ("pipelines", 0, "steps", 0)
            document.lines = {(*inside, *location): line for location, line in document.lines.items()}
            document.wrong = {(*inside, *location) for location in document.wrong}
        add_document(defined, document)
    problems = list_problems(defined, [])
    if problems:
        raise DefinitionsError("the step cannot be read", problems=problems)
    return defined


def _is_a_step(data: Mapping[str, Any]) -> bool:
    """Not sections: of those a step has `software` and `references` too, but its software is a name."""
    return not ({"pipelines", "data_groupings", "presets"} & data.keys() or isinstance(data.get("software"), list))


def _around(step: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline for a step that stands alone; what it is called does not matter here."""
    return {
        "name": PIPELINE, "data_grouping": "any", "processing_location": "here", "steps": [{**BARE, **step}],
    }  # fmt: skip


def _choose(steps: Mapping[tuple[str, str], Any], of: str | None) -> Any:
    names = [f"{pipeline}/{step}" for pipeline, step in steps]
    found = [names[n] for n, (_, step) in enumerate(steps) if of in (None, step, names[n])]
    if len(found) == 1:
        return list(steps.values())[names.index(found[0])]
    what = "which step?" if of is None or found else f"there is no step {of!r}"
    said = ", ".join(found or names) or "the file has none"
    raise UsageError(what, next=f"say --of PIPELINE/STEP: {said}")


def _feeds(pipeline: Any, name: str) -> bool:
    own = (name, f"{pipeline.name}/{name}")
    return any(upstream in own for step in pipeline.steps for upstream in step.depends_on)


def _dimensions(step: Any) -> tuple[str, ...]:
    return tuple(d if isinstance(d, str) else str(d.get("name", "")) for d in step.group_by)


def _upstream(steps: Mapping[tuple[str, str], Any], pipeline: Any, step: Any) -> list[UpstreamStep]:
    """As runs see them: by the step's name, with the pipeline's where two are called alike."""
    found = [(u.rpartition("/")[0] or pipeline.name, u.rpartition("/")[2]) for u in step.depends_on]
    names = [name for _, name in found]
    return [
        UpstreamStep(
            owner, name, name if names.count(name) == 1 else f"{owner}.{name}",
            (owner, name) not in steps or steps[owner, name][1].group_by == step.group_by,
        )
        for owner, name in found
    ]  # fmt: skip


def _software(defined: Any, step: Any) -> SoftwareVersion:
    """The version that the step pins, or the newest one; without a command where the file does not define it."""
    versions = [v for s in defined.software if s.item.name == step.software for v in s.item.versions]
    pinned = [v for v in versions if step.version_policy == "exact" and v.version == step.version] or versions
    if not pinned:
        return SoftwareVersion(step.software, step.version or "0", ())
    newest = max(pinned, key=lambda v: version_key(v.version))
    return SoftwareVersion(step.software, newest.version, tuple(newest.command), newest.image)


def _reference(defined: Any, wanted: str) -> ReferenceVersion:
    name, _, pinned = wanted.partition("@")
    versions = [v for r in defined.references if r.item.name == name for v in r.item.versions]
    fitting = [v for v in versions if not pinned or v.version == pinned]
    if not fitting:
        return ReferenceVersion(name, pinned or "0", "")
    newest = max(fitting, key=lambda v: version_key(v.version))
    return ReferenceVersion(name, newest.version, newest.path, newest.checksum)
