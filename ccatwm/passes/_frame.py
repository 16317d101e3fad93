"""What all passes share: lock, lease, time budget, report. Touches: lock files, the ops-db."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ccatwm.edges.journal import belonging
from ccatwm.edges.opsdb.stores import leases
from ccatwm.edges.opsdb.stores.leases import Holder, Lease
from ccatwm.errors import (
    CcatwmError,
    ConflictError,
    MissingRightError,
    OpsDbUnusableError,
    SchemaVersionError,
    WorldError,
)
from ccatwm.passes._context import Context

log = logging.getLogger("ccatwm.passes")
LONG = ("stage", "gc")  # what moves many files may take longer than others


@dataclass(frozen=True)
class PassOptions:
    """`limit` items at most; `wait` seconds for the lock (None: do not wait); `max_seconds` None: the site's."""

    limit: int | None = None
    dry_run: bool = False
    wait: float | None = None
    max_seconds: float | None = None
    full: bool = False
    stop: Callable[[], bool] | None = None  # asked between units of work
    rehearsed: bool = False  # a dry run whose ops-db is a rehearsal already: what it writes does not stay


@dataclass
class PassItem:
    """What a pass did with one run (or sub-group): `outcome` is a word, `reason` a sentence.

    `needs_you`: nothing more happens to the run until a person acts. `count`: how many runs it stands for.
    `intended`: people have set it so, there is no news in it. `news`: people are told of it, also under cron.
    """

    outcome: str
    reason: str = ""
    run: int | None = None
    pipeline: str | None = None
    step: str | None = None
    sub_group: str | None = None
    needs_you: bool = False
    count: int = 1
    intended: bool = False
    news: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "pipeline": self.pipeline,
            "step": self.step,
            "sub_group": self.sub_group,
            "outcome": self.outcome,
            "reason": self.reason,
            "needs_you": self.needs_you,
            "count": self.count,
        }


# What waits is the same line in every round: the summary of the pass counts it.
_LEVELS = {"failed": logging.WARNING, "done": logging.INFO, "waiting": logging.DEBUG}


@dataclass
class PassReport:
    """What one pass did. `error`: the world went away in the middle; the next pass goes on."""

    pass_name: str
    site: str
    started_at: datetime
    seconds: float = 0.0
    selected: int = 0
    done: int = 0
    waiting: int = 0
    failed: int = 0
    items: list[PassItem] = field(default_factory=list)
    skipped: str | None = None  # why nothing was tried: locked, paused
    error: CcatwmError | None = None
    scheduler_calls: int = 0

    @property
    def exit_code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        return 1 if self.failed else 0

    @property
    def changed(self) -> bool:
        return bool(self.done or self.failed)

    def add(self, kind: str, item: PassItem) -> None:
        """Count `item` as `done`, `waiting` or `failed`."""
        setattr(self, kind, getattr(self, kind) + item.count)
        self.items.append(item)
        level = logging.WARNING if item.news else _LEVELS[kind]
        if not log.isEnabledFor(level):
            return
        log.log(
            level,
            "%s: %s%s",
            _subject(item),
            item.outcome,
            f" ({item.reason})" if item.reason else "",
            extra={"pass_name": self.pass_name, "run": item.run, "pipeline": item.pipeline},
        )

    def tell(self, item: PassItem) -> None:
        """Something that people must know and that is nobody's success or failure: it is not counted."""
        self.items.append(item)
        log.warning("%s: %s (%s)", _subject(item), item.outcome, item.reason,
                    extra={"pass_name": self.pass_name, "run": item.run, "pipeline": item.pipeline})  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "schema": "ccatwm.pass/1",
            "pass": self.pass_name,
            "site": self.site,
            "started_at": self.started_at.isoformat().replace("+00:00", "Z"),
            "seconds": round(self.seconds, 3),
            "selected": self.selected,
            "done": self.done,
            "waiting": self.waiting,
            "failed": self.failed,
            "skipped": self.skipped,
            "scheduler_calls": self.scheduler_calls,
            "items": [item.to_json() for item in self.items],
        }
        if self.error is not None:
            document["error"] = {"class": type(self.error).__name__, "message": self.error.message,
                                 "where": self.error.where, "next": self.error.next}  # fmt: skip
        return document


