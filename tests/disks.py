"""Small disks: file systems in memory, mounted for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, megabytes: int, inodes: int = 4096) -> Iterator[Path]:
    """A tmpfs mounted on `folder`, unmounted whatever happens. Skips where mounting is not permitted, but not in CI."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,nr_inodes={inodes}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        reason = "mounting a tmpfs needs rights that this account does not have"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI must run this test")
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, what: str, left: int = 0) -> Path:
    """Take all `bytes`, or all `inodes`, of the disk there but for some; the folder to remove to have room again."""
    filler = folder / "of-somebody-else"
    filler.mkdir()
    if what == "inodes":
        for number in range(os.statvfs(folder).f_favail - left):
            (filler / str(number)).touch()
    else:
        free = os.statvfs(folder)
        (filler / "large").write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    return filler
