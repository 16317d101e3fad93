"""Says everything of one run. Touches: the ops-db and the run's directory, reading only."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.latest import latest_path
from ccatwm.core.wording import number_text, role_text, size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.control import list_holds
from ccatwm.errors import FilesUnavailableError
from ccatwm.interfaces import WorkFiles
from ccatwm.views.logs import STREAMS, read_logs
from ccatwm.views.places import Places, told_path
from ccatwm.views.products import files_text, latest_of, product_json
from ccatwm.views.runs import NO_CEILING, needs_person, run_json
from ccatwm.views.throttled import add_throttles

TAIL_BYTES = 4096
TAIL_LINES = 15
SHOWN_ROWS = 20


def build_show(
    database: Database,
    workfiles: WorkFiles,
    run_id: int,
    *,
    places: Places,
    now: datetime,
    site_most: Mapping[str, int] = NO_CEILING,
) -> dict[str, Any]:
    """The document `ccatwm.show/1`. Errors: UsageError for a run that is not there."""
    with database.read() as connection:
        full = views.get_run(connection, run_id)
        listed = views.list_runs_by_id(connection, [run_id])[run_id]
        add_throttles(connection, [listed], now, site_most)
        attempts = views.list_attempts(connection, [run_id])[run_id]
        events = views.list_events(connection, run_id)
        inputs = views.list_inputs(connection, [run_id])[run_id]
        products = views.list_products_of_runs(connection, [run_id])
        changes = views.list_changes(connection, _targets(listed))
        holds = list_holds(connection, run_id)
    location = listed["processing_location"]
    recorded = _recorded_paths(full, listed, attempts)
    return {
        "schema": "ccatwm.show/1",
        "run": run_json(listed, now),
        "holds": [{"target": target, "reason": reason} for target, reason in holds.items()],
        "made": _made(full),
        "resources": {
            "step": dict(full["resolved_step"]["resources"]),
            "asked": _asked(full, attempts),
            "used": _used(full),
        },
        "paths": {
            **{name: places.path(location, path) for name, path in recorded.items()},
            "latest": _latest(places, products),
        },
        "relative_paths": recorded,
        "attempts": [_attempt(row, places.path(location, row["directory"])) for row in attempts],
        "events": [_event(row) for row in events],
        "inputs": [input_json(row) for row in inputs],
        "products": [product_json(row, places) for row in products],
        "changes": [_change(row) for row in changes],
        "logs": _last_lines(workfiles, attempts) if location == places.here else [],
        "next": [*_bringing_back(listed, products), *next_commands(listed, list(holds))],
    }


def _targets(row: dict[str, Any]) -> list[str]:
    step = f"{row['pipeline']}/{row['step']}"
    return [f"run {row['run']}", row["pipeline"], step, f"{step}/{row['sub_group']}"]


def _made(full: dict[str, Any]) -> dict[str, Any]:
    return {
        "decision": full["decision"],
        "reason": full["reason"],
        "details": full["reason_details"],
        "recipe": full["recipe"],
        "software": full["resolved_step"]["software"],
        "config": full["resolved_step"]["config"],
        "environment": full["resolved_step"]["environment"],
        "priority": full["priority"],
        "created_at": utc_text(full["created_at"]),
        "ended_at": utc_text(full["ended_at"]),
    }


def _asked(full: dict[str, Any], attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the newest attempt asked for, or what the next one will."""
    if full["next_resources"]:
        return dict(full["next_resources"])
    return dict(attempts[-1]["resources_asked"] if attempts else full["resolved_step"]["resources"])


def _used(full: dict[str, Any]) -> dict[str, Any]:
    return {key: full[key] for key in ("wall_seconds", "cpu_hours", "peak_memory_gb")}


