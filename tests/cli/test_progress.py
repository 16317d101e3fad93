"""Progress at a terminal: seen while something takes long, gone when it ends, and nowhere but before a person."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ccatwm.cli._progress import TerminalBar
from tests.fakes.terminal import STREAMS, Shown, run_on_terminal

TOP = Path(__file__).resolve().parents[2]
SCAN = ("ingest", "--scan", "archive", "--pattern", "{source}/{scan}.fits", "--checksum")
PIPELINE = """\
software:
  - name: copy
    versions: [{version: 1.0.0, command: [sh, -c, 'sleep 3; mkdir -p "$WORKFLOW_OUTPUT_DIR/science"; echo 1 >"$WORKFLOW_OUTPUT_DIR/science/one"']}]
data_groupings:
  - {name: everything, filter_rules: []}
pipelines:
  - name: nightly
    data_grouping: everything
    processing_location: local
    trigger: {type: CONTINUOUS}
    steps:
      - {name: copy, software: copy, group_by: [source]}
"""  # noqa: E501
# A command of ours in which something takes a moment, while lines are logged and printed.
BUSY = """
import logging, sys, time
from ccatwm.cli import _frame
from ccatwm.errors import UsageError
app = _frame.build_app("Test.")
app.callback()(_frame.remember_common)
@_frame.command(app, "busy")
def busy(common: _frame.Common) -> None:
    with _frame.open_progress(common).begin("the whole [red]", 10, "runs") as bar:
        for number in range(10):
            with _frame.open_progress(common).begin("x", None, "bytes"):
                time.sleep(0.15)
            bar.advance(1)
            bar.note("so far")
            if number == 6:
                logging.getLogger("ccatwm").warning("w" * 200)
                print("p" * 100)
        raise UsageError("it went wrong")
@_frame.command(app, "idle")
def idle(common: _frame.Common) -> None:
    with _frame.open_progress(common).begin("nothing", 10, "runs"):
        pass
    print(sorted({name.partition(".")[0] for name in sys.modules} & {"rich"}))
raise SystemExit(_frame.run_app(app))
"""


def environment(work: Path, **more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(work), "PYTHONPATH": str(TOP), "LC_ALL": "C.UTF-8", **more}


def say(
    work: Path,
    *arguments: str,
    program: Sequence[str] = ("-m", "ccatwm"),
    streams: Sequence[str] = STREAMS,
    interrupt_when: Callable[[str], bool] | None = None,
    **more: str,
) -> Shown:
    return run_on_terminal(
        [sys.executable, *program, *arguments], cwd=work, environment=environment(work, **more), streams=streams,
        interrupt_when=interrupt_when,
    )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site and a file that is summed up and copied in no instant: what takes less than DELAY_SECONDS shows no bar."""
    done = subprocess.run([sys.executable, "-m", "ccatwm", "init", "-q"], cwd=tmp_path, env=environment(tmp_path))
    assert done.returncode == 0
    (tmp_path / "archive" / "M51").mkdir(parents=True)
    big = tmp_path / "archive" / "M51" / "0001.fits"
    big.touch()
    os.truncate(big, 1_000_000_000)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


# --- a line ---------------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_a_line_tells_how_much_how_fast_and_how_long_yet() -> None:
    bar = TerminalBar("package", 4_000_000_000, "bytes", begun=100.0)
    bar.advance(1_000_000_000)
    assert bar.figures(110.0) == "1.0 GB of 4.0 GB, 100.0 MB/s, 30 s left"


@pytest.mark.quick
def test_what_has_no_end_that_is_known_tells_what_is_done_and_for_how_long() -> None:
    bar = TerminalBar("cycle", None, "rounds", begun=0.0)
    bar.advance(3)
    bar.note("2 runs under way")
    assert bar.figures(12.0) == "3 rounds, 2 runs under way, 12 s"


