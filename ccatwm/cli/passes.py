"""Commands of the six passes and of `cycle`. Touches: nothing itself; passes do.

On a terminal a pass says what it did; with `--json` it prints its report; under cron it is silent, unless a
condition begins, lasts for a day or ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, DryRun, Limit, Wait, command
from ccatwm.errors import CallBudgetError, CcatwmError, UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context
    from ccatwm.passes._frame import PassOptions, PassReport

WAIT_FOREVER_SECONDS = 86400.0 * 365
IDLE_SLEEP_SECONDS = 0.5  # between rounds that change nothing, longer each time
MAX_IDLE_SLEEP_SECONDS = 5.0

MaxSeconds = Annotated[
    float | None,
    typer.Option("--max-seconds", min=0, metavar="S", help="Stop between units of work after S seconds."),
]
Pipeline = Annotated[
    str | None, typer.Option("--pipeline", metavar="NAME", help="Ask for runs of this pipeline.")
]
Step = Annotated[str | None, typer.Option("--step", metavar="NAME", help="Of this step only.")]
SubGroup = Annotated[str | None, typer.Option("--sub-group", metavar="KEY", help="Of this sub-group only.")]
Trial = Annotated[
    list[str] | None,
    typer.Option("--trial", metavar="KEY=VALUE", help="Runs that never count: version=1.3.0, config.KEY=VALUE."),
]
Force = Annotated[bool, typer.Option("--force", help="Run again even where everything is up to date.")]
Full = Annotated[bool, typer.Option("--full", help="Compare everything with everything.")]
UntilIdle = Annotated[
    bool, typer.Option("--until-idle", help="Go on until nothing is left, or only what falls due much later.")
]


def register(app: typer.Typer) -> None:
    """Add the passes in the order of the data flow, then `cycle`."""
    for function in (trigger, resolve, stage, submit, poll, collect, cycle):
        command(app, panel=_frame.PASSES)(function)


def trigger(
    common: Common,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    force: Force = False,
    trial: Trial = None,
    reason: _frame.Reason = None,
    yes: _frame.Yes = False,
    full: Full = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Find which steps are due; with --pipeline, ask for runs by hand."""
    if pipeline is not None:
        said = {"--full": full, "--limit": limit is not None, "--wait": wait, "--max-seconds": max_seconds is not None}
        _refuse_of_the_pass([option for option in said if said[option]])
        return _request(common, pipeline, step, sub_group, force, reason, dry_run, yes, trial or [])
    if step or sub_group or force or reason or yes or trial:
        raise UsageError(
            "--step, --sub-group, --force, --trial, --yes and --reason need --pipeline",
            next="`ccatwm trigger --pipeline NAME --reason TEXT`; `ccatwm status` names the pipelines",
        )
    return _run_pass("trigger", common, limit, dry_run, wait, max_seconds, full=full)


