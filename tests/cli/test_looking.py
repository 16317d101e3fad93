"""The commands that look and act: one document or one table, exit codes, nothing that steers a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccatwm.cli import _conditions
from ccatwm.edges.opsdb import tables as t
from ccatwm.edges.opsdb.engine import Database
from ccatwm.errors import CallBudgetError
from ccatwm.passes._frame import PassItem, PassReport
from tests.cli.conftest import MakeSite
from tests.opsdb.looked_at import World

pytestmark = pytest.mark.quick
SITE = Path("ccatwm-data")


@pytest.fixture
def world(make_site: MakeSite) -> Iterator[World]:
    """A site with the pipeline `otf` and one failed run of it."""
    make_site(SITE)
    database = Database(f"sqlite:///{SITE.resolve()}/opsdb.sqlite")
    with database.engine.connect() as connection:
        made = World(database, connection)
        made.define()
        run = made.run(made.sub_group("grid", "all", outcome="failed"), "FAILED", blocking=True)
        directory = SITE / "pipelines" / made.attempt(run)
        (directory / "logs").mkdir(parents=True)
        (directory / "logs" / "stderr.log").write_bytes(b"\x1b]0;evil\x07red\ttab\n")
        yield made
    database.dispose()


LOOKS = [["status"], ["runs"], ["products"], ["show", "1"], ["logs", "1"], ["explain", "otf"]]


@pytest.mark.parametrize("command", LOOKS, ids=lambda c: c[0])
def test_every_look_is_one_json_document_with_its_schema(world, cli, command):
    answer = cli(*command, "--json")
    assert (answer.code, answer.json["schema"]) == (0, f"ccatwm.{command[0]}/1")


@pytest.mark.parametrize("command", LOOKS, ids=lambda c: c[0])
def test_every_look_says_something_to_people(world, cli, command):
    answer = cli(*command)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.strip()


def test_the_rows_of_a_document_are_under_the_name_of_its_command(world, cli):
    assert [row["run"] for row in cli("runs", "--json").json["runs"]] == [1]


def test_looking_changes_nothing(world, cli):
    before = [world.rows(table) for table in t.pipeline_metadata.sorted_tables]
    for command in LOOKS:
        cli(*command)
    assert [world.rows(table) for table in t.pipeline_metadata.sorted_tables] == before


def test_logs_cannot_steer_the_terminal(world, cli):
    out = cli("logs", "1", "--stderr").out
    assert out == "\\x1b]0;evil\\x07red    tab\n"


@pytest.mark.parametrize(
    "command",
    [
        ["show", "99"],
        ["logs", "99"],
        ["explain", "oft"],
        ["lineage", "99"],
        ["runs", "--status", "DONE"],
        ["retry"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_a_usage_error(world, cli, command):
    answer = cli(*command)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("ccatwm: ")
    assert "next: " in answer.err or "allowed: " in answer.err


def test_an_error_is_json_for_scripts(world, cli):
    answer = cli("explain", "oft", "--json")
    assert (answer.code, answer.json["error"]["class"]) == (2, "UsageError")
    assert answer.json["error"]["next"] == "did you mean otf?"


def test_a_retry_is_said_and_shown(world, cli):
    assert cli("retry", "1", "--reason", "repaired").code == 0
    assert cli("runs", "--json").json["runs"][0]["status"] == "PENDING"
    refused = cli("retry", "1", "--reason", "repaired", "--json")
    assert (refused.code, refused.json["runs"][0]["outcome"]) == (1, "refused")


def test_waiting_for_a_cancellation_gives_up_in_time(world, cli):
    cli("retry", "1", "--reason", "repaired")
    answer = cli("cancel", "1", "--reason", "wrong", "--wait", "--timeout", "0")
    assert (answer.code, "run 1 is PENDING" in answer.err) == (1, True)


def test_waiting_for_a_cancellation_that_was_asked_for_before_watches_too(world, cli):
    cli("retry", "1", "--reason", "repaired")
    cli("cancel", "1", "--reason", "wrong")
    answer = cli("cancel", "1", "--reason", "wrong", "--wait", "--timeout", "0")
    assert (answer.code, "run 1 is PENDING" in answer.err) == (1, True)


def test_a_run_is_asked_for_with_a_reason_only(world, cli):
    refused = cli("trigger", "--pipeline", "otf", "--force")
    assert (refused.code, "say why: --reason TEXT" in refused.err) == (2, True)
    assert world.rows(t.trigger_event) == []
    assert cli("trigger", "--pipeline", "otf", "--force", "--reason", "new flat").code == 0


@pytest.mark.parametrize("options", [("--full",), ("--limit", "3"), ("--wait", "--full"), ("--max-seconds", "5")])
def test_what_is_said_to_the_pass_does_not_go_with_a_request(world, cli, options):
    refused = cli("trigger", "--pipeline", "otf", "--reason", "new flat", *options)
    assert refused.code == 2
    assert all(option in refused.err for option in ("--pipeline", *options) if option.startswith("--"))
    assert world.rows(t.trigger_event) == []


def test_a_cycle_until_idle_says_last_what_is_left(world, cli):
    answer = cli("cycle", "--until-idle")
    assert (answer.code, answer.out.splitlines()[-1]) == (0, "left: 1 run needs you: ccatwm show 1")
    document = cli("cycle", "--until-idle", "--json").json
    assert document["left"]["needs_you"] == [1]
    assert (document["scheduler_calls"], document["connections"]) == (0, 0)


def test_a_cycle_until_idle_tells_once_and_at_once_which_data_cannot_be_reached(world, cli, monkeypatch):
    rounds, lines = [], []

    def run_cycle(context, options):
        report = PassReport("stage", "site", context.clock.now())
        if not rounds:  # the next round does not look at the run again yet
            report.add("waiting", PassItem("unavailable", "the store is away", 1, "p", "s", "all"))
        rounds.append(report)
        return [report]

    def tell_news(*arguments):
        lines.append((len(rounds), tell(*arguments)))
        return lines[-1][1]

    tell = _conditions.tell_news
    monkeypatch.setattr(_conditions, "tell_news", tell_news)
    monkeypatch.setattr("ccatwm.wiring.run_cycle", run_cycle)
    monkeypatch.setattr("ccatwm.views.left.any_waits_for_inputs", lambda database, runs: list(runs) == [1])
    monkeypatch.setattr("ccatwm.wiring.work_is_left", lambda context, **_: len(rounds) < 3)
    monkeypatch.setattr("ccatwm.cli.passes.time.sleep", lambda seconds: None)
    answer = cli("cycle", "--until-idle")
    message = "ccatwm: stage: 1 run held back, their data cannot be reached: the store is away"
    assert lines == [(1, [message]), (2, []), (3, [])]
    assert answer.err.splitlines() == [message]


def test_a_cycle_until_idle_waits_where_its_own_call_budget_is_used_up(world, cli, monkeypatch):
    pauses, rounds = [], []

    def run_cycle(context, options):
        report = PassReport("poll", "site", context.clock.now())
        report.error = CallBudgetError("60 commands were given") if len(rounds) < 2 else None
        rounds.append(report)
        return [report]

    monkeypatch.setattr("ccatwm.wiring.run_cycle", run_cycle)
    monkeypatch.setattr("ccatwm.cli.passes.time.sleep", pauses.append)
    assert (cli("cycle", "--until-idle").code, len(rounds), pauses) == (0, 3, [5.0, 5.0])


def test_hold_and_release_show_in_status(world, cli):
    cli("hold", "otf/grid", "--reason", "bad weather")
    assert "held: bad weather" in cli("status").out
    cli("release", "otf/grid")
    assert "bad weather" not in cli("status").out
