"""What people get wrong in definitions and observations: all of it at once, with file and line, and nothing written."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.grouping import GroupingEngine
from ccatwm.edges.opsdb.observations import ObservationTables
from ccatwm.errors import DefinitionsError, UsageError
from ccatwm.upkeep.apply import apply_definitions
from ccatwm.upkeep.ingest import ingest_files

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2026, 3, 2, tzinfo=UTC)
GOOD = """
software:
  - name: cal
    versions: [{version: 1.0.0, command: [cal]}]
data_groupings:
  - name: all-data
    filter_rules: []
pipelines:
  - name: otf
    data_grouping: all-data
    processing_location: local
    steps:
      - {name: a, software: cal, group_by: [executed_obs_unit]}
      - {name: b, software: cal, group_by: [], depends_on: [a]}
"""


def apply(database, tmp_path, text, now=NOW, **options):
    path = tmp_path / "pipelines.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
    return apply_definitions(database, engine, [path], now=now, actor="me", host="h", **options)


def ingest(database, tmp_path, text, name="night.yaml", now=NOW):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ingest_files(database, [path], now=now, actor="me")


def mistakes(database, tmp_path, text):
    with pytest.raises(DefinitionsError) as caught:
        apply(database, tmp_path, text)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.pipeline)).scalar() == 0
    return [(p.where.rpartition("/")[2], f"{p.what}; {p.next}") for p in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("processing_location", "processing_locatoin", 11, "did you mean processing_location?"),
        ("filter_rules: []", "filter_rules: [{table: Sauce, column: name, operator: eq, value: x}]", 7, "table 'Sauce'"),
        ("filter_rules: []", "filter_rules: [{table: Source, column: nam, operator: eq, value: x}]", 7, "no column 'nam'"),
        (
            "filter_rules: []",
            "filter_rules: [{table: Source, column: name, json_path: a.b, operator: eq, value: x}]",
            7,
            "JSON",
        ),
        ("filter_rules: []", "filter_rules: [{table: Source, column: ra_deg, operator: eq, value: east}]", 7, "number"),
        ("{name: b,", "{name: a,", 14, "two steps are called 'a'"),
        ("software: cal, group_by: []", "software: call, group_by: []", 14, "did you mean cal?"),
        ("depends_on: [a]", "depends_on: [c]", 14, "has no step 'c'"),
        ("group_by: [executed_obs_unit]}", "group_by: [executed_obs_unit], depends_on: [b]}", 12, "otf/a > otf/b"),
        ("command: [cal]", 'command: ["cal\\n#SBATCH --uid=0"]', 4, "control character"),
        ("command: [cal]", "command: [./cal.sh]", 4, "'./cal.sh' is relative"),
        ("command: [cal]", "image: /a.sif, command: [bin/cal]", 4, "'bin/cal' is relative"),
        ("command: [cal]", "image: a.sif, command: [cal]", 4, "'a.sif' is relative"),
        ("data_groupings:", "references: [{name: r, versions: [{version: 1, path: r.json}]}]\ndata_groupings:", 5,
         "'r.json' is relative"),
        ("group_by: []", "group_by: [night]", 14, "unknown dimension 'night'"),
        ("group_by: []", 'group_by: [], trigger: {type: CRON, cron: "61 * * * *"}', 14, "no cron expression"),
        ("group_by: []", "group_by: [], version_policy: exact", 14, "needs version"),
        ("group_by: []", "group_by: [], resources: {extra: [--nice 5]}", 14, "no single scheduler option"),
        ("group_by: []", "group_by: [], resources: {extra: [--usage]}", 14, "ends without a job"),
        ("group_by: []", "group_by: [], resources: {nodes: 3}", 14, "each node needs a task"),
        ("group_by: []", "group_by: [], companions: [{name: c, rules: [], nearest: {before: 0}}]", 14, "chooses nothing"),
        ("group_by: []", "group_by: [], companions: [{name: c, rules: [], nearest: {before: 1, by: Source.name}}]", 14,
         "'ExecutedObsUnit.start_time'"),
        ("group_by: []", "group_by: [], companions: [{name: c, rules: [], same: [module]}]", 14,
         "unknown dimension 'module'"),
        ("group_by: []", "group_by: [], companions: [{name: c, rules: [{table: Sauce, column: n, operator: is_null}]}]",
         14, "table 'Sauce'"),
        ("group_by: []", "group_by: [], companions: [{name: ~c, rules: []}]", 14, "name"),
        ("name: all-data", "name: ~companion-0", 6, "name"),
        ("data_grouping: all-data", "data_grouping: &a all-data", 0, ""),
        ("processing_location: local", "processing_location: !!python/object:os.system local", 10, "tag"),
        ("group_by: []", "group_by: [], version: 1.x", 14, "otf.steps.b.version: '1.x' is no version that compares"),
        ("group_by: []", "group_by: [], version_policy: exact, version: latest", 14, "'latest' is no version"),
        ("    data_grouping: all-data", "    data_grouping: all-data\n    data_grouping: all-data", 10, "twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(database, tmp_path, old, new, line, said):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if not said:  # an anchor that nobody uses is only a name
        assert apply(database, tmp_path, text).changes
        return
    found = mistakes(database, tmp_path, text)
    assert any(said in what for _, what in found), found
    lines = [int(where.split(":")[1].split(".")[0]) for where, what in found if said in what]
    assert any(abs(n - line) <= 1 for n in lines), found


def test_a_file_that_is_not_there_is_answered_with_what_to_name(database, tmp_path):
    with pytest.raises(DefinitionsError, match=r"gone\.yaml: cannot be read: No such file or directory; name a file"):
        engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
        apply_definitions(database, engine, [tmp_path / "gone.yaml"], now=NOW, actor="me", host="h")


def test_all_mistakes_are_told_at_once(database, tmp_path):
    text = (
        GOOD.replace("table", "t")
        .replace("{name: b,", "{name: B,")
        .replace("filter_rules: []", "filter_rules: [5]")
    )
    assert len(mistakes(database, tmp_path, text)) == 2


MANY = """
software: [{name: cal, versions: [{version: 1.0.0, command: [cal]}]}]
data_groupings: [{name: g, filter_rules: []}]
pipelines:
- name: p
  data_grouping: gg
  processing_location: local
  trigger: {type: CRON, cron: "9 9 * * *", timezone: Mars/Base}
  steps:
  - {name: a, software: cal, group_by: [executed_obs_unit], depends_on: [b]}
  - {name: b, software: cal, group_by: [nosuch], depends_on: [a]}
  - {name: b, software: zzz, group_by: [], depends_on: [q]}
  - {name: c, software: cal, group_by: [], depends_on: [x/y], version_policy: exact, resources: {cpu: many}}
