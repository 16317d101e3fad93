"""Commands on this host. Touches: processes."""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from ccatwm.errors import TransportError
from ccatwm.interfaces import CommandResult, Effects

MAX_OUTPUT = 64 << 20  # bytes of stdout and stderr together that are kept
BLOCK = 1 << 16
TOO_LONG = b"\nccatwm: it wrote more than %d bytes; how it ended is not told, since its output is cut\n"


class LocalTransport:
    """`Transport` by processes of this host, each in a session of its own."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._left: list[threading.Thread] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        timeout_seconds: float = 60.0,
    ) -> CommandResult:
        deadline = time.monotonic() + timeout_seconds
        with self._effects.around("process.run", argv[0]):
            command = _Command(_start(argv, environment), stdin)
            ended = command.talk(deadline)
            result = command.result()
            if not ended:
                self._leave(command)
        return result

    def _leave(self, command: _Command) -> None:
        """Left to itself, but read on: with nobody at the pipe it would die of the next line it writes."""
        thread = threading.Thread(target=command.drain, daemon=True)
        thread.start()
        self._left.append(thread)

    def wait_for_left(self, seconds: float) -> None:
        """Wait for commands that were left to themselves, `seconds` at most in all."""
        deadline = time.monotonic() + seconds
        for thread in self._left:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Nothing is held."""


def _start(argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument
        reason = getattr(error, "strerror", None) or str(error)
        raise TransportError(
            f"{argv[0]} could not be started: {reason}", next="is it installed there, and is its path right?"
        ) from error


class _Command:
    """A process being talked to: stdin is fed while both outputs are read, so that neither side waits for the other."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes) -> None:
        self._process = process
        self._stdin = memoryview(stdin)
        self._kept: dict[IO[bytes], list[bytes]] = {_pipe(process.stdout): [], _pipe(process.stderr): []}
        self._size = 0
        self._exit_code: int | None = None
        self._selector = selectors.DefaultSelector()
        for output in self._kept:
            self._selector.register(output, selectors.EVENT_READ)
        self._feed_or_close(_pipe(process.stdin))

    def _feed_or_close(self, pipe: IO[bytes]) -> None:
        if not self._stdin:
            pipe.close()
            return
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_WRITE)

    def talk(self, deadline: float | None) -> bool:
        """Until the command has ended: True. False if the deadline (monotonic) came first."""
        while self._selector.get_map():
            ready = self._selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready and deadline is not None and time.monotonic() >= deadline:
                return False
            for key, events in ready:
                pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # only pipes are registered
                (self._feed if events & selectors.EVENT_WRITE else self._take)(pipe)
        return self._wait(deadline)

    def _wait(self, deadline: float | None) -> bool:
        try:
            code = self._process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # it closed its outputs and goes on
            return False
        self._selector.close()
        self._exit_code = code
        return True

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self._stdin = self._stdin[os.write(pipe.fileno(), self._stdin[:BLOCK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more: its own affair
            self._stdin = memoryview(b"")
        if not self._stdin:
            self._selector.unregister(pipe)
            pipe.close()

    def _take(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), BLOCK)
        if not data:
            self._selector.unregister(pipe)
            pipe.close()
            return
        self._size += len(data)
        if self._size <= MAX_OUTPUT:
            self._kept[pipe].append(data)

    def drain(self) -> None:
        """Read and forget until it ends."""
        self._size = MAX_OUTPUT + 1
        self.talk(None)

    def result(self) -> CommandResult:
        """As far as it is known by now. Half of an answer would be taken for all of it: then no exit code is told."""
        stdout, stderr = (b"".join(parts) for parts in self._kept.values())
        if self._size > MAX_OUTPUT:
            return CommandResult(None, stdout, stderr + TOO_LONG % MAX_OUTPUT)
        return CommandResult(self._exit_code, stdout, stderr)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "asked for when it was started"
    return pipe
