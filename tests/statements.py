"""Statements are compiled once a process: most tests make an engine of their own, and compiling is half of their time."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database

MOST = 5000  # an observatory's tables are made anew for each engine, and so are statements about them


class CompiledStatements(dict[Any, Any]):
    """SQLAlchemy's keys begin with the dialect, and every engine has one of its own; here all of a name are alike."""

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get((key[0].name, *key[1:]), default)

    def __setitem__(self, key: tuple[Any, ...], value: Any) -> None:
        if len(self) >= MOST:
            self.clear()
        super().__setitem__((key[0].name, *key[1:]), value)


COMPILED = CompiledStatements()


def share_compiled(database: Database, engine: sa.Engine | None = None) -> None:
    """For all engines of this process, and of children forked from it. `engine`: take its connections."""
    database.engine = (engine or database.engine).execution_options(compiled_cache=COMPILED)
    database._write_engine = database.engine.execution_options(ccatwm_write=True)


def share_compiled_of_all() -> None:
    """For engines that a command line makes, too: nobody has them in hand before they are used."""
    if not sa.event.contains(sa.Engine, "engine_connect", _share):
        sa.event.listen(sa.Engine, "engine_connect", _share)


def _share(connection: sa.Connection) -> None:
    connection.execution_options(compiled_cache=COMPILED)