def resolve(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Decide which sub-groups that are due need a run; create it."""
    return _run_pass("resolve", common, limit, dry_run, wait, max_seconds)


def stage(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Bring the inputs of pending runs to the processing location."""
    return _run_pass("stage", common, limit, dry_run, wait, max_seconds)


def submit(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Hand staged runs over to the batch system, each exactly once."""
    return _run_pass("submit", common, limit, dry_run, wait, max_seconds)


def poll(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """See what became of jobs; carry out retries and cancellations."""
    return _run_pass("poll", common, limit, dry_run, wait, max_seconds)


def collect(
    common: Common,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Verify and record the products of successful jobs."""
    return _run_pass("collect", common, limit, dry_run, wait, max_seconds)


def cycle(
    common: Common,
    until_idle: UntilIdle = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    max_seconds: MaxSeconds = None,
) -> int:
    """Run all six passes once, in order."""
    _calm_logs(common)
    if until_idle and dry_run:
        raise UsageError(
            "--until-idle and --dry-run contradict each other: a dry run changes nothing to wait for",
            next="`ccatwm cycle --dry-run`",
        )
    context = _frame.open_context(common)
    options = _options(limit, dry_run, wait, max_seconds)
    rounds = _rounds_until_idle(context, options) if until_idle else _one_round(context, options)
    reports = _show_rounds(common, context, rounds, dry_run, until_idle=until_idle)
    document: dict[str, Any] = {
        "schema": "ccatwm.cycle/1",
        "scheduler_calls": context.scheduler_calls,  # of all rounds: `passes` has those that did something
        "connections": context.connections,
        "passes": [report.to_json() for report in reports],
    }
    in_reach = not any(report.error for report in reports)
    if until_idle and in_reach:
        document["left"] = _tell_left(common, context)
    if common.json:
        _frame.emit_json(document)
    code = _exit_code(reports)
    return 0 if code == 1 and until_idle and in_reach and not _still_failed(context, reports) else code


def _run_pass(
    name: str,
    common: Common,
    limit: int | None,
    dry_run: bool,
    wait: bool,
    max_seconds: float | None,
    full: bool = False,
) -> int:
    _calm_logs(common)
    from ccatwm import wiring

    context = _frame.open_context(common)
    report = wiring.run_pass(name, context, _options(limit, dry_run, wait, max_seconds, full))
    _tell_conditions(common, context, [report])
    if common.json:
        _frame.emit_json(report.to_json())
    else:
        _show(common, report, dry_run)
    return report.exit_code


def _options(
    limit: int | None, dry_run: bool, wait: bool, max_seconds: float | None, full: bool = False
) -> PassOptions:
    from ccatwm.passes._frame import PassOptions

    return PassOptions(
        limit=limit,
        dry_run=dry_run,
        wait=WAIT_FOREVER_SECONDS if wait else None,
        max_seconds=max_seconds,
        full=full,
    )


def _request(
    common: Common,
    pipeline: str,
    step: str | None,
    sub_group: str | None,
    force: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    trial: list[str],
) -> int:
    if dry_run:
        raise UsageError(
            "--dry-run shows what the pass would do; it does not go with --pipeline",
            next="`ccatwm trigger --dry-run`, or `ccatwm explain PIPELINE` for what would be made",
        )
    from ccatwm.upkeep.requests import request_runs

    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    report = request_runs(
        context.database,
        context.grouping,
        pipeline,
        step=step,
        sub_group=sub_group,
        force=force,
        reason=reason or "",
        actor=context.actor,
        now=context.clock.now(),
        yes=yes,
        confirm_runs=context.settings.confirm_runs,
        trial=trial,
    )
    _frame.show_report(common, report)
    return 0


def _refuse_of_the_pass(options: list[str]) -> None:
    if options:
        do = "does" if len(options) == 1 else "do"
        raise UsageError(
            f"--pipeline asks for runs; {', '.join(options)} {do} not go with it: that is for the pass",
            next=f"leave {', '.join(options)} out; say it to `ccatwm trigger` without --pipeline",
        )


def _tell_left(common: Common, context: Context) -> dict[str, Any]:
    """What `--until-idle` did not wait for, as its last line."""
    from ccatwm.views.left import build_left, left_line

    now = context.clock.now()
    left = build_left(context.database, context.settings.processing_location, now=now)
    line = left_line(left, now)
    if line and not common.json and not common.quiet:
        _frame.print_lines([f"left: {line}"])
    return left


def _still_failed(context: Context, reports: list[PassReport]) -> bool:
    """Whether something failed that later rounds did not make good."""
    from ccatwm.views.left import any_failed

    runs = [i.run for r in reports for i in r.items if i.outcome == "failed" and i.run is not None]
    others = sum(r.failed for r in reports) - len(runs)
    return others > 0 or any_failed(context.database, set(runs))


# --- rounds ------------------------------------------------------------------------------------------------


def _one_round(context: Context, options: PassOptions) -> Iterator[list[PassReport]]:
    from ccatwm import wiring

    yield list(wiring.run_cycle(context, options))


def _rounds_until_idle(context: Context, options: PassOptions) -> Iterator[list[PassReport]]:
    """Rounds of six passes until one changes nothing and no job, retry that is due soon, or other work is left."""
    from ccatwm import wiring

    pause = IDLE_SLEEP_SECONDS
    while True:
        began = context.clock.now()
        reports = list(wiring.run_cycle(context, options))
        yield reports
        errors = [r.error for r in reports if r.error is not None]
        if errors and all(isinstance(error, CallBudgetError) for error in errors):
            time.sleep(MAX_IDLE_SLEEP_SECONDS)  # nobody asked for this brake to end the work
            continue
        if errors or all(r.skipped == "paused" for r in reports):
            return
        if any(r.changed for r in reports):
            pause = IDLE_SLEEP_SECONDS
            continue
        if not wiring.work_is_left(context, since=began):
            return
        time.sleep(pause)
        pause = min(1.5 * pause, MAX_IDLE_SLEEP_SECONDS)


def _show_rounds(
    common: Common, context: Context, rounds: Iterator[list[PassReport]], dry_run: bool, *, until_idle: bool
) -> list[PassReport]:
    """Show rounds as they go, and tell what they met; the reports worth keeping: those that did something, and the last
    round."""
    kept: list[PassReport] = []
    last: list[PassReport] = []
    with context.progress.begin("cycle", None, "rounds") as bar:
        for reports in rounds:
            kept += [r for r in last if r.changed]
            last = reports
            _tell_conditions(common, context, [r for r in reports if not (until_idle and _passes_by_itself(r))])
            for report in reports:
                if not common.json and (report.changed or report.error or report.skipped or dry_run):
                    _show(common, report, dry_run)
            bar.advance(1)
            if common.watched and not any(report.error for report in reports):
                bar.note(_waits(context))
    if (
        common.terminal
        and not any(r.changed or r.error or r.skipped for r in [*kept, *last])
        and not common.quiet
    ):
        print("nothing to do")
    return kept + last


def _passes_by_itself(report: PassReport) -> bool:
    """A brake that ends no cycle of many rounds, and is no news in any."""
    return isinstance(report.error, CallBudgetError) and not report.changed


def _waits(context: Context) -> str:
    """What the rounds to come wait for, in a few words."""
    from ccatwm.views.left import build_left, waits_text

    now = context.clock.now()
    return waits_text(build_left(context.database, context.settings.processing_location, now=now), now)


# --- what people see ---------------------------------------------------------------------------------------


def _show(common: Common, report: PassReport, dry_run: bool) -> None:
    """On a terminal, or where somebody asked for it by -v or --dry-run."""
    watched = common.terminal or bool(common.verbose)
    if report.error is not None and watched:  # also under -q: it is an error
        print(f"{report.pass_name}: {_frame.printable(str(report.error), lines=True)}", file=sys.stderr)
        return
    if common.quiet or not (watched or dry_run):
        return
    _frame.print_lines([_summary(report, dry_run)])
    if dry_run or common.verbose:
        for item in report.items:
            place = "/".join(part for part in (item.pipeline, item.step, item.sub_group) if part)
            place = f"{item.count} more runs" if item.count > 1 else place
            run = f"run {item.run} " if item.run is not None else ""
            reason = f" ({item.reason})" if item.reason else ""
            _frame.print_lines([f"  {run}{place}: {item.outcome}{reason}"])


def _summary(report: PassReport, dry_run: bool) -> str:
    if report.skipped is not None:
        why = {"locked": "another instance is at work", "paused": "all passes are paused; `ccatwm resume` lets them go on"}
        return f"{report.pass_name}: not run, {why.get(report.skipped, report.skipped)}"
    counts = [
        f"{n} {word}"
        for n, word in ((report.done, "done"), (report.waiting, "waiting"), (report.failed, "failed"))
        if n
    ]
    would = " (dry run)" if dry_run else ""
    return f"{report.pass_name}: {', '.join(counts) or 'nothing to do'}{would}"


def _exit_code(reports: list[PassReport]) -> int:
    """The world's silence outweighs failed runs: the next cycle tries again."""
    return max((report.exit_code for report in reports), default=0)


def _calm_logs(common: Common) -> None:
    """Under cron only conditions are printed, by `_tell_conditions`."""
    if not (common.terminal or common.verbose or common.log_format == "json"):
        import logging

        logging.getLogger("ccatwm").setLevel(logging.CRITICAL)


def _tell_conditions(common: Common, context: Context, reports: list[PassReport]) -> None:
    """Where nobody watches, say what began, lasts since a day, or ended. What `-q` keeps back is left to be told."""
    if common.terminal or common.json or common.quiet or any(r.skipped == "locked" for r in reports if len(reports) == 1):
        return
    from ccatwm.cli._conditions import tell_news

    def wait(runs: Sequence[int]) -> bool:
        from ccatwm.views.left import any_waits_for_inputs

        try:
            return any_waits_for_inputs(context.database, runs)
        except CcatwmError:  # an ops-db that is away ends nothing
            return True

    for line in tell_news(context.settings.state_dir, reports, context.clock.now(), wait):
        print(_frame.printable(line, lines=True), file=sys.stderr)
