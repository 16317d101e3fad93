"""`health` as scripts and people read it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccatwm.cli._conditions import tell_health, tell_news
from ccatwm.errors import OpsDbUnavailableError, SchedulerUnavailableError
from ccatwm.passes._frame import PassItem, PassReport
from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_healthy_site_is_one_document(cli: Cli) -> None:
    assert cli("init").code == 0 and cli("cycle").code == 0
    answer = cli("health", "--json")
    document = answer.json
    assert (answer.code, document["schema"], document["healthy"]) == (0, "ccatwm.health/1", True)
    assert {row["state"] for row in document["health"]} == {"ok"}
    assert set(document["health"][0]) == {"name", "state", "found", "next", "away"}


def test_a_pause_is_shown_with_the_command_that_ends_it(cli: Cli) -> None:
    assert cli("init").code == 0 and cli("pause", "--reason", "upgrade").code == 0
    answer = cli("health", "-v")
    assert answer.code == 0
    assert "warning  paused: all passes are paused since" in answer.out and "next: ccatwm resume" in answer.out


def test_a_condition_is_told_when_it_begins_once_a_day_and_when_it_ends(tmp_path: Path) -> None:
    met = {"health tripped p/s": "p/s is tripped\n  next: ccatwm release p/s"}
    assert tell_health(tmp_path, met, NOON) == ["ccatwm: p/s is tripped\n  next: ccatwm release p/s"]
    assert tell_health(tmp_path, met, NOON + HOUR) == []
    assert tell_health(tmp_path, met, NOON + 24 * HOUR) == ["ccatwm: still, since 2026-03-01 12:00 UTC: p/s is tripped"]
    (line,) = tell_health(tmp_path, {}, NOON + 25 * HOUR)
    assert line.endswith("begun 2026-03-01 12:00 UTC: p/s is tripped")
    assert tell_health(tmp_path, {}, NOON + 26 * HOUR) == []


def report(error: Exception) -> PassReport:
    made = PassReport("poll", "x", NOON)
    made.error = error  # type: ignore[assignment]
    return made


def test_what_passes_of_this_host_tell_is_not_told_twice(tmp_path: Path) -> None:
    assert len(tell_news(tmp_path, [report(SchedulerUnavailableError("no answer"))], NOON)) == 1
    assert tell_health(tmp_path, {"health error poll local": "poll at local was ended"}, NOON) == []
    assert len(tell_health(tmp_path, {"health error submit local": "submit at local was ended"}, NOON)) == 1
    assert len(tell_news(tmp_path, [report(OpsDbUnavailableError("away"))], NOON)) == 2, "one begins, one is over"
    assert tell_health(tmp_path, {"health ops-db": "away", "health error submit local": "x"}, NOON) == []


def test_a_data_location_that_a_pass_of_this_host_found_away_is_not_told_twice(tmp_path: Path) -> None:
    stage = PassReport("stage", "x", NOON)
    stage.add("waiting", PassItem("unavailable", "package a: data location raw: no answer", 1, "p", "s", "k"))
    met = {"health data location raw": "1 run waits: data location raw: no answer"}
    assert len(tell_health(tmp_path / "elsewhere", met, NOON)) == 1
    assert len(tell_news(tmp_path, [stage], NOON)) == 1 and tell_health(tmp_path, met, NOON) == []


def test_what_passes_of_another_host_met_is_told(tmp_path: Path) -> None:
    assert len(tell_health(tmp_path, {"health error poll local": "poll at local was ended"}, NOON)) == 1


def test_what_quiet_keeps_back_is_told_by_the_next_without_it(cli: Cli) -> None:
    assert cli("init").code == 0
    assert (cli("health", "-q").out, "no pass has ever run" in cli("health").out) == ("", True)
    next(Path().rglob("opsdb.sqlite")).write_bytes(b"no database" * 1000)
    quiet, told = cli("poll", "-q"), cli("poll")
    assert (quiet.code, quiet.out, quiet.err) == (3, "", "")
    assert told.code == 3 and "damaged" in told.err


def test_what_cannot_be_seen_while_the_ops_db_is_away_is_not_over(tmp_path: Path) -> None:
    assert len(tell_health(tmp_path, {"health tripped p/s": "p/s is tripped"}, NOON)) == 1
    assert tell_health(tmp_path, {"health ops-db": "away"}, NOON + HOUR) == ["ccatwm: away"]
    (line,) = tell_health(tmp_path, {"health tripped p/s": "p/s is tripped"}, NOON + 2 * HOUR)
    assert "over since" in line and line.endswith(": away")


def test_work_that_a_pass_held_back_is_not_over_when_it_is_ended_by_an_error(tmp_path: Path) -> None:
    full = PassReport("poll", "x", NOON)
    full.add("waiting", PassItem("no-space", "the disk is full", 1, "p", "s", "k"))
    assert len(tell_news(tmp_path, [full], NOON)) == 1
    (line,) = tell_news(tmp_path, [report(OpsDbUnavailableError("away"))], NOON + HOUR)
    assert line.startswith("ccatwm: away")
    lines = tell_news(tmp_path, [PassReport("poll", "x", NOON)], NOON + 2 * HOUR)
    assert len(lines) == 2 and all("over since" in line for line in lines)
