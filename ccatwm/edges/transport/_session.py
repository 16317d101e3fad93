"""Our side of a conversation with the agent, over whatever carries bytes. Touches: nothing; its link does."""

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from importlib.util import find_spec
from typing import Any, Protocol

from ccatwm.core.wire import WireError
from ccatwm.edges.transport._protocol import CODEC, GREETING, OLDEST_PYTHON, error_from_value
from ccatwm.errors import AgentStartError, CcatwmError, ConnectionLostError, TransportError

log = logging.getLogger("ccatwm.ssh")

MAX_NOISE = 1 << 20  # bytes that a login may print before the agent greets
BLOCK = 1 << 16
SILENCE_SECONDS = 60.0  # a busy agent says every 10 s that it lives

# How long a call may take in all; the agent's signs of life say nothing of a file system that hangs there.
CALL_SECONDS = 600.0
LONG_CALL_SECONDS = 6 * 3600.0
LONG_CALLS = {
    "hash_files",
    "link_trees",
    "remove_trees",
    "receive_tar",
    "receive_file",
    "receive_tree",
    "digest",
}
# A command that ended before it greeted was another one (0: the account is limited to it), or could not be run (env(1)).
NEVER_OURS = (0, 126, 127)
COMMAND_MARGIN_SECONDS = 30.0  # the agent ends a command's time-out itself

# One line without single quotes, exclamation marks and line breaks: any login shell passes it on as it is. It must also
# be read by the oldest Python, which is then told by its version.
BOOTSTRAP = (
    'import sys;v=sys.version_info;o=getattr(sys.stdout,"buffer",sys.stdout);'
    f'o.write(("{GREETING} %s %d.%d" % (sys.argv[1],v[0],v[1])).encode()+b"\\n");o.flush();'
    f"v[:2]>={OLDEST_PYTHON} or sys.exit(3);i=sys.stdin.buffer;"
    'exec(i.read(int.from_bytes(i.read(8),"big")))'
)
MODULES = (
    "ccatwm", "ccatwm.agent", "ccatwm.core", "ccatwm.core.archives", "ccatwm.core.digests", "ccatwm.core.input_lists",
    "ccatwm.core.model", "ccatwm.core.names", "ccatwm.core.outputs", "ccatwm.core.wire",
    "ccatwm.edges", "ccatwm.edges.hostfiles", "ccatwm.edges.hostfiles._memory",
    "ccatwm.edges.hostfiles.local", "ccatwm.edges.storage", "ccatwm.edges.storage.disk", "ccatwm.edges.transport",
    "ccatwm.edges.transport._protocol", "ccatwm.edges.transport.local", "ccatwm.edges.workfiles",
    "ccatwm.edges.workfiles._folders", "ccatwm.edges.workfiles._receive", "ccatwm.edges.workfiles._system",
    "ccatwm.edges.workfiles._tar", "ccatwm.edges.workfiles.local", "ccatwm.errors", "ccatwm.interfaces",
)  # fmt: skip


class Link(Protocol):
    """Carries bytes to the agent's stdin and from its stdout."""

    def send(self, data: bytes) -> None:
        """All of it. Errors: OSError, EOFError when the other side certainly does not get all."""
        ...

    def receive(self, size: int, seconds: float) -> bytes:
        """Some bytes, none at the end. Errors: TimeoutError, OSError."""
        ...

    def is_open(self) -> bool: ...

    def complaint(self) -> str:
        """What the other side wrote to stderr so far."""
        ...

    def exit_code(self) -> int | None:
        """Of the command over there, asked at its end; None where it is not told."""
        ...

    def close(self) -> None: ...


