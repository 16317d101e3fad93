"""What a decision says in a few words."""

from __future__ import annotations

import pytest

from ccatwm.core.decision_text import decision_text
from ccatwm.core.gap import Decision, Outcome

pytestmark = pytest.mark.quick

UNTIL = {"until": "2026-03-01T04:00:00Z"}
UPSTREAM = [{"pipeline": "p", "step": "cal", "sub_group": f"s{n}", "state": "RUNNING"} for n in range(5)]


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (Decision(Outcome.RUN, "input-added", {"changes": {}}), "input-added"),
        (
            Decision(Outcome.SETTLING, "new-sub-group", UNTIL),
            "new-sub-group: not before 2026-03-01T04:00:00Z",
        ),
        (Decision(Outcome.BUSY, details={"run": 7, "status": "RUNNING"}), "run 7 is RUNNING"),
        (
            Decision(Outcome.WAITING_FOR_UPSTREAM, details={"upstream": UPSTREAM}),
            "cal s0 is RUNNING, cal s1 is RUNNING, cal s2 is RUNNING and 2 more",
        ),
        (
            Decision(Outcome.WAITING_FOR_DATA, details={"packages": [{"name": "p1", "state": "waiting"}]}),
            "p1 is waiting",
        ),
        (Decision(Outcome.FAILED, details={"run": 7, "class": "timeout"}), "run 7: timeout"),
    ],
)
def test_a_decision_says_why(decision, said):
    assert decision_text(decision) == said


@pytest.mark.parametrize(
    "outcome", sorted(set(Outcome) - {Outcome.RUN, Outcome.ACCEPTED, Outcome.COOLING_DOWN, Outcome.SETTLING})
)
def test_no_decision_against_a_run_is_without_a_word(outcome):
    details = {"packages": [{"name": "p", "state": "waiting"}], "upstream": UPSTREAM, "reason": "rain"}
    assert decision_text(Decision(outcome, details=details))
