"""Settings to context: the only file that picks edges. Touches: nothing before a port is used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ccatwm.errors import SchemaVersionError, SettingsError, WorldError
from ccatwm.interfaces import (
    Clock,
    Effects,
    HostFiles,
    PlainEffects,
    Scheduler,
    SchedulerSetup,
    Storage,
    Transport,
    WorkFiles,
)

if TYPE_CHECKING:
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.edges.opsdb.grouping import GroupingEngine
    from ccatwm.passes._context import Context
    from ccatwm.passes._frame import PassOptions, PassReport
    from ccatwm.settings.schema import Settings

PASSES = ("trigger", "resolve", "stage", "submit", "poll", "collect")


def open_context(site: str | None, *, actor: str | None = None, effects: Effects | None = None) -> Context:
    """The context of a site. Errors: SettingsError with all mistakes at once."""
    from ccatwm.settings.load import load_settings

    settings = load_settings(site, os.environ, Path.cwd())
    return _settled(build_context(settings, actor=actor, effects=effects))


def _settled(context: Context) -> Context:
    """The context with its base directory checked and its processing location by name.

    Where the ops-db does not answer that is left to whoever uses it first, who reports it in his own way.
    """
    from ccatwm.upkeep.base_dir import check_base_dir, check_database_file, settle_location

    check_database_file(context.settings)
    try:
        context.database.check_schema(observations=context.settings.observations)
        check_base_dir(context.settings, context.database)
        context.settings = settle_location(context.settings, context.database)
    except (WorldError, SchemaVersionError):
        pass
    return context


def build_context(
    settings: Settings,
    *,
    actor: str | None = None,
    effects: Effects | None = None,
    clock: Clock | None = None,
) -> Context:
    """Ports are made when they are first used: an idle pass opens the ops-db and nothing else."""
    from ccatwm.edges.clock import SystemClock
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.passes._context import Context

    effects = effects or PlainEffects()
    clock = clock or SystemClock()
    database = Database(settings.opsdb_url, effects)
    return Context(
        settings=settings,
        clock=clock,
        effects=effects,
        database=database,
        grouping=build_grouping(settings, database),
        make_workfiles=lambda: build_workfiles(settings, effects),
        make_scheduler=lambda: build_scheduler(settings, effects, clock),
        make_storages=lambda: build_storages(effects),
        make_host_files=lambda: _host_files(settings, effects),
        actor=actor or _person(),
        read_uid=lambda: _read_uid(database),
    )


def build_grouping(settings: Settings, database: Database) -> GroupingEngine:
    from ccatwm.edges.opsdb.grouping import GroupingEngine
    from ccatwm.edges.opsdb.observations import ObservationTables

    return GroupingEngine(ObservationTables.managed(), database.dialect, settings.obs_timezone)


def build_workfiles(settings: Settings, effects: Effects) -> WorkFiles:
    from ccatwm.edges.workfiles.local import LocalWorkFiles

    return LocalWorkFiles(settings.pipeline_base_dir, effects)


def build_storages(effects: Effects) -> Mapping[str, Storage]:
    from ccatwm.edges.storage.disk import DiskStorage

    return {"disk": DiskStorage(effects)}


def _host_files(settings: Settings, effects: Effects) -> HostFiles:
    from ccatwm.edges.hostfiles.local import LocalHostFiles

    return LocalHostFiles(settings.state_dir, effects)


def build_scheduler(settings: Settings, effects: Effects, clock: Clock) -> Scheduler:
    """The batch system that HPC_BACKEND names, by entry point."""
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="ccatwm.schedulers")}
    if settings.hpc_backend not in found:
        raise SettingsError(
            f"HPC_BACKEND is {settings.hpc_backend!r}",
            next=f"installed backends: {', '.join(sorted(found)) or 'none'}",
        )
    factory: Callable[[SchedulerSetup], Scheduler] = found[settings.hpc_backend].load()
    return factory(
        SchedulerSetup(
            cluster=settings.cluster,
            state_dir=str(settings.state_dir),
            base_dir=str(settings.pipeline_base_dir),
            options=_scheduler_options(settings),
            effects=effects,
            clock=clock,
            grace_seconds=settings.grace_seconds,
            make_transport=lambda: build_transport(settings, effects),
        )
    )


def build_transport(settings: Settings, effects: Effects) -> Transport:
    from ccatwm.edges.transport.local import LocalTransport

    return LocalTransport(effects)


def _scheduler_options(settings: Settings) -> dict[str, object]:
    """The settings of the batch system that is used; one from elsewhere gets `SCHEDULER_OPTIONS`."""
    if settings.hpc_backend == "local":
        return dataclasses.asdict(settings.local)
    if settings.hpc_backend == "slurm":
        own = dataclasses.asdict(settings.slurm)
        return own | {"partition": settings.slurm.partition or settings.slurm_partition}
    return dict(settings.scheduler_options)


def _read_uid(database: Database) -> str:
    from ccatwm.edges.opsdb.stores.leases import read_uid

    with database.read() as connection:
        return read_uid(connection)


def _person() -> str:
    """Who acts: the login name behind this process."""
    import getpass

    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


# --- passes ---------------------------------------------------------------------------------------------------------


def run_pass(name: str, context: Context, options: PassOptions) -> PassReport:
    """Run one pass by its name."""
    from importlib import import_module

    report: PassReport = import_module(f"ccatwm.passes.{name}").run(context, options)
    return report


def run_cycle(context: Context, options: PassOptions) -> Iterator[PassReport]:
    """All six passes once, in the order of the data flow."""
    for name in PASSES:
        yield run_pass(name, context, options)


RETRY_PATIENCE_SECONDS = 120  # how long `cycle --until-idle` waits for a retry


def work_is_left(context: Context) -> bool:
    """Whether more passes would do something without anybody doing anything: jobs run, retries are due soon."""
    now = context.clock.now()
    soon = now + timedelta(seconds=RETRY_PATIENCE_SECONDS)
    from ccatwm.edges.opsdb.stores.runs import any_active_run

    with context.database.read() as connection:
        return any_active_run(connection, context.settings.processing_location, now, retries_by=soon)
