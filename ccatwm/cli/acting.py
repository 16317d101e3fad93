"""Commands by which people act on runs, data and passes. Touches: nothing; they write the ops-db."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, DryRun, Reason, Yes, command
from ccatwm.cli._selection import Class, Pipeline, Since, Status, Step, SubGroup, Until, read_selection
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context
    from ccatwm.upkeep._readable import Readable
    from ccatwm.upkeep.control import ActReport, HoldReport, Wanted

Runs = Annotated[list[int] | None, typer.Argument(metavar="[RUN...]", help="Numbers of runs.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="PIPELINE[/STEP[/KEY]], or number of a run.")]
Watch = Annotated[bool, typer.Option("--wait", help="Watch until the passes have carried it out.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, metavar="S", help="Give up watching after S seconds.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (retry, cancel, hold, release, exclude, include, accept, promote, publish, backfill):
        command(app, panel=_frame.ACT)(function)
    for pausing in (pause, resume):
        command(app, panel=_frame.CARE)(pausing)


def _open(common: Common) -> Context:
    context = _frame.open_context(common)
    context.database.check_schema(observations=context.settings.observations)
    return context


def retry(
    common: Common,
    runs: Runs = None,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    status: Status = None,
    failure_class: Class = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Watch = False,
    timeout: Timeout = None,
) -> int:
    """Try failed or cancelled runs again, as they were frozen."""
    context = _open(common)
    selection = read_selection(
        context.clock.now(), pipeline, step, sub_group, status, failure_class, since, until
    )
    return _act(
        common, context, "retry", _wanted(context, runs, selection, reason, dry_run, yes), wait, timeout,
        readable=_readable(context),
    )  # fmt: skip


def _readable(context: Context) -> Readable | None:
    """None where data transfer is asked for what cannot be read here."""
    from ccatwm.upkeep._readable import Readable

    settings = context.settings
    if settings.staging_mode == "request":
        return None
    by_jobs = {"s3"} if settings.stage.executor == "job" else set()
    return Readable(settings.processing_location, context.grouping, frozenset(context.storages) | by_jobs)


def cancel(
    common: Common,
    runs: Runs = None,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    status: Status = None,
    failure_class: Class = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Watch = False,
    timeout: Timeout = None,
) -> int:
    """Cancel runs that are under way, or failed ones that wait for a retry."""
    context = _open(common)
    selection = read_selection(
        context.clock.now(), pipeline, step, sub_group, status, failure_class, since, until
    )
    return _act(
        common, context, "cancel", _wanted(context, runs, selection, reason, dry_run, yes), wait, timeout
    )


def _wanted(
    context: Context, runs: list[int] | None, selection: Any, reason: str | None, dry_run: bool, yes: bool
) -> Wanted:
    from ccatwm.upkeep.control import Wanted

    return Wanted(
        run_ids=tuple(dict.fromkeys(runs or ())),
        selection=selection,
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        dry_run=dry_run,
        yes=yes,
        confirm_runs=context.settings.confirm_runs,
    )


def _act(
    common: Common, context: Context, act: str, wanted: Wanted, wait: bool, timeout: float | None, **more: Any
) -> int:
    from ccatwm.upkeep import control

    report: ActReport = getattr(control, act)(context.database, wanted, now=context.clock.now(), **more)
    if not (wait and common.json):  # that document comes when they have ended
        _frame.show_report(common, report)
    if not wait or wanted.dry_run:
        return report.exit_code
    ended = control.wait_until_ended(context.database, report.watched, context.clock, timeout_seconds=timeout)
    _print_ended(common, report, ended)
    good = "CANCELLED" if act == "cancel" else "COMPLETED"
    return report.exit_code or int(any(status != good for status in ended.values()))


def _print_ended(common: Common, report: ActReport | HoldReport, ended: dict[int, str]) -> None:
    if common.json:
        document = report.to_json()
        rows = [{**row, "status": ended.get(row["run"])} for row in document["runs"]]
        _frame.emit_json({**document, "runs": rows})
    elif not common.quiet:
        for run, status in sorted(ended.items()):
            print(f"run {run}: {status}")


def hold(common: Common, target: Target, reason: Reason = None) -> int:
    """Hold a pipeline, step, sub-group or run: nothing new of it starts."""
    from ccatwm.upkeep import control

    context = _open(common)
    report = control.hold(
        context.database,
        target,
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        now=context.clock.now(),
    )
    _frame.show_report(common, report)
    return 0


def release(
    common: Common,
    target: Target,
    reason: Reason = None,
    retry_failed: Annotated[bool, typer.Option("--retry", help="Also try its failed runs again.")] = False,
    yes: Yes = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --retry: watch until the passes have carried it out.")
    ] = False,
    timeout: Timeout = None,
) -> int:
    """Let go on what is held, or a step that was tripped."""
    from ccatwm.upkeep import control

    if wait and not retry_failed:
        raise UsageError(
            "a release holds at once: there is nothing to wait for", next="leave --wait out, or say --retry too"
        )
    context = _open(common)
    report = control.release(
        context.database,
        target,
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        now=context.clock.now(),
        retry_failed=retry_failed,
        yes=yes,
        confirm_runs=context.settings.confirm_runs,
    )
    if not wait or report.retried is None:
        _frame.show_report(common, report)
        return 0
    if not common.json:
        _frame.show_report(common, report)
    ended = control.wait_until_ended(
        context.database, report.retried.watched, context.clock, timeout_seconds=timeout
    )
    _print_ended(common, report, ended)
    return report.retried.exit_code or int(any(status != "COMPLETED" for status in ended.values()))


# --- what is good -------------------------------------------------------------------------------------------

Things = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[THING...]",
        help="package:NAME, unit:NAME, module:INSTRUMENT/MODULE@FROM..TO, product:N, run:N, software:NAME@VERSION.",
    ),
]
OnlyFor = Annotated[str | None, typer.Option("--pipeline", metavar="NAME", help="For this pipeline only.")]


def exclude(
    common: Common,
    things: Things = None,
    pipeline: OnlyFor = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="When it ends by itself: 2h, 7d (from now), 2026-03-01 (UTC)."),
    ] = None,
    reason: Reason = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what is excluded now.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Take bad data, products or a software version out of use; what was made from them is made again."""
    from ccatwm.upkeep import exclude as upkeep

    context = _open(common)
    if list_:
        _print_exclusions(common, upkeep.list_exclusions(context.database))
        return 0
    act = _as_act(context, reason, dry_run, yes)
    report = upkeep.exclude(
        context.database, context.grouping, things or [], act, pipeline=pipeline, until=_read_until(act, until)
    )
    _frame.show_report(common, report)
    return 0


