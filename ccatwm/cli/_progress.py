"""Progress bars for a person at a terminal. Touches: stderr; what else is written to the terminal meanwhile goes above.

Nothing is shown, and nothing of it imported, before something takes longer than a moment.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ccatwm.core.wording import size_text, span_text

if TYPE_CHECKING:
    from rich.progress import Progress, Task

DELAY_SECONDS = 0.4
WHAT_COLUMNS = 32  # of a name; a longer one ends in ...
BAR_COLUMNS = 14
BYTES = "bytes"


@dataclass
class TerminalBar:
    """Something under way."""

    what: str
    total: int | None
    unit: str
    begun: float
    measure: Callable[[], int] | None = None
    done: int = 0
    said: str = ""

    def advance(self, count: int, /) -> None:
        self.done += count

    def note(self, text: str, /) -> None:
        self.said = text

    def figures(self, now: float) -> str:
        """`3.1 of 40.0 GB, 210.0 MB/s, 3 min left`, `3 of 12 runs, 17 packages`."""
        if self.measure is not None:
            with suppress(OSError):
                self.done = self.measure()
        seconds = now - self.begun
        parts = [self._amount()] if self.done or self.total else []
        if self.unit == BYTES and self.done and seconds > 0:
            parts.append(f"{size_text(self.done / seconds)}/s")
        parts += [self.said] if self.said else []
        left = self._seconds_left(seconds)
        parts.append(span_text(seconds) if left is None else f"{span_text(left)} left")
        return ", ".join(parts)

    def _amount(self) -> str:
        shown = size_text if self.unit == BYTES else str
        noun = "" if self.unit == BYTES else f" {self.unit}"
        return f"{shown(self.done)}{noun}" if self.total is None else f"{shown(self.done)} of {shown(self.total)}{noun}"

    def _seconds_left(self, seconds: float) -> float | None:
        """None where it cannot be told, or not yet."""
        if not self.total or not self.done or seconds < 2:
            return None
        return max(0.0, seconds * (self.total - self.done) / self.done)


class TerminalProgress:
    """`interfaces.Progress` on stderr: a line for each thing that is under way, gone when it ends."""

    def __init__(self) -> None:
        self._bars: list[TerminalBar] = []
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._live: Progress | None = None
        self._streams: tuple[TextIO, TextIO] | None = None

    @contextmanager
    def begin(
        self, what: str, total: int | None, unit: str, *, measure: Callable[[], int] | None = None
    ) -> Iterator[TerminalBar]:
        bar = TerminalBar(_shortened(what), total, unit, time.monotonic(), measure)
        self._add(bar)
        try:
            yield bar
        finally:
            self._remove(bar)

    def close(self) -> None:
        """Whatever is shown is gone."""
        with self._lock:
            self._bars.clear()
            self._stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Somebody else writes to the terminal."""
        with self._lock:
            was_shown = self._live is not None
            self._erase()
            yield
            if was_shown:
                self._draw()

    def _add(self, bar: TerminalBar) -> None:
        with self._lock:
            self._bars.append(bar)
            if self._live is not None:
                self._live.add_task(bar.what, total=bar.total, bar=bar)
            elif self._timer is None:
                self._timer = threading.Timer(DELAY_SECONDS, self._start)
                self._timer.daemon = True
                self._timer.start()

    def _remove(self, bar: TerminalBar) -> None:
        with self._lock:
            if bar in self._bars:
                self._bars.remove(bar)
            if not self._bars:
                self._stop()
            elif self._live is not None:
                for task in self._live.tasks:
                    if task.fields["bar"] is bar:
                        self._live.remove_task(task.id)

    # --- on the terminal -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        import rich.progress  # noqa: F401  before the lock: it takes a while

        with self._lock:
            if self._bars and self._live is None:
                self._streams = sys.stdout, sys.stderr
                sys.stderr = _Above(self, sys.stderr)
                if sys.stdout.isatty():
                    sys.stdout = _Above(self, sys.stdout)
                self._draw()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._erase()
        if self._streams is not None:
            begun = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, _Above)]
            sys.stdout, sys.stderr = self._streams
            self._streams = None
            for stream in begun:
                stream.finish()

    def _draw(self) -> None:
        """Always anew: rich would go up by what it has drawn before, over what was written since."""
        if self._streams is None:
            return
        self._live = _build_live(self._streams[1])
        for bar in self._bars:
            self._live.add_task(bar.what, total=bar.total, bar=bar)
        self._live.start()

    def _erase(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()


class _Above:
    """A stream to the terminal: what is written stands above the bars, a line at a time."""

    def __init__(self, progress: TerminalProgress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        self._begun += text
        lines, newline, self._begun = self._begun.rpartition("\n")
        if newline:
            with self._progress.hidden():
                self._stream.write(lines + newline)
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Lines are out as soon as they end."""

    def finish(self) -> None:
        """A line that did not end."""
        self._stream.write(self._begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _shortened(what: str) -> str:
    from ccatwm.cli._frame import printable
    from ccatwm.cli._table import cut

    return cut(printable(what), WHAT_COLUMNS)


def _build_live(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Figures(ProgressColumn):
        max_refresh = 0.2

        def render(self, task: Task) -> Text:
            bar: TerminalBar = task.fields["bar"]
            text = bar.figures(time.monotonic())
            task.completed = bar.done
            return Text(text, no_wrap=True, overflow="ellipsis")

    class Steady(Console):
        """A process that is killed leaves no terminal without a cursor."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    columns = (TextColumn("{task.description}", markup=False), BarColumn(BAR_COLUMNS), Figures())
    console = Steady(file=stream, highlight=False, markup=False)
    return Progress(
        *columns, console=console, transient=True, refresh_per_second=5, redirect_stdout=False, redirect_stderr=False
    )
