"""What an apply writes, what it counts, and what stays as it was, on both databases."""

from __future__ import annotations

import hashlib
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
SOFTWARE = """
software:
  - name: cal
    versions: [{version: 1.10, command: [cal, --fast]}]
"""
GROUPING = """
data_groupings:
  - name: all-data
    filter_rules: []
"""
STEPS = """
pipelines:
  - name: otf
    data_grouping: all-data
    processing_location: local
    steps:
      - {name: a, software: cal, group_by: [executed_obs_unit], resources: {cpu: 2, time_hours: 0.5}}
      - {name: b, software: cal, group_by: [], depends_on: [a]}
"""
GOOD = SOFTWARE + GROUPING + STEPS


@pytest.fixture
def apply(database, tmp_path):
    def run(*texts, now=NOW, **options):
        paths = []
        for n, text in enumerate(texts):
            paths.append(tmp_path / f"{n}.yaml")
            paths[-1].write_text(text)
        engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
        return apply_definitions(database, engine, paths, now=now, actor="me", host="h", **options)

    return run


@pytest.fixture
def rows(database):
    def read(*columns):
        with database.read() as connection:
            found = connection.execute(sa.select(*columns).order_by(columns[0].table.c.id)).all()
        return [row[0] for row in found] if len(columns) == 1 else [tuple(row) for row in found]

    return read


def packages(database, tmp_path, count, extra=""):
    path = tmp_path / "night.jsonl"
    path.write_text(
        extra
        + "".join(
            f'{{"kind": "raw_data_package", "name": "p{n}", "executed_obs_unit": "s{n}", "size_bytes": 1000}}\n'
            for n in range(count)
        )
    )
    ingest_files(database, [path], now=NOW, actor="me")


def grouped(database, step, keys):
    """As after a resolve: the scope stands for its rules, the step has these sub-groups."""
    with database.write() as connection:
        digest = sa.select(t.data_grouping.c.digest).scalar_subquery()
        connection.execute(sa.update(t.grouping_scope).values(resolved_digest=digest))
        step_id = connection.execute(
            sa.select(t.reduction_step.c.id).where(t.reduction_step.c.name == step)
        ).scalar_one()
        connection.execute(
            sa.insert(t.sub_group),
            [{"step_id": step_id, "key": key, "dims": {}, "created_at": NOW} for key in keys],
        )


def test_a_version_written_as_a_number_keeps_its_digits(apply, rows):
    apply(GOOD)
    assert rows(t.reduction_software_version.c.version) == ["1.10"]


def test_definitions_may_come_in_several_files_and_be_known_already(apply):
    apply(SOFTWARE, GROUPING)
    assert apply(STEPS).changes == ["+ pipeline otf", "+ step otf/a", "+ step otf/b"]


def test_the_log_tells_who_applied_what(apply, rows):
    apply(GOOD)
    log = t.change_log.c
    ((actor, host, act, text, digest),) = rows(log.actor, log.host, log.act, log.text, log.digest)
    assert (actor, host, act) == ("me", "h", "apply")
    assert text == GOOD
    assert digest == f"sha256:{hashlib.sha256(GOOD.encode()).hexdigest()}"


def test_a_changed_configuration_is_shown_and_its_sub_groups_fall_due(apply, rows, database):
    apply(GOOD)
    grouped(database, "a", ["x", "y"])
    report = apply(GOOD.replace("{name: a,", "{name: a, config: {order: 2},"), now=LATER)
    assert report.changes == ["~ step otf/a: config.order (absent) -> 2"]
    assert report.follows.sub_groups == 2
    assert report.follows.core_hours == 2 * 2 * 0.5
    assert rows(t.sub_group.c.due_at) == [LATER, LATER]


def test_another_retention_is_shown_and_is_no_reason_to_look_at_anything(apply, rows, database):
    apply(GOOD)
    grouped(database, "a", ["x"])
    report = apply(GOOD.replace("{name: a,", "{name: a, retention: {superseded_days: 9},"), now=LATER)
    assert report.changes == ["~ step otf/a: retention.superseded_days (absent) -> 9.0"]
    assert (report.follows.sub_groups, rows(t.sub_group.c.due_at)) == (0, [None])


def test_a_new_version_makes_the_sub_groups_of_its_users_due(apply, rows, database):
    apply(GOOD)
    grouped(database, "b", ["all"])
    text = GOOD.replace("versions: [", "versions: [{version: 1.11, command: [cal]}, ")
    assert apply(text, now=LATER).changes == ["+ software cal 1.11"]
    assert rows(t.sub_group.c.due_at) == [LATER]


def test_a_dependency_taken_out_is_gone_and_the_step_is_looked_at(apply, rows, database):
    apply(GOOD)
    grouped(database, "b", ["all"])
    apply(GOOD.replace(", depends_on: [a]", ""), now=LATER)
    assert rows(t.reduction_step_dependency.c.id) == []
    assert rows(t.sub_group.c.due_at) == [LATER]


