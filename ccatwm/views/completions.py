"""What may come next of what is typed at a shell. Touches: the ops-db, reading only."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from ccatwm.core.model import FailureClass
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import definitions, names, views

WORDS = {"status": RunStatus, "class": FailureClass}


def build_completions(
    database: Database, kind: str, begin: str, *, pipeline: str | None = None, step: str | None = None
) -> list[str]:
    """Names of a kind (pipeline, step, key, run, target, grouping) that go on from `begin`; steps and keys of a pipeline
    and a step where these are known."""
    with database.read() as connection:
        match kind:
            case "run":
                return names.list_run_numbers(connection, begin)
            case "grouping":
                return _beginning(begin, (row["name"] for row in definitions.list_groupings(connection)))
            case "target":
                return _targets(connection, begin)
        return _names(connection, kind, begin, pipeline, step)


def _names(connection: sa.Connection, kind: str, begin: str, pipeline: str | None, step: str | None) -> list[str]:
    steps = views.list_steps(connection, pipeline)
    if kind != "key":
        return _beginning(begin, (row[kind] for row in steps))
    return names.list_keys(connection, (row["id"] for row in steps if step in (None, row["step"])), begin)


def _targets(connection: sa.Connection, begin: str) -> list[str]:
    """PIPELINE[/STEP[/KEY]], part by part."""
    above, slash, last = begin.rpartition("/")
    pipeline, _, step = above.partition("/")
    kind = "key" if step else "step" if slash else "pipeline"
    return [f"{above}{slash}{name}" for name in _names(connection, kind, last, pipeline or None, step or None)]


def _beginning(begin: str, known: Iterable[str]) -> list[str]:
    return sorted({name for name in known if name.startswith(begin)})
