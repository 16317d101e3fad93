"""What people take out of use and bring back: exclude, include, accept. Touches: the ops-db only; passes carry it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.decision_text import changes_text, decision_text
from ccatwm.core.exclusions import Excluded, Target, parse_target
from ccatwm.core.gap import EXCLUDED, Decision, Outcome, plan_acceptance, why_not_good
from ccatwm.core.selection import Selection, suggest
from ccatwm.core.wording import core_hours_text, count_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.exclusions import (
    Impact,
    end_exclusions,
    find_excluded,
    find_impact,
    impact_of,
    why_excluded,
)
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import exclusions as store
from ccatwm.edges.opsdb.stores import triggers, views
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.due import mark_downstream_due, mark_due
from ccatwm.edges.opsdb.stores.requests import find_pipeline
from ccatwm.edges.opsdb.stores.steps import get_step_record
from ccatwm.edges.opsdb.stores.sub_groups import list_after
from ccatwm.edges.opsdb.sub_group_views import build_views
from ccatwm.errors import CcatwmError, Problem, UsageError
from ccatwm.upkeep._disabled import list_disabled
from ccatwm.upkeep._estimate import Estimate, again_text, estimate_sub_groups
from ccatwm.upkeep._reason import require_reason

SHOWN = 20
ALREADY = "accepted already"
UNCHANGED = "it has what is wanted now"
SUB_GROUPS_AT_ONCE = 500


@dataclass(frozen=True)
class Act:
    """Who acts, why and where."""

    reason: str
    actor: str
    host: str
    now: datetime
    dry_run: bool = False
    yes: bool = False
    confirm_runs: int = 500


@dataclass
class ExclusionReport:
    """What was excluded, or brought back, and what it concerns."""

    act: str
    dry_run: bool
    targets: list[dict[str, Any]]
    impact: Impact
    follows: Estimate = field(default_factory=Estimate)  # what is made at most, now that it is decided on again
    places: list[dict[str, Any]] = field(default_factory=list)  # of the sub-groups to be decided on again
    still: list[str] = field(default_factory=list)  # packages brought back that something else excludes
    already: frozenset[str] = frozenset()  # targets that are excluded as it was said: nothing is written of them

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": f"ccatwm.{self.act}/1",
            "dry_run": self.dry_run,
            self.act: self.targets,
            "still_excluded": self.still,
            "follows": self.follows.to_json(),
            "impact": {**_impact_json(self.impact), "sub_group_list": self.places},
        }

    def lines(self) -> list[str]:
        """For people."""
        done = {"exclude": "excluded", "include": "no longer excluded"}[self.act]
        would = f"would be {done}" if self.dry_run else done
        said = [
            f"{t['target']}: {would}" + (f" instead of {t['instead_of']}" if t["instead_of"] else "")
            for t in self.targets
            if t["target"] not in self.already
        ]
        told = [
            f"{t['target']}: already excluded (exclusion {t['exclusion']})"
            for t in self.targets
            if t["target"] in self.already
        ]
        if told and not said:
            return told
        said = told + said
        if self.still:
            names = ", ".join(self.still[:SHOWN]) + (", ..." if len(self.still) > SHOWN else "")
            said.append(f"  something else still excludes {names}: `ccatwm exclude --list`")
        said += _impact_lines(self.impact)
        said += [f"what is made again: at most {again_text(self.follows)}"] if self.follows.sub_groups else []
        said += _former_lines(self.impact) if self.act == "include" else []
        return [*said, "`ccatwm resolve` decides on them next"] if self.impact.sub_groups and not self.dry_run else said


def _impact_json(impact: Impact) -> dict[str, Any]:
    return {
        "packages": sorted(impact.packages),
        "sub_groups": len(impact.sub_groups),
        "runs": [{k: r[k] for k in ("run", "pipeline", "step", "sub_group", "cpu_hours")} for r in impact.current],
        "products": [dict(row) for row in impact.products],
        "former_products": [dict(row) for row in impact.former],
        "under_way": impact.under_way,
        "published_sets": impact.published,
        "core_hours": round(sum(row["cpu_hours"] or 0.0 for row in impact.current), 2),
    }


def _impact_lines(impact: Impact) -> list[str]:
    """For people."""
    hours = sum(row["cpu_hours"] or 0.0 for row in impact.current)
    head = (
        f"{count_text(len(impact.packages), 'package')}, {count_text(len(impact.sub_groups), 'sub-group')} to decide on "
        f"again, {count_text(len(impact.products), 'product')} of {count_text(len(impact.current), 'current run')} "
        f"({core_hours_text(hours)} when they were made)"
    )
    under_way = [
        f"  {count_text(len(impact.under_way), 'run')} under way with it: what they make is not used (`ccatwm cancel` "
        f"stops them): {', '.join(map(str, impact.under_way[:SHOWN]))}"
    ] if impact.under_way else []  # fmt: skip
    published = [
        f"  published set {row['name']} holds {count_text(len(row['products']), 'product')} made from it"
        for row in impact.published
    ]
    return [head, *under_way, *published, *_product_lines(impact.products)]


def _former_lines(impact: Impact) -> list[str]:
    """What others took the place of meanwhile. Only `resolve` finds out whether it is what is wanted now."""
    if not impact.former:
        return []
    earlier = len({p["run"] for p in impact.former})
    products, runs = count_text(len(impact.former), "product"), count_text(earlier, "earlier run")
    head = f"{products} of {runs} may count again, where what they were made from is wanted still"
    return [head, *_product_lines(impact.former)]


def _product_lines(products: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [f"  product {p['product']} of run {p['run']}: {p['type']} {p['path']}" for p in products[:SHOWN]]
    more = len(products) - SHOWN
    return [*shown, *([f"  and {more} more; --json lists all"] if more > 0 else [])]


# --- exclude --------------------------------------------------------------------------------------------------


def exclude(
    database: Database,
    grouping: GroupingEngine,
    texts: Sequence[str],
    act: Act,
    *,
    pipeline: str | None = None,
    until: datetime | None = None,
) -> ExclusionReport:
    """Take packages, runs, products or a software version out of use, and mark what was made from them.

    Errors: UsageError without a reason, for what is not there, and above `confirm_runs`.
    """
    _check(act, texts)
    if until is not None and until <= act.now:
        raise UsageError("--until is over already", next="leave it out, or say a later time")
    with database.write() if not act.dry_run else database.read() as connection:
        _check_pipeline(connection, pipeline)
        impact = Impact()
        reports = []
        already = set()
        for target, of_it in _targets(connection, grouping, texts, pipeline, act.now):
            same = _same(connection, target, pipeline)
            known = same.exclusion.id if same is not None else None
            instead = same is not None and (same.until, same.exclusion.reason) != (until, act.reason)
            if not act.dry_run and (known is None or instead):
                store.end_exclusions(connection, [known] if known is not None else [], act.now)
                known = store.insert_exclusion(
                    connection, target, pipeline=pipeline, reason=act.reason, actor=act.actor, now=act.now, until=until
                )
            reports.append({"exclusion": known, "target": target.text, "instead_of": _before(same) if instead else None})
            if same is not None and not instead:
                already.add(target.text)
            else:
                impact.add(of_it)
        _confirm(impact, act)
        follows = estimate_sub_groups(connection, impact.sub_groups, impact.packages)
        places = store.places_of_sub_groups(connection, impact.sub_groups)
        report = ExclusionReport(
            "exclude", act.dry_run, reports, impact, follows, places, already=frozenset(already)
        )
        if not act.dry_run and len(already) < len(reports):
            mark_due(connection, impact.sub_groups, act.now)
            concerned = [row["sub_group_id"] for row in impact.current]
            store.mark_stale(connection, concerned, f"{EXCLUDED}{act.reason}", act.now)
            mark_downstream_due(connection, impact.feeding, act.now)  # they see these products no more
            _log(connection, "exclude", texts, act, {"pipeline": pipeline, "until": utc_text(until)})
    return report


def _check(act: Act, texts: Sequence[str]) -> None:
    if not texts:
        raise UsageError("nothing is named", next="`ccatwm exclude --list` shows what is excluded now")
    require_reason(act.reason, "it is kept, and shown with every product that it concerns")


def _confirm(impact: Impact, act: Act) -> None:
    """Errors: UsageError where more than `confirm_runs` sub-groups are decided on again and nobody said `yes`."""
    if len(impact.sub_groups) > act.confirm_runs and not (act.yes or act.dry_run):
        raise UsageError(
            f"{_impact_lines(impact)[0]}: more than CONFIRM_RUNS ({act.confirm_runs})",
            next="look at it with --dry-run, then say --yes",
        )


def _packages_like(connection: sa.Connection, target: Target) -> str:
    if target.kind != "package":
        return "`ccatwm groupings show NAME --group-by executed_obs_unit` lists what a data grouping selects"
    name = target.text.partition(":")[2]
    names = views.list_package_names(connection, name)
    return suggest(name, names, none="no pipeline selects any yet; `ccatwm groupings list` shows what there is")


def _check_pipeline(connection: sa.Connection, name: str | None) -> None:
    if name is None:
        return
    known = find_pipeline(connection, name)
    if known.id is None:
        raise UsageError(f"there is no pipeline {name!r}", next=suggest(name, known.names))


def _targets(
    connection: sa.Connection, grouping: GroupingEngine, texts: Sequence[str], pipeline: str | None, now: datetime
) -> list[tuple[Target, Impact]]:
    """What the texts name, that it is there, and what it concerns. Errors: UsageError with all mistakes at once."""
    problems: list[Problem] = []
    found: list[tuple[Target, Impact]] = []
    for text in dict.fromkeys(texts):
        try:
            target = _found(connection, grouping, parse_target(text, now))
            impact = find_impact(connection, grouping, target, pipeline, now)
            if target.of_packages and target.kind != "module" and not impact.packages:
                raise UsageError(f"{text}: no package is, or belongs to, that", next=_packages_like(connection, target))
            found.append((target, impact))
        except UsageError as error:
            problems.append(Problem(text, error.message, error.next))
    if len(problems) == 1:
        raise UsageError(problems[0].what, next=problems[0].next)
    if problems:
        raise UsageError("some of it cannot be excluded; nothing was", problems=problems)
    return found


def _found(connection: sa.Connection, grouping: GroupingEngine, target: Target) -> Target:
    selection = target.selection
    untold = grouping.check(selection["rules"], []) if target.of_packages else []
    if untold:  # tables of others may say less than ours
        what = f"{target.text}: the ops-db does not tell that: {untold[0].what}"
        raise UsageError(what, next="name it in opsdb-map.yaml, if it is there; or exclude package:NAME")
    if target.kind == "module":
        name, known = target.text.removeprefix("module:").partition("@")[0], grouping.modules(connection)
        if name not in known:
            raise UsageError(f"there is no module {name!r}", next=suggest(name, known, none="no module is known"))
    if target.kind == "product":
        run_id = store.find_product_run(connection, selection["product"])
        if run_id is None:
            raise UsageError(f"there is no product {selection['product']}", next="`ccatwm products` lists them")
        return Target(target.kind, target.text, {**selection, "run": run_id})
    if target.kind == "run" and not store.run_exists(connection, selection["run"]):
        raise UsageError(f"there is no run {selection['run']}", next="`ccatwm runs` lists them")
    if target.kind == "software":
        versions = views.list_software_versions(connection, selection["software"])
        if selection["version"] not in versions:
            what = f"software {selection['software']!r} has no version {selection['version']!r}"
            raise UsageError(what, next=suggest(selection["version"], versions, none="`ccatwm apply` defines software"))
    return target


def _same(connection: sa.Connection, target: Target, pipeline: str | None) -> store.ExclusionRow | None:
    """The exclusion of the same that holds already: another reason or end takes its place."""
    for row in store.list_exclusions(connection):
        if (row.exclusion.text, row.exclusion.pipeline) == (target.text, pipeline):
            return row
    return None


def _before(row: store.ExclusionRow | None) -> str | None:
    if row is None:
        return None
    until = "" if row.until is None else f", until {utc_text(row.until)}"
    return f"exclusion {row.exclusion.id} ({row.exclusion.reason}{until})"


# --- include --------------------------------------------------------------------------------------------------


def include(
    database: Database, grouping: GroupingEngine, texts: Sequence[str], act: Act, *, pipeline: str | None = None
) -> ExclusionReport:
    """Bring back what was excluded: by its number, or as it was named then.

    Errors: UsageError without a reason, and for what is not excluded.
    """
    _check(act, texts)
    with database.write() if not act.dry_run else database.read() as connection:
        ended = [_excluded_now(connection, text, pipeline) for text in dict.fromkeys(texts)]
        impact = impact_of(connection, grouping, ended, act.now)
        _confirm(impact, act)
        excluded = end_exclusions(connection, grouping, ended, impact, act.now) if not act.dry_run else Excluded()
        report = ExclusionReport(
            "include",
            act.dry_run,
            [{"exclusion": row.exclusion.id, "target": row.exclusion.text, "instead_of": None} for row in ended],
            impact,
            estimate_sub_groups(connection, impact.sub_groups),
            store.places_of_sub_groups(connection, impact.sub_groups),
            sorted(name for name in impact.packages if name in excluded.names),
        )
        if not act.dry_run:
            _log(connection, "include", texts, act, {"pipeline": pipeline})
    return report


def _excluded_now(connection: sa.Connection, text: str, pipeline: str | None) -> store.ExclusionRow:
    rows = store.list_exclusions(connection)
    found = [row for row in rows if text in (str(row.exclusion.id), row.exclusion.text)]
    if pipeline is not None:
        found = [row for row in found if row.exclusion.pipeline == pipeline]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(f"{r.exclusion.id} ({r.exclusion.pipeline or 'all pipelines'})" for r in found)
        raise UsageError(f"{text} is excluded more than once: {numbers}", next="say which number")
    if text.isascii() and text.isdigit():
        known = ", ".join(f"{row.exclusion.id} ({row.exclusion.text})" for row in rows[:SHOWN])
        there_are = f"there are: {known}" if rows else "nothing is excluded"
        raise UsageError(f"there is no exclusion {text} that holds", next=there_are)
    names = [row.exclusion.text for row in rows]
    raise UsageError(f"{text!r} is not excluded", next=suggest(text, names, none="nothing is"))


def list_exclusions(database: Database) -> dict[str, Any]:
    """The document `ccatwm.exclusions/1`: what is excluded now."""
    with database.read() as connection:
        rows = store.list_exclusions(connection)
    return {
        "schema": "ccatwm.exclusions/1",
        "exclusions": [
            {
                "exclusion": row.exclusion.id,
                "target": row.exclusion.text,
                "pipeline": row.exclusion.pipeline,
                "reason": row.exclusion.reason,
                "actor": row.actor,
                "since": utc_text(row.created_at),
                "until": utc_text(row.until),
            }
            for row in rows
        ],
    }


# --- accept ---------------------------------------------------------------------------------------------------


@dataclass
class AcceptReport:
    """Sub-groups whose present product was declared good; the next `resolve` carries it out."""

    dry_run: bool = False
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)  # what differs, by sub-group
    already: list[str] = field(default_factory=list)  # of the accepted ones: somebody had said so before
    unchanged: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.accept/1",
            "dry_run": self.dry_run,
            "accept": [
                {"sub_group": key, "accepted": True, "why": ALREADY if key in self.already else None, "changes": changes}
                for key, changes in self.accepted.items()
            ]
            + [{"sub_group": key, "accepted": False, "why": UNCHANGED, "changes": {}} for key in self.unchanged]
            + [{"sub_group": key, "accepted": False, "why": why, "changes": {}} for key, why in self.refused],
        }

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{key}: {why}" for key, why in self.refused[:SHOWN]]
        if self.unchanged:
            verb = "has" if len(self.unchanged) == 1 else "have"
            said.append(f"{count_text(len(self.unchanged), 'sub-group')} {verb} what is wanted now: nothing to accept")
        if self.already:
            were = f"{count_text(len(self.already), 'sub-group')} {'was' if len(self.already) == 1 else 'were'} {ALREADY}"
            said.append(f"{were}: that holds" + ("" if self.dry_run else ", with this reason from now on"))
        new = len(self.accepted) - len(self.already)
        if new:
            verb, then = ("would be", "") if self.dry_run else ("is", "; `ccatwm resolve` carries it out")
            said.append(f"{count_text(new, 'sub-group')}: the present product {verb} good for what is wanted now{then}")
        return said + self._changes()

    def _changes(self) -> list[str]:
        """What differs, and in how many sub-groups, the most frequent first."""
        texts = Counter(changes_text({"changes": changes}) for changes in self.accepted.values())
        most = texts.most_common(SHOWN)
        lines = [f"  {text or 'what it was made with'}: {count_text(count, 'sub-group')}" for text, count in most]
        more = len(texts) - SHOWN
        return [*lines, f"  and {more} more; --json lists all"] if more > 0 else lines


def accept(
    database: Database, grouping: GroupingEngine, pipeline: str, step: str, key: str | None, act: Act
) -> AcceptReport:
    """Declare the current products of a step's sub-groups good for what is wanted of them now.

    That is told by what is known at this moment: what passes have grouped, and the definitions that are applied. What
    comes later is wanted, too, and is not accepted.

    Errors: UsageError without a reason, for what is not there and what is disabled; CcatwmError where nothing has a
    product.
    """
    if not act.dry_run:
        require_reason(act.reason, "it is kept with the acceptance")
    report = AcceptReport(act.dry_run)
    with database.write() if not act.dry_run else database.read() as connection:
        step_id = _find_step(connection, pipeline, step, key)
        list_disabled(connection, pipeline, [step])
        planned = _plan_acceptances(connection, grouping, step_id, key, act, report)
        if not (planned or report.unchanged):
            none = (f"{pipeline}/{step}", "it has no sub-groups yet")
            raise CcatwmError(
                f"nothing of {pipeline}/{step} can be accepted: {(report.refused or [none])[0][1]}",
                next=f"`ccatwm explain {pipeline} {step}` says what each sub-group waits for",
            )
        if planned and not act.dry_run:
            good: list[tuple[int, str, int]] = []
            for sub_group_id, decision in planned.items():
                assert decision.recipe is not None and decision.current_run_id is not None
                good.append((sub_group_id, decision.recipe.digest, decision.current_run_id))
            store.insert_acceptances(connection, good, reason=act.reason, actor=act.actor, now=act.now)
            store.open_accepted(connection, planned, act.now)
            triggers.open_event(connection, step_id, "accept", act.reason, now=act.now, actor=act.actor, scope={})
            _log(connection, "accept", ["/".join((pipeline, step, *([key] if key else [])))], act, report.to_json())
    return report


def _find_step(connection: sa.Connection, pipeline: str, step: str, key: str | None) -> int:
    views.check_selection(connection, Selection(pipeline=pipeline, step=step, sub_group=key))
    found: int = next(s["id"] for s in views.list_steps(connection, pipeline) if s["step"] == step)
    return found


def _plan_acceptances(
    connection: sa.Connection, grouping: GroupingEngine, step_id: int, key: str | None, act: Act, report: AcceptReport
) -> dict[int, Decision]:
    """What is accepted, by sub-group; the report is told of all of them."""
    record, excluded = get_step_record(connection, step_id), find_excluded(connection, grouping, act.now)
    planned: dict[int, Decision] = {}
    after = 0
    while rows := list_after(connection, step_id, after, SUB_GROUPS_AT_ONCE, key, lock=not act.dry_run):
        after = rows[-1].id
        seen = build_views(connection, record, rows, excluded, act.now)
        for row in rows:
            why_not = why_not_good(seen[row.id])
            decision = plan_acceptance(seen[row.id]) if why_not is None else None
            if decision is None or decision.outcome not in (Outcome.ACCEPTED, Outcome.UP_TO_DATE):
                report.refused.append((row.key, why_not or _nothing_wanted(decision)))
            elif decision.outcome is Outcome.UP_TO_DATE:
                report.unchanged.append(row.key)
            else:
                planned[row.id] = decision
                report.accepted[row.key] = decision.details["changes"]
                report.already += [row.key] if decision.details["already"] else []
    return planned


def _nothing_wanted(decision: Decision | None) -> str:
    text = decision_text(decision) if decision is not None else ""
    return f"nothing can be made of it now{f': {text}' if text else ''}"


# --- trials ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromoteReport:
    """A trial that is one no more. `wanted`: whether its recipe is what its sub-group wants by now."""

    run: int
    place: str
    wanted: bool

    def to_json(self) -> dict[str, Any]:
        return {"schema": "ccatwm.promote/1", "promote": {"run": self.run, "wanted": self.wanted}}

    def lines(self) -> list[str]:
        """For people."""
        if self.wanted:
            return [f"run {self.run} is a trial no more; `ccatwm resolve` makes its products current"]
        return [
            f"run {self.run} is a trial no more; its products count as soon as {self.place} wants what it was made "
            "with: apply that version or configuration (`ccatwm apply FILE`)"
        ]


def promote(database: Database, grouping: GroupingEngine, run_id: int, act: Act) -> PromoteReport:
    """End a trial: its run is an ordinary one, and counts where its recipe is wanted.

    Errors: UsageError without a reason, for a run that is no completed trial, and for one that is excluded.
    """
    require_reason(act.reason, "it is kept in the change log")
    with database.write() as connection:
        run = views.get_run(connection, run_id)
        if not run["trial"]:
            raise UsageError(f"run {run_id} is no trial", next="`ccatwm show` says what a run was made for")
        if run["status"] != "COMPLETED":
            raise UsageError(f"run {run_id} is {run['status']}", next="only a completed trial can be promoted")
        _refuse_excluded(connection, grouping, run_id, run["pipeline_name"], act.now)
        wanted = store.end_trial(connection, run_id)
        mark_due(connection, [run["sub_group_id"]], act.now)
        _log(connection, "promote", [f"run {run_id}"], act, {"wanted": wanted})
    return PromoteReport(run_id, f"{run['pipeline_name']}/{run['step_name']}", wanted)


def _refuse_excluded(
    connection: sa.Connection, grouping: GroupingEngine, run_id: int, pipeline: str, now: datetime
) -> None:
    """Errors: UsageError for a run that is not to be used, with the exclusions that name it."""
    excluded = find_excluded(connection, grouping, now)
    why = why_excluded(connection, excluded, {run_id: pipeline})[run_id]
    if why is None:
        return
    naming = [
        str(row.exclusion.id)
        for row in store.list_exclusions(connection)
        if row.exclusion.selection.get("run") == run_id and row.exclusion.pipeline in (None, pipeline)
    ]
    first = "" if naming else "`ccatwm exclude --list` shows by what; "
    include = f"`ccatwm include {' '.join(naming) or 'NUMBER'} --reason TEXT`"
    raise UsageError(f"run {run_id} is excluded: {why}", next=f"{first}{include} brings it back; promote it then")


def _log(
    connection: sa.Connection, act_name: str, targets: Sequence[str], act: Act, details: dict[str, Any]
) -> None:
    record_change(
        connection, at=act.now, actor=act.actor, host=act.host, act=act_name, target=", ".join(targets),
        reason=act.reason, details=details,
    )  # fmt: skip
