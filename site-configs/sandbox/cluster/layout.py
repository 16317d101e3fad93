"""What a cluster is: its folder, ports, user and settings. Touches: `cluster.json` and folders below the cluster's own."""

from __future__ import annotations

import json
import os
import pwd
import random
import shutil
import socket
import tempfile
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "ccatwm.cluster/1"
DEFAULT_DIR = "/var/tmp/ccatwm-cluster"
CLUSTER = "sandbox"
ACCOUNT = "sandbox"
PARTITIONS = ("main", "short", "high", "low")
HOST = "127.0.0.1"
# Below Linux's ephemeral ports (32768 and up), so that no outgoing connection sits on one.
PORTS = range(20000, 30000)
LISTENERS = ("slurmctld", "slurmd", "slurmdbd", "sshd")
# Of the cluster in the default folder, if they are free: site-configs/sandbox/settings.toml names them.
DEFAULT_SSH_PORT = 20022
DEFAULT_USER = "ccatwm-sandbox"
SITE = "site"  # ops-db and state of the site `sandbox`, in the cluster's folder
SETTINGS = Path(__file__).resolve().parents[1] / "settings.toml"
PREFIX = "CCAT_WORKFLOW_MANAGER_"
# A socket's path may have 107 bytes (unix(7)); slurmd's and munge's names take some of them.
LONGEST_DIR = 70


class ClusterError(Exception):
    """Something failed: says what, why and what to do next."""


class CannotError(ClusterError):
    """A cluster cannot be had on this machine."""


@dataclass
class Layout:
    """One cluster: everything that is decided once, when its folder is made."""

    dir: Path
    ports: dict[str, int]
    user: str
    settings: dict[str, str] = field(default_factory=dict)
    """Lines of slurm.conf that whoever started it wanted otherwise."""
    memory: str = "unknown"
    """How memory limits are enforced: a cgroup plugin of Slurm, `none`, or `unknown` before the first start."""

    @property
    def is_default(self) -> bool:
        return self.dir == Path(DEFAULT_DIR)

    @property
    def slurm_conf(self) -> Path:
        return self.dir / "etc" / "slurm.conf"

    @property
    def node(self) -> str:
        """As unique as the user: Slurm names control groups after the node only, and root's jobs start at 1 everywhere."""
        return self.user.removeprefix("ccatwm-")

    @property
    def munge_socket(self) -> Path:
        return self.dir / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        return self.dir / "database" / "socket"

    @property
    def home(self) -> Path:
        return self.dir / "home"

    @property
    def scratch(self) -> Path:
        return self.dir / "scratch"

    @property
    def key(self) -> Path:
        return self.dir / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "ssh" / "known_hosts"

    @property
    def environment(self) -> dict[str, str]:
        """For its daemons and for clients: nothing of whoever runs this leaks in."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SLURM_CONF": str(self.slurm_conf),
        }

    def log(self, service: str) -> Path:
        return self.dir / "log" / f"{service}.log"

    def pid_file(self, service: str) -> Path:
        return self.dir / "run" / f"{service}.pid"


def make_layout(directory: Path, settings: dict[str, str]) -> Layout:
    """A new cluster in an empty folder: ports are chosen, and its marker is written."""
    layout = Layout(directory, _free_ports(), "", settings)
    if layout.is_default and _is_free(DEFAULT_SSH_PORT):
        layout.ports["sshd"] = DEFAULT_SSH_PORT
    save_layout(layout)
    return layout


def read_layout(directory: Path) -> Layout | None:
    """The cluster in this folder, or None."""
    try:
        stored = json.loads((directory / "layout.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ClusterError(
            f"{directory}/layout.json is damaged ({error}); remove the folder by hand"
        ) from None
    return Layout(**{**stored, "dir": directory})


def save_layout(layout: Layout) -> None:
    write_atomically(
        layout.dir / "layout.json", json.dumps({**asdict(layout), "dir": str(layout.dir)}, indent=1)
    )


def write_atomically(path: Path, text: str) -> None:
    """Whole or not at all: tests read while this writes."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def own_folder(path: Path, user: str, mode: int) -> None:
    """Make a folder for the user, or give it back to them."""
    path.mkdir(exist_ok=True)
    owner = pwd.getpwnam(user)
    os.chown(path, owner.pw_uid, owner.pw_gid)
    path.chmod(mode)


def remove_folder(directory: Path) -> None:
    """All of it, the marker last: a removal broken off can be begun again."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "layout.json":
            entry.unlink()
    shutil.rmtree(directory)


def check_new(directory: Path) -> None:
    """Make the folder; refuse one in use or one that cannot serve. What the site `sandbox` keeps in it may be there."""
    if directory.exists() and not _holds_site_alone(directory):
        raise ClusterError(f"{directory} exists and holds no cluster; name a new folder with --dir")
    if len(os.fsencode(directory)) > LONGEST_DIR:
        raise ClusterError(
            f"{directory} is too long for sockets; name one of at most {LONGEST_DIR} bytes with --dir"
        )
    _check_reachable(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"{directory} cannot be made: {error.strerror}; name another folder with --dir"
        ) from None
    directory.chmod(0o755)


def _holds_site_alone(directory: Path) -> bool:
    """Empty, or with the state of a site that was looked at before there was a cluster."""
    if directory.is_symlink() or not directory.is_dir():
        return False
    return all(e.name == SITE and e.is_dir() and not e.is_symlink() for e in directory.iterdir())


def _check_reachable(directory: Path) -> None:
    """The ordinary user must get in."""
    for parent in directory.parents:
        if parent.is_dir() and not parent.stat().st_mode & 0o001:
            raise ClusterError(
                f"{parent} is closed to the cluster's user; name another folder with --dir, or: chmod o+x {parent}"
            )


def _free_ports() -> dict[str, int]:
    # At random, not the first free ones: two that start at once hardly ever want the same.
    found: list[int] = []
    while len(found) < len(LISTENERS):
        port = random.choice(PORTS)
        if port not in (*found, DEFAULT_SSH_PORT) and _is_free(port):
            found.append(port)
    return dict(zip(LISTENERS, found, strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def describe_ssh(layout: Layout) -> dict[str, Any]:
    return {
        "host": HOST,
        "port": layout.ports["sshd"],
        "user": layout.user,
        "key": str(layout.key),
        "known_hosts": str(layout.known_hosts),
    }


def site_needs(layout: Layout) -> dict[str, str]:
    """Environment variables that the site `sandbox` needs for this cluster: what its settings say otherwise."""
    ssh = describe_ssh(layout)
    wanted: dict[str, Any] = {
        "OPSDB_URL": f"sqlite:///{layout.dir / SITE / 'opsdb.sqlite'}",
        "STATE_DIR": str(layout.dir / SITE / "state"),
        "PIPELINE_BASE_DIR": str(layout.scratch / "pipelines"),
        "SLURM__CONF": str(layout.slurm_conf),
        "SSH__HOST": ssh["host"],
        "SSH__PORT": ssh["port"],
        "SSH__USER": ssh["user"],
        "SSH__KEY_FILE": ssh["key"],
        "SSH__KNOWN_HOSTS": ssh["known_hosts"],
    }
    said = tomllib.loads(SETTINGS.read_text())["default"]
    return {PREFIX + key: str(value) for key, value in wanted.items() if value != _look_up(said, key)}


def _look_up(said: dict[str, Any], key: str) -> Any:
    """`SSH__PORT` is `port` in the table `ssh`."""
    table, _, name = key.lower().partition("__")
    return said[table][name] if name else said[key]