"""


def in_short(found):
    """(line, what) of each."""
    return [(int(where.split(":")[1]), what.split(";")[0]) for where, what in found]


def test_no_mistake_hides_another_and_all_are_in_the_order_of_lines(database, tmp_path):
    assert in_short(mistakes(database, tmp_path, MANY)) == [
        (6, "unknown data grouping 'gg'"),
        (8, "pipelines.p.trigger.timezone: 'Mars/Base' is no time zone: use a name such as America/Santiago"),
        (10, "steps depend on each other: p/a > p/b > p/a"),
        (11, "unknown dimension 'nosuch'"),
        (12, "two steps are called 'b'"),
        (12, "unknown software 'zzz'"),
        (12, "pipeline p has no step 'q'"),
        (13, "pipelines.p.steps.c.resources.cpu is 'many'"),
        (13, "pipelines.p.steps.c: version_policy exact needs version"),
        (13, "unknown pipeline 'x'"),
    ]


def test_every_cycle_is_told(database, tmp_path):
    text = GOOD.replace("depends_on: [a]}", "depends_on: [a, b]}").replace(
        "_unit]}", "_unit], depends_on: [b]}"
    )
    assert in_short(mistakes(database, tmp_path, text)) == [
        (13, "steps depend on each other: otf/a > otf/b > otf/a"),
        (14, "steps depend on each other: otf/b > otf/b"),
    ]


def test_a_key_that_is_there_twice_hides_nothing_of_the_file(database, tmp_path):
    text = GOOD.replace("  - name: otf\n", "  - name: otf\n    priority: 1\n    priority: 2\n")
    text = text.replace("software: cal, group_by: []", "software: call, group_by: []")
    assert in_short(mistakes(database, tmp_path, text)) == [
        (11, "key 'priority' is there twice"),
        (16, "unknown software 'call'"),
    ]


def test_what_is_defined_twice_is_checked_twice(database, tmp_path):
    again = GOOD[GOOD.index("  - name: otf") :].replace("group_by: []", "group_by: [night]")
    assert in_short(mistakes(database, tmp_path, GOOD + again)) == [
        (15, "pipelines: otf is defined twice"),
        (20, "unknown dimension 'night'"),
    ]


def test_a_wrong_rule_of_a_preset_is_told_where_it_stands_and_once(database, tmp_path):
    preset = """presets:
  - name: archived
    filter_rules:
      - {table: Source, column: name, operator: eq, value: NGC253}
      - {any_of: [{table: Source, column: nam, operator: eq, value: x}]}
