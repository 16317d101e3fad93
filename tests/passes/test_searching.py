"""Products are found by what their programs declared of them, alike on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccatwm.core.product_rules import parse_product_rules
from ccatwm.core.selection import Selection
from ccatwm.views.products import build_products, rules_hint
from tests.passes.conftest import Observatory

QUALITY = {
    "a": {"rms_k": 0.1, "good": True, "fit": {"order": 3}, "name": "Alpha"},
    "b": {"rms_k": 0.3, "good": False, "name": "beta"},
    "c": {"rms_k": "0.1", "name": None},
    "d": None,
}
RULES = {
    "qa.rms_k:lt:0.2": "a",
    "rms_k:gte:0.1": "ab",
    "qa.rms_k:eq:0.1": "a",
    'qa.rms_k:eq:"0.1"': "c",
    "qa.rms_k:neq:0.1": "bcd",
    "qa.rms_k:between:0.1,0.3": "ab",
    "qa.rms_k:is_null": "d",
    "qa.rms_k:not_null": "abc",
    "qa.name:is_null": "cd",
    "qa.good:eq:true": "a",
    "qa.good:in:true,false": "ab",
    "qa.fit.order:eq:3": "a",
    "qa.fit.order.x:eq:3": "",
    "qa.name:like:al%": "",
    "qa.name:ilike:al%": "a",
    "qa.name:gt:B": "b",
    "dims.line:eq:CO43": "bd",
    "dims.line:not_in:CO43": "ac",
    "dims.n:lte:2": "bc",
}


def program(output: Path, manifest: dict) -> int:
    """Four files with what is known of them."""
    declared = []
    for n, name in enumerate("abcd"):
        (output / name).write_text(name)
        dims = {"line": "CO43" if n % 2 else "CI", "n": n} if n else None
        declared.append({"path": name, "dims": dims, "quality": QUALITY[name]})
    (output / "products.json").write_text(json.dumps({"products": declared}))
    return 0


@pytest.fixture
def searched(observatory: Observatory) -> Observatory:
    observatory.program = program
    observatory.cycle()
    observatory.jobs()
    observatory.cycle()
    return observatory


def found(observatory: Observatory, *rules: str, **options: int) -> tuple[str, int]:
    """Names of the products of the first scan, and how many there are of both."""
    document = build_products(
        observatory.context().database, Selection(step="calibrate"), parse_product_rules(rules),
        places=observatory.places, **options,
    )  # fmt: skip
    rows = [row for row in document["products"] if row["sub_group"] == "executed_obs_unit=1"]
    return "".join(sorted(row["name"] for row in rows)), document["total"]


def test_who_finds_nothing_is_told_what_there_is_to_be_found(searched: Observatory) -> None:
    context = searched.context()
    assert rules_hint(context.database, Selection(), all_of_them=False).startswith("rules can be about ")


def test_rules_find_products_by_their_metrics_and_dims(searched: Observatory) -> None:
    answers = {rule: found(searched, rule) for rule in RULES}
    assert answers == {rule: (names, 2 * len(names)) for rule, names in RULES.items()}
    assert found(searched, "qa.rms_k:not_null", "dims.line:eq:CO43")[0] == "b", "all of them hold"
    assert found(searched, "qa.rms_k:not_null", limit=1)[1] == 6, "what is left out is counted"
    assert found(searched, "qa.x'; DROP TABLE data_product; --:eq:1")[0] == ""
