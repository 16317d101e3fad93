"""Settings as frozen dataclasses: one field per setting, units in names. Pure.

A field's name in capitals is the setting's key (`grace_seconds` is `GRACE_SECONDS`, environment variable
`CCAT_WORKFLOW_MANAGER_GRACE_SECONDS`) and its anchor in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccatwm.core.path_map import path_there
from ccatwm.core.retention import KEEP, Retention


@dataclass(frozen=True)
class LocationSettings:
    """Where a data location lies for this site: `root` is a folder, or `s3://bucket/prefix` of an object store.

    The others are for object stores: `endpoint_url` where it is not Amazon's, and who one is there: `credentials_file` is
    as the AWS tools have it, `profile` the section in it.
    """

    root: str | None = None
    endpoint_url: str = ""
    region: str = ""
    credentials_file: str = ""
    profile: str = "default"


@dataclass(frozen=True)
class LocalSettings:
    """Backend `local`: how many jobs run at once, and how many may wait in its queue."""

    slots: int = 2
    max_queued: int = 200


@dataclass(frozen=True)
class SlurmSettings:
    """Backend `slurm`: defaults and caps of jobs, and how its commands are called.

    `conf` becomes SLURM_CONF, `bin_dir` is looked in first for sbatch and the others. `extra` are sbatch options
    that every job gets, one per item. Caps are what retries may grow to.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    extra: tuple[str, ...] = ()
    conf: str = ""
    bin_dir: str = ""
    max_memory_gb: float | None = None
    max_time_hours: float | None = None
    max_array_size: int | None = None  # else the cluster's own
    max_queued: int | None = None  # tasks of ours in the queue at once; else the cluster's limits
    calls_per_minute: int = 60
    command_timeout_seconds: int = 60
    warn_seconds: int = 120  # USR1 this long before the time limit
    requeue_seconds: int = 150  # how long a job that lost its node may take to come back to the queue
    accounting: bool = True  # False: no slurmdbd; the queue and the jobs' own records must do


@dataclass(frozen=True)
class StageSettings:
    """Who reads, checks and unpacks packages: `stage` itself (`inline`), or batch jobs at the processing site (`job`).

    The others are of these jobs. `job_gb`: how much one brings at most, but for a package that is larger by itself.
    `python` is a Python 3.11 or newer where they run; empty: as `ssh.python`, without SSH the one that runs `stage`. What
    is empty of the rest is as for all jobs.
    """

    executor: str = "inline"  # inline | job
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    extra: tuple[str, ...] = ()
    cpu: int = 2
    memory_gb: float = 4.0
    time_hours: float = 4.0
    job_gb: float = 200.0
    python: str = ""


@dataclass(frozen=True)
class SshSettings:
    """How the processing host is reached. Secrets come from the agent or from files, never from here.

    `python` is a Python 3.11 or newer there. `proxy_jump` is `[user@]host[:port]`, several with commas.
    """

    host: str = ""
    port: int = 22
    user: str = ""
    key_file: str = ""
    certificate_file: str = ""
    known_hosts: str = "~/.ssh/known_hosts"
    agent: bool = True
    proxy_jump: str = ""
    python: str = "python3"
    connect_timeout_seconds: int = 15
    banner_timeout_seconds: int = 15
    auth_timeout_seconds: int = 30
    keepalive_seconds: int = 30


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
    opsdb_map: Path | None = None  # what foreign observation tables are called; None: opsdb-map.yaml of the site
    full_every: str = "1d"  # how often foreign tables that do not say when their rows change are compared in full
    container_runtime: str = "apptainer"  # apptainer | singularity | none
    container_gpu_flag: str = "--nv"
    sif_cache_dir: Path | None = None
    slurm_partition: str = ""  # the original's name of slurm.partition
    obs_timezone: str = "America/Santiago"
    staging_mode: str = "fetch"  # fetch | request: we copy, or data transfer does
    staging_job_hours: float = 24.0  # how long data transfer may take to bring a package
    stage_parallel: int = 4  # packages that are brought at once, or jobs that bring some
    cache_max_gb: float | None = None
    min_free_gb: float = 1.0
    min_free_inodes: int = 10_000
    keep_failed_inputs_hours: float = 48.0
    retention_intermediate_days: float | str = KEEP  # of steps whose `retention` does not say it, as are the next four
    retention_superseded_days: float | str = KEEP
    retention_scratch_days: float | str = 7.0
    retention_log_days: float | str = KEEP
    retention_log_max_gb: float | str = KEEP
    trash_grace_hours: float = 48.0  # how long what `gc` takes away can be brought back
    grace_seconds: int = 900
    lease_seconds: int = 300
    retry_base_seconds: int = 60
    retry_max_seconds: int = 3600
    record_wait_seconds: int = 120  # how long an ended job's exit record may take to show
    collect_verify: str = "size"  # none | size | full: how outputs are compared with what their jobs saw
    confirm_runs: int = 500
    trip_after: int = 20
    backfill_open_runs: int = 100  # most runs of one backfill that are open at once
    max_concurrent: int | None = None  # most runs at once at the processing location; else no ceiling
    change_overlap_seconds: int = 3600
    health_pass_seconds: float = 900.0  # a pass that ended longer ago is not fresh
    health_run_hours: float = 24.0  # how long a run may wait to be staged and handed over
    health_pause_hours: float = 4.0  # how long passes may be paused
    max_seconds: float = 50.0
    max_seconds_stage: float = 600.0
    locations: Mapping[str, LocationSettings] = field(default_factory=dict)
    local: LocalSettings = LocalSettings()
    slurm: SlurmSettings = SlurmSettings()
    stage: StageSettings = StageSettings()
    transport: str = "local"  # local | ssh: how commands reach the processing host
    workfiles: str = ""  # local | ssh; empty: as the transport
    ssh: SshSettings = SshSettings()
    path_map: Mapping[str, str] = field(default_factory=dict)  # our path -> the same folder on the processing host
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)  # for a batch system from elsewhere
    origins: Mapping[str, str] = field(default_factory=dict)  # setting key -> where its value comes from
    extra: Mapping[str, Any] = field(default_factory=dict)

    def root_of(self, location: str) -> str | None:
        """Where this site has a data location, which wins over what the ops-db says; None where it says nothing."""
        setting = self.locations.get(location)
        return None if setting is None else setting.root

    @property
    def retention(self) -> Retention:
        """What may go of the files of steps that say nothing else."""
        said = {key: getattr(self, f"retention_{key}") for key in Retention.__dataclass_fields__}
        return Retention().with_said(said)

    @property
    def files_over_ssh(self) -> bool:
        """Whether the account on the processing host does all writing below the base directory."""
        return (self.workfiles or self.transport) == "ssh"

    def path_there(self, path: str | Path) -> str:
        """A path of ours as the processing host names it."""
        return path_there(str(path), self.path_map) if self.transport == "ssh" else str(path)
