"""The filter engine answers alike on SQLite and PostgreSQL, and as docs/explanation/filter-engine.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ccatwm.core.rules import parse_rules
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.grouping import GroupedPackage, GroupingEngine
from ccatwm.edges.opsdb.observations import JOIN_GRAPH, Edge, Joins, ObservationTables
from ccatwm.edges.opsdb.rule_sql import RuleCompiler
from ccatwm.errors import DefinitionsError
from tests.opsdb.databases import BOTH, make_database
from tests.opsdb.observed import NOTED, NOW, add, add_package, fill

ALL = ["p1", "p2", "p3", "p4", "loose"]
Select = Callable[..., list[str]]


def engine_for(database: Database) -> GroupingEngine:
    return GroupingEngine(ObservationTables.managed(), database.dialect, "America/Santiago")


@pytest.fixture(scope="module", params=BOTH)
def observed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The small observation model, for reading."""
    made = make_database(request.param, request, tmp_path_factory.mktemp("observed"))
    with made.write() as connection:
        fill(connection)
    yield made
    made.dispose()


@pytest.fixture
def changing(database: Database) -> Database:
    """The small observation model, of this test's own."""
    with database.write() as connection:
        fill(connection)
    return database


def members(
    database: Database, rules: list[Any], group_by: list[Any] | None = None, **more: Any
) -> list[GroupedPackage]:
    with database.read() as connection:
        return engine_for(database).members(connection, rules, group_by or [], now=NOW, **more)


@pytest.fixture
def select(observed: Database) -> Select:
    """Names of the packages that rules select, in order of their ids."""

    def names(*rules: Any) -> list[str]:
        return [package.package_name for package in members(observed, list(rules))]

    return names


def rule(name: str, operator: str, value: Any = None, json_path: str | None = None) -> dict[str, Any]:
    table, column = name.split(".")
    written = {"table": table, "column": column, "operator": operator, "value": value, "json_path": json_path}
    return {key: part for key, part in written.items() if part is not None}


# --- joins and operators -----------------------------------------------------------------------


def test_no_rule_selects_every_package_in_any_state(select: Select) -> None:
    assert select() == ALL


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Source.name", "NGC253", ["p1", "p2", "p3"]),
        ("ObsUnit.line_id", "CO43", ["p1", "p2", "p3"]),
        ("ObservingProgram.short_name", "GEco", ["p1", "p2", "p3"]),
        ("ExecutedObsUnit.name", "scan 2", ["p4"]),
        ("InstrumentModule.name", "LFA", ["p1", "p3"]),
        ("Instrument.name", "Prime-Cam", ["p4"]),
        ("Telescope.name", "FYST", ["p1", "p2", "p3", "p4"]),
        ("Observatory.name", "CCAT", ["p1", "p2", "p3", "p4"]),
        ("RawDataPackage.name", "loose", ["loose"]),
        ("RawDataFile.name", "b.fits", ["p1"]),
        ("PhysicalCopy.status", "present", ["p1", "p2"]),
        ("DataLocation.name", "ramses", ["p1", "p3", "p4"]),
        ("Site.name", "Cologne", ["p1", "p2", "p3", "p4"]),
    ],
)
def test_every_table_is_reached(select: Select, name: str, value: str, expected: list[str]) -> None:
    assert select(rule(name, "eq", value)) == expected


def test_rules_of_a_list_are_anded(select: Select) -> None:
    assert select(rule("Source.name", "eq", "NGC253"), rule("InstrumentModule.name", "eq", "HFA")) == ["p2"]


def test_any_of_takes_what_one_rule_takes(select: Select) -> None:
    either = [rule("InstrumentModule.name", "eq", "HFA"), rule("Source.name", "eq", "Jupiter")]
    assert select({"any_of": either}) == ["p2", "p4"]


def test_not_is_the_exact_complement_where_values_are_absent(select: Select) -> None:
    assert select({"not": rule("ObsUnit.line_id", "eq", "CO43")}) == ["p4", "loose"]


