"""`ccatwm history`: every act of a person is there with who, where, when and why."""

from __future__ import annotations

import socket

import pytest

from ccatwm.core.history import Subject, concerns, parse_subject
from tests.cli.conftest import Cli, cli
from tests.passes.conftest import Observatory
from tests.passes.in_hand import use_site

__all__ = ["cli"]
WHY = "because of the test"
REASON = ("--reason", WHY)


@pytest.fixture
def lived(observatory: Observatory, monkeypatch: pytest.MonkeyPatch) -> Observatory:
    """All is calibrated and gridded."""
    observatory.until_quiet()
    use_site(observatory, monkeypatch)
    monkeypatch.setenv("SUDO_USER", "ada")
    return observatory


def newest(cli: Cli, *words: str) -> dict:
    return cli("history", *words, "--limit", "1", "--json").json["history"][0]


def completed(observatory: Observatory) -> str:
    return str(observatory.runs("calibrate")[0]["id"])


def fail(observatory: Observatory) -> str:
    run = completed(observatory)
    observatory.execute(
        f"UPDATE {{schema}}executed_reduction_step SET status='FAILED', failure_class='timeout' WHERE id={run}"
    )
    return run


def changed(observatory: Observatory) -> str:
    observatory.edit("mode: hot_cold", "mode: cold")
    return "calibrate"


ACTS = {
    "trigger": lambda o: ("trigger", "--pipeline", "otf", "--step", "grid", "--force"),
    "hold": lambda o: ("hold", "otf/grid"),
    "hold-run": lambda o: ("hold", completed(o)),
    "exclude": lambda o: ("exclude", "package:scan-1-LFA"),
    "accept": lambda o: ("accept", "otf", changed(o)),
    "retry": lambda o: ("retry", fail(o)),
    "backfill": lambda o: ("backfill", "otf", "--since", "2026-02-01", "--until", "2026-04-01"),
    "pause": lambda o: ("pause",),
    "apply": lambda o: ("apply", str(o.folder / "one-step.yaml"), "--prune"),
}


@pytest.mark.parametrize("name", ACTS)
def test_every_act_is_told_with_actor_host_and_reason(lived, cli, name):
    act = ACTS[name](lived)
    done = cli(*act, *REASON)
    assert done.code == 0, done.err
    found = newest(cli)
    assert (found["what"], found["actor"], found["host"]) == (act[0], "ada", socket.gethostname())
    assert found["reason"] == WHY and found["target"] and found["at"].endswith("Z")


UNDOING = [
    (("hold", "otf"), ("release", "otf")),
    (("pause",), ("resume",)),
    (("exclude", "package:scan-1-LFA"), ("include", "package:scan-1-LFA")),
    (("backfill", "otf", "--since", "2026-02-01", "--until", "2026-04-01"), ("backfill", "1", "--cancel")),
]


@pytest.mark.parametrize(("first", "then"), UNDOING, ids=lambda act: act[0])
def test_undoing_is_an_act_too(lived, cli, first, then):
    assert cli(*first, "--reason", "first").code == 0
    done = cli(*then, *REASON)
    assert done.code == 0, done.err
    found = newest(cli)
    assert found["what"].split("-")[0] == then[0]
    assert (found["actor"], found["reason"]) == ("ada", WHY)


def test_a_cancellation_is_told_of_the_run_of_its_step_and_of_its_pipeline(lived, cli):
    run = fail(lived)
    cli("retry", run, "--reason", "again")
    assert cli("cancel", run, *REASON).code == 0
    key = lived.runs("calibrate")[0]["sub_group_key"]
    for subject in (run, "otf", "otf/calibrate", f"otf/calibrate/{key}"):
        assert (newest(cli, subject)["what"], newest(cli, subject)["reason"]) == ("cancel", WHY), subject
    assert "cancel" not in [row["what"] for row in cli("history", "otf/grid", "--json").json["history"]]


def test_a_promoted_trial_is_told(lived, cli):
    cli("trigger", "--pipeline", "otf", "--step", "grid", "--trial", "config.mode=cold", "--reason", "look")
    lived.until_quiet()
    trial = next(str(run["id"]) for run in lived.runs("grid") if run["trial"])
    assert cli("promote", trial, *REASON).code == 0
    assert (newest(cli)["what"], newest(cli)["target"], newest(cli)["reason"]) == ("promote", f"run {trial}", WHY)


def test_the_history_of_a_run_has_every_status_it_had(lived, cli):
    run = completed(lived)
    rows = cli("history", run, "--json").json["history"]
    assert [row["to"] for row in reversed(rows) if row["to"]] == [
        "PENDING", "STAGING_DATA", "STAGED", "SUBMITTING", "SUBMITTED", "COLLECTING_RESULTS", "COMPLETED",
    ]  # fmt: skip
    assert {row["pass"] for row in rows} >= {"stage", "submit", "poll", "collect"}
    with_them = cli("history", "otf/grid", "--events", "--json").json["history"]
    assert {row["details"]["step"] for row in with_them if row["to"]} == {"grid"}


def test_what_was_applied_is_told_on_demand_with_its_digest(lived, cli):
    assert cli("apply", str(lived.folder / "one-step.yaml"), "--prune", *REASON).code == 0
    plain, full = newest(cli, "otf"), newest(cli, "otf", "--text")
    assert plain["digest"].startswith("sha256:") and "text" not in plain
    assert full["text"] == (lived.folder / "one-step.yaml").read_text()
    assert "filter_rules" in cli("history", "otf", "--text", "--limit", "1").out


def test_times_limit_what_is_told(lived, cli):
    cli("pause", *REASON)
    assert newest(cli, "--since", "1h")["what"] == "pause"
    until = cli("history", "--until", "2026-03-10", "--json").json["history"]
    assert until and all(row["what"] != "pause" for row in until)


def test_people_get_a_table_and_a_wrong_name_gets_those_that_are(lived, cli):
    cli("hold", "otf/grid", *REASON)
    out = cli("history", "otf").out
    assert "ada on " in out and "otf/grid" in out and WHY in out
    wrong = cli("history", "oft")
    assert (wrong.code, "did you mean otf?" in wrong.err) == (2, True)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        (None, Subject()),
        ("12", Subject(run=12)),
        ("run:12", Subject(run=12)),
        ("otf/grid/all", Subject(place=("otf", "grid", "all"))),
        ("otf/grid/source=a:b", Subject(place=("otf", "grid", "source=a:b"))),
        ("package:a", Subject(thing="package:a")),
        ("backfill:3", Subject(thing="backfill 3")),
    ],
)
def test_whose_history_is_meant(text, subject):
    assert parse_subject(text) == subject


@pytest.mark.quick
@pytest.mark.parametrize(
    ("asked", "target", "details", "expected"),
    [
        ("otf/grid", "otf", {}, True),
        ("otf", "otf/grid/all", {}, True),
        ("otf/grid", "otf/calibrate", {}, False),
        ("otf", "otf2", {}, False),
        ("otf/grid", "p.yaml", {"changes": ["~ step otf/grid: config", "+ software cal 1"]}, True),
        ("otf/grid", "p.yaml", {"changes": ["+ software cal 1"]}, False),
        ("otf/grid", "otf", {"pipeline": "otf", "steps": ["grid"], "sub_group": None}, True),
        ("package:a", "package:a, package:b", {}, True),
        ("12", "run 1, run 12", {}, True),
        ("12", "run 123", {}, False),
    ],
)
def test_which_acts_belong_to_it(asked, target, details, expected):
    assert concerns(parse_subject(asked), target, details, []) is expected
