"""What all tests share: one PostgreSQL server, and no test sees the settings or the home of whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.opsdb.databases import postgresql_server as postgresql_server
from tests.opsdb.databases import upgraded_sqlite as upgraded_sqlite


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment variables of ccatwm are gone, and user folders lie in the test's own."""
    for name in [name for name in os.environ if name.startswith("CCAT_WORKFLOW_MANAGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("ENV_FOR_DYNACONF", raising=False)
    for variable, folder in (("XDG_DATA_HOME", "data-home"), ("XDG_STATE_HOME", "state-home")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