def test_not_of_an_order_takes_absent_values(select: Select) -> None:
    assert select({"not": rule("Source.ra_deg", "gt", 5)}) == ["p4", "loose"]


def test_not_of_a_list_negates_all_of_it(select: Select) -> None:
    both = [rule("Source.name", "eq", "NGC253"), rule("InstrumentModule.name", "eq", "LFA")]
    assert select({"not": both}) == ["p2", "p4", "loose"]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("eq", "CO43", ["p1", "p2", "p3"]),
        ("neq", "CO43", ["p4", "loose"]),
        ("in", ["CO43", "CO10"], ["p1", "p2", "p3"]),
        ("not_in", ["CO43"], ["p4", "loose"]),
        ("gt", "CO", ["p1", "p2", "p3"]),
        ("lt", "a", ["p1", "p2", "p3"]),  # by code point, whatever the locale
        ("like", "CO%", ["p1", "p2", "p3"]),
        ("like", "co%", []),
        ("ilike", "co_3", ["p1", "p2", "p3"]),
        ("between", ["CO43", "CO44"], ["p1", "p2", "p3"]),
        ("is_null", None, ["p4", "loose"]),
        ("not_null", None, ["p1", "p2", "p3"]),
    ],
)
def test_operators_on_a_text_that_may_be_absent(
    select: Select, operator: str, value: Any, expected: list[str]
) -> None:
    assert select(rule("ObsUnit.line_id", operator, value)) == expected


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("gte", "2026-03-02T02:00:00Z", ["p1", "p2", "p3", "p4"]),
        ("gt", "2026-03-02T02:00:00Z", ["p3", "p4"]),
        ("lt", "2026-03-01T23:30:00-03:00", ["p1", "p2"]),
        ("between", ["2026-03-02", "2026-03-02T16:00:00"], ["p1", "p2", "p4"]),
        ("since", "18d", ["p3", "p4"]),
        ("since", "424h", ["p3"]),
        ("eq", "2026-03-02T03:00:00+01:00", ["p1", "p2"]),
        ("in", ["2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z"], ["p1", "p2", "p3"]),
    ],
)
def test_times_are_compared_as_moments(
    select: Select, operator: str, value: Any, expected: list[str]
) -> None:
    assert select(rule("ExecutedObsUnit.start_time", operator, value)) == expected


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [("eq", True, ["p1", "p2", "p3", "p4"]), ("neq", True, ["loose"]), ("in", [False], [])],
)
def test_truth_values_compare(select: Select, operator: str, value: Any, expected: list[str]) -> None:
    assert select(rule("Instrument.available", operator, value)) == expected


def test_a_negative_rule_on_many_rows_asks_that_none_matches(select: Select) -> None:
    assert select(rule("DataLocation.name", "neq", "ramses")) == ["p2", "loose"]


def test_rules_on_many_rows_never_multiply_packages(select: Select) -> None:
    assert select(rule("RawDataFile.name", "like", "%.fits"), rule("PhysicalCopy.path", "like", "raw/%")) == [
        "p1"
    ]


def test_is_null_on_many_rows_asks_that_no_value_is_there(select: Select) -> None:
    assert select(rule("RawDataFile.checksum", "is_null")) == ["p2", "p3", "p4", "loose"]


# --- LIKE --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a*c", {"a*c"}),
        ("a_c", {"abc", "a*c", "a?c", "a[c", "a_c", "a%c", "a\\c", "aéc"}),
        (r"a\_c", {"a_c"}),
        (r"a\%c", {"a%c"}),
        ("a\\\\c", {"a\\c"}),
        ("a[c", {"a[c"}),
        ("[ab]%", {"[ab]"}),
        ("a?c", {"a?c"}),
        ("ABC", {"ABC"}),
        ("%\\", {"x\\"}),
        ("%é%", {"aéc"}),
        ("É%", set()),
    ],
)
def test_like_has_two_wildcards_and_an_escape(database: Database, pattern: str, expected: set[str]) -> None:
    names = ["abc", "ABC", "a*c", "a?c", "a[c", "[ab]", "a_c", "a%c", "a\\c", "x\\", "aéc"]
    with database.write() as connection:
        for name in names:
            add_package(connection, name)
    found = members(database, [rule("RawDataPackage.name", "like", pattern)])
    assert {package.package_name for package in found} == expected


