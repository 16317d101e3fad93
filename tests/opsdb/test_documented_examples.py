"""Every example in the documentation is applied or ingested, and validates against its published schema."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from ccatwm.core import definitions
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables
from ccatwm.upkeep.apply import apply_definitions
from ccatwm.upkeep.ingest import ingest_files
from ccatwm.upkeep.schemas import json_schema

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"<!-- (pipeline|observations) -->\n```yaml\n(.*?)```", re.DOTALL)
EXAMPLES = [
    (page.name, n, *match) for page in PAGES for n, match in enumerate(BLOCK.findall(page.read_text()))
]
LINES = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"```json\n({\"kind\".*?)```", page.read_text(), re.DOTALL)
]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_there_are_examples():
    assert {kind for _, _, kind, _ in EXAMPLES} == {"pipeline", "observations"}


@pytest.mark.parametrize(("page", "number", "kind", "text"), EXAMPLES, ids=lambda value: str(value)[:30])
def test_a_documented_example_works(database, tmp_path, page, number, kind, text):
    path = tmp_path / "example.yaml"
    path.write_text(text)
    jsonschema.validate(yaml.safe_load(text), json_schema(kind))
    if kind == "observations":
        assert ingest_files(database, [path], now=NOW, actor="me").counts["raw_data_package"]["new"] >= 1
        return
    engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
    arguments = {"now": NOW, "actor": "me", "host": "h"}
    assert apply_definitions(database, engine, [path], **arguments).changes
    assert apply_definitions(database, engine, [path], **arguments).changes == []


@pytest.mark.parametrize(("page", "text"), LINES, ids=lambda value: str(value)[:30])
def test_documented_lines_of_json_are_ingested(database, tmp_path, page, text):
    path = tmp_path / "example.jsonl"
    path.write_text(text)
    assert ingest_files(database, [path], now=NOW, actor="me").counts["raw_data_package"]["new"] == 1


def test_there_are_documented_lines_of_json():
    assert [page for page, _ in LINES] == ["describe-observations.md"]


MODELS = [
    definitions.StepDefinition, definitions.PipelineDefinition, definitions.ResourcesDefinition,
    definitions.TriggerDefinition, definitions.CompanionDefinition, definitions.NearestDefinition,
    definitions.RetentionDefinition, definitions.RetryDefinition,
]  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_that_may_be_written_is_documented(model):
    page = (PROJECT / "docs/explanation/pipeline-hierarchy.md").read_text()
    written = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`\n]+)`", page))))
    assert set(model.model_fields) - {"name", "steps"} <= written
