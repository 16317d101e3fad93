"""Looks whether a site is well, for `core.health` to judge. Touches: the ops-db (reading), the file systems' free space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.core import health
from ccatwm.core.checkup import Finding, error_findings, judge_space
from ccatwm.core.health import Cursor, HealthFacts, PassSeen, Patience, StepCount
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.stores import health as store
from ccatwm.edges.opsdb.stores import leases, pausing, triggers, views
from ccatwm.edges.workfiles.local import space_at
from ccatwm.errors import CcatwmError, OpsDbUnusableError, WorldError
from ccatwm.interfaces import WorkFiles
from ccatwm.settings.schema import Settings
from ccatwm.views.cache import build_cache, cache_text
from ccatwm.views.copies import list_bad_copies
from ccatwm.views.throttled import list_throttled


def examine_health(
    settings: Settings, database: Database, grouping: GroupingEngine, open_files: Callable[[], WorkFiles], *, now: datetime
) -> list[Finding]:
    """All findings. An ops-db or a processing host that does not answer is one of them."""
    patience = Patience(settings.health_pass_seconds, settings.health_run_hours, settings.health_pause_hours)
    try:
        facts = read_facts(settings, database, grouping, now=now)
        found = health.judge_health(facts, patience, now)
    except (WorldError, OpsDbUnusableError) as error:
        found = error_findings(health.OPS_DB, error)
    return [*found, *_disks(settings, open_files)]


def read_facts(settings: Settings, database: Database, grouping: GroupingEngine, *, now: datetime) -> HealthFacts:
    """What the ops-db says of the processing location of this site; of passes also those of others."""
    here = settings.processing_location
    most = {} if settings.max_concurrent is None else {here: settings.max_concurrent}
    with database.read() as connection:
        paused, blocked = leases.read_brakes(connection)
        by = pausing.read_pause(connection) if paused is not None else None
        steps = views.list_steps(connection)
        enabled = [s for s in steps if s["enabled"] and s["pipeline_enabled"]]
        counts = views.count_sub_groups(connection)
        return HealthFacts(
            here=here,
            locations=frozenset(s["processing_location"] for s in enabled),
            passes=tuple(_list_passes(connection)),
            paused=paused,
            paused_by=by[0] if by else None,
            paused_at=by[1] if by else None,
            blocked=blocked,
            needing=tuple(_needing(steps, counts)),
            tripped=tuple(StepCount(_place(s), 1, s["tripped"]) for s in enabled if s["tripped"]),
            throttled=tuple(_list_throttled(connection, steps, here, most, now)),
            cursors=tuple(_list_cursors(connection, grouping)),
            changed_since=store.first_change_noted(connection),
            oldest=tuple(store.list_oldest_runs(connection, here, now)),
            bad_copies=len(list_bad_copies(connection, grouping)),
            unreached=tuple(store.list_unreached(connection, here, now - timedelta(seconds=settings.health_pass_seconds))),
            cache=_cache(connection, here, settings.cache_max_gb),
        )


def build_health(site: str, findings: list[Finding], now: str | None) -> dict[str, Any]:
    """The document `ccatwm.health/1`."""
    return {
        "schema": "ccatwm.health/1",
        "site": site,
        "at": now,
        "healthy": health.exit_code(findings) == health.EXIT_HEALTHY,
        "health": [finding.to_json() for finding in findings],
    }


def _cache(connection: sa.Connection, here: str, cache_max_gb: float | None) -> str:
    return "" if cache_max_gb is None else cache_text(build_cache(connection, here, cache_max_gb))


def _place(step: Mapping[str, Any]) -> str:
    return f"{step['pipeline']}/{step['step']}"


def _list_passes(connection: sa.Connection) -> list[PassSeen]:
    at_work = {(one.pass_name, one.location) for one in pausing.list_at_work(connection)}
    return [
        PassSeen(row["pass_name"], row["location"], row["ended_at"], row["message"],
                 (row["pass_name"], row["location"]) in at_work)
        for row in views.list_pass_records(connection)
    ]  # fmt: skip


def _needing(steps: list[dict[str, Any]], counts: Mapping[int, Mapping[str, int]]) -> list[StepCount]:
    found = [(step, counts.get(step["id"], {}).get("failed", 0)) for step in steps]
    return [StepCount(_place(step), count) for step, count in found if count]


def _list_throttled(
    connection: sa.Connection, steps: list[dict[str, Any]], here: str, most: Mapping[str, int], now: datetime
) -> list[StepCount]:
    counted: dict[int, tuple[int, str]] = {}
    for step_id, throttle in list_throttled(connection, [here], now, most).values():
        counted[step_id] = (counted.get(step_id, (0, ""))[0] + 1, throttle.reason)
    return [StepCount(_place(s), *counted[s["id"]]) for s in steps if s["id"] in counted]


def _list_cursors(connection: sa.Connection, grouping: GroupingEngine) -> list[Cursor]:
    """Of tables that were read before; none before the first pass."""
    positions = triggers.read_cursors(connection)
    return [
        Cursor(table, positions[table], grouping.newest_change(connection, table))
        for table in grouping.observed_tables()
        if table in positions
    ]


# --- disks -------------------------------------------------------------------------------------------------------------


def _disks(settings: Settings, open_files: Callable[[], WorkFiles]) -> list[Finding]:
    """Room below the base directory, where it lies, and for STATE_DIR here."""
    try:
        space = open_files().space()
        floors = settings.min_free_gb, settings.min_free_inodes
        found = [judge_space("base-dir", space.free_bytes, space.free_inodes, *floors)]
    except CcatwmError as error:
        found = error_findings("base-dir", error)
    state = settings.state_dir
    folder = next(there for there in (state, *state.parents) if there.exists())  # where it lies, or will be made
    try:
        here = space_at(folder)
    except OSError as error:
        return [*found, *error_findings("state-dir", WorldError(f"{folder}: {error.strerror}"))]
    return [*found, judge_space("state-dir", here.free_bytes, here.free_inodes, 0.0)]
