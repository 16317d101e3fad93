"""Somebody else's databases, each with a site on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.campaign import write_campaign
from tests.foreign.site import TheirDatabase, furnish, make_site, observe, their_database
from tests.opsdb.databases import PostgresServer
from tests.passes.conftest import Observatory


@pytest.fixture
def theirs(postgresql_server: PostgresServer) -> Iterator[TheirDatabase]:
    """The database of a submillimetre observatory, without rows."""
    with their_database(postgresql_server, "observatory.sql", "ops") as made:
        yield made


@pytest.fixture
def site(theirs: TheirDatabase, tmp_path: Path) -> Observatory:
    """Two scans are observed there, and the pipeline is applied."""
    folder = tmp_path / "world"
    folder.mkdir()
    write_campaign(folder)
    furnish(theirs, folder)
    observe(theirs, folder, [1, 2])
    made = make_site(theirs, folder, "observatory.yaml")
    made.apply()
    return made