def test_ilike_folds_ascii_letters_only(database: Database) -> None:
    with database.write() as connection:
        for name in ("ORION é", "orion É"):
            add_package(connection, name)
    found = members(database, [rule("RawDataPackage.name", "ilike", "oRiOn É")])
    assert [package.package_name for package in found] == ["orion É"]


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "operator", "value", "expected"),
    [
        ("obs.freq", "gt", 400, ["p1", "p2"]),
        ("obs.freq", "eq", 461.04, ["p1"]),
        ("obs.freq", "eq", 809.0, ["p2"]),
        ("obs.freq", "eq", "809", []),
        ("obs.freq", "neq", 809, ["p1", "p3", "p4", "loose"]),
        ("obs.freq", "in", [809, "809", 461.04], ["p1", "p2"]),
        ("obs.freq", "between", [400, 500], ["p1"]),
        ("obs.freq", "is_null", None, ["p3", "p4", "loose"]),
        ("obs.freq", "not_null", None, ["p1", "p2"]),
        ("obs.mode", "eq", "OTF", ["p1"]),
        ("obs.mode", "ilike", "ot_", ["p1", "p3"]),
        ("obs.mode", "gt", 5, []),
        ("obs.mode", "not_in", ["OTF"], ["p2", "p3", "p4", "loose"]),
        ("good", "eq", True, ["p1"]),
        ("good", "eq", False, ["p2"]),
        ("good", "eq", "true", []),
        ("obs", "eq", "OTF", []),
        ("obs", "not_null", None, ["p1", "p2", "p3"]),
        ("obs.mode.deeper", "is_null", None, ALL),
    ],
)
def test_json_values_compare_with_their_own_kind(
    select: Select, path: str, operator: str, value: Any, expected: list[str]
) -> None:
    assert select(rule("RawDataPackage.metadata", operator, value, path)) == expected
    assert select(rule("RawDataPackageMetadata.data", operator, value, path)) == expected


def test_numbers_in_json_keep_all_their_digits(database: Database) -> None:
    with database.write() as connection:
        for name, value in (("a", 0.1 + 0.2), ("b", 0.3), ("c", 2**53 + 1), ("d", 2**53), ("e", 10**400)):
            add_package(connection, name, data={"x": value})

    def found(value: Any, operator: str = "eq") -> list[str]:
        rules = [rule("RawDataPackage.metadata", operator, value, "x")]
        return [package.package_name for package in members(database, rules)]

    assert found([0.3, 2**53 + 1], "in") == ["b", "c"]
    assert [found(0.1 + 0.2), found(0.3), found(2**53 + 1), found(2**53)] == [["a"], ["b"], ["c"], ["d"]]


def test_keys_of_json_may_be_in_any_script(database: Database) -> None:
    with database.write() as connection:
        add_package(connection, "a", data={"Träger": {"a b": "ö"}})
    assert members(database, [rule("RawDataPackage.metadata", "eq", "ö", "Träger.a b")])


def test_a_number_as_key_never_indexes_a_list(database: Database) -> None:
    with database.write() as connection:
        add_package(connection, "a", data={"x": [1, 2]})
        add_package(connection, "b", data={"x": {"0": 1}})
    found = members(database, [rule("RawDataPackage.metadata", "eq", 1, "x.0")])
    assert [package.package_name for package in found] == ["b"]


def test_a_json_column_that_holds_null_counts_as_absent(database: Database) -> None:
    with database.write() as connection:
        for name, details in (("json null", sa.JSON.NULL), ("no value", sa.null()), ("value", {"a": 1})):
            unit = add(connection, t.executed_obs_unit, name=name, details=details)
            add_package(connection, name, executed_obs_unit_id=unit)
    found = members(database, [rule("ExecutedObsUnit.details", "is_null")])
    assert [package.package_name for package in found] == ["json null", "no value"]


