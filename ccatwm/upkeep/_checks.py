"""What is wrong between definitions, and between them and the ops-db. Touches: nothing; the ops-db was read before.

Each thing is checked by itself: nothing that is wrong stops the checks of anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from ccatwm.core.definitions import PipelineDefinition, StepDefinition, find_cycles
from ccatwm.core.policy import version_key
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores.definitions import Known
from ccatwm.errors import Problem
from ccatwm.upkeep._definitions import STAND_IN, Defined, Mistake, Placed, by_name
from ccatwm.upkeep._yaml import Location

_STEP_OF_PATH = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def find_mistakes(
    defined: Defined, known: Known, engine: GroupingEngine, locations: Mapping[str, str | None]
) -> list[Mistake]:
    """Everything. `locations`: type of each data location that the ops-db knows, by name and by id."""
    check = _Check(defined, known, engine)
    check.doubles()
    check.versions()
    check.rules()
    for pipeline in defined.pipelines:
        check.location(pipeline, locations)
        check.pipeline(pipeline)
    check.cycles()
    return check.found


def unmet_bounds(defined: Defined, known: Known) -> list[str]:
    """Steps whose lower bound no version meets yet. It may come later, so that this is no mistake."""
    software = _versions(defined.software, known.software)
    found = []
    for pipeline in defined.pipelines:
        for step in pipeline.item.steps:
            bound, versions = step.version, software[step.software][0]
            if step.version_policy == "exact" or bound is None or _newest_key(versions) >= version_key(bound):
                continue
            found.append(
                f"{pipeline.item.name}/{step.name}: no version of {step.software} is {bound} or newer, as `version` of "
                f"the step wants it ({_there_are((versions, True))}); it runs nothing until one is applied"
            )
    return found


def _newest_key(versions: Iterable[str]) -> tuple[Any, ...]:
    return max(map(version_key, versions), default=())


class _Check:
    def __init__(self, defined: Defined, known: Known, engine: GroupingEngine) -> None:
        self.defined = defined
        self.known = known
        self.engine = engine
        self.found: list[Mistake] = []
        self.software = _versions(defined.software, known.software)
        self.references = _versions(defined.references, known.references)
        self.groupings = {*by_name(defined.data_groupings), *known.groupings}

    def _tell(self, placed: Placed[Any], inside: Location, what: str, next: str = "") -> None:
        self.found.append(placed.mistake(inside, what, next))

    def doubles(self) -> None:
        """A name may be defined once."""
        for section in ("software", "references", "presets", "data_groupings", "pipelines"):
            first: dict[str, Placed[Any]] = {}
            for placed in getattr(self.defined, section):
                other = first.setdefault(placed.item.name, placed)
                if other is not placed:
                    where = other.mistake(("name",), "").where
                    self._tell(placed, ("name",), f"{section}: {placed.item.name} is defined twice", where)

    # Versions.

    def versions(self) -> None:
        for software in self.defined.software:
            self._alike(software, self.known.software)
            for n, version in enumerate(software.item.versions):
                old = self.known.software.get(software.item.name, {}).get(version.version)
                new = {"image": version.image, "command": version.command, "contract": version.contract}
                different = [
                    k for k, v in new.items() if old is not None and old[k] != v
                    and not software.is_wrong("versions", n, k)
                ]  # fmt: skip
                if different:
                    what = f"{software.item.name} {version.version} was applied with another {' and '.join(different)}"
                    self._tell(software, ("versions", n), what, "add a new version instead")
        for reference in self.defined.references:
            self._alike(reference, self.known.references)

    def _alike(self, placed: Placed[Any], known: Mapping[str, Any]) -> None:
        """Of two versions one must be the newer: `1.0` and `v1.0` are no two versions."""
        name = placed.item.name
        seen = {version_key(version): version for version in known.get(name, {})}
        mine: set[str] = set()
        for n, version in enumerate(placed.item.versions):
            inside = ("versions", n, "version")
            other = seen.setdefault(version_key(version.version), version.version)
            if version.version in mine:
                self._tell(placed, inside, f"{name} {version.version} is there twice")
            elif other != version.version:
                what = f"versions {other} and {version.version} of {name} compare as equal"
                self._tell(placed, inside, what, "name one of them so that it is newer or older")
            mine.add(version.version)

    # Rules.

    def rules(self) -> None:
        """Presets and data groupings by themselves, and together where both are right."""
        presets = by_name(self.defined.presets)
        wrong = {p.item.name for p in self.defined.presets if self._check(p, (), p.item.filter_rules, [])}
        for placed in self.defined.data_groupings:
            name, rules = placed.item.preset, placed.item.filter_rules
            if name and name not in presets:
                self._tell(placed, ("preset",), f"unknown preset {name!r}", _choices(name, presets))
            refused = self._check(placed, (), rules, [])
            if name and name in presets and name not in wrong and not refused:
                both = [*presets[name].filter_rules, *rules]
                for problem in self.engine.check(both, []):  # only together there are too many
                    self._tell(placed, ("filter_rules",), problem.what, problem.next)

    def _check(self, placed: Placed[Any], inside: Location, rules: object, group_by: object) -> bool:
        """Whether the filter engine refuses rules or dimensions of a thing, and told so."""
        problems = self.engine.check(rules, group_by)
        for problem in problems:
            self._tell_of(placed, (*inside, *_location(problem)), problem)
        return bool(problems)

    def _tell_of(self, placed: Placed[Any], inside: Location, problem: Problem) -> None:
        """What the filter engine says, unless it is about a value in whose place nothing was left when it was read."""
        if not problem.about or not placed.holds_wrong(*inside, problem.about):
            self._tell(placed, inside, _words(problem), problem.next)

    # Pipelines and steps.

    def location(self, placed: Placed[PipelineDefinition], locations: Mapping[str, str | None]) -> None:
        name = placed.item.processing_location
        serving = sorted(n for n, kind in locations.items() if kind == "processing" and not n.isdecimal())
        if name in locations and locations[name] != "processing":
            what = f"{name} is a data location of type {locations[name]}"
            self._tell(placed, ("processing_location",), what, "name one of type processing")
        elif name not in locations and serving:
            what = f"unknown data location {name!r}"
            self._tell(placed, ("processing_location",), what, _choices(name, serving))

    def pipeline(self, placed: Placed[PipelineDefinition]) -> None:
        grouping = placed.item.data_grouping
        if grouping not in self.groupings:
            hint = _choices(grouping, self.groupings)
            self._tell(placed, ("data_grouping",), f"unknown data grouping {grouping!r}", hint)
        names = [step.name for step in placed.item.steps]
        for n, step in enumerate(placed.item.steps):
            if names.index(step.name) != n:
                what = f"two steps are called {step.name!r}"
                self._tell(placed, ("steps", n, "name"), what, "give each a name of its own")
            self._step(placed, step, ("steps", n))

    def _step(self, placed: Placed[PipelineDefinition], step: StepDefinition, inside: Location) -> None:
        self._software(placed, step, inside)
        self._check(placed, inside, [], step.group_by)
        for n, reference in enumerate(step.references):
            self._reference(placed, reference, (*inside, "references", n))
        for n, upstream in enumerate(step.depends_on):
            self._upstream(placed, upstream, (*inside, "depends_on", n))
        for n, companion in enumerate(step.companions):
            for problem in self.engine.check(companion.rules, companion.same):
                key, *more = _location(problem)
                key = {"filter_rules": "rules", "group_by": "same"}.get(str(key), key)
                self._tell_of(placed, (*inside, "companions", n, key, *more), problem)

    def _software(self, placed: Placed[Any], step: StepDefinition, inside: Location) -> None:
        versions = self.software.get(step.software)
        if versions is None:
            hint = _choices(step.software, self.software)
            self._tell(placed, (*inside, "software"), f"unknown software {step.software!r}", hint)
        elif step.version_policy == "exact" and step.version and _lacks(versions, step.version):
            what = f"{step.software} has no version {step.version!r}"
            self._tell(placed, (*inside, "version"), what, _there_are(versions))

    def _reference(self, placed: Placed[Any], reference: str, inside: Location) -> None:
        name, _, pinned = reference.partition("@")
        versions = self.references.get(name)
        if versions is None:
            self._tell(placed, inside, f"unknown reference {name!r}", _choices(name, self.references))
        elif pinned and _lacks(versions, pinned):
            self._tell(placed, inside, f"{name} has no version {pinned!r}", _there_are(versions))

    def _upstream(self, placed: Placed[PipelineDefinition], upstream: str, inside: Location) -> None:
        other, _, name = upstream.rpartition("/")
        other = other or placed.item.name
        there = [p for p in self.defined.pipelines if p.item.name == other]
        if not there and other not in self.known.pipelines:
            hint = _choices(other, [p.item.name for p in self.defined.pipelines] + [*self.known.pipelines])
            self._tell(placed, inside, f"unknown pipeline {other!r}", hint)
            return
        # Steps of the files, and those that stay because no file names them.
        steps = {*self.known.steps.get(other, {}), *(s.name for p in there for s in p.item.steps)}
        if name not in steps:
            self._tell(placed, inside, f"pipeline {other} has no step {name!r}", _choices(name, steps))
            return
        places = {p.item.processing_location for p in there} or {self.known.pipelines[other]}
        here = placed.item.processing_location
        if here not in places and not any(p.is_wrong("processing_location") for p in [placed, *there]):
            what = f"{upstream} runs at {', '.join(sorted(places))}, this pipeline at {here}"
            self._tell(placed, inside, what, "steps depend on steps of the same location")

    # Cycles.

    def cycles(self) -> None:
        """Each told at the first of its dependencies that a file says."""
        edges = _dependencies(self.defined)
        ours = {(p.item.name, s.name) for p in self.defined.pipelines for s in p.item.steps}
        graph = {
            f"{pipeline}/{step}": [_full(pipeline, u) for u in upstream]
            for pipeline, steps in self.known.steps.items()
            for step, upstream in steps.items()
            if (pipeline, step) not in ours
        }
        for depending, dependency in edges:
            graph.setdefault(depending, []).append(dependency)
        for cycle in find_cycles(graph):
            placed, inside = next(edges[pair] for pair in pairwise(cycle) if pair in edges)
            what = f"steps depend on each other: {' > '.join(cycle)}"
            self._tell(placed, inside, what, "take one dependency out")


Edges = dict[tuple[str, str], tuple[Placed[PipelineDefinition], Location]]


def _dependencies(defined: Defined) -> Edges:
    """(step, what it depends on), both with their pipelines -> where it is said first."""
    edges: Edges = {}
    for placed in defined.pipelines:
        name = placed.item.name
        for n, step in enumerate(placed.item.steps):
            for m, upstream in enumerate(step.depends_on):
                pair = (f"{name}/{step.name}", _full(name, upstream))
                edges.setdefault(pair, (placed, ("steps", n, "depends_on", m)))
    return edges


def _full(pipeline: str, step: str) -> str:
    return step if "/" in step else f"{pipeline}/{step}"


# --- versions that there are ---------------------------------------------------------------------------------------

Versions = tuple[frozenset[str], bool]  # those that are known; whether these are all


def _versions(defined: Sequence[Placed[Any]], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Versions]:
    found: dict[str, Versions] = {name: (frozenset(versions), True) for name, versions in known.items()}
    for placed in defined:
        before, whole = found.get(placed.item.name, (frozenset(), True))
        right = {
            v.version
            for n, v in enumerate(placed.item.versions)
            if not placed.is_wrong("versions", n, "version")
        }
        found[placed.item.name] = (before | right, whole and len(right) == len(placed.item.versions))
    return found


def _lacks(versions: Versions, version: str) -> bool:
    names, whole = versions
    return whole and version not in names


def _there_are(versions: Versions) -> str:
    return f"there are: {', '.join(sorted(versions[0], key=version_key))}"


# --- words and places of the filter engine ---------------------------------------------------------------------------


def _location(problem: Problem) -> Location:
    """`filter_rules[1].any_of[0]` as a place in the data."""
    return tuple(int(number) if number else name for name, number in _STEP_OF_PATH.findall(problem.where))


def _words(problem: Problem) -> str:
    """With the way inside the rule, for which a line may be too coarse."""
    _, _, inside = problem.where.partition("].")
    return f"{inside}: {problem.what}" if inside else problem.what


def _choices(wrong: str, known: Iterable[str]) -> str:
    names = sorted(name for name in set(known) if not name.startswith(STAND_IN))
    close = get_close_matches(wrong, names, n=2)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(names[:20])}" if names else "there are none yet"
