"""Raw data packages in object stores that speak S3. Touches: the network, files with access keys; reading only.

An object is read in pieces, some ahead, each bound to the version that was there at the beginning (If-Match). A piece
that breaks off goes on where it broke off.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ccatwm.core.archives import TAR_MAGIC, TAR_MAGIC_OFFSET, is_tar_name
from ccatwm.core.names import encode_name
from ccatwm.core.objects import (
    PART_BYTES,
    SCHEME,
    Answer,
    ObjectPlace,
    access_key_of,
    answer_of,
    environment_prefix,
    object_place,
    parts_of,
)
from ccatwm.errors import (
    CopyUnavailableError,
    CorruptCopyError,
    LocationSettingsError,
    MissingCopyError,
)
from ccatwm.interfaces import Effects, PackageCopy
from ccatwm.settings.schema import LocationSettings

CONNECT_SECONDS, READ_SECONDS = 10, 30
PARTS_AHEAD = 4  # 64 MiB at most in memory
BLOCK = 1 << 20
TRIES = 6  # without a byte of progress in between
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
TOO_OPEN = stat.S_IRWXG | stat.S_IRWXO


class S3Storage:
    """`Storage` for data locations whose root is `s3://bucket/prefix`.

    `locations`: where each answers and which key file it has. Access keys: the location's `credentials_file`, else
    `S3_{LOCATION}_ACCESS_KEY_ID` and `..._SECRET_ACCESS_KEY` of the environment, else what the library finds by itself.
    """

    def __init__(
        self, locations: Mapping[str, LocationSettings], environ: Mapping[str, str], effects: Effects,
        pause: Callable[[float], None] = time.sleep, part_bytes: int = PART_BYTES,
    ) -> None:  # fmt: skip
        self._locations = locations
        self._environ = environ
        self._effects = effects
        self._pause = pause
        self._part_bytes = part_bytes
        self._stores: dict[str, _Store] = {}

    def form(self, copy: PackageCopy) -> str:
        store, place = self._store(copy), _place(copy)
        found = store.find(place, copy)
        if found is None:
            if not store.has_any(ObjectPlace(place.bucket, place.key + "/"), copy):
                raise MissingCopyError(f"{_where(copy)} is not there")
            return "directory"
        if is_tar_name(copy.path) or self._has_magic(store, found, copy):
            return "tar"
        return "file"

    def _has_magic(self, store: _Store, found: _Object, copy: PackageCopy) -> bool:
        end = TAR_MAGIC_OFFSET + len(TAR_MAGIC)
        return found.size_bytes >= end and store.read_range(found, TAR_MAGIC_OFFSET, end, copy) == TAR_MAGIC

    @contextmanager
    def open(self, copy: PackageCopy) -> Iterator[BinaryIO]:
        """The bytes of an object; one that is replaced while it is read is corrupt."""
        store, place = self._store(copy), _place(copy)
        found = store.find(place, copy)
        if found is None:
            raise MissingCopyError(f"{_where(copy)} is not there")
        with closing(_Reader(store, found, copy, self._part_bytes)) as reader:
            yield cast(BinaryIO, reader)

    def open_tree(self, copy: PackageCopy) -> Iterator[tuple[str, BinaryIO]]:
        store, place = self._store(copy), _place(copy)
        folder = ObjectPlace(place.bucket, place.key + "/")
        for found in sorted(store.list_objects(folder, copy), key=lambda o: o.place.key.encode()):
            name = found.place.key.removeprefix(folder.key)
            if name and not name.endswith("/"):  # tools mark folders by empty objects
                with closing(_Reader(store, found, copy, self._part_bytes)) as reader:
                    yield name, cast(BinaryIO, reader)

    def _store(self, copy: PackageCopy) -> _Store:
        if copy.location not in self._stores:
            client = self._client(copy.location)
            self._stores[copy.location] = _Store(client, self._effects, self._pause, copy.location)
        return self._stores[copy.location]

    def _client(self, location: str) -> Any:
        """Errors: LocationSettingsError where the library or a readable key file is missing."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise LocationSettingsError(
                f"data location {location} is an object store, and the library to read it is not installed here",
                next="pip install 'ccatwm[s3]'",
            ) from error
        place = self._locations.get(location, LocationSettings())
        config = Config(
            connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 1},
            max_pool_connections=2 * PARTS_AHEAD, s3={"addressing_style": "path" if place.endpoint_url else "auto"},
        )  # fmt: skip
        try:
            return boto3.session.Session(**self._keys(location, place)).client(
                "s3", endpoint_url=place.endpoint_url or None, config=config
            )
        except ValueError as error:
            raise LocationSettingsError(
                f"data location {location}: {error}", next=f"see locations.{location}.endpoint_url in settings.toml"
            ) from error

    def _keys(self, location: str, place: LocationSettings) -> dict[str, str]:
        key = access_key_of(self._environ, location)
        region = {"region_name": place.region or "us-east-1"}
        if place.credentials_file:
            return region | _keys_in_file(Path(place.credentials_file), location, place.profile)
        if key is None:
            return region
        token = {} if key.token is None else {"aws_session_token": key.token}
        return region | {"aws_access_key_id": key.key_id, "aws_secret_access_key": key.secret} | token


