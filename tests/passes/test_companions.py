"""Inputs from outside the sub-group: the loads nearest to each scan, late ones, bad ones and none."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import pytest

from ccatwm.core.selection import Selection
from ccatwm.edges.opsdb.stores import triggers
from ccatwm.upkeep.exclude import Act, exclude, include
from ccatwm.views.explain import build_explain, explain_lines
from ccatwm.views.groupings import list_groupings
from ccatwm.views.lineage import build_lineage, lineage_lines
from ccatwm.views.products import build_products
from ccatwm.views.show import build_show, show_lines
from tests.passes.conftest import as_json
from tests.passes.loads import Nights, program


@pytest.fixture
def nights(empty_observatory) -> Nights:
    """Pipeline `otf` is applied when the first scans have come; nothing has been observed yet."""
    empty_observatory.program = program
    return Nights(empty_observatory)


def reduce(nights: Nights) -> None:
    """Everything that has come is reduced."""
    nights.observatory.apply()
    nights.observatory.until_quiet()


def act(observatory, **options) -> Act:
    now = observatory.context().clock.now()
    return Act(**{"reason": "the load was open", "actor": "me", "host": "h", "now": now, **options})


def out(observatory, *things: str, dry_run: bool = False, **options):
    context = observatory.context()
    return exclude(context.database, context.grouping, things, act(observatory, dry_run=dry_run), **options)


def back(observatory, *things: str):
    context = observatory.context()
    return include(context.database, context.grouping, things, act(observatory))


def made(observatory, since: int) -> list[tuple[str, str]]:
    """(reason, changed companions) of the calibrations after the first `since` ones."""
    runs = observatory.runs("calibrate")[since:]
    return [(run["reason"], changes(run)) for run in runs]


def changes(run: dict) -> str:
    found = (as_json(run["reason_details"]) or {}).get("changes") or {}
    return "; ".join(f"{key} {','.join(found[key])}" for key in sorted(found) if key.startswith("companions"))


# --- what is chosen ---------------------------------------------------------------------------------------------


def test_each_scan_gets_the_nearest_loads_of_its_own_module_as_inputs_of_their_own_kind(nights):
    nights.observe("scan", 10, 50, modules=("LFA", "HFA"))
    nights.observe("load", 0, 30, 60, modules=("LFA", "HFA"))
    reduce(nights)
    assert nights.used() == {
        f"scan-{m}-{module}": sorted(f"load-{n}-{x}" for n in loads for x in ("LFA", "HFA"))
        for m, loads in ((10, (0, 30)), (50, (30, 60)))
        for module in ("LFA", "HFA")
    }
    run = nights.observatory.runs("calibrate")[0]
    (path,) = nights.observatory.base.glob(f"**/run-{run['id']}/attempt-1/config/manifest.json")
    inputs = {i["name"]: i for i in json.loads(path.read_text())["inputs"]}
    load = inputs["load-30-LFA"]
    assert (load["role"], load["companion"], load["path"].rpartition("/")[2]) == ("companion", "loads", "load-30-LFA")
    assert "companion" not in inputs[min(name for name in inputs if name.startswith("scan"))]


def test_the_map_stands_on_the_loads_too_but_they_are_not_outside_of_it(nights):
    nights.observe("scan", 10, 50)
    nights.observe("load", 0, 60)
    reduce(nights)
    (grid,) = nights.observatory.runs("grid")
    rows = [i for i in nights.observatory.rows("run_input") if i["run_id"] == grid["id"]]
    assert {row["role"] for row in rows} == {"member"}
    details = [as_json(row["details"]) for row in rows]
    assert sorted(d["stands_on"] for d in details) == [
        ["load-0-LFA", "load-60-LFA", f"scan-{minute}-LFA"] for minute in (10, 50)
    ]
    assert all(d["companions"] == ["load-0-LFA", "load-60-LFA"] for d in details)


def test_hidden_groupings_are_shown_to_nobody_and_shared_by_alike_steps(nights):
    text = (nights.observatory.folder / "pipeline.yaml").read_text()
    with (nights.observatory.folder / "pipeline.yaml").open("a") as file:
        file.write(text.partition("pipelines:\n")[2].replace("name: otf", "name: other"))
    nights.observatory.apply()
    links = nights.observatory.rows("step_companion")
    assert len(links) == 2
    assert len({(link["scope_id"], link["target_scope_id"]) for link in links}) == 1
    shown = list_groupings(nights.observatory.context().database)["groupings"]
    assert [row["name"] for row in shown] == ["ngc253"]
    nights.observe("scan", 10)
    nights.observe("load", 0)
    nights.observatory.until_quiet()
    assert [run["pipeline_name"] for run in nights.observatory.runs("calibrate")] == ["otf", "other"]
    assert len({run["recipe"] for run in nights.observatory.runs("calibrate")}) == 1


def test_a_full_comparison_of_a_quiet_system_finds_nothing(nights):
    nights.observe("scan", *range(5, 100, 20))
    nights.observe("load", *range(0, 110, 30))
    reduce(nights)
    before = [(g["id"], g["outcome"], g["current_run_id"], g["stale"]) for g in nights.observatory.rows("sub_group")]
    nights.observatory.run_pass("trigger", full=True)
    nights.observatory.until_quiet()
    assert len(nights.observatory.runs("calibrate")) == 5
    after = [(g["id"], g["outcome"], g["current_run_id"], g["stale"]) for g in nights.observatory.rows("sub_group")]
    assert {row[1] for row in before + after} <= {"run", "up-to-date"}
    assert [row[2:] for row in after] == [row[2:] for row in before]


def test_a_step_without_nearest_gets_all_with_the_same_key(nights):
    file = nights.observatory.folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("            nearest: {before: 1, after: 1, within_hours: 2}\n", ""))
    nights.observe("scan", 10)
    nights.observe("load", 0, 5000)
    reduce(nights)
    assert nights.used() == {"scan-10-LFA": ["load-0-LFA", "load-5000-LFA"]}
    nights.observe("load", 9000)
    nights.observatory.until_quiet()
    assert made(nights.observatory, 1) == [("companion-changed", "companions_added loads/load-9000-LFA")]


# --- what comes later, goes or changes --------------------------------------------------------------------------


def test_a_late_or_nearer_load_concerns_only_the_scans_that_can_use_it(nights):
    nights.observe("scan", 5, 25, 45, 65)
    nights.observe("load", 0, 30, 70)
    reduce(nights)
    nights.observe("load", 50)
    nights.observatory.run_pass("trigger")
    report = nights.observatory.run_pass("resolve", dry_run=True)
    told = {(item.sub_group, item.reason) for item in report.items if item.step == "calibrate"}
    assert {text for _, text in told} == {
        "companion-changed: companion loads/load-50-LFA added; companion loads/load-70-LFA gone",
        "companion-changed: companion loads/load-50-LFA added; companion loads/load-30-LFA gone",
    }
    nights.observatory.until_quiet()
    assert len(nights.observatory.runs("calibrate")) == 6
    assert nights.used() == {
        "scan-5-LFA": ["load-0-LFA", "load-30-LFA"], "scan-25-LFA": ["load-0-LFA", "load-30-LFA"],
        "scan-45-LFA": ["load-30-LFA", "load-50-LFA"], "scan-65-LFA": ["load-50-LFA", "load-70-LFA"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ({"state": "failed"}, ["scan-25-LFA", "scan-45-LFA"]),
        ({"checksum": f"sha256:{'0' * 64}"}, ["scan-25-LFA", "scan-45-LFA"]),
        ({"start": 64}, ["scan-25-LFA", "scan-45-LFA", "scan-65-LFA", "scan-85-LFA"]),
        ({"start": 400}, ["scan-25-LFA", "scan-45-LFA"]),
    ],
    ids=str,
)
def test_a_load_that_changes_goes_or_began_at_another_time_makes_exactly_its_users_due(nights, news, expected):
    nights.observe("scan", 5, 25, 45, 65, 85)
    nights.observe("load", 0, 20, 30, 60, 90)
    reduce(nights)
    line = {"kind": "raw_data_package", "name": "load-30-LFA", **news}
    if "start" in news:
        line = nights.moved("load-30", news["start"])
    nights.say(line)
    before = nights.decisions()
    nights.observatory.run_pass("trigger")
    nights.observatory.run_pass("resolve")
    assert sorted(scan for scan, number in nights.decisions().items() if number != before[scan]) == expected


def test_a_scan_that_began_at_another_time_gets_other_loads(nights):
    nights.observe("scan", 10)
    nights.observe("load", 0, 20, 60, 80)
    reduce(nights)
    nights.say(nights.moved("scan-10", 70))
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-10-LFA": ["load-60-LFA", "load-80-LFA"]}
    assert made(nights.observatory, 1)[0][0] == "companion-changed"


def test_a_withdrawn_load_is_replaced_and_the_old_products_come_back_with_it(nights):
    nights.observe("scan", 30)
    nights.observe("load", 0, 20, 40)
    reduce(nights)
    nights.say({"kind": "raw_data_package", "name": "load-20-LFA", "state": "failed"})
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-0-LFA", "load-40-LFA"]}
    nights.say({"kind": "raw_data_package", "name": "load-20-LFA", "state": "archived"})
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-20-LFA", "load-40-LFA"]}
    assert len(nights.observatory.runs("calibrate")) == 2
    assert nights.observatory.sub_group("calibrate")["outcome"] == "restored"


def test_other_rules_are_another_grouping_and_make_runs_with_what_they_select(nights):
    nights.observe("scan", 30)
    nights.observe("load", 0, 20, 40)
    reduce(nights)
    named = "{table: ExecutedObsUnit, column: name, operator: neq, value: load-20}"
    nights.observatory.edit("value: loads}]", f"value: loads}}, {named}]")
    nights.observatory.until_quiet()
    assert made(nights.observatory, 1) == [
        ("companion-changed", "companions_added loads/load-0-LFA; companions_withdrawn loads/load-20-LFA")
    ]
    nights.observe("load", 10)  # while nobody uses the first rules
    nights.observatory.until_quiet()
    nights.observatory.edit(f", {named}]", "]")
    nights.observe("load", 25)
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-25-LFA", "load-40-LFA"]}


def test_a_step_gets_its_first_companions_and_loses_them_again(nights):
    file = nights.observatory.folder / "pipeline.yaml"
    whole = file.read_text()
    before, _, rest = whole.partition("        companions:\n")
    file.write_text(before + rest[rest.index("      - {name: grid") :])
    nights.observe("scan", 30)
    nights.observe("load", 20)
    reduce(nights)
    file.write_text(whole)
    reduce(nights)
    assert made(nights.observatory, 1) == [("companion-changed", "companions_added loads/load-20-LFA")]
    file.write_text(before + rest[rest.index("      - {name: grid") :])
    reduce(nights)
    assert nights.used() == {"scan-30-LFA": []}
    assert nights.observatory.rows("step_companion") == []
    assert len(nights.observatory.runs("calibrate")) == 2


@pytest.mark.parametrize("ignore", [True, False])
def test_a_step_says_whether_companions_make_its_products_stale(nights, ignore):
    if ignore:
        file = nights.observatory.folder / "pipeline.yaml"
        said = "        staleness: {ignore: [companion-changed]}\n        companions:"
        file.write_text(file.read_text().replace("        companions:", said))
    nights.observe("scan", 30)
    nights.observe("load", 0)
    reduce(nights)
    nights.observe("load", 20)
    nights.observatory.until_quiet()
    assert len(nights.observatory.runs("calibrate")) == (1 if ignore else 2)
    group = nights.observatory.sub_group("calibrate")
    assert (group["stale"], group["outcome"]) == (None, "up-to-date")
    assert as_json(group["details"]).get("not_counted") == (["companion-changed"] if ignore else None)


@pytest.mark.parametrize("nearest", [True, False])
def test_a_withdrawal_that_does_not_count_takes_its_companion_with_it(nights, nearest):
    file = nights.observatory.folder / "pipeline.yaml"
    text = file.read_text().replace(
        "        companions:", "        staleness: {ignore: [input-withdrawn]}\n        companions:"
    )
    file.write_text(text if nearest else text.replace("            nearest: {before: 1, after: 1, within_hours: 2}\n", ""))
    nights.observe("scan", 30, modules=("LFA", "HFA"))
    nights.observe("load", 0, modules=("LFA",))
    nights.observe("load", 20, modules=("HFA",))
    reduce(nights)
    nights.say({"kind": "raw_data_package", "name": "scan-30-LFA", "state": "failed"})
    nights.observatory.until_quiet()
    group = nights.observatory.sub_group("calibrate")
    assert (len(nights.observatory.runs("calibrate")), group["outcome"], group["stale"]) == (1, "up-to-date", None)
    assert as_json(group["details"])["not_counted"] == ["input-withdrawn"]
    nights.say({"kind": "raw_data_package", "name": "load-20-HFA", "state": "failed"})
    nights.observe("load", 40, modules=("HFA",))
    nights.observatory.until_quiet()
    assert made(nights.observatory, 1)[0][0] == "companion-changed"


def test_a_package_may_be_two_things_to_one_step(nights):
    """It is staged once, and each of the two is an input of its own."""
    file = nights.observatory.folder / "pipeline.yaml"
    whole = file.read_text()
    first = whole[whole.index("          - name: loads") : whole.index("      - {name: grid")]
    file.write_text(whole.replace(first, first + first.replace("name: loads", "name: sky")))
    nights.observe("scan", 30)
    nights.observe("load", 20)
    reduce(nights)
    (run,) = nights.observatory.runs("calibrate")
    inputs = [as_json(i["details"])["companion"] for i in nights.observatory.rows("run_input") if i["run_id"] == run["id"]]
    assert (run["status"], sorted(inputs, key=str)) == ("COMPLETED", [None, "loads", "sky"])


def test_a_trial_has_companions_too(nights):
    nights.observe("scan", 30)
    nights.observe("load", 0)
    reduce(nights)
    context = nights.observatory.context()
    step = next(s for s in nights.observatory.rows("reduction_step") if s["name"] == "calibrate")
    with context.database.write() as connection:
        scope = {"trial": {"config": {"mode": "x"}}}
        triggers.open_event(connection, step["id"], "trial", "try", now=context.clock.now(), scope=scope)
    nights.observatory.run_pass("resolve")
    trial = nights.observatory.runs("calibrate")[-1]
    inputs = [i["name"] for i in nights.observatory.rows("run_input") if i["run_id"] == trial["id"]]
    assert (bool(trial["trial"]), sorted(inputs)) == (True, ["load-0-LFA", "scan-30-LFA"])


def test_whatever_comes_in_whatever_order_the_right_loads_are_wanted_and_nothing_is_left_for_a_full_comparison(nights):
    """Scans and loads that come late, go, return, move and are excluded; compared with the obvious way after each."""
    chance = random.Random(4)
    sky = Sky(nights)
    nights.observatory.apply()
    for _ in range(14):
        for _ in range(chance.randint(1, 3)):
            sky.happen(chance)
        for name in ("trigger", "resolve"):
            nights.observatory.run_pass(name)
        assert sky.wanted() == sky.obvious()
    runs = len(nights.observatory.runs())
    before = nights.observatory.rows("sub_group")
    nights.observatory.run_pass("trigger", full=True)
    nights.observatory.run_pass("resolve")
    assert len(nights.observatory.runs()) == runs
    assert waiting(nights.observatory.rows("sub_group")) == waiting(before)


def waiting(groups: list[dict]) -> list[tuple[int, bool]]:
    return [(g["id"], g["outcome"] == "waiting-for-data") for g in groups]


class Sky:
    """What has been observed by now, beside what the passes made of it."""

    def __init__(self, nights: Nights) -> None:
        self.nights = nights
        self.scans: dict[str, int] = {}  # name -> minute
        self.loads: dict[str, int] = {}
        self.gone: set[str] = set()
        self.excluded: set[str] = set()

    def happen(self, chance: random.Random) -> None:
        minute, load = chance.randrange(0, 600, 5), chance.choice(sorted(self.loads) or [""])
        what = chance.choice(["scan", "load", "load", "gone", "moved", "excluded", "scan-moved"])
        if what in ("scan", "load"):
            self.nights.observe(what, minute)
            (self.scans if what == "scan" else self.loads)[f"{what}-{minute}"] = minute
            self.gone.discard(f"{what}-{minute}")
        elif what == "scan-moved" and self.scans:
            self._move(chance.choice(sorted(self.scans)), self.scans, minute)
        elif what == "moved" and load:
            self._move(load, self.loads, minute)
        elif what == "gone" and load:
            self.gone ^= {load}
            state = "failed" if load in self.gone else "archived"
            self.nights.say({"kind": "raw_data_package", "name": f"{load}-LFA", "state": state})
        elif what == "excluded" and load:
            self.excluded ^= {load}
            (out if load in self.excluded else back)(self.nights.observatory, f"unit:{load}")

    def _move(self, unit: str, of: dict[str, int], minute: int) -> None:
        of[unit] = minute
        self.nights.say(self.nights.moved(unit, minute))

    def obvious(self) -> dict[str, list[str]]:
        """The nearest good load before each scan, and after it, no farther than two hours."""
        good = sorted((m, n) for n, m in self.loads.items() if n not in self.gone | self.excluded)
        found = {}
        for scan, at in self.scans.items():
            # Of several at one time the one that the ops-db has known longest: by its number, as text.
            before = [m for m, _ in good if at - 120 <= m <= at]
            after = [m for m, _ in good if at < m <= at + 120]
            found[f"{scan}-LFA"] = sorted([*before[-1:], *after[:1]])
        return found

    def wanted(self) -> dict[str, list[int]]:
        """Start times of the companions of each scan's newest run; none where it waits for one."""
        found: dict[str, list[int]] = {f"{scan}-LFA": [] for scan in self.scans}
        waits = {g["id"] for g in self.nights.observatory.rows("sub_group") if g["outcome"] == "waiting-for-data"}
        inputs: dict[int, list[dict]] = {}
        for row in self.nights.observatory.rows("run_input"):
            inputs.setdefault(row["run_id"], []).append(row)
        for run in self.nights.observatory.runs("calibrate"):
            if run["sub_group_id"] not in waits:
                names = [i["name"].removesuffix("-LFA") for i in inputs[run["id"]] if i["role"] == "companion"]
                scan = next(i["name"] for i in inputs[run["id"]] if i["role"] == "member")
                found[scan] = sorted(self.loads[name] for name in names)
        return found


