"""File names as text that every database, log and JSON reader takes. Pure.

On disk a name is bytes. In Python it is text with surrogate escapes; in the ops-db it is percent-encoded where it is not
plain text.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

_PLAIN_ASCII = bytes(sorted(set(range(0x20, 0x7F)) - set(b"%")))
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")


def raw_name(text: str) -> bytes:
    """A name as it is on disk."""
    return text.encode("utf-8", "surrogateescape")


def encode_name(name: str | bytes) -> str:
    """Percent-encode what is not plain text: undecodable bytes, control and format characters, `%` itself."""
    if isinstance(name, bytes):
        if not name.translate(None, _PLAIN_ASCII):
            return name.decode("ascii")  # nearly all of them
        name = name.decode("utf-8", "surrogateescape")
    if name.isascii() and name.isprintable() and "%" not in name:
        return name
    return "".join(c if _is_plain(c) else _encoded(c) for c in name)


def decode_name(text: str) -> str:
    """The name that `encode_name` was given."""
    pieces: list[bytes] = []
    position = 0
    for match in _PERCENT.finditer(text):
        pieces += [
            raw_name(text[position : match.start()]),
            bytes([int(match[1], 16)]),
        ]
        position = match.end()
    pieces.append(raw_name(text[position:]))
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def decode_path(recorded: str | PurePosixPath) -> PurePosixPath:
    """A recorded path as it is on disk."""
    return PurePosixPath(decode_name(str(recorded)))


def _is_plain(character: str) -> bool:
    # Cc control, Cf format (bidi), Cs surrogate, Zl and Zp line separators: none may reach a log or a terminal.
    return character != "%" and unicodedata.category(character) not in (
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
        "Cn",
        "Co",
    )


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in raw_name(character))
