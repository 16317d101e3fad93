"""What may go of what runs leave behind: since when, by which rule, or why not. Pure.

Rows come in as plain values; nothing is chosen by what lies on disk, but for logs of more than a step may have, whose sizes
somebody has looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from ccatwm.core.wording import GB

KEEP = "keep"
LARGEST_LIMIT = 36600  # days of a century
# Outcomes of a sub-group after which nothing that feeds it is needed for what is wanted now.
DONE = frozenset({"up-to-date", "restored", "accepted", "no-inputs"})


class Kind(StrEnum):
    """What goes together, by one rename."""

    PRODUCTS = "products"  # the output of the attempt that won
    SCRATCH = "scratch"
    LOGS = "logs"


@dataclass(frozen=True)
class Retention:
    """How long files of a step stay, in days, and how much of logs, in GB. None: for ever, however much."""

    intermediate_days: float | None = None
    superseded_days: float | None = None
    scratch_days: float | None = None
    log_days: float | None = None
    log_max_gb: float | None = None

    def with_said(self, said: Mapping[str, Any] | None) -> Retention:
        """This, but for what somebody has said: numbers, or `keep`; what is absent or null is not said."""
        numbers = {key: value for key, value in (said or {}).items() if value is not None}
        return replace(self, **{key: None if value == KEEP else float(value) for key, value in numbers.items()})


@dataclass(frozen=True)
class Going:
    """That something may go: by which rule (a field of `Retention`), and since when the rule counts."""

    rule: str
    limit: float
    since: datetime

    @property
    def reason(self) -> str:
        """In words, for people."""
        return f"{_WORDS[self.rule]} ({self.rule}: {self.limit:g})"


_WORDS = {
    "intermediate_days": "all that it feeds has settled",
    "superseded_days": "another product has taken its place",
    "scratch_days": "its attempt has ended",
    "log_days": "its attempt has ended",
    "log_max_gb": "the step has more logs than it may",
}


@dataclass(frozen=True)
class Fed:
    """A sub-group that the products of a run feed. `enabled`: with its step and pipeline; `held` likewise, or tripped."""

    outcome: str | None
    decided_at: datetime | None
    due: bool
    held: bool
    enabled: bool
    asked: bool
    open_run: bool
    blocked: bool  # its newest run failed for good, or was cancelled
    run_ended_at: datetime | None  # of its current run
    newest_counts: bool  # the run of its newest decision is the current one

    @property
    def settled_at(self) -> datetime | None:
        """Since when it needs nothing of what feeds it; None: it may need it yet."""
        waits = self.due or self.held or self.asked or self.open_run or self.blocked
        done = self.outcome in DONE or (self.outcome == "run" and self.newest_counts)
        if waits or not done:
            return None
        return max((at for at in (self.decided_at, self.run_ended_at) if at is not None), default=None)


@dataclass(frozen=True)
class ProductsLeft:
    """The products of a completed run, as far as they are there. Times aware UTC.

    `replaced_at`: when another run took its place; None while it is current, and where it never was. `brought_back_at`:
    when a person last took them out of the trash. `needed`: by a run that is open, or that a person may retry.
    """

    run: int
    intermediate: bool
    current: bool
    ended_at: datetime
    replaced_at: datetime | None = None
    brought_back_at: datetime | None = None
    published: bool = False
    needed: bool = False
    promoted: bool = False  # a trial until a person let it count
    fed: Sequence[Fed] = ()


def products_going(left: ProductsLeft, retention: Retention, now: datetime) -> Going | None:
    """Whether the products of a run may go."""
    if left.published or left.needed or left.promoted:
        return None
    going = _current_going(left, retention) if left.current else _superseded_going(left, retention)
    return _if_over(going, left.brought_back_at, now)


def _current_going(left: ProductsLeft, retention: Retention) -> Going | None:
    """Of what counts only what was made for others, once all of these have had it; what nobody uses yet stays."""
    users = [fed for fed in left.fed if fed.enabled]
    settled = [fed.settled_at for fed in users if fed.settled_at is not None]
    if not left.intermediate or retention.intermediate_days is None or not users or len(settled) < len(users):
        return None
    return Going("intermediate_days", retention.intermediate_days, max(left.ended_at, *settled))


def _superseded_going(left: ProductsLeft, retention: Retention) -> Going | None:
    since = left.replaced_at or left.ended_at
    rules = ("superseded_days", "intermediate_days") if left.intermediate else ("superseded_days",)
    limits = {rule: limit for rule in rules if (limit := getattr(retention, rule)) is not None}
    if not limits:
        return None
    rule = min(limits, key=lambda name: limits[name])
    return Going(rule, limits[rule], since)


def _if_over(going: Going | None, brought_back_at: datetime | None, now: datetime) -> Going | None:
    """What a person has brought back stays as long again."""
    if going is None:
        return None
    since = going.since if brought_back_at is None else max(going.since, brought_back_at)
    return replace(going, since=since) if since + timedelta(days=going.limit) <= now else None


@dataclass(frozen=True)
class FolderLeft:
    """A folder of an attempt that has ended: its scratch, or its logs. `kept`: of a published or an open run."""

    run: int
    path: str  # below the base directory
    ended_at: datetime
    brought_back_at: datetime | None = None
    kept: bool = False

    @property
    def there_since(self) -> datetime:
        return self.ended_at if self.brought_back_at is None else max(self.ended_at, self.brought_back_at)


def scratch_going(left: FolderLeft, retention: Retention, now: datetime) -> Going | None:
    """Whether a scratch folder may go; also that of a run which is open, by another attempt."""
    return _by_age(left, "scratch_days", retention.scratch_days, now)


def logs_going(left: FolderLeft, retention: Retention, now: datetime) -> Going | None:
    """Whether logs may go by their age."""
    return None if left.kept else _by_age(left, "log_days", retention.log_days, now)


def _by_age(left: FolderLeft, rule: str, days: float | None, now: datetime) -> Going | None:
    return None if days is None else _if_over(Going(rule, days, left.ended_at), left.brought_back_at, now)


def excess_logs(sized: Iterable[tuple[FolderLeft, int]], retention: Retention) -> list[tuple[FolderLeft, Going]]:
    """The oldest logs of a step that go until the rest (bytes) is no more than `log_max_gb`.

    What is kept counts and does not go; what a person brought back is as old as that.
    """
    if retention.log_max_gb is None:
        return []
    logs = sorted(sized, key=lambda one: (one[0].there_since, one[0].path))
    total, most = sum(size for _, size in logs), retention.log_max_gb * GB
    going = []
    for left, size in logs:
        if total <= most:
            break
        if not left.kept and size:
            going.append((left, Going("log_max_gb", retention.log_max_gb, left.there_since)))
            total -= size
    return going
