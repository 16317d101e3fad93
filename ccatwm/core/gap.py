"""Whether a sub-group needs a run, and why, or why not. Pure.

Level-triggered: a run is made when what is wanted differs from what exists, whatever events were seen or missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from ccatwm.core.companions import Chosen
from ccatwm.core.model import InputKind, InputRole, PackageState, ReferenceVersion, RunInput, SoftwareVersion
from ccatwm.core.policy import StepPolicy, major, version_key
from ccatwm.core.recipe import FixedParts, Recipe, build_recipe, changed_parts, fixed_parts
from ccatwm.core.states import WITHOUT_JOB, RunStatus


class Outcome(StrEnum):
    """What a decision says: make a run, or one of the reasons not to."""

    RUN = "run"
    UP_TO_DATE = "up-to-date"
    RESTORED = "restored"
    ACCEPTED = "accepted"
    COOLING_DOWN = "cooling-down"
    SETTLING = "settling"
    WAITING_FOR_DATA = "waiting-for-data"
    WAITING_FOR_UPSTREAM = "waiting-for-upstream"
    WAITING_FOR_IMAGE = "waiting-for-image"
    NO_INPUTS = "no-inputs"
    BUSY = "busy"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TRIPPED = "tripped"
    HELD = "held"


# After one of these nothing more is to be expected of a sub-group: who depends on it need not wait.
SETTLED = frozenset(
    {Outcome.UP_TO_DATE, Outcome.RESTORED, Outcome.ACCEPTED, Outcome.COOLING_DOWN, Outcome.NO_INPUTS,
     Outcome.FAILED, Outcome.CANCELLED}
)  # fmt: skip
EXCLUDED = "excluded: "  # how the staleness of a product begins that stands on something excluded
WANTED_CHANGED = "what is wanted has changed"  # the staleness of a product, where no decision has said more
MAX_NAMES = 20  # in the details of a decision
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
EARLIER_RUNS = 10  # so many of the last completed runs are searched for one that does in spite of what is ignored
COMPANIONS_KNOWN_AFTER = timedelta(seconds=1)  # when to look again: the next pass goes on grouping them
# Only these reasons are held back by a cooldown.
COOLED_REASONS = frozenset({"input-added", "upstream-changed"})


class Member(NamedTuple):
    """A raw data package of a sub-group, in any state; only archived ones are inputs. Made by the million."""

    package_id: str
    name: str
    checksum: str | None
    size_bytes: int | None
    state: str
    ended: bool
    observed_at: datetime | None = None  # when its executed obs unit began
    unit: str | None = None  # its executed obs unit
    excluded: str | None = None  # why it is no input, though it is archived

    @property
    def usable(self) -> bool:
        return self.state == PackageState.ARCHIVED and self.excluded is None


@dataclass(frozen=True)
class UpstreamGroup:
    """An upstream sub-group that feeds this one. `failed`: its newest recipe failed or was cancelled for good.

    `removed`: the files of its product were (retention); `enabled`: it can be asked to make them again.
    """

    pipeline: str
    step: str
    sub_group: str
    known_at: datetime
    state: str  # for people: its outcome, or the status of its open run
    settled: bool
    failed: bool
    has_product: bool
    id: int | None = None
    removed: bool = False
    enabled: bool = True


@dataclass(frozen=True)
class RunFacts:
    """A run that exists for the sub-group."""

    id: int
    status: RunStatus
    is_open: bool
    blocking: bool
    recipe_digest: str
    recipe: Recipe
    version: str
    created_at: datetime
    software: str = ""
    files_present: bool = True  # none of them is missing
    removed: bool = False  # retention took them: it counts while it is current, and is never restored
    failure_class: str | None = None
    message: str | None = None
    excluded: str | None = None  # why it, or what it was made from, is not to be used
    excluded_itself: bool = False  # somebody named this very run: made again, the same would come of it
    config: Mapping[str, Any] | None = None  # what it froze of its step
    environment: Mapping[str, str] | None = None
    tried_out: bool = False  # it was a trial until it was promoted

    @property
    def good(self) -> bool:
        """Completed, with its files, and nothing of it excluded."""
        return self.answers and not self.removed

    @property
    def answers(self) -> bool:
        """The same, or without the files because they are not needed: all that is to be known of them is."""
        return self.status is RunStatus.COMPLETED and self.files_present and self.excluded is None


@dataclass(frozen=True)
class Request:
    """What a person (or a forcing cron tick) asked for."""

    reason: str = "requested"  # requested | scheduled
    text: str = ""
    force: bool = False


@dataclass(frozen=True)
class Acceptance:
    """A person declared what a run made good for one recipe."""

    run_id: int
    at: datetime


@dataclass(frozen=True)
class SubGroupView:
    """All that a decision reads. Times aware UTC; `products` are the current ones of the upstream sub-groups."""

    now: datetime
    policy: StepPolicy
    created_at: datetime
    round_at: datetime
    members: Sequence[Member]
    upstream: Sequence[UpstreamGroup]
    products: Sequence[RunInput]
    references: Sequence[ReferenceVersion]
    versions: Sequence[SoftwareVersion]
    runs: Sequence[RunFacts]
    current_run_id: int | None = None
    # What the current run was made from; where there is none, the newest run.
    compared_inputs: Sequence[RunInput] = ()
    compared_config: Mapping[str, Any] | None = None
    compared_environment: Mapping[str, str] | None = None
    # What earlier runs were made from, by run id: of those that `earlier_to_compare` names.
    earlier_inputs: Mapping[int, Sequence[RunInput]] = field(default_factory=dict)
    stale: str | None = None  # the current product under what was wanted so far
    input_changed_at: datetime | None = None
    request: Request | None = None
    held: str | None = None
    tripped: str | None = None
    accepted: Mapping[str, Acceptance] = field(default_factory=dict)  # by the digest of the recipe that it is for
    excluded_versions: Sequence[str] = ()  # of the step's software; `versions` has the others
    fixed: FixedParts | None = None  # of its references and configuration, where they were computed before
    companions: Sequence[Chosen] = ()
    without: Collection[str] = ()  # what a deadline has passed without, as the decision before told it

    @property
    def current(self) -> RunFacts | None:
        return next((run for run in self.runs if run.id == self.current_run_id), None)

    @property
    def compared(self) -> RunFacts | None:
        """The run with which what is wanted is compared: the current one, else the newest."""
        return self.current or (self.runs[-1] if self.runs else None)

    @property
    def observed_at(self) -> datetime:
        """When its newest observation began; now where no archived member says so."""
        times = [m.observed_at for m in self.members if m.state == PackageState.ARCHIVED]
        return max((time for time in times if time is not None), default=self.now)


@dataclass(frozen=True)
class Decision:
    """What is to be done. `due_at`: when to look again even if nothing changes; None: when something changes."""

    outcome: Outcome
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    due_at: datetime | None = None
    recipe: Recipe | None = None
    software: SoftwareVersion | None = None
    inputs: tuple[RunInput, ...] = ()
    supersede_run_id: int | None = None
    current_run_id: int | None = None  # the completed run that this decision points to
    stale: str | None = None
    keeps_request: bool = False
    asks: tuple[int, ...] = ()  # upstream sub-groups that are to make again what was removed


def decide(view: SubGroupView) -> Decision:
    """The decision for one sub-group."""
    decision = _decide(view)
    without = _passed_without(view)
    if without:
        decision = replace(decision, details={**decision.details, "without": without})
    excluded = sorted(m.name for m in view.members if m.excluded is not None)
    if excluded and view.policy.raw_inputs:
        decision = replace(decision, details={**decision.details, "excluded": excluded[:MAX_NAMES]})
    if decision.current_run_id is None and _excluded(view) is not None:
        return replace(decision, stale=_excluded(view))  # also while it waits for something else
    if decision.recipe is None and decision.outcome is not Outcome.NO_INPUTS:
        return replace(decision, stale=_stale_as_before(view))
    return decision


def _stale_as_before(view: SubGroupView) -> str | None:
    """Nothing is known of what is wanted now: the product is as stale as it was."""
    before = view.stale
    return None if before is not None and before.startswith(EXCLUDED) else before


def _decide(view: SubGroupView) -> Decision:
    waiting = _brake(view) or _unready_data(view) or _unready_upstream(view) or _unknown_companions(view)
    if waiting is not None:
        return waiting
    inputs = _wanted_inputs(view)
    if not inputs:
        stale = "input-withdrawn" if view.current is not None else None
        return Decision(
            Outcome.NO_INPUTS, details=_no_inputs_details(view), stale=stale, supersede_run_id=_superseded(view)
        )
    software = _wanted_software(view, inputs)
    if software is None:
        details = _missing_version_details(view)
        return Decision(Outcome.WAITING_FOR_IMAGE, details=details, keeps_request=True)
    if software.image is not None and software.image_digest is None:
        details = {"software": software.software, "version": software.version, "image": software.image}
        return Decision(Outcome.WAITING_FOR_IMAGE, details=details, keeps_request=True)
    recipe = _recipe(view, inputs, software)
    decision = (
        _existing(view, recipe, inputs)
        or _tolerated(view, recipe, inputs)
        or _restored_anyway(view, recipe, inputs)
        or _unready_companions(view, recipe)
        or _gap(view, recipe, inputs)
    )
    decision = _with_files(view, decision)
    return replace(decision, recipe=recipe, software=software, inputs=inputs)


def plan_trial(view: SubGroupView, trial: Mapping[str, Any]) -> Decision:
    """A run of what is there now with another version (`version`) or other configuration (`config`): it never counts.

    It waits for nothing and changes no decision; `no-inputs` and `waiting-for-image` say that it cannot be made.
    """
    inputs = _wanted_inputs(view)
    if not inputs:
        return Decision(Outcome.NO_INPUTS, details=_no_inputs_details(view))
    wanted = trial.get("version")
    software = (
        next((v for v in view.versions if v.version == wanted), None) if wanted else _wanted_software(view, inputs)
    )
    if software is None or (software.image is not None and software.image_digest is None):
        return Decision(Outcome.WAITING_FOR_IMAGE, details=_no_trial_details(view, software, wanted))
    removed = _removed_upstream(view)
    if removed:
        return Decision(Outcome.WAITING_FOR_UPSTREAM, details=_removed_details(removed))
    policy = replace(view.policy, config=changed_config(view.policy.config, trial.get("config") or {}))
    recipe = _recipe(replace(view, policy=policy, fixed=None), inputs, software)
    text = view.request.text if view.request is not None else ""
    return Decision(
        Outcome.RUN, "requested", {"trial": dict(trial), "request": text}, recipe=recipe, software=software, inputs=inputs
    )


def plan_acceptance(view: SubGroupView) -> Decision:
    """What is accepted by declaring the current product, which is good, to be what is wanted now.

    What is wanted is told by what is known now; it waits for nothing. `accepted`: for `recipe`, which differs by
    `changes`, and was accepted before if `already`; `up-to-date`: nothing differs; else nothing is wanted.
    """
    current, free = view.current, replace(view, request=None)  # as the next decision sees it: this ends a request
    assert current is not None
    inputs = _wanted_inputs(free)
    if not inputs:
        return Decision(Outcome.NO_INPUTS, details=_no_inputs_details(free))
    software = _wanted_software(free, inputs)
    if software is None or (software.image is not None and software.image_digest is None):
        return Decision(Outcome.WAITING_FOR_IMAGE, details=_no_trial_details(free, software, None))
    recipe = _recipe(free, inputs, software)
    if recipe.digest == current.recipe_digest:
        return Decision(Outcome.UP_TO_DATE, recipe=recipe, current_run_id=current.id)
    details = {"changes": _changes(free, current, recipe, inputs), "already": _accepted_before(view, recipe) is current}
    return Decision(Outcome.ACCEPTED, details=details, recipe=recipe, current_run_id=current.id)


def why_not_good(view: SubGroupView) -> str | None:
    """Why the current product cannot be declared good for anything; None: it can."""
    current = view.current
    if current is None:
        return "it has no product yet"
    if current.excluded is not None:
        return f"its product is {EXCLUDED}{current.excluded}"
    return None if current.answers else "the files of its product are gone"


def _no_trial_details(view: SubGroupView, software: SoftwareVersion | None, wanted: str | None) -> dict[str, Any]:
    if software is not None:
        return {"software": software.software, "version": software.version, "image": software.image}
    return _missing_version_details(view) | ({"exactly": wanted} if wanted else {})


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with other values at dotted keys."""
    changed: dict[str, Any] = dict(config)
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        below = changed.get(first)
        changed[first] = changed_config(below if isinstance(below, Mapping) else {}, {rest: value}) if rest else value
    return changed


