"""Which companions are chosen, and whom a changed one concerns: compared with the obvious way of saying it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccatwm.core import companions
from ccatwm.core.companions import (
    Candidate,
    Chosen,
    CompanionRule,
    Neighbour,
    Span,
    Target,
    by_key,
    clusters,
    concerned,
    enough,
    merged,
)

NIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def at(minute: int) -> datetime:
    return NIGHT + timedelta(minutes=minute)


def candidate(number: int, minute: int | None, unit: str | None = None, key: str = "LFA", excluded: bool = False):
    time = None if minute is None else at(minute)
    why = "open" if excluded else None
    return Candidate(str(number), f"cal-{number}", "md5:1", 1, key, unit or f"u{number}", time, why)


def target(minute: int | None, key: str = "LFA"):
    return Target(f"t{minute}", key, None if minute is None else at(minute), (f"scan-{minute}",))


def choose(rule: CompanionRule, targets: list[Target], found: list[Candidate], own=frozenset()) -> Chosen:
    return companions.choose(rule, targets, by_key(found), own)


def names(chosen: Chosen) -> list[str]:
    return [c.name for c in chosen.packages]


NEAREST = CompanionRule("loads", nearest=True, before=1, after=1, within=timedelta(hours=2))

# --- against the obvious way ------------------------------------------------------------------------------------

rules = st.builds(
    CompanionRule, st.just("loads"), st.just(True), st.just(True), st.integers(0, 3), st.integers(0, 3),
    st.one_of(st.none(), st.integers(1, 40).map(lambda m: timedelta(minutes=m))),
).filter(lambda rule: rule.before or rule.after)  # fmt: skip
minutes = st.integers(0, 40)
candidates = st.lists(
    st.builds(
        lambda minute, unit, key, excluded: (minute, unit, key, excluded),
        minutes, st.integers(0, 3), st.sampled_from(["LFA", "HFA"]), st.booleans(),
    ),
    max_size=14,
).map(lambda rows: [candidate(n, m, f"{m}-{u}", key, ex) for n, (m, u, key, ex) in enumerate(rows)])  # fmt: skip


def obvious(rule: CompanionRule, one: Target, found: list[Candidate], own: set[str]) -> set[str]:
    """A unit serves if fewer than so many others on its side are nearer."""
    usable = [c for c in found if c.key == one.key and c.excluded is None and c.package_id not in own]
    units = {(c.observed_at, c.unit) for c in usable}
    chosen = set()
    for time, unit in units:
        side = [u for u in units if (u[0] <= one.observed_at) == (time <= one.observed_at)]
        nearer = [u for u in side if (abs(u[0] - one.observed_at), u[1]) < (abs(time - one.observed_at), unit)]
        most = rule.before if time <= one.observed_at else rule.after
        near = rule.within is None or abs(time - one.observed_at) <= rule.within
        if len(nearer) < most and near:
            chosen |= {c.package_id for c in usable if (c.observed_at, c.unit) == (time, unit)}
    return chosen


@given(rules, candidates, st.lists(minutes, max_size=4), st.sets(st.integers(0, 13).map(str), max_size=4))
def test_the_chosen_are_those_with_fewer_nearer_ones(rule, found, times, own):
    targets = [target(minute, key) for minute in times for key in ("LFA", "HFA")]
    chosen = choose(rule, targets, found, own)
    by_target = [obvious(rule, one, found, own) for one in targets]
    assert {c.package_id for c in chosen.packages} == set().union(*by_target)
    assert list(chosen.lacking) == [one for one, ids in zip(targets, by_target, strict=True) if not ids]


@given(rules, candidates, st.permutations(range(14)))
def test_the_order_in_which_they_are_read_does_not_matter(rule, found, order):
    shuffled = [found[n] for n in order if n < len(found)]
    assert choose(rule, [target(20)], shuffled) == choose(rule, [target(20)], found)


@given(rules, candidates, minutes, st.booleans(), st.lists(st.tuples(minutes, st.integers(0, 2)), max_size=6))
def test_a_companion_that_comes_or_goes_changes_nothing_outside_its_span(rule, found, minute, owns, owned):
    """Whatever sub-group asks: also one that owns some of the companions, and so cannot use them."""
    found = [c for c in found if c.key == "LFA"]
    mine = [candidate(100 + n, m, f"{m}-g{n}") for n, (m, _) in enumerate(owned)]
    owner = {c.package_id: f"g{group}" for c, (_, group) in zip(mine, owned, strict=True)}
    without = [*found, *mine]
    new = candidate(99, minute, f"{minute}-x")
    units = sorted({(c.observed_at, c.unit): c for c in without if c.excluded is None}.items())
    neighbours = [Neighbour(time, owner.get(c.package_id)) for (time, _), c in units]
    span = concerned(rule, at(minute), neighbours)
    own = {package for package, group in owner.items() if group == "g0"} if owns else set()
    for asked in range(41):
        before = {c.package_id for c in choose(rule, [target(asked)], without, own).packages}
        after = {c.package_id for c in choose(rule, [target(asked)], [*without, new], own).packages}
        inside = (span.first is None or span.first <= at(asked)) and (span.last is None or at(asked) <= span.last)
        assert inside or before == after


def test_a_span_is_no_wider_than_it_must_be():
    loads = [Neighbour(at(minute)) for minute in (0, 30, 90, 120)]
    assert concerned(NEAREST, at(60), loads) == Span(at(30), at(90) - datetime.resolution)
    only_before = CompanionRule("loads", nearest=True, before=2)
    assert concerned(only_before, at(60), loads) == Span(at(60), at(120) - datetime.resolution)
    only_after = CompanionRule("loads", nearest=True, after=1)
    assert concerned(only_after, at(60), loads) == Span(at(30), at(60) - datetime.resolution)
    assert concerned(NEAREST, at(600), loads) == Span(at(480), at(720))


# --- one by one -------------------------------------------------------------------------------------------------


def test_one_at_the_very_same_time_counts_as_before():
    found = [candidate(1, 0), candidate(2, 30), candidate(3, 60)]
    assert names(choose(NEAREST, [target(30)], found)) == ["cal-2", "cal-3"]
    assert names(choose(CompanionRule("loads", nearest=True, after=1), [target(30)], found)) == ["cal-3"]


def test_all_packages_of_a_chosen_unit_go_with_it():
    found = [candidate(1, 10, "u"), candidate(2, 10, "u"), candidate(3, 10, "u", key="HFA")]
    assert names(choose(NEAREST, [target(30)], found)) == ["cal-1", "cal-2"]


def test_an_excluded_one_is_replaced_by_the_next_and_told_where_there_is_none():
    found = [candidate(1, 0), candidate(2, 20, excluded=True)]
    assert names(choose(NEAREST, [target(30)], found)) == ["cal-1"]
    alone = choose(NEAREST, [target(30)], found[1:])
    assert (names(alone), alone.excluded, [t.packages for t in alone.lacking]) == ([], ("cal-2",), [("scan-30",)])


def test_what_is_excluded_out_of_reach_is_not_told():
    found = [candidate(1, 500, excluded=True), candidate(2, 20, key="HFA", excluded=True)]
    assert choose(NEAREST, [target(30)], found).excluded == ()
    after = CompanionRule("loads", nearest=True, after=1)
    assert choose(after, [target(30)], [candidate(1, 20, excluded=True)]).excluded == ()


def test_members_of_the_sub_group_are_never_its_companions():
    found = [candidate(1, 10), candidate(2, 20)]
    assert names(choose(NEAREST, [target(30)], found, {"2"})) == ["cal-1"]


def test_without_nearest_all_with_the_same_key_are_meant_also_those_without_a_time():
    found = [candidate(1, 10), candidate(2, None), candidate(3, 10, key="HFA"), candidate(4, 10, excluded=True)]
    assert names(choose(CompanionRule("flats"), [target(None)], found)) == ["cal-1", "cal-2"]


@pytest.mark.parametrize(("found", "one"), [([candidate(1, None)], target(30)), ([candidate(1, 10)], target(None))])
def test_what_has_no_time_is_near_nothing(found, one):
    assert choose(NEAREST, [one], found).lacking == (one,)


def test_a_rule_is_read_from_the_definition_of_a_step():
    nearest = {"before": 1, "after": 0, "by": "ExecutedObsUnit.start_time", "within_hours": 1.5}
    read = CompanionRule.from_json({"name": "loads", "rules": [], "nearest": nearest, "required": False})
    assert read == CompanionRule("loads", False, True, 1, 0, timedelta(minutes=90))
    assert CompanionRule.from_json({"name": "flats", "rules": []}) == CompanionRule("flats")


# --- pieces -----------------------------------------------------------------------------------------------------


def test_what_a_sub_group_owns_is_not_enough_for_it():
    mine, other, free = Neighbour(at(1), "a"), Neighbour(at(2), "b"), Neighbour(at(3))
    assert enough([mine, other], 1) == at(2)
    assert enough([mine, Neighbour(at(2), "a")], 1) is None
    assert enough([mine, other, free], 2) == at(3)
    assert enough([], 1) is None


def test_spans_that_touch_are_one():
    late = Span(at(20), None)
    touching = [Span(at(0), at(5)), Span(at(5) + datetime.resolution, at(9))]
    found = merged([late, *touching, Span(at(3), at(2)), Span(at(30), at(31))])
    assert found == [Span(at(0), at(9)), late]
    assert merged([Span(at(3), at(4)), Span(None, at(1))]) == [Span(None, at(1)), Span(at(3), at(4))]


@given(st.lists(st.integers(0, 600), max_size=30))
def test_clusters_hold_every_time_and_leave_gaps_between(found):
    times = {at(minute) for minute in found}
    ends = list(clusters(times))
    assert all(any(first <= time <= last for first, last in ends) for time in times)
    assert all(b[0] - a[1] > timedelta(hours=1) for a, b in pairwise(ends))
    assert {end for pair in ends for end in pair} <= times


# --- for whom ---------------------------------------------------------------------------------------------------


def test_each_companion_is_known_to_serve_the_packages_for_which_it_was_chosen():
    found = choose(NEAREST, [target(5), target(25), target(26, "HFA")],
                   [candidate(1, 0), candidate(2, 20), candidate(3, 30), candidate(4, 20, key="HFA")])  # fmt: skip
    assert found.served == {
        "1": ("scan-5",), "2": ("scan-25", "scan-5"), "3": ("scan-25",), "4": ("scan-26",),
    }  # fmt: skip
    assert not found.shared


def test_without_nearest_all_of_a_key_serve_the_same():
    found = choose(CompanionRule("flats"), [target(5), target(25), target(9, "HFA")],
                   [candidate(1, 0), candidate(2, 20), candidate(3, 30, key="HFA")])  # fmt: skip
    assert found.served == {"1": ("scan-25", "scan-5"), "2": ("scan-25", "scan-5"), "3": ("scan-9",)}
    assert found.shared
