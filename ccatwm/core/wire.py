"""How values travel between this program and its other half on the processing host. Pure.

A frame is a prefix (magic, size of the header, size of the body), a header of JSON, and a body of raw bytes. The
header is `[value, [size of each attachment]]`; `bytes` lie in the body, never in the JSON. What is no JSON value is a
list that begins with a tag. Nothing in a frame can name code: classes come from a fixed table.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

MAGIC = b"ccw1"
PREFIX = struct.Struct(">4sIQ")
MAX_HEADER = 32 << 20  # bytes of JSON: some 200,000 files of a listed tree
MAX_BODY = 128 << 20  # bytes beside it
MAX_DEPTH = 40  # lists in lists

Read = Callable[[int], bytes]

_HIGH_SURROGATE = re.compile("[\ud800-\udbff]")


class WireError(ValueError):
    """A value that cannot travel, or a frame that is none."""


class Codec:
    """Values to frames and back. `types` are the frozen dataclasses and enums that may travel, known by their name."""

    def __init__(self, types: Iterable[type]) -> None:
        self._types = {kind.__name__: kind for kind in types}
        self._fields = {
            kind: tuple(field.name for field in fields(kind))
            for kind in self._types.values()
            if is_dataclass(kind)
        }

    def encode(self, value: Any) -> bytes:
        """The frame of a value. Errors: WireError for one that cannot travel, or is too large."""
        body: list[bytes] = []
        try:
            header = json.dumps([self._pack(value, body, 0), [len(part) for part in body]]).encode("ascii")
        except (RecursionError, ValueError) as error:
            raise WireError(f"this cannot be sent: {error}") from error
        size = sum(map(len, body))
        _check_sizes(len(header), size)
        return b"".join([PREFIX.pack(MAGIC, len(header), size), header, *body])

    def read(self, read: Read) -> Any:
        """The next value; `read` returns exactly as many bytes as it is asked for. Errors: WireError, what it raises."""
        header_size, body_size = split_prefix(read(PREFIX.size))
        return self.decode(read(header_size), read(body_size))

    def decode(self, header: bytes, body: bytes) -> Any:
        """Errors: WireError for anything that `encode` does not make."""
        try:
            value, sizes = json.loads(header)
            return self._unpack(value, _Attachments(sizes, body).take)
        except WireError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
            raise WireError(f"a frame does not hold a value: {type(error).__name__}: {error}") from error

    # --- packing ----------------------------------------------------------------------------------------------

    def _pack(self, value: Any, body: list[bytes], depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return _pack_text(value, body)
        if value is None or kind in (bool, int, float):
            return value
        if kind is bytes:
            body.append(value)
            return ["b"]
        if kind is PurePosixPath:
            return ["p", _pack_text(str(value), body)]
        if depth > MAX_DEPTH:
            raise WireError("lists are nested too deep to be sent")
        return self._pack_compound(value, kind, body, depth + 1)

    def _pack_compound(self, value: Any, kind: type, body: list[bytes], depth: int) -> Any:
        if kind in self._fields:
            names = self._fields[kind]
            return ["c", kind.__name__, *(self._pack(getattr(value, name), body, depth) for name in names)]
        if kind in (list, tuple):
            return ["l" if kind is list else "t", *(self._pack(inner, body, depth) for inner in value)]
        if kind is dict:
            return ["d", *(self._pack(inner, body, depth) for pair in value.items() for inner in pair)]
        if isinstance(value, Enum) and self._types.get(kind.__name__) is kind:
            return ["e", kind.__name__, value.name]
        if isinstance(value, datetime) and value.utcoffset() is not None:
            return ["m", value.astimezone(UTC).isoformat()]
        raise WireError(f"a value of type {kind.__name__} cannot be sent")

    # --- unpacking --------------------------------------------------------------------------------------------

    def _unpack(self, value: Any, take: Callable[[], bytes]) -> Any:
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise WireError("an object stands where a value should")
            return value
        tag, *rest = value
        if tag == "p":
            return PurePosixPath(_text(self._unpack(rest[0], take)))
        if tag == "b":
            return take()
        if tag == "u":
            return take().decode("utf-8", "surrogatepass")
        return self._unpack_compound(tag, rest, take)

    def _unpack_compound(self, tag: object, rest: list[Any], take: Callable[[], bytes]) -> Any:
        if tag == "c":
            kind = self._types[_text(rest[0])]
            if len(self._fields[kind]) != len(rest) - 1:
                raise WireError(f"{rest[0]} has {len(self._fields[kind])} fields, not {len(rest) - 1}")
            return kind(*(self._unpack(inner, take) for inner in rest[1:]))
        if tag == "e":
            return self._types[_text(rest[0])][_text(rest[1])]  # type: ignore[index]  # an enum, or a TypeError
        if tag == "m":
            return datetime.fromisoformat(_text(rest[0])).astimezone(UTC)
        inner = [self._unpack(part, take) for part in rest]
        if tag == "l":
            return inner
        if tag == "t":
            return tuple(inner)
        if tag == "d":
            return dict(zip(inner[::2], inner[1::2], strict=True))
        raise WireError(f"a value of unknown kind {str(tag)[:20]!r}")


def split_prefix(prefix: bytes) -> tuple[int, int]:
    """(size of the header, size of the body). Errors: WireError for no prefix, and for sizes beyond the bounds."""
    if len(prefix) != PREFIX.size or not prefix.startswith(MAGIC):
        raise WireError(f"no frame begins with {prefix[:16]!r}")
    _, header, body = PREFIX.unpack(prefix)
    _check_sizes(header, body)
    return header, body


def _check_sizes(header: int, body: int) -> None:
    if header > MAX_HEADER or body > MAX_BODY:
        raise WireError(
            f"too much for one frame: {header} bytes of values (at most {MAX_HEADER}), "
            f"{body} of content (at most {MAX_BODY})"
        )


class _Attachments:
    """The parts of a body, one after the other."""

    def __init__(self, sizes: Any, body: bytes) -> None:
        if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != len(body):
            raise WireError("the sizes of the attachments do not add up")
        self._sizes, self._body, self._at = iter(sizes), memoryview(body), 0

    def take(self) -> bytes:
        size = next(self._sizes, None)
        if size is None:
            raise WireError("an attachment is missing")
        self._at += size
        return bytes(self._body[self._at - size : self._at])


def _pack_text(text: str, body: list[bytes]) -> Any:
    """JSON would join a high and a low surrogate to one character; names from disk have low ones only."""
    if not _HIGH_SURROGATE.search(text):
        return text
    body.append(text.encode("utf-8", "surrogatepass"))
    return ["u"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WireError(f"a text should stand here, not {type(value).__name__}")
    return value