def test_nothing_falls_due_by_an_apply_that_changes_nothing(apply, rows, database):
    apply(GOOD)
    grouped(database, "a", ["x"])
    assert apply(GOOD, now=LATER).follows.sub_groups == 0
    assert rows(t.sub_group.c.due_at) == [None]


def test_steps_share_the_scope_of_their_grouping_and_dimensions(apply, rows):
    apply(GOOD.replace("group_by: []", "group_by: [executed_obs_unit]"))
    assert len(rows(t.grouping_scope.c.id)) == 1


def test_a_new_step_has_its_scope_grouped_anew(apply, rows, database):
    apply(GOOD)
    grouped(database, "a", ["x"])
    apply(GOOD + "      - {name: c, software: cal, group_by: []}\n", now=LATER)
    assert [digest is None for digest in rows(t.grouping_scope.c.resolved_digest)] == [False, True]


def test_what_a_first_apply_will_make_is_counted_before(apply, database, tmp_path):
    packages(database, tmp_path, 4, '{"kind": "raw_data_package", "name": "late", "state": "waiting"}\n')
    report = apply(GOOD, dry_run=True)  # step b reads products only
    assert (report.follows.sub_groups, report.follows.bytes, report.follows.core_hours) == (5, 4000, 4 * 2 * 0.5 + 1)


def test_a_first_apply_over_a_full_archive_needs_a_yes(apply, rows, database, tmp_path):
    packages(database, tmp_path, 4)
    with pytest.raises(UsageError, match="5 sub-groups"):
        apply(GOOD, confirm_runs=4)
    assert rows(t.pipeline.c.id) == []
    assert apply(GOOD, confirm_runs=4, yes=True).follows.sub_groups == 5


def test_a_changed_grouping_counts_all_its_sub_groups(apply, database, tmp_path):
    packages(database, tmp_path, 4)
    apply(GOOD)
    grouped(database, "a", ["executed_obs_unit=1"])
    rule = "filter_rules: [{table: RawDataPackage, column: name, operator: neq, value: p0}]"
    assert apply(GOOD.replace("filter_rules: []", rule), now=LATER).follows.sub_groups == 3 + 1


def test_packages_that_no_pass_has_grouped_yet_are_counted_with_what_depends_on_them(
    apply, database, tmp_path
):
    packages(database, tmp_path, 1)
    apply(GOOD)
    grouped(database, "a", ["executed_obs_unit=1"])
    packages(database, tmp_path, 4)
    changed = GOOD.replace("{name: a,", "{name: a, config: {order: 2},")
    with pytest.raises(UsageError, match="5 sub-groups would be looked at"):
        apply(changed, now=LATER, confirm_runs=4)
    report = apply(changed, now=LATER, dry_run=True)
    assert (report.follows.sub_groups, report.follows.core_hours) == (4 + 1, 4 * 2 * 0.5 + 1)


def test_what_is_looked_at_is_said_in_good_grammar(apply, database, tmp_path):
    packages(database, tmp_path, 1)
    only_b = GOOD.replace("      - {name: a", "      # - {name: a").replace(", depends_on: [a]", "")
    assert apply(only_b, dry_run=True).lines()[-1] == (
        "4 changed, 0 unchanged; 1 sub-group would be looked at (1.0 kB of packages not grouped before): "
        "at most as many runs, 1 core hour (by what is asked for)"
    )


def test_a_disabled_pipeline_makes_nothing(apply, database, tmp_path):
    packages(database, tmp_path, 4)
    text = GOOD.replace("    data_grouping: all", "    enabled: false\n    data_grouping: all")
    assert apply(text, confirm_runs=1).follows.sub_groups == 0


def test_a_step_that_no_file_names_any_more_still_counts_in_the_graph(apply):
    apply(GOOD)
    only_a = STEPS.split("      - {name: b")[0].replace("{name: a,", "{name: a, depends_on: [b],")
    with pytest.raises(DefinitionsError, match="depend on each other"):
        apply(only_a)


def test_a_step_may_depend_on_one_that_only_the_ops_db_knows(apply):
    apply(GOOD)
    only_c = (
        STEPS.split("      - {name: a")[0]
        + "      - {name: c, software: cal, group_by: [], depends_on: [b]}\n"
    )
    assert apply(only_c).changes == ["+ step otf/c"]


def test_cycles_across_pipelines_are_found(apply):
    other = STEPS.replace("name: otf", "name: maps").replace("{name: a,", "{name: a, depends_on: [otf/b],")
    apply(GOOD, other)
    with pytest.raises(DefinitionsError, match=r"depend on each other: .*maps/a"):
        apply(GOOD.replace("{name: a,", "{name: a, depends_on: [maps/b],"))


