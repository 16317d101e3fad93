"""The processing host behind SSH: one connection per process, one channel on it. Touches: sockets, a file in STATE_DIR.

On the channel runs our own program, the agent (`ccatwm.agent`), which is sent when the connection is opened. Calls to
it are frames of `core.wire`.
"""

from __future__ import annotations

import secrets
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccatwm.edges.transport._breaker import LoginBreaker
from ccatwm.edges.transport._session import BOOTSTRAP, AgentSession
from ccatwm.errors import ConnectionLostError, LoginError, TransportError
from ccatwm.interfaces import Clock, CommandResult, Effects, RemoteCalls
from ccatwm.settings.schema import SshSettings

if TYPE_CHECKING:
    import paramiko

BREAKER_FILE = "ssh-breaker.json"
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"  # where ssh.python is looked for if it is no path
START_SECONDS = 30.0  # from the open connection to the agent's first word: a login profile may be slow


class SshConnection:
    """`RemoteCalls` over SSH. Opened by the first call, and again by the first one after it was closed or broke.

    `remembers` False: a refusal keeps nobody from the next attempt; one that is remembered counts all the same.
    """

    def __init__(
        self, ssh: SshSettings, base_dir: str, state_dir: Path, effects: Effects, clock: Clock, *, remembers: bool = True
    ) -> None:
        self._ssh = ssh
        self._base_dir = base_dir
        self._effects = effects
        self._breaker = LoginBreaker(state_dir / BREAKER_FILE, clock)
        self._remembers = remembers
        self._session: AgentSession | None = None
        self.opened = 0  # connections so far

    def call(self, part: str, method: str, /, **arguments: Any) -> Any:
        session = self._opened()
        with self._effects.around("remote.call", f"{part}.{method}"):
            return session.call(part, method, arguments)

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _opened(self) -> AgentSession:
        if self._session is None or not self._session.is_open():
            self.close()
            with self._effects.around("ssh.connect", f"{self._ssh.host}:{self._ssh.port}"):
                self._session = self._open()
            self.opened += 1
        return self._session

    def _open(self) -> AgentSession:
        """Closed again whatever goes wrong: a handshake left open takes one of the server's MaxStartups."""
        stack = ExitStack()
        try:
            return self._start(self._log_in(stack), stack)
        except BaseException:
            stack.close()
            raise

    def _log_in(self, stack: ExitStack) -> paramiko.Transport:
        from ccatwm.edges.transport import _login

        where = str(_login.hops_of(self._ssh)[-1])
        self._breaker.check(where, lambda: _login.identity_of(self._ssh))
        identities = _login.find_identities(self._ssh, stack)  # a key that is missing here was shown to nobody
        try:
            transport = _login.log_in(self._ssh, identities, stack)
        except LoginError as error:
            if not self._remembers:
                raise
            raise self._breaker.refuse(error, _login.identity_of(self._ssh)) from error
        self._breaker.reset()
        return transport

    def _start(self, transport: paramiko.Transport, stack: ExitStack) -> AgentSession:
        """The agent on the one channel of the connection."""
        from ccatwm.edges.transport import _login

        where, nonce = str(_login.hops_of(self._ssh)[-1]), secrets.token_hex(16)
        with _limited(START_SECONDS, transport.close):
            try:
                channel = transport.open_session(timeout=START_SECONDS)
                channel.exec_command(build_command(self._ssh.python, nonce))
            except _login.Broken as error:
                raise TransportError(
                    f"the server lets us in but runs no command: {error or type(error).__name__}", where=where,
                    next="is the account limited to file transfers or to another command there?",
                ) from error  # fmt: skip
            link = _login.ChannelLink(transport, channel, stack.close)
            session = AgentSession(link, where, self._ssh.python)
            session.start(nonce, self._base_dir, START_SECONDS)
        return session


@contextmanager
def _limited(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` if the block takes longer: paramiko waits for some answers without a time-out."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def build_command(python: str, nonce: str) -> str:
    """The command line for the login shell there, the same for all of them; everything else goes through stdin.

    The nonce tells the agent's greeting from what a login prints.
    """
    return f"exec env -i PATH={SEARCH_PATH} {shlex.quote(python)} -I -X utf8 -c '{BOOTSTRAP}' {nonce}"


class SshTransport:
    """`Transport` by the agent at the other end of a connection."""

    def __init__(self, remote: RemoteCalls) -> None:
        self._remote = remote

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        timeout_seconds: float = 60.0,
    ) -> CommandResult:
        try:
            result: CommandResult = self._remote.call(
                "commands", "run", argv=list(argv), environment=dict(environment), stdin=stdin,
                timeout_seconds=timeout_seconds,
            )  # fmt: skip
        except ConnectionLostError as error:
            return CommandResult(None, b"", str(error).encode("utf-8", "replace"))
        return result

    def close(self) -> None:
        """The connection is shared: whoever made it closes it."""