# --- size --------------------------------------------------------------------------------------


def test_the_longest_lists_and_most_rules_are_answered(select: Select) -> None:
    many = [str(n) for n in range(9_999)]
    rules = [rule("Source.name", "in", [*many, "NGC253"])] * 20
    rules += [{"any_of": [rule("RawDataPackage.metadata", "eq", "OTF", "obs.mode")] * 400}]
    assert select(*rules) == ["p1"]


def test_a_long_list_of_times_is_answered(select: Select) -> None:
    start = datetime(2026, 3, 2, 2, tzinfo=UTC)
    times = [(start + timedelta(seconds=n)).isoformat() for n in range(1000)]
    assert select(rule("ExecutedObsUnit.start_time", "in", times)) == ["p1", "p2"]


def test_a_long_list_of_numbers_is_answered(select: Select) -> None:
    numbers = [*range(1000), 461.04]
    assert select(rule("RawDataPackage.metadata", "in", numbers, "obs.freq")) == ["p1", "p2"]


def test_the_deepest_nesting_is_answered(select: Select) -> None:
    nested: dict[str, Any] = rule("Source.name", "eq", "NGC253")
    for _ in range(10):
        nested = {"not": nested}
    assert select(nested) == ["p1", "p2", "p3"]


def test_a_value_that_is_sql_is_a_value(select: Select) -> None:
    assert select(rule("Source.name", "eq", "x'; DROP TABLE source; --")) == []
    assert select(rule("RawDataPackage.metadata", "neq", "'); --", "obs'||(1).mode")) == ALL


@pytest.mark.quick
def test_texts_are_ordered_by_code_point_on_postgresql_whatever_its_locale() -> None:
    """The PostgreSQL of the tests has no other locale, so only the statement can tell."""
    tables = ObservationTables.managed()
    tree, _ = parse_rules([rule("Source.name", "between", ["a", "b"]), rule("Source.name", "eq", "a")])
    assert tree is not None
    condition = RuleCompiler(tables, "postgresql").compile(tree, Joins(tables), NOW)
    statement = str(condition.compile(dialect=postgresql.dialect()))
    assert 'name COLLATE "C") >=' in statement and 'name COLLATE "C") <=' in statement
    assert "name = " in statement  # equality is left to the index


# --- pages and choices -------------------------------------------------------------------------


def test_pages_by_id_give_every_package_once(observed: Database) -> None:
    found: list[str] = []
    after: str | None = None
    while page := members(observed, [], after_id=after, limit=2):
        found += [package.package_name for package in page]
        after = page[-1].package_id
    assert found == ALL


def test_pages_of_what_few_satisfy_go_on_to_the_last_package(observed: Database) -> None:
    rules = [rule("RawDataPackage.name", "in", [ALL[0], ALL[-1]])]
    pages, after = [], None
    while page := members(observed, rules, after_id=after, limit=1):
        pages.append([package.package_name for package in page])
        after = page[-1].package_id
    assert pages == [[ALL[0]], [ALL[-1]]]


def test_of_given_packages_only_the_selected_ones_come_back(observed: Database) -> None:
    ids = [package.package_id for package in members(observed, [])]
    rules = [rule("Source.name", "eq", "NGC253")]
    found = members(
        observed, rules, package_ids=[*ids[2:], "999999", *(str(n) for n in range(10**6, 10**6 + 1200))]
    )
    assert [package.package_name for package in found] == ["p3"]


