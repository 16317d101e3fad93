"""What is asked of a disabled pipeline or step is refused: else it would be carried out whenever that is enabled again."""

from __future__ import annotations

import pytest

from ccatwm.errors import UsageError
from ccatwm.upkeep.backfill import Asked, start_backfill
from ccatwm.upkeep.exclude import Act, accept
from ccatwm.upkeep.requests import request_runs
from tests.passes.conftest import Observatory

GRID = "{name: grid, software: cal,"


@pytest.fixture
def quiet(observatory: Observatory) -> Observatory:
    observatory.until_quiet()
    return observatory


def ask(observatory: Observatory, step: str | None = None, **options):
    context = observatory.context()
    return request_runs(context.database, context.grouping, "otf", step=step, reason="again", actor="me",
                        now=context.clock.now(), **options)  # fmt: skip


def say_accept(observatory: Observatory, step: str):
    context = observatory.context()
    return accept(context.database, context.grouping, "otf", step, None, Act("fine", "me", "h", context.clock.now()))


def say_backfill(observatory: Observatory):
    context = observatory.context()
    asked = Asked("otf", "2026-01-01", "2027-01-01")
    return start_backfill(context.database, context.grouping, asked, Act("again", "me", "h", context.clock.now()))


def refused(what: str, say, *arguments, **options) -> None:
    with pytest.raises(UsageError) as caught:
        say(*arguments, **options)
    assert caught.value.message == what
    assert "`enabled: true`" in (caught.value.next or "")


def test_nothing_is_asked_of_a_disabled_pipeline(quiet: Observatory) -> None:
    quiet.edit("- name: otf", "- name: otf\n    enabled: false")
    what = "pipeline otf is disabled"
    refused(what, ask, quiet, force=True)
    refused(what, ask, quiet, "calibrate", sub_group="executed_obs_unit=1")
    refused(what, ask, quiet, "calibrate", trial=["config.mode=cold"])
    refused(what, say_accept, quiet, "calibrate")
    refused(what, say_backfill, quiet)
    made = len(quiet.runs())
    quiet.edit("enabled: false", "enabled: true")
    quiet.until_quiet()
    assert len(quiet.runs()) == made


def test_nothing_is_asked_of_a_disabled_step_and_it_is_left_out(quiet: Observatory) -> None:
    quiet.edit(GRID, f"{GRID} enabled: false,")
    what = "otf/grid is disabled"
    refused(what, ask, quiet, "grid", force=True)
    refused(what, ask, quiet, "grid", trial=["config.mode=cold"])
    refused(what, say_accept, quiet, "grid")
    report = ask(quiet, force=True)
    assert (report.steps, report.disabled) == (("calibrate",), ("grid",))
    assert "calibrate (without grid: disabled)" in report.lines()[0]
    quiet.until_quiet()
    assert (len(quiet.runs("calibrate")), len(quiet.runs("grid"))) == (4, 1)


def test_nothing_is_asked_where_all_steps_are_disabled(quiet: Observatory) -> None:
    quiet.edit(GRID, f"{GRID} enabled: false,")
    quiet.edit("{name: calibrate,", "{name: calibrate, enabled: false,")
    refused("otf/calibrate, otf/grid are disabled", ask, quiet)
    refused("otf/calibrate, otf/grid are disabled", say_backfill, quiet)
