"""What should be: sections 5 and 6 of the specification, slowly, in plain Python over lists.

It knows nothing of how ccatwm decides. Every sub-group is looked at anew from the observation rows (`sky.py`), the
definitions and what people said; recipes are compared whole, never as digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from tests.oracle.companions import Companions, companions_of
from tests.oracle.keys import key_of
from tests.oracle.programs import PIPELINES, STEPS, products_of
from tests.oracle.rules import matches
from tests.oracle.sky import Sky
from tests.oracle.ticks import Ticker

ENDED = ("completed", "success", "successful", "failed", "aborted", "cancelled", "finished")
WAITING = ("waiting-for-data", "waiting-for-upstream", "waiting-for-image")
SETTLED = ("up-to-date", "restored", "accepted", "cooling-down", "no-inputs", "failed", "cancelled")
PARTS = {
    "upstream": "upstream-changed",
    "references": "reference-changed",
    "configuration": "config-changed",
    "software": "software-changed",
}


@dataclass(frozen=True)
class Member:
    """A package as its sub-group sees it."""

    id: int
    key: str
    name: str
    checksum: str | None
    size: int | None
    state: str
    scan: int | None
    module: int | None
    ended: bool
    observed_at: datetime | None

    @property
    def content(self) -> str | int | None:
        return self.checksum or self.size


@dataclass(frozen=True)
class Product:
    """A product of an upstream run that feeds a step."""

    step: str
    key: str
    path: str
    sha256: str
    run: Run = field(compare=False, hash=False, repr=False)


@dataclass(eq=False)
class Run:
    """A run, with everything it froze."""

    step: str
    key: str
    number: int  # within its sub-group, trials included
    recipe: Mapping[str, Any]
    reason: str
    created_at: datetime
    decision: int
    members: tuple[Member, ...]
    companions: tuple[tuple[str, Member], ...]  # with the name that the step gives them
    products: tuple[Product, ...]
    config: Mapping[str, Any]
    version: str
    trial: bool = False
    promoted: bool = False  # it was a trial
    status: str = "PENDING"  # SUBMITTED once it was handed over
    blocking: bool = False
    superseded: bool = False
    lost: bool = False  # its files are gone
    missing: bool = False  # and somebody has looked
    backfill: int | None = None  # for which it was made
    serves: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # names of members, by companion

    @property
    def open(self) -> bool:
        return self.status in ("PENDING", "SUBMITTED")

    @property
    def stands_on(self) -> set[int]:
        below = [member for product in self.products for member in product.run.stands_on]
        return {member.id for member in (*self.members, *(m for _, m in self.companions))} | set(below)

    def runs_below(self) -> list[Run]:
        return [run for product in self.products for run in (product.run, *product.run.runs_below())]


@dataclass(frozen=True)
class Inputs:
    """What a run would be made from."""

    members: tuple[Member, ...]
    companions: tuple[tuple[str, Member], ...]
    products: tuple[Product, ...]
    serves: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.members or self.products)


@dataclass
class Decision:
    outcome: str
    reason: str | None = None
    recipe: Mapping[str, Any] | None = None
    version: str | None = None
    inputs: Inputs | None = None
    due_at: datetime | None = None
    keeps_request: bool = False
    supersedes: Run | None = None
    points_to: Run | None = None
    tolerates: bool = False
    awaits: frozenset[str] = frozenset()  # names of packages, keys of upstream sub-groups
    without: frozenset[str] = frozenset()  # lacking still, and a deadline has passed without it


@dataclass(eq=False)
class Group:
    """A sub-group: once there, it stays."""

    step: str
    key: str
    created_at: datetime
    changed_at: datetime
    due: bool = True
    round_at: datetime | None = None
    due_at: datetime | None = None
    decided: Decision | None = None
    decision: int = 0  # its number, as far as the oracle tells decisions apart
    looks: int = 0  # how often it was decided on, or a person did (a retry)
    wanted: Mapping[str, Any] | None = None
    withdrawn: bool = False  # all its inputs were, when it was last known what is wanted
    good_anyway: tuple[Run, Mapping[str, Any]] | None = None  # accepted or tolerated for that recipe
    accepted: list[tuple[Mapping[str, Any], Run, int]] = field(default_factory=list)  # and how many runs there were
    request: dict[str, Any] | None = None
    asked: bool = False  # a person or a tick has opened it
    backfilled: bool = False  # a backfill has opened it, and it has to wait
    read: Any = None
    runs: list[Run] = field(default_factory=list)

    @property
    def counted(self) -> list[Run]:
        return [run for run in self.runs if not run.trial]

    @property
    def current(self) -> Run | None:
        """The completed run of the newest decision."""
        completed = [run for run in self.counted if run.status == "COMPLETED" and run.decision > 0]
        return max(completed, key=lambda run: run.decision, default=None)

    @property
    def opened(self) -> Run | None:
        return next((run for run in self.counted if run.open), None)

    @property
    def outcome(self) -> str | None:
        return self.decided.outcome if self.decided is not None else None

    def touch(self, at: datetime) -> None:
        """It falls due; a round that has begun goes on."""
        self.due = True
        self.round_at = self.round_at or at


@dataclass(eq=False)
class Exclusion:
    kind: str
    value: Any  # package or scan name, (module, from, to), Run, version
    reason: str
    until: datetime | None = None
    pipeline: str | None = None  # None: all


@dataclass
class Oracle:
    sky: Sky
    definitions: dict[str, Any]
    timezone: str
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    members: dict[str, dict[int, Member]] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)
    held: set[str] = field(default_factory=set)  # pipelines, pipeline/step, pipeline/step/key
    tripped: set[str] = field(default_factory=set)  # steps
    failures: dict[str, int] = field(default_factory=dict)  # of each step in a row
    ticker: Ticker = field(default_factory=Ticker)
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)  # packages when they were last grouped

    # --- members ----------------------------------------------------------------------------------------------

    def regroup(self, now: datetime) -> None:
        """Every package is given its sub-group again; sub-groups whose members differ from before fall due."""
        joined = self.sky.joined()
        self.seen = {p["RawDataPackage.id"]: p for p in joined}
        for step in self.steps:
            rules = self.definitions["rules"][PIPELINES[step]]
            chosen = [p for p in joined if all(matches(rule, p, now) for rule in rules)]
            old, new = self.members.get(step, {}), {p["RawDataPackage.id"]: self._member(step, p) for p in chosen}
            self.members[step] = new
            differing = {*old.items()} ^ {*new.items()}
            for key in sorted({member.key for _, member in differing}):
                self._members_changed(step, key, now)

    def _member(self, step: str, package: Mapping[str, Any]) -> Member:
        p = {name.removeprefix("RawDataPackage."): value for name, value in package.items()}
        scan = p["executed_obs_unit_id"]
        over = package.get("ExecutedObsUnit.end_time") is not None
        said = (package.get("ExecutedObsUnit.status") or "").lower() in ENDED
        key, began = key_of(package, self.step(step)["group_by"], self.timezone), package.get("ExecutedObsUnit.start_time")
        return Member(p["id"], key, p["name"], p["checksum"], p["size_bytes"], p["state"], scan,
                      p["instrument_module_id"], scan is None or over or said, began)  # fmt: skip

    def _members_changed(self, step: str, key: str, now: datetime) -> None:
        if (step, key) not in self.groups:
            self.groups[step, key] = Group(step, key, now, now)
        self.groups[step, key].changed_at = now
        self.groups[step, key].touch(now)

    def members_of(self, group: Group) -> list[Member]:
        found = [m for m in self.members[group.step].values() if m.key == group.key]
        return sorted(found, key=lambda m: (m.name, m.id))

    # --- what people said -------------------------------------------------------------------------------------

    def step(self, name: str) -> dict[str, Any]:
        return dict(self.definitions["steps"][name])

    @property
    def steps(self) -> list[str]:
        return [name for name in STEPS if name in self.definitions["steps"]]

    def is_continuous(self, step: str) -> bool:
        return self.step(step).get("trigger") is None

    def open(self, group: Group, at: datetime) -> None:
        """Somebody, or a tick, opens it. What is not continuous falls due by that, unless it is open already."""
        if not (self.is_continuous(group.step) or group.asked or group.backfilled):
            group.round_at = at
        group.asked, group.backfilled = True, False
        group.touch(at)

    def count_ends(self, step: str, failed: int, completed: int, trip_after: int) -> None:
        """Attempts of a step have ended, all of them well or none."""
        self.failures[step] = 0 if completed else self.failures.get(step, 0) + failed
        if self.failures[step] >= trip_after:
            self.tripped.add(step)

    def let_go(self, step: str) -> None:
        """The step is not tripped any more."""
        self.tripped.discard(step)
        self.failures[step] = 0

    # --- what is excluded -------------------------------------------------------------------------------------

    def exclusions_for(self, pipeline: str) -> list[Exclusion]:
        return [e for e in self.exclusions if e.pipeline in (None, pipeline)]

    def _excludes(self, exclusion: Exclusion, package: Mapping[str, Any]) -> bool:
        if exclusion.kind == "package":
            return bool(package["RawDataPackage.name"] == exclusion.value)
        if exclusion.kind == "unit":
            return bool(package.get("ExecutedObsUnit.name") == exclusion.value)
        if exclusion.kind != "module":
            return False
        module, begin, end = exclusion.value
        start = package.get("ExecutedObsUnit.start_time")
        return package.get("InstrumentModule.name") == module and start is not None and begin <= start < end

    def excluded_packages(self, pipeline: str) -> dict[int, str]:
        found: dict[int, str] = {}
        for exclusion in self.exclusions_for(pipeline):
            for package in self.sky.joined():
                if self._excludes(exclusion, package):
                    found.setdefault(package["RawDataPackage.id"], exclusion.reason)
        return found

    def named(self, run: Run, pipeline: str) -> bool:
        """Whether somebody excluded this very run."""
        return any(e.kind in ("run", "product") and e.value is run for e in self.exclusions_for(pipeline))

    def excluded(self, run: Run, pipeline: str) -> bool:
        """Whether a run's products are not to be used in a pipeline: it, its version, or anything that it stands on is
        excluded there."""
        if not self.exclusions_for(pipeline):
            return False
        versions = {e.value for e in self.exclusions_for(pipeline) if e.kind == "software"}
        below = [run, *run.runs_below()]
        if any(one.version in versions or self.named(one, pipeline) for one in below):
            return True
        return bool(run.stands_on & self.excluded_packages(pipeline).keys())

    def versions(self, step: str) -> list[str]:
        excluded = [e.value for e in self.exclusions_for(PIPELINES[step]) if e.kind == "software"]
        return sorted((v for v in self.definitions["versions"] if v not in excluded), key=number_of)

    def is_held(self, group: Group) -> bool:
        pipeline = PIPELINES[group.step]
        return bool(self.held & {pipeline, f"{pipeline}/{group.step}", f"{pipeline}/{group.step}/{group.key}"})

    # --- what feeds a sub-group -------------------------------------------------------------------------------

    def upstream(self, group: Group) -> list[Group]:
        """Upstream sub-groups that share a package with it."""
        packages = {m.id for m in self.members_of(group)}
        names = [name.rpartition("/")[2] for name in self.step(group.step).get("depends_on", [])]
        above = [g for name in names for g in self.groups.values() if g.step == name]
        return [g for g in above if packages & {m.id for m in self.members_of(g)}]

    def feeding(self, group: Group, step: str) -> Run | None:
        """The run whose products people, and a later step, see."""
        current = group.current
        if current is None or group.outcome == "no-inputs":
            return None
        return None if any(self.excluded(current, PIPELINES[one]) for one in (group.step, step)) else current

    def products(self, group: Group) -> tuple[Product, ...]:
        found = []
        for above in self.upstream(group):
            run = self.feeding(above, group.step)
            found += products_from(run) if run is not None else []
        return tuple(sorted(found, key=lambda p: (p.step, p.key, p.path)))

    def is_settled(self, group: Group, now: datetime) -> bool:
        """Nothing more is to be expected of it: a step that is not continuous is not decided on when its run ends."""
        if group.opened is not None:
            return False
        if not self.is_continuous(group.step):
            return group.outcome in (*SETTLED, "run")
        coming = group.due or (group.due_at is not None and group.due_at <= now)
        return not coming and group.outcome in SETTLED

    def has_failed(self, group: Group) -> bool:
        newest = group.current.decision if group.current is not None else 0
        return group.outcome in ("failed", "cancelled") or (group.outcome == "run" and newest < group.decision)

    def companions(self, group: Group) -> list[Companions]:
        """What goes with what it reduces, from outside."""
        excluded = self.excluded_packages(PIPELINES[group.step])
        own = self.members_of(group)
        usable = [p for i, p in self.seen.items() if i not in excluded and p["RawDataPackage.state"] == "archived"]
        ids = {m.id for m in own}
        reduced = [p for p in usable if p["RawDataPackage.id"] in ids]
        others = [p for p in usable if p["RawDataPackage.id"] not in ids]
        wanted = self.step(group.step).get("companions", [])
        return [companions_of(one, reduced, others, self.timezone) for one in wanted]

    # --- deciding ---------------------------------------------------------------------------------------------

    def read(self, group: Group, now: datetime) -> Any:
        """All that a decision on the sub-group reads of our own tables: if it differs from before, it is due."""
        pipeline = PIPELINES[group.step]
        excluded = self.excluded_packages(pipeline)
        awaited = self._awaited(group, now) if group.outcome == "waiting-for-upstream" else None
        return (
            json.dumps({**self.step(group.step), "complete": self._completeness(group.step)}, sort_keys=True),
            self.versions(group.step),
            sorted(self.definitions["absent"]),
            self.references(group),
            json.dumps(group.request),
            self.is_held(group) if group.outcome == "held" else None,
            group.step in self.tripped if group.outcome == "tripped" else None,
            sorted((m.id, excluded.get(m.id)) for m in self.members_of(group)),
            [(c.name, sorted((p["RawDataPackage.id"], content_of(p)) for p in c.packages), sorted(c.lacking))
             for c in self.companions(group)],
            [(run.number, run.status if not run.open else "open", self.excluded(run, pipeline)) for run in group.counted],
            sorted((p.step, p.key, p.path, p.sha256, p.run.number) for p in self.products(group)),
            awaited is not None and not awaited,
        )  # fmt: skip

    def notice(self, now: datetime) -> None:
        """What a sub-group reads has changed since it was decided on: it falls due."""
        for group in self.groups.values():
            if group.decided is not None and self.read(group, now) != group.read:
                group.touch(now)

    def overdue(self, now: datetime) -> list[Group]:
        """Sub-groups that must be looked at."""
        due = [g for g in self.groups.values() if g.due or (g.due_at is not None and g.due_at <= now)]
        return [g for g in due if g.asked or self.is_continuous(g.step)]

    def look(self, group: Group, now: datetime, *, backfill: int | None = None) -> Decision:
        """Decide on a sub-group and carry it out. `backfill`: one has opened it."""
        if backfill is not None and not (group.backfilled or self.is_continuous(group.step)):
            group.round_at = now
        group.round_at = group.round_at or now
        group.due = False
        decision = self.decide(group, now)
        decision.without = self._goes_without(group, now)
        group.looks += 1
        if decision.outcome == "run" or not self._says_the_same(group, decision):
            group.decision += 1
        group.decided, group.due_at = decision, decision.due_at
        if decision.outcome not in WAITING:
            group.round_at = None
        if not decision.keeps_request:
            group.request = None
        waits = decision.keeps_request or decision.outcome == "busy"
        group.asked, group.backfilled = group.asked and waits, backfill is not None and waits
        if decision.recipe is not None:
            group.wanted = decision.recipe
            group.good_anyway = None
        if decision.recipe is not None or decision.outcome == "no-inputs":
            group.withdrawn = decision.outcome == "no-inputs"
        self._carry_out(group, decision, now, backfill)
        group.read = self.read(group, now)
        return decision

    def _says_the_same(self, group: Group, decision: Decision) -> bool:
        """Whether the decision is the one before, as far as is known here; what it points to must be the newest."""
        before, points_to = group.decided, decision.points_to
        if before is None or (points_to is not None and points_to.decision != group.decision):
            return False
        told = ("outcome", "reason", "points_to", "awaits", "without")
        if any(getattr(before, name) != getattr(decision, name) for name in told):
            return False
        return decision.recipe is None or decision.recipe == group.wanted

    def _carry_out(self, group: Group, decision: Decision, now: datetime, backfill: int | None) -> None:
        if decision.supersedes is not None:
            decision.supersedes.status, decision.supersedes.superseded = "CANCELLED", True
        if decision.points_to is not None:
            decision.points_to.decision = group.decision
        anyway = decision.tolerates or decision.outcome == "accepted"
        if anyway and decision.points_to is not None and decision.recipe is not None:
            group.good_anyway = (decision.points_to, decision.recipe)
        if decision.outcome == "run":
            self._make_run(group, decision, now).backfill = backfill

    def _make_run(self, group: Group, decision: Decision, now: datetime, **trial: Any) -> Run:
        assert decision.recipe is not None and decision.version is not None and decision.reason is not None
        assert decision.inputs is not None
        read = decision.inputs
        run = Run(group.step, group.key, len(group.runs), decision.recipe, decision.reason, now,
                  0 if trial else group.decision, read.members, read.companions, read.products,
                  trial.get("config", self.step(group.step)["config"]), decision.version, trial=bool(trial))  # fmt: skip
        run.serves = read.serves
        group.runs.append(run)
        return run

    def decide(self, group: Group, now: datetime) -> Decision:
        if self.is_held(group):
            return Decision("held", keeps_request=True)
        if group.step in self.tripped:
            return Decision("tripped", keeps_request=True)
        waits = self._waits_for_data(group, now) or self._waits_for_upstream(group, now)
        if waits is not None:
            return waits
        inputs = self._inputs(group)
        if not inputs:
            return Decision("no-inputs", supersedes=stoppable(group))
        version = self._version(group, inputs)
        if version is None or version in self.definitions["absent"]:
            return Decision("waiting-for-image", keeps_request=True)
        recipe = self._recipe(group.step, inputs, version)
        decision = (
            self._existing(group, recipe)
            or self._tolerated(group, recipe)
            or self._an_earlier_one_does(group, recipe)
            or self._waits_for_companions(group, now)
            or self._gap(group, recipe, now)
        )
        decision.recipe, decision.version, decision.inputs = recipe, version, inputs
        return decision

    def _completeness(self, step: str) -> str:
        by_scan = "executed_obs_unit" in self.step(step)["group_by"]
        return str(self.step(step).get("complete", "executed_obs_unit" if by_scan else "none"))

    def _deadline(self, group: Group) -> datetime | None:
        hours = self.step(group.step).get("deadline_hours")
        assert group.round_at is not None
        return None if hours is None else group.round_at + timedelta(hours=hours)

    def _lacks(self, group: Group, now: datetime) -> dict[str, set[str]]:
        """By kind what is not there yet: names of packages, keys of upstream sub-groups, what wants a companion."""
        excluded = self.excluded_packages(PIPELINES[group.step])
        complete = not self.step(group.step).get("depends_on") and self._completeness(group.step) != "none"
        members = [m for m in self.members_of(group) if complete and m.id not in excluded]
        required = {c["name"] for c in self.step(group.step).get("companions", []) if c["required"]}
        return {
            "package": {m.name for m in members if m.state in ("waiting", "transferring") or not m.ended},
            "upstream": {
                f"{PIPELINES[g.step]}/{g.step} {g.key}{' (failed)' if self.has_failed(g) else ''}"
                for g in self._awaited(group, now)[0]
            },
            "companion": {f"{c.name} of {n}" for c in self.companions(group) if c.name in required for n in c.lacking},
        }

    def _goes_without(self, group: Group, now: datetime) -> frozenset[str]:
        """Once a deadline has passed without something, that is not waited for any more until it has come."""
        deadline = self._deadline(group)
        if deadline is None:
            return frozenset()
        lacking = {f"{kind} {name}" for kind, names in self._lacks(group, now).items() for name in names}
        return frozenset(lacking if deadline <= now else lacking & self._before(group))

    def _before(self, group: Group) -> set[str]:
        """What it went without; what was under way then may have failed since."""
        if group.decided is None or self.step(group.step).get("deadline_hours") is None:
            return set()
        return {*group.decided.without, *(f"{name} (failed)" for name in group.decided.without)}

    def _waited_for(self, group: Group, kind: str, now: datetime) -> set[str]:
        before, deadline = self._before(group), self._deadline(group)
        over = deadline is not None and deadline <= now
        return set() if over else {n for n in self._lacks(group, now)[kind] if f"{kind} {n}" not in before}

    def _waits_for_data(self, group: Group, now: datetime) -> Decision | None:
        missing = self._waited_for(group, "package", now)
        if not missing:
            return None
        return Decision("waiting-for-data", due_at=self._deadline(group), keeps_request=True, awaits=frozenset(missing))

    def _awaited(self, group: Group, now: datetime) -> tuple[list[Group], bool]:
        """Upstream sub-groups that have not settled, and whether the others are enough."""
        step = self.step(group.step)
        waits = step.get("on_upstream_failure", "wait") == "wait"
        since = group.round_at or now
        known = [g for g in self.upstream(group) if g.created_at <= since or self.feeding(g, group.step) is not None]
        awaited = [g for g in known if not self.is_settled(g, now) or (waits and self.has_failed(g))]
        requires, settled = step.get("requires", "all"), len(known) - len(awaited)
        return awaited, requires != "all" and settled > 0 and settled >= requires * len(known)

    def _waits_for_upstream(self, group: Group, now: datetime) -> Decision | None:
        names = self._waited_for(group, "upstream", now)
        if not names or self._awaited(group, now)[1]:
            return None
        keys = frozenset(name.partition(" ")[2].removesuffix(" (failed)") for name in names)
        return Decision("waiting-for-upstream", due_at=self._deadline(group), keeps_request=True, awaits=keys)

    def _waits_for_companions(self, group: Group, now: datetime) -> Decision | None:
        """An obs unit of it has not one of those that it must have."""
        lacking = {name.partition(" of ")[2] for name in self._waited_for(group, "companion", now)}
        if not lacking:
            return None
        return Decision("waiting-for-data", due_at=self._deadline(group), keeps_request=True, awaits=frozenset(lacking),
                        supersedes=stoppable(group))  # fmt: skip

    def _inputs(self, group: Group) -> Inputs:
        """A step without upstream steps gets archived packages, one with them products only."""
        found = self.companions(group)
        companions = [(c.name, self._member(group.step, p)) for c in found for p in c.packages]
        serves = {
            (c.name, p["RawDataPackage.name"]): c.serves[p["RawDataPackage.id"]] for c in found for p in c.packages
        }
        ordered = tuple(sorted(companions, key=lambda c: (c[0], c[1].id)))
        if self.step(group.step).get("depends_on"):
            return Inputs((), ordered, self.products(group), serves)
        excluded = self.excluded_packages(PIPELINES[group.step])
        members = [m for m in self.members_of(group) if m.state == "archived" and m.id not in excluded]
        return Inputs(tuple(members), ordered, (), serves)

    def references(self, group: Group) -> list[tuple[str, str]]:
        newest = sorted(self.definitions["references"], key=number_of)[-1]
        return [(name, newest) for name in self.step(group.step).get("references", [])]

    def _recipe(
        self, step: str, inputs: Inputs, version: str, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        defined = self.step(step)
        return {
            "inputs": frozenset(
                [("member", m.id, m.content) for m in inputs.members]
                + [(f"companion {name}", m.id, m.content) for name, m in inputs.companions]
            ),
            "upstream": frozenset(inputs.products),
            "references": self.references(Group(step, "", datetime.min, datetime.min)),
            "configuration": json.dumps(
                [config if config is not None else defined["config"], defined.get("environment", {})], sort_keys=True
            ),
            "software": version,
        }

    def _version(self, group: Group, inputs: Inputs) -> str | None:
        step = self.step(group.step)
        policy, bound = step.get("version_policy", "compatible"), step.get("version")
        versions = self.versions(group.step)
        if policy == "exact":
            return bound if bound in versions else None
        if bound is not None:
            versions = [v for v in versions if number_of(v) >= number_of(bound)]
        if not versions:
            return None
        newest, current = versions[-1], group.current
        if policy == "latest" or current is None or number_of(current.version)[0] != number_of(newest)[0]:
            return newest
        if current.version not in versions:
            return newest
        kept = self._recipe(group.step, inputs, current.version)
        same = kept == current.recipe or self._tolerated(group, kept) is not None  # what does not count changes nothing
        return current.version if same else newest

    # --- what exists, and the gap -----------------------------------------------------------------------------

    def _good(self, run: Run | None) -> bool:
        if run is None or run.status != "COMPLETED" or run.missing:
            return False
        return not self.excluded(run, PIPELINES[run.step])

    def acceptable(self, group: Group) -> str:
        """`accepted`: its product can be declared good for what is wanted of it by what is known; else why not."""
        if not self._good(group.current) or self._wanted(group) is None:
            return "refused"
        assert group.current is not None
        return "unchanged" if self._wanted(group) == group.current.recipe else "accepted"

    def accept(self, group: Group, now: datetime) -> None:
        recipe, current = self._wanted(group), group.current
        assert recipe is not None and current is not None
        group.accepted.append((recipe, current, len(group.runs)))
        group.request = None
        self.open(group, now)

    def _wanted(self, group: Group) -> Mapping[str, Any] | None:
        """The recipe that is wanted, were nothing asked for and nothing to be waited for."""
        free = replace(group, request=None)
        inputs = self._inputs(free)
        version = self._version(free, inputs) if inputs else None
        absent = version is None or version in self.definitions["absent"]
        return None if absent or version is None else self._recipe(group.step, inputs, version)

    def _existing(self, group: Group, recipe: Mapping[str, Any]) -> Decision | None:
        asked = group.request or {}
        accepted = self._accepted(group, recipe)
        if accepted is not None:
            return accepted
        alike = [run for run in group.counted if run.recipe == recipe]
        if group.opened in alike:
            return Decision("busy", keeps_request=bool(asked.get("force")))
        if asked.get("force"):
            return None
        completed = [run for run in alike if self._good(run)]
        if completed:
            here = group.current in completed
            if not here:  # whether its files are there is looked at only where it is to count again
                completed[-1].missing = completed[-1].lost
                if completed[-1].missing:
                    return self._existing(group, recipe)
            counts = group.current if here else completed[-1]
            return Decision("up-to-date" if here else "restored", points_to=counts, supersedes=stoppable(group))
        named = [run for run in alike if self.named(run, PIPELINES[run.step])]
        given_up = [run for run in named if not run.promoted or run is group.current]
        blocking = [run for run in alike if (run.blocking and not run.superseded) or run in given_up]
        if blocking:
            outcome = "failed" if blocking[-1].status == "FAILED" else "cancelled"
            return Decision(outcome, supersedes=stoppable(group))
        return None

    def _accepted(self, group: Group, recipe: Mapping[str, Any]) -> Decision | None:
        current = group.current
        if group.request is not None or (self._good(current) and current is not None and current.recipe == recipe):
            return None
        said = [(run, before) for wanted, run, before in group.accepted if wanted == recipe]
        if not said or any(run.recipe == recipe and run.number >= said[-1][1] for run in group.counted):
            return None
        return Decision("accepted", points_to=said[-1][0], supersedes=stoppable(group)) if self._good(said[-1][0]) else None

    def _tolerated(self, group: Group, recipe: Mapping[str, Any]) -> Decision | None:
        current = group.current
        if not self.step(group.step).get("staleness") or not self._good(current) or group.request is not None:
            return None
        if current is None or self._counted(group, current, recipe):
            return None
        return Decision("up-to-date", points_to=current, supersedes=stoppable(group), tolerates=True)

    def _an_earlier_one_does(self, group: Group, recipe: Mapping[str, Any]) -> Decision | None:
        """Of the last ten that were completed before, the newest that differs in what does not count only."""
        if not self.step(group.step).get("staleness") or group.request is not None:
            return None
        before = [run for run in group.counted if run.status == "COMPLETED" and run is not group.current]
        for run in before[: -10 - 1 : -1]:
            if self._good(run) and not self._counted(group, run, recipe):
                run.missing = run.lost
                if not run.missing:
                    return Decision("restored", points_to=run, supersedes=stoppable(group), tolerates=True)
        return None

    def _counted(self, group: Group, run: Run, recipe: Mapping[str, Any]) -> list[str]:
        """For which reasons a run's product would not do, the weightiest first."""
        staleness = self.step(group.step).get("staleness") or {}
        out = set(staleness.get("ignore", []))
        if same_but_for(staleness.get("ignore_config", []), run.recipe, recipe):
            out.add("config-changed")
        return [reason for reason in changes(run, recipe, self._inputs(group)) if reason not in out]

    def _gap(self, group: Group, recipe: Mapping[str, Any], now: datetime) -> Decision:
        reason = self._reason(group, recipe)
        held_back = self._held_back(group, reason, now)
        if held_back is not None:
            return held_back
        if group.opened is not None and stoppable(group) is None:
            return Decision("busy", reason, keeps_request=True)
        return Decision("run", reason, supersedes=stoppable(group))

    def _reason(self, group: Group, recipe: Mapping[str, Any]) -> str:
        asked = group.request
        compared = group.current or (group.counted[-1] if group.counted else None)
        if asked is not None:
            return str(asked.get("reason", "requested"))
        if compared is None:
            return "new-sub-group"
        found = changes(compared, recipe, self._inputs(group))
        if not found and group.current is None:
            return "new-sub-group"  # what was begun for it was superseded, and is wanted after all
        if found and (group.current is None or not self.excluded(compared, PIPELINES[group.step])):
            found = self._counted(group, compared, recipe) or found
        # What was excluded below it leaves the recipe as it was where other runs made the same of the rest.
        return found[0] if found else "upstream-changed"

    def _held_back(self, group: Group, reason: str, now: datetime) -> Decision | None:
        step = self.step(group.step)
        quiet = group.changed_at + timedelta(seconds=step.get("settle_seconds", 0))
        if step.get("settle_seconds") and quiet > now and not (group.request or {}).get("force"):
            return Decision("settling", reason, due_at=quiet, keeps_request=True)
        if reason in ("input-added", "upstream-changed") and group.current is not None:
            newest = max(run.created_at for run in group.counted)
            until = newest + timedelta(seconds=step.get("cooldown_seconds", 0))
            if step.get("cooldown_seconds") and until > now:
                return Decision("cooling-down", reason, due_at=until, keeps_request=True)
        return None

    # --- trials -----------------------------------------------------------------------------------------------

    def try_out(self, step: str, config: Mapping[str, Any], version: str | None, now: datetime) -> None:
        """A run of every sub-group that has inputs, as it is now; it never counts."""
        for group in [g for g in self.groups.values() if g.step == step]:
            inputs = self._inputs(group)
            wanted = version or (self._version(group, inputs) if inputs else None)
            if not inputs or wanted not in self.versions(step) or wanted in self.definitions["absent"]:
                continue
            recipe = self._recipe(step, inputs, wanted, config)
            self._make_run(group, Decision("run", "requested", recipe, wanted, inputs), now, config=config)

    # --- what is seen -----------------------------------------------------------------------------------------

    def stale(self, group: Group) -> str | None:
        """Why the current product is not what is wanted: excluded, changed; None if it is what is wanted."""
        current = group.current
        if current is None:
            return None
        if self.excluded(current, PIPELINES[group.step]):
            return "excluded"
        if group.withdrawn:
            return "changed"
        anyway = group.good_anyway is not None and group.good_anyway[0] is current
        return None if group.wanted is None or current.recipe == group.wanted or anyway else "changed"


