"""The agent behind a pipe instead of SSH: a real process, started by the same command line. Touches: processes."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccatwm.edges.transport._session import AgentSession
from ccatwm.edges.transport.ssh import build_command


class PipeLink:
    """Carries bytes to a process as a login shell on the processing host would."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def receive(self, size: int, seconds: float) -> bytes:
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), size)

    def is_open(self) -> bool:
        return self.process.poll() is None and not self.process.stdin.closed

    def complaint(self) -> str:
        return self.process.stderr.read(4096).decode() if self.process.poll() is not None else ""

    def exit_code(self) -> int | None:
        return self.process.poll()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        self.process.wait(10)


class PipeCalls:
    """`RemoteCalls` to an agent of this host."""

    def __init__(self, base_dir: Path, *, shell: str = "/bin/sh", python: str = sys.executable) -> None:
        nonce = secrets.token_hex(16)
        self.link = PipeLink([shell, "-c", build_command(python, nonce)])
        self.session = AgentSession(self.link, "pipe", python)
        self.session.start(nonce, str(base_dir), 20)

    def call(self, part: str, method: str, /, **arguments: Any) -> Any:
        return self.session.call(part, method, arguments)

    def close(self) -> None:
        self.session.close()
