"""Errors people see: what, where, and what to do next. Pure.

The class says who acts: a person (settings, definitions, usage) or the next pass (the world did not answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """One mistake of many: `where` (file:line, or key), `what` is wrong, `next` what is allowed or to do.

    `about`: the one key of the mapping at `where` whose value is wrong, if it is one.
    """

    where: str
    what: str
    next: str = ""
    about: str = field(default="", compare=False)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.next}" if self.next else text


class CcatwmError(Exception):
    """An expected error: printed in a line or a few, never as a traceback. `exit_code` as in the docs."""

    exit_code = 1

    def __init__(
        self, message: str, *, where: str = "", next: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.next = next
        self.problems = tuple(problems)

    @property
    def with_next(self) -> str:
        """In a line, where it becomes the reason of something."""
        return f"{self.message}; {self.next}" if self.next else self.message

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.message}" if self.where else self.message]
        lines += [f"  {problem}" for problem in self.problems]
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)


class UsageError(CcatwmError):
    """The command line asks for something that is not there. A person acts."""

    exit_code = 2


class SettingsError(CcatwmError):
    """Settings are wrong or no site was found. A person acts."""

    exit_code = 3


class MissingRightError(SettingsError):
    """The account or role may not do what was asked. A person gives the right, or acts as another."""


class LocationSettingsError(SettingsError):
    """What the settings say of a data location cannot be: its root, its key file, its endpoint. A person mends it; other
    locations are as good as before."""


class OpsDbUnusableError(SettingsError):
    """No waiting makes it an ops-db: there is no such database or role, the password is wrong, the file is damaged."""


class BaseDirError(SettingsError):
    """The base directory is not prepared, or belongs to another ops-db: nothing is done there. A person acts."""


class ObservationTablesError(SettingsError):
    """The observation tables of others are not as the map says, or the map is wrong in itself."""


class DefectError(CcatwmError):
    """Something failed on the processing host that is not expected to: this program is wrong there, no run is."""


class DefinitionsError(CcatwmError):
    """Pipelines or observations as written are wrong. A person acts."""

    exit_code = 3


class SchemaVersionError(CcatwmError):
    """The ops-db's schema is not the one this release knows. Passes exit 4, people's commands 3."""

    exit_code = 3


class WorldError(CcatwmError):
    """Something outside did not answer (ops-db, SSH, batch system). The next pass tries again."""

    exit_code = 4


class OpsDbUnavailableError(WorldError):
    """The ops-db went away, or refused to answer."""


class SchedulerUnavailableError(WorldError):
    """The batch system did not answer: nothing may be concluded about any job."""


class CallBudgetError(SchedulerUnavailableError):
    """The batch system was not asked: this host has used up its calls of this minute. It passes by itself."""


class TransportError(WorldError):
    """The processing host was not reached, or the command could not begin there: nothing has happened."""


class HostKeyError(TransportError):
    """The host key is unknown, or another than it was. A person compares it and says that it is right."""


class HostKeyChangedError(HostKeyError):
    """The host key is another than it was: told by itself, also where an unknown one was told before."""


class LoginError(TransportError):
    """The account was not let in, or there is nothing to show at the door: a person acts, no pass tries at once."""


class AgentStartError(TransportError):
    """The account is let in, but our program cannot run there: a person says by which Python, or lifts what forbids it."""


class ConnectionLostError(WorldError):
    """The connection to the processing host broke in the middle: what was asked may have been done, or not."""


class FilesUnavailableError(WorldError):
    """The file system or the connection to it did not answer."""


class NoSpaceError(CcatwmError):
    """The disk (bytes or inodes) or a quota is full. Work waits, no attempt is charged."""


class NotPermittedError(CcatwmError):
    """A file or folder below the base directory that this account may not read, or not change. A person gives the right;
    work waits, no attempt is charged."""


class OtherFileSystemError(CcatwmError):
    """A rename between two file systems, or between two projects of one that has quotas of them."""


class IncompleteTreeError(CcatwmError):
    """A folder that was to be linked has lost files, or is gone: a purge, or an eviction that was faster."""


class CorruptCopyError(CcatwmError):
    """A copy of a raw data package does not have the size, checksum or form it should have."""


class StoppedError(CcatwmError):
    """Whoever brings a package was told to end: what is under way is broken off."""


class NoGoodCopyError(CcatwmError):
    """A package cannot be had anywhere."""


class MissingCopyError(CcatwmError):
    """A copy of a raw data package is not where the ops-db says."""


class NotReadableHereError(CcatwmError):
    """A copy of a kind that is never read here (tape): it is no worse for that, and another copy is tried."""


class UncheckableError(NotReadableHereError):
    """The checksum that is listed is of a kind that is not known here: nothing can be said of any copy. A person acts."""


class CopyUnavailableError(CcatwmError):
    """The place of a copy cannot be asked (an object store that is away, settings of it that are wrong): another copy is
    tried, else the run waits."""


class ConflictError(CcatwmError):
    """Somebody else changed the row first: a compare-and-swap found another value."""


# What goes wrong while one run is worked on and is no fault of this run: the pass ends, the run stays as it is.
NO_FAULT_OF_A_RUN = (WorldError, BaseDirError, DefectError)
