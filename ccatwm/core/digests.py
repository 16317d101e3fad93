"""Digests of trees. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

DIGITS = {"sha256": 64, "sha512": 128, "sha1": 40, "md5": 32, "blake2b": 128}  # hexadecimal ones
ALGORITHMS = tuple(DIGITS)


def tree_digest(entries: Iterable[tuple[bytes, int, str]]) -> str:
    """SHA-256 (hex) over sorted `path NUL size NUL sha256 LF` of (path bytes, size, sha256 hex)."""
    digest = hashlib.sha256()
    for path, size, sha256 in sorted(entries):
        digest.update(b"%s\0%d\0%s\n" % (path, size, sha256.encode("ascii")))
    return digest.hexdigest()


def split_checksum(checksum: str) -> tuple[str, str]:
    """(algorithm, hex in lower case) of `algorithm:hex`; an unknown algorithm comes back as it is."""
    algorithm, _, value = checksum.partition(":")
    return algorithm.lower(), value.lower()
