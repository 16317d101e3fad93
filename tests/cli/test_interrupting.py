"""Ctrl-C at any moment: a word and 130, no traceback, from every entry point."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick
PROJECT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
ENTRIES = {
    "-m ccatwm": [sys.executable, "-m", "ccatwm", "status"],
    "-m ccatwm.managers": [sys.executable, "-m", "ccatwm.managers", "trigger-manager"],
    "ccatwm": [SCRIPTS / "ccatwm", "status"],
    "ccat_workflow_manager": [SCRIPTS / "ccat_workflow_manager", "trigger-manager"],
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_interrupt_while_a_command_is_being_loaded_ends_it_without_a_traceback(entry: str, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(60)\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(ENTRIES[entry], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interrupt_amid_a_callback_is_heard_a_moment_later(tmp_path: Path) -> None:
    program = """if True:
        import signal, time
        import ccatwm.starting
        class Callback:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            Callback()
            time.sleep(60)
        except KeyboardInterrupt:
            print("heard")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("heard\n", "")


def test_an_interrupt_that_a_library_logs_is_no_traceback_either() -> None:
    program = """if True:
        import logging
        from ccatwm.cli._frame import Common, start_logging
        start_logging(Common())
        for error in (KeyboardInterrupt, ValueError):
            try:
                raise error
            except BaseException:
                logging.getLogger("sqlalchemy.pool.impl.X").error("while resetting: %s", error.__name__, exc_info=True)
    """
    err = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50).stderr
    assert ("KeyboardInterrupt" in err, err.count("Traceback")) == (False, 1)


def test_who_ignores_interrupts_from_the_start_does_so_on() -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    program += "import ccatwm.starting; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


def test_on_a_terminal_an_interrupt_waits_until_the_interpreter_has_started(tmp_path: Path) -> None:
    if subprocess.run(["env", "--block-signal=INT", "true"], capture_output=True).returncode:
        pytest.skip("this `env` cannot block signals")
    shutil.copytree(PROJECT / "bin", tmp_path / "bin")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    asks = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    python.write_text(f"#!{sys.executable}\n{asks}\n")
    python.chmod(0o755)
    (tmp_path / ".venv" / ".ccatwm-environment").touch()
    ours, theirs = pty.openpty()
    blocked = {}
    for name, stdin in (("terminal", theirs), ("cron", subprocess.DEVNULL)):
        done = subprocess.run([tmp_path / "bin" / "ccatwm"], stdin=stdin, capture_output=True, text=True)
        blocked[name] = done.stdout.strip()
    os.close(ours)
    os.close(theirs)
    assert blocked == {"terminal": "True", "cron": "False"}


def test_what_waited_while_the_interpreter_started_ends_the_command() -> None:
    wait = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); "
    wait += "signal.raise_signal(signal.SIGINT); os.execv(sys.executable, [sys.executable, '-m', 'ccatwm', '--help'])"
    done = subprocess.run([sys.executable, "-c", wait], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
