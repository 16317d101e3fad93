"""A real SSH server on 127.0.0.1 with keys and an account of its own. Touches: processes, /tmp, as root /etc/passwd.

As root the account is an ordinary throw-away user without a password; else it is whoever runs the tests.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ccatwm.edges.clock import SystemClock
from ccatwm.edges.transport.ssh import SshConnection
from ccatwm.interfaces import Effects, PlainEffects
from ccatwm.settings.schema import SshSettings

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ssh-agent", "ssh-add")
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def why_not() -> str | None:
    """Why no SSH server can be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    return (
        f"not installed: {', '.join(missing)} (bin/install-sshd installs them on Debian)" if missing else None
    )


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True, **options
    )


@dataclass
class Site:
    """A folder that the account can reach: its home, its base directory, keys, state of ours."""

    folder: Path
    user: str
    python: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def key(self, name: str, passphrase: str = "", kind: str = "ed25519") -> Path:
        """A key pair, made when it is first asked for."""
        file = self.folder / "keys" / name
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", file)
        return file

    def set_profile(self, text: str) -> None:
        """What the account's shell reads at every start."""
        (self.home / ".bashrc").write_text(text)


@contextmanager
def open_site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="ccatwm-ssh-"))
    folder.chmod(0o755)
    try:
        with _account(folder / "home") as user:
            entry = pwd.getpwnam(user)
            for name in ("home", "base"):
                (folder / name).mkdir(mode=0o755)
                os.chown(folder / name, entry.pw_uid, entry.pw_gid)
            yield Site(folder, user, _python_of(entry.pw_uid))
    finally:
        shutil.rmtree(folder)


@contextmanager
def _account(home: Path) -> Iterator[str]:
    if os.geteuid() != 0:
        yield getpass.getuser()
        return
    name = f"ccatwm-{os.getpid()}"
    run("useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/bash", "--password", "*", name)
    try:
        yield name
    finally:
        for process in _processes():  # its agents and commands, by the account that is only ours
            if process.user == name:
                _kill(process)
        run("userdel", name)


def _python_of(uid: int) -> str:
    """A Python 3.11 or newer that the account can run: a virtual environment may lie out of its reach."""
    for python in (os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3"):
        command = [python, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(
                command, capture_output=True, user=uid if os.geteuid() == 0 else None, cwd="/"
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return sys.executable


# --- the server -----------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A running sshd; `authorized` are the public keys that it lets in, `options` lines of its configuration.

    sshd takes the first value that it reads of a keyword."""

    site: Site
    name: str = "main"
    authorized: Sequence[Path] = ()
    options: Sequence[str] = ()
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        return self.site.folder / self.name

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port = self.port or _free_port()
        host_key = self.site.key(f"host-{self.name}")
        keys = [key.with_name(key.name + ".pub").read_text() for key in self.authorized]
        (self.folder / "authorized_keys").write_text("".join(keys))
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {host_key}", f"PidFile {self.folder}/pid",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no", "UsePAM no", "LogLevel VERBOSE",
            *self.options, "PasswordAuthentication no", "KbdInteractiveAuthentication no", "MaxSessions 1",
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        sshd = shutil.which("sshd", path=SEARCH_PATH)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(sshd), "-D", "-e", "-f", self.folder / "config"], stderr=log
            )
        _wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self.cut()
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cut(self) -> None:
        """End the server's processes of all sessions; what they started lives on."""
        assert self._process is not None
        for process in _descendants(self._process.pid):
            if process.name.startswith("sshd"):
                _kill(process)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def logins(self) -> int:
        return self.log().count("Accepted publickey")

    def refusals(self) -> int:
        return self.log().count("Failed publickey")

    def known_line(self, key: Path | None = None) -> str:
        kind, blob = (key or self.site.key(f"host-{self.name}")).with_suffix(".pub").read_text().split()[:2]
        return f"[127.0.0.1]:{self.port} {kind} {blob}\n"

    def settings(self, key: Path | None = None, **changes: Any) -> SshSettings:
        """How to get in with `key`: the host key is known, no agent is asked."""
        known = self.folder / "known_hosts"
        known.write_text(self.known_line())
        settings = SshSettings(
            host="127.0.0.1", port=self.port, user=self.site.user, key_file=str(key or ""), known_hosts=str(known),
            agent=False, python=self.site.python,
        )  # fmt: skip
        return replace(settings, **changes)


@contextmanager
def connected(
    site: Site, settings: SshSettings, state: Path, effects: Effects | None = None, clock: Any = None
) -> Iterator[SshConnection]:
    connection = SshConnection(
        settings, str(site.base), state, effects or PlainEffects(), clock or SystemClock()
    )
    try:
        yield connection
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "sshd did not start"
        time.sleep(0.02)


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    name: str
    user: str


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def _processes() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            user = pwd.getpwuid(folder.stat().st_uid).pw_name
        except (OSError, KeyError):
            continue
        yield Process(int(folder.name), int(rest.split()[1]), name, user)


def _descendants(pid: int) -> list[Process]:
    everybody = list(_processes())
    found, pending = [], [pid]
    while pending:
        above = pending.pop()
        below = [process for process in everybody if process.parent == above]
        found += below
        pending += [process.pid for process in below]
    return found
