"""What `explain` says of a sub-group whose backfill is paused, or was cancelled."""

from __future__ import annotations

from ccatwm.core.selection import Selection
from ccatwm.upkeep.backfill import cancel_backfill, pause_backfill
from ccatwm.views.explain import build_explain
from ccatwm.views.runs import build_runs
from tests.passes.conftest import Observatory
from tests.passes.test_backfill import act, ask
from tests.passes.test_backfill import archive as archive


def explained(observatory: Observatory) -> tuple[str, str]:
    context = observatory.context()
    document = build_explain(context.database, "otf", "calibrate", "executed_obs_unit=1", now=context.clock.now())
    (row,) = document["explain"]
    return "\n".join(row["why"]), "\n".join(row["what_would_change_it"])


def test_a_backfill_that_is_paused_before_it_looked_is_told(archive: Observatory) -> None:
    ask(archive)
    why, then = explained(archive)
    assert "backfill 1 has not looked at it yet" in why
    assert "the next `ccatwm resolve` decides for backfill 1" in then
    pause_backfill(archive.context().database, 1, act(archive, reason="the disk is full"))
    why, then = explained(archive)
    assert "backfill 1 has not looked at it yet, and is paused: the disk is full" in why
    assert "`ccatwm backfill 1 --resume`" in then


def test_a_run_that_was_taken_back_with_its_backfill_says_by_whom_and_what_brings_it_back(archive: Observatory) -> None:
    ask(archive)
    archive.run_pass("resolve")
    cancel_backfill(archive.context().database, 1, act(archive, reason="wrong winter", actor="bob"))
    why, then = explained(archive)
    assert "it was taken back by bob at 20" in why
    assert "backfill 1 was cancelled: wrong winter" in why
    context = archive.context()
    states = {row["state"] for row in build_runs(context.database, Selection(), now=context.clock.now(), limit=9)["runs"]}
    assert states == {"CANCELLED (backfill 1 was cancelled: wrong winter)"}
    assert "`ccatwm trigger --pipeline otf" in then
    assert "`ccatwm backfill otf --since TIME --until TIME --reason TEXT`" in then
