"""Opens an SSH connection, hop by hop: host keys, then keys of the account. Touches: sockets, key files, the agent.

The only module that knows paramiko; it is imported when a connection is opened.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paramiko

from ccatwm.edges.transport._known_hosts import KnownKey, fingerprint, host_name, keys_of, ordered_kinds
from ccatwm.errors import HostKeyChangedError, HostKeyError, LoginError, TransportError
from ccatwm.settings.schema import SshSettings

log = logging.getLogger("ccatwm.ssh")

SEND_SECONDS = 60.0  # without any progress
EXIT_SECONDS = 2.0  # from the end of a command's output to its exit code
Broken = (paramiko.SSHException, EOFError, OSError)


@dataclass(frozen=True)
class Hop:
    """A host on the way; the last one is where we go. `via` is the hop before it, for texts."""

    user: str
    host: str
    port: int
    via: str = ""

    def __str__(self) -> str:
        return f"ssh {self.user}@{host_name(self.host, self.port)}" + (f" via {self.via}" if self.via else "")


@dataclass(frozen=True)
class Identity:
    """A key to show; `name` is for texts."""

    name: str
    key: Any


def hops_of(ssh: SshSettings) -> list[Hop]:
    """`proxy_jump` and the host itself, in the order of the way."""
    user = ssh.user or _own_name()
    hops: list[Hop] = []
    for text in filter(None, (part.strip() for part in ssh.proxy_jump.split(","))):
        name, _, place = text.rpartition("@")
        host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "22")
        hops.append(Hop(name or user, host.strip("[]"), int(port), hops[-1].host if hops else ""))
    return [*hops, Hop(user, ssh.host, ssh.port, hops[-1].host if hops else "")]


def _own_name() -> str:
    import getpass

    return getpass.getuser()


def log_in(ssh: SshSettings, identities: list[Identity], stack: ExitStack) -> paramiko.Transport:
    """The connection to the host; `stack` closes it and what it leads through.

    Errors: HostKeyError, LoginError, TransportError for a host that does not answer as an SSH server.
    """
    if not log.isEnabledFor(logging.DEBUG):  # paramiko logs tracebacks of what is an expected error here
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    transport: paramiko.Transport | None = None
    for hop in hops_of(ssh):
        carrier = _dial(hop, ssh) if transport is None else _tunnel(transport, hop, ssh)
        stack.callback(
            carrier.close
        )  # an unfinished handshake that stays open takes one of the server's MaxStartups
        transport = _shake_hands(carrier, hop, ssh, stack)
        _show_keys(transport, hop, identities)
    assert transport is not None, "there is one hop at least"
    transport.set_keepalive(ssh.keepalive_seconds)
    return transport


# --- the way ------------------------------------------------------------------------------------------------------


def _dial(hop: Hop, ssh: SshSettings) -> socket.socket:
    try:
        carrier = socket.create_connection((hop.host, hop.port), ssh.connect_timeout_seconds)
    except OSError as error:
        raise TransportError(
            f"cannot be reached: {error.strerror or error}", where=str(hop), next="see ssh.host and ssh.port; "
            "is the host up, and does a firewall let us out?"
        ) from error  # fmt: skip
    # Small packets are answered at once: without this a command over an open connection takes 50 ms instead of 3.
    carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A host that acknowledges nothing is gone: paramiko itself would try to write for ever.
    carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS * 1000))
    return carrier


def _tunnel(transport: paramiko.Transport, hop: Hop, ssh: SshSettings) -> paramiko.Channel:
    try:
        return transport.open_channel(
            "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=ssh.connect_timeout_seconds
        )
    except Broken as error:
        raise TransportError(
            f"cannot be reached from {hop.via}: {error}",
            where=str(hop),
            next="does that host allow forwarding?",
        ) from error


def _shake_hands(carrier: Any, hop: Hop, ssh: SshSettings, stack: ExitStack) -> paramiko.Transport:
    """The encrypted connection to the host whose key we know."""
    known = _read_known(ssh, hop)
    try:
        transport = paramiko.Transport(carrier)
        stack.callback(transport.close)
        transport.banner_timeout = ssh.banner_timeout_seconds
        transport.handshake_timeout = ssh.connect_timeout_seconds
        transport.auth_timeout = ssh.auth_timeout_seconds
        options = transport.get_security_options()
        options.key_types = ordered_kinds(tuple(options.key_types), known)
        transport.start_client(timeout=ssh.banner_timeout_seconds + ssh.connect_timeout_seconds)
        key = transport.get_remote_server_key() if transport.initial_kex_done else None
    except Broken as error:
        raise _no_server(hop, str(error) or type(error).__name__) from error
    if key is None:
        raise _no_server(hop, "the key exchange did not end in time")
    _check_host_key(hop, ssh, known, KnownKey(key.get_name(), key.asbytes()))
    return transport


def _no_server(hop: Hop, reason: str) -> TransportError:
    return TransportError(
        f"something answers there, but not as an SSH server: {reason}", where=str(hop),
        next="see ssh.host and ssh.port; a server with too many connections (MaxStartups) hangs up like this too",
    )  # fmt: skip


# --- host keys ----------------------------------------------------------------------------------------------------


def _read_known(ssh: SshSettings, hop: Hop) -> list[KnownKey]:
    file = Path(ssh.known_hosts).expanduser()
    try:
        return keys_of(file.read_text(encoding="utf-8", errors="replace"), host_name(hop.host, hop.port))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostKeyError(
            f"{file} cannot be read: {error.strerror}",
            where=str(hop),
            next="set ssh.known_hosts to a readable file",
        ) from error


def _check_host_key(hop: Hop, ssh: SshSettings, known: list[KnownKey], shown: KnownKey) -> None:
    """Errors: HostKeyError, unless the very key is known. None is ever accepted because it is the first."""
    same = [key for key in known if key.blob == shown.blob]
    if any(key.revoked for key in same):
        raise _refused_key(hop, ssh, shown, "the host shows a key that is marked @revoked", "do not connect")
    if same:
        return
    others = [key for key in known if not key.revoked]
    name, line = host_name(hop.host, hop.port), f"{shown.kind} {base64.b64encode(shown.blob).decode('ascii')}"
    if others:
        kinds = ", ".join(f"{key.kind} {fingerprint(key.blob)}" for key in others)
        raise _refused_key(
            hop, ssh, shown, f"the host key CHANGED (known: {kinds}): somebody may be between us and the host",
            "ask the operators of the host whether its key was changed and compare the fingerprint with what they say; "
            f"only then `ssh-keygen -R '{name}' -f {_file(ssh)}` and add the line `{name} {line}` to it",
            HostKeyChangedError,
        )  # fmt: skip
    raise _refused_key(
        hop, ssh, shown, "the host key is not known",
        "compare the fingerprint with what the operators of the host publish; if it is the same, "
        f"`echo '{name} {line}' >> {_file(ssh)}`",
    )  # fmt: skip


def _file(ssh: SshSettings) -> Path:
    return Path(ssh.known_hosts).expanduser()


def _refused_key(
    hop: Hop, ssh: SshSettings, shown: KnownKey, what: str, next: str, kind: type[HostKeyError] = HostKeyError
) -> HostKeyError:
    return kind(
        f"{what}: {hop.host} port {hop.port} shows {shown.kind} {fingerprint(shown.blob)}; keys are read from {_file(ssh)}"
        + ("" if _file(ssh).exists() else ", which is not there"),
        where=str(hop),
        next=next,
    )


# --- keys of the account --------------------------------------------------------------------------------------------


def find_identities(ssh: SshSettings, stack: ExitStack) -> list[Identity]:
    """What can be shown: the key file if it has no passphrase, else keys of the agent. Errors: LoginError for nothing.

    Each key that is shown in vain counts as a failed login there: where one is named, no other is shown.
    """
    own = _key_of_file(ssh) if ssh.key_file else None
    if own is not None:
        return [own]
    held = list(_keys_of_agent(stack)) if ssh.agent else []
    if ssh.key_file:
        held = _only_named(Path(ssh.key_file).expanduser(), held)
    if not held:
        raise _no_identity(ssh)
    return held


def _key_of_file(ssh: SshSettings) -> Identity | None:
    """None for a key with a passphrase: there is nobody to type it."""
    file = Path(ssh.key_file).expanduser()
    try:
        key = paramiko.PKey.from_path(file)
        if ssh.certificate_file:
            key.load_certificate(str(Path(ssh.certificate_file).expanduser()))
    except OSError as error:
        raise _no_key(ssh, f"{error.filename or file} cannot be read: {error.strerror or error}") from error
    except TypeError:  # cryptography: "Key is password-protected, but password not provided"
        return None
    except (paramiko.SSHException, ValueError, struct.error) as error:
        if isinstance(error, paramiko.PasswordRequiredException) or "password" in str(error).lower():
            return None
        raise _no_key(ssh, f"{file} or its certificate is no key that can be used: {error}") from error
    return Identity(f"{file}" + (" with its certificate" if key.public_blob else ""), key)


def _keys_of_agent(stack: ExitStack) -> Iterator[Identity]:
    try:
        agent = paramiko.Agent()
    except Broken:  # its socket is there, nobody answers
        return
    stack.callback(agent.close)
    for key in agent.get_keys():
        yield Identity(f"{key.comment or key.get_name()} (agent)", key)


def _only_named(file: Path, held: list[Identity]) -> list[Identity]:
    """Of the agent's keys the one that belongs to a key file, where its public half lies beside it."""
    try:
        blob = base64.b64decode(file.with_name(file.name + ".pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return held
    return [identity for identity in held if identity.key.asbytes() == blob]


def _no_identity(ssh: SshSettings) -> LoginError:
    if ssh.key_file:
        return _no_key(
            ssh,
            f"{ssh.key_file} has a passphrase, and the agent does not hold it"
            if ssh.agent
            else f"{ssh.key_file} has a passphrase, and ssh.agent is false",
        )
    return _no_key(ssh, "there is no key to log in with: ssh.key_file is not set, and the agent holds none")


def _no_key(ssh: SshSettings, what: str) -> LoginError:
    agent = os.environ.get("SSH_AUTH_SOCK")
    seen = f"agent: {agent}" if agent else "SSH_AUTH_SOCK is not set: no agent"
    return LoginError(
        f"{what} ({seen})", where=str(hops_of(ssh)[-1]),
        next="set ssh.key_file to a key without a passphrase that is readable for this account alone, or start an agent "
        "whose SSH_AUTH_SOCK cron knows and `ssh-add` the key",
    )  # fmt: skip


def _show_keys(transport: paramiko.Transport, hop: Hop, identities: list[Identity]) -> None:
    """Errors: LoginError when the server wants something else or more, TransportError when it went away."""
    for identity in identities:
        try:
            more = transport.auth_publickey(hop.user, identity.key)
        except paramiko.BadAuthenticationType as error:
            raise _wants(hop, "takes no keys", error.allowed_types) from error
        except paramiko.AuthenticationException as error:
            if "timeout" in str(error).lower():
                raise TransportError("the login was not answered in time", where=str(hop)) from error
            log.debug("%s: %s was refused: %s", hop, identity.name, error)
            if not transport.is_active():  # MaxAuthTries, or whoever watches the log there
                break
        except Broken as error:
            raise TransportError(f"the connection broke at the login: {error}", where=str(hop)) from error
        else:
            if more:
                raise _wants(hop, "takes the key but wants more", more)
            log.debug("%s: logged in with %s", hop, identity.name)
            return
    shown = ", ".join(identity.name for identity in identities)
    raise LoginError(
        f"the server refused the login of {hop.user} with {shown}", where=str(hop),
        next=f"is this key in authorized_keys of {hop.user} there, the certificate still valid, the account not locked? "
        "`ssh -v` with the same key tells more",
    )  # fmt: skip


def _wants(hop: Hop, what: str, kinds: list[str]) -> LoginError:
    return LoginError(
        f"the server {what}: {', '.join(kinds)} (a password or a second factor, which nobody is there to type)",
        where=str(hop),
        next=f"ask the centre for a key of {hop.user} that is exempt from it, perhaps limited to this host's address",
    )


def identity_of(ssh: SshSettings) -> str:
    """What is shown at the door, as one digest: settings of the login, state of its files, keys of the agent."""
    with ExitStack() as stack:
        held = sorted(i.key.asbytes() for i in _keys_of_agent(stack)) if ssh.agent else []
    facts = [
        repr(replace(ssh, known_hosts="", python="")),
        *(_state(name) for name in (ssh.key_file, ssh.key_file + ".pub", ssh.certificate_file)),
    ]
    return hashlib.sha256("\n".join(facts).encode() + b"".join(held)).hexdigest()


def _state(name: str) -> str:
    try:
        found = Path(name).expanduser().stat()
    except OSError:
        return "-"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


# --- the channel ----------------------------------------------------------------------------------------------------


class ChannelLink:
    """Carries bytes over the one session channel of a connection; what comes on stderr is kept, bounded, and read off."""

    def __init__(
        self, transport: paramiko.Transport, channel: paramiko.Channel, close: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._channel = channel
        self._close = close
        self._complaint = b""

    def send(self, data: bytes) -> None:
        self._channel.settimeout(SEND_SECONDS)
        self._channel.sendall(data)

    def receive(self, size: int, seconds: float) -> bytes:
        self._read_stderr()
        self._channel.settimeout(seconds)
        return self._channel.recv(size)

    def is_open(self) -> bool:
        return self._transport.is_active() and not self._channel.closed and not self._channel.eof_received

    def complaint(self) -> str:
        self._read_stderr()
        return self._complaint.decode("utf-8", "replace")

    def exit_code(self) -> int | None:
        """paramiko has -1 where a signal ended it, or the connection did."""
        told = self._channel.status_event.wait(EXIT_SECONDS) and self._channel.exit_status >= 0
        return int(self._channel.exit_status) if told else None

    def _read_stderr(self) -> None:
        while self._channel.recv_stderr_ready() and (data := self._channel.recv_stderr(1 << 16)):
            self._complaint = (self._complaint + data)[-4096:]

    def close(self) -> None:
        self._close()
