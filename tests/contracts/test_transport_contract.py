"""What every `Transport` does, here and behind the agent. One suite; a transport is one more fixture parameter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccatwm.edges.transport import local as module
from ccatwm.edges.transport.local import LocalTransport
from ccatwm.edges.transport.ssh import SshTransport
from ccatwm.errors import TransportError
from ccatwm.interfaces import PlainEffects, Transport
from tests.fakes.pipe import PipeCalls

pytestmark = pytest.mark.quick

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
MANY = 20_000_000


@pytest.fixture(params=["local", "agent"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    if request.param == "local":
        yield LocalTransport(PlainEffects())
        return
    calls = PipeCalls(tmp_path)
    yield SshTransport(calls)
    calls.close()


def test_output_and_exit_code_come_back(transport: Transport) -> None:
    result = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], environment=ENVIRONMENT)
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")


def test_no_shell_reads_the_arguments(transport: Transport) -> None:
    words = ["$(id)", "a b", "'", '"', "\\", "*", "`id`", "\n", "é", os.fsdecode(b"\xff"), ""]
    result = transport.run(["printf", "%s\\0", *words], environment=ENVIRONMENT)
    assert result.stdout == b"".join(os.fsencode(word) + b"\0" for word in words)


def test_the_environment_is_the_whole_environment(transport: Transport) -> None:
    result = transport.run(["env"], environment={**ENVIRONMENT, "SECRET": "x=y\nz"})
    assert sorted(result.stdout.decode().splitlines()) == ["PATH=/usr/bin:/bin", "SECRET=x=y", "z"]


def test_stdin_arrives_and_ends(transport: Transport) -> None:
    result = transport.run(["cat"], environment=ENVIRONMENT, stdin=bytes(range(256)) * 8000)
    assert result.stdout == bytes(range(256)) * 8000
    assert transport.run(["cat"], environment=ENVIRONMENT).stdout == b""


def test_much_on_both_outputs_at_once_and_stdin_that_nobody_reads_block_nobody(transport: Transport) -> None:
    script = f"head -c {MANY} /dev/zero & head -c {MANY} /dev/zero >&2; wait"
    result = transport.run(["sh", "-c", script], environment=ENVIRONMENT, stdin=bytes(1 << 20))
    assert (result.exit_code, len(result.stdout), len(result.stderr)) == (0, MANY, MANY)


def test_a_program_that_cannot_be_started_certainly_never_began(transport: Transport) -> None:
    for argv in (["no-such-program"], ["/etc/passwd"], ["true", "a\0b"]):
        with pytest.raises(TransportError, match=f"{argv[0]} could not be started"):
            transport.run(argv, environment=ENVIRONMENT)
    assert transport.run(["true"], environment=ENVIRONMENT).exit_code == 0


def test_a_command_ended_by_a_signal_says_which(transport: Transport) -> None:
    assert transport.run(["sh", "-c", "kill -9 $$"], environment=ENVIRONMENT).exit_code == -9


def test_after_the_time_out_a_command_goes_on_and_the_next_one_runs(
    transport: Transport, tmp_path: Path
) -> None:
    script = f"echo begun; sleep 1; echo more; sleep 0.2; echo done > {tmp_path}/done"
    result = transport.run(["sh", "-c", script], environment=ENVIRONMENT, timeout_seconds=0.4)
    assert (result.exit_code, result.stdout) == (None, b"begun\n")
    assert transport.run(["true"], environment=ENVIRONMENT).exit_code == 0
    wait_for((tmp_path / "done").exists)


def test_a_command_that_closes_its_outputs_and_goes_on_is_waited_for(transport: Transport) -> None:
    script = "exec >&- 2>&-; sleep 0.3; exit 3"
    assert transport.run(["sh", "-c", script], environment=ENVIRONMENT).exit_code == 3
    late = transport.run(["sh", "-c", script], environment=ENVIRONMENT, timeout_seconds=0.05)
    assert late.exit_code is None


def test_output_that_had_to_be_cut_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OUTPUT", 1 << 17)
    result = LocalTransport(PlainEffects()).run(
        ["head", "-c", "1000000", "/dev/zero"], environment=ENVIRONMENT
    )
    assert result.exit_code is None
    assert len(result.stdout) <= 1 << 17
    assert b"its output is cut" in result.stderr


def wait_for(met: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
