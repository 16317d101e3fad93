"""What integration tests share: one cluster a session, tidied up between tests, and sites on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import Cluster, find_cluster, start_cluster
from tests.integration.slurm_site import RESOURCES, SlurmSite, copy_site, make_site
from tests.opsdb.databases import memory_folder


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


@dataclass
class SlurmSites:
    """Makes sites whose runs are staged; those on SQLite are copies of one that was made before."""

    cluster: Cluster
    root: Path
    sqlite: Path
    made: dict[tuple[int, str], SlurmSite] = field(default_factory=dict)
    count: int = 0

    def __call__(self, runs: int = 1, resources: str = RESOURCES) -> SlurmSite:
        key = (runs, resources)
        if key not in self.made:
            self.made[key] = self.new(runs, resources=resources)
        return copy_site(self.made[key], self.folder())

    def new(self, runs: int = 1, *, url: str | None = None, **more: Any) -> SlurmSite:
        folder = self.folder()
        folder.mkdir()
        if url is None:
            shutil.copy(self.sqlite, folder / "opsdb.sqlite")
            url = f"sqlite:///{folder}/opsdb.sqlite"
        return make_site(self.cluster, folder, url, runs, **more)

    def folder(self) -> Path:
        self.count += 1
        return self.root / f"site-{self.count}"


@pytest.fixture(scope="session")
def all_slurm_sites(session_cluster: Cluster, upgraded_sqlite: Path) -> Iterator[SlurmSites]:
    # In memory: node and tests are one machine, and these tests are not about disks.
    root = Path(tempfile.mkdtemp(prefix="ccatwm-slurm-", dir=memory_folder() or session_cluster.scratch))
    yield SlurmSites(session_cluster, root, upgraded_sqlite)
    shutil.rmtree(root)


@pytest.fixture
def slurm_sites(all_slurm_sites: SlurmSites, cluster: Cluster) -> SlurmSites:
    """Sites on the session's cluster, which is tidied up afterwards."""
    return all_slurm_sites


@pytest.fixture
def slurm_site(slurm_sites: SlurmSites) -> SlurmSite:
    """One staged run."""
    return slurm_sites(1)
