"""An operator's acts where the keys of others are UUIDs, their words in capitals and their times without a zone."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from ccatwm.upkeep.backfill import Asked, start_backfill
from ccatwm.views.backfills import build_backfills
from ccatwm.views.groupings import build_grouping
from ccatwm.views.lineage import build_lineage
from ccatwm.views.places import Places
from tests.foreign.site import TheirDatabase, key, observe
from tests.passes.conftest import Observatory
from tests.passes.test_excluding import act, back, out

pytestmark = pytest.mark.postgres

SCAN_2 = f"executed_obs_unit={key('scan-2')}"
PERIOD = ("2026-03-01T01:30:00Z", "2026-03-02")  # scan 1 began before it


def nights(site: Observatory, timezone: str) -> list[str]:
    site.settings_changes["obs_timezone"] = timezone
    context = site.context()
    shown = build_grouping(context.database, context.grouping, "ngc253", ["obs_date"], now=context.clock.now())
    return [row["sub_group"] for row in shown["grouping"]]


def test_a_night_begins_at_noon_where_the_telescope_is(site: Observatory) -> None:
    """The scans began at one and two o'clock, by times that do not say that they are UTC."""
    assert nights(site, "America/Santiago") == ["obs_date=2026-02-28"]
    assert nights(site, "Asia/Tokyo") == ["obs_date=2026-02-28"]
    assert nights(site, "Pacific/Auckland") == ["obs_date=2026-03-01"]
    assert nights(site, "Australia/Brisbane") == ["obs_date=2026-02-28", "obs_date=2026-03-01"]


def test_a_scan_is_excluded_by_the_name_that_they_gave_it(site: Observatory) -> None:
    site.until_quiet()
    out(site, "unit:scan-2")
    site.until_quiet()
    assert site.sub_group("calibrate", SCAN_2)["outcome"] == "no-inputs"
    context = site.context()
    base = PurePosixPath(context.settings.pipeline_base_dir)
    lineage = build_lineage(context.database, context.grouping, "package:scan-2-LFA", places=Places("local", base))
    assert {row["sub_group"]: row["outcome"] for row in lineage["sub_groups"]}[SCAN_2] == "no-inputs"
    back(site, "unit:scan-2")
    site.until_quiet()
    assert len(site.runs("calibrate")) == 2 and site.sub_group("grid")["stale"] is None


def test_a_backfill_makes_what_was_observed_in_its_period_and_says_first_how_much_that_is(
    site: Observatory, theirs: TheirDatabase
) -> None:
    observe(theirs, site.folder, [3])
    site.edit("trigger: {type: CONTINUOUS}", "trigger: {type: MANUAL}")
    site.until_quiet()
    assert site.runs() == []
    context = site.context()
    asked = Asked("otf", *PERIOD)
    estimate = start_backfill(context.database, context.grouping, asked, act(site, dry_run=True)).estimate
    sizes = [(site.folder / "raw" / f"scan-{n}.tar").stat().st_size for n in (2, 3)]
    by_step = {step["step"]: (step["runs"], step["bytes"]) for step in json.loads(json.dumps(estimate))["steps"]}
    assert by_step == {"calibrate": (2, sum(sizes)), "grid": (1, 0)}
    start_backfill(context.database, context.grouping, asked, act(site))
    site.until_quiet()
    made = {run["sub_group_key"] for run in site.runs("calibrate")}
    assert made == {f"executed_obs_unit={key(f'scan-{n}')}" for n in (2, 3)}
    (row,) = build_backfills(site.context().database)["backfills"]
    assert row["state"] == "open", "the map waits for the first scan"
    start_backfill(context.database, context.grouping, Asked("otf", "2026-03-01", PERIOD[0]), act(site))
    site.until_quiet()
    assert {row["state"] for row in build_backfills(site.context().database)["backfills"]} == {"done"}


def test_a_full_comparison_finds_what_changed_without_a_word(site: Observatory, theirs: TheirDatabase) -> None:
    site.until_quiet()
    site.run_pass("trigger", full=True)
    site.until_quiet()
    assert len(site.runs()) == 3
    theirs.execute("UPDATE ops.raw_data_package SET lifecycle = 'FAILED' WHERE label = 'scan-2-LFA'")  # `changed` stays
    site.until_quiet()
    assert site.sub_group("grid")["stale"] is None
    site.run_pass("trigger", full=True)
    site.until_quiet()
    assert len(site.runs("grid")) == 2
    assert site.sub_group("calibrate", SCAN_2)["outcome"] == "no-inputs"
