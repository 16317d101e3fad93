"""Further options of the batch system: which may be added, and which are refused."""

from __future__ import annotations

import pytest

from ccatwm.core.flags import flag_problem

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "text",
    [
        "--exclusive",
        "--mail-type=END",
        "--comment=a b",
        "--comment=",
        "--nice=5",
        "-wnode1",
        "-O",
        "--hint=nomultithread",
    ],
)
def test_one_option_is_right_with_or_without_spaces_in_its_value(text: str) -> None:
    assert flag_problem(text) is None


@pytest.mark.parametrize(
    "text",
    ["--help", "--hel", "-h", "--usage", "--us", "--version", "-V", "--test-only", "--test-only=1", "--test"],
)
def test_options_with_which_sbatch_makes_no_job_are_refused(text: str) -> None:
    assert "ends without a job" in str(flag_problem(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--comment=a\nb", "control character"), ("--comment=a\x7f", "control character"), ("--nice 5", "no single"),
        ("word", "no single"), ("", "no single"), ("--", "no single"), ("--mem=1G", "sets itself"),
        ("--wra=id", "sets itself"), ("-Jname", "sets itself"), ("-Oh", "several options"), ("-sV", "several options"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_its_reason(text: str, said: str) -> None:
    assert said in str(flag_problem(text))
