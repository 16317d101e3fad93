"""Where a site and the oracle do not agree, in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from ccatwm.edges.opsdb import tables as t
from tests.oracle.oracle import Group, Member, Oracle, Run
from tests.oracle.site import Row, Site

ROUNDS = 12  # of passes after an act, a second each
SUBMITTED = ("STAGING_DATA", "STAGED", "SUBMITTING", "SUBMITTED", "RUNNING", "COLLECTING_RESULTS")


def differences(site: Site, oracle: Oracle) -> list[str]:
    """Members, sub-groups, decisions, runs, current runs and staleness."""
    found = list(_members(site, oracle))
    groups, runs = site.groups(), site.rows(t.executed_reduction_step)
    if groups.keys() != oracle.groups.keys():
        return [*found, f"sub-groups are {sorted(groups)}, and should be {sorted(oracle.groups)}"]
    ordinals = {run_id: place[2] for run_id, place in site.ordinals().items()}
    for place, group in oracle.groups.items():
        made = [run for run in runs if (run["step_name"], run["sub_group_key"]) == place]
        pairs = [
            *_decision(site, groups[place], group),
            *_opening(oracle, groups[place], group),
            ("current run", ordinals.get(groups[place]["current_run_id"]), group.current and group.current.number),
            ("stale", _staleness(groups[place]["stale"]), oracle.stale(group)),
            ("runs", [_run(run) for run in made], [_foretold(run) for run in group.runs]),
            ("decision", *_number(groups[place]["decision"], group)),
        ]
        found += [f"{'/'.join(place)}: {what} is {a}, and should be {b}" for what, a, b in pairs if a != b]
    return found


def _members(site: Site, oracle: Oracle) -> Iterator[str]:
    members = site.members()
    for step in oracle.steps:
        wanted = {_member(m) for m in oracle.members[step].values()}
        if members[step] != wanted:
            more, less = members[step] - wanted, wanted - members[step]
            yield f"members of {step}: {sorted(more, key=str)} too much, {sorted(less, key=str)} missing"


def _member(m: Member) -> tuple[Any, ...]:
    scan, module = (str(n) if n is not None else None for n in (m.scan, m.module))
    return (str(m.id), m.key, m.name, m.checksum, m.size, m.state, scan, module, m.ended, m.observed_at)


def _decision(site: Site, row: Row, group: Group) -> Iterator[tuple[str, Any, Any]]:
    decided = group.decided
    if decided is None:
        yield "outcome", row["outcome"], None
        return
    details = row["details"]
    yield "outcome", row["outcome"], decided.outcome
    if decided.outcome == "busy":
        yield "reason", details.get("then"), decided.reason
    else:
        yield "reason", row["reason"], decided.reason
    if decided.outcome in ("waiting-for-data", "waiting-for-upstream"):
        named = {p["name"] for p in details.get("packages", ())} | set(details.get("obs_unit_not_ended", ()))
        named |= {name for lack in details.get("companions", ()) for name in lack["packages"]}
        yield "awaited", named | {u["sub_group"] for u in details.get("upstream", ())}, set(decided.awaits)
    yield "gone without", set(details.get("without", ())), set(decided.without)
    later = row["due_at"] is not None and row["due_at"] > site.clock.at
    if (later or not (group.due or row["due_at"])) and not _close(row["due_at"], group.due_at):
        yield "due", row["due_at"], group.due_at
    yield "requested", row["requested"] is not None, group.request is not None


def _opening(oracle: Oracle, row: Row, group: Group) -> Iterator[tuple[str, Any, Any]]:
    """Of a step that is not continuous it matters what was opened, and what is due before it is."""
    if not oracle.is_continuous(group.step):
        yield "asked", row["asked"], group.asked
        yield "due at some time", row["due_at"] is not None, group.due or row["due_at"] is not None


def _number(number: int, group: Group) -> tuple[int, int]:
    """A decision that says the same keeps its number; that its details are others, the oracle need not know."""
    return number, min(max(number, group.decision), group.looks)


def _close(one: datetime | None, other: datetime | None) -> bool:
    """A round of passes more or less: who was found due for nothing began its round earlier."""
    return one == other if one is None or other is None else abs(one - other) < timedelta(seconds=ROUNDS)


def _staleness(text: str | None) -> str | None:
    if text is None:
        return None
    return "excluded" if text.startswith("excluded: ") else "changed"


def _run(run: Row) -> tuple[Any, ...]:
    status = "SUBMITTED" if run["status"] in SUBMITTED else run["status"]
    version = run["resolved_step"]["software"]["version"]
    return (status, run["reason"], version, run["trial"], run["superseded"], run["resolved_step"]["config"])


def _foretold(run: Run) -> tuple[Any, ...]:
    return (run.status, run.reason, run.version, run.trial, run.superseded, dict(run.config))