class AgentSession:
    """Starts the agent behind a link and calls it. After an error of the link it is closed for good.

    `where` names the other side in errors, `python` what runs there.
    """

    def __init__(self, link: Link, where: str, python: str) -> None:
        self._link = link
        self._where = where
        self._python = python
        self._received = bytearray()
        self._last_id = 0

    def is_open(self) -> bool:
        return self._link.is_open()

    def close(self) -> None:
        self._link.close()

    # --- starting ---------------------------------------------------------------------------------------------

    def start(self, nonce: str, base_dir: str, seconds: float) -> None:
        """Wait for the greeting, send the agent and what it serves.

        Errors: AgentStartError where it cannot run there, TransportError.
        """
        try:
            self._await_greeting(nonce, time.monotonic() + seconds)
            self._link.send(_sent_program() + CODEC.encode({"base_dir": base_dir}))
            self._await(0, "the start", time.monotonic() + seconds)
        except (OSError, EOFError, ConnectionLostError) as error:
            raise self._not_started(f"{error}" or "it ended") from error

    def _await_greeting(self, nonce: str, deadline: float) -> None:
        """What a login prints before is discarded."""
        wanted = re.compile(rf"^{GREETING} {nonce} (\d+)\.(\d+)\n".encode(), re.MULTILINE)
        while (found := wanted.search(self._received)) is None:
            if len(self._received) > MAX_NOISE:
                raise self._not_started(
                    f"the login printed more than {MAX_NOISE} bytes before it", AgentStartError
                )
            try:
                self._fill(deadline)
            except EOFError as error:
                never = self._link.exit_code() in NEVER_OURS
                raise self._not_started(f"{error}", AgentStartError if never else TransportError) from error
        version = (int(found[1]), int(found[2]))
        del self._received[: found.end()]
        if version < OLDEST_PYTHON:
            what = f"{self._python} there is Python {version[0]}.{version[1]}"
            raise self._not_started(what, AgentStartError)

    def _not_started(self, reason: str, kind: type[TransportError] = TransportError) -> TransportError:
        complaint = self._link.complaint().strip()
        self.close()
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return kind(
            f"the agent did not start: {reason}" + (f" ({complaint[-300:]})" if complaint else ""),
            where=self._where,
            next=f"set ssh.python to a Python {oldest} or newer on that host (a full path; now {self._python!r}), "
            "and see that a login there runs commands",
        )

    # --- calling ----------------------------------------------------------------------------------------------

    def call(self, part: str, method: str, arguments: dict[str, Any]) -> Any:
        """What `RemoteCalls.call` does."""
        self._last_id += 1
        name = f"{part}.{method}"
        call = {"id": self._last_id, "part": part, "method": method, "arguments": arguments}
        try:
            frame = CODEC.encode(call)
        except WireError as error:
            raise CcatwmError(f"{name}: {error}", where=self._where) from error
        try:
            self._link.send(frame)
        except (OSError, EOFError) as error:
            self.close()
            raise TransportError(
                f"the connection broke before {name} was called: {error or type(error).__name__}",
                where=self._where,
            ) from error
        return self._await(self._last_id, name, time.monotonic() + _seconds_for(method, arguments))

    def _await(self, number: int, name: str, deadline: float) -> Any:
        """The answer to call `number`. Whatever else comes ends the connection: nothing later is taken for an answer."""
        try:
            while True:
                answer = CODEC.read(lambda size: self._exactly(size, deadline))
                if answer["id"] != number:
                    raise WireError(f"an answer to call {answer['id']} came instead of {number}")
                if not answer.get("alive"):
                    break
            error = None if "value" in answer else _error_of(answer["error"], self._where, name)
        except (OSError, EOFError, WireError, TypeError, KeyError, AttributeError) as broken:
            self.close()
            reason = str(broken) or type(broken).__name__
            raise ConnectionLostError(
                f"no answer to {name} came: {reason}; it may have been done",
                where=self._where,
                next="the next pass looks at what became of it",
            ) from broken
        except BaseException:  # interrupted while the answer is on its way
            self.close()
            raise
        if error is not None:
            raise error
        return answer["value"]

    # --- reading ----------------------------------------------------------------------------------------------

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._received) < size:
            self._fill(deadline)
        data = bytes(memoryview(self._received)[:size])
        del self._received[:size]
        return data

    def _fill(self, deadline: float) -> None:
        seconds = min(SILENCE_SECONDS, deadline - time.monotonic())
        try:
            data = self._link.receive(BLOCK, max(0.001, seconds))
        except TimeoutError as error:
            raise TimeoutError("the processing host was silent for too long") from error
        if not data:
            raise EOFError("the connection ended")
        self._received += data


def _error_of(told: dict[str, Any], where: str, name: str) -> Exception:
    log.debug("%s: %s on the processing host: %s", where, name, told["trace"])
    return error_from_value(told, name)


def _seconds_for(method: str, arguments: dict[str, Any]) -> float:
    if "timeout_seconds" in arguments:
        return float(arguments["timeout_seconds"]) + COMMAND_MARGIN_SECONDS
    return LONG_CALL_SECONDS if method in LONG_CALLS else CALL_SECONDS


def _sent_program() -> bytes:
    """What the bootstrap runs, and the sources that this then imports."""
    sources = {name: _source(name) for name in MODULES}
    packed = zlib.compress(json.dumps(sources).encode(), 1)
    importer = _source("ccatwm.edges.transport._importer")[1] + "\nserve_sent()\n"
    return b"".join(len(part).to_bytes(8, "big") + part for part in (importer.encode(), packed))


def _source(name: str) -> tuple[bool, str]:
    """(is a package, source) of one of our modules."""
    spec = find_spec(name)
    assert spec is not None, name
    source = spec.loader.get_source(name)  # type: ignore[union-attr]  # every loader of source files has it
    return spec.submodule_search_locations is not None, source
