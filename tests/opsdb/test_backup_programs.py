"""PostgreSQL's own programs: which are taken, and what of a connection others of the host can see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.backup_postgresql import PROGRAMS, _connecting, find_programs
from ccatwm.errors import SettingsError

pytestmark = pytest.mark.quick


def install(folder: Path, version: str) -> Path:
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def test_programs_older_than_the_server_are_passed_over_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = install(tmp_path / "old", "14.9"), install(tmp_path / "new", "17.2 (Debian 17.2-1)")
    monkeypatch.setenv("PATH", f"{old}:{new}")
    found = find_programs(16, places=())
    assert (found.folder, found.version, found.major) == (new, "17.2", 17)
    assert find_programs(14, places=()).folder == old
    with pytest.raises(SettingsError, match=r"PostgreSQL 18 or newer are needed, only those of 14\.9 ") as caught:
        find_programs(18, places=())
    assert "postgresql-client-18" in caught.value.next


def test_programs_that_are_nowhere_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="none were found"):
        find_programs(16, places=())


def test_the_password_is_in_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGPASSFILE", "/somewhere/pgpass")
    url = sa.make_url("postgresql+psycopg2://ops:s%40cret@db.example.org:5433/ops?sslmode=require")
    with _connecting(url) as environment:
        service = Path(environment["PGSERVICEFILE"])
        assert service.read_text().splitlines() == [
            "[ccatwm]", "host=db.example.org", "port=5433", "user=ops", "dbname=ops", "sslmode=require",
        ]  # fmt: skip
        assert (os.stat(service).st_mode & 0o777, os.stat(service.parent).st_mode & 0o777) == (0o600, 0o700)
        assert environment["PGPASSWORD"] == "s@cret"
        assert (environment["PGPASSFILE"], environment.get("PGHOST")) == ("/somewhere/pgpass", None)
    assert not service.exists()