# --- sub-groups --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group_by", "keys"),
    [
        ([], ["all"] * 5),
        (["source", "instrument_module"], ["source=NGC253+module=LFA", "source=NGC253+module=HFA",
            "source=NGC253+module=LFA", "source=Jupiter+module=F280", "source=~null+module=~null"]),
        (["obs_date"], ["obs_date=2026-03-01"] * 2 + ["obs_date=2026-03-02"] * 2 + ["obs_date=~null"]),
        (["obs_unit"], ["obs_unit=map~20NGC253"] * 3 + ["obs_unit=map~20Jupiter", "obs_unit=~null"]),
        (["instrument"], ["instrument=CHAI"] * 3 + ["instrument=Prime-Cam", "instrument=~null"]),
        (["observing_program"], ["observing_program=GEco"] * 3 + ["observing_program=~null"] * 2),
        (["raw_data_package"], [f"raw_data_package={name}" for name in ALL]),
        ([{"name": "freq", "table": "RawDataPackage", "column": "metadata", "json_path": "obs.freq"}],
            ["freq=461.04", "freq=809", "freq=~null", "freq=~null", "freq=~null"]),
        ([{"name": "good", "table": "RawDataPackage", "column": "metadata", "json_path": "good"}],
            ["good=true", "good=false", "good=~null", "good=~null", "good=~null"]),
        ([{"name": "began", "table": "ExecutedObsUnit", "column": "start_time"}],
            ["began=2026-03-02T02~3A00~3A00Z"] * 2 + ["began=2026-03-03T02~3A00~3A00Z",
            "began=2026-03-02T16~3A00~3A00Z", "began=~null"]),
    ],
)  # fmt: skip
def test_group_by_makes_keys(observed: Database, group_by: list[Any], keys: list[str]) -> None:
    assert [package.key for package in members(observed, [], group_by)] == keys


def test_a_scan_is_known_by_its_id(observed: Database) -> None:
    first = members(observed, [], ["executed_obs_unit"])[0]
    assert first.key == f"executed_obs_unit={first.executed_obs_unit_id}"
    assert first.dims == {"executed_obs_unit": first.executed_obs_unit_id}


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("value", "key"),
    [(1.0, "x=1"), (-0.0, "x=0"), (1e20, "x=100000000000000000000"), (1e-7, "x=0.0000001"), (0.1 + 0.2, None),
     ({"b": [1, "y"], "a": None}, None), ([], "x=~5B~5D"), ("", "x="), ("null", "x=null")],
)  # fmt: skip
def test_json_values_make_the_same_key_on_both_databases(
    both_databases: tuple[Database, Database], value: Any, key: str | None
) -> None:
    dimension = {"name": "x", "table": "RawDataPackage", "column": "metadata", "json_path": "x"}
    keys = []
    for database in both_databases:
        with database.write() as connection:
            add_package(connection, "a", data={"x": value})
        keys.append(members(database, [], [dimension])[0].key)
    assert keys[0] == keys[1] == (key or keys[0])


def test_a_package_has_ended_when_its_scan_has_an_end_or_a_final_status_or_is_none(
    observed: Database,
) -> None:
    assert [package.ended for package in members(observed, [])] == [True, True, False, True, True]


# --- checking ----------------------------------------------------------------------------------


def wrong(*rules: Any, group_by: Any = (), tables: ObservationTables | None = None) -> str:
    """All problems as one text; what is checked does not depend on the database."""
    engine = GroupingEngine(tables or ObservationTables.managed(), "sqlite", "America/Santiago")
    return "\n".join(map(str, engine.check(list(rules), list(group_by), "my.yaml:3")))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (rule("Sauce.name", "eq", "x"), "unknown table 'Sauce'; did you mean Source"),
        (rule("Source.nome", "eq", "x"), "table Source has no column 'nome'; did you mean name"),
        (rule("StagingJob.status", "eq", "x"), "table StagingJob cannot be reached from RawDataPackage"),
        (rule("Source.ra_deg", "eq", "x"), "Source.ra_deg eq 'x'; the column is a number"),
        (rule("Source.ra_deg", "eq", True), "Source.ra_deg eq True; the column is a number"),
        (
            rule("Instrument.available", "gt", True),
            "operator gt with value True; it takes a text or a number",
        ),
        (rule("Source.name", "in", ["a", 5]), "Source.name in 5; the column is a text"),
        (rule("Source.ra_deg", "like", "1%"), "Source.ra_deg like '1%'; the column is a number"),
        (rule("Source.name", "since", "3d"), "Source.name since '3d'; the column is a text"),
        (rule("Instrument.available", "eq", 1), "Instrument.available eq 1; the column is true or false"),
        (rule("ExecutedObsUnit.start_time", "gt", "30d"), "'30d'; the column is a time: write 2026-03-01"),
        (rule("ExecutedObsUnit.start_time", "gt", "0001-01-01T00:00:00Z"), "the column is a time"),
        (rule("Source.name", "eq", "x", "a.b"), "json_path on Source.name, which is no JSON column"),
        (rule("RawDataPackage.metadata", "eq", "x"), "the column is JSON; say which part by json_path"),
        (rule("RawDataPackage.metadata", "since", "3d", "a"), "since is for times"),
        (rule("RawDataPackage.metadata", "between", [1, "b"], "a"), "both ends of between are of one kind"),
    ],
)
def test_a_rule_that_cannot_be_answered_is_refused(bad: dict[str, Any], said: str) -> None:
    text = wrong(bad)
    assert said in text
    assert "my.yaml:3[0]" in text


