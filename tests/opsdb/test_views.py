"""What people see: status, runs, products, show, logs, lineage and explain say what the ops-db holds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ccatwm.core.selection import Selection, build_selection
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores import views
from ccatwm.edges.opsdb.stores.exclusions import places_of_sub_groups
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import UsageError
from ccatwm.interfaces import PlainEffects
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.lineage import build_lineage, lineage_lines
from ccatwm.views.logs import build_logs
from ccatwm.views.places import Places
from ccatwm.views.products import build_products, product_cells
from ccatwm.views.runs import build_runs
from ccatwm.views.show import build_show, show_lines
from ccatwm.views.status import build_status, other_lines, step_cells
from tests.opsdb.looked_at import MINUTE, NOW, World, world

__all__ = ["world"]

PLACES = Places("local", PurePosixPath("/base"))


def runs(world: World, **conditions: Any) -> list[dict[str, Any]]:
    return build_runs(world.database, Selection(**conditions), now=NOW)["runs"]


def products(world: World, all_of_them: bool = False, **conditions: Any) -> list[dict[str, Any]]:
    selection = Selection(**conditions)
    return build_products(world.database, selection, places=PLACES, all_of_them=all_of_them)["products"]


def explain(world: World, step: str = "calibrate", key: str | None = "executed_obs_unit=1") -> dict[str, Any]:
    return build_explain(world.database, "otf", step, key, now=NOW)["explain"][0]


def workfiles(folder: Path) -> LocalWorkFiles:
    (folder / "base").mkdir(exist_ok=True)
    return LocalWorkFiles(folder / "base", PlainEffects())


# --- runs ---------------------------------------------------------------------------------------------------


def test_runs_have_the_keys_that_scripts_read(world):
    run = world.run(world.sub_group("grid", "all"), warnings=["partial"])
    world.attempt(run, job_id="4711")
    row = runs(world)[0]
    keys = ("run", "pipeline", "step", "sub_group", "status", "attempt", "job_id", "reason", "warnings")
    wanted = [run, "otf", "grid", "all", "COMPLETED", 1, "4711", "new-sub-group", ["partial"]]
    assert [row[key] for key in keys] == wanted


def test_runs_are_json(world):
    world.attempt(world.run(world.sub_group("grid", "all")))
    assert json.loads(json.dumps(runs(world)))[0]["status_at"] == "2026-03-02T11:57:00Z"


def test_the_job_shown_is_that_of_the_newest_attempt(world):
    run = world.run(world.sub_group("grid", "all"), "RUNNING")
    world.attempt(run, 1, "70", outcome="failed")
    world.attempt(run, 2, "71", outcome=None)
    assert [(r["attempt"], r["job_id"]) for r in runs(world)] == [(2, "71")]


def test_a_run_without_an_attempt_has_no_job(world):
    world.run(world.sub_group("grid", "all"), "PENDING")
    assert [(r["attempt"], r["job_id"], r["host"]) for r in runs(world)] == [(0, None, None)]


def test_runs_are_newest_first_and_the_rest_is_counted(world):
    group = world.sub_group("grid", "all")
    made = [world.run(group) for _ in range(3)]
    document = build_runs(world.database, Selection(), now=NOW, limit=2)
    assert ([r["run"] for r in document["runs"]], document["total"]) == ([made[2], made[1]], 3)


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({"step": "grid"}, ["COMPLETED"]),
        ({"statuses": ("FAILED",)}, ["FAILED"]),
        ({"classes": ("timeout",)}, ["FAILED"]),
        ({"classes": ("lost",)}, []),
        ({"since": NOW - 10 * MINUTE}, ["FAILED"]),
        ({"until": NOW - 10 * MINUTE}, ["COMPLETED"]),
        ({"sub_group": "all"}, ["COMPLETED"]),
        ({"pipeline": "otf"}, ["FAILED", "COMPLETED"]),
    ],
)
def test_a_selection_selects(world, conditions, found):
    world.run(world.sub_group("grid", "all"), status_at=NOW - 60 * MINUTE)
    world.run(world.sub_group("calibrate", "executed_obs_unit=1"), "FAILED", failure_class="timeout")
    assert [r["status"] for r in runs(world, **conditions)] == found


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"pipeline": "oft"}, "did you mean otf"),
        ({"pipeline": "otf", "step": "gird"}, "did you mean grid"),
        ({"step": "grid", "sub_group": "nothing-like-it"}, "there are: all"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_those_that_are(world, conditions, said):
    world.sub_group("grid", "all")
    with pytest.raises(UsageError) as caught:
        runs(world, **conditions)
    assert said in caught.value.next


def test_a_failed_run_says_which_retry_comes_when(world):
    world.run(
        world.sub_group("grid", "all"),
        "FAILED",
        is_open=True,
        failure_class="timeout",
        retries_used=2,
        due_at=NOW + 4 * MINUTE,
    )
    row = runs(world)[0]
    assert (row["state"], row["needs_you"]) == ("FAILED (retry 2 of 3 in 4 min)", False)


def test_a_retry_that_is_not_counted_says_so(world):
    world.run(
        world.sub_group("grid", "all"), "FAILED", is_open=True, failure_class="preempted", due_at=NOW + MINUTE
    )
    assert runs(world)[0]["state"] == "FAILED (retry in 60 s, not counted)"


def test_a_run_failed_for_good_needs_you(world):
    world.run(world.sub_group("grid", "all"), "FAILED", blocking=True, failure_class="container")
    row = runs(world)[0]
    assert (row["state"], row["needs_you"], row["retry_at"]) == ("FAILED (needs you)", True, None)


def test_a_request_to_cancel_shows(world):
    world.run(world.sub_group("grid", "all"), "RUNNING", cancel_requested_at=NOW, cancel_reason="wrong")
    assert runs(world)[0]["state"] == "RUNNING (to be cancelled)"


# --- selections as typed ------------------------------------------------------------------------------------


def test_all_mistakes_of_a_selection_are_said_at_once():
    with pytest.raises(UsageError) as caught:
        build_selection(NOW, statuses=["DONE"], classes=["oom"], since="yesterday", until="2026-13-01")
    assert [p.where for p in caught.value.problems] == ["--status", "--class", "--since", "--until"]


def test_statuses_are_taken_in_any_case_and_split_by_commas():
    assert build_selection(NOW, statuses=["failed,Running"]).statuses == ("FAILED", "RUNNING")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-03-02", NOW - timedelta(hours=12)),
        ("2026-03-02T09:00:00-03:00", NOW),
    ],
)
def test_times_are_ago_or_absolute(text, moment):
    assert build_selection(NOW, since=text).since == moment


# --- products -----------------------------------------------------------------------------------------------


def test_products_have_the_keys_that_scripts_read(world):
    _, run, product = world.gridded()
    row = products(world)[0]
    keys = ("product", "run", "type", "path", "sha256", "size")
    path = f"/base/out/run-{run}/map.fits"
    assert [row[key] for key in keys] == [product, run, "SCIENCE", path, "ab" * 32, 5]


def test_only_products_of_the_current_run_count(world):
    group, old, _ = world.gridded()
    new = world.run(group)
    world.product(new)
    world.update(t.sub_group, group, current_run_id=new)
    assert [p["run"] for p in products(world)] == [new]
    assert [(p["run"], p["current"]) for p in products(world, all_of_them=True)] == [
        (new, True),
        (old, False),
    ]


def test_products_of_a_run_that_never_became_current_do_not_count(world):
    world.product(world.run(world.sub_group("grid", "all")))
    assert products(world) == []
    assert [p["current"] for p in products(world, all_of_them=True)] == [False]


def test_deleted_products_and_those_made_from_excluded_input_do_not_count(world):
    group, run, product = world.gridded()
    world.product(run, "gone.fits", status="deleted")
    assert [p["product"] for p in products(world)] == [product]
    world.update(t.sub_group, group, stale="excluded: scan-1")
    assert products(world) == []


def test_a_stale_product_still_counts_and_says_so(world):
    group, _, _ = world.gridded()
    world.update(t.sub_group, group, stale="input-added")
    assert [p["stale"] for p in products(world)] == ["input-added"]


def test_products_are_selected_by_type(world):
    _, run, _ = world.gridded()
    plot = world.product(run, "look.png", "PLOT")
    assert [p["product"] for p in products(world, types=("PLOT",))] == [plot]


def test_the_path_of_a_product_is_the_name_on_disk(world):
    _, run, _ = world.gridded()
    world.product(run, "100%25.fits")
    assert products(world)[0]["path"] == f"/base/out/run-{run}/100%.fits"


# --- status -------------------------------------------------------------------------------------------------


def status(world: World) -> dict[str, Any]:
    return build_status(world.database, world.grouping, Selection(), now=NOW)


def test_the_columns_of_status_count_sub_groups_and_not_all_runs_of_history(world):
    group, _, _ = world.calibrated("executed_obs_unit=1", "scan-1")
    for _ in range(3):
        world.run(group)
        world.run(group, "FAILED", blocking=True, recipe="old")
    world.update(t.sub_group, group, wanted_recipe="r1")
    world.run(world.sub_group("calibrate", "executed_obs_unit=2"), "RUNNING")
    world.run(world.sub_group("calibrate", "executed_obs_unit=3", outcome="failed"), "FAILED", blocking=True)
    assert step_cells(status(world)["status"][0])[1:5] == (3, 1, 1, 1)


def test_what_to_type_next_names_logs_only_where_there_are_some(world):
    run = world.run(world.sub_group("grid", "all", outcome="failed"), "FAILED", blocking=True)
    assert status(world)["next"] == [f"ccatwm show {run}", f"ccatwm retry {run} --reason TEXT"]
    world.attempt(run)
    assert f"ccatwm logs {run}" in status(world)["next"]


@pytest.mark.parametrize(("count", "text"), [(1, "1 warning"), (2, "2 warnings")])
def test_warnings_are_counted_in_good_grammar(world, count, text):
    _, run, _ = world.calibrated("executed_obs_unit=1", "scan-1")
    world.update(t.executed_reduction_step, run, warnings=["w"] * count)
    assert build_runs(world.database, Selection(), now=NOW)["runs"][0]["state"] == f"COMPLETED ({text})"


def test_status_counts_runs_and_outcomes_by_step(world):
    world.calibrated("executed_obs_unit=1", "scan-1")
    failed = world.sub_group("calibrate", "executed_obs_unit=2", outcome="failed", due_at=NOW - MINUTE)
    world.run(failed, "FAILED", blocking=True)
    row = status(world)["status"][0]
    assert (row["step"], row["sub_groups"], row["due"]) == ("calibrate", 2, 1)
    assert row["runs"] == {"COMPLETED": 1, "FAILED": 1}
    assert row["outcomes"] == {"up-to-date": 1, "failed": 1}


def test_sub_groups_are_explained_in_the_order_of_their_numbers(world, monkeypatch):
    for n in (100, 1, 10, 9, 2):
        world.sub_group("calibrate", f"executed_obs_unit={n}")

    def first(limit):
        rows = build_explain(world.database, "otf", "calibrate", now=NOW, limit=limit)["explain"]
        return [int(row["sub_group"].partition("=")[2]) for row in rows]

    assert (first(100), first(5), first(3)) == ([1, 2, 9, 10, 100], [1, 2, 9, 10, 100], [1, 2, 9])
    monkeypatch.setattr(views, "MOST_ORDERED", 4)  # of too many the first ones are those of the database
    assert first(3) == [1, 10, 100]


def test_sub_groups_of_an_impact_are_in_the_order_of_their_numbers(world):
    ids = [world.sub_group("calibrate", f"executed_obs_unit={n}") for n in (10, 1, 2)] + [world.sub_group("grid", "all")]
    with world.database.read() as connection:
        keys = [row["sub_group"] for row in places_of_sub_groups(connection, ids)]
    assert keys == ["executed_obs_unit=1", "executed_obs_unit=2", "executed_obs_unit=10", "all"]


def test_status_says_which_version_is_missing_and_what_to_type(world):
    details = {"software": "cal", "missing": "version", "at_least": "2.0", "versions": ["1.0"]}
    for n in (1, 2):
        world.sub_group("calibrate", f"executed_obs_unit={n}", outcome="waiting-for-image", details=details)
    document = status(world)
    text = "no version of cal that is 2.0 or newer is registered (there are: 1.0)"
    assert [row["without_image"] for row in document["status"]] == [text, None]
    assert document["next"] == ["ccatwm apply FILE"]
    assert f"otf/calibrate: 2 sub-groups without a version to run: {text}" in other_lines(document)


def test_status_shows_open_runs_and_runs_that_wait_for_a_person(world):
    one, two = (world.sub_group("calibrate", f"executed_obs_unit={n}") for n in (1, 2))
    world.run(one)
    open_run, failed = world.run(one, "RUNNING"), world.run(two, "FAILED", blocking=True)
    document = status(world)
    assert [r["run"] for r in document["attention"]] == [failed, open_run]
    assert f"ccatwm retry {failed} --reason TEXT" in document["next"]


def test_a_failed_run_of_a_recipe_that_nobody_wants_any_more_needs_nobody(world):
    group = world.sub_group("grid", "all", wanted_recipe="r2")
    world.run(group, "FAILED", blocking=True, recipe="r1")
    assert status(world)["attention"] == []


def test_brakes_show_first_and_say_how_they_are_taken_off(world):
    world.update(t.ops_db, 1, paused="upgrade")
    world.update(t.reduction_step, world.steps["grid"], tripped="timeout")
    document = status(world)
    assert document["paused"] == "upgrade"
    assert document["next"][0] == "ccatwm resume"
    assert "ccatwm release otf/grid --retry --reason TEXT" in document["next"]
    assert "tripped: timeout" in step_cells(document["status"][1])[-1]


def test_a_pipeline_that_is_held_is_released_once_and_by_its_own_name(world):
    world.update(t.pipeline, world.pipeline, held="upgrade")
    world.update(t.reduction_step, world.steps["grid"], held="bad beam")
    commands = [command for command in status(world)["next"] if "release" in command]
    assert commands == ["ccatwm release otf --reason TEXT", "ccatwm release otf/grid --reason TEXT"]


def test_status_counts_what_is_held_of_a_step_as_it_is_now(world):
    group = world.sub_group("grid", "all", held="bad beam")
    world.run(group, "PENDING", held="wait for Ada")
    world.sub_group("grid", "other", outcome="held")  # released since: its next decision is to come
    row = status(world)["status"][1]
    assert (row["held_sub_groups"], row["held_runs"]) == (1, 1)
    assert step_cells(row)[-1] == "1 sub-group held, 1 run held"


def test_status_shows_who_holds_a_lease_and_the_latest_passes(world):
    world.insert(
        t.pass_lease,
        pass_name="stage",
        location="local",
        holder="h",
        host="node1",
        pid=42,
        fence=1,
        taken_at=NOW,
        expires_at=NOW + MINUTE,
    )
    for latest in (False, True):
        world.insert(
            t.pass_record,
            pass_name="stage",
            location="local",
            started_at=NOW,
            latest=latest,
            done=int(latest),
        )
    document = status(world)
    assert [(r["pass"], r["host"], r["pid"]) for r in document["leases"]] == [("stage", "node1", 42)]
    assert [r["done"] for r in document["passes"]] == [1]


# --- show and logs ------------------------------------------------------------------------------------------


def write_logs(folder: Path, directory: str, **streams: bytes) -> None:
    logs = folder / "base" / directory / "logs"
    logs.mkdir(parents=True)
    for name, content in streams.items():
        (logs / f"{name}.log").write_bytes(content)


def test_show_tells_everything_of_a_run(world, tmp_path):
    _, run, _ = world.gridded()
    directory = world.attempt(run)
    world.input_package(run, "scan-1")
    files = workfiles(tmp_path)
    write_logs(tmp_path, directory, stderr=b"one\ntwo\n")
    document = build_show(world.database, files, run, places=PLACES, now=NOW)
    assert document["attempts"][0]["host"] == "node7"
    assert document["paths"]["attempt"] == f"/base/{directory}"
    assert [log["text"] for log in document["logs"]] == [None, "one\ntwo"]
    assert [i["name"] for i in document["inputs"]] == ["scan-1"]
    assert document["next"][0] == f"ccatwm logs {run}"
    json.dumps(document)
    assert any("chai-cal --fast" in line for line in show_lines(document))


def elsewhere(world: World) -> tuple[int, int]:
    """A map that was made at another processing location: (run, product)."""
    _, run, product = world.gridded()
    world.attempt(run)
    folder = f"otf/grid/all/run-{run}/attempt-1/output"
    world.update(t.executed_reduction_step, run, processing_location="ramses", output_directory=folder)
    world.update(t.data_product, product, full_path=f"{folder}/map.fits")
    return run, product


def test_a_path_at_another_processing_location_is_told_below_that_one(world, tmp_path):
    run, product = elsewhere(world)
    relative = f"otf/grid/all/run-{run}/attempt-1/output"
    found = products(world)
    assert (found[0]["path"], found[0]["relative_path"]) == (None, f"{relative}/map.fits")
    assert product_cells(found[0], "/base")[-1] == f"ramses:{relative}/map.fits"
    lineage = build_lineage(world.database, world.grouping, str(product), places=PLACES)
    assert (lineage["run"]["output"], lineage["run"]["relative_output"]) == (None, relative)
    assert f"  ramses:{relative}/map.fits" in lineage_lines(lineage)
    shown = build_show(world.database, workfiles(tmp_path), run, places=PLACES, now=NOW)
    assert (shown["paths"]["output"], shown["relative_paths"]["output"]) == (None, relative)
    assert f"  output   ramses:{relative}" in show_lines(shown)


def test_a_path_at_another_processing_location_is_whole_where_the_settings_name_its_root(world):
    run, _ = elsewhere(world)
    places = replace(PLACES, roots={"ramses": "/scratch/ccat"})
    found = build_products(world.database, Selection(), places=places)["products"]
    assert found[0]["path"] == f"/scratch/ccat/otf/grid/all/run-{run}/attempt-1/output/map.fits"


def test_show_names_the_newest_runs_where_there_is_no_such_one(world, tmp_path):
    run = world.run(world.sub_group("grid", "all"))
    with pytest.raises(UsageError, match="no run 999") as caught:
        build_show(world.database, workfiles(tmp_path), 999, places=PLACES, now=NOW)
    assert str(run) in caught.value.next


def test_logs_are_those_of_the_newest_attempt_or_of_the_one_asked_for(world, tmp_path):
    run = world.run(world.sub_group("grid", "all"))
    files = workfiles(tmp_path)
    for number in (1, 2):
        write_logs(tmp_path, world.attempt(run, number), stdout=f"attempt {number}\n".encode())
    texts = [
        build_logs(world.database, files, run, attempt=n, streams=["stdout"])["logs"][0]["text"]
        for n in (None, 1)
    ]
    assert texts == ["attempt 2\n", "attempt 1\n"]


def test_a_long_log_is_cut_at_a_line(world, tmp_path):
    run = world.run(world.sub_group("grid", "all"))
    files = workfiles(tmp_path)
    write_logs(tmp_path, world.attempt(run), stdout=b"first line\nsecond line\n", stderr=b"short")
    logs = build_logs(world.database, files, run, max_bytes=15)["logs"]
    assert [(log["text"], log["cut"]) for log in logs] == [("second line\n", True), ("short", False)]


def test_a_run_without_an_attempt_has_no_logs_and_says_what_it_is(world, tmp_path):
    run = world.run(world.sub_group("grid", "all"), "PENDING")
    with pytest.raises(UsageError, match="no attempt yet: it is PENDING"):
        build_logs(world.database, workfiles(tmp_path), run)


def test_an_attempt_that_is_not_there_is_answered_with_those_that_are(world, tmp_path):
    run = world.run(world.sub_group("grid", "all"))
    world.attempt(run)
    with pytest.raises(UsageError) as caught:
        build_logs(world.database, workfiles(tmp_path), run, attempt=3)
    assert caught.value.next == "there are: 1"


# --- lineage ------------------------------------------------------------------------------------------------


def test_lineage_goes_back_to_the_raw_data(world):
    made = [world.calibrated(f"executed_obs_unit={n}", f"scan-{n}") for n in (1, 2)]
    _, run, product = world.gridded(*(p for _, _, p in made))
    world.attempt(run)
    document = build_lineage(world.database, world.grouping, str(product), places=PLACES)
    assert document["product"]["product"] == product
    assert [(n["depth"], n["kind"], n["name"]) for n in document["inputs"]] == [
        (1, "product", "spectra.fits"),
        (2, "package", "scan-1"),
        (1, "product", "spectra.fits"),
        (2, "package", "scan-2"),
    ]
    packages = [(p["name"], p["checksum"], p["role"]) for p in document["raw_data_packages"]]
    assert packages == [("scan-1", "sha256:scan-1", "member"), ("scan-2", "sha256:scan-2", "member")]
    assert (document["software"]["version"], document["config"]) == ("1.2.0", {"mode": "hot_cold"})
    assert (document["run"]["job_id"], document["run"]["host"]) == ("77", "node7")
    json.dumps(document)
    assert "    package scan-2" in lineage_lines(document)


def test_a_shared_input_is_opened_once(world):
    _, run, first = world.calibrated("executed_obs_unit=1", "scan-1")
    second = world.product(run, "noise.fits", "INTERMEDIATE")
    _, _, product = world.gridded(first, second)
    nodes = build_lineage(world.database, world.grouping, str(product), places=PLACES)["inputs"]
    assert [n["name"] for n in nodes] == ["spectra.fits", "scan-1", "noise.fits"]
    assert [n["shared"] for n in nodes if "shared" in n] == [False, True]


def test_a_chain_longer_than_the_recursion_limit_is_followed(world):
    group = world.sub_group("grid", "all")
    run = world.run(group)
    world.input_package(run, "scan-1")
    template = {k: v for k, v in world.row(t.executed_reduction_step, run).items() if k != "id"}
    length = 1200
    with world.database.write() as connection:
        connection.execute(t.executed_reduction_step.insert(), [template] * length)
        for number in range(run, run + length):
            product = connection.execute(
                t.data_product.insert().values(
                    run_id=number,
                    type="INTERMEDIATE",
                    path="x",
                    full_path="x",
                    is_directory=False,
                    size_bytes=1,
                    file_count=1,
                    sha256="ab",
                    status="present",
                    created_at=NOW,
                )
            ).inserted_primary_key[0]
            connection.execute(
                t.run_input.insert().values(
                    run_id=number + 1,
                    kind="product",
                    role="member",
                    identity=str(product),
                    name="x",
                    product_id=product,
                    details={},
                )
            )
    final = world.product(run + length)
    document = build_lineage(world.database, world.grouping, str(final), places=PLACES)
    assert max(node["depth"] for node in document["inputs"]) == length + 1
    assert [p["name"] for p in document["raw_data_packages"]] == ["scan-1"]
    json.dumps(document)


def test_a_package_knows_every_product_that_stands_on_it(world):
    _, _, calibrated = world.calibrated("executed_obs_unit=1", "scan-1")
    _, _, other = world.calibrated("executed_obs_unit=2", "scan-2")
    group, _, old = world.gridded(calibrated)
    new = world.run(group)
    for product in (calibrated, other):
        world.input_product(new, product)
    newest = world.product(new)
    world.update(t.sub_group, group, current_run_id=new)
    found = build_lineage(world.database, world.grouping, "package:scan-1", places=PLACES)["products"]
    assert {p["product"]: p["current"] for p in found} == {calibrated: True, old: False, newest: True}
    found = build_lineage(world.database, world.grouping, "package:scan-2", places=PLACES)["products"]
    assert {p["product"] for p in found} == {other, newest}


def test_a_package_that_nothing_was_made_of_says_where_it_belongs(world):
    world.sub_group("calibrate", "executed_obs_unit=9", outcome="waiting-for-data")
    world.member("calibrate", "executed_obs_unit=9", "scan-9", "waiting")
    lines = lineage_lines(build_lineage(world.database, world.grouping, "package:scan-9", places=PLACES))
    assert "  otf/calibrate executed_obs_unit=9: waiting-for-data" in lines


def test_lineage_takes_a_product_as_others_write_it(world):
    _, _, product = world.calibrated("executed_obs_unit=1", "scan-1")
    for subject in (str(product), f"product:{product}", f" {product} "):
        document = build_lineage(world.database, world.grouping, subject, places=PLACES)
        assert document["product"]["product"] == product


@pytest.mark.parametrize("subject", ["999", "package:scan-l", "map.fits", "scan-1", "run:7", ""])
def test_lineage_of_what_is_not_there_says_what_is(world, subject):
    _, _, product = world.calibrated("executed_obs_unit=1", "scan-1")
    with pytest.raises(UsageError) as caught:
        build_lineage(world.database, world.grouping, subject, places=PLACES)
    said = {
        "999": str(product), "package:scan-l": "scan-1", "scan-1": "`ccatwm lineage package:scan-1`",
        "run:7": "`ccatwm show 7`",
    }.get(subject, "package:NAME")  # fmt: skip
    assert said in caught.value.next


# --- copies of packages -------------------------------------------------------------------------------------


def copied(world: World, name: str, *places: str) -> str:
    """A raw data package with a copy at each of these data locations; returns its id."""
    site = world.insert(t.site, name=f"site of {name}", updated_at=NOW)
    package = world.insert(t.raw_data_package, name=name, state="archived", created_at=NOW, updated_at=NOW)
    for place in places:
        location = world.insert(
            t.data_location, name=place, site_id=site, location_type="buffer", storage_type="disk",
            active=True, priority=0, updated_at=NOW,
        )  # fmt: skip
        world.insert(
            t.physical_copy, raw_data_package_id=package, data_location_id=location, path=f"{name}.tar",
            status="present", updated_at=NOW,
        )  # fmt: skip
    return str(package)


def found_bad(world: World, package: str, name: str, place: str) -> None:
    world.insert(
        t.copy_report, package_id=package, package_name=name, location=place, path=f"{name}.tar",
        finding="corrupt", message="checksum differs", found_at=NOW,
    )  # fmt: skip


def test_status_lists_bad_copies(world):
    found_bad(world, copied(world, "scan-1", "buffer", "archive"), "scan-1", "buffer")
    assert status(world)["bad_copies"] == [
        {"package": "scan-1", "location": "buffer", "path": "scan-1.tar", "finding": "corrupt",
         "message": "checksum differs", "found_at": "2026-03-02T12:00:00Z"}
    ]  # fmt: skip


def test_a_bad_copy_that_is_offered_no_more_is_no_longer_in_status(world):
    found_bad(world, copied(world, "scan-1", "buffer"), "scan-1", "buffer")
    for copy in world.rows(t.physical_copy):
        world.update(t.physical_copy, copy["id"], status="deleted")
    assert status(world)["bad_copies"] == []


def test_the_lineage_of_a_package_shows_its_copies_and_what_was_found_of_them(world):
    found_bad(world, copied(world, "scan-1", "buffer", "archive"), "scan-1", "buffer")
    document = build_lineage(world.database, world.grouping, "package:scan-1", places=PLACES)
    assert [(c["location"], c["finding"]) for c in document["copies"]] == [
        ("buffer", "corrupt"), ("archive", None),
    ]  # fmt: skip
    lines = lineage_lines(document)
    assert "  buffer: scan-1.tar  CORRUPT, found at 2026-03-02 12:00 UTC: checksum differs" in lines
    assert "  archive: scan-1.tar" in lines


# --- explain ------------------------------------------------------------------------------------------------


def test_what_would_change_a_decision_is_a_sentence(world):
    world.sub_group("calibrate", "executed_obs_unit=1", outcome="up-to-date", details={"run": 1})
    sentence = "another input, companion, upstream product, configuration, reference or software version is wanted"
    assert explain(world)["what_would_change_it"][0] == sentence


def test_a_step_that_runs_when_asked_says_who_asks_and_how(world):
    world.update(t.reduction_step, world.steps["calibrate"], trigger_type="MANUAL", trigger_config={})
    world.sub_group("calibrate", "executed_obs_unit=1", due_at=NOW - MINUTE)
    asked = [text for text in explain(world)["what_would_change_it"] if text.startswith("a person asks, since")]
    assert len(asked) == 1 and "`ccatwm trigger --pipeline otf" in asked[0]


def test_a_run_that_has_ended_since_is_not_said_to_be_under_way(world):
    group = world.sub_group("calibrate", "executed_obs_unit=1", outcome="busy", due_at=NOW - MINUTE)
    run = world.run(group, "CANCELLED")
    world.update(t.sub_group, group, details={"run": run})
    why = explain(world)["why"]
    assert f"run {run} was under way when this was decided; it is CANCELLED by now" in why


def test_what_a_step_has_learned_is_said_in_words(world):
    world.update(t.reduction_step, world.steps["calibrate"], learned={"memory_gb": 3.0})
    world.sub_group("calibrate", "executed_obs_unit=1")
    lines = explain_lines(build_explain(world.database, "otf", "calibrate", now=NOW))
    assert lines[0] == "otf/calibrate: runs begin with 3 GiB of memory: 2 GiB was too little"


@pytest.mark.parametrize(
    ("values", "because", "then"),
    [
        ({"outcome": "up-to-date", "details": {"run": 1}}, "made from exactly what is wanted", "--force"),
        (
            {"outcome": "restored", "details": {"run": 7}},
            "run 7 was made from what is wanted now",
            "another input",
        ),
        ({"outcome": "accepted"}, "a person accepted", "another input"),
        (
            {
                "outcome": "cooling-down",
                "reason": "input-added",
                "details": {"until": "2026-03-02T12:04:00Z"},
            },
            "younger than the cooldown of 60 s",
            "it runs in 4 min",
        ),
        ({"outcome": "settling", "details": {"until": "2026-03-02T12:04:00Z"}}, "settle_seconds", "in 4 min"),
        (
            {
                "outcome": "waiting-for-data",
                "details": {"packages": [{"name": "scan-1b", "state": "transferring"}], "until": None},
            },
            "scan-1b is transferring",
            "archived",
        ),
        (
            {
                "outcome": "waiting-for-upstream",
                "details": {
                    "upstream": [{"pipeline": "otf", "step": "x", "sub_group": "k", "state": "RUNNING"}]
                },
            },
            "otf/x k: RUNNING",
            "get a product",
        ),
        ({"outcome": "waiting-for-image", "details": {"image": "/i.sif"}}, "/i.sif", "apply"),
        ({"outcome": "waiting-for-image", "details": {"image": "oras://r/i"}}, "is a URI", "whose image is a file"),
        ({"outcome": "no-inputs"}, "no archived package", "archived"),
        (
            {"outcome": "failed", "details": {"run": 5, "class": "timeout", "message": "slow"}},
            "timeout: slow",
            "ccatwm retry 5",
        ),
        ({"outcome": "cancelled", "details": {"run": 5}}, "was cancelled", "ccatwm retry 5"),
        (
            {"outcome": "tripped", "details": {"class": "lost"}},
            "lost",
            "ccatwm release otf/calibrate --retry",
        ),
        ({"outcome": "held", "details": {"reason": "bad weather"}}, "bad weather", "ccatwm release"),
        ({"outcome": "throttled"}, "max_concurrent", "other runs end"),
        ({"outcome": None, "decision": 0}, "nothing has been decided", "ccatwm resolve"),
    ],
)
def test_every_outcome_is_explained_with_what_would_change_it(world, values, because, then):
    world.sub_group("calibrate", "executed_obs_unit=1", **values)
    row = explain(world)
    assert because in " ".join(row["why"])
    assert then in " ".join(row["what_would_change_it"])


def test_a_run_is_explained_by_what_had_changed(world):
    group = world.sub_group(
        "calibrate",
        "executed_obs_unit=1",
        outcome="run",
        reason="input-added",
        details={"run": 1, "changes": {"inputs_added": ["scan-1b"], "config": {"order": [1, 2]}}},
    )
    world.run(group, "STAGED")
    row = explain(world)
    assert "input-added (added scan-1b; order 1 -> 2); it is STAGED" in row["why"][0]
    assert row["what_would_change_it"] == ["`ccatwm submit` hands it over"]


def test_busy_names_the_open_run_and_what_comes_after(world):
    group = world.sub_group(
        "calibrate", "executed_obs_unit=1", outcome="busy", details={"run": 1, "then": "config-changed"}
    )
    world.run(group, "RUNNING")
    row = explain(world)
    assert row["open_run"] == 1
    assert "another run is wanted: config-changed" in row["why"][0]


def test_brakes_are_said_before_the_last_decision(world):
    world.sub_group("calibrate", "executed_obs_unit=1", held="wait for Ada")
    world.update(t.pipeline, world.pipeline, enabled=False)
    why = explain(world)["why"]
    assert why[:2] == ["pipeline otf is disabled", "the sub-group is held: wait for Ada"]


def test_a_step_by_cron_says_when_it_opens_next(world):
    cron = {"cron": "0 9 * * *", "timezone": "America/Santiago"}
    world.update(t.reduction_step, world.steps["calibrate"], trigger_type="CRON", trigger_config=cron)
    world.sub_group("calibrate", "executed_obs_unit=1", due_at=NOW - MINUTE)
    row = explain(world)
    assert row["next_tick_at"] == "2026-03-03T12:00:00Z"  # 9 h in Santiago (UTC-3); today's is now
    assert any("cron opens it" in text for text in row["what_would_change_it"])


def test_a_step_by_hand_says_how_to_ask(world):
    world.update(t.pipeline, world.pipeline, trigger_type="MANUAL")
    world.sub_group("calibrate", "executed_obs_unit=1", due_at=NOW - MINUTE)
    command = "ccatwm trigger --pipeline otf --step calibrate --sub-group executed_obs_unit=1 --reason TEXT"
    assert any(command in text for text in explain(world)["what_would_change_it"])


def test_packages_and_upstream_are_shown_as_they_are_now(world):
    world.calibrated("executed_obs_unit=1", "scan-1")
    world.sub_group("calibrate", "executed_obs_unit=2", outcome="failed")
    world.member("calibrate", "executed_obs_unit=2", "scan-2")
    world.member("grid", "all", "scan-2")
    world.sub_group("grid", "all", outcome="waiting-for-upstream")
    row = explain(world, "grid", "all")
    assert row["packages"] == {"archived": 2}
    states = {u["sub_group"]: u["state"] for u in row["upstream"]}
    assert states == {"executed_obs_unit=1": "up-to-date", "executed_obs_unit=2": "failed"}


def test_a_whole_pipeline_is_explained_step_by_step(world):
    world.calibrated("executed_obs_unit=1", "scan-1")
    document = build_explain(world.database, "otf", now=NOW)
    lines = explain_lines(document)
    assert lines[0].startswith("otf/calibrate executed_obs_unit=1: up-to-date")
    assert "otf/grid: no sub-groups yet" in lines
    json.dumps(document)


def test_a_key_that_does_not_exist_is_answered_with_close_ones(world):
    world.sub_group("calibrate", "executed_obs_unit=17")
    with pytest.raises(UsageError) as caught:
        explain(world, key="executed_obs_unit=71")
    assert "executed_obs_unit=17" in caught.value.next


def test_that_a_step_is_tripped_is_said_once_and_not_of_each_sub_group(world):
    world.update(t.reduction_step, world.steps["calibrate"], tripped="lost")
    for n in (1, 2, 3):
        world.sub_group("calibrate", f"executed_obs_unit={n}", outcome="tripped", details={"class": "lost"})
    lines = explain_lines(build_explain(world.database, "otf", "calibrate", now=NOW))
    assert [line for line in lines if "failed as" in line] == [
        "otf/calibrate: step calibrate is tripped: its last attempts all failed as lost"
    ]


# --- brakes ---------------------------------------------------------------------------------------------------


def test_a_run_that_a_tripped_step_keeps_back_says_so_and_what_to_type(world):
    run = world.run(world.sub_group("grid", "all"), "PENDING")
    world.update(t.reduction_step, world.steps["grid"], tripped="timeout")
    (row,) = build_runs(world.database, Selection(), now=NOW)["runs"]
    assert (row["state"], row["braked"], row["held"]) == ("PENDING (tripped)", "tripped: timeout", None)
    shown = build_show(world.database, LocalWorkFiles(Path("/nowhere"), PlainEffects()), run, places=PLACES, now=NOW)
    assert any(line.startswith("  brake      tripped: timeout") for line in show_lines(shown))
    assert shown["next"][0] == "ccatwm release otf/grid --retry --reason TEXT"


@pytest.mark.parametrize("state", ["PENDING", "FAILED"])
def test_show_of_a_run_that_is_held_says_what_releases_it(world, state):
    run = world.run(world.sub_group("grid", "all", held="bad beam"), state, held="wait for Ada")
    world.update(t.pipeline, world.pipeline, held="upgrade")
    shown = build_show(world.database, LocalWorkFiles(Path("/nowhere"), PlainEffects()), run, places=PLACES, now=NOW)
    targets = ("otf", "otf/grid/all", run)
    assert shown["next"][:3] == [f"ccatwm release {target} --reason TEXT" for target in targets]
    assert [hold["reason"] for hold in shown["holds"]] == ["upgrade", "bad beam", "wait for Ada"]


def test_show_of_a_failed_run_says_that_its_step_is_tripped(world):
    run = world.run(world.sub_group("grid", "all"), "FAILED")
    world.update(t.reduction_step, world.steps["grid"], tripped="timeout")
    shown = build_show(world.database, LocalWorkFiles(Path("/nowhere"), PlainEffects()), run, places=PLACES, now=NOW)
    assert shown["next"][0] == "ccatwm release otf/grid --retry --reason TEXT"


def test_a_run_whose_pipeline_is_held_says_so(world):
    world.run(world.sub_group("grid", "all"), "PENDING")
    world.update(t.pipeline, world.row(t.reduction_step, world.steps["grid"])["pipeline_id"], held="bad weather")
    (row,) = build_runs(world.database, Selection(), now=NOW)["runs"]
    assert (row["state"], row["braked"]) == ("PENDING (held)", "held: bad weather")


def test_a_job_that_runs_on_in_a_tripped_step_is_not_kept_back(world):
    world.run(world.sub_group("grid", "all"), "RUNNING")
    world.update(t.reduction_step, world.steps["grid"], tripped="timeout")
    (row,) = build_runs(world.database, Selection(), now=NOW)["runs"]
    assert (row["state"], row["braked"]) == ("RUNNING", None)
