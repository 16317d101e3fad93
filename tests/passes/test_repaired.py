"""What a full comparison finds that change-driven passes had missed: people are told, under cron too, and once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ccatwm.cli._conditions import tell_news
from ccatwm.passes._frame import PassReport
from tests.passes.conftest import Observatory

SINCE = "{table: ExecutedObsUnit, column: start_time, operator: since, value: 2d}"


def compare_in_full(observatory: Observatory) -> PassReport:
    observatory.run_pass("trigger", full=True)
    return observatory.run_pass("resolve")


def told(observatory: Observatory, report: PassReport, folder: Path) -> list[str]:
    return tell_news(folder, [report], observatory.context().clock.now())


def miss(observatory: Observatory) -> None:
    """Members are not as the observation tables have them."""
    observatory.execute("UPDATE {schema}sub_group_member SET size_bytes = 1 WHERE package_name = 'scan-1-LFA'")


def test_what_was_missed_is_a_warning_with_names_and_steps(
    observatory: Observatory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observatory.until_quiet()
    miss(observatory)
    report = compare_in_full(observatory)
    expected = [
        "1 package of data grouping ngc253 by [executed_obs_unit] (otf/calibrate) had changed unnoticed: scan-1-LFA",
        "1 package of data grouping ngc253 by [] (otf/grid) had changed unnoticed: scan-1-LFA",
    ]
    repaired = [item for item in report.items if item.outcome == "repaired"]
    assert [(item.reason, item.count) for item in repaired] == [(text, 1) for text in expected]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text for text in warned if "unnoticed" in text] == [f"-: repaired ({text})" for text in expected]
    assert told(observatory, report, tmp_path) == [f"ccatwm: resolve: {text}" for text in expected]
    again = compare_in_full(observatory)
    assert (told(observatory, again, tmp_path), [i for i in again.items if i.outcome == "repaired"]) == ([], [])


def test_a_dry_run_tells_of_it_in_its_report_alone(observatory: Observatory, tmp_path: Path) -> None:
    observatory.until_quiet()
    miss(observatory)
    observatory.run_pass("trigger", full=True)
    report = observatory.run_pass("resolve", dry_run=True)
    assert [item.outcome for item in report.items if "unnoticed" in item.reason] == ["repaired", "repaired"]
    assert told(observatory, report, tmp_path) == []


def test_what_rules_select_no_more_as_time_goes_by_is_no_news(observatory: Observatory, tmp_path: Path) -> None:
    path = observatory.folder / "pipeline.yaml"
    before, _, rest = path.read_text().partition("filter_rules: [")
    assert rest
    path.write_text(f"{before}filter_rules: [{SINCE}, {rest}")
    observatory.apply()
    observatory.until_quiet()
    observatory.minute += 5 * 24 * 60
    report = compare_in_full(observatory)
    gone = [item.reason for item in report.items if item.outcome == "repaired"]
    assert [text.rpartition(": ")[0].endswith("had gone, unnoticed or as time went by") for text in gone] == [True, True]
    assert told(observatory, report, tmp_path) == []


def test_new_rules_are_nothing_that_was_missed(observatory: Observatory, tmp_path: Path) -> None:
    observatory.until_quiet()
    path = observatory.folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("filter_rules: [", f"filter_rules: [{SINCE}, ", 1))
    observatory.apply()
    report = observatory.run_pass("resolve")
    assert told(observatory, report, tmp_path) == []
    assert "unnoticed" not in json.dumps(report.to_json())
