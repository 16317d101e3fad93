"""Commands that look: `status runs products show logs explain lineage compare groupings`. Touches: nothing; views read."""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, Limit, command
from ccatwm.cli._selection import Class, Pipeline, Since, Status, Step, SubGroup, Until, read_selection
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.passes._context import Context
    from ccatwm.views.places import Places

Run = Annotated[int, typer.Argument(metavar="RUN", help="Number of a run.")]
Type = Annotated[
    list[str] | None, typer.Option("--type", metavar="TYPE", help="Of this type (SCIENCE, ...).")
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", metavar="PATH:OPERATOR:VALUE",
        help="By what products.json says of it: qa.rms_k:lt:0.2, dims.line:eq:CO43; several must all hold.",
    ),
]  # fmt: skip
All = Annotated[bool, typer.Option("--all", help="Also those that a newer product replaced.")]


SHOWN_BAD_COPIES = 10


def register(app: typer.Typer) -> None:
    """Add the commands, the whole before the parts."""
    for function in (status, runs, products, show, compare, logs, explain, lineage):
        command(app, panel=_frame.LOOK)(function)


def register_groups(app: typer.Typer) -> None:
    """Add the group `groupings`."""
    groupings = _frame.build_app("Look at data groupings.")
    command(groupings, "list")(groupings_list)
    command(groupings, "show")(groupings_show)
    app.add_typer(groupings, name="groupings", rich_help_panel=_frame.LOOK)


def _open(common: Common) -> Context:
    context = _frame.open_context(common, looks=True)
    context.database.check_schema(observations=context.settings.observations)
    return context


def _places(context: Context, base_dir: PurePath | None = None) -> Places:
    """`base_dir`: as the processing host names it, where that is what is to be told."""
    from ccatwm.views.places import Places

    settings = context.settings
    roots = {name: place.root for name, place in settings.locations.items() if place.root}
    return Places(settings.processing_location, PurePosixPath(base_dir or settings.pipeline_base_dir), roots)


def _site_most(context: Context) -> dict[str, int]:
    """MAX_CONCURRENT of the location that this site serves."""
    settings = context.settings
    return {} if settings.max_concurrent is None else {settings.processing_location: settings.max_concurrent}


def status(
    common: Common,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    limit: Limit = None,
) -> int:
    """Show how all pipelines stand: counts, failures, brakes, what to do next."""
    from ccatwm.views.status import build_status

    context = _open(common)
    now = context.clock.now()
    selection = read_selection(now, pipeline, step, sub_group, None, None, None, None)
    document = build_status(
        context.database, context.grouping, selection, now=now, limit=limit, site_most=_site_most(context),
        cache_at=context.settings.processing_location, cache_max_gb=context.settings.cache_max_gb,
    )  # fmt: skip
    if common.json:
        _frame.emit_json(document)
    else:
        _show_status(document, common)
    return 0


def _show_status(document: dict[str, Any], common: Common) -> None:
    from ccatwm.views import status as view
    from ccatwm.views.copies import COLUMNS as BAD_COPY_COLUMNS
    from ccatwm.views.copies import bad_copy_cells
    from ccatwm.views.runs import COLUMNS, run_cells, waiting_lines

    _frame.print_lines(view.brake_lines(document))
    _frame.print_table("pipelines", view.STEP_COLUMNS, [view.step_cells(row) for row in document["status"]])
    if document["attention"]:
        print()
        rows = [run_cells(row) for row in document["attention"]]
        _frame.print_table("runs under way, or waiting for you", COLUMNS, rows)
        _frame.print_lines(waiting_lines(document["attention"]))
    if document["bad_copies"]:
        print()
        rows = [bad_copy_cells(row) for row in document["bad_copies"][:SHOWN_BAD_COPIES]]
        _frame.print_table("bad copies of raw data packages", BAD_COPY_COLUMNS, rows)
        if len(document["bad_copies"]) > SHOWN_BAD_COPIES:
            print(f"and {len(document['bad_copies']) - SHOWN_BAD_COPIES} more; --json lists all")
    if document["passes"] and not common.quiet:
        print()
        rows = [view.pass_cells(row, document["at"]) for row in document["passes"]]
        _frame.print_table("latest passes", view.PASS_COLUMNS, rows)
    print()
    _frame.print_lines(view.other_lines(document))


