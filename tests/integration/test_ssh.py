"""The connection against a real SSH server: who is let in, what is said when not, and what a broken one means."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from ccatwm.edges.storage.ssh import SshDiskStorage
from ccatwm.edges.transport.ssh import SshTransport
from ccatwm.edges.workfiles.ssh import SshWorkFiles
from ccatwm.errors import (
    AgentStartError,
    ConnectionLostError,
    HostKeyChangedError,
    HostKeyError,
    LoginError,
    TransportError,
)
from ccatwm.interfaces import FileWrite, PackageCopy
from ccatwm.settings.schema import SshSettings
from tests.fakes.sshd import Server, Site, connected, open_site, run, why_not

pytestmark = pytest.mark.ssh

E = {"PATH": "/usr/bin:/bin"}
P = PurePosixPath
own_account = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make an account with a profile of its own"
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with open_site() as site:
        yield site


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Server]:
    with Server(site, authorized=[site.key("me"), site.key("locked", "a passphrase")]) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    running.cut()
    running.site.set_profile("")


@pytest.fixture
def settings(server: Server) -> SshSettings:
    return server.settings(server.site.key("me"))


def answer(site: Site, settings: SshSettings, state: Path) -> bytes:
    """What one command says over a connection of its own."""
    with connected(site, settings, state) as connection:
        return SshTransport(connection).run(["echo", "here"], environment=E).stdout


def wait_for(met: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# --- let in ---------------------------------------------------------------------------------------------------------


def test_one_connection_and_one_channel_serve_all_ports(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    logins = server.logins()
    raw = site.folder / "raw"
    raw.mkdir()
    (raw / "scan.fits").write_bytes(b"photons")
    with connected(site, settings, tmp_path) as connection:
        work, disk = (
            SshWorkFiles(connection, P(site.base)),
            SshDiskStorage(connection, {"/ours": str(site.folder)}),
        )
        copy = PackageCopy("1", "raw", "disk", "/ours/raw", "scan.fits")
        work.write_files([FileWrite(P("a/b"), b"content")])
        assert disk.form(copy) == "file"
        with disk.open(copy) as stream:
            work.receive_file(stream, P("p"), name="scan.fits", size_bytes=7, checksum=None)
        assert work.read_files([P("a/b"), P("p/scan.fits")]) == {
            P("a/b"): b"content",
            P("p/scan.fits"): b"photons",
        }
        assert SshTransport(connection).run(["id", "-un"], environment=E).stdout.decode().strip() == site.user
        assert connection.opened == 1
    assert server.logins() == logins + 1
    assert "MaxSessions 1" in (server.folder / "config").read_text()
    assert (site.base / "a/b").owner() == site.user


def test_a_closed_connection_is_opened_again_when_it_is_needed(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    with connected(site, settings, tmp_path) as connection:
        for closed in range(3):
            assert SshTransport(connection).run(["true"], environment=E).exit_code == 0
            connection.close() if closed else server.cut()
            wait_for(lambda: closed or not connection._session.is_open())  # noqa: B023
        assert connection.opened == 3


def test_a_key_of_another_kind_and_an_rsa_host_key_do(site: Site, tmp_path: Path) -> None:
    keys = [site.key("ecdsa", kind="ecdsa"), site.key("rsa", kind="rsa")]
    with Server(site, "rsa-host", authorized=keys) as server:
        rsa = site.key("host-rsa", kind="rsa")
        server.stop()
        server.options = [f"HostKey {rsa}"]  # beside the ed25519 key, which is not known to us
        server.start()
        for key in keys:
            settings = server.settings(key)
            Path(settings.known_hosts).write_text(server.known_line(rsa))
            assert answer(site, settings, tmp_path) == b"here\n"


@contextmanager
def ssh_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], None]]:
    """An agent; calling the value adds a key with its passphrase."""
    sock = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
    wait_for(sock.exists)

    def add(key: Path, passphrase: str = "") -> None:
        ask = folder / "ask"
        ask.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        ask.chmod(0o700)
        run("ssh-add", key, env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"})

    try:
        yield add
    finally:
        process.terminate()
        process.wait(10)


def test_a_key_with_a_passphrase_is_used_through_the_agent_only(
    site: Site, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = server.settings(site.key("locked"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(LoginError, match=r"locked has a passphrase, and ssh\.agent is false"):
        answer(site, settings, tmp_path)
    with pytest.raises(LoginError, match=r"the agent does not hold it \(SSH_AUTH_SOCK is not set"):
        answer(site, replace(settings, agent=True), tmp_path)
    with ssh_agent(tmp_path, monkeypatch) as add:
        with pytest.raises(LoginError, match="the agent does not hold it"):
            answer(site, replace(settings, agent=True), tmp_path)
        add(site.key("stranger"), "")
        add(site.key("locked"), "a passphrase")
        assert answer(site, replace(settings, agent=True), tmp_path) == b"here\n", (
            "a changed agent is tried at once"
        )
        assert "stranger" not in server.log(), "of the agent's keys only the named one is shown"
        assert answer(site, server.settings(agent=True), tmp_path) == b"here\n", "no key named: all are tried"
    with pytest.raises(LoginError, match="the agent holds none"):
        answer(site, server.settings(agent=True), tmp_path)


def test_a_certificate_opens_where_the_key_alone_does_not(site: Site, tmp_path: Path) -> None:
    ca, key = site.key("ca"), site.key("certified")
    run("ssh-keygen", "-q", "-s", ca, "-I", "me", "-n", site.user, "-V", "-1m:+1h", f"{key}.pub")
    certificate = Path(shutil.move(key.with_name("certified-cert.pub"), tmp_path / "certificate.pub"))
    with Server(site, "certified", options=[f"TrustedUserCAKeys {ca}.pub"]) as server:
        with pytest.raises(LoginError, match="refused the login"):
            answer(site, server.settings(key), tmp_path)
        settings = server.settings(key, certificate_file=str(certificate))
        assert answer(site, settings, tmp_path) == b"here\n", "a changed setting is tried at once"
        run("ssh-keygen", "-q", "-s", ca, "-I", "me", "-n", site.user, "-V", "-2h:-1h", f"{key}.pub")
        settings = replace(settings, certificate_file=str(key.with_name("certified-cert.pub")))
        with pytest.raises(LoginError, match="certificate still valid"):
            answer(site, settings, tmp_path)


def test_the_way_may_lead_over_other_hosts_each_with_a_known_key(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    with Server(site, "jump", authorized=[site.key("me")]) as jump:
        jump_settings = replace(settings, proxy_jump=f"{site.user}@127.0.0.1:{jump.port}")
        with pytest.raises(HostKeyError, match=f"not known: 127.0.0.1 port {jump.port} shows"):
            answer(site, jump_settings, tmp_path)
        Path(settings.known_hosts).write_text(jump.known_line())
        with pytest.raises(HostKeyError, match=f"not known: 127.0.0.1 port {server.port} shows") as unknown:
            answer(site, jump_settings, tmp_path)
        assert "via 127.0.0.1" in unknown.value.where
        Path(settings.known_hosts).write_text(jump.known_line() + server.known_line())
        assert answer(site, jump_settings, tmp_path) == b"here\n"
        assert jump.logins() == 2
        gone = replace(jump_settings, port=free_port())
        with pytest.raises(TransportError, match="cannot be reached from 127"):
            answer(site, gone, tmp_path)


# --- host keys ------------------------------------------------------------------------------------------------------


def test_an_unknown_host_key_is_refused_and_said_how_to_accept_it(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    logins = server.logins()
    known = tmp_path / "none" / "known_hosts"
    settings = replace(settings, known_hosts=str(known))
    with pytest.raises(HostKeyError) as refused:
        answer(site, settings, tmp_path)
    assert refused.value.exit_code == 4
    fingerprint = run("ssh-keygen", "-lf", site.key("host-main")).stdout.split()[1]
    for part in (fingerprint, str(known), "which is not there", f"127.0.0.1 port {server.port}"):
        assert part in refused.value.message
    assert not known.exists()
    known.parent.mkdir()
    told = re.search(r"`(echo .*)`", refused.value.next)
    assert told
    run("sh", "-c", told[1])
    assert answer(site, settings, tmp_path) == b"here\n", "the told step is the right one"
    assert server.logins() == logins + 1


def test_a_changed_host_key_is_refused(
    site: Site, settings: SshSettings, server: Server, tmp_path: Path
) -> None:
    logins = server.logins()
    known = Path(settings.known_hosts)
    known.write_text(server.known_line(site.key("another")))
    with pytest.raises(HostKeyChangedError, match="the host key CHANGED") as refused:
        answer(site, settings, tmp_path)
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {known}" in refused.value.next
    known.write_text("@revoked * " + server.known_line().partition(" ")[2] + server.known_line())
    with pytest.raises(HostKeyError, match="marked @revoked"):
        answer(site, settings, tmp_path)
    assert server.logins() == logins
    known.write_text(server.known_line(site.key("another")) + server.known_line())
    assert answer(site, settings, tmp_path) == b"here\n", "two keys while they are being changed"


# --- not let in -----------------------------------------------------------------------------------------------------


class SteppedClock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def test_a_refused_key_is_not_tried_again_for_half_an_hour(site: Site, tmp_path: Path) -> None:
    clock, stranger = SteppedClock(), site.key("stranger")
    with (
        Server(site, "strict", authorized=[site.key("me")]) as server,
        connected(site, server.settings(stranger), tmp_path, clock=clock) as connection,
    ):

        def attempt() -> str:
            with pytest.raises(LoginError) as refused:
                connection.call("disk", "form")
            assert refused.value.exit_code == 4
            return str(refused.value)

        told = attempt()
        assert f"refused the login of {site.user} with {stranger}" in told
        assert "no new attempt before" in told
        assert attempt() == attempt() == told
        tried = server.refusals()
        clock.sleep(29 * 60)
        attempt()
        assert server.refusals() == tried, "the server was left alone"
        clock.sleep(2 * 60)
        assert attempt() != told
        assert server.refusals() > tried
        clock.sleep(31 * 60)
        tried = server.refusals()
        attempt()
        assert server.refusals() == tried, "twice as long now"
        next((tmp_path).glob("ssh-breaker.json")).unlink()
        attempt()
        assert server.refusals() > tried, "at once by hand"


def test_a_key_file_that_is_put_right_is_tried_at_once(site: Site, server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    settings = server.settings(key)
    with pytest.raises(LoginError, match=r"key cannot be read: No such file") as missing:
        answer(site, settings, tmp_path)
    assert "no new attempt" not in str(missing.value), "nothing was shown to the server"
    assert not (tmp_path / "ssh-breaker.json").exists()
    key.write_text("no key")
    with pytest.raises(LoginError, match="no key that can be used"):
        answer(site, settings, tmp_path)
    key.write_bytes(site.key("me").read_bytes())
    assert answer(site, settings, tmp_path) == b"here\n"
    assert not (tmp_path / "ssh-breaker.json").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("PasswordAuthentication yes", "AuthenticationMethods publickey,password"),
            "takes the key but wants more",
        ),
        (("PasswordAuthentication yes", "PubkeyAuthentication no"), "takes no keys"),
    ],
)
def test_a_second_factor_is_said_and_opens_the_breaker(
    site: Site, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    strict = Server(site, "factor", authorized=[site.key("me")], options=options)
    with strict as server, pytest.raises(LoginError, match=told) as refused:
        answer(site, server.settings(site.key("me")), tmp_path)
    assert "second factor" in refused.value.message
    assert "exempt" in refused.value.next
    assert (tmp_path / "ssh-breaker.json").exists()


# --- servers that do not answer -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_refused_connection_is_no_refused_login(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot be reached: Connection refused") as refused:
        answer(site, replace(settings, port=free_port()), tmp_path)
    assert not isinstance(refused.value, LoginError)
    assert not (tmp_path / "ssh-breaker.json").exists()


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 100_000, b"SSH-2.0-mute\r\n"]
)
def test_what_is_no_ssh_server_is_given_up_in_time(
    site: Site, settings: SshSettings, tmp_path: Path, greeting: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def serve() -> None:
            taken.append(listener.accept()[0])
            taken[0].sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        quick = replace(settings, port=port, banner_timeout_seconds=1, connect_timeout_seconds=1)
        begun = time.monotonic()
        with pytest.raises(TransportError, match="not as an SSH server"):
            answer(site, quick, tmp_path)
        assert time.monotonic() - begun < 12  # 15 s each without these settings
        wait_for(lambda: _is_closed(taken[0]))


def _is_closed(peer: socket.socket) -> bool:
    peer.settimeout(1)
    try:
        return peer.recv(1 << 16) == b""
    except ConnectionError:
        return True


def test_failed_attempts_leave_no_connection_behind(site: Site, tmp_path: Path) -> None:
    options = ["MaxStartups 1", "LoginGraceTime 60"]
    with Server(site, "narrow", authorized=[site.key("me")], options=options) as server:
        settings = server.settings(site.key("me"))
        unknown = replace(settings, known_hosts=str(tmp_path / "none"))
        for _ in range(3):
            wait_for(lambda: _outcome(site, unknown, tmp_path) is HostKeyError)
            wait_for(lambda: _outcome(site, replace(settings, user="nobody-here"), tmp_path) is LoginError)
            (tmp_path / "ssh-breaker.json").unlink()
            wait_for(lambda: _outcome(site, settings, tmp_path) is None)


def _outcome(site: Site, settings: SshSettings, state: Path) -> type[TransportError] | None:
    """The server needs a moment to see that the one before has left; until then it hangs up."""
    try:
        answer(site, settings, state)
    except TransportError as error:
        assert type(error) is not TransportError or "MaxStartups" in error.next
        return type(error)
    return None


# --- logins that are not quiet --------------------------------------------------------------------------------------


@own_account
def test_what_a_login_prints_disturbs_nobody(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    site.set_profile(
        "echo 'Welcome to login1!'; printf 'CCATWM-AGENT 3.11\\r\\n'; printf 'no line end'; echo warning >&2\n"
        "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; printf '\\r\\n\\033[1mMOTD\\033[0m\\n'\n"
    )
    assert answer(site, settings, tmp_path) == b"here\n"


@own_account
def test_a_login_that_prints_without_end_is_given_up(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    site.set_profile("yes\n")
    with pytest.raises(TransportError, match="printed more than 1048576 bytes"):
        answer(site, settings, tmp_path)


def test_a_banner_disturbs_nobody(site: Site, tmp_path: Path) -> None:
    banner = site.folder / "banner.txt"
    banner.write_text("Authorised use only.\n" * 50)
    with Server(site, "banner", authorized=[site.key("me")], options=[f"Banner {banner}"]) as server:
        assert answer(site, server.settings(site.key("me")), tmp_path) == b"here\n"


@own_account
def test_the_login_shell_may_be_another_one(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    run("usermod", "--shell", "/bin/dash", site.user)
    try:
        assert answer(site, settings, tmp_path) == b"here\n"
    finally:
        run("usermod", "--shell", "/bin/bash", site.user)


def test_a_missing_python_says_what_to_set(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    with pytest.raises(AgentStartError, match=r"did not start: .*No such file") as refused:
        answer(site, replace(settings, python="/opt/none/python3"), tmp_path)
    assert "set ssh.python to a Python 3.11 or newer" in refused.value.next
    assert "'/opt/none/python3'" in refused.value.next


def test_a_python_that_is_too_old_says_so(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    old = site.folder / "old-python"
    old.write_text('#!/bin/sh\necho "CCATWM-AGENT $6 3.6"\nexit 3\n')
    old.chmod(0o755)
    with pytest.raises(TransportError, match=r"old-python there is Python 3\.6"):
        answer(site, replace(settings, python=str(old)), tmp_path)


def test_an_account_that_may_run_no_command_is_said(site: Site, tmp_path: Path) -> None:
    forced = Server(site, "forced", authorized=[site.key("me")], options=["ForceCommand echo no shell"])
    with forced as server, pytest.raises(AgentStartError, match="the agent did not start"):
        answer(site, server.settings(site.key("me")), tmp_path)


# --- commands -------------------------------------------------------------------------------------------------------


def test_twenty_megabytes_on_both_outputs_at_once(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    script = "head -c 20000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait"
    with connected(site, settings, tmp_path) as connection:
        result = SshTransport(connection).run(["sh", "-c", script], environment=E, stdin=bytes(1 << 20))
        assert (result.exit_code, len(result.stdout), len(result.stderr)) == (0, 20_000_000, 20_000_000)


def test_a_hanging_command_times_out_and_goes_on_there(
    site: Site, settings: SshSettings, tmp_path: Path
) -> None:
    script = f"echo begun; sleep 1; echo more; echo done > {site.home}/late"
    with connected(site, settings, tmp_path) as connection:
        transport = SshTransport(connection)
        result = transport.run(["sh", "-c", script], environment=E, timeout_seconds=0.3)
        assert (result.exit_code, result.stdout) == (None, b"begun\n")
        assert transport.run(["echo", "next"], environment=E).stdout == b"next\n"
        assert connection.opened == 1
    wait_for((site.home / "late").exists)


def test_a_connection_cut_before_the_answer_leaves_the_outcome_open(
    site: Site, server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    for name in ("begun", "over"):
        (site.home / name).unlink(missing_ok=True)
    script = (
        f"echo x > {site.home}/begun; sleep 0.5; echo a line that nobody reads; echo x > {site.home}/over"
    )

    def cut() -> None:
        wait_for((site.home / "begun").exists)
        server.cut()

    with connected(site, settings, tmp_path) as connection:
        transport = SshTransport(connection)
        assert transport.run(["true"], environment=E).exit_code == 0
        cutter = threading.Thread(target=cut)
        cutter.start()
        result = transport.run(["sh", "-c", script], environment=E)
        cutter.join()
        assert result.exit_code is None
        assert b"may have been done" in result.stderr
        wait_for((site.home / "over").exists)

        (site.home / "begun").unlink()
        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(ConnectionLostError, match=r"no answer to commands\.run came"):
            connection.call("commands", "run", argv=["sh", "-c", script], environment=E, timeout_seconds=60.0)
        cutter.join()


def test_a_silent_agent_is_given_up_and_its_late_answer_never_taken(
    site: Site, settings: SshSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccatwm.edges.transport._session.SILENCE_SECONDS", 1.0)
    with connected(site, settings, tmp_path) as connection:
        transport = SshTransport(connection)
        pid = transport.run(["sh", "-c", "echo $PPID"], environment=E).stdout.decode().strip()
        stop = ["sh", "-c", f"kill -STOP {pid}; (sleep 2; kill -CONT {pid}) & echo late"]
        assert transport.run(stop, environment=E).exit_code is None
        assert transport.run(["echo", "fresh"], environment=E).stdout == b"fresh\n"
        assert connection.opened == 2


def test_no_secret_is_seen_in_any_command_line(site: Site, settings: SshSettings, tmp_path: Path) -> None:
    canary = "canary-5e1f"
    everybody = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    with connected(site, settings, tmp_path) as connection:
        SshWorkFiles(connection, P(site.base)).write_files([FileWrite(P(canary), canary.encode())])
        result = SshTransport(connection).run(
            ["sh", "-c", everybody], environment={**E, "TOKEN": canary}, stdin=canary.encode()
        )
    assert b"CCATWM-AGENT" in result.stdout, "the agent's own command line is among them"
    assert canary.encode() not in result.stdout
    assert str(site.base).encode() not in result.stdout


class Recording:
    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def around(self, name: str, detail: str = "") -> Iterator[None]:
        self.names.append(f"{name} {detail}")
        yield


def test_connecting_and_every_call_are_single_effects(
    site: Site, settings: SshSettings, tmp_path: Path
) -> None:
    effects = Recording()
    with connected(site, settings, tmp_path, effects) as connection:
        assert effects.names == []
        SshWorkFiles(connection, P(site.base)).exists([P("a"), P("b")])
        SshTransport(connection).run(["true"], environment=E)
    assert effects.names == [
        f"ssh.connect 127.0.0.1:{settings.port}",
        "remote.call files.exists",
        "remote.call commands.run",
    ]
