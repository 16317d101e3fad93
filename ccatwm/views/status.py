"""Says how all pipelines stand. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ccatwm.core.decision_text import missing_software_text
from ccatwm.core.gap import Outcome
from ccatwm.core.selection import Selection
from ccatwm.core.states import OPEN
from ccatwm.core.wording import count_text, span_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import leases, pausing, views
from ccatwm.views.backfills import backfill_line, list_open_backfills
from ccatwm.views.cache import build_cache, build_staging_jobs, cache_text, staging_jobs_text
from ccatwm.views.copies import list_bad_copies
from ccatwm.views.published import affected_lines, incomplete_lines, list_affected, list_incomplete
from ccatwm.views.runs import NO_CEILING, run_json
from ccatwm.views.throttled import add_throttles, list_throttled

ATTENTION_LIMIT = 20
PASS_IS_OLD = timedelta(hours=1)
STEP_COLUMNS = ("step", "sub-groups", "done", "open", "failed", "due", "waits or brakes")
PASS_COLUMNS = ("pass", "location", "last", "done", "waiting", "failed", "message")


def build_status(
    database: Database,
    grouping: GroupingEngine,
    selection: Selection,
    *,
    now: datetime,
    limit: int | None = None,
    site_most: Mapping[str, int] = NO_CEILING,
    cache_at: str | None = None,
    cache_max_gb: float | None = None,
) -> dict[str, Any]:
    """The document `ccatwm.status/1`: a row per step, runs that need attention, bad copies, passes and brakes.

    `cache_at`: the processing location whose cache is told, and `cache_max_gb` the limit of it.
    """
    with database.read() as connection:
        views.check_selection(connection, selection)
        paused, blocked = leases.read_brakes(connection)
        by = pausing.read_pause(connection) if paused is not None else None
        steps = [
            s for s in views.list_steps(connection, selection.pipeline) if selection.step in (None, s["step"])
        ]
        counts = _counts(connection, now)
        counts["throttled"] = _throttled(connection, steps, now, site_most)
        counts["without_image"] = _without_image(connection, counts["outcomes"])
        attention = views.list_attention(connection, selection, limit or ATTENTION_LIMIT)
        add_throttles(connection, attention, now, site_most)
        records = views.list_pass_records(connection)
        held = views.list_leases(connection)
        unsettled = views.count_unsettled(connection)
        bad_copies = list_bad_copies(connection, grouping)
        backfills = list_open_backfills(connection, selection.pipeline)
        affected = list_affected(connection, grouping, now)
        incomplete = list_incomplete(connection)
        cache = None if cache_at is None else build_cache(connection, cache_at, cache_max_gb)
        staging = [] if cache_at is None else build_staging_jobs(connection, cache_at)
    document: dict[str, Any] = {
        "schema": "ccatwm.status/1",
        "at": utc_text(now),
        "paused": paused,
        "paused_by": by[0] if by else None,
        "paused_at": utc_text(by[1]) if by else None,
        "submission_blocked": blocked,
        "status": [_step(row, counts) for row in steps],
        "attention": [run_json(row, now) for row in attention],
        "bad_copies": bad_copies,
        "backfills": backfills,
        "affected_sets": affected,
        "incomplete_sets": incomplete,
        "cache": cache,
        "staging_jobs": staging,
        "unsettled": unsettled,
        "passes": [_pass(row) for row in records],
        "leases": [_lease(row) for row in held],
    }
    document["next"] = _next(document, now)
    return document


def _counts(connection: Any, now: datetime) -> dict[str, dict[int, Any]]:
    return {
        "runs": views.count_by_status(connection),
        "groups": views.count_sub_groups(connection),
        "outcomes": views.count_by_outcome(connection),
        "due": views.count_due(connection, now),
        "stale": views.count_stale(connection),
    }


def _throttled(
    connection: Any, steps: Sequence[Mapping[str, Any]], now: datetime, site_most: Mapping[str, int]
) -> dict[int, dict[str, Any]]:
    """How many runs of each step wait for a ceiling, and for which (of two the one that jobs wait for)."""
    found: dict[int, dict[str, Any]] = {}
    places = {step["processing_location"] for step in steps}
    for step_id, throttle in list_throttled(connection, places, now, site_most).values():
        counted = found.setdefault(step_id, {"runs": 0})
        counted |= {"runs": counted["runs"] + 1, "figure": throttle.figure, "reason": throttle.reason}
    return found


def _without_image(connection: Any, outcomes: Mapping[int, Mapping[str, int]]) -> dict[int, str]:
    """Of each step with sub-groups that wait for a version or its image: which, by one of them."""
    waiting = [step_id for step_id, counted in outcomes.items() if counted.get(Outcome.WAITING_FOR_IMAGE)]
    details = {step_id: views.find_details(connection, step_id, Outcome.WAITING_FOR_IMAGE) for step_id in waiting}
    return {step_id: missing_software_text(found) for step_id, found in details.items()}


def _step(row: Mapping[str, Any], counts: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    outcomes = counts["outcomes"].get(row["id"], {})
    return {
        "pipeline": row["pipeline"],
        "step": row["step"],
        "enabled": bool(row["enabled"] and row["pipeline_enabled"]),
        "held": row["held"] or row["pipeline_held"],
        "held_targets": _held_targets(row),
        "tripped": row["tripped"],
        "trigger": row["trigger_type"] or row["pipeline_trigger_type"],
        "processing_location": row["processing_location"],
        "sub_groups": sum(outcomes.values()),
        **{kind: counts["groups"].get(row["id"], {}).get(kind, 0) for kind in ("done", "open", "failed")},
        **{kind: counts["groups"].get(row["id"], {}).get(kind, 0) for kind in ("held_sub_groups", "held_runs")},
        "outcomes": outcomes,
        "runs": counts["runs"].get(row["id"], {}),
        "due": counts["due"].get(row["id"], 0),
        "stale": counts["stale"].get(row["id"], 0),
        "throttled": counts["throttled"].get(row["id"]),
        "without_image": counts["without_image"].get(row["id"]),
    }


def _held_targets(row: Mapping[str, Any]) -> list[str]:
    """What a person has to release before the step goes on, as `release` takes it."""
    targets = [row["pipeline"]] if row["pipeline_held"] else []
    return [*targets, f"{row['pipeline']}/{row['step']}"] if row["held"] else targets


def _pass(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pass": row["pass_name"],
        "location": row["location"],
        "started_at": utc_text(row["started_at"]),
        "ended_at": utc_text(row["ended_at"]),
        **{key: row[key] for key in ("host", "pid", "selected", "done", "waiting", "failed", "message")},
    }


def _lease(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pass": row["pass_name"],
        "location": row["location"],
        "host": row["host"],
        "pid": row["pid"],
        "taken_at": utc_text(row["taken_at"]),
        "expires_at": utc_text(row["expires_at"]),
    }


# --- what may be typed next ---------------------------------------------------------------------------------


def _next(document: Mapping[str, Any], now: datetime) -> list[str]:
    commands = ["ccatwm resume"] if document["paused"] else []
    if not document["status"]:
        return [*commands, "ccatwm apply FILE"]
    if document["submission_blocked"]:
        commands.append("ccatwm doctor --reconcile")
    commands += _for_attention(document["attention"])
    for step in document["status"]:
        place = f"{step['pipeline']}/{step['step']}"
        if step["tripped"]:
            commands.append(f"ccatwm release {place} --retry --reason TEXT")
        targets = [target for target in step["held_targets"] if target != place or not step["tripped"]]
        commands += [f"ccatwm release {target} --reason TEXT" for target in targets]
    sets = dict.fromkeys(row["name"] for row in (*document["affected_sets"], *document["incomplete_sets"]))
    commands += [f"ccatwm publish {name}" for name in sets]
    if any(step["without_image"] for step in document["status"]):
        commands.append("ccatwm apply FILE")
    if _work_waits(document) and not _passes_are_recent(document["passes"], now):
        commands.append("ccatwm cycle")
    return list(dict.fromkeys(commands))  # steps of one pipeline are held by one word


def _for_attention(attention: Sequence[Mapping[str, Any]]) -> list[str]:
    """About the newest run that waits for a person."""
    failed = [row for row in attention if row["needs_you"]]
    if not failed:
        return []
    run, attempt = failed[0]["run"], failed[0]["attempt"]
    logs = [f"ccatwm logs {run}"] if attempt else []  # there are none before the first attempt
    return [f"ccatwm show {run}", *logs, f"ccatwm retry {run} --reason TEXT"]


def _work_waits(document: Mapping[str, Any]) -> bool:
    due = any(step["due"] for step in document["status"])
    return (
        due or any(document["unsettled"].values()) or any(r["status"] in OPEN for r in document["attention"])
    )


def _passes_are_recent(passes: Sequence[Mapping[str, Any]], now: datetime) -> bool:
    started = [datetime.fromisoformat(record["started_at"]) for record in passes]
    return bool(started) and now - max(started) < PASS_IS_OLD


# --- for people ---------------------------------------------------------------------------------------------


def step_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A row for people, at 80 columns: all numbers are of sub-groups."""
    return (
        f"{row['pipeline']}/{row['step']}",
        row["sub_groups"],
        row["done"],
        row["open"],
        row["failed"],
        row["due"],
        ", ".join(_notes(row)) or "-",
    )