# --- none -------------------------------------------------------------------------------------------------------


def explained(nights: Nights, step: str = "calibrate") -> str:
    context = nights.observatory.context()
    return "\n".join(explain_lines(build_explain(context.database, "otf", step, now=context.clock.now())))


def test_a_scan_without_a_load_waits_for_it_and_says_so(nights):
    nights.observe("scan", 30)
    nights.observe("load", 500)
    reduce(nights)
    group = nights.observatory.sub_group("calibrate")
    assert group["outcome"] == "waiting-for-data"
    (lacking,) = as_json(group["details"])["companions"]
    assert (lacking["companion"], lacking["packages"], lacking["excluded"]) == ("loads", ["scan-30-LFA"], [])
    assert "scan-30-LFA has no companion loads within 2 h; the nearest of loads, load-500-LFA, is 7.8 h later" in explained(
        nights
    )
    nights.observe("load", 40)
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-40-LFA"]}, "one is enough"
    nights.observe("load", 20)
    nights.observatory.until_quiet()
    assert made(nights.observatory, 1) == [("companion-changed", "companions_added loads/load-20-LFA")]


def test_after_its_deadline_a_scan_is_reduced_without_and_again_when_the_load_comes(nights):
    nights.observe("scan", 30)
    nights.observatory.edit("group_by: [executed_obs_unit]", "group_by: [executed_obs_unit]\n        deadline_hours: 3")
    nights.observatory.until_quiet()
    assert as_json(nights.observatory.sub_group("calibrate")["details"])["until"]
    nights.observatory.minute += 181
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": []}
    nights.observatory.run_pass("trigger", full=True)
    nights.observatory.until_quiet()
    assert nights.observatory.sub_group("calibrate")["outcome"] == "up-to-date", "it does not wait anew"
    nights.observe("load", 20)
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-20-LFA"]}
    assert made(nights.observatory, 1)[0][0] == "companion-changed"


