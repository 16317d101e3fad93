"""The whole chain on a database that belongs to somebody else."""

from __future__ import annotations

import pytest

from tests.foreign.site import TheirDatabase, key, observe
from tests.passes.conftest import Observatory

pytestmark = pytest.mark.postgres


def test_runs_are_made_staged_executed_and_collected(site: Observatory, theirs: TheirDatabase) -> None:
    before = theirs.dump()
    site.until_quiet()
    assert [(r["step_name"], r["status"]) for r in site.runs()] == [
        ("calibrate", "COMPLETED"), ("calibrate", "COMPLETED"), ("grid", "COMPLETED"),
    ]  # fmt: skip
    keys = {g["key"] for g in site.rows("sub_group")}
    assert keys == {f"executed_obs_unit={key('scan-1')}", f"executed_obs_unit={key('scan-2')}", "all"}
    assert theirs.dump() == before


def test_late_data_are_found(site: Observatory, theirs: TheirDatabase) -> None:
    site.until_quiet()
    observe(theirs, site.folder, [3], minute=site.minute)
    site.until_quiet()
    assert len(site.runs("calibrate")) == 3
    assert len(site.runs("grid")) == 2
