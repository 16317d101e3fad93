"""What people say of runs, data and steps: asked for, accepted, tried, excluded, held; told to sites and oracle alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from ccatwm.core.backfill import BackfillState
from ccatwm.edges.opsdb import tables as t
from ccatwm.errors import UsageError
from ccatwm.upkeep.backfill import Asked, pause_backfill, resume_backfill, start_backfill
from ccatwm.upkeep.control import Wanted, cancel, hold, release, retry
from ccatwm.upkeep.exclude import Act, accept, exclude, include, promote
from ccatwm.upkeep.requests import request_runs
from tests.oracle.defining import VERSIONS, Defining
from tests.oracle.oracle import Exclusion, Group, Oracle, Run
from tests.oracle.programs import PIPELINES
from tests.oracle.site import Site
from tests.oracle.sky import FIRST_NIGHT


@dataclass
class Backfill:
    """A period of a pipeline; which of its sub-groups were not looked at yet."""

    number: int
    pipeline: str
    since: datetime
    until: datetime
    most_runs: int | None
    left: set[tuple[str, str]]
    made: int = 0
    paused: bool = False


@dataclass
class People(Defining):
    """Says to all its sites, and to the oracle, the same."""

    oracle: Oracle = field(init=False)
    trials: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)
    asked: list[tuple[str, str | None, bool]] = field(default_factory=list)  # step, key (None: all), by force
    accepting: set[str] = field(default_factory=set)  # steps
    backfill: Backfill | None = None

    def runs(self) -> list[tuple[Group, Run]]:
        groups = sorted(self.oracle.groups.values(), key=lambda g: (self.oracle.steps.index(g.step), g.key))
        return [(group, run) for group in groups for run in group.runs]

    # --- runs -------------------------------------------------------------------------------------------------

    def _cancel(self, number: int, _b: int, _c: int) -> None:
        opened = [run for _, run in self.runs() if run.open and not run.trial]
        if opened:
            run = opened[number % len(opened)]
            self._say_of_run(cancel, run)
            for site in self.sites:
                site.run_pass("poll")
                site.run_pass("poll")
            run.status, run.blocking = "CANCELLED", True

    def _retry(self, number: int, _b: int, _c: int) -> None:
        ended = [
            (group, run)
            for group, run in self.runs()
            if run.status in ("FAILED", "CANCELLED") and not (run.superseded or run.trial or group.opened)
        ]
        if ended:
            group, run = ended[number % len(ended)]
            self._say_of_run(retry, run)
            run.status, run.blocking = "PENDING", False
            if group.wanted in (None, run.recipe):
                group.decision += 1
                group.looks += 1
                run.decision = group.decision
            group.touch(self.now)

    def _say_of_run(self, say: Callable[..., Any], run: Run) -> None:
        for site in self.sites:
            wanted = Wanted(
                (site.run_id(run.step, run.key, run.number),), reason="told so", actor="me", host="h"
            )
            assert say(site.context.database, wanted, now=self.now).done, site.kind

    def _promote(self, number: int, _b: int, _c: int) -> None:
        tried = [(group, run) for group, run in self.runs() if run.trial and run.status == "COMPLETED"]
        if tried:
            group, run = tried[number % len(tried)]
            excluded = self.oracle.excluded(run, PIPELINES[run.step])
            for site in self.sites:
                world = site.context.database, site.context.grouping
                with pytest.raises(UsageError, match="is excluded") if excluded else nullcontext():
                    promote(*world, site.run_id(run.step, run.key, run.number), self._act())
            if excluded:
                return
            run.trial, run.promoted = False, True
            group.touch(self.now)

    def _lose(self, number: int, _b: int, _c: int) -> bool:
        """The files of a run go that does not count now, and of which nobody is about to make anything."""
        needed = {
            id(below) for _, run in self.runs() if run.status == "PENDING" for below in run.runs_below()
        }
        idle = [run for group, run in self.runs() if run.status == "COMPLETED" and run is not group.current]
        idle = [run for run in idle if not (run.trial or run.lost or id(run) in needed)]
        if idle:
            run = idle[number % len(idle)]
            for site in self.sites:
                site.lose(site.run_id(run.step, run.key, run.number))
            run.lost = True
        return False

    # --- what is asked for ------------------------------------------------------------------------------------

    def _act(self, reason: str = "a reason") -> Act:
        return Act(reason=reason, actor="me", host="h", now=self.now, yes=True)

    def _groups_of(self, step: str, number: int) -> tuple[str | None, list[Group]]:
        """One of a step's sub-groups, or all."""
        groups = sorted((g for g in self.oracle.groups.values() if g.step == step), key=lambda g: g.key)
        if not groups or number % 3 == 0:
            return None, groups
        chosen = groups[number % len(groups)]
        return chosen.key, [chosen]

    def _request(self, step: int, group: int, force: int) -> None:
        name = self._step_name(step)
        key, _ = self._groups_of(name, group)
        for site in self.sites:
            request_runs(site.context.database, site.context.grouping, PIPELINES[name], step=name, sub_group=key,
                         force=force % 2 == 1, reason="wanted", actor="me", now=self.now, yes=True)  # fmt: skip
        self.asked.append((name, key, force % 2 == 1))

    def _accept(self, step: int, group: int, _c: int) -> None:
        name = self._step_name(step)
        key, groups = self._groups_of(name, group)
        wanted: dict[str, list[str]] = {"accepted": [], "unchanged": [], "refused": []}
        for one in groups:
            wanted[self.oracle.acceptable(one)].append(one.key)
        if not (wanted["accepted"] or wanted["unchanged"]):
            return
        for site in self.sites:
            world = site.context.database, site.context.grouping
            report = accept(*world, PIPELINES[name], name, key, self._act("fine"))
            refused = [key for key, _ in report.refused]
            told = {"accepted": report.accepted, "unchanged": report.unchanged, "refused": refused}
            assert {why: sorted(keys) for why, keys in told.items()} == wanted, site.kind
        for one in groups:
            if one.key in wanted["accepted"]:
                self.oracle.accept(one, self.now)
        if wanted["accepted"]:
            self.accepting.add(name)

    def _try_out(self, step: int, mode: int, version: int) -> None:
        name = self._step_name(step)
        config = {**self._step(step)["config"], "mode": "XYZABC"[mode % 6]}
        wanted = VERSIONS[version % len(self.definitions["versions"])] if version % 2 else None
        trial = [f"config.mode={config['mode']}", *([f"version={wanted}"] if wanted else [])]
        for site in self.sites:
            request_runs(site.context.database, site.context.grouping, PIPELINES[name], step=name,
                         reason="is it better?", actor="me", now=self.now, yes=True, trial=trial)  # fmt: skip
        self.trials.append((name, config, wanted))

    def _backfill(self, first: int, hours: int, most: int) -> None:
        """One at a time: whose run it is would not be told apart else."""
        if self.backfill is not None:
            return
        since = FIRST_NIGHT + timedelta(hours=3 * first)
        until = since + timedelta(hours=6 + 6 * hours)
        pipeline = "survey" if most % 4 == 1 and "sum" in self.definitions["steps"] else "otf"
        limit = most % 3 or None
        asked = Asked(pipeline, since.isoformat(), until.isoformat(), limit)
        reports = [start_backfill(s.context.database, s.context.grouping, asked, self._act()) for s in self.sites]
        number = reports[0].number
        assert number is not None
        self.backfill = Backfill(number, pipeline, since, until, limit, set())
        self.backfill.left = {
            place for place, group in self.oracle.groups.items() if self.is_of_backfill(group)
        }

    def _pause_backfill(self, _a: int, _b: int, _c: int) -> None:
        """It pauses, or goes on."""
        if self.backfill is not None:
            act = resume_backfill if self.backfill.paused else pause_backfill
            for site in self.sites:
                act(site.context.database, self.backfill.number, self._act())
            self.backfill.paused = not self.backfill.paused

    def is_paused(self, run: Run) -> bool:
        """Whether it was made for a backfill that pauses."""
        return self.backfill is not None and self.backfill.paused and run.backfill == self.backfill.number

    def is_of_backfill(self, group: Group) -> bool:
        """Whether it has a package that was observed in the period."""
        asked = self.backfill
        if asked is None or PIPELINES[group.step] != asked.pipeline:
            return False
        times = [m.observed_at for m in self.oracle.members_of(group)]
        return any(at is not None and asked.since <= at < asked.until for at in times)

    def end_backfill(self) -> list[str]:
        """What is wrong with the backfill, where the sites say that it is done."""
        if self.backfill is None:
            return []
        asked, states = self.backfill, [site.rows(t.backfill)[-1]["state"] for site in self.sites]
        full = asked.made == asked.most_runs
        # What is due of a continuous step is looked at by itself, and what was opened before is left to whoever did.
        groups = [self.oracle.groups[place] for place in asked.left]
        ours = [g for g in groups if self.is_of_backfill(g) and not (g.asked or self.oracle.is_continuous(g.step))]
        left = {(g.step, g.key) for g in ours}
        if BackfillState.DONE not in states:
            return ["a backfill is not done though it has made all it may"] if full else []
        self.backfill = None
        for group in self.oracle.groups.values():
            group.backfilled = False
        wrong = [f"a backfill is {states}"] if len(set(states)) > 1 else []
        return [
            *wrong,
            *([f"a backfill is done and has not looked at {sorted(left)}"] if left and not full else []),
        ]

    # --- what is excluded, and held ---------------------------------------------------------------------------

    def _exclude(self, kind: int, number: int, hours: int) -> None:
        found = self._exclusion(("package", "unit", "module", "run", "software", "product")[kind % 6], number, hours)
        if found is None:
            return
        found.pipeline = (
            {1: "otf", 5: "survey"}.get(hours % 6) if "sum" in self.definitions["steps"] else None
        )
        same = (found.kind, found.value, found.pipeline)
        if any((e.kind, e.value, e.pipeline) == same for e in self.oracle.exclusions):
            return
        found.until = self.now + timedelta(hours=1) if hours % 4 == 3 else None
        for site in self.sites:
            database, grouping = site.context.database, site.context.grouping
            exclude(database, grouping, [self._target(site, found)], self._act(found.reason), until=found.until,
                    pipeline=found.pipeline)  # fmt: skip
        self.oracle.exclusions.append(found)

    def _exclusion(self, kind: str, number: int, hours: int) -> Exclusion | None:
        begin = FIRST_NIGHT + timedelta(hours=3 * hours)
        packages = [row["name"] for row in self.sky.tables["raw_data_package"].values()]
        scans = [row["name"] for row in self.sky.tables["executed_obs_unit"].values()]
        runs = [run for _, run in self.runs() if run.status == "COMPLETED" and not run.trial]
        values: dict[str, list[Any]] = {
            "package": packages,
            "unit": scans,
            "module": [(name, begin, begin + timedelta(hours=12)) for name in ("LFA", "HFA")],
            "run": runs,
            "product": runs,
            "software": self.definitions["versions"],
        }
        return Exclusion(kind, values[kind][number % len(values[kind])], "bad") if values[kind] else None

    def _target(self, site: Site, exclusion: Exclusion) -> str:
        value = exclusion.value
        if exclusion.kind == "module":
            name, begin, end = value
            return f"module:CHAI/{name}@{begin:%Y-%m-%dT%H:%M:%SZ}..{end:%Y-%m-%dT%H:%M:%SZ}"
        if exclusion.kind == "run":
            return f"run:{site.run_id(value.step, value.key, value.number)}"
        if exclusion.kind == "product":
            return f"product:{site.product_id(site.run_id(value.step, value.key, value.number))}"
        return f"{exclusion.kind}:{'cal@' if exclusion.kind == 'software' else ''}{value}"

    def _include(self, number: int, _b: int, _c: int) -> None:
        if self.oracle.exclusions:
            found = self.oracle.exclusions.pop(number % len(self.oracle.exclusions))
            for site in self.sites:
                numbers = [
                    row["id"]
                    for row in site.rows(t.exclusion)
                    if row["ended_at"] is None
                    and (row["selection"]["target"], row["pipeline_name"])
                    == (self._target(site, found), found.pipeline)
                ]
                include(site.context.database, site.context.grouping, [str(numbers[0])], self._act())

    def _hold(self, step: int, group: int, release_it: int) -> None:
        name = self._step_name(step)
        key, _ = self._groups_of(name, group)
        place = "/".join([PIPELINES[name], name, *([key] if key is not None else [])])
        if group == 9:
            place = PIPELINES[name]
        common: dict[str, Any] = {"reason": "wait", "actor": "me", "host": "h", "now": self.now}
        act = release if release_it % 3 else hold
        for site in self.sites:
            act(site.context.database, place, **common)
        (self.oracle.held.discard if release_it % 3 else self.oracle.held.add)(place)
        if act is release and place.count("/") == 1:
            self.oracle.let_go(name)
