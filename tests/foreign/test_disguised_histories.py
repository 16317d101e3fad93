"""Random histories on tables in random disguise: what the passes make of them is what the oracle says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign.disguise import TIMES, Disguise, wear
from tests.opsdb.databases import PostgresServer
from tests.oracle.conftest import EXAMPLES, made_profile
from tests.oracle.history import History
from tests.oracle.observing import START
from tests.oracle.site import Clock, Site, numbers
from tests.oracle.test_histories import ACTS, DEFINITIONS

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

# The oracle knows keys by their numbers.
KEYS = [
    ("bigint", ""), ("numeric", "bigint"), ("bigint", "numeric"), ("bigint", "bigint as text"),
    ("numeric", "bigint as text"),
]  # fmt: skip
PAIRS = (("name", "checksum"), ("id", "updated_at"), ("state", "size_bytes"))
SWAPPED = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


def build_disguise(
    keys: tuple[str, str], spelled: str, times: str, more: str, swap: bool, split: bool, bare: bool
) -> Disguise:
    """`more`: at the end of every name; `swap`: some columns have the names of others of ours."""

    def name(column: str) -> str:
        return (SWAPPED.get(column, column) if swap else column) + more

    return Disguise(*keys, spelled, times, name, split, bare)


DISGUISES = st.builds(
    build_disguise, st.sampled_from(KEYS), st.sampled_from(["upper", "title", "same"]), st.sampled_from(sorted(TIMES)),
    st.text("aZ_ \"'%():é", max_size=4), *[st.booleans()] * 3,
)  # fmt: skip
profile = made_profile(EXAMPLES or 6)


@profile
@given(DISGUISES, DEFINITIONS, ACTS)
def test_the_passes_and_the_oracle_agree(
    postgresql_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
    disguise: Disguise,
    definitions: dict[str, Any],
    acts: list[tuple[str, int, int, int]],
) -> None:
    clock = Clock(START)
    folder: Path = tmp_path_factory.mktemp(f"disguised-{next(numbers)}")
    url = postgresql_server(upgraded=True)
    site = Site(folder, url, clock, settings_changes=wear(url, disguise, folder))
    try:
        History([site], definitions, clock=clock).live(acts)
    except Exception:
        print(json.dumps(disguise.map(), indent=1, ensure_ascii=False))
        raise
    finally:
        site.close()
        postgresql_server.drop(url)