def include(
    common: Common,
    things: Annotated[
        list[str] | None, typer.Argument(metavar="[EXCLUSION...]", help="Its number, or what was excluded.")
    ] = None,
    pipeline: OnlyFor = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Bring back what was excluded."""
    from ccatwm.upkeep import exclude as upkeep

    context = _open(common)
    act = _as_act(context, reason, dry_run, yes)
    _frame.show_report(
        common, upkeep.include(context.database, context.grouping, things or [], act, pipeline=pipeline)
    )
    return 0


def accept(
    common: Common,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE")],
    step: Annotated[str, typer.Argument(metavar="STEP")],
    sub_group: Annotated[str | None, typer.Argument(metavar="[KEY]", help="One sub-group; else all.")] = None,
    reason: Reason = None,
    dry_run: DryRun = False,
) -> int:
    """Declare present products good for what is wanted now: no run is made for the change."""
    from ccatwm.upkeep import exclude as upkeep

    context = _open(common)
    act = _as_act(context, reason, dry_run, True)
    report = upkeep.accept(context.database, context.grouping, pipeline, step, sub_group, act)
    _frame.show_report(common, report)
    return int(bool(report.refused))


def promote(
    common: Common,
    run: Annotated[int, typer.Argument(metavar="RUN", help="Number of a completed trial run.")],
    reason: Reason = None,
) -> int:
    """Let a trial's products count, as soon as what it was made with is wanted."""
    from ccatwm.upkeep import exclude as upkeep

    context = _open(common)
    act = _as_act(context, reason, False, True)
    _frame.show_report(common, upkeep.promote(context.database, context.grouping, run, act))
    return 0


def _as_act(context: Context, reason: str | None, dry_run: bool, yes: bool) -> Any:
    from ccatwm.upkeep.exclude import Act

    return Act(
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        now=context.clock.now(),
        dry_run=dry_run,
        yes=yes,
        confirm_runs=context.settings.confirm_runs,
    )


def _read_until(act: Any, text: str | None) -> Any:
    from ccatwm.core.selection import ENDS_ALLOWED, parse_moment
    from ccatwm.core.wording import utc_text

    if text is None:
        return None
    until = parse_moment(text, act.now, ahead=True)
    if until is None:
        raise UsageError(f"--until: {text!r} is not a time", next=ENDS_ALLOWED)
    if until <= act.now:
        raise UsageError(f"--until: {text!r} is {utc_text(until)}, which is over already", next=ENDS_ALLOWED)
    return until


def _print_exclusions(common: Common, document: dict[str, Any]) -> None:
    if common.json:
        _frame.emit_json(document)
    elif not common.quiet:
        keys = ("exclusion", "target", "pipeline", "reason", "actor")
        rows = [
            [*(row[key] for key in keys), *(_short_time(row[key]) for key in ("since", "until"))]
            for row in document["exclusions"]
        ]
        columns = (*keys, "since (UTC)", "until (UTC)")
        _frame.print_table("excluded now" if rows else "nothing is excluded", columns, rows)


def _short_time(text: str | None) -> str | None:
    from datetime import datetime

    from ccatwm.core.wording import clock_text

    return None if text is None else clock_text(datetime.fromisoformat(text))


def publish(
    common: Common,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the set; alone, it is shown.")] = None,
    products: Annotated[
        list[str] | None, typer.Argument(metavar="[PRODUCT...]", help="17 or product:17; run:5 for all of a run.")
    ] = None,
    doi: Annotated[str | None, typer.Option("--doi", metavar="DOI", help="10.12345/suffix; it may come later.")] = None,
    contact: Annotated[str | None, typer.Option("--contact", metavar="ADDRESS", help="E-mail, for bad data.")] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="What it is.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show all published sets.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Freeze products under a name that others cite; later, see which of them stand on data that turned out bad."""
    from ccatwm.upkeep.publish import publish as freeze
    from ccatwm.upkeep.set_records import SetRecords
    from ccatwm.views import published as view

    context = _open(common)
    words = {key: value for key, value in (("doi", doi), ("contact", contact), ("note", note)) if value is not None}
    if list_:
        if name is not None:
            raise UsageError("--list shows all sets", next=f"`ccatwm publish {name}` shows one")
        _print_published(common, view.build_published_sets(context.database, context.grouping, now=context.clock.now()))
        return 0
    if name is None:
        raise UsageError("no set is named", next="ccatwm publish NAME PRODUCT...; --list shows all sets")
    kept = None
    if products or words:
        act = _as_act(context, None, dry_run, yes)
        records = SetRecords(lambda: context.workfiles, context.ops_db_uid)
        kept = freeze(context.database, context.grouping, name, products or [], words, act, records)
    if dry_run and kept is not None:
        document = view.build_unpublished_set(kept)
    else:
        now = context.clock.now()
        document = view.build_published_set(context.database, context.grouping, name, now=now)
    if common.json:
        _frame.emit_json(document)
    elif not common.quiet:
        _print_set(document["publish"], would_be=dry_run and kept is not None)
    return 0


def _print_published(common: Common, document: dict[str, Any]) -> None:
    from ccatwm.views import published as view

    if common.json:
        _frame.emit_json(document)
    elif not common.quiet:
        rows = [view.set_cells(row) for row in document["published_sets"]]
        _frame.print_table("published sets" if rows else "nothing is published", view.LIST_COLUMNS, rows)


def _print_set(row: dict[str, Any], *, would_be: bool) -> None:
    from ccatwm.views import published as view

    _frame.print_lines([*(["would be published:"] if would_be else []), *view.head_lines(row)])
    _frame.print_table("", view.PRODUCT_COLUMNS, [view.product_cells(item) for item in row["products"]])
    _frame.print_lines(view.missing_lines(row))
    if row["notice"]:
        _frame.print_lines(["", "to be sent:", *row["notice"]])


# --- a period of the past -----------------------------------------------------------------------------------


def backfill(
    common: Common,
    target: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE|NUMBER]", help="A pipeline, or a backfill that is there.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Observed since: 2026-03-01 (UTC), 90d (ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Observed before: as --since.")] = None,
    limit_runs: Annotated[
        int | None, typer.Option("--limit-runs", min=1, metavar="N", help="Make at most N runs in all.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="P", help="Of its runs; below all pipelines unless given.")
    ] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Make and submit nothing more of it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let a paused one go on.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End it; take back what was not handed over.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show how far backfills are.")] = False,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Make what is missing of a period, a few runs at a time and under live data."""
    said = [word for word, given in (("pause", pause), ("resume", resume), ("cancel", cancel)) if given]
    if len(said) + list_ > 1:
        raise UsageError("say one of --list, --pause, --resume and --cancel", next="`ccatwm backfill --list` shows all")
    if (said or list_) and (since or until or limit_runs or priority is not None or dry_run or yes):
        raise UsageError(
            "--since, --until, --limit-runs, --priority, --dry-run and --yes begin a new backfill",
            next="`ccatwm backfill PIPELINE --since TIME --until TIME --dry-run`, without the others",
        )
    context = _open(common)
    if list_:
        _print_backfills(common, context, target)
        return 0
    if target is None:
        raise UsageError("which pipeline?", next="`ccatwm backfill PIPELINE --since TIME --until TIME --reason TEXT`")
    act = _as_act(context, reason, dry_run, yes)
    if said:
        report = _change_backfill(context, said[0], target, act)
    else:
        report = _start_backfill(context, target, since, until, limit_runs, priority, act)
    _frame.show_report(common, report)
    return 0


def _start_backfill(
    context: Context,
    pipeline: str,
    since: str | None,
    until: str | None,
    limit_runs: int | None,
    priority: int | None,
    act: Any,
) -> Any:
    from ccatwm.upkeep.backfill import Asked, start_backfill

    asked = Asked(pipeline, since, until, limit_runs, priority)
    return start_backfill(context.database, context.grouping, asked, act)


def _change_backfill(context: Context, word: str, target: str, act: Any) -> Any:
    from ccatwm.upkeep import backfill as upkeep

    if not (target.isascii() and target.isdigit()):
        raise UsageError(f"{target!r} is no number of a backfill", next="`ccatwm backfill --list` shows them")
    change = {
        "pause": upkeep.pause_backfill, "resume": upkeep.resume_backfill, "cancel": upkeep.cancel_backfill,
    }[word]  # fmt: skip
    return change(context.database, int(target), act)


def _print_backfills(common: Common, context: Context, target: str | None) -> None:
    from ccatwm.views.backfills import COLUMNS, backfill_cells, build_backfills

    number = int(target) if target is not None and target.isascii() and target.isdigit() else None
    document = build_backfills(context.database, None if number is not None else target, number)
    if common.json:
        _frame.emit_json(document)
    elif not common.quiet:
        rows = [backfill_cells(row) for row in document["backfills"]]
        _frame.print_table("backfills" if rows else "there is no backfill", COLUMNS, rows)


# --- all passes ---------------------------------------------------------------------------------------------


def pause(
    common: Common,
    reason: Reason = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until no pass is at work any more.")] = False,
    timeout: Timeout = None,
) -> int:
    """Pause all passes, on all hosts, for an upgrade; jobs go on."""
    from ccatwm.upkeep import pausing

    context = _open(common)
    report = pausing.pause(
        context.database,
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        now=context.clock.now(),
    )
    if not wait:
        _frame.show_report(common, report)
        return 0
    if not common.json:
        _frame.show_report(common, report)
    from ccatwm.passes._frame import holder_is_gone

    pausing.wait_until_still(context.database, context.clock, is_gone=holder_is_gone, timeout_seconds=timeout)
    if common.json:
        _frame.emit_json({**report.to_json(), "at_work": []})
    elif not common.quiet:
        print("no pass is at work")
    return 0


def resume(common: Common, reason: Reason = None) -> int:
    """Let paused passes go on."""
    from ccatwm.upkeep import pausing

    context = _open(common)
    report = pausing.resume(
        context.database,
        reason=reason or "",
        actor=context.actor,
        host=socket.gethostname(),
        now=context.clock.now(),
    )
    _frame.show_report(common, report)
    return 0