def _notes(row: Mapping[str, Any]) -> list[str]:
    brakes = [] if row["enabled"] else ["disabled"]
    brakes += [f"held: {row['held']}"] if row["held"] else []
    brakes += [f"tripped: {row['tripped']}"] if row["tripped"] else []
    held = (("sub-group", row["held_sub_groups"]), ("run", row["held_runs"]))
    brakes += [f"{count_text(count, noun)} held" for noun, count in held if count]
    stale = [f"{row['stale']} stale"] if row["stale"] else []
    quiet = ["run", "up-to-date", "restored", "accepted"]
    quiet += [] if row["held"] else [Outcome.HELD.value]  # a hold is told as it is now, not as it was decided on
    throttled = row["throttled"]
    stale += [f"{throttled['runs']} throttled, {throttled['figure']}"] if throttled else []
    waits = [f"{count} {name}" for name, count in sorted(row["outcomes"].items()) if name not in quiet]
    return brakes + stale + waits


def brake_lines(document: Mapping[str, Any]) -> list[str]:
    """What stops everything, first of all."""
    since = f" ({document['paused_by']}, {document['paused_at']})" if document["paused_by"] else ""
    lines = [f"ALL PASSES ARE PAUSED: {document['paused']}{since}"] if document["paused"] else []
    if document["submission_blocked"]:
        lines.append(f"SUBMISSION IS BLOCKED: {document['submission_blocked']}")
    return lines


