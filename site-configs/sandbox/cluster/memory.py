"""Whether jobs can be held to their memory here: by control groups, tried out by a job. Touches: /sys/fs/cgroup, jobs."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from layout import Layout
from services import run

CGROUPS = Path("/sys/fs/cgroup")
# Ends at 200 MB if nobody stops it; the limit is 50.
GREEDY = "import sys; held = bytearray(200 << 20); sys.exit(7)"


def candidates() -> list[str]:
    """Plugins of Slurm that may work here, the likely one first; `none` always works and enforces nothing."""
    if _writable(CGROUPS / "memory") and _writable(CGROUPS / "freezer"):
        return ["cgroup/v1", "none"]
    with contextlib.suppress(OSError):
        if "memory" in (CGROUPS / "cgroup.controllers").read_text().split() and _writable(CGROUPS):
            return ["cgroup/v2", "none"]
    return ["none"]


def limits_swap(plugin: str) -> bool:
    """Only where the kernel counts swap; else Slurm's steps fail."""
    return plugin == "cgroup/v1" and (CGROUPS / "memory" / "memory.memsw.limit_in_bytes").exists()


def is_enforced(layout: Layout) -> bool:
    """A job that takes four times its memory must not reach its end."""
    done = run(layout, "srun", "--immediate=10", "--mem=50", sys.executable, "-c", GREEDY, timeout=20.0)
    return done.returncode not in (0, 7, 124) and "oom" in done.stderr.lower()


def _writable(folder: Path) -> bool:
    """Root is told that it may write where it may not: only the try shows."""
    probe = folder / f"ccatwm-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def find_processes(layout: Layout) -> set[int]:
    """Those in the control groups of its jobs."""
    found: set[int] = set()
    for folder in _folders(layout):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
    return found


def remove_cgroups(layout: Layout) -> None:
    """Slurm leaves its groups behind, under the name of its node."""
    for folder in _folders(layout):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _folders(layout: Layout) -> list[Path]:
    """The innermost first."""
    # The second is where the plugin for version 2 puts them (Slurm's guide to cgroup v2).
    tops = [
        *CGROUPS.glob(f"*/slurm_{layout.node}"),
        *CGROUPS.glob(f"system.slice/{layout.node}_slurmstepd.scope"),
    ]
    return [Path(name) for top in tops for name, _, _ in os.walk(top, topdown=False)]
