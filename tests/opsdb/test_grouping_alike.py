"""Random rules over random rows of all tables: SQLite, PostgreSQL and `tests/oracle/rules.py` agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables
from tests.opsdb.databases import make_database
from tests.opsdb.observed import NOW, add, add_package
from tests.oracle.rules import matches

pytestmark = pytest.mark.postgres

# --- rows --------------------------------------------------------------------------------------

TEXTS = ["CO43", "co43", "CO_3", "CO%", "C*", "[C]", "a\\b", "", "é", "É", "Z", "~", "true", "5"]
NUMBERS = [0, -1, 5, 2**53, 2**53 + 1, 1.5, -0.25, 0.1 + 0.2, 0.3, 1e-7, 1e20]
INTEGERS = [0, -1, 5, 2**31 - 1]
MOMENTS = [NOW - timedelta(hours=h, microseconds=m) for h in (0, 1, 24, 720) for m in (0, 1)]
KEYS = ["freq", "mode", "deep", "0", "ö"]
STATES = ["waiting", "transferring", "archived", "failed"]
MANY = "RawDataFile.checksum"
FLOATS = ("Source.ra_deg", "Telescope.altitude_m", "InstrumentModule.frequency_ghz")
ROWS = 60
Row = Mapping[str, Any]


def random_json(random: Random, depth: int = 0) -> Any:
    """A value of any kind, nested at most three levels."""
    if depth < 3 and random.random() < 0.35:
        keys = random.sample(KEYS, random.randrange(4))
        return {key: random_json(random, depth + 1) for key in keys}
    if depth < 3 and random.random() < 0.1:
        return [random_json(random, depth + 1)]
    return random.choice([None, True, False, *TEXTS, *NUMBERS])


def random_object(random: Random) -> Any:
    return {key: random_json(random) for key in random.sample(KEYS, random.randrange(1, 5))}


def random_place(random: Random) -> Row:
    """A data location with its site."""
    return {
        "DataLocation.priority": random.choice(INTEGERS),
        "DataLocation.active": random.random() < 0.5,
        "DataLocation.details": random.choice([None, random_object(random)]),
        "Site.name": random.choice([None, *TEXTS]),
    }


def random_row(random: Random, places: Mapping[str, Row]) -> Row:
    """Values of everything that rules look at; None where there is no value or no row."""
    available = random.choice([True, False, None])  # None: there is no module
    telescope = random.random() < 0.7 and available is not None
    row = {
        "ObsUnit.line_id": random.choice([None, *TEXTS]),
        "ObsUnit.details": random.choice([None, random_object(random)]),
        "ObservingProgram.short_name": random.choice([None, *TEXTS]),
        "Source.ra_deg": random.choice([None, *map(float, NUMBERS)]),
        "Source.naif_id": random.choice([None, *INTEGERS]),
        "Instrument.available": available,
        "InstrumentModule.pixels": random.choice([None, *INTEGERS]) if available is not None else None,
        "InstrumentModule.frequency_ghz": random.choice([None, *map(float, NUMBERS)]) if available is not None else None,
        "Telescope.altitude_m": random.choice([None, *map(float, NUMBERS)]) if telescope else None,
        "Observatory.name": random.choice([None, *TEXTS]) if telescope else None,
        "ExecutedObsUnit.start_time": random.choice([None, *MOMENTS]),
        "ExecutedObsUnit.details": random.choice([None, random_object(random)]),
        "RawDataPackage.state": random.choice(STATES),
        "RawDataPackage.size_bytes": random.choice([None, 0, 5, 2**53, 2**53 + 1]),
        "RawDataPackage.created_at": random.choice(MOMENTS),
        "RawDataPackage.metadata": random.choice([None, *[random_object(random)] * 5]),
        MANY: tuple(random.choice([None, *TEXTS]) for _ in range(random.randrange(4))),
        "DataLocation.name": tuple(random.sample(sorted(places), random.randrange(3))),
        "telescope": telescope,
    }
    row["PhysicalCopy.status"] = tuple(random.choice(["present", "staged", "corrupt"]) for _ in row["DataLocation.name"])
    row["RawDataPackageMetadata.data"] = row["RawDataPackage.metadata"]
    for name in next(iter(places.values())):
        row[name] = tuple(places[place][name] for place in row["DataLocation.name"])
    return row


class Writer:
    """Writes the rows into one database; rows with unique names are made once."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._named: dict[tuple[str, str], int] = {}

    def named(self, table: sa.Table, name: str | None, column: str = "name", **values: Any) -> int | None:
        if name is None:
            return None
        if (table.name, name) not in self._named:
            self._named[table.name, name] = add(self._connection, table, **{column: name}, **values)
        return self._named[table.name, name]

    def place(self, name: str, row: Row) -> None:
        values = {key.removeprefix("DataLocation."): value for key, value in row.items() if key != "Site.name"}
        values |= {"site_id": self.named(t.site, row["Site.name"]), "location_type": "buffer", "storage_type": "disk"}
        self.named(t.data_location, name, **values)

    def package(self, name: str, row: Row) -> None:
        """One package with everything that rules look at."""
        connection = self._connection
        source = add(connection, t.source, name=name, kind="fixed", ra_deg=row["Source.ra_deg"],
                     naif_id=row["Source.naif_id"])  # fmt: skip
        program = self.named(t.observing_program, row["ObservingProgram.short_name"], "short_name")
        unit = add(connection, t.obs_unit, name=name, source_id=source, line_id=row["ObsUnit.line_id"],
                   details=row["ObsUnit.details"], observing_program_id=program)  # fmt: skip
        scan = add(connection, t.executed_obs_unit, name=name, obs_unit_id=unit,
                   start_time=row["ExecutedObsUnit.start_time"], details=row["ExecutedObsUnit.details"])  # fmt: skip
        package = add_package(
            connection, name, executed_obs_unit_id=scan, instrument_module_id=self.module(name, row),
            data=row["RawDataPackage.metadata"],
            **{c: row[f"RawDataPackage.{c}"] for c in ("state", "size_bytes", "created_at")},
        )  # fmt: skip
        for n, checksum in enumerate(row[MANY]):
            add(connection, t.raw_data_file, raw_data_package_id=package, name=str(n), checksum=checksum)
        for place, status in zip(row["DataLocation.name"], row["PhysicalCopy.status"], strict=True):
            location = self.named(t.data_location, place)
            add(connection, t.physical_copy, raw_data_package_id=package, data_location_id=location, path=name,
                status=status)  # fmt: skip

    def module(self, name: str, row: Row) -> int | None:
        if row["Instrument.available"] is None:
            return None
        telescope = None
        if row["telescope"]:
            observatory = self.named(t.observatory, row["Observatory.name"])
            altitude = row["Telescope.altitude_m"]
            telescope = add(self._connection, t.telescope, name=name, observatory_id=observatory, altitude_m=altitude)
        instrument = add(self._connection, t.instrument, name=name, available=row["Instrument.available"],
                         telescope_id=telescope)  # fmt: skip
        return add(self._connection, t.instrument_module, name="m", instrument_id=instrument,
                   pixels=row["InstrumentModule.pixels"], frequency_ghz=row["InstrumentModule.frequency_ghz"])  # fmt: skip


