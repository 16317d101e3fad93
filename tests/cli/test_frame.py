"""The frame of commands: common options anywhere, one message per error, exit codes, safe output."""

from __future__ import annotations

import copy
import errno
import json
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ccatwm.cli import _frame, main
from ccatwm.cli._conditions import Condition, plan_news, tell_news
from ccatwm.cli._frame import Common
from ccatwm.errors import CcatwmError, Problem, SettingsError, UsageError, WorldError
from ccatwm.passes._frame import PassItem, PassReport
from tests.command_line import call_ccatwm

pytestmark = pytest.mark.quick

runner = CliRunner()


def run(function: object, *arguments: str) -> tuple[int, str, str]:
    app = _frame.build_app("Test.")
    app.callback()(_frame.remember_common)
    _frame.command(app, "try")(function)  # type: ignore[arg-type]
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def show_common(common: Common) -> None:
    print(common)


@pytest.mark.parametrize("arguments", [("--site", "x", "try"), ("try", "--site", "x")])
def test_a_common_option_may_stand_before_or_after_the_command(arguments: tuple[str, ...]) -> None:
    assert "site='x'" in run(show_common, *arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "abc"), "Invalid value for 'RUN': it is to be a whole number"),
        (("runs", "--limit", "0"), "Invalid value for '--limit': it is to be 1 or more"),
        (("stage", "--max-seconds", "x"), "Invalid value for '--max-seconds': it is to be a number"),
    ],
)
def test_a_value_that_is_no_number_is_told_in_everyday_words(arguments: tuple[str, ...], said: str) -> None:
    result = call_ccatwm(*arguments)
    assert result.exit_code == 2 and said in result.stderr


def test_an_option_after_the_command_wins() -> None:
    assert "site='y'" in run(show_common, "--site", "x", "try", "--site", "y")[1]


def test_flags_before_and_after_the_command_add_up() -> None:
    out = run(show_common, "--json", "try", "-vv")[1]
    assert "json=True" in out and "verbose=2" in out


def test_an_unknown_log_format_is_a_usage_error() -> None:
    assert run(show_common, "try", "--log-format", "xml")[0] == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("x"), 2), (SettingsError("x"), 3), (WorldError("x"), 4), (CcatwmError("x"), 1)],
)
def test_the_class_of_an_error_says_the_exit_code(error: CcatwmError, code: int) -> None:
    def fail() -> None:
        raise error

    assert run(fail, "try")[0] == code


def test_an_error_is_one_message_on_stderr_with_all_problems() -> None:
    def fail() -> None:
        raise SettingsError(
            "wrong", where="f", next="do", problems=[Problem("f:1", "a", "b"), Problem("f:2", "c")]
        )

    _, out, err = run(fail, "try")
    assert out == ""
    assert err.splitlines() == ["ccatwm: f: wrong", "  f:1: a; b", "  f:2: c", "  next: do"]


def test_with_json_an_error_is_one_document_on_stdout() -> None:
    def fail() -> None:
        raise SettingsError("wrong", where="f", next="do")

    _, out, err = run(fail, "try", "--json")
    assert json.loads(out) == {
        "error": {"class": "SettingsError", "message": "wrong", "where": "f", "next": "do"}
    }
    assert err == ""


def test_an_error_of_the_file_system_is_no_traceback() -> None:
    def fail() -> None:
        Path("/nonexistent/file").read_bytes()

    code, _, err = run(fail, "try")
    assert code == 1 and err == "ccatwm: /nonexistent/file: No such file or directory\n"


def test_an_interrupt_exits_130_without_a_traceback() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    code, _, err = run(fail, "try")
    assert code == 130 and "Traceback" not in err