def _recorded_paths(
    full: dict[str, Any], listed: dict[str, Any], attempts: list[dict[str, Any]]
) -> dict[str, str | None]:
    """Below the base directory of the run's processing location, as in the ops-db."""
    run_dir = PurePosixPath(listed["pipeline"], listed["step"], listed["sub_group"], f"run-{listed['run']}")
    attempt_dir = attempts[-1]["directory"] if attempts else None
    return {
        "run": str(run_dir),
        "attempt": attempt_dir,
        "output": full["output_directory"],
        "logs": f"{attempt_dir}/logs" if attempt_dir else None,
    }


def _latest(places: Places, products: list[dict[str, Any]]) -> str | None:
    """The stable path, where it leads to this run."""
    usable = next((row for row in products if latest_of(row, places) is not None), None)
    if usable is None:
        return None
    link = latest_path(usable["pipeline"], usable["step"], usable["sub_group"])
    return places.path(usable["processing_location"], str(link))


def _attempt(row: dict[str, Any], directory: str | None) -> dict[str, Any]:
    return {
        "attempt": row["number"],
        "job_id": row["job_id"],
        "array_index": row["array_index"],
        "token": row["token"],
        "backend": row["backend"],
        "cluster": row["cluster"],
        "submission": row["submission_state"],
        "directory": directory,
        "relative_directory": row["directory"],
        "host": row["host"],
        "outcome": row["outcome"],
        "failure_class": row["failure_class"],
        "exit_code": row["exit_code"],
        "message": row["message"],
        "asked": row["resources_asked"],
        "used": row["resources_used"],
        "created_at": utc_text(row["created_at"]),
        "submitted_at": utc_text(row["submitted_at"]),
        "started_at": utc_text(row["started_at"]),
        "ended_at": utc_text(row["ended_at"]),
    }


def _event(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": utc_text(row["at"]),
        "event": row["event"],
        "from": row["from_status"],
        "to": row["to_status"],
        "by": row["actor"] or row["by_pass"],
        "message": row["message"],
    }


def _change(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": utc_text(row["at"]),
        **{key: row[key] for key in ("actor", "host", "act", "target", "reason")},
    }


def input_json(row: dict[str, Any]) -> dict[str, Any]:
    """A frozen input; `product` and `upstream_*` are null for raw packages and references, `companion` for all else."""
    details = row["details"] or {}
    return {
        "kind": row["kind"],
        "role": row["role"],
        "companion": details.get("companion"),
        "name": row["name"],
        "identity": row["identity"],
        "checksum": row["checksum"],
        "size": row["size_bytes"],
        "product": row["product_id"],
        "upstream_run": details.get("upstream_run_id"),
        "upstream_step": details.get("upstream_step"),
        "upstream_sub_group": details.get("upstream_sub_group"),
    }


