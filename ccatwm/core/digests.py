"""Digests of trees. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ccatwm.errors import UncheckableError

DIGITS = {  # hexadecimal ones of what hashlib has on every Python
    "sha256": 64, "sha512": 128, "sha1": 40, "md5": 32, "blake2b": 128,
    "sha224": 56, "sha384": 96, "sha3_256": 64, "sha3_512": 128, "blake2s": 64,
}  # fmt: skip
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


def known_checksum(checksum: str) -> tuple[str, str]:
    """(algorithm, hex). Errors: UncheckableError for one that cannot be checked."""
    algorithm, value = split_checksum(checksum)
    if algorithm not in ALGORITHMS or not value:
        raise UncheckableError(
            f"checksum {checksum!r} cannot be checked: known are {', '.join(ALGORITHMS)}, as algorithm:hex; list one of "
            "these, or none (in opsdb-map.yaml `checksum: null` hides a column): then only the size is compared"
        )
    return algorithm, value