def test_where_companions_are_not_required_a_scan_is_reduced_without(nights):
    nights.observe("scan", 30)
    nights.observatory.edit("same: [instrument_module]", "same: [instrument_module]\n            required: false")
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": []}


# --- bad ones ---------------------------------------------------------------------------------------------------


def usable(nights: Nights) -> set[int]:
    document = build_products(nights.observatory.context().database, Selection(), places=nights.observatory.places)
    return {p["run"] for p in document["products"]}


def test_an_excluded_load_is_replaced_hidden_at_once_and_back_when_included(nights):
    nights.observe("scan", 30)
    nights.observe("load", 0, 20, 40)
    reduce(nights)
    first = usable(nights)
    out(nights.observatory, "package:load-20-LFA")
    assert usable(nights) == set(), "the map stands on it as well"
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-0-LFA", "load-40-LFA"]}
    back(nights.observatory, "package:load-20-LFA")
    nights.observatory.until_quiet()
    assert nights.used() == {"scan-30-LFA": ["load-20-LFA", "load-40-LFA"]}
    assert usable(nights) == first


def test_the_last_load_excluded_the_scan_waits_and_says_what_is_excluded(nights):
    nights.observe("scan", 30)
    nights.observe("load", 20)
    reduce(nights)
    out(nights.observatory, "unit:load-20")
    nights.observatory.until_quiet()
    group = nights.observatory.sub_group("calibrate")
    assert (group["outcome"], group["stale"]) == ("waiting-for-data", "excluded: the load was open")
    text = explained(nights)
    assert "has no companion loads within " in text and "(excluded: load-20-LFA)" in text
    assert usable(nights) == set()
    back(nights.observatory, "unit:load-20")
    nights.observatory.until_quiet()
    assert nights.observatory.sub_group("calibrate")["outcome"] in ("up-to-date", "restored")
    assert len(nights.observatory.runs("calibrate")) == 1


