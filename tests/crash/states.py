"""The state of a world as one text: from equal states the same follows, so that it is followed to its end once.

What is told apart by chance alone (a folder's place, tokens, process ids) is not in it, nor when a pass was; all else is.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.rig import World

# What passes note about themselves. No pass reads records; a lease is free, or its holder is a process that has ended.
LEFT_OUT = {"pass_record"}
LEASES = "SELECT pass_name, location, holder IS NULL FROM pass_lease ORDER BY pass_name, location"
PARTIAL = re.compile(r"\.[0-9a-f]{12}\.part\b")  # a folder that becomes a package's
BY_CHANCE = re.compile(
    r"\b[a-z2-7]{26}\b"  # the token of a submission
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.pid:\[\d+\]:\d+:\d+"  # a process of this boot
)


@dataclass
class Words:
    """Words of chance by the order in which they appear: which is which matters, what they are does not."""

    folder: str
    numbers: dict[str, int] = field(default_factory=dict)

    def placeless(self, text: str) -> str:
        return PARTIAL.sub(".PARTIAL.part", text.replace(self.folder, "FOLDER"))

    def masked(self, text: str) -> str:
        return BY_CHANCE.sub("<>", text)

    def numbered(self, text: str) -> str:
        return BY_CHANCE.sub(lambda found: f"<{self._number(found[0])}>", text)

    def _number(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))


def state_key(world: World) -> str:
    """Of an ops-db on SQLite and a batch system of files; nobody else is at work in it."""
    words = Words(str(world.folder))
    judged_by = (world.tick, world.mode, sorted(world.wanted.items()), world.scans)
    digest = hashlib.sha256(repr(judged_by).encode())
    rows = map(words.placeless, _rows(world.url.removeprefix("sqlite:///")))
    files = sorted(map(words.placeless, _files(world.folder)), key=words.masked)
    for line in (*rows, *files):
        digest.update(words.numbered(line).encode())
    return digest.hexdigest()


def _rows(path: str) -> Iterator[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        for name in [name for (name,) in found if name not in LEFT_OUT]:
            query = LEASES if name == "pass_lease" else f"SELECT * FROM {name} ORDER BY rowid"
            yield f"{name} {connection.execute(query).fetchall()}\n"


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if not path.name.startswith("opsdb.sqlite"):
                status = path.lstat()
                links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
                yield f"{path} {status.st_mode:o} {links} {_content(path, status.st_mode)}\n"


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return path.read_bytes().decode("latin-1") if stat.S_ISREG(mode) else ""


@dataclass
class Ended:
    """States that ended well, known to all workers: a file each in `folder`."""

    folder: Path

    def __contains__(self, key: str) -> bool:
        return (self.folder / key).exists()

    def add(self, key: str) -> None:
        (self.folder / key).touch()


@dataclass
class Trail:
    """The states that one point goes through after its fault."""

    world: World
    ended: Ended
    keys: list[str] = field(default_factory=list)

    def joins_another(self) -> bool:
        """Whether all that would follow is known: another point came to this very state, and ended well."""
        if self.world.kill_at is None or self.world.counter.get() < self.world.kill_at:
            return False
        self.keys.append(state_key(self.world))
        return self.keys[-1] in self.ended

    def end_well(self) -> None:
        """All of them have led to a good end."""
        for key in self.keys:
            self.ended.add(key)