# --- rules -------------------------------------------------------------------------------------

TEXT = st.sampled_from(TEXTS)
NUMBER = st.sampled_from(NUMBERS)
SHAPES = ["CO%", "co%", "C%3", "%o4_", "____", "%", "C%\\%", "CO\\_3", "%[%", "_*", "%\\\\%", "é", "%É"]
PATTERNS = st.sampled_from(SHAPES) | TEXT | st.text("CO43co%_\\*[]?éÉ", max_size=4)
TIMES = st.sampled_from(MOMENTS).map(lambda moment: moment.isoformat()) | st.sampled_from(
    ["2026-03-19", "2026-03-20T09:00:00-03:00"]
)
ORDERS = ["gt", "gte", "lt", "lte"]


def _rules_on(
    name: str, values: st.SearchStrategy[Any], *operators: str
) -> st.SearchStrategy[dict[str, Any]]:
    table, column = name.split(".")
    shapes: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(["eq", "neq", *ORDERS], values),
        **dict.fromkeys(["in", "not_in"], st.lists(values, min_size=1, max_size=3)),
        **dict.fromkeys(["like", "ilike"], PATTERNS),
        **dict.fromkeys(["is_null", "not_null"], st.none()),
        "between": st.lists(values, min_size=2, max_size=2),
        "since": st.sampled_from(["1h", "1d", "4w", "0s"]),
    }
    return st.sampled_from(operators).flatmap(
        lambda operator: shapes[operator].map(
            lambda value: {"table": table, "column": column, "operator": operator, "value": value}
        )
    )


