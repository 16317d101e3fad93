"""The other half of this program, on the processing host: a second wiring. Touches: stdin and stdout; its parts the rest.

It arrives over the connection with the modules it needs (`edges.transport.ssh` sends them), and ends when its stdin
does. A call names a method of the table that `build_methods` makes; nothing else can be called.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ccatwm.core.wire import WireError
from ccatwm.edges.hostfiles.local import BareHostFiles
from ccatwm.edges.storage.disk import DiskStorage
from ccatwm.edges.transport._protocol import ALIVE_SECONDS, CODEC, error_to_value
from ccatwm.edges.transport.local import LocalTransport
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import CcatwmError
from ccatwm.interfaces import PackageCopy, PlainEffects, Received

ANSWER_BYTES = 32 << 20  # of file content in one answer, about
LEFT_SECONDS = (
    600.0  # how long commands that outlived their time-out are read on after the connection has ended
)

FILE_METHODS = (
    "make_trees", "make_exclusive", "make_exclusives", "modes", "write_files", "exists", "read_links", "list_tree",
    "list_trees", "list_records", "list_folders", "list_others", "hash_files", "adopt_tree", "measure_trees",
    "link_trees", "switch_link", "switch_links", "rename", "remove_trees", "space", "shares_blocks",
)  # fmt: skip


class FileReader:
    """Reads many files, as many as one answer takes."""

    def __init__(self, files: LocalWorkFiles) -> None:
        self._files = files

    def read_some(
        self, paths: list[PurePosixPath], *, max_bytes: int, tails: bool
    ) -> dict[PurePosixPath, bytes | None]:
        """Content of the first of `paths`, of one at least."""
        read = self._files.read_tails if tails else self._files.read_files
        answers: dict[PurePosixPath, bytes | None] = {}
        together = max(1, min(64, ANSWER_BYTES // max(1, max_bytes)))
        size = 0
        for start in range(0, len(paths), together):
            found = read(paths[start : start + together], max_bytes=max_bytes)
            answers |= found
            size += sum(len(content or b"") for content in found.values())
            if size >= ANSWER_BYTES:
                break
        return answers


class PackageReceiver:
    """Opens package copies here and hands them to the files here: their bytes never cross the connection."""

    def __init__(self, files: LocalWorkFiles, disk: DiskStorage) -> None:
        self._files = files
        self._disk = disk

    def receive_tar(self, copy: PackageCopy, target: PurePosixPath, **expected: Any) -> Received:
        with self._disk.open(copy) as stream:
            return self._files.receive_tar(stream, target, **expected)

    def receive_file(self, copy: PackageCopy, target: PurePosixPath, **expected: Any) -> Received:
        with self._disk.open(copy) as stream:
            return self._files.receive_file(stream, target, **expected)

    def receive_tree(self, copy: PackageCopy, target: PurePosixPath, **expected: Any) -> Received:
        return self._files.receive_tree(self._disk.open_tree(copy), target, **expected)


def build_methods(base_dir: str, transport: LocalTransport) -> dict[str, Callable[..., Any]]:
    """What can be called, by `part.method`."""
    files, disk, host = (
        LocalWorkFiles(Path(base_dir), PlainEffects()),
        DiskStorage(PlainEffects()),
        BareHostFiles(),
    )
    receiver = PackageReceiver(files, disk)
    return {
        **{f"files.{name}": getattr(files, name) for name in FILE_METHODS},
        "files.read_some": FileReader(files).read_some,
        "files.receive_tar": receiver.receive_tar,
        "files.receive_file": receiver.receive_file,
        "files.receive_tree": receiver.receive_tree,
        "disk.form": disk.form,
        "host.digest": host.digest,
        "host.exists": host.exists,
        "host.fingerprint": host.fingerprint,
        "commands.run": transport.run,
    }


# --- serving ------------------------------------------------------------------------------------------------------


class Answers:
    """Writes frames to the connection; while a call takes long, a thread says that it lives.

    Where that cannot be written any more nobody waits for the call: work on files is broken off (whoever asked will
    ask again), a command is seen through.
    """

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._busy: tuple[int, bool] | None = None  # id of the call, whether it may be broken off
        threading.Thread(target=self._say_alive, daemon=True).start()

    def begin(self, call: dict[str, Any]) -> None:
        self._busy = (call["id"], call["part"] != "commands")

    def send(self, frame: bytes) -> None:
        self._busy = None
        self._write(frame)

    def _write(self, frame: bytes) -> None:
        with self._lock:
            self._output.write(frame)
            self._output.flush()

    def _say_alive(self) -> None:
        tick, seen = threading.Event(), None
        while not tick.wait(ALIVE_SECONDS):
            busy, before = self._busy, seen
            seen = busy
            if busy is None or busy is not before:
                continue
            try:
                self._write(CODEC.encode({"id": busy[0], "alive": True}))
            except OSError:
                if busy[1]:
                    os._exit(1)
                return


def serve() -> None:
    """Answer calls until stdin ends. The first frame says what is served: `{"base_dir"}`."""
    calls, output = sys.stdin.buffer, sys.stdout.buffer
    sys.stdin, sys.stdout = open(os.devnull), open(os.devnull, "w")  # noqa: SIM115  # nobody else reads or writes here
    os.dup2(sys.stdout.fileno(), 2)  # what nobody reads there would fill the connection
    transport = LocalTransport(PlainEffects())
    answers = Answers(output)
    try:
        methods = build_methods(CODEC.read(_exactly(calls))["base_dir"], transport)
        answers.send(CODEC.encode({"id": 0, "value": None}))
        while True:
            call = CODEC.read(_exactly(calls))
            answers.begin(call)
            answers.send(_answer(methods, call))
    except (EOFError, OSError):
        pass
    transport.wait_for_left(LEFT_SECONDS)
    os._exit(0)  # nothing is buffered; threads that still read hold nothing up


def _answer(methods: Mapping[str, Callable[..., Any]], call: dict[str, Any]) -> bytes:
    """The frame of a result, or of an error."""
    name = f"{call['part']}.{call['method']}"
    try:
        return CODEC.encode({"id": call["id"], "value": methods[name](**call["arguments"])})
    except WireError as error:
        told = error_to_value(CcatwmError(f"the answer of {name} cannot be brought over: {error}"), "")
    except Exception as error:
        told = error_to_value(error, traceback.format_exc())
    return CODEC.encode({"id": call["id"], "error": told})


def _exactly(stream: BinaryIO) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return read