def test_an_exclusion_that_was_there_before_the_scans_ends_and_they_are_made_again(nights):
    nights.observe("load", 0, 20, 40)
    nights.observatory.apply()
    nights.observatory.until_quiet()
    now = nights.observatory.context().clock.now()
    out(nights.observatory, "package:load-20-LFA", until=now + timedelta(hours=5))
    nights.observe("scan", 10, 30, 90)
    nights.observatory.until_quiet()
    assert nights.used()["scan-30-LFA"] == ["load-0-LFA", "load-40-LFA"]
    nights.observatory.minute += 300
    nights.observatory.until_quiet()
    assert nights.used() == {
        "scan-10-LFA": ["load-0-LFA", "load-20-LFA"], "scan-30-LFA": ["load-20-LFA", "load-40-LFA"],
        "scan-90-LFA": ["load-40-LFA"],
    }  # fmt: skip
    assert len(nights.observatory.runs("calibrate")) == 5, "the third one was never concerned"


def test_what_is_excluded_for_another_pipeline_serves_this_one(nights):
    text = (nights.observatory.folder / "pipeline.yaml").read_text()
    with (nights.observatory.folder / "pipeline.yaml").open("a") as file:
        file.write(text.partition("pipelines:\n")[2].replace("name: otf", "name: other"))
    nights.observe("scan", 30)
    nights.observe("load", 0, 20)
    reduce(nights)
    out(nights.observatory, "package:load-20-LFA", pipeline="other")
    nights.observatory.until_quiet()
    runs = [run["pipeline_name"] for run in nights.observatory.runs("calibrate")]
    assert runs == ["otf", "other", "other"]


