"""A small observation model: two instruments, two sources, five packages, in the managed tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t

NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)
NOTED = datetime(2026, 3, 10, tzinfo=UTC)


def add(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    """One row; its id."""
    values.setdefault("updated_at", NOTED)
    row_id = connection.execute(sa.insert(table).values(**values)).inserted_primary_key
    assert row_id is not None
    return int(row_id[0])


def add_package(connection: sa.Connection, name: str, *, data: object = None, **values: Any) -> int:
    """A raw data package, with metadata where `data` is given."""
    values = {
        "state": "archived",
        "created_at": NOTED,
        "checksum": f"sha256:{name}",
        "size_bytes": 7,
    } | values
    package = add(connection, t.raw_data_package, name=name, **values)
    if data is not None:
        add(connection, t.raw_data_package_metadata, raw_data_package_id=package, data=data)
    return package


def fill(connection: sa.Connection) -> None:
    """Packages p1 to p4 of three scans, and `loose`, which belongs to none."""
    site = add(connection, t.site, name="Cologne")
    places = {
        name: add(connection, t.data_location, name=name, site_id=site, location_type="buffer", **values)
        for name, values in {
            "ramses": {"storage_type": "disk", "base_path": "/scratch", "priority": 5},
            "coscine": {"storage_type": "s3"},
            "attic": {"storage_type": "disk", "base_path": "/attic", "active": False},
        }.items()
    }
    fyst = add(
        connection, t.telescope, name="FYST", observatory_id=add(connection, t.observatory, name="CCAT")
    )
    modules = {}
    for instrument, module in (("CHAI", "LFA"), ("CHAI", "HFA"), ("Prime-Cam", "F280")):
        known = connection.execute(
            sa.select(t.instrument.c.id).where(t.instrument.c.name == instrument)
        ).scalar_one_or_none()
        instrument_id = known or add(connection, t.instrument, name=instrument, telescope_id=fyst)
        modules[module] = add(connection, t.instrument_module, name=module, instrument_id=instrument_id)
    program = add(connection, t.observing_program, short_name="GEco", name="Galactic Ecology")
    units = {}
    for name, line, program_id in (("NGC253", "CO43", program), ("Jupiter", None, None)):
        source = add(connection, t.source, name=name, kind="fixed", ra_deg=11.888 if line else None)
        units[name] = add(
            connection,
            t.obs_unit,
            name=f"map {name}",
            source_id=source,
            line_id=line,
            observing_program_id=program_id,
        )
    night = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # 23:00 on 1 March in Chile
    scans = [
        add(connection, t.executed_obs_unit, name=f"scan {n}", obs_unit_id=units[source], start_time=start,
            end_time=start + timedelta(hours=1) if ended else None, status=status)
        for n, (source, start, ended, status) in enumerate((
            ("NGC253", night, True, None),
            ("NGC253", night + timedelta(days=1), False, "running"),
            ("Jupiter", night + timedelta(hours=14), False, "COMPLETED"),
        ))
    ]  # fmt: skip
    packages = [
        add_package(connection, name, executed_obs_unit_id=scan, instrument_module_id=modules[module], **rest)
        for name, scan, module, rest in (
            ("p1", scans[0], "LFA", {"data": {"obs": {"freq": 461.04, "mode": "OTF"}, "good": True}}),
            ("p2", scans[0], "HFA", {"data": {"obs": {"freq": 809}, "good": False}}),
            ("p3", scans[1], "LFA", {"data": {"obs": {"freq": None, "mode": "otf"}}, "state": "waiting"}),
            ("p4", scans[2], "F280", {}),
        )
    ]
    packages.append(add_package(connection, "loose"))
    for package, place, status in (
        (0, "ramses", "present"),
        (0, "coscine", "present"),
        (1, "coscine", "present"),
        (1, "attic", "present"),
        (2, "ramses", "corrupt"),
        (3, "ramses", "staged"),
    ):
        owner = {"raw_data_package_id": packages[package], "data_location_id": places[place]}
        add(connection, t.physical_copy, **owner, path=f"raw/p{package + 1}.tar", status=status)
    for name, more in (("a", {"size_bytes": 3, "checksum": "md5:1"}), ("b", {"size_bytes": 4}), ("c", {})):
        add(connection, t.raw_data_file, raw_data_package_id=packages[0], name=f"{name}.fits", **more)
