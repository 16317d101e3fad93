"""Recipes and their digests."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core.model import InputKind, InputRole, ReferenceVersion, RunInput, SoftwareVersion
from ccatwm.core.recipe import MODULUS, build_recipe, changed_parts, fixed_parts, member_digest, set_digest

pytestmark = pytest.mark.quick

SOFTWARE = SoftwareVersion("cal", "1.2.0", ("cal",), "/images/cal.sif", "sha256:aa")


def package(name: str, checksum: str = "sha256:00") -> RunInput:
    return RunInput(InputKind.PACKAGE, InputRole.MEMBER, name, name, checksum, 10)


def product(path: str, checksum: str, run: int) -> RunInput:
    return RunInput(InputKind.PRODUCT, InputRole.MEMBER, path, str(run), checksum, 10, run, "p", "cal", "g1")


def recipe(inputs=(), references=(), config=None, environment=None, software=SOFTWARE):
    return build_recipe(inputs, fixed_parts(references, config or {}, environment or {}), software)


@given(st.lists(st.integers(min_value=0, max_value=MODULUS - 1), max_size=20))
def test_a_set_digest_does_not_depend_on_order_and_is_kept_by_difference(members):
    shuffled = random.Random(0).sample(members, len(members))
    assert set_digest(members) == set_digest(shuffled)
    if members:
        by_difference = (int(set_digest(members), 16) - members[0]) % MODULUS
        assert set_digest(members[1:]) == f"{by_difference:064x}"


def test_the_same_package_with_another_checksum_is_another_input():
    assert changed_parts(recipe([package("a")]), recipe([package("a", "sha256:01")])) == ("inputs",)


def test_a_package_as_a_companion_is_another_input_than_as_a_member_and_for_each_name():
    """And the digest of what has no companions is what it always was: a run is not made again by an upgrade."""
    member = package("a")
    companions = [member._replace(role=InputRole.COMPANION, companion=name) for name in ("loads", "pointing")]
    assert len({recipe([item]).inputs for item in (member, *companions)}) == 3
    assert recipe([member]).inputs == set_digest([member_digest("package", "a", "sha256:00", 10)])


def test_a_product_made_again_with_the_same_bytes_is_the_same_input():
    assert recipe([product("x.fits", "sha256:1", 5)]) == recipe([product("x.fits", "sha256:1", 9)])


def test_each_part_is_told_apart():
    base = recipe([package("a")], [ReferenceVersion("r", "1", "/r", "sha256:1")], {"order": 1})
    assert changed_parts(
        base, recipe([package("a")], [ReferenceVersion("r", "2", "/r", "sha256:2")], {"order": 1})
    ) == ("references",)
    same_reference = [ReferenceVersion("r", "1", "/elsewhere", "sha256:1")]
    assert changed_parts(base, recipe([package("a")], same_reference, {"order": 2})) == ("configuration",)
    other = replace(SOFTWARE, image_digest="sha256:bb")
    assert changed_parts(base, recipe([package("a")], same_reference, {"order": 1}, software=other)) == (
        "software",
    )


def test_an_environment_variable_is_part_of_the_configuration():
    assert changed_parts(recipe(environment={"A": "1"}), recipe(environment={"A": "2"})) == ("configuration",)


def test_a_package_and_a_product_of_the_same_name_do_not_collide():
    assert member_digest("package", "x", "sha256:1") != member_digest("product", "x", "sha256:1")


def test_a_package_without_a_checksum_counts_by_its_size():
    assert member_digest("package", "x", None, 1) != member_digest("package", "x", None, 2)