def runs(
    common: Common,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    status: Status = None,
    failure_class: Class = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
) -> int:
    """List runs, newest first (50 unless --limit says otherwise)."""
    from ccatwm.views.runs import COLUMNS, DEFAULT_LIMIT, build_runs, run_cells, waiting_lines

    context = _open(common)
    now = context.clock.now()
    selection = read_selection(now, pipeline, step, sub_group, status, failure_class, since, until)
    most = _site_most(context)
    document = build_runs(
        context.database, selection, now=now, limit=limit or DEFAULT_LIMIT, site_most=most
    )
    _show_rows(common, document, "runs", COLUMNS, [run_cells(row) for row in document["runs"]])
    if not common.json and not common.quiet:
        _frame.print_lines(waiting_lines(document["runs"]))
    return 0


def products(
    common: Common,
    pipeline: Pipeline = None,
    step: Step = None,
    sub_group: SubGroup = None,
    status: Status = None,
    failure_class: Class = None,
    since: Since = None,
    until: Until = None,
    types: Type = None,
    rules: Rules = None,
    all_of_them: All = False,
    limit: Limit = None,
) -> int:
    """List data products that count now, newest first (200 unless --limit says otherwise)."""
    from ccatwm.core.product_rules import parse_product_rules
    from ccatwm.views.products import (
        COLUMNS,
        DEFAULT_LIMIT,
        build_products,
        latest_line,
        product_cells,
        rules_hint,
    )

    wanted = parse_product_rules(rules or ())
    context = _open(common)
    selection = read_selection(
        context.clock.now(), pipeline, step, sub_group, status, failure_class, since, until, types
    )
    document = build_products(
        context.database, selection, wanted, places=_places(context), all_of_them=all_of_them, limit=limit or DEFAULT_LIMIT
    )
    base_dir = document["base_dir"]
    cells = [product_cells(row, base_dir) for row in document["products"]]
    _show_rows(common, document, "products", COLUMNS, cells, below=base_dir)
    if not common.json and not common.quiet:
        _frame.print_lines(latest_line(document["products"]))
        if wanted and not cells:
            _frame.print_lines([rules_hint(context.database, selection, all_of_them=all_of_them)])
    return 0


def _show_rows(
    common: Common,
    document: dict[str, Any],
    key: str,
    columns: tuple[str, ...],
    cells: list[tuple[object, ...]],
    *,
    below: str = "",
) -> None:
    """A list as a table, with what it leaves out."""
    if common.json:
        _frame.emit_json(document)
        return
    if not cells:
        print(f"no {key}")
        return
    _frame.print_table(f"{key} below {below}" if below else "", columns, cells)
    left_out = document["total"] - len(cells)
    if left_out > 0 and not common.quiet:
        print(f"{left_out} more {key}; --limit {document['total']} shows them, or select fewer")


def show(common: Common, run: Run) -> int:
    """Show everything of a run: attempts, paths, resources, inputs, products, last log lines."""
    from ccatwm.views.show import build_show, show_lines

    context = _open(common)
    document = build_show(
        context.database,
        context.workfiles,
        run,
        places=_places(context, context.workfiles.root()),
        now=context.clock.now(),
        site_most=_site_most(context),
    )
    if common.json:
        _frame.emit_json(document)
    else:
        _frame.print_lines(show_lines(document))
    return 0


def compare(common: Common, first: Run, second: Run) -> int:
    """Show how two runs differ: inputs, configuration, metrics, quality, products."""
    from ccatwm.views.compare import COLUMNS, build_compare, compare_rows

    document = build_compare(_open(common).database, first, second)
    if common.json:
        _frame.emit_json(document)
    else:
        _frame.print_table("", COLUMNS, compare_rows(document))
    return 0