def _last_lines(workfiles: WorkFiles, attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ends of the newest attempt's logs.

    None where the files cannot be reached: the ops-db has the rest.
    """
    if not attempts:
        return []
    try:
        logs = read_logs(workfiles, attempts[-1]["directory"], STREAMS, TAIL_BYTES)
    except FilesUnavailableError:
        return []
    return [{**log, "text": _tail(log["text"])} for log in logs]


def _tail(text: str | None) -> str | None:
    return "\n".join(text.splitlines()[-TAIL_LINES:]) if text is not None else None


def next_commands(row: dict[str, Any], held_targets: Sequence[str] = ()) -> list[str]:
    """What may be typed next about a run, most useful first. `held_targets`: what holds it, as `release` takes it."""
    run = row["run"]
    place = " ".join(shlex.quote(row[key]) for key in ("pipeline", "step", "sub_group"))
    commands = [f"ccatwm logs {run}"] if row["attempt"] else []
    if row["status"] == "FAILED":
        commands += [f"ccatwm command {run}"] if row["attempt"] else []
        commands.append(f"ccatwm rerun {run} --by-hand DIR")
    if needs_person(row) or (row["status"] == "CANCELLED" and not row["superseded"]):
        commands.append(f"ccatwm retry {run} --reason TEXT")
    elif row["is_open"]:
        commands.append(f"ccatwm cancel {run} --reason TEXT")
    if row["status"] == "COMPLETED":
        commands.append(_products_command(row))
    if row["is_open"] or needs_person(row):
        commands = [*_release_commands(row, held_targets), *commands]
    return [*commands, f"ccatwm explain {place}"]


def _bringing_back(row: dict[str, Any], products: Sequence[Mapping[str, Any]]) -> list[str]:
    """What brings back files that were removed: the trash, or where they count another run of the same."""
    removed = [product for product in products if product["removed"] is not None]
    if not removed:
        return []
    if removed[0]["removed"].deleted_at is None:
        return [f"ccatwm gc --undo {row['run']}"]
    options = " ".join(f"--{key.replace('_', '-')} {shlex.quote(row[key])}" for key in ("pipeline", "step", "sub_group"))
    return [f"ccatwm trigger {options} --reason TEXT"] if removed[0]["current"] else []


def _release_commands(row: dict[str, Any], held_targets: Sequence[str]) -> list[str]:
    """What lets the run go on; a release of a tripped step ends its hold as well."""
    step = f"{row['pipeline']}/{row['step']}"
    tripped = [f"ccatwm release {shlex.quote(step)} --retry --reason TEXT"] if row["tripped"] else []
    others = [target for target in held_targets if target != step or not tripped]
    return tripped + [f"ccatwm release {shlex.quote(target)} --reason TEXT" for target in others]


def _products_command(row: dict[str, Any]) -> str:
    options = (("--pipeline", "pipeline"), ("--step", "step"), ("--sub-group", "sub_group"))
    return "ccatwm products --all " + " ".join(f"{option} {shlex.quote(row[key])}" for option, key in options)


# --- for people ---------------------------------------------------------------------------------


def show_lines(document: Mapping[str, Any]) -> list[str]:
    """The run in words, a paragraph per subject."""
    lines = _head_lines(document) + _attempt_lines(document["attempts"])
    lines += ["", "path", *_path_lines(document)]
    lines += _input_lines(document["inputs"]) + _product_lines(document["products"])
    lines += ["", "history (UTC)"] + [_event_line(event) for event in document["events"]]
    if document["changes"]:
        lines += ["", "what people did"] + [_change_line(c) for c in document["changes"]]
    for log in document["logs"]:
        if log["text"]:
            lines += ["", f"end of {log['path']}"]
            lines += [f"  {line.expandtabs()}" for line in log["text"].splitlines()]
    return [*lines, "", *(f"next: {command}" for command in document["next"])]


def _path_lines(document: Mapping[str, Any]) -> list[str]:
    location, paths = document["run"]["processing_location"], document["paths"]
    told = {name: told_path(location, paths[name], path) for name, path in document["relative_paths"].items()}
    return [f"  {name:8} {path}" for name, path in told.items() if path]


def _head_lines(document: Mapping[str, Any]) -> list[str]:
    run, made = document["run"], document["made"]
    software = made["software"]
    lines = [
        f"run {run['run']} {run['pipeline']}/{run['step']} {run['sub_group']}: {run['state']}",
        f"  reason     {run['reason']} (decision {made['decision']})",
        f"  software   {software['software']} {software['version']}: {shlex.join(software['command'])}",
    ]
    if software["image"]:
        lines.append(
            f"  image      {software['image']} {software['image_digest'] or '(digest not known yet)'}"
        )
    if made["config"]:
        lines.append(f"  config     {_pairs(made['config'])}")
    lines += [f"  asked      {_pairs(document['resources']['asked'])}", *_grown_lines(document["resources"])]
    used = _pairs(document["resources"]["used"])
    lines += [f"  used       {used}"] if used else []
    lines += _trouble_lines(run) + _hold_lines(document)
    return lines


def _grown_lines(resources: Mapping[str, Any]) -> list[str]:
    """What is asked for more than the step says: because an attempt failed, or earlier runs had to learn it."""
    step, asked = resources["step"], resources["asked"]
    grown = {key: step[key] for key in ("memory_gb", "time_hours") if asked[key] > step[key]}
    return [f"  grown      the step asks for {_pairs(grown)}; its retries had to ask for more"] if grown else []


def _trouble_lines(run: Mapping[str, Any]) -> list[str]:
    lines = []
    if run["failure_class"]:
        code = f", exit code {run['exit_code']}" if run["exit_code"] is not None else ""
        lines.append(f"  failure    {run['failure_class']}{code}")
    if run["throttled"]:
        lines.append(f"  throttled  {run['throttled']}")
    if run["message"]:
        lines.append(f"  message    {run['message']}")
    if run["held"]:
        lines.append(f"  held       {run['held']}")
    if run["braked"]:
        lines.append(f"  brake      {run['braked']} (nothing of it starts before somebody releases it)")
    if run["cancel_requested_at"]:
        lines.append(
            f"  cancel     asked for at {_short(run['cancel_requested_at'])}: {run['cancel_reason']}"
        )
    return lines + [f"  warning    {warning}" for warning in run["warnings"]]


def _hold_lines(document: Mapping[str, Any]) -> list[str]:
    """What else holds the run: neither itself nor the brake, which are told already."""
    run = document["run"]
    others = [] if run["braked"] else [hold for hold in document["holds"] if hold["target"] != str(run["run"])]
    return [f"  held       {hold['target']}: {hold['reason']}" for hold in others]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {_number(value)}" for key, value in values.items() if value not in (None, [], "", 0)
    )


def _number(value: Any) -> Any:
    return number_text(value) if isinstance(value, float) else value


def _attempt_lines(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "attempts"] if attempts else []
    for a in attempts:
        failure = f" {a['failure_class']}" if a["failure_class"] else ""
        code = f", exit code {a['exit_code']}" if a["exit_code"] is not None else ""
        job = f"job {a['job_id']}" if a["job_id"] else f"no job yet ({a['submission']})"
        lines.append(
            f"  {a['attempt']}  {job} on {a['host'] or a['cluster']}: "
            f"{a['outcome'] or 'under way'}{failure}{code}"
        )
        if a["message"]:
            lines.append(f"     {a['message']}")
        if used := _pairs(a["used"] or {}):
            lines.append(f"     used {used}")
    return lines


def _input_lines(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", f"inputs ({len(inputs)})"]
    for item in inputs[:SHOWN_ROWS]:
        made_by = (
            f" by run {item['upstream_run']}, {item['upstream_sub_group']}" if item["upstream_run"] else ""
        )
        lines.append(f"  {item['kind']:9} {item['name']}{role_text(item)} {size_text(item['size'])}{made_by}")
    return lines + _more(inputs)


def _product_lines(products: Sequence[Mapping[str, Any]]) -> list[str]:
    if not products:
        return []
    lines = ["", f"products ({len(products)})"]
    lines += [
        f"  {p['product']}  {p['type']} {p['name']} {size_text(p['size'])}" for p in products[:SHOWN_ROWS]
    ]
    gone = next((text for p in products if (text := files_text(p))), None)
    return lines + _more(products) + ([f"  {gone}"] if gone else [])


def _more(rows: Sequence[Any]) -> list[str]:
    return [f"  and {len(rows) - SHOWN_ROWS} more (--json lists all)"] if len(rows) > SHOWN_ROWS else []


def _event_line(event: Mapping[str, Any]) -> str:
    message = f": {event['message']}" if event["message"] else ""
    return f"  {_short(event['at'])}  {event['to']} ({event['event']} by {event['by'] or '?'}){message}"


def _change_line(change: Mapping[str, Any]) -> str:
    who = f"{change['actor']} on {change['host']}"
    return f"  {_short(change['at'])}  {change['act']} {change['target']} by {who}: {change['reason'] or '-'}"


def _short(time: str) -> str:
    return time[:19].replace("T", " ")
