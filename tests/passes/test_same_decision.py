"""A decision that says what was said before keeps its number and its time, on both databases."""

from __future__ import annotations

from tests.passes.conftest import Observatory

SAID = ("id", "decision", "decided_at", "outcome", "reason", "details", "stale", "current_run_id", "current_decision")


def said(observatory: Observatory) -> list[dict]:
    return [{name: group[name] for name in SAID} for group in observatory.rows("sub_group")]


def full(observatory: Observatory) -> None:
    observatory.run_pass("trigger", full=True)
    observatory.run_pass("resolve")
    assert all(group["due_at"] is None for group in observatory.rows("sub_group"))


def test_a_full_comparison_of_what_is_up_to_date_leaves_every_decision_as_it_is(observatory: Observatory) -> None:
    observatory.until_quiet()
    full(observatory)
    before = said(observatory)
    assert {group["outcome"] for group in before} == {"up-to-date"}
    full(observatory)
    assert said(observatory) == before


def test_who_waits_for_the_same_keeps_the_decision_and_who_waits_for_less_does_not(observatory: Observatory) -> None:
    observatory.run_pass("trigger")
    observatory.run_pass("resolve")
    before = observatory.sub_group("grid")
    assert before["outcome"] == "waiting-for-upstream"
    full(observatory)
    assert observatory.sub_group("grid")["decision"] == before["decision"]
    for name in ("stage", "submit"):
        observatory.run_pass(name)
    full(observatory)  # the runs that are waited for have another status
    assert observatory.sub_group("grid")["decision"] == before["decision"] + 1


def test_to_another_recipe_and_back_are_new_decisions_and_the_newest_counts(observatory: Observatory) -> None:
    observatory.until_quiet()
    full(observatory)
    before = observatory.sub_group("calibrate", "executed_obs_unit=1")
    observatory.edit("mode: hot_cold", "mode: sky")
    observatory.until_quiet()
    observatory.edit("mode: sky", "mode: hot_cold")
    observatory.until_quiet()
    after = observatory.sub_group("calibrate", "executed_obs_unit=1")
    assert after["current_run_id"] == before["current_run_id"]
    assert after["current_decision"] == after["decision"] > before["decision"]


def test_what_was_restored_keeps_its_decision_when_all_is_compared(observatory: Observatory) -> None:
    observatory.until_quiet()
    for old, new in (("hot_cold", "sky"), ("sky", "hot_cold")):
        observatory.edit(f"mode: {old}", f"mode: {new}")
        observatory.until_quiet()
    before = said(observatory)
    assert "restored" in {group["outcome"] for group in before}
    full(observatory)
    assert said(observatory) == before
