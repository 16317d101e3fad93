"""Asks data transfer for packages, where the site's staging mode is `request`. Touches: the ops-db.

Our pin on what it brought is the open request: it is closed when no run needs the package any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from ccatwm.core.model import RunInput
from ccatwm.core.staging_requests import Next, next_about
from ccatwm.core.wording import some_text
from ccatwm.edges.opsdb.staging_requests import StagingRequests, open_requests
from ccatwm.edges.opsdb.stores import staged
from ccatwm.errors import CcatwmError, SettingsError
from ccatwm.passes._context import Context
from ccatwm.passes._frame import location

SHOWN = 3  # packages of a run by name


class RequestedError(CcatwmError):
    """Data transfer has been asked for what is missing: the run waits."""


class NotBroughtError(CcatwmError):
    """Data transfer has failed, or has not brought a package in time: this attempt fails."""


class Requests:
    """The requests of one pass for its processing location."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: StagingRequests | None = None

    def _place_id(self, connection: sa.Connection) -> str:
        """Errors: SettingsError for a location that the observation tables do not know: nobody can bring anything there."""
        name = location(self._context)
        places = {place.name: place.id for place in self._context.grouping.locations(connection)}
        if name not in places:
            raise SettingsError(
                f"the ops-db knows no data location {name}, to which packages could be brought",
                next='have it entered there, or set STAGING_MODE = "fetch"',
            )
        return places[name]

    def _requests(self, connection: sa.Connection) -> StagingRequests:
        if self._open is None:
            place = self._place_id(connection)
            self._open = open_requests(connection, self._context.grouping.tables, place, location(self._context))
        return self._open

    def ask(self, packages: Mapping[str, RunInput], refused: Collection[str]) -> None:
        """Have packages (by id) brought that are not here. Of those in `refused` a copy is here that was found bad: once it
        may have been brought anew there is nothing to wait for.

        Errors: RequestedError while that takes its time, NotBroughtError where it came to nothing: the next attempt asks
        again. MissingRightError.
        """
        now = self._context.clock.now()
        waiting: list[str] = []
        failed: list[str] = []
        with self._context.database.write() as connection:
            requests = self._requests(connection)
            known = requests.newest(connection, list(packages))
            for identity, package in packages.items():
                request = known.get(identity)
                patience = self._context.settings.staging_job_hours
                answer = next_about(request, now, patience, refused=identity in refused)
                if answer.next is Next.ASK:
                    requests.ask(connection, identity, package.name, now)
                    waiting.append(f"package {package.name}: asked of data transfer")
                elif answer.next is Next.WAIT:
                    waiting.append(f"package {package.name}: {answer.text}")
                elif answer.next is Next.GIVE_UP:
                    failed.append(f"package {package.name}: {answer.text}")
                    requests.close(connection, [request] if request is not None else [], now)
        if failed:
            raise NotBroughtError(some_text(failed, SHOWN, "; "))
        if waiting:
            raise RequestedError(some_text(waiting, SHOWN, "; "))

    def refuse(self, connection: sa.Connection, why: Mapping[str, str]) -> None:
        """What was brought is of no use, by package `why`: its request has ended, and the next attempt asks anew."""
        self._requests(connection).refuse(connection, why, self._context.clock.now())

    def close_unneeded(self) -> int:
        """Let data transfer remove what no run of this location needs any more; how many packages."""
        now = self._context.clock.now()
        with self._context.database.read() as connection:
            requests = self._requests(connection)
            active = requests.ours_active(connection)
            if not active:
                return 0
            linked, wanted = staged.list_pins(connection, location(self._context))
        needed = {package_id for package_id, _ in (*linked, *wanted)}
        unneeded = [request for request in active if request.package_id not in needed]
        if unneeded:
            with self._context.database.write() as connection:
                requests.close(connection, unneeded, now)
        return len(unneeded)
