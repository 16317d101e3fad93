"""What attempts used, where the batch system's accounting tells it late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ccatwm.errors import SchedulerUnavailableError
from ccatwm.interfaces import JobReport, JobState, JobTask
from ccatwm.passes._context import Context
from tests.fakes.batch import FileBatch
from tests.passes.conftest import Observatory, as_json

TOLD = {"wall_seconds": 12.0, "cpu_hours": 0.25, "peak_memory_gb": 1.5, "host": "node7", "queue_seconds": 3.0}


@dataclass
class Accounting:
    """What the batch system of files says about jobs that have ended, from the poll number `known_after` on."""

    known_after: int
    refuses: bool = False
    asked: list[int] = field(default_factory=list)  # how many jobs by each poll

    def complete(self, reports: Sequence[JobReport]) -> list[JobReport]:
        self.asked.append(len(reports))
        if self.refuses:
            raise SchedulerUnavailableError("accounting is away")
        known: dict[str, Any] = TOLD if len(self.asked) > self.known_after else {"metrics_later": True}
        return [replace(r, **known) if r.state is JobState.ENDED else r for r in reports]


class AccountedBatch(FileBatch):
    accounting: Accounting

    def poll(self, jobs: Sequence[JobTask]) -> list[JobReport]:
        return self.accounting.complete(super().poll(jobs))


@dataclass
class AccountedObservatory:
    """An observatory whose first run has ended; `poll` is a pass of cron."""

    observatory: Observatory
    accounting: Accounting

    def poll(self) -> Any:
        self.observatory.minute += 1
        context = self.observatory.context()
        context.make_scheduler = lambda: self._batch(context)
        from ccatwm import wiring
        from ccatwm.passes._frame import PassOptions

        return wiring.run_pass("poll", context, PassOptions())

    def _batch(self, context: Context) -> AccountedBatch:
        batch = AccountedBatch(
            self.observatory.folder / "batch", self.observatory.base, context.effects, array_size=4
        )
        batch.accounting = self.accounting
        return batch

    def run(self) -> dict[str, Any]:
        (attempt,) = self.observatory.rows("run_attempt")
        return next(run for run in self.observatory.runs() if run["id"] == attempt["run_id"])

    def used(self) -> dict[str, Any]:
        (attempt,) = self.observatory.rows("run_attempt")
        return as_json(attempt["resources_used"])


@pytest.fixture
def accounted(observatory: Observatory) -> AccountedObservatory:
    for name in ("trigger", "resolve"):
        observatory.run_pass(name)
    observatory.run_pass("stage", limit=1)
    observatory.run_pass("submit")
    observatory.jobs()
    return AccountedObservatory(observatory, Accounting(known_after=1))


def test_a_run_does_not_wait_for_what_accounting_tells_late(accounted: AccountedObservatory) -> None:
    accounted.poll()
    assert accounted.run()["status"] == "COLLECTING_RESULTS"
    assert accounted.used()["cpu_hours"] is None


def test_the_next_poll_keeps_what_accounting_tells_late(accounted: AccountedObservatory) -> None:
    accounted.poll()
    accounted.observatory.run_pass("collect")
    accounted.poll()
    used = accounted.used()
    assert (used["cpu_hours"], used["peak_memory_gb"], used["node"]) == (0.25, 1.5, "node7")
    run = accounted.run()
    assert (run["status"], run["wall_seconds"], run["cpu_hours"]) == ("COMPLETED", 12.0, 0.25)
    accounted.poll()
    assert accounted.accounting.asked == [1, 1]  # nothing is left to ask


def test_accounting_is_asked_again_in_twice_the_time_and_for_a_day_at_most(
    accounted: AccountedObservatory,
) -> None:
    accounted.accounting.known_after = 1000
    for _ in range(30):
        accounted.poll()
    assert 5 <= len(accounted.accounting.asked) <= 7  # after 1, 2, 4, 8, 16 minutes
    accounted.observatory.minute += 3 * 24 * 60
    accounted.poll()
    before = len(accounted.accounting.asked)
    accounted.observatory.minute += 30 * 24 * 60
    accounted.poll()
    assert len(accounted.accounting.asked) == before


def test_accounting_that_is_away_fails_no_pass_that_asks_only_for_metrics(
    accounted: AccountedObservatory,
) -> None:
    accounted.poll()
    accounted.accounting.refuses = True
    assert accounted.poll().error is None
    accounted.accounting.refuses = False
    for _ in range(5):
        accounted.poll()
    assert accounted.used()["cpu_hours"] == 0.25
