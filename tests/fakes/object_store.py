"""An object store on this machine that speaks S3 over HTTP (moto's server), and what may go wrong on the way to it."""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

KEY_ID, SECRET = "not-a-secret-id", "canary-of-the-object-store"
BUCKET = "raw"
BLOCK = 1 << 20


@dataclass
class ObjectStore:
    """Buckets in memory. `faults` are taken one for each answer to a GET; what is not a GET is never touched."""

    url: str = ""
    client: Any = None
    faults: deque[str] = field(default_factory=deque)  # 503 | drop | cut
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    on_get: Callable[[str], None] | None = None

    def put(self, key: str, content: bytes, bucket: str = BUCKET) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def delete(self, key: str, bucket: str = BUCKET) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def ranges(self) -> list[str]:
        return [asked_for for method, _, asked_for in self.asked if method == "GET" and asked_for]


class _Faulty:
    """Spoils answers of an application, as a busy store or a bad line does."""

    def __init__(self, application: Any, store: ObjectStore) -> None:
        self._application = application
        self._store = store

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self._store.asked.append((method, path, environ.get("HTTP_RANGE", "")))
        if method == "GET" and self._store.on_get is not None:
            self._store.on_get(path)
        fault = self._store.faults.popleft() if method == "GET" and self._store.faults else ""
        if fault == "503":
            body = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if fault == "drop":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # else it stays open, and silent
            raise ConnectionResetError("dropped by the test")
        answer = self._application(environ, start)
        return _half(answer) if fault == "cut" else answer


def _half(answer: Iterable[bytes]) -> Iterator[bytes]:
    """Half of what the header promises, then the line breaks."""
    body = b"".join(answer)
    yield body[: len(body) // 2]
    raise ConnectionResetError("cut by the test")


class _FromFiles:
    """Answers for the objects that are files of a folder itself: moto reads a whole object for each piece of it."""

    def __init__(self, application: Any, folder: Path) -> None:
        self._application = application
        self._folder = folder

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        name = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        path = self._folder / name
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") or not name or not path.is_file():
            return self._application(environ, start)
        size = path.stat().st_size
        tag = f'"{path.stat().st_mtime_ns:x}"'
        if environ.get("HTTP_IF_MATCH", tag) != tag:
            start("412 Precondition Failed", [("Content-Length", "0")])
            return []
        asked_for = re.fullmatch(r"bytes=(\d+)-(\d*)", environ.get("HTTP_RANGE", ""))
        first, last = (int(asked_for[1]), min(int(asked_for[2] or size), size - 1)) if asked_for else (0, size - 1)
        headers = {"Content-Length": str(last - first + 1), "ETag": tag, "Accept-Ranges": "bytes"}
        headers |= {"Last-Modified": formatdate(path.stat().st_mtime, usegmt=True), "Content-Type": "binary/octet-stream"}
        if asked_for:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        start("206 Partial Content" if asked_for else "200 OK", list(headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else _blocks(path, first, last + 1)


def _blocks(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        while start < end and (data := stream.read(min(BLOCK, end - start))):
            yield data
            start += len(data)


@contextmanager
def object_store(files: Path | None = None) -> Iterator[ObjectStore]:
    """A store with an empty bucket `raw`, on a free port of 127.0.0.1. The files of `files` are objects of it, too."""
    import boto3
    from botocore.config import Config
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any, **__: Any) -> None: ...

    store = ObjectStore()
    buckets = DomainDispatcherApplication(create_backend_app)
    application = _Faulty(buckets if files is None else _FromFiles(buckets, files), store)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.url = f"http://127.0.0.1:{server.server_port}"
        store.client = boto3.client(
            "s3", endpoint_url=store.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
            region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        if BUCKET in [found["Name"] for found in store.client.list_buckets()["Buckets"]]:
            _empty(store)  # moto keeps its buckets for the whole process
        else:
            store.client.create_bucket(Bucket=BUCKET)
        store.asked.clear()
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _empty(store: ObjectStore) -> None:
    for row in store.client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        store.delete(row["Key"])
