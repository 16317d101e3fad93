"""What all tests share: one PostgreSQL server for each worker, the order in which workers take tests, and no test sees
the settings or the home of whoever runs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.opsdb.databases import postgresql_server as postgresql_server
from tests.opsdb.databases import upgraded_sqlite as upgraded_sqlite
from tests.spread import check_use_of_cluster, make_scheduler, turn
from tests.statements import share_compiled_of_all

# How long an example takes says nothing on a busy machine. All else is as hypothesis has it, in CI too.
hypothesis.settings.register_profile("busy", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("busy")

share_compiled_of_all()


def pytest_configure() -> None:
    """Programs that tests start heed SIGINT, also where the tests themselves are started in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check_use_of_cluster(items)
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Ours, unless another one is asked for by `--dist`."""
    return make_scheduler(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt() -> None:
    """A worker gets a second SIGINT five seconds after Ctrl-C, which would end it amid taking down its servers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have counted is told at the end: a worker has no terminal."""
    for report in (report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)):
        for name, text in report.user_properties:
            if name == "found":
                terminalreporter.write_line(str(text))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment variables of ccatwm are gone, and user folders lie in the test's own."""
    for name in [name for name in os.environ if name.startswith("CCAT_WORKFLOW_MANAGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("ENV_FOR_DYNACONF", raising=False)
    for variable, folder in (("XDG_DATA_HOME", "data-home"), ("XDG_STATE_HOME", "state-home")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
