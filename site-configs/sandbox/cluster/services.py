"""The six services: how each is started, and how one knows that it answers. Touches: processes, sockets."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import processes
from layout import HOST, ClusterError, Layout

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Service:
    name: str
    argv: Callable[[Layout], list[str]]
    answers: Callable[[Layout], bool]
    user: str | None = None


def run(layout: Layout, *argv: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """A client of the cluster; one that hangs counts as one that failed."""
    try:
        return subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=layout.environment,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"{argv[0]} did not answer in {timeout:g} s")


def must_run(layout: Layout, *argv: str) -> str:
    done = run(layout, *argv)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def _asks(*argv: str, expects: str = "") -> Callable[[Layout], bool]:
    def answers(layout: Layout) -> bool:
        filled = [word.format(layout=layout) for word in argv]
        done = run(layout, *filled, timeout=3.0)
        return done.returncode == 0 and expects in done.stdout

    return answers


def _munged(layout: Layout) -> list[str]:
    folder = layout.dir / "munge"
    options = {
        "socket": "socket",
        "key-file": "key",
        "pid-file": "of-munged",
        "seed-file": "seed",
        "log-file": "log",
    }
    return ["munged", "--foreground", *(f"--{option}={folder / name}" for option, name in options.items())]


def _mariadbd(layout: Layout) -> list[str]:
    """On its socket only. Not flushed at every commit: what a power cut takes is not missed here."""
    return [
        "mariadbd",
        "--no-defaults",
        "--user=mysql",
        f"--datadir={layout.dir}/database/data",
        # MariaDB clears this folder of other servers' temporary tables when it starts; by default it is /tmp.
        f"--tmpdir={layout.dir}/database/tmp",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.dir}/database/of-mariadbd",
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    ]


def _slurmd_answers(layout: Layout) -> bool:
    # `sinfo` would call a node idle for as long as its death is not noticed.
    asked = _asks("scontrol", "show", "slurmd", layout.node, expects="Slurmd PID")
    return asked(layout)


def _sshd_answers(layout: Layout) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, layout.ports["sshd"]), 2.0) as connection,
    ):
        connection.settimeout(2.0)
        return connection.recv(4) == b"SSH-"
    return False


# In the order of starting: each needs those before it.
SERVICES = {
    service.name: service
    for service in (
        Service(
            "munge", _munged, _asks("munge", "--socket={layout.munge_socket}", "--no-input"), user="munge"
        ),
        Service(
            "mariadb",
            _mariadbd,
            _asks("mariadb-admin", "--no-defaults", "--socket={layout.database_socket}", "ping"),
        ),
        # slurmdbd has no option for its configuration: it looks beside SLURM_CONF.
        Service("slurmdbd", lambda _: ["slurmdbd", "-D"], _asks("sacctmgr", "-n", "list", "cluster")),
        Service(
            "slurmctld",
            lambda layout: ["slurmctld", "-D", "-f", str(layout.slurm_conf)],
            _asks("scontrol", "ping", expects="is UP"),
        ),
        Service(
            "slurmd",
            lambda layout: ["slurmd", "-D", "-f", str(layout.slurm_conf), "-N", layout.node],
            _slurmd_answers,
        ),
        Service(
            "sshd",
            lambda layout: ["/usr/sbin/sshd", "-D", "-e", "-f", f"{layout.dir}/etc/sshd_config"],
            _sshd_answers,
        ),
    )
}


def ensure_started(layout: Layout, name: str) -> None:
    """Start it unless it answers; one that lives and does not answer is woken, and then replaced."""
    service = SERVICES[name]
    if processes.find_pid(layout, name) is not None:
        processes.send(layout, name, signal.SIGCONT)
        if processes.wait_until(lambda: service.answers(layout), 3.0):
            return
        processes.stop_process(layout, name)
    start(layout, name)


def start(layout: Layout, name: str) -> None:
    """Start it and wait until it really answers."""
    service = SERVICES[name]
    processes.start_process(layout, name, service.argv(layout), user=service.user)
    end = time.monotonic() + PATIENCE_SECONDS
    while not service.answers(layout):
        if processes.find_pid(layout, name) is None:
            raise ClusterError(f"{name} ended as soon as it was started.{tail(layout, name)}")
        if time.monotonic() > end:
            raise ClusterError(f"{name} does not answer after {PATIENCE_SECONDS:g} s.{tail(layout, name)}")
        time.sleep(0.05)


def tail(layout: Layout, name: str, lines: int = 12) -> str:
    log = layout.log(name)
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f" The end of {log}:", *text])
    return ""


def observe(layout: Layout) -> dict[str, dict[str, int | bool | None]]:
    """Every service's pid, and whether it answers; asked side by side, as a paused one makes others wait."""
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        return dict(zip(SERVICES, pool.map(lambda name: _observe_one(layout, name), SERVICES), strict=True))


def _observe_one(layout: Layout, name: str) -> dict[str, int | bool | None]:
    pid = processes.find_pid(layout, name)
    alive = pid is not None and not processes.is_paused(pid)
    return {"pid": pid, "answers": alive and SERVICES[name].answers(layout)}