@pytest.mark.quick
def test_all_mistakes_are_told_at_once() -> None:
    text = wrong(
        rule("Sauce.name", "eq", "x"), {"any_of": [rule("Source.nome", "eg", 1)]}, group_by=["sauce"]
    )
    assert "Sauce" in text and "unknown operator 'eg'" in text and "unknown dimension 'sauce'" in text


@pytest.mark.quick
@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"name": "x", "table": "PhysicalCopy", "column": "path"}, "a package may have several PhysicalCopy"),
        ({"name": "x", "table": "DataLocation", "column": "name"}, "a package may have several DataLocation"),
        ({"name": "x", "table": "RawDataPackage", "column": "metadata"}, "say which part by json_path"),
        ({"name": "x", "table": "Source", "column": "name", "json_path": "a"}, "no JSON column"),
        ({"name": "x", "table": "Source", "column": "nane"}, "did you mean name"),
    ],
)
def test_a_dimension_that_a_package_has_not_once_is_refused(dimension: dict[str, Any], said: str) -> None:
    assert said in wrong(group_by=[dimension])


@pytest.mark.quick
def test_two_shortest_ways_to_a_table_are_refused_and_both_named() -> None:
    edge = Edge("InstrumentModule", "id", "ObsUnit", "id")
    text = wrong(
        rule("ObsUnit.name", "eq", "x"),
        tables=replace(ObservationTables.managed(), graph=(*JOIN_GRAPH, edge)),
    )
    assert (
        "RawDataPackage > ExecutedObsUnit > ObsUnit and RawDataPackage > InstrumentModule > ObsUnit" in text
    )


def test_members_refuse_what_check_refuses(observed: Database) -> None:
    with pytest.raises(DefinitionsError, match="unknown table"):
        members(observed, [rule("Sauce.name", "eq", "x")])


# --- changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (t.source, {"Source": {"p1", "p2", "p3"}}),
        (t.observatory, {"Observatory": {"p1", "p2", "p3", "p4"}}),
        (t.data_location, {"DataLocation": {"p1", "p3", "p4"}}),
        (t.raw_data_file, {"RawDataFile": {"p1"}}),
        (t.raw_data_package, {"RawDataPackage": {"p1"}}),
        (t.raw_data_package_metadata, {"RawDataPackageMetadata": {"p1"}}),
    ],
)
def test_a_changed_row_leads_to_the_packages_it_can_affect(
    changing: Database, table: sa.Table, expected: dict[str, set[str]]
) -> None:
    with changing.write() as connection:
        first = connection.execute(sa.select(sa.func.min(table.c.id))).scalar_one()
        connection.execute(sa.update(table).where(table.c.id == first).values(updated_at=NOW))
    engine = engine_for(changing)
    names = {package.package_id: package.package_name for package in members(changing, [])}
    found: dict[str, set[str]] = {}
    with changing.read() as connection:
        for logical in engine.observed_tables():
            rows = engine.changed_rows(connection, logical, NOTED + timedelta(seconds=1), 100)
            if rows:
                assert rows == [(str(first), NOW)]
                queries = engine.select_packages(logical, [rows[0][0]])
                found[logical] = {names[i] for q in queries for i in connection.execute(q).scalars()}
    assert found == expected