# --- brakes and readiness -----------------------------------------------------------------------------------------


def _brake(view: SubGroupView) -> Decision | None:
    if view.held:
        return Decision(Outcome.HELD, details={"reason": view.held}, keeps_request=True)
    if view.tripped:
        return Decision(Outcome.TRIPPED, details={"class": view.tripped}, keeps_request=True)
    return None


def _deadline(view: SubGroupView) -> datetime | None:
    if view.policy.deadline_hours is None:
        return None
    return _later(view.round_at, view.policy.deadline_hours * 3600)


def _later(moment: datetime, seconds: float) -> datetime:
    """A span that reaches beyond the calendar is for ever: one step must not stop all that are decided on with it."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return NEVER


def _is_over(view: SubGroupView) -> bool:
    deadline = _deadline(view)
    return deadline is not None and deadline <= view.now


def _is_done_without(view: SubGroupView, *keys: str) -> bool:
    """Whether a deadline has passed without it: it is not waited for again until it has come once."""
    return view.policy.deadline_hours is not None and any(key in view.without for key in keys)


def _passed_without(view: SubGroupView) -> list[str]:
    """What is still lacking of what a deadline has passed without, now or before."""
    if view.policy.deadline_hours is None:
        return []
    lacking: dict[str, tuple[str, ...]] = {key: (key,) for key in map(_package_key, _lacking_members(view))}
    lacking |= {_upstream_keys(u)[0]: _upstream_keys(u) for u in _awaited_upstream(view)[0]}
    of_companions = (
        _companion_key(c, name) for c in view.companions if c.required for t in c.lacking for name in t.packages
    )
    lacking |= {key: (key,) for key in of_companions}
    return sorted(key for key, same in lacking.items() if _is_over(view) or _is_done_without(view, *same))


def _package_key(member: Member) -> str:
    return f"package {member.name}"


def _upstream_keys(group: UpstreamGroup) -> tuple[str, ...]:
    """How it is told, then how it may have been told before: one that failed and is tried again is waited for anew."""
    key = f"upstream {group.pipeline}/{group.step} {group.sub_group}"
    return (f"{key} (failed)", key) if group.failed else (key,)


def _companion_key(chosen: Chosen, package: str) -> str:
    return f"companion {chosen.name} of {package}"


def _lacking_members(view: SubGroupView) -> list[Member]:
    """Packages that are on their way, or whose obs unit has not ended."""
    if not view.policy.raw_inputs or view.policy.complete != "executed_obs_unit":
        return []
    return [m for m in view.members if m.excluded is None and (_is_on_its_way(m) or not m.ended)]


def _is_on_its_way(member: Member) -> bool:
    return member.state in (PackageState.WAITING, PackageState.TRANSFERRING)


def _awaited_upstream(view: SubGroupView) -> tuple[list[UpstreamGroup], int]:
    """Those that have not settled, and of how many that were known when the sub-group fell due."""
    known = [u for u in view.upstream if u.known_at <= view.round_at or u.has_product]
    wait = view.policy.on_upstream_failure == "wait"
    return [u for u in known if not u.settled or (u.failed and wait)], len(known)


def _unready_data(view: SubGroupView) -> Decision | None:
    """`waiting-for-data` while packages of the sub-group are on their way or their obs unit has not ended."""
    awaited = [m for m in _lacking_members(view) if not _is_done_without(view, _package_key(m))]
    if not awaited or _is_over(view):
        return None
    deadline = _deadline(view)
    packages = [{"name": m.name, "state": m.state} for m in awaited if _is_on_its_way(m)]
    details: dict[str, Any] = {"packages": packages, "until": _text(deadline)}
    if any(not m.ended for m in awaited):
        details["obs_unit_not_ended"] = sorted(m.name for m in awaited if not m.ended)
    return Decision(Outcome.WAITING_FOR_DATA, details=details, due_at=deadline, keeps_request=True)


def _unready_upstream(view: SubGroupView) -> Decision | None:
    """`waiting-for-upstream` until what was known when the sub-group fell due has settled (or enough of it)."""
    unsettled, known = _awaited_upstream(view)
    awaited = [u for u in unsettled if not _is_done_without(view, *_upstream_keys(u))]
    if not awaited or _is_over(view) or _enough(view.policy.requires, known - len(unsettled), known):
        return None
    deadline = _deadline(view)
    upstream: list[dict[str, Any]] = [
        {"pipeline": u.pipeline, "step": u.step, "sub_group": u.sub_group, "state": u.state} for u in awaited
    ]
    details: dict[str, Any] = {"upstream": upstream, "until": _text(deadline)}
    return Decision(Outcome.WAITING_FOR_UPSTREAM, details=details, due_at=deadline, keeps_request=True)


def _unknown_companions(view: SubGroupView) -> Decision | None:
    """`waiting-for-data` for a moment while the packages of a companion, which is new, are being grouped."""
    unknown = [_lacking_json(c) for c in view.companions if not c.known]
    if not unknown:
        return None
    soon = view.now + COMPANIONS_KNOWN_AFTER
    return Decision(Outcome.WAITING_FOR_DATA, details={"companions": unknown}, due_at=soon, keeps_request=True)


def _unready_companions(view: SubGroupView, recipe: Recipe) -> Decision | None:
    """`waiting-for-data` while an obs unit has none of its required companions; what exists already needs no more."""
    lacking = [_lacking_json(c) for c in map(partial(_still_awaited, view), view.companions) if c.required and c.lacking]
    if not lacking or _is_over(view):
        return None
    deadline = _deadline(view)
    return Decision(
        Outcome.WAITING_FOR_DATA, details={"companions": lacking, "until": _text(deadline)}, due_at=deadline,
        keeps_request=True, stale=_stale(view, recipe), supersede_run_id=_superseded(view),
    )  # fmt: skip


def _still_awaited(view: SubGroupView, chosen: Chosen) -> Chosen:
    """What lacks companions, without that for which a deadline has passed."""
    if view.policy.deadline_hours is None or not view.without:
        return chosen
    left = [
        replace(t, packages=tuple(name for name in t.packages if not _is_done_without(view, _companion_key(chosen, name))))
        for t in chosen.lacking
    ]
    return replace(chosen, lacking=tuple(target for target in left if target.packages))


def _lacking_json(chosen: Chosen) -> dict[str, Any]:
    packages = sorted(name for target in chosen.lacking for name in target.packages)
    units = sorted({target.unit for target in chosen.lacking if target.unit is not None})
    return {
        "companion": chosen.name,
        "known": chosen.known,
        "obs_units": units[:MAX_NAMES],
        "packages": packages[:MAX_NAMES],
        "excluded": list(chosen.excluded[:MAX_NAMES]),
        "within_hours": None if chosen.within is None else chosen.within / timedelta(hours=1),
    }


def _enough(requires: str | float, settled: int, known: int) -> bool:
    return not isinstance(requires, str) and settled > 0 and settled >= requires * known


# --- what is wanted --------------------------------------------------------------------------------------------------


def _wanted_inputs(view: SubGroupView) -> tuple[RunInput, ...]:
    packages = [
        RunInput(InputKind.PACKAGE, InputRole.MEMBER, m.name, m.package_id, m.checksum, m.size_bytes)
        for m in sorted(view.members, key=lambda m: (m.name, m.package_id))
        if m.usable and view.policy.raw_inputs
    ]
    if view.policy.depends_on and not view.products:
        return ()  # a step with upstream steps has nothing to do without any of their products
    if not packages and not view.products:
        return ()  # companions alone are nothing to work on
    return (*packages, *_companion_inputs(view), *view.products)


def _companion_inputs(view: SubGroupView) -> list[RunInput]:
    found: list[RunInput] = []
    for chosen in view.companions:
        told: set[str] = set()  # keys: what all of one key serve is said once
        for c in chosen.packages:
            serves = () if chosen.shared and c.key in told else chosen.served.get(c.package_id, ())
            told.add(c.key)
            found.append(RunInput(
                InputKind.PACKAGE, InputRole.COMPANION, c.name, c.package_id, c.checksum, c.size_bytes,
                companion=chosen.name, serves=serves, same=c.key if chosen.shared else None,
            ))  # fmt: skip
    return found


def _missing_version_details(view: SubGroupView) -> dict[str, Any]:
    """What is wanted of the software, and the versions that are there; of many the newest."""
    policy = view.policy
    details: dict[str, Any] = {"software": policy.software, "missing": "version"}
    if policy.version:
        details["exactly" if policy.version_policy == "exact" else "at_least"] = policy.version
    details["versions"] = sorted((v.version for v in view.versions), key=version_key)[-MAX_NAMES:]
    if view.excluded_versions:
        details["excluded_versions"] = list(view.excluded_versions)
    return details


def _no_inputs_details(view: SubGroupView) -> dict[str, Any]:
    failed = [u.sub_group for u in view.upstream if u.failed]
    return {"packages": len(view.members), "upstream": len(view.upstream), "upstream_failed": failed}


def _recipe(view: SubGroupView, inputs: Sequence[RunInput], software: SoftwareVersion) -> Recipe:
    policy = view.policy
    fixed = view.fixed or fixed_parts(view.references, policy.config, policy.environment)
    return build_recipe(inputs, fixed, software)


def _wanted_software(view: SubGroupView, inputs: Sequence[RunInput]) -> SoftwareVersion | None:
    """The version that `version_policy` asks for, or None where there is none."""
    policy = view.policy
    versions = sorted(view.versions, key=lambda v: version_key(v.version))
    if policy.version_policy == "exact":
        return next((v for v in versions if v.version == policy.version), None)
    if policy.version:
        versions = [v for v in versions if version_key(v.version) >= version_key(policy.version)]
    if not versions:
        return None
    newest = versions[-1]
    if policy.version_policy == "latest":
        return newest
    return _compatible_version(view, inputs, versions, newest)


def _compatible_version(
    view: SubGroupView,
    inputs: Sequence[RunInput],
    versions: Sequence[SoftwareVersion],
    newest: SoftwareVersion,
) -> SoftwareVersion:
    """The current run's version while its major is the newest's and nothing else changed that counts; else the newest."""
    current = view.current
    if current is None or major(current.version) != major(newest.version):
        return newest
    kept = next((v for v in versions if v.version == current.version), None)
    if kept is None:
        return newest
    recipe = _recipe(view, inputs, kept)
    changed = set(changed_parts(current.recipe, recipe))
    if changed - {"software"} and ("software" in changed or _tolerated(view, recipe, inputs) is None):
        return newest
    return kept


# --- what exists, and the gap --------------------------------------------------------------------------------------


def _counts(view: SubGroupView, run: RunFacts) -> bool:
    """Whether a run can be what is wanted: with its files, or without them while it is current and nobody asks for it."""
    return run.good or (run.answers and run.id == view.current_run_id and view.request is None)


def _existing(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> Decision | None:
    """A run that already answers the wanted recipe: accepted for it, open, completed with its files, or blocking it."""
    accepted = _accepted(view, recipe, inputs)
    if accepted is not None:
        return accepted
    same = [run for run in view.runs if run.recipe_digest == recipe.digest]
    opened = next((run for run in same if run.is_open), None)
    if opened is not None:
        details = {"run": opened.id, "status": opened.status.value}
        return Decision(
            Outcome.BUSY, details=details, keeps_request=_forced(view), stale=_stale(view, recipe)
        )
    if _forced(view):
        return None
    completed = [run for run in same if _counts(view, run)]
    if completed:
        return _completed(view, completed)
    blocking = next((run for run in reversed(same) if run.blocking or _given_up(view, run)), None)
    return _blocked(view, recipe, blocking) if blocking is not None else None


def _given_up(view: SubGroupView, run: RunFacts) -> bool:
    """Whether it is excluded itself. A trial that was promoted and does not count holds nothing back, as if it were
    still one: nobody has asked for what was made with it but to try it out.
    """
    return run.excluded_itself and not (run.tried_out and run.id != view.current_run_id)


def _accepted(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> Decision | None:
    """A person declared a product good for the wanted recipe: for this one it holds, also when it is wanted again later.

    Asking for a run ends it: what is made then counts.
    """
    current = view.current
    if _forced(view) or (current is not None and _counts(view, current) and current.recipe_digest == recipe.digest):
        return None
    run = _accepted_before(view, recipe)
    if run is None:
        return None
    changes = _changes(view, run, recipe, inputs) if run is current else _changed_since(run, recipe)
    return Decision(
        Outcome.ACCEPTED, details={"run": run.id, "changes": changes}, current_run_id=run.id,
        supersede_run_id=_superseded(view),
    )  # fmt: skip


def _accepted_before(view: SubGroupView, recipe: Recipe) -> RunFacts | None:
    said = view.accepted.get(recipe.digest)
    if said is None or view.request is not None:
        return None
    if any(run.recipe_digest == recipe.digest and run.created_at > said.at for run in view.runs):
        return None
    return next((run for run in view.runs if run.id == said.run_id and _counts(view, run)), None)


def _changed_since(run: RunFacts, recipe: Recipe) -> dict[str, Any]:
    """What differs from a run whose inputs and configuration are not at hand."""
    return {"compared_with_run": run.id, "parts": list(changed_parts(run.recipe, recipe))}


def _tolerated(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> Decision | None:
    """`up-to-date` where all that changed since the current product is what the step's staleness policy ignores."""
    current, ignored = view.current, view.policy.ignored_changes
    if current is None or view.request is not None or not (ignored or view.policy.ignored_config):
        return None
    if not _counts(view, current):
        return None
    reasons = change_reasons(view, current, recipe, inputs)
    return None if reasons - ignored else _good_anyway(view, Outcome.UP_TO_DATE, current, reasons)


