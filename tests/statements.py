"""Statements are compiled once a process: most tests make an engine of their own, and compiling is half of their time."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb.engine import Database


class CompiledStatements(dict[Any, Any]):
    """SQLAlchemy's keys begin with the dialect, and every engine has one of its own; here all of a name are alike."""

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get((key[0].name, *key[1:]), default)

    def __setitem__(self, key: tuple[Any, ...], value: Any) -> None:
        super().__setitem__((key[0].name, *key[1:]), value)


COMPILED = CompiledStatements()


def share_compiled(database: Database, engine: sa.Engine | None = None) -> None:
    """For all engines of this process, and of children forked from it. `engine`: take its connections."""
    database.engine = (engine or database.engine).execution_options(compiled_cache=COMPILED)
    database._write_engine = database.engine.execution_options(ccatwm_write=True)
