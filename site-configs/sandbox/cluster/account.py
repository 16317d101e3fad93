"""The throw-away user: in the system, behind SSH, and in Slurm's accounting. Touches: /etc/passwd, keys, sacctmgr."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
from pathlib import Path

from layout import ACCOUNT, CLUSTER, DEFAULT_USER, HOST, ClusterError, Layout, own_folder, save_layout
from services import must_run, run


def ensure_user(layout: Layout) -> None:
    """The first free name, so that several clusters may live on one machine."""
    if not _is_ours(layout):
        with open("/run/lock/ccatwm-cluster-users.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            layout.user = _free_name(layout)
            # Known before it exists: `down` finds it whatever happens in between.
            save_layout(layout)
            _add_user(layout)
    own_folder(layout.home, layout.user, 0o755)
    # Set-gid as shared folders of sites are.
    own_folder(layout.scratch, layout.user, 0o2775)


def find_uid(layout: Layout) -> int | None:
    return pwd.getpwnam(layout.user).pw_uid if _is_ours(layout) else None


def remove_user(layout: Layout) -> None:
    if _is_ours(layout):
        done = subprocess.run(
            ["userdel", "--force", layout.user], check=False, capture_output=True, text=True
        )
        if _is_ours(layout):
            raise ClusterError(f"the user {layout.user} could not be removed: {done.stderr.strip()}")


def _is_ours(layout: Layout) -> bool:
    try:
        return pwd.getpwnam(layout.user).pw_dir == str(layout.home)
    except KeyError:
        return False


def _free_name(layout: Layout) -> str:
    """The name without a number is left to the cluster in the default folder."""
    taken = {entry.pw_name for entry in pwd.getpwall()}
    names = [DEFAULT_USER] * layout.is_default + [f"{DEFAULT_USER}-{number}" for number in range(2, 1000)]
    return next(name for name in names if name not in taken)


def _add_user(layout: Layout) -> None:
    # A password field of `*` lets keys in; useradd's own `!` would make sshd call the account locked.
    options = ["--no-create-home", "--home-dir", str(layout.home), "--shell", "/bin/bash", "--password", "*"]
    command = ["useradd", *options, "--user-group", "--no-log-init", layout.user]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"the user {layout.user} could not be made: {done.stderr.strip()}")


def ensure_keys(layout: Layout) -> None:
    """A host key, the user's key, and the files that let each side know the other."""
    folder = layout.dir / "ssh"
    folder.mkdir(exist_ok=True)
    host_key = folder / "host_ed25519"
    for path in (host_key, layout.key):
        if not path.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", CLUSTER, "-f", str(path)]
            subprocess.run(command, check=True)
    (folder / "authorized_keys").write_text(_public(layout.key))
    layout.known_hosts.write_text(f"[{HOST}]:{layout.ports['sshd']} {_public(host_key)}")


def _public(key: Path) -> str:
    return Path(f"{key}.pub").read_text()


def ensure_accounting(layout: Layout) -> None:
    """Cluster, account and user as sacctmgr knows them; it calls what is there already an error."""
    if run(
        layout, "sacctmgr", "-nP", "list", "associations", f"user={layout.user}", "format=user"
    ).stdout.strip():
        return
    _add(layout, "cluster", CLUSTER)
    _add(layout, "account", ACCOUNT, "Organization=ccatwm", "Description=tests")
    _add(layout, "user", layout.user, f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}")


def _add(layout: Layout, kind: str, name: str, *more: str) -> None:
    if not run(layout, "sacctmgr", "-nP", "list", kind, name).stdout.strip():
        must_run(layout, "sacctmgr", "-i", "add", kind, name, *more)


def make_munge_key(layout: Layout) -> None:
    own_folder(layout.dir / "munge", "munge", 0o755)
    key = layout.dir / "munge" / "key"
    if not key.exists():
        owner = pwd.getpwnam("munge")
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
            file.write(os.urandom(1024))
