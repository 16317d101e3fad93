"""`kill -9` in the middle of a backup or a restore: there is the whole of it, or nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb.backup_file import read_backup
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.interfaces import PlainEffects
from ccatwm.passes._frame import holder_is_gone
from ccatwm.upkeep.backup import Said, back_up, restore
from tests.crash.rig import START, World
from tests.opsdb.databases import BOTH, make_upgraded_url
from tests.restore.conftest import programs

ROWS = 30_000  # so that there is a middle
KILLS = 6


class Site:
    """An ops-db with rows and a base directory, without passes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.settings = World(folder, url).settings()
        self.schema = "ccatwm." if url.startswith("postgresql") else ""
        self.settings.pipeline_base_dir.mkdir(parents=True)
        (self.settings.pipeline_base_dir / ".ccatwm.json").write_text(json.dumps({"ops_db_uid": "me"}))
        self.settings.state_dir.mkdir(parents=True)

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(self.url)
        try:
            yield database
        finally:
            database.dispose()

    def execute(self, statement: str, *rows: dict[str, Any]) -> Any:
        with self.database() as database, database.write() as connection:
            return connection.execute(sa.text(statement.format(schema=self.schema)), list(rows) or None)

    def back_up(self, path: Path) -> None:
        with self.database() as database:
            back_up(database, path, observations="managed", now=START, overwrite=True)

    def restore(self, path: Path) -> None:
        files = LocalWorkFiles(self.settings.pipeline_base_dir, PlainEffects())
        with self.database() as database:
            restore(self.settings, database, files, path, Said("tester", "here", START, "a test"), yes=True,
                    is_gone=holder_is_gone)  # fmt: skip

    def state(self) -> tuple[int, bool]:
        """(rows, whether submission is blocked)."""
        with self.database() as database, database.read() as connection:
            ask = "SELECT (SELECT count(*) FROM {s}change_seen), submission_blocked IS NOT NULL FROM {s}ops_db"
            rows, blocked = connection.execute(sa.text(ask.format(s=self.schema))).one()
        return int(rows), bool(blocked)


@pytest.fixture(params=BOTH)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    if request.param == "postgresql":
        monkeypatch.setenv("PATH", str(programs()), prepend=":")
    (tmp_path / "db").mkdir()
    made = Site(tmp_path, make_upgraded_url(request.param, request, tmp_path / "db"))
    made.execute("INSERT INTO {schema}ops_db (uid, created_at) VALUES ('me', '2026-03-01T00:00:00.000000Z')")
    made.execute(
        "INSERT INTO {schema}change_seen (table_name, row_id, changed_at) VALUES ('t', :n, '2026-03-01T00:00:00.000000Z')",
        *({"n": f"{n:0100d}"} for n in range(ROWS)),
    )
    return made


def seconds(act: Callable[[], None]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def kill_after(delay: float, act: Callable[[], None]) -> bool:
    """Whether `act` was killed before its end."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def again(act: Callable[[], None]) -> None:
    """Programs of PostgreSQL notice the end of the pipe a moment later."""
    for _ in range(50):
        try:
            return act()
        except Exception as error:
            if "another process" not in str(error) and "lock" not in str(error):
                raise
            time.sleep(0.1)
    act()


def test_a_killed_backup_leaves_the_one_before_it(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "ops.dump"
    site.back_up(path)
    whole = seconds(lambda: site.back_up(path))
    killed = 0
    for number in range(KILLS):
        killed += kill_after(whole * (number + 0.5) / KILLS, lambda: site.back_up(path))
        assert read_backup(path).seal.uid == "me"
    assert killed
    again(lambda: site.back_up(path))
    assert [p.name for p in tmp_path.glob(".ops*")] == []


def test_a_killed_restore_is_done_or_not_begun(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "ops.dump"
    site.back_up(path)
    whole = seconds(lambda: site.restore(path))
    assert site.state() == (ROWS, True)
    killed = 0
    for number in range(KILLS):
        site.execute("UPDATE {schema}ops_db SET submission_blocked = NULL")
        site.execute("DELETE FROM {schema}change_seen")
        site.execute("INSERT INTO {schema}change_seen (table_name, row_id, changed_at) "
                     "VALUES ('t', 'later', '2026-03-01T00:00:00.000000Z')")  # fmt: skip
        killed += kill_after(whole * (number + 0.5) / KILLS, lambda: site.restore(path))
        again(lambda: site.execute("UPDATE {schema}ops_db SET uid = uid"))
        assert site.state() in ((1, False), (ROWS, True))
    assert killed
    again(lambda: site.restore(path))
    assert site.state() == (ROWS, True)