def _keys_in_file(path: Path, location: str, profile: str) -> dict[str, str]:
    """A file as the AWS tools have it (`[default]`, `aws_access_key_id = ...`), readable by its owner alone.

    Errors: LocationSettingsError.
    """
    import configparser

    setting, whose = f"locations.{location}.credentials_file", f"data location {location}:"
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8", errors="replace")  # of what is no text too it is said that it has no key
    except OSError as error:
        raise LocationSettingsError(
            f"{whose} the key file {path} cannot be read: {error.strerror}", where=setting,
            next=f"see its path and rights, or set {setting} in settings.toml",
        ) from error  # fmt: skip
    if mode & TOO_OPEN:
        raise LocationSettingsError(
            f"{whose} the key file {path} may be read or changed by others", where=setting, next=f"chmod 600 {path}"
        )
    parser = configparser.RawConfigParser()
    names = ("aws_access_key_id", "aws_secret_access_key")
    try:
        parser.read_string(text)
        found = {name: parser[profile][name].strip() for name in names}
        if not all(found.values()):
            raise KeyError(profile)
    except (configparser.Error, KeyError):
        raise LocationSettingsError(
            f"{whose} the key file {path} has no {' and '.join(names)} in a section [{profile}]", where=setting,
            next=f"write them there, or name another section in locations.{location}.profile",
        ) from None  # what stands in the file is nobody's to read  # fmt: skip
    token = parser[profile].get("aws_session_token")
    return found | ({} if token is None else {"aws_session_token": token})


# --- one store -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    place: ObjectPlace
    size_bytes: int
    etag: str


