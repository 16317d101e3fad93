"""Random rules over random rows: SQLite, PostgreSQL and a plain evaluator of the documented meaning agree."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
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

TEXTS = st.sampled_from(
    ["CO43", "co43", "CO_3", "CO%", "C*", "[C]", "a\\b", "", "é", "É", "Z", "~", "true", "5"]
)
NUMBERS = st.sampled_from([0, -1, 5, 2**53, 2**53 + 1, 1.5, -0.25, 0.1 + 0.2, 0.3, 1e-7, 1e20])
INTEGERS = st.sampled_from([0, -1, 5, 2**31 - 1])
MOMENTS = st.sampled_from([NOW - timedelta(hours=h, microseconds=m) for h in (0, 1, 24, 720) for m in (0, 1)])
SCALARS = TEXTS | NUMBERS | st.booleans()
KEYS = ["freq", "mode", "deep", "0", "ö"]
JSONS = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
Row = Mapping[str, Any]
ROWS = st.fixed_dictionaries(
    {
        "ObsUnit.line_id": st.none() | TEXTS,
        "Source.ra_deg": st.none() | NUMBERS.map(float),
        "Source.naif_id": st.none() | INTEGERS,
        "Instrument.available": st.booleans() | st.none(),  # None: the package has no module
        "ExecutedObsUnit.start_time": st.none() | MOMENTS,
        "RawDataPackage.metadata": st.none() | st.dictionaries(st.sampled_from(KEYS), JSONS, max_size=4),
        "RawDataFile.checksum": st.lists(st.none() | TEXTS, max_size=3),
    }
)
MANY = "RawDataFile.checksum"
_numbers = itertools.count()


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

PATTERNS = st.text("CO43co%_\\*[]?éÉ", max_size=4) | TEXTS
TIMES = MOMENTS.map(lambda moment: moment.isoformat()) | st.sampled_from(
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
    _rules_on("RawDataPackage.metadata", TEXTS, *TEXTUAL),
    _rules_on("RawDataPackage.metadata", NUMBERS, *ORDERED),
    _rules_on("RawDataPackage.metadata", SCALARS, *ANY),
)
RULES = st.one_of(
    _rules_on("ObsUnit.line_id", TEXTS, *TEXTUAL),
    _rules_on("Source.ra_deg", NUMBERS, *ORDERED),
    _rules_on("Source.naif_id", NUMBERS, *ORDERED),
    _rules_on("Instrument.available", st.booleans(), *ANY),
    _rules_on("ExecutedObsUnit.start_time", TIMES, *ORDERED, "since"),
    _rules_on(MANY, TEXTS, *TEXTUAL),
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


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Database]]:
    """SQLite and PostgreSQL, kept for all examples: each example looks at packages of its own."""
    made = [make_database(kind, request, tmp_path_factory.mktemp(kind)) for kind in ("sqlite", "postgresql")]
    yield made
    for one in made:
        one.dispose()


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=5),
    trees=st.lists(st.lists(TREES, max_size=3), min_size=1, max_size=6),
)
def test_both_databases_answer_as_documented(pair: list[Database], rows: list[Row], trees: list[Any]) -> None:
    example = next(_numbers)
    names = {f"{example}-{n}": row for n, row in enumerate(rows)}
    expected = [[name for name, row in names.items() if all(matches(r, row) for r in tree)] for tree in trees]
    for database in pair:
        engine = GroupingEngine(ObservationTables.managed(), database.dialect, "America/Santiago")
        with database.write() as connection:
            for name, row in names.items():
                write_row(connection, name, row)
            query = sa.select(t.raw_data_package.c.id).where(t.raw_data_package.c.name.in_(list(names)))
            ids = [str(i) for i in connection.execute(query.order_by(t.raw_data_package.c.id)).scalars()]
            for tree, wanted in zip(trees, expected, strict=True):
                found = engine.members(connection, tree, [], now=NOW, package_ids=ids)
                assert sorted(p.package_name for p in found) == wanted, (database.dialect, tree)