"""
    text = preset + GOOD.replace("filter_rules: []", "preset: archived")
    assert in_short(mistakes(database, tmp_path, text)) == [
        (5, "any_of[0]: table Source has no column 'nam'")
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("- {name: a, software: cal, group_by: [executed_obs_unit]}", "- 5", ["is 5", "has no step 'a'"]),
        ("versions: [{version: 1.0.0, command: [cal]}]", "versions: 5", ["is 5"]),
        ("version: 1.0.0, command: [cal]", "version: 1 0, command: 5", ["is no version", "is 5"]),
        (
            "version: 1.0.0, command: [cal]}]",
            "version: abc, command: [cal]}, {version: 1.x, command: 5}, {version: 2.0, command: [./x]}]",
            ["versions.0.version: 'abc' is no version", "'1.x' is no version", "is 5", "is relative"],
        ),
        (
            "group_by: [executed_obs_unit]",
            "group_by: [true, [x], source, {}]",
            ["is True", "is ['x']", "name", "table", "column"],
        ),
        ("software: cal, group_by: []", "software: [cal]", ["is ['cal']", "group_by is missing"]),
        (
            "name: cal",
            "nam: cal",
            ["unknown key 'nam'", "name is missing", "unknown software 'cal'", "there are none yet"],
        ),
        (
            "group_by: []",
            "group_by: [], trigger: {type: MANUAL, cron: x}, retry: {lost: {times: -1}, luck: {}}, requires: 2",
            ["a cron expression has five fields", "retry.luck", "times is -1", "nor a fraction"],
        ),
    ],
)  # fmt: skip
def test_what_stands_in_for_a_wrong_value_is_never_told(database, tmp_path, old, new, said):
    assert old in GOOD
    found = mistakes(database, tmp_path, GOOD.replace(old, new, 1))
    text = "\n".join(what for _, what in found)
    assert "stand-in" not in text
    assert [words for words in said if words not in text] == []
    assert len(found) == len(said), text


NOTHING_LEFT = "a number that is infinite or none"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("value: .nan", NOTHING_LEFT),
        ("value: [1, .inf]", NOTHING_LEFT),
        ("value: 2026-02-30", "a value that is none: '2026-02-30'; there is no such date; a text has quotes"),
        ('value: "a\\0b"', "a NUL character"),
        ("value: !!int x", "a value that is none: 'x'"),
    ],
)
@pytest.mark.parametrize("place", ["filter_rules: [{}]", "filter_rules: [{{any_of: [{{not: {}}}]}}]", "preset"])
@pytest.mark.parametrize("operator", ["eq", "in", "between"])
def test_a_value_of_a_rule_that_is_none_is_told_once(database, tmp_path, value, said, place, operator):
    rule = f"{{table: Source, column: name, operator: {operator}, {value}}}"
    text = GOOD.replace("filter_rules: []", place.format(rule))
    if place == "preset":
        text = f"presets: [{{name: n, filter_rules: [{rule}]}}]\n{GOOD}".replace("filter_rules: []", "preset: n")
    ((_, what),) = mistakes(database, tmp_path, text)
    assert what.strip("; ") == said


def test_a_value_that_is_none_hides_nothing_else_of_its_rule(database, tmp_path):
    rule = "{table: Source, column: nam, operator: equal, value: .nan, values: 5}"
    found = mistakes(database, tmp_path, GOOD.replace("filter_rules: []", f"filter_rules: [{rule}, {{column: .nan}}]"))
    assert [what.split(";")[0] for _, what in found] == [
        NOTHING_LEFT, "unknown key 'values'", "unknown operator 'equal'", "table is missing or no text",
        "operator is missing or no text", "table Source has no column 'nam'",
    ]  # fmt: skip


def test_a_value_that_is_none_in_rules_and_dimensions_of_a_step_is_told_once(database, tmp_path):
    companion = "{name: c, rules: [{table: Source, column: name, operator: eq, value: .nan}], same: [source]}"
    text = GOOD.replace("group_by: []", f"group_by: [source], companions: [{companion}]")
    assert len(mistakes(database, tmp_path, text)) == 1
    text = GOOD.replace("group_by: []", "group_by: [source, {name: x, table: Source, column: .nan}]")
    assert [what for _, what in mistakes(database, tmp_path, text)] == [f"{NOTHING_LEFT}; "]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("staleness: {ignore: [input-addd, upstream-changed, x]}", ["ignore.0 is 'input-addd'", "ignore.2 is 'x'"]),
        (
            "companions: [{name: l, rules: [], nearest: {before: 0, after: 0}}]",
            ["nearest with before 0 and after 0 chooses nothing"],
        ),
        (
            "companions: [{name: l, rules: [], nearest: {before: -1, after: -1, by: Foo.bar}}]",
            ["before is -1", "after is -1", "by is 'Foo.bar'"],
        ),
    ],
)  # fmt: skip
def test_no_mistake_hides_what_is_found_only_in_the_whole(database, tmp_path, wrong, said):
    """Tables, software and dependencies are looked at though a value has nothing good to stand in for it."""
    text = GOOD.replace("group_by: []", f"group_by: [], {wrong}").replace("depends_on: [a]", "depends_on: [zz]")
    found = mistakes(database, tmp_path, text)
    told = "\n".join(what for _, what in found)
    assert [words for words in [*said, "has no step 'zz'"] if words not in told] == []
    assert len(found) == len(said) + 1, told


@pytest.mark.parametrize("text", ["[1]", "5", "x"])
def test_a_file_that_is_no_mapping_is_told_what_it_should_be(database, tmp_path, text):
    ((_, what),) = mistakes(database, tmp_path, text)
    assert what == (
        "is no mapping of sections; sections: software, references, presets, data_groupings, pipelines"
    )


def test_a_file_that_is_not_utf8_is_named(database, tmp_path):
    ((where, what),) = mistakes(database, tmp_path, b"software:\n  - name: \xff\n")
    assert (where, "not UTF-8" in what) == ("pipelines.yaml:2", True)


def test_applying_twice_changes_nothing(database, tmp_path):
    apply(database, tmp_path, GOOD)
    report = apply(database, tmp_path, GOOD, now=LATER)
    assert report.changes == []
    with database.read() as connection:
        assert set(connection.execute(sa.select(t.reduction_step.c.updated_at)).scalars()) == {NOW}
        assert connection.execute(sa.select(sa.func.count()).select_from(t.change_log)).scalar() == 1


def test_a_dry_run_shows_and_writes_nothing(database, tmp_path):
    report = apply(database, tmp_path, GOOD, dry_run=True)
    assert "+ pipeline otf" in report.changes
    assert apply(database, tmp_path, GOOD).changes == report.changes


def test_an_applied_version_keeps_its_command(database, tmp_path):
    apply(database, tmp_path, GOOD)
    with pytest.raises(DefinitionsError, match="another command"):
        apply(database, tmp_path, GOOD.replace("command: [cal]", "command: [other]"))


def test_an_image_replaced_under_its_path_is_refused(database, tmp_path):
    image = tmp_path / "a.sif"
    image.write_bytes(b"one")
    text = GOOD.replace("command: [cal]", f"image: {image}, command: [cal]")
    apply(database, tmp_path, text)
    image.write_bytes(b"two")
    with pytest.raises(DefinitionsError, match="another file"):
        apply(database, tmp_path, text)


def test_prune_disables_what_the_file_no_longer_has(database, tmp_path):
    apply(database, tmp_path, GOOD)
    shorter = GOOD.replace("      - {name: b, software: cal, group_by: [], depends_on: [a]}\n", "")
    assert apply(database, tmp_path, shorter).changes == []
    assert apply(database, tmp_path, shorter, prune=True).changes == ["- step otf/b: disabled"]


def test_the_role_of_a_step_is_fixed_at_its_first_apply(database, tmp_path):
    apply(database, tmp_path, GOOD)
    apply(database, tmp_path, GOOD.replace(", depends_on: [a]", ""))
    with database.read() as connection:
        roles = (
            connection.execute(sa.select(t.reduction_step.c.role).order_by(t.reduction_step.c.id))
            .scalars()
            .all()
        )
    assert roles == ["intermediate", "final"]


def test_many_sub_groups_need_a_yes(database, tmp_path):
    apply(database, tmp_path, GOOD)
    with database.write() as connection:
        step = connection.execute(sa.select(sa.func.min(t.reduction_step.c.id))).scalar()
        rows = [{"step_id": step, "key": str(n), "dims": {}, "created_at": NOW} for n in range(3)]
        connection.execute(sa.insert(t.sub_group), rows)
    changed = GOOD.replace("{name: a,", "{name: a, config: {x: 1},")
    with pytest.raises(UsageError, match="3 sub-groups"):
        apply(database, tmp_path, changed, confirm_runs=2)
    assert apply(database, tmp_path, changed, confirm_runs=2, yes=True).follows.sub_groups == 3


# --- observations -----------------------------------------------------------------------------------------------------

NIGHT = """
data_locations: [{name: archive, location_type: long_term_archive, base_path: /data}]
sources: [{name: NGC253, ra_deg: 11.9, dec_deg: -25.3}]
raw_data_packages:
  - {name: p1, instrument_module: CHAI/LFA, copies: [{location: archive, path: p1.tar}], weather: {pwv_mm: 0.5}}