def shell(line: str, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `ccatwm` is the real command, with whatever streams the line gives it."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **variables}
    script = f'ccatwm() {{ "{sys.executable}" -m ccatwm "$@"; }}\n{line}'
    return subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_a_reader_who_leaves_early_is_no_failure(tmp_path: Path, variables: dict[str, str]) -> None:
    line = "ccatwm schema pipeline | (sleep 1); exit ${PIPESTATUS[0]}"
    done = shell(line, tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["--help", "stage --help"])
def test_a_reader_who_leaves_before_the_help_is_no_failure(tmp_path: Path, command: str) -> None:
    done = shell(f"(sleep 0.2; ccatwm {command}) | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_who_leaves_early_does_not_hide_a_failure(tmp_path: Path) -> None:
    done = shell("ccatwm config show --json | (exec <&-; sleep 1); exit ${PIPESTATUS[0]}", tmp_path)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_wrong_command_is_a_usage_error_where_nobody_can_be_told(tmp_path):
    assert shell("ccatwm nosuch 2>/dev/full", tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["--help", "schema pipeline", "config show", "config show --json"])
def test_a_full_output_is_one_line_on_stderr(tmp_path: Path, command: str) -> None:
    (tmp_path / "ccatwm-data").mkdir()
    (tmp_path / "ccatwm-data" / "settings.toml").write_text("[default]\nSITE = 'x'\n")
    done = shell(f"ccatwm {command} >/dev/full", tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr and done.stderr.startswith("ccatwm: ")


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_change_no_exit_code(tmp_path: Path, streams: str) -> None:
    assert shell(f"ccatwm schema pipeline {streams}", tmp_path).returncode == 0
    assert shell(f"ccatwm status {streams}", tmp_path).returncode == 3  # there is no site here
    assert shell(f"ccatwm status {streams}", tmp_path).stderr.count("Traceback") == 0


def test_a_file_without_the_right_to_it_is_for_a_person_to_mend() -> None:
    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/state/locks")

    code, _, err = run(fail, "try")
    assert code == 3 and err.startswith("ccatwm: /state/locks: Permission denied\n  next: give this account")


def test_control_characters_from_outside_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    _frame.print_table("", ("name",), [("x\x1b[31m\n$(id)",)])
    assert capsys.readouterr().out.splitlines()[1] == "x\\x1b[31m\\n$(id)"


def test_file_names_that_are_no_text_are_percent_encoded_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    name = b"100%-caf\xe9".decode("utf-8", "surrogateescape")
    _frame.emit_json({"paths": [name], name: {"plain": "100%", "smile": "\U0001f600"}})
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == ["100%25-caf%E9"]
    assert document["100%25-caf%E9"] == {"plain": "100%", "smile": "\U0001f600"}


def test_a_table_without_a_terminal_is_aligned_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    _frame.print_table("runs", ("run", "status"), [(7, "COMPLETED"), (12, None)])
    assert capsys.readouterr().out.splitlines() == ["runs", "run  status", "7    COMPLETED", "12   -"]


def test_long_lines_and_errors_are_broken_at_spaces_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    _frame.print_lines(["ask for it with `ccatwm release otf/calibrate --retry`"])
    _frame.print_error(Common(), UsageError("there is no pipeline 'otf-of-another-name'", next="see `ccatwm status`"))
    out, err = capsys.readouterr()
    assert out.splitlines() == ["ask for it with `ccatwm release", "    otf/calibrate --retry`"]
    assert max(map(len, err.splitlines())) <= 40 and " ".join(err.split()).endswith("see `ccatwm status`")


def test_json_log_lines_carry_pass_and_run() -> None:
    record = logging.LogRecord("ccatwm.passes", logging.INFO, "", 0, "staged %s", ("x",), None)
    record.pass_name, record.run = "stage", 7
    document = json.loads(_frame.JsonLines().format(record))
    assert (document["message"], document["pass"], document["run"]) == ("staged x", "stage", 7)


def test_a_log_line_for_people_begins_with_its_time_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    _frame.start_logging(Common())
    logging.getLogger("ccatwm.passes").warning("run 7 failed")
    told = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING run 7 failed\n", told), told


def test_a_bad_copy_is_told_under_cron(tmp_path: Path) -> None:
    report = PassReport("stage", "x", NOON)
    report.tell(PassItem("bad-copy", "package p: its copy at buffer (p.tar) is corrupt: checksum differs", 7))
    assert tell_news(tmp_path, [report], NOON) == [
        "ccatwm: stage: package p: its copy at buffer (p.tar) is corrupt: checksum differs"
    ]


# --- conditions under cron ---------------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
AWAY = {"poll": {"away": "the ops-db is away"}}


def test_a_condition_is_told_when_it_begins() -> None:
    lines, known = plan_news([], AWAY, ["poll"], NOON)
    assert len(lines) == 1 and len(known) == 1


def test_a_condition_that_lasts_is_not_told_again_at_once() -> None:
    _, known = plan_news([], AWAY, ["poll"], NOON)
    assert plan_news(known, AWAY, ["poll"], NOON + timedelta(hours=5))[0] == []


def test_a_condition_that_lasts_is_told_once_a_day() -> None:
    _, known = plan_news([], AWAY, ["poll"], NOON)
    lines, known = plan_news(known, AWAY, ["poll"], NOON + timedelta(hours=24))
    assert len(lines) == 1
    assert plan_news(known, AWAY, ["poll"], NOON + timedelta(hours=25))[0] == []


def test_the_end_of_a_condition_is_told() -> None:
    _, known = plan_news([], AWAY, ["poll"], NOON)
    lines, known = plan_news(known, {}, ["poll"], NOON + timedelta(minutes=5))
    assert len(lines) == 1 and known == []


def test_what_to_do_next_is_said_when_a_condition_begins_and_never_when_it_is_over() -> None:
    met = {"poll": {"away": "the ops-db is away\n  next: the next pass tries again"}}
    lines, known = plan_news([], met, ["poll"], NOON)
    assert lines == ["ccatwm: the ops-db is away\n  next: the next pass tries again"]
    lines, _ = plan_news(known, {}, ["poll"], NOON + timedelta(minutes=5))
    assert lines[0].endswith(": the ops-db is away")


def test_people_are_told_to_try_again_and_not_that_a_pass_does() -> None:
    def fail() -> None:
        raise WorldError("the ops-db did not answer")

    assert run(fail, "try")[2].endswith("did not answer\n  next: try again\n")


def test_a_condition_that_several_passes_meet_is_told_once() -> None:
    met = {name: {"away": "the ops-db is away"} for name in ("poll", "collect")}
    lines, known = plan_news([], met, list(met), NOON)
    assert len(lines) == 1 and known[0].passes == ("poll", "collect")


def test_work_that_is_held_back_is_told_once_while_it_lasts(tmp_path: Path) -> None:
    full = PassReport("stage", "site", NOON)
    for number in (1, 2):
        full.add("waiting", PassItem("no-space", "the disk is full", number, "p", "s", "k"))
    assert tell_news(tmp_path, [full], NOON) == ["ccatwm: stage: 2 runs held back, no space: the disk is full"]
    assert tell_news(tmp_path, [full], NOON + timedelta(minutes=1)) == []
    (over,) = tell_news(tmp_path, [PassReport("stage", "site", NOON)], NOON + timedelta(minutes=2))
    assert over.endswith("stage: 2 runs held back, no space: the disk is full")


def test_a_location_that_is_away_is_not_over_while_a_run_waits_that_no_pass_looks_at(tmp_path: Path) -> None:
    away, idle = PassReport("stage", "site", NOON), PassReport("stage", "site", NOON)
    away.add("waiting", PassItem("unavailable", "no answer", 7, "p", "s", "k"))
    asked: list[list[int]] = []

    def wait(runs: Sequence[int]) -> bool:
        asked.append(list(runs))
        return len(asked) < 3

    assert len(tell_news(tmp_path, [away], NOON, wait)) == 1
    assert tell_news(tmp_path, [idle], NOON + timedelta(minutes=1), wait) == []
    assert tell_news(tmp_path, [away], NOON + timedelta(minutes=2), wait) == []
    assert tell_news(tmp_path, [idle], NOON + timedelta(minutes=3), wait) == []
    (over,) = tell_news(tmp_path, [idle], NOON + timedelta(minutes=4), wait)
    assert over.startswith("ccatwm: over since ") and asked == [[7], [7], [7]]


def test_runs_that_wait_for_a_ceiling_are_no_news_and_those_of_a_full_queue_are_counted(tmp_path: Path) -> None:
    report = PassReport("submit", "site", NOON)
    report.add("waiting", PassItem("throttled", "1 run of p/s under way", 1, "p", "s", "k", intended=True))
    assert tell_news(tmp_path, [report], NOON) == []
    report.add("waiting", PassItem("throttled", "the queue is full", 2, "p", "s", "k"))
    report.add("waiting", PassItem("throttled", "the queue is full", count=30))
    (line,) = tell_news(tmp_path, [report], NOON)
    assert line.startswith("ccatwm: submit: 31 runs held back, ")
    assert report.waiting == 32


def test_of_many_runs_of_a_step_that_fail_for_good_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    report = PassReport("poll", "site", NOON)
    for number in range(1, 31):
        report.add("failed", PassItem("failed", "it broke", number, "p", "s", f"k={number}", needs_you=True))
    report.add("failed", PassItem("failed", "another", 31, "p", "t", "all", needs_you=True))
    lines = tell_news(tmp_path, [report], NOON)
    assert [line for line in lines if "run 5 (p/s/k=5)" in line] and not [line for line in lines if "run 6 " in line]
    more = "25 more runs of p/s failed for good\n  next: ccatwm runs --pipeline p --step s --status FAILED"
    assert f"ccatwm: poll: {more}" in lines
    assert lines[-1].startswith("ccatwm: poll: run 31 (p/t/all) failed")


def test_a_condition_is_not_over_while_one_pass_still_meets_it() -> None:
    known = [Condition("away", "the ops-db is away", ("poll", "collect"), NOON, NOON)]
    lines, known = plan_news(known, {}, ["poll"], NOON)
    assert lines == [] and known[0].passes == ("collect",)


@pytest.mark.parametrize(
    ("argv", "commands", "groups"),
    [
        (["cycle", "--dry-run"], ["cycle"], []),
        (["--site", "runs", "-q", "--log-format", "json", "status", "cycle"], ["status"], []),
        (["--site=runs", "db", "check"], [], ["db"]),
        (["stauts", "cycle"], None, None),
        (["--site"], None, None),
        (["--help"], None, None),
    ],
)
def test_only_the_command_that_is_named_is_built(
    argv: list[str], commands: list[str] | None, groups: list[str] | None
) -> None:
    """All of them where none is: for help, and to say what a word may have meant."""
    app = copy.copy(main.app)
    _frame.keep_named(app, argv)
    every = [[one.name for one in many] for many in (main.app.registered_commands, main.app.registered_groups)]
    kept = [[one.name for one in many] for many in (app.registered_commands, app.registered_groups)]
    assert kept == (every if commands is None else [commands, groups])