def test_the_night_of_a_bad_load_is_made_again_with_the_next_nearest_ones(nights):
    """45 scans; 40 of them lie around the bad load. Before and after a list says which products these are."""
    loads = (0, 60, 120, 180)
    around = [*range(62, 102, 2), *range(122, 162, 2)]
    others = [10, 30, 50, 190, 200]
    nights.observe("scan", *sorted(around + others))
    nights.observe("load", *loads)
    reduce(nights)
    observatory = nights.observatory
    first = {run["sub_group_key"]: run["id"] for run in observatory.runs("calibrate")}
    assert (len(around), len(first)) == (40, 45)
    context = observatory.context()
    lineage = build_lineage(context.database, context.grouping, "package:load-120-LFA", places=observatory.places)
    listed = {p["run"] for p in lineage["products"] if p["step"] == "calibrate"}
    report = out(observatory, "unit:load-120", dry_run=True)
    assert {row["run"] for row in report.impact.current if row["step"] == "calibrate"} == listed
    assert len(listed) == 40
    assert {row["step"] for row in report.impact.current} == {"calibrate", "grid"}
    assert len(report.impact.sub_groups) == 41
    assert len([g for g in lineage["sub_groups"] if g["companion"] == "loads"]) == 40

    out(observatory, "unit:load-120")
    observatory.until_quiet()
    again = observatory.runs("calibrate")[45:]
    assert {first[run["sub_group_key"]] for run in again} == listed
    assert {run["reason"] for run in again} == {"companion-changed"}
    used = nights.used()
    assert all(used[f"scan-{m}-LFA"] == ["load-180-LFA", "load-60-LFA"] for m in around)
    assert used["scan-50-LFA"] == ["load-0-LFA", "load-60-LFA"]
    products = build_products(context.database, Selection(step="calibrate"), places=observatory.places)["products"]
    assert {p["run"] for p in products} == {run["id"] for run in again} | (set(first.values()) - listed)
    assert len(observatory.runs("grid")) == 2