ANY = ["eq", "neq", "in", "not_in", "is_null", "not_null"]
ORDERED = [*ANY, *ORDERS, "between"]
TEXTUAL = [*ORDERED, "like", "ilike"]
PATHS = st.sampled_from(["freq", "mode", "deep", "deep.freq", "deep.0", "0", "ö", "ö.mode"])
DOCUMENTS = [
    "RawDataPackage.metadata", "RawDataPackage.metadata", "RawDataPackageMetadata.data", "ObsUnit.details",
    "ExecutedObsUnit.details", "DataLocation.details",
]  # fmt: skip
JSON_RULES = st.sampled_from(DOCUMENTS).flatmap(
    lambda name: st.one_of(
        _rules_on(name, TEXT, *TEXTUAL),
        _rules_on(name, NUMBER, *ORDERED),
        _rules_on(name, TEXT | NUMBER | st.booleans(), *ANY),
    )
)
RULES = st.one_of(
    _rules_on("ObsUnit.line_id", TEXT, *TEXTUAL),
    _rules_on("Source.ra_deg", NUMBER, *ORDERED),
    _rules_on("Source.naif_id", NUMBER, *ORDERED),
    _rules_on("Instrument.available", st.booleans(), *ANY),
    _rules_on("ExecutedObsUnit.start_time", TIMES, *ORDERED, "since"),
    _rules_on(MANY, TEXT, *TEXTUAL),
    _rules_on("ObservingProgram.short_name", TEXT, *TEXTUAL),
    _rules_on("Observatory.name", TEXT, *TEXTUAL),
    _rules_on("Telescope.altitude_m", NUMBER, *ORDERED),
    _rules_on("InstrumentModule.pixels", NUMBER, *ORDERED),
    _rules_on("InstrumentModule.frequency_ghz", NUMBER, *ORDERED),
    _rules_on("RawDataPackage.state", st.sampled_from(STATES), *TEXTUAL),
    _rules_on("RawDataPackage.size_bytes", NUMBER, *ORDERED),
    _rules_on("RawDataPackage.created_at", TIMES, *ORDERED, "since"),
    _rules_on("PhysicalCopy.status", st.sampled_from(["present", "staged", "corrupt", "gone"]), *TEXTUAL),
    _rules_on("DataLocation.name", TEXT, *TEXTUAL),
    _rules_on("DataLocation.priority", NUMBER, *ORDERED),
    _rules_on("DataLocation.active", st.booleans(), *ANY),
    _rules_on("Site.name", TEXT, *TEXTUAL),
    st.builds(lambda rule, path: {**rule, "json_path": path}, JSON_RULES, PATHS),
)
TREES = st.recursive(
    RULES,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"any_of": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"all_of": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
)

# --- the test ----------------------------------------------------------------------------------

Filled = tuple[Mapping[str, Row], list[Database]]


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """The same random rows by package name, in SQLite and in PostgreSQL."""
    random = Random(20260320)
    places = {name: random_place(random) for name in TEXTS}
    rows = {f"p{n}": random_row(random, places) for n in range(ROWS)}
    made = [make_database(kind, request, tmp_path_factory.mktemp(kind)) for kind in ("sqlite", "postgresql")]
    for one in made:
        with one.write() as connection:
            writer = Writer(connection)
            for name, row in places.items():
                writer.place(name, row)
            for name, row in rows.items():
                writer.package(name, row)
    yield rows, made
    for one in made:
        one.dispose()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules=st.lists(TREES, min_size=1, max_size=3))
def test_both_databases_answer_as_documented(filled: Filled, rules: list[Any]) -> None:
    rows, databases = filled
    wanted = [name for name, row in rows.items() if all(matches(rule, row, NOW, FLOATS) for rule in rules)]
    for database in databases:
        engine = GroupingEngine(ObservationTables.managed(), database.dialect, "America/Santiago")
        with database.read() as connection:
            found = engine.members(connection, rules, [], now=NOW)
        assert [package.package_name for package in found] == wanted, database.dialect
