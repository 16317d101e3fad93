"""What may happen at an observatory, act by act: carried out on real sites and told to the oracle, then compared.

An act is a name and three small numbers, which pick what it concerns from what is there (counted round). So every list of
acts is a history, and a shorter one is simpler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ccatwm.upkeep.control import Wanted, cancel, hold, release, retry
from ccatwm.upkeep.exclude import Act, accept, exclude, include
from ccatwm.upkeep.requests import request_runs
from tests.oracle.compare import ROUNDS, differences
from tests.oracle.observing import OBSERVING, Observing
from tests.oracle.oracle import Exclusion, Group, Oracle, Run
from tests.oracle.programs import PIPELINE, STEPS
from tests.oracle.site import Clock, Site, pipeline_document
from tests.oracle.sky import FIRST_NIGHT, Sky

TIMEZONE = "America/Santiago"
MINUTE = timedelta(minutes=1)
VERSIONS = ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]
WAITS = [2, 20, 61, 300]  # minutes


def rule(table: str, column: str, operator: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"table": table, "column": column, "operator": operator, "value": value, **more}


RULES: list[list[dict[str, Any]]] = [
    [],
    [rule("Source", "name", "neq", "a b")],
    [rule("ObsUnit", "line_id", "eq", "CO43")],
    [rule("RawDataPackage", "metadata", "not_null", None, json_path="mode")],
    [{"any_of": [rule("InstrumentModule", "name", "eq", "LFA"), rule("Source", "name", "in", ["α/β", "NGC253"])]}],
    [{"not": rule("RawDataPackage", "metadata", "gte", 2, json_path="mode")}],
]
MODE = {"name": "mode", "table": "RawDataPackage", "column": "metadata", "json_path": "mode"}
FIRST_GROUPS: list[list[Any]] = [
    ["executed_obs_unit"], ["source"], ["obs_date"], ["source", "instrument_module"], ["raw_data_package"], [MODE],
    ["obs_unit", "instrument"], [],
]  # fmt: skip
SECOND_GROUPS: list[list[Any]] = [[], ["source"], ["obs_date"], ["executed_obs_unit"]]
POLICIES: list[dict[str, Any]] = [
    {},
    {"cooldown_seconds": 1800},
    {"settle_seconds": 600},
    {"deadline_hours": 2},
    {"version_policy": "latest"},
    {"version_policy": "exact", "version": "1.0.0"},
    {"version": "1.0.1"},
    {"complete": "executed_obs_unit"},
    {"complete": "none"},
    {"requires": 0.5},
    {"on_upstream_failure": "skip"},
    {"staleness": {"ignore": ["input-added", "upstream-changed"]}},
]


def first_definitions(first: int, second: int, policies: Sequence[int], rules: int, blind: bool) -> dict[str, Any]:
    """Two steps, grouped and governed as drawn."""
    config = {"mode": "A", "blind": blind}
    steps = {
        "calibrate": {"group_by": FIRST_GROUPS[first % len(FIRST_GROUPS)], "references": ["pointing"]},
        "grid": {"group_by": SECOND_GROUPS[second % len(SECOND_GROUPS)], "depends_on": ["calibrate"]},
    }
    for step, policy in zip(steps.values(), policies, strict=True):
        step |= {"config": dict(config), "environment": {}, **POLICIES[policy % len(POLICIES)]}
    return {"rules": RULES[rules % len(RULES)], "versions": VERSIONS[:1], "references": ["1"], "steps": steps}


@dataclass
class History(Observing):
    """Sites that live through the same, and the oracle that says what should be."""

    sites: list[Site]
    clock: Clock
    definitions: dict[str, Any]
    oracle: Oracle = field(init=False)
    trials: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)
    asked: list[tuple[str, bool]] = field(default_factory=list)  # steps that were asked for as a whole; by force
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sky = Sky.with_first_rows(self.now)
        self.oracle = Oracle(self.sky, self.definitions, TIMEZONE)
        self._observe(0, 0, 3)
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
        for _ in range(ROUNDS):
            self.clock.at += timedelta(seconds=1)
            selected = [site.run_pass("trigger", **options).selected for site in self.sites]
            options = {}
            self._end_exclusions()
            for site in self.sites:
                site.run_pass("resolve")
            self._foretell()
            self._compare()
            if not any(selected):
                missed = [(g.step, g.key) for g in self.oracle.overdue(self.now)]
                assert not missed, self._failed([f"nobody looked at {missed}"])
                return
        raise AssertionError(self._failed([f"not quiet after {ROUNDS} rounds"]))

    def _foretell(self) -> None:
        """The oracle decides on what must be looked at, and on what was looked at for nothing."""
        oracle = self.oracle
        oracle.regroup(self.now)
        for step in STEPS:
            oracle.notice(self.now)
            for trial in [trial for trial in self.trials if trial[0] == step]:
                oracle.try_out(*trial, self.now)
                self.trials.remove(trial)
            self._carry_requests(step)
            for group in [g for g in oracle.groups.values() if g.step == step]:
                if self._looked_at(group):
                    oracle.look(group, self.now)
        oracle.notice(self.now)

    def _carry_requests(self, step: str) -> None:
        for asked in [asked for asked in self.asked if asked[0] == step]:
            for group in [g for g in self.oracle.groups.values() if g.step == step]:
                group.request = {"force": asked[1]}
                group.touch(self.now)
            self.asked.remove(asked)

    def _looked_at(self, group: Group) -> bool:
        found = [site.groups().get((group.step, group.key), {}).get("decided_at") == self.now for site in self.sites]
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
        waiting = [run for group in self.oracle.groups.values() for run in group.runs if run.status == "PENDING"]
        if row is not None and not any(row in run.stands_on for run in waiting):
            self.sky.withdraw(row)
        self._flush()
        self.settle(full=True)
        return False

    # --- definitions ------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        for site in self.sites:
            site.apply(pipeline_document(self.definitions, site.folder))

    def _step(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.definitions["steps"][STEPS[number % 2]]
        return found

    def _configure(self, step: int, mode: int, _c: int) -> None:
        self._step(step)["config"] = {**self._step(step)["config"], "mode": "ABC"[mode % 3]}
        self._apply()

    def _set_environment(self, step: int, value: int, _c: int) -> None:
        self._step(step)["environment"] = {"N": str(value % 2)}
        self._apply()

    def _release_version(self, _a: int, _b: int, _c: int) -> None:
        self.definitions["versions"] = VERSIONS[: len(self.definitions["versions"]) + 1]
        self._apply()

    def _release_reference(self, _a: int, _b: int, _c: int) -> None:
        self.definitions["references"] = [*self.definitions["references"], str(len(self.definitions["references"]) + 1)]
        self._apply()

    def _change_policy(self, step: int, policy: int, _c: int) -> None:
        known = ("group_by", "references", "depends_on", "config", "environment")
        kept = {key: value for key, value in self._step(step).items() if key in known}
        self.definitions["steps"][STEPS[step % 2]] = {**kept, **POLICIES[policy % len(POLICIES)]}
        self._apply()

    def _change_rules(self, rules: int, _b: int, _c: int) -> None:
        self.definitions["rules"] = RULES[rules % len(RULES)]
        self._apply()

    # --- runs -------------------------------------------------------------------------------------------------

    def _runs(self) -> list[tuple[Group, Run]]:
        groups = sorted(self.oracle.groups.values(), key=lambda g: (STEPS.index(g.step), g.key))
        return [(group, run) for group in groups for run in group.runs]

    def _hand_over(self, _a: int = 0, _b: int = 0, _c: int = 0) -> None:
        for site in self.sites:
            site.run_pass("stage")
            site.run_pass("submit")
        for group, run in self._runs():
            if run.status == "PENDING" and not self.oracle.is_held(group):
                run.status = "SUBMITTED"

    def _finish(self, fates: int, more: int, _c: int = 0) -> None:
        """Jobs end; in half of the cases some of them fail."""
        ending = [(group, run) for group, run in self._runs() if run.status == "SUBMITTED"]
        bits = (fates * 12 + more) if more % 2 else 0
        failing = {(r.step, r.key, r.number) for n, (_, r) in enumerate(ending) if bits >> (n % 7) & 1}
        for site in self.sites:
            site.fates = failing
            site.run_jobs()
            site.run_pass("poll")
            site.run_pass("collect")
        for _, run in ending:
            fails = (run.step, run.key, run.number) in failing
            run.status, run.blocking = ("FAILED", True) if fails else ("COMPLETED", False)

    def _work(self, fates: int, more: int, _c: int) -> None:
        self._hand_over()
        self._finish(fates, more)

    def _cancel(self, number: int, _b: int, _c: int) -> None:
        opened = [run for _, run in self._runs() if run.open and not run.trial]
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
            for group, run in self._runs()
            if run.status in ("FAILED", "CANCELLED") and not (run.superseded or run.trial or group.opened)
        ]
        if ended:
            group, run = ended[number % len(ended)]
            self._say_of_run(retry, run)
            run.status, run.blocking = "PENDING", False
            if group.wanted in (None, run.recipe):
                group.decision += 1
                run.decision = group.decision
            group.touch(self.now)

    def _say_of_run(self, say: Callable[..., Any], run: Run) -> None:
        for site in self.sites:
            wanted = Wanted((site.run_id(run.step, run.key, run.number),), reason="told so", actor="me", host="h")
            assert say(site.context.database, wanted, now=self.now).done, site.kind

    # --- what people say --------------------------------------------------------------------------------------

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
        name = STEPS[step % 2]
        key, groups = self._groups_of(name, group)
        for site in self.sites:
            request_runs(site.context.database, site.context.grouping, PIPELINE, step=name, sub_group=key,
                         force=force % 2 == 1, reason="wanted", actor="me", now=self.now, yes=True)  # fmt: skip
        if key is None:  # and also those sub-groups that are found only when it is carried out
            self.asked.append((name, force % 2 == 1))
        for one in groups if key is not None else ():
            one.request = {"force": force % 2 == 1}
            one.touch(self.now)

    def _accept(self, step: int, group: int, _c: int) -> None:
        name = STEPS[step % 2]
        key, groups = self._groups_of(name, group)
        good = [g for g in groups if g.current is not None and not self.oracle.excluded(g.current)]
        if not good:
            return
        for site in self.sites:
            report = accept(site.context.database, PIPELINE, name, key, self._act("fine"))
            assert sorted(report.accepted) == sorted(g.key for g in good), site.kind
        for one in good:
            one.request = {"accept": True}
            one.touch(self.now)

    def _try_out(self, step: int, mode: int, version: int) -> None:
        name = STEPS[step % 2]
        config = {**self._step(step)["config"], "mode": "XYZ"[mode % 3]}
        wanted = VERSIONS[version % len(self.definitions["versions"])] if version % 2 else None
        trial = [f"config.mode={config['mode']}", *([f"version={wanted}"] if wanted else [])]
        for site in self.sites:
            request_runs(site.context.database, site.context.grouping, PIPELINE, step=name, reason="is it better?",
                         actor="me", now=self.now, yes=True, trial=trial)  # fmt: skip
        self.trials.append((name, config, wanted))

    def _exclude(self, kind: int, number: int, hours: int) -> None:
        found = self._exclusion(("package", "unit", "module", "run", "software")[kind % 5], number, hours)
        if found is None or any(e.kind == found.kind and e.value == found.value for e in self.oracle.exclusions):
            return
        found.until = self.now + timedelta(hours=1) if hours % 4 == 3 else None
        for site in self.sites:
            database, grouping = site.context.database, site.context.grouping
            exclude(database, grouping, [self._target(site, found)], self._act(found.reason), until=found.until)
        self.oracle.exclusions.append(found)

    def _exclusion(self, kind: str, number: int, hours: int) -> Exclusion | None:
        begin = FIRST_NIGHT + timedelta(hours=3 * hours)
        packages = [row["name"] for row in self.sky.tables["raw_data_package"].values()]
        scans = [row["name"] for row in self.sky.tables["executed_obs_unit"].values()]
        runs = [run for _, run in self._runs() if run.status == "COMPLETED" and not run.trial]
        values: dict[str, list[Any]] = {
            "package": packages,
            "unit": scans,
            "module": [(name, begin, begin + timedelta(hours=12)) for name in ("LFA", "HFA")],
            "run": runs,
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
        return f"{exclusion.kind}:{'cal@' if exclusion.kind == 'software' else ''}{value}"

    def _include(self, number: int, _b: int, _c: int) -> None:
        if self.oracle.exclusions:
            found = self.oracle.exclusions.pop(number % len(self.oracle.exclusions))
            for site in self.sites:
                include(site.context.database, site.context.grouping, [self._target(site, found)], self._act())

    def _hold(self, step: int, group: int, release_it: int) -> None:
        name = STEPS[step % 2]
        key, _ = self._groups_of(name, group)
        place = name if key is None else f"{name}/{key}"
        common: dict[str, Any] = {"reason": "wait", "actor": "me", "host": "h", "now": self.now}
        act = release if release_it % 3 else hold
        for site in self.sites:
            act(site.context.database, f"{PIPELINE}/{place}", **common)
        (self.oracle.held.discard if release_it % 3 else self.oracle.held.add)(place)

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
    "set environment": History._set_environment,
    "release version": History._release_version,
    "release reference": History._release_reference,
    "change policy": History._change_policy,
    "change rules": History._change_rules,
    "hand over": History._hand_over,
    "finish": History._finish,
    "work": History._work,
    "cancel": History._cancel,
    "retry": History._retry,
    "request": History._request,
    "accept": History._accept,
    "try out": History._try_out,
    "exclude": History._exclude,
    "include": History._include,
    "hold": History._hold,
    "wait": History._wait,
    "compare all": History._compare_all,
}
OFTEN = ["work", "work", "work", "work", "hand over", "finish", "observe", "arrive", "configure", "wait", "exclude"]
NAMES = [*ACTS, *OFTEN]
