"""Settings to context: the only file that picks edges. Touches: nothing before a port is used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ccatwm.core.model import PASSES as PASSES
from ccatwm.core.wording import count_text
from ccatwm.errors import (
    ObservationTablesError,
    OpsDbUnusableError,
    SchemaVersionError,
    SettingsError,
    UsageError,
    WorldError,
)
from ccatwm.interfaces import (
    INTERFACE_VERSION,
    NO_PROGRESS,
    Clock,
    Effects,
    HostFiles,
    PlainEffects,
    Progress,
    RemoteCalls,
    Scheduler,
    SchedulerSetup,
    Storage,
    Transport,
    WorkFiles,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.edges.opsdb.grouping import GroupingEngine
    from ccatwm.edges.opsdb.observations import ObservationTables
    from ccatwm.passes._context import Context
    from ccatwm.passes._frame import PassFrame, PassOptions, PassReport
    from ccatwm.settings.schema import Settings
    from ccatwm.upkeep._by_hand import Here
    from ccatwm.upkeep.contract import Stand
    from ccatwm.upkeep.doctor import Checked
    from ccatwm.upkeep.gc import Garbage, GcPlan, Undone


def open_context(
    site: str | None,
    *,
    actor: str | None = None,
    effects: Effects | None = None,
    looks: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Context:
    """The context of a site. Errors: SettingsError with all mistakes at once.

    `looks`: for a command that only looks, and mostly at tables of ours. Tables of others that are not as the map says
    are told by it if it needs them.
    """
    from ccatwm.settings.load import load_settings

    settings = load_settings(site, os.environ, Path.cwd())
    return _settled(build_context(settings, actor=actor, effects=effects, progress=progress), looks=looks)


def _settled(context: Context, *, looks: bool) -> Context:
    """The context with its base directory checked and its processing location by name.

    Where the ops-db does not answer that is left to whoever uses it first, who reports it in his own way.
    """
    from ccatwm.upkeep.base_dir import check_base_dir, check_database_file, settle_location

    check_database_file(context.settings)
    try:
        context.database.check_schema(observations=context.settings.observations)
        if not context.settings.files_over_ssh:  # else at their first use: an idle pass opens no connection
            check_base_dir(context.settings, context.database)
        context.settings = settle_location(context.settings, context.database, context.grouping)
    except (WorldError, SchemaVersionError, OpsDbUnusableError):  # each pass tells it in its report
        pass
    except ObservationTablesError:
        if not looks:
            raise
    return context


def build_context(
    settings: Settings,
    *,
    actor: str | None = None,
    effects: Effects | None = None,
    clock: Clock | None = None,
    progress: Progress = NO_PROGRESS,
) -> Context:
    """Ports are made when they are first used: an idle pass opens the ops-db and nothing else."""
    from ccatwm.edges.clock import SystemClock
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.passes._context import Context

    effects = effects or PlainEffects()
    clock = clock or SystemClock()
    database = Database(settings.opsdb_url, effects)
    remote = build_connection(settings, effects, clock)
    return Context(
        settings=settings,
        clock=clock,
        effects=effects,
        database=database,
        grouping=build_grouping(settings, database),
        make_workfiles=lambda: build_workfiles(settings, effects, remote, database),
        make_scheduler=lambda: build_scheduler(settings, effects, clock, remote),
        make_storages=lambda: build_storages(settings, effects, remote),
        make_host_files=lambda: _host_files(settings, effects, remote, progress),
        actor=actor or person(),
        read_uid=lambda: _read_uid(database),
        connection=remote,
        progress=progress,
    )


def build_grouping(settings: Settings, database: Database) -> GroupingEngine:
    from ccatwm.edges.opsdb.grouping import GroupingEngine
    from ccatwm.edges.opsdb.observations import ObservationTables

    if settings.observations == "managed":
        return GroupingEngine(ObservationTables.managed(), database.dialect, settings.obs_timezone)
    return GroupingEngine(lambda: _foreign_tables(settings, database), database.dialect, settings.obs_timezone)


def _foreign_tables(settings: Settings, database: Database) -> ObservationTables:
    from ccatwm.upkeep.opsdb_map import find_observation_tables

    return find_observation_tables(settings, database)


# --- the processing host ---------------------------------------------------------------------------------------------


def build_connection(
    settings: Settings, effects: Effects, clock: Clock, *, remembers: bool = True
) -> RemoteCalls | None:
    """The one connection that all ports share, opened by the first call; None where the processing host is this one.

    `remembers`: whether a refused login keeps others from trying it at once.
    """
    if settings.transport != "ssh":
        return None
    from ccatwm.edges.transport.ssh import SshConnection

    base_dir = settings.path_there(settings.pipeline_base_dir)
    return SshConnection(settings.ssh, base_dir, settings.state_dir, effects, clock, remembers=remembers)


def build_transport(effects: Effects, remote: RemoteCalls | None) -> Transport:
    if remote is not None:
        from ccatwm.edges.transport.ssh import SshTransport

        return SshTransport(remote)
    from ccatwm.edges.transport.local import LocalTransport

    return LocalTransport(effects)


def build_workfiles(
    settings: Settings, effects: Effects, remote: RemoteCalls | None, database: Database | None = None
) -> WorkFiles:
    """With `database`, a base directory behind the connection is checked to belong to it at its first use."""
    root = PurePosixPath(settings.path_there(settings.pipeline_base_dir))
    if remote is not None and settings.files_over_ssh:
        from ccatwm.edges.workfiles.ssh import SshWorkFiles
        from ccatwm.upkeep.base_dir import check_files

        return SshWorkFiles(
            remote, root, None if database is None else lambda files: check_files(files, database)
        )
    from ccatwm.edges.workfiles.local import LocalWorkFiles

    return LocalWorkFiles(settings.pipeline_base_dir, effects, seen_as=None if remote is None else root)


def build_storages(settings: Settings, effects: Effects, remote: RemoteCalls | None) -> Mapping[str, Storage]:
    if remote is not None and settings.files_over_ssh:
        from ccatwm.edges.storage.ssh import SshDiskStorage

        return {"disk": SshDiskStorage(remote, settings.path_map)}
    from ccatwm.edges.storage.disk import DiskStorage
    from ccatwm.edges.storage.s3 import S3Storage

    return {"disk": DiskStorage(effects), "s3": S3Storage(settings.locations, os.environ, effects)}


def _host_files(
    settings: Settings, effects: Effects, remote: RemoteCalls | None, progress: Progress = NO_PROGRESS
) -> HostFiles:
    """What jobs see: of the processing host even where its base directory is ours too."""
    if remote is not None:
        from ccatwm.edges.hostfiles.ssh import SshHostFiles

        return SshHostFiles(remote, settings.state_dir, settings.path_map, effects)
    from ccatwm.edges.hostfiles.local import LocalHostFiles

    return LocalHostFiles(settings.state_dir, effects, progress)


@contextmanager
def open_base_there(settings: Settings) -> Iterator[tuple[Transport, WorkFiles]]:
    """Commands and files of the processing host for `ccatwm init`, before there is anything to check."""
    from ccatwm.edges.clock import SystemClock

    effects = PlainEffects()
    remote = build_connection(settings, effects, SystemClock())
    try:
        yield build_transport(effects, remote), build_workfiles(settings, effects, remote)
    finally:
        if remote is not None:
            remote.close()


@contextmanager
def open_checkup(settings: Settings) -> Iterator[Checked]:
    """What `ccatwm doctor` looks at, with nothing checked before."""
    from ccatwm.edges.clock import SystemClock
    from ccatwm.edges.opsdb.engine import Database
    from ccatwm.edges.transport.local import LocalTransport
    from ccatwm.upkeep.doctor import Checked

    effects, clock = PlainEffects(), SystemClock()
    remote = build_connection(settings, effects, clock, remembers=False)
    try:
        database = Database(settings.opsdb_url, effects)
        yield Checked(
            settings=settings,
            database=database,
            grouping=build_grouping(settings, database),
            clock=clock,
            here=LocalTransport(effects),
            there=build_transport(effects, remote),
            files=build_workfiles(settings, effects, remote),
            host_files=_host_files(settings, effects, remote),
            storages=build_storages(settings, effects, remote),
            make_scheduler=lambda: build_scheduler(settings, effects, clock, remote),
        )
    finally:
        if remote is not None:
            remote.close()


@contextmanager
def open_stand(keep: Path | None) -> Iterator[Stand]:
    """Where `ccatwm contract check` tries programs: a new folder, removed again unless it is to be kept."""
    import shutil
    import tempfile

    from ccatwm.edges.clock import SystemClock
    from ccatwm.edges.storage.disk import DiskStorage
    from ccatwm.edges.trials.local import LocalTrials
    from ccatwm.edges.workfiles.local import LocalWorkFiles
    from ccatwm.upkeep.contract import Stand

    if keep is not None:
        if keep.exists():
            raise UsageError(f"{keep} is there already", next="--keep wants a folder that is not there yet")
        keep.mkdir(parents=True)
    base = Path(tempfile.mkdtemp(prefix="ccatwm-contract-")) if keep is None else keep.absolute()
    effects = PlainEffects()
    try:
        yield Stand(base, SystemClock(), LocalWorkFiles(base, effects), DiskStorage(effects), LocalTrials(effects))
    finally:
        if keep is None:
            shutil.rmtree(base, ignore_errors=True)


def build_here(context: Context, folder: Path) -> Here:
    """What a run by hand is prepared with: everything as this host sees it, its files below `folder`."""
    from ccatwm.edges.hostfiles.local import BareHostFiles
    from ccatwm.edges.workfiles.local import LocalWorkFiles
    from ccatwm.upkeep._by_hand import Here

    return Here(
        settings=context.settings,
        database=context.database,
        grouping=context.grouping,
        files=LocalWorkFiles(folder, context.effects),
        storages=build_storages(context.settings, context.effects, None),
        host_files=BareHostFiles(context.progress),  # a memory of digests would have to be written
        progress=context.progress,
    )


def build_scheduler(
    settings: Settings, effects: Effects, clock: Clock, remote: RemoteCalls | None = None
) -> Scheduler:
    """The batch system that HPC_BACKEND names, by entry point."""
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="ccatwm.schedulers")}
    if settings.hpc_backend not in found:
        raise SettingsError(
            f"HPC_BACKEND is {settings.hpc_backend!r}",
            next=f"installed backends: {', '.join(sorted(found)) or 'none'}",
        )
    if settings.hpc_backend == "local" and remote is not None:
        raise SettingsError(
            "HPC_BACKEND is 'local', which runs jobs on this host, but TRANSPORT is 'ssh'",
            next="set HPC_BACKEND to the batch system of the processing host, or TRANSPORT = local",
        )
    factory: Callable[[SchedulerSetup], Scheduler] = found[settings.hpc_backend].load()
    scheduler = factory(
        SchedulerSetup(
            cluster=settings.cluster,
            state_dir=str(settings.state_dir),
            base_dir=settings.path_there(settings.pipeline_base_dir),
            options=_scheduler_options(settings),
            effects=effects,
            clock=clock,
            make_transport=lambda: build_transport(effects, remote),
            grace_seconds=settings.grace_seconds,
        )
    )
    _check_interface(scheduler, found[settings.hpc_backend])
    return scheduler


def _check_interface(scheduler: Scheduler, point: EntryPoint) -> None:
    """A plug-in says by `interface_version` what it was written for; one that says nothing was for the first."""
    written_for = getattr(scheduler, "interface_version", 1)
    if written_for != INTERFACE_VERSION:
        package = point.dist.name if point.dist is not None else point.value
        raise SettingsError(
            f"the batch system {point.name!r} of {package} was written for version {written_for} of ccatwm.interfaces, "
            f"this release has version {INTERFACE_VERSION}",
            next=f"install a release of {package} for this release of ccatwm",
        )


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


def person() -> str:
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

    with _rare_collections():
        report: PassReport = import_module(f"ccatwm.passes.{name}").run(context, options)
        if name == "resolve" and options.dry_run and not options.rehearsed and report.error is None:
            _tell_not_triggered(context, report)
    return report


def _tell_not_triggered(context: Context, report: PassReport) -> None:
    """A dry run of `resolve` alone says that there is more to decide once `trigger` has opened it."""
    from ccatwm.passes import trigger
    from ccatwm.passes._frame import PassItem, PassOptions

    due = trigger.run(context, PassOptions(dry_run=True)).done
    if due:
        are = "is" if due == 1 else "are"
        why = (
            f"{count_text(due, 'step')} {are} due that `ccatwm trigger` has not opened yet; "
            "`ccatwm cycle --dry-run` decides on them too"
        )
        report.items.append(PassItem("not-triggered", why))  # not counted: it is no work of this pass


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A pass makes many small values that end with their chunk, and few cycles: the collector's usual pace costs it a
    fifth of its time. Nothing is frozen: cycles made before would never be collected, and the managers run for months."""
    import gc

    usual = gc.get_threshold()
    gc.set_threshold(100_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def run_cycle(context: Context, options: PassOptions) -> Iterator[PassReport]:
    """All six passes once, in the order of the data flow."""
    if options.dry_run:
        yield from _rehearse(context, options)
    for name in PASSES[2:] if options.dry_run else PASSES:
        yield run_pass(name, context, options)


def _rehearse(context: Context, options: PassOptions) -> list[PassReport]:
    """`trigger` and `resolve` in earnest on an ops-db of which nothing stays: what the one opens, the other decides on."""
    reports: list[PassReport] = []
    begun, seconds = context.clock.monotonic(), context.database.rehearsal_seconds
    try:
        with context.database.rehearsal() as rehearsed:
            inside = dataclasses.replace(context, database=rehearsed)
            for name in PASSES[:2]:
                left = None if seconds is None else max(0.0, seconds - (context.clock.monotonic() - begun))
                given = [s for s in (left, options.max_seconds) if s is not None]
                limited = dataclasses.replace(options, rehearsed=True, max_seconds=min(given, default=None))
                reports.append(run_pass(name, inside, limited))
    except WorldError:  # each says for itself that the ops-db does not answer
        reports += [run_pass(name, context, options) for name in PASSES[len(reports) : 2]]
    return reports


def run_gc(context: Context, options: PassOptions, told: Callable[[GcPlan], None]) -> tuple[PassReport, GcPlan]:
    """`ccatwm gc` under a lock and a lease of its own; `told` is called with what would go before anything does."""
    from ccatwm.passes._frame import PassItem, run_framed
    from ccatwm.upkeep.gc import GcPlan, collect_garbage

    plans: list[GcPlan] = []

    def body(frame: PassFrame) -> None:
        def tell(plan: GcPlan) -> None:
            plans.append(plan)
            frame.report.selected = len(plan.going)
            told(plan)

        work = collect_garbage(_garbage_of(context, frame), tell, dry_run=frame.dry_run, limit=options.limit)
        for done in work:
            frame.report.add(done.kind, PassItem(done.outcome, done.reason, done.run, done.pipeline, done.step,
                                                 done.sub_group, count=done.count))  # fmt: skip
            if frame.time_is_up():
                return
            frame.checkpoint()

    report = run_framed(context, "gc", options, body)
    return report, plans[0] if plans else GcPlan()


def undo_gc(context: Context, options: PassOptions, run: int | None, reason: str) -> tuple[PassReport, list[Undone]]:
    """What lies in the trash of a run (None: of all) comes back; nobody empties it meanwhile.

    Errors: UsageError where nothing of the run does, which is no failure of the pass `gc`.
    """
    from ccatwm.passes._frame import run_framed
    from ccatwm.upkeep.gc import undo

    undone: list[Undone] = []
    refused: list[UsageError] = []

    def body(frame: PassFrame) -> None:
        try:
            found = undo(_garbage_of(context, frame), run, reason, dry_run=frame.dry_run)
        except UsageError as error:
            refused.append(error)
            return
        undone.extend(found)
        frame.report.selected = len(found)
        frame.report.done = sum(one.refused is None for one in found)
        frame.report.failed = len(found) - frame.report.done

    report = run_framed(context, "gc", options, body)
    if refused:
        raise refused[0]
    return report, undone


def _garbage_of(context: Context, frame: PassFrame) -> Garbage:
    import socket

    from ccatwm.upkeep.gc import Garbage

    settings = context.settings
    return Garbage(
        database=context.database, files=context.workfiles, location=settings.processing_location,
        retention=settings.retention, grace=timedelta(hours=settings.trash_grace_hours),
        cache_max_gb=settings.cache_max_gb, now=frame.now, actor=context.actor, host=socket.gethostname(),
    )  # fmt: skip


RETRY_PATIENCE_SECONDS = 120  # how long `cycle --until-idle` waits for a retry
PATIENCE_SECONDS = 20  # and for anything else that falls due by itself


def work_is_left(context: Context, *, since: datetime | None = None) -> bool:
    """Whether more passes would do something soon without anybody doing anything.

    Jobs, those that bring packages, too; retries; what falls due. `since`: when the last round began; runs whose data
    could not be had in it wait for something outside.
    """
    now = context.clock.now()
    retries_by, soon = (now + timedelta(seconds=s) for s in (RETRY_PATIENCE_SECONDS, PATIENCE_SECONDS))
    location = context.settings.processing_location
    from ccatwm.edges.opsdb.stores.leases import read_brakes
    from ccatwm.edges.opsdb.stores.runs import any_active_run
    from ccatwm.edges.opsdb.stores.transfers import list_open
    from ccatwm.edges.opsdb.stores.views import list_later_due

    here = (context.settings.hpc_backend, context.settings.cluster)  # nobody here looks after the jobs of another
    with context.database.read() as connection:
        submits = read_brakes(connection)[1] is None
        active = any_active_run(
            connection, location, now, soon=soon, retries_by=retries_by, submits=submits, looked_at=since
        )
        if active:
            return True
        if any((transfer.backend, transfer.cluster) == here for transfer in list_open(connection, location)):
            return True
        return any(due_at <= soon for due_at in list_later_due(connection, location, now))
