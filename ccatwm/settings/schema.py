"""Settings as frozen dataclasses: one field per setting, units in names. Pure.

A field's name in capitals is the setting's key (`grace_seconds` is `GRACE_SECONDS`, environment variable
`CCAT_WORKFLOW_MANAGER_GRACE_SECONDS`) and its anchor in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LocationSettings:
    """Where a data location lies for this site: `root` on disk (other storage types get more later)."""

    root: str | None = None


@dataclass(frozen=True)
class LocalSettings:
    """Backend `local`: how many jobs run at once, and how many may wait in its queue."""

    slots: int = 2
    max_queued: int = 200


@dataclass(frozen=True)
class Settings:
    """The settings of one site. `site_dir` is the folder they came from, None for environment variables alone."""

    site: str
    site_dir: Path | None
    opsdb_url: str
    pipeline_base_dir: Path
    processing_location: str  # name or id of the data location that this instance serves
    state_dir: Path  # locks, local job records, logs; on a local disk
    hpc_backend: str = "local"
    cluster: str = "local"
    observations: str = "managed"  # managed | foreign
    container_runtime: str = "apptainer"  # apptainer | singularity | none
    container_gpu_flag: str = "--nv"
    sif_cache_dir: Path | None = None
    slurm_partition: str = ""
    obs_timezone: str = "America/Santiago"
    staging_mode: str = "fetch"  # fetch | request
    cache_max_gb: float | None = None
    min_free_gb: float = 1.0
    keep_failed_inputs_hours: float = 48.0
    grace_seconds: int = 900
    lease_seconds: int = 300
    retry_base_seconds: int = 60
    retry_max_seconds: int = 3600
    record_wait_seconds: int = 120  # how long an ended job's exit record may take to show
    confirm_runs: int = 500
    trip_after: int = 20
    change_overlap_seconds: int = 3600
    max_seconds: float = 50.0
    max_seconds_stage: float = 600.0
    locations: Mapping[str, LocationSettings] = field(default_factory=dict)
    local: LocalSettings = LocalSettings()
    origins: Mapping[str, str] = field(default_factory=dict)  # setting key -> where its value comes from
    extra: Mapping[str, Any] = field(default_factory=dict)
