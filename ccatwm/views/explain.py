"""Says for any sub-group why it ran, or why it does not, and what would change that.

Touches: the ops-db, reading only.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.core.backfill import BackfillState
from ccatwm.core.decision_text import (
    changes_text,
    lacking_texts,
    lacks_file,
    lacks_version,
    missing_software_text,
)
from ccatwm.core.gap import UpstreamGroup
from ccatwm.core.model import Resources
from ccatwm.core.selection import Selection
from ccatwm.core.triggers import StepTrigger, effective_trigger, next_tick
from ccatwm.core.wording import (
    clock_text,
    count_text,
    number_text,
    some_text,
    span_text,
    until_text,
    utc_text,
)
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import backfills, leases, views
from ccatwm.edges.opsdb.stores.companions import Far, find_nearest, list_links
from ccatwm.edges.opsdb.stores.steps import get_step_record
from ccatwm.edges.opsdb.stores.sub_groups import list_feeds, removed_runs
from ccatwm.edges.opsdb.stores.trash import Trashed, removed_products
from ccatwm.views.runs import NO_CEILING, is_paused, run_state, waits_for, waits_for_space
from ccatwm.views.throttled import add_throttles

DEFAULT_LIMIT = 100
SHOWN_NAMES = 5


@dataclass(frozen=True)
class Facts:
    """All that an explanation of one sub-group reads."""

    now: datetime
    paused: str | None
    step: Mapping[str, Any]
    group: Mapping[str, Any]
    trigger: StepTrigger
    runs: Sequence[dict[str, Any]]  # newest first
    members: Mapping[str, int]
    companions: Sequence[Mapping[str, Any]]  # of its current run
    upstream: Sequence[UpstreamGroup]
    events: Sequence[Mapping[str, Any]]
    acceptance: Mapping[str, Any] | None = None  # of the wanted recipe: reason, actor, created_at
    taken_back: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # runs cancelled with their backfill
    to_come: Mapping[str, Any] | None = None  # the backfill that has not looked at it yet
    removed: Trashed | None = None  # what took the files of its current product
    far: Mapping[str, Far | None] = field(default_factory=dict)  # by companion that it waits for: the nearest one there is

    @property
    def details(self) -> Mapping[str, Any]:
        return self.group["details"] or {}

    @property
    def open_run(self) -> Mapping[str, Any] | None:
        return next((run for run in self.runs if run["is_open"]), None)

    @property
    def due(self) -> bool:
        return self.group["due_at"] is not None and self.group["due_at"] <= self.now

    @property
    def tick(self) -> datetime | None:
        """The next tick of a step by cron."""
        if "cron" not in self.trigger.config:
            return None
        return next_tick(str(self.trigger.config["cron"]), self.trigger.config.get("timezone"), self.now)

    @property
    def asking(self) -> str:
        """The command that asks for a run of this sub-group."""
        names = (
            ("--pipeline", self.step["pipeline"]),
            ("--step", self.step["step"]),
            ("--sub-group", self.group["key"]),
        )
        return "ccatwm trigger " + " ".join(f"{o} {shlex.quote(n)}" for o, n in names) + " --reason TEXT"

    def run(self, run_id: object) -> Mapping[str, Any] | None:
        return next((run for run in self.runs if run["run"] == run_id), None)


def build_explain(
    database: Database,
    pipeline: str,
    step: str | None = None,
    sub_group: str | None = None,
    *,
    now: datetime,
    limit: int = DEFAULT_LIMIT,
    site_most: Mapping[str, int] = NO_CEILING,
) -> dict[str, Any]:
    """The document `ccatwm.explain/1`.

    Errors: UsageError for a name that is not there, with those that are.
    """
    with database.read() as connection:
        views.check_selection(connection, Selection(pipeline=pipeline, step=step, sub_group=sub_group))
        paused, _ = leases.read_brakes(connection)
        steps = [s for s in views.list_steps(connection, pipeline) if step in (None, s["step"])]
        facts: list[Facts] = []
        for row in steps:
            facts += _list_facts(connection, row, sub_group, paused, now, limit)
        add_throttles(connection, [run for one in facts for run in one.runs], now, site_most)
    return {
        "schema": "ccatwm.explain/1",
        "at": utc_text(now),
        "paused": paused,
        "steps": [
            {
                "pipeline": s["pipeline"],
                "step": s["step"],
                "brakes": _brakes(s, paused),
                "learned": s["learned"],
                "learned_words": _learned(s),
            }
            for s in steps
        ],
        "explain": [_explain(item) for item in facts],
    }


def _list_facts(
    connection: sa.Connection,
    step: Mapping[str, Any],
    key: str | None,
    paused: str | None,
    now: datetime,
    limit: int,
) -> list[Facts]:
    """The sub-groups of a step with what concerns each, by a bounded number of queries."""
    groups = views.list_sub_groups(connection, [step["id"]], key, limit)
    if not groups:
        return []
    keys = [group["key"] for group in groups]
    runs = views.list_runs_of_sub_groups(connection, [group["id"] for group in groups])
    members = views.count_member_states(connection, [step["scope_id"]], keys)
    feeds = list_feeds(connection, get_step_record(connection, step["id"]), keys, now)
    companions = views.list_companions(connection, {g["current_run_id"] for g in groups if g["current_run_id"]})
    events = views.list_open_events(connection, [step["id"]])
    acceptances = views.list_wanted_acceptances(connection, [g["id"] for g in groups if g["outcome"] == "accepted"])
    backfilled = [r["run"] for found in runs.values() for r in found if r["superseded"] and r["backfill_id"] is not None]
    taken_back = backfills.list_taken_back(connection, backfilled)
    to_come = backfills.list_to_come(connection, step["id"], [group["id"] for group in groups])
    current = {g["current_run_id"] for g in groups if g["current_run_id"] is not None}
    removed = removed_products(connection, removed_runs(connection, current))
    trigger = effective_trigger(
        step["trigger_type"],
        step["trigger_config"],
        step["pipeline_trigger_type"],
        step["pipeline_trigger_config"],
    )
    return [
        Facts(
            now,
            paused,
            step,
            group,
            trigger,
            runs[group["id"]],
            members.get((step["scope_id"], group["key"]), {}),
            companions.get(group["current_run_id"], []),
            [feed.group for feed in feeds[group["key"]]],
            events,
            acceptances.get(group["id"]),
            taken_back,
            to_come.get(group["id"]),
            removed.get(group["current_run_id"]),
            _list_far(connection, step["id"], group),
        )
        for group in groups
    ]


def _list_far(connection: sa.Connection, step_id: int, group: Mapping[str, Any]) -> dict[str, Far | None]:
    """Of each companion that a sub-group waits for, as far as it is chosen by time, the nearest there is."""
    lacking = [c for c in (group["details"] or {}).get("companions") or () if c["known"] and c["packages"]]
    if group["outcome"] != "waiting-for-data" or not lacking:
        return {}
    links = {link.rule.name: link for link in list_links(connection, step_id=step_id) if link.rule.nearest}
    return {
        c["companion"]: find_nearest(connection, links[c["companion"]], group["key"], c["packages"][0])
        for c in lacking
        if c["companion"] in links
    }


# --- one sub-group ------------------------------------------------------------------------------------------


def _explain(facts: Facts) -> dict[str, Any]:
    group, opened = facts.group, facts.open_run
    why, then = _why(facts)
    return {
        "pipeline": facts.step["pipeline"],
        "step": facts.step["step"],
        "sub_group": group["key"],
        "outcome": group["outcome"],
        "reason": group["reason"],
        "why": why,
        "what_would_change_it": then,
        "details": dict(facts.details),
        "decision": group["decision"],
        "decided_at": utc_text(group["decided_at"]),
        "due_at": utc_text(group["due_at"]),
        "round_at": utc_text(group["round_at"]),
        "next_tick_at": utc_text(facts.tick),
        "current_run": group["current_run_id"],
        "stale": group["stale"],
        "files_removed_at": utc_text(facts.removed.doomed_at) if facts.removed else None,
        "files_removed_because": facts.removed.reason if facts.removed else None,
        "held": group["held"],
        "open_run": opened["run"] if opened else None,
        "backfill": group["backfill_id"],
        "accepted_by": facts.acceptance["actor"] if facts.acceptance else None,
        "accepted_at": utc_text(facts.acceptance["created_at"]) if facts.acceptance else None,
        "accepted_because": facts.acceptance["reason"] if facts.acceptance else None,
        "runs": [
            {
                "run": run["run"],
                "status": run["status"],
                "state": run_state(dict(run), facts.now),
                "reason": run["reason"],
            }
            for run in facts.runs
        ],
        "packages": dict(facts.members),
        "companions": [dict(companion) for companion in facts.companions],
        "upstream": [_upstream(item) for item in facts.upstream],
    }


def _upstream(item: UpstreamGroup) -> dict[str, Any]:
    return {
        "pipeline": item.pipeline,
        "step": item.step,
        "sub_group": item.sub_group,
        "state": item.state,
        "settled": item.settled,
        "has_product": item.has_product,
    }


def _why(facts: Facts) -> tuple[list[str], list[str]]:
    """(why, what would change that): brakes first, then whether it is due, then the last decision."""
    why = _brakes(facts.step, facts.paused)
    if facts.group["held"]:
        why.append(f"the sub-group is held: {facts.group['held']}")
    then = _taking_off(facts)
    if facts.due and facts.group["decision"]:
        why.append(f"something changed after the last decision, at {clock_text(facts.group['due_at'])}")
    if facts.group["backfill_id"] is not None:
        why.append(f"backfill {facts.group['backfill_id']} opened it, and waits for it")
    if facts.to_come is not None:
        then.append(_tell_to_come(facts.to_come, why))
    decided, next_ = _OUTCOMES.get(facts.group["outcome"] or "", _undecided)(facts)
    why += [decided] if decided else []
    went_without = _went_without(facts)
    without = list(facts.details.get("without") or ())
    if went_without is not None:
        why.append(went_without[0])
        next_ = [*next_, went_without[1]]
        without = [name for name in without if not name.startswith("upstream ")]  # said already
    if without:
        why.append(f"its deadline (deadline_hours) has passed without {_some(without)}")
        next_ = [*next_, "what it went without comes"]
    then += ([_when_looked_at(facts)] if facts.due else []) + [text for text in next_ if text]
    if facts.group["due_at"] is not None and not facts.due:
        then.append(f"it is looked at again {until_text(facts.group['due_at'], facts.now)}, whatever happens")
    if facts.group["stale"]:
        why.append(
            f"its current product, of run {facts.group['current_run_id']}, is stale: {facts.group['stale']}"
        )
    if facts.removed is not None:
        told, back = _removed(facts, facts.removed)
        why.append(told)
        then += back
    return why, list(dict.fromkeys(then))


def _removed(facts: Facts, removed: Trashed) -> tuple[str, list[str]]:
    """That the files of the current product were removed, and what brings them back."""
    where = f"deleted at {clock_text(removed.deleted_at)}" if removed.deleted_at else "in the trash"
    text = f"the files of run {removed.run} were removed at {clock_text(removed.doomed_at)}: {removed.reason}; now {where}"
    undo = [] if removed.deleted_at else [f"a person says `ccatwm gc --undo {removed.run}`, which brings the files back"]
    return text, [*undo, f"a run that reads the files has them made again; so does a person: `{facts.asking}`"]


def _tell_to_come(backfill: Mapping[str, Any], why: list[str]) -> str:
    """What brings the turn of a sub-group that is in the period of a backfill."""
    number = backfill["id"]
    if backfill["state"] == BackfillState.PAUSED:
        why.append(f"backfill {number} has not looked at it yet, and is paused: {backfill['state_reason']}")
        return f"a person says `ccatwm backfill {number} --resume`"
    why.append(f"backfill {number} has not looked at it yet")
    return f"the next `ccatwm resolve` decides for backfill {number}, if that has room (`ccatwm backfill --list`)"


def _brakes(step: Mapping[str, Any], paused: str | None) -> list[str]:
    found = [f"all passes are paused: {paused}"] if paused else []
    if not step["pipeline_enabled"]:
        found.append(f"pipeline {step['pipeline']} is disabled")
    if not step["enabled"]:
        found.append(f"step {step['step']} is disabled")
    if step["pipeline_held"]:
        found.append(f"pipeline {step['pipeline']} is held: {step['pipeline_held']}")
    if step["held"]:
        found.append(f"step {step['step']} is held: {step['held']}")
    if step["tripped"]:
        found.append(f"step {step['step']} is tripped: its last attempts all failed as {step['tripped']}")
    return found


def _learned(step: Mapping[str, Any]) -> list[str]:
    """What runs of a step begin with, since less was too little."""
    asked = {**asdict(Resources()), **(step["definition"].get("resources") or {})}
    words = (("memory_gb", "GiB of memory", "GiB"), ("time_hours", "hours", "h"))
    return [
        f"runs begin with {step['learned'][key]:g} {what}: {asked[key]:g} {unit} was too little"
        for key, what, unit in words
        if key in (step["learned"] or {})
    ]


def _taking_off(facts: Facts) -> list[str]:
    """What a person types to take each brake off."""
    step, paused = facts.step, facts.paused
    place = f"{step['pipeline']}/{step['step']}"
    commands = ["ccatwm resume"] if paused else []
    if not (step["enabled"] and step["pipeline_enabled"]):
        commands.append("ccatwm apply FILE` with `enabled: true")
    if step["pipeline_held"]:
        commands.append(f"ccatwm release {shlex.quote(step['pipeline'])} --reason TEXT")
    if step["tripped"]:
        commands.append(f"ccatwm release {shlex.quote(place)} --retry --reason TEXT")
    elif step["held"]:
        commands.append(f"ccatwm release {shlex.quote(place)} --reason TEXT")
    if facts.group["held"]:
        commands.append(f"ccatwm release {shlex.quote(place + '/' + facts.group['key'])} --reason TEXT")
    return [f"a person says `{command}`" for command in commands]


def _when_looked_at(facts: Facts) -> str:
    """When an open sub-group is decided on."""
    if facts.group["backfill_id"] is not None:
        return "the next `ccatwm resolve` decides for its backfill, if that has room (`ccatwm backfill --list`)"
    if facts.events or facts.group["asked"]:
        return "the next `ccatwm resolve` decides: it has been asked for"
    if facts.tick is not None:
        return (
            f"the step's cron opens it {until_text(facts.tick, facts.now)}, at {clock_text(facts.tick)} UTC"
        )
    if facts.trigger.type == "MANUAL":
        return f"a person asks, since the step runs only then: `{facts.asking}`"
    return "the next `ccatwm trigger` and `ccatwm resolve` decide"


def _went_without(facts: Facts) -> tuple[str, str] | None:
    """The upstream sub-groups that the product lacks, where the step did not wait for them, and where they are told of."""
    lacking = [u for u in facts.upstream if not u.has_product and u.state != "no-inputs"]
    if not lacking or facts.group["outcome"] not in ("run", "up-to-date", "restored", "accepted"):
        return None
    names = _some([f"{u.step} {u.sub_group}: {u.state}" for u in lacking])
    place = shlex.join((lacking[0].pipeline, lacking[0].step, lacking[0].sub_group))
    known = count_text(len(facts.upstream), "upstream sub-group")
    return (
        f"it goes without {len(lacking)} of {known}, for want of a product: {names}",
        f"there is a product of what is missing upstream: `ccatwm explain {place}` says why there is none",
    )


# --- in words, by outcome -----------------------------------------------------------------------------------

Words = tuple[str, list[str]]


def _undecided(facts: Facts) -> Words:
    if facts.group["outcome"]:
        return f"the last decision was {facts.group['outcome']}", []
    return "nothing has been decided yet", [_when_looked_at(facts)]


def _run(facts: Facts) -> Words:
    run_id = facts.details.get("run")
    run = facts.run(run_id)
    state = run_state(dict(run), facts.now) if run else "gone"
    changes = _changes_text(facts.details)
    backfill = f" by backfill {facts.details['backfill']}" if facts.details.get("backfill") else ""
    request = f"; asked for{backfill}: {facts.details['request']}" if facts.details.get("request") else ""
    made = (
        f"run {run_id} was made at {clock_text(facts.group['decided_at'])}: "
        f"{facts.group['reason']}{changes}{request}; "
    )
    said = facts.taken_back.get(run_id) if isinstance(run_id, int) else None
    if said is None:
        return f"{made}it is {state}", _of_run(run)
    taken = f"it was taken back by {said['actor']} at {clock_text(said['at'])}: {said['message']}"
    asking = f"ccatwm backfill {shlex.quote(facts.step['pipeline'])} --since TIME --until TIME --reason TEXT"
    again = f"a backfill of its period is asked for: `{asking}`"
    return f"{made}{taken}", [f"a person asks for it: `{facts.asking}`", again, OTHER_RECIPE]


_NEXT_PASS = {
    "PENDING": "`ccatwm stage` brings its inputs",
    "STAGING_DATA": "`ccatwm stage` goes on",
    "STAGED": "`ccatwm submit` hands it over",
    "SUBMITTING": "`ccatwm submit` finishes handing it over",
    "SUBMITTED": "the batch system starts it, `ccatwm poll` sees it",
    "RUNNING": "its job ends, `ccatwm poll` sees it",
    "COLLECTING_RESULTS": "`ccatwm collect` records its products",
}


def _of_run(run: Mapping[str, Any] | None) -> list[str]:
    if run is None:
        return []
    if is_paused(run):
        return [f"a person says `ccatwm backfill {run['backfill_id']} --resume`"]
    if waits_for_space(run):
        return [f"there is room: {run['message']}"]
    if run["throttle"]:
        return [f"{run['throttle'].until}: {run['throttle'].reason}"]
    if run["status"] in _NEXT_PASS:
        waits = waits_for(run)
        return [f"{_NEXT_PASS[run['status']]}: {waits}" if waits else _NEXT_PASS[run["status"]]]
    if run["status"] == "FAILED":
        return ["it is tried again by itself"] if run["is_open"] else [_retry_text(run["run"])]
    return [_retry_text(run["run"])] if run["status"] == "CANCELLED" and not run["superseded"] else []


def _retry_text(run_id: object) -> str:
    return f"a person says `ccatwm retry {run_id} --reason TEXT`"


def _up_to_date(facts: Facts) -> Words:
    run_id = facts.details.get("run", facts.group["current_run_id"])
    ignored = facts.details.get("not_counted")
    if ignored:
        text = f"run {run_id} counts, though since then: {', '.join(ignored)} (the step's staleness policy ignores that)"
        return text, _wanting_more(facts)
    wanted = "was wanted when this was decided" if facts.due or facts.group["stale"] else "is wanted now"
    return f"run {run_id} was made from exactly what {wanted}", _wanting_more(facts)


def _restored(facts: Facts) -> Words:
    run_id, ignored = facts.details.get("run"), facts.details.get("not_counted")
    but = f" but for {', '.join(ignored)} (the step's staleness policy ignores that)" if ignored else ""
    text = f"run {run_id} was made from what is wanted now{but}: its products are current again"
    return text, _wanting_more(facts)


def _accepted(facts: Facts) -> Words:
    said, not_counted = facts.acceptance, _changes_text(facts.details)
    who = f"{said['actor']} accepted" if said is not None else "a person accepted"
    when = f" at {utc_text(said['created_at'])}: {said['reason']}" if said is not None else ""
    return f"{who} the current product as it is, for what is wanted now{not_counted}{when}", [
        OTHER_RECIPE,
        f"a person asks for a run, which ends the acceptance: `{facts.asking}`",
    ]


OTHER_RECIPE = "another input, companion, upstream product, configuration, reference or software version is wanted"


def _wanting_more(facts: Facts) -> list[str]:
    return [
        OTHER_RECIPE,
        f"a person asks: `{facts.asking} --force`",
    ]


def _cooling_down(facts: Facts) -> Words:
    seconds = facts.step["definition"].get("cooldown_seconds")
    reason = f"{facts.group['reason']}{_changes_text(facts.details)}"
    text = f"{reason}, but its last run is younger than the cooldown of {seconds} s"
    return text, [_until(facts), f"a person asks: `{facts.asking}`"]


def _settling(facts: Facts) -> Words:
    seconds = facts.step["definition"].get("settle_seconds")
    changes = _changes_text(facts.details)
    return f"its inputs changed less than {seconds} s ago (settle_seconds){changes}", [_until(facts)]


def _until(facts: Facts) -> str:
    until = facts.details.get("until")
    if not until:
        return ""
    time = datetime.fromisoformat(until)
    return f"it runs {until_text(time, facts.now)}, at {clock_text(time)} UTC"


def _waiting_for_data(facts: Facts) -> Words:
    packages = [f"{p['name']} is {p['state']}" for p in facts.details.get("packages") or ()]
    unfinished = list(facts.details.get("obs_unit_not_ended") or ())
    parts = [_some(packages)] if packages else []
    parts += [f"the observation of {_some(unfinished)} has not ended"] if unfinished else []
    lacking = [*lacking_texts(facts.details), *_far_texts(facts)]
    return f"raw data are missing: {'; '.join(parts + lacking)}", [
        *(["these packages are archived or fail, and their observation ends"] if parts else []),
        *_companion_comes(facts.details.get("companions") or ()),
        _deadline(facts),
    ]


def _far_texts(facts: Facts) -> list[str]:
    """Whether there are companions out of reach, and how far the nearest is."""
    texts = []
    for companion, far in facts.far.items():
        if far is None:
            texts.append(f"no {companion} are archived for it at any other time")
        else:
            side = "earlier" if far.away < timedelta(0) else "later"
            texts.append(f"the nearest of {companion}, {far.name}, is {span_text(abs(far.away.total_seconds()))} {side}")
    return texts


def _companion_comes(lacking: Sequence[Mapping[str, Any]]) -> list[str]:
    """What brings the companions that a sub-group waits for."""
    then = []
    for companion in lacking:
        if not companion["known"]:
            then.append("the next `ccatwm resolve` has grouped them")
            continue
        then.append(f"a package that the rules of companion {companion['companion']} select is archived")
        if companion["excluded"]:
            then.append("a person says `ccatwm include` (`ccatwm exclude --list`)")
    return then


def _deadline(facts: Facts) -> str:
    until = facts.details.get("until")
    return (
        f"its deadline has come, at {clock_text(datetime.fromisoformat(until))} UTC (deadline_hours)"
        if until
        else ""
    )


def _waiting_for_removed(facts: Facts) -> Words:
    names = [f"{u['pipeline']}/{u['step']} {u['sub_group']}: {u['state']}" for u in facts.details["upstream"]]
    wanted = f" ({facts.details['then']}{_changes_text(facts.details)})" if facts.details.get("then") else ""
    then = ["they are made again, which they were asked for, or come back from the trash (`ccatwm gc --undo`)"]
    stuck = [u for u in facts.details["upstream"] if u["state"] != "files removed"]
    for u in stuck[:1]:
        place = shlex.join((u["pipeline"], u["step"], u["sub_group"]))
        then = [f"a person looks at what is in the way: `ccatwm explain {place}`"]
    return f"a run is wanted{wanted}, but upstream files that it reads were removed: {_some(names)}", then


def _waiting_for_upstream(facts: Facts) -> Words:
    if facts.details.get("removed"):
        return _waiting_for_removed(facts)
    waited = [
        f"{u['pipeline']}/{u['step']} {u['sub_group']}: {u['state']}"
        for u in facts.details.get("upstream") or ()
    ]
    open_now = [u for u in facts.upstream if not u.settled or u.failed]
    text = f"upstream sub-groups had not settled: {_some(waited)}"
    now = _some([f"{u.step} {u.sub_group}: {u.state}" for u in open_now]) if open_now else "all have settled"
    then = ["these sub-groups get a product, or fail for good where on_upstream_failure is skip"]
    for u in open_now[:1]:
        place = shlex.join((u.pipeline, u.step, u.sub_group))
        then.append(f"what holds them back is gone: `ccatwm explain {place}` says what that is")
    return f"{text}; now {now}", [*then, _deadline(facts)]


def _waiting_for_image(facts: Facts) -> Words:
    text = missing_software_text(facts.details)
    if lacks_version(facts.details):
        software, gone = facts.details.get("software"), facts.details.get("excluded_versions")
        named = [shlex.quote(f"software:{software}@{version}") for version in gone or ()]
        back = [f"a person says `ccatwm include {name} --reason TEXT`" for name in named[:SHOWN_NAMES]]
        return text, [
            f"such a version of {software} is in a file that `ccatwm apply FILE` reads",
            "the step's `version` is changed to one that is there, and `ccatwm apply FILE` run",
            *back,
        ]
    if lacks_file(facts.details):
        return text, ["a version whose image is a file is in what `ccatwm apply FILE` reads"]
    return text, ["the image is there and `ccatwm apply FILE` is run again"]


def _no_inputs(facts: Facts) -> Words:
    failed = list(facts.details.get("upstream_failed") or ())
    excluded = facts.details.get("excluded")
    if excluded:
        text = f"all that is left of it is excluded: {_some(excluded)}"
        return text, ["a package of it is archived", "a person says `ccatwm include` (`ccatwm exclude --list`)"]
    if failed:
        return f"no upstream sub-group has a product; failed: {_some(failed)}", ["an upstream run succeeds"]
    return "no archived package and no upstream product belongs to it", ["a package of it is archived"]


def _busy(facts: Facts) -> Words:
    run_id = facts.details.get("run")
    run = facts.run(run_id)
    state = run_state(dict(run), facts.now) if run else "gone"
    then = facts.details.get("then")
    after = f"; when it has ended, another run is wanted: {then}{_changes_text(facts.details)}" if then else ""
    if run is None or not run["is_open"]:
        return f"run {run_id} was under way when this was decided; it is {state} by now{after}", []
    return f"run {run_id} is under way: {state}{after}", _of_run(run)


def _failed(facts: Facts) -> Words:
    run_id, message = facts.details.get("run"), facts.details.get("message")
    text = f"run {run_id} for what is wanted now failed for good: {facts.details.get('class')}"
    return f"{text}: {message}" if message else text, [_retry_text(run_id), *_other_recipe(facts)]


def _cancelled(facts: Facts) -> Words:
    run_id = facts.details.get("run")
    if facts.details.get("excluded_run"):
        text = f"run {run_id}, made from what is wanted now, is excluded: {facts.details.get('message')}"
        return text, ["a person says `ccatwm include` (`ccatwm exclude --list`)", *_other_recipe(facts)]
    run = facts.run(run_id)
    why = f": {run['cancel_reason']}" if run and run["cancel_reason"] else ""
    return f"run {run_id} for what is wanted now was cancelled{why}", [
        _retry_text(run_id),
        *_other_recipe(facts),
    ]


def _other_recipe(facts: Facts) -> list[str]:
    return [
        OTHER_RECIPE,
        f"a person asks for a new run: `{facts.asking} --force`",
    ]


def _tripped(facts: Facts) -> Words:
    if facts.step["tripped"]:  # that it is, and what ends it, is said of the step
        return "", []
    place = f"{facts.step['pipeline']}/{facts.step['step']}"
    failure = facts.details.get("class")
    text = f"the step was tripped when this was decided: too many attempts failed as {failure}"
    return text, [f"a person says `ccatwm release {place} --retry --reason TEXT`"]


def _held(facts: Facts) -> Words:
    return f"it was held when this was decided: {facts.details.get('reason')}", [
        "a person says `ccatwm release`"
    ]


def _throttled(facts: Facts) -> Words:
    return "more runs are not allowed at once (max_concurrent, or the batch system's limit)", [
        "other runs end"
    ]


_OUTCOMES: dict[str, Callable[[Facts], Words]] = {
    "run": _run,
    "up-to-date": _up_to_date,
    "restored": _restored,
    "accepted": _accepted,
    "cooling-down": _cooling_down,
    "settling": _settling,
    "waiting-for-data": _waiting_for_data,
    "waiting-for-upstream": _waiting_for_upstream,
    "waiting-for-image": _waiting_for_image,
    "no-inputs": _no_inputs,
    "busy": _busy,
    "failed": _failed,
    "cancelled": _cancelled,
    "tripped": _tripped,
    "held": _held,
    "throttled": _throttled,
}


def _some(names: Sequence[str]) -> str:
    return some_text(names, SHOWN_NAMES)


def _excluded_text(details: Mapping[str, Any] | None) -> str:
    """Which of the packages are no inputs, though they are archived."""
    excluded = (details or {}).get("excluded")
    return f"; excluded: {_some(excluded)}" if excluded else ""


def _changes_text(details: Mapping[str, Any]) -> str:
    text = changes_text(details, SHOWN_NAMES)
    return f" ({text})" if text else ""


# --- for people ---------------------------------------------------------------------------------------------


def explain_lines(document: Mapping[str, Any]) -> list[str]:
    """A paragraph per sub-group; a step without any says why."""
    lines: list[str] = []
    for step in document["steps"]:
        lines += [f"{step['pipeline']}/{step['step']}: {text}" for text in step["learned_words"]]
        rows = [
            r for r in document["explain"] if (r["pipeline"], r["step"]) == (step["pipeline"], step["step"])
        ]
        if len(rows) > 1:
            lines += [f"{step['pipeline']}/{step['step']}: {text}" for text in step["brakes"]]
        for row in rows:
            lines += _paragraph(row, step["brakes"] if len(rows) > 1 else ())
        if not rows:
            lines.append(f"{step['pipeline']}/{step['step']}: no sub-groups yet")
            lines += [f"  because {text}" for text in step["brakes"]]
            lines.append("  changes when its data grouping selects a package, and trigger and resolve ran")
        if step["learned"]:
            lines.append(f"{step['pipeline']}/{step['step']}: {_learned_text(step['learned'])}")
    return lines


def _learned_text(learned: Mapping[str, float]) -> str:
    values = ", ".join(f"{name} {number_text(value)}" for name, value in sorted(learned.items()))
    return f"its new runs begin with {values}, which retries had to grow to (other `resources` forget that)"


def _paragraph(row: Mapping[str, Any], told: Collection[str] = ()) -> list[str]:
    """`told`: what is said of the whole step, above."""
    head = f"{row['pipeline']}/{row['step']} {row['sub_group']}: {row['outcome'] or 'undecided'}"
    decided = f", decided {row['decided_at'][:19].replace('T', ' ')} UTC" if row["decided_at"] else ""
    packages = ", ".join(f"{count} {state}" for state, count in sorted(row["packages"].items()))
    lines = [head + decided]
    lines += [f"  because {text}" for text in row["why"] if text not in told]
    lines += [f"  changes when {text}" for text in row["what_would_change_it"]]
    lines += [f"  packages: {packages}{_excluded_text(row['details'])}"] if packages else []
    names = [f"{c['companion']}/{c['name']}" for c in row["companions"]]
    return lines + ([f"  companions of its current run: {_some(names)}"] if names else [])