def test_changed_rows_come_oldest_first_and_no_more_than_asked_for(changing: Database) -> None:
    with changing.write() as connection:
        late = add_package(connection, "late", updated_at=NOW)
    with changing.read() as connection:
        rows = engine_for(changing).changed_rows(connection, "RawDataPackage", NOTED - timedelta(days=1), 100)
        assert [row_id for row_id, _ in rows][-1] == str(late)
        assert len(engine_for(changing).changed_rows(connection, "RawDataPackage", NOTED, 2)) == 2


@pytest.mark.quick
def test_every_table_that_rules_may_name_is_observed() -> None:
    engine = GroupingEngine(ObservationTables.managed(), "sqlite", "UTC")
    assert set(engine.observed_tables()) == set(ObservationTables.managed().tables) - {"StagingJob"}


# --- facts -------------------------------------------------------------------------------------


def test_copies_are_readable_ones_at_active_locations(observed: Database) -> None:
    ids = {package.package_name: package.package_id for package in members(observed, [])}
    with observed.read() as connection:
        copies = engine_for(observed).copies(connection, list(ids.values()))
    found = {
        name: [(c.location, c.storage, c.root, c.priority) for c in copies.get(i, [])]
        for name, i in ids.items()
    }
    assert found == {
        "p1": [("ramses", "disk", "/scratch", 5), ("coscine", "s3", None, 0)],
        "p2": [("coscine", "s3", None, 0)],
        "p3": [],
        "p4": [("ramses", "disk", "/scratch", 5)],
        "loose": [],
    }


def test_the_file_list_of_a_package_has_sizes_and_checksums(observed: Database) -> None:
    package = members(observed, [rule("RawDataPackage.name", "eq", "p1")])[0].package_id
    with observed.read() as connection:
        assert engine_for(observed).file_lists(connection, [package])[package] == {
            "a.fits": (3, "md5:1"),
            "b.fits": (4, None),
        }


def test_facts_of_packages_are_found_by_id(observed: Database) -> None:
    grouped = members(observed, [rule("RawDataPackage.name", "eq", "p3")])[0]
    with observed.read() as connection:
        facts = engine_for(observed).package_facts(connection, [grouped.package_id, "999"])
    assert list(facts) == [grouped.package_id]
    assert (facts[grouped.package_id].state, facts[grouped.package_id].ended) == ("waiting", False)


def test_a_location_is_found_by_name_or_by_id(observed: Database) -> None:
    engine = engine_for(observed)
    with observed.read() as connection:
        by_name = engine.location(connection, "ramses")
        assert by_name is not None and by_name.base_path == "/scratch"
        assert engine.location(connection, by_name.id) == by_name
        assert [engine.location(connection, name) for name in ("nowhere", "9" * 30, "²")] == [None] * 3


# --- tables of somebody else -------------------------------------------------------------------


def test_renamed_columns_and_enum_values_are_spoken_of_as_ours(database: Database) -> None:
    tables = replace(
        ObservationTables.managed(),
        renamed={("Source", "name"): "frame"},
        values={("RawDataPackage", "state"): {"archived": ("ARCHIVED_OK",)}},
    )
    with database.write() as connection:
        source = add(connection, t.source, name="catalogue 5", kind="fixed", frame="NGC253")
        obs_unit = add(connection, t.obs_unit, name="u", source_id=source)
        unit = add(connection, t.executed_obs_unit, name="e", obs_unit_id=obs_unit)
        add_package(connection, "a", executed_obs_unit_id=unit, state="ARCHIVED_OK")
    rules = [rule("Source.name", "eq", "NGC253"), rule("RawDataPackage.state", "eq", "archived")]
    with database.read() as connection:
        engine = GroupingEngine(tables, database.dialect, "UTC")
        found = engine.members(connection, rules, ["source"], now=NOW)
    assert [(package.key, package.state) for package in found] == [("source=NGC253", "archived")]


