"""Reads known_hosts as sshd(8) describes it: names plain, hashed or with wildcards, revoked keys. Pure.

Host keys signed by an authority (`@cert-authority`) are not supported: such lines are passed over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownKey:
    """One key of a host: `kind` as in `ssh-ed25519`, `blob` as it travels."""

    kind: str
    blob: bytes
    revoked: bool = False


def host_name(host: str, port: int) -> str:
    """The name that a host has in known_hosts."""
    return host if port == 22 else f"[{host}]:{port}"


def fingerprint(blob: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def keys_of(text: str, name: str) -> list[KnownKey]:
    """The keys that `text` has for a name; lines that are none are passed over, as ssh does."""
    found = []
    for line in text.splitlines():
        marker, names, kind, blob = _split(line)
        if marker in ("", "@revoked") and _matches(names, name):
            try:
                found.append(KnownKey(kind, base64.b64decode(blob, validate=True), marker == "@revoked"))
            except binascii.Error:
                continue
    return found


def _split(line: str) -> tuple[str, str, str, str]:
    """(marker, names, kind, key in base64)."""
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#"):
        return "", "", "", ""
    return marker, fields[0], fields[1], fields[2]


def _matches(names: str, name: str) -> bool:
    if names.startswith("|1|"):
        return _matches_hash(names, name)
    patterns = [pattern.lower() for pattern in names.split(",") if pattern]
    refused = any(_fits(pattern[1:], name) for pattern in patterns if pattern.startswith("!"))
    return not refused and any(_fits(pattern, name) for pattern in patterns if not pattern.startswith("!"))


def _fits(pattern: str, name: str) -> bool:
    wild = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(wild, name.lower()) is not None


def _matches_hash(names: str, name: str) -> bool:
    """`|1|salt|hash`: HMAC-SHA1 of the name, both in base64 (ssh-keygen(1), -H)."""
    try:
        _, _, salt, digest = names.split("|")
        wanted = hmac.new(base64.b64decode(salt), name.lower().encode(), hashlib.sha1).digest()
        return hmac.compare_digest(wanted, base64.b64decode(digest))
    except ValueError:  # another number of fields, no base64
        return False


def ordered_kinds(offered: tuple[str, ...], known: list[KnownKey]) -> tuple[str, ...]:
    """Kinds of host keys in the order to ask for: first those that are known, else another key would come."""
    return tuple(sorted(offered, key=lambda kind: kind not in set(_algorithms(known))))


def _algorithms(known: list[KnownKey]) -> Iterator[str]:
    """An RSA key signs under three names (RFC 8332)."""
    for key in known:
        yield from ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa") if key.kind == "ssh-rsa" else (key.kind,)
