"""Sites for histories, and how many histories there are: README.md says how to ask for more."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.opsdb.databases import make_upgraded_url, memory_folder
from tests.oracle.site import Clock, Site, numbers

EXAMPLES = int(os.environ.get("CCATWM_ORACLE_EXAMPLES", "0"))  # of a campaign; 0: the few of bin/test
KINDS = ("sqlite", "postgresql")
MakeSites = Callable[[Clock, Sequence[str]], AbstractContextManager[list[Site]]]


def made_profile(examples: int) -> settings:
    """The same histories each time, except in a campaign."""
    shrink = [Phase.shrink] if "CCATWM_ORACLE_SHRINK" in os.environ else []
    return settings(
        max_examples=examples, derandomize=not EXAMPLES, deadline=None, database=None,
        phases=[Phase.explicit, Phase.generate, *shrink], suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def sites(request: pytest.FixtureRequest) -> Iterator[MakeSites]:
    """Makes sites on databases of these kinds that have a clock in common, each with a database of its own."""
    server = request.getfixturevalue("postgresql_server")
    with tempfile.TemporaryDirectory(prefix="ccatwm-oracle-", dir=memory_folder()) as base:

        @contextmanager
        def make(clock: Clock, kinds: Sequence[str]) -> Iterator[list[Site]]:
            made: list[Site] = []
            try:
                for kind in kinds:
                    folder = Path(base) / f"{kind}-{next(numbers)}"
                    folder.mkdir()
                    url = server(upgraded=True) if kind == "postgresql" else make_upgraded_url(kind, request, folder)
                    made.append(Site(folder, url, clock))
                yield made
            finally:
                for site in made:
                    site.close()
                    if not site.url.startswith("sqlite"):
                        server.drop(site.url)

        yield make
