"""Requests to data transfer to bring packages. Touches: the ops-db: `staging_job` of the observation tables, which may be
somebody else's, or a table of ours where theirs has none that may be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.core.staging_requests import REQUESTED_BY, StagingRequest
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.grouping import as_keys
from ccatwm.edges.opsdb.observations import ObservationTables, key_text
from ccatwm.edges.opsdb.stores._chunks import chunks
from ccatwm.errors import MissingRightError

LOGICAL = "StagingJob"
_NEEDED = ("id", "raw_data_package_id", "destination_location_id", "status")


def open_requests(connection: sa.Connection, tables: ObservationTables, location_id: str, location: str) -> StagingRequests:
    """The requests for a data location: in the observation tables' own table where that may be written, else in ours."""
    theirs = tables.tables.get(LOGICAL)
    usable = isinstance(theirs, sa.Table) and all(tables.has(LOGICAL, name) for name in _NEEDED)
    if isinstance(theirs, sa.Table) and usable and _may_write(connection, theirs):
        return StagingRequests(tables, theirs, location_id)
    return StagingRequests(OWN, t.staging_request, location)


def _may_write(connection: sa.Connection, table: sa.Table) -> bool:
    """A table of ours may be written, or who lacks the right is told so; another's may or may not."""
    if table.metadata is t.observation or connection.dialect.name != "postgresql":
        return True
    name = connection.dialect.identifier_preparer.format_table(table)
    may = sa.select(sa.func.has_table_privilege(name, "INSERT") & sa.func.has_table_privilege(name, "UPDATE"))
    return bool(connection.execute(may).scalar_one())


class StagingRequests:
    """The requests of one destination, which is known to `table` by its id (in a table of ours by its name)."""

    def __init__(self, tables: ObservationTables, table: sa.Table, destination: str) -> None:
        self._tables = tables
        self._table = table
        self._destination = destination

    def newest(self, connection: sa.Connection, package_ids: Sequence[str]) -> dict[str, StagingRequest]:
        """Of each package the newest request for this destination, whoever made it; those that are active first."""
        found: dict[str, StagingRequest] = {}
        for ids in chunks(self._keys("raw_data_package_id", package_ids)):
            query = self._query().where(self._column("raw_data_package_id").in_(ids))
            for request in map(self._request, connection.execute(query)):
                known = found.get(request.package_id)
                if known is None or (request.active, _age(request)) >= (known.active, _age(known)):
                    found[request.package_id] = request
        return found

    def ours_active(self, connection: sa.Connection) -> list[StagingRequest]:
        """Requests of ours that data transfer still keeps packages for."""
        query = self._query()
        if self._has("active"):
            query = query.where(self._column("active").in_(self._stored("active", True)))
        if self._has("requested_by"):
            query = query.where(self._column("requested_by") == REQUESTED_BY)
        return [request for request in map(self._request, connection.execute(query)) if request.active]

    def ask(self, connection: sa.Connection, package_id: str, package_name: str, now: datetime) -> None:
        """Errors: MissingRightError where their table takes no row of ours."""
        values: dict[str, Any] = {
            "raw_data_package_id": self._keys("raw_data_package_id", [package_id])[0],
            "destination_location_id": self._keys("destination_location_id", [self._destination])[0],
            "status": self._stored("status", "pending")[0],
            "active": self._stored("active", True)[0],
            "requested_by": REQUESTED_BY,
            "created_at": now,
            "updated_at": now,
            "package_name": package_name,
        }
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(self._table).values(self._there(values)))
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            raise MissingRightError(
                f"{self._table.name} takes no request of ours: {str(error.orig).strip().splitlines()[0]}",
                next="leave StagingJob out of opsdb-map.yaml: a table of ours, staging_request, is used then",
            ) from error

    def close(self, connection: sa.Connection, requests: Iterable[StagingRequest], now: datetime) -> None:
        """They are needed no more: data transfer may remove what it brought for them."""
        self._end(connection, requests, now, {})

    def refuse(self, connection: sa.Connection, why: Mapping[str, str], now: datetime) -> None:
        """End those requests of ours by which packages were brought, and say `why` each (by id) was of no use.

        Where their table takes no such word or text, the request is closed without."""
        for request in self.newest(connection, list(why)).values():
            if not (request.active and request.ours and request.status == "completed"):
                continue  # asked for anew meanwhile, or by somebody else, or still on its way
            message = f"refused by ccatwm: {why[request.package_id]}"
            said = {"status": self._stored("status", "failed")[0], "message": message}
            try:
                with connection.begin_nested():
                    self._end(connection, [request], now, said)
            except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.InternalError):
                self._end(connection, [request], now, {})

    def _end(
        self, connection: sa.Connection, requests: Iterable[StagingRequest], now: datetime, said: Mapping[str, Any]
    ) -> None:
        values = self._there({"active": self._stored("active", False)[0], "updated_at": now, **said})
        for ids in chunks(self._keys("id", [request.id for request in requests])):
            connection.execute(sa.update(self._table).where(self._column("id").in_(ids)).values(values))

    # --- columns as they are called there -------------------------------------------------------------------------

    def _query(self) -> sa.Select[Any]:
        columns: dict[str, sa.ColumnElement[Any]] = {
            "id": key_text(self._column("id")), "package": key_text(self._column("raw_data_package_id")),
        }  # fmt: skip
        for name in ("status", "active", "created_at", "updated_at", "message", "requested_by"):
            columns[name] = self._column(name) if self._has(name) else sa.null()
        here = self._keys("destination_location_id", [self._destination])
        query: sa.Select[Any] = sa.select(*(column.label(name) for name, column in columns.items()))
        return query.where(self._column("destination_location_id").in_(here))

    def _request(self, row: Any) -> StagingRequest:
        spoken = self._tables.spoken
        status = str(spoken(LOGICAL, "status", row.status))
        active = True if row.active is None else bool(spoken(LOGICAL, "active", row.active))
        return StagingRequest(
            row.id, row.package, status if (LOGICAL, "status") in self._tables.values else status.lower(), active,
            row.created_at, row.updated_at, row.message, row.requested_by in (None, REQUESTED_BY),
        )  # fmt: skip

    def _column(self, name: str) -> sa.ColumnElement[Any]:
        return self._tables.column(LOGICAL, name)

    def _has(self, name: str) -> bool:
        return self._tables.has(LOGICAL, name) and (LOGICAL, name) not in self._tables.fixed

    def _stored(self, name: str, value: Any) -> tuple[Any, ...]:
        return self._tables.stored(LOGICAL, name, value)

    def _keys(self, name: str, texts: Iterable[str]) -> list[Any]:
        return as_keys(self._column(name), texts)

    def _there(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self._tables.column_name(LOGICAL, name): value for name, value in values.items() if self._has(name)}


def _age(request: StagingRequest) -> tuple[float, int]:
    made = request.created_at.timestamp() if request.created_at is not None else 0.0
    return made, int(request.id) if request.id.isdecimal() else 0


OWN = ObservationTables({LOGICAL: t.staging_request})
