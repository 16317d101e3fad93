"""The group `contract`: tries a program against the container contract. Touches: nothing itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccatwm.cli import _frame
from ccatwm.cli._frame import Common, command
from ccatwm.errors import UsageError

if TYPE_CHECKING:
    from ccatwm.upkeep._contract_step import Asked
    from ccatwm.upkeep.contract import Report

RUNTIMES = ("apptainer", "singularity", "none")

Image = Annotated[str | None, typer.Argument(metavar="IMAGE", help="The image; none with --runtime none.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", metavar="DIR", help="Raw data packages, or input/ companions/ workspace/ with them."),
]
StepFile = Annotated[
    Path | None, typer.Option("--step", metavar="FILE", help="The step as in a file for `ccatwm apply`, or alone.")
]
Of = Annotated[str | None, typer.Option("--of", metavar="PIPELINE/STEP", help="Which step of that file.")]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="|".join(RUNTIMES), help="By default apptainer; none without an image.")
]
Words = Annotated[
    str | None, typer.Option("--command", metavar="TEXT", help="The command, quoted as for a shell (none reads it).")
]
Reference = Annotated[
    list[str] | None, typer.Option("--reference", metavar="NAME=PATH", help="Reference data; may be repeated.")
]
Skip = Annotated[list[str] | None, typer.Option("--skip", metavar="POINT", help="Leave a point out; may be repeated.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, metavar="S", help="How long one run may take.")]
TermSeconds = Annotated[
    float, typer.Option("--term-seconds", min=1, metavar="S", help="How soon it must end after TERM.")
]
Keep = Annotated[
    Path | None, typer.Option("--keep", metavar="DIR", help="Work in this new folder and leave it: logs, products.")
]


def register_groups(app: typer.Typer) -> None:
    """Add the group."""
    group = _frame.build_app("Test a program against the container contract.")
    command(group, "check")(check)
    app.add_typer(group, name="contract", rich_help_panel=_frame.SET_UP)


def check(
    common: Common,
    image: Image = None,
    data: Input = None,
    step: StepFile = None,
    of: Of = None,
    runtime: Runtime = None,
    words: Words = None,
    reference: Reference = None,
    skip: Skip = None,
    timeout: Timeout = 600.0,
    term_seconds: TermSeconds = 15.0,
    keep: Keep = None,
) -> int:
    """Run an image, or a command, as a run would, and say for each point of the contract what holds.

    No pipeline, site or ops-db is needed. Exit code 0 if all holds, 1 if something does not, 3 if it cannot be run.
    """
    from ccatwm.upkeep._contract_step import Asked
    from ccatwm.upkeep.contract import Options, check_contract
    from ccatwm.wiring import open_stand

    if runtime not in (None, *RUNTIMES):
        raise UsageError(f"--runtime {runtime!r} is unknown", next=f"one of {', '.join(RUNTIMES)}")
    asked = Asked(image, _split(words), step, of, tuple(reference or ()))
    chosen = runtime or ("none" if image is None and not _has_image(asked) else "apptainer")
    options = Options(chosen, data.absolute() if data else None, timeout, term_seconds, tuple(skip or ()))
    with open_stand(keep) as stand:
        report = check_contract(stand, asked, options, lambda what: _say(common, what))
    report.kept = keep
    _show(common, report)
    return report.exit_code


def _split(words: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(words or ""))
    except ValueError as error:
        raise UsageError(f"--command {words!r}: {error}", next="close the quotes") from error


def _has_image(asked: Asked) -> bool:
    """Whether the step's own software names one."""
    from ccatwm.upkeep._contract_step import find_step

    return asked.file is not None and find_step(asked).software.image is not None


def _say(common: Common, what: str) -> None:
    if not (common.json or common.quiet) and (common.terminal or common.verbose):
        print(f"{what} ...", file=sys.stderr, flush=True)


def _show(common: Common, report: Report) -> None:
    from ccatwm.core.checkup import Judgement

    if common.json:
        _frame.emit_json(report.to_json())
        return
    for finding in report.findings:
        fine = finding.state in (Judgement.OK, Judgement.SKIPPED)
        if common.quiet and fine:
            continue
        word = finding.state.value.upper() if finding.state is Judgement.WRONG else finding.state.value
        _frame.print_finding(word, f"{finding.name:<15}", finding.found)
        if finding.next:
            _frame.print_lines([f"{'':<24} next: {finding.next}"])
    if not common.quiet:
        _frame.print_lines([_summary(report)])


def _summary(report: Report) -> str:
    from ccatwm.core.checkup import Judgement

    states = [finding.state for finding in report.findings]
    wrong, skipped = states.count(Judgement.WRONG), states.count(Judgement.SKIPPED)
    text = f"{wrong} of {len(states)} points do not hold" if wrong else "nothing breaks the contract"
    text += f", {skipped} not checked" if skipped else ""
    return text + (f"; everything is kept in {report.kept}" if report.kept else "")
