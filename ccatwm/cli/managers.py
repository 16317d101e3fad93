"""The original's three managers as loops over passes: `ccat_workflow_manager`. Touches: signals."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, command
from ccatwm.errors import UsageError, WorldError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context
    from ccatwm.passes._frame import PassOptions, PassReport

log = logging.getLogger("ccatwm.managers")

# Each manager of the original design and the passes that do its work.
MANAGERS = {
    "trigger-manager": ("trigger", "resolve"),
    "workflow-manager": ("stage", "submit"),
    "result-manager": ("poll", "collect"),
}

Interval = Annotated[
    float, typer.Option("--interval", min=0, metavar="SECONDS", help="From the end of one round to the next.")
]
Once = Annotated[bool, typer.Option("--once", help="Do one round and leave.")]

app = _frame.build_app(
    "Runs the passes of ccatwm as three long-running managers.", name="ccat_workflow_manager"
)
app.callback()(_frame.remember_common)


def main() -> None:
    """Entry point. Leaves at once: while the interpreter tidies up, one more signal to stop would end it with 143."""
    _frame.leave(_frame.run_app(app, "ccat_workflow_manager"))


@command(app, "trigger-manager")
def trigger_manager(common: Common, interval: Interval = 60.0, once: Once = False) -> int:
    """Find what is due and create runs (trigger, resolve)."""
    return run_manager("trigger-manager", common, interval, once)


@command(app, "workflow-manager")
def workflow_manager(common: Common, interval: Interval = 60.0, once: Once = False) -> int:
    """Stage inputs and submit jobs (stage, submit)."""
    return run_manager("workflow-manager", common, interval, once)


@command(app, "result-manager")
def result_manager(common: Common, interval: Interval = 60.0, once: Once = False) -> int:
    """Watch jobs and collect products (poll, collect)."""
    return run_manager("result-manager", common, interval, once)


class StopSignal:
    """Set by SIGTERM or SIGINT; passes look at it between units of work."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, number: int, _where: FrameType | None) -> None:
        self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """True as soon as it is time to stop."""
        return self._event.wait(seconds)


def run_manager(name: str, common: Common, interval: float, once: bool) -> int:
    """Rounds of the manager's passes until it is told to stop. Settings that are wrong end it at once."""
    if not (common.quiet or common.verbose):
        logging.getLogger("ccatwm").setLevel(logging.INFO)
    from ccatwm.passes._frame import PassOptions

    if common.json and not once:
        raise UsageError(
            "a manager that goes on has no one document to print",
            next="say --once as well, or --log-format json for lines on stderr",
        )
    stop = StopSignal()
    context: Context | None = None
    code = 0
    while not stop():
        try:
            context = context or _frame.open_context(common)
            reports = _run_round(name, context, PassOptions(stop=stop), stop)
            code = max((report.exit_code for report in reports), default=0)
            if common.json:
                passes = [report.to_json() for report in reports]
                _frame.emit_json({"schema": "ccatwm.manager/1", "manager": name, "passes": passes})
        except WorldError as error:
            if common.json:
                raise
            log.warning("%s: %s", name, error)
            code = error.exit_code
        if once:
            return code
        stop.wait(interval)
    log.info("%s: stopped", name)
    return 0


def _run_round(name: str, context: Context, options: PassOptions, stop: StopSignal) -> list[PassReport]:
    from ccatwm import wiring

    reports = []
    try:
        for pass_name in MANAGERS[name]:
            if stop():
                break
            report = wiring.run_pass(pass_name, context, options)
            if report.error is not None:
                log.warning("%s: %s", report.pass_name, report.error)
            reports.append(report)
    finally:
        context.close()  # nothing is kept open from one round to the next
    return reports