def test_upstream_steps_are_of_the_same_location(apply):
    other = STEPS.replace("name: otf", "name: maps").replace("location: local", "location: cologne")
    with pytest.raises(DefinitionsError, match="steps of the same location"):
        apply(GOOD, other.replace("{name: a,", "{name: a, depends_on: [otf/a],"))


def test_an_archive_is_no_processing_location(apply, database, tmp_path):
    packages(
        database,
        tmp_path,
        0,
        '{"kind": "data_location", "name": "local", "location_type": "long_term_archive"}\n',
    )
    with pytest.raises(DefinitionsError, match="of type long_term_archive"):
        apply(GOOD)


def test_a_location_is_one_of_those_that_are_known(apply, database, tmp_path):
    lines = '{"kind": "data_location", "name": "ramses", "location_type": "processing"}\n'
    packages(database, tmp_path, 0, lines)
    with pytest.raises(DefinitionsError, match="unknown data location 'local'; there are: ramses"):
        apply(GOOD)


def test_a_location_is_a_warning_while_none_is_known(apply):
    (warning,) = apply(GOOD).warnings
    assert "knows no data location 'local'" in warning


def test_checksums_are_those_of_the_host_where_jobs_run(apply, rows):
    text = GOOD.replace("command:", "image: /there/a.sif, command:")
    text += "references: [{name: r, versions: [{version: '1', path: /there/r}]}]\n"
    report = apply(text, checksum_of={"/there/a.sif": "sha256:aa", "/there/r": "sha256:bb"}.get)
    assert not [line for line in report.warnings if "not there" in line]
    assert rows(t.reduction_software_version.c.image_digest) == ["sha256:aa"]
    assert rows(t.reference_data_version.c.checksum) == ["sha256:bb"]


def test_a_missing_image_is_a_warning_and_fixed_when_it_is_there(apply, rows, tmp_path):
    image = tmp_path / "a.sif"
    text = GOOD.replace("command:", f"image: {image}, command:")
    assert any(str(image) in warning for warning in apply(text).warnings)
    image.write_bytes(b"one")
    assert apply(text).changes == ["+ software cal 1.10"]
    assert rows(t.reduction_software_version.c.image_digest) == [
        f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    ]


def test_an_image_that_is_a_uri_is_a_warning_while_nothing_fetches_it(apply):
    text = GOOD.replace("command:", "image: 'oras://registry.example/cal:1', command:")
    (warning,) = [told for told in apply(text).warnings if "oras" in told]
    assert warning == (
        "cal 1.10: image oras://registry.example/cal:1 is a URI, and nothing fetches those in this release: "
        "nothing runs with it; add a version whose image is a file"
    )


def bounds(report):
    return [text for text in report.warnings if "or newer" in text]


def test_a_lower_bound_that_no_version_meets_is_told_until_one_does(apply):
    high = GOOD.replace("{name: b, software: cal,", "{name: b, software: cal, version: 1.11,")
    told = "otf/b: no version of cal is 1.11 or newer, as `version` of the step wants it (there are: 1.10); "
    for options in ({"dry_run": True}, {}):
        assert bounds(apply(high, **options)) == [f"{told}it runs nothing until one is applied"]
    newer = SOFTWARE.replace("]}]", "]}, {version: 1.11-rc1, command: [x]}]")
    assert bounds(apply(newer + GROUPING + high[high.index("pipelines:") :])) != []  # a pre-release is older
    apply(SOFTWARE.replace("1.10, command: [cal, --fast]", "2.0, command: [cal]"))
    assert bounds(apply(high)) == []  # the ops-db knows one


def test_a_lower_bound_that_is_met_is_not_told(apply):
    assert bounds(apply(GOOD.replace("{name: b, software: cal,", "{name: b, software: cal, version: v1.10,"))) == []


def reference(path, checksum=""):
    return f"references: [{{name: model, versions: [{{version: '1', path: {path}{checksum}}}]}}]\n"


def test_a_reference_replaced_under_its_version_is_refused(apply, tmp_path):
    path = tmp_path / "model.json"
    path.write_text("{}")
    apply(reference(path))
    path.write_text("[]")
    with pytest.raises(DefinitionsError, match="add a new version"):
        apply(reference(path))


