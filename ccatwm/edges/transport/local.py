"""Commands on this host. Touches: processes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from ccatwm.errors import TransportError
from ccatwm.interfaces import CommandResult


class LocalTransport:
    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        timeout_seconds: float = 60.0,
    ) -> CommandResult:
        try:
            process = subprocess.Popen(
                argv, env=dict(environment), cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise TransportError(f"{argv[0]}: {error.strerror}") from error
        try:
            out, err = process.communicate(stdin, timeout_seconds)
        except subprocess.TimeoutExpired:
            return CommandResult(None)
        return CommandResult(process.returncode, out, err)

    def close(self) -> None:
        pass
