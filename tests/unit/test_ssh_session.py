"""The conversation with the agent, without SSH: what a strange, silent or broken other side leads to."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from ccatwm import agent
from ccatwm.core.wire import PREFIX
from ccatwm.edges.transport import _session
from ccatwm.edges.transport._protocol import CODEC
from ccatwm.edges.transport._session import AgentSession
from ccatwm.errors import AgentStartError, CcatwmError, ConnectionLostError, DefectError, TransportError
from ccatwm.interfaces import Space

pytestmark = pytest.mark.quick

READY = CODEC.encode({"id": 0, "value": None})


class ScriptedLink:
    """Says what it was told to; an exception in the script is raised, the end of the script is the end."""

    def __init__(
        self, *script: bytes | Exception, fails_to_send: bool = False, exits_with: int | None = None
    ) -> None:
        self._script = list(script)
        self._fails = fails_to_send
        self._exits_with = exits_with
        self.closed = False

    def send(self, data: bytes) -> None:
        if self._fails:
            raise BrokenPipeError(32, "Broken pipe")

    def receive(self, size: int, seconds: float) -> bytes:
        if not self._script:
            return b""
        said = self._script.pop(0)
        if isinstance(said, Exception):
            raise said
        if len(said) > size:
            self._script.insert(0, said[size:])
        return said[:size]

    def is_open(self) -> bool:
        return not self.closed

    def complaint(self) -> str:
        return "bash: python3: command not found"

    def exit_code(self) -> int | None:
        return self._exits_with

    def close(self) -> None:
        self.closed = True


def session(*script: bytes | Exception, **options: Any) -> AgentSession:
    return AgentSession(ScriptedLink(*script, **options), "ssh ccat@login", "python3")


def started(*script: bytes | Exception) -> AgentSession:
    made = session(b"noise\nCCATWM-AGENT abc 3.11\n" + READY, *script)
    made.start("abc", "/base", 5)
    return made


def answer(number: int = 1, **content: object) -> bytes:
    return CODEC.encode({"id": number, **content})


# --- starting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"Welcome\r\n",
        b"x" * 1_000_000 + b"\n",
        b"CCATWM-AGENT other 3.11\n",
        b"no line end\n\n",
        b"\xff\0\n",
    ],
)
def test_noise_before_the_greeting_is_discarded(noise: bytes) -> None:
    greeting = b"CCATWM-AGENT abc 3.12\n"
    made = session(noise + greeting[:5], greeting[5:], READY[:7], READY[7:], answer(value=3))
    made.start("abc", "/base", 5)
    assert made.call("files", "space", {}) == 3


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ([b"bash: no such file\n"], "the connection ended"),
        ([b"x" * 1_100_000], "printed more than 1048576 bytes"),
        ([b"CCATWM-AGENT abc 2.7\n"], r"Python 2\.7"),
        ([b"CCATWM-AGENT abc 3.10\n"], r"Python 3\.10"),
        ([TimeoutError()], "silent for too long"),
        ([b"CCATWM-AGENT abc 3.11\n"], "no answer to the start came"),
        ([b"CCATWM-AGENT abc 3.11\n", b"Traceback (most recent call last)"], "no frame begins with"),
    ],
)
def test_an_agent_that_does_not_start_says_why_and_what_to_do(
    script: list[bytes | Exception], told: str
) -> None:
    made = session(*script)
    with pytest.raises(TransportError, match=told) as error:
        made.start("abc", "/base", 5)
    assert "python3: command not found" in error.value.message
    assert "set ssh.python" in error.value.next
    assert not made.is_open()


@pytest.mark.parametrize(
    ("script", "code", "for_a_person"),
    [
        ([], 127, True), ([b"noise"], 126, True), ([b"a forced command\n"], 0, True), ([], None, False), ([], 255, False),
        ([TimeoutError()], 127, False), ([b"CCATWM-AGENT abc 3.10\n"], None, True), ([b"x" * 1_100_000], None, True),
    ],
)  # fmt: skip
def test_a_python_that_is_not_there_is_for_a_person_and_a_broken_connection_is_not(
    script: list[bytes | Exception], code: int | None, for_a_person: bool
) -> None:
    with pytest.raises(TransportError) as error:
        session(*script, exits_with=code).start("abc", "/base", 5)
    assert isinstance(error.value, AgentStartError) is for_a_person


# --- calling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        PREFIX.pack(b"ccw1", 0xFFFFFFFF, 0),
        PREFIX.pack(b"ccw1", 10, 1 << 60),
        answer(value=1)[:-1],
        answer(2, value="of another call"),
        answer(0, value="of another call"),
        CODEC.encode(None),
        CODEC.encode([1]),
        CODEC.encode({"id": 1}),
        CODEC.encode({"id": 1, "error": None}),
        CODEC.encode({"id": 1, "error": {"class": "SystemExit"}}),
        TimeoutError(),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_anything_but_an_answer_leaves_the_outcome_open_and_ends_the_connection(
    reply: bytes | Exception,
) -> None:
    made = started(reply)
    with pytest.raises(ConnectionLostError, match=r"no answer to commands\.run came.*may have been done"):
        made.call("commands", "run", {})
    assert not made.is_open()


def test_a_call_that_did_not_go_out_was_certainly_not_made() -> None:
    made = session(fails_to_send=True)
    with pytest.raises(TransportError, match=r"broke before commands\.run was called: .*Broken pipe"):
        made.call("commands", "run", {})
    assert not made.is_open()


def test_what_cannot_be_sent_is_said_before_anything_is() -> None:
    made = started()
    with pytest.raises(CcatwmError, match="cannot be sent"):
        made.call("files", "exists", {"paths": object()})
    assert made.is_open()


def test_an_interrupted_call_ends_the_connection() -> None:
    made = session()

    def interrupted(size: int, seconds: float) -> bytes:
        raise KeyboardInterrupt

    made._link.receive = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.call("files", "space", {})
    assert not made.is_open()


def test_signs_of_life_are_waited_through_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = answer(alive=True)
    assert started(alive * 3, alive, answer(value=Space(1, 2))).call("files", "space", {}) == Space(1, 2)
    monkeypatch.setattr(_session, "CALL_SECONDS", -1.0)

    class Endless(ScriptedLink):
        def receive(self, size: int, seconds: float) -> bytes:
            if seconds <= 0.001:
                raise TimeoutError
            return alive

    made = AgentSession(Endless(), "ssh ccat@login", "python3")
    with pytest.raises(ConnectionLostError, match="silent"):
        made.call("files", "space", {})


def test_a_defect_over_there_says_so_and_the_connection_lives_on() -> None:
    error = {"class": "KeyError", "message": "'x'", "trace": "Traceback ..."}
    made = started(answer(error=error), answer(2, value=1))
    with pytest.raises(DefectError, match=r"files\.space failed on the processing host: KeyError"):
        made.call("files", "space", {})
    assert made.call("files", "space", {}) == 1


# --- the agent's side -----------------------------------------------------------------------------------------------


def test_a_busy_agent_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ALIVE_SECONDS", 0.02)
    output = io.BytesIO()
    answers = agent.Answers(output)
    for number in (1, 2):
        answers.begin({"id": number, "part": "files"})
        wait_for(lambda: CODEC.encode({"id": number, "alive": True}) in output.getvalue())  # noqa: B023
        answers.send(answer(number, value=None))
    size = len(output.getvalue())
    time.sleep(0.1)
    assert len(output.getvalue()) == size, "an idle agent is silent"


@pytest.mark.parametrize(("part", "seconds", "code"), [("files", 30, 1), ("commands", 1, 0)])
def test_when_nobody_listens_any_more_files_are_left_and_commands_seen_through(
    part: str, seconds: int, code: int
) -> None:
    program = (
        "import os, time\nfrom ccatwm import agent\nagent.ALIVE_SECONDS = 0.02\n"
        "ours, theirs = os.pipe()\nos.close(ours)\n"
        f"agent.Answers(open(theirs, 'wb')).begin({{'id': 1, 'part': '{part}'}})\n"
        f"time.sleep({seconds})\nos._exit(0)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == code


def test_what_is_in_no_table_is_not_called() -> None:
    methods = agent.build_methods("/base", agent.LocalTransport(agent.PlainEffects()))
    for name in (
        "files._discard",
        "files.root",
        "os.system",
        "commands.close",
        "disk.open",
        "files.__init__",
    ):
        part, _, method = name.partition(".")
        frame = agent._answer(methods, {"id": 1, "part": part, "method": method, "arguments": {}})
        assert CODEC.read(io.BytesIO(frame).read)["error"]["class"] == "KeyError"


def wait_for(met: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
