"""What people define, and define otherwise: rules, steps, policies, triggers, companions, versions, references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.oracle.observing import Observing
from tests.oracle.site import Site, pipeline_document

TIMEZONE = "America/Santiago"
VERSIONS = ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]


def rule(table: str, column: str, operator: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"table": table, "column": column, "operator": operator, "value": value, **more}


RULES: list[list[dict[str, Any]]] = [
    [],
    [rule("Source", "name", "neq", "a b")],
    [rule("ObsUnit", "line_id", "eq", "CO43")],
    [rule("RawDataPackage", "metadata", "not_null", None, json_path="mode")],
    [
        {
            "any_of": [
                rule("InstrumentModule", "name", "eq", "LFA"),
                rule("Source", "name", "in", ["α/β", "NGC253"]),
            ]
        }
    ],
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
    {"staleness": {"ignore_config": ["plots"]}},
    {"staleness": {"ignore": ["companion-changed", "input-withdrawn"], "ignore_config": ["plots", "mode"]}},
    {"staleness": {"ignore": ["input-withdrawn"]}, "cooldown_seconds": 1800},
    {"requires": 0.6, "deadline_hours": 1},
    {"on_upstream_failure": "skip", "requires": 0.5, "cooldown_seconds": 600},
]
TRIGGERS: list[dict[str, Any] | None] = [  # mostly none: of what is opened by hand only, little happens by itself
    None,
    {"type": "MANUAL"},
    None,
    {"type": "CRON", "cron": "15 1,5,9,13,17,21 * * *", "timezone": TIMEZONE},
    None,
    {"type": "CRON", "cron": "30 * * * *", "timezone": "UTC"},
    None,
    {"type": "CRON", "cron": "0 0,3,6,9,12,15,18,21 * * *", "timezone": "UTC", "force": True},
]
BY = "ExecutedObsUnit.start_time"
LOADS = [rule("ObsUnit", "name", "eq", "unit 2")]
LINED = rule("ObsUnit", "line_id", "not_null", None)
COMPANIONS: list[list[dict[str, Any]]] = [
    [],
    [{"name": "loads", "rules": LOADS, "nearest": {"before": 1, "after": 1, "by": BY, "within_hours": 8},
      "same": ["instrument_module"], "required": True}],
    [{"name": "loads", "rules": [rule("ObsUnit", "name", "neq", "unit 0")], "nearest": {"before": 2, "by": BY},
      "same": [], "required": False}],
    [{"name": "flats", "rules": [], "same": ["obs_date"], "required": False}],
    [{"name": "loads", "rules": LOADS, "nearest": {"after": 1, "by": BY}, "same": [], "required": True},
     {"name": "others", "rules": [LINED], "nearest": {"before": 1, "after": 2, "by": BY},
      "same": ["source"], "required": False}],
]  # fmt: skip


def first_definitions(
    first: int,
    second: int,
    policies: Sequence[int],
    rules: int,
    blind: bool,
    more: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> dict[str, Any]:
    """Two steps, grouped and governed as drawn. `more`: companions and trigger of the first, trigger of the second,
    and what a third step in a pipeline of its own is: none, or one with a policy and rules of its own."""
    companions, trigger, second_trigger, third = more
    config = {"mode": "A", "blind": blind}
    steps: dict[str, dict[str, Any]] = {
        "calibrate": {"group_by": FIRST_GROUPS[first % len(FIRST_GROUPS)], "references": ["pointing"]},
        "grid": {"group_by": SECOND_GROUPS[second % len(SECOND_GROUPS)], "depends_on": ["calibrate"]},
    }
    for step, policy in zip(steps.values(), policies, strict=True):
        step |= {"config": dict(config), "environment": {}, **POLICIES[policy % len(POLICIES)]}
    if third:
        steps["sum"] = {"group_by": SECOND_GROUPS[third % len(SECOND_GROUPS)], "depends_on": ["otf/calibrate"],
                        "config": dict(config), "environment": {}, **POLICIES[third % len(POLICIES)]}  # fmt: skip
    for name, number in (("calibrate", trigger), ("grid", second_trigger)):
        set_trigger(steps[name], number)
    set_companions(steps["calibrate"], companions)
    chosen = {"otf": RULES[rules % len(RULES)], "survey": RULES[third // 2 % len(RULES)]}
    return {"rules": chosen, "versions": VERSIONS[:1], "absent": [], "references": ["1"], "steps": steps}


def set_trigger(step: dict[str, Any], number: int) -> None:
    step.pop("trigger", None)
    trigger = TRIGGERS[number % len(TRIGGERS)]
    if trigger is not None:
        step["trigger"] = trigger


def set_companions(step: dict[str, Any], number: int) -> None:
    """Not with a time to settle: what that counts from where a companion changed nothing is left open."""
    step.pop("companions", None)
    companions = COMPANIONS[number % len(COMPANIONS)]
    if companions and "settle_seconds" not in step:
        step["companions"] = companions


@dataclass
class Defining(Observing):
    """Applies definitions to its sites."""

    sites: list[Site]
    definitions: dict[str, Any]

    def _apply(self) -> None:
        for site in self.sites:
            site.apply(pipeline_document(self.definitions, site.folder))

    def _step_name(self, number: int) -> str:
        names = list(self.definitions["steps"])
        return str(names[number % len(names)])

    def _step(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.definitions["steps"][self._step_name(number)]
        return found

    def _configure(self, step: int, mode: int, _c: int) -> None:
        self._step(step)["config"] = {**self._step(step)["config"], "mode": "ABC"[mode % 3]}
        self._apply()

    def _decorate(self, step: int, dpi: int, _c: int) -> None:
        self._step(step)["config"] = {**self._step(step)["config"], "plots": {"dpi": dpi % 3}}
        self._apply()

    def _set_environment(self, step: int, value: int, _c: int) -> None:
        self._step(step)["environment"] = {"N": str(value % 2)}
        self._apply()

    def _release_version(self, late: int, _b: int, _c: int) -> None:
        self.definitions["versions"] = VERSIONS[: len(self.definitions["versions"]) + 1]
        newest = self.definitions["versions"][-1]
        if late % 2 and not newest.startswith("1.0") and newest not in self.definitions["absent"]:
            known = any((site.folder / "images" / f"{newest}.sif").exists() for site in self.sites)
            self.definitions["absent"] = [*self.definitions["absent"], *([] if known else [newest])]
        self._apply()

    def _deliver_image(self, _a: int, _b: int, _c: int) -> None:
        self.definitions["absent"] = []
        self._apply()

    def _release_reference(self, _a: int, _b: int, _c: int) -> None:
        self.definitions["references"] = [
            *self.definitions["references"],
            str(len(self.definitions["references"]) + 1),
        ]
        self._apply()

    def _change_policy(self, step: int, policy: int, _c: int) -> None:
        known = ("group_by", "references", "depends_on", "config", "environment", "trigger", "companions")
        kept = {key: value for key, value in self._step(step).items() if key in known}
        changed = {**kept, **POLICIES[policy % len(POLICIES)]}
        if "settle_seconds" in changed:
            set_companions(changed, 0)
        self.definitions["steps"][self._step_name(step)] = changed
        self._apply()

    def _change_trigger(self, step: int, trigger: int, _c: int) -> None:
        set_trigger(self._step(step), trigger)
        self._apply()

    def _change_companions(self, step: int, companions: int, _c: int) -> None:
        set_companions(self._step(step), companions)
        self._apply()

    def _change_rules(self, rules: int, pipeline: int, _c: int) -> None:
        name = "survey" if pipeline % 3 == 0 and "sum" in self.definitions["steps"] else "otf"
        self.definitions["rules"] = {**self.definitions["rules"], name: RULES[rules % len(RULES)]}
        self._apply()
