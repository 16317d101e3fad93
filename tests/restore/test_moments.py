"""Backups made at any moment of a chain that runs, and that fails at first: from each of them it goes on to its end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.restore.conftest import Place


@pytest.mark.slow
def test_a_chain_goes_on_from_a_backup_of_any_moment(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_RETRY_BASE_SECONDS", "0")
    place.fail_at_first()
    chain = place.start("cycle", "--until-idle", "-q")
    backups: list[Path] = []
    while chain.poll() is None and len(backups) < 50:
        backups.append(tmp_path / f"{len(backups)}.dump")
        place("db", "backup", "-q", backups[-1])
        time.sleep(0.1)
    assert chain.wait() == 0, chain.communicate()
    place.idle()
    files = place.files()
    for backup in (backups[len(backups) // 3], backups[2 * len(backups) // 3]):
        last = max(int(path.name.removeprefix("run-")) for path in place.base.glob("otf/*/*/run-*"))
        place("db", "restore", "--yes", backup)
        known = set(place.runs())
        place("doctor", "--reconcile", "--yes")
        assert place.blocked() is None
        place.idle()
        runs = place.runs()
        assert {run["status"] for run in runs.values()} == {"COMPLETED"}
        assert set(place.executions().values()) == {1}
        assert files.items() <= place.files().items()
        files = place.files()
        assert all(run_id > last for run_id in set(runs) - known)


def test_a_backup_brings_back_what_is_gone(place: Place, tmp_path: Path) -> None:
    backup = tmp_path / "ops.dump"
    place("db", "backup", backup)
    if place.dialect == "sqlite":
        for file in place.site.glob("opsdb.sqlite*"):
            file.unlink()
    else:
        import sqlalchemy as sa

        from ccatwm.settings.load import load_settings

        engine = sa.create_engine(load_settings(str(place.site), {}, tmp_path).opsdb_url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA ccatwm CASCADE"))
            connection.execute(sa.text("DROP TABLE IF EXISTS site CASCADE"))
        engine.dispose()
    assert place.run("status").code != 0
    place("db", "restore", "--yes", backup)
    place("db", "check")
    place("doctor", "--reconcile")
    assert place.blocked() is None
    assert place("status", "--json").json["status"]
