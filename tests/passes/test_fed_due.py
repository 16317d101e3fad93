"""Who was fed through a package that left is to be looked at, and nobody else, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores.due import mark_fed_due
from tests.passes.conftest import Observatory


@pytest.fixture
def quiet(observatory: Observatory) -> Observatory:
    observatory.until_quiet()
    assert due(observatory) == set()
    return observatory


def due(observatory: Observatory) -> set[str]:
    return {group["key"] for group in observatory.rows("sub_group") if group["due_at"] is not None}


def left(observatory: Observatory, step: str, names: set[str]) -> None:
    """These packages are told to have left their sub-groups of a step."""
    context = observatory.context()
    with context.database.write() as connection:
        of_step = sa.select(t.reduction_step.c.scope_id).where(t.reduction_step.c.name == step)
        scope = connection.execute(of_step).scalar_one()
        member = t.sub_group_member
        query = sa.select(member.c.package_id).where(member.c.scope_id == scope, member.c.package_name.in_(names))
        ids = set(connection.execute(query).scalars())
        mark_fed_due(connection, scope, ids, context.clock.now())


def test_what_a_package_fed_through_the_step_above_falls_due(quiet: Observatory) -> None:
    left(quiet, "calibrate", {"scan-1-LFA"})
    assert due(quiet) == {quiet.sub_group("grid")["key"]}


def test_a_step_that_feeds_nobody_marks_nobody(quiet: Observatory) -> None:
    left(quiet, "grid", {"scan-1-LFA"})
    assert due(quiet) == set()


def test_no_package_is_nobody_s_concern(quiet: Observatory) -> None:
    left(quiet, "calibrate", set())
    assert due(quiet) == set()
