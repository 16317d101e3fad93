"""An acceptance is of one recipe: it holds whenever that is wanted, until a person asks for a run."""

from __future__ import annotations

import pytest

from ccatwm.upkeep.exclude import Act, accept
from ccatwm.upkeep.requests import request_runs
from ccatwm.views.explain import build_explain
from tests.passes.conftest import Observatory

SCAN = "executed_obs_unit=1"


@pytest.fixture
def accepted(observatory: Observatory) -> Observatory:
    """Runs 1 and 2 were made with `hot_cold` and are accepted for `cold`."""
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold")
    context = observatory.context()
    act = Act("only a name", "ada", "h", context.clock.now())
    accept(context.database, "otf", "calibrate", None, act)
    observatory.until_quiet()
    assert group(observatory)["outcome"] == "accepted"
    return observatory


def group(observatory: Observatory) -> dict:
    return observatory.sub_group("calibrate", SCAN)


def explained(observatory: Observatory) -> dict:
    context = observatory.context()
    document = build_explain(context.database, "otf", "calibrate", SCAN, now=context.clock.now())
    return document["explain"][0]


def test_it_holds_again_when_the_same_is_wanted_again_though_another_was_made_meanwhile(accepted: Observatory) -> None:
    before = group(accepted)["current_run_id"]
    accepted.edit("mode: cold", "mode: sky")
    accepted.until_quiet()
    assert group(accepted)["current_run_id"] != before
    made = len(accepted.runs("calibrate"))
    accepted.edit("mode: sky", "mode: cold")
    accepted.until_quiet()
    again = group(accepted)
    assert (again["outcome"], again["current_run_id"], again["stale"]) == ("accepted", before, None)
    assert len(accepted.runs("calibrate")) == made
    row = explained(accepted)
    assert row["why"][0].startswith("ada accepted the current product as it is, for what is wanted now")
    assert "only a name" in row["why"][0]
    assert any("which ends the acceptance: `ccatwm trigger" in text for text in row["what_would_change_it"])


def test_it_holds_again_after_the_way_back_to_what_the_product_was_made_from(accepted: Observatory) -> None:
    before = group(accepted)["current_run_id"]
    for old, new in (("cold", "hot_cold"), ("hot_cold", "cold")):
        accepted.edit(f"mode: {old}", f"mode: {new}")
        accepted.until_quiet()
        assert group(accepted)["current_run_id"] == before
    assert group(accepted)["outcome"] == "accepted"
    assert len(accepted.runs("calibrate")) == 2


def test_who_asks_for_a_run_ends_it(accepted: Observatory) -> None:
    context = accepted.context()
    request_runs(context.database, context.grouping, "otf", step="calibrate", sub_group=SCAN, reason="not good after all",
                 actor="ada", now=context.clock.now())  # fmt: skip
    accepted.until_quiet()
    made = group(accepted)["current_run_id"]
    assert made == accepted.runs("calibrate")[-1]["id"] > 2
    for old, new in (("cold", "sky"), ("sky", "cold")):
        accepted.edit(f"mode: {old}", f"mode: {new}")
        accepted.until_quiet()
    again = group(accepted)
    assert (again["outcome"] in ("restored", "up-to-date"), again["current_run_id"]) == (True, made)
