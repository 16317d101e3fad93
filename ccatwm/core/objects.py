"""Where a copy lies in an object store, what is read of it at once, and what an answer of the store means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

SCHEME = "s3://"
PART_BYTES = 16 << 20  # asked for at once; S3 itself advises 8 to 16 MB for ranged reads
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-_]{1,254}")
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_FORBIDDEN = frozenset({"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "InvalidObjectState"})
_CREDENTIALS = frozenset(
    {"401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "Unauthorized"}
)


@dataclass(frozen=True)
class ObjectPlace:
    """A bucket and a key in it; of a package that is a folder the keys begin with `key/`."""

    bucket: str
    key: str


def object_place(root: str, path: str) -> ObjectPlace:
    """Where `path` lies below a location's root `s3://bucket/prefix`.

    Errors: ValueError that says what is wrong with which of the two.
    """
    bucket, _, prefix = root.removeprefix(SCHEME).partition("/")
    if not root.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise ValueError(f"root {root!r} is not s3://BUCKET or s3://BUCKET/PREFIX")
    parts = [part for part in path.split("/") if part]
    if not parts or {".", ".."} & set(parts) or "\0" in path:
        raise ValueError(f"path {path!r} names no object")
    key = "/".join([*(part for part in prefix.split("/") if part), *parts])
    return ObjectPlace(bucket, key)


class Answer(Enum):
    """What a refusal of the store means for whoever reads."""

    MISSING = "missing"
    CHANGED = "changed"
    FORBIDDEN = "forbidden"
    CREDENTIALS = "credentials"
    AGAIN = "again"


def answer_of(code: str, status: int) -> Answer:
    """By the code of an S3 error (a HEAD has no body: its code is the HTTP status). All else may pass by itself.

    Codes: Amazon S3 API reference, "Error responses".
    """
    for codes, answer in (
        (_MISSING, Answer.MISSING), (_CHANGED, Answer.CHANGED), (_CREDENTIALS, Answer.CREDENTIALS),
        (_FORBIDDEN, Answer.FORBIDDEN),
    ):  # fmt: skip
        if code in codes:
            return answer
    by_status = {404: Answer.MISSING, 412: Answer.CHANGED, 401: Answer.CREDENTIALS, 403: Answer.FORBIDDEN}
    return by_status.get(status, Answer.AGAIN)


def parts_of(size_bytes: int, part_bytes: int) -> Iterator[tuple[int, int]]:
    """(first byte, byte after the last) of each piece of an object."""
    for start in range(0, size_bytes, part_bytes):
        yield start, min(start + part_bytes, size_bytes)


@dataclass(frozen=True, repr=False)
class AccessKey:
    """What an object store lets somebody in with. It is never shown."""

    key_id: str
    secret: str
    token: str | None = None


def environment_prefix(location: str) -> str:
    """Of the variables that hold the access key of a data location: `S3_ARCHIVE_` for `archive`."""
    return f"S3_{re.sub(r'[^A-Z0-9]', '_', location.upper())}_"


def access_key_of(environ: Mapping[str, str], location: str) -> AccessKey | None:
    """The access key that the environment has for a location; None where it has none, or only a part of one."""
    prefix = environment_prefix(location)
    key_id, secret = environ.get(prefix + "ACCESS_KEY_ID"), environ.get(prefix + "SECRET_ACCESS_KEY")
    if not key_id or not secret:
        return None
    return AccessKey(key_id, secret, environ.get(prefix + "SESSION_TOKEN") or None)
