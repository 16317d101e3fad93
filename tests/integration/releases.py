"""Releases side by side, as an operator installs them, and a cron that runs whatever `current` leads to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
NEXT_REVISION = '''\
"""When passes were paused. Touches: the ops-db."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ccatwm.edges.opsdb.types import UtcDateTime

revision = "pipeline_9001"
down_revision = "HEAD"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = "ccatwm" if op.get_bind().dialect.name == "postgresql" else None
    op.add_column("ops_db", sa.Column("paused_at", UtcDateTime(), nullable=True), schema=schema)
'''


def install(releases: Path, version: str) -> Path:
    """A copy of this working tree as release `version`, with an environment of its own.

    Dependencies come from the environment of the tests, by a path entry behind the release's own; nothing is fetched.
    """
    release = releases / version
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=TOP, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if name.startswith(("ccatwm/", "bin/", "pyproject.toml")) and (TOP / name).is_file():
            target = release / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((TOP / name).read_bytes())
            target.chmod((TOP / name).stat().st_mode & 0o777)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(release / ".venv")], check=True)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (release / ".venv" / ".ccatwm-environment").touch()  # bin/setup-env writes it when all is there
    packages = release / ".venv" / "lib" / python / "site-packages"
    (packages / "release.pth").write_text(f"{release}\n{sysconfig.get_paths()['purelib']}\n")
    metadata = packages / f"ccatwm-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ccatwm\nVersion: {version}\n")
    project = tomllib.loads((release / "pyproject.toml").read_text())["project"]
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return release


def change_schema(release: Path) -> None:
    """As the next release might: one more column, in the tables, in the known revisions and as a migration."""
    from ccatwm.edges.opsdb.engine import PIPELINE_REVISIONS

    head = max(PIPELINE_REVISIONS)
    folder = release / "ccatwm" / "edges" / "opsdb"
    revision = NEXT_REVISION.replace('"HEAD"', f'"{head}"')
    (folder / "migrations" / "versions" / "pipeline_9001.py").write_text(revision)
    _edit(folder / "engine.py", f'"{head}"', '"pipeline_9001"')
    _edit(
        folder / "tables.py",
        'Column("paused", Text),',
        'Column("paused", Text), Column("paused_at", UtcDateTime),',
    )


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file}: {old}"
    file.write_text(text.replace(old, new))


@dataclass
class Told:
    """What one command of cron came to."""

    code: int
    out: str
    err: str


@dataclass
class Installed:
    """`releases/`, its link `current`, and a site beside it."""

    folder: Path
    passes: list[Told] = field(default_factory=list)

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def current(self) -> Path:
        return self.folder / "releases" / "current"

    def switch(self, version: str) -> None:
        """As `ln -s VERSION new && mv -T new current` does: there is a release at every moment."""
        new = self.current.with_name("new")
        new.symlink_to(version)
        os.replace(new, self.current)

    def run(self, *arguments: object, release: str = "current", check: bool = True) -> Told:
        launcher = self.folder / "releases" / release / "bin" / "ccatwm"
        command = [str(word) for word in (launcher, "--site", self.site, *arguments)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return Told(done.returncode, done.stdout, done.stderr)

    def ask(self, *arguments: object, release: str = "current") -> Any:
        return json.loads(self.run(*arguments, "--json", release=release).out)

    @contextmanager
    def cron(self) -> Iterator[None]:
        """`current/bin/ccatwm cycle` again and again, as cron would every minute."""
        end = threading.Event()

        def work() -> None:
            while not end.wait(0.2):
                self.passes.append(self.run("cycle", check=False))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def wait_for(self, what: str, met: Callable[[], bool], seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < until, f"{what}; passes: {self.passes[-8:]}"
            time.sleep(0.2)
