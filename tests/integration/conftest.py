"""What integration tests share: one cluster a session, tidied up between tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.cluster import Cluster, find_cluster, start_cluster


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    if running := find_cluster():
        yield running
        return
    cluster = start_cluster()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """The session's cluster with all services running and no job of an earlier test."""
    try:
        yield session_cluster
    finally:
        session_cluster.repair()
