"""What a pass is given: settings, clock and ports. Touches: nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.interfaces import (
    NO_PROGRESS,
    Clock,
    Effects,
    HostFiles,
    Progress,
    RemoteCalls,
    Scheduler,
    Storage,
    WorkFiles,
)
from ccatwm.settings.schema import Settings


@dataclass
class Context:
    """Built by `wiring`; the ports a pass does not use are never made."""

    settings: Settings
    clock: Clock
    effects: Effects
    database: Database
    grouping: GroupingEngine
    make_workfiles: Callable[[], WorkFiles]
    make_scheduler: Callable[[], Scheduler]
    make_storages: Callable[[], Mapping[str, Storage]]
    make_host_files: Callable[[], HostFiles]
    read_uid: Callable[[], str]
    actor: str = "ccatwm"
    connection: RemoteCalls | None = (
        None  # to the processing host, shared by all ports; opened when one needs it
    )
    progress: Progress = NO_PROGRESS  # for a person at a terminal

    @cached_property
    def workfiles(self) -> WorkFiles:
        return self.make_workfiles()

    @cached_property
    def scheduler(self) -> Scheduler:
        return self.make_scheduler()

    @property
    def scheduler_calls(self) -> int:
        """Commands given to the batch system so far: none if it was never needed."""
        return self.scheduler.calls if "scheduler" in self.__dict__ else 0

    @property
    def connections(self) -> int:
        """Connections to the processing host so far: none if it was never needed, or is this host."""
        return 0 if self.connection is None else self.connection.opened

    @cached_property
    def storages(self) -> Mapping[str, Storage]:
        return self.make_storages()

    @cached_property
    def host_files(self) -> HostFiles:
        return self.make_host_files()

    def close(self) -> None:
        """Close the connection to the processing host; a port that is used again opens it again."""
        if self.connection is not None:
            self.connection.close()

    @cached_property
    def ops_db_uid(self) -> str:
        return self.read_uid()
