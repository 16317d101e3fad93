"""An acceptance is of one recipe: it holds whenever that is wanted, until a person asks for a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ccatwm.upkeep.exclude import AcceptReport, Act, accept
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
    accept(context.database, context.grouping, "otf", "calibrate", None, act)
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
    told = request_runs(context.database, context.grouping, "otf", step="calibrate", sub_group=SCAN,
                        reason="not good after all", actor="ada", now=context.clock.now())  # fmt: skip
    assert told.follows.sub_groups == 1
    accepted.until_quiet()
    made = group(accepted)["current_run_id"]
    assert made == accepted.runs("calibrate")[-1]["id"] > 2
    for old, new in (("cold", "sky"), ("sky", "cold")):
        accepted.edit(f"mode: {old}", f"mode: {new}")
        accepted.until_quiet()
    again = group(accepted)
    assert (again["outcome"] in ("restored", "up-to-date"), again["current_run_id"]) == (True, made)


# --- of what is known when it is said --------------------------------------------------------------------------


def late_package(observatory: Observatory) -> None:
    """Another package of the first scan comes in; no pass has seen it yet."""
    packages = (observatory.folder / "late.yaml").read_text().partition("raw_data_packages:")
    text = "".join(packages[1:]).replace("scan-3-LFA", "late-1").replace("unit: scan-3", "unit: scan-1")
    (observatory.folder / "one-more.yaml").write_text(text)
    observatory.arrive("one-more.yaml")


def say(observatory: Observatory, key: str | None = None, **changes: Any) -> AcceptReport:
    context = observatory.context()
    act = replace(Act("only a name", "ada", "h", context.clock.now()), **changes)
    return accept(context.database, context.grouping, "otf", "calibrate", key, act)


def test_what_no_pass_has_grouped_when_it_is_said_is_not_accepted(observatory: Observatory) -> None:
    observatory.until_quiet()
    before = group(observatory)["current_run_id"]
    observatory.edit("mode: hot_cold", "mode: cold")
    late_package(observatory)
    report = say(observatory)
    assert list(report.accepted) == ["executed_obs_unit=1", "executed_obs_unit=2"]
    observatory.until_quiet()
    (made,) = observatory.runs("calibrate")[2:]
    assert (made["sub_group_key"], made["reason"]) == (SCAN, "input-added")
    assert group(observatory)["current_run_id"] == made["id"] != before
    assert observatory.sub_group("calibrate", "executed_obs_unit=2")["outcome"] == "accepted"


def test_a_definition_that_comes_later_is_not_accepted(observatory: Observatory) -> None:
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold")
    say(observatory)
    observatory.edit("mode: cold", "mode: sky")
    observatory.until_quiet()
    assert [run["reason"] for run in observatory.runs("calibrate")[2:]] == ["config-changed"] * 2
    observatory.edit("mode: sky", "mode: cold")
    observatory.until_quiet()
    assert group(observatory)["outcome"] == "accepted", "what was accepted is, whenever it is wanted"


def test_it_is_told_what_is_accepted_and_a_dry_run_only_tells(observatory: Observatory) -> None:
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold")
    would = say(observatory, dry_run=True, reason="")
    assert would.lines() == [
        "2 sub-groups: the present product would be good for what is wanted now",
        "  mode hot_cold -> cold: 2 sub-groups",
    ]
    assert (observatory.rows("acceptance"), bool(group(observatory)["asked"])) == ([], False)
    say(observatory, SCAN)
    assert say(observatory).lines() == [
        "1 sub-group was accepted already: that holds, with this reason from now on",
        "1 sub-group: the present product is good for what is wanted now; `ccatwm resolve` carries it out",
        "  mode hot_cold -> cold: 2 sub-groups",
    ]
    row = say(observatory).to_json()["accept"][0]
    assert row["changes"]["config"] == {"mode": ["hot_cold", "cold"]}


def test_where_nothing_differs_nothing_is_accepted(observatory: Observatory) -> None:
    observatory.until_quiet()
    report = say(observatory)
    assert report.lines() == ["2 sub-groups have what is wanted now: nothing to accept"]
    told = [(row["accepted"], row["why"]) for row in report.to_json()["accept"]]
    assert told == [(False, "it has what is wanted now")] * 2
    assert observatory.rows("acceptance") == []
    assert "accept" not in {event["kind"] for event in observatory.rows("trigger_event")}


def test_a_product_whose_files_are_gone_is_not_accepted(observatory: Observatory) -> None:
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold")
    run = group(observatory)["current_run_id"]
    observatory.execute(f"UPDATE {{schema}}data_product SET status = 'missing' WHERE run_id = {run}")
    assert say(observatory).refused == [(SCAN, "the files of its product are gone")]
