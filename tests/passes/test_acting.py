"""What people say, carried out by the passes: each act on each thing that it may be said of, and who watches it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.cli.conftest import cli
from tests.passes.conftest import Observatory
from tests.passes.in_hand import FAILING, use_site

__all__ = ["cli"]
REASON = ("--reason", "test")


@pytest.fixture
def site(three_scans: Observatory, monkeypatch: pytest.MonkeyPatch) -> Observatory:
    """Three runs wait to be staged."""
    three_scans.scripts = True
    three_scans.make_runs()
    use_site(three_scans, monkeypatch)
    return three_scans


def key_of(observatory: Observatory, number: int) -> str:
    return str(observatory.runs()[number]["sub_group_key"])


HELD = {
    "pipeline": (lambda o: "otf", 0),
    "step": (lambda o: "otf/calibrate", 0),
    "sub-group": (lambda o: f"otf/calibrate/{key_of(o, 0)}", 2),
    "run": (lambda o: str(o.runs()[0]["id"]), 2),
}


@pytest.mark.parametrize("status", ["PENDING", "STAGED"])
@pytest.mark.parametrize("kind", HELD)
def test_nothing_of_what_is_held_goes_on_until_it_is_released(site, cli, kind, status):
    target, others = HELD[kind][0](site), HELD[kind][1]
    if status == "STAGED":
        site.run_pass("stage")
    assert cli("hold", target, *REASON).code == 0
    site.until_quiet()
    done = [run for run in site.runs() if run["status"] == "COMPLETED"]
    assert len(done) == others
    assert {run["status"] for run in site.runs() if run not in done} == {status}
    assert cli("release", target, *REASON).code == 0
    site.until_quiet()
    assert {run["status"] for run in site.runs()} == {"COMPLETED"}


@pytest.mark.parametrize(
    "words",
    [
        ("--pipeline", "otf"),
        ("--step", "calibrate"),
        ("--class", "non-zero-exit"),
        ("--status", "FAILED", "--since", "100000d"),
    ],
    ids=lambda words: words[0],
)
def test_retry_takes_a_selection_and_the_passes_carry_it_out(site, cli, words):
    (site.folder / "program.sh").write_text(FAILING)
    site.until_quiet()
    (site.folder / "program.sh").write_text("echo ok >\"$WORKFLOW_OUTPUT_DIR/spectra.txt\"\n")
    assert {run["status"] for run in site.runs()} == {"FAILED"}
    answer = cli("retry", *words, *REASON, "--json")
    assert (answer.code, len(answer.json["runs"])) == (0, 3)
    site.until_quiet()
    assert {run["status"] for run in site.runs()} == {"COMPLETED"}


@pytest.mark.parametrize("words", [("--pipeline", "otf"), ("--status", "PENDING"), ()], ids=lambda words: str(words[:1]))
def test_cancel_takes_a_selection_or_numbers_and_poll_carries_it_out(site, cli, words):
    named = words or tuple(str(run["id"]) for run in site.runs())
    assert cli("cancel", *named, *REASON).code == 0
    site.until_quiet()
    assert {run["status"] for run in site.runs()} == {"CANCELLED"}


def test_a_sub_group_selects_its_runs_alone(site, cli):
    assert cli("cancel", "--sub-group", key_of(site, 1), *REASON).code == 0
    site.until_quiet()
    assert [run["status"] for run in site.runs()] == ["COMPLETED", "CANCELLED", "COMPLETED"]


WATCHED = {
    "cancel": (("cancel", "--pipeline", "otf"), "CANCELLED"),
    "retry": (("retry", "--pipeline", "otf"), "COMPLETED"),
    "release": (("release", "otf/calibrate", "--retry"), "COMPLETED"),
}


@pytest.mark.parametrize("act", WATCHED)
def test_waiting_ends_when_the_passes_have_carried_it_out(site, act):
    words, end = WATCHED[act]
    if act != "cancel":
        (site.folder / "program.sh").write_text(FAILING)
        site.until_quiet()
        (site.folder / "program.sh").write_text("echo ok >\"$WORKFLOW_OUTPUT_DIR/spectra.txt\"\n")
    command = [sys.executable, "-m", "ccatwm", *words, *REASON, "--wait", "--timeout", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        for _ in range(300):  # until it was said
            if any(row["act"] == words[0] or row["act"] == "retry" for row in site.rows("change_log")):
                break
            time.sleep(0.1)
        site.until_quiet()
        out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0, out
    assert out.count(f": {end}") == 3


def test_passes_stand_still_from_pause_to_resume(site, cli):
    assert cli("pause", *REASON, "--wait").code == 0
    assert site.run_pass("stage").skipped == "paused"
    assert cli("resume", *REASON).code == 0
    site.until_quiet()
    assert {run["status"] for run in site.runs()} == {"COMPLETED"}


def test_a_release_alone_has_nothing_to_wait_for(site, cli):
    answer = cli("release", "otf", "--wait")
    assert (answer.code, "--retry" in answer.err) == (2, True)
