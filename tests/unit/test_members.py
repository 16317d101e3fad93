"""How the membership of sub-groups changes when packages are grouped again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ccatwm.core.members import FACTS, membership_change

pytestmark = pytest.mark.quick
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


def row(**changes):
    return {**dict.fromkeys(FACTS, "x"), "id": 7, "key": "a", "dims": {"k": "a"}, "observed_at": BEGAN, **changes}


def test_what_is_as_before_changes_nothing():
    assert not membership_change(["p"], {"p": row()}, {"p": row()})
    assert not membership_change(["p"], {}, {})


def test_a_package_that_moved_changes_both_sub_groups():
    there = row(key="b", dims={"k": "b"})
    change = membership_change(["p"], {"p": row()}, {"p": there})
    assert (change.remove, change.insert, change.changed, change.gone) == ((7,), (there,), (there["package_name"],), ())
    assert change.keys == {"a": {"k": "a"}, "b": {"k": "b"}}
    assert change.left == ("p",), "what sub-group a feeds must be looked at"


def test_another_time_of_observation_is_a_change():
    later = row(observed_at=BEGAN.replace(day=2))
    change = membership_change(["p"], {"p": row()}, {"p": later})
    assert (change.insert, change.keys, change.changed) == ((later,), {"a": {"k": "a"}}, (later["package_name"],))


def test_what_is_grouped_no_more_is_gone_by_name():
    change = membership_change(["p", "q"], {"p": row(package_name="scan-1")}, {"q": row(package_name="scan-2")})
    assert (change.changed, change.gone) == (("scan-2",), ("scan-1",))
