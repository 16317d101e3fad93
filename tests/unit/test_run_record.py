"""`run.json`: what it holds comes back as it was, and what is not whole is refused with everything that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pytest

from ccatwm.core.lineage import PRODUCT_COLUMNS, write_run_record
from ccatwm.core.model import EntryKind, ResolvedStep, SoftwareVersion, StepRole, TreeEntry
from ccatwm.core.recipe import Recipe
from ccatwm.core.run_record import (
    ATTEMPT,
    EVENT,
    INPUT,
    PRODUCT,
    RUN,
    SUBMISSION,
    Fields,
    RunRecord,
    build_record,
    imported_decision,
    list_absent,
    parse_record,
)
from ccatwm.edges.opsdb import tables as t

pytestmark = pytest.mark.quick
AT = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)
DIRECTORY = "otf/grid/all/run-7"
RECIPE = Recipe(*"abcde")
STEP = ResolvedStep("otf", "grid", StepRole.FINAL, (), SoftwareVersion("cal", "1.0.0", ("true",)), {"mode": "cold"})
PLAIN: dict[str, Any] = {"text": "t", "int": 1, "float": 0.5, "bool": False, "time": AT, "json": {"a": [1, None]}}


def some(fields: Fields, **values: Any) -> dict[str, Any]:
    """A value of its kind for each; what may be null is."""
    row = {name: None if kind.endswith("?") else PLAIN[kind] for name, kind in fields.items()}
    assert values.keys() <= row.keys()
    return row | values


def record(**run: Any) -> RunRecord:
    row = some(
        RUN, pipeline_name="otf", step_name="grid", sub_group_key="all", status="COMPLETED", recipe=RECIPE.digest,
        recipe_parts=RECIPE.to_json(), resolved_step=json.loads(json.dumps(STEP.to_json())), warnings=[],
        output_directory=f"{DIRECTORY}/attempt-1/output",
    )  # fmt: skip
    attempt = some(ATTEMPT, number=1, directory=f"{DIRECTORY}/attempt-1") | {"submission": some(SUBMISSION, job_id="12")}
    output = f"{DIRECTORY}/attempt-1/output"
    product = some(
        PRODUCT, id=20, type="SCIENCE", path="science/map.fits", full_path=f"{output}/science/map.fits", sha256="0a" * 32
    )
    given = some(INPUT, kind="product", role="member", details={"upstream_run_id": 3})
    return RunRecord(7, "uid-1", {"source": "x"}, row | run, (attempt,), (given,), (some(EVENT),), (product,))


def document_of(made: RunRecord) -> dict[str, Any]:
    rows = (tuple(row[name] for name in PRODUCT_COLUMNS) for row in made.products)
    return json.loads(write_run_record(build_record(made), rows))


def parse(made: RunRecord, directory: str = DIRECTORY, uid: str = "uid-1", **changes: Any):
    document = document_of(made) | changes
    return parse_record(json.dumps(document).encode(), directory, uid=uid)


def test_what_is_written_comes_back_as_it_was():
    assert parse(record()) == (record(), [])


def test_it_says_what_it_stands_on():
    assert record().upstream_runs() == {3}


@pytest.mark.parametrize(
    ("fields", "table", "told_elsewhere"),
    [
        (RUN, t.executed_reduction_step, {"id", "step_id", "sub_group_id", "inputs_removed_at", "replaced_at"}),
        (ATTEMPT, t.run_attempt, {"id", "run_id", "submission_id"}),
        (SUBMISSION, t.submission, {"id"}),
        (INPUT, t.run_input, {"id", "run_id", "product_id"}),
        (EVENT, t.run_event, {"id", "run_id"}),
        (PRODUCT, t.data_product, {"run_id", "status", "created_at"}),
    ],
)
def test_every_column_is_in_the_record(fields, table, told_elsewhere):
    """A column that is added later is one of a run that could not be brought back."""
    assert set(fields) == {column.name for column in table.columns} - told_elsewhere
    nullable = {name for name, kind in fields.items() if kind.endswith("?")}
    assert not {name for name in set(fields) - nullable if table.c[name].nullable} - {"output_directory", "ended_at"}


def test_everything_that_is_wrong_is_told_at_once():
    document = document_of(record())
    document["row"] |= {"decision": "one", "created_at": "yesterday"}
    del document["row"]["priority"]
    document["products"][0]["id"] = True
    made, problems = parse_record(json.dumps(document).encode(), DIRECTORY, uid="uid-1")
    assert made is None
    assert sorted(problems) == [
        "products[0].id is no int", "row.created_at is no time with a time zone: 'yesterday'", "row.decision is no int",
        "row.priority is not there",
    ]  # fmt: skip


def test_a_time_without_a_zone_is_none():
    document = document_of(record())
    document["row"]["created_at"] = "2026-03-01T12:00:00"
    assert parse_record(json.dumps(document).encode(), DIRECTORY, uid="uid-1")[0] is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"schema": "ccatwm.run/2"}', b"\xff" * 9])
def test_what_is_no_record_is_refused(content):
    assert parse_record(content, DIRECTORY, uid="uid-1")[0] is None


def test_a_record_of_another_directory_or_another_ops_db_is_refused():
    assert parse(record(), "otf/grid/all/run-8") == (None, [f"it is of {DIRECTORY}"])
    assert "another ops-db" in parse(record(), uid="uid-2")[1][0]


def test_a_run_that_is_not_completed_is_refused():
    assert parse(record(status="FAILED"))[1] == ["its run is FAILED, not completed"]


def test_a_path_that_leads_out_of_the_run_is_refused():
    made = record()
    away = replace(made, products=({**made.products[0], "full_path": f"{DIRECTORY}/../x"},))
    assert f"{DIRECTORY}/../x leads out of the run directory" in parse(away)[1]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sha256", "zz", "products[0].sha256 is no checksum"),
        ("type", "FOO", "products[0].type is none of SCIENCE"),
        ("id", 0, "products[0].id is no number of its own"),
        ("size_bytes", -1, "products[0] has less than no bytes or files"),
        ("size_bytes", 2**63, "products[0].size_bytes has a number beyond 64 bits"),
        ("path", "../../x", "products[0].full_path is not its path in the output"),
        ("path", "\ud800", "products[0].path has a text with a NUL character or half a character"),
        ("quality", {"a": ["b\0"]}, "products[0].quality has a text with a NUL character or half a character"),
        ("quality", {"a": float("nan")}, "products[0].quality has a number that is infinite or none"),
    ],
)
def test_products_that_nobody_can_have_recorded_are_refused(name, value, told):
    document = document_of(record())
    document["products"][0][name] = value
    made, problems = parse_record(json.dumps(document).encode(), DIRECTORY, uid="uid-1")
    assert made is None
    assert [problem for problem in problems if problem.startswith(told)]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("details", {}, "inputs[0].details.upstream_run_id is not the number of a run"),
        ("details", None, "inputs[0].details.upstream_run_id is not the number of a run"),
        ("details", {"upstream_run_id": "3"}, "inputs[0].details.upstream_run_id is not the number of a run"),
        ("details", {"upstream_run_id": True}, "inputs[0].details.upstream_run_id is not the number of a run"),
        ("details", [3], "inputs[0].details is no object"),
        ("kind", "raw", "inputs[0].kind is 'raw', none of package, product, reference"),
        ("role", "", "inputs[0].role is '', none of companion, member, outside"),
    ],
)
def test_inputs_that_nobody_can_have_frozen_are_refused(name, value, told):
    document = document_of(record())
    document["inputs"][0][name] = value
    assert parse_record(json.dumps(document).encode(), DIRECTORY, uid="uid-1") == (None, [told])


def test_an_attempt_has_a_number_that_attempts_have():
    (attempt,) = record().attempts
    made = replace(record(), attempts=(attempt, {**attempt, "number": -3, "directory": f"{DIRECTORY}/attempt--3"}))
    assert parse(made)[1] == ["attempts[1].number is below 1"]


def test_numbers_that_are_there_twice_are_refused():
    made = record()
    assert parse(replace(made, products=made.products * 2))[1] == ["products[1].id is no number of its own"]
    assert parse(replace(made, attempts=made.attempts * 2))[1] == ["two of its attempts have one number"]


def test_a_time_beyond_the_calendar_is_none():
    document = document_of(record())
    document["row"]["ended_at"] = "9999-12-31T23:59:59-10:00"
    _, problems = parse_record(json.dumps(document).encode(), DIRECTORY, uid="uid-1")
    assert problems == ["row.ended_at is no time with a time zone: '9999-12-31T23:59:59-10:00'"]


def test_a_recipe_that_is_not_that_of_its_parts_is_refused():
    assert parse(record(recipe="f" * 64))[1] == ["row.recipe is not the digest of row.recipe_parts"]


# --- which decision counts -------------------------------------------------------------------------------------------


def test_a_run_that_was_decided_on_after_the_last_known_decision_keeps_its_number():
    assert imported_decision(5, AT, 3, AT - timedelta(hours=1)) == 5
    assert imported_decision(5, AT, 0, None) == 5


def test_what_was_decided_since_the_restore_is_newer_whatever_its_number():
    assert imported_decision(5, AT, 4, AT + timedelta(hours=1)) == 4
    assert imported_decision(3, AT, 4, AT + timedelta(hours=1)) == 3


# --- files -----------------------------------------------------------------------------------------------------------

FILE = {"id": 1, "path": "a.fits", "is_directory": False, "size_bytes": 3, "file_count": 1, "sha256": "x"}


def entry(path: str, size: int = 3, kind: EntryKind = EntryKind.FILE) -> TreeEntry:
    return TreeEntry(PurePosixPath(path), kind, size)


@pytest.mark.parametrize(
    ("entries", "hashes", "why"),
    [
        ([entry("a.fits")], None, None),
        ([entry("a.fits", 4)], None, "has another size"),
        ([entry("b.fits")], None, "is gone"),
        (None, None, "is gone"),
        ([entry("a.fits")], {PurePosixPath("a.fits"): "x"}, None),
        ([entry("a.fits")], {PurePosixPath("a.fits"): "y"}, "has another checksum"),
    ],
)
def test_a_product_is_there_as_recorded_or_it_is_told_how_not(entries, hashes, why):
    assert list_absent([FILE], entries, hashes) == ({} if why is None else {1: why})


def test_a_folder_is_there_when_all_of_its_files_are():
    tree = FILE | {"path": "a.zarr", "is_directory": True, "size_bytes": 6, "file_count": 2}
    both = [entry("a.zarr", 0, EntryKind.DIRECTORY), entry("a.zarr/1"), entry("a.zarr/c/2")]
    assert list_absent([tree], both, None) == {}
    assert list_absent([tree], both[:2], None) == {1: "has another size"}