def stoppable(group: Group) -> Run | None:
    """An open run that was not handed over."""
    opened = group.opened
    return opened if opened is not None and opened.status == "PENDING" else None


def changes(run: Run, recipe: Mapping[str, Any], inputs: Inputs) -> list[str]:
    """Every reason for which a recipe differs from a run's, the weightiest first."""
    found = []
    if run.recipe["inputs"] != recipe["inputs"]:
        before = {m.name: (m.id, m.content) for m in run.members}
        after = {m.name: (m.id, m.content) for m in inputs.members}
        kept = before.keys() & after.keys()
        found += ["input-withdrawn"] if before.keys() - after.keys() else []
        found += ["input-changed"] if any(before[name] != after[name] for name in kept) else []
        went, came = before.keys() - after.keys(), after.keys() - before.keys()
        then, now = ({(n, m.name): (m.id, m.content) for n, m in r.companions} for r in (run, inputs))
        others = any(then[c] != now[c] for c in then.keys() & now.keys())
        gone = [run.serves[c] for c in then.keys() - now.keys()]
        new = [inputs.serves[c] for c in now.keys() - then.keys()]
        # What served nothing but members that went goes with them, and what serves new ones only comes with them.
        if others or any(not for_whom <= went for for_whom in gone) or any(not for_whom <= came for for_whom in new):
            found.append("companion-changed")
        found += ["input-added"] if after.keys() - before.keys() else []
    return found + [reason for part, reason in PARTS.items() if run.recipe[part] != recipe[part]]


def same_but_for(ignored: Iterable[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two recipes have the same environment, and configurations that differ in these keys only."""
    (config, environment), (config_now, environment_now) = (json.loads(r["configuration"]) for r in (one, other))
    kept = [{k: v for k, v in c.items() if k not in ignored} for c in (config, config_now)]
    return config != config_now and kept[0] == kept[1] and bool(environment == environment_now)


def products_from(run: Run) -> list[Product]:
    return [Product(run.step, run.key, path, sha256, run) for path, sha256 in products_of(run)]


def number_of(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def content_of(package: Mapping[str, Any]) -> str | int | None:
    found: str | int | None = package["RawDataPackage.checksum"] or package["RawDataPackage.size_bytes"]
    return found
