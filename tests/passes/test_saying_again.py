"""Acts of people that are wrong, large, or said again: what they are answered."""

from __future__ import annotations

import pytest

from ccatwm.errors import UsageError
from ccatwm.upkeep.backfill import Asked, start_backfill
from ccatwm.upkeep.exclude import Act, accept, exclude, include
from tests.passes.conftest import Observatory


def act(observatory: Observatory, **options) -> Act:
    now = observatory.context().clock.now()
    return Act(**{"reason": "the load was open", "actor": "ada", "host": "h", "now": now, **options})


def test_including_asks_above_confirm_runs_as_excluding_does_and_a_wrong_number_is_told_numbers(
    observatory: Observatory,
) -> None:
    observatory.until_quiet()
    context = observatory.context()
    few = {"confirm_runs": 0}
    for say in (exclude, include):
        with pytest.raises(UsageError, match="more than CONFIRM_RUNS") as caught:
            say(context.database, context.grouping, ["package:scan-1-LFA"], act(observatory, **few))
        assert "--yes" in caught.value.next
        if say is exclude:
            said = act(observatory, yes=True, **few)
            (made,) = exclude(context.database, context.grouping, ["package:scan-1-LFA"], said).targets
    number = str(made["exclusion"])
    with pytest.raises(UsageError, match="there is no exclusion 99") as caught:
        include(context.database, context.grouping, ["99"], act(observatory))
    assert caught.value.next == f"there are: {number} (package:scan-1-LFA)"
    assert include(context.database, context.grouping, [number], act(observatory, yes=True, **few)).targets


def test_what_was_accepted_already_is_told_so(observatory: Observatory) -> None:
    observatory.until_quiet()
    observatory.edit("mode: hot_cold", "mode: cold")
    context = observatory.context()
    world = context.database, context.grouping
    first = accept(*world, "otf", "calibrate", None, act(observatory))
    assert first.already == []
    again = accept(*world, "otf", "calibrate", None, act(observatory))
    assert again.lines()[0] == "2 sub-groups were accepted already: that holds, with this reason from now on"
    observatory.until_quiet()
    later = accept(*world, "otf", "calibrate", "executed_obs_unit=1", act(observatory))
    (row,) = later.to_json()["accept"]
    assert (row["sub_group"], row["accepted"], row["why"]) == ("executed_obs_unit=1", True, "accepted already")


def test_the_period_and_the_priority_of_a_backfill_are_checked_at_once(observatory: Observatory) -> None:
    context = observatory.context()
    asked = Asked("otf", "0001-01-01", "2026-03-02", priority=99_999_999)
    with pytest.raises(UsageError) as caught:
        start_backfill(context.database, context.grouping, asked, act(observatory, dry_run=True))
    assert [(p.where, p.what) for p in caught.value.problems] == [
        ("--priority", "99999999 is out of range"),
        ("--since", "'0001-01-01' is before the year 1900"),
    ]
