"""How pytest-xdist spreads the tests over its workers, and in which order they are done.

A worker takes a unit at a time: all files that use the Slurm cluster are one unit, so that one worker starts it; a file
whose tests share what is made for them (servers, images, environments) is one; elsewhere a test is.
`--dist loadgroup` would serve, but not with every pytest: https://github.com/pytest-dev/pytest-xdist/issues/1386
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import pytest

CLUSTER = "cluster"
USING_CLUSTER = frozenset(
    f"tests/integration/test_{name}.py"
    for name in (
        "cluster", "demo_slurm", "doctor_slurm", "sandbox_site", "slurm_failures", "slurm_once", "slurm_restore",
        "slurm_staging", "slurm_verdicts", "ssh_crash", "upgrade",
    )
)  # fmt: skip
UNIT_IS_FILE = ("demo", "integration")
# What takes longest comes first, so that the workers end together.
TURNS = (CLUSTER, "crash", "demo", "integration", "passes", "opsdb")


def unit_of(nodeid: str) -> str:
    """What is done by one worker, one after the other."""
    file = nodeid.partition("::")[0]
    if file in USING_CLUSTER:
        return CLUSTER
    return file if PurePosixPath(file).parent.name in UNIT_IS_FILE else nodeid


def turn(nodeid: str) -> int:
    kind = CLUSTER if unit_of(nodeid) == CLUSTER else PurePosixPath(nodeid.partition("::")[0]).parent.name
    return TURNS.index(kind) if kind in TURNS else len(TURNS)


def check_use_of_cluster(items: Iterable[pytest.Item]) -> None:
    """A second cluster would do no harm but for the time that it takes."""
    using = {item.nodeid.partition("::")[0] for item in items if _uses_cluster(item)}
    if unknown := sorted(using - USING_CLUSTER):
        raise pytest.UsageError(f"these use the Slurm cluster, add them to USING_CLUSTER in {__file__}: {unknown}")


def _uses_cluster(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("slurm") is not None or "session_cluster" in fixtures


def make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Imported when asked for: the tests run without pytest-xdist too."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # it would take the unit of most tests first
    return Scheduling(config, log)
