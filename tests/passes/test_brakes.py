"""A step whose runs all fail alike is stopped, told once, and goes on when somebody says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ccatwm.core.selection import Selection
from ccatwm.passes._frame import PassReport
from ccatwm.upkeep.control import release
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.status import build_status, step_cells
from tests.passes import bad_world
from tests.passes.conftest import Observatory

SCANS = 300
TRIP_AFTER = 20
FIRST = datetime(2026, 3, 1, tzinfo=UTC)


def write_night(folder: Path, archive: Path) -> None:
    """Three hundred scans whose packages lie in one archive."""
    archive.mkdir()
    (folder / "base").mkdir()
    packages, scans = [], []
    for n in range(SCANS):
        content = f"scan {n}\n".encode()
        (archive / f"scan-{n}.dat").write_bytes(content)
        start = FIRST + timedelta(minutes=10 * n)
        scans.append({"name": f"scan-{n}", "obs_unit": "ou-1", "start_time": start.isoformat(),
                      "end_time": (start + timedelta(minutes=9)).isoformat(), "status": "completed"})  # fmt: skip
        packages.append({"name": f"scan-{n}", "executed_obs_unit": f"scan-{n}", "instrument_module": "CHAI/LFA",
                         "state": "archived", "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
                         "size_bytes": len(content), "copies": [{"location": "raw", "path": f"scan-{n}.dat"}]})  # fmt: skip
    places = [
        {"name": "raw", "location_type": "long_term_archive", "base_path": str(archive)},
        {"name": "local", "location_type": "processing", "base_path": str(folder / "base")},
    ]
    night = {
        "sites": [{"name": "here"}],
        "data_locations": [{**place, "storage_type": "disk", "site": "here"} for place in places],
        "sources": [{"name": "NGC253", "kind": "fixed", "ra_deg": 11.9, "dec_deg": -25.3}],
        "obs_units": [{"name": "ou-1", "source": "NGC253"}],
        "executed_obs_units": scans,
        "raw_data_packages": packages,
    }
    (folder / "night.yaml").write_text(json.dumps(night))
    pipeline = {
        "software": [{"name": "cal", "versions": [{"version": "1", "command": ["true"]}]}],
        "data_groupings": [
            {
                "name": "all",
                "filter_rules": [{"table": "Source", "column": "name", "operator": "eq", "value": "NGC253"}],
            }
        ],
        "pipelines": [
            {
                "name": "otf",
                "data_grouping": "all",
                "processing_location": "local",
                "trigger": {"type": "CONTINUOUS"},
                "steps": [{"name": "calibrate", "software": "cal", "group_by": ["executed_obs_unit"]}],
            }
        ],
    }
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline))


def reduce(output: Path, manifest: dict[str, Any]) -> int:
    (output / "science").mkdir(exist_ok=True)
    (output / "science" / "out.txt").write_text(manifest["sub_group"])
    return 0


@pytest.fixture
def lost_packages(empty_observatory: Observatory) -> Observatory:
    return lose_packages(empty_observatory)


def lose_packages(observatory: Observatory, step: str = "") -> Observatory:
    """Three hundred runs are wanted, and their packages are gone from the archive. `step`: more of its definition."""
    observatory.program = reduce
    # One after another: of several side by side those that are under way when the step trips fail as well.
    observatory.settings_changes = {"trip_after": TRIP_AFTER, "stage_parallel": 1}
    archive = observatory.folder / "archive"
    write_night(observatory.folder, archive)
    path = observatory.folder / "pipeline.yaml"
    path.write_text(path.read_text().replace('"software": "cal", "group_by"', f'"software": "cal", {step}"group_by"'))
    observatory.arrive("night.yaml")
    observatory.apply()
    for name in ("trigger", "resolve"):
        assert observatory.run_pass(name).error is None
    archive.rename(observatory.folder / "elsewhere")
    archive.mkdir()
    (archive / "catalogue").touch()
    return observatory


def lose_mount(observatory: Observatory) -> None:
    (observatory.folder / "archive/catalogue").unlink()


def put_back(observatory: Observatory, numbers: Iterable[int] = range(SCANS)) -> None:
    for name in (f"scan-{n}.dat" for n in numbers):
        (observatory.folder / "elsewhere" / name).rename(observatory.folder / "archive" / name)


def told(reports: Sequence[PassReport]) -> list[str]:
    """What passes said of tripped steps."""
    return [item.reason for report in reports for item in report.items if item.outcome == "tripped"]


def statuses(observatory: Observatory) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in observatory.runs():
        found[run["status"]] = found.get(run["status"], 0) + 1
    return found


def test_packages_gone_under_300_runs_trip_the_step_after_20_and_let_the_others_be(
    lost_packages: Observatory,
) -> None:
    report = lost_packages.run_pass("stage")
    assert statuses(lost_packages) == {"FAILED": TRIP_AFTER, "PENDING": SCANS - TRIP_AFTER}
    assert {r["failure_class"] for r in lost_packages.runs() if r["status"] == "FAILED"} == {"staging"}
    (reason,) = told([report])
    assert "all failed as staging" in reason
    assert "ccatwm release otf/calibrate --retry" in reason


def test_a_tripped_step_is_told_once(lost_packages: Observatory) -> None:
    reports = [report for _ in range(6) for report in lost_packages.cycle()]
    assert [report.error for report in reports if report.error] == []
    assert len(told(reports)) == 1
    assert statuses(lost_packages) == {"FAILED": TRIP_AFTER, "PENDING": SCANS - TRIP_AFTER}


def test_a_trip_is_one_line_whatever_is_decided_on_the_runs_that_failed(empty_observatory: Observatory) -> None:
    observatory = lose_packages(empty_observatory, '"max_retries": 0, ')
    lines = [line for _ in range(4) for line in bad_world.told(observatory, observatory.cycle())]
    assert len([line for line in lines if "tripped" in line]) == 1, lines
    assert "tripped" in {group["outcome"] for group in observatory.rows("sub_group")}


def test_what_is_told_of_lost_packages_is_bounded(lost_packages: Observatory) -> None:
    """Each run that failed says so, and the copy that was not there; nothing is said of the other runs."""
    reports = [report for _ in range(6) for report in lost_packages.cycle()]
    said = [item for report in reports for item in report.items if item.outcome in ("failed", "bad-copy")]
    assert len(said) <= 2 * TRIP_AFTER


def test_status_and_explain_say_that_a_step_is_tripped_and_what_to_type(lost_packages: Observatory) -> None:
    lost_packages.run_pass("stage")
    context = lost_packages.context()
    now = context.clock.now()
    status = build_status(context.database, context.grouping, Selection(), now=now)
    assert "tripped: staging" in str(step_cells(status["status"][0]))
    command = "ccatwm release otf/calibrate --retry --reason TEXT"
    assert command in status["next"]
    explained = build_explain(context.database, "otf", "calibrate", now=now, limit=3)
    assert explained["steps"][0]["brakes"] == [
        "step calibrate is tripped: its last attempts all failed as staging"
    ]
    text = "\n".join(explain_lines(explained))
    assert "tripped: its last attempts all failed as staging" in text
    assert command in text


def test_a_dead_mount_under_300_runs_has_them_wait(lost_packages: Observatory) -> None:
    """Nothing is known against any copy: no retry is used up, no step trips, and all goes on by itself."""
    lose_mount(lost_packages)
    reports = lost_packages.cycle()
    assert told(reports) == []
    assert statuses(lost_packages) == {"STAGING_DATA": SCANS}
    assert {run["retries_used"] for run in lost_packages.runs()} == {0}
    assert lost_packages.rows("copy_report") == []
    put_back(lost_packages)
    lost_packages.until_quiet()
    assert statuses(lost_packages) == {"COMPLETED": SCANS}


def test_release_with_retry_goes_on_and_all_complete(lost_packages: Observatory) -> None:
    lost_packages.run_pass("stage")
    put_back(lost_packages)
    context = lost_packages.context()
    now = context.clock.now()
    done = release(
        context.database, "otf/calibrate", reason="back", actor="ada", host="h", now=now, retry_failed=True
    )
    assert done.retried is not None and len(done.retried.done) == TRIP_AFTER
    lost_packages.until_quiet()
    assert statuses(lost_packages) == {"COMPLETED": SCANS}
    assert len(lost_packages.rows("data_product")) == SCANS


def test_what_is_still_gone_trips_the_step_again_and_is_told_again(lost_packages: Observatory) -> None:
    reports = lost_packages.cycle()
    context = lost_packages.context()
    release(context.database, "otf/calibrate", reason="?", actor="ada", host="h", now=context.clock.now(),
            retry_failed=True)  # fmt: skip
    reports += lost_packages.cycle()
    assert len(told(reports)) == 2


@pytest.mark.parametrize("parallel", [1, 4])
def test_bad_packages_among_good_ones_trip_no_step(lost_packages: Observatory, parallel: int) -> None:
    lost_packages.settings_changes["stage_parallel"] = parallel
    put_back(lost_packages, range(0, SCANS, 5))
    report = lost_packages.run_pass("stage")
    assert told([report]) == []
    assert statuses(lost_packages) == {"FAILED": SCANS * 4 // 5, "STAGED": SCANS // 5}


def test_a_few_bad_packages_trip_no_step_however_often_they_are_looked_at(lost_packages: Observatory) -> None:
    bad = TRIP_AFTER - 1
    put_back(lost_packages, range(SCANS - bad))
    reports = lost_packages.until_quiet()
    assert told(reports) == []
    assert statuses(lost_packages) == {"FAILED": bad, "COMPLETED": SCANS - bad}
    assert {run["retries_used"] for run in lost_packages.runs() if run["status"] == "FAILED"} == {3}
    assert [step["failures"] for step in lost_packages.rows("reduction_step")] == [0]
