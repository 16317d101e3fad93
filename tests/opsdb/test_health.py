"""`health` reads from the ops-db what is so, on every database."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from ccatwm.core.checkup import Finding
from ccatwm.core.health import PASSES, HealthFacts, OldestRun, Unreached
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import TransportError
from ccatwm.interfaces import PlainEffects, WorkFiles
from ccatwm.settings.schema import Settings
from ccatwm.views.health import examine_health, read_facts
from tests.opsdb.looked_at import MINUTE, NOW, World, world

__all__ = ["world"]


def settings(folder: Path, **changes: Any) -> Settings:
    defaults: dict[str, Any] = {"opsdb_url": "", "pipeline_base_dir": folder, "processing_location": "local"}
    return Settings("x", folder, **(defaults | {"state_dir": folder} | changes))


def facts(world: World, **changes: Any) -> HealthFacts:
    return read_facts(settings(Path("/"), **changes), world.database, world.grouping, now=NOW)


def record(world: World, name: str, **values: Any) -> None:
    defaults = {
        "pass_name": name, "location": "local", "latest": True, "started_at": NOW - 2 * MINUTE, "ended_at": NOW - MINUTE,
        "host": "h", "pid": 1, "selected": 0, "done": 0, "waiting": 0, "failed": 0,
    }  # fmt: skip
    world.insert(t.pass_record, **(defaults | values))


def test_passes_are_read_with_their_errors_and_whether_they_are_at_work(world: World) -> None:
    record(world, "poll", message="the batch system did not answer")
    record(world, "stage", ended_at=NOW - 300 * MINUTE)
    record(world, "stage", latest=False)
    world.insert(
        t.pass_lease, pass_name="stage", location="local", fence=1, holder="b:1:2", host="h", pid=1, boot_id="b",
        taken_at=NOW, expires_at=NOW + timedelta(days=36500),
    )  # fmt: skip
    found = {p.name: p for p in facts(world).passes}
    assert (found["poll"].message, found["poll"].at_work) == ("the batch system did not answer", False)
    assert (found["stage"].ended_at, found["stage"].at_work) == (NOW - 300 * MINUTE, True)
    assert facts(world).locations == {"local"}


def test_runs_that_wait_for_a_data_location_are_counted_by_what_is_said_of_it(world: World) -> None:
    def run(key: str, message: str, **values: Any) -> int:
        waits = {"status_at": NOW - MINUTE, "due_at": NOW + MINUTE, "message": message}
        return world.run(world.sub_group("calibrate", key, outcome="run"), "STAGING_DATA", **(waits | values))

    why = "data location raw: no answer"
    first = run("a", f"package scan-a: {why}")
    run("b", f"package scan-b: {why}", status_at=NOW - 9 * MINUTE)
    run("c", "package scan-c: staging job 7 brings it")
    run("d", f"package scan-d: {why}", due_at=NOW - 20 * MINUTE)  # something has come of it since, or stage does not run
    assert facts(world).unreached == (Unreached(why, 2, first, NOW - 9 * MINUTE),)


def test_brakes_are_read_with_who_set_them(world: World) -> None:
    world.update(t.ops_db, 1, paused="upgrade", submission_blocked="restored")
    world.insert(t.change_log, at=NOW - MINUTE, actor="jd", host="h", act="pause", target="", details={})
    found = facts(world)
    assert (found.paused, found.paused_by, found.paused_at) == ("upgrade", "jd", NOW - MINUTE)
    assert found.blocked == "restored"


def test_runs_that_wait_for_a_person_and_tripped_steps_are_counted_by_step(world: World) -> None:
    for key in ("a", "b"):
        world.run(world.sub_group("calibrate", key), "FAILED", blocking=True)
    world.run(world.sub_group("calibrate", "c"), "FAILED", blocking=False, is_open=True)
    world.update(t.reduction_step, world.steps["grid"], tripped="timeout")
    found = facts(world)
    assert [(s.place, s.count) for s in found.needing] == [("otf/calibrate", 2)]
    assert [(s.place, s.why) for s in found.tripped] == [("otf/grid", "timeout")]


def test_work_that_a_ceiling_holds_back_is_told(world: World) -> None:
    world.run(world.sub_group("calibrate", "a"), "RUNNING")
    world.run(world.sub_group("calibrate", "b"), "STAGED")
    (held_back,) = facts(world, max_concurrent=1).throttled
    assert (held_back.place, held_back.count) == ("otf/calibrate", 1) and held_back.why
    assert facts(world).throttled == ()


def test_the_oldest_run_of_each_status_is_found_but_not_what_is_held_or_due_later(world: World) -> None:
    for n, (age, values) in enumerate([(9, {"held": "wait"}), (8, {"due_at": NOW + MINUTE}), (7, {}), (5, {})]):
        world.run(world.sub_group("calibrate", str(n)), "PENDING", status_at=NOW - age * MINUTE, **values)
    assert facts(world).oldest == (OldestRun(3, "PENDING", NOW - 7 * MINUTE),)


def test_cursors_that_lag_and_packages_that_wait_are_seen(world: World) -> None:
    world.insert(t.change_cursor, table_name="Source", position=NOW - 60 * MINUTE)
    world.insert(t.source, name="NGC253", kind="fixed", updated_at=NOW - 30 * MINUTE)
    world.insert(t.changed_package, package_id="1", cause="Source", noted_at=NOW - 20 * MINUTE)
    found = facts(world)
    assert [(c.table, c.position, c.newest) for c in found.cursors] == [
        ("Source", NOW - 60 * MINUTE, NOW - 30 * MINUTE)
    ]
    assert found.changed_since == NOW - 20 * MINUTE


def examine(world: World, folder: Path, database: Database | None = None, **changes: Any) -> dict[str, Finding]:
    def files() -> WorkFiles:
        return LocalWorkFiles(folder, PlainEffects())

    open_files = changes.pop("open_files", files)
    found = examine_health(
        settings(folder, **changes), database or world.database, world.grouping, open_files, now=NOW
    )
    return {f.name: f for f in found}


def test_a_full_disk_is_wrong(world: World, tmp_path: Path) -> None:
    for name in PASSES:
        record(world, name)
    found = examine(world, tmp_path, min_free_gb=1e9)
    assert [n for n, f in found.items() if f.state == "wrong"] == ["base-dir"] and "MIN_FREE_GB" in found["base-dir"].found


def test_a_processing_host_that_does_not_answer_is_away(world: World, tmp_path: Path) -> None:
    def away() -> WorkFiles:
        raise TransportError("ramses did not answer")

    assert examine(world, tmp_path, open_files=away)["base-dir"].away


def test_an_ops_db_that_does_not_answer_is_away(world: World, tmp_path: Path) -> None:
    nobody = Database("postgresql://nobody@127.0.0.1:1/none")
    found = examine(world, tmp_path, database=nobody)
    assert found["ops-db"].away and found["ops-db"].next
    nobody.dispose()
