"""The published JSON Schemas take what is read, and refuse what is refused."""

from __future__ import annotations

import jsonschema
import pytest

from ccatwm.core.definitions import Definitions
from ccatwm.errors import UsageError
from ccatwm.upkeep.schemas import NAMES, json_schema

pytestmark = pytest.mark.quick


def objections(name, data):
    return [error.message for error in jsonschema.Draft202012Validator(json_schema(name)).iter_errors(data)]


def software(version="1.0", command="cal"):
    return {"software": [{"name": "cal", "versions": [{"version": version, "command": [command]}]}]}


@pytest.mark.parametrize("name", NAMES)
def test_a_published_schema_is_one(name):
    jsonschema.Draft202012Validator.check_schema(json_schema(name))


def test_an_unknown_schema_is_named_with_those_that_there_are():
    with pytest.raises(UsageError, match="'sauce'") as caught:
        json_schema("sauce")
    assert caught.value.next == "there are: pipeline, observations, manifest, opsdb-map"


@pytest.mark.parametrize("data", [software(version=1.1), software(version=7), software(command=5)])
def test_what_apply_takes_without_quotes_validates(data):
    Definitions.model_validate(data)
    assert objections("pipeline", data) == []


@pytest.mark.parametrize(
    "data",
    [
        software(command=True),
        software(version=None),
        {"software": [{"name": "Cal", "versions": [{"version": "1", "command": ["cal"]}]}]},
        {"software": [{"name": "cal", "versions": []}]},
        {"softwares": []},
        {"pipelines": [{"name": "otf", "data_grouping": "g", "processing_location": "local", "steps": []}]},
    ],
    ids=str,
)
def test_what_apply_refuses_is_refused_by_the_schema(data):
    with pytest.raises(ValueError):
        Definitions.model_validate(data)
    assert objections("pipeline", data)


def test_words_to_choose_from_stay_words():
    step = {"name": "a", "software": "cal", "group_by": [], "order": 1}
    place = {"name": "otf", "data_grouping": "g", "processing_location": "local", "steps": [step]}
    assert any("newest" in text for text in objections("pipeline", {"pipelines": [place]}))


@pytest.mark.parametrize(
    "data",
    [
        {"executed_obs_units": [{"name": 12, "obs_unit": 7}]},
        {"raw_data_packages": [{"name": "p", "weather": {"pwv_mm": 0.5}}]},
    ],
    ids=str,
)
def test_observations_that_are_read_validate(data):
    assert objections("observations", data) == []


@pytest.mark.parametrize(
    "data",
    [
        {"sources": [{"name": "a", "radeg": 1}]},
        {"sources": [{"ra_deg": 1}]},
        {"raw_data_packages": [{"name": "p", "state": "gone"}]},
        {"raw_data_packages": [{"name": "p", "copies": [{"location": "archive"}]}]},
        {"scans": []},
        {"observatorys": []},
        {"sources": [{"name": "a", "ra_deg": 4000}]},
        {"instrument_modules": [{"name": "LFA", "instrument": "CHAI", "pixels": 1.5}]},
    ],
    ids=str,
)
def test_observations_that_are_refused_do_not_validate(data):
    assert objections("observations", data)