class _Store:
    """Questions to one object store; each is asked again for a while where the store does not answer."""

    def __init__(self, client: Any, effects: Effects, pause: Callable[[float], None], location: str) -> None:
        self._client = client
        self._effects = effects
        self._pause = pause
        self._location = location

    def find(self, place: ObjectPlace, copy: PackageCopy) -> _Object | None:
        try:
            head = self._ask(copy, lambda: self._client.head_object(Bucket=place.bucket, Key=place.key))
        except MissingCopyError:
            return None
        return _Object(place, int(head["ContentLength"]), str(head["ETag"]))

    def has_any(self, folder: ObjectPlace, copy: PackageCopy) -> bool:
        page = self._ask(copy, lambda: self._page(folder, {"MaxKeys": 1}))
        return bool(page.get("Contents"))

    def list_objects(self, folder: ObjectPlace, copy: PackageCopy) -> Iterator[_Object]:
        more: dict[str, Any] = {}
        while True:
            page = self._ask(copy, lambda: self._page(folder, more))  # noqa: B023  asked at once
            for row in page.get("Contents", ()):
                yield _Object(ObjectPlace(folder.bucket, row["Key"]), int(row["Size"]), str(row["ETag"]))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, folder: ObjectPlace, more: Mapping[str, Any]) -> Any:
        return self._client.list_objects_v2(Bucket=folder.bucket, Prefix=folder.key, **more)

    def read_range(self, found: _Object, start: int, end: int, copy: PackageCopy) -> bytes:
        """The bytes from `start` up to `end`, however often the connection breaks as long as there is progress."""
        held = bytearray()
        while len(held) < end - start:
            before = len(held)
            self._ask(copy, lambda: self._fetch(found, start, end, held), progress=lambda: len(held))
            if len(held) == before:
                raise self._unavailable("sends nothing of what it says it has")
        return bytes(held)

    def _fetch(self, found: _Object, start: int, end: int, held: bytearray) -> None:
        """Append what comes of the rest of a piece."""
        place, first = found.place, start + len(held)
        with self._effects.around("s3.get", f"{place.key} {first}-{end}"):
            answer = self._client.get_object(
                Bucket=place.bucket, Key=place.key, Range=f"bytes={first}-{end - 1}", IfMatch=found.etag
            )
        with closing(answer["Body"]) as body:
            while data := body.read(min(BLOCK, end - start - len(held)) or 1):
                held += data[: end - start - len(held)]
                if len(held) == end - start:
                    return

    def _ask(self, copy: PackageCopy, question: Callable[[], Any], progress: Callable[[], int] = int) -> Any:
        """Errors: MissingCopyError, CorruptCopyError, LocationSettingsError; CopyUnavailableError after `TRIES`."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        tries, pause, done = 0, FIRST_PAUSE_SECONDS, progress()
        while True:
            try:
                return question()
            except ClientError as error:
                reason = _refusal(error, copy, self._location)
            except (BotoCoreError, HTTPError, OSError) as error:
                reason = _reason_of(error, self._location)
            if progress() > done:
                tries, pause, done = 0, FIRST_PAUSE_SECONDS, progress()
            tries += 1
            if tries >= TRIES:
                raise self._unavailable(f"does not answer: {reason}")
            self._pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _unavailable(self, what: str) -> CopyUnavailableError:
        """Said of the whole store: whatever was asked for, and of which package, met it by chance."""
        return CopyUnavailableError(
            f"data location {self._location}: the store at {self._client.meta.endpoint_url} {what}",
            next="it is asked again by itself; if that is not where it answers, set "
            f"locations.{self._location}.endpoint_url in settings.toml",
        )


def _line_of(error: Exception) -> str:
    """What the library says, without the object that it happened to ask for, and why, where the system said that."""
    url = str(getattr(error, "kwargs", {}).get("endpoint_url", ""))  # botocore.exceptions: of the request, not the store
    text = str(error).replace(f': "{url}"', "").replace(url, "it") if url else str(error)
    said: BaseException | None = error
    while said is not None and not isinstance(said, OSError):
        said = said.__cause__ or said.__context__
    reason = said.strerror if said is not None else None
    text = " ".join(text.split()).rstrip(".")
    return f"{text} ({reason})" if reason and reason not in text else text


def _reason_of(error: Exception, location: str) -> str:
    """What came of a question where it may be asked again. Errors: LocationSettingsError where that is in vain."""
    from botocore.exceptions import NoCredentialsError, ParamValidationError

    if isinstance(error, NoCredentialsError):
        raise _key_problem(location, "there is no access key for it") from error
    if isinstance(error, ParamValidationError):
        next = f"set locations.{location}.root in settings.toml"  # it has the bucket: a key may be anything
        raise LocationSettingsError(f"data location {location}: {_line_of(error)}", next=next) from error
    return _line_of(error)


def _refusal(error: Any, copy: PackageCopy, location: str) -> str:
    """What the store said where it may be asked again. Errors: what the answer means, where it is final."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    answer = answer_of(code, status)
    if answer is Answer.MISSING:
        raise MissingCopyError(f"{_where(copy)} is not there") from error
    if answer is Answer.CHANGED:
        raise CorruptCopyError(f"{_where(copy)} was replaced while it was read") from error
    if answer is Answer.FORBIDDEN:
        raise MissingCopyError(f"{_where(copy)} may not be read: {code}") from error
    if answer is Answer.CREDENTIALS:
        raise _key_problem(location, f"the store refuses the access key: {code}") from error
    return f"{code} ({status})"


def _key_problem(location: str, what: str) -> LocationSettingsError:
    prefix = environment_prefix(location)
    return LocationSettingsError(
        f"data location {location}: {what}",
        next=f"set locations.{location}.credentials_file in settings.toml, or the environment variables "
        f"{prefix}ACCESS_KEY_ID and {prefix}SECRET_ACCESS_KEY",
    )


# --- one object --------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads an object in order, a few pieces ahead."""

    def __init__(self, store: _Store, found: _Object, copy: PackageCopy, part_bytes: int) -> None:
        self._pool = ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="s3")
        self._pieces = parts_of(found.size_bytes, part_bytes)
        self._coming: deque[Future[bytes]] = deque()
        self._read = lambda start, end: store.read_range(found, start, end, copy)
        self._held = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, fewer at the end of a piece; none at the end. All of it with `size` below 0."""
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK), b""))
        if not self._held:
            self._held = memoryview(self._next())
        data = bytes(self._held[:size])
        self._held = self._held[size:]
        return data

    def _next(self) -> bytes:
        while len(self._coming) < PARTS_AHEAD and (piece := next(self._pieces, None)) is not None:
            self._coming.append(self._pool.submit(self._read, *piece))
        return self._coming.popleft().result() if self._coming else b""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


# --- words ----------------------------------------------------------------------------------------------------------


def _place(copy: PackageCopy) -> ObjectPlace:
    """Errors: LocationSettingsError for a root that is none, CorruptCopyError for a path that is none."""
    root = copy.root or ""
    try:
        return object_place(root, os.fspath(copy.path))
    except ValueError as error:
        if root.startswith(SCHEME) and "path" in str(error):
            raise CorruptCopyError(f"{error} in data location {copy.location}") from error
        raise LocationSettingsError(
            f"data location {copy.location}: {error}", next=f"set locations.{copy.location}.root in settings.toml"
        ) from error


def _where(copy: PackageCopy) -> str:
    return f"{encode_name(copy.path)} at {copy.location} ({copy.root})"
