"""Products of an output: types by directory, products.json, trees, and what may not be there."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

import pytest

from ccatwm.core.digests import tree_digest
from ccatwm.core.model import EntryKind, ProductType, StepRole, TreeEntry
from ccatwm.core.products import MAX_NAMED, ProductPlan, container_failure, plan_products

pytestmark = pytest.mark.quick
DIGEST = "ab" * 32


def tree(*paths: str) -> list[TreeEntry]:
    """Files of 3 bytes, with the folders above them."""
    files = [PurePosixPath(p) for p in paths]
    folders = {parent for p in files for parent in p.parents if parent != PurePosixPath(".")}
    return [TreeEntry(p, EntryKind.DIRECTORY) for p in sorted(folders)] + [
        TreeEntry(p, EntryKind.FILE, 3) for p in files
    ]


def plan(
    entries: list[TreeEntry],
    *,
    declared: Any = None,
    role: StepRole = StepRole.FINAL,
    hashes: dict[PurePosixPath, str] | None = None,
) -> ProductPlan:
    if hashes is None:
        hashes = {e.path: DIGEST for e in entries if e.kind is EntryKind.FILE}
    content = declared if isinstance(declared, bytes | None) else json.dumps(declared).encode()
    return plan_products(entries, hashes, content, role=role)


def types(made: ProductPlan) -> dict[str, ProductType]:
    assert made.problem is None
    return {str(p.path): p.type for p in made.products}


def problem(made: ProductPlan) -> str:
    assert made.problem is not None and made.products == ()
    return made.problem


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("science", "SCIENCE"),
        ("qa", "QA_METRIC"),
        ("plots", "PLOT"),
        ("statistics", "STATISTICS"),
        ("logs", "LOG"),
    ],
)
@pytest.mark.parametrize("role", StepRole)
def test_known_directories_give_the_type(folder, expected, role):
    assert types(plan(tree(f"{folder}/deep/a"), role=role)) == {f"{folder}/deep/a": ProductType(expected)}


def test_other_files_of_an_intermediate_step_are_intermediate():
    made = plan(tree("a.fits", "spectra/b.fits"), role=StepRole.INTERMEDIATE)
    assert set(types(made).values()) == {ProductType.INTERMEDIATE} and made.warnings == ()


def test_an_unclassified_file_of_a_final_step_is_kept_and_named():
    made = plan(tree("science/map", "notes.txt"))
    assert types(made)["notes.txt"] is ProductType.UNCLASSIFIED
    assert len(made.warnings) == 1 and "notes.txt" in made.warnings[0]


def test_many_unclassified_files_are_counted():
    made = plan(tree(*(f"f{n:03}" for n in range(MAX_NAMED + 5))))
    assert "and 5 more" in made.warnings[0]


def test_a_file_named_like_a_known_directory_is_unclassified():
    assert types(plan(tree("science")))["science"] is ProductType.UNCLASSIFIED


def test_size_and_checksum_of_a_file_are_those_of_the_job():
    (product,) = plan(tree("science/map")).products
    assert (product.size_bytes, product.sha256, product.file_count) == (3, DIGEST, 1)


@pytest.mark.parametrize("role", StepRole)
def test_success_without_any_product_is_bad_output(role):
    assert "no product" in problem(plan([], role=role))


def test_empty_folders_are_no_products():
    assert "no product" in problem(plan([TreeEntry(PurePosixPath("science"), EntryKind.DIRECTORY)]))


# --- trees ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [("science/cube.zarr/0", "science/cube.zarr/c/1"), ("science/cube/zarr.json", "science/cube/c/0"),
     ("science/cube/.zgroup", "science/cube/a/.zarray")],
)  # fmt: skip
def test_a_zarr_store_is_one_product_whose_digest_covers_all_files(files):
    (product,) = plan(tree(*files)).products
    assert product.is_directory and product.file_count == 2 and product.size_bytes == 6
    below = [PurePosixPath(f).relative_to(product.path) for f in files]
    assert product.sha256 == tree_digest((str(p).encode(), 3, DIGEST) for p in below)
    assert product.type is ProductType.SCIENCE


def test_a_declared_folder_swallows_the_files_below_it():
    made = plan(
        tree("science/cube/a", "science/cube/b", "science/map"),
        declared={"products": [{"path": "science/cube"}]},
    )
    assert set(types(made)) == {"science/cube", "science/map"}


def test_a_declared_file_inside_a_tree_is_a_product_beside_it():
    made = plan(
        tree("science/a.zarr/x", "science/a.zarr/y"), declared={"products": [{"path": "science/a.zarr/y"}]}
    )
    assert set(types(made)) == {"science/a.zarr", "science/a.zarr/y"}


# --- products.json -------------------------------------------------------------------------------------------------


def test_a_declaration_wins_over_the_directory():
    entry = {"path": "plots/map.fits", "type": "SCIENCE", "dims": {"line": "CO43"}, "quality": {"rms": 0.1}}
    (product,) = plan(tree("plots/map.fits"), declared={"products": [entry]}).products
    assert (product.type, product.dims, product.quality) == (
        ProductType.SCIENCE,
        {"line": "CO43"},
        {"rms": 0.1},
    )


def test_a_declared_type_may_be_written_in_small_letters():
    declared = {"products": [{"path": "plots/map", "type": "science"}]}
    assert types(plan(tree("plots/map"), declared=declared)) == {"plots/map": ProductType.SCIENCE}


def test_products_json_itself_is_no_product():
    made = plan(tree("products.json", "science/map"), declared={"products": []})
    assert set(types(made)) == {"science/map"}


def test_warnings_of_the_program_are_kept():
    assert plan(tree("science/map"), declared={"warnings": ["few scans"]}).warnings == ("few scans",)


def test_quality_of_the_run_goes_to_science_products_without_their_own():
    declared = {"products": [{"path": "science/a", "quality": {"rms": 1}}], "quality": {"rms": 2}}
    made = plan(tree("science/a", "science/b", "qa/c"), declared=declared)
    assert {str(p.path): p.quality for p in made.products} == {
        "science/a": {"rms": 1}, "science/b": {"rms": 2}, "qa/c": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([], '{"products"'),
        ({"products": {}}, '{"products"'),
        ({"products": ["a"]}, "product 0 has no path"),
        ({"products": [{"type": "SCIENCE"}]}, "product 0 has no path"),
        ({"products": [{"path": 3}]}, "product 0 has no path"),
        ({"products": [{"path": "../../etc/passwd"}]}, "leads out"),
        ({"products": [{"path": "science/../../x"}]}, "leads out"),
        ({"products": [{"path": "/etc/passwd"}]}, "leads out"),
        ({"products": [{"path": "."}]}, "leads out"),
        ({"products": [{"path": "science/map", "type": "MAP"}]}, "none of"),
        ({"products": [{"path": "science/map", "type": ["SCIENCE"]}]}, "none of"),
        ({"products": [{"path": "science/gone"}]}, "science/gone, which is not there"),
        ({"products": [{"path": "science/gone", "type": "MAP"}]}, "science/gone, which is not there"),
        ({"products": [{"path": "science/gone", "type": "MAP"}]}, "none of"),
        ({"products": [{"path": "science/gone"}, {"path": "."}]}, "science/gone, which is not there"),
        ({"products": [{"path": "science/map", "dims": 3}]}, "dims"),
        ({"products": [{"path": "science/map", "quality": []}]}, "quality"),
        ({"products": [{"path": "science/map"}, {"path": "science/map", "type": "PLOT"}]}, "twice"),
        ({"quality": 3}, "quality"),
        ({"warnings": "few scans"}, "warnings"),
        ({"warnings": [1]}, "warnings"),
        ({"schema": "ccatwm.products/9"}, "schema"),
    ],
)
def test_a_bad_declaration_is_bad_output_and_says_why(declared, said):
    assert said in problem(plan(tree("science/map"), declared=declared))


def test_all_mistakes_of_a_declaration_are_said_at_once():
    said = problem(plan(tree("science/map"), declared={"products": [{"path": "/a"}, {}], "warnings": 3}))
    assert "/a" in said and "product 1" in said and "warnings" in said


def test_non_finite_numbers_are_refused_because_the_ops_db_cannot_keep_them():
    content = b'{"products": [{"path": "science/map", "quality": {"rms": NaN}}]}'
    assert "NaN" in problem(plan(tree("science/map"), declared=content))


# --- links, special files, hashes ----------------------------------------------------------------------------------


def link(path: str, target: str) -> TreeEntry:
    return TreeEntry(PurePosixPath(path), EntryKind.SYMLINK, 0, 0, target)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "a/../../../x", ".."])
def test_a_link_that_leads_out_is_bad_output(target):
    entries = [*tree("science/map"), link("science/link", target)]
    if target == "..":
        entries = [*tree("science/map"), link("link", target)]
    assert "link" in problem(plan(entries))


def test_a_link_within_the_output_is_refused_with_a_warning():
    made = plan([*tree("science/map"), link("science/newest", "map")])
    assert set(types(made)) == {"science/map"} and "science/newest" in made.warnings[0]


def test_special_files_are_refused_with_a_warning():
    made = plan([*tree("science/map"), TreeEntry(PurePosixPath("science/pipe"), EntryKind.OTHER)])
    assert set(types(made)) == {"science/map"} and "science/pipe" in made.warnings[0]


def test_a_declared_link_is_bad_output():
    entries = [*tree("science/map"), link("science/newest", "map")]
    assert "newest" in problem(plan(entries, declared={"products": [{"path": "science/newest"}]}))


def test_a_file_that_vanished_after_it_was_hashed_is_bad_output():
    hashes = {PurePosixPath("science/map"): DIGEST, PurePosixPath("science/gone"): DIGEST}
    assert "science/gone" in problem(plan(tree("science/map"), hashes=hashes))


def test_a_file_that_the_job_did_not_hash_is_bad_output():
    assert "science/b" in problem(
        plan(tree("science/a", "science/b"), hashes={PurePosixPath("science/a"): DIGEST})
    )


def test_names_that_are_no_text_are_products_and_shown_encoded():
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    made = plan(tree(name))
    assert len(made.products) == 1 and "%FF%FE" in made.warnings[0]


def test_an_order_of_entries_does_not_matter():
    entries = tree("science/a.zarr/x", "science/a.zarr/y", "science/b", "c")
    assert plan(entries) == plan(entries[::-1])


# --- containers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "tail", "expected"),
    [
        (255, b"FATAL:   could not open image /x.sif\n", True),
        (255, b"INFO: x\n\x1b[31mFATAL:   while extracting\x1b[0m\n", True),
        (255, b"FATAL: early\nTraceback: the program's own\n", False),
        (255, b"", False),
        (1, b"FATAL:   x\n", False),
        (255, b"\xff\xff\nFATAL:   x", True),
    ],
)
def test_a_failure_of_the_container_is_255_with_fatal_last(code, tail, expected):
    assert container_failure(code, tail) is expected


def test_the_digest_of_a_tree_is_that_of_the_documentation():
    text = b"a\x003\x00" + DIGEST.encode() + b"\n"
    assert tree_digest([(b"a", 3, DIGEST)]) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"a\\u0000b"', b"1e999"])
def test_what_no_ops_db_could_take_is_bad_output_and_no_crash(text):
    for declared in (b'{"quality": {"x": ' + text + b"}}", b'{"products": [{"path": ' + text + b"}]}"):
        plan = plan_products([], {}, declared, role=StepRole.FINAL)
        assert plan.problem is not None
        plan.problem.encode("utf-8")