def pass_cells(row: Mapping[str, Any], at: str) -> tuple[object, ...]:
    """A row for people; `at` is the document's own time."""
    seconds = (datetime.fromisoformat(at) - datetime.fromisoformat(row["started_at"])).total_seconds()
    last = f"{span_text(max(0.0, seconds))} ago"
    return (row["pass"], row["location"], last, row["done"], row["waiting"], row["failed"], row["message"])


def other_lines(document: Mapping[str, Any]) -> list[str]:
    """What lies between the passes, who is at work, and what to type next."""
    names = {
        "changed_packages": "packages to regroup",
        "trigger_events": "open trigger events",
        "submissions": "submissions half-way",
    }
    waiting = [f"{count} {names[name]}" for name, count in document["unsettled"].items() if count]
    lines = [f"between passes: {', '.join(waiting)}"] if waiting else []
    lines += [
        f"at work: {r['pass']} at {r['location']} on {r['host']}, pid {r['pid']}" for r in document["leases"]
    ]
    lines += [backfill_line(row) for row in document["backfills"]]
    lines += affected_lines(document["affected_sets"])
    lines += incomplete_lines(document["incomplete_sets"])
    if document["cache"] and document["cache"]["limit_bytes"] is not None:
        lines.append(f"cache: {cache_text(document['cache'])}")
    if document["staging_jobs"]:
        lines.append(f"staging jobs: {staging_jobs_text(document['staging_jobs'])}")
    for row in document["status"]:
        if row["without_image"]:
            waiting_for = count_text(row["outcomes"][Outcome.WAITING_FOR_IMAGE], "sub-group")
            lines.append(f"{row['pipeline']}/{row['step']}: {waiting_for} without a version to run: {row['without_image']}")
    return lines + [f"next: {command}" for command in document["next"]]
