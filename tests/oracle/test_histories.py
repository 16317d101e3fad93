"""Random histories: SQLite, PostgreSQL and the oracle agree after every round of passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.conftest import EXAMPLES, KINDS, MakeSites, made_profile
from tests.oracle.defining import POLICIES, TRIGGERS, first_definitions
from tests.oracle.history import NAMES, History
from tests.oracle.observing import START
from tests.oracle.site import Clock

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SIZES = {"min_size": 15, "max_size": 40} if EXAMPLES else {"min_size": 6, "max_size": 14}
NUMBER = st.integers(0, 11)
ACTS = st.lists(st.tuples(st.sampled_from(NAMES), NUMBER, NUMBER, NUMBER), **SIZES)
POLICY = st.integers(0, len(POLICIES) - 1)
COMPANIONS = st.sampled_from([0, 0, 0, 1, 2, 3, 4])
TRIGGER = st.integers(0, len(TRIGGERS) - 1)
MORE = st.tuples(COMPANIONS, TRIGGER, TRIGGER, st.sampled_from([0, 0, *range(1, len(POLICIES))]))
DEFINITIONS = st.builds(
    first_definitions, NUMBER, NUMBER, st.tuples(POLICY, POLICY), st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]), st.booleans(),
    MORE,
)  # fmt: skip
TRIP_AFTER = st.sampled_from([1_000_000, 1_000_000, 2])
profile = made_profile(EXAMPLES or 8)


@profile
@given(DEFINITIONS, ACTS, TRIP_AFTER)
def test_both_databases_and_the_oracle_agree(
    sites: MakeSites, definitions: dict[str, Any], acts: list[tuple[str, int, int, int]], trip_after: int
) -> None:
    clock = Clock(START)
    with sites(clock, KINDS) as made:
        for site in made:
            site.trip_after = trip_after
        History(made, definitions, clock=clock).live(acts)
