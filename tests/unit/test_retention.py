"""What may go of what runs leave behind, and what stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ccatwm.core.retention import (
    Fed,
    FolderLeft,
    ProductsLeft,
    Retention,
    excess_logs,
    logs_going,
    products_going,
    scratch_going,
)
from ccatwm.core.wording import GB

pytestmark = pytest.mark.quick
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ALL = Retention(intermediate_days=10, superseded_days=30, scratch_days=7, log_days=90, log_max_gb=1)


def ago(days):
    return NOW - timedelta(days=days)


DONE = Fed(
    "up-to-date", ago(20), due=False, held=False, enabled=True, asked=False, open_run=False, blocked=False,
    run_ended_at=ago(21), newest_counts=True,
)  # fmt: skip
FINAL = ProductsLeft(1, intermediate=False, current=False, ended_at=ago(100), replaced_at=ago(40))
INTERMEDIATE = ProductsLeft(1, intermediate=True, current=True, ended_at=ago(50), fed=[DONE])


def goes(left, retention=ALL):
    return products_going(left, retention, NOW) is not None


def test_nothing_of_products_goes_unless_somebody_says_so():
    assert not goes(FINAL, Retention())
    assert not goes(INTERMEDIATE, Retention())


def test_a_final_product_goes_so_many_days_after_another_took_its_place():
    going = products_going(FINAL, ALL, NOW)
    assert (going.rule, going.since) == ("superseded_days", ago(40))
    assert not goes(replace(FINAL, replaced_at=ago(29)))


def test_a_product_that_never_counted_goes_by_the_end_of_its_run():
    assert products_going(replace(FINAL, replaced_at=None), ALL, NOW).since == ago(100)


def test_a_current_final_product_never_goes():
    assert not goes(replace(FINAL, current=True))


def test_an_intermediate_product_goes_so_many_days_after_the_last_that_it_feeds_had_settled():
    later = replace(DONE, decided_at=ago(12))
    going = products_going(replace(INTERMEDIATE, fed=[DONE, later]), ALL, NOW)
    assert (going.rule, going.since) == ("intermediate_days", ago(12))
    assert not goes(replace(INTERMEDIATE, fed=[DONE, replace(DONE, decided_at=ago(9))]))


def test_an_intermediate_product_that_feeds_nothing_yet_stays():
    assert not goes(replace(INTERMEDIATE, fed=[]))
    assert not goes(replace(INTERMEDIATE, fed=[replace(DONE, enabled=False)]))


def test_a_disabled_step_keeps_nothing_from_going():
    assert goes(replace(INTERMEDIATE, fed=[DONE, replace(DONE, enabled=False, due=True)]))


@pytest.mark.parametrize("need", ["due", "held", "asked", "open_run", "blocked"])
def test_an_intermediate_product_stays_while_something_that_it_feeds_may_need_it(need):
    assert not goes(replace(INTERMEDIATE, fed=[DONE, replace(DONE, **{need: True})]))


@pytest.mark.parametrize(
    "outcome", [None, "busy", "settling", "cooling-down", "waiting-for-data", "waiting-for-upstream", "failed", "held"]
)
def test_what_has_not_settled_keeps_an_intermediate_product(outcome):
    assert not goes(replace(INTERMEDIATE, fed=[replace(DONE, outcome=outcome)]))


def test_a_run_of_a_step_by_hand_has_settled_when_it_is_the_current_one():
    assert goes(replace(INTERMEDIATE, fed=[replace(DONE, outcome="run")]))
    assert not goes(replace(INTERMEDIATE, fed=[replace(DONE, outcome="run", newest_counts=False)]))


def test_an_intermediate_product_that_was_replaced_goes_by_the_shorter_of_its_rules():
    replaced = replace(INTERMEDIATE, current=False, replaced_at=ago(11), fed=[])
    assert products_going(replaced, ALL, NOW).rule == "intermediate_days"
    assert products_going(replaced, replace(ALL, superseded_days=5), NOW).rule == "superseded_days"


@pytest.mark.parametrize("reason", ["published", "needed", "promoted"])
@pytest.mark.parametrize("left", [FINAL, INTERMEDIATE], ids=["final", "intermediate"])
def test_what_is_published_needed_or_promoted_stays(left, reason):
    assert goes(left)
    assert not goes(replace(left, **{reason: True}))


def test_what_a_person_brought_back_stays_as_long_again():
    assert not goes(replace(FINAL, brought_back_at=ago(29)))
    assert products_going(replace(FINAL, brought_back_at=ago(31)), ALL, NOW).since == ago(31)


def folder(days, path="p/s/k/run-1/attempt-1/logs", **more):
    return FolderLeft(1, path, ago(days), **more)


def test_scratch_goes_so_many_days_after_its_attempt():
    assert scratch_going(folder(7), ALL, NOW).rule == "scratch_days"
    assert scratch_going(folder(6.9), ALL, NOW) is None
    assert scratch_going(folder(999), Retention(), NOW) is None


def test_logs_go_by_age_but_not_those_that_are_kept():
    assert logs_going(folder(91), ALL, NOW).rule == "log_days"
    assert logs_going(folder(91, kept=True), ALL, NOW) is None
    assert logs_going(folder(91, brought_back_at=ago(1)), ALL, NOW) is None


def test_the_oldest_logs_go_until_the_rest_is_no_more_than_the_step_may_have():
    logs = [(folder(days, str(days)), GB // 2) for days in (3, 1, 4, 2)]
    assert [left.path for left, _ in excess_logs(logs, ALL)] == ["4", "3"]


def test_logs_that_are_kept_count_and_stay():
    logs = [(folder(4, "4", kept=True), GB), (folder(3, "3"), 1), (folder(2, "2"), 1)]
    assert [left.path for left, _ in excess_logs(logs, ALL)] == ["3", "2"]


def test_logs_that_were_brought_back_are_the_newest():
    logs = [(folder(4, "4", brought_back_at=ago(1)), GB), (folder(3, "3"), GB // 2)]
    assert [left.path for left, _ in excess_logs(logs, ALL)] == ["3"]


def test_without_a_limit_no_logs_are_too_many():
    assert excess_logs([(folder(4), 9 * GB)], Retention()) == []


def test_what_a_step_says_wins_over_the_site_and_keep_is_for_ever():
    said = {"scratch_days": "keep", "log_days": 3, "superseded_days": None}
    assert ALL.with_said(said) == replace(ALL, scratch_days=None, log_days=3)
    assert ALL.with_said(None) == ALL


def test_a_reason_names_the_rule_and_its_number():
    assert products_going(FINAL, ALL, NOW).reason == "another product has taken its place (superseded_days: 30)"
