"""Programs that stand before Slurm's own in `slurm.bin_dir`: they note each call, and misbehave where a test says how."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sacctmgr")
# Without a script `{name}.sh` beside it, the real one is called; the script has it as `real`. `{name}.once` is
# taken by the first call that finds it.
PROGRAM = """#!/bin/sh
here=${0%/*} name=${0##*/}
PATH=${PATH#"$here:"}
real() { command "$name" "$@"; }
echo "$name" >>"$here/calls"
printf '%s\\n' "$@" >"$here/$name.argv"
if mv "$here/$name.once" "$here/$name.$$" 2>/dev/null; then . "$here/$name.$$"; exit; fi
if [ -e "$here/$name.sh" ]; then . "$here/$name.sh"; exit; fi
exec "$name" "$@"
"""
# Puts the mark of the call before each line of a recorded queue.
QUEUE = """
while [ "$1" != -o ]; do shift; done
mark=${{2%%|*}}
while IFS= read -r line; do printf '%s|%s\\n' "$mark" "$line"; done <<'END-OF-QUEUE'
{rows}
END-OF-QUEUE
"""
ACCOUNTS = """
cat <<'END-OF-ACCOUNTS'
{rows}
END-OF-ACCOUNTS
"""


class SlurmCommands:
    """A folder of such programs, made where there is none. Scripts are plain sh; `real "$@"` in them calls Slurm's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.is_dir():
            return
        folder.mkdir(parents=True)
        for name in NAMES:
            program = folder / name
            program.write_text(PROGRAM)
            program.chmod(0o755)

    def always(self, name: str, script: str) -> None:
        """Every call of `name` runs `script` from now on."""
        self._write(f"{name}.sh", script)

    def once(self, name: str, script: str) -> None:
        """The next call of `name` runs `script`."""
        self._write(f"{name}.once", script)

    def queue(self, *rows: str) -> None:
        """squeue answers with these rows: job, index, state, submitted, started, nodes, reason, name."""
        self.always("squeue", QUEUE.format(rows="\n".join(rows)))

    def accounts(self, *rows: str) -> None:
        """sacct answers with these rows, in the order of its fields."""
        self.always("sacct", ACCOUNTS.format(rows="\n".join(rows)))

    def behave(self, names: Iterable[str] = NAMES) -> None:
        """The real ones from now on."""
        for name in names:
            for ending in ("sh", "once"):
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    @property
    def calls(self) -> list[str]:
        """Names of the commands given so far."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def argv(self, name: str) -> list[str]:
        """What the last call of `name` was given; an argument with a line break is told as several."""
        return (self.folder / f"{name}.argv").read_text().splitlines()

    def wait_for(self, file: str, seconds: float = 20.0) -> None:
        """Until a script has left this file here."""
        until = time.monotonic() + seconds
        while not (self.folder / file).exists():
            assert time.monotonic() < until, f"no {file} in {os.listdir(self.folder)}"
            time.sleep(0.05)

    def _write(self, name: str, script: str) -> None:
        hidden = self.folder / f".{name}"
        hidden.write_text(script)
        hidden.rename(self.folder / name)