UNIT_START = "ExecutedObsUnit.start_time"
NIGHT = ["2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("Source.ra_deg", [5, 4.9], None),
        ("Source.ra_deg", [0, -0.1], None),
        ("Source.name", ["b", "a"], None),
        ("Source.name", ["a", "Z"], None),
        ("Source.name", ["9", "10"], None),
        (UNIT_START, NIGHT, None),
        (UNIT_START, ["2026-03-01T00:00:00-03:00", "2026-03-01T02:59:59Z"], None),
        ("RawDataPackage.metadata", [500, 400], "obs.freq"),
        ("RawDataPackage.metadata", ["b", "a"], "obs.line"),
    ],
)
def test_a_between_whose_bounds_are_reversed_is_refused(name: str, value: list[Any], path: str | None) -> None:
    for rules in ([rule(name, "between", value, path)], [{"any_of": [{"not": rule(name, "between", value, path)}]}]):
        text = wrong(*rules)
        assert "matches nothing: the first bound is above the second" in text
        assert "write [from, to], the lower one first" in text
        assert ("texts are ordered by code point" in text) == (name != UNIT_START and isinstance(value[0], str))
        assert len(text.splitlines()) == 1
        assert wrong(rule(name, "between", value[::-1], path)) == ""


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("Source.ra_deg", [5, 5.0], None),
        ("Source.name", ["a", "a"], None),
        (UNIT_START, ["2026-03-01", "2026-03-01T00:00:00Z"], None),
        (UNIT_START, ["2026-03-02T01:00:00+05:00", "2026-03-01T21:00:00Z"], None),  # later as a text, earlier as a time
        ("RawDataPackage.metadata", [5, 5], "obs.freq"),
    ],
)
def test_a_between_with_equal_bounds_is_right(name: str, value: list[Any], path: str | None) -> None:
    assert wrong(rule(name, "between", value, path)) == ""


@pytest.mark.quick
def test_bounds_that_do_not_fit_their_column_are_not_told_as_reversed_too() -> None:
    assert len(wrong(rule("Source.ra_deg", "between", ["b", "a"])).splitlines()) == 1
    assert len(wrong(rule("RawDataPackage.metadata", "between", ["b", 1], "a")).splitlines()) == 1


def test_rules_stored_before_such_bounds_were_refused_still_match_nothing(select: Select) -> None:
    assert select(rule("ObsUnit.line_id", "between", ["D", "C"])) == []


@pytest.mark.quick
@pytest.mark.parametrize("operator", ["like", "ilike"])
def test_a_pattern_that_ends_in_a_lone_backslash_is_refused(operator: str) -> None:
    for pattern in ("\\", "NGC\\", "NGC\\\\\\", "%\\"):
        for bad in (rule("Source.name", operator, pattern), rule("RawDataPackage.metadata", operator, pattern, "obs.line")):
            text = wrong(bad, {"not": [bad]})
            assert text.count("ends in a backslash that escapes nothing") == len(text.splitlines()) == 2
            assert "write two for a backslash itself" in text
    for pattern in ("\\\\", "NGC\\\\", "NGC\\%", "\\_", "a\\b", ""):
        assert wrong(rule("Source.name", operator, pattern)) == ""
    assert wrong(rule("Source.name", "eq", "NGC\\")) == ""


@pytest.mark.quick
def test_a_rule_with_several_mistakes_is_told_all_of_them() -> None:
    engine = GroupingEngine(ObservationTables.managed(), "sqlite", "UTC")
    wrong = [{"table": "Source", "column": "nam", "operator": "eqq", "value": [1]}]
    told = " ".join(problem.what for problem in engine.check(wrong, []))
    assert "unknown operator 'eqq'" in told
    assert "no column 'nam'" in told
