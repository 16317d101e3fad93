"""The batch systems of this host, for tests of what each promises and of more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccatwm.edges.scheduler.local import build_scheduler
from ccatwm.testing.job_site import JobSite as Site
from ccatwm.testing.job_site import end_processes_of as end_processes_of
from ccatwm.testing.job_site import processes_of as processes_of

LOCAL_OPTIONS: dict[str, Any] = {"slots": 2, "max_queued": 20, "kill_after_seconds": 2}


def local_site(root: Path) -> Site:
    return Site(root, build_scheduler, dict(LOCAL_OPTIONS))
