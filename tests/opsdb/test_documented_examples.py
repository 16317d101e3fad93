"""Every example in the documentation is applied or ingested, and validates against its published schema."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables
from ccatwm.upkeep.apply import apply_definitions
from ccatwm.upkeep.ingest import ingest_files
from ccatwm.upkeep.schemas import json_schema

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"<!-- (pipeline|observations) -->\n```yaml\n(.*?)```", re.DOTALL)
EXAMPLES = [(page.name, n, *match) for page in PAGES for n, match in enumerate(BLOCK.findall(page.read_text()))]
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