def test_a_reference_that_is_a_folder_has_its_tree_digest(apply, rows, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("x")
    apply(reference(folder))
    inner = hashlib.sha256(b"x").hexdigest().encode()
    expected = hashlib.sha256(b"sub/a\0" + b"1\0" + inner + b"\n").hexdigest()
    assert rows(t.reference_data_version.c.checksum) == [f"sha256:{expected}"]


def test_a_reference_with_another_checksum_than_said_is_refused(apply, tmp_path):
    path = tmp_path / "model.json"
    path.write_text("{}")
    with pytest.raises(DefinitionsError, match="correct the checksum or the file"):
        apply(reference(path, f", checksum: sha256:{'0' * 64}"))


def test_two_versions_that_compare_as_equal_are_refused(apply):
    apply(GOOD)
    with pytest.raises(DefinitionsError, match=r"1\.10 and v1\.10 of cal compare as equal"):
        apply(GOOD.replace("version: 1.10", "version: v1.10"))


def test_a_pruned_pipeline_comes_back_when_it_is_applied_again(apply):
    apply(GOOD)
    assert apply(SOFTWARE, prune=True).changes == ["- pipeline otf: disabled"]
    assert apply(GOOD).changes == ["~ pipeline otf: enabled false -> true"]


def test_a_file_nested_too_deep_is_refused(apply):
    with pytest.raises(DefinitionsError, match="nested more than"):
        apply("pipelines: " + "[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize("value", ['"a\\0b"', ".nan", ".inf"])
def test_what_no_ops_db_can_store_is_refused_with_its_line(apply, value):
    text = GOOD.replace("    filter_rules: []", f"    description: {value}\n    filter_rules: []")
    with pytest.raises(DefinitionsError, match=r"0\.yaml:8: "):
        apply(text)


def test_a_file_that_is_too_large_is_refused(apply):
    with pytest.raises(DefinitionsError, match="larger than 8 MiB"):
        apply("# " + "x" * (8 << 20))


def test_a_file_that_is_not_there_is_named(database):
    from pathlib import Path

    engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
    with pytest.raises(DefinitionsError, match=r"nowhere\.yaml: cannot be read"):
        apply_definitions(database, engine, [Path("nowhere.yaml")], now=NOW, actor="me", host="h")


def test_an_unknown_key_hides_no_other_mistake(apply):
    text = GOOD.replace("data_grouping: all-data", "data_grouping: al-data").replace(
        "resources:", "resource:"
    )
    with pytest.raises(DefinitionsError) as caught:
        apply(text)
    said = " | ".join(p.what for p in caught.value.problems)
    assert said == "unknown data grouping 'al-data' | unknown key 'resource'"


def test_a_wrong_fraction_is_said_once(apply):
    with pytest.raises(DefinitionsError) as caught:
        apply(GOOD.replace("resources:", "requires: most, resources:"))
    assert [p.what.endswith("is neither all nor a fraction such as 0.8") for p in caught.value.problems] == [
        True
    ]


def test_observations_are_for_ingest(apply, database, tmp_path):
    with pytest.raises(DefinitionsError) as caught:
        apply("sites: [{name: cologne}]\n")
    (problem,) = caught.value.problems
    assert (problem.what, "`ccatwm ingest FILE`" in problem.next) == ("sites are observations, no definitions", True)
    lines = tmp_path / "packages.jsonl"
    lines.write_text('{"kind": "raw_data_package", "name": "p"}\n')
    engine = GroupingEngine(ObservationTables.managed(), database.dialect, "UTC")
    with pytest.raises(DefinitionsError, match="`ccatwm ingest FILE`"):
        apply_definitions(database, engine, [lines], now=NOW, actor="me", host="h")


def test_ceilings_are_kept_told_when_they_change_and_taken_away(apply, database):
    from ccatwm.edges.opsdb.stores.throttles import read_ceilings

    def ceilings():
        with database.read() as connection:
            return read_ceilings(connection, "local", None)

    apply(GOOD)
    assert not ceilings()
    text = GOOD.replace("group_by: []", "max_concurrent: 2, group_by: []")
    text = text.replace("    steps:", "    max_concurrent: 7\n    steps:")
    report = apply(text)
    assert not any("nothing acts" in warning for warning in report.warnings)
    assert [line for line in report.changes if "max_concurrent" in line] == [
        "~ pipeline otf: max_concurrent (absent) -> 7", "~ step otf/b: max_concurrent (absent) -> 2"
    ]  # fmt: skip
    assert (list(ceilings().pipelines.values()), list(ceilings().steps.values())) == ([7], [2])
    apply(GOOD)
    assert not ceilings()


@pytest.mark.parametrize("wrong", ["0", "-1", "many"])
def test_a_ceiling_of_none_is_no_ceiling_but_a_mistake(apply, wrong):
    text = GOOD.replace("    steps:", f"    max_concurrent: {wrong}\n    steps:")
    with pytest.raises(DefinitionsError) as caught:
        apply(text)
    assert [problem.what.split(" is ")[0] for problem in caught.value.problems] == ["pipelines.otf.max_concurrent"]


def test_what_nothing_acts_on_is_told(apply):
    idle = "scratch: node, group_by: []"
    report = apply(GOOD.replace("group_by: []", idle))
    told = "otf/b: scratch: kept, but nothing acts on it in this release"
    assert [text for text in report.warnings if "nothing acts" in text] == [told]
