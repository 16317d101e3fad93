"""What a decision says in a few words."""

from __future__ import annotations

import pytest

from ccatwm.core.decision_text import decision_text, missing_software_text
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
    ("details", "said"),
    [
        (
            {"at_least": "2.0", "versions": ["1.0", "1.2", "1.9", "1.10"]},
            "no version of cal that is 2.0 or newer is registered (there are: 1.10, 1.9, 1.2 and 1 more)",
        ),
        (
            {"at_least": "2.0", "versions": ["1.0"], "excluded_versions": ["0.9"]},
            "no version of cal that is 2.0 or newer is registered (there are: 1.0; excluded: 0.9)",
        ),
        (
            {"at_least": "2.0", "versions": ["1.0"], "excluded_versions": ["2.1"]},
            "no version of cal that is 2.0 or newer is left (there are: 1.0; excluded: 2.1)",
        ),
        ({"exactly": "1.0", "versions": ["2.0"]}, "version 1.0 of cal is not registered (there are: 2.0)"),
        ({"exactly": "1.0", "versions": [], "excluded_versions": ["1.0"]}, "version 1.0 of cal is excluded"),
        ({"versions": [], "excluded_versions": ["1.0"]}, "no version of cal is left (excluded: 1.0)"),
        ({}, "no version of cal is registered"),  # written by an older release
    ],
)
def test_a_version_that_is_missing_is_told_with_those_that_there_are(details, said):
    assert missing_software_text({"software": "cal", "missing": "version", **details}) == said


def test_an_image_that_is_missing_is_told_with_its_version():
    decision = Decision(Outcome.WAITING_FOR_IMAGE, details={"software": "cal", "version": "1.0", "image": "/i.sif"})
    assert decision_text(decision) == (
        "image /i.sif of cal 1.0 was not there when it was applied; `ccatwm apply` again when it is"
    )


def test_an_image_that_is_a_uri_is_not_told_to_be_applied_again():
    details = {"software": "cal", "version": "1.0", "image": "oras://r/cal:1"}
    assert decision_text(Decision(Outcome.WAITING_FOR_IMAGE, details=details)) == (
        "image oras://r/cal:1 of cal 1.0 is a URI, and nothing fetches those in this release; "
        "`ccatwm apply` a version whose image is a file"
    )


@pytest.mark.parametrize(
    "outcome", sorted(set(Outcome) - {Outcome.RUN, Outcome.ACCEPTED, Outcome.COOLING_DOWN, Outcome.SETTLING})
)
def test_no_decision_against_a_run_is_without_a_word(outcome):
    details = {"packages": [{"name": "p", "state": "waiting"}], "upstream": UPSTREAM, "reason": "rain"}
    assert decision_text(Decision(outcome, details=details))
