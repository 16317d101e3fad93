"""The page of the commands, docs/reference/commands.md, leaves no command and no JSON document out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.test_examples import COMMANDS

pytestmark = pytest.mark.quick

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
ELSEWHERE = {"ccatwm.manifest/1", "ccatwm.run/1"}  # files, not answers: docs/reference/manifest.md, job-records.md


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_page(command: str) -> None:
    assert f"ccatwm {command}" in PAGE or f"`{command}`" in PAGE  # the passes are named together


def test_every_json_document_is_on_the_page() -> None:
    sources = (file.read_text(encoding="utf-8") for file in (TOP / "ccatwm").rglob("*.py"))
    schemas = {schema for text in sources for schema in re.findall(r'"(ccatwm\.[a-z-]+/1)"', text)}
    assert len(schemas) > 30
    assert {schema for schema in schemas - ELSEWHERE if f"`{schema}`" not in PAGE} == set()