def _good_anyway(view: SubGroupView, outcome: Outcome, run: RunFacts, reasons: Collection[str]) -> Decision:
    """A run counts though it was made from something else: that is ignored."""
    details = {"run": run.id, "not_counted": sorted(reasons) or ["config-changed"]}
    return Decision(outcome, details=details, current_run_id=run.id, supersede_run_id=_superseded(view))


def _restored_anyway(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> Decision | None:
    """`restored` where the policy ignores all in which an earlier product differs from what is wanted; the newest such."""
    for run in _earlier_runs(view, recipe):
        if _inputs_differ(run, recipe) and run.id not in view.earlier_inputs:
            continue
        then = replace(view, compared_inputs=view.earlier_inputs.get(run.id, ()), compared_config=run.config,
                       compared_environment=run.environment)  # fmt: skip
        reasons = change_reasons(then, run, recipe, inputs)
        if not reasons - view.policy.ignored_changes:
            return _good_anyway(view, Outcome.RESTORED, run, reasons)
    return None


def _earlier_runs(view: SubGroupView, recipe: Recipe) -> list[RunFacts]:
    """Of the last completed runs those that differ from a recipe in nothing that always counts, newest first."""
    policy = view.policy
    if view.request is not None or not (policy.ignored_changes or policy.ignored_config):
        return []
    ignorable = {part for part, reason in _PART_REASONS.items() if reason in policy.ignored_changes}
    ignorable |= {"configuration"} if policy.ignored_config else set()
    ignorable |= {"inputs"} if _ignores_inputs(policy) else set()
    completed = [r for r in view.runs if r.status is RunStatus.COMPLETED and r.id != view.current_run_id]
    newest_first = reversed(completed[-EARLIER_RUNS:])
    return [run for run in newest_first if run.good and ignorable.issuperset(changed_parts(run.recipe, recipe))]


def _ignores_inputs(policy: StepPolicy) -> bool:
    return not policy.ignored_changes.isdisjoint(_INPUT_REASONS.values())


def _inputs_differ(run: RunFacts, recipe: Recipe) -> bool:
    return run.recipe.inputs != recipe.inputs


def earlier_to_compare(view: SubGroupView) -> list[int]:
    """Ids of the earlier runs that may do instead of a new one: the decision reads `earlier_inputs` of them."""
    others = any(run.good and run.id != view.current_run_id for run in view.runs)
    if not (others and _ignores_inputs(view.policy)):
        return []
    decision = decide(view)
    if decision.recipe is None or decision.outcome in (Outcome.UP_TO_DATE, Outcome.FAILED, Outcome.CANCELLED):
        return []
    runs = _earlier_runs(view, decision.recipe)
    return [run.id for run in runs if _inputs_differ(run, decision.recipe)]


def change_reasons(
    view: SubGroupView, compared: RunFacts, recipe: Recipe, inputs: Sequence[RunInput]
) -> frozenset[str]:
    """Every reason for which the wanted recipe differs from that of the current run, less ignored configuration keys."""
    changes = _changes(view, compared, recipe, inputs)
    found = frozenset(_found_reasons(compared, recipe, changes))
    return found - {"config-changed"} if _only_ignored_config(view, changes.get("config")) else found


def _only_ignored_config(view: SubGroupView, changed: Iterable[str] | None) -> bool:
    """Whether the configuration differs in keys that do not matter only, and the environment not at all."""
    if not changed or dict(view.compared_environment or {}) != dict(view.policy.environment):
        return False
    return all(_is_ignored_key(view, key) for key in changed)


def _is_ignored_key(view: SubGroupView, key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in view.policy.ignored_config)


def _completed(view: SubGroupView, completed: Sequence[RunFacts]) -> Decision:
    """`up-to-date` if the current run is among them, else `restored`; either stops an older run not yet handed over."""
    ids = [run.id for run in completed]
    here = view.current_run_id in ids
    run_id = view.current_run_id if here else ids[-1]
    return Decision(
        Outcome.UP_TO_DATE if here else Outcome.RESTORED,
        details={"run": run_id},
        current_run_id=run_id,
        supersede_run_id=_superseded(view),
    )


def _blocked(view: SubGroupView, recipe: Recipe, run: RunFacts) -> Decision:
    outcome = Outcome.FAILED if run.status is RunStatus.FAILED else Outcome.CANCELLED
    details: dict[str, Any] = {"run": run.id, "class": run.failure_class, "message": run.message}
    if run.excluded_itself:
        details |= {"excluded_run": True, "message": run.excluded}
    return Decision(outcome, details=details, stale=_stale(view, recipe), supersede_run_id=_superseded(view))


def _gap(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> Decision:
    reason, changes = run_reason(view, recipe, inputs)
    stale = _stale(view, recipe, reason)
    held_back = _held_back(view, reason, changes)
    if held_back is not None:
        return replace(held_back, stale=stale)  # an older run on its way may well go on
    opened = next((run for run in view.runs if run.is_open), None)
    if opened is not None and _superseded(view) is None:
        busy = {"run": opened.id, "status": opened.status.value, "then": reason, "changes": changes}
        return Decision(Outcome.BUSY, details=busy, stale=stale, keeps_request=True)
    details: dict[str, Any] = {"changes": changes}
    if view.request and view.request.text:
        details["request"] = view.request.text
    if _forced(view):
        details["forced"] = True  # though it may be there
    return Decision(Outcome.RUN, reason, details, stale=stale, supersede_run_id=_superseded(view))


def _removed_upstream(view: SubGroupView) -> list[UpstreamGroup]:
    return [group for group in view.upstream if group.has_product and group.removed]


def _with_files(view: SubGroupView, decision: Decision) -> Decision:
    """A run that would read what was removed waits until that is made again, and asks for it.

    One that failed for good is not asked again: a person says how it goes on.
    """
    removed = _removed_upstream(view)
    if decision.outcome is not Outcome.RUN or not removed:
        return decision
    details = _removed_details(removed) | {"then": decision.reason, **decision.details}
    return replace(
        decision, outcome=Outcome.WAITING_FOR_UPSTREAM, reason=None, details=details, keeps_request=True,
        asks=tuple(u.id for u in removed if u.id is not None and u.enabled and not u.failed),
    )  # fmt: skip


def _removed_details(removed: Sequence[UpstreamGroup]) -> dict[str, Any]:
    """Which upstream sub-groups have no files, and what is in the way of making them again."""
    return {
        "removed": True,
        "upstream": [
            {"pipeline": u.pipeline, "step": u.step, "sub_group": u.sub_group, "state": _state_of_removed(u)}
            for u in removed
        ],
    }


def _state_of_removed(group: UpstreamGroup) -> str:
    if not group.enabled:
        return "files removed, and disabled"
    return "files removed, and failed" if group.failed else "files removed"


def _superseded(view: SubGroupView) -> int | None:
    return next((run.id for run in view.runs if run.is_open and run.status in WITHOUT_JOB), None)


def _held_back(view: SubGroupView, reason: str, changes: Mapping[str, Any]) -> Decision | None:
    if view.policy.settle_seconds and view.input_changed_at is not None and not _forced(view):
        until = _later(view.input_changed_at, view.policy.settle_seconds)
        if until > view.now:
            details = {"until": _text(until), "changes": changes}
            return Decision(Outcome.SETTLING, reason, details, until, keeps_request=True)
    if reason in COOLED_REASONS and view.policy.cooldown_seconds and view.runs and view.current is not None:
        until = _later(max(r.created_at for r in view.runs), view.policy.cooldown_seconds)
        if until > view.now:
            details = {"until": _text(until), "changes": changes}
            return Decision(Outcome.COOLING_DOWN, reason, details, until, keeps_request=True)
    return None


def run_reason(view: SubGroupView, recipe: Recipe, inputs: Sequence[RunInput]) -> tuple[str, dict[str, Any]]:
    """The first reason to run that counts, and what changed, compared with the current run (else the newest made)."""
    compared = view.compared
    changes = _changes(view, compared, recipe, inputs)
    if view.request is not None:
        return view.request.reason, changes
    if compared is None:
        return "new-sub-group", changes
    found = _found_reasons(compared, recipe, changes)
    ignored = _ignored_reasons(view, changes)
    counted = [reason for reason in found if reason not in ignored]
    if counted:
        return counted[0], _with_ignored_apart(view, changes, ignored)
    if found:
        return found[0], changes  # there is no product that could do in spite of them
    if view.current is None:
        return "new-sub-group", changes  # what was begun for it was superseded, and is wanted after all
    # The same, but not to be used: what it stood on was excluded, and others made the same of the rest.
    return "upstream-changed" if compared.excluded is not None else "requested", changes


_PART_REASONS = {
    "upstream": "upstream-changed",
    "references": "reference-changed",
    "configuration": "config-changed",
    "software": "software-changed",
}


# A withdrawal or a change weighs more than an addition: a cooldown must not hold it back.
_INPUT_REASONS = {
    "inputs_withdrawn": "input-withdrawn",
    "inputs_changed": "input-changed",
    "companions_withdrawn": "companion-changed",
    "companions_changed": "companion-changed",
    "companions_added": "companion-changed",
    "inputs_added": "input-added",
}


_CHANGE_REASONS = _INPUT_REASONS | {
    "companions_withdrawn_too": "input-withdrawn",  # with all members that they served
    "companions_added_too": "input-added",
    "upstream_added": "upstream-changed",
    "upstream_withdrawn": "upstream-changed",
    "upstream_changed": "upstream-changed",
    "references": "reference-changed",
    "config": "config-changed",
    "environment": "config-changed",
}


def _found_reasons(compared: RunFacts, recipe: Recipe, changes: Mapping[str, Any]) -> list[str]:
    """Every reason for which a recipe differs from a run's, the weightiest first."""
    parts = changed_parts(compared.recipe, recipe)
    named = dict.fromkeys(reason for key, reason in _INPUT_REASONS.items() if changes.get(key))
    found = (list(named) or ["input-changed"]) if "inputs" in parts else []
    return found + [reason for part, reason in _PART_REASONS.items() if part in parts]


def _ignored_reasons(view: SubGroupView, changes: Mapping[str, Any]) -> frozenset[str]:
    """Reasons that do not count for the step; where the current product is excluded, all count."""
    if _excluded(view) is not None:
        return frozenset()
    config = {"config-changed"} if _only_ignored_config(view, changes.get("config")) else set()
    return view.policy.ignored_changes | config


def _with_ignored_apart(view: SubGroupView, changes: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """The changes, with those that do not count under `ignored`."""
    besides = {key: what for key, what in changes.items() if _CHANGE_REASONS.get(key) in ignored}
    kept = {key: what for key, what in changes.items() if key not in besides}
    if "config" in kept and _excluded(view) is None:
        minor = {key: what for key, what in kept["config"].items() if _is_ignored_key(view, key)}
        kept["config"] = {key: what for key, what in kept["config"].items() if key not in minor}
        besides |= {"config": minor} if minor else {}
    return {**kept, "ignored": besides} if besides else kept


def _changes(
    view: SubGroupView, compared: RunFacts | None, recipe: Recipe, inputs: Sequence[RunInput]
) -> dict[str, Any]:
    if compared is None:
        return {}
    parts = changed_parts(compared.recipe, recipe)
    changes: dict[str, Any] = {"compared_with_run": compared.id, "parts": list(parts)}
    old = {_place(i): _what(i) for i in view.compared_inputs}
    new = {_place(i): _what(i) for i in inputs}
    served = _served(view.compared_inputs), _served(inputs)
    return {**changes, **_input_changes(old, new, *served), **_other_changes(view, compared, parts, inputs)}


def _served(inputs: Iterable[RunInput]) -> dict[str, frozenset[str]]:
    """For which members companions are there, by their names as changes have them."""
    companions = [i for i in inputs if i.role is InputRole.COMPANION]
    shared: dict[tuple[str | None, str | None], frozenset[str]] = {
        (i.companion, i.same): frozenset(i.serves) for i in companions if i.same is not None and i.serves
    }  # fmt: skip
    return {_place(i)[1]: shared.get((i.companion, i.same)) or frozenset(i.serves) for i in companions}


def _what(item: RunInput) -> tuple[Any, ...]:
    """What of an input counts in the recipe. A package that was taken away and came back under its name is another."""
    content = item.checksum or item.size_bytes
    return (item.identity, content) if item.kind is InputKind.PACKAGE else (content,)


def _other_changes(
    view: SubGroupView, compared: RunFacts, parts: Sequence[str], inputs: Sequence[RunInput]
) -> dict[str, Any]:
    """[old, new] of configuration and environment keys, references and the software version."""
    found: dict[str, Any] = {}
    if "configuration" in parts and view.compared_config is not None:
        found["config"] = config_changes(dict(view.compared_config), dict(view.policy.config))
        environment = config_changes(dict(view.compared_environment or {}), dict(view.policy.environment))
        found |= {"environment": environment} if environment else {}
    if "references" in parts:
        references = [i for i in view.compared_inputs if i.kind is InputKind.REFERENCE]
        old = {i.name: i.identity.removeprefix(f"{i.name}@") for i in references}
        found["references"] = config_changes(old, {reference.name: reference.version for reference in view.references})
    software = _wanted_software(view, inputs) if "software" in parts else None
    if software is not None:
        found["software"] = [compared.version, software.version]
    return found


def _place(item: RunInput) -> tuple[str, str]:
    """What kind of change it is when this input comes or goes, and its name in there."""
    if item.kind is InputKind.PRODUCT:
        return "upstream", f"{item.upstream_step}/{item.upstream_sub_group}/{item.name}"
    if item.role is InputRole.COMPANION:
        return "companions", f"{item.companion}/{item.name}"
    return ("inputs" if item.kind is InputKind.PACKAGE else item.kind.value), item.name


def _input_changes(
    old: dict[Any, Any], new: dict[Any, Any], served: Mapping[str, frozenset[str]], serving: Mapping[str, frozenset[str]]
) -> dict[str, Any]:
    """What came, went and changed. A companion that served nothing but members that went goes with them, and so it comes:
    that is no change of its own.
    """
    changes: dict[str, Any] = {}
    members: dict[str, list[str]] = {}
    for prefix in ("inputs", "companions", "upstream"):
        before = {name: c for (kind, name), c in old.items() if kind == prefix}
        after = {name: c for (kind, name), c in new.items() if kind == prefix}
        found = {
            f"{prefix}_added": sorted(after.keys() - before.keys()),
            f"{prefix}_withdrawn": sorted(before.keys() - after.keys()),
            f"{prefix}_changed": sorted(n for n in after.keys() & before.keys() if after[n] != before[n]),
        }
        if prefix == "inputs":
            members = found
        if prefix == "companions":
            for way, said in (("withdrawn", served), ("added", serving)):
                moved = set(members[f"inputs_{way}"])
                found[f"companions_{way}_too"] = [n for n in found[f"companions_{way}"] if said[n] and said[n] <= moved]
                apart = set(found[f"companions_{way}_too"])
                found[f"companions_{way}"] = [n for n in found[f"companions_{way}"] if n not in apart]
        changes |= {key: names[:MAX_NAMES] for key, names in found.items() if names}
    return changes


def config_changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Dotted key -> [old, new] of what differs; None stands for an absent key."""
    changes: dict[str, list[Any]] = {}
    for key in sorted(old.keys() | new.keys(), key=str):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes |= config_changes(before, after, f"{prefix}{key}.")
        elif before != after:
            changes[f"{prefix}{key}"] = [before, after]
    return changes


def _stale(view: SubGroupView, recipe: Recipe, reason: str | None = None) -> str | None:
    """Why the present current product is stale under the wanted recipe, or None."""
    current = view.current
    if current is None or current.recipe_digest == recipe.digest:
        return None
    return reason or ", ".join(f"{part} changed" for part in changed_parts(current.recipe, recipe))


def _excluded(view: SubGroupView) -> str | None:
    """Why the current product is not to be used at all."""
    current = view.current
    return f"{EXCLUDED}{current.excluded}" if current is not None and current.excluded is not None else None


def _forced(view: SubGroupView) -> bool:
    return view.request is not None and view.request.force


def _text(time: datetime | None) -> str | None:
    return time.isoformat().replace("+00:00", "Z") if time is not None else None
