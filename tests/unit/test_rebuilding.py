"""Which runs a product stands on, and in what order they are made again."""

from __future__ import annotations

import pytest

from ccatwm.core.model import InputKind, InputRole, RunInput
from ccatwm.core.rebuilding import build_chain

pytestmark = pytest.mark.quick


def package(name: str, checksum: str = "sha256:1") -> RunInput:
    return RunInput(InputKind.PACKAGE, InputRole.MEMBER, name, name, checksum, 1)


def product(number: int, run: int) -> RunInput:
    return RunInput(InputKind.PRODUCT, InputRole.MEMBER, f"{number}.txt", str(number), None, 1, upstream_run_id=run)


INPUTS = {
    1: [package("a")],
    2: [package("b"), package("a")],
    3: [product(11, 1), product(12, 1)],
    4: [product(11, 1), product(13, 2), product(14, 3)],
    5: [package("c")],  # of no use
}


def test_a_run_comes_after_all_that_it_has_inputs_from_and_what_is_of_no_use_is_left_out():
    chain = build_chain(20, 4, INPUTS)
    assert {run: set(needs) for run, needs in chain.needs.items()} == {1: set(), 2: set(), 3: {1}, 4: {1, 2, 3}}


def test_of_every_run_those_products_are_kept_that_somebody_reads():
    assert build_chain(20, 4, INPUTS).kept == {1: {11, 12}, 2: {13}, 3: {14}, 4: {20}}


def test_a_package_is_brought_once_for_all_runs():
    assert [(run, item.name) for run, item in build_chain(20, 4, INPUTS).packages] == [(1, "a"), (2, "b")]


def test_a_package_that_was_read_with_two_checksums_is_brought_twice():
    inputs = {1: [package("a")], 2: [package("a", "sha256:2"), product(11, 1)]}
    assert len(build_chain(20, 2, inputs).packages) == 2


def test_a_long_chain_is_no_matter_of_recursion():
    inputs = {n: [product(n - 1, n - 1)] for n in range(2, 5000)} | {1: [package("a")]}
    assert len(build_chain(1, 4999, inputs).needs) == 4999
