"""What every batch system promises, seen through the port alone: the suite that authors of plug-ins run on theirs."""

from __future__ import annotations

from typing import Any

import pytest

from ccatwm.edges.scheduler import local
from ccatwm.interfaces import SchedulerFactory
from ccatwm.testing.scheduler import *  # noqa: F403
from tests.contracts.job_site import LOCAL_OPTIONS

pytestmark = pytest.mark.quick

BACKENDS: dict[str, tuple[SchedulerFactory, dict[str, Any]]] = {
    "local": (local.build_scheduler, LOCAL_OPTIONS)
}


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build_scheduler(backend: str) -> SchedulerFactory:
    return BACKENDS[backend][0]


@pytest.fixture
def scheduler_options(backend: str) -> dict[str, Any]:
    return BACKENDS[backend][1]
