"""Group `slurm`: commands on the processing host. Touches: processes, an SSH server of its own on 127.0.0.1, /tmp."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ccatwm.edges.transport.ssh import SshTransport
from tests.bench.figures import Figure, measure
from tests.fakes.sshd import Server, connected, open_site, why_not

COMMANDS = 20  # of one measurement


def run_group() -> Iterator[Figure]:
    yield from ssh_command()


def ssh_command() -> Iterator[Figure]:
    """One command (`true`) on an open connection beside OpenSSH with ControlMaster, on the same server."""
    if reason := why_not():
        raise SystemExit(f"ssh-command: {reason}")
    with open_site() as site, Server(site, authorized=[site.key("me")]) as server:
        key = site.key("me")
        settings = server.settings(key)
        with connected(site, settings, site.folder / "state") as connection, _master(server, key) as ssh:
            transport = SshTransport(connection)

            def ours() -> None:
                result = transport.run(["true"], environment={"PATH": "/usr/bin:/bin"})
                assert result.exit_code == 0

            def bare() -> None:
                subprocess.run([*ssh, "true"], check=True, stdin=subprocess.DEVNULL, capture_output=True)

            yield measure("ssh-command", _repeated(ours), _repeated(bare), "<=1.0", times=COMMANDS)


def _repeated(call: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(COMMANDS):
            call()

    return run


@contextmanager
def _master(server: Server, key: Path) -> Iterator[list[str]]:
    """OpenSSH's command line for a connection that is open already."""
    options = {
        "ControlPath": f"{server.folder}/control", "ControlMaster": "auto", "ControlPersist": "yes", "IdentityFile": key,
        "IdentitiesOnly": "yes", "IdentityAgent": "none", "BatchMode": "yes",
        "UserKnownHostsFile": f"{server.folder}/known_hosts",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    place = ["-p", str(server.port), f"{server.site.user}@127.0.0.1"]
    command = ["ssh", "-F", "none", *words, *place]
    subprocess.run([*command, "true"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield command
    finally:
        subprocess.run([*command[:-1], "-O", "exit", command[-1]], check=True, capture_output=True)
