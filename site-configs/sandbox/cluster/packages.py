"""Debian's packages of the cluster's programs, installed without starting anything. Touches: apt, /usr/sbin/policy-rc.d."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from layout import CannotError

PACKAGES = ("slurm-wlm", "slurmctld", "slurmd", "slurmdbd", "mariadb-server", "munge", "openssh-server")
UNITS = ("slurmctld", "slurmd", "slurmdbd", "mariadb", "munge", "ssh")
INSTALL_APPTAINER = Path(__file__).resolve().parents[3] / "bin" / "install-apptainer"
POLICY = Path("/usr/sbin/policy-rc.d")
KEPT_POLICY = Path("/usr/sbin/policy-rc.d.before-ccatwm")
# invoke-rc.d asks this program before it starts a service; 101 forbids it (/usr/share/doc/init-system-helpers).
FORBID = "#!/bin/sh\n# ccatwm: no service is started while packages are installed\nexit 101\n"
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")


def install_packages() -> None:
    """Those that are missing; silent where none is."""
    if not _missing():
        return
    if shutil.which("apt-get") is None:
        raise CannotError(f"these packages are missing, and only Debian's are known: {' '.join(_missing())}")
    with _one_at_a_time():
        # Another one may have installed them while this one waited.
        if missing := _missing():
            _install(missing)


def install_apptainer() -> str | None:
    """Why there is none, or None; a cluster is good for much without it."""
    done = subprocess.run([INSTALL_APPTAINER], check=False, capture_output=True, text=True)
    return (done.stderr.strip() or "bin/install-apptainer failed") if done.returncode else None


def _missing() -> list[str]:
    return [name for name in PACKAGES if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout == "installed"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with open("/run/lock/ccatwm-cluster-packages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(missing: list[str]) -> None:
    print(f"cluster: installing {' '.join(missing)}", file=sys.stderr)
    enabled = {unit for unit in UNITS if _is_enabled(unit)}
    with _nothing_starts():
        install = [*APT, "install", "-y", "--no-install-recommends", *missing]
        # The lists may be old or not there yet: fetched when the first try fails.
        if _apt(install).returncode:
            _apt([*APT, "update"])
            done = _apt(install)
            if done.returncode:
                raise CannotError(
                    f"apt-get could not install {' '.join(missing)}: {done.stderr.strip()[-800:]}"
                )
    _leave_disabled([unit for unit in UNITS if unit not in enabled])


def _apt(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """The machine's own policy is put aside for as long; one that a killed run left aside is put back first."""
    _put_policy_back()
    if POLICY.exists():
        POLICY.rename(KEPT_POLICY)
    POLICY.write_text(FORBID)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        _put_policy_back()


def _put_policy_back() -> None:
    with contextlib.suppress(FileNotFoundError):
        if POLICY.read_text() == FORBID:
            POLICY.unlink()
    if KEPT_POLICY.exists():
        KEPT_POLICY.rename(POLICY)


def _is_enabled(unit: str) -> bool:
    return Path(f"/etc/systemd/system/multi-user.target.wants/{unit}.service").exists()


def _leave_disabled(units: list[str]) -> None:
    """Packages enable their services for the next start of the machine; nobody asked for that either."""
    if units and shutil.which("systemctl"):
        subprocess.run(["systemctl", "--quiet", "disable", *units], check=False, capture_output=True)
