"""What `health` makes of what it saw."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.checkup import Finding, Judgement, away, ok, warning, wrong
from ccatwm.core.health import (
    PASSES,
    Cursor,
    HealthFacts,
    OldestRun,
    PassSeen,
    Patience,
    StepCount,
    Unreached,
    conditions,
    exit_code,
    judge_health,
)

pytestmark = pytest.mark.quick
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FRESH = tuple(PassSeen(name, "local", NOW - MINUTE) for name in PASSES)
WELL = HealthFacts("local", frozenset({"local"}), FRESH)


def told(facts: HealthFacts) -> list[Finding]:
    return [f for f in judge_health(facts, Patience(), NOW) if f.state is not Judgement.OK]


def one_pass(**changes: object) -> HealthFacts:
    return replace(WELL, passes=(replace(FRESH[0], **changes), *FRESH[1:]))  # type: ignore[arg-type]


def test_a_site_that_is_well_is_told_so_for_every_area() -> None:
    found = judge_health(WELL, Patience(), NOW)
    assert {f.state for f in found} == {Judgement.OK} and len(found) == 9
    assert exit_code(found) == 0 and conditions(found) == {}


@pytest.mark.parametrize(
    ("facts", "name", "next"),
    [
        (one_pass(ended_at=NOW - HOUR), "pass trigger local", "ccatwm cycle"),
        (replace(WELL, passes=FRESH[1:]), "pass trigger local", "ccatwm cycle"),
        (replace(WELL, passes=()), "passes local", "ccatwm doctor --as-cron"),
        (replace(WELL, locations=frozenset({"ramses"})), "passes ramses", "ccatwm doctor --as-cron"),
        (replace(WELL, blocked="a restore"), "submission", "ccatwm doctor --reconcile"),
        (replace(WELL, paused="upgrade", paused_at=NOW - 5 * HOUR), "paused", "ccatwm resume"),
        (replace(WELL, needing=(StepCount("otf/grid", 2),)), "runs otf/grid", "ccatwm runs --pipeline otf --step grid"),
        (replace(WELL, tripped=(StepCount("otf/grid", 1, "timeout"),)), "tripped otf/grid", "ccatwm release otf/grid"),
        (replace(WELL, cursors=(Cursor("Source", NOW - 2 * HOUR, NOW - HOUR),)), "cursor Source", "ccatwm trigger"),
        (replace(WELL, changed_since=NOW - HOUR), "regrouping", "ccatwm resolve"),
        (replace(WELL, oldest=(OldestRun(7, "PENDING", NOW - 25 * HOUR),)), "waiting PENDING", "ccatwm show 7"),
        (replace(WELL, oldest=(OldestRun(8, "COLLECTING_RESULTS", NOW - 2 * HOUR),)), "waiting COLLECTING_RESULTS",
         "ccatwm show 8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_command_to_type(facts: HealthFacts, name: str, next: str) -> None:
    (finding,) = told(facts)
    assert (finding.name, finding.state, finding.away) == (name, Judgement.WRONG, False)
    assert next in finding.next
    assert exit_code([finding]) == 1


@pytest.mark.parametrize(
    "facts",
    [
        one_pass(ended_at=NOW - HOUR, at_work=True),
        replace(WELL, passes=(*FRESH, PassSeen("poll", "of-old", NOW - 99 * HOUR))),
        replace(WELL, cursors=(Cursor("Source", NOW - HOUR, NOW - MINUTE),)),
        replace(WELL, cursors=(Cursor("Source", NOW - HOUR, None), Cursor("ObsUnit", NOW, NOW - HOUR))),
        replace(WELL, changed_since=NOW - MINUTE),
        replace(WELL, oldest=(OldestRun(7, "PENDING", NOW - 2 * HOUR),)),
    ],
)
def test_what_is_as_it_should_be_is_not_told(facts: HealthFacts) -> None:
    assert told(facts) == []


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, paused="upgrade", paused_at=NOW - HOUR, paused_by="jd"),
        replace(WELL, throttled=(StepCount("otf/grid", 3, "max_concurrent 2"),)),
        replace(WELL, bad_copies=1),
    ],
)
def test_what_lasts_and_harms_nobody_is_a_warning(facts: HealthFacts) -> None:
    (finding,) = told(facts)
    assert finding.state is Judgement.WARNING and finding.next
    assert exit_code([finding]) == 0 and len(conditions([finding])) == 1


def test_passes_that_are_paused_are_not_stale() -> None:
    facts = replace(WELL, passes=(), paused="upgrade", paused_at=NOW - HOUR)
    assert [f.name for f in told(facts)] == ["paused"]


def test_a_pass_that_an_error_ended_is_away() -> None:
    (finding,) = told(one_pass(message="the batch system did not answer"))
    assert finding.away and "the batch system did not answer" in finding.found


def test_a_data_location_that_is_away_is_named_with_how_many_runs_wait_since_when() -> None:
    why = "data location raw: the store at http://raw.example does not answer: Connection refused"
    away_too = Unreached("data location lta has no root", 1, 9, NOW)
    many, one = told(replace(WELL, unreached=(Unreached(why, 12, 7, NOW - HOUR), away_too)))
    assert (many.name, many.away, many.next) == ("data location raw", True, "ccatwm show 7")
    assert many.found == f"12 runs wait since 2026-03-02 11:00:00 UTC: {why}"
    assert one.found.startswith("1 run waits since ")
    assert exit_code([many, one]) == 4 and len(conditions([many, one])) == 2


def test_what_a_person_must_do_outweighs_what_may_pass_by_itself() -> None:
    gone = away("ops-db", "no answer", "try again")
    assert exit_code([ok("a", ""), warning("b", "", ""), gone]) == 4
    assert exit_code([gone, wrong("c", "", "")]) == 1
