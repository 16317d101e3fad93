"""A pseudo-terminal that programs are run on, and what its screen shows of them. Touches: processes."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.cells import cell_len

CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
PATIENCE_SECONDS = 240.0
STREAMS = ("stdout", "stderr")


class Screen:
    """Lines of so many columns and no end. Errors: AssertionError for a sequence that no program of ours may send."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.wrapped: list[int] = []  # rows that began since the one before was full
        self.cursor_shown = True

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            found = CONTROL.match(text, at)
            if found is not None:
                self._control(found[1], found[2])
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    @property
    def lines(self) -> list[str]:
        """Without spaces at their ends, and without empty lines at the end of all."""
        shown = ["".join(row).rstrip() for row in self.rows]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def _put(self, character: str) -> None:
        if character == "\n":
            self._go(self.row + 1, self.column)
        elif character == "\r":
            self.column = 0
        else:
            assert character.isprintable(), f"{character!r} is no sequence that is known here"
            self._write(character)

    def _write(self, character: str) -> None:
        width = cell_len(character)
        if self.column + width > self.columns:
            self._go(self.row + 1, 0)
            self.wrapped.append(self.row)
        row = self.rows[self.row]
        row += [" "] * (self.column + width - len(row))
        if width == 0:
            row[self.column - 1] += character
            return
        row[self.column : self.column + width] = [character, *[""] * (width - 1)]
        self.column += width

    def _go(self, row: int, column: int) -> None:
        self.row, self.column = max(0, row), column
        while len(self.rows) <= self.row:
            self.rows.append([])

    def _control(self, arguments: str, kind: str) -> None:
        count = int(arguments) if arguments.isdigit() else 1
        row = self.rows[self.row]
        if kind == "A":
            self._go(self.row - count, self.column)
        elif kind == "K":
            del row[0 if arguments == "2" else self.column :]
        elif kind == "J":
            del row[self.column :]
            del self.rows[self.row + 1 :]
        elif (arguments, kind) in (("?25", "l"), ("?25", "h")):
            self.cursor_shown = kind == "h"
        else:
            assert kind == "m", f"ESC [ {arguments} {kind} is no sequence that is known here"


@dataclass
class Shown:
    """What became of a program: its exit code, every byte that it sent to the terminal, and what is to be seen in the end.

    `piped`: what it wrote to the streams that were no terminal."""

    code: int
    sent: str
    screen: Screen
    piped: dict[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return self.screen.lines


def run_on_terminal(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    columns: int = 80,
    streams: Sequence[str] = STREAMS,
    interrupt_when: Callable[[str], bool] | None = None,
    number: int = signal.SIGINT,
) -> Shown:
    """Run a program whose `streams` are a terminal and whose others are pipes.

    `interrupt_when`: as soon as this holds of what it has sent, its process group gets the signal `number`, once.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    pipes = {name: os.pipe() for name in STREAMS if name not in streams}
    given = {name: theirs if name in streams else pipes[name][1] for name in STREAMS}
    process = subprocess.Popen(
        [str(word) for word in argv], cwd=cwd, env={"TERM": "xterm", **environment}, stdin=theirs,
        stdout=given["stdout"], stderr=given["stderr"], start_new_session=True,
        preexec_fn=_heed_interrupts,
    )  # fmt: skip
    os.close(theirs)
    for _, end in pipes.values():
        os.close(end)
    try:
        sent, piped = _read_all(ours, {end: name for name, (end, _) in pipes.items()}, process, interrupt_when, number)
        code = process.wait(timeout=PATIENCE_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(ours)
    screen = Screen(columns)
    screen.feed(sent)
    return Shown(code, sent, screen, piped)


def _heed_interrupts() -> None:
    """As a shell on a terminal starts it. Whoever runs tests in the background may ignore SIGINT, which is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read_all(
    ours: int,
    pipes: dict[int, str],
    process: subprocess.Popen[bytes],
    interrupt_when: Callable[[str], bool] | None,
    number: int,
) -> tuple[str, dict[str, str]]:
    """Until the program has closed everything."""
    found: dict[int, bytes] = dict.fromkeys([ours, *pipes], b"")
    open_ones = set(found)
    until = time.monotonic() + PATIENCE_SECONDS
    while open_ones:
        ready, _, _ = select.select(sorted(open_ones), [], [], max(0.0, until - time.monotonic()))
        assert ready, f"nothing more was said, nor closed: {found[ours]!r}"
        for end in ready:
            data = _read(end)
            found[end] += data
            if not data:
                open_ones.discard(end)
        if interrupt_when is not None and interrupt_when(found[ours].decode("utf-8", "replace")):
            interrupt_when = None
            os.killpg(process.pid, number)
    for end in pipes:
        os.close(end)
    piped = {name: found[end].decode("utf-8") for end, name in pipes.items()}
    return found[ours].decode("utf-8"), piped


def _read(end: int) -> bytes:
    """Empty at the end, which a terminal tells as EIO."""
    try:
        return os.read(end, 1 << 16)
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise
