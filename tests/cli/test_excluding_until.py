"""`--until` of an exclusion is an end that is to come; in a selection a span of time is ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.cli._frame import Common
from ccatwm.cli.acting import _print_exclusions, _read_until
from ccatwm.core.selection import build_selection
from ccatwm.errors import UsageError
from ccatwm.upkeep.exclude import Act

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACT = Act("bad", "me", "h", NOW)


def test_a_span_is_from_now_where_an_exclusion_ends_and_ago_in_a_selection():
    assert _read_until(ACT, "20s") == NOW + timedelta(seconds=20)
    assert _read_until(ACT, "7d") == NOW + timedelta(days=7)
    assert build_selection(NOW, until="20s").until == NOW - timedelta(seconds=20)


@pytest.mark.parametrize("text", ["2026-03-01", "2026-03-01T12:00:00Z", "0s", "2026-03-01T13:00:00+02:00"])
def test_an_end_that_is_over_is_refused_and_says_which_moment_was_understood(text):
    with pytest.raises(UsageError, match="which is over already") as caught:
        _read_until(ACT, text)
    assert "2026-03-01T" in caught.value.message
    assert "from now" in caught.value.next


def test_what_is_no_time_is_told_what_may_be_said():
    with pytest.raises(UsageError, match="'soon' is not a time") as caught:
        _read_until(ACT, "soon")
    assert "7d (from now)" in caught.value.next


def test_the_list_tells_times_as_other_tables_do(capsys):
    row = {"exclusion": 1, "target": "package:X", "pipeline": None, "reason": "bad", "actor": "me"}
    times = {"since": "2026-03-01T12:00:00.476782Z", "until": None}
    _print_exclusions(Common(), {"exclusions": [row | times]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["1", "package:X", "-", "bad", "me", "2026-03-01", "12:00:00", "-"]
