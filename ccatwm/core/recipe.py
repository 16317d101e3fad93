"""What a product depends on: the recipe of a step and sub-group, kept as separate digests. Pure.

Set digests are additive (sum modulo 2^256 of each member's SHA-256), so that they can be kept up to date by
difference and do not depend on order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from json.encoder import encode_basestring
from typing import Any

from ccatwm.core.model import InputKind, InputRole, ReferenceVersion, RunInput, SoftwareVersion

MODULUS = 1 << 256
NO_MEMBERS = "0" * 64
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
PARTS = ("inputs", "upstream", "references", "configuration", "software")


@dataclass(frozen=True)
class Recipe:
    """Five digests (hex, 64 digits). Never contains resources: more memory is no other product."""

    inputs: str
    upstream: str
    references: str
    configuration: str
    software: str

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, str]:
        return {part: getattr(self, part) for part in PARTS}

    @staticmethod
    def from_json(data: Mapping[str, str]) -> Recipe:
        return Recipe(**{part: data[part] for part in PARTS})


def changed_parts(old: Recipe, new: Recipe) -> tuple[str, ...]:
    """Names of the parts that differ, in the order of `PARTS`."""
    return tuple(part for part in PARTS if getattr(old, part) != getattr(new, part))


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(_ENCODE(value).encode("utf-8", "surrogateescape")).hexdigest()


def member_digest(kind: str, identity: str, checksum: str | None, size_bytes: int | None = None) -> int:
    """One member of a set: kind, identity and checksum (its size where it has no checksum)."""
    texts = (kind, identity, checksum or f"size:{size_bytes}")
    text = f"[{','.join(map(encode_basestring, texts))}]"  # as `digest_of` has it, at a third of its cost
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest(), "big")


def set_digest(members: Iterable[int]) -> str:
    return f"{sum(members) % MODULUS:064x}"


def package_digest(package: RunInput) -> int:
    """As a companion a package is another thing than as a member, and another for each name."""
    if package.role is InputRole.COMPANION:
        place = f"{package.companion}/{package.identity}"
        return member_digest("companion", place, package.checksum, package.size_bytes)
    return member_digest("package", package.identity, package.checksum, package.size_bytes)


def product_digest(product: RunInput) -> int:
    """An upstream product counts by where it belongs and by its bytes, not by the run that made it."""
    place = f"{product.upstream_pipeline}/{product.upstream_step}/{product.upstream_sub_group}/{product.name}"
    return member_digest("product", place, product.checksum, product.size_bytes)


@dataclass(frozen=True)
class FixedParts:
    """The digests of a recipe that all sub-groups of a step share."""

    references: str
    configuration: str


def fixed_parts(
    references: Iterable[ReferenceVersion], config: Mapping[str, Any], environment: Mapping[str, str]
) -> FixedParts:
    return FixedParts(
        references=digest_of(sorted([r.name, r.version, r.checksum] for r in references)),
        configuration=digest_of({"config": config, "environment": environment}),
    )


def build_recipe(inputs: Iterable[RunInput], fixed: FixedParts, software: SoftwareVersion) -> Recipe:
    """The recipe of a run with these inputs and this software."""
    inputs = list(inputs)
    return Recipe(
        inputs=set_digest(package_digest(i) for i in inputs if i.kind is InputKind.PACKAGE),
        upstream=set_digest(product_digest(i) for i in inputs if i.kind is InputKind.PRODUCT),
        references=fixed.references,
        configuration=fixed.configuration,
        software=_software_digest(software),
    )


@cache
def _software_digest(software: SoftwareVersion) -> str:
    return digest_of(
        [software.software, software.version, list(software.command), software.image_digest, software.contract]
    )
