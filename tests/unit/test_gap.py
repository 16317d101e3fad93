"""Whether a sub-group needs a run, and why, or why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.companions import Candidate, Chosen, Target
from ccatwm.core.decision_text import decision_text
from ccatwm.core.gap import (
    Member,
    Outcome,
    Request,
    RunFacts,
    SubGroupView,
    UpstreamGroup,
    decide,
    earlier_to_compare,
    plan_trial,
)
from ccatwm.core.model import InputKind, InputRole, ReferenceVersion, RunInput, SoftwareVersion
from ccatwm.core.policy import StepPolicy
from ccatwm.core.states import RunStatus

pytestmark = pytest.mark.quick
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
V1 = SoftwareVersion("cal", "1.0.0", ("cal",), None, None)
V11 = SoftwareVersion("cal", "1.1.0", ("cal",), None, None)
V2 = SoftwareVersion("cal", "2.0.0", ("cal",), None, None)
POLICY = StepPolicy.from_json({"name": "calibrate", "software": "cal", "group_by": ["executed_obs_unit"], "raw_inputs": True,
                               "complete": "executed_obs_unit", "config": {"order": 1}})  # fmt: skip
DOWNSTREAM = StepPolicy.from_json({"name": "grid", "software": "cal", "group_by": [], "depends_on": ["calibrate"],
                                   "raw_inputs": False, "complete": "none"})  # fmt: skip


def member(name="a", checksum="sha256:1", state="archived", ended=True):
    return Member(name, name, checksum, 10, state, ended)


def view(**changes):
    values = {
        "now": NOW, "policy": POLICY, "created_at": NOW, "round_at": NOW, "members": [member()], "upstream": [],
        "products": [], "references": [], "versions": [V1], "runs": [],
    } | changes  # fmt: skip
    return SubGroupView(**values)


def made(seen: SubGroupView, run_id=1, status=RunStatus.COMPLETED, **changes) -> RunFacts:
    """The run that a decision on `seen` would make, in some status."""
    decision = decide(replace(seen, runs=[], current_run_id=None, request=None))
    assert decision.outcome is Outcome.RUN, decision
    open_statuses = set(RunStatus) - {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
    values = {
        "id": run_id, "status": status, "is_open": status in open_statuses, "blocking": False,
        "recipe_digest": decision.recipe.digest, "recipe": decision.recipe, "version": decision.software.version,
        "created_at": NOW - timedelta(hours=1),
    } | changes  # fmt: skip
    return RunFacts(**values)


def done(seen: SubGroupView, run_id=1, **changes) -> SubGroupView:
    """`seen`, with the run for it completed and current."""
    inputs = decide(replace(seen, runs=[], current_run_id=None)).inputs
    return replace(seen, runs=[made(seen, run_id, **changes)], current_run_id=run_id, compared_inputs=inputs,
                   compared_config=dict(seen.policy.config))  # fmt: skip


def product(name="cube.fits", checksum="sha256:1", group="g1", run=7):
    return RunInput(
        InputKind.PRODUCT, InputRole.MEMBER, name, "1", checksum, 10, run, "p", "calibrate", group
    )


def upstream(group="g1", settled=True, failed=False, known_at=NOW, has_product=True, state="up-to-date"):
    return UpstreamGroup("p", "calibrate", group, known_at, state, settled, failed, has_product)


def serving(shared=False, **served):
    """Companions by name, each with the members that it serves."""
    packages = tuple(Candidate(name, name, "sha256:9", 10, "all", name, NOW) for name in served)
    return Chosen("loads", required=True, packages=packages, served=served, shared=shared)


def loads(*names, lacking=(), required=True, excluded=(), checksum="sha256:9"):
    packages = tuple(Candidate(name, name, checksum, 10, "all", name, NOW) for name in names)
    targets = tuple(Target(name, "all", NOW, (name,)) for name in lacking)
    return Chosen("loads", required, packages, targets, tuple(excluded))


# --- reasons to run ---------------------------------------------------------------------------------------------


def test_a_new_sub_group_is_run():
    decision = decide(view())
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "new-sub-group")


def test_what_is_there_is_up_to_date():
    assert decide(done(view())).outcome is Outcome.UP_TO_DATE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"members": [member(), member("b")]}, "input-added"),
        ({"members": [member("b")]}, "input-withdrawn"),
        ({"members": [member(checksum="sha256:2")]}, "input-changed"),
        ({"policy": replace(POLICY, config={"order": 2})}, "config-changed"),
        ({"policy": replace(POLICY, environment={"A": "b"})}, "config-changed"),
        ({"references": [ReferenceVersion("r", "1", "/r", "sha256:1")]}, "reference-changed"),
        ({"policy": replace(POLICY, version_policy="latest"), "versions": [V1, V11]}, "software-changed"),
    ],
)
def test_each_change_has_its_reason(change, reason):
    decision = decide(replace(done(view()), **change))
    assert (decision.outcome, decision.reason) == (Outcome.RUN, reason)
    assert decision.stale == reason


def test_a_configuration_change_names_key_old_and_new_value():
    decision = decide(replace(done(view()), policy=replace(POLICY, config={"order": 2})))
    assert decision.details["changes"]["config"] == {"order": [1, 2]}


def test_an_added_input_is_named():
    decision = decide(replace(done(view()), members=[member(), member("b")]))
    assert decision.details["changes"]["inputs_added"] == ["b"]


def test_a_withdrawal_weighs_more_than_an_addition():
    assert decide(replace(done(view()), members=[member("b"), member("c")])).reason == "input-withdrawn"


REFERENCE = ReferenceVersion("pm", "2", "/pm", "sha256:2")


def ignoring(*reasons, keys=(), **changes):
    return replace(POLICY, staleness={"ignore": list(reasons), "ignore_config": list(keys)}, **changes)


@pytest.mark.parametrize(
    ("policy", "change", "reason", "ignored"),
    [
        (ignoring("reference-changed", config={"order": 2}), {"references": [REFERENCE]}, "config-changed",
         {"references": {"pm": [None, "2"]}}),
        (ignoring("input-added"), {"members": [member(), member("b")], "references": [REFERENCE]}, "reference-changed",
         {"inputs_added": ["b"]}),
        (ignoring("config-changed", config={"order": 2}, environment={"A": "b"}), {"versions": [V2]}, "software-changed",
         {"config": {"order": [1, 2]}, "environment": {"A": [None, "b"]}}),
        (ignoring("input-withdrawn"), {"members": [member("b")]}, "input-added", {"inputs_withdrawn": ["a"]}),
        (ignoring(keys=["plots"], config={"order": 2, "plots": {"dpi": 9}}), {}, "config-changed",
         {"config": {"plots": [None, {"dpi": 9}]}}),
        (ignoring(keys=["plots"], config={"order": 1, "plots": 1}), {"references": [REFERENCE]}, "reference-changed",
         {"config": {"plots": [None, 1]}}),
    ],
)  # fmt: skip
def test_the_reason_is_the_first_that_counts_and_what_does_not_is_told_apart(policy, change, reason, ignored):
    decision = decide(replace(done(view()), policy=policy, **change))
    assert (decision.outcome, decision.reason, decision.stale) == (Outcome.RUN, reason, reason)
    changes = decision.details["changes"]
    assert changes["ignored"] == ignored
    assert not {key for key, what in changes.items() if what == ignored.get(key)}


def test_a_cooldown_holds_back_no_change_that_counts_beside_an_added_input_that_does_not():
    policy = ignoring("input-added", cooldown_seconds=7200)
    seen = replace(done(view(policy=policy)), members=[member(), member("b")], references=[REFERENCE])
    assert decide(seen).outcome is Outcome.RUN


def test_for_an_excluded_product_every_change_counts():
    policy = ignoring("reference-changed", config={"order": 2})
    seen = replace(done(view(), excluded="bad"), policy=policy, references=[REFERENCE])
    assert decide(seen).reason == "reference-changed"
    assert "ignored" not in decide(seen).details["changes"]


def test_where_nothing_was_made_yet_an_ignored_change_is_a_reason():
    policy = ignoring("config-changed", config={"order": 2})
    failed = made(view(), status=RunStatus.FAILED, blocking=True)
    decision = decide(view(policy=policy, runs=[failed], compared_config={"order": 1}))
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "config-changed")


# --- earlier runs that do --------------------------------------------------------------------------------------------


def made_from(run_id, policy=POLICY, **changes):
    """(a completed run of its own, its inputs)"""
    seen = view(policy=policy, **changes)
    return made(seen, run_id, config=policy.config, environment=policy.environment), decide(seen).inputs


def with_runs(policy, *found, **changes):
    """The last of the runs is the current one; the inputs of those that are asked for are read."""
    (current, inputs) = found[-1]
    seen = view(policy=policy, runs=[run for run, _ in found], current_run_id=current.id, compared_inputs=inputs,
                compared_config=current.config, compared_environment=current.environment, **changes)  # fmt: skip
    by_id = {run.id: read for run, read in found}
    return replace(seen, earlier_inputs={run_id: by_id[run_id] for run_id in earlier_to_compare(seen)})


def plots(order, dpi, **changes):
    return ignoring(keys=["plots"], config={"order": order, "plots": {"dpi": dpi}}, **changes)


def test_an_earlier_product_that_differs_in_what_is_ignored_only_counts_again():
    seen = with_runs(plots(3, 200), made_from(1, plots(3, 100)), made_from(2, plots(4, 100)))
    decision = decide(seen)
    assert (decision.outcome, decision.current_run_id, decision.stale) == (Outcome.RESTORED, 1, None)
    assert decision.details == {"run": 1, "not_counted": ["config-changed"]}
    assert seen.earlier_inputs == {}, "its inputs are those that are wanted"
    assert decide(replace(seen, current_run_id=1, compared_config=seen.runs[0].config)).outcome is Outcome.UP_TO_DATE


@pytest.mark.parametrize(
    ("ignored", "then", "now"),
    [
        ("input-added", {"members": [member()]}, {"members": [member(), member("b")]}),
        ("input-withdrawn", {"members": [member(), member("b")]}, {"members": [member()]}),
        ("reference-changed", {"references": []}, {"references": [REFERENCE]}),
        ("companion-changed", {"companions": [loads("c1")]}, {"companions": [loads("c2")]}),
    ],
)
def test_so_it_does_for_every_change_that_is_ignored_and_for_no_other(ignored, then, now):
    policy, other = ignoring(ignored, config={"order": 3}), ignoring("upstream-changed", "input-changed", config={"order": 3})
    found = [made_from(1, policy, **then), made_from(2, replace(policy, config={"order": 4}), **now)]
    decision = decide(with_runs(policy, *found, **now))
    assert (decision.outcome, decision.details.get("not_counted")) == (Outcome.RESTORED, [ignored])
    assert decide(with_runs(other, *found, **now)).outcome is Outcome.RUN


def test_of_several_earlier_products_the_newest_counts_and_one_that_is_just_so_before_it():
    several = [made_from(1, plots(3, 100)), made_from(2, plots(3, 150)), made_from(3, plots(4, 100))]
    assert decide(with_runs(plots(3, 200), *several)).current_run_id == 2
    just_so = decide(with_runs(plots(3, 100), *several))
    assert (just_so.current_run_id, just_so.details) == (1, {"run": 1})


@pytest.mark.parametrize("bad", [{"files_present": False}, {"excluded": "bad"}, {"version": "2.0.0"}])
def test_an_earlier_product_that_is_not_good_or_that_differs_in_more_does_not_count_again(bad):
    run, inputs = made_from(1, plots(3, 100))
    if "version" in bad:
        run, inputs = made_from(1, plots(3, 100), versions=[V2])
    seen = with_runs(plots(3, 200), (replace(run, **bad), inputs), made_from(2, plots(4, 100)))
    assert (decide(seen).outcome, decide(seen).reason) == (Outcome.RUN, "config-changed")


def test_who_asks_for_a_run_gets_one_though_an_earlier_product_would_do():
    seen = with_runs(plots(3, 200), made_from(1, plots(3, 100)), made_from(2, plots(4, 100)))
    assert decide(replace(seen, request=Request())).outcome is Outcome.RUN


def test_inputs_of_earlier_runs_are_asked_for_only_where_one_may_do():
    policy = ignoring("input-added", config={"order": 3})
    first, second = made_from(1, policy), made_from(2, replace(policy, config={"order": 4}))
    both = {"members": [member(), member("b")]}
    assert earlier_to_compare(with_runs(policy, first, second, **both)) == [1]
    assert earlier_to_compare(with_runs(replace(policy, config={"order": 4}), first, second, **both)) == []
    assert earlier_to_compare(with_runs(replace(policy, config={"order": 5}), first, second, **both)) == []
    assert earlier_to_compare(with_runs(replace(policy, staleness={}), first, second, **both)) == []


def test_resources_never_make_a_run():
    policy = replace(POLICY, resources=replace(POLICY.resources, memory_gb=99))
    assert decide(replace(done(view()), policy=policy)).outcome is Outcome.UP_TO_DATE


def test_a_request_with_force_runs_what_is_up_to_date():
    seen = done(view())
    assert decide(replace(seen, request=Request(force=True))).reason == "requested"
    assert decide(replace(seen, request=Request())).outcome is Outcome.UP_TO_DATE
    assert decide(replace(seen, request=Request("scheduled", force=True))).reason == "scheduled"


def failed(seen: SubGroupView) -> SubGroupView:
    """`seen`, with the run for it failed for good; nothing was ever completed."""
    inputs = decide(replace(seen, runs=[], current_run_id=None)).inputs
    return replace(seen, runs=[made(seen, status=RunStatus.FAILED, blocking=True)], compared_inputs=inputs)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member(), member("b"), member("c")], "input-added"),
        ([member("b")], "input-withdrawn"),
        ([member(checksum="sha256:2"), member("b")], "input-changed"),
    ],
)
def test_without_any_product_a_change_is_told_by_the_run_that_failed(members, reason):
    assert decide(replace(failed(view(members=[member(), member("b")])), members=members)).reason == reason


def test_a_package_that_came_back_under_its_name_is_a_changed_input():
    again = member()._replace(package_id="another")
    decision = decide(replace(done(view()), members=[again]))
    assert (decision.reason, decision.details["changes"]["inputs_changed"]) == ("input-changed", ["a"])


# --- which run counts -------------------------------------------------------------------------------------------------


def test_from_a_to_b_and_back_to_a_points_to_the_product_of_a():
    first = done(view())
    changed = replace(first, policy=replace(POLICY, config={"order": 2}))
    second = made(replace(changed, runs=[]), 2)
    back = replace(first, runs=[*first.runs, second], current_run_id=2)
    decision = decide(back)
    assert (decision.outcome, decision.current_run_id) == (Outcome.RESTORED, 1)


def test_a_completed_run_whose_files_are_gone_is_made_again():
    seen = done(view(), files_present=False)
    assert decide(seen).outcome is Outcome.RUN


def test_an_older_run_not_yet_handed_over_is_superseded():
    first = made(view(), status=RunStatus.STAGED)
    seen = view(runs=[first], policy=replace(POLICY, config={"order": 2}))
    decision = decide(seen)
    assert (decision.outcome, decision.supersede_run_id) == (Outcome.RUN, first.id)


def test_an_older_run_that_was_handed_over_makes_the_sub_group_busy():
    first = made(view(), status=RunStatus.RUNNING)
    decision = decide(view(runs=[first], policy=replace(POLICY, config={"order": 2})))
    assert (decision.outcome, decision.details["run"], decision.supersede_run_id) == (
        Outcome.BUSY,
        first.id,
        None,
    )


def test_going_back_to_a_stops_a_pending_run_for_b():
    first = done(view())
    pending = made(replace(first, policy=replace(POLICY, config={"order": 2})), 2, RunStatus.PENDING)
    decision = decide(replace(first, runs=[*first.runs, pending]))
    assert (decision.outcome, decision.supersede_run_id) == (Outcome.UP_TO_DATE, 2)


def test_an_open_run_with_the_wanted_recipe_is_no_gap():
    assert decide(view(runs=[made(view(), status=RunStatus.PENDING)])).outcome is Outcome.BUSY


def test_a_failed_run_with_retries_left_is_open():
    retrying = made(view(), status=RunStatus.FAILED, is_open=True)
    assert decide(view(runs=[retrying])).outcome is Outcome.BUSY


def test_a_recipe_that_failed_for_good_blocks_until_it_changes():
    failed = made(view(), status=RunStatus.FAILED, blocking=True)
    assert decide(view(runs=[failed])).outcome is Outcome.FAILED
    assert decide(view(runs=[failed], members=[member(), member("b")])).outcome is Outcome.RUN


def test_a_cancelled_recipe_stays_cancelled():
    cancelled = made(view(), status=RunStatus.CANCELLED, blocking=True)
    assert decide(view(runs=[cancelled])).outcome is Outcome.CANCELLED
    assert decide(view(runs=[cancelled], request=Request(force=True))).outcome is Outcome.RUN


def test_a_superseded_run_does_not_block_its_recipe():
    superseded = made(view(), status=RunStatus.CANCELLED, blocking=False)
    assert decide(view(runs=[superseded])).outcome is Outcome.RUN


def test_a_run_that_only_stands_on_what_is_excluded_is_made_again():
    seen = done(view(policy=DOWNSTREAM, upstream=[upstream()], products=[product()]), excluded="a bad load")
    decision = decide(seen)
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "upstream-changed")
    assert decision.stale == "excluded: a bad load"


def test_what_was_superseded_before_it_made_anything_and_is_wanted_again_is_as_new():
    superseded = made(view(), status=RunStatus.CANCELLED)
    assert decide(view(runs=[superseded])).reason == "new-sub-group"


def test_a_run_that_is_excluded_itself_blocks_its_recipe():
    assert decide(done(view(), excluded="a bad load", excluded_itself=True)).outcome is Outcome.CANCELLED


def test_an_open_run_is_superseded_when_all_its_inputs_are_withdrawn():
    pending = made(view(), status=RunStatus.STAGED)
    decision = decide(view(runs=[pending], members=[member(state="failed")]))
    assert (decision.outcome, decision.supersede_run_id) == (Outcome.NO_INPUTS, pending.id)


def test_a_stale_product_stays_stale_while_its_sub_group_waits_or_is_held():
    seen = replace(done(view()), stale="config-changed")
    assert decide(replace(seen, held="looking into it")).stale == "config-changed"
    assert decide(replace(seen, members=[member(ended=False)])).stale == "config-changed"
    assert decide(replace(seen, held="looking into it", stale="excluded: it is included again")).stale is None


# --- readiness ---------------------------------------------------------------------------------------------------------


def test_a_sub_group_waits_for_packages_on_their_way_and_names_them():
    decision = decide(view(members=[member(), member("b", state="transferring")]))
    assert decision.outcome is Outcome.WAITING_FOR_DATA
    assert decision.details["packages"] == [{"name": "b", "state": "transferring"}]


def test_a_sub_group_waits_until_its_obs_unit_has_ended():
    assert decide(view(members=[member(ended=False)])).outcome is Outcome.WAITING_FOR_DATA


def test_a_failed_package_is_not_waited_for():
    assert decide(view(members=[member(), member("b", state="failed")])).outcome is Outcome.RUN


def test_after_the_deadline_it_runs_with_what_is_there():
    policy = replace(POLICY, deadline_hours=2)
    seen = view(policy=policy, members=[member(), member("b", state="waiting")])
    waiting = decide(seen)
    assert waiting.due_at == NOW + timedelta(hours=2)
    assert decide(replace(seen, now=NOW + timedelta(hours=2))).outcome is Outcome.RUN


def test_without_completeness_it_takes_what_is_archived():
    policy = replace(POLICY, complete="none")
    decision = decide(view(policy=policy, members=[member(), member("b", state="waiting")]))
    assert [i.name for i in decision.inputs] == ["a"]


def test_a_sub_group_without_archived_packages_has_no_inputs():
    assert decide(view(members=[member(state="failed")])).outcome is Outcome.NO_INPUTS


def test_an_image_that_is_not_there_yet_is_waited_for():
    missing = SoftwareVersion("cal", "1.0.0", ("cal",), "/images/a.sif", None)
    waiting = decide(view(versions=[missing]))
    assert (waiting.outcome, waiting.keeps_request) == (Outcome.WAITING_FOR_IMAGE, True)


# --- upstream ------------------------------------------------------------------------------------------------------------


def test_a_fan_in_waits_for_all_upstream_sub_groups_and_names_them():
    seen = view(policy=DOWNSTREAM, upstream=[upstream(), upstream("g2", settled=False, has_product=False, state="RUNNING")],
                products=[product()])  # fmt: skip
    decision = decide(seen)
    assert decision.outcome is Outcome.WAITING_FOR_UPSTREAM
    assert [u["sub_group"] for u in decision.details["upstream"]] == ["g2"]


def test_upstream_sub_groups_that_came_later_belong_to_the_next_round():
    late = upstream("g2", settled=False, has_product=False, known_at=NOW + timedelta(minutes=1))
    assert (
        decide(view(policy=DOWNSTREAM, upstream=[upstream(), late], products=[product()])).outcome
        is Outcome.RUN
    )


def test_a_fraction_of_upstream_sub_groups_may_be_enough():
    groups = [upstream(f"g{n}") for n in range(8)] + [
        upstream(f"h{n}", settled=False, has_product=False) for n in range(2)
    ]
    seen = view(policy=replace(DOWNSTREAM, requires=0.8), upstream=groups, products=[product()])
    assert decide(seen).outcome is Outcome.RUN
    assert (
        decide(replace(seen, policy=replace(DOWNSTREAM, requires=0.9))).outcome
        is Outcome.WAITING_FOR_UPSTREAM
    )


def test_a_failed_upstream_sub_group_is_waited_for_or_skipped_as_the_step_says():
    groups = [upstream(), upstream("g2", failed=True, has_product=False, state="failed")]
    seen = view(policy=DOWNSTREAM, upstream=groups, products=[product()])
    assert decide(seen).outcome is Outcome.WAITING_FOR_UPSTREAM
    assert (
        decide(replace(seen, policy=replace(DOWNSTREAM, on_upstream_failure="skip"))).outcome is Outcome.RUN
    )


def test_a_new_upstream_product_is_upstream_changed():
    seen = done(view(policy=DOWNSTREAM, upstream=[upstream()], products=[product()]))
    assert decide(replace(seen, products=[product(checksum="sha256:2")])).reason == "upstream-changed"


def test_an_upstream_product_made_again_alike_changes_nothing():
    seen = done(view(policy=DOWNSTREAM, upstream=[upstream()], products=[product()]))
    assert decide(replace(seen, products=[product(run=99)])).outcome is Outcome.UP_TO_DATE


# --- companions -----------------------------------------------------------------------------------------------------


def test_companions_are_inputs_of_their_own_kind():
    decision = decide(view(companions=[loads("c1")]))
    assert [(i.name, i.role, i.companion) for i in decision.inputs] == [
        ("a", InputRole.MEMBER, None), ("c1", InputRole.COMPANION, "loads"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (loads("c1", "c2"), {"companions_added": ["loads/c2"]}),
        (loads("c2"), {"companions_added": ["loads/c2"], "companions_withdrawn": ["loads/c1"]}),
        (loads("c1", checksum="sha256:8"), {"companions_changed": ["loads/c1"]}),
    ],
)
def test_another_companion_is_a_reason_of_its_own_which_no_cooldown_holds_back(now, changes):
    seen = done(view(companions=[loads("c1")], policy=replace(POLICY, cooldown_seconds=7200)))
    decision = decide(replace(seen, companions=[now]))
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "companion-changed")
    found = decision.details["changes"]
    assert {k: v for k, v in found.items() if k.startswith("companions")} == changes


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("a"), member("b")], "companion-changed"), ([member("a", "sha256:2")], "input-changed"),
        ([member("b")], "input-withdrawn"),
    ],
)  # fmt: skip
def test_of_several_reasons_the_companion_comes_before_an_added_input_only(members, reason):
    seen = done(view(companions=[loads("c1")]))
    assert decide(replace(seen, members=members, companions=[loads("c2")])).reason == reason


@pytest.mark.parametrize("shared", [False, True])
def test_a_companion_that_served_withdrawn_members_only_is_withdrawn_with_them(shared):
    policy = ignoring("input-withdrawn", config={"order": 1})
    both = [member("a"), member("b")]
    seen = done(view(policy=policy, members=both, companions=[serving(shared, c1=("b",), c2=("b",))]))
    seen = replace(seen, members=[member("a")], companions=[serving(shared)])
    assert decide(seen).details == {"run": 1, "not_counted": ["input-withdrawn"]}
    counted = decide(replace(seen, policy=replace(policy, staleness={})))
    assert counted.reason == "input-withdrawn"
    found = counted.details["changes"]
    assert (found["companions_withdrawn_too"], "companions_withdrawn" in found) == (["loads/c1", "loads/c2"], False)
    assert "companion loads/c1, loads/c2 gone with it" in decision_text(counted)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"c1": ("a", "b")}, {}),  # it served one that is there still
        ({"c1": ("b",), "c2": ("a",)}, {}),
        ({"c1": ("b",)}, {"c2": ("a",)}),  # another came for one that is there still
        ({"c1": ()}, {}),  # nothing was kept of whom it served
    ],
)
def test_a_companion_of_a_member_that_is_there_still_counts_for_itself(before, after):
    policy = ignoring("input-withdrawn", config={"order": 1})
    seen = done(view(policy=policy, members=[member("a"), member("b")], companions=[serving(**before)]))
    decision = decide(replace(seen, members=[member("a")], companions=[serving(**after)]))
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "companion-changed")
    assert decision.details["changes"]["ignored"]["inputs_withdrawn"] == ["b"]


def test_a_companion_that_comes_with_a_new_member_is_held_back_with_it_by_a_cooldown():
    seen = done(view(policy=replace(POLICY, cooldown_seconds=7200), companions=[serving(c1=("a",))]))
    both = [member("a"), member("b")]
    decision = decide(replace(seen, members=both, companions=[serving(c1=("a",), c2=("b",))]))
    assert (decision.outcome, decision.reason) == (Outcome.COOLING_DOWN, "input-added")
    decision = decide(replace(seen, members=both, companions=[serving(c1=("a",), c2=("a", "b"))]))
    assert (decision.outcome, decision.reason) == (Outcome.RUN, "companion-changed")


def test_a_changed_companion_that_does_not_count_is_told():
    policy = replace(POLICY, staleness={"ignore": ["companion-changed"]})
    seen = done(view(companions=[loads("c1")], policy=policy))
    decision = decide(replace(seen, companions=[loads("c2")]))
    assert (decision.outcome, decision.details["not_counted"]) == (Outcome.UP_TO_DATE, ["companion-changed"])


def test_a_required_companion_is_waited_for_until_the_deadline():
    seen = view(companions=[loads(lacking=["a"], excluded=["c1"])], policy=replace(POLICY, deadline_hours=2))
    waiting = decide(seen)
    assert (waiting.outcome, waiting.due_at) == (Outcome.WAITING_FOR_DATA, NOW + timedelta(hours=2))
    assert waiting.details["companions"] == [
        {"companion": "loads", "known": True, "obs_units": ["a"], "packages": ["a"], "excluded": ["c1"], "within_hours": None}
    ]
    assert decide(replace(seen, now=NOW + timedelta(hours=2))).outcome is Outcome.RUN
    assert decide(view(companions=[loads(lacking=["a"], required=False)])).outcome is Outcome.RUN


def test_what_was_made_without_a_companion_does_not_wait_again():
    late = NOW + timedelta(hours=2)
    without = loads(lacking=["a"])
    made_late = view(companions=[without], policy=replace(POLICY, deadline_hours=2), now=late)
    assert decide(replace(done(made_late), round_at=late)).outcome is Outcome.UP_TO_DATE


def test_a_product_whose_companion_is_gone_is_stale_while_another_is_awaited():
    seen = done(view(companions=[loads("c1")]))
    decision = decide(replace(seen, companions=[loads(lacking=["a"])]))
    assert (decision.outcome, decision.stale) == (Outcome.WAITING_FOR_DATA, "inputs changed")


def test_nothing_is_decided_while_companions_are_being_grouped():
    """Not even that an older product counts again, which was made without."""
    seen = replace(done(view()), companions=[Chosen("loads", required=False, known=False)])
    decision = decide(seen)
    assert (decision.outcome, decision.due_at) == (Outcome.WAITING_FOR_DATA, NOW + timedelta(seconds=1))


def test_companions_alone_are_no_inputs():
    assert decide(view(members=[member(state="failed")], companions=[loads("c1")])).outcome is Outcome.NO_INPUTS


def test_a_trial_has_the_companions_that_are_there():
    planned = plan_trial(view(companions=[loads("c1", lacking=["a"])]), {"config": {"order": 3}})
    assert [i.name for i in planned.inputs] == ["a", "c1"]


def test_a_trial_of_a_version_that_is_not_there_names_it_and_those_that_are():
    policy = replace(POLICY, version="1.0")
    details = plan_trial(view(policy=policy, versions=[V1, V2]), {"version": "3.0.0"}).details
    assert (details["missing"], details["exactly"], details["versions"]) == ("version", "3.0.0", ["1.0.0", "2.0.0"])


def test_a_trial_whose_image_is_not_there_names_the_image():
    absent = SoftwareVersion("cal", "1.0.0", ("cal",), "/images/a.sif", None)
    details = plan_trial(view(versions=[absent]), {"version": "1.0.0"}).details
    assert (details["image"], "missing" in details) == ("/images/a.sif", False)


# --- cooldown, settling, brakes --------------------------------------------------------------------------------------------


def test_a_cooldown_holds_back_added_inputs_and_says_until_when():
    policy = replace(POLICY, cooldown_seconds=7200)
    seen = replace(done(view(policy=policy)), members=[member(), member("b")])
    decision = decide(seen)
    assert (decision.outcome, decision.due_at) == (Outcome.COOLING_DOWN, NOW + timedelta(hours=1))
    assert decide(replace(seen, now=NOW + timedelta(hours=1))).outcome is Outcome.RUN


@pytest.mark.parametrize(
    "change",
    [{"members": [member("b")]}, {"policy": replace(POLICY, cooldown_seconds=7200, config={"order": 2})},
     {"request": Request(), "members": [member(), member("b")]}],
)  # fmt: skip
def test_a_cooldown_never_holds_back_anything_else(change):
    policy = replace(POLICY, cooldown_seconds=7200)
    assert decide(replace(done(view(policy=policy)), **change)).outcome is Outcome.RUN


def test_a_cooldown_never_holds_back_a_first_product():
    policy = replace(POLICY, cooldown_seconds=7200)
    failed = made(view(policy=policy), status=RunStatus.FAILED, blocking=True)
    assert decide(view(policy=policy, runs=[failed], members=[member(), member("b")])).outcome is Outcome.RUN


def test_a_sub_group_settles_after_its_last_input():
    policy = replace(POLICY, settle_seconds=600)
    decision = decide(view(policy=policy, input_changed_at=NOW - timedelta(seconds=60)))
    assert (decision.outcome, decision.due_at) == (Outcome.SETTLING, NOW + timedelta(seconds=540))


def test_what_is_held_or_tripped_is_not_decided_on():
    assert decide(view(held="looking into it")).outcome is Outcome.HELD
    assert decide(view(tripped="non-zero-exit")).outcome is Outcome.TRIPPED


# --- versions ------------------------------------------------------------------------------------------------------------------


def test_compatible_keeps_the_version_of_the_current_run_while_nothing_else_changes():
    seen = replace(done(view()), versions=[V1, V11])
    assert decide(seen).outcome is Outcome.UP_TO_DATE


def test_compatible_takes_the_newest_when_another_part_changes():
    seen = replace(done(view()), versions=[V1, V11], members=[member(), member("b")])
    assert decide(seen).software.version == "1.1.0"


def test_compatible_does_not_stay_on_another_major_version():
    decision = decide(replace(done(view()), versions=[V1, V2]))
    assert (decision.reason, decision.software.version) == ("software-changed", "2.0.0")


def test_exact_stays_on_the_pinned_version():
    policy = replace(POLICY, version_policy="exact", version="1.0.0")
    assert decide(view(policy=policy, versions=[V1, V11, V2])).software.version == "1.0.0"


def test_a_lower_bound_is_kept():
    policy = replace(POLICY, version_policy="latest", version="3.0")
    decision = decide(view(policy=policy, versions=[V2, V1]))
    assert decision.outcome is Outcome.WAITING_FOR_IMAGE
    assert (decision.details["at_least"], decision.details["versions"]) == ("3.0", ["1.0.0", "2.0.0"])


# --- files that were removed --------------------------------------------------------------------------------------


REQUEST = Request(text="for the map")


def removed(seen: SubGroupView) -> SubGroupView:
    return replace(seen, runs=[replace(run, removed=True) for run in seen.runs])


def test_a_current_product_that_was_removed_still_answers_its_recipe():
    assert decide(removed(done(view()))).outcome is Outcome.UP_TO_DATE


def test_a_request_makes_again_what_was_removed():
    decision = decide(replace(removed(done(view())), request=REQUEST))
    assert (decision.outcome, decision.reason, decision.stale) == (Outcome.RUN, "requested", None)


def test_a_request_changes_nothing_where_the_files_are_there():
    assert decide(replace(done(view()), request=REQUEST)).outcome is Outcome.UP_TO_DATE


def test_an_earlier_product_that_was_removed_is_not_restored():
    seen = removed(done(view()))
    assert decide(replace(seen, current_run_id=None)).outcome is Outcome.RUN
    assert decide(replace(done(view()), current_run_id=None)).outcome is Outcome.RESTORED


def test_a_missing_product_answers_nothing():
    seen = done(view())
    gone = replace(seen, runs=[replace(run, files_present=False) for run in seen.runs])
    assert decide(gone).outcome is Outcome.RUN


def without_files(**changes):
    return replace(upstream(), id=5, removed=True, **changes)


def reading(group, **changes):
    policy = replace(POLICY, depends_on=("calibrate",), raw_inputs=False)
    return view(policy=policy, upstream=[group], products=[product()], **changes)


def test_a_run_that_would_read_what_was_removed_waits_and_asks_for_it():
    decision = decide(reading(without_files(), request=REQUEST))
    assert (decision.outcome, decision.asks, decision.keeps_request) == (Outcome.WAITING_FOR_UPSTREAM, (5,), True)
    assert decision.details["then"] == "requested"
    assert decision.details["upstream"][0]["state"] == "files removed"


def test_what_is_there_already_needs_no_files():
    seen = reading(without_files())
    assert decide(done(replace(seen, upstream=[upstream()]))).outcome is Outcome.UP_TO_DATE
    assert decide(replace(done(replace(seen, upstream=[upstream()])), upstream=[without_files()])).outcome is Outcome.UP_TO_DATE


@pytest.mark.parametrize(("change", "state"), [({"failed": True}, "and failed"), ({"enabled": False}, "and disabled")])
def test_who_cannot_make_it_again_is_not_asked(change, state):
    seen = reading(without_files(**change))
    decision = decide(replace(seen, policy=replace(seen.policy, on_upstream_failure="skip")))
    assert (decision.outcome, decision.asks) == (Outcome.WAITING_FOR_UPSTREAM, ())
    assert state in decision.details["upstream"][0]["state"]


def test_no_trial_is_made_of_what_was_removed():
    assert plan_trial(reading(without_files()), {}).outcome is Outcome.WAITING_FOR_UPSTREAM
