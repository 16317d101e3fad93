"""Fills the managed observation tables by their natural keys. Touches: the observation tables of a managed ops-db.

A row that is as it should be keeps its change time: what did not change makes nobody look again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.stores._chunks import chunks

Key = tuple[Any, ...]
TABLES: Mapping[str, sa.Table] = {
    "site": t.site,
    "data_location": t.data_location,
    "observatory": t.observatory,
    "telescope": t.telescope,
    "instrument": t.instrument,
    "instrument_module": t.instrument_module,
    "observing_program": t.observing_program,
    "source": t.source,
    "obs_unit": t.obs_unit,
    "executed_obs_unit": t.executed_obs_unit,
    "raw_data_package": t.raw_data_package,
    "raw_data_package_metadata": t.raw_data_package_metadata,
    "raw_data_file": t.raw_data_file,
    "physical_copy": t.physical_copy,
}


@dataclass
class Upserted:
    """How many rows were new, changed, or as they should be, and the ids by natural key."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    ids: dict[Key, int] = field(default_factory=dict)


def find_ids(
    connection: sa.Connection, kind: str, keys: tuple[str, ...], wanted: Sequence[Key]
) -> dict[Key, int]:
    """Ids by natural key; the first key column is looked up, the others compared."""
    return {key: row["id"] for key, row in _existing(connection, TABLES[kind], keys, wanted, ()).items()}


def upsert(
    connection: sa.Connection,
    kind: str,
    keys: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    now: datetime,
    defaults: Mapping[str, Any] | None = None,
) -> Upserted:
    """Insert rows or change those of the same natural key; only the columns that a row names are compared and set.

    `defaults` fill what a new row does not name.
    """
    table = TABLES[kind]
    merged: dict[Key, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(tuple(row[k] for k in keys), {}).update(row)
    columns = tuple(sorted({c for row in merged.values() for c in row} - set(keys)))
    known = _existing(connection, table, keys, list(merged), columns)
    done = Upserted()
    new: list[dict[str, Any]] = []
    changed: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, row in merged.items():
        old = known.get(key)
        if old is None:
            new.append({**(defaults or {}), **row, "updated_at": now})
            continue
        done.ids[key] = old["id"]
        different = {c: v for c, v in row.items() if c not in keys and old[c] != v}
        if different:
            changed.setdefault(tuple(sorted(different)), []).append({"row_id": old["id"], **different})
        else:
            done.unchanged += 1
    _insert(connection, table, new)
    for names, several in changed.items():
        values: dict[str, Any] = {name: sa.bindparam(name) for name in names} | {"updated_at": now}
        connection.execute(
            sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(values), several
        )
        done.changed += len(several)
    done.new = len(new)
    if new:
        done.ids |= find_ids(connection, kind, keys, [tuple(row[k] for k in keys) for row in new])
    return done


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same columns go in one statement."""
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(sorted(row)), []).append(row)
    for several in alike.values():
        connection.execute(sa.insert(table), several)


def _existing(
    connection: sa.Connection,
    table: sa.Table,
    keys: tuple[str, ...],
    wanted: Sequence[Key],
    columns: Sequence[str],
) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {}
    sought = set(wanted)
    firsts = sorted({key[0] for key in sought if key[0] is not None})
    selected = [table.c[c] for c in dict.fromkeys(("id", *keys, *columns))]
    for chunk in chunks(firsts):
        for row in connection.execute(sa.select(*selected).where(table.c[keys[0]].in_(chunk))).mappings():
            key = tuple(row[k] for k in keys)
            if key in sought:
                found[key] = dict(row)
    return found


def modules_by_name(connection: sa.Connection, names: Sequence[str]) -> dict[str, list[int]]:
    """Ids of instrument modules by their bare name, of all instruments."""
    found: dict[str, list[int]] = {}
    for chunk in chunks(sorted(set(names))):
        query = sa.select(t.instrument_module.c.id, t.instrument_module.c.name).where(
            t.instrument_module.c.name.in_(chunk)
        )
        for row in connection.execute(query):
            found.setdefault(row.name, []).append(row.id)
    return found


def module_instruments(connection: sa.Connection, names: Sequence[str]) -> dict[str, set[str]]:
    """Names of the instruments that have a module of each name."""
    found: dict[str, set[str]] = {}
    module, instrument = t.instrument_module, t.instrument
    query = sa.select(module.c.name, instrument.c.name.label("instrument")).join(
        instrument, instrument.c.id == module.c.instrument_id
    )
    for chunk in chunks(sorted(set(names))):
        for row in connection.execute(query.where(module.c.name.in_(chunk))):
            found.setdefault(row.name, set()).add(row.instrument)
    return found


def unit_times(connection: sa.Connection, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`start_time` and `end_time` of executed obs units by name."""
    unit = t.executed_obs_unit
    query = sa.select(unit.c.name, unit.c.start_time, unit.c.end_time)
    return {
        row.name: {"start_time": row.start_time, "end_time": row.end_time}
        for chunk in chunks(sorted(set(names)))
        for row in connection.execute(query.where(unit.c.name.in_(chunk)))
    }


def location_names(connection: sa.Connection) -> dict[str, int]:
    """Data locations: id by name."""
    rows = connection.execute(sa.select(t.data_location.c.name, t.data_location.c.id))
    return {row.name: row.id for row in rows}
