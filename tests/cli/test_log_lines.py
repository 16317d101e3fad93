"""Every log line of a pass says of which pass it is, and of which run and pipeline where it is of one; as text and JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common
from ccatwm.edges.journal import belonging
from ccatwm.passes._frame import PassItem, PassReport
from tests.cli.conftest import Cli

pytestmark = pytest.mark.quick
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def restored_logger() -> Any:
    logger = logging.getLogger("ccatwm")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def speak() -> None:
    """What an edge, a pass and its report say in a pass."""
    with belonging(pass_name="submit"):
        logging.getLogger("ccatwm.edges.scheduler.slurm").warning("scancel: no")
        logging.getLogger("ccatwm.passes.submit").warning("adopted", extra={"run": 7, "pipeline": "otf"})
        PassReport("submit", "x", NOON).add("failed", PassItem("failed", "timeout", 7, "otf", "grid", "all"))
    logging.getLogger("ccatwm").warning("between passes")


def test_json_lines_have_pass_run_and_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    _frame.start_logging(Common(log_format="json"))
    speak()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    keys = ("pass", "run", "pipeline")
    assert [tuple(line.get(key) for key in keys) for line in lines] == [
        ("submit", None, None), ("submit", 7, "otf"), ("submit", 7, "otf"), (None, None, None),
    ]  # fmt: skip


def test_text_lines_name_them_once(capsys: pytest.CaptureFixture[str]) -> None:
    _frame.start_logging(Common())
    speak()
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "WARNING submit: scancel: no",
        "WARNING submit: adopted [run 7, otf]",
        "WARNING submit: run 7 (otf/grid/all): failed (timeout)",
        "WARNING between passes",
    ]


def test_a_pass_logs_its_name_on_every_line(cli: Cli) -> None:
    """From the lease that is taken over to the summary."""
    assert cli("init").code == 0
    answer = cli("trigger", "--log-format", "json", "-v", "-v")
    assert all(json.loads(line)["pass"] == "trigger" for line in answer.err.splitlines())
