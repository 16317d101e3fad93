"""Where inputs lie and which copy of a package is tried first. Pure."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from ccatwm.core.model import InputKind, ResolvedStep, RunInput

CACHE = PurePosixPath(".cache/packages")
SUBMISSIONS = PurePosixPath(".submissions")
_SAFE = frozenset(string.ascii_letters + string.digits + "._-+=")
MAX_COMPONENT = 120
UNAVAILABLE = "unavailable"  # outcome of a run that waits for a data location to answer
_OF_LOCATION = ": data location "  # before what is said of a whole location, in what is told of a package


def safe_component(text: str) -> str:
    """One path component for any text: other characters become `~XX` per byte; too long a one ends in a hash.

    Never empty, hidden, `.` or `..`, and never starts with a dash.
    """
    parts = []
    for position, character in enumerate(text):
        good = character in _SAFE and not (position == 0 and character in ".-")
        code = character.encode("utf-8", "surrogateescape")
        parts.append(character if good else "".join(f"~{byte:02X}" for byte in code))
    component = "".join(parts) or "~"
    if len(component) <= MAX_COMPONENT:
        return component
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{component[: MAX_COMPONENT - 17]}~{digest}"


def cache_directory(package_id: str, name: str, checksum: str | None) -> PurePosixPath:
    """The folder of an unpacked package in the shared cache: another checksum is another folder."""
    digest = hashlib.sha256(f"{package_id}\0{checksum}".encode()).hexdigest()[:12]
    return CACHE / f"{safe_component(name)[:100]}-{digest}"


def input_path(package: RunInput) -> PurePosixPath:
    """Where a raw data package lies below the run's folder."""
    return PurePosixPath("input") / safe_component(package.name)


def workspace_path(step: ResolvedStep, product: RunInput) -> PurePosixPath:
    """Where an upstream product lies below the run's folder: by sub-group where the group_by differs."""
    upstream = next(
        u for u in step.upstream if (u.pipeline, u.step) == (product.upstream_pipeline, product.upstream_step)
    )
    folder = PurePosixPath("workspace") / upstream.directory
    if not upstream.same_group_by:
        folder /= str(product.upstream_sub_group)
    return folder / product.name


def packages_of(inputs: Sequence[RunInput]) -> list[RunInput]:
    return [item for item in inputs if item.kind is InputKind.PACKAGE]


def products_of(inputs: Sequence[RunInput]) -> list[RunInput]:
    return [item for item in inputs if item.kind is InputKind.PRODUCT]


COST = {"disk": 0, "s3": 1}  # of reading; all else (tape) is dearer


def copy_order(location: str, storage: str, priority: int, path: str, *, here: str,
               known_bad: Collection[tuple[str, str]]) -> tuple[bool, bool, int, int, str, str]:  # fmt: skip
    """Sort key of a physical copy: good before reported bad, already here first, larger priority, then what costs less."""
    return ((location, path) in known_bad, location != here, -priority, COST.get(storage, 9), location, path)


def unreached_text(package: str, reasons: Sequence[str]) -> str:
    """Why a package cannot be had now; each reason begins with `data location NAME`."""
    return f"package {package}: {'; '.join(reasons)}"


def location_trouble(message: str) -> str | None:
    """What `unreached_text` says of data locations, the same for all packages there; None of another message."""
    before, mark, rest = message.partition(_OF_LOCATION)
    return mark.removeprefix(": ") + rest if mark and before.startswith("package ") else None


def not_readable_here(storage: str, location: str) -> str:
    """Why a copy of this storage type cannot be read by `stage`, and what can be done."""
    if storage == "tape":
        return 'it lies on tape, which is not read here; let data transfer bring it: STAGING_MODE = "request"'
    if storage == "s3":
        return (
            f"it lies in the object store {location}, which the processing host does not read by itself; "
            'let data transfer bring it: STAGING_MODE = "request"'
        )
    return f"storage {storage!r} at {location} cannot be read here"
