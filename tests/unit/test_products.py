"""Which products a run made."""

from __future__ import annotations

import json
from pathlib import PurePosixPath as P

import pytest

from ccatwm.core.digests import tree_digest
from ccatwm.core.model import EntryKind, ProductType, StepRole, TreeEntry
from ccatwm.core.products import container_failure, plan_products

pytestmark = pytest.mark.quick
HASH = "ab" * 32


def entries(*files, folders=(), links=()):
    found = [TreeEntry(P(f), EntryKind.FILE, 10, 0) for f in files]
    found += [TreeEntry(P(f), EntryKind.DIRECTORY) for f in folders]
    return found + [TreeEntry(P(f), EntryKind.SYMLINK, 0, 0, target) for f, target in links]


def plan(*files, role=StepRole.FINAL, declared=None, hashes=None, partial=False, **more):
    found = entries(*files, **more)
    listed = {e.path: HASH for e in found if e.kind is EntryKind.FILE} if hashes is None else hashes
    text = declared if isinstance(declared, bytes | None) else json.dumps(declared).encode()
    return plan_products(found, listed, text, role=role, exit_code=0, partial=partial)


def types(planned):
    return {str(p.path): p.type.value for p in planned.products}


def test_the_directory_says_the_type():
    planned = plan("science/map.fits", "qa/a.json", "plots/p.png", "statistics/s.json", "logs/l.txt")
    assert sorted(types(planned).values()) == ["LOG", "PLOT", "QA_METRIC", "SCIENCE", "STATISTICS"]
    assert planned.warnings == ()


def test_other_files_of_an_intermediate_step_are_intermediate():
    assert types(plan("a.fits", "x/b.fits", "qa/c.json", role=StepRole.INTERMEDIATE)) == {
        "a.fits": "INTERMEDIATE",
        "x/b.fits": "INTERMEDIATE",
        "qa/c.json": "QA_METRIC",
    }


def test_a_file_in_no_known_directory_of_a_final_step_is_kept_and_named():
    planned = plan("science/map.fits", "stray.txt")
    assert types(planned)["stray.txt"] == "UNCLASSIFIED"
    assert "stray.txt" in planned.warnings[0]


def test_a_store_is_one_product_with_its_tree_digest():
    planned = plan(
        "science/c.zarr/zarr.json",
        "science/c.zarr/a/0",
        folders=["science", "science/c.zarr", "science/c.zarr/a"],
    )
    (product,) = planned.products
    assert (str(product.path), product.is_directory, product.file_count, product.size_bytes) == (
        "science/c.zarr",
        True,
        2,
        20,
    )
    assert product.sha256 == tree_digest([(b"zarr.json", 10, HASH), (b"a/0", 10, HASH)])


def test_products_json_wins_over_the_directory():
    declared = {
        "products": [{"path": "cube", "type": "science", "dims": {"line": "CO"}, "quality": {"rms": 1}}]
    }
    (product,) = plan("cube/a", "cube/b", "products.json", folders=["cube"], declared=declared).products
    assert (product.type, product.dims, product.quality) == (ProductType.SCIENCE, {"line": "CO"}, {"rms": 1})


def test_warnings_of_a_program_are_kept():
    declared = {"products": [], "warnings": ["pixel 3 was noisy"]}
    assert plan("science/a", "products.json", declared=declared).warnings == ("pixel 3 was noisy",)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "is not"),
        ({"products": [{"path": "../secret"}]}, "leads out"),
        ({"products": [{"path": "/etc/passwd"}]}, "leads out"),
        ({"products": [{"path": "science/none.fits"}]}, "not there"),
        ({"products": [{"path": "science/a", "type": "MAGIC"}]}, "none of"),
        ({"products": [{}]}, "no path"),
        ({"products": [], "warnings": "x"}, "list of texts"),
    ],
)
def test_a_wrong_products_json_is_bad_output(declared, said):
    assert said in plan("science/a", "products.json", declared=declared).problem


def test_a_link_that_leads_out_is_bad_output():
    for target in ("/etc/passwd", "../../x", "a/../../../x"):
        assert "leads out" in plan("science/a", links=[("science/l", target)]).problem


def test_a_link_inside_is_refused_and_named():
    planned = plan("science/a", links=[("science/l", "a")])
    assert planned.problem is None
    assert "science/l" in planned.warnings[0]
    assert types(planned) == {"science/a": "SCIENCE"}


def test_a_file_that_vanished_or_came_late_is_bad_output():
    assert "is gone" in plan("science/a", hashes={P("science/a"): HASH, P("science/b"): HASH}).problem
    assert "after the job" in plan("science/a", "science/b", hashes={P("science/a"): HASH}).problem


def test_no_product_at_all_is_bad_output_unless_the_exit_was_partial():
    assert "no product" in plan().problem
    assert plan(partial=True).problem is None


def test_apptainers_own_failure_is_told_from_a_program_that_ends_with_255():
    assert container_failure(255, b"INFO: x\nFATAL:   could not open image\n")
    assert container_failure(255, b"\x1b[31mFATAL:   could not open image\x1b[0m\n")
    assert not container_failure(255, b"FATAL: said by the program\nand more\n")
    assert not container_failure(1, b"FATAL: x\n")