def _subject(item: PassItem) -> str:
    place = "/".join(part for part in (item.pipeline, item.step, item.sub_group) if part)
    return f"run {item.run} ({place})" if item.run is not None else place or "-"


class LeaseLostError(WorldError):
    """Another process took the lease over: this one stops at once."""


class PassFrame:
    """What a running pass asks its frame: how much time is left, and to stay the holder of the lease."""

    def __init__(self, context: Context, report: PassReport, options: PassOptions, fence: int | None) -> None:
        settings = context.settings
        self.context = context
        self.report = report
        self.options = options
        self.now = report.started_at
        self.tripped: set[int] = set()  # steps that this pass tripped: their other runs are let be
        self._fence = fence
        self._start = context.clock.monotonic()
        self._renewed = self._start
        default = settings.max_seconds_stage if report.pass_name in LONG else settings.max_seconds
        self._budget = default if options.max_seconds is None else options.max_seconds

    @property
    def dry_run(self) -> bool:
        return self.options.dry_run

    @property
    def only_looks(self) -> bool:
        """Whether nothing may be written, since it would stay."""
        return self.options.dry_run and not self.options.rehearsed

    def limit_seconds(self, seconds: float | None) -> None:
        """The pass may take no longer than this, whatever its budget is."""
        if seconds is not None:
            self._budget = min(self._budget, seconds)

    def time_is_up(self) -> bool:
        if self.options.stop is not None and self.options.stop():
            return True
        return self.context.clock.monotonic() - self._start >= self._budget

    def checkpoint(self) -> None:
        """Between units of work: renew the lease when a third of it is gone. Errors: LeaseLostError."""
        if self._fence is None:
            return
        lease_seconds = self.context.settings.lease_seconds
        if self.context.clock.monotonic() - self._renewed < lease_seconds / 3:
            return
        with self.context.database.write() as connection:
            kept = leases.renew_lease(
                connection,
                self.report.pass_name,
                location(self.context),
                fence=self._fence,
                seconds=lease_seconds,
            )
            if leases.read_brakes(connection)[0] is not None:
                self._budget = 0.0  # somebody waits for us: no more units of work
        if not kept:
            raise LeaseLostError(f"the lease of {self.report.pass_name} was taken over by another process")
        self._renewed = self.context.clock.monotonic()

    def units(self, items: Sequence[Any]) -> Iterator[Any]:
        """The items one by one until the time or the limit is up, with a checkpoint before each."""
        for count, item in enumerate(items):
            if self.time_is_up() or (self.options.limit is not None and count >= self.options.limit):
                return
            self.checkpoint()
            yield item


def location(context: Context) -> str:
    return context.settings.processing_location


def run_framed(
    context: Context, pass_name: str, options: PassOptions, body: Callable[[PassFrame], None]
) -> PassReport:
    """Run `body` under the pass's lock and lease; errors of the world end the pass, not the program."""
    with belonging(pass_name=pass_name):
        return _run_framed(context, pass_name, options, body)


def _run_framed(
    context: Context, pass_name: str, options: PassOptions, body: Callable[[PassFrame], None]
) -> PassReport:
    report = PassReport(pass_name, context.settings.site, context.clock.now())
    begun, calls_before = context.clock.monotonic(), context.scheduler_calls
    try:
        context.database.check_schema(observations=context.settings.observations)
        with _file_lock(context, pass_name, options) as locked:
            if not locked:
                report.skipped = "locked"
            else:
                _run_leased(context, report, options, body)
    except SchemaVersionError as error:
        error.exit_code = 4  # for cron an upgrade in progress is the world's business
        if _is_paused(context):
            report.skipped = "paused"  # that is what the pause is for
        else:
            report.error = error
    except (WorldError, OpsDbUnusableError, MissingRightError) as error:
        report.error = error  # also what a person must mend: told once, not by every pass that cron starts
    report.seconds = context.clock.monotonic() - begun
    report.scheduler_calls = context.scheduler_calls - calls_before
    if isinstance(report.error, WorldError):
        report.error.next = report.error.next or "the next pass tries again"
    _log_summary(report)
    return report


