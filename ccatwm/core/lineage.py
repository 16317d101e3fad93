"""What a finished run says of itself: `run.json`, and how outputs are read back. Pure."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

PRODUCTS_AT_ONCE = 1000
TAIL_BYTES = 64  # of a record tell whether it is whole
PRODUCT_COLUMNS = (
    "id", "type", "path", "full_path", "is_directory", "size_bytes", "file_count", "sha256", "dims", "quality"
)  # fmt: skip
# A tuple of these, because there may be 100,000 of them.
ProductRow = tuple[int, str, str, str, bool, int, int, str, Mapping[str, Any] | None, Mapping[str, Any] | None]


def parse_sha256_list(content: bytes) -> dict[PurePosixPath, str]:
    """`sha256sum -z` output: path -> hex. Paths are bytes on disk, text with surrogate escapes here."""
    found: dict[PurePosixPath, str] = {}
    for record in content.split(b"\0"):
        digest, separator, path = record.partition(b"  ")
        if separator and len(digest) == 64:
            name = path.decode("utf-8", "surrogateescape")
            found[PurePosixPath(name.removeprefix("./"))] = digest.decode("ascii")
    return found


def is_cut(tail: bytes) -> bool:
    """Whether a record that has these last bytes is not whole; white space at its end is none of it."""
    return not b"".join(tail.split()).endswith(b"]}")


def write_run_record(record: dict[str, Any], products: Iterable[ProductRow]) -> bytes:
    """The record as JSON, its products last and one in a line."""
    text = io.BytesIO()
    text.write(json.dumps(record, indent=1, sort_keys=True).encode().removesuffix(b"\n}") + b',\n "products": [')
    products, separator = iter(products), "\n  "
    while some := list(itertools.islice(products, PRODUCTS_AT_ONCE)):
        text.write((separator + ",\n  ".join(map(_product_line, some))).encode())
        separator = ",\n  "
    text.write(b"\n ]\n}")
    return text.getvalue()


def _product_line(row: ProductRow) -> str:
    """JSON of one product; an encoder for each would take longer than everything else that is done with it."""
    number, kind, path, full_path, is_directory, size_bytes, file_count, sha256, dims, quality = row
    return (
        f'{{"id": {number}, "type": "{kind}", "path": {_QUOTED(path)}, "full_path": {_QUOTED(full_path)}, '
        f'"is_directory": {"true" if is_directory else "false"}, "size_bytes": {size_bytes}, "file_count": {file_count}, '
        f'"sha256": "{sha256}", "dims": {_value(dims)}, "quality": {_value(quality)}}}'
    )


def _value(data: Mapping[str, Any] | None) -> str:
    return "null" if data is None else json.dumps(data, sort_keys=True)


_QUOTED = json.encoder.encode_basestring_ascii
