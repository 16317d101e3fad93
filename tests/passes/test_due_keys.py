"""Sub-groups fall due once in a comparison, and only where nobody can have decided on them in between."""

from __future__ import annotations

from ccatwm.edges.opsdb.stores.sub_groups import list_scopes
from ccatwm.passes._regroup import DueKeys
from tests.passes.conftest import Observatory

KEYS = {"a": {"n": "1"}, "b": {"n": "2"}}


def add(observatory: Observatory, due: DueKeys) -> list[str]:
    with observatory.context().database.read() as connection:
        return list(due.add(connection, KEYS))


def keys_of_scans(observatory: Observatory, here: str = "local") -> DueKeys:
    with observatory.context().database.read() as connection:
        scope = next(s for s in list_scopes(connection) if s.group_by)
    return DueKeys(scope.id, here)


def test_a_key_that_fell_due_is_remembered(observatory: Observatory) -> None:
    due = keys_of_scans(observatory)
    assert (add(observatory, due), add(observatory, due)) == (["a", "b"], [])


def test_nothing_is_remembered_where_another_location_may_decide(observatory: Observatory) -> None:
    due = keys_of_scans(observatory, "elsewhere")
    assert (add(observatory, due), add(observatory, due)) == (["a", "b"], ["a", "b"])


def test_a_step_that_comes_in_between_gets_all(observatory: Observatory) -> None:
    due = keys_of_scans(observatory)
    add(observatory, due)
    observatory.edit("group_by: []", "group_by: [executed_obs_unit]")
    assert (add(observatory, due), add(observatory, due)) == (["a", "b"], [])
