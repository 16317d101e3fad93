"""What may come next of what is typed at a shell. Touches: the ops-db, reading only."""

from __future__ import annotations

from ccatwm.core.model import FailureClass
from ccatwm.core.states import RunStatus
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import names

KINDS = ("pipeline", "step", "key", "run", "target", "grouping")
WORDS = {"status": RunStatus, "class": FailureClass}


def build_completions(
    database: Database, kind: str, begin: str, *, pipeline: str | None = None, step: str | None = None
) -> list[str]:
    """Names of one of KINDS that go on from `begin`; steps and keys of a pipeline and a step where these are known."""
    with database.read() as connection:
        match kind:
            case "pipeline":
                return names.list_pipeline_names(connection, begin)
            case "step":
                return names.list_step_names(connection, begin, pipeline)
            case "key":
                return names.list_keys(connection, begin, pipeline, step)
            case "grouping":
                return names.list_grouping_names(connection, begin)
            case "run":
                return names.list_run_numbers(connection, begin)
    return _targets(database, begin)


def _targets(database: Database, begin: str) -> list[str]:
    """PIPELINE[/STEP[/KEY]], part by part."""
    above, slash, last = begin.rpartition("/")
    pipeline, _, step = above.partition("/")
    with database.read() as connection:
        if not slash:
            return names.list_pipeline_names(connection, last)
        found = (
            names.list_keys(connection, last, pipeline, step) if step
            else names.list_step_names(connection, last, pipeline)
        )  # fmt: skip
    return [f"{above}/{name}" for name in found]
