"""What may happen at an observatory, act by act: carried out on real sites and told to the oracle, then compared.

An act is a name and three small numbers, which pick what it concerns from what is there (counted round). So every list of
acts is a history, and a shorter one is simpler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ccatwm.passes._frame import PassReport
from tests.oracle.compare import ROUNDS, differences
from tests.oracle.defining import TIMEZONE
from tests.oracle.observing import OBSERVING
from tests.oracle.oracle import Group, Oracle
from tests.oracle.people import People
from tests.oracle.site import Clock
from tests.oracle.sky import Sky

MINUTE = timedelta(minutes=1)
WAITS = [2, 20, 61, 300]  # minutes


Looked = Counter[tuple[str | None, str | None]]


def _looked_at(report: PassReport) -> Looked:
    """How often (step, key) was decided on; a decision that says the same leaves no other trace."""
    told = [item for item in report.items if not item.reason.startswith(("trial: ", "no trial: "))]
    return Counter((item.step, item.sub_group) for item in told if item.sub_group is not None)


@dataclass
class History(People):
    """Sites that live through the same, and the oracle that says what should be."""

    clock: Clock = field(kw_only=True)
    told: list[str] = field(default_factory=list)
    looked: list[Looked] = field(default_factory=list)  # by the last `resolve` of each site, less what the oracle did

    def __post_init__(self) -> None:
        self.sky = Sky.with_first_rows(self.now)
        self.oracle = Oracle(self.sky, self.definitions, TIMEZONE)
        for unit, hours in ((0, 0), (2, 1), (2, 2)):  # the last two serve as loads for it, and for one another
            self._observe(unit, hours, 3)
        self._flush()
        self._apply()
        self.settle()

    def live(self, acts: Iterable[tuple[str, int, int, int]]) -> None:
        for name, *numbers in acts:
            self.clock.at += MINUTE
            self.told.append(f"{self.now:%d %H:%M:%S} {name} {numbers}")
            go_on = ACTS[name](self, *numbers)
            self._flush()
            self.oracle.notice(self.now)
            if go_on is not False:
                self.settle()

    # --- passes -----------------------------------------------------------------------------------------------

    def settle(self, **options: Any) -> None:
        """`trigger` and `resolve` until nothing is due; after each round all must agree."""
        missed: list[Any] = []
        for _ in range(ROUNDS):
            self.clock.at += timedelta(seconds=1)
            selected = [site.run_pass("trigger", **options).selected for site in self.sites]
            options = {}
            self._end_exclusions()
            ticking = self._ticking()
            reports = [site.run_pass("resolve") for site in self.sites]
            selected += [report.selected for report in reports]
            self.looked = [_looked_at(report) for report in reports]
            self._foretell(ticking)
            self._compare()
            overdue = [(g.step, g.key) for g in self.oracle.overdue(self.now)]
            if not any(selected) and not overdue:
                return
            # What falls due while packages are grouped is found by the next pass.
            assert any(selected) or not missed, self._failed([f"nobody looked at {missed}"])
            missed = [] if any(selected) else overdue
        raise AssertionError(self._failed([f"not quiet after {ROUNDS} rounds"]))

    def _ticking(self) -> list[str]:
        """Steps that tick in this pass: where a person's word waits for `resolve`, the tick waits for the next one."""
        busy = {name for name, *_ in (*self.asked, *self.trials)} | self.accepting
        triggers = {name: self.oracle.step(name).get("trigger") for name in self.oracle.steps}
        return [n for n, t in triggers.items() if self.oracle.ticker.ticks(n, t, self.now, busy=n in busy)]

    def _foretell(self, ticking: list[str]) -> None:
        """The oracle decides on what must be looked at, and on what was looked at for nothing."""
        oracle = self.oracle
        oracle.regroup(self.now)
        looks = self._looks
        for step in oracle.steps:
            oracle.notice(self.now)
            for trial in [trial for trial in self.trials if trial[0] == step]:
                oracle.try_out(*trial, self.now)
                self.trials.remove(trial)
            self._carry_requests(step)
            groups = [g for g in oracle.groups.values() if g.step == step]
            if step in ticking:
                self._tick(step, [g for g in groups if g.due or looks(g)])
            for group in groups:
                if looks(group) and self._is_live(group):
                    self._look(group)
        self._carry_backfill_on()
        self.accepting.clear()
        oracle.notice(self.now)

    def _tick(self, step: str, due: list[Group]) -> None:
        """What is due is opened; with `force` all is asked for."""
        force = self.oracle.step(step)["trigger"].get("force", False)
        for group in [g for g in self.oracle.groups.values() if g.step == step] if force else due:
            if force:
                group.request = {"reason": "scheduled", "force": True}
            self.oracle.open(group, self.now)

    def _is_live(self, group: Group) -> bool:
        """Whether it is looked at by itself, because it was opened, or for nothing; else by a backfill."""
        if not self.oracle.is_continuous(group.step):
            return group.asked
        return group in self.oracle.overdue(self.now) or not self.is_of_backfill(group)

    def _look(self, group: Group, *, backfill: int | None = None) -> None:
        self.oracle.look(group, self.now, backfill=backfill)
        for looked in self.looked:
            looked[group.step, group.key] -= 1
        if self.backfill is not None:
            self.backfill.left.discard((group.step, group.key))

    def _carry_backfill_on(self) -> None:
        oracle = self.oracle
        for step in oracle.steps:
            oracle.notice(self.now)
            for group in [g for g in oracle.groups.values() if g.step == step]:
                if not self._looks(group):
                    continue
                where = f"{group.step}/{group.key}"
                opened = group.backfilled or self.is_of_backfill(group)
                assert opened, self._failed([f"{where} was looked at though nobody has opened it"])
                assert self.backfill is not None and not self.backfill.paused, self._failed([f"{where} was looked at"])
                before = len(group.runs)
                self._look(group, backfill=self.backfill.number)
                self.backfill.made += len(group.runs) - before
        wrong = self.end_backfill()
        assert not wrong, self._failed(wrong)

    def _carry_requests(self, step: str) -> None:
        for asked in [asked for asked in self.asked if asked[0] == step]:
            _, key, force = asked
            for group in [g for g in self.oracle.groups.values() if g.step == step and key in (None, g.key)]:
                group.request = {"force": force}
                self.oracle.open(group, self.now)
            self.asked.remove(asked)

    def _looks(self, group: Group) -> int:
        """How often a sub-group was decided on that the oracle has not been told of."""
        found = [looked[group.step, group.key] for looked in self.looked]
        assert len(set(found)) == 1, self._failed([f"{group.step}/{group.key} was looked at on one database only"])
        return found[0]

    def _compare(self) -> None:
        wrong = [f"{site.kind}: {text}" for site in self.sites for text in differences(site, self.oracle)]
        assert not wrong, self._failed(wrong)

    def _failed(self, wrong: list[str]) -> str:
        return "\n".join([*wrong, "after:", *self.told, f"defined: {self.definitions}"])

    def _end_exclusions(self) -> None:
        over = [e for e in self.oracle.exclusions if e.until is not None and e.until <= self.now]
        self.oracle.exclusions = [e for e in self.oracle.exclusions if e not in over]

    def _flush(self) -> None:
        changes, self.sky.pending = self.sky.pending, []
        for site in self.sites:
            site.write(self.sky, changes)

    # --- observing --------------------------------------------------------------------------------------------

    def _withdraw(self, package: int, _b: int, _c: int) -> bool:
        """A row that goes is found by a full comparison only. What is still to be staged must be there."""
        row = self._package(package)
        waiting = [run for _, run in self.runs() if run.status == "PENDING"]
        if row is not None and not any(row in run.stands_on for run in waiting):
            self.sky.withdraw(row)
        self._flush()
        self.settle(full=True)
        return False

    # --- runs -------------------------------------------------------------------------------------------------

    def _hand_over(self, _a: int = 0, _b: int = 0, _c: int = 0) -> None:
        for site in self.sites:
            site.run_pass("stage")
            site.run_pass("submit")
        for group, run in self.runs():
            stopped = self.oracle.is_held(group) or group.step in self.oracle.tripped or self.is_paused(run)
            if run.status == "PENDING" and not stopped:
                run.status = "SUBMITTED"

    def _finish(self, fates: int, more: int, _c: int = 0) -> None:
        """Jobs end; in half of the cases some of them fail, or all of a step where that may trip it."""
        ending = [(group, run) for group, run in self.runs() if run.status == "SUBMITTED"]
        bits = (fates * 12 + more) if more % 2 else 0
        trip_after = self.sites[0].trip_after
        places = [n if trip_after > len(ending) else self.oracle.steps.index(r.step) for n, (_, r) in enumerate(ending)]
        failing = {(r.step, r.key, r.number) for n, (_, r) in zip(places, ending, strict=True) if bits >> (n % 7) & 1}
        for site in self.sites:
            site.fates = failing
            site.run_jobs()
            site.run_pass("poll")
            site.run_pass("collect")
        for _, run in ending:
            fails = (run.step, run.key, run.number) in failing
            run.status, run.blocking = ("FAILED", True) if fails else ("COMPLETED", False)
        for step in self.oracle.steps:
            ended = [run.status for _, run in ending if run.step == step and not run.trial]
            if ended:
                self.oracle.count_ends(step, ended.count("FAILED"), ended.count("COMPLETED"), trip_after)

    def _work(self, fates: int, more: int, _c: int) -> None:
        self._hand_over()
        self._finish(fates, more)

    def _wait(self, minutes: int, _b: int, _c: int) -> None:
        self.clock.at += timedelta(minutes=WAITS[minutes % len(WAITS)])

    def _compare_all(self, _a: int, _b: int, _c: int) -> bool:
        """`trigger --full`, which must find nothing: nobody has looked for that yet (see test_full.py)."""
        self.settle(full=True)
        return False


ACTS: dict[str, Callable[..., bool | None]] = {
    **OBSERVING,
    "withdraw": History._withdraw,
    "configure": History._configure,
    "decorate": History._decorate,
    "set environment": History._set_environment,
    "release version": History._release_version,
    "deliver image": History._deliver_image,
    "release reference": History._release_reference,
    "change policy": History._change_policy,
    "change trigger": History._change_trigger,
    "change companions": History._change_companions,
    "change rules": History._change_rules,
    "hand over": History._hand_over,
    "finish": History._finish,
    "work": History._work,
    "cancel": History._cancel,
    "retry": History._retry,
    "promote": History._promote,
    "lose": History._lose,
    "backfill": History._backfill,
    "pause backfill": History._pause_backfill,
    "request": History._request,
    "accept": History._accept,
    "try out": History._try_out,
    "exclude": History._exclude,
    "include": History._include,
    "hold": History._hold,
    "wait": History._wait,
    "compare all": History._compare_all,
}
OFTEN = ["work", "work", "work", "work", "work", "work", "work", "hand over", "finish", "observe", "observe", "arrive",
         "configure", "wait", "request", "try out", "end scan"]  # fmt: skip
NAMES = [*ACTS, *OFTEN]