def _is_paused(context: Context) -> bool:
    """Also with the tables of another release, as far as they can be read."""
    try:
        with context.database.read() as connection:
            return leases.read_brakes(connection)[0] is not None
    except (CcatwmError, sa.exc.DBAPIError):  # no such table or column
        return False


def _log_summary(report: PassReport) -> None:
    """One line of a pass that found something, whatever it came to."""
    if report.selected or report.changed or report.waiting:
        log.info(
            "%s: %d selected, %d done, %d waiting, %d failed, %.1f s",
            report.pass_name, report.selected, report.done, report.waiting, report.failed, report.seconds,
            extra={"pass_name": report.pass_name},
        )  # fmt: skip


def _run_leased(
    context: Context, report: PassReport, options: PassOptions, body: Callable[[PassFrame], None]
) -> None:
    if options.dry_run:
        body(PassFrame(context, report, options, None))
        return
    fence = _take_lease(context, report)
    if fence is None:
        return
    try:
        body(PassFrame(context, report, options, fence))
    except SchemaVersionError:
        raise
    except CcatwmError as error:  # also what a person must mend: it is recorded, and the lease goes back
        report.error = error
    _finish(context, report, fence)


@contextmanager
def _file_lock(context: Context, pass_name: str, options: PassOptions) -> Iterator[bool]:
    """A courtesy that spares work on one host; the lease in the ops-db is the authority."""
    if options.dry_run:
        yield True
        return
    from filelock import FileLock, Timeout

    folder = context.settings.state_dir / "locks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(folder / f"{pass_name}-{_safe(location(context))}.lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=options.wait or 0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):  # a file system without locks: the lease must do
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _take_lease(context: Context, report: PassReport) -> int | None:
    """The fence of the lease, or None when another holder is alive or all passes are paused."""
    name, place, seconds = report.pass_name, location(context), context.settings.lease_seconds
    with context.database.write() as connection:
        # Shared: a pause waits for this lease and then sees it, or is seen here.
        paused, _ = leases.read_brakes(connection, share=True)
        if paused is not None:
            report.skipped = "paused"
            return None
        lease = leases.read_lease(connection, name, place)
        if not lease.expired and not holder_is_gone(lease):
            report.skipped = "locked"
            return None
        fence = leases.take_lease(connection, name, place, this_process(), fence=lease.fence, seconds=seconds)
    if fence is None:
        report.skipped = "locked"
    elif lease.holder is not None:
        why = "it expired" if lease.expired else "its process is gone"
        log.warning("%s: lease taken over from %s: %s", name, lease.holder.token, why)
    return fence


def _finish(context: Context, report: PassReport, fence: int) -> None:
    """Give the lease back and record the pass, in one transaction."""
    values = {
        "started_at": report.started_at,
        "ended_at": context.clock.now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "selected": report.selected,
        "done": report.done,
        "waiting": report.waiting,
        "failed": report.failed,
        "message": report.error.message if report.error else report.skipped,
    }
    try:
        with context.database.write() as connection:
            leases.release_lease(connection, report.pass_name, location(context), fence=fence)
            leases.record_pass(connection, report.pass_name, location(context), keep=True, **values)
    except (WorldError, ConflictError) as error:
        report.error = report.error or error


# --- processes -----------------------------------------------------------------------------------------------------


@cache
def boot_id() -> str:
    """This boot and pid namespace (Linux), or `unknown`: only within both does a pid mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}.{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def process_start(pid: int) -> str | None:
    """The start time of a living process in clock ticks since boot (proc(5), field 22), or None."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def this_process() -> Holder:
    pid = os.getpid()
    token = f"{boot_id()}:{pid}:{process_start(pid)}"
    return Holder(token=token, host=socket.gethostname(), pid=pid, boot_id=boot_id())


def holder_is_gone(lease: Lease) -> bool:
    """Whether the holder certainly lives no more: same boot of the same machine, but no such process."""
    holder = lease.holder
    if holder is None:
        return True
    if holder.boot_id != boot_id() or holder.boot_id == "unknown":
        return False  # another machine, or another boot of this one: only the expiry tells
    return process_start(holder.pid) != holder.token.rpartition(":")[2]
