"""Bringing a cluster up, seeing how it is, taking it down. Touches: everything the cluster consists of."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import account
import memory
import packages
import processes
import services
from configuration import cgroup_conf, slurm_conf, slurmdbd_conf, ssh_config, sshd_config
from layout import (
    ACCOUNT,
    PARTITIONS,
    SCHEMA,
    ClusterError,
    Layout,
    check_new,
    describe_ssh,
    make_layout,
    own_folder,
    read_layout,
    remove_folder,
    save_layout,
    site_needs,
    write_atomically,
)


def bring_up(directory: Path, settings: dict[str, str], *, apptainer: bool) -> dict[str, Any]:
    """Up and answering, whatever state it was in; gives its description."""
    packages.install_packages()
    no_apptainer = packages.install_apptainer() if apptainer else None
    if read_layout(directory) is None:
        check_new(directory)
    with _locked(directory):
        layout = read_layout(directory) or make_layout(directory, settings)
        if settings.items() - layout.settings.items():
            _change_settings(layout, settings)
        if not _all_answer(services.observe(layout)) or not _node_is_ready(layout):
            _repair(layout)
        return {**describe(layout), **({"apptainer_reason": no_apptainer} if no_apptainer else {})}


def _repair(layout: Layout) -> None:
    _prepare(layout)
    for name in ("munge", "mariadb", "slurmdbd"):
        services.ensure_started(layout, name)
        if name == "mariadb":
            _make_database(layout)
    account.ensure_accounting(layout)
    _start_slurm(layout)
    services.ensure_started(layout, "sshd")


def _start_slurm(layout: Layout) -> None:
    """Controller and node; at the first start the ways to enforce memory limits are tried out."""
    tried = [layout.memory] if layout.memory != "unknown" else memory.candidates()
    for layout.memory in tried:
        _write_slurm_configuration(layout)
        try:
            _start_controller_and_node(layout)
        except ClusterError:
            if layout.memory == "none" or len(tried) == 1:
                raise
        else:
            if len(tried) == 1 or layout.memory == "none" or memory.is_enforced(layout):
                break
        for name in ("slurmd", "slurmctld"):
            processes.stop_process(layout, name)
    save_layout(layout)


def _start_controller_and_node(layout: Layout) -> None:
    for name in ("slurmctld", "slurmd"):
        services.ensure_started(layout, name)
    if processes.wait_until(lambda: _node_is_ready(layout), 3.0, 0.1):
        return
    # One that was taken out of service, or found dead, may wait for a word.
    services.run(layout, "scontrol", "update", f"NodeName={layout.node}", "State=RESUME")
    if not processes.wait_until(lambda: _node_is_ready(layout), 15.0, 0.1):
        raise ClusterError(f"the node does not become ready.{services.tail(layout, 'slurmd')}")


def _node_is_ready(layout: Layout) -> bool:
    state = services.run(layout, "sinfo", "-h", "-o", "%T", "-p", PARTITIONS[0], timeout=3.0).stdout.strip()
    return state in ("idle", "mixed", "allocated", "completing")


def _prepare(layout: Layout) -> None:
    account.ensure_user(layout)
    account.ensure_keys(layout)
    account.make_munge_key(layout)
    for name, owner in (
        ("database", "mysql"),
        ("state", "slurm"),
        ("run", "slurm"),
        ("log", "root"),
        ("spool", "root"),
    ):
        own_folder(layout.dir / name, owner, 0o755)
    own_folder(layout.dir / "database" / "tmp", "mysql", 0o700)
    (layout.dir / "etc").mkdir(exist_ok=True)
    # The folder that sshd locks itself into before a login; systemd makes it where ssh is a service.
    Path("/run/sshd").mkdir(exist_ok=True)
    _write_configuration(layout)
    _make_datadir(layout)


def _write_configuration(layout: Layout) -> None:
    (layout.dir / "etc" / "sshd_config").write_text(sshd_config(layout))
    (layout.dir / "ssh" / "config").write_text(ssh_config(layout))
    database = layout.dir / "etc" / "slurmdbd.conf"
    database.write_text(slurmdbd_conf(layout))
    # slurmdbd refuses to start with a configuration that is another user's or open to others.
    shutil.chown(database, "slurm", "slurm")
    database.chmod(0o600)
    _write_slurm_configuration(layout)


def _write_slurm_configuration(layout: Layout) -> None:
    write_atomically(layout.slurm_conf, slurm_conf(layout))
    write_atomically(
        layout.dir / "etc" / "cgroup.conf", cgroup_conf(layout, swap=memory.limits_swap(layout.memory))
    )


def _change_settings(layout: Layout, settings: dict[str, str]) -> None:
    """Most of slurm.conf is read again by `scontrol reconfigure`, not all: a new start serves for everything."""
    layout.settings.update(settings)
    save_layout(layout)
    for name in ("slurmd", "slurmctld"):
        processes.stop_process(layout, name)


def _make_datadir(layout: Layout) -> None:
    data = layout.dir / "database" / "data"
    if (data / "mysql").is_dir():
        return
    # Built aside: one broken off is not taken for whole.
    building = layout.dir / "database" / "building"
    shutil.rmtree(building, ignore_errors=True)
    services.must_run(
        layout,
        "mariadb-install-db",
        "--no-defaults",
        "--user=mysql",
        f"--datadir={building}",
        f"--tmpdir={layout.dir}/database/tmp",
        "--skip-test-db",
        "--skip-name-resolve",
        "--auth-root-authentication-method=socket",
    )
    building.rename(data)


def _make_database(layout: Layout) -> None:
    statement = (
        "create database if not exists slurm_acct_db;"
        "create user if not exists slurm@localhost identified via unix_socket;"
        "grant all on slurm_acct_db.* to slurm@localhost;"
    )
    services.must_run(
        layout,
        "mariadb",
        "--no-defaults",
        f"--socket={layout.database_socket}",
        "--user=root",
        "-e",
        statement,
    )


def describe(layout: Layout) -> dict[str, Any]:
    """The stable document, written to `cluster.json` too."""
    observed = services.observe(layout)
    document = {
        "schema": SCHEMA,
        "up": _all_answer(observed),
        "dir": str(layout.dir),
        "scratch": str(layout.scratch),
        "slurm_conf": str(layout.slurm_conf),
        "ssh": describe_ssh(layout),
        "ports": layout.ports,
        "services": observed,
        "memory_enforced": layout.memory.startswith("cgroup"),
        "memory_plugin": layout.memory,
        "apptainer": _has_apptainer(),
        "partitions": list(PARTITIONS),
        "account": ACCOUNT,
        "node": layout.node,
        "settings": layout.settings,
        "site_needs": site_needs(layout),
    }
    with contextlib.suppress(OSError):
        write_atomically(layout.dir / "cluster.json", json.dumps(document, indent=1) + "\n")
    return document


def _all_answer(observed: dict[str, dict[str, int | bool | None]]) -> bool:
    return all(service["answers"] for service in observed.values())


def _has_apptainer() -> bool:
    if shutil.which("apptainer") is None:
        return False
    return subprocess.run(["apptainer", "version"], check=False, capture_output=True).returncode == 0


def take_down(directory: Path) -> bool:
    """Gone without trace; whether there was one."""
    with _locked(directory):
        layout = read_layout(directory)
        if layout is None:
            return False
        _end_jobs(layout)
        for name in reversed(services.SERVICES):
            processes.stop_process(layout, name)
        processes.kill_leftovers(layout, account.find_uid(layout), lambda: memory.find_processes(layout))
        memory.remove_cgroups(layout)
        account.remove_user(layout)
        remove_folder(layout.dir)
    return True


def _end_jobs(layout: Layout) -> None:
    """By Slurm where it answers, as it knows every process of them; the rest is killed later."""
    for name in services.SERVICES:
        processes.send(layout, name, signal.SIGCONT)
    if processes.find_pid(layout, "slurmctld") is None or not services.SERVICES["slurmctld"].answers(layout):
        return
    jobs = services.run(layout, "squeue", "-h", "-o", "%A", timeout=5.0).stdout.split()
    if jobs:
        services.run(layout, "scancel", "--full", "--signal=KILL", *jobs, timeout=5.0)
        services.run(layout, "scancel", *jobs, timeout=5.0)
        # Not for those still completing: after a cancel that takes 5 s, though their processes have gone.
        running = ("squeue", "-h", "-t", "running,suspended", "-o", "%A")
        processes.wait_until(lambda: not services.run(layout, *running, timeout=5.0).stdout.strip(), 3.0, 0.1)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One at a time on a folder. The lock is on the folder itself, which `down` removes: taken again if it has gone."""
    while True:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if directory.exists() and os.path.samestat(os.fstat(descriptor), directory.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def describe_nothing(directory: Path) -> dict[str, Any]:
    return {"schema": SCHEMA, "up": False, "dir": str(directory), "services": {}}