def logs(
    common: Common,
    run: Run,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Of this attempt; default the newest.")
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only what was written to stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only what was written to stderr.")] = False,
) -> int:
    """Print the logs of a run's newest attempt; control characters are printed as escapes."""
    from ccatwm.views.logs import STREAMS, build_logs

    context = _open(common)
    wanted = [name for name, asked in (("stdout", stdout), ("stderr", stderr)) if asked]
    document = build_logs(
        context.database, context.workfiles, run, attempt=attempt, streams=wanted or STREAMS
    )
    if common.json:
        _frame.emit_json(document)
    else:
        _print_logs(document, heads=len(wanted) != 1)
    return 0


def _print_logs(document: dict[str, Any], *, heads: bool) -> None:
    """One log alone is printed as it is, for pipes; several get a line of their own before each."""
    for log in document["logs"]:
        if heads:
            _frame.print_lines([f"==> {log['path']} <=="])
        if log["text"] is None:
            print("(there is no such file)")
            continue
        if log["cut"]:
            print("(the end of it; the file has the rest)")
        text = _frame.printable(log["text"].expandtabs(), lines=True)
        print(text, end="" if text.endswith("\n") or not text else "\n")


def explain(
    common: Common,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE")],
    step: Annotated[str | None, typer.Argument(metavar="STEP")] = None,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Key of a sub-group.")] = None,
    limit: Limit = None,
) -> int:
    """Say why a sub-group ran or did not, and what would change that."""
    from ccatwm.views.explain import DEFAULT_LIMIT, build_explain, explain_lines

    context = _open(common)
    document = build_explain(
        context.database, pipeline, step, key, now=context.clock.now(), limit=limit or DEFAULT_LIMIT,
        site_most=_site_most(context),
    )  # fmt: skip
    if common.json:
        _frame.emit_json(document)
    else:
        _frame.print_lines(explain_lines(document))
    return 0


def lineage(
    common: Common,
    subject: Annotated[str, typer.Argument(metavar="PRODUCT|package:NAME", help="Where to begin.")],
) -> int:
    """Show what a product stands on, or what stands on a raw data package."""
    if not subject.removeprefix("package:"):
        raise UsageError("`package:` names no package", next="ccatwm lineage package:NAME")
    from ccatwm.views.lineage import build_lineage, lineage_lines

    context = _open(common)
    document = build_lineage(
        context.database,
        context.grouping,
        subject,
        places=_places(context),
    )
    if common.json:
        _frame.emit_json(document)
    else:
        _frame.print_lines(lineage_lines(document))
    return 0


# --- data groupings -------------------------------------------------------------------------------------------


def groupings_list(common: Common) -> int:
    """List the data groupings and how many steps use each."""
    from ccatwm.views import groupings as view

    document = view.list_groupings(_open(common).database)
    if common.json:
        _frame.emit_json(document)
    else:
        rows = [(row["name"], row["steps"], row["description"]) for row in document["groupings"]]
        _frame.print_table("data groupings", ("name", "steps", "description"), rows)
    return 0


def groupings_show(
    common: Common,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a data grouping.")],
    group_by: Annotated[
        list[str] | None,
        typer.Option("--group-by", metavar="DIMENSION", help="As in a step; may be repeated, or split by commas."),
    ] = None,
    limit: Limit = None,
) -> int:
    """Show what a data grouping selects now, by sub-group, with counts and sizes."""
    from ccatwm.views import groupings as view

    context = _open(common)
    shown = None if common.json and limit is None else limit or view.DEFAULT_LIMIT
    document = view.build_grouping(
        context.database, context.grouping, name, view.read_dimensions(group_by or []), now=context.clock.now(), limit=shown
    )
    if common.json:
        _frame.emit_json(document)
    else:
        _frame.print_table(f"{name} now", view.COLUMNS, [view.cells(row) for row in document["grouping"]])
        print(view.total_line(document))
    return 0