"""


def test_ingesting_twice_keeps_every_change_time(database, tmp_path):
    ingest(database, tmp_path, NIGHT)
    report = ingest(database, tmp_path, NIGHT, now=LATER)
    assert all(c["new"] == c["changed"] == 0 for c in report.counts.values())
    changed = ingest(database, tmp_path, NIGHT.replace("name: p1,", "name: p1, state: failed,"), now=LATER)
    assert changed.counts["raw_data_package"] == {"new": 0, "changed": 1, "unchanged": 0}
    with database.read() as connection:
        assert connection.execute(sa.select(t.raw_data_package.c.updated_at)).scalar() == LATER
        assert connection.execute(sa.select(t.source.c.updated_at)).scalar() == NOW
        assert connection.execute(sa.select(t.raw_data_package_metadata.c.data)).scalar() == {
            "weather": {"pwv_mm": 0.5}
        }


# A name as long as may be, which nothing compresses: PostgreSQL would store `a` * 5000 by chance only.
LONGEST = "".join(random.Random(1).choices(string.ascii_letters, k=1000))


@pytest.mark.parametrize("name", ["x; rm -rf ~ $(id) \n #SBATCH --uid=0", "Größe ☉ 星", "-rf", LONGEST])
def test_any_name_is_data_and_survives_as_it_is(database, tmp_path, name):
    import json

    lines = json.dumps({"kind": "source", "name": name, "ra_deg": 1.0}) + "\n"
    ingest(database, tmp_path, lines, "night.jsonl")
    with database.read() as connection:
        assert connection.execute(sa.select(t.source.c.name)).scalar() == name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"kind": "source", "name": "a\\u0000b"}', "NUL"),
        ('{"kind": "raw_data_package", "name": "p", "state": "gone"}', "one of waiting"),
        ('{"kind": "raw_data_package", "name": "p", "checksum": "abc"}', "algorithm:hex"),
        ('{"kind": "executed_obs_unit", "name": "s", "start_time": "2026-03-01T01:00:00"}', "with its zone"),
        ('{"kind": "sauce", "name": "p"}', "kind is 'sauce'"),
        ('{"kind": "source", "name": "p", "radeg": 1}', "did you mean ra_deg"),
        ('{"kind": "source", "name": "p", "source_kind": "solar_system_object"}', "without naif_id"),
        ('{"kind": ', "no JSON"),
        ('{"kind": "raw_data_package", "name": "p", "copies": [{"location": "archive"}]}', "path is missing"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_of_the_file_is_written(database, tmp_path, line, said):
    with pytest.raises(DefinitionsError) as caught:
        ingest(database, tmp_path, '{"kind": "site", "name": "here"}\n' + line + "\n", "night.jsonl")
    (problem,) = caught.value.problems
    assert said in f"{problem.what}; {problem.next}"
    assert problem.where.endswith("night.jsonl:2")
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.site)).scalar() == 0
