"""The words by which decisions and failures are told are explained in docs/explanation/execution-flow.md."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import pytest

from ccatwm.core.gap import Outcome
from ccatwm.core.model import FailureClass
from ccatwm.core.states import RunStatus

pytestmark = pytest.mark.quick

PAGE = (Path(__file__).parents[2] / "docs/explanation/execution-flow.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [Outcome, FailureClass, RunStatus], ids=lambda words: words.__name__)
def test_every_word_is_explained(words: type[StrEnum]) -> None:
    assert [word.value for word in words if f"`{word.value}`" not in PAGE and word.name != "RUN"] == []
