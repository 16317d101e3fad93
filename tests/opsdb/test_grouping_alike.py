"""Random rules over random rows: SQLite, PostgreSQL and a plain evaluator of the documented meaning agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccatwm.core.rules import parse_since
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables
from tests.opsdb.databases import make_database
from tests.opsdb.observed import NOW, add, add_package

pytestmark = pytest.mark.postgres

# --- rows --------------------------------------------------------------------------------------

TEXTS = ["CO43", "co43", "CO_3", "CO%", "C*", "[C]", "a\\b", "", "é", "É", "Z", "~", "true", "5"]
NUMBERS = [0, -1, 5, 2**53, 2**53 + 1, 1.5, -0.25, 0.1 + 0.2, 0.3, 1e-7, 1e20]
INTEGERS = [0, -1, 5, 2**31 - 1]
MOMENTS = [NOW - timedelta(hours=h, microseconds=m) for h in (0, 1, 24, 720) for m in (0, 1)]
KEYS = ["freq", "mode", "deep", "0", "ö"]
MANY = "RawDataFile.checksum"
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


def random_row(random: Random) -> Row:
    """Values of everything that rules look at; None where there is no value or no row."""
    metadata = {key: random_json(random) for key in random.sample(KEYS, random.randrange(1, 5))}
    return {
        "ObsUnit.line_id": random.choice([None, *TEXTS]),
        "Source.ra_deg": random.choice([None, *map(float, NUMBERS)]),
        "Source.naif_id": random.choice([None, *INTEGERS]),
        "Instrument.available": random.choice([True, False, None]),
        "ExecutedObsUnit.start_time": random.choice([None, *MOMENTS]),
        "RawDataPackage.metadata": random.choice([None, *[metadata] * 5]),
        MANY: [random.choice([None, *TEXTS]) for _ in range(random.randrange(4))],
    }


def write_row(connection: sa.Connection, name: str, row: Row) -> None:
    """One package with everything that rules look at."""
    source = add(
        connection,
        t.source,
        name=name,
        kind="fixed",
        ra_deg=row["Source.ra_deg"],
        naif_id=row["Source.naif_id"],
    )
    unit = add(connection, t.obs_unit, name=name, source_id=source, line_id=row["ObsUnit.line_id"])
    start = row["ExecutedObsUnit.start_time"]
    scan = add(connection, t.executed_obs_unit, name=name, obs_unit_id=unit, start_time=start)
    module = None
    if row["Instrument.available"] is not None:
        available = row["Instrument.available"]
        instrument = add(connection, t.instrument, name=name, available=available)
        module = add(connection, t.instrument_module, name="m", instrument_id=instrument)
    data = row["RawDataPackage.metadata"]
    package = add_package(connection, name, executed_obs_unit_id=scan, instrument_module_id=module, data=data)
    for n, checksum in enumerate(row[MANY]):
        add(connection, t.raw_data_file, raw_data_package_id=package, name=str(n), checksum=checksum)


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
JSON_RULES = st.one_of(
    _rules_on("RawDataPackage.metadata", TEXT, *TEXTUAL),
    _rules_on("RawDataPackage.metadata", NUMBER, *ORDERED),
    _rules_on("RawDataPackage.metadata", TEXT | NUMBER | st.booleans(), *ANY),
)
RULES = st.one_of(
    _rules_on("ObsUnit.line_id", TEXT, *TEXTUAL),
    _rules_on("Source.ra_deg", NUMBER, *ORDERED),
    _rules_on("Source.naif_id", NUMBER, *ORDERED),
    _rules_on("Instrument.available", st.booleans(), *ANY),
    _rules_on("ExecutedObsUnit.start_time", TIMES, *ORDERED, "since"),
    _rules_on(MANY, TEXT, *TEXTUAL),
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

# --- the documented meaning, in plain Python ---------------------------------------------------


def matches(rule: Mapping[str, Any], row: Row) -> bool:
    if "any_of" in rule:
        return any(matches(part, row) for part in rule["any_of"])
    if "all_of" in rule:
        return all(matches(part, row) for part in rule["all_of"])
    if "not" in rule:
        return not matches(rule["not"], row)
    negative = {"neq": "eq", "not_in": "in", "is_null": "not_null"}
    if rule["operator"] in negative:
        return not matches({**rule, "operator": negative[rule["operator"]]}, row)
    name = f"{rule['table']}.{rule['column']}"
    if name == "Source.ra_deg" and isinstance(
        rule["value"], int | list
    ):  # a column of floats: values are floats
        values = rule["value"]
        rule = {**rule, "value": [float(v) for v in values] if isinstance(values, list) else float(values)}
    found = row[name] if name == MANY else [row[name]]
    return any(compare(rule, look_up(value, rule.get("json_path"))) for value in found)


def look_up(value: Any, path: str | None) -> Any:
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def compare(rule: Mapping[str, Any], found: Any) -> bool:
    operator, value = rule["operator"], rule["value"]
    if found is None:
        return False
    if operator == "not_null":
        return True
    if operator == "since":
        delta = parse_since(value)
        assert delta is not None
        return bool(found >= NOW - delta)
    if operator in ("like", "ilike"):
        return isinstance(found, str) and like(value, found, operator == "ilike")
    if operator == "in":
        return any(ordered(found, one, lambda a, b: a == b) for one in value)
    if operator == "between":
        return ordered(found, value[0], lambda a, b: a >= b) and ordered(found, value[1], lambda a, b: a <= b)
    return ordered(found, value, COMPARISONS[operator])


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def ordered(found: Any, value: Any, answer: Callable[[Any, Any], bool]) -> bool:
    """Values of one kind compare, others do not."""
    if isinstance(found, datetime):
        moment = datetime.fromisoformat(value)
        return answer(found, moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    kinds = [bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in (found, value)]
    return kinds[0] is kinds[1] and not isinstance(found, list | dict) and answer(found, value)


def like(pattern: str, text: str, fold: bool) -> bool:
    """LIKE with the escape backslash; `fold` ignores the case of A-Z."""
    expression, escaped = "", False
    for character in pattern:
        if not escaped and character == "\\":
            escaped = True
            continue
        wild = {"%": ".*", "_": "."}.get(character) if not escaped else None
        expression += wild or re.escape(character)
        escaped = False
    expression += re.escape("\\") if escaped else ""
    flags = re.DOTALL | (re.IGNORECASE | re.ASCII if fold else 0)
    return re.fullmatch(expression, text, flags) is not None


# --- the test ----------------------------------------------------------------------------------

Filled = tuple[Mapping[str, Row], list[Database]]


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """The same random rows by package name, in SQLite and in PostgreSQL."""
    random = Random(20260320)
    rows = {f"p{n}": random_row(random) for n in range(ROWS)}
    made = [make_database(kind, request, tmp_path_factory.mktemp(kind)) for kind in ("sqlite", "postgresql")]
    for one in made:
        with one.write() as connection:
            for name, row in rows.items():
                write_row(connection, name, row)
    yield rows, made
    for one in made:
        one.dispose()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules=st.lists(TREES, min_size=1, max_size=3))
def test_both_databases_answer_as_documented(filled: Filled, rules: list[Any]) -> None:
    rows, databases = filled
    wanted = [name for name, row in rows.items() if all(matches(rule, row) for rule in rules)]
    for database in databases:
        engine = GroupingEngine(ObservationTables.managed(), database.dialect, "America/Santiago")
        with database.read() as connection:
            found = engine.members(connection, rules, [], now=NOW)
        assert [package.package_name for package in found] == wanted, database.dialect
