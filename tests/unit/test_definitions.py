"""Steps as written, with their defaults, and how versions compare."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ccatwm.core.definitions import PipelineDefinition, StepDefinition, TriggerDefinition, find_cycles
from ccatwm.core.model import Resources
from ccatwm.core.policy import StepPolicy, major, version_key, version_problem

pytestmark = pytest.mark.quick


def step(**values):
    return StepDefinition.model_validate({"name": "a", "software": "cal", "group_by": []} | values)


def policy(group_by=(), **values):
    return StepPolicy.from_json(
        step(group_by=list(group_by), **values).normalised(role="final", group_by=list(group_by))
    )


def test_the_normalised_step_has_every_default():
    found = policy()
    assert (found.version_policy, found.order, found.requires, found.max_retries) == (
        "compatible",
        "newest",
        "all",
        3,
    )
    assert found.resources == Resources()


def test_a_step_by_executed_obs_unit_waits_for_whole_units():
    assert policy(["executed_obs_unit"]).complete == "executed_obs_unit"
    assert policy(["source"]).complete == "none"
    assert policy(["executed_obs_unit"], complete="none").complete == "none"


def test_a_step_with_upstream_gets_raw_packages_only_when_it_says_so():
    assert policy().raw_inputs
    assert not policy(depends_on=["b"]).raw_inputs
    assert policy(depends_on=["b"], raw_inputs=True).raw_inputs


def test_a_policy_reads_what_an_older_release_wrote():
    assert (
        StepPolicy.from_json({"name": "a", "software": "cal", "key of the future": 1}).version_policy
        == "compatible"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"a": ["x\x00"]}},
        {"config": {"a\x1b": 1}},
        {"config": {"a": "x" * 70000}},
        {"environment": {"A": "x\ny"}},
        {"environment": {"WORKFLOW_OUTPUT_DIR": "/tmp"}},
        {"environment": {"APPTAINER_BIND": "/"}},
        {"environment": {"a b": "x"}},
        {"resources": {"cpu": 0}},
        {"resources": {"memory_gb": -1}},
        {"resources": {"time_hours": 0}},
        {"resources": {"extra": ["--wrap=id"]}},
        {"resources": {"extra": ["--wra=id"]}},
        {"resources": {"extra": ["-Jname"]}},
        {"resources": {"extra": ["; id"]}},
        {"resources": {"extra": ["--help"]}},
        {"resources": {"nodes": 3}},
        {"resources": {"nodes": 3, "tasks": 2}},
        {"partial_exit_codes": [75]},
        {"partial_exit_codes": [0]},
        {"requires": 1.5},
        {"requires": "most"},
        {"raw_inputs": False},
        {"version": "1 2"},
        {"version_policy": "exact"},
        {"retry": {"bad-luck": {"times": 1}}},
        {"companions": [{"name": "c", "rules": []}, {"name": "c", "rules": []}]},
        {"companions": [{"name": "c", "rules": [], "nearest": {"during": 1}}]},
    ],
    ids=str,
)
def test_a_step_with_this_is_refused(values):
    with pytest.raises(ValidationError):
        step(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"script": "two\nlines\tand a tab"}},
        {"resources": {"extra": ["--exclusive", "--mem-per-cpu=2G", "--mail-type=END"]}},
        {"resources": {"extra": ["--comment=two words"]}},
        {"resources": {"nodes": 3, "tasks": 3}},
        {"requires": 0.8},
        {"companions": [{"name": "c", "rules": [], "nearest": {"before": 1}, "same": ["instrument_module"]}]},
    ],
    ids=str,
)
def test_a_step_with_this_is_right(values):
    step(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"type": "CRON"},
        {"type": "CRON", "cron": "* * *"},
        {"type": "CRON", "cron": "0 9 * * *", "timezone": "America/Cologne"},
        {"type": "CRON", "cron": "0 9 * * *", "timezone": "../../etc/passwd"},
        {"type": "MANUAL", "cron": "0 9 * * *"},
        {"type": "SOMETIMES"},
    ],
    ids=str,
)
def test_a_trigger_with_this_is_refused(values):
    with pytest.raises(ValidationError):
        TriggerDefinition.model_validate(values)


@pytest.mark.parametrize(("cron", "count"), [("0 9 * * * *", 6), ("0 0 9 * * * *", 7), ("@daily", 1), ("0 9 * *", 4)])
def test_a_cron_of_other_than_five_fields_is_refused_and_told_how_many_it_has(cron, count):
    with pytest.raises(ValidationError, match=f"five fields, minute hour day month weekday.*; this has {count}"):
        TriggerDefinition.model_validate({"type": "CRON", "cron": cron})


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "a" * 64, "a b", "../a", "ä", "a\n"])
def test_a_name_that_is_no_identity_is_refused(name):
    with pytest.raises(ValidationError):
        PipelineDefinition.model_validate(
            {
                "name": name,
                "data_grouping": "g",
                "processing_location": "local",
                "steps": [step().model_dump()],
            }
        )


def test_versions_sort_as_releases_do():
    ordered = [
        "1.0a1",
        "1.0rc1",
        "1.0",
        "1.0.post1",
        "1.0.1",
        "1.2.0-rc.1",
        "1.2.0",
        "1.2.9",
        "1.2.10",
        "10.0",
    ]
    assert sorted(ordered, key=version_key) == ordered
    assert version_key(ordered[0]) < version_key(ordered[-1])


def test_versions_that_are_dates_sort_by_date():
    ordered = ["2025-12", "2026-03", "2026-03-15", "2026-10"]
    assert sorted(ordered, key=version_key) == ordered
    assert version_key(ordered[0]) < version_key(ordered[-1])


@pytest.mark.parametrize(
    "version",
    [
        "1", "0", "007", "1.10", "v1.2", "1.2.3-rc1", "1.2.3rc1", "1.2.rc1", "1.2.dev", "1.2.post1", "1.0.2k", "1.2+local",
        "1.2.3-alpha.beta.x", "1.2+chai.x", "2026-03", "20260301T1200", "2026.03.a1", "9" * 63,
    ],
)  # fmt: skip
def test_a_version_that_compares_is_one(version):
    assert version_problem(version) is None


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("abc", "begin with a number"), ("latest", "begin with a number"), ("v", "begin with a number"),
        ("rc1", "begin with a number"), ("-1", "begin with a number"), (".5", "begin with a number"),
        ("1.x", "'x' is no number"), ("v1.X", "'X' is no number"), ("1.2.x-rc1", "'x' is no number"),
        ("1.foo.2", "'foo' is no number"), ("1..2", "missing beside a dot"), ("1.", "missing beside a dot"),
        ("1.2-", "ends in '-'"), ("1.2+", "ends in '+'"), ("", "use letters"), ("1 2", "use letters"),
        ("1.*", "use letters"), (">=1.2", "use letters"), ("1.2\n", "use letters"), ("\u0661.2", "use letters"),
        ("9" * 64, "this has 64"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_no_version(version, said):
    assert said in version_problem(version)


def test_a_leading_v_makes_no_other_version():
    assert version_key("v1.2") == version_key("1.2")


@pytest.mark.parametrize(
    ("version", "expected"), [("1.2.0", "1"), ("v2", "2"), ("3-rc1", "3"), ("2026-03", "2026")]
)
def test_the_major_version_is_what_stands_first(version, expected):
    assert major(version) == expected


def test_a_cycle_is_found_with_its_way():
    assert find_cycles({"a": ["b"], "b": ["c"], "c": ["b"]}) == [["b", "c", "b"]]


def test_every_cycle_is_found():
    graph = {"a": ["b", "a"], "b": ["a"], "c": ["d", "a"], "d": ["c"]}
    assert find_cycles(graph) == [["a", "b", "a"], ["a", "a"], ["c", "d", "c"]]


def test_a_diamond_is_no_cycle():
    assert find_cycles({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []


def test_a_long_chain_is_no_cycle():
    assert find_cycles({str(n): [str(n + 1)] for n in range(3000)}) == []


def test_all_that_is_wrong_between_the_fields_of_a_step_is_told():
    twice = [{"name": "c", "rules": []}] * 2
    with pytest.raises(ValidationError) as caught:
        step(version_policy="exact", raw_inputs=False, companions=twice)
    assert len(caught.value.errors()[0]["ctx"]["mistakes"]) == 3


@pytest.mark.parametrize(
    "values",
    [{"deadline_hours": 1e8}, {"settle_seconds": 1e12}, {"cooldown_seconds": 1e12}, {"max_concurrent": 10**12}],
)
def test_numbers_beyond_all_reason_are_refused(values):
    with pytest.raises(ValidationError):
        step(**values)


def test_a_step_may_keep_everything_in_one_word():
    kept = dict.fromkeys(("intermediate_days", "superseded_days", "scratch_days", "log_days", "log_max_gb"), "keep")
    assert policy(retention="keep").retention == kept


def test_a_step_says_of_each_kind_how_long_it_stays():
    retention = policy(retention={"intermediate_days": 3, "log_days": "keep"}).retention
    assert retention == {"intermediate_days": 3, "log_days": "keep"}


@pytest.mark.parametrize("value", [-1, 40000, "a week", True])
def test_a_retention_that_is_neither_number_nor_keep_is_refused(value):
    with pytest.raises(ValidationError, match="neither keep nor a number"):
        step(retention={"log_days": value})
