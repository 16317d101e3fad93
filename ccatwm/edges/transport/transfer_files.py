"""What a batch job that brings packages is given, and what it answers, as files; and the program that it runs. Pure.

The job has no connection to anybody. Its folder `.transfers/{token}` has `program.pyz`, `stores` (where object stores
answer), one `orders/{n}` a package, and gets one `results/{n}` for each that it is done with; `recorded` has the numbers of
those that need not be read again.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

from ccatwm.core.transfers import TRANSFERS
from ccatwm.core.wire import MAX_HEADER, WireError
from ccatwm.edges.transport._protocol import CODEC, error_from_value, error_to_value
from ccatwm.edges.transport._session import MODULES
from ccatwm.errors import CcatwmError, NoGoodCopyError
from ccatwm.interfaces import Brought, PackageOrder, TreeEntry

# What it needs beside what the agent does.
OWN_MODULES = (
    "ccatwm.transfer_job", "ccatwm.core.objects", "ccatwm.core.path_map", "ccatwm.core.retention",
    "ccatwm.core.staging", "ccatwm.core.transfers", "ccatwm.core.wording", "ccatwm.edges.storage.receiving",
    "ccatwm.edges.storage.s3", "ccatwm.edges.transport._session", "ccatwm.edges.transport.transfer_files",
    "ccatwm.settings", "ccatwm.settings.schema",
)  # fmt: skip
MAIN = b"import sys\nfrom ccatwm.transfer_job import main\nsys.exit(main(sys.argv[1:]))\n"
LONGEST = 160 << 20  # bytes of an order or a result
BESIDE = 64  # bytes of a listed file beside its name and checksum: its size, and what holds them together
FULL = MAX_HEADER - (1 << 20)  # bytes of the listed files of an order, beside which there is room for all the rest of it


def program_path(token: str) -> PurePosixPath:
    return TRANSFERS / token / "program.pyz"


def stores_path(token: str) -> PurePosixPath:
    return TRANSFERS / token / "stores"


def order_path(token: str, number: int) -> PurePosixPath:
    return TRANSFERS / token / "orders" / str(number)


def result_path(token: str, number: int) -> PurePosixPath:
    return TRANSFERS / token / "results" / str(number)


def recorded_path(token: str) -> PurePosixPath:
    return TRANSFERS / token / "recorded"


def encode_numbers(numbers: Iterable[int]) -> bytes:
    return "".join(f"{number}\n" for number in sorted(numbers)).encode()


def decode_numbers(data: bytes | None) -> set[int]:
    """Those that can be read; none of a file that is not there."""
    return {int(line) for line in (data or b"").split() if line.isdigit()}


def numbers_of(listed: Iterable[TreeEntry] | None) -> list[int]:
    """Of the orders or answers in a listed folder; none of one that is not there."""
    return sorted(int(entry.path.name) for entry in listed or () if entry.path.name.isdigit())


@cache
def build_program() -> bytes:
    """A zip file that a Python runs: this program as far as a job needs it, and nothing that has to be installed."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in [("__main__.py", MAIN), *_sources()]:
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    for name in dict.fromkeys((*MODULES, *OWN_MODULES)):
        spec = find_spec(name)
        assert spec is not None, name
        source: str = spec.loader.get_source(name)  # type: ignore[union-attr]  # every loader of source files has it
        path = name.replace(".", "/")
        yield (f"{path}/__init__.py" if spec.submodule_search_locations is not None else f"{path}.py"), source.encode()


def encode_order(order: PackageOrder) -> bytes:
    """Errors: WireError for a package of too many files."""
    return CODEC.encode(order)


def can_order(order: PackageOrder) -> bool:
    """False for a package with more listed files than an order holds. It is encoded to see only where that is near."""
    if _bytes_of(order.members) <= FULL:
        return True
    try:
        encode_order(order)
    except WireError:
        return False
    return True


def _bytes_of(members: Mapping[str, tuple[int, str | None]]) -> int:
    """What they take in an order, at most."""
    return len(json.dumps([*members, *(checksum for _, checksum in members.values())])) + BESIDE * len(members)


def decode_order(data: bytes) -> PackageOrder:
    """Errors: WireError for what is none."""
    order = _value(data)
    if not isinstance(order, PackageOrder):
        raise WireError("no order of a package")
    return order


def encode_stores(stores: Mapping[str, Mapping[str, str]]) -> bytes:
    """By location: where it answers and who one is there, the fields of a location's settings."""
    return CODEC.encode({name: dict(fields) for name, fields in stores.items()})


def decode_stores(data: bytes) -> dict[str, dict[str, str]]:
    stores: dict[str, dict[str, str]] = _value(data)
    return stores


def encode_result(brought: Brought) -> bytes:
    return CODEC.encode(
        {
            "received": brought.received,
            "source": brought.source,
            "findings": [(copy, error_to_value(error, "")) for copy, error in brought.findings],
            "error": None if brought.error is None else error_to_value(brought.error, ""),
        }
    )


def decode_result(data: bytes, what: str) -> Brought:
    """Errors: WireError for what is none."""
    value = _value(data)
    try:
        findings = [(copy, _error(error, what)) for copy, error in value["findings"]]
        error = None if value["error"] is None else _error(value["error"], what)
        return Brought(value["received"], value["source"], findings, error)
    except (ValueError, TypeError, KeyError, AttributeError) as broken:
        raise WireError(f"no answer for a package: {type(broken).__name__}: {broken}") from broken


def _error(value: dict[str, Any], what: str) -> CcatwmError:
    error = error_from_value(value, what)
    return error if isinstance(error, CcatwmError) else NoGoodCopyError(f"{what}: {error}")


def _value(data: bytes) -> Any:
    return CODEC.read(io.BytesIO(data).read)