# --- what people see --------------------------------------------------------------------------------------------


def test_companions_are_told_as_such(nights):
    nights.observe("scan", 30)
    nights.observe("load", 20)
    reduce(nights)
    observatory, context = nights.observatory, nights.observatory.context()
    run = observatory.runs("calibrate")[0]["id"]
    document = build_show(context.database, context.workfiles, run, places=observatory.places, now=context.clock.now())
    assert {(i["name"], i["role"], i["companion"]) for i in document["inputs"]} == {
        ("scan-30-LFA", "member", None), ("load-20-LFA", "companion", "loads"),
    }  # fmt: skip
    assert "load-20-LFA (companion loads)" in "\n".join(show_lines(document))
    product = next(p for p in observatory.rows("data_product") if p["run_id"] != run)
    lineage = build_lineage(context.database, context.grouping, str(product["id"]), places=observatory.places)
    assert [(p["name"], p["role"], p["companion"]) for p in lineage["raw_data_packages"]] == [
        ("load-20-LFA", "companion", "loads"), ("scan-30-LFA", "member", None),
    ]  # fmt: skip
    assert "package load-20-LFA (companion loads)" in "\n".join(lineage_lines(lineage))
    of_load = build_lineage(context.database, context.grouping, "package:load-20-LFA", places=observatory.places)
    text = "\n".join(lineage_lines(of_load))
    assert "sub-groups whose current run has it as a companion:\n  otf/calibrate executed_obs_unit=" in text
    assert "companions of its current run: loads/load-20-LFA" in explained(nights)