@pytest.mark.quick
def test_what_nobody_can_advance_is_measured() -> None:
    def gone() -> int:
        raise FileNotFoundError

    assert TerminalBar("backup", 2000, "bytes", 0.0, lambda: 500).figures(1.0) == "500 B of 2.0 kB, 500 B/s, 1 s"
    assert TerminalBar("backup", 2000, "bytes", 0.0, gone).figures(1.0) == "0 B of 2.0 kB, 1 s"


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_bars_make_room_for_lines_and_leave_nothing_when_it_fails(tmp_path: Path) -> None:
    shown = say(tmp_path, "busy", program=["-c", BUSY])
    assert "the whole [red]" in shown.sent and "of 10 runs, so far" in shown.sent
    logged, _, whole = "".join(shown.lines).partition(" WARNING ")
    assert len(logged) == len("2026-03-01T12:00:00Z")
    assert whole == "w" * 200 + "p" * 100 + "ccatwm: it went wrong"
    assert len(shown.lines) == 3 + 2 + 1
    assert shown.screen.cursor_shown and shown.code == 2


def test_bars_on_stderr_leave_a_redirected_stdout_alone(tmp_path: Path) -> None:
    shown = say(tmp_path, "busy", program=["-c", BUSY], streams=["stderr"])
    assert "the whole" in shown.sent
    assert shown.piped["stdout"] == "p" * 100 + "\n"


@pytest.mark.parametrize("arguments", [["--json"], ["--quiet"], ["--log-format", "json"]], ids=" ".join)
def test_whoever_asks_for_json_or_silence_sees_no_bars(tmp_path: Path, arguments: list[str]) -> None:
    assert "\x1b" not in say(tmp_path, "busy", *arguments, program=["-c", BUSY]).sent


@pytest.mark.parametrize("more", [{"streams": ["stdout"]}, {"TERM": "dumb"}], ids=["pipe", "dumb"])
def test_there_are_no_bars_where_stderr_is_no_terminal_that_takes_them(tmp_path: Path, more: dict[str, str]) -> None:
    assert "\x1b" not in say(tmp_path, "busy", program=["-c", BUSY], **more).sent  # type: ignore[arg-type]


def test_what_is_done_at_once_loads_nothing_and_shows_nothing(tmp_path: Path) -> None:
    shown = say(tmp_path, "idle", program=["-c", BUSY])
    assert (shown.lines, "\x1b" in shown.sent) == (["[]"], False)


@pytest.mark.slow
def test_hashing_staging_and_cycles_are_seen_and_leave_nothing(site: Path) -> None:
    scanned = say(site, *SCAN)
    assert scanned.code == 0, scanned.lines
    assert "checksums" in scanned.sent and "of 1.0 GB" in scanned.sent and "B/s" in scanned.sent
    assert "checksums" not in "\n".join(scanned.lines)
    assert say(site, "apply", "pipeline.yaml").code == 0

    cycled = say(site, "cycle", "--until-idle")
    assert cycled.code == 0, cycled.lines
    assert "of 1.0 GB" in cycled.sent and "of 1 runs" in cycled.sent  # stage
    assert "1 run under way" in cycled.sent
    assert all(line.endswith(": 1 done") for line in cycled.lines), cycled.lines
    assert [line.partition(":")[0] for line in cycled.lines][:4] == ["trigger", "resolve", "stage", "submit"]


@pytest.mark.slow
def test_an_interrupt_leaves_one_line(site: Path) -> None:
    assert say(site, *SCAN).code == 0
    assert say(site, "apply", "pipeline.yaml").code == 0
    assert say(site, "trigger").code == say(site, "resolve").code == 0
    shown = say(site, "stage", interrupt_when=lambda sent: "of 1.0 GB" in sent)
    assert (shown.code, shown.lines) == (130, ["interrupted"])
    again = say(site, "stage", streams=["stdout"])
    assert (again.code, again.lines) == (0, ["stage: 1 done"])
    assert "\x1b" not in again.piped["stderr"]
